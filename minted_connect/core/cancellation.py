"""Cancels tasks and waits until they have ended, and protects local work from the cancellation of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio

__all__ = ["cancel_and_wait", "shielded"]

_T = TypeVar("_T")

_REPEAT_AFTER: Final = 1.0
"""Seconds after which a task that has not ended is cancelled again."""


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and repeat that each second until all have ended. Their results and errors are not retrieved.

    One cancellation is not enough: `asyncio.wait_for` of CPython 3.11, which redis-py uses, loses a cancellation that
    arrives together with the result that it waits for.

    A cancellation of the caller is delayed until the tasks have ended.
    """
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()  # at once: a task that has not started must not start
    if pending:
        # The scope keeps out the cancellation of anyio, which is repeated, and `shielded` that of `Task.cancel`.
        with anyio.CancelScope(shield=True):
            await shielded(_wait_until_ended(pending))


async def _wait_until_ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    while pending := {task for task in tasks if not task.done()}:
        with suppress(asyncio.CancelledError):  # `asyncio.run` cancels every task that is left
            _, late = await asyncio.wait(pending, timeout=_REPEAT_AFTER)
            for task in late:
                task.cancel()


async def shielded(work: Awaitable[_T]) -> _T:
    """Await `work`, delaying every cancellation of the caller until `work` has ended.

    `asyncio.shield` alone lets the cancelled caller continue while the work still runs, so that its next write could
    overtake this one.

    Use it only for local work of bounded duration, such as writing to the journal; never for a request.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # marks it as retrieved: asyncio would log that it never was
        raise
