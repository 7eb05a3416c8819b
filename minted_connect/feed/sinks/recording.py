"""Ticks of a feed into a sink, as they come."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import anyio
import anyio.to_thread

from minted_connect import validation
from minted_connect.feed.hub import Subscription
from minted_connect.feed.sinks.lines import Sink
from minted_connect.feed.tick import Tick

__all__ = ["record"]

_log = logging.getLogger("minted_connect.feed")


class _Feed(Protocol):
    def subscribe(
        self, *, currency_id: int | None, metal: str | None, sku: str | None, buffer: int, history: bool
    ) -> Subscription: ...


async def record(
    feed: _Feed,
    sink: Sink,
    *,
    currency_id: int | None = None,
    metal: str | None = None,
    sku: str | None = None,
    history: bool = False,
    buffer: int = 10_000,
) -> int:
    """Write the ticks of a feed into a sink until the feed is closed; return how many rows were written.

    Stale ticks are left out: they are no new prices. However it ends, also by being cancelled, what had come by then
    is written and the sink is closed. Files are written in a worker thread.

    Args:
        feed: a `RateFeed` that is running.
        sink: where to; it is opened and closed here.
        currency_id: only this item currency.
        metal: only this metal.
        sku: only the currency whose 1 g product this is.
        history: begin with what was before the feed, of a feed that was made with `backfill`.
        buffer: ticks that may wait for the sink; beyond that the oldest go, which is logged.

    Raises:
        SinkError: they cannot be written; the feed goes on.
        InvalidInput: `sink` is none, or what `RateFeed.subscribe` does not take.
    """
    validation.instance("sink", sink, Sink)
    validation.integer("buffer", buffer, 1, sys.maxsize)
    ticks = feed.subscribe(currency_id=currency_id, metal=metal, sku=sku, buffer=buffer, history=history)
    writer = _Writer(sink)
    lost = 0
    try:
        await writer.run(sink.open)
        async for tick in ticks:
            await writer.write([tick, *ticks.ready()])
            if ticks.dropped > lost:
                _log.warning("%d ticks went by before they could be recorded", ticks.dropped - lost)
                lost = ticks.dropped
    finally:
        with anyio.CancelScope(shield=True):
            try:
                if not writer.failed:
                    await writer.write(ticks.ready())
            finally:
                await writer.run(sink.close)
                await ticks.aclose()
    return writer.rows


class _Writer:
    """Works with a sink in threads, one step at a time.

    A task that is cancelled leaves its thread at work: the next step waits for it.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._turn = threading.Lock()
        self.rows: int = 0
        self.failed: bool = False

    async def write(self, ticks: Sequence[Tick]) -> None:
        """Write those that are not stale."""
        if fresh := [tick for tick in ticks if not tick.stale]:
            await self.run(lambda: self._append(fresh))

    def _append(self, ticks: Sequence[Tick]) -> None:
        self.rows += self._sink.append(ticks)

    async def run(self, step: Callable[[], None]) -> None:
        """Take one step."""

        def taken() -> None:
            with self._turn:
                try:
                    step()
                except BaseException:
                    self.failed = True
                    raise

        await anyio.to_thread.run_sync(taken)
