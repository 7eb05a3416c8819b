"""Clocks for tests: `SteppingClock` advances in steps during waits, `WrongClock` has a wrong time of day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from minted_connect.sandbox import ManualClock
from minted_connect.sandbox.clock import START

__all__ = ["SteppingClock", "WrongClock"]

_STEPS: Final = 12
"""Iterations of the event loop after which the work that was due at one moment is done."""


class SteppingClock(ManualClock):
    """A `ManualClock` with `auto_advance` that stops during a wait at every timer that is due before its end.

    Otherwise the work that a server delays by 10 s would be done at the end of a wait of 20 s.
    """

    def __init__(self, start: datetime = START) -> None:
        super().__init__(start, auto_advance=True)

    async def _sleep(self, seconds: float, *, uses_elapsed: bool) -> None:
        end = self.monotonic() + seconds
        while (due := self._next_due()) is not None and self.monotonic() < due < end:
            self.advance(due - self.monotonic())
            for _ in range(_STEPS):
                await asyncio.sleep(0)
        await super()._sleep(max(0.0, end - self.monotonic()), uses_elapsed=uses_elapsed)

    def _next_due(self) -> float | None:
        """Return the monotonic time at which the next timer is due, None without timers."""
        with self._lock:
            ahead = self._suspended
            return min((timer.due - ahead * timer.uses_elapsed for timer in self._timers), default=None)


@attrs.frozen(eq=False)
class WrongClock:
    """A clock whose time of day differs from that of another clock."""

    clock: ManualClock
    error: float
    """Seconds that `wall` is ahead of the other clock."""

    def monotonic(self) -> float:
        return self.clock.monotonic()

    def elapsed(self) -> float:
        return self.clock.elapsed()

    def wall(self) -> datetime:
        return self.clock.wall() + timedelta(seconds=self.error)

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
        return self.clock.call_later(seconds, callback)
