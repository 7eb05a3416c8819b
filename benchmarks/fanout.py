"""Prices for many subscribers in one process: the feed, other ways to distribute the result of one poller, and polling
by each subscriber.

Each contender runs for a number of intervals of one second. The cost of an interval is the delay from the response of
the poll to its receipt by the last subscriber, and the mean CPU time and number of requests per second.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import anyio
import attrs

from benchmarks.measure import Cost
from benchmarks.peers import WIDTH
from benchmarks.server import Served
from minted_connect import AsyncMintedConnect, Options, Rate

__all__ = ["CONTENDERS", "FEED", "Delays", "measure"]

INTERVAL: Final = 1.0
FEED: Final = "rates.feed, latest value"


@attrs.define
class Delays:
    """Seconds from a response to its receipt by a subscriber, by interval."""

    found: dict[int, list[float]] = attrs.field(factory=lambda: defaultdict(list))

    def note(self, interval: int, responded_at: float) -> None:
        self.found[interval].append(time.monotonic() - responded_at)

    @property
    def p50(self) -> float:
        return self._share(0.5)

    @property
    def p99(self) -> float:
        return self._share(0.99)

    def _share(self, share: float) -> float:
        ordered = sorted(delay for delays in self.found.values() for delay in delays)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


Contender = Callable[[AsyncMintedConnect, int, Delays], Awaitable[None]]
"""Serves the given number of subscribers until cancelled."""


def measure(run: Contender, server: Served, subscribers: int, intervals: int) -> tuple[list[Cost], Delays]:
    """Return the cost of each complete interval, and all delays."""
    return asyncio.run(_measure(run, server, subscribers, intervals))


async def _measure(run: Contender, server: Served, subscribers: int, intervals: int) -> tuple[list[Cost], Delays]:
    delays = Delays()
    options = Options(pool_size=WIDTH)
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        await minted.rates.current()  # authenticate before the measurement
        task = asyncio.ensure_future(run(minted, subscribers, delays))
        # The first interval is discarded, because the subscribers are still starting.
        await asyncio.sleep(1.5 * INTERVAL)
        delays.found.clear()
        asked, busy, started = server.requests(), time.process_time(), time.monotonic()
        await asyncio.sleep(intervals * INTERVAL)
        passed, used, sent = time.monotonic() - started, time.process_time() - busy, server.requests() - asked
        whole = [found for found in delays.found.values() if len(found) == subscribers][:intervals]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    each = (used / passed, sent / passed)
    return [Cost(max(found), *each) for found in whole] or [Cost(float("nan"), *each)] * intervals, delays


async def latest(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    await _feed(minted, subscribers, delays, None)


async def buffered(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    await _feed(minted, subscribers, delays, 10)


async def frozen(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    """Exclude all subscribers from the collections of the cyclic garbage collector, once they wait."""

    async def freeze() -> None:
        await asyncio.sleep(INTERVAL)
        gc.collect()
        gc.freeze()

    freezing = asyncio.ensure_future(freeze())
    try:
        await _feed(minted, subscribers, delays, None)
    finally:
        freezing.cancel()
        gc.unfreeze()


async def _feed(minted: AsyncMintedConnect, subscribers: int, delays: Delays, buffer: int | None) -> None:
    async with minted.rates.feed(interval=INTERVAL, jitter=0) as feed:

        async def subscriber() -> None:
            async for tick in feed.subscribe(metal="gold", buffer=buffer):
                delays.note(tick.number, tick.observed_at)

        async with asyncio.TaskGroup() as group:
            for _ in range(subscribers):
                group.create_task(subscriber())


async def condition(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    news = asyncio.Condition()
    latest: list[tuple[int, float, tuple[Rate, ...]]] = []

    async def subscriber() -> None:
        while True:
            async with news:
                await news.wait()
                number, responded_at, _ = latest[0]
            delays.note(number, responded_at)

    async def publish(number: int, responded_at: float, rates: tuple[Rate, ...]) -> None:
        async with news:
            latest[:] = [(number, responded_at, rates)]
            news.notify_all()

    async with asyncio.TaskGroup() as group:
        for _ in range(subscribers):
            group.create_task(subscriber())
        group.create_task(_poll(minted, publish))


async def streams(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    pairs = [anyio.create_memory_object_stream[tuple[int, float]](10) for _ in range(subscribers)]

    async def subscriber(number: int) -> None:
        async for tick, responded_at in pairs[number][1]:
            delays.note(tick, responded_at)

    async def publish(number: int, responded_at: float, _: tuple[Rate, ...]) -> None:
        for send, _receive in pairs:
            send.send_nowait((number, responded_at))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(subscribers):
                group.create_task(subscriber(number))
            group.create_task(_poll(minted, publish))
    finally:
        for send, receive in pairs:
            send.close()
            receive.close()


async def _poll(minted: AsyncMintedConnect, publish: Callable[[int, float, tuple[Rate, ...]], Awaitable[None]]) -> None:
    number = 0
    while True:
        started = time.monotonic()
        rates = await minted.rates.current()
        number += 1
        await publish(number, time.monotonic(), rates)
        await asyncio.sleep(max(0.0, started + INTERVAL - time.monotonic()))


async def each_polls(minted: AsyncMintedConnect, subscribers: int, delays: Delays) -> None:
    begun = time.monotonic()

    async def subscriber() -> None:
        number = 0
        while True:
            await minted.rates.current()
            # No poller: the delay is measured from the start of the interval.
            delays.note(number, begun + number * INTERVAL)
            number += 1
            await asyncio.sleep(max(0.0, begun + number * INTERVAL - time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for _ in range(subscribers):
            group.create_task(subscriber())


CONTENDERS: Final[Mapping[int, Mapping[str, Contender]]] = {
    1: {FEED: latest, "each subscriber polls": each_polls},
    1000: {
        FEED: latest,
        "rates.feed, buffer of 10": buffered,
        "one poller, asyncio.Condition": condition,
        "one poller, anyio streams": streams,
        "each subscriber polls": each_polls,
    },
    10_000: {FEED: latest, "rates.feed, latest value, gc.freeze()": frozen, "rates.feed, buffer of 10": buffered},
}
"""The contenders by number of subscribers."""
