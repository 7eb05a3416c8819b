"""Records the ticks of a feed to a sink."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from minted_connect.errors import FleetError, SinkError
from minted_connect.feed.hub import Subscription
from minted_connect.feed.sinks.base import LastRow, Sink
from minted_connect.feed.tick import Filter, Tick

__all__ = ["record", "write_ticks"]

_log = logging.getLogger("minted_connect.feed")

_T = TypeVar("_T")


class _Feed(Protocol):
    async def record(
        self,
        sink: Sink,
        *,
        currency_id: int | None,
        metal: str | None,
        sku: str | None,
        history: bool,
        buffer: int,
        patience: float | None,
    ) -> int: ...


async def record(
    feed: _Feed,
    sink: Sink,
    *,
    currency_id: int | None = None,
    metal: str | None = None,
    sku: str | None = None,
    history: bool = False,
    buffer: int = 10_000,
    patience: float | None = None,
) -> int:
    """Write the ticks of a feed to a sink until the feed is closed; return the number of rows written.

    Stale ticks are left out, because they repeat an old price. The sink is opened and closed here, and its methods run
    in worker threads. When the recording ends, also by cancellation or by an error of the feed, the ticks received so
    far are written before the sink is closed.

    The recording of a fleet continues after the last row of its currencies in the sink, with the rounds that the fleet
    still stores. The first row states how many are missing (`Tick.missed`) if the fleet continued its numbers, and the
    `gap`.

    Args:
        feed: a `RateFeed` that is running.
        sink: where to write.
        currency_id: record only this item currency.
        metal: record only this metal (`gold`).
        sku: record only the currency whose 1 g product has this sku.
        history: begin with the prices from before the feed was opened; needs a feed made with `backfill`.
        buffer: maximum number of ticks that wait for the sink. When it is full, the oldest ticks are dropped, which is
            logged.
        patience: seconds to wait while another program has locked the destination; meanwhile, ticks are buffered.
            None: `sink.patience`. If the recording is cancelled, it waits a few seconds only.

    Raises:
        SinkError: if the ticks cannot be written; the feed keeps running.
        InvalidInput: if `sink` is not a `Sink`, `patience` is negative, or `RateFeed.subscribe` rejects an argument.
        MintedConnectError: the error that ended the feed, if one did.
    """
    return await feed.record(
        sink, currency_id=currency_id, metal=metal, sku=sku, history=history, buffer=buffer, patience=patience
    )


async def write_ticks(
    ticks: Subscription,
    sink: Sink,
    *,
    matches: Filter,
    replay: Callable[[int, datetime], AsyncGenerator[list[Tick], None]],
    has_history: bool,
) -> int:
    """Write ticks to a sink until their subscription ends; return the number of rows written.

    Args:
        ticks: a subscription with a buffer.
        sink: where to write.
        matches: the filter of the subscription.
        replay: yields the ticks, in batches, that a source stores after the round with this number and time.
        has_history: whether the subscription begins with the prices from before the feed.
    """
    writer = _Writer(sink)
    dropped = 0
    is_cancelled = False
    is_replayed = False
    try:
        try:
            await writer.run(sink.open)
            stored = _Replay(replay, await writer.run(lambda: sink.last_row(matches)))
            if has_history:
                is_replayed = not await stored.fetch()
            else:
                await stored.write_to(writer)
                is_replayed = True
            async for tick in ticks:
                batch = [tick, *ticks.ready()]
                if not is_replayed:
                    await writer.write([each for each in batch if each.backfilled and stored.is_before(each)])
                    batch = [each for each in batch if not each.backfilled]
                    if batch:
                        await stored.write_to(writer)
                        is_replayed = True
                await writer.write(batch)
                if ticks.dropped > dropped:
                    _log.warning("%d ticks were dropped before they could be recorded", ticks.dropped - dropped)
                    dropped = ticks.dropped
        except FleetError as error:
            if is_replayed:
                raise
            # Ticks after a gap would hide it: the next recording continues from the last row that was written.
            _log.warning("the recording ends before the rounds that the fleet has stored were read: %s", error)
        # The feed is closing: if an error ends it, this iteration raises that error.
        async for _ in ticks:
            pass
    except asyncio.CancelledError:
        is_cancelled = True
        sink.interrupt()
        raise
    finally:
        with anyio.CancelScope(shield=True):
            try:
                if is_replayed:
                    await writer.write(ticks.ready())
            except SinkError:
                if not is_cancelled:
                    raise
            finally:
                await writer.close()
                await ticks.aclose()
                if is_cancelled and writer.error is not None:  # nothing else reports it
                    _log.warning("the last ticks were not recorded: %s", writer.error)
    return writer.rows


class _Replay:
    """The ticks between the last row of a sink and the feed, as far as the source stores them."""

    def __init__(
        self, replay: Callable[[int, datetime], AsyncGenerator[list[Tick], None]], last: LastRow | None
    ) -> None:
        self._batches = None if last is None else replay(last.number, last.at)
        self._first: list[Tick] = []

    async def fetch(self) -> bool:
        """Fetch the first batch that is not empty, for `is_before`; return whether there is one."""
        while self._batches is not None and not self._first:
            try:
                self._first = await anext(self._batches)
            except StopAsyncIteration:
                self._batches = None
        return bool(self._first)

    def is_before(self, tick: Tick) -> bool:
        """Return whether `tick` is older than all ticks of the source."""
        return not self._first or tick.at < self._first[0].at

    async def write_to(self, writer: _Writer) -> None:
        """Write all batches that are left."""
        await writer.write(self._first)
        if self._batches is not None:
            async with aclosing(self._batches) as batches:
                async for batch in batches:
                    await writer.write(batch)


class _Writer:
    """Calls the methods of a sink in worker threads, one at a time.

    The lock is needed because cancelling a task does not stop the thread that it waits for.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._is_closed = False
        self._pending: deque[Tick] = deque()  # filled by the event loop, emptied by one worker thread at a time
        self.rows: int = 0
        self.error: BaseException | None = None

    async def write(self, ticks: Sequence[Tick]) -> None:
        """Append the ticks that are not stale, unless an earlier call has failed.

        If it is cancelled before its thread starts, the next call appends them.
        """
        self._pending.extend(tick for tick in ticks if not tick.stale)
        if self._pending:
            await self.run(self._append_pending)

    def _append_pending(self) -> None:
        ticks = [self._pending.popleft() for _ in range(len(self._pending))]
        if ticks and self.error is None:
            self.rows += self._sink.append(ticks)

    async def close(self) -> None:
        """Close the sink, after the previous step has returned."""
        await self.run(self._close)

    def _close(self) -> None:
        self._is_closed = True
        self._sink.close()

    async def run(self, step: Callable[[], _T]) -> _T:
        """Call `step` in a worker thread, after the previous one has returned.

        Raises:
            SinkError: if the sink was closed. The thread of a cancelled step may start after that of `close`.
        """

        def run_locked() -> _T:
            with self._lock:
                if self._is_closed:
                    raise SinkError("the recording has ended")
                try:
                    return step()
                except BaseException as error:
                    self.error = error
                    raise

        # A thread that waits for the lock of another program must not delay a cancellation by all its patience.
        return await anyio.to_thread.run_sync(run_locked, abandon_on_cancel=True)
