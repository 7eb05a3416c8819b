"""A thread that runs jobs in order, independent of the event loop's default executor.

The application shares the default executor. If all its threads were waiting for a purchase, the journal of that
purchase would wait for them: a deadlock.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from minted_connect.core.event_loop import check_asyncio

__all__ = ["WorkerThread"]

_T = TypeVar("_T")

_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], object]]
_Jobs = SimpleQueue["_Job | None"]

_lock = threading.Lock()
"""Held only while a thread is started or stopped, and while a job is queued."""


def _replace_lock() -> None:
    global _lock  # noqa: PLW0603 - a thread that held the lock at the fork does not exist in the child
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


class WorkerThread:
    """Runs jobs in the order of their submission, on a thread that starts with the first one.

    Jobs may be submitted from any event loop and thread. A forked child starts another thread. The thread ends with
    `stop`, or when this object is garbage-collected; the next job starts another one. It is a daemon thread, so that it
    never delays the exit of the interpreter.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0
        self._jobs: _Jobs | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., WorkerThread] | None = None

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Queue a job, and return a future of the running event loop for its result.

        The future raises the `Exception` that the job raises. A job must not raise any other `BaseException`.

        Raises:
            RuntimeError: if no thread can be started; the job is not queued then.
            ConfigurationError: if no asyncio event loop is running.
        """
        check_asyncio()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        with _lock:
            if self._jobs is None or self._pid != os.getpid():
                self._jobs = self._start()
            self._jobs.put((loop, future, work))
        return future

    def _start(self) -> _Jobs:
        jobs: _Jobs = SimpleQueue()
        thread = threading.Thread(target=_run_jobs, args=(jobs,), name=self._name, daemon=True)
        thread.start()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, jobs.put, None)
        self._finalizer.atexit = False
        self._pid, self._thread = os.getpid(), thread
        return jobs

    async def stop(self) -> None:
        """End the thread after the queued jobs. Idempotent."""
        with _lock:
            jobs, thread = self._jobs, self._thread
            self._jobs = self._thread = None
            if jobs is None or thread is None or self._pid != os.getpid():
                return
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[object] = loop.create_future()
            jobs.put((loop, ended, lambda: None))
            jobs.put(None)
        await ended
        # Only its exit is left, which takes microseconds; `join` would block the event loop for them.
        while thread.is_alive():  # noqa: ASYNC110 - a thread sets no event when it has ended
            await asyncio.sleep(0)


def _run_jobs(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        _run_job(*job)
        # A reference held until the next job would keep the journal and its caller alive.
        del job


def _run_job(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], work: Callable[[], object]) -> None:
    result: object = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - the future raises it
        failure = error
    # Raised if the loop was closed meanwhile; then there is no task to receive the result.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_set_result, future, result, failure)


def _set_result(future: asyncio.Future[Any], result: object, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
