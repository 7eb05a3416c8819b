"""`python -m minted_connect reconcile`, on journals with open intents."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minted_connect import MintedConnect, OutcomeUnknown, Timeouts
from minted_connect.__main__ import main
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.sandbox import ThreadedSandbox
from tests.support.operations import GOLD

CUSTOMER = "customer-with-a-name-1"


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def environment(sandbox: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINTED_CONNECT_USERNAME", sandbox.username)
    monkeypatch.setenv("MINTED_CONNECT_PASSWORD", sandbox.password)
    monkeypatch.setenv("MINTED_CONNECT_BASE_URL", sandbox.url)
    monkeypatch.delenv("MINTED_CONNECT_JOURNAL", raising=False)


@pytest.fixture
def lose_response(sandbox: ThreadedSandbox, journal: Path, environment: None) -> Callable[[str], str]:
    """Return a function that buys, loses the response by a fault, and returns the id of the intent."""
    timeouts = Timeouts(complete_read=5)

    def lose_response(kind: str) -> str:
        with MintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal, timeouts=timeouts
        ) as minted:
            customer = f"{CUSTOMER}{len(sandbox.shop.customers)}"
            minted.customers.create(customer)
            basket = minted.baskets.add_item(customer, sku=GOLD)
            sandbox.faults.add(kind, path="*/complete/*")  # type: ignore[arg-type]
            with pytest.raises(OutcomeUnknown) as caught:
                minted.complete.buy(basket, expected_total=basket.paid_total)
            return caught.value.intent.id

    return lose_response


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["reconcile", *map(str, arguments)])
        printed = capsys.readouterr()
        assert CUSTOMER not in printed.out + printed.err
        return status, printed.out, printed.err

    return run


def test_reconcile_confirms_an_executed_purchase(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    intent = lose_response("drop_after_commit")
    [order] = sandbox.shop.orders
    status, out, _ = run("--journal", journal, "--list")
    assert status == 75
    first, last = out.splitlines()
    assert first.startswith(f"{intent}  buy of basket {order.id}, ")
    assert first.endswith(": unknown")
    assert last.startswith("0 settled, 1 open: reconcile again later")
    assert len(sandbox.requests.of("orders.page")) == 0
    status, out, _ = run("--journal", journal)
    assert status == 0
    first, last = out.splitlines()
    assert first.endswith(f": confirmed, order {order.id}")
    assert last == f"1 settled, nothing is open in {journal}"
    assert run("--journal", journal) == (0, f"0 settled, nothing is open in {journal}\n", "")
    assert len(sandbox.shop.orders) == 1


def test_reconcile_unknown_outcome_exits_with_75(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    unknown, confirmed = lose_response("drop_before_read"), lose_response("drop_after_commit")
    status, out, _ = run("--journal", journal, "--seconds", "1")
    assert status == 75
    assert out.splitlines()[-1].startswith("1 settled, 1 open")
    assert any(line.startswith(unknown) and line.endswith(": unknown") for line in out.splitlines())
    assert any(line.startswith(confirmed) and ": confirmed, order" in line for line in out.splitlines())
    assert "    undecided" in out.splitlines()
    assert len(sandbox.requests.of("complete.buy")) == 2


def test_reconcile_intent_settles_that_intent_only(run: Run, lose_response: Any, journal: Path) -> None:
    first, second = lose_response("drop_after_commit"), lose_response("drop_after_commit")
    status, out, _ = run("--journal", journal, "--intent", second)
    assert (status, out.splitlines()[-1]) == (0, "1 settled, none of the selected is open")
    status, out, _ = run("--journal", journal, "--list")
    assert (status, out.split()[0]) == (75, first)
    status, _, err = run("--journal", journal, "--intent", second)
    text = f"minted_connect: intent: {second} is not open in the journal {journal}: it was settled as confirmed, order "
    assert (status, err.startswith(text)) == (2, True)


def test_fence_leaves_recently_prepared_intents_alone(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    lose_response("drop_before_read")
    with sqlite3.connect(journal) as database:
        database.execute("UPDATE intents SET state = 'prepared'")
    database.close()
    assert run("--journal", journal, "--seconds", "1", "--fence")[0] == 75
    assert sandbox.requests.of("baskets.clear") == []
    with sqlite3.connect(journal) as database:
        database.execute("UPDATE intents SET state = 'prepared', created_at = '2026-02-20T12:00:00+00:00'")
    database.close()
    assert run("--journal", journal, "--seconds", "1", "--fence")[0] == 75
    assert len(sandbox.requests.of("baskets.clear")) == 1


def test_json_prints_one_object_per_intent(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    intent = lose_response("drop_after_commit")
    status, out, err = run("--journal", journal, "--json")
    printed = json.loads(out)
    [order] = sandbox.shop.orders
    assert (status, err) == (0, "")
    assert (printed["intent"], printed["state"], printed["order"]) == (intent, "confirmed", str(order.id))
    assert isinstance(printed["paid_total"], str)
    assert run("--journal", journal, "--json", "--list") == (0, "[]\n", "")


def test_reconcile_cancelled_order_is_rejected(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    lose_response("drop_after_commit")
    [order] = sandbox.shop.orders
    sandbox.shop.set_status(order.id, "Cancelled")
    status, out, _ = run("--journal", journal)
    assert status == 0
    assert f": rejected, order {order.id}" in out


def test_journal_is_read_from_the_environment(
    run: Run, lose_response: Any, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_response("drop_after_commit")
    monkeypatch.setenv("MINTED_CONNECT_JOURNAL", str(journal))
    assert run()[0] == 0


def test_outcome_that_cannot_be_stored_stays_open(
    run: Run, lose_response: Any, journal: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lose_response("drop_after_commit")

    async def settle(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SqliteJournal, "settle", settle)
    assert run("--journal", journal)[0] == 75
    assert "could not be updated: the intent is confirmed" in caplog.text


def test_wrong_password_is_reported_without_retries(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_response("drop_after_commit")
    monkeypatch.setenv("MINTED_CONNECT_PASSWORD", "wrong")
    status, out, _ = run("--journal", journal)
    assert status == 75
    assert "AuthenticationFailed" in out
    assert [entry.status for entry in sandbox.requests.of("orders.page")] == [401, 401]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "journal: give --journal, or set MINTED_CONNECT_JOURNAL"),
        (["--journal", "nowhere.db"], 2, "journal: there is no file nowhere.db"),
        (["--journal", "mysql://u:geheim@h/d"], 2, "journal: must be"),
        (["--journal", "{foreign}"], 1, "is a database of another application"),
        (["--journal", "{empty}", "--seconds", "0"], 2, "reconcile_budget"),
    ],
)
def test_error_is_printed_in_one_line(
    run: Run, environment: None, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    foreign, empty = tmp_path / "foreign.db", tmp_path / "empty.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE something (x)")
    database.close()
    empty.touch()
    exit_code, out, err = run(*(word.format(foreign=foreign, empty=empty) for word in arguments))
    assert (exit_code, out) == (status, "")
    assert err.startswith("minted_connect: ")
    assert message in err
    assert err.count("\n") == 1
    assert "geheim" not in err


def test_missing_credentials_allow_list_only(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MINTED_CONNECT_{name}", raising=False)
    (tmp_path / "journal.db").touch()
    status, _, err = run("--journal", tmp_path / "journal.db")
    assert (status, err) == (2, "minted_connect: MINTED_CONNECT_USERNAME: is not set\n")
    expected = f"0 settled, nothing is open in {tmp_path / 'journal.db'}\n"
    assert run("--journal", tmp_path / "journal.db", "--list") == (0, expected, "")


def test_help_loads_no_client() -> None:
    code = (
        "import sys\nfrom minted_connect.__main__ import main\n"
        "try:\n    main(['reconcile', '--help'])\nexcept SystemExit:\n    print('aiohttp' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert process.stdout.endswith("False\n")
    assert "75 an outcome is still unknown" in " ".join(process.stdout.split())


def test_decide_settles_an_intent_without_requests(
    run: Run, lose_response: Any, journal: Path, sandbox: ThreadedSandbox
) -> None:
    intent, other = lose_response("drop_before_read"), lose_response("drop_before_read")
    requests = len(sandbox.requests)
    status, out, _ = run("--journal", journal, "--intent", intent, "--decide", "not_executed")
    assert status == 0
    assert out.splitlines()[0].endswith(": not_executed")
    assert len(sandbox.requests) == requests
    assert run("--journal", journal, "--list")[1].split()[0] == other


@pytest.mark.parametrize("arguments", [(), ("--intent", "a", "--intent", "b"), ("--intent", "a", "--list")])
def test_decide_requires_exactly_one_intent(run: Run, environment: None, journal: Path, arguments: tuple[str]) -> None:
    journal.touch()
    status, _, err = run("--journal", journal, "--decide", "confirmed", *arguments)
    assert (status, err) == (2, "minted_connect: decide: takes exactly one --intent, and no --list\n")


# --- Other accounts, and unreadable records ------------------------------------------------------------------------


@pytest.fixture
def foreign_intent(journal: Path, lose_response: Any) -> str:
    """Return an open intent of another account; the journal contains one of this account too."""
    lose_response("drop_after_commit")
    intent = lose_response("drop_before_read")
    execute_sql(journal, f"UPDATE intents SET account = '{'ab' * 32}' WHERE id = '{intent}'")
    return intent


def execute_sql(journal: Path, statement: str) -> None:
    with sqlite3.connect(journal) as database:
        database.execute(statement)
    database.close()


def test_intents_of_other_accounts_are_counted_only(
    run: Run, journal: Path, foreign_intent: str, sandbox: ThreadedSandbox
) -> None:
    polls = len(sandbox.requests.of("orders.page"))
    status, out, _ = run("--journal", journal)
    assert status == 0
    assert foreign_intent not in out
    assert out.splitlines()[-2:] == [
        "1 open intents of other accounts: list them with --all-accounts",
        f"1 settled, nothing of this account is open in {journal}",
    ]
    assert len(sandbox.requests.of("orders.page")) > polls
    status, out, _ = run("--journal", journal, "--list")
    assert (status, foreign_intent in out) == (0, False)


@pytest.mark.parametrize("is_list", [True, False])
def test_all_accounts_lists_foreign_intents_unchanged(
    run: Run, journal: Path, foreign_intent: str, sandbox: ThreadedSandbox, is_list: bool
) -> None:
    assert run("--journal", journal)[0] == 0
    requests = len(sandbox.requests)
    status, out, _ = run("--journal", journal, "--all-accounts", "--fence", *["--list"] * is_list)
    assert status == 75
    first, last = out.splitlines()
    assert first.startswith(foreign_intent)
    assert first.endswith(", account abababab: unknown")
    assert last.startswith("0 settled, 1 open")
    status, out, _ = run("--journal", journal, "--intent", foreign_intent, "--json", *["--list"] * is_list)
    found = json.loads(out)
    [row] = found if is_list else [found]
    assert (status, row["account"]) == (75, "abababab")
    assert len(sandbox.requests) == requests


def test_list_without_credentials_contains_all_accounts(
    run: Run, journal: Path, foreign_intent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINTED_CONNECT_USERNAME")
    status, out, _ = run("--journal", journal, "--list")
    assert status == 75
    *lines, last = out.splitlines()
    assert len(lines) == 2
    assert all(", account " in line for line in lines)
    assert last.startswith("0 settled, 2 open")


def test_decide_foreign_intent_is_refused(run: Run, journal: Path, foreign_intent: str) -> None:
    status, _, err = run("--journal", journal, "--intent", foreign_intent, "--decide", "rejected")
    assert status == 2
    assert "belongs to another account" in err
    assert "complete.adopt" in err


def test_account_is_read_from_the_environment(
    run: Run, journal: Path, foreign_intent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = hashlib.sha256(b"shop").hexdigest()
    execute_sql(journal, f"UPDATE intents SET account = '{account}'")
    assert "2 open intents of other accounts" in run("--journal", journal, "--list")[1]
    monkeypatch.setenv("MINTED_CONNECT_JOURNAL_ACCOUNT", "shop")
    status, out, _ = run("--journal", journal, "--seconds", "1")
    assert status == 75
    assert out.splitlines()[-1].startswith("1 settled, 1 open")


@pytest.mark.parametrize("arguments", [["--list"], [], ["--all-accounts"], ["--json"]])
def test_unreadable_record_exits_with_75(run: Run, lose_response: Any, journal: Path, arguments: list[str]) -> None:
    intent = lose_response("drop_after_commit")
    execute_sql(journal, "UPDATE intents SET items = '{'")
    status, out, _ = run("--journal", journal, *arguments)
    assert status == 75
    assert intent in out
    assert "nothing" not in out
    assert "unreadable" in out


def test_unreadable_record_can_be_decided(run: Run, lose_response: Any, journal: Path) -> None:
    intent = lose_response("drop_after_commit")
    execute_sql(journal, "UPDATE intents SET items = '{'")
    status, out, _ = run("--journal", journal, "--intent", intent, "--decide", "confirmed")
    assert (status, out.splitlines()[0]) == (0, f"{intent}  its record cannot be read: confirmed")
    assert run("--journal", journal, "--list") == (0, f"0 settled, nothing is open in {journal}\n", "")
