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
    LAG,
    PATIENCE,
    Injection,
    MatrixCase,
    MatrixOperation,
    pauses_between,
    poll_times,
)
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.table import Outcome
from tests.matrix.world import MatrixWorld


async def perform(world: MatrixWorld, case: MatrixCase) -> None:
    """Run one cell and check its outcome."""
    await world.ready(case.operation)
    world.proxy.inject(case.operation.method, case.operation.path, [case.injection.act], endless=case.always)
    client = world.minted
    if case.injection.slow:
        client = client.with_options(timeouts=Timeouts(read=PATIENCE, complete_read=PATIENCE))
    await _PERFORMED[case.outcome](world, case, lambda: case.operation.call(client, world.basket))
    if case.operation.is_money:
        assert len(world.sandbox.shop.orders) <= 1


Call = Callable[[], Awaitable[Any]]


def _pauses(injection: Injection, attempts: int) -> list[float]:
    """Return the seconds between attempts: the server's `Retry-After`, else half of a doubling backoff."""
    return [injection.retry_after or 0.25 * 2**number for number in range(attempts - 1)]


async def _again(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    if not case.always:
        assert operation.shown(await call())
        await is_done(world, operation)
        assert world.sent(operation) == 2
        assert world.arrived(operation) == 1 + injection.landed
        assert world.clock.sleeps == _pauses(injection, 2)
        return
    most = operation.most if case.outcome is Outcome.RT else 2
    # A 429 proves nothing about the change, so the change is not read back.
    is_read_back = operation.effect == "S" and injection.error is not RateLimited
    if is_read_back and injection.landed:
        # Read back in the end, because the first attempt may have been executed, and was.
        assert operation.shown(await call())
        assert world.reads(operation) == 1
        times = poll_times()[:1]
    else:
        error = await _raised(injection.error, call)
        assert error.attempts == most
        times = poll_times() if is_read_back else []
        assert operation.effect == "R" or world.reads(operation) == len(times)
    assert world.sent(operation) == most
    assert world.clock.sleeps == [*_pauses(injection, most), *pauses_between(times)]
    assert operation.made(world.sandbox) is (injection.landed and operation.effect != "R")


async def _read_back(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    times = poll_times()
    if injection.landed or injection.uses_up:
        times = times[:1]
    if injection.landed:
        assert operation.shown(await call())
    else:
        await _raised(injection.error, call)
    assert (world.sent(operation), world.reads(operation)) == (1, len(times))
    assert operation.made(world.sandbox) is injection.landed
    assert world.clock.sleeps == pauses_between(times)


async def _unknown(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase != "not sent"
    assert caught.value.evidence[0].startswith(injection.error.__name__)
    assert not isinstance(caught.value, TimeoutError)
    assert world.sent(operation) == 1
    await is_unknown(world, operation, caught.value, landed=injection.landed)


async def is_unknown(world: MatrixWorld, operation: MatrixOperation, error: OutcomeUnknown, *, landed: bool) -> None:
    """Check a completion with an unknown outcome, and settle it once the fault is over."""
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert (intent.id, intent.state) == (error.intent.id, "unknown")
    sent = world.sent(operation)
    assert operation.made(world.sandbox) is landed
    # The basket is not bought again, and nothing more is sent.
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await operation.call(world.minted, world.basket)
    world.proxy.behave()
    await settled(world, operation, error, landed=landed)
    assert world.sent(operation) == sent


async def settled(world: MatrixWorld, operation: MatrixOperation, error: OutcomeUnknown, *, landed: bool) -> None:
    """Reconcile the error, and compare the verdict with the server."""
    await _judged(world, operation, error.intent, lambda: world.settle(error), landed=landed)


async def reconciled(
    world: MatrixWorld, operation: MatrixOperation, intent: Intent, *, landed: bool, state: str = "unknown"
) -> None:
    """Reconcile an intent from `pending()`, and compare the verdict with the server.

    If it was not made, the journal keeps the intent in `state`.
    """
    await _judged(world, operation, intent, lambda: world.minted.complete.reconcile(intent), landed=landed, state=state)


async def _judged(
    world: MatrixWorld,
    operation: MatrixOperation,
    intent: Intent,
    reconcile: Call,
    *,
    landed: bool,
    state: str = "unknown",
) -> None:
    if landed:
        done = await reconcile()
        assert done.reconciled
        assert done.differences == ()
        assert done.order is not None
        assert done.order.token == world.basket.token
        await is_done(world, operation)
        assert await world.minted.complete.pending() == []
    else:
        with pytest.raises(OutcomeUnknown) as still:
            await reconcile()
        assert still.value.intent.id == intent.id
        assert world.states() == [state]
        assert len(await world.minted.complete.pending()) == 1
        assert world.sandbox.shop.orders == []


async def _refused(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation, injection = case.operation, case.injection
    await _raised(injection.error, call)
    assert world.sent(operation) == 1
    assert world.clock.sleeps == []
    assert operation.made(world.sandbox) is (injection.landed and operation.effect != "R")
    if operation.is_money:
        assert world.states() == ["rejected"]
        await is_free_again(world, operation)
    else:
        assert world.reads(operation) == 0


async def _read_back_once(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    """Confirmed by one read-back: a completion that the vendor refuses by its rules, and an addition."""
    await _polled(world, case, call, [0.0])


async def _polled_until_settled(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    await _polled(world, case, call, poll_times(case.injection.retry_after or 0.0))


async def _polled(world: MatrixWorld, case: MatrixCase, call: Call, times: list[float]) -> None:
    operation, injection = case.operation, case.injection
    witness = Witness(world, skipped=1 if operation.is_money else 0)  # the preflight read
    world.proxy.inject("GET", operation.read_back_path, [witness], endless=True)
    if injection.landed:
        times = times[:1]
        done = await call()
        assert operation.shown(done)
        await is_done(world, operation)
        assert not operation.is_money or done.reconciled
    else:
        error = await _raised(injection.error, call)
        assert error.is_confirmed is operation.is_money
        assert not operation.made(world.sandbox)
    assert world.sent(operation) == 1
    assert len(witness.seen) == len(times)
    assert world.clock.sleeps == pauses_between(times)
    if operation.is_money:
        # The refusal was written into the journal before the first poll.
        assert witness.seen[0] == [("unknown", witness.status)]
        assert world.states() == ["confirmed" if injection.landed else "rejected"]
        if not injection.landed:
            await is_free_again(world, operation)


class Witness:
    """An act that forwards reads, and records the refusal that another process would find in the journal then."""

    def __init__(self, world: MatrixWorld, skipped: int = 0) -> None:
        self.seen: list[list[tuple[str, int | None]]] = []
        self._world, self._skipped = world, skipped

    @property
    def status(self) -> int | None:
        """Status of the refusal that was recorded first."""
        return self.seen[0][0][1]

    async def __call__(self, proxied: ProxiedRequest) -> None:
        if self._skipped:
            self._skipped -= 1
        else:
            self.seen.append(await self._world.refusals())
        await injections.pass_on(proxied)


async def _settled_later(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    await is_settled_later(world, case.operation, call, polls=0, landed=case.injection.landed)


def _pauses_of_reconcile(left: float) -> list[float]:
    """Return the pauses of a reconciliation whose first poll after `left` seconds proves a verdict."""
    pauses: list[float] = []
    for pause in (0.5, 1.0, 2.0, 4.0, 8.0):
        if sum(pauses) >= left + 1:  # the resolution of the Date header
            break
        pauses.append(pause)
    return pauses


async def is_settled_later(
    world: MatrixWorld, operation: MatrixOperation, call: Call, *, polls: int, landed: bool, slept: Sequence[float] = ()
) -> OutcomeUnknown:
    """Check a refusal whose read-back runs out of time, and settle it by reconciling the error.

    Return that error.
    """
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase == "responded"
    assert isinstance(caught.value.__cause__, APIError)
    refused = caught.value.intent.refusal
    assert refused is not None
    assert await world.refusals() == [("unknown", refused.status)]
    assert (world.sent(operation), world.reads(operation)) == (1, 1 + polls)
    assert world.clock.sleeps == [*slept]
    world.proxy.behave()
    world.proxy.proxied_requests.clear()
    if landed:
        await settled(world, operation, caught.value, landed=True)
    else:
        pauses = _pauses_of_reconcile((refused.at - world.clock.wall()).total_seconds() + LAG)
        world.clock.sleeps.clear()
        with pytest.raises(CompletionRejected) as rejected:
            await world.settle(caught.value)
        assert (rejected.value.refusal, rejected.value.order) == (refused, None)
        assert world.states() == ["rejected"]
        assert world.clock.sleeps == pauses
        assert not operation.made(world.sandbox)
        assert world.sent(operation) == 0
        await is_free_again(world, operation)
    return caught.value


async def nothing_was_sent(world: MatrixWorld, operation: MatrixOperation, *, written: bool = True) -> None:
    """Check that nothing reached the server, and that an intent that was written is closed."""
    assert (world.sent(operation), world.arrived(operation)) == (0, 0)
    if operation.is_money:
        assert world.states() == ["not_sent"] * written
        assert await world.minted.complete.pending() == []


async def _taken(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    operation = case.operation
    done = await call()
    if operation.is_money and case.injection.differences:
        assert (done.order is not None, done.differences) == (True, case.injection.differences)
    else:
        assert operation.shown(done)
    await is_done(world, operation)
    assert (world.sent(operation), world.arrived(operation)) == (1, 1)
    assert world.clock.sleeps == []


async def _confirmed(world: MatrixWorld, case: MatrixCase, call: Call) -> None:
    done = await call()
    [order] = world.sandbox.shop.orders
    assert (done.order, done.reconciled, done.keys["guid"]) == (None, False, order.guid)
    assert done.raw["token"] == world.basket.token
    await is_done(world, case.operation)
    assert world.sent(case.operation) == 1


_PERFORMED: Final[dict[Outcome, Callable[[MatrixWorld, MatrixCase, Call], Awaitable[None]]]] = {
    Outcome.RT: _again,
    Outcome.RT1: _again,
    Outcome.ONCE: _again,
    Outcome.RB: _read_back,
    Outcome.U: _unknown,
    Outcome.X: _refused,
    Outcome.RBX: _read_back_once,
    Outcome.LOOKS: _polled_until_settled,
    Outcome.LATER: _settled_later,
    Outcome.FINE: _taken,
    Outcome.CONFIRMED: _confirmed,
}


async def _raised(kind: type[Exception], call: Call) -> Any:
    with pytest.raises(MintedConnectError) as caught:
        await call()
    assert type(caught.value) is kind
    # One word for a timeout, wherever it happens.
    assert isinstance(caught.value, TimeoutError) is issubclass(kind, RequestTimeout)
    return caught.value


async def is_done(world: MatrixWorld, operation: MatrixOperation) -> None:
    """Check that the operation was executed, and that the journal says so."""
    if operation.effect != "R":
        assert operation.made(world.sandbox)
    if operation.is_money:
        assert world.states()[-1] == "confirmed"


async def is_free_again(world: MatrixWorld, operation: MatrixOperation) -> None:
    """Complete the basket: a refused or unsent completion does not block it."""
    world.proxy.behave()
    done = await operation.call(
        world.minted, await world.minted.baskets.get_active(CUSTOMER, cart_token=world.basket.token)
    )
    assert done.order is not None
    assert not done.reconciled
    assert len(world.sandbox.shop.orders) == 1
