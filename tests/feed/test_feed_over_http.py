"""The feed over real HTTP, through both clients: what a sick server sees of it, and what its subscribers see."""

from __future__ import annotations

from decimal import Decimal

import pytest

from minted_connect import AsyncMintedConnect, Breaker, MintedConnect
from minted_connect.errors import InvalidInput, ServerError
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox

pytestmark = pytest.mark.anyio

RATES = "*/rates"


def polls(sandbox):
    """The polls that got past the login."""
    return [request for request in sandbox.requests.of("rates.current") if request.status != 401]


async def test_a_failed_poll_is_one_request():
    async with (
        Sandbox() as sandbox,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
    ):
        async with minted.rates.feed(interval=0.01, max_backoff=0.01, breaker=None) as feed:
            ticks = feed.subscribe(metal="gold", buffer=100)
            assert not (await anext(ticks)).stale
            sandbox.faults.add("status", path=RATES, times=3, status=503)
            while not (tick := await anext(ticks)).stale:
                pass
            while (tick := await anext(ticks)).stale:
                pass
        assert feed.failures == 3
        assert [request.status for request in polls(sandbox)].count(503) == 3
        assert tick.rate.buy_price == tick.buy
        assert type(tick.spread) is Decimal


async def test_a_sick_server_sees_probes_only_once_the_circuit_is_open():
    clock = ManualClock(auto_advance=True)
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        sandbox = minted.sandbox_server
        sandbox.faults.add("status", path=RATES, times=None, status=500)
        breaker = Breaker(failures=2, cooldown=3600)
        async with minted.rates.feed(interval=1, max_backoff=1, breaker=breaker) as feed:
            with pytest.raises(TimeoutError) as caught:
                await feed.wait_for(lambda _: True, timeout=3 * 3600)
            assert isinstance(caught.value.__cause__, ServerError)
            # Two polls open the circuit; of three hours, each begins with a probe.
            assert (feed.is_open, len(polls(sandbox))) == (True, 4)


def test_the_blocking_feed_refuses_what_never_comes():
    with (
        ThreadedSandbox() as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
        minted.rates.feed(interval=3600) as feed,
    ):
        known = next(feed.subscribe())
        assert (known.currency, known.weight_unit, known.number, known.gap) == ("AED", "g", 1, 0)
        with pytest.raises(InvalidInput, match="there are gold, silver"):
            next(feed.subscribe(metal="platinum"))
        assert len(polls(sandbox)) == 1
