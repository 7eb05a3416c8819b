"""Clocks for tests: one that waits move in steps, and one whose time of day is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import attrs

from minted_connect.sandbox import ManualClock
from minted_connect.sandbox.clock import START

__all__ = ["SteppingClock", "WrongClock"]

_TURNS: Final = 12
"""Turns of the event loop in which what is due at one moment is done: a server executes what it held back."""


class SteppingClock(ManualClock):
    """A `ManualClock` with `auto_advance` whose waits do not jump over what is due before their end.

    Otherwise work that a server does 10 s later would happen at the end of a wait of 20 s, and so later than the server
    promised.
    """

    def __init__(self, start: datetime = START) -> None:
        super().__init__(start, auto_advance=True)

    async def _sleep(self, seconds: float, *, uses_elapsed: bool) -> None:
        end = self.monotonic() + seconds
        while (due := self._next_due()) is not None and self.monotonic() < due < end:
            self.advance(due - self.monotonic())
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        await super()._sleep(max(0.0, end - self.monotonic()), uses_elapsed=uses_elapsed)

    def _next_due(self) -> float | None:
        """Return the next moment, on the monotonic clock, at which an alarm rings."""
        with self._lock:
            ahead = self._suspended
            return min((timer.due - ahead * timer.uses_elapsed for timer in self._timers), default=None)


@attrs.frozen(eq=False)
class WrongClock:
    """A clock that shows another time of day than the one that it follows."""

    clock: ManualClock
    error: float
    """Seconds that its `wall` is ahead."""

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
