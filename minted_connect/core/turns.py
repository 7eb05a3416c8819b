"""Serialises everything that can touch the baskets of one customer.

After a lost response, two concurrent changes could not be told apart. A change during a purchase would be bought
without having been agreed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from minted_connect.config import Clock
from minted_connect.core.timing import timeout
from minted_connect.errors import NotSent

__all__ = ["Turns"]


class Turns:
    """One queue for each thing that is being changed; shared by the siblings of a client."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Weak: whoever has or awaits the turn keeps the lock, and the last one takes it along.
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, thing: Hashable, patience: float) -> AsyncGenerator[None, None]:
        """Have the turn for `thing` inside of the `with`, after at most `patience` seconds.

        Raises:
            NotSent: those before took longer than that.
        """
        lock = self._locks.setdefault(thing, asyncio.Lock())
        # Also for a lock that is free: a waiter that was woken and has not run yet comes first.
        try:
            async with timeout(self._clock, patience):
                await lock.acquire()
        except TimeoutError:
            raise NotSent(f"other changes of the same basket or customer took longer than {patience:g} s") from None
        try:
            yield
        finally:
            lock.release()
