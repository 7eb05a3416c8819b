"""A thread that works off one job after the other, apart from the event loop's default executor.

That executor is shared with the application. If all its threads wait for a purchase, the journal of that purchase
would wait for them.
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

__all__ = ["WorkerThread"]

_T = TypeVar("_T")

_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], object]]
_Jobs = SimpleQueue["_Job | None"]

_changing = threading.Lock()
"""Held while a thread is started or stopped, and while a job is queued: for a moment only."""


def _renew_lock() -> None:
    global _changing  # noqa: PLW0603 - a thread that held it at the fork does not exist in the child
    _changing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class WorkerThread:
    """Runs jobs in the order of their submission, on a thread that starts with the first one.

    Any event loop and thread may submit. A forked child starts a thread of its own. The thread ends with `stop`, or
    when this object is collected; the next job starts a new one. It is a daemon, so that it never holds up the end of
    the interpreter.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pid = 0
        self._jobs: _Jobs | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., WorkerThread] | None = None

    def submit(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        """Queue a job, and return the future of its result, which belongs to the running event loop.

        A job may raise any `Exception`, which the future then raises; nothing else may leave it.

        Raises:
            RuntimeError: if no thread can be started. Then the job is not queued.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        with _changing:
            if self._jobs is None or self._pid != os.getpid():
                self._jobs = self._start()
            self._jobs.put((loop, future, work))
        return future

    def _start(self) -> _Jobs:
        jobs: _Jobs = SimpleQueue()
        thread = threading.Thread(target=_serve, args=(jobs,), name=self._name, daemon=True)
        thread.start()
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, jobs.put, None)
        self._finalizer.atexit = False
        self._pid, self._thread = os.getpid(), thread
        return jobs

    async def stop(self) -> None:
        """End the thread after the jobs that are queued. Idempotent."""
        with _changing:
            jobs, thread = self._jobs, self._thread
            self._jobs = self._thread = None
            if jobs is None or thread is None or self._pid != os.getpid():
                return
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[object] = loop.create_future()
            jobs.put((loop, ended, lambda: None))
            jobs.put(None)
        await ended
        thread.join()


def _serve(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        _work_off(*job)
        # Kept until the next job, it would keep the journal and its caller alive.
        del job


def _work_off(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], work: Callable[[], object]) -> None:
    result: object = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
        failure = error
    # A loop that was closed meanwhile does not wait for the result.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_deliver, future, result, failure)


def _deliver(future: asyncio.Future[Any], result: object, failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
