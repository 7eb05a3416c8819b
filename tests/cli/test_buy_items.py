"""`minted buy` with items and a reference, and with an open basket and a reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

COMPLETE = "/partner/walletable/complete/buy"
OTHER = "MNTBAE0013"
TERMS = ("--reference", "r-1", "--max-total", "9999.00", "--currency", "AED")
BUY = ("buy", CUSTOMER, "--items", f"{GOLD}=2", *TERMS)


@pytest.fixture(autouse=True)
def customer(minted: Minted) -> None:
    assert minted("customer", "create", CUSTOMER).code == 0


def test_items_are_bought_and_the_order_is_printed(minted: Minted, sandbox: ThreadedSandbox) -> None:
    result = minted(*BUY, "--items", f"{OTHER}=1", "--yes")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[:3] == ["sku\tpieces", f"{GOLD}\t2", f"{OTHER}\t1"]
    (order,) = sandbox.shop.orders
    assert f"order\t{order.id}" in result.out.splitlines()
    assert {line.sku: line.amount for line in order.lines} == {GOLD: 2, OTHER: 1}


def test_reference_is_bought_once(minted: Minted, sandbox: ThreadedSandbox) -> None:
    first = json.loads(minted(*BUY, "--yes", "--json").out)
    again = minted(*BUY, "--yes", "--json")
    assert (again.code, again.err) == (0, "this reference was bought before: nothing was bought now\n")
    shown = json.loads(again.out)
    assert (first["replayed"], shown["replayed"]) == (False, True)
    assert first["order"]["id"] == shown["order"]["id"]
    assert len(sandbox.shop.orders) == 1
    other = minted("buy", CUSTOMER, "--items", f"{GOLD}=3", *TERMS, "--yes")
    assert other.code == 2
    assert "reference: was used before with other terms" in other.err
    assert len(sandbox.shop.orders) == 1


def test_total_above_the_maximum_exits_4(minted: Minted, sandbox: ThreadedSandbox) -> None:
    terms = ("--reference", "r-1", "--max-total", "10.00", "--currency", "AED")
    result = minted("buy", CUSTOMER, "--items", f"{GOLD}=2", *terms, "--yes")
    assert result.code == 4
    assert "10.00" in result.err
    assert not sandbox.shop.orders


def test_other_lines_are_kept_unless_replace_is_given(minted: Minted, sandbox: ThreadedSandbox) -> None:
    minted("basket", "add", CUSTOMER, OTHER)
    refused = minted(*BUY, "--yes")
    text = f"minted: items: the open basket has other items (1 x {OTHER}): pass --replace to delete them\n"
    assert (refused.code, refused.err) == (2, text)
    assert not sandbox.shop.orders
    shown = json.loads(minted("basket", "show", CUSTOMER, "--json").out)
    assert [item["sku"] for item in shown["items"]] == [OTHER]
    assert minted(*BUY, "--yes", "--replace").code == 0
    (order,) = sandbox.shop.orders
    assert [line.sku for line in order.lines] == [GOLD]


def test_refused_items_exit_3_and_unsent_items_exit_4(minted: Minted, sandbox: ThreadedSandbox) -> None:
    assert minted("buy", CUSTOMER, "--items", "NO-SUCH-SKU=1", *TERMS, "--yes").code == 3
    assert minted(*BUY, "--yes", "--base-url", "http://127.0.0.1:1").code == 4
    assert not sandbox.shop.orders


def test_unknown_outcome_exits_75_until_it_is_reconciled(minted: Minted, sandbox: ThreadedSandbox) -> None:
    sandbox.faults.add("drop_after_commit", path=COMPLETE)
    for _ in range(2):
        result = minted(*BUY, "--yes")
        assert result.code == 75
        assert "find out with: minted reconcile --base-url " in result.err
        intent = result.err.strip().rpartition(" ")[2]
    assert minted("reconcile", "--intent", intent).code == 0
    assert minted(*BUY, "--yes").code == 0
    assert len(sandbox.shop.orders) == 1
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


def test_dry_run_shows_items_and_sends_nothing(minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    sent = sandbox.requests.total
    result = minted(*BUY, "--dry-run")
    assert (result.code, result.out, result.err) == (
        0,
        f"sku\tpieces\n{GOLD}\t2\n",
        "dry run: no order was placed\n",
    )
    assert sandbox.requests.total == sent
    assert not list(tmp_path.rglob("*.journal.db"))


def test_items_without_terminal_or_yes_exit_2(minted: Minted, sandbox: ThreadedSandbox) -> None:
    sent = sandbox.requests.total
    result = minted(*BUY, stdin="y\n")
    assert result.code == 2
    assert result.err.splitlines()[-1] == "minted: confirmation needs a terminal: pass --yes to proceed without it"
    assert sandbox.requests.total == sent


def test_open_basket_with_a_reference_is_bought_once(minted: Minted, sandbox: ThreadedSandbox) -> None:
    for replayed in (False, True):
        minted("basket", "add", CUSTOMER, GOLD)
        result = minted("buy", CUSTOMER, "--yes", "--reference", "r-1", "--json")
        assert result.code == 0
        assert json.loads(result.out)["replayed"] is replayed
    assert len(sandbox.shop.orders) == 1


ITEMS = ("--items", f"{GOLD}=1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Missing argument 'CUSTOMER'; see minted buy --help"),
        ((*ITEMS, *TERMS), "Missing argument 'CUSTOMER'; see minted buy --help"),
        ((CUSTOMER, *ITEMS), "--items: needs --reference, --max-total, --currency"),
        ((CUSTOMER, *ITEMS, *TERMS[:4]), "--items: needs --currency"),
        ((CUSTOMER, *ITEMS, *TERMS, "--expect-total", "1"), "--items: does not go together with --expect-total"),
        ((CUSTOMER, *ITEMS, *TERMS, "--result", "r.csv"), "--items: does not go together with --result"),
        ((CUSTOMER, *ITEMS, *TERMS, "--new-journal"), "--items: does not go together with --new-journal"),
        ((CUSTOMER, "--max-total", "1"), "--max-total: needs --items"),
        ((CUSTOMER, "--replace"), "--replace: needs --items or --from"),
        ((CUSTOMER, "--wait", "0"), "--wait: needs --items or --from"),
        ((CUSTOMER, *ITEMS, *TERMS, "--wait", "inf"), "--wait: must be seconds, and finite"),
        ((CUSTOMER, "--currency", "AED"), "--currency: needs --items or --from"),
        ((CUSTOMER, "--new-journal"), "--new-journal: needs --from"),
        ((CUSTOMER, "--result", "r.csv"), "--result: needs --from"),
        (("--from", "plan.csv"), "--from: needs --currency"),
        ((CUSTOMER, "--from", "plan.csv", "--currency", "AED"), "--from: does not go together with CUSTOMER"),
        (("--from", "plan.csv", *TERMS), "--from: does not go together with --reference"),
        (("--from", "plan.csv", "--currency", "AED", *ITEMS), "--from: does not go together with --items"),
        (
            ("--from", "plan.csv", "--currency", "aed"),
            "--currency: must be a code of three capital letters such as AED",
        ),
        ((CUSTOMER, *ITEMS, *TERMS[:4], "--currency", "dirham"), "--currency: must be a code of three capital letters"),
        ((CUSTOMER, "--items", GOLD, *TERMS), "items: must be SKU=QTY, such as MNTBAE0001=2"),
        ((CUSTOMER, "--items", f"{GOLD}=0", *TERMS), "items: must be a whole number from 1"),
        ((CUSTOMER, *ITEMS, *ITEMS, *TERMS), f"items: {GOLD} is given more than once"),
        ((CUSTOMER, *ITEMS, *TERMS, "--max-total", "1,852.60"), "max-total: must be an amount above 0 such as 1852.60"),
        ((CUSTOMER, *ITEMS, *TERMS, "--wait", "-1"), "Invalid value for '--wait'"),
    ],
)
def test_options_that_do_not_fit_together_exit_2(
    minted: Minted, sandbox: ThreadedSandbox, arguments: tuple[str, ...], expected: str
) -> None:
    sent = sandbox.requests.total
    result = minted("buy", *arguments, "--yes")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"minted: {expected}")
    assert sandbox.requests.total == sent
