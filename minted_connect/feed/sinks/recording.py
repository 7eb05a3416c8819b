"""Records the ticks of a feed to a sink."""

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
from minted_connect.feed.sinks.base import Sink
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
    """Write the ticks of a feed to a sink until the feed is closed; return the number of rows written.

    Stale ticks are left out, because they repeat an old price. The sink is opened and closed here, and its methods run
    in worker threads. When the recording ends, also by cancellation or by an error of the feed, the ticks received so
    far are written before the sink is closed.

    Args:
        feed: a `RateFeed` that is running.
        sink: where to write.
        currency_id: record only this item currency.
        metal: record only this metal (`gold`).
        sku: record only the currency whose 1 g product has this sku.
        history: begin with the prices from before the feed was opened; needs a feed made with `backfill`.
        buffer: maximum number of ticks that wait for the sink. When it is full, the oldest ticks are dropped, which is
            logged.

    Raises:
        SinkError: if the ticks cannot be written; the feed keeps running.
        InvalidInput: if `sink` is not a `Sink`, or `RateFeed.subscribe` rejects an argument.
    """
    validation.instance("sink", sink, Sink)
    validation.integer("buffer", buffer, 1, sys.maxsize)
    ticks = feed.subscribe(currency_id=currency_id, metal=metal, sku=sku, buffer=buffer, history=history)
    writer = _Writer(sink)
    dropped = 0
    try:
        await writer.run(sink.open)
        async for tick in ticks:
            await writer.write([tick, *ticks.ready()])
            if ticks.dropped > dropped:
                _log.warning("%d ticks were dropped before they could be recorded", ticks.dropped - dropped)
                dropped = ticks.dropped
    finally:
        with anyio.CancelScope(shield=True):
            try:
                if not writer.has_failed:
                    await writer.write(ticks.ready())
            finally:
                await writer.run(sink.close)
                await ticks.aclose()
    return writer.rows


class _Writer:
    """Calls the methods of a sink in worker threads, one at a time.

    The lock is needed because cancelling a task does not stop the thread that it waits for.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self.rows: int = 0
        self.has_failed: bool = False

    async def write(self, ticks: Sequence[Tick]) -> None:
        """Append the ticks that are not stale."""
        if fresh := [tick for tick in ticks if not tick.stale]:
            await self.run(lambda: self._append(fresh))

    def _append(self, ticks: Sequence[Tick]) -> None:
        self.rows += self._sink.append(ticks)

    async def run(self, step: Callable[[], None]) -> None:
        """Call `step` in a worker thread, after the previous one has returned."""

        def run_locked() -> None:
            with self._lock:
                try:
                    step()
                except BaseException:
                    self.has_failed = True
                    raise

        await anyio.to_thread.run_sync(run_locked)
