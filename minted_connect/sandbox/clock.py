"""Clocks of the sandbox: the clock of the machine, and clocks that a test moves.

Client and sandbox can share one clock, by structural typing: `monotonic()`, `wall()` and `sleep()`. The shop's time is
`elapsed()`, which continues while the client's machine is suspended.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec, module_from_spec
from types import BuiltinFunctionType
from typing import Protocol

from attrs import define

START = datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
"""First wall time of a `ManualClock`: `order_at` of the documented basket (api-26503573, 2026-01-22)."""


def _load_monotonic() -> Callable[[], float]:
    # A private copy of the module: libraries such as freezegun replace `time.monotonic` in every module they find.
    spec = find_spec("time")
    if spec is None or spec.loader is None:
        return time.monotonic
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[], float] = module.monotonic
    return function


real_monotonic: Callable[[], float] = _load_monotonic()
"""`time.monotonic`, also while a library has frozen time."""


class Clock(Protocol):
    """A source of time, with a way to wait.

    A clock may also have `elapsed()`: like `monotonic()`, but it continues while the machine is suspended. Without it,
    the shop's time is `monotonic()`.
    """

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""
        ...

    def wall(self) -> datetime:
        """Return the current date and time, aware, UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of `monotonic()`."""
        ...


def _boot_time() -> float:
    if sys.platform == "linux":  # the only platform on which Python has this clock
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return real_monotonic()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, at most for these seconds of real time."""
    if type(time.monotonic) is BuiltinFunctionType:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        return
    # A library has frozen time, and with it the timers of the event loop.
    timer = threading.Timer(seconds, asyncio.get_running_loop().call_soon_threadsafe, (event.set,))
    timer.daemon = True
    timer.start()
    try:
        await event.wait()
    finally:
        timer.cancel()


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start."""
        return real_monotonic()

    def elapsed(self) -> float:
        """Return seconds since an arbitrary start; on Linux they include the time the machine was suspended."""
        return _boot_time()

    def wall(self) -> datetime:
        """Return the current date and time, aware, UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of real time."""
        await _wait(asyncio.Event(), seconds)


class MovableClock(SystemClock):
    """The clock of the machine, which can also be advanced."""

    def __init__(self) -> None:
        self._advanced = 0.0
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start, advanced seconds included."""
        return real_monotonic() + self._advanced

    def elapsed(self) -> float:
        """Return seconds as `SystemClock.elapsed` does, advanced seconds included."""
        return super().elapsed() + self._advanced

    def wall(self) -> datetime:
        """Return the current date and time, aware, UTC, plus the advanced seconds."""
        return datetime.now(UTC) + timedelta(seconds=self._advanced)

    def advance(self, seconds: float) -> None:
        """Move the clock forward, from any thread. This ends waits in `sleep_elapsed()`, but not in `sleep()`."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back")
        with self._lock:
            self._advanced += seconds
            waiting = list(self._waiting)
        for loop, moved in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(moved.set)

    async def sleep_elapsed(self, seconds: float) -> None:
        """Wait for `seconds` of `elapsed()`, which pass in real time or by `advance()`."""
        due, moved = self.elapsed() + seconds, asyncio.Event()
        waiter = (asyncio.get_running_loop(), moved)
        with self._lock:
            self._waiting.add(waiter)
        try:
            while (left := due - self.elapsed()) > 0:
                await _wait(moved, left)
                moved.clear()
        finally:
            with self._lock:
                self._waiting.discard(waiter)


@define(eq=False)
class TimerHandle:
    """A pending callback of a `ManualClock`. `due` counts `elapsed()` if `uses_elapsed`, else `monotonic()`."""

    due: float
    uses_elapsed: bool
    _loop: asyncio.AbstractEventLoop
    _callback: Callable[[], object]
    _discard: Callable[["TimerHandle"], None]
    is_sleep: bool
    _is_cancelled: bool = False

    def cancel(self) -> None:
        """Cancel the callback, also if it is due but has not run. Idempotent; call it on the loop of the callback."""
        self._is_cancelled = True
        self._discard(self)

    def fire(self) -> None:
        """Schedule the callback on its loop, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        if not self._is_cancelled:
            self._callback()


class ManualClock:
    """A clock that moves only when a test moves it, or with `auto_advance` when something sleeps.

    `advance()` may be called from any thread, also while another thread's event loop waits in `sleep()`.

    Args:
        start: first value of `wall()`, aware.
        auto_advance: make `sleep()` advance the clock by itself and return at once.

    Attributes:
        sleeps: the argument of every `sleep()` and `sleep_elapsed()`, in order.
    """

    def __init__(self, start: datetime = START, auto_advance: bool = False) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be an aware datetime")
        self.auto_advance = auto_advance
        self.sleeps: list[float] = []
        self._lock = threading.Lock()
        self._monotonic = 0.0
        self._start = start.astimezone(UTC)
        self._wall_offset = 0.0
        self._suspended = 0.0
        self._timers: dict[TimerHandle, None] = {}

    def monotonic(self) -> float:
        """Return the seconds advanced so far."""
        return self._monotonic

    def elapsed(self) -> float:
        """Return the seconds advanced and suspended so far."""
        with self._lock:
            return self._monotonic + self._suspended

    def wall(self) -> datetime:
        """Return the current date and time, aware, UTC."""
        with self._lock:
            return self._start + timedelta(seconds=self._monotonic + self._suspended + self._wall_offset)

    @property
    def sleepers(self) -> int:
        """The number of `sleep()` and `sleep_elapsed()` calls that wait for the clock to move."""
        with self._lock:
            return sum(timer.is_sleep for timer in self._timers)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        await self._sleep(seconds, uses_elapsed=False)

    async def sleep_elapsed(self, seconds: float) -> None:
        """Wait until `elapsed()` has moved by `seconds`, as a server does while the client's machine is suspended."""
        await self._sleep(seconds, uses_elapsed=True)

    async def _sleep(self, seconds: float, *, uses_elapsed: bool) -> None:
        self.sleeps.append(seconds)
        if seconds <= 0 or self.auto_advance:
            self.advance(max(seconds, 0.0))
            await asyncio.sleep(0)
            return
        due = asyncio.Event()
        timer = self._add_timer(seconds, due.set, is_sleep=True, uses_elapsed=uses_elapsed)
        try:
            await due.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Schedule `callback()` on the running event loop for when the clock has been advanced by `seconds`.

        The callback runs only when `advance()`, or a sleep with `auto_advance`, moves the clock that far. The handle
        has a `cancel()`.
        """
        return self._add_timer(seconds, callback, is_sleep=False, uses_elapsed=False)

    def call_later_elapsed(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Do as `call_later`, but count `elapsed()`, which `suspend()` also moves."""
        return self._add_timer(seconds, callback, is_sleep=False, uses_elapsed=True)

    def advance(self, seconds: float) -> None:
        """Move all clocks forward and schedule the callbacks that are due on their event loops, earliest first."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back; see jump_wall()")
        self._move(monotonic=seconds, suspended=0.0)

    def suspend(self, seconds: float) -> None:
        """Simulate a suspended machine: `wall()` and `elapsed()` move forward, `monotonic()` does not."""
        if seconds < 0:
            raise ValueError("seconds must not be negative; see jump_wall()")
        self._move(monotonic=0.0, suspended=seconds)

    def _move(self, *, monotonic: float, suspended: float) -> None:
        with self._lock:
            self._monotonic += monotonic
            self._suspended += suspended
            left = {timer: timer.due - self._now(uses_elapsed=timer.uses_elapsed) for timer in self._timers}
            due = sorted((timer for timer in left if left[timer] <= 0), key=left.__getitem__)
            for timer in due:
                del self._timers[timer]
        for timer in due:
            timer.fire()

    def _now(self, *, uses_elapsed: bool) -> float:
        return self._monotonic + self._suspended if uses_elapsed else self._monotonic

    def jump_wall(self, seconds: float) -> None:
        """Move only the wall clock, forward or back, as a clock correction does."""
        with self._lock:
            self._wall_offset += seconds

    def _add_timer(
        self, seconds: float, callback: Callable[[], object], *, is_sleep: bool, uses_elapsed: bool
    ) -> TimerHandle:
        with self._lock:
            now = self._now(uses_elapsed=uses_elapsed)
            loop = asyncio.get_running_loop()
            timer = TimerHandle(now + seconds, uses_elapsed, loop, callback, self._discard, is_sleep)
            self._timers[timer] = None
        if timer.due <= now:
            self.advance(0)
        return timer

    def _discard(self, timer: TimerHandle) -> None:
        with self._lock:
            self._timers.pop(timer, None)


class Monotonic(Protocol):
    """The minimal clock."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never decreases."""
        ...


def elapsed(clock: Monotonic) -> float:
    """Return the clock's `elapsed()`, or its `monotonic()` if it has no `elapsed()`."""
    read: Callable[[], float] = getattr(clock, "elapsed", clock.monotonic)
    return read()


async def sleep_elapsed(clock: Clock, seconds: float) -> None:
    """Wait for seconds of `elapsed()` if the clock can, else of `monotonic()`."""
    sleep: Callable[[float], Awaitable[None]] = getattr(clock, "sleep_elapsed", clock.sleep)
    await sleep(seconds)


async def wait_elapsed(clock: Clock, seconds: float) -> None:
    """Wait for seconds of the shop's time; with `auto_advance`, wait until something else moves the clock."""
    call_later = getattr(clock, "call_later_elapsed", getattr(clock, "call_later", None))
    if call_later is None:
        await sleep_elapsed(clock, seconds)
        return
    due = asyncio.Event()
    timer = call_later(seconds, due.set)
    try:
        await due.wait()
    finally:
        timer.cancel()
