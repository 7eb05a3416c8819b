"""One poller and any number of subscribers, in one process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

import anyio

from minted_connect import validation
from minted_connect.config import Clock
from minted_connect.core.request import OPERATIONS
from minted_connect.errors import (
    ClientClosedError,
    InvalidInput,
    MintedConnectError,
    Phase,
    RequestTimeout,
)
from minted_connect.feed.hub import Buffered, Hub, Latest, Subscription
from minted_connect.feed.sinks.base import Sink
from minted_connect.feed.sinks.recording import record
from minted_connect.feed.tick import Filter, Tick
from minted_connect.models.rate import Rate, RatePoint

__all__ = ["RateFeed"]


_log = logging.getLogger("minted_connect.feed")

History = Callable[[Iterable[Rate]], Awaitable[Iterable[RatePoint]]]
"""Gets the past prices of these currencies."""


class Source(Protocol):
    """Where a feed's rounds come from."""

    @property
    def failures(self) -> int:
        """How many polls have failed."""
        ...

    @property
    def last_error(self) -> MintedConnectError | None:
        """What the latest poll failed with; None while polls succeed."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open."""
        ...

    async def open(self) -> None:
        """Get ready to run, or raise why that cannot be."""
        ...

    async def aclose(self) -> None:
        """Let go of what it holds; also called if it never ran, and again."""
        ...

    async def run(self, hub: Hub) -> None:
        """Post rounds until cancelled; raise what cannot be mended."""
        ...


class RateFeed:
    """Polls the rates while it is open and hands them to any number of subscribers: `async with feed: ...`.

    A failed poll does not end it: subscribers get the last good values again, marked stale, and the next poll
    waits longer each time. An error that polling again cannot mend (one that is not of this library, a closed
    client, a bad option, wrong credentials, a request the server refuses) does end it, and is raised to the
    subscribers and on leaving the `async with`.

    Made by `rates.feed`.

    Args:
        source: posts the rounds on the feed's board.
        clock: where time comes from.
        history: gets what was before the feed, once the first rates are known; None for nothing.
    """

    def __init__(self, source: Source, *, clock: Clock, history: History | None = None) -> None:
        self._source = source
        self._clock = clock
        self._history = history
        self._hub = Hub(clock)

    @property
    def failures(self) -> int:
        """How many polls have failed since the feed was opened."""
        return self._source.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """What the latest poll failed with; None while polls succeed."""
        return self._source.last_error

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open: so many polls failed in a row that only single probes are sent."""
        return self._source.is_open

    async def __aenter__(self) -> Self:
        """Start the poller; the first poll begins at once and is not waited for.

        Raises:
            ClientClosedError: the feed was started or closed before.
            FleetError: the fleet's Redis server cannot be used.
        """
        if self._hub.closed or self._hub.poller is not None:
            raise ClientClosedError("a feed is opened once: make another one")
        await self._source.open()
        # Not a task group: its cancel scope would have to be left by the task that entered it, and the blocking
        # twin enters and leaves in two tasks.
        self._hub.poller = asyncio.create_task(self._run(), name="minted_connect.feed")
        self._hub.poller.add_done_callback(self._hub.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None:
            self._hub.raise_if_failed()

    async def aclose(self) -> None:
        """Stop the poller and end every subscription; may be called again."""
        self._hub.end()
        poller = self._hub.poller
        if poller is not None and not poller.done():
            poller.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({poller})
        await self._source.aclose()

    def subscribe(
        self,
        *,
        currency_id: int | None = None,
        metal: str | None = None,
        sku: str | None = None,
        changes_only: bool = False,
        buffer: int | None = None,
        history: bool = False,
    ) -> Subscription:
        """Iterate over ticks: first what is known already, then each poll's.

        A subscriber that is slower than the poller skips to the latest value of each currency, unless it asks
        for a buffer.

        Args:
            currency_id: only this item currency.
            metal: only this metal (`gold`).
            sku: only the currency whose 1 g product this is.
            changes_only: leave out ticks with the prices and the staleness of the one before.
            buffer: ticks to keep for this subscriber; when it is full, the oldest goes and is counted in
                `Subscription.dropped`.
            history: begin with what was before the feed (`Tick.backfilled`), oldest first, once it is known. It is
                not part of the buffer.

        Raises:
            InvalidInput: `buffer` is not a whole number from 1, a filter cannot fit anything, or the feed has no
                `backfill` to take the history from.
        """
        wanted = Filter(currency_id, metal, sku)
        validation.boolean("changes_only", changes_only)
        validation.boolean("history", history)
        if history and self._history is None:
            raise InvalidInput.of("history", "needs a feed that was made with backfill=...")
        if buffer is None:
            return Latest(self._hub, wanted, changes_only=changes_only, history=history)
        size = validation.integer("buffer", buffer, 1, sys.maxsize)
        return Buffered(self._hub, wanted, changes_only=changes_only, history=history, size=size)

    async def record(
        self,
        sink: Sink,
        *,
        currency_id: int | None = None,
        metal: str | None = None,
        sku: str | None = None,
        history: bool = False,
        buffer: int = 10_000,
    ) -> int:
        """Write ticks into a sink until the feed is closed; return how many rows were written.

        The same as `record(feed, sink)`, which says more.

        Raises:
            SinkError: they cannot be written; the feed goes on.
            InvalidInput: `sink` is none, or what `subscribe` does not take.
        """
        return await record(self, sink, currency_id=currency_id, metal=metal, sku=sku, history=history, buffer=buffer)

    def latest(
        self, *, currency_id: int | None = None, metal: str | None = None, sku: str | None = None
    ) -> Tick | None:
        """Return the last good value of the first currency that fits, or None if there is none yet.

        `Tick.age` says how old it is, `Tick.stale` whether the latest poll renewed it. Raises what ended the
        feed if that was an error; after a close it keeps answering.

        Raises:
            InvalidInput: a filter cannot fit anything, or the rates are known and it fits none of them.
        """
        wanted = Filter(currency_id, metal, sku)
        self._hub.raise_if_failed()
        ticks = self._hub.ticks
        if ticks:
            wanted.check([tick.rate for tick in ticks.values()])
        return next((tick for tick in ticks.values() if wanted(tick.rate)), None)

    async def wait_for(self, predicate: Callable[[Tick], bool], *, timeout: float) -> Tick:
        """Return the first tick that satisfies the predicate, what is known already included.

        Stale ticks do not count: an alert must not go off on an old price.

        Args:
            predicate: called with each fresh tick.
            timeout: seconds on the feed's clock. A poll under way is let finish first.

        Raises:
            RequestTimeout: no tick did in time (also a TimeoutError); its cause is what the latest poll failed with,
                if it failed.
            ClientClosedError: the feed was closed meanwhile, or is not running.
            InvalidInput: `timeout` is not finite or not above 0, or `predicate` is not a plain function.
        """
        if not callable(predicate) or inspect.iscoroutinefunction(predicate):
            raise InvalidInput.of("predicate", "must be a plain function of a tick")
        timeout = validation.seconds("timeout", timeout)
        search = asyncio.ensure_future(self._first(predicate))
        timer = asyncio.ensure_future(self._pass(self._clock.monotonic() + timeout))
        try:
            await asyncio.wait({search, timer}, return_when=asyncio.FIRST_COMPLETED)
            if search.done():
                return search.result()
            timer.result()
            error = RequestTimeout(f"no tick satisfied the condition within {timeout:g} s", phase=Phase.RESPONDED)
            error.request, error.elapsed = OPERATIONS["rates.current"].info, timeout
            raise error from self._source.last_error
        finally:
            search.cancel()
            timer.cancel()
            await asyncio.gather(search, timer, return_exceptions=True)

    async def _run(self) -> None:
        if self._history is None:
            await self._source.run(self._hub)
            return
        past = asyncio.create_task(self._backfill(self._history), name="minted_connect.feed.history")
        try:
            await self._source.run(self._hub)
        finally:
            past.cancel()
            await asyncio.wait({past})

    async def _backfill(self, history: History) -> None:
        """Get what was before the feed; without it, the feed goes on and the subscribers begin with the present."""
        points: Iterable[RatePoint] = ()
        try:
            while not self._hub.ticks:
                await self._hub.wait(self._hub.waiter())
            points = await history([tick.rate for tick in self._hub.ticks.values()])
        except MintedConnectError as error:
            _log.warning("the feed starts without its history: %s: %s", type(error).__name__, error)
        finally:
            self._hub.backfill(points)

    async def _first(self, predicate: Callable[[Tick], bool]) -> Tick:
        async for tick in self.subscribe():
            if not tick.stale and predicate(tick):
                return tick
        raise ClientClosedError("the feed was closed before a tick satisfied the condition")

    async def _pass(self, deadline: float) -> None:
        """Wait until the deadline is past."""
        while (left := deadline - self._clock.monotonic()) > 0:
            # Polls due before the deadline come first: on a clock whose sleep moves the time at once, sleeping
            # here would skip them.
            if self._hub.due > deadline:
                await self._clock.sleep(left)
            else:
                await self._hub.wait(self._hub.waiter())
