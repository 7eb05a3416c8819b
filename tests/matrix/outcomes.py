"""What has to hold for each outcome of the table: what was sent, done, written down, raised, and found out later."""

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
    look_times,
    pauses_between,
)
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.table import Outcome
from tests.matrix.world import MatrixWorld


async def perform(world: MatrixWorld, play: MatrixCase) -> None:
    """Play one cell to its end, and hold it to its outcome."""
    await world.ready(play.deed)
    world.proxy.play(play.deed.method, play.deed.path, [play.strike.act], endless=play.always)
    client = world.minted
    if play.strike.slow:
        client = client.with_options(timeouts=Timeouts(read=PATIENCE, complete_read=PATIENCE))
    await _PERFORMED[play.outcome](world, play, lambda: play.deed.call(client, world.basket))
    if play.deed.is_money:
        assert len(world.sandbox.shop.orders) <= 1


Call = Callable[[], Awaitable[Any]]


def _pauses(strike: Injection, attempts: int) -> list[float]:
    """Return the seconds between attempts: what the server asked for, or else half of a doubling backoff."""
    return [strike.retry_after or 0.25 * 2**number for number in range(attempts - 1)]


async def _again(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if not play.always:
        assert deed.shown(await call())
        await is_done(world, deed)
        assert world.sent(deed) == 2
        assert world.arrived(deed) == 1 + strike.landed
        assert world.clock.sleeps == _pauses(strike, 2)
        return
    most = deed.most if play.outcome is Outcome.RT else 2
    # A throttle is no sign that the change was made: it is not looked for.
    looks = deed.effect == "S" and strike.error is not RateLimited
    if looks and strike.landed:
        # Read back at last: the first try may have done it, and has.
        assert deed.shown(await call())
        assert world.reads(deed) == 1
        times = look_times()[:1]
    else:
        error = await _raised(strike.error, call)
        assert error.attempts == most
        times = look_times() if looks else []
        assert deed.effect == "R" or world.reads(deed) == len(times)
    assert world.sent(deed) == most
    assert world.clock.sleeps == [*_pauses(strike, most), *pauses_between(times)]
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")


async def _read_back(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    deed, strike = play.deed, play.strike
    times = look_times()
    if strike.landed or strike.uses_up:
        times = times[:1]
    if strike.landed:
        assert deed.shown(await call())
    else:
        await _raised(strike.error, call)
    assert (world.sent(deed), world.reads(deed)) == (1, len(times))
    assert deed.made(world.sandbox) is strike.landed
    assert world.clock.sleeps == pauses_between(times)


async def _unknown(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    deed, strike = play.deed, play.strike
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase != "not sent"
    assert caught.value.evidence[0].startswith(strike.error.__name__)
    assert not isinstance(caught.value, TimeoutError)
    assert world.sent(deed) == 1
    await is_unknown(world, deed, caught.value, landed=strike.landed)


async def is_unknown(world: MatrixWorld, deed: MatrixOperation, error: OutcomeUnknown, *, landed: bool) -> None:
    """Check a completion whose outcome is not known, and find out about it once the fault is over."""
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert (intent.id, intent.state) == (error.intent.id, "unknown")
    sent = world.sent(deed)
    assert deed.made(world.sandbox) is landed
    # Neither is it bought again, nor does anything more go out.
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await deed.call(world.minted, world.basket)
    world.proxy.behave()
    await settled(world, deed, error, landed=landed)
    assert world.sent(deed) == sent


async def settled(world: MatrixWorld, deed: MatrixOperation, error: OutcomeUnknown, *, landed: bool) -> None:
    """Reconcile through the error, and hold the verdict to what the server did."""
    await _judged(world, deed, error.intent, lambda: world.settle(error), landed=landed)


async def reconciled(
    world: MatrixWorld, deed: MatrixOperation, intent: Intent, *, landed: bool, state: str = "unknown"
) -> None:
    """Reconcile what was found in `pending()`, and hold the verdict to what the server did.

    If it was not made, the journal keeps the intent in `state`.
    """
    await _judged(world, deed, intent, lambda: world.minted.complete.reconcile(intent), landed=landed, state=state)


async def _judged(
    world: MatrixWorld, deed: MatrixOperation, intent: Intent, reconcile: Call, *, landed: bool, state: str = "unknown"
) -> None:
    if landed:
        done = await reconcile()
        assert done.reconciled
        assert done.differences == ()
        assert done.order is not None
        assert done.order.token == world.basket.token
        await is_done(world, deed)
        assert await world.minted.complete.pending() == []
    else:
        with pytest.raises(OutcomeUnknown) as still:
            await reconcile()
        assert still.value.intent.id == intent.id
        assert world.states() == [state]
        assert len(await world.minted.complete.pending()) == 1
        assert world.sandbox.shop.orders == []


async def _refused(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    deed, strike = play.deed, play.strike
    await _raised(strike.error, call)
    assert world.sent(deed) == 1
    assert world.clock.sleeps == []
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")
    if deed.is_money:
        assert world.states() == ["rejected"]
        await is_free_again(world, deed)
    else:
        assert world.reads(deed) == 0


async def _read_back_once(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    """Believed after one look: a completion that the vendor refuses by its rules, and an addition."""
    await _looked_for(world, play, call, [0.0])


async def _looked_for_until_settled(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    await _looked_for(world, play, call, look_times(play.strike.retry_after or 0.0))


async def _looked_for(world: MatrixWorld, play: MatrixCase, call: Call, times: list[float]) -> None:
    deed, strike = play.deed, play.strike
    witness = Witness(world, skipped=1 if deed.is_money else 0)  # the look before a completion
    world.proxy.play("GET", deed.look, [witness], endless=True)
    if strike.landed:
        times = times[:1]
        done = await call()
        assert deed.shown(done)
        await is_done(world, deed)
        assert not deed.is_money or done.reconciled
    else:
        error = await _raised(strike.error, call)
        assert error.is_confirmed is deed.is_money
        assert not deed.made(world.sandbox)
    assert world.sent(deed) == 1
    assert len(witness.seen) == len(times)
    assert world.clock.sleeps == pauses_between(times)
    if deed.is_money:
        # The refusal was written down before the first look.
        assert witness.seen[0] == [("unknown", witness.status)]
        assert world.states() == ["confirmed" if strike.landed else "rejected"]
        if not strike.landed:
            await is_free_again(world, deed)


class Witness:
    """An act that passes reads on, and notes what another process would find in the journal at that moment."""

    def __init__(self, world: MatrixWorld, skipped: int = 0) -> None:
        self.seen: list[list[tuple[str, int | None]]] = []
        self._world, self._skipped = world, skipped

    @property
    def status(self) -> int | None:
        """Status of the refusal that was noted first."""
        return self.seen[0][0][1]

    async def __call__(self, passage: ProxiedRequest) -> None:
        if self._skipped:
            self._skipped -= 1
        else:
            self.seen.append(await self._world.refusals())
        await injections.pass_on(passage)


async def _settled_later(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    await is_settled_later(world, play.deed, call, looks=0, landed=play.strike.landed)


def _pauses_of_reconcile(left: float) -> list[float]:
    """Return the pauses of a reconciliation whose first look after `left` seconds proves something."""
    pauses: list[float] = []
    for pause in (0.5, 1.0, 2.0, 4.0, 8.0):
        if sum(pauses) >= left + 1:  # as far as a Date header tells
            break
        pauses.append(pause)
    return pauses


async def is_settled_later(
    world: MatrixWorld, deed: MatrixOperation, call: Call, *, looks: int, landed: bool, slept: Sequence[float] = ()
) -> OutcomeUnknown:
    """Check a refusal for whose looks there is too little time, and settle it by reconciling through the error.

    Return that error.
    """
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase == "responded"
    assert isinstance(caught.value.__cause__, APIError)
    refused = caught.value.intent.refusal
    assert refused is not None
    assert await world.refusals() == [("unknown", refused.status)]
    assert (world.sent(deed), world.reads(deed)) == (1, 1 + looks)
    assert world.clock.sleeps == [*slept]
    world.proxy.behave()
    world.proxy.passages.clear()
    if landed:
        await settled(world, deed, caught.value, landed=True)
    else:
        pauses = _pauses_of_reconcile((refused.at - world.clock.wall()).total_seconds() + LAG)
        world.clock.sleeps.clear()
        with pytest.raises(CompletionRejected) as rejected:
            await world.settle(caught.value)
        assert (rejected.value.refusal, rejected.value.order) == (refused, None)
        assert world.states() == ["rejected"]
        assert world.clock.sleeps == pauses
        assert not deed.made(world.sandbox)
        assert world.sent(deed) == 0
        await is_free_again(world, deed)
    return caught.value


async def nothing_was_sent(world: MatrixWorld, deed: MatrixOperation, *, written: bool = True) -> None:
    """Check that the server has not heard of it, and that an intent that was written down is closed."""
    assert (world.sent(deed), world.arrived(deed)) == (0, 0)
    if deed.is_money:
        assert world.states() == ["not_sent"] * written
        assert await world.minted.complete.pending() == []


async def _taken(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    deed = play.deed
    done = await call()
    if deed.is_money and play.strike.differences:
        assert (done.order is not None, done.differences) == (True, play.strike.differences)
    else:
        assert deed.shown(done)
    await is_done(world, deed)
    assert (world.sent(deed), world.arrived(deed)) == (1, 1)
    assert world.clock.sleeps == []


async def _confirmed(world: MatrixWorld, play: MatrixCase, call: Call) -> None:
    done = await call()
    [order] = world.sandbox.shop.orders
    assert (done.order, done.reconciled, done.keys["guid"]) == (None, False, order.guid)
    assert done.raw["token"] == world.basket.token
    await is_done(world, play.deed)
    assert world.sent(play.deed) == 1


_PERFORMED: Final[dict[Outcome, Callable[[MatrixWorld, MatrixCase, Call], Awaitable[None]]]] = {
    Outcome.RT: _again,
    Outcome.RT1: _again,
    Outcome.ONCE: _again,
    Outcome.RB: _read_back,
    Outcome.U: _unknown,
    Outcome.X: _refused,
    Outcome.RBX: _read_back_once,
    Outcome.LOOKS: _looked_for_until_settled,
    Outcome.LATER: _settled_later,
    Outcome.FINE: _taken,
    Outcome.CONFIRMED: _confirmed,
}


async def _raised(kind: type[Exception], call: Call) -> Any:
    with pytest.raises(MintedConnectError) as caught:
        await call()
    assert type(caught.value) is kind
    # One word for a timeout, wherever it strikes.
    assert isinstance(caught.value, TimeoutError) is issubclass(kind, RequestTimeout)
    return caught.value


async def is_done(world: MatrixWorld, deed: MatrixOperation) -> None:
    """Check that it was carried out, and that the journal knows."""
    if deed.effect != "R":
        assert deed.made(world.sandbox)
    if deed.is_money:
        assert world.states()[-1] == "confirmed"


async def is_free_again(world: MatrixWorld, deed: MatrixOperation) -> None:
    """Complete the basket after all: what was refused, or never sent, bars nothing."""
    world.proxy.behave()
    done = await deed.call(world.minted, await world.minted.baskets.get_active(CUSTOMER, cart_token=world.basket.token))
    assert done.order is not None
    assert not done.reconciled
    assert len(world.sandbox.shop.orders) == 1
