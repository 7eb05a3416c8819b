"""A raw request that may change a customer's basket waits for a purchase of that customer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minted_connect.core.raw_request import changed_customer, make_raw_request
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio

CUSTOMER = "customer-1"
BASKET = "/partner/walletable/basket"


async def test_raw_addition_waits_for_the_purchase(connect, sandbox: Sandbox) -> None:
    minted = await connect(sandbox.url, sandbox.username, sandbox.password)
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    fault = sandbox.faults.add("hang", path="*/complete/buy")
    buying = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    while not fault.waiting:
        await asyncio.sleep(0.001)
    line = {"external_customer_id": CUSTOMER, "type": "buy", "sku": GOLD, "qty": 3}
    adding = asyncio.ensure_future(minted.request("POST", BASKET, json=line))
    await minted.products.page()  # the addition has begun
    fault.remove()
    completion = await buying
    await adding
    assert completion.order.paid_total == basket.paid_total
    assert completion.differences == ()


@pytest.mark.parametrize(
    ("method", "query", "json", "expected"),
    [
        ("POST", None, {"external_customer_id": CUSTOMER}, CUSTOMER),
        ("DELETE", {"external_customer_id": CUSTOMER}, None, CUSTOMER),
        ("GET", {"external_customer_id": CUSTOMER}, None, None),
        ("POST", None, {"external_customer_id": 7}, None),
        ("POST", None, [CUSTOMER], None),
        ("PUT", {"customer": CUSTOMER}, {"sku": GOLD}, None),
    ],
)
def test_changed_customer_is_read_from_query_or_body(method: str, query: Any, json: Any, expected: str | None) -> None:
    assert changed_customer(make_raw_request(method, BASKET, query, json, {})) == expected
