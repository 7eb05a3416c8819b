"""How long something may take: on the machine's clock, and on a test's clock where that one moves faster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from minted_connect.config import Clock

__all__ = ["timeout"]


def timeout(clock: Clock, seconds: float) -> AbstractAsyncContextManager[object]:
    """Limit a block as `asyncio.timeout` does, also by what `clock` says if it can set alarms.

    Real time counts in any case: a test whose clock stands still must not hang.
    """
    call_later = getattr(clock, "call_later", None)
    return asyncio.timeout(seconds) if call_later is None else _either(call_later, seconds)


@asynccontextmanager
async def _either(call_later: Callable[[float, Callable[[], object]], Any], seconds: float) -> AsyncGenerator[None]:
    async with asyncio.timeout(seconds) as limit:

        def expire() -> None:
            # A limit that has struck already cannot be moved.
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        alarm = call_later(seconds, expire)
        try:
            yield
        finally:
            alarm.cancel()
