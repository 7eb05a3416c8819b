"""Time limits of attempts: one timer of the event loop for all of them, because most attempts end long before."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["Deadlines", "Limit"]


class Deadlines:
    """Limits blocks as `asyncio.timeout` does, with one timer for all blocks of an event loop.

    The timer is set for the earliest limit. If that block ends before, the timer stays, and finds no limit that is
    over: to set and cancel a timer for each block takes ten times as long.
    """

    def __init__(self) -> None:
        self._limits: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def timeout(self, seconds: float) -> Limit:
        """Return a context manager that cancels its block after this time, and raises TimeoutError.

        Enter it with `with` inside of a task, on one event loop only.
        """
        return Limit(self, asyncio.get_running_loop().time() + seconds)

    def add(self, limit: Limit) -> None:
        """Watch a block that has begun."""
        self._limits.add(limit)
        if self._timer is None or limit.due < self._timer.when():
            self._set_timer(limit.due)

    def remove(self, limit: Limit) -> None:
        """Forget a block that has ended."""
        self._limits.discard(limit)
        if self._is_closed and not self._limits:
            self._cancel_timer()

    def close(self) -> None:
        """Cancel the timer as soon as no block is left."""
        self._is_closed = True
        if not self._limits:
            self._cancel_timer()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, due: float) -> None:
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for limit in [limit for limit in self._limits if limit.due <= now]:
            self._limits.discard(limit)
            limit.expire()
        if self._limits:
            self._set_timer(min(limit.due for limit in self._limits))


class Limit:
    """The time limit of one block."""

    __slots__ = ("_cancelling", "_deadlines", "_is_expired", "_task", "due")

    def __init__(self, deadlines: Deadlines, due: float) -> None:
        self.due: float = due
        """When the block is cancelled, on the clock of the event loop."""
        self._deadlines = deadlines
        self._is_expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        self._task: asyncio.Task[object] = task
        self._cancelling = task.cancelling()
        self._deadlines.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._deadlines.remove(self)
        # If the task was also cancelled by other code, that cancellation continues.
        if self._is_expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the block."""
        self._is_expired = True
        self._task.cancel()
