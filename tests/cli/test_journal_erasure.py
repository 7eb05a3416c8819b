"""`minted journal --erase-customer`: the id becomes a hash, and references stay bought."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

ITEMS = ("--items", f"{GOLD}=1", "--max-total", "100000", "--currency", "AED", "--yes")
REFERENCE = f"plan/{CUSTOMER}"


@pytest.fixture
def journal(minted: Minted, tmp_path: Path) -> Path:
    """A journal with one purchase."""
    minted("customer", "create", CUSTOMER)
    file = tmp_path / "folder" / "j.db"
    file.parent.mkdir()
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", REFERENCE, "--journal", file).code == 0
    return file


@pytest.mark.requirement(47)
def test_erased_customer_leaves_no_bytes(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> None:
    assert any(CUSTOMER.encode() in file.read_bytes() for file in journal.parent.iterdir())
    shown = minted("journal", "--journal", journal, "--erase-customer", CUSTOMER)
    assert (shown.code, shown.out) == (0, "")
    assert shown.err == "the customer was erased from 2 records of the journal\n"
    assert not any(CUSTOMER.encode() in file.read_bytes() for file in journal.parent.iterdir())
    listed = minted("journal", "--journal", journal, "--show-customers", "--json")
    [row] = json.loads(listed.out)
    assert (row["customer"][:7], row["reference"][:7]) == ("erased:", "erased:")
    [found] = json.loads(minted("journal", "--journal", journal, "--reference", REFERENCE, "--json").out)
    assert found["id"] == row["id"]
    assert minted("audit", "--journal", journal).code == 0
    assert minted("buy", CUSTOMER, *ITEMS, "--reference", REFERENCE, "--journal", journal).code == 0
    assert len(sandbox.shop.orders) == 1


def test_erasure_needs_a_user_name_and_a_valid_id(minted: Minted, journal: Path) -> None:
    no_account = {"MINTED_CONNECT_USERNAME": None, "MINTED_CONNECT_PASSWORD": None}
    shown = minted("journal", "--journal", journal, "--erase-customer", CUSTOMER, env=no_account)
    assert (shown.code, "username" in shown.err) == (2, True)
    assert minted("journal", "--journal", journal, "--erase-customer", "").code == 2
    assert len(json.loads(minted("journal", "--journal", journal, "--customer", CUSTOMER, "--json").out)) == 1


def test_customer_with_an_open_purchase_is_not_erased(minted: Minted, sandbox: ThreadedSandbox, journal: Path) -> None:
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    arguments = (*ITEMS, "--reference", "second", "--journal", journal)
    assert minted("buy", CUSTOMER, *arguments).code == 75
    shown = minted("journal", "--journal", journal, "--erase-customer", CUSTOMER)
    assert shown.code == 4
    assert "is open" in shown.err
    assert CUSTOMER not in shown.err
