"""orders.*: the requests sent, the arguments rejected, and the rows accepted."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from minted_connect.core import converter
from minted_connect.core.failures import is_transient
from minted_connect.errors import (
    APIError,
    AuthDowngrade,
    AuthenticationFailed,
    BadRequest,
    BudgetExhausted,
    CircuitOpen,
    ClientClosedError,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    IntegrityError,
    InvalidInput,
    LimiterTimeout,
    MintedConnectError,
    NotFound,
    NotSent,
    PermissionDenied,
    PoolTimeout,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseTooLarge,
    ServerError,
    TLSFailed,
    TransportError,
    UnexpectedRedirect,
    ValidationFailed,
)
from minted_connect.models import IntentState, Order, OrderKind
from minted_connect.resources.order_tracking import not_listed
from minted_connect.resources.orders import AsyncOrders
from tests.completion.fakes import CUSTOMER, FakeApiClient, intent_of, order_json, order_of, page_json

pytestmark = pytest.mark.anyio


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient(random=lambda: 0.5)


@pytest.fixture
def orders(api: FakeApiClient) -> AsyncOrders:
    return AsyncOrders(api)


async def test_page_without_filters_sends_the_default_query(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(), order_of("customer-2")]
    page = await orders.page()
    assert [order.customer.external_id for order in page] == [CUSTOMER, "customer-2"]
    assert api.sent[0].query == [("page", "1"), ("total", "10"), ("sortBy", "created_at"), ("sortType", "desc")]


async def test_page_sends_every_filter(api: FakeApiClient, orders: AsyncOrders) -> None:
    await orders.page(
        customer_id=CUSTOMER,
        status=[2, 5],
        tx_type=[OrderKind.BUY, "sell"],
        start=date(2026, 2, 1),
        end=date(2026, 2, 28),
        order_id=11114,
        sort_by="total",
        sort_type="asc",
        page=3,
        per_page=30,
    )
    assert dict(api.sent[0].query) == {
        "page": "3",
        "total": "30",
        "sortBy": "total",
        "sortType": "asc",
        "status": "2,5",
        "startDate": "2026-02-01",
        "endDate": "2026-02-28",
        "tx_type": "buy,sell",
        "customer_external_id": CUSTOMER,
        "orderId": "11114",
    }
    await orders.page(status=2, tx_type="delivery")
    assert dict(api.sent[1].query)["status"] == "2"
    assert dict(api.sent[1].query)["tx_type"] == "delivery"


@pytest.mark.parametrize(
    ("field", "filters"),
    [
        ("page", {"page": 0}),
        ("page", {"page": True}),
        ("page", {"page": "1"}),
        ("per_page", {"per_page": 0}),
        ("per_page", {"per_page": 10.0}),
        ("status", {"status": "Pending"}),
        ("status", {"status": []}),
        ("status", {"status": [2, "5"]}),
        ("status", {"status": True}),
        ("status", {"status": 0}),
        ("tx_type", {"tx_type": "oneoffpurchase"}),
        ("tx_type", {"tx_type": []}),
        ("tx_type", {"tx_type": ["buy", "gift"]}),
        ("end", {"start": date(2026, 1, 1)}),
        ("start", {"end": date(2026, 1, 1)}),
        ("end", {"start": date(2026, 1, 2), "end": date(2026, 1, 1)}),
        ("start", {"start": datetime(2026, 1, 1), "end": date(2026, 1, 1)}),
        ("start", {"start": "2026-01-01", "end": date(2026, 1, 1)}),
        ("order_id", {"order_id": 0}),
        ("order_id", {"order_id": "11114"}),
        ("sort_by", {"sort_by": "price"}),
        ("sort_type", {"sort_type": "up"}),
        ("customer_id", {"customer_id": ""}),
    ],
)
async def test_page_rejects_an_invalid_filter(
    api: FakeApiClient, orders: AsyncOrders, field: str, filters: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await orders.page(**filters)
    assert caught.value.field == field
    assert api.sent == []


async def test_page_does_not_check_limits_of_other_operations(api: FakeApiClient, orders: AsyncOrders) -> None:
    await orders.page(per_page=100, customer_id="x" * 200)
    assert dict(api.sent[0].query)["total"] == "100"


async def test_page_with_rows_of_other_customers_raises(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(), order_of("customer-2"), order_of("customer-2")]
    with pytest.raises(IntegrityError) as caught:
        await orders.page(customer_id=CUSTOMER)
    assert len(caught.value.problems) == 2
    assert "customer-2" not in f"{caught.value}{caught.value!r}{caught.value.problems}"


async def test_iterate_and_pages_read_until_the_last_page(api: FakeApiClient, orders: AsyncOrders) -> None:
    def pages(request: Any) -> dict[str, Any]:
        number = int(dict(request.query)["page"])
        return page_json([order_json(id=number * 10), order_json(id=number * 10 + 1)], number=number, last=3)

    api.orders = pages
    assert [page.current_page async for page in orders.pages(page=2)] == [2, 3]
    api.sent.clear()
    assert [order.id async for order in orders.iterate(status=2, per_page=5)] == [10, 11, 20, 21, 30, 31]
    assert {dict(request.query)["status"] for request in api.sent} == {"2"}
    assert {dict(request.query)["total"] for request in api.sent} == {"5"}


async def test_get_returns_the_order_of_the_customer(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(id=1), order_of("customer-2", id=10984), order_json()]
    found = await orders.get(10984, customer_id=CUSTOMER)
    assert (found.id, found.customer.external_id) == (10984, CUSTOMER)
    assert dict(api.sent[0].query) == {"customer_external_id": CUSTOMER, "orderId": "10984"}
    with pytest.raises(NotFound) as caught:
        await orders.get(2, customer_id=CUSTOMER)
    assert caught.value.status == 0
    for wrong in (True, 0, "10984"):
        with pytest.raises(InvalidInput):
            await orders.get(wrong, customer_id=CUSTOMER)  # type: ignore[arg-type]


def status_changes(api: FakeApiClient, *changes_at: tuple[float, str]) -> Any:
    """Return a list of one order whose status changes at these seconds."""

    def now(request: Any) -> list[Any]:
        status = [name for second, name in changes_at if api.clock.monotonic() >= second][-1]
        return [order_json(status_name=status)]

    return now


async def get_order(api: FakeApiClient, orders: AsyncOrders) -> Order:
    return await orders.get(10984, customer_id=CUSTOMER)


async def test_wait_returns_the_order_with_the_wanted_status(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = status_changes(api, (0, "Pending"), (20, "Shipped"), (100, "Completed"))
    order = await get_order(api, orders)
    assert (await orders.wait(order, until="Shipped")).status == "Shipped"
    assert api.clock.sleeps == [2, 4, 8, 15]  # type: ignore[attr-defined]
    assert (await orders.wait(order, until=["Packed", "Transferring"])).status == "Completed"
    assert (await orders.wait(order)).status == "Completed"
    assert await orders.wait(order, until="Pending") is order


async def test_wait_raises_request_timeout_after_its_timeout(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = status_changes(api, (0, "Pending"))
    order = await get_order(api, orders)
    with pytest.raises(RequestTimeout) as caught:
        await orders.wait(order, timeout=10)
    assert api.clock.sleeps == [2, 4, 4]  # type: ignore[attr-defined]
    assert caught.value.safe_to_retry
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput):
            await orders.wait(order, timeout=wrong)


async def test_watch_yields_each_change_until_a_final_status(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = status_changes(api, (0, "Pending"), (10, "Processing"), (60, "unknown status"), (200, "Cancelled"))
    order = await get_order(api, orders)
    changes = [change async for change in orders.watch(order)]
    assert [change.after.status for change in changes] == ["Processing", "unknown status", "Cancelled"]
    assert [change.before.status for change in changes if change.before] == ["Pending", "Processing", "unknown status"]
    assert api.clock.sleeps[:6] == [2, 4, 8, 2, 4, 8]  # type: ignore[attr-defined]


async def test_watch_ignores_rows_that_are_still_baskets(api: FakeApiClient, orders: AsyncOrders) -> None:
    order = converter.structure(order_json(), Order)
    basket = order_json(order_creation_status="basket", status_name="Created")
    api.orders = lambda request: [basket if api.clock.monotonic() < 30 else order_json(status_name="Completed")]
    assert [change.after.status async for change in orders.watch(order)] == ["Completed"]
    api.orders = [basket]
    with pytest.raises(NotFound):
        await orders.wait(order)


async def test_wait_ignores_other_orders(api: FakeApiClient, orders: AsyncOrders) -> None:
    order = converter.structure(order_json(), Order)
    others = [order_json(id=1, status_name="Cancelled"), order_of("customer-2", id=2, status_name="Cancelled")]
    api.orders = [*others, order_json(status_name="Completed")]
    assert (await orders.wait(order)).status == "Completed"


@pytest.mark.parametrize("has_order_id", [True, False])
async def test_wait_with_order_of_another_customer_raises(
    api: FakeApiClient, orders: AsyncOrders, has_order_id: bool
) -> None:
    intent = intent_of(state=IntentState.CONFIRMED, order_id=10984 if has_order_id else None)
    api.orders = [order_of("customer-2")]
    with pytest.raises(IntegrityError) as caught:
        await orders.wait(intent)
    assert "customer-2" not in f"{caught.value}{caught.value!r}{caught.value.problems}"
    assert len(api.sent) == 1


@pytest.mark.parametrize("shared", ["token", "guid", "increment_id"])
async def test_wait_for_an_intent_finds_its_order_by_any_key(
    api: FakeApiClient, orders: AsyncOrders, shared: str
) -> None:
    other_keys = {"token": "X" * 32, "guid": "", "increment_id": "1", "id": 77}
    del other_keys[shared]
    intent = intent_of(state=IntentState.CONFIRMED)
    api.orders = [order_json(**{**other_keys, shared: ""}), order_json(status_name="Completed", **other_keys)]
    assert (await orders.wait(intent)).status == "Completed"
    assert dict(api.sent[0].query) == {"customer_external_id": CUSTOMER, "orderId": "10984"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConfigurationError(""), False),
        (ClientClosedError(""), False),
        (NotSent(""), True),
        (InvalidInput.of("field", "rule"), False),
        (ConnectFailed(""), True),
        (TLSFailed(""), False),
        (PoolTimeout(""), True),
        (LimiterTimeout(""), True),
        (CircuitOpen(""), True),
        (BudgetExhausted(""), True),
        (TransportError(""), True),
        (RequestTimeout(""), True),
        (APIError("success: false", 200), False),
        (APIError("", 408), True),
        (APIError("", 425), True),
        (BadRequest("", 400), False),
        (AuthenticationFailed("", 401), False),
        (AuthDowngrade("", 401), False),
        (PermissionDenied("", 403), False),
        (NotFound("", 404, 404), False),
        (NotFound("of a gateway", 404), True),
        (not_listed(), False),
        (Conflict("", 409), False),
        (ValidationFailed("", 422), False),
        (RateLimited("", 429), True),
        (ServerError("", 500), True),
        (ProtocolError(""), True),
        (ResponseTooLarge(""), True),
        (UnexpectedRedirect(""), True),
        (IntegrityError(""), False),
    ],
    ids=repr,
)
def test_is_transient_returns_whether_a_read_may_succeed(error: MintedConnectError, expected: bool) -> None:
    assert is_transient(error) is expected


async def test_receipt_and_invoice_return_the_response(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.complete = {"order_id": 10984, "new": 1}
    receipt = await orders.receipt(10984, customer_id=CUSTOMER)
    assert (receipt.order_id, receipt.url, receipt.raw["new"]) == (10984, None, 1)
    assert dict(api.sent[0].query) == {"external_customer_id": CUSTOMER, "orderId": "10984"}
    api.complete = {"guid": "G", "order_code": "FE9HURU6"}
    assert (await orders.invoice("HYAQA01373")).order_code == "FE9HURU6"
    assert api.sent[1].params == ("HYAQA01373",)
    for wrong in ("", " ", "a\nb"):
        with pytest.raises(InvalidInput):
            await orders.invoice(wrong)
