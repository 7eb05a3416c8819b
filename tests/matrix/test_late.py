"""Reads lag behind, or the request is executed after its refusal: no verdict is reached too early."""

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
    ORDERS_LAG,
    READ,
    READ_TIMEOUT,
    SET,
    TIME_LIMITS,
    Injection,
    cells,
    operation_of,
    pauses_between,
    poll_times,
)
from tests.matrix.outcomes import check_executed, check_not_blocked, check_settled_later, check_unknown
from tests.matrix.proxy import Handler
from tests.matrix.world import MatrixWorld

pytestmark = [pytest.mark.requirement(45), pytest.mark.requirement(46)]

# F45.

READS_LAG: Final = 3.0
"""Seconds by which reads lag: less than `orders_lag`, more than the time of the second last poll."""
LAGGING: Final = {"reads_lag": READS_LAG}


def respond(raw: bytes) -> Handler:
    return injections.respond(raw, executed=True)


def executed_fault(row: str, handler: Handler, error: type[Exception], effects: str = "M", **more: Any) -> Injection:
    return Injection(row, "", handler, error, executed=True, effects=effects, **more)


NEVER_ENDS = injections.endless_response(READ_TIMEOUT, b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x", executed=True)
KEYS: Final = ("token", "guid", "increment_id", "paid_total", "external_id")
INJECTIONS: Final = {
    "F17": executed_fault("F17", respond(injections.document(injections.UNTRUSTED["page"])), ProtocolError, "SAM"),
    "F18": executed_fault("F18", respond(injections.bomb()), ResponseTooLarge, "SAM"),
    "F19": executed_fault("F19", respond(injections.envelope(200, code=1)), APIError),
    "F20": executed_fault("F20", injections.without(*KEYS), ProtocolError, "SAM"),
    "F23": executed_fault("F23", respond(injections.page(401)), AuthenticationFailed),
    "F24": executed_fault("F24", injections.challenge('Basic realm="gateway"', executed=True), AuthDowngrade),
    "F25": executed_fault("F25", respond(injections.page(403)), PermissionDenied),
    "F26": executed_fault("F26", respond(injections.envelope(404)), NotFound),
    "F27": executed_fault("F27", respond(injections.envelope(409)), Conflict, "SAM"),
    "F28": executed_fault("F28", respond(injections.page(422)), ValidationFailed),
    "F29": executed_fault("F29", respond(injections.envelope(429)), RateLimited, "AM"),
    "F30": executed_fault("F30", respond(injections.envelope(500)), ServerError, "SAM"),
    "F31": executed_fault("F31", respond(injections.page(502)), ServerError, "SAM"),
    "F32": executed_fault("F32", respond(injections.page(503)), ServerError, "SAM"),
    "F33": executed_fault("F33", respond(injections.page(408)), APIError, "SAM"),
    "F34": executed_fault("F34", injections.redirect(307, executed=True), UnexpectedRedirect, "SAM"),
    "F35": executed_fault("F35", NEVER_ENDS, RequestTimeout, "SAM"),
}
"""One response of each class that is sent after the request was executed."""
READ_AGAIN: Final = ("F17", "F30", "F31", "F32", "F33")
"""After these, a read is repeated."""
UNKNOWN: Final = {"F17", "F18", "F20", "F30", "F31", "F32", "F33", "F34", "F35"}
"""After these, the call itself does not read a completion back."""
SENT_AGAIN: Final = {"F30", "F31", "F32", "F33"}
"""After these, a change that can be repeated is sent twice before it is read back."""


async def lagging_world(build: Any, injection: Injection | None = None) -> tuple[MatrixWorld, Any]:
    """Return a world with lagging reads, and a client whose timeouts are short if the injection needs it."""
    world = await build(server=LAGGING)
    if injection is None or injection.row != "F35":
        return world, world.minted
    return world, world.minted.with_options(timeouts=Timeouts(read=READ_TIMEOUT, complete_read=READ_TIMEOUT))


def injection_of(cell: str) -> Injection:
    return INJECTIONS[cell.rsplit("-", 1)[1]]


CHANGES = [
    f"F45-{effect}-{row}" for row, injection in INJECTIONS.items() for effect in injection.effects if effect in "SA"
]


@cells(*CHANGES, *(f"F45-M-{row}" for row in INJECTIONS if row not in UNKNOWN))
async def test_lagging_reads_show_the_change_in_the_last_poll(build: Any, cell: str) -> None:
    """The request was executed, and the change shows in the last poll only."""
    operation, injection = operation_of(cell), injection_of(cell)
    world, client = await lagging_world(build, injection)
    await world.set_up(operation, after=READS_LAG)
    world.proxy.inject(operation.method, operation.path, [injection.handler], endless=True)
    is_sent_again = operation is SET and injection.row in SENT_AGAIN
    # The response takes longer than reads lag, so the first poll shows the change.
    times = poll_times()[:1] if injection.row == "F35" else poll_times()
    result = await operation.call(client, world.basket)
    assert operation.is_in_result(result)
    await check_executed(world, operation)
    assert world.sent(operation) == 1 + is_sent_again
    assert world.reads(operation) == len(times) + operation.is_money
    assert world.clock.sleeps == [0.25] * is_sent_again + pauses_between(times)
    if operation.is_money:
        assert result.reconciled
        assert len(world.sandbox.shop.orders) == 1


@cells(*(f"F45-M-unknown-{row}" for row in sorted(UNKNOWN)))
async def test_lagging_reads_of_unknown_outcome_are_reconciled(build: Any, cell: str) -> None:
    injection = injection_of(cell)
    world, client = await lagging_world(build, injection)
    await world.set_up(BUY, after=READS_LAG)
    world.proxy.inject(BUY.method, BUY.path, [injection.handler], endless=True)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(client, world.basket)
    assert type(caught.value.__cause__) is injection.error
    # The call itself does not read back.
    assert (world.sent(BUY), world.reads(BUY), world.clock.sleeps) == (1, 1, [])
    await check_unknown(world, BUY, caught.value, executed=True)
    assert world.clock.sleeps == ([] if injection.row == "F35" else [0.5, 1.0, 2.0])


@cells("F45-M-unknown-fence")
async def test_fence_waits_for_lagging_reads(build: Any, cell: str) -> None:
    """The basket still appears open after it became an order; clearing it fails, and the order appears later."""
    world = await build(server=LAGGING, policy={"fence_proves_not_executed": True, "latest_landing": 1.0})
    await world.set_up(BUY, after=READS_LAG)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(executed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    completion = await world.minted.complete.reconcile(caught.value, fence=True)
    assert completion.reconciled
    await check_executed(world, BUY)
    assert world.clock.sleeps == [0.5, 1.0, 2.0]
    assert world.proxy.count("DELETE", "/partner/walletable/basket*") == 1


@cells(*(f"F45-M-time_over-{limit}" for limit in TIME_LIMITS))
async def test_lagging_reads_beyond_deadline_are_settled_later(build: Any, cell: str) -> None:
    settings, policy, times = TIME_LIMITS[cell.rsplit("-", 1)[1]]
    world = await build(server=LAGGING, policy=policy)
    await world.set_up(BUY, after=READS_LAG)
    client = world.minted.with_options(**settings)
    world.proxy.inject(BUY.method, BUY.path, [INJECTIONS["F25"].handler])
    await check_settled_later(
        world,
        BUY,
        lambda: BUY.call(client, world.basket),
        polls=len(times),
        executed=True,
        inline_pauses=pauses_between(times),
    )


@cells(*(f"F45-R-{row}" for row in READ_AGAIN))
async def test_lagging_read_returns_an_older_state(build: Any, cell: str) -> None:
    world, client = await lagging_world(build)
    await world.set_up(READ, after=READS_LAG)
    assert (await client.customers.update(CUSTOMER, lastname="Changed")).lastname == "Changed"
    world.proxy.inject(READ.method, READ.path, [injection_of(cell).handler])
    customer = await READ.call(client, world.basket)
    assert (READ.is_in_result(customer), customer.lastname) == (True, "Hopper")
    assert (world.sent(READ), world.clock.sleeps) == (2, [0.25])
    world.clock.advance(READS_LAG)
    assert (await READ.call(client, world.basket)).lastname == "Changed"


# F46.

EXECUTION_DELAY: Final = 2.0
"""Seconds from the refusal to the execution: equal to the time of a poll."""
QUEUE_POLICY: Final = {"orders_lag": ORDERS_LAG - EXECUTION_DELAY, "latest_landing": EXECUTION_DELAY}
"""Policy for the queue and the replica; its settle time equals that of all other clients."""
QUEUE_SERVER: Final = {"reads_lag": 1.0}
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


async def refusing_world(build: Any, cell: str, commit: str) -> MatrixWorld:
    operation = operation_of(cell)
    world = await build(server=QUEUE_SERVER, policy=QUEUE_POLICY)
    await world.set_up(operation, after=1.0)
    refusal = REFUSALS[cell.rsplit("-", 1)[1]]
    world.sandbox.faults.add(
        "refusal", method=operation.method, path=operation.path, commit=commit, seconds=EXECUTION_DELAY, **refusal
    )
    return world


@cells(
    "F46-S-409",
    *(f"F46-A-{name}" for name in ("409", "429")),
    *(f"F46-M-{name}" for name in REFUSALS),
)
async def test_execution_after_refusal_is_found(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await refusing_world(build, cell, "after")
    result = await operation.call(world.minted, world.basket)
    assert operation.is_in_result(result)
    await check_executed(world, operation)
    assert (world.sent(operation), world.reads(operation)) == (1, len(poll_times()) + operation.is_money)
    assert world.clock.sleeps == pauses_between(poll_times())
    if operation.is_money:
        assert result.reconciled
        assert len(world.sandbox.shop.orders) == 1


@cells("F46-S-never-409", "F46-A-never-429", *(f"F46-M-never-{name}" for name in ("403_page", "429", "basic")))
async def test_refusal_without_execution_is_confirmed_by_polls(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await refusing_world(build, cell, "never")
    with pytest.raises(APIError) as caught:
        await operation.call(world.minted, world.basket)
    assert caught.value.is_confirmed is operation.is_money
    assert (world.sent(operation), world.reads(operation)) == (1, len(poll_times()) + operation.is_money)
    assert world.clock.sleeps == pauses_between(poll_times())
    assert not operation.is_executed(world.sandbox)
    if operation.is_money:
        assert world.states() == ["rejected"]
        await check_not_blocked(world, operation)


@cells("F46-M-time_over-403")
async def test_execution_after_refusal_and_deadline_is_found_later(build: Any, cell: str) -> None:
    world = await refusing_world(build, cell, "after")
    client = world.minted.with_options(deadline=1.5)
    times = poll_times()[:3]
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(client, world.basket)
    assert await world.refusals() == [("unknown", 403)]
    assert (world.sent(BUY), world.reads(BUY)) == (1, 1 + len(times))
    assert world.clock.sleeps == pauses_between(times)
    assert world.sandbox.shop.orders == []
    assert (await world.settle(caught.value)).reconciled
    await check_executed(world, BUY)
    assert world.sent(BUY) == 1
    assert len(world.sandbox.shop.orders) == 1


@cells("F46-M-fenced-403")
async def test_fence_waits_for_a_queued_completion(build: Any, cell: str) -> None:
    policy = {**QUEUE_POLICY, "fence_proves_not_executed": True, "inline_looks": 0}
    world = await build(server={"orders_lag": 1.0}, policy=policy)
    await world.set_up(BUY)
    # Equal to the time of a poll, because the clock jumps from poll to poll.
    fault = {"commit": "after", "seconds": 1.5, "reads_basket": "acceptance"}
    world.sandbox.faults.add("refusal", method=BUY.method, path=BUY.path, **fault)
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    completion = await world.minted.complete.reconcile(caught.value, fence=True)
    assert (BUY.is_in_result(completion), completion.reconciled) == (True, True)
    # The basket was cleared in the first poll, before the completion was executed with its former items.
    assert world.proxy.count("DELETE", "/partner/walletable/basket*") == 1
    assert world.clock.sleeps == [0.5, 1.0, 2.0]
    await check_executed(world, BUY)
    assert (world.sent(BUY), len(world.sandbox.shop.orders)) == (1, 1)
