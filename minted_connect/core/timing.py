"""How long something may take: on the machine's clock, and on a test's clock where that one moves faster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from minted_connect.config import Clock

__all__ = ["Alarm", "alarm", "timeout"]


class Alarm(Protocol):
    """Something that is to happen later."""

    def cancel(self) -> object:
        """Have it not happen."""


_CallLater = Callable[[float, Callable[[], object]], Alarm]


def alarm(clock: Clock, seconds: float, callback: Callable[[], object]) -> Alarm:
    """Call back in so many seconds of `clock` if it can set alarms, of the event loop's time otherwise."""
    return (_call_later(clock) or asyncio.get_running_loop().call_later)(seconds, callback)


def timeout(clock: Clock, seconds: float) -> AbstractAsyncContextManager[object]:
    """Limit a block as `asyncio.timeout` does, also by what `clock` says if it can set alarms.

    Real time counts in any case: a test whose clock stands still must not hang.
    """
    call_later = _call_later(clock)
    return asyncio.timeout(seconds) if call_later is None else _either(call_later, seconds)


def _call_later(clock: Clock) -> _CallLater | None:
    return getattr(clock, "call_later", None)


@asynccontextmanager
async def _either(call_later: _CallLater, seconds: float) -> AsyncGenerator[None]:
    async with asyncio.timeout(seconds) as limit:

        def expire() -> None:
            # A limit that has struck already cannot be moved.
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

        armed = call_later(seconds, expire)
        try:
            yield
        finally:
            armed.cancel()
