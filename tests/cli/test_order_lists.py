"""`minted orders` says on standard error which orders are left out."""

from __future__ import annotations

import json

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted


def place_orders(minted: Minted, count: int) -> None:
    minted("customer", "create", CUSTOMER)
    for _ in range(count):
        assert minted("basket", "add", CUSTOMER, GOLD).code == 0
        assert minted("buy", CUSTOMER, "--yes").code == 0


def test_orders_names_an_odd_row_on_stderr(minted: Minted, sandbox: ThreadedSandbox) -> None:
    place_orders(minted, 2)
    number = sandbox.shop.orders[0].id
    sandbox.faults.add("odd_row", path="*/orders", row_id=number)
    shown = minted("orders", "--json")
    assert (shown.code, len(json.loads(shown.out))) == (0, 1)
    rule = "data.data[1].order_at: must be a date and time"
    assert shown.err == f"order {number} cannot be read and is left out: {rule}\n"


def test_orders_handles_drift(minted: Minted, sandbox: ThreadedSandbox) -> None:
    place_orders(minted, 31)
    sandbox.faults.add("page_drift", path="*/orders", times=2, change="remove")
    shown = minted("orders", "--json")
    assert (len(json.loads(shown.out)), shown.err) == (31, "")


def test_orders_says_on_stderr_that_orders_may_be_missing(minted: Minted, sandbox: ThreadedSandbox) -> None:
    place_orders(minted, 31)
    sandbox.faults.add("extra_field", path="*/orders", times=None, field="total", value=40)
    shown = minted("orders", "--json")
    assert (shown.code, len(json.loads(shown.out))) == (0, 31)
    assert shown.err == "orders moved to other pages meanwhile, so some may be missing: run the command again\n"
