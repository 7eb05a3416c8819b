"""Timeouts on the machine's clock or on a test's clock that moves faster, and seconds that run on in sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from minted_connect.config import Clock

__all__ = ["Alarm", "ElapsedTime", "alarm", "sleep_until", "timeout"]

_JUMP: Final = 0.5
"""Seconds by which the wall clock has to run ahead of the monotonic clock between two readings to count as a jump."""


class Alarm(Protocol):
    """Something that is to happen later."""

    def cancel(self) -> object:
        """Have it not happen."""


class ElapsedTime:
    """Seconds that run on while the machine sleeps, for the age of a price lock.

    They come from `Clock.elapsed()`. For a clock without it they are those of `Clock.monotonic()` plus every forward
    jump of the wall clock: such a jump may be a sleep. Backward jumps do not count.
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
        if lead - self._lead > _JUMP:
            self._jumps += lead - self._lead
        self._lead = lead
        return self._clock.monotonic() + self._jumps

    def _measure_lead(self) -> float:
        return self._clock.wall().timestamp() - self._clock.monotonic()


_CallLater = Callable[[float, Callable[[], object]], Alarm]


def alarm(clock: Clock, seconds: float, callback: Callable[[], object]) -> Alarm:
    """Call back in so many seconds of `clock` if it can set alarms, of the event loop's time otherwise."""
    return (_call_later(clock) or asyncio.get_running_loop().call_later)(seconds, callback)


async def sleep_until(clock: Clock, due: float, ended: asyncio.Event | None = None) -> None:
    """Sleep until `clock.monotonic()` has reached `due`, or until `ended` is set; never return before that."""
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
    """Limit a block as `asyncio.timeout` does, also by what `clock` says if it can set alarms.

    Real time counts in any case: a test whose clock stands still must not hang.
    """
    call_later = _call_later(clock)
    return asyncio.timeout(seconds) if call_later is None else _either(call_later, seconds)


def _call_later(clock: Clock) -> _CallLater | None:
    return getattr(clock, "call_later", None)


@asynccontextmanager
async def _either(call_later: _CallLater, seconds: float) -> AsyncGenerator[None]:
    async with asyncio.timeout(seconds) as limit:

        def expire() -> None:
            # A limit that has struck already cannot be moved.
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        armed = call_later(seconds, expire)
        try:
            yield
        finally:
            armed.cancel()
