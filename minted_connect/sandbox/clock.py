"""Clocks of the sandbox: the machine's own, and one that tests move by hand.

Client and sandbox share one clock object by structural typing: `monotonic()`, `wall()` and `sleep()`. The shop's own
time runs on `elapsed()`, which goes on while the client's machine sleeps.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from attrs import define

START = datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
"""Where a `ManualClock` starts: `order_at` of the documented basket (api-26503573, 2026-01-22)."""


class Clock(Protocol):
    """Says what time it is, and waits.

    A clock may also offer `elapsed()`, as `monotonic()` but running on while the machine sleeps. Without it the shop's
    time is `monotonic()`.
    """

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of `monotonic()`."""
        ...


def _boot_time() -> float:
    if sys.platform == "linux":  # the only platform on which Python has this clock
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start."""
        return time.monotonic()

    def elapsed(self) -> float:
        """Return seconds from an arbitrary start, those in which the machine slept included, where it counts them."""
        return _boot_time()

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of real time."""
        await asyncio.sleep(seconds)


class MovableClock(SystemClock):
    """The clock of the machine, which can be moved forward by hand."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, those it was moved by included."""
        return time.monotonic() + self._ahead

    def elapsed(self) -> float:
        """Return seconds from an arbitrary start, those in which the machine slept and it was moved by included."""
        return super().elapsed() + self._ahead

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC, as far ahead as it was moved."""
        return datetime.now(UTC) + timedelta(seconds=self._ahead)

    def advance(self, seconds: float) -> None:
        """Move it forward, from any thread. Only `sleep_elapsed()` notices; `sleep()` waits for real."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back")
        with self._lock:
            self._ahead += seconds
            waiting = list(self._waiting)
        for loop, moved in waiting:
            with contextlib.suppress(RuntimeError):  # that loop is closed already
                loop.call_soon_threadsafe(moved.set)

    async def sleep_elapsed(self, seconds: float) -> None:
        """Wait until `elapsed()` has moved by `seconds`, in real time or by hand."""
        due, moved = self.elapsed() + seconds, asyncio.Event()
        waiter = (asyncio.get_running_loop(), moved)
        with self._lock:
            self._waiting.add(waiter)
        try:
            while (left := due - self.elapsed()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(moved.wait(), left)
                moved.clear()
        finally:
            with self._lock:
                self._waiting.discard(waiter)


@define(eq=False)
class Alarm:
    """A callback that a `ManualClock` has still to make; `runs_on`: `due` counts `elapsed()`, not `monotonic()`."""

    due: float
    runs_on: bool
    _loop: asyncio.AbstractEventLoop
    _callback: Callable[[], object]
    _forget: Callable[["Alarm"], None]
    is_sleep: bool
    _cancelled: bool = False

    def cancel(self) -> None:
        """Call nothing any more, also if it is due already: on its own loop, and more than once."""
        self._cancelled = True
        self._forget(self)

    def ring(self) -> None:
        """Have the callback called on its loop, from any thread."""
        with contextlib.suppress(RuntimeError):  # that loop is closed already
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        if not self._cancelled:
            self._callback()


class ManualClock:
    """A clock that stands still until it is told to move.

    `advance()` may be called from any thread, also while somebody waits on the event loop of another one.

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
        self._suspended = 0.0
        self._alarms: dict[Alarm, None] = {}

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    def elapsed(self) -> float:
        """Return the seconds advanced and suspended so far."""
        with self._lock:
            return self._monotonic + self._suspended

    def wall(self) -> datetime:
        """Return the date and time, aware, UTC."""
        with self._lock:
            return self._start + timedelta(seconds=self._monotonic + self._suspended + self._jumped)

    @property
    def sleepers(self) -> int:
        """How many `sleep()` calls wait for the clock to move."""
        with self._lock:
            return sum(alarm.is_sleep for alarm in self._alarms)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        await self._sleep(seconds, runs_on=False)

    async def sleep_elapsed(self, seconds: float) -> None:
        """Wait until `elapsed()` has moved by `seconds`, as a server does while the client's machine sleeps."""
        await self._sleep(seconds, runs_on=True)

    async def _sleep(self, seconds: float, *, runs_on: bool) -> None:
        self.sleeps.append(seconds)
        if seconds <= 0 or self.auto_advance:
            self.advance(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        alarm = self._set(seconds, woken.set, is_sleep=True, runs_on=runs_on)
        try:
            await woken.wait()
        finally:
            alarm.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Have `callback()` called on the running event loop once the clock was advanced that far.

        Nothing but `advance()` and the `sleep()` of an `auto_advance` clock moves it there. What is returned has a
        `cancel()`.
        """
        return self._set(seconds, callback, is_sleep=False, runs_on=False)

    def call_later_elapsed(self, seconds: float, callback: Callable[[], object]) -> Alarm:
        """Do as `call_later`, but count `elapsed()`, which `suspend()` also moves."""
        return self._set(seconds, callback, is_sleep=False, runs_on=True)

    def advance(self, seconds: float) -> None:
        """Move all clocks forward and make the calls that are due, earliest first."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back; see jump_wall()")
        self._move(monotonic=seconds, suspended=0.0)

    def suspend(self, seconds: float) -> None:
        """Let the client's machine sleep: `wall()` and `elapsed()` move forward, `monotonic()` stands still."""
        if seconds < 0:
            raise ValueError("seconds must not be negative; see jump_wall()")
        self._move(monotonic=0.0, suspended=seconds)

    def _move(self, *, monotonic: float, suspended: float) -> None:
        with self._lock:
            self._monotonic += monotonic
            self._suspended += suspended
            left = {alarm: alarm.due - self._now(runs_on=alarm.runs_on) for alarm in self._alarms}
            due = sorted((alarm for alarm in left if left[alarm] <= 0), key=left.__getitem__)
            for alarm in due:
                del self._alarms[alarm]
        for alarm in due:
            alarm.ring()

    def _now(self, *, runs_on: bool) -> float:
        return self._monotonic + self._suspended if runs_on else self._monotonic

    def jump_wall(self, seconds: float) -> None:
        """Move only the wall clock, either way, as a clock correction does."""
        with self._lock:
            self._jumped += seconds

    def _set(self, seconds: float, callback: Callable[[], object], *, is_sleep: bool, runs_on: bool) -> Alarm:
        with self._lock:
            now = self._now(runs_on=runs_on)
            alarm = Alarm(now + seconds, runs_on, asyncio.get_running_loop(), callback, self._forget, is_sleep)
            self._alarms[alarm] = None
        if alarm.due <= now:
            self.advance(0)
        return alarm

    def _forget(self, alarm: Alarm) -> None:
        with self._lock:
            self._alarms.pop(alarm, None)


class Monotonic(Protocol):
    """The least that a clock has to offer."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""
        ...


def elapsed(clock: Monotonic) -> float:
    """Return the clock's `elapsed()`, or its `monotonic()` where it has none."""
    found: Callable[[], float] = getattr(clock, "elapsed", clock.monotonic)
    return found()


async def sleep_elapsed(clock: Clock, seconds: float) -> None:
    """Wait for seconds of `elapsed()` where the clock can, else of `monotonic()`."""
    sleep: Callable[[float], Awaitable[None]] = getattr(clock, "sleep_elapsed", clock.sleep)
    await sleep(seconds)


async def passed(clock: Clock, seconds: float) -> None:
    """Wait for seconds of the shop's time, without moving a clock that moves when it sleeps."""
    call_later = getattr(clock, "call_later_elapsed", getattr(clock, "call_later", None))
    if call_later is None:
        await sleep_elapsed(clock, seconds)
        return
    due = asyncio.Event()
    alarm = call_later(seconds, due.set)
    try:
        await due.wait()
    finally:
        alarm.cancel()
