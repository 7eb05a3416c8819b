"""Cells of the matrix with the shapes of Laravel, with odd rows, and with rows that move between pages."""

from __future__ import annotations

from typing import Any, Final

import pytest

from minted_connect import APIError, OutcomeUnknown, TransportError
from minted_connect.models import Basket
from tests.matrix import injections
from tests.matrix.cells import (
    BASKET_ITEMS,
    BUY,
    CUSTOMER,
    DELIVERY,
    OPERATIONS,
    SELL,
    Injection,
    MatrixCase,
    both_stages,
    cells,
    matrix_cases,
    through_both_clients,
)
from tests.matrix.outcomes import check_case
from tests.matrix.world import MatrixWorld

ORDERS: Final = "*/walletable/orders"
PER_PAGE: Final = 30
"""Number of orders on a page of the read-back."""

QUIRKS: Final = [
    *both_stages("F11", "quirks", injections.drop, TransportError),
    Injection("F16", "quirks", injections.change_response(injections.cut, close=True), TransportError, executed=True),
    *both_stages(
        "F19",
        "quirks",
        lambda executed: injections.respond(injections.envelope(200, code=1), executed=executed),
        APIError,
    ),
    Injection(
        "F20",
        "quirks",
        injections.with_values(status_name="Levitating", new_field=""),
        TransportError,
        executed=True,
        variant="new",
        differences=("status_name: unknown status, check the order",),
    ),
]


@through_both_clients(matrix_cases(QUIRKS, [*OPERATIONS, SELL, DELIVERY]))
async def test_fault_with_shapes_of_laravel_has_expected_outcome(build: Any, case: MatrixCase) -> None:
    await check_case(await build(server={"quirks": "laravel"}), case)


# --- reads of a purchase whose outcome is unknown ----------------------------------------------------------------


async def buy_and_lose_response(world: MatrixWorld) -> OutcomeUnknown:
    await world.set_up(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(executed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    return caught.value


async def buy_more(world: MatrixWorld, count: int) -> None:
    """Make further orders of the same customer."""
    for _ in range(count):
        basket: Basket = await world.minted.baskets.add_item(CUSTOMER, sku=BASKET_ITEMS[0][0])
        await world.minted.complete.buy(basket, expected_total=basket.paid_total)


ODD_ROWS: Final[dict[str, tuple[str, Any]]] = {
    "order_at": ("order_at", "?"),
    "paid_total": ("paid_total", ""),
    "items": ("items", {}),
    "id": ("id", "x"),
    "status_name": ("status_name", []),
}


@cells(*(f"F44-M-odd_row_{name}" for name in ODD_ROWS))
async def test_order_in_an_odd_row_is_found_by_its_keys(world: MatrixWorld, cell: str) -> None:
    error = await buy_and_lose_response(world)
    [order] = world.sandbox.shop.orders
    field, value = ODD_ROWS[cell.removeprefix("F44-M-odd_row_")]
    world.sandbox.faults.add("odd_row", path=ORDERS, times=None, row_id=order.id, field=field, value=value)
    completion = await world.settle(error)
    assert (completion.reconciled, completion.order, completion.keys["guid"]) == (True, None, order.guid)
    assert world.states() == ["confirmed"]
    assert world.sent(BUY) == 1


@cells("F44-M-odd_row_of_another_order")
async def test_odd_row_of_another_order_is_no_order_of_the_purchase(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    await BUY.call(world.minted, world.basket)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop()])
    with pytest.raises(OutcomeUnknown) as caught:
        await buy_more(world, 1)
    world.sandbox.faults.add("odd_row", path=ORDERS, times=None, field="paid_total", value="")
    with pytest.raises(OutcomeUnknown) as unresolved:
        await world.settle(caught.value)
    assert not any("may be the order" in text for text in unresolved.value.evidence)
    assert world.states() == ["confirmed", "unknown"]
    assert len(world.sandbox.shop.orders) == 1


@cells("F44-M-insert", "F44-M-remove")
async def test_order_is_found_while_rows_move_between_pages(world: MatrixWorld, cell: str) -> None:
    error = await buy_and_lose_response(world)
    await buy_more(world, PER_PAGE)  # the order is the first row of the second page
    change: Any = cell.removeprefix("F44-M-")
    fault = world.sandbox.faults.add("page_drift", path=ORDERS, times=2, change=change)
    completion = await world.settle(error)
    assert fault.hits > 0
    assert completion.require_order().id == world.sandbox.shop.orders[0].id
    assert world.sent(BUY) == 1 + PER_PAGE
