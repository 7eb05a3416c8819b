"""F44. The read-back fails as well: that proves nothing, and the outcome stays unknown until it can be read."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from minted_connect import CompletionPolicy, NotExecuted, OutcomeUnknown, Timeouts
from tests.matrix import injections
from tests.matrix.cells import BEFORE, BUY, PATIENCE, cells, lines
from tests.matrix.outcomes import is_unknown
from tests.matrix.proxy import Act, ProxiedResponse
from tests.matrix.world import MatrixWorld

BASKET, ORDERS = "/partner/walletable/basket", "/partner/walletable/orders"


def nobodys(response: ProxiedResponse) -> ProxiedResponse:
    """Return a response that belongs to another customer: a basket, or a page of orders."""

    def change(data: Any) -> Any:
        if data is None:
            data = {"token": "T" * 32, "items": [], "customer": {}}
        if "customer" in data:
            return data | {"customer": data["customer"] | {"external_id": "customer-2"}}
        return data | {"data": [change(row) for row in data["data"]]}

    return response.with_data(change)


FAULTS: dict[str, Act] = {
    "dropped": injections.drop(landed=True),
    "reset": injections.drop(reset=True),
    "late": injections.silence(PATIENCE),
    "cut": injections.spoilt(injections.cut, close=True),
    "page": injections.respond(injections.document(injections.UNTRUSTED["page"])),
    "no": injections.respond(injections.envelope(200, code=1)),
    "bomb": injections.respond(injections.bomb()),
    "login": injections.unsigned,
    "weak": injections.challenge('Basic realm="x"'),
    "403": injections.respond(injections.page(403)),
    "404": injections.respond(injections.page(404)),
    "409": injections.respond(injections.envelope(409)),
    "422": injections.respond(injections.envelope(422)),
    "429": injections.respond(injections.envelope(429, ("Retry-After", "3600"))),
    "500": injections.respond(injections.envelope(500)),
    "503": injections.respond(injections.page(503, ("Retry-After", "1"))),
    "302": injections.redirect(302),
    "nobodys": injections.spoilt(nobodys),
}
LEAST_PER_LOOK = 3
"""Reads of one poll: the basket, the order of its number, the list of orders."""


async def doubted(world: MatrixWorld, *, landed: bool) -> OutcomeUnknown:
    await world.ready(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(landed=landed)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    return caught.value


def reads(world: MatrixWorld) -> int:
    return world.proxy.count("GET", BASKET) + world.proxy.count("GET", ORDERS)


@cells(*(f"F44-M-{name}-{stage}" for name, stage in zip(FAULTS, cycle(("lost", "landed")), strict=False)))
async def test_nothing_can_be_read(build: Any, cell: str) -> None:
    _, _, name, stage = cell.split("-")
    world = await build(timeouts=Timeouts(read=PATIENCE), options={"max_body": 65536})
    error = await doubted(world, landed=stage == "landed")
    for path in (BASKET, ORDERS):
        world.proxy.inject("GET", path, [FAULTS[name]], endless=True)
    began, world.clock.sleeps[:] = world.clock.monotonic(), []
    world.proxy.proxied_requests.clear()
    with pytest.raises(OutcomeUnknown) as still:
        await world.settle(error)
    assert still.value.intent.id == error.intent.id
    assert still.value.evidence[1] == "undecided"
    # Within the budget, and each read at most three times.
    assert world.clock.monotonic() - began <= 120 + PATIENCE
    assert 0 < reads(world) <= 3 * LEAST_PER_LOOK * (len(world.clock.sleeps) + 1)
    assert world.sent(BUY) == 0
    world.proxy.behave()
    world.proxy.proxied_requests.clear()
    await is_unknown(world, BUY, still.value, landed=stage == "landed")


@cells(*(f"F44-M-{name}-look" for name in ("dropped", "late", "page", "404", "500")))
async def test_neither_can_the_look_after_a_doubtful_no(build: Any, cell: str) -> None:
    world = await build(timeouts=Timeouts(read=PATIENCE))
    await world.ready(BUY)
    fault = FAULTS[cell.split("-")[2]]
    world.proxy.inject(BUY.method, BUY.path, [injections.respond(injections.page(403), landed=True)])
    world.proxy.inject("GET", BASKET, [injections.pass_on, fault], endless=True)
    world.proxy.inject("GET", ORDERS, [fault], endless=True)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.evidence[0].startswith("PermissionDenied")
    world.proxy.behave()
    await is_unknown(world, BUY, caught.value, landed=True)


FENCED = CompletionPolicy(fence_proves_not_executed=True)


@cells("F44-M-fence-unseen")
async def test_without_the_orders_no_basket_is_cleared(build: Any, cell: str) -> None:
    world = await build(options={"completion": FENCED})
    error = await doubted(world, landed=False)
    world.proxy.inject("GET", ORDERS, [FAULTS["500"]], endless=True)
    with pytest.raises(OutcomeUnknown) as still:
        await world.minted.complete.reconcile(error, fence=True)
    assert still.value.evidence[0] == "the list of orders could not be read completely"
    assert lines(world.sandbox) == BEFORE
    assert world.states() == ["unknown"]


@cells("F44-M-fence-blind")
async def test_without_the_orders_a_cleared_basket_proves_nothing(build: Any, cell: str) -> None:
    world = await build(options={"completion": FENCED})
    error = await doubted(world, landed=False)
    # Two reads of the first poll succeed, and none after the basket was cleared.
    world.proxy.inject("GET", ORDERS, [injections.pass_on, injections.pass_on, FAULTS["500"]], endless=True)
    with pytest.raises(OutcomeUnknown) as still:
        await world.minted.complete.reconcile(error, fence=True)
    assert still.value.evidence[0] == "the list of orders could not be read completely"
    assert lines(world.sandbox) == []
    assert world.states() == ["unknown"]
    assert (world.sent(BUY), world.sandbox.shop.orders) == (1, [])


@cells("F44-M-fence-seen")
async def test_with_them_it_does(build: Any, cell: str) -> None:
    """Control: with the orders, the same evidence proves the verdict."""
    world = await build(options={"completion": FENCED})
    error = await doubted(world, landed=False)
    world.proxy.behave()
    with pytest.raises(NotExecuted):
        await world.minted.complete.reconcile(error, fence=True)
    assert world.states() == ["not_executed"]
    assert (world.sent(BUY), world.sandbox.shop.orders) == (1, [])
