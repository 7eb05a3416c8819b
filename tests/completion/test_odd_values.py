"""Money, identity and status of another type or form are never guessed: neither before a purchase nor after it."""

from __future__ import annotations

from typing import Any, Final

import pytest

from minted_connect import IntegrityError, MintedConnectError, NotSent, Options, OutcomeUnknown, ProtocolError
from minted_connect.models import Basket
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio

CUSTOMER: Final = "customer-1"
BASKET: Final = "*/walletable/basket"
BUY: Final = "*/complete/buy"
ORDERS: Final = "*/walletable/orders"

MONEY: Final[list[Any]] = ["", [], None, True, "1,5", "1852.60 AED", "1e3", " 1"]
PIECES: Final[list[Any]] = ["1", "", True, None]
IDENTITY: Final[list[Any]] = ["", [], None, 12, "somebody-else"]
STATUS: Final[list[Any]] = [[], 1, None, True]
ODD_BASKETS: Final[list[tuple[str, Any]]] = [
    *(("paid_total", value) for value in MONEY),
    *(("items.0.amount", value) for value in PIECES),
    *(("pricefix.remaining", value) for value in ("201", "", [])),
    *(("items.0.sku", value) for value in (7, None, [])),
    *(("token", value) for value in (None, [], 12)),
    *(("customer.external_id", value) for value in IDENTITY),
    *(("order_creation_status", value) for value in STATUS),
    *(("status_name", value) for value in STATUS),
    *(("currency_code", value) for value in ([], None, 784)),
]


@pytest.fixture
async def client(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Any:
    """Either client, with a customer, on the clock of the sandbox."""
    found = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
    await found.customers.create(CUSTOMER)
    return found


async def fill_basket(client: Any) -> Basket:
    basket: Basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    return basket


async def buy(client: Any, basket: Basket) -> Any:
    return await client.complete.buy(basket, expected_total=basket.paid_total)


@pytest.mark.requirement(52)
@pytest.mark.parametrize(("field", "value"), ODD_BASKETS)
async def test_basket_with_odd_value_is_not_bought(client: Any, sandbox: Sandbox, field: str, value: Any) -> None:
    basket = await fill_basket(client)
    sandbox.faults.add("extra_field", method="GET", path=BASKET, field=field, value=value, times=None)
    with pytest.raises((NotSent, IntegrityError)):
        await buy(client, basket)
    assert sandbox.requests.of("complete.buy") == []
    assert await client.complete.pending() == []


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", MONEY)
@pytest.mark.parametrize("field", ["paid_total", "items.0.price", "total"])
async def test_order_with_odd_money_is_confirmed_without_it(
    client: Any, sandbox: Sandbox, field: str, value: Any
) -> None:
    basket = await fill_basket(client)
    sandbox.faults.add("extra_field", path=BUY, field=field, value=value)
    completion = await buy(client, basket)
    [order] = sandbox.shop.orders
    # The keys show that the basket was bought; an amount that cannot be read is not shown as an order.
    assert (completion.order, completion.order_id, completion.keys["guid"]) == (None, order.id, order.guid)
    assert len(sandbox.requests.of("complete.buy")) == 1


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("customer.external_id", value) for value in IDENTITY),
        *(("token", value) for value in (12, "X" * 32)),
        *(("order_creation_status", value) for value in STATUS),
    ],
)
async def test_response_with_odd_identity_or_state_proves_nothing(
    client: Any, sandbox: Sandbox, field: str, value: Any
) -> None:
    basket = await fill_basket(client)
    sandbox.faults.add("extra_field", path=BUY, field=field, value=value)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(client, basket)
    [order] = sandbox.shop.orders
    assert (await client.complete.reconcile(caught.value)).require_order().id == order.id
    assert len(sandbox.requests.of("complete.buy")) == 1


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", [[], 1, True, "Levitating"])
async def test_odd_status_of_an_order_is_a_difference(client: Any, sandbox: Sandbox, value: Any) -> None:
    basket = await fill_basket(client)
    sandbox.faults.add("extra_field", path=BUY, field="status_name", value=value)
    completion = await buy(client, basket)
    assert completion.differences == ("status_name: unknown status, check the order",)
    assert (completion.order is None) is not isinstance(value, str)


@pytest.mark.requirement(52)
@pytest.mark.parametrize("executed", [True, False])
@pytest.mark.parametrize("value", [1, 0, "true", "false", "1", "", None, [], {}])
async def test_odd_success_is_neither_success_nor_refusal(
    client: Any, sandbox: Sandbox, value: Any, executed: bool
) -> None:
    basket = await fill_basket(client)
    body = {"data": {"id": basket.id, "token": basket.token}, "success": value, "code": 0, "message": ""}
    sandbox.faults.add("status", path=BUY, status=200, body=body, commit=executed)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(client, basket)
    assert len(sandbox.requests.of("complete.buy")) == 1
    if executed:
        assert (await client.complete.reconcile(caught.value)).reconciled
    else:
        with pytest.raises(OutcomeUnknown):
            await client.complete.reconcile(caught.value)


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("field", "value"), [("order_at", "?"), ("paid_total", ""), ("items", {}), ("status_name", []), ("id", "x")]
)
async def test_own_order_in_an_odd_row_is_found_by_its_keys(
    client: Any, sandbox: Sandbox, field: str, value: Any
) -> None:
    await buy(client, await fill_basket(client))
    basket = await fill_basket(client)
    sandbox.faults.add("drop_after_commit", path=BUY)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(client, basket)
    order = sandbox.shop.orders[-1]
    sandbox.faults.add("odd_row", path=ORDERS, row_id=order.id, field=field, value=value, times=None)
    completion = await client.complete.reconcile(caught.value)
    assert (completion.reconciled, completion.order, completion.keys["guid"]) == (True, None, order.guid)
    assert completion.order_id == (None if field == "id" else order.id)
    assert await client.complete.pending() == []


@pytest.mark.requirement(52)
async def test_odd_row_costs_one_row_of_a_page(client: Any, sandbox: Sandbox) -> None:
    bought = [(await buy(client, await fill_basket(client))).order_id for _ in range(3)]
    sandbox.faults.add("odd_row", path=ORDERS, row_id=bought[1], field="paid_total", value="", times=None)
    page = await client.orders.page(customer_id=CUSTOMER)
    assert [order.id for order in page] == [bought[2], bought[0]]
    assert [row.id for row in page.unreadable] == [bought[1]]
    with pytest.raises(ProtocolError):
        await client.orders.get(bought[1], customer_id=CUSTOMER)


@pytest.mark.requirement(52)
async def test_odd_row_of_an_unknown_customer_is_not_ignored(client: Any, sandbox: Sandbox) -> None:
    await buy(client, await fill_basket(client))
    sandbox.faults.add("odd_row", path=ORDERS, field="customer.external_id", value="somebody-else", times=None)
    with pytest.raises(IntegrityError):
        await client.orders.page(customer_id=CUSTOMER)


@pytest.mark.requirement(52)
async def test_odd_page_is_refused(client: Any, sandbox: Sandbox) -> None:
    await buy(client, await fill_basket(client))
    for field, value in (("total", "many"), ("last_page", []), ("data", {})):
        sandbox.faults.add("extra_field", path=ORDERS, field=field, value=value, times=None)
        with pytest.raises(MintedConnectError):
            await client.orders.page(customer_id=CUSTOMER)
        sandbox.faults.clear()
