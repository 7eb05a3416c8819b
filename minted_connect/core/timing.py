"""How long something may take: on the machine's clock, and on a test's clock where that one moves faster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from minted_connect.config import Clock

__all__ = ["Alarm", "alarm", "timeout"]


class Alarm(Protocol):
    """Something that is to happen later."""

    def cancel(self) -> object:
        """Have it not happen."""


def alarm(clock: Clock, seconds: float, callback: Callable[[], object]) -> Alarm:
    """Call back in so many seconds of `clock` if it can set alarms, of the event loop's time otherwise."""
    call_later: Callable[[float, Callable[[], object]], Alarm] | None = getattr(clock, "call_later", None)
    return (asyncio.get_running_loop().call_later if call_later is None else call_later)(seconds, callback)


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
