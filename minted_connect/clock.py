"""Clocks and the waits that use them: sleep, timeout, timer, and elapsed time that includes suspend.

A test can replace the clock of a client (`Options.clock`) with one that moves faster than real time.

Libraries that freeze time in tests, such as freezegun, replace `time.monotonic` in every module, which also stops the
timers of an asyncio event loop. Deadlines must not stop: `monotonic` comes from a private copy of the module `time`,
and while the timers of the loop stand still, a thread replaces them. Only `wall` is frozen.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec, module_from_spec
from types import BuiltinFunctionType
from typing import Final, Protocol

__all__ = [
    "SYSTEM_CLOCK",
    "Clock",
    "ElapsedTime",
    "SystemClock",
    "TimerHandle",
    "call_later",
    "follows_event_loop",
    "monotonic",
    "sleep",
    "sleep_until",
    "timeout",
]

_MIN_JUMP: Final = 0.5
"""Seconds by which the wall clock must run ahead of the monotonic clock between two readings to count as a jump."""


_MAX_LOOP_OFFSET: Final = 60.0
"""Seconds by which the clock of an event loop may differ from `monotonic` while `time.monotonic` is replaced."""


def _load_monotonic() -> Callable[[], float]:
    # A new module object, so that this also works if the package is imported while time is frozen.
    spec = find_spec("time")
    if spec is None or spec.loader is None:
        return time.monotonic
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[[], float] = module.monotonic
    return function


monotonic: Final = _load_monotonic()
"""`time.monotonic`, also while a library has frozen time."""


class Clock(Protocol):
    """Source of all times of a client, so that a test can move them.

    A clock may also have `elapsed()`: seconds that include the time the machine is suspended, for the age of price
    locks. Without this method, forward jumps of `wall` count as such seconds.

    It may also have `call_later(seconds, callback)`, which returns an object with a `cancel()` method and calls
    `callback()` on the running event loop once `monotonic` has advanced that far. Requests then time out on this clock
    as well as in real time.
    """

    def monotonic(self) -> float:
        """Return seconds that never decrease."""
        ...

    def wall(self) -> datetime:
        """Return the time of day as an aware datetime."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds of `monotonic`."""
        ...


class SystemClock:
    """The clock of the operating system."""

    def monotonic(self) -> float:
        """Return seconds that never decrease."""
        return monotonic()

    def wall(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds."""
        await sleep(seconds)

    if sys.platform == "linux":

        def elapsed(self) -> float:
            """Return seconds that include the time the machine is suspended."""
            return time.clock_gettime(time.CLOCK_BOOTTIME)


SYSTEM_CLOCK: Final = SystemClock()


class TimerHandle(Protocol):
    """A scheduled callback, as `asyncio.TimerHandle`."""

    def cancel(self) -> object:
        """Cancel the callback."""


class ElapsedTime:
    """Seconds that include the time the machine is suspended, for the age of a price lock.

    They come from `Clock.elapsed()`. For a clock without that method they are `Clock.monotonic()` plus every forward
    jump of the wall clock, because such a jump may be a suspend. Backward jumps do not count.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._elapsed: Callable[[], float] | None = getattr(clock, "elapsed", None)
        self._jumps = 0.0
        self._lead = self._measure_lead()

    def __call__(self) -> float:
        """Return the seconds since an arbitrary start."""
        if self._elapsed is not None:
            return self._elapsed()
        lead = self._measure_lead()
        if lead - self._lead > _MIN_JUMP:
            self._jumps += lead - self._lead
        self._lead = lead
        return self._clock.monotonic() + self._jumps

    def _measure_lead(self) -> float:
        return self._clock.wall().timestamp() - self._clock.monotonic()


_CallLater = Callable[[float, Callable[[], object]], TimerHandle]


class _ThreadTimer:
    """A timer for an event loop whose clock is frozen: a thread waits in real time, and wakes the loop."""

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback: Callable[[], object] | None = callback
        self._timer = threading.Timer(seconds, self._wake)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._callback = None
        self._timer.cancel()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        if self._callback is not None:
            self._callback()


def _is_loop_frozen() -> bool:
    # The first check is cheap, and decides unless a library has frozen time. The second excludes loops in real time
    # (`freeze_time(real_asyncio=True)`, uvloop).
    if type(time.monotonic) is BuiltinFunctionType:
        return False
    return abs(asyncio.get_running_loop().time() - monotonic()) > _MAX_LOOP_OFFSET


def call_later(clock: Clock, seconds: float, callback: Callable[[], object]) -> TimerHandle:
    """Schedule a callback with `clock.call_later` if the clock has it, and in real time otherwise."""
    schedule: _CallLater | None = _call_later_of(clock)
    if schedule is None:
        schedule = _ThreadTimer if _is_loop_frozen() else asyncio.get_running_loop().call_later
    return schedule(seconds, callback)


async def sleep(seconds: float) -> None:
    """Sleep for this many seconds of real time, also while a library has frozen time."""
    if seconds <= 0 or not _is_loop_frozen():
        await asyncio.sleep(seconds)
        return
    is_over = asyncio.Event()
    timer = _ThreadTimer(seconds, is_over.set)
    try:
        await is_over.wait()
    finally:
        timer.cancel()


async def sleep_until(clock: Clock, due: float, ended: asyncio.Event | None = None) -> None:
    """Sleep until `clock.monotonic()` has reached `due` or until `ended` is set, and never return earlier."""
    while (left := due - clock.monotonic()) > 0 and not (ended and ended.is_set()):
        if ended is None:
            await clock.sleep(left)
            continue
        sleeping, ending = asyncio.ensure_future(clock.sleep(left)), asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({sleeping, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (sleeping, ending):
                waiting.cancel()
            await asyncio.gather(sleeping, ending, return_exceptions=True)
        if not sleeping.cancelled():
            sleeping.result()


def timeout(clock: Clock, seconds: float) -> AbstractAsyncContextManager[object]:
    """Limit the duration of a block like `asyncio.timeout`, in real time and, if it has `call_later`, on `clock`.

    Real time always counts, so that a test whose clock stands still does not hang.
    """
    schedules: list[_CallLater] = [_ThreadTimer] if _is_loop_frozen() else []
    if (schedule := _call_later_of(clock)) is not None:
        schedules.append(schedule)
    return _timeout_on(schedules, seconds) if schedules else asyncio.timeout(seconds)


def follows_event_loop(clock: Clock) -> bool:
    """Return whether a timeout on `clock` is one of the event loop: the clock has no timers, and time is not frozen."""
    return _call_later_of(clock) is None and not _is_loop_frozen()


def _call_later_of(clock: Clock) -> _CallLater | None:
    return getattr(clock, "call_later", None)


@asynccontextmanager
async def _timeout_on(schedules: list[_CallLater], seconds: float) -> AsyncGenerator[None]:
    async with asyncio.timeout(seconds) as limit:

        def expire() -> None:
            # An expired timeout cannot be rescheduled.
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        timers = [schedule(seconds, expire) for schedule in schedules]
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()
