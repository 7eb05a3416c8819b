"""A mixed load in bad weather, for either client: reads, changes, purchases that are found out about, watches."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import attrs

from minted_connect import MintedConnectError
from minted_connect.sandbox.active_faults import Fault, Faults
from tests.support.operations import GOLD, SILVER

WEATHER: list[tuple[str, dict[str, Any]]] = [
    ("drop_before_read", {}),
    ("drop_before_read", {"reset": True}),
    ("drop_after_commit", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("truncate", {"chunked": True}),
    ("status", {"status": 500}),
    ("status", {"status": 503, "commit": True, "retry_after": 1}),
    ("status", {"status": 401}),
    ("status", {"status": 404}),
    ("status", {"status": 422}),
    ("html", {}),
    ("empty", {}),
    ("invalid_json", {}),
    ("stale_nonce", {}),
    ("rate_limit", {"retry_after": 1}),
    ("redirect", {}),
    ("many_headers", {}),
    ("long_header", {}),
    ("two_answers", {}),
    ("interim", {}),
    ("too_large", {"size": 40_000}),
    ("gzip_bomb", {"size": 2**20}),
    ("slow_loris", {"interval": 0.01}),
    ("delay", {"seconds": 0.1}),
    ("wrong_customer", {}),
    ("success_false", {}),
    ("hang", {"commit": True}),
    ("hang", {"commit": False}),
]


@attrs.define
class Weather:
    """Has a share of the requests of a sandbox go wrong, each in a way of its own; call `turn` now and then."""

    faults: Faults
    rng: random.Random
    share: float
    coming: list[Fault] = attrs.field(factory=list)

    def turn(self, requests: int = 100) -> None:
        """Let go of what has struck, and plan for so many requests unless there is something left."""
        self.let_go()
        every = round(1 / self.share)
        if not self.coming:
            for after in range(0, requests, every):
                kind, args = self.rng.choice(WEATHER)
                self.coming.append(self.faults.add(kind, after=after + self.rng.randrange(every), **args))

    def let_go(self) -> None:
        """End what has struck; requests that hang in it go on."""
        for fault in [fault for fault in self.coming if fault.hits]:
            fault.remove()
            self.coming.remove(fault)

    def clear_up(self) -> None:
        """End all of it."""
        for fault in self.coming:
            fault.remove()
        self.coming.clear()

    @property
    def hanging(self) -> bool:
        return any(fault.waiting for fault in self.coming)


@attrs.define
class Load:
    """Makes calls, and counts how they ended."""

    minted: Any
    rng: random.Random
    ends: Counter[str] = attrs.field(factory=Counter)
    _number: int = 0

    @property
    def calls(self) -> int:
        return self.ends.total()

    async def some(self) -> None:
        """Do one thing at random: one call, or several that belong together."""
        things = [self.read] * 8 + [self.change] * 3 + [self.purchase] * 2 + [self.look_up]
        await self.rng.choice(things)()

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make one call; return its result, or None if it failed."""
        try:
            result = await method(*args, **kwargs)
        except MintedConnectError as error:
            self.ends[type(error).__name__] += 1
        except asyncio.CancelledError:
            self.ends["cancelled"] += 1
            raise
        else:
            self.ends["answered"] += 1
            return result
        return None

    async def customer(self) -> str:
        self._number += 1
        name = f"load-{self.rng.randrange(10**9)}-{self._number}"
        await self.call(self.minted.customers.create, name, firstname="Grace")
        return name

    async def read(self) -> None:
        minted = self.minted
        method, *args = self.rng.choice(
            [
                (minted.rates.current,),
                (minted.products.page,),
                (minted.customers.get, "nobody"),
                (minted.request, "GET", "/nowhere"),
                (minted.wallet.balance, "nobody"),
            ]
        )
        await self.call(method, *args)

    async def change(self) -> None:
        basket = await self.call(self.minted.baskets.add_item, await self.customer(), sku=GOLD)
        if basket is not None:
            await self.call(self.minted.baskets.add_item, basket, sku=SILVER)
            await self.call(self.minted.baskets.update_item, basket, sku=GOLD, qty=2)
            await self.call(self.minted.baskets.clear, basket)

    async def purchase(self) -> Any:
        basket = await self.call(self.minted.baskets.add_item, await self.customer(), sku=GOLD)
        if basket is None:
            return None
        return await self.call(self.minted.complete.buy, basket, accept_price="current")

    async def look_up(self) -> None:
        """Buy, and look at what became of it."""
        done = await self.purchase()
        if done is not None and done.order is not None:
            await self.call(self.minted.orders.get, done.order.id, customer_id=done.order.customer.external_id)
            await self.call(self.minted.orders.receipt, done.order.id, customer_id=done.order.customer.external_id)

    async def find_out(self, *, fence: bool = False) -> None:
        """Find out what became of the purchases that are open, those that were cancelled among them."""
        for intent in await self.call(self.minted.complete.pending) or ():
            await self.call(self.minted.complete.reconcile, intent, fence=fence)
