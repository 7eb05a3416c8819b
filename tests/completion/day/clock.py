"""One movable clock for several processes.

One process moves it, the others follow. The time moves only while every process waits for it: no process handles a
network event, calls its journal or has callbacks to run. It then moves straight to the next timer of any process, so
that no call waits in real time, and no process is too slow for the clock.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import mmap
import os
import selectors
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from minted_connect.sandbox import ManualClock

__all__ = ["CountingSelector", "FollowingClock", "LeadingClock", "SharedTime", "counting_calls", "run_counting"]

_T = TypeVar("_T")

BEAT: Final = 0.001
"""Real seconds between two reports of a process."""
_REPORTS: Final = 2
"""Number of reports without activity, of each process, after which all of them wait for the clock."""
_RESOLUTION: Final = 0.05
"""Seconds of the clock by which timers are due together."""
_SLOTS: Final = 16
_FIELDS: Final = 5
_SIZE: Final = 4096


@attrs.define
class Slot:
    """The reports of one process, in shared memory."""

    _numbers: memoryview[float]
    _first: int

    @property
    def reports(self) -> float:
        """Number of reports."""
        return self._numbers[self._first]

    @property
    def activity(self) -> float:
        """Number of network events and journal calls so far."""
        return self._numbers[self._first + 1]

    @property
    def next_due(self) -> float:
        """Time of the next timer."""
        return self._numbers[self._first + 2]

    @property
    def mark(self) -> float:
        """A number that the process sets, for the process that moves the clock."""
        return self._numbers[self._first + 3]

    @mark.setter
    def mark(self, number: float) -> None:
        self._numbers[self._first + 3] = number

    @property
    def count(self) -> float:
        """A second number, as `mark`."""
        return self._numbers[self._first + 4]

    @count.setter
    def count(self, number: float) -> None:
        self._numbers[self._first + 4] = number

    def report(self, activity: float, next_due: float) -> None:
        """Report the state of this process."""
        self._numbers[self._first + 1] = activity
        self._numbers[self._first + 2] = next_due
        self._numbers[self._first] += 1

    def clear(self) -> None:
        """Forget the reports of a process that has ended."""
        for number in range(self._first, self._first + _FIELDS):
            self._numbers[number] = 0.0


class SharedTime:
    """The current time and the reports of all processes, in a file that each of them maps into its memory.

    Each number is eight aligned bytes, which a process reads and writes at once.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("d")

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self._numbers[0]

    @now.setter
    def now(self, seconds: float) -> None:
        self._numbers[0] = seconds

    def slot(self, number: int) -> Slot:
        """Return the place of a process."""
        if not 0 <= number < _SLOTS:
            raise ValueError(number)
        return Slot(self._numbers, 1 + _FIELDS * number)


class CountingSelector(selectors.DefaultSelector):
    """Counts the iterations of an event loop that had something to do."""

    def __init__(self) -> None:
        super().__init__()
        self.active = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events."""
        events = super().select(timeout)
        # Without a wait, callbacks are ready.
        if events or (timeout is not None and timeout <= 0):
            self.active += 1
        return events


def run_counting(main: Callable[[CountingSelector], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine on an event loop whose selector counts."""
    selector = CountingSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        return runner.run(main(selector))


def counting_calls(journal: Any) -> Any:
    """Replace the methods of a journal by methods that count the calls in progress, in its attribute `calls`.

    A call of a journal waits for a thread or for a database, which the selector of the event loop does not see.
    """
    journal.calls = 0

    def count(method: Callable[..., Coroutine[Any, Any, object]]) -> Callable[..., Coroutine[Any, Any, object]]:
        @wraps(method)
        async def call(*args: Any, **kwargs: Any) -> object:
            journal.calls += 1
            try:
                return await method(*args, **kwargs)
            finally:
                journal.calls -= 1

        return call

    for name in dir(journal):
        if not name.startswith("_") and inspect.iscoroutinefunction(method := getattr(journal, name)):
            setattr(journal, name, count(method))
    return journal


class _SharedClock(ManualClock):
    def __init__(self, shared: SharedTime, start: datetime) -> None:
        super().__init__(start)
        self._shared = shared

    @property
    def next_due(self) -> float:
        """Time of the next timer of this process; infinite without timers."""
        with self._lock:
            return min((timer.due for timer in self._timers), default=math.inf)

    def _follow(self) -> None:
        if self._shared.now > self.monotonic():
            self.advance(self._shared.now - self.monotonic())


class FollowingClock(_SharedClock):
    """The clock of a process that does not move it.

    Args:
        shared: The shared memory.
        start: Time of day at second 0.
        slot: Number of the place of this process.
    """

    def __init__(self, shared: SharedTime, start: datetime, slot: int) -> None:
        super().__init__(shared, start)
        self.slot = shared.slot(slot)
        self._busy = 0
        self._parent = os.getppid()

    def follow(self, selector: CountingSelector, journal: Any) -> None:
        """Follow the shared clock on the running event loop, until it is closed."""
        if os.getppid() != self._parent:
            os._exit(1)  # the process that moves the clock was killed
        self._follow()
        # A call of the journal that is in progress is activity, too.
        self._busy += journal.calls
        self.slot.report(selector.active + self._busy, self.next_due)
        asyncio.get_running_loop().call_later(BEAT, self.follow, selector, journal)


class LeadingClock(_SharedClock):
    """The clock of the process that moves it.

    Args:
        shared: The shared memory.
        start: Time of day at second 0.
        before_move: Called with each new time before the processes see it.
    """

    def __init__(self, shared: SharedTime, start: datetime, before_move: Callable[[float], object]) -> None:
        super().__init__(shared, start)
        self._before_move = before_move
        self._slots: dict[int, Slot] = {}
        self._seen: dict[int, float] = {}
        """Last known activity of each process."""
        self._since: dict[int, float] = {}
        """Number of reports of each process when the last activity of any process was seen."""
        self._own_reports = 0
        self.moves = 0

    def add(self, number: int) -> Slot:
        """Wait for a process from now on, also before its first report."""
        slot = self._shared.slot(number)
        slot.clear()
        self._slots[number], self._seen[number] = slot, -1.0
        self._restart()
        return slot

    def slot(self, number: int) -> Slot:
        """Return the place of a process."""
        return self._slots[number]

    def remove(self, number: int) -> None:
        """Stop waiting for a process that has ended."""
        del self._slots[number], self._seen[number]

    def move_if_idle(self, selector: CountingSelector) -> None:
        """Move the clock to the next timer if every process waits for it; call this regularly."""
        activity = {number: slot.activity for number, slot in self._slots.items()} | {-1: float(selector.active)}
        if activity != self._seen:
            self._seen = activity
            self._restart()
            return
        self._own_reports += 1
        reports = [slot.reports - self._since[number] for number, slot in self._slots.items()]
        if min([self._own_reports, *reports]) <= _REPORTS:
            return
        due = min([self.next_due, *(slot.next_due for slot in self._slots.values())])
        if self.monotonic() < due < math.inf:
            self.move_to(due + _RESOLUTION)

    def move_to(self, seconds: float) -> None:
        """Move the clock."""
        self._before_move(seconds)
        self._shared.now = seconds
        self._follow()
        self.moves += 1
        self._restart()

    def _restart(self) -> None:
        self._own_reports = 0
        self._since = {number: slot.reports for number, slot in self._slots.items()}
