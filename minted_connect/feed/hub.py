"""Where the poller of a feed posts its rounds, and what the subscribers see of them.

Subscriptions read the board when their owner asks for the next tick. One without a buffer is therefore nothing
but a reader's place on the board: if it is slow, cancelled or forgotten, that costs the poller and the other
subscribers nothing, and needs no clean-up.
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

from minted_connect.clock import Clock
from minted_connect.errors import ClientClosedError
from minted_connect.feed.tick import Filter, Round, Tick
from minted_connect.models.rate import RatePoint

__all__ = ["Buffered", "Hub", "Latest", "Subscription"]


class Hub:
    """What the poller writes and the subscriptions read."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ticks: dict[int, Tick] = {}  # by currency; replaced each round, never changed, so any thread may read it
        self.past: tuple[Tick, ...] | None = None  # from Rate History, oldest first; None until it is known
        self.begun: datetime | None = None  # when the first rates came
        self.round: int = 0
        self.due: float = -math.inf  # when the next poll starts, while the poller waits for it
        self.poller: asyncio.Task[None] | None = None
        self.closed: bool = False
        # Weak, so that a subscription left by `break` is forgotten with its last reference.
        self.buffered: WeakSet[Buffered] = WeakSet()
        self._waiting: set[asyncio.Future[None]] = set()
        self._traceback: TracebackType | None = None  # of the error that ended the poller, as it left it

    def publish(self, posted: Round) -> None:
        """Put up the next round: its rates fresh, every other known one stale."""
        if posted.rates:
            self.begun = self.begun or posted.at
        ticks = {key: attrs.evolve(tick, change=None, stale=True) for key, tick in self.ticks.items()}
        for rate in posted.rates:
            before = self.ticks.get(rate.currency_id)
            ticks[rate.currency_id] = Tick(
                rate,
                posted.observed_at,
                posted.at,
                None if before is None else rate.spot_price - before.spot,
                number=posted.number,
                gap=posted.gap,
                missed=posted.missed,
                clock=self.clock,
            )
        self.ticks = ticks
        self.round += 1
        for subscription in self.buffered:
            subscription.push(ticks.values())
        self.wake()

    def backfill(self, points: Iterable[RatePoint]) -> None:
        """Put up what was before the feed; other currencies than its own, and later times, are left out."""
        past: list[Tick] = []
        before: dict[int, Decimal] = {}
        now, today = self.clock.monotonic(), self.clock.wall()
        for point in sorted(points, key=lambda point: (point.time, point.currency_id)):
            known = self.ticks.get(point.currency_id)
            if known is None or (self.begun is not None and point.time >= self.begun):
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
            change = None if (last := before.get(point.currency_id)) is None else rate.spot_price - last
            before[point.currency_id] = rate.spot_price
            age = (today - point.time).total_seconds()
            past.append(Tick(rate, now - age, point.time, change, backfilled=True, clock=self.clock))
        self.past = tuple(past)
        self.wake()

    def raise_if_failed(self) -> bool:
        """Tell whether no tick will come any more; raise what ended the feed if it was an error."""
        if not self.closed:
            return False
        poller = self.poller
        if (
            poller is not None
            and poller.done()
            and not poller.cancelled()
            and (error := poller.exception()) is not None
        ):
            # Without this, each raise would add its frames to those of every subscriber that raised it before.
            self._traceback = self._traceback or error.__traceback__
            raise error.with_traceback(self._traceback)
        return True

    def waiter(self) -> asyncio.Future[None]:
        """Return a future that the next round, or the end, completes.

        One for each waiter: cancelling a task cancels the future it awaits, so none can be shared.
        """
        loop = asyncio.get_running_loop()
        if self.poller is None:
            raise ClientClosedError("the feed is not running: start it with `async with feed`")
        if self.poller.get_loop() is not loop:
            raise ClientClosedError("the feed runs on another event loop: use it there, or make one here")
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.add(waiter)
        return waiter

    async def wait(self, waiter: asyncio.Future[None]) -> None:
        """Wait for one of `waiter()`; being cancelled meanwhile leaves nothing behind."""
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def wake(self) -> None:
        """Complete every waiter."""
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            _complete(waiter)

    def end(self, poller: asyncio.Task[None] | None = None) -> None:
        """Close the board and tell everybody."""
        self.closed = True
        if poller is not None and not poller.cancelled():
            # Taken note of: `over` raises it where somebody listens, and leaving the feed does otherwise. The loop
            # would complain, at some later time, of an error that the error of the `async with` body has outrun.
            poller.exception()
        self.wake()


def _complete(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Subscription(AsyncIterator[Tick]):
    """The ticks of one subscriber; ends when the feed closes, and raises what ended the feed otherwise.

    Each `anext` may come from another task of the feed's event loop. Leaving the loop with `break`, or being
    cancelled in it, needs no clean-up; a cancelled `anext` loses no tick. It raises InvalidInput once the rates are
    known and none of them is what was asked for.
    """

    def __init__(self, hub: Hub, wanted: Filter, *, changes_only: bool, history: bool) -> None:
        self._dropped = 0
        self._hub = hub
        self._past: deque[Tick] | None = deque() if history else None  # None once there is none left
        self._wanted = wanted
        self._changes_only = changes_only
        self._seen: dict[int, Tick] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    async def __anext__(self) -> Tick:
        while not self._closed:
            tick = self._next()
            if tick is not None:
                return tick
            if self._hub.raise_if_failed():
                break
            if not self._seen and self._hub.ticks:
                self._wanted.check([known.rate for known in self._hub.ticks.values()])
            self._waiter = self._hub.waiter()
            await self._hub.wait(self._waiter)
        raise StopAsyncIteration

    def ready(self) -> list[Tick]:
        """Take what is there already, without waiting."""
        taken: list[Tick] = []
        while (tick := self._next()) is not None:
            taken.append(tick)
        return taken

    def _next(self) -> Tick | None:
        return self._take() if self._past is None else self._next_of_the_past()

    async def aclose(self) -> None:
        """End this subscription, also for a task that waits in `anext`; may be called again."""
        self._closed = True
        if self._waiter is not None:
            _complete(self._waiter)

    @abstractmethod
    def _take(self) -> Tick | None:
        """Return the next tick if there is one already."""

    def _next_of_the_past(self) -> Tick | None:
        """Return the next tick from before the feed; None while they are not known."""
        if self._hub.past is None:
            return None
        if not self._past:
            self._past = deque(filter(self._is_past_news(), self._hub.past))
        tick = self._past.popleft() if self._past else None
        if not self._past:
            self._past = None
        return self._take() if tick is None else tick

    def _is_past_news(self) -> Callable[[Tick], bool]:
        last: dict[int, Tick] = {}

        def is_news(tick: Tick) -> bool:
            before = last.get(tick.rate.currency_id)
            last[tick.rate.currency_id] = tick
            return self._wanted(tick.rate) and not (self._changes_only and before is not None and _alike(before, tick))

        return is_news

    @property
    def dropped(self) -> int:
        """Ticks lost because the buffer was full; always 0 without a buffer."""
        return self._dropped

    def _is_news(self, tick: Tick) -> bool:
        """Tell whether the subscriber asked for this tick and has not had it, and remember that it has now."""
        if not self._wanted(tick.rate):
            return False
        last = self._seen.get(tick.rate.currency_id)
        if last is tick or (self._changes_only and last is not None and _alike(last, tick)):
            return False
        self._seen[tick.rate.currency_id] = tick
        return True


class Latest(Subscription):
    """Reads the board itself: whatever was posted meanwhile is skipped."""

    def __init__(self, hub: Hub, wanted: Filter, *, changes_only: bool, history: bool) -> None:
        super().__init__(hub, wanted, changes_only=changes_only, history=history)
        self._round = 0
        # The currencies not yet looked at in this turn. All of them have theirs before the first comes again:
        # otherwise a slow subscriber would only ever see the first one.
        self._turn: deque[int] = deque()

    def _take(self) -> Tick | None:
        if self._hub.raise_if_failed():
            return None
        while self._turn or self._round < self._hub.round:
            if not self._turn:
                self._round = self._hub.round
                self._turn.extend(self._hub.ticks)
                continue
            tick = self._hub.ticks[self._turn.popleft()]
            if self._is_news(tick):
                return tick
        return None


class Buffered(Subscription):
    """Has its ticks put aside by the poller; what is buffered can still be read after the end."""

    def __init__(self, hub: Hub, wanted: Filter, *, changes_only: bool, history: bool, size: int) -> None:
        super().__init__(hub, wanted, changes_only=changes_only, history=history)
        self._buffer: deque[Tick] = deque(maxlen=size)
        self.push(hub.ticks.values())
        hub.buffered.add(self)

    def push(self, ticks: Iterable[Tick]) -> None:
        """Keep those of these ticks that are wanted; the oldest make room."""
        for tick in filter(self._is_news, ticks):
            self._dropped += len(self._buffer) == self._buffer.maxlen
            self._buffer.append(tick)

    async def aclose(self) -> None:
        """End this subscription and forget what is buffered; may be called again."""
        self._hub.buffered.discard(self)
        self._buffer.clear()
        await super().aclose()

    def _take(self) -> Tick | None:
        return self._buffer.popleft() if self._buffer else None


def _alike(one: Tick, other: Tick) -> bool:
    """Tell whether two ticks of a currency show the same prices and the same staleness."""
    return (one.spot, one.buy, one.sell, one.stale) == (other.spot, other.buy, other.sell, other.stale)
