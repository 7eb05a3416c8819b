"""`minted journal` shows the purchases of a journal, and changes nothing."""

from __future__ import annotations

import csv
import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

MASKED = f"***{CUSTOMER[-4:]}"
OTHER = "shop-customer-2"


@pytest.fixture
def journal(minted: Minted, tmp_path: Path) -> Path:
    """The default journal with two purchases, the second one with a reference, of two customers."""
    for customer in (CUSTOMER, OTHER):
        minted("customer", "create", customer)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    assert minted("buy", CUSTOMER, "--yes").code == 0
    items = ("--items", f"{GOLD}=2", "--reference", "order-7", "--max-total", "100000", "--currency", "AED")
    assert minted("buy", OTHER, *items, "--yes").code == 0
    (file,) = tmp_path.rglob("*.journal.db")
    return file


def listed(minted: Minted, *arguments: object, **options: Any) -> list[dict[str, Any]]:
    result = minted("journal", "--json", *arguments, **options)
    assert (result.code, result.err) == (0, "")
    rows: list[dict[str, Any]] = json.loads(result.out)
    return rows


@pytest.mark.usefixtures("journal")
def test_journal_shows_purchases_oldest_first(minted: Minted) -> None:
    result = minted("journal")
    assert result.code == 0
    header, first, second = [line.split("\t") for line in result.out.splitlines()]
    assert header[:5] == ["created at", "state", "kind", "customer", "reference"]
    assert first[1:5] == ["confirmed", "buy", MASKED, ""]
    assert second[1:5] == ["confirmed", "buy", f"***{OTHER[-4:]}", "order-7"]
    assert CUSTOMER not in result.out + result.err


@pytest.mark.requirement(32)
@pytest.mark.usefixtures("journal")
def test_journal_masks_customers_unless_asked(minted: Minted, tmp_path: Path) -> None:
    rows = listed(minted)
    assert [row["customer"] for row in rows] == [MASKED, f"***{OTHER[-4:]}"]
    assert CUSTOMER not in json.dumps(rows)
    assert not {"cart_token", "price_token", "terms", "guid"} & rows[0].keys()
    assert [row["customer"] for row in listed(minted, "--show-customers")] == [CUSTOMER, OTHER]
    assert minted("journal", "--save", tmp_path / "j.csv").code == 0
    assert CUSTOMER not in (tmp_path / "j.csv").read_text()


@pytest.mark.usefixtures("journal")
def test_journal_rows_have_money_as_text(minted: Minted) -> None:
    row = listed(minted, "--reference", "order-7")[0]
    assert row["items"] == {GOLD: 2}
    assert (row["currency_code"], row["forgotten_at"], type(row["paid_total"])) == ("AED", None, str)
    assert type(row["order_id"]) is int
    assert len(row["account"]) == 8


@pytest.mark.usefixtures("journal")
def test_journal_filters(minted: Minted) -> None:
    first, second = listed(minted)
    day, after = first["created_at"][:10], second["created_at"].replace("+00:00", "Z").partition(".")[0]
    for arguments, expected in (
        (["--state", "confirmed"], 2),
        (["--state", "unknown", "--state", "prepared"], 0),
        (["--customer", OTHER], 1),
        (["--reference", "order-7"], 1),
        (["--since", day], 2),
        (["--until", day], 0),
        (["--until", f"{day}T00:00:00+0400"], 0),
        (["--until", "2999-01-01", "--since", after[:19]], 1 + (first["created_at"] >= after)),
    ):
        assert len(listed(minted, *arguments)) == expected, arguments


@pytest.mark.usefixtures("journal")
def test_journal_shows_other_accounts_only_if_asked(minted: Minted) -> None:
    other = {"MINTED_CONNECT_USERNAME": "other"}
    assert listed(minted, env=other) == []
    assert len(listed(minted, "--all-accounts", env=other)) == 2
    no_account = {"MINTED_CONNECT_USERNAME": None, "MINTED_CONNECT_PASSWORD": None}
    assert len(listed(minted, env=no_account)) == 2
    assert minted("journal", env=no_account).out.splitlines()[0].endswith("\tintent\taccount")


def test_journal_saves_private_files(minted: Minted, journal: Path, tmp_path: Path) -> None:
    (tmp_path / "j.json").write_text("old")
    for name in ("j.json", "j.csv"):
        result = minted("journal", "--save", tmp_path / name)
        assert (result.code, result.out) == (0, "")
        assert result.err.replace("\n", "") == f"2 purchases written to {tmp_path / name}"
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert json.loads((tmp_path / "j.json").read_text()) == listed(minted)
    rows = list(csv.DictReader((tmp_path / "j.csv").read_text().splitlines()))
    assert [row["items"] for row in rows] == [f"{GOLD}=1", f"{GOLD}=2"]
    refused = minted("journal", "--save", tmp_path / "j.xls")
    assert (refused.code, refused.err) == (2, "minted: save: must end in .csv or .json\n")
    assert journal.exists()


def test_journal_sends_nothing_and_changes_nothing(minted: Minted, journal: Path, sandbox: ThreadedSandbox) -> None:
    before, count = journal.read_bytes(), len(sandbox.requests)
    listed(minted)
    assert journal.read_bytes() == before
    assert len(sandbox.requests) == count


def test_journal_creates_no_journal(minted: Minted, tmp_path: Path) -> None:
    result = minted("journal", "--json")
    assert (result.code, result.out) == (0, "[]\n")
    assert result.err.replace("\n", "").endswith(".journal.db does not exist yet")
    named = minted("journal", "--journal", tmp_path / "typo.db")
    assert (named.code, named.err.replace("\n", "")) == (2, f"minted: journal: there is no file {tmp_path / 'typo.db'}")
    assert not list(tmp_path.rglob("*.db"))


def test_journal_with_wrong_filter_exits_2(minted: Minted) -> None:
    for arguments in (["--state", "open"], ["--since", "yesterday"], ["--customer", ""]):
        assert minted("journal", *arguments).code == 2, arguments


def test_journal_names_unreadable_records(minted: Minted, journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("UPDATE intents SET items = 'broken' WHERE reference IS NULL")
        [(intent_id,)] = database.execute("SELECT id FROM intents WHERE reference IS NULL").fetchall()
    result = minted("journal", "--json")
    assert result.code == 1
    assert [row["reference"] for row in json.loads(result.out)] == ["order-7"]
    assert f"intent {intent_id} cannot be read and is left out; it may be an open purchase" in result.err
