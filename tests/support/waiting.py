"""Waiting for something that another task or thread is about to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["wait_until"]


async def wait_until(condition: Callable[[], object]) -> None:
    """Let other tasks run until a condition is true.

    Raises:
        TimeoutError: if it is still false after 20 seconds.
    """
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)
