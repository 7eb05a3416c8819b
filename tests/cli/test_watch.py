"""`minted reconcile --watch`, and the open intents that `minted doctor` reports."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minted_connect import MintedConnect, OutcomeUnknown
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import GOLD, Minted

Shell = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def lose_response(sandbox: ThreadedSandbox, journal: Path, customer: str) -> str:
    """Buy for a customer, lose the response, and return the account of the intent."""
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as minted:
        minted.customers.create(customer)
        basket = minted.baskets.add_item(customer, sku=GOLD)
        sandbox.faults.add("drop_after_commit", path="*/complete/*", times=1)
        with pytest.raises(OutcomeUnknown):
            minted.complete.buy(basket, expected_total=basket.paid_total)
        account = minted.complete.pending()[0].account
    assert account is not None
    return account


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_watch_prints_states_and_outcomes(sandbox: ThreadedSandbox, journal: Path, shell: Shell) -> None:
    lose_response(sandbox, journal, "customer-1")
    process = shell("reconcile", "--watch", "--journal", journal, "--interval", "0.2")
    assert process.stdout is not None
    assert process.stdout.readline() == f"active: settles the purchases of this account in {journal}\n"
    assert ": confirmed, order " in process.stdout.readline()
    other = shell("reconcile", "--watch", "--journal", journal)
    assert other.stdout is not None
    line = other.stdout.readline()
    assert line == f"standing by: another process settles the purchases of this account in {journal}\n"
    for each in (process, other):
        each.send_signal(signal.SIGTERM)
        assert each.communicate(timeout=20) == ("", "")
        assert each.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_watch_says_why_and_until_when_it_backs_off(
    sandbox: ThreadedSandbox, journal: Path, shell: Shell, environment: dict[str, str]
) -> None:
    lose_response(sandbox, journal, "customer-1")
    environment["MINTED_CONNECT_PASSWORD"] = "another"
    process = shell("reconcile", "--watch", "--journal", journal)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("active: ")
    line = process.stdout.readline()
    assert line.startswith("backing off until 20")
    assert "+00:00: AuthenticationFailed: " in line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_watch_without_a_journal_exits_2(minted: Minted, sandbox: ThreadedSandbox) -> None:
    result = minted("reconcile", "--watch")
    assert result.code == 2
    assert "journal: there is no file " in result.err
    assert minted("reconcile").code == 0
    assert len(sandbox.requests) == 0


@pytest.mark.parametrize("option", [("--list",), ("--all-accounts",), ("--intent", "x"), ("--decide", "rejected")])
def test_watch_takes_no_option_of_a_single_run(
    minted: Minted, sandbox: ThreadedSandbox, journal: Path, option: tuple[str, ...]
) -> None:
    lose_response(sandbox, journal, "customer-1")
    result = minted("reconcile", "--watch", "--journal", journal, *option)
    assert (result.code, result.out) == (2, "")
    assert "watch: takes no --intent" in result.err


def rows_of(minted: Minted, journal: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(minted("doctor", "--json", "--journal", journal).out)
    return rows


def test_doctor_reports_open_intents_of_each_account(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> None:
    lose_response(sandbox, journal, "customer-9")
    foreign = "f" * 64
    with sqlite3.connect(journal) as database:
        database.execute("UPDATE intents SET created_at = '2026-01-02T03:04:05+00:00', account = ?", [foreign])
    database.close()
    accounts = {lose_response(sandbox, journal, f"customer-{number}") for number in range(2)}
    (own,) = accounts
    rows = rows_of(minted, journal)
    assert [row["ok"] for row in rows if row["check"] == "journal"] == [False]
    first, second = [str(row["detail"]) for row in rows if row["check"] == "open intents"]
    assert first.startswith(f"2 of account {own[:8]}, the oldest from 20")
    assert first.endswith(" seconds ago: run minted reconcile, or keep minted reconcile --watch running")
    assert second.startswith(f"1 of account {foreign[:8]}, the oldest from 2026-01-02 03:04:05+00:00, ")
    assert " days ago: run it with the user name of that account" in second
    assert own[8:] not in str(rows)
    assert "customer-" not in str(rows)
    assert minted("reconcile", "--journal", journal).code == 0
    (only,) = [str(row["detail"]) for row in rows_of(minted, journal) if row["check"] == "open intents"]
    assert only == second


def test_doctor_reports_no_open_intents(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> None:
    lose_response(sandbox, journal, "customer-1")
    assert minted("reconcile", "--journal", journal).code == 0
    rows = rows_of(minted, journal)
    assert [row["detail"] for row in rows if row["check"] == "journal"] == [f"{journal}: no open intents"]
    assert [row for row in rows if row["check"] == "open intents"] == []


def test_doctor_reports_unreadable_intents(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> None:
    lose_response(sandbox, journal, "customer-1")
    with sqlite3.connect(journal) as database:
        database.execute("UPDATE intents SET paid_total = 'x'")
    database.close()
    (detail,) = [str(row["detail"]) for row in rows_of(minted, journal) if row["check"] == "unreadable intents"]
    assert detail.startswith("1, which may be open purchases: ask the vendor for the outcomes")
