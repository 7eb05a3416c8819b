"""`minted orders --save`: what accounts need, each amount of an order once, and no tokens unless asked for."""

from __future__ import annotations

import csv
import json
import stat
from decimal import Decimal
from pathlib import Path

import pytest

from minted_connect.cli.order_files import format_orders, to_objects
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

SILVER = "MNTBAE0013"


@pytest.fixture
def with_order(minted: Minted) -> Minted:
    """Return `minted` with an order of two lines."""
    minted("customer", "create", CUSTOMER, "--firstname", "Ada", "--lastname", "=SUM(A1)")
    for sku in (GOLD, SILVER):
        assert minted("basket", "add", CUSTOMER, sku, "--qty", "2").code == 0
    assert minted("buy", CUSTOMER, "--yes").code == 0
    return minted


def test_csv_has_customer_lines_fees_and_each_amount_once(with_order: Minted, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    assert with_order("orders", "--save", file).code == 0
    [order] = json.loads(with_order("orders", "--json").out)
    rows = list(csv.DictReader(file.read_text("utf-8").splitlines()))
    assert [(row["line_sku"], row["line_amount"]) for row in rows] == [(GOLD, "2"), (SILVER, "2")]
    assert {row["customer_external_id"] for row in rows} == {CUSTOMER}
    assert {row["customer_lastname"] for row in rows} == {"'=SUM(A1)"}
    assert {row["order_at"] for row in rows} == {order["order_at"]}
    for name in ("paid_total", "charge_fee", "minting_fee", "charges_vat"):
        assert [row[name] for row in rows] == [order[name], ""]
    assert sum(Decimal(row["line_total"]) for row in rows) == sum(Decimal(one["total"]) for one in order["items"])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_tokens_are_saved_only_if_asked_for(
    with_order: Minted, sandbox: ThreadedSandbox, tmp_path: Path, suffix: str
) -> None:
    [order] = json.loads(with_order("orders", "--json").out)
    file = tmp_path / f"orders{suffix}"
    assert with_order("orders", "--save", file).code == 0
    assert order["token"] not in file.read_text("utf-8")
    assert order["price_token"] not in file.read_text("utf-8")
    assert with_order("orders", "--save", file, "--with-tokens").code == 0
    assert order["token"] in file.read_text("utf-8")


def test_no_orders_make_a_header_and_an_empty_list() -> None:
    assert format_orders([], with_tokens=False).count("\n") == 1
    assert to_objects([], with_tokens=False) == []
