"""Protects local work from the cancellation of the task that awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import anyio

__all__ = ["shielded"]

_T = TypeVar("_T")


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
