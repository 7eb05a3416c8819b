"""Clocks of the sandbox: the machine's own, and one that tests move by hand.

Client and sandbox share one clock object by structural typing: `monotonic()`, `wall()` and `sleep()`.
"""

import asyncio
import contextlib
import heapq
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

START = datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
"""Where a `ManualClock` starts: `order_at` of the documented basket (api-26503573, 2026-01-22)."""


class Clock(Protocol):
    """Says what time it is, and waits."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of `monotonic()`."""
        ...


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""
        return time.monotonic()

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of real time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is told to move.

    `advance()` may be called from any thread, also while sleepers wait on the event loop of another one.

    Args:
        start: first value of `wall()`, aware.
        auto_advance: let `sleep()` move the clock itself, so that nothing waits for real.

    Attributes:
        sleeps: the seconds of every `sleep()` asked for, in order.
    """

    def __init__(self, start: datetime = START, auto_advance: bool = False) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime")
        self.auto_advance = auto_advance
        self.sleeps: list[float] = []
        self._lock = threading.Lock()
        self._monotonic = 0.0
        self._start = start.astimezone(UTC)
        self._jumped = 0.0
        self._order = 0
        self._sleepers: list[tuple[float, int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        with self._lock:
            return self._start + timedelta(seconds=self._monotonic + self._jumped)

    @property
    def sleepers(self) -> int:
        """How many `sleep()` calls wait for the clock to move."""
        with self._lock:
            return sum(not future.done() for *_, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        self.sleeps.append(seconds)
        if seconds <= 0 or self.auto_advance:
            self.advance(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._order += 1
            heapq.heappush(self._sleepers, (self._monotonic + seconds, self._order, loop, future))
        await future

    def advance(self, seconds: float) -> None:
        """Move both clocks forward and wake whoever is due, earliest first."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back; see jump_wall()")
        with self._lock:
            self._monotonic += seconds
            due: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
            while self._sleepers and self._sleepers[0][0] <= self._monotonic:
                *_, loop, future = heapq.heappop(self._sleepers)
                due.append((loop, future))
        for loop, future in due:
            with contextlib.suppress(RuntimeError):  # the sleeper's loop is closed already
                loop.call_soon_threadsafe(_wake, future)

    def jump_wall(self, seconds: float) -> None:
        """Move only the wall clock, either way, as a clock correction does."""
        with self._lock:
            self._jumped += seconds


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
