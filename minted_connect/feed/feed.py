"""The feed of prices: one source, and any number of subscribers in one process."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import Context
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Self

from minted_connect import validation
from minted_connect.clock import Clock
from minted_connect.core.cancellation import cancel_and_wait
from minted_connect.core.event_loop import check_asyncio
from minted_connect.core.request import OPERATIONS
from minted_connect.errors import (
    ClientClosedError,
    InvalidInput,
    MintedConnectError,
    Phase,
    RequestTimeout,
)
from minted_connect.feed.alerts import PriceAlert, PriceName, check_limits, find_alerts
from minted_connect.feed.hub import Buffered, Hub, Latest, Subscription
from minted_connect.feed.sinks.base import Sink, check_patience
from minted_connect.feed.sinks.recording import write_ticks
from minted_connect.feed.source import Source
from minted_connect.feed.tick import Filter, Tick
from minted_connect.models.rate import Rate, RatePoint

__all__ = ["RateFeed"]


_log = logging.getLogger("minted_connect.feed")

FetchHistory = Callable[[Iterable[Rate]], Awaitable[Iterable[RatePoint]]]
"""Returns the past prices of the currencies of these rates."""


class RateFeed:
    """Polls the prices while it is open, and passes them to any number of subscribers: `async with feed: ...`.

    A failed poll does not end the feed: subscribers receive the last good values again, marked as stale, and the waits
    between polls grow. These errors end it: one that is not a `MintedConnectError`; a closed client; an invalid option;
    wrong credentials; any other 4xx except 408, 425 and 429. The error is raised by the subscriptions and on leaving
    the `async with` block.

    Create a feed with `rates.feed`.

    Args:
        source: publishes the rounds.
        clock: source of the time.
        history: fetches the prices from before the feed, once the first rates are known; None disables it.
    """

    def __init__(self, source: Source, *, clock: Clock, history: FetchHistory | None = None) -> None:
        self._source = source
        self._clock = clock
        self._fetch_history = history
        self._hub = Hub(clock)

    @property
    def failures(self) -> int:
        """Polls that failed since the feed was opened; in a fleet, of any process, since the last good round before."""
        return self._source.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """Error of the latest poll; None if it succeeded. In a fleet: of Redis, else of this process's latest poll."""
        return self._source.last_error

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker is open: after too many failed polls in a row, only single probes are sent."""
        return self._source.is_breaker_open

    async def __aenter__(self) -> Self:
        """Start to poll; does not wait for the first poll. In a fleet, only the leader polls.

        Raises:
            ClientClosedError: if the feed was opened or closed before.
            ConfigurationError: if no asyncio event loop is running.
            FleetError: if the Redis server of the fleet cannot be used.
        """
        if self._hub.is_closed or self._hub.task is not None:
            raise ClientClosedError("a feed can be opened only once: make another one")
        check_asyncio()
        await self._source.open()
        # Not a task group: its cancel scope must be exited by the task that entered it, and the blocking client enters
        # and exits in two tasks.
        # An empty context: in the caller's, each poll for the life of the feed would belong to the span that opened it.
        self._hub.task = asyncio.create_task(self._run(), name="minted_connect.feed", context=Context())
        self._hub.task.add_done_callback(self._hub.close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None:
            self._hub.raise_if_failed()

    async def aclose(self) -> None:
        """Stop polling and end every subscription. Idempotent."""
        self._hub.close()
        task = self._hub.task
        try:
            if task is not None:
                await cancel_and_wait([task])
        finally:
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
        """Return an async iterator over ticks: the latest known ones first, then those of each poll.

        A subscriber that is slower than the feed skips to the latest value of each currency, unless it asks for a
        buffer.

        Args:
            currency_id: only this item currency.
            metal: only this metal (`gold`).
            sku: only the currency whose 1 g product has this sku.
            changes_only: leave out ticks with the same prices and staleness as the previous one.
            buffer: maximum number of ticks to keep for this subscriber. When the buffer is full, the oldest tick is
                dropped and counted in `Subscription.dropped`.
            history: begin with the prices from before the feed (`Tick.backfilled`), oldest first, once they are known.
                They do not count towards the buffer.

        Raises:
            InvalidInput: if `buffer` is not a whole number from 1, a filter is a value that no currency can have, or
                `history` is asked of a feed that was made without `backfill`.
        """
        matches = Filter(currency_id, metal, sku)
        validation.boolean("changes_only", changes_only)
        validation.boolean("history", history)
        if history and self._fetch_history is None:
            raise InvalidInput.of("history", "needs a feed that was made with backfill=...")
        if buffer is None:
            return Latest(self._hub, matches, changes_only=changes_only, history=history)
        size = validation.integer("buffer", buffer, 1, sys.maxsize)
        return Buffered(self._hub, matches, changes_only=changes_only, history=history, size=size)

    async def record(
        self,
        sink: Sink,
        *,
        currency_id: int | None = None,
        metal: str | None = None,
        sku: str | None = None,
        history: bool = False,
        buffer: int = 10_000,
        patience: float | None = None,
    ) -> int:
        """Write ticks to a sink until the feed is closed; return the number of rows written.

        Same as `record(feed, sink, ...)`, where the arguments are described.

        Raises:
            SinkError: if the ticks cannot be written; the feed keeps running.
            InvalidInput: if `sink` is not a `Sink`, `patience` is negative, or `subscribe` rejects an argument.
            MintedConnectError: the error that ended the feed, if one did.
        """
        validation.instance("sink", sink, Sink)
        validation.integer("buffer", buffer, 1, sys.maxsize)
        waits = None if patience is None else check_patience(patience)
        ticks = self.subscribe(currency_id=currency_id, metal=metal, sku=sku, history=history, buffer=buffer)
        matches = Filter(currency_id, metal, sku)
        previous = sink.patience
        if waits is not None:
            sink.patience = waits
        try:
            return await write_ticks(
                ticks,
                sink,
                matches=matches,
                replay=lambda number, at: self._replay(number, at, matches),
                has_history=history,
            )
        finally:
            if waits is not None:
                sink.patience = previous

    async def _replay(self, number: int, at: datetime, matches: Filter) -> AsyncGenerator[list[Tick], None]:
        """Yield the ticks of the rounds that the source stores, after the one with this number and time."""
        hub = Hub(self._clock)
        async for rounds in self._source.replay(number, at):
            ticks: list[Tick] = []
            for each in rounds:
                hub.publish(each)
                ticks += [tick for tick in hub.ticks.values() if not tick.stale and matches(tick.rate)]
            yield ticks

    def latest(
        self, *, currency_id: int | None = None, metal: str | None = None, sku: str | None = None
    ) -> Tick | None:
        """Return the last good value of the first currency that matches, or None before the first rates are known.

        `Tick.age` is its age in seconds, and `Tick.stale` is False if the latest poll confirmed it. After the feed was
        closed, the last value remains available. If an error ended the feed, that error is raised.

        Raises:
            InvalidInput: if a filter is a value that no currency can have, or no known rate matches.
        """
        matches = Filter(currency_id, metal, sku)
        self._hub.raise_if_failed()
        ticks = self._hub.ticks
        if ticks:
            matches.check_matches([tick.rate for tick in ticks.values()])
        return next((tick for tick in ticks.values() if matches(tick.rate)), None)

    async def wait_for(self, predicate: Callable[[Tick], bool], *, timeout: float) -> Tick:
        """Return the first tick that satisfies `predicate`, which may be the latest known one.

        Stale ticks are not tested: an old price must not trigger an alert.

        Args:
            predicate: called with each fresh tick.
            timeout: seconds on the feed's clock. A poll in flight at the end is awaited first, except in a fleet.

        Raises:
            RequestTimeout: if no tick satisfied the predicate in time (also a `TimeoutError`). Its cause is the error
                of the latest poll, if that failed.
            ClientClosedError: if the feed is not running, or was closed during the wait.
            MintedConnectError: the error that ended the feed, if one did.
            InvalidInput: if `timeout` is not a finite number above 0, or `predicate` is not a plain function.
        """
        if not callable(predicate) or inspect.iscoroutinefunction(predicate):
            raise InvalidInput.of("predicate", "must be a plain function of a tick")
        timeout = validation.seconds("timeout", timeout)
        search = asyncio.ensure_future(self._first(predicate))
        timer = asyncio.ensure_future(self._wait_until(self._clock.monotonic() + timeout))
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

    async def alerts(
        self,
        *,
        above: Decimal | int | None = None,
        below: Decimal | int | None = None,
        price: PriceName = "spot",
        currency_id: int | None = None,
        metal: str | None = None,
        sku: str | None = None,
    ) -> AsyncGenerator[PriceAlert, None]:
        """Yield an alert when a price reaches a limit, for each currency.

        The first price counts, too. After an alert, the next one of the same limit comes when the price has been on the
        other side. Stale ticks are ignored: an old price must not trigger an alert.

        Args:
            above: alert at this price or a higher one, money per gram.
            below: alert at this price or a lower one, money per gram.
            price: which price: `spot`, `buy` (what the customer pays), or `sell`.
            currency_id: only this item currency.
            metal: only this metal (`gold`).
            sku: only the currency whose 1 g product has this sku.

        Raises:
            InvalidInput: if no limit is given, a limit is not a finite amount above 0, or `subscribe` rejects a filter.
            MintedConnectError: the error that ended the feed, if one did.
        """
        upper, lower = check_limits(above, below, price)
        ticks = self.subscribe(currency_id=currency_id, metal=metal, sku=sku, changes_only=True)
        async with aclosing(find_alerts(ticks, above=upper, below=lower, price=price)) as alerts:
            async for alert in alerts:
                yield alert

    async def _run(self) -> None:
        if self._fetch_history is None:
            await self._source.run(self._hub)
            return
        backfill = asyncio.create_task(self._backfill(self._fetch_history), name="minted_connect.feed.history")
        try:
            await self._source.run(self._hub)
        finally:
            await cancel_and_wait([backfill])

    async def _backfill(self, fetch_history: FetchHistory) -> None:
        """Fetch and publish the prices from before the feed. If that fails, subscribers begin with live ticks."""
        points: Iterable[RatePoint] = ()
        try:
            while not self._hub.ticks:
                await self._hub.wait(self._hub.create_waiter())
            points = await fetch_history([tick.rate for tick in self._hub.ticks.values()])
        except MintedConnectError as error:
            _log.warning("the feed starts without its history: %s: %s", type(error).__name__, error)
        finally:
            self._hub.backfill(points)

    async def _first(self, predicate: Callable[[Tick], bool]) -> Tick:
        async for tick in self.subscribe():
            if not tick.stale and predicate(tick):
                return tick
        raise ClientClosedError("the feed was closed before a tick satisfied the condition")

    async def _wait_until(self, deadline: float) -> None:
        """Wait until `deadline`, in monotonic seconds of the feed's clock."""
        while (remaining := deadline - self._clock.monotonic()) > 0:
            # A poll that is due before the deadline goes first: on a test clock whose sleep advances the time at once,
            # sleeping here would skip it.
            if self._hub.next_poll_at > deadline:
                await self._clock.sleep(remaining)
            else:
                await self._hub.wait(self._hub.create_waiter())
