"""`minted buy --from`: outcomes, exit codes, result file and journal of a plan."""

from __future__ import annotations

import csv
import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.cli.result_file import ResultFile
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import GOLD, Minted

COMPLETE = "/partner/walletable/complete/buy"
OTHER = "MNTBAE0013"
HEADER = "customer,sku,qty,reference,max_total"
CUSTOMERS = ("c-1", "c-2", "c-3")

Plan = Callable[..., Path]
Buy = Callable[..., object]


@pytest.fixture(autouse=True)
def customers(sandbox: ThreadedSandbox) -> None:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        for customer in CUSTOMERS:
            client.customers.create(customer)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return a function that writes a plan, by default one with a reference for each customer."""

    def write(*rows: str) -> Path:
        file = tmp_path / "plan.csv"
        rows = rows or tuple(f"{one},{GOLD},1,r{one[1:]},9999" for one in CUSTOMERS)
        file.write_text("\n".join((HEADER, *rows, "")), "utf-8")
        return file

    return write


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


def read_results(plan: Path) -> list[dict[str, str]]:
    with plan.with_name("plan.result.csv").open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def outcomes(plan: Path) -> list[tuple[str, str]]:
    return [(row["reference"], row["outcome"]) for row in read_results(plan)]


def arguments(plan: Path, journal: Path, *more: str) -> tuple[object, ...]:
    first = () if journal.exists() and journal.stat().st_size else ("--new-journal",)
    return ("buy", "--from", plan, "--currency", "AED", "--yes", "--journal", journal, *first, *more)


def test_plan_is_bought_and_replayed(minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path) -> None:
    file = plan(f"c-1,{GOLD},2,r-1,9999.50", f"c-2,{GOLD},1,r-2,9999", f"c-1,{OTHER},1,r-1,9999.50")
    result = minted(*arguments(file, journal))
    assert result.code == 0
    assert result.out.splitlines() == [
        "references\t2",
        "customers\t2",
        f"pieces of {GOLD}\t3",
        f"pieces of {OTHER}\t1",
        "at most, in AED\t19998.50",
        "outcome\treferences",
        "bought\t2",
    ]
    assert result.err == f"the outcome of each reference is in {file.with_name('plan.result.csv')}\n"
    orders = {str(order.id): order for order in sandbox.shop.orders}
    rows = read_results(file)
    assert [(row["reference"], row["customer"], row["outcome"], row["replayed"]) for row in rows] == [
        ("r-1", "c-1", "bought", "false"),
        ("r-2", "c-2", "bought", "false"),
    ]
    assert [{line.sku: line.amount for line in orders[row["order"]].lines} for row in rows] == [
        {GOLD: 2, OTHER: 1},
        {GOLD: 1},
    ]
    assert all(
        row["number"] and row["currency"] == "AED" and float(row["total"]) > 0 and not row["error"] for row in rows
    )
    again = minted(*arguments(file, journal, "--json"))
    assert again.code == 0
    assert json.loads(again.out) == {
        "outcomes": {"bought": 2},
        "replayed": 2,
        "result": str(file.with_name("plan.result.csv")),
    }
    assert "2 of the bought references were bought before" in again.err
    assert read_results(file) == [{**row, "replayed": "true"} for row in rows]
    assert len(sandbox.shop.orders) == 2


def test_plan_goes_on_after_references_that_fail(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    file = plan(
        f"c-1,{GOLD},1,low,1", "c-2,NO-SUCH-SKU,1,wrong,9999", f"nobody,{GOLD},1,who,9999", f"c-3,{GOLD},1,r-3,9999"
    )
    result = minted(*arguments(file, journal))
    assert result.code == 3
    assert outcomes(file) == [("low", "not_sent"), ("wrong", "refused"), ("who", "refused"), ("r-3", "bought")]
    rows = read_results(file)
    assert [row["order"] for row in rows[:3]] == ["", "", ""]
    assert all(row["error"] for row in rows[:3])
    assert "minted: low: not_sent: " in result.err
    assert "minted: wrong: refused: " in result.err
    assert result.out.splitlines()[-4:] == ["outcome\treferences", "bought\t1", "refused\t2", "not_sent\t1"]
    text = "run the command again without --new-journal to continue: what was bought is not bought again"
    assert result.err.splitlines()[-1] == text
    assert len(sandbox.shop.orders) == 1


def test_unknown_outcome_exits_75_until_it_is_reconciled(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    file = plan()
    sandbox.faults.add("drop_after_commit", path=COMPLETE, after=1)
    for replayed in (False, True):
        result = minted(*arguments(file, journal))
        assert result.code == 75
        assert outcomes(file) == [("r-1", "bought"), ("r-2", "unknown"), ("r-3", "bought")]
        assert read_results(file)[0]["replayed"] == str(replayed).lower()
        (hint,) = [line for line in result.err.splitlines() if "find out with: " in line]
        assert hint.startswith("minted: r-2: unknown: ")
        assert "find out with: minted reconcile --base-url " in hint
        assert f" --journal {journal} --intent " in hint
    assert minted("reconcile", "--journal", journal, "--intent", hint.rpartition(" ")[2]).code == 0
    assert minted(*arguments(file, journal)).code == 0
    assert len(sandbox.shop.orders) == 3
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 3


def test_other_lines_of_a_basket_need_replace(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    minted("basket", "add", "c-2", OTHER)
    file = plan()
    assert minted(*arguments(file, journal)).code == 3
    assert outcomes(file) == [("r-1", "bought"), ("r-2", "not_sent"), ("r-3", "bought")]
    assert minted(*arguments(file, journal, "--replace")).code == 0
    assert [len(order.lines) for order in sandbox.shop.orders] == [1, 1, 1]


def test_wrong_password_ends_the_plan(minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path) -> None:
    file = plan()
    result = minted(*arguments(file, journal), env={"MINTED_CONNECT_PASSWORD": "other"})
    assert result.code == 3
    assert outcomes(file) == [("r-1", "refused"), ("r-2", "not_started"), ("r-3", "not_started")]
    assert "minted: stopped: the server does not accept the user name or the password " in result.err
    assert not sandbox.shop.orders
    assert minted(*arguments(file, journal)).code == 0


def test_journal_of_another_application_ends_the_plan(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    with sqlite3.connect(journal) as database:
        database.execute("CREATE TABLE something (x)")
    database.close()
    file = plan()
    result = minted(*arguments(file, journal))
    assert result.code == 3
    assert outcomes(file) == [("r-1", "not_sent"), ("r-2", "not_started"), ("r-3", "not_started")]
    assert "is a database of another application" in result.err
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


@pytest.mark.parametrize("content", [None, b""])
def test_journal_that_does_not_exist_is_not_created(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path, content: bytes | None
) -> None:
    file = plan()
    if content is not None:
        journal.write_bytes(content)
    sent = sandbox.requests.total
    result = minted("buy", "--from", file, "--currency", "AED", "--yes", "--journal", journal)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"minted: journal: there is no journal {journal}. If this plan was started before, ")
    assert result.err.endswith("For the first run, give --new-journal\n")
    assert sandbox.requests.total == sent
    assert (journal.exists(), not journal.exists() or journal.stat().st_size == 0) == (content is not None, True)
    assert not file.with_name("plan.result.csv").exists()


def test_default_journal_must_exist_too(minted: Minted, plan: Plan, tmp_path: Path) -> None:
    file = plan()
    refused = minted("buy", "--from", file, "--currency", "AED", "--yes")
    assert refused.code == 2
    assert "there is no journal" in refused.err
    assert not list(tmp_path.rglob("*.journal.db"))
    assert minted("buy", "--from", file, "--currency", "AED", "--yes", "--new-journal").code == 0
    assert list(tmp_path.rglob("*.journal.db"))


def test_new_journal_that_exists_is_refused(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    file = plan()
    assert minted(*arguments(file, journal)).code == 0
    result = minted(*arguments(file, journal, "--new-journal"))
    assert (result.code, result.out) == (2, "")
    assert f"journal: {journal} exists already: leave --new-journal out" in result.err
    assert len(sandbox.shop.orders) == 3


def test_plan_with_problems_sends_nothing(minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path) -> None:
    file = plan(f"c-1,{GOLD},1,r-1,9999", f"c-2,{GOLD},none,r-2,9999", f"c-2,{GOLD},1,r-1,9999")
    sent = sandbox.requests.total
    result = minted(*arguments(file, journal))
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines() == [
        f"minted: from: {file} has 3 problems; nothing was sent",
        "minted: line 3, qty: must be a whole number from 1",
        "minted: line 4, customer: differs from line 2, which has the same reference",
        "minted: line 4, sku: is also in line 2, which has the same reference",
    ]
    assert sandbox.requests.total == sent
    assert not journal.exists()


def test_dry_run_of_a_plan_sends_nothing(minted: Minted, sandbox: ThreadedSandbox, plan: Plan, tmp_path: Path) -> None:
    sent = sandbox.requests.total
    result = minted("buy", "--from", plan(), "--currency", "AED", "--dry-run")
    assert (result.code, result.err) == (0, "dry run: no order was placed\n")
    assert "at most, in AED\t29997" in result.out
    assert sandbox.requests.total == sent
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["plan.csv"]


def test_plan_without_terminal_or_yes_exits_2(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path
) -> None:
    sent = sandbox.requests.total
    file = plan()
    command = ("buy", "--from", file, "--currency", "AED", "--new-journal", "--journal", journal)
    result = minted(*command, stdin="y\n")
    assert result.code == 2
    assert result.err == "minted: confirmation needs a terminal: pass --yes to proceed without it\n"
    assert sandbox.requests.total == sent
    assert not journal.exists()
    assert not file.with_name("plan.result.csv").exists()


def test_result_goes_into_the_named_file(minted: Minted, plan: Plan, journal: Path, tmp_path: Path) -> None:
    file, result = plan(), tmp_path / "outcomes.csv"
    assert minted(*arguments(file, journal, "--result", str(result))).code == 0
    assert len(result.read_text("utf-8").splitlines()) == 4
    assert not file.with_name("plan.result.csv").exists()
    refused = minted(*arguments(file, journal, "--result", str(file)))
    assert refused.code == 2
    assert "exists and is not a result file" in refused.err
    with ResultFile.create(result):
        busy = minted(*arguments(file, journal, "--result", str(result)))
    assert busy.code == 2
    assert "is in use" in busy.err


def test_result_that_cannot_be_written_ends_the_plan(
    minted: Minted, sandbox: ThreadedSandbox, plan: Plan, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write, written = plan(), os.write, []

    def fail_after_two(descriptor: int, data: bytes) -> int:
        if bytes(data[:2]) == b"r-":
            if written:
                raise OSError(errno.ENOSPC, "no space")
            written.append(data)
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr("minted_connect.cli.result_file.os.write", fail_after_two)
        result = minted(*arguments(file, journal))
    assert result.code == 3
    assert "cannot be written (OSError) from reference r-2 (bought) on: run the command again" in result.err
    assert outcomes(file) == [("r-1", "bought")]
    assert minted(*arguments(file, journal)).code == 0
    assert len(sandbox.shop.orders) == 3
