"""Reads come from a replica that is behind, or the request is executed after its refusal: no early verdict."""

from __future__ import annotations

from typing import Any, Final

import pytest

from minted_connect import (
    APIError,
    AuthDowngrade,
    AuthenticationFailed,
    Conflict,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseTooLarge,
    ServerError,
    Timeouts,
    UnexpectedRedirect,
    ValidationFailed,
)
from tests.matrix import injections
from tests.matrix.cells import (
    BUY,
    CUSTOMER,
    LAG,
    PATIENCE,
    READ,
    SET,
    SHORT,
    Injection,
    cells,
    operation_of,
    pauses_between,
    poll_times,
)
from tests.matrix.outcomes import is_done, is_free_again, is_settled_later, is_unknown
from tests.matrix.proxy import Act
from tests.matrix.world import MatrixWorld

pytestmark = [pytest.mark.requirement(45), pytest.mark.requirement(46)]

# F45.

BEHIND: Final = 3.0
"""Seconds that the replica is behind: less than `orders_lag`, more than the time of its last poll but one."""
REPLICA: Final = {"reads_lag": BEHIND}


def respond(raw: bytes) -> Act:
    return injections.respond(raw, landed=True)


def struck(row: str, act: Act, error: type[Exception], effects: str = "M", **more: Any) -> Injection:
    return Injection(row, "", act, error, landed=True, effects=effects, **more)


NEVER_ENDS = injections.unending(PATIENCE, b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x", landed=True)
KEYS: Final = ("token", "guid", "increment_id", "paid_total", "external_id")
INJECTIONS: Final = {
    "F17": struck("F17", respond(injections.document(injections.UNTRUSTED["page"])), ProtocolError, "SAM"),
    "F18": struck("F18", respond(injections.bomb()), ResponseTooLarge, "SAM"),
    "F19": struck("F19", respond(injections.envelope(200, code=1)), APIError),
    "F20": struck("F20", injections.without(*KEYS), ProtocolError, "SAM"),
    "F23": struck("F23", respond(injections.page(401)), AuthenticationFailed),
    "F24": struck("F24", injections.challenge('Basic realm="gateway"', landed=True), AuthDowngrade),
    "F25": struck("F25", respond(injections.page(403)), PermissionDenied),
    "F26": struck("F26", respond(injections.envelope(404)), NotFound),
    "F27": struck("F27", respond(injections.envelope(409)), Conflict, "SAM"),
    "F28": struck("F28", respond(injections.page(422)), ValidationFailed),
    "F29": struck("F29", respond(injections.envelope(429)), RateLimited, "AM"),
    "F30": struck("F30", respond(injections.envelope(500)), ServerError, "SAM"),
    "F31": struck("F31", respond(injections.page(502)), ServerError, "SAM"),
    "F32": struck("F32", respond(injections.page(503)), ServerError, "SAM"),
    "F33": struck("F33", respond(injections.page(408)), APIError, "SAM"),
    "F34": struck("F34", injections.redirect(307, landed=True), UnexpectedRedirect, "SAM"),
    "F35": struck("F35", NEVER_ENDS, RequestTimeout, "SAM"),
}
"""One response of each class that is sent after the request was executed."""
READ_AGAIN: Final = ("F17", "F30", "F31", "F32", "F33")
"""After these, a read is repeated."""
UNKNOWN: Final = {"F17", "F18", "F20", "F30", "F31", "F32", "F33", "F34", "F35"}
"""After these, the call itself does not read a completion back."""
SENT_AGAIN: Final = {"F30", "F31", "F32", "F33"}
"""After these, a change that can be repeated is sent twice before it is read back."""


async def behind(build: Any, injection: Injection | None = None) -> tuple[MatrixWorld, Any]:
    """Return a world whose reads are behind, with timeouts as short as this injection allows."""
    world = await build(server=REPLICA)
    if injection is None or injection.row != "F35":
        return world, world.minted
    return world, world.minted.with_options(timeouts=Timeouts(read=PATIENCE, complete_read=PATIENCE))


def strike_of(cell: str) -> Injection:
    return INJECTIONS[cell.rsplit("-", 1)[1]]


CHANGES = [
    f"F45-{effect}-{row}" for row, injection in INJECTIONS.items() for effect in injection.effects if effect in "SA"
]


@cells(*CHANGES, *(f"F45-M-{row}" for row in INJECTIONS if row not in UNKNOWN))
async def test_reads_that_are_behind(build: Any, cell: str) -> None:
    """The request was executed, and the change shows in the last poll only."""
    operation, injection = operation_of(cell), strike_of(cell)
    world, client = await behind(build, injection)
    await world.ready(operation, after=BEHIND)
    world.proxy.inject(operation.method, operation.path, [injection.act], endless=True)
    again = operation is SET and injection.row in SENT_AGAIN
    # A response that takes longer than the replica is behind: the first poll shows the change.
    times = poll_times()[:1] if injection.row == "F35" else poll_times()
    done = await operation.call(client, world.basket)
    assert operation.shown(done)
    await is_done(world, operation)
    assert world.sent(operation) == 1 + again
    assert world.reads(operation) == len(times) + operation.is_money
    assert world.clock.sleeps == [0.25] * again + pauses_between(times)
    if operation.is_money:
        assert done.reconciled
        assert len(world.sandbox.shop.orders) == 1


@cells(*(f"F45-M-unknown-{row}" for row in sorted(UNKNOWN)))
async def test_a_completion_that_shows_late_is_found_later(build: Any, cell: str) -> None:
    injection = strike_of(cell)
    world, client = await behind(build, injection)
    await world.ready(BUY, after=BEHIND)
    world.proxy.inject(BUY.method, BUY.path, [injection.act], endless=True)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(client, world.basket)
    assert type(caught.value.__cause__) is injection.error
    # The call does not read it back.
    assert (world.sent(BUY), world.reads(BUY), world.clock.sleeps) == (1, 1, [])
    await is_unknown(world, BUY, caught.value, landed=True)
    assert world.clock.sleeps == ([] if injection.row == "F35" else [0.5, 1.0, 2.0])


@cells("F45-M-unknown-fence")
async def test_no_fence_proves_anything_before_an_order_would_show(build: Any, cell: str) -> None:
    """The basket still shows as open after it became an order; clearing it fails, and the order shows later."""
    world = await build(server=REPLICA, policy={"fence_proves_not_executed": True, "latest_landing": 1.0})
    await world.ready(BUY, after=BEHIND)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(landed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    done = await world.minted.complete.reconcile(caught.value, fence=True)
    assert done.reconciled
    await is_done(world, BUY)
    assert world.clock.sleeps == [0.5, 1.0, 2.0]
    assert world.proxy.count("DELETE", "/partner/walletable/basket*") == 1


@cells(*(f"F45-M-time_over-{way}" for way in SHORT))
async def test_the_time_for_looks_ends_before_the_order_shows(build: Any, cell: str) -> None:
    settings, policy, times = SHORT[cell.rsplit("-", 1)[1]]
    world = await build(server=REPLICA, policy=policy)
    await world.ready(BUY, after=BEHIND)
    client = world.minted.with_options(**settings)
    world.proxy.inject(BUY.method, BUY.path, [INJECTIONS["F25"].act])
    await is_settled_later(
        world, BUY, lambda: BUY.call(client, world.basket), polls=len(times), landed=True, slept=pauses_between(times)
    )


@cells(*(f"F45-R-{row}" for row in READ_AGAIN))
async def test_a_read_shows_an_older_state(build: Any, cell: str) -> None:
    world, client = await behind(build)
    await world.ready(READ, after=BEHIND)
    assert (await client.customers.update(CUSTOMER, lastname="Changed")).lastname == "Changed"
    world.proxy.inject(READ.method, READ.path, [strike_of(cell).act])
    shown = await READ.call(client, world.basket)
    assert (READ.shown(shown), shown.lastname) == (True, "Hopper")
    assert (world.sent(READ), world.clock.sleeps) == (2, [0.25])
    world.clock.advance(BEHIND)
    assert (await READ.call(client, world.basket)).lastname == "Changed"


# F46.

LANDS: Final = 2.0
"""Seconds after the refusal at which the request is executed: as a poll of the client begins."""
QUEUED: Final = {"orders_lag": LAG - LANDS, "latest_landing": LANDS}
"""Policy for the queue and the replica; its settle time equals that of all other clients."""
SERVED: Final = {"reads_lag": 1.0}
REFUSALS: Final[dict[str, dict[str, Any]]] = {
    "200": {"status": 200},
    "401": {"status": 401},
    "403": {"status": 403},
    "403_page": {"status": 403, "is_envelope": False},
    "404": {"status": 404},
    "409": {"status": 409},
    "422_page": {"status": 422, "is_envelope": False},
    "429": {"status": 429},
    "451_page": {"status": 451, "is_envelope": False},
    "basic": {"status": 401, "challenge": "basic"},
    "realm": {"status": 401, "challenge": "digest_other_realm"},
}


async def refused(build: Any, cell: str, commit: str) -> MatrixWorld:
    operation = operation_of(cell)
    world = await build(server=SERVED, policy=QUEUED)
    await world.ready(operation, after=1.0)
    refusal = REFUSALS[cell.rsplit("-", 1)[1]]
    world.sandbox.faults.add(
        "refusal", method=operation.method, path=operation.path, commit=commit, seconds=LANDS, **refusal
    )
    return world


@cells(
    "F46-S-409",
    *(f"F46-A-{name}" for name in ("409", "429")),
    *(f"F46-M-{name}" for name in REFUSALS),
)
async def test_carried_out_after_the_refusal(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await refused(build, cell, "after")
    done = await operation.call(world.minted, world.basket)
    assert operation.shown(done)
    await is_done(world, operation)
    assert (world.sent(operation), world.reads(operation)) == (1, len(poll_times()) + operation.is_money)
    assert world.clock.sleeps == pauses_between(poll_times())
    if operation.is_money:
        assert done.reconciled
        assert len(world.sandbox.shop.orders) == 1


@cells("F46-S-never-409", "F46-A-never-429", *(f"F46-M-never-{name}" for name in ("403_page", "429", "basic")))
async def test_it_is_believed_once_it_would_have_been_carried_out(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await refused(build, cell, "never")
    with pytest.raises(APIError) as caught:
        await operation.call(world.minted, world.basket)
    assert caught.value.is_confirmed is operation.is_money
    assert (world.sent(operation), world.reads(operation)) == (1, len(poll_times()) + operation.is_money)
    assert world.clock.sleeps == pauses_between(poll_times())
    assert not operation.made(world.sandbox)
    if operation.is_money:
        assert world.states() == ["rejected"]
        await is_free_again(world, operation)


@cells("F46-M-time_over-403")
async def test_the_time_for_looks_ends_before_it_is_carried_out(build: Any, cell: str) -> None:
    world = await refused(build, cell, "after")
    client = world.minted.with_options(deadline=1.5)
    times = poll_times()[:3]
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(client, world.basket)
    assert await world.refusals() == [("unknown", 403)]
    assert (world.sent(BUY), world.reads(BUY)) == (1, 1 + len(times))
    assert world.clock.sleeps == pauses_between(times)
    assert world.sandbox.shop.orders == []
    assert (await world.settle(caught.value)).reconciled
    await is_done(world, BUY)
    assert world.sent(BUY) == 1
    assert len(world.sandbox.shop.orders) == 1


@cells("F46-M-fenced-403")
async def test_a_fence_waits_for_what_was_queued_before_the_basket_was_cleared(build: Any, cell: str) -> None:
    policy = {**QUEUED, "fence_proves_not_executed": True, "inline_looks": 0}
    world = await build(server={"orders_lag": 1.0}, policy=policy)
    await world.ready(BUY)
    # As a poll begins: the clock jumps from one to the next.
    queued = {"commit": "after", "seconds": 1.5, "reads_basket": "acceptance"}
    world.sandbox.faults.add("refusal", method=BUY.method, path=BUY.path, **queued)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    done = await world.minted.complete.reconcile(caught.value, fence=True)
    assert (BUY.shown(done), done.reconciled) == (True, True)
    # The basket was cleared in the first poll, before the completion was executed with its former items.
    assert world.proxy.count("DELETE", "/partner/walletable/basket*") == 1
    assert world.clock.sleeps == [0.5, 1.0, 2.0]
    await is_done(world, BUY)
    assert (world.sent(BUY), len(world.sandbox.shop.orders)) == (1, 1)
