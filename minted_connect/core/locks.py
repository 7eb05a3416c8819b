"""Serialises everything that can touch the baskets of one customer.

After a lost response, two concurrent changes could not be told apart. A change during a purchase would be bought
without having been agreed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from minted_connect.clock import Clock
from minted_connect.clock import timeout as time_limit
from minted_connect.errors import NotSent

__all__ = ["KeyedLocks"]


class KeyedLocks:
    """One queue for each thing that is being changed; shared by the siblings of a client."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Weak: whoever has or awaits the turn keeps the lock, and the last one takes it along.
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, key: Hashable, timeout: float) -> AsyncGenerator[None, None]:
        """Hold the lock of `key` inside the `with`; wait at most `timeout` seconds for it.

        Raises:
            NotSent: if the lock was not free in time.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        # Also for a lock that is free: a waiter that was woken and has not run yet comes first.
        try:
            async with time_limit(self._clock, timeout):
                await lock.acquire()
        except TimeoutError:
            raise NotSent(f"other changes of the same basket or customer took longer than {timeout:g} s") from None
        try:
            yield
        finally:
            lock.release()
