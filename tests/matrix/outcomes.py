"""Checks each outcome of the table: requests sent and executed, journal, errors, and the later reconciliation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import pytest

from minted_connect import (
    AlreadyInFlight,
    APIError,
    CompletionRejected,
    InvalidInput,
    MintedConnectError,
    OutcomeUnknown,
    RateLimited,
    RequestTimeout,
    Timeouts,
)
from minted_connect.models import Intent
from tests.matrix import injections
from tests.matrix.cells import (
    CUSTOMER,
    ORDERS_LAG,
    READ_TIMEOUT,
    Injection,
    MatrixCase,
    MatrixOperation,
    pauses_between,
    poll_times,
)
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.table import Outcome
from tests.matrix.world import MatrixWorld


async def check_case(world: MatrixWorld, case: MatrixCase) -> None:
    """Run one cell and check its outcome."""
    await world.set_up(case.operation)
    world.proxy.inject(case.operation.method, case.operation.path, [case.injection.handler], endless=case.always)
    client = world.minted
    if case.injection.slow:
        client = client.with_options(timeouts=Timeouts(read=READ_TIMEOUT, complete_read=READ_TIMEOUT))
    await _CHECKS[case.outcome](world, case, lambda: case.operation.call(client, world.basket))
    if case.operation.is_money:
        assert len(world.sandbox.shop.orders) <= 1


Call = Callable[[], Awaitable[Any]]


def _pauses(injection: Injection, attempts: int) -> list[float]:
    """Return the seconds between attempts: the server's `Retry-After`, else half of a doubling backoff."""
    return [injection.retry_after or 0.25 * 2**number for number in range(attempts - 1)]


async def _check_retried(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    if not case.always:
        assert operation.is_in_result(await call())
        await check_executed(world, operation)
        assert world.sent(operation) == 2
        assert world.arrived(operation) == 1 + injection.executed
        assert world.clock.sleeps == _pauses(injection, 2)
        return
    max_attempts = operation.max_attempts if case.outcome is Outcome.RT else 2
    # A 429 proves nothing about the change, so the change is not read back.
    is_read_back = operation.effect == "S" and injection.error is not RateLimited
    if is_read_back and injection.executed:
        # Read back after the last attempt, because the first one may have been executed.
        assert operation.is_in_result(await call())
        assert world.reads(operation) == 1
        times = poll_times()[:1]
    else:
        error = await _check_raised(injection.error, call)
        assert error.attempts == max_attempts
        times = poll_times() if is_read_back else []
        assert operation.effect == "R" or world.reads(operation) == len(times)
    assert world.sent(operation) == max_attempts
    assert world.clock.sleeps == [*_pauses(injection, max_attempts), *pauses_between(times)]
    assert operation.is_executed(world.sandbox) is (injection.executed and operation.effect != "R")


async def _check_read_back(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    times = poll_times()
    if injection.executed or injection.uses_up_deadline:
        times = times[:1]
    if injection.executed:
        assert operation.is_in_result(await call())
    else:
        await _check_raised(injection.error, call)
    assert (world.sent(operation), world.reads(operation)) == (1, len(times))
    assert operation.is_executed(world.sandbox) is injection.executed
    assert world.clock.sleeps == pauses_between(times)


async def _check_unknown(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase != "not sent"
    assert caught.value.evidence[0].startswith(injection.error.__name__)
    assert not isinstance(caught.value, TimeoutError)
    assert world.sent(operation) == 1
    await check_unknown(world, operation, caught.value, executed=injection.executed)


async def check_unknown(
    world: MatrixWorld, operation: MatrixOperation, error: OutcomeUnknown, *, executed: bool
) -> None:
    """Check a completion with an unknown outcome, and settle it once the fault is over."""
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert (intent.id, intent.state) == (error.intent.id, "unknown")
    sent = world.sent(operation)
    assert operation.is_executed(world.sandbox) is executed
    # The basket is not bought again, and nothing more is sent.
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await operation.call(world.minted, world.basket)
    world.proxy.clear_faults()
    await check_reconcile_of_error(world, operation, error, executed=executed)
    assert world.sent(operation) == sent


async def check_reconcile_of_error(
    world: MatrixWorld, operation: MatrixOperation, error: OutcomeUnknown, *, executed: bool
) -> None:
    """Reconcile the error, and compare the verdict with the server."""
    await _check_verdict(world, operation, error.intent, lambda: world.settle(error), executed=executed)


async def check_reconcile(
    world: MatrixWorld, operation: MatrixOperation, intent: Intent, *, executed: bool, state: str = "unknown"
) -> None:
    """Reconcile an intent from `pending()`, and compare the verdict with the server.

    If the operation was not executed, the journal keeps the intent in `state`.
    """
    await _check_verdict(
        world, operation, intent, lambda: world.minted.complete.reconcile(intent), executed=executed, state=state
    )


async def _check_verdict(
    world: MatrixWorld,
    operation: MatrixOperation,
    intent: Intent,
    reconcile: Call,
    *,
    executed: bool,
    state: str = "unknown",
) -> None:
    if executed:
        completion = await reconcile()
        assert completion.reconciled
        assert completion.differences == ()
        assert completion.order is not None
        assert completion.order.token == world.basket.token
        await check_executed(world, operation)
        assert await world.minted.complete.pending() == []
    else:
        with pytest.raises(OutcomeUnknown) as unresolved:
            await reconcile()
        assert unresolved.value.intent.id == intent.id
        assert world.states() == [state]
        assert len(await world.minted.complete.pending()) == 1
        assert world.sandbox.shop.orders == []


async def _check_refused(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    await _check_raised(injection.error, call)
    assert world.sent(operation) == 1
    assert world.clock.sleeps == []
    assert operation.is_executed(world.sandbox) is (injection.executed and operation.effect != "R")
    if operation.is_money:
        assert world.states() == ["rejected"]
        await check_not_blocked(world, operation)
    else:
        assert world.reads(operation) == 0


async def _check_read_back_once(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    """Confirmed by one read-back: a completion that the vendor refuses by its rules, and an addition."""
    await _check_polls(world, case, call, [0.0])


async def _check_polled(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    await _check_polls(world, case, call, poll_times(case.injection.retry_after or 0.0))


async def _check_polls(world: MatrixWorld, case: MatrixCase, call: Call, times: list[float]) -> None:
    operation, injection = case.operation, case.injection
    recorder = RefusalRecorder(world, skipped=1 if operation.is_money else 0)  # the preflight read
    world.proxy.inject("GET", operation.read_back_path, [recorder], endless=True)
    if injection.executed:
        times = times[:1]
        result = await call()
        assert operation.is_in_result(result)
        await check_executed(world, operation)
        assert not operation.is_money or result.reconciled
    else:
        error = await _check_raised(injection.error, call)
        assert error.is_confirmed is operation.is_money
        assert not operation.is_executed(world.sandbox)
    assert world.sent(operation) == 1
    assert len(recorder.refusals) == len(times)
    assert world.clock.sleeps == pauses_between(times)
    if operation.is_money:
        # The refusal was written into the journal before the first poll.
        assert recorder.refusals[0] == [("unknown", recorder.status)]
        assert world.states() == ["confirmed" if injection.executed else "rejected"]
        if not injection.executed:
            await check_not_blocked(world, operation)


class RefusalRecorder:
    """A handler that forwards reads, and records the refusal that another process would find in the journal."""

    def __init__(self, world: MatrixWorld, skipped: int = 0) -> None:
        self.refusals: list[list[tuple[str, int | None]]] = []
        self._world, self._skipped = world, skipped

    @property
    def status(self) -> int | None:
        """Status of the refusal that was recorded first."""
        return self.refusals[0][0][1]

    async def __call__(self, proxied: ProxiedRequest) -> None:
        if self._skipped:
            self._skipped -= 1
        else:
            self.refusals.append(await self._world.refusals())
        await injections.forward_request(proxied)


async def _check_settled_later(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    await check_settled_later(world, case.operation, call, polls=0, executed=case.injection.executed)


def _pauses_of_reconcile(left: float) -> list[float]:
    """Return the pauses of a reconciliation whose first poll after `left` seconds proves a verdict."""
    pauses: list[float] = []
    for pause in (0.5, 1.0, 2.0, 4.0, 8.0):
        if sum(pauses) >= left + 1:  # the resolution of the Date header
            break
        pauses.append(pause)
    return pauses


async def check_settled_later(
    world: MatrixWorld,
    operation: MatrixOperation,
    call: Call,
    *,
    polls: int,
    executed: bool,
    inline_pauses: Sequence[float] = (),
) -> OutcomeUnknown:
    """Check a refusal whose read-back exceeds its time limit, reconcile the error, and return it."""
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase == "responded"
    assert isinstance(caught.value.__cause__, APIError)
    refusal = caught.value.intent.refusal
    assert refusal is not None
    assert await world.refusals() == [("unknown", refusal.status)]
    assert (world.sent(operation), world.reads(operation)) == (1, 1 + polls)
    assert world.clock.sleeps == [*inline_pauses]
    world.proxy.clear_faults()
    world.proxy.proxied_requests.clear()
    if executed:
        await check_reconcile_of_error(world, operation, caught.value, executed=True)
    else:
        pauses = _pauses_of_reconcile((refusal.at - world.clock.wall()).total_seconds() + ORDERS_LAG)
        world.clock.sleeps.clear()
        with pytest.raises(CompletionRejected) as rejected:
            await world.settle(caught.value)
        assert (rejected.value.refusal, rejected.value.order) == (refusal, None)
        assert world.states() == ["rejected"]
        assert world.clock.sleeps == pauses
        assert not operation.is_executed(world.sandbox)
        assert world.sent(operation) == 0
        await check_not_blocked(world, operation)
    return caught.value


async def check_not_sent(world: MatrixWorld, operation: MatrixOperation, *, has_intent: bool = True) -> None:
    """Check that nothing reached the server, and that an intent that was written is closed."""
    assert (world.sent(operation), world.arrived(operation)) == (0, 0)
    if operation.is_money:
        assert world.states() == ["not_sent"] * has_intent
        assert await world.minted.complete.pending() == []


async def _check_accepted(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation = case.operation
    result = await call()
    if operation.is_money and case.injection.differences:
        assert (result.order is not None, result.differences) == (True, case.injection.differences)
    else:
        assert operation.is_in_result(result)
    await check_executed(world, operation)
    assert (world.sent(operation), world.arrived(operation)) == (1, 1)
    assert world.clock.sleeps == []


async def _check_confirmed(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    completion = await call()
    [order] = world.sandbox.shop.orders
    assert (completion.order, completion.reconciled, completion.keys["guid"]) == (None, False, order.guid)
    assert completion.raw["token"] == world.basket.token
    await check_executed(world, case.operation)
    assert world.sent(case.operation) == 1


_CHECKS: Final[dict[Outcome, Callable[[MatrixWorld, MatrixCase, Call], Awaitable[None]]]] = {
    Outcome.RT: _check_retried,
    Outcome.RT1: _check_retried,
    Outcome.ONCE: _check_retried,
    Outcome.RB: _check_read_back,
    Outcome.U: _check_unknown,
    Outcome.X: _check_refused,
    Outcome.RBX: _check_read_back_once,
    Outcome.POLLED: _check_polled,
    Outcome.LATER: _check_settled_later,
    Outcome.ACCEPTED: _check_accepted,
    Outcome.CONFIRMED: _check_confirmed,
}


async def _check_raised(kind: type[Exception], call: Call) -> Any:
    with pytest.raises(MintedConnectError) as caught:
        await call()
    assert type(caught.value) is kind
    # Every timeout is a TimeoutError, in whichever phase it expires.
    assert isinstance(caught.value, TimeoutError) is issubclass(kind, RequestTimeout)
    return caught.value


async def check_executed(world: MatrixWorld, operation: MatrixOperation) -> None:
    """Check that the operation was executed, and that the journal records it as confirmed."""
    if operation.effect != "R":
        assert operation.is_executed(world.sandbox)
    if operation.is_money:
        assert world.states()[-1] == "confirmed"


async def check_not_blocked(world: MatrixWorld, operation: MatrixOperation) -> None:
    """Complete the basket: a refused or unsent completion does not block it."""
    world.proxy.clear_faults()
    completion = await operation.call(
        world.minted, await world.minted.baskets.get_active(CUSTOMER, cart_token=world.basket.token)
    )
    assert completion.order is not None
    assert not completion.reconciled
    assert len(world.sandbox.shop.orders) == 1
