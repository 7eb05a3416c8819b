"""A background thread that runs the event loop of a blocking client."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from minted_connect.clock import monotonic
from minted_connect.core.event_loop import EXITING, is_interpreter_exiting
from minted_connect.errors import ClientClosedError, ConfigurationError

__all__ = ["LoopThread", "check_threads_are_real"]

T = TypeVar("T")

CANCEL_TIMEOUT: Final = 5.0
"""Seconds to wait for the end of cancelled work: on Ctrl-C, on close, and when the interpreter exits."""

CLOSE_TIMEOUT: Final = 5 * CANCEL_TIMEOUT
"""Maximum seconds that the work of `close` takes; each of its steps gets `CANCEL_TIMEOUT`."""

# Wait in slices of this many seconds, so that a signal can interrupt the wait: on Windows no signal interrupts the
# system call, and on Linux not one that arrives while the call is being entered (measured: one in 16,000).
_WAIT_SLICE: Final = 0.1


class LoopThread:
    """Runs coroutines for any number of threads on one event loop in a background thread.

    The thread starts with the first call. It is a daemon thread, so that a client that was never closed does not keep
    the interpreter from exiting.

    Args:
        owner: Name of the public class, for error texts and the thread's name.
        on_stop: Runs on the loop before it closes, also when the interpreter exits. It must not refer to the owner,
            or the owner would never be garbage-collected.
    """

    def __init__(self, owner: str, on_stop: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        self._owner = owner
        self._on_stop = on_stop
        self._pid = os.getpid()
        # Re-entrant: a signal handler may use or close the client while the thread is being started.
        self._lock = threading.RLock()
        self._worker: _Worker | None = None
        self._closed = False

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and return its result.

        The coroutine runs with the caller's context variables. An exception that interrupts the wait, such as
        `KeyboardInterrupt`, cancels the coroutine before it propagates.

        Raises:
            ClientClosedError: if `close` was or is called, or the process is a fork of the one that built this object.
            ConfigurationError: if it is called on the loop thread itself, where it would deadlock, or if threads are
                replaced by gevent or eventlet.
        """
        try:
            worker = self._get_worker()
        except BaseException:
            coro.close()  # otherwise Python warns that it was never awaited
            raise
        return worker.execute(coro)

    def close(self) -> None:
        """Cancel the calls in flight, run `on_stop` and stop the thread.

        Idempotent. Threads and signal handlers may call it at the same time: each returns when the thread has ended,
        or after `CLOSE_TIMEOUT`, and one of them raises the error of `on_stop`. In a fork of the process it does
        nothing, because the loop is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._worker is None and not self._closed and self._on_stop is not None:
                # RuntimeError: no thread can be started at interpreter exit; an unused client has nothing open.
                # ClientClosedError: a signal handler has closed it meanwhile. ConfigurationError: threads are patched.
                with contextlib.suppress(RuntimeError, ClientClosedError, ConfigurationError):
                    self._start()
            worker = self._worker
            if worker is not None:
                worker.check_not_own_thread()
            self._closed = True
        if worker is None:
            return
        worker.stop()
        worker.wait(CLOSE_TIMEOUT)
        failure, worker.failure = worker.failure, None
        if failure is not None:
            raise failure

    def _get_worker(self) -> _Worker:
        # Check this before locking: in a fork the lock may be held by a thread that exists in the parent only.
        if os.getpid() != self._pid:
            raise ClientClosedError(
                f"this {self._owner} was built before a fork of the process: build one in each process"
            )
        if self._closed:
            raise _closed_error(self._owner)
        # At every call: the process may have been patched since the thread was started, and the call would hang.
        check_threads_are_real(self._owner)
        worker = self._worker or self._start()
        worker.check_not_own_thread()
        return worker

    def _start(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise _closed_error(self._owner)
            if self._worker is None:
                check_threads_are_real(self._owner)
                worker = _Worker(self._owner, self._on_stop)
                # Stop without waiting: the collector runs in any thread, which may hold any lock.
                weakref.finalize(self, worker.stop).atexit = False
                try:
                    worker.start()
                except RuntimeError:  # too many threads, or the interpreter is exiting
                    worker.loop.close()
                    if is_interpreter_exiting():
                        raise ClientClosedError(EXITING) from None
                    raise
                if self._worker is None and not self._closed:
                    self._worker = worker
                else:  # a signal handler has used or closed this object since the check above
                    worker.discard()
            if self._closed or self._worker is None:
                raise _closed_error(self._owner)
            return self._worker

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if self._worker is not None and not self._closed and os.getpid() == self._pid:
            _warn(f"unclosed {self._owner}: use `with`, or call close()", ResourceWarning, source=self)


def _closed_error(owner: str) -> ClientClosedError:
    return ClientClosedError(f"this {owner} is closed: build a new one")


def check_threads_are_real(owner: str) -> None:
    """Check that threads are not replaced by greenlets, in which the loop would run in the caller's thread.

    Raises:
        ConfigurationError: if gevent or eventlet has replaced the threads or sockets of this process.
    """
    # Looked up, not imported: they patch nothing unless the application has imported them.
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and any(map(gevent.is_module_patched, ("threading", "select", "socket"))):
        name = "gevent"
    elif eventlet is not None and any(map(eventlet.is_monkey_patched, ("thread", "select", "socket"))):
        name = "eventlet"
    else:
        return
    raise ConfigurationError(
        f"{owner} needs real threads and sockets, and {name} has replaced those of this process: use workers that are "
        "threads or processes (gunicorn --worker-class gthread, celery --pool threads or prefork), or make the calls "
        "in a process that is not patched"
    )


class _Worker(threading.Thread):
    """The thread and its loop. It has no reference to the client, which can therefore be garbage-collected."""

    def __init__(self, owner: str, on_stop: Callable[[], Coroutine[Any, Any, object]] | None) -> None:
        super().__init__(name=f"{owner} loop", daemon=True)
        self.owner = owner
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        # An instance attribute, so that the loop's timers continue while a library has frozen `time.monotonic`.
        with contextlib.suppress(AttributeError):  # a loop in C, which never reads `time.monotonic`
            self.loop.time = monotonic  # type: ignore[method-assign]
        self.calls: set[_BlockingCall[Any]] = set()
        self.closing = False
        self.failure: BaseException | None = None
        """Error of `on_stop`."""
        self._on_stop = on_stop
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
                self._run_shutdown(self.loop.create_task(self._shutdown()))
        finally:
            # Do not wait for the executor: a name lookup that hangs would block the caller.
            self.loop.close()
            for call in list(self.calls):
                call.reject()
            _workers.discard(self)
            self._has_ended = True
            self._ended.release()

    def _run_shutdown(self, shutdown: asyncio.Task[None]) -> None:
        # Start the loop again when another task's SystemExit has stopped it.
        while not shutdown.done():
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_until_complete(shutdown)

    async def _shutdown(self) -> None:
        # Cancel calls before other tasks: a cancelled purchase waits for the task that writes its state to the journal.
        await _cancel_tasks({call.task for call in self.calls if call.task is not None})
        await _cancel_tasks(asyncio.all_tasks())
        if self._on_stop is not None:
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT):
                    await self._on_stop()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - `close` raises it
                self.failure = error
        await _cancel_tasks(asyncio.all_tasks())
        await self.loop.shutdown_asyncgens()

    def execute(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, wait for its end and return its result."""
        call = _BlockingCall(self, coro)
        try:
            self.calls.add(call)  # before it is scheduled: if the loop ends first, it rejects all calls in this set
            self.loop.call_soon_threadsafe(call.start)
            while not call.done.acquire(timeout=_WAIT_SLICE):
                pass
        except BaseException as interruption:
            if not call.cancel_and_wait(interruption) and isinstance(interruption, RuntimeError):
                raise _closed_error(self.owner) from None
            raise
        return call.get_result()

    def check_not_own_thread(self) -> None:
        if threading.current_thread() is self:
            raise ConfigurationError(
                f"a {self.owner} cannot be used on its own loop thread (in a hook or a callback): "
                "the call would deadlock"
            )

    def stop(self) -> None:
        """Stop the loop without waiting for its end. In a fork of the process it does nothing."""
        if os.getpid() == self.pid:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self.loop.call_soon_threadsafe(self._stop_once)

    def discard(self) -> None:
        """Stop a thread that is not needed, without running `on_stop`."""
        self._on_stop = None
        self.stop()

    def wait(self, timeout: float) -> None:
        """Wait until the thread has ended, at most `timeout` seconds.

        Neither `join` nor an `Event` can be used. After an exception from a signal handler, `join` takes a running
        thread for an ended one (CPython 3.11). A signal handler that waits, too, deadlocks on the lock of the `Event`.
        """
        deadline = monotonic() + timeout
        while not self._has_ended and monotonic() < deadline:
            if self._ended.acquire(timeout=_WAIT_SLICE):
                self._ended.release()
        if self._has_ended:
            self.join(CANCEL_TIMEOUT)  # `run` has only to return: this takes microseconds

    def _stop_once(self) -> None:
        # A second `loop.stop` would stop the shutdown, before sockets are closed and the journal is written.
        if not self.closing:
            self.closing = True
            self.loop.stop()


_workers: Final[set[_Worker]] = set()


@atexit.register
def _stop_all() -> None:
    # The interpreter freezes daemon threads that still run when it exits, with the locks that they hold.
    workers = [worker for worker in list(_workers) if worker.pid == os.getpid()]
    for worker in workers:
        worker.stop()
    for worker in workers:
        worker.wait(CANCEL_TIMEOUT)


async def _cancel_tasks(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel the tasks except the current one, and wait at most `CANCEL_TIMEOUT` for their end."""
    others = tasks - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CANCEL_TIMEOUT)


class _BlockingCall(Generic[T]):
    """A coroutine that runs on the loop while a thread waits for it."""

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
            self.reject()
        elif not self.ended:
            self.task = self.worker.loop.create_task(self._run())

    def cancel_and_wait(self, interruption: BaseException) -> bool:
        """Cancel the call and wait until it has ended, at most `CANCEL_TIMEOUT`, so that it does not run on unseen.

        Notes on `interruption` say how the call ended. Return False if the loop is closed already.
        """
        try:
            self.worker.loop.call_soon_threadsafe(self._cancel)
        except RuntimeError:
            self.worker.calls.discard(self)
            if self.task is None:
                self.coro.close()
            return False
        if not self.ended and not self.done.acquire(timeout=CANCEL_TIMEOUT):
            interruption.add_note("The interrupted call could not be cancelled and may still be in flight.")
        elif self.error is None:
            interruption.add_note("The interrupted call had already succeeded; its result is lost.")
        else:
            if not isinstance(self.error, asyncio.CancelledError):
                interruption.add_note(f"The interrupted call ended with {self.error!r}")
            _copy_notes(self.error, interruption)
            self.error = None
        return True

    def reject(self) -> None:
        """End a call that the loop will not run, or not to its end, with `ClientClosedError`."""
        if self.task is None or self.task.cancelled():
            self.coro.close()  # the coroutine has not started
        self._finish(_closed_error(self.worker.owner))

    def get_result(self) -> T:
        error, self.error = self.error, None
        try:
            if error is None:
                return self.result
            if isinstance(error, asyncio.CancelledError | GeneratorExit):
                what = "was closed while the call was in flight" if self.worker.closing else "cancelled the call"
                closed = ClientClosedError(f"this {self.worker.owner} {what}")
                _copy_notes(error, closed)
                raise closed from error
            raise error
        finally:
            del error  # the traceback refers to this frame: the cycle would keep the client alive

    def _cancel(self) -> None:
        if self.task is None:
            self.coro.close()
            self._finish(asyncio.CancelledError())
        else:
            # Cancel in the next iteration of the loop: a task that is cancelled before its first step does not enter
            # the coroutine.
            self.worker.loop.call_soon(self.task.cancel)

    async def _run(self) -> None:
        # A done callback would take one more iteration of the loop for every call.
        error: BaseException | None = None
        try:
            self.result = await self.coro
        except BaseException as caught:  # noqa: BLE001 - the waiting thread raises it
            error = caught
        self._finish(error)
        del error

    def _finish(self, error: BaseException | None) -> None:
        if not self.ended:
            self.worker.calls.discard(self)
            self.error = error
            self.ended = True
            self.done.release()


def _copy_notes(source: BaseException, target: BaseException) -> None:
    # The notes of a cancelled completion name the intent that stays open.
    for note in getattr(source, "__notes__", ()):
        target.add_note(note)
