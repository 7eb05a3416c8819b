"""`minted audit`: exit code, table, JSON, files, days and journals."""

from __future__ import annotations

import csv
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
def bought(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> int:
    """Buy once, and return the number of the order."""
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    assert minted("buy", CUSTOMER, "--yes", "--journal", journal).code == 0
    return sandbox.shop.orders[0].id


def change(journal: Path, statement: str) -> None:
    with sqlite3.connect(journal) as database:
        assert database.execute(statement).rowcount == 1
    database.close()


@pytest.mark.requirement(54)
def test_audit_of_a_clean_journal_exits_0(minted: Minted, bought: int, journal: Path) -> None:
    shown = minted("audit", "--journal", journal)
    assert (shown.code, shown.out) == (0, "finding\tdifference\n")
    today = datetime.now(UTC).date()
    assert shown.err == f"{today - timedelta(days=1)} to {today} (UTC): 1 orders, 1 intents, 0 findings\n"


@pytest.mark.requirement(54)
def test_audit_with_findings_exits_3(minted: Minted, bought: int, journal: Path) -> None:
    change(journal, "DELETE FROM intents")
    shown = minted("audit", "--journal", journal)
    assert shown.code == 3
    assert f"order_without_intent\torder {bought} (buy, " in shown.out
    assert CUSTOMER not in shown.out
    document: dict[str, Any] = json.loads(minted("audit", "--journal", journal, "--json").out)
    [finding] = document["findings"]
    assert (finding["order_ids"], finding["customer_id"], document["is_clean"]) == ([bought], CUSTOMER, False)


@pytest.mark.requirement(54)
def test_audit_of_an_absent_journal_exits_4(minted: Minted, bought: int, journal: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent.db"
    shown = minted("audit", "--journal", journal, "--journal", absent)
    assert shown.code == 4
    assert f"could not be read: {absent}: the file cannot be read: No such file" in shown.err
    assert not absent.exists()


@pytest.mark.requirement(54)
def test_audit_with_a_wrong_password_exits_4(minted: Minted, bought: int, journal: Path) -> None:
    shown = minted("audit", "--journal", journal, env={"MINTED_CONNECT_PASSWORD": "wrong"})
    assert shown.code == 4
    assert "could not be read: orders" in shown.err


def test_audit_uses_the_journal_of_purchases_by_default(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("audit").code == 4  # nothing was bought, so there is no journal
    assert minted("buy", CUSTOMER, "--yes").code == 0
    assert minted("audit").code == 0


def test_audit_finds_a_journal_in_the_environment(minted: Minted, bought: int, journal: Path) -> None:
    assert minted("audit", env={"MINTED_CONNECT_JOURNAL": str(journal)}).code == 0


def test_audit_of_several_journals_reads_all(minted: Minted, bought: int, journal: Path, tmp_path: Path) -> None:
    minted("basket", "add", CUSTOMER, GOLD)
    other = tmp_path / "other.db"
    assert minted("buy", CUSTOMER, "--yes", "--journal", other).code == 0
    assert minted("audit", "--journal", journal).code == 3
    assert minted("audit", "--journal", journal, "--journal", other).code == 0


def test_audit_of_another_day_or_customer_is_clean(minted: Minted, bought: int, journal: Path) -> None:
    change(journal, "DELETE FROM intents")
    for other in (
        ("--day", "2026-01-02"),
        ("--start", "2026-01-01", "--end", "2026-01-31"),
        ("--customer", "another-customer"),
    ):
        shown = minted("audit", "--journal", journal, *other)
        assert (shown.code, "0 orders, 0 intents" in shown.err) == (0, True)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert minted("audit", "--journal", journal, "--day", today, "--customer", CUSTOMER).code == 3


def test_audit_saves_its_report(minted: Minted, bought: int, journal: Path, tmp_path: Path) -> None:
    change(journal, "UPDATE intents SET paid_total = '1.00'")
    file = tmp_path / "audit.json"
    assert minted("audit", "--journal", journal, "--save", file).code == 3
    assert [one["kind"] for one in json.loads(file.read_text("utf-8"))["findings"]] == ["total_differs"]
    table = tmp_path / "audit.csv"
    assert minted("audit", "--journal", journal, "--journal", tmp_path / "absent.db", "--save", table).code == 4
    with table.open(encoding="utf-8", newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert [(row["kind"], row["order_ids"]) for row in rows] == [("total_differs", str(bought)), ("unread", "")]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--save", "audit.txt"), "must end in .csv or .json"),
        (("--day", "2026-01-02", "--start", "2026-01-01"), "either --day, or --start and --end"),
        (("--start", "2999-01-01"), "must not be before start"),
        (("--end", "2026-01-01"), "start: is required with --end"),
        (("--start", "2026-01-02", "--end", "2026-01-01"), "must not be before start"),
    ],
)
def test_audit_with_wrong_options_exits_2(minted: Minted, journal: Path, arguments: tuple[str, ...], text: str) -> None:
    shown = minted("audit", "--journal", journal, *arguments)
    assert shown.code == 2
    assert text in shown.err


def test_audit_compares_wallets_with_an_earlier_snapshot(
    minted: Minted, sandbox: ThreadedSandbox, bought: int, journal: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before.json"
    too_recent = minted("audit", "--journal", journal, "--snapshot", before)
    assert too_recent.code == 4
    assert "could not be read: wallets" in too_recent.err
    change(journal, "UPDATE intents SET created_at = '2026-01-02T00:00:00+00:00'")
    shown = minted("audit", "--journal", journal, "--snapshot", before)
    assert (shown.code, f"1 wallets written to {before}" in shown.err) == (0, True)
    assert before.stat().st_mode & 0o777 == 0o600
    shown = minted("audit", "--journal", journal, "--since", before)
    assert (shown.code, "1 wallets compared" in shown.err) == (0, True)
    sandbox.shop.give(CUSTOMER, GOLD, 5)
    shown = minted("audit", "--journal", journal, "--since", before)
    assert (shown.code, f"{GOLD} 1 before, +0 by orders, 6 now" in shown.out) == (3, True)
    shown = minted("audit", "--journal", journal, "--since", tmp_path / "absent.json")
    assert (shown.code, "cannot be read" in shown.err) == (2, True)
