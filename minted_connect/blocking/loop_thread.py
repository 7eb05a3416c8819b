"""One private thread that runs an asyncio loop for the life of a blocking client."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from minted_connect.errors import ClientClosedError, ConfigurationError

__all__ = ["LoopThread"]

T = TypeVar("T")

PATIENCE: Final = 5.0
"""Seconds that cancelled work gets to end: on Ctrl-C, on close, and when the interpreter exits."""

CLOSING: Final = 5 * PATIENCE
"""Seconds that closing takes at most: calls, other tasks and connections are each given `PATIENCE`."""

# Waiting goes in slices of so many seconds: a signal that arrives on the way into the system call (measured on Linux:
# one in 16,000) does not interrupt it, and on Windows none does.
_SLICE: Final = 0.1


class LoopThread:
    """Runs coroutines for blocking callers, any number of threads at once, on one loop of its own.

    The thread starts with the first call and is a daemon, so neither an unused nor a forgotten client holds up
    the interpreter.

    Args:
        owner: The class that users know, for texts.
        last: What the loop runs at its very end, whatever ends it; it must not refer to the owner.
    """

    def __init__(self, owner: str, last: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        self._owner = owner
        self._last = last
        self._pid = os.getpid()
        # Re-entrant: a signal handler may use or close the client while its thread is being started.
        self._lock = threading.RLock()
        self._worker: _Worker | None = None
        self._closed = False

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return what it returns; an interruption (Ctrl-C) cancels it first.

        The coroutine sees the caller's context variables.

        Raises:
            ClientClosedError: after close (also when closed meanwhile), or in a fork of the process.
            ConfigurationError: called on the loop thread itself, which would wait for itself for ever.
        """
        try:
            worker = self._ready()
        except BaseException:
            coro.close()  # or Python warns that it was never awaited
            raise
        return worker.execute(coro)

    def close(self) -> None:
        """Cancel the calls under way, run `last`, end the thread.

        Any number of threads and signal handlers may call it at once: each returns when the thread has ended, and one
        of them raises what `last` raised. In a fork of the process it does nothing: the loop is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._worker is None and not self._closed and self._last is not None:
                # At interpreter exit no thread can be started, and an unused client has nothing open. And a signal
                # handler may have closed it by then.
                with contextlib.suppress(RuntimeError, ClientClosedError):
                    self._start()
            worker = self._worker
            if worker is not None:
                worker.refuse_own_thread()
            self._closed = True
        if worker is None:
            return
        worker.stop()
        worker.wait(CLOSING)
        failure, worker.failure = worker.failure, None
        if failure is not None:
            raise failure

    def _ready(self) -> _Worker:
        # Before anything else: in a fork the lock may be held by a thread that exists in the parent only.
        if os.getpid() != self._pid:
            raise ClientClosedError(
                f"this {self._owner} was built before a fork of the process: build one in each process"
            )
        if self._closed:
            raise _closed(self._owner)
        worker = self._worker or self._start()
        worker.refuse_own_thread()
        return worker

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise _closed(self._owner)
            if self._worker is None:
                worker = _Worker(self._owner, self._last)
                # Only stops, never waits: garbage is collected in any thread, whatever locks that one holds.
                weakref.finalize(self, worker.stop).atexit = False
                try:
                    worker.start()
                except RuntimeError:  # no more threads: too many, or the interpreter is on its way out
                    worker.loop.close()
                    raise
                if self._worker is None and not self._closed:
                    self._worker = worker
                else:  # a signal handler used or closed this object between the first line and here
                    worker.discard()
            if self._closed or self._worker is None:
                raise _closed(self._owner)
            return self._worker

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._worker is not None and not self._closed and os.getpid() == self._pid:
            _warn(f"unclosed {self._owner}: use `with`, or call close()", ResourceWarning, source=self)


def _closed(owner: str) -> ClientClosedError:
    return ClientClosedError(f"this {owner} is closed: build a new one")


class _Worker(threading.Thread):
    """The thread and its loop. It knows nothing of the client, so it keeps no forgotten one alive."""

    def __init__(self, owner: str, last: Callable[[], Coroutine[Any, Any, object]] | None) -> None:
        super().__init__(name=f"{owner} loop", daemon=True)
        self.owner = owner
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.calls: set[_Call[Any]] = set()
        self.closing = False
        self.failure: BaseException | None = None
        """What `last` raised."""
        self._last = last
        self._has_ended = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def run(self) -> None:
        _workers.add(self)
        try:
            try:
                self.loop.run_forever()
            finally:
                self.closing = True
                self._finish(self.loop.create_task(self._wind_up()))
        finally:
            # The executor is not waited for: a name lookup that hangs must not hold up the caller.
            self.loop.close()
            for call in list(self.calls):
                call.refuse()
            _workers.discard(self)
            self._has_ended = True
            self._ended.release()

    def _finish(self, shutdown: asyncio.Task[None]) -> None:
        # A task that raises SystemExit ends the loop under every other one.
        while not shutdown.done():
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_until_complete(shutdown)

    async def _wind_up(self) -> None:
        # Calls before everything else: what a purchase started to write its outcome down must not be cancelled.
        await _cancel_and_wait({call.task for call in self.calls if call.task is not None})
        await _cancel_and_wait(asyncio.all_tasks())
        if self._last is not None:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._last()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - `close` raises it
                self.failure = error
        await _cancel_and_wait(asyncio.all_tasks())
        await self.loop.shutdown_asyncgens()

    def execute(self, coro: Coroutine[Any, Any, T]) -> T:
        """Hand the coroutine over and wait for its end."""
        call = _Call(self, coro)
        try:
            self.calls.add(call)  # before the hand-over: when the loop ends meanwhile, it lets go of all in here
            self.loop.call_soon_threadsafe(call.start)
            while not call.done.acquire(timeout=_SLICE):
                pass
        except BaseException as interruption:
            if not call.abandon(interruption) and isinstance(interruption, RuntimeError):
                raise _closed(self.owner) from None
            raise
        return call.outcome()

    def refuse_own_thread(self) -> None:
        if threading.current_thread() is self:
            raise ConfigurationError(
                f"a {self.owner} cannot be used on its own loop thread (in a hook or a callback): "
                "the call would wait for itself"
            )

    def stop(self) -> None:
        """Let the loop come to its end without waiting for it; nothing happens in a fork of the process."""
        if os.getpid() == self.pid:
            with contextlib.suppress(RuntimeError):  # it is closed
                self.loop.call_soon_threadsafe(self._stop_once)

    def discard(self) -> None:
        """Stop a thread that was started for nothing, without running `last`."""
        self._last = None
        self.stop()

    def wait(self, timeout: float) -> None:
        """Wait until the thread has ended, at most `timeout` seconds.

        Neither `join` nor an `Event` can be used: an exception of a signal handler makes `join` take a running thread
        for an ended one (CPython 3.11), and a handler that waits too would wait for the lock of the `Event` for ever.
        """
        give_up = time.monotonic() + timeout
        while not self._has_ended and time.monotonic() < give_up:
            if self._ended.acquire(timeout=_SLICE):
                self._ended.release()
        if self._has_ended:
            self.join(PATIENCE)  # what is left of it takes microseconds

    def _stop_once(self) -> None:
        # A second `loop.stop` would end the shutdown itself, and leave sockets open and purchases unwritten.
        if not self.closing:
            self.closing = True
            self.loop.stop()


_workers: Final[set[_Worker]] = set()


@atexit.register
def _stop_all() -> None:
    # A daemon thread that still runs when the interpreter goes down is frozen wherever it is, locks included.
    workers = [worker for worker in list(_workers) if worker.pid == os.getpid()]
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.wait(PATIENCE)


async def _cancel_and_wait(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, all but this one, and wait for their end."""
    others = tasks - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=PATIENCE)


class _Call(Generic[T]):
    """One coroutine on its way through the loop thread."""

    __slots__ = ("coro", "done", "ended", "error", "result", "task", "worker")

    def __init__(self, worker: _Worker, coro: Coroutine[Any, Any, T]) -> None:
        self.worker = worker
        self.coro = coro
        self.task: asyncio.Task[None] | None = None
        self.result: T
        self.error: BaseException | None = None
        self.ended = False
        self.done = threading.Lock()
        self.done.acquire()

    def start(self) -> None:
        if self.worker.closing:
            self.refuse()
        elif not self.ended:
            self.task = self.worker.loop.create_task(self._drive())

    def abandon(self, interruption: BaseException) -> bool:
        """Cancel the call and wait until it has really ended, so that nothing goes on behind the caller's back.

        The interruption gets notes of what became of the call. False = the loop has already gone.
        """
        try:
            self.worker.loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            self.worker.calls.discard(self)
            if self.task is None:
                self.coro.close()
            return False
        if not self.ended and not self.done.acquire(timeout=PATIENCE):
            interruption.add_note("The interrupted call could not be cancelled and may still be under way.")
        elif self.error is None:
            interruption.add_note("The interrupted call had already succeeded; its result is lost.")
        else:
            if not isinstance(self.error, asyncio.CancelledError):
                interruption.add_note(f"The interrupted call ended with {self.error!r}")
            _carry_notes(self.error, interruption)
            self.error = None
        return True

    def refuse(self) -> None:
        """Let go of a call that the loop will not run, or not to its end."""
        if self.task is None or self.task.cancelled():
            self.coro.close()  # it has not begun
        self._end(_closed(self.worker.owner))

    def outcome(self) -> T:
        error, self.error = self.error, None
        try:
            if error is None:
                return self.result
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                what = "was closed while the call was under way" if self.worker.closing else "gave up the call"
                closed = ClientClosedError(f"this {self.worker.owner} {what}")
                _carry_notes(error, closed)
                raise closed from error
            raise error
        finally:
            del error  # its traceback holds this frame: a cycle that would keep the client alive

    def _cancel(self) -> None:
        if self.task is None:
            self.coro.close()
            self._end(asyncio.CancelledError())
        else:
            # A turn later: cancelled before its first step, a task never enters its coroutine.
            self.worker.loop.call_soon(self.task.cancel)

    async def _drive(self) -> None:
        # Not a done callback: that takes one more turn of the loop for every call.
        error: BaseException | None = None
        try:
            self.result = await self.coro
        except BaseException as caught:  # noqa: BLE001 - the waiting thread raises it
            error = caught
        self._end(error)
        del error

    def _end(self, error: BaseException | None) -> None:
        if not self.ended:
            self.worker.calls.discard(self)
            self.error = error
            self.ended = True
            self.done.release()


def _carry_notes(source: BaseException, target: BaseException) -> None:
    # A cancelled completion notes which intent it leaves open.
    for note in getattr(source, "__notes__", ()):
        target.add_note(note)
