"""F44. The read-back fails as well, which proves nothing: the outcome stays unknown until a read-back succeeds."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from minted_connect import CompletionPolicy, NotExecuted, OutcomeUnknown, Timeouts
from tests.matrix import injections
from tests.matrix.cells import BASKET_ITEMS, BUY, READ_TIMEOUT, basket_items, cells
from tests.matrix.outcomes import check_unknown
from tests.matrix.proxy import Handler, ProxiedResponse
from tests.matrix.world import MatrixWorld

BASKET, ORDERS = "/partner/walletable/basket", "/partner/walletable/orders"


def of_other_customer(response: ProxiedResponse) -> ProxiedResponse:
    """Return a response that belongs to another customer: a basket, or a page of orders."""

    def change(data: Any) -> Any:
        if data is None:
            data = {"token": "T" * 32, "items": [], "customer": {}}
        if "customer" in data:
            return data | {"customer": data["customer"] | {"external_id": "customer-2"}}
        return data | {"data": [change(row) for row in data["data"]]}

    return response.with_data(change)


FAULTS: dict[str, Handler] = {
    "dropped": injections.drop(executed=True),
    "reset": injections.drop(reset=True),
    "timeout": injections.never_respond(READ_TIMEOUT),
    "cut": injections.change_response(injections.cut, close=True),
    "page": injections.respond(injections.document(injections.UNTRUSTED["page"])),
    "success_false": injections.respond(injections.envelope(200, code=1)),
    "bomb": injections.respond(injections.bomb()),
    "challenge": injections.drop_authorization,
    "basic": injections.challenge('Basic realm="x"'),
    "403": injections.respond(injections.page(403)),
    "404": injections.respond(injections.page(404)),
    "409": injections.respond(injections.envelope(409)),
    "422": injections.respond(injections.envelope(422)),
    "429": injections.respond(injections.envelope(429, ("Retry-After", "3600"))),
    "500": injections.respond(injections.envelope(500)),
    "503": injections.respond(injections.page(503, ("Retry-After", "1"))),
    "302": injections.redirect(302),
    "other_customer": injections.change_response(of_other_customer),
}
READS_PER_POLL = 3
"""Reads of one poll: the basket, the order of its number, the list of orders."""


async def unknown_purchase(world: MatrixWorld, *, executed: bool) -> OutcomeUnknown:
    await world.set_up(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(executed=executed)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    return caught.value


def reads(world: MatrixWorld) -> int:
    return world.proxy.count("GET", BASKET) + world.proxy.count("GET", ORDERS)


@cells(*(f"F44-M-{name}-{stage}" for name, stage in zip(FAULTS, cycle(("before", "after")), strict=False)))
async def test_failed_read_back_leaves_outcome_unknown(build: Any, cell: str) -> None:
    _, _, name, stage = cell.split("-")
    world = await build(timeouts=Timeouts(read=READ_TIMEOUT), options={"max_body": 65536})
    error = await unknown_purchase(world, executed=stage == "after")
    for path in (BASKET, ORDERS):
        world.proxy.inject("GET", path, [FAULTS[name]], endless=True)
    started, world.clock.sleeps[:] = world.clock.monotonic(), []
    world.proxy.proxied_requests.clear()
    with pytest.raises(OutcomeUnknown) as unresolved:
        await world.settle(error)
    assert unresolved.value.intent.id == error.intent.id
    assert unresolved.value.evidence[1] == "undecided"
    # Within the time limit of a reconciliation, and with at most three attempts of each read.
    assert world.clock.monotonic() - started <= 120 + READ_TIMEOUT
    assert 0 < reads(world) <= 3 * READS_PER_POLL * (len(world.clock.sleeps) + 1)
    assert world.sent(BUY) == 0
    world.proxy.clear_faults()
    world.proxy.proxied_requests.clear()
    await check_unknown(world, BUY, unresolved.value, executed=stage == "after")


@cells(*(f"F44-M-{name}-refusal" for name in ("dropped", "timeout", "page", "404", "500")))
async def test_failed_read_back_of_refusal_leaves_it_unknown(build: Any, cell: str) -> None:
    world = await build(timeouts=Timeouts(read=READ_TIMEOUT))
    await world.set_up(BUY)
    fault = FAULTS[cell.split("-")[2]]
    world.proxy.inject(BUY.method, BUY.path, [injections.respond(injections.page(403), executed=True)])
    world.proxy.inject("GET", BASKET, [injections.forward_request, fault], endless=True)
    world.proxy.inject("GET", ORDERS, [fault], endless=True)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.evidence[0].startswith("PermissionDenied")
    world.proxy.clear_faults()
    await check_unknown(world, BUY, caught.value, executed=True)


FENCE_POLICY = CompletionPolicy(fence_proves_not_executed=True)


@cells("F44-M-fence-without-orders")
async def test_fence_without_orders_clears_no_basket(build: Any, cell: str) -> None:
    world = await build(options={"completion": FENCE_POLICY})
    error = await unknown_purchase(world, executed=False)
    world.proxy.inject("GET", ORDERS, [FAULTS["500"]], endless=True)
    with pytest.raises(OutcomeUnknown) as unresolved:
        await world.minted.complete.reconcile(error, fence=True)
    assert unresolved.value.evidence[0] == "the list of orders could not be read completely"
    assert basket_items(world.sandbox) == BASKET_ITEMS
    assert world.states() == ["unknown"]


@cells("F44-M-fence-without-later-orders")
async def test_fence_without_later_orders_proves_nothing(build: Any, cell: str) -> None:
    world = await build(options={"completion": FENCE_POLICY})
    error = await unknown_purchase(world, executed=False)
    # Two reads of the first poll succeed, and none after the basket was cleared.
    world.proxy.inject(
        "GET", ORDERS, [injections.forward_request, injections.forward_request, FAULTS["500"]], endless=True
    )
    with pytest.raises(OutcomeUnknown) as unresolved:
        await world.minted.complete.reconcile(error, fence=True)
    assert unresolved.value.evidence[0] == "the list of orders could not be read completely"
    assert basket_items(world.sandbox) == []
    assert world.states() == ["unknown"]
    assert (world.sent(BUY), world.sandbox.shop.orders) == (1, [])


@cells("F44-M-fence-with-orders")
async def test_fence_with_orders_proves_not_executed(build: Any, cell: str) -> None:
    """Control: with the orders, the same evidence proves the verdict."""
    world = await build(options={"completion": FENCE_POLICY})
    error = await unknown_purchase(world, executed=False)
    world.proxy.clear_faults()
    with pytest.raises(NotExecuted):
        await world.minted.complete.reconcile(error, fence=True)
    assert world.states() == ["not_executed"]
    assert (world.sent(BUY), world.sandbox.shop.orders) == (1, [])
