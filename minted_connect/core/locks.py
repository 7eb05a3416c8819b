"""Locks by key, so that requests that can affect the baskets of one customer run one after the other.

After a lost response, two concurrent changes could not be told apart, and a change made during a purchase would be
bought without the caller's consent.
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
    """One lock per key; shared by a client and the clients made by `with_options`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Weak values: each holder and each waiter refers to its lock, and a lock without either is dropped.
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, key: Hashable, timeout: float) -> AsyncGenerator[None, None]:
        """Hold the lock of `key` inside the `with` block; wait at most `timeout` seconds for it.

        Raises:
            NotSent: if the lock was not free in time.
        """
        lock = self._locks.setdefault(key, asyncio.Lock())
        # The timeout is needed even if the lock is free: a waiter that was woken but has not run yet comes first.
        try:
            async with time_limit(self._clock, timeout):
                await lock.acquire()
        except TimeoutError:
            raise NotSent(f"other changes of the same basket or customer took longer than {timeout:g} s") from None
        try:
            yield
        finally:
            lock.release()
