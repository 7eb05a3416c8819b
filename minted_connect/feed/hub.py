"""Passes the rounds of a feed's source on to its subscriptions.

A subscription reads from the hub when its owner awaits the next tick. Without a buffer it stores only how far it has
read, so a slow, cancelled or abandoned subscriber costs the source and the other subscribers nothing, and needs no
clean-up.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from weakref import WeakSet

import attrs

from minted_connect.clock import Clock, TimerHandle, call_later
from minted_connect.errors import ClientClosedError
from minted_connect.feed.tick import OVERDUE_INTERVALS, Filter, Round, Tick
from minted_connect.models.rate import RatePoint

__all__ = ["Buffered", "Hub", "Latest", "Subscription"]


class Hub:
    """The state that a feed's source writes and its subscriptions read."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        # By currency id. Replaced by each round and never mutated, so that any thread may read it.
        self.ticks: dict[int, Tick] = {}
        self.history: tuple[Tick, ...] | None = None  # backfilled ticks, oldest first; None until `backfill`
        self.round: int = 0  # incremented whenever `ticks` is replaced
        self.next_poll_at: float = -math.inf  # monotonic seconds, while the source sleeps until its next poll
        self.task: asyncio.Task[None] | None = None  # runs the source; None until the feed is opened
        self.is_closed: bool = False
        # Weak, so that a subscription left with `break` is discarded with its last reference.
        self.buffered: WeakSet[Buffered] = WeakSet()
        self._first_rates_at: datetime | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._overdue_alarm: TimerHandle | None = None
        self._traceback: TracebackType | None = None  # of the error that ended the feed, when it was first raised

    def publish(self, new: Round) -> None:
        """Publish a round: its rates become fresh ticks, and the ticks of all other currencies become stale."""
        self._cancel_overdue_alarm()
        if new.rates:
            self._first_rates_at = self._first_rates_at or new.at
        ticks = self._stale_ticks()
        for rate in new.rates:
            previous = self.ticks.get(rate.currency_id)
            ticks[rate.currency_id] = Tick(
                rate,
                new.observed_at,
                new.at,
                None if previous is None else rate.spot_price - previous.spot,
                number=new.number,
                gap=new.gap,
                missed=new.missed,
                clock=self.clock,
            )
        self._replace_ticks(ticks)

    def set_overdue_alarm(self, next_poll_at: float, interval: float) -> None:
        """Make all ticks stale if no round is published within two intervals after the next poll starts.

        Args:
            next_poll_at: monotonic seconds of the feed's clock when the next poll starts.
            interval: seconds between two polls.
        """
        self._cancel_overdue_alarm()
        delay = max(0.0, next_poll_at - self.clock.monotonic()) + OVERDUE_INTERVALS * interval
        self._overdue_alarm = call_later(self.clock, delay, lambda: self._replace_ticks(self._stale_ticks()))

    def _cancel_overdue_alarm(self) -> None:
        if self._overdue_alarm is not None:
            self._overdue_alarm.cancel()

    def _stale_ticks(self) -> dict[int, Tick]:
        return {key: attrs.evolve(tick, change=None, stale=True) for key, tick in self.ticks.items()}

    def _replace_ticks(self, ticks: dict[int, Tick]) -> None:
        self.ticks = ticks
        self.round += 1
        for subscription in self.buffered:
            subscription.push(ticks.values())
        self._wake_waiters()

    def backfill(self, points: Iterable[RatePoint]) -> None:
        """Publish the prices from before the feed; skip points of unknown currencies and of the feed's own time."""
        history: list[Tick] = []
        previous: dict[int, Decimal] = {}  # spot price by currency id
        monotonic_now, now = self.clock.monotonic(), self.clock.wall()
        for point in sorted(points, key=lambda point: (point.time, point.currency_id)):
            known = self.ticks.get(point.currency_id)
            if known is None or (self._first_rates_at is not None and point.time >= self._first_rates_at):
                continue
            rate = attrs.evolve(
                known.rate,
                spot_price=point.spot_price,
                buy_price=point.buy_price,
                sell_price=point.sell_price,
                currency_code=point.currency_code,
                updated_at=point.time,
                raw=point.raw,
            )
            last = previous.get(point.currency_id)
            change = None if last is None else rate.spot_price - last
            previous[point.currency_id] = rate.spot_price
            age = (now - point.time).total_seconds()
            history.append(Tick(rate, monotonic_now - age, point.time, change, backfilled=True, clock=self.clock))
        self.history = tuple(history)
        self._wake_waiters()

    def raise_if_failed(self) -> None:
        """Raise the error that ended the feed, if one did."""
        task = self.task
        if not self.is_closed or task is None or not task.done() or task.cancelled():
            return
        if (error := task.exception()) is not None:
            # Otherwise each raise would append its frames to those of every subscriber that raised it before.
            self._traceback = self._traceback or error.__traceback__
            raise error.with_traceback(self._traceback)

    def create_waiter(self) -> asyncio.Future[None]:
        """Return a future that is completed when subscriptions may have a tick, or when the feed is closed.

        Each caller needs its own: cancelling a task cancels the future that it awaits.

        Raises:
            ClientClosedError: if the feed is not running, or runs on another event loop.
        """
        loop = asyncio.get_running_loop()
        if self.task is None:
            raise ClientClosedError("the feed is not running: start it with `async with feed`")
        if self.task.get_loop() is not loop:
            raise ClientClosedError("the feed runs on another event loop: use it there, or make one here")
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        return waiter

    async def wait(self, waiter: asyncio.Future[None]) -> None:
        """Wait for a future of `create_waiter`; forget it also if the caller is cancelled."""
        try:
            await waiter
        finally:
            self.discard_waiter(waiter)

    def discard_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Forget a future of `create_waiter`."""
        self._waiters.discard(waiter)

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _complete(waiter)

    def close(self, task: asyncio.Task[None] | None = None) -> None:
        """Mark the feed as closed and wake all waiters. Idempotent.

        Args:
            task: the task that has ended, when called as its done callback.
        """
        self.is_closed = True
        self._cancel_overdue_alarm()
        if task is not None and not task.cancelled():
            # Retrieve the error, or the event loop would log it as never retrieved if nothing calls
            # `raise_if_failed`: leaving `async with feed` with another error does not.
            task.exception()
        self._wake_waiters()


def _complete(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Subscription(AsyncIterator[Tick]):
    """Async iterator over the ticks of one subscriber.

    It ends when the feed is closed and its buffer is empty, and raises the error that ended the feed, if one did. It
    raises `InvalidInput` once the rates are known and none of them matches the filter.

    Successive `anext` calls may come from different tasks of the feed's event loop. Leaving the iteration with `break`,
    or being cancelled in it, needs no clean-up, and a cancelled `anext` loses no tick.
    """

    def __init__(self, hub: Hub, matches: Filter, *, changes_only: bool, history: bool) -> None:
        self._dropped = 0
        self._hub = hub
        self._history: deque[Tick] | None = deque() if history else None  # ticks left to return; None if done
        self._matches = matches
        self._changes_only = changes_only
        self._accepted: dict[int, Tick] = {}  # the last tick of each currency
        self._waiter: asyncio.Future[None] | None = None
        self._is_closed = False

    async def __anext__(self) -> Tick:
        while not self._is_closed:
            tick = self._next()
            if tick is not None:
                return tick
            self._hub.raise_if_failed()
            if self._hub.is_closed:
                break
            if not self._accepted and self._hub.ticks:
                self._matches.check_matches([known.rate for known in self._hub.ticks.values()])
            self._waiter = waiter = self._hub.create_waiter()
            try:
                # Not `Hub.wait`: one more coroutine for each of thousands of subscribers takes a tenth of the time.
                await waiter
            finally:
                self._hub.discard_waiter(waiter)
        raise StopAsyncIteration

    def ready(self) -> list[Tick]:
        """Return the ticks that are available now, without waiting."""
        ticks: list[Tick] = []
        while (tick := self._next()) is not None:
            ticks.append(tick)
        return ticks

    def _next(self) -> Tick | None:
        return self._next_live() if self._history is None else self._next_backfilled()

    async def aclose(self) -> None:
        """End this subscription, also for a task that waits in `anext`. Idempotent."""
        self._is_closed = True
        if self._waiter is not None:
            _complete(self._waiter)

    @abstractmethod
    def _next_live(self) -> Tick | None:
        """Return the next tick of the feed's own polls if one is available."""

    def _next_backfilled(self) -> Tick | None:
        """Return the next backfilled tick, or the next live one after the last; None if it is not available yet."""
        if self._hub.history is None:
            return None
        if not self._history:
            self._history = deque(filter(self._history_filter(), self._hub.history))
        tick = self._history.popleft() if self._history else None
        if not self._history:
            self._history = None
        return self._next_live() if tick is None else tick

    def _history_filter(self) -> Callable[[Tick], bool]:
        previous: dict[int, Tick] = {}

        def accept(tick: Tick) -> bool:
            last = previous.get(tick.rate.currency_id)
            previous[tick.rate.currency_id] = tick
            return self._matches(tick.rate) and not (self._changes_only and last is not None and _is_same(last, tick))

        return accept

    @property
    def dropped(self) -> int:
        """Number of ticks lost because the buffer was full; always 0 without a buffer."""
        return self._dropped

    def _accept(self, tick: Tick) -> bool:
        """Return whether to deliver `tick`: it matches and is new to the subscriber. If so, remember it."""
        if not self._matches(tick.rate):
            return False
        last = self._accepted.get(tick.rate.currency_id)
        if last is tick or (self._changes_only and last is not None and _is_same(last, tick)):
            return False
        self._accepted[tick.rate.currency_id] = tick
        return True


class Latest(Subscription):
    """Reads the latest ticks from the hub, and skips those replaced since its last read."""

    def __init__(self, hub: Hub, matches: Filter, *, changes_only: bool, history: bool) -> None:
        super().__init__(hub, matches, changes_only=changes_only, history=history)
        self._round = 0
        # Ids of the currencies not read yet in this pass. Each pass covers all of them before the first one is read
        # again: otherwise a slow subscriber would only ever get the first currency.
        self._unread: deque[int] = deque()

    def _next_live(self) -> Tick | None:
        self._hub.raise_if_failed()
        if self._hub.is_closed:
            return None
        while self._unread or self._round < self._hub.round:
            if not self._unread:
                self._round = self._hub.round
                self._unread.extend(self._hub.ticks)
                continue
            tick = self._hub.ticks[self._unread.popleft()]
            if self._accept(tick):
                return tick
        return None


class Buffered(Subscription):
    """Has its ticks buffered by the hub; they can still be read after the feed has ended."""

    def __init__(self, hub: Hub, matches: Filter, *, changes_only: bool, history: bool, size: int) -> None:
        super().__init__(hub, matches, changes_only=changes_only, history=history)
        self._buffer: deque[Tick] = deque(maxlen=size)
        self.push(hub.ticks.values())
        hub.buffered.add(self)

    def push(self, ticks: Iterable[Tick]) -> None:
        """Buffer the accepted ticks; drop the oldest ones of a full buffer."""
        for tick in filter(self._accept, ticks):
            self._dropped += len(self._buffer) == self._buffer.maxlen
            self._buffer.append(tick)

    async def aclose(self) -> None:
        """End this subscription and discard its buffer. Idempotent."""
        self._hub.buffered.discard(self)
        self._buffer.clear()
        await super().aclose()

    def _next_live(self) -> Tick | None:
        return self._buffer.popleft() if self._buffer else None


def _is_same(one: Tick, other: Tick) -> bool:
    """Return whether two ticks of a currency have the same prices and the same staleness."""
    return (one.spot, one.buy, one.sell, one.stale) == (other.spot, other.buy, other.sell, other.stale)
