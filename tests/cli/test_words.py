"""Messages of `minted`: the basket of another kind, an interrupted question, and words of the shell in errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minted_connect.cli.error_text import describe_error
from minted_connect.errors import AlreadyInFlight, JournalError
from minted_connect.journal.erasure import open_intent_error
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, Terminal


@pytest.fixture
def with_customer(minted: Minted) -> Minted:
    minted("customer", "create", CUSTOMER)
    return minted


@pytest.mark.parametrize(
    ("opened", "command", "other"), [("sell", "buy", "sell"), ("delivery", "sell", "deliver"), ("buy", "sell", "buy")]
)
def test_purchase_names_the_basket_of_another_kind(
    with_customer: Minted, sandbox: ThreadedSandbox, opened: str, command: str, other: str
) -> None:
    with_customer("basket", "add", CUSTOMER, GOLD)
    if opened != "buy":
        with_customer("buy", CUSTOMER, "--yes")
        assert with_customer("basket", "add", CUSTOMER, GOLD, "--type", opened).code == 0
    orders = len(sandbox.shop.orders)
    result = with_customer(command, CUSTOMER, "--yes")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"minted: customer: has an open {opened} basket, not a {command} basket: complete it with: minted {other} "
        f"{CUSTOMER}; or open a {command} basket with: minted basket add {CUSTOMER} SKU --type {command}\n"
    )
    assert len(sandbox.shop.orders) == orders


def test_purchase_without_a_basket_names_the_command(with_customer: Minted) -> None:
    result = with_customer("buy", CUSTOMER, "--yes")
    assert result.err == (
        f"minted: customer: has no open basket; open a buy basket with: minted basket add {CUSTOMER} SKU --type buy\n"
    )


@pytest.mark.parametrize("arguments", [("buy", CUSTOMER), ("customer", "remove", CUSTOMER)])
def test_interrupted_question_says_that_nothing_was_done(
    with_customer: Minted, terminal: Callable[..., Terminal], arguments: tuple[str, ...]
) -> None:
    with_customer("basket", "add", CUSTOMER, GOLD)
    asked = terminal(*arguments)
    asked.expect(r"\[y/N\] ")
    asked.type("\x03")
    assert asked.end() == 130
    assert asked.screen.endswith("\r\ninterrupted before the question was answered: nothing was done\r\n")


def test_interrupted_password_prompt_says_that_nothing_was_sent(
    environment: dict[str, str], terminal: Callable[..., Terminal]
) -> None:
    del environment["MINTED_CONNECT_PASSWORD"]
    asked = terminal("rates")
    asked.expect("Password of ")
    asked.type("\x03")
    assert asked.end() == 130
    assert asked.screen.endswith("\nminted: interrupted: nothing was sent\r\n")


def test_end_of_input_at_the_question_starts_a_new_line(
    with_customer: Minted, terminal: Callable[..., Terminal]
) -> None:
    asked = terminal("customer", "remove", CUSTOMER)
    asked.expect(r"\[y/N\] ")
    asked.type("\x04")
    assert asked.end() == 1
    assert asked.screen.endswith("\r\nnot confirmed: nothing was done\r\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("orders", "--kind", "gift"), "minted: --kind: must be one of buy, delivery, sell"),
        (("customer", "get", "nobody"), "minted: GET /partner/customer/...: 404"),
    ],
)
def test_error_names_options_and_no_template(minted: Minted, arguments: tuple[str, ...], text: str) -> None:
    result = minted(*arguments)
    assert result.err.startswith(text)
    assert "{}" not in result.err


def test_doctor_with_wrong_password_names_the_request(minted: Minted) -> None:
    result = minted("doctor", env={"MINTED_CONNECT_PASSWORD": "another"})
    assert result.code == 1
    assert "(raw)" not in result.out


def test_error_of_an_open_intent_names_the_command() -> None:
    [line, remedy] = describe_error(open_intent_error("i-1"), "run {}".format)
    assert "find it with minted reconcile --list, and run minted reconcile before" in line
    assert remedy == "find out with: run i-1"


def test_error_of_a_restored_journal_names_the_assignment() -> None:
    text = (
        "may be the one of this reference. Nothing was sent. Find out, and call complete.assign_reference('i-1', "
        "reference) if it is, which replays the reference from now on; or with the reference that it belongs to; or "
        "with None if it was made without a reference"
    )
    [line] = describe_error(JournalError(text, intent_id="i-1"), str)
    assert line.endswith(
        "Find out, and run: minted journal --assign i-1 REFERENCE if it is, or with - if it has no reference"
    )


def test_every_phrase_of_the_library_is_translated() -> None:
    error = AlreadyInFlight("record it with complete.decide: done; find it in complete.pending()", None)
    assert describe_error(error, str) == [
        "record it with minted reconcile --decide: done; find it in minted reconcile --list"
    ]


def test_start_alone_shows_orders_until_today(with_customer: Minted) -> None:
    with_customer("basket", "add", CUSTOMER, GOLD)
    assert with_customer("buy", CUSTOMER, "--yes").code == 0
    result = with_customer("orders", "--start", "2020-01-01")
    assert (result.code, len(result.out.splitlines())) == (0, 2)
    alone = with_customer("orders", "--end", "2026-01-01")
    assert (alone.code, alone.err) == (2, "minted: --start: is required with --end\n")
