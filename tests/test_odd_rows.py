"""A row that cannot be read costs one row of a page, and proves nothing in a read-back."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    CompletionPolicy,
    IntegrityError,
    MintedConnect,
    NotFound,
    Order,
    OutcomeUnknown,
    Page,
    Product,
    ProtocolError,
    UnreadableRow,
)
from minted_connect.core.converter import StructureError, structure
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import IntentState, OrderStatus
from minted_connect.resources.orders import AsyncOrders
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.verify import Assessment, verify
from tests.completion.fakes import (
    CUSTOMER,
    FakeApiClient,
    basket_json,
    completions_of,
    intent_of,
    order_json,
    order_of,
    page_json,
    reconcile,
)

pytestmark = pytest.mark.anyio

OTHER_KEYS = {"token": "X" * 32, "guid": "ANOTHER", "increment_id": "1", "id": 77}
GOLD = "MNTBAE0001"
ODD: Any = {"order_at": "yesterday"}


# --- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
def test_odd_rows_are_unreadable_and_the_others_are_items() -> None:
    rows = [order_json(id=1), order_json(id="2", delivery="x", order_at=5), None, order_json(id=3)]
    data = {**page_json(rows), "total": 9}
    page: Page[Order] = structure(data, Page[Order])
    assert [order.id for order in page] == [1, 3]
    assert (len(page), page.total, page.raw) == (2, 9, data)
    assert page.unreadable == (
        UnreadableRow(
            "data.data[1]",
            ("data.data[1].order_at: must be a date and time", "data.data[1].delivery: must be an object"),
            rows[1],
        ),
        UnreadableRow("data.data[2]", ("data.data[2]: must be an object",), None),
    )
    found = [(row.raw, row.id, row.customer_id) for row in page.unreadable]
    assert found == [(rows[1], 2, CUSTOMER), (None, None, None)]


@pytest.mark.parametrize("value", ["x", "-1", "٣", "9" * 19, 1.5, None, [], True])
def test_id_of_an_odd_row_is_none_if_it_is_no_number(value: Any) -> None:
    assert UnreadableRow("data.data[0]", (), {"id": value, "customer": {"external_id": []}}).id is None


def test_odd_page_is_refused_with_all_problems() -> None:
    data = {**page_json([{"id": 1, "name": "Bar"}]), "total": "many"}
    with pytest.raises(StructureError) as caught:
        structure(data, Page[Product])
    assert set(caught.value.problems) == {
        "data.data[0].sku: required field missing",
        "data.total: must be a whole number",
    }
    with pytest.raises(StructureError):
        structure({**data, "total": 1, "data": {}}, Page[Product])


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient(completion=CompletionPolicy(reconcile_budget=3.0))


@pytest.fixture
def orders(api: FakeApiClient) -> AsyncOrders:
    return AsyncOrders(api)


async def test_odd_row_is_logged_without_values(
    api: FakeApiClient, orders: AsyncOrders, caplog: pytest.LogCaptureFixture
) -> None:
    api.orders = [order_json(id=1), order_json(id=2, order_at="1903-11-27 Zonguldak")]
    with caplog.at_level(logging.WARNING, "minted_connect"):
        page = await orders.page(customer_id=CUSTOMER)
    assert [order.id for order in page] == [1]
    assert "Zonguldak" not in f"{page!r}{caplog.text}"
    [record] = caplog.records
    assert record.getMessage() == (
        "GET /partner/walletable/orders: a row cannot be read and is left out: "
        "data.data[1].order_at: must be a date and time"
    )


@pytest.mark.requirement(52)
async def test_odd_row_of_another_customer_raises(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(), {**order_of("customer-2"), **ODD}, order_of("customer-3")]
    with pytest.raises(IntegrityError) as caught:
        await orders.page(customer_id=CUSTOMER)
    assert set(caught.value.problems) == {
        "data.data[1].customer.external_id: is another customer's",
        "data.data[2].customer.external_id: is another customer's",
    }


# --- one order ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize("odd_id", [10984, "10984", None, "?"])
async def test_get_of_an_odd_row_raises(api: FakeApiClient, orders: AsyncOrders, odd_id: Any) -> None:
    api.orders = [order_json(**OTHER_KEYS), order_json(**ODD, id=odd_id)]
    with pytest.raises(ProtocolError) as caught:
        await orders.get(10984, customer_id=CUSTOMER)
    assert "data.data[1].order_at: must be a date and time" in caught.value.problems
    assert caught.value.request is not None


async def test_get_of_an_order_beside_an_odd_row_returns_the_order(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(**{**OTHER_KEYS, **ODD}), order_json()]
    assert (await orders.get(10984, customer_id=CUSTOMER)).id == 10984
    with pytest.raises(NotFound):
        await orders.get(5, customer_id=CUSTOMER)


async def test_wait_retries_while_the_row_is_odd(api: FakeApiClient, orders: AsyncOrders) -> None:
    rows = iter([[order_json(**ODD)], [order_json(**OTHER_KEYS, **ODD), order_json(status_name="Completed")]])
    api.orders = lambda _: page_json(next(rows))
    order = structure(order_json(), Order)
    assert (await orders.wait(order, timeout=60)).status is OrderStatus.COMPLETED


async def test_wait_by_keys_does_not_take_an_odd_row_for_a_missing_one(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(**{**ODD, "id": 500_001})]
    intent = intent_of(state=IntentState.CONFIRMED)
    with pytest.raises(ProtocolError):
        async for _ in orders.watch(intent, patience=100.0):
            pass


# --- read-back ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
async def test_odd_row_of_another_order_does_not_keep_a_verdict_open(api: FakeApiClient) -> None:
    api.basket = None
    api.orders = [order_json(**{**OTHER_KEYS, **ODD}), order_json()]
    completion = await reconcile(api, intent_of())
    assert (completion.order_id, completion.differences) == (10984, ())


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
@pytest.mark.parametrize("row", [{"token": "", "guid": "", "increment_id": "", "id": 77, **ODD}])
async def test_odd_row_without_keys_keeps_the_verdict_open(api: FakeApiClient, row: dict[str, Any]) -> None:
    api.with_policy(CompletionPolicy(reconcile_budget=200.0, latest_landing=1.0))
    api.basket, api.orders = basket_json(), [order_json(**row)]
    with pytest.raises(OutcomeUnknown) as caught:
        await reconcile(api, intent_of())
    assert "order 77 may be the order of this purchase" in caught.value.evidence


@pytest.mark.requirement(52)
async def test_odd_row_is_a_known_order_of_the_pre_image(api: FakeApiClient) -> None:
    api.with_policy(CompletionPolicy(pre_image="require", reconcile_budget=3.0))
    api.orders = [order_json(**{**OTHER_KEYS, **ODD, "id": "78"}), order_json(**OTHER_KEYS)]
    api.complete = RuntimeError("the connection broke")
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api, MemoryJournal()).buy(api.seen_basket(), accept_price="current")
    assert caught.value.intent.known_orders == (77, 78)


# --- through clients and commands --------------------------------------------------------------------------------


async def buy(client: AsyncMintedConnect, count: int = 1) -> list[int]:
    numbers: list[int] = []
    for _ in range(count):
        basket = await client.baskets.add_item("customer-1", sku=GOLD)
        numbers.append((await client.complete.buy(basket, expected_total=basket.paid_total)).require_order().id)
    return numbers


@pytest.mark.requirement(52)
async def test_iterate_leaves_out_an_odd_row(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncMintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        await client.customers.create("customer-1")
        numbers = await buy(client, 7)
        client.sandbox_server.faults.add("odd_row", path="*/orders", times=None, row_id=numbers[1])
        with caplog.at_level(logging.WARNING, "minted_connect"):
            found = [order.id async for order in client.orders.iterate(customer_id="customer-1", per_page=5)]
        assert found == sorted(set(numbers) - {numbers[1]}, reverse=True)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        [row] = [row async for page in client.orders.pages(per_page=5) for row in page.unreadable]
        assert (row.id, row.customer_id) == (numbers[1], "customer-1")
        assert await client.orders.get(numbers[0], customer_id="customer-1")
        with pytest.raises(ProtocolError):
            await client.orders.get(numbers[1], customer_id="customer-1")


async def test_page_of_odd_rows_only_does_not_end_iteration() -> None:
    async with AsyncMintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        await client.customers.create("customer-1")
        numbers = await buy(client, 6)
        client.sandbox_server.faults.add("extra_field", path="*/orders", field="*.order_at", value="?")
        found = [order.id async for order in client.orders.iterate(customer_id="customer-1", per_page=5)]
        assert found == numbers[:1]


def test_blocking_iterate_leaves_out_an_odd_row() -> None:
    with MintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        client.sandbox_server.faults.add("odd_row", path="*/products", field="sku", value=7)
        assert len([*client.products.iterate(per_page=5)]) == len(client.sandbox_server.shop.products) - 1


async def test_verify_contradicts_an_odd_row() -> None:
    async with Sandbox(seed=1) as server:
        server.faults.add("odd_row", path="*/products", field="stock", value="many")
        settings = {"username": server.username, "password": server.password, "base_url": server.url}
        report = await verify(settings)
    [result] = [result for result in report.results if result.operation == "products.page"]
    assert (result.assessment, result.decoded) == (Assessment.CONTRADICTED, False)
    assert result.problems == ("data.data[0].stock: must be a whole number",)
