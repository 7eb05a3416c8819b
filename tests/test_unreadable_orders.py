"""Orders that cannot be read are identified by their raw ids: in pages, for `get`, `wait` and `watch`."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import attrs
import pytest

from minted_connect import InvalidInput, NotFound, Order, Page, ProtocolError, RequestTimeout, UnreadableRow
from minted_connect.completion.order_match import identifiers
from minted_connect.core.converter import structure, unstructure
from minted_connect.models import Completion, IntentState
from minted_connect.models.masking import without_personal_data
from minted_connect.request_info import Effect
from minted_connect.resources.order_tracking import OrderRef
from minted_connect.resources.orders import AsyncOrders
from minted_connect.serialization import to_dict
from tests.completion.fakes import CUSTOMER, FakeApiClient, intent_of, order_json, order_of, page_json

pytestmark = pytest.mark.anyio

ODD: Any = {"order_at": "yesterday"}


def odd_order(customer: Any, **changes: Any) -> dict[str, Any]:
    order = order_json(**{**ODD, **changes})
    return {**order, "customer": {**order["customer"], "external_id": customer}}


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


@pytest.fixture
def orders(api: FakeApiClient) -> AsyncOrders:
    return AsyncOrders(api)


# --- confirmed purchases -----------------------------------------------------------------------------------------


def completion_of(raw: dict[str, Any]) -> Completion:
    return Completion(None, keys=identifiers(raw), raw=raw)


@pytest.mark.requirement(52)
@pytest.mark.parametrize(("customer", "expected"), [(700, "700"), (Decimal("700.0"), "700"), ("007", "007")])
def test_unreadable_order_of_a_numeric_customer_is_tracked(customer: Any, expected: str) -> None:
    target = OrderRef.of(completion_of(odd_order(customer, id="5", token="T" * 32)))
    assert (target.customer, target.number, target.token) == (expected, 5, "T" * 32)


async def test_unreadable_order_of_a_numeric_customer_is_awaited(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_of("700", status_name="Completed")]
    order = await orders.wait(completion_of(odd_order(700)), timeout=60)
    assert (order.id, order.customer.external_id) == (10984, "700")


@pytest.mark.parametrize(("customer", "number"), [(None, 5), ([], 5), (True, 5), ("c", "007"), ("c", 0), ("c", None)])
def test_completion_without_a_readable_id_is_refused(customer: Any, number: Any) -> None:
    with pytest.raises(InvalidInput, match="does not identify an order"):
        OrderRef.of(completion_of(odd_order(customer, id=number)))


# --- rows of a page ----------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), ("7", 7), (Decimal("7.0"), 7), (0, 0), ("007", None), ("00", None), (Decimal("7.5"), None)],
)
def test_id_of_an_odd_row_is_read_as_a_model_reads_it(value: Any, expected: int | None) -> None:
    assert UnreadableRow("data.data[0]", (), {"id": value}).id == expected
    page: Page[Order] = structure(page_json([order_json(id=value)]), Page[Order])
    assert [order.id for order in page] == ([] if expected is None else [expected])


@pytest.mark.requirement(52)
@pytest.mark.parametrize("odd_id", [None, "?", 10984])
async def test_odd_row_of_another_customer_is_not_the_order(
    api: FakeApiClient, orders: AsyncOrders, odd_id: Any
) -> None:
    api.orders = [odd_order("customer-2", id=odd_id), odd_order(2, id=odd_id)]
    with pytest.raises(NotFound):
        await orders.get(10984, customer_id=CUSTOMER)
    intent = intent_of(state=IntentState.CONFIRMED)
    with pytest.raises(NotFound):
        async for _ in orders.watch(intent):
            pass


@pytest.mark.requirement(52)
@pytest.mark.parametrize("customer", [7, "7", "007", None, ["7"]])
async def test_odd_row_that_may_be_own_is_not_skipped(api: FakeApiClient, orders: AsyncOrders, customer: Any) -> None:
    api.orders = [odd_order(customer, id=None)]
    with pytest.raises(ProtocolError) as caught:
        await orders.get(10984, customer_id="007")
    assert caught.value.problems[0] == "data.data[0].id: must be a whole number"
    assert str(caught.value).startswith(
        "GET /partner/walletable/orders: the response does not match the expected schema"
    )
    # A page of this customer may contain the row.
    page = await orders.page(customer_id="007")
    assert len(page.unreadable) == 1


def test_row_lists_its_problems_and_joins_them() -> None:
    [row] = structure(page_json([odd_order("c", id="x; y")]), Page[Order]).unreadable
    assert row.problems == ("data.data[0].id: must be a whole number", "data.data[0].order_at: must be a date and time")
    assert row.problem == "; ".join(row.problems)


# --- copies of a page --------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
def test_pages_with_other_odd_rows_differ() -> None:
    rows = [order_json(id=1), odd_order("c", id=2)]
    page: Page[Order] = structure(page_json(rows), Page[Order])
    assert page != attrs.evolve(page, unreadable=())
    assert page == structure(page_json(rows), Page[Order])
    assert hash(page.unreadable) == hash(structure(page_json(rows), Page[Order]).unreadable)


@pytest.mark.requirement(52)
def test_to_dict_lists_odd_rows_without_values() -> None:
    page: Page[Order] = structure(page_json([odd_order("Zonguldak", id=2)]), Page[Order])
    path = "data.data[0]"
    assert to_dict(page)["unreadable"] == [
        {"path": path, "problems": [f"{path}.order_at: must be a date and time"]},
    ]
    assert "Zonguldak" not in f"{without_personal_data(page)!r}{to_dict(page)}"


def test_odd_rows_of_a_page_are_not_read_from_json() -> None:
    page: Page[Order] = structure({**page_json([]), "unreadable": "x"}, Page[Order])
    assert page.unreadable == ()
    odd: Page[Order] = structure(page_json([odd_order("c")]), Page[Order])
    assert "unreadable" not in unstructure(odd)


def test_reads_and_idempotent_changes_are_idempotent() -> None:
    assert {effect for effect in Effect if effect.is_idempotent} == {Effect.READ, Effect.IDEMPOTENT}


@pytest.mark.requirement(52)
async def test_polls_of_an_odd_row_end_with_its_problems(api: FakeApiClient, orders: AsyncOrders) -> None:
    api.orders = [order_json(**ODD)]
    order = structure(order_json(), Order)
    with pytest.raises(RequestTimeout) as timed_out:
        await orders.wait(order, timeout=60.0)
    with pytest.raises(ProtocolError) as failed:
        async for _ in orders.watch(order, patience=60.0):
            pass
    assert isinstance(timed_out.value.__cause__, ProtocolError)
    assert timed_out.value.__cause__.problems == failed.value.problems
