"""The feed over real HTTP, with both clients: failed polls, the circuit breaker, and Rate History."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from minted_connect import AsyncMintedConnect, BreakerPolicy, MintedConnect
from minted_connect.errors import InvalidInput, ServerError
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox

pytestmark = pytest.mark.anyio

RATES = "*/rates"


def polls(sandbox):
    """Return the requests for rates that passed authentication."""
    return [request for request in sandbox.requests.of("rates.current") if request.status != 401]


async def test_failed_poll_is_not_retried():
    async with (
        Sandbox(seed=1) as sandbox,
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


async def test_open_breaker_sends_only_probes():
    clock = ManualClock(auto_advance=True)
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        sandbox = minted.sandbox_server
        sandbox.faults.add("status", path=RATES, times=None, status=500)
        breaker = BreakerPolicy(failures=2, cooldown=3600)
        async with minted.rates.feed(interval=1, max_backoff=1, breaker=breaker) as feed:
            with pytest.raises(TimeoutError) as caught:
                await feed.wait_for(lambda _: True, timeout=3 * 3600)
            assert isinstance(caught.value.__cause__, ServerError)
            # Two polls open the breaker; two probes follow in three hours.
            assert (feed.is_breaker_open, len(polls(sandbox))) == (True, 4)


def test_blocking_filter_without_match_raises_invalid_input():
    with (
        ThreadedSandbox(seed=1) as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
        minted.rates.feed(interval=3600) as feed,
    ):
        known = next(feed.subscribe())
        assert (known.currency, known.weight_unit, known.number, known.gap) == ("AED", "g", 1, 0)
        with pytest.raises(InvalidInput, match="available: gold, silver"):
            next(feed.subscribe(metal="platinum"))
        assert len(polls(sandbox)) == 1


@pytest.mark.parametrize(
    ("backfill", "interval", "most"), [(timedelta(hours=30), "hour", 30), (timedelta(days=60), "day", 60)]
)
async def test_backfill_uses_rate_history(backfill, interval, most):
    clock = ManualClock()
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        begun = clock.wall()
        async with minted.rates.feed(interval=3600, metals="gold", backfill=backfill) as feed:
            got = []
            async for tick in feed.subscribe(history=True, buffer=10):
                got.append(tick)
                if not tick.backfilled:
                    break
        *past, now = got
        assert most - 2 <= len({tick.at for tick in past}) <= most + 1
        assert all(begun - backfill <= tick.at < now.at == begun for tick in past)
        assert [tick.at for tick in past] == sorted(tick.at for tick in past)
        currencies = {tick.rate.currency_id for tick in got}
        requested = [request for request in minted.sandbox_server.requests.of("rates.history") if request.status != 401]
        assert {request.query["interval"] for request in requested} == {interval}
        assert len(requested) == len({tick.rate.currency_id for tick in past}) >= len(currencies)
        points = await minted.rates.history(
            currency_id=now.rate.currency_id,
            interval=interval,
            start=(begun - backfill).date(),
            end=begun.date(),
        )
        kept = [point for point in points if begun - backfill <= point.time < begun]
        mine = [tick for tick in past if tick.rate.currency_id == now.rate.currency_id]
        assert [(tick.at, tick.spot, tick.buy, tick.sell) for tick in mine] == [
            (point.time, point.spot_price, point.buy_price, point.sell_price) for point in kept
        ]


def test_blocking_feed_has_backfill():
    with (
        ThreadedSandbox(seed=1) as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
        minted.rates.feed(interval=3600, backfill=timedelta(hours=3)) as feed,
    ):
        ticks = feed.subscribe(metal="gold", history=True)
        got = [next(ticks) for _ in range(4)]
        assert [tick.backfilled for tick in got][:2] == [True, True]


@pytest.mark.parametrize("backfill", [timedelta(0), timedelta(seconds=-1), 5, "1d"])
async def test_invalid_backfill_raises_invalid_input(backfill):
    async with AsyncMintedConnect.sandbox() as minted:
        with pytest.raises(InvalidInput, match="backfill"):
            minted.rates.feed(interval=1, backfill=backfill)
