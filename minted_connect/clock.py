"""Clocks and the waits that use them: sleep, timeout, timer, and elapsed time that includes suspend.

A test can replace the clock of a client (`Options.clock`) with one that moves faster than real time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

__all__ = [
    "SYSTEM_CLOCK",
    "Clock",
    "ElapsedTime",
    "SystemClock",
    "TimerHandle",
    "call_later",
    "sleep_until",
    "timeout",
]

_MIN_JUMP: Final = 0.5
"""Seconds by which the wall clock must run ahead of the monotonic clock between two readings to count as a jump."""


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
        return time.monotonic()

    def wall(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep for this many seconds."""
        await asyncio.sleep(seconds)

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


def call_later(clock: Clock, seconds: float, callback: Callable[[], object]) -> TimerHandle:
    """Schedule a callback with `clock.call_later` if the clock has it, and with the event loop otherwise."""
    return (_call_later_of(clock) or asyncio.get_running_loop().call_later)(seconds, callback)


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
    schedule = _call_later_of(clock)
    return asyncio.timeout(seconds) if schedule is None else _timeout_on_both(schedule, seconds)


def _call_later_of(clock: Clock) -> _CallLater | None:
    return getattr(clock, "call_later", None)


@asynccontextmanager
async def _timeout_on_both(schedule: _CallLater, seconds: float) -> AsyncGenerator[None]:
    async with asyncio.timeout(seconds) as limit:

        def expire() -> None:
            # An expired timeout cannot be rescheduled.
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        timer = schedule(seconds, expire)
        try:
            yield
        finally:
            timer.cancel()
