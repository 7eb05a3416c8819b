"""What has to hold for each outcome of the table: what was sent, done, written down, raised, and found out later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from minted_connect import (
    AlreadyInFlight,
    InvalidInput,
    MintedConnectError,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    Timeouts,
)
from minted_connect.models import Intent
from tests.matrix.cells import CUSTOMER, PATIENCE, Deed, Play
from tests.matrix.table import Outcome
from tests.matrix.world import World


async def perform(world: World, play: Play) -> None:
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


async def _again(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if not play.always:
        assert deed.shown(await call())
        await is_done(world, deed)
        assert world.sent(deed) == 2
        assert world.arrived(deed) == 1 + strike.landed
        assert len(world.clock.sleeps) == 1
        return
    most = deed.most if play.outcome is Outcome.RT else 2
    if deed.effect == "S" and strike.landed:
        # Read back at last: the first try may have done it, and has.
        assert deed.shown(await call())
        assert world.reads(deed) == 1
    else:
        error = await _raised(strike.error, call)
        assert error.attempts == most
    assert world.sent(deed) == most
    assert len(world.clock.sleeps) == most - 1
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")
    if deed.is_money:
        assert world.states() == ["not_sent" if isinstance(error, NotSent) else "rejected"]
        await _is_free_again(world, deed)


async def _read_back(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if strike.landed:
        assert deed.shown(await call())
    else:
        await _raised(strike.error, call)
    assert (world.sent(deed), world.reads(deed)) == (1, 1)
    assert deed.made(world.sandbox) is strike.landed
    assert world.clock.sleeps == []


async def _unknown(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase != "not sent"
    assert caught.value.evidence[0].startswith(strike.error.__name__)
    assert not isinstance(caught.value, TimeoutError)
    assert world.sent(deed) == 1
    await is_unknown(world, deed, caught.value, landed=strike.landed)


async def is_unknown(world: World, deed: Deed, error: OutcomeUnknown, *, landed: bool) -> None:
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


async def settled(world: World, deed: Deed, error: OutcomeUnknown, *, landed: bool) -> None:
    """Reconcile through the error, and hold the verdict to what the server did."""
    await _judged(world, deed, error.intent, lambda: world.settle(error), landed=landed)


async def reconciled(world: World, deed: Deed, intent: Intent, *, landed: bool) -> None:
    """Reconcile what was found in `pending()`, and hold the verdict to what the server did."""
    await _judged(world, deed, intent, lambda: world.minted.complete.reconcile(intent), landed=landed)


async def _judged(world: World, deed: Deed, intent: Intent, reconcile: Call, *, landed: bool) -> None:
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
        assert world.states() == ["unknown"]
        assert len(await world.minted.complete.pending()) == 1
        assert world.sandbox.shop.orders == []


async def _refused(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    await _raised(strike.error, call)
    assert world.sent(deed) == 1
    assert world.clock.sleeps == []
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")
    if deed.is_money:
        assert world.states() == ["rejected"]
        await _is_free_again(world, deed)
    else:
        assert world.reads(deed) == 0


async def _believed_after_a_look(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if strike.landed:
        done = await call()
        assert done.reconciled
        assert deed.shown(done)
        await is_done(world, deed)
    else:
        await _raised(strike.error, call)
        assert world.states() == ["rejected"]
    assert (world.sent(deed), world.reads(deed)) == (1, 2)  # the look before, and the look after
    assert world.clock.sleeps == []
    if not strike.landed:
        await _is_free_again(world, deed)


async def nothing_was_sent(world: World, deed: Deed, *, written: bool = True) -> None:
    """Check that the server has not heard of it, and that an intent that was written down is closed."""
    assert (world.sent(deed), world.arrived(deed)) == (0, 0)
    if deed.is_money:
        assert world.states() == ["not_sent"] * written
        assert await world.minted.complete.pending() == []


async def _taken(world: World, play: Play, call: Call) -> None:
    deed = play.deed
    assert deed.shown(await call())
    await is_done(world, deed)
    assert (world.sent(deed), world.arrived(deed)) == (1, 1)
    assert world.clock.sleeps == []


async def _confirmed(world: World, play: Play, call: Call) -> None:
    done = await call()
    [order] = world.sandbox.shop.orders
    assert (done.order, done.reconciled, done.keys["guid"]) == (None, False, order.guid)
    assert done.raw["token"] == world.basket.token
    await is_done(world, play.deed)
    assert world.sent(play.deed) == 1


_PERFORMED: Final[dict[Outcome, Callable[[World, Play, Call], Awaitable[None]]]] = {
    Outcome.RT: _again,
    Outcome.RT1: _again,
    Outcome.ONCE: _again,
    Outcome.RB: _read_back,
    Outcome.U: _unknown,
    Outcome.X: _refused,
    Outcome.RBX: _believed_after_a_look,
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


async def is_done(world: World, deed: Deed) -> None:
    """Check that it was carried out, and that the journal knows."""
    if deed.effect != "R":
        assert deed.made(world.sandbox)
    if deed.is_money:
        assert world.states()[-1] == "confirmed"


async def _is_free_again(world: World, deed: Deed) -> None:
    """Complete the basket after all: what was refused, or never sent, bars nothing."""
    world.proxy.behave()
    done = await deed.call(world.minted, await world.minted.baskets.get_active(CUSTOMER, cart_token=world.basket.token))
    assert done.order is not None
    assert not done.reconciled
    assert len(world.sandbox.shop.orders) == 1
