"""A mixed load for either client: reads, changes, purchases and reconciliations."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import attrs

from minted_connect import MintedConnectError
from tests.support.operations import GOLD, SILVER


@attrs.define
class Load:
    """Makes calls, and counts their outcomes."""

    minted: Any
    rng: random.Random
    outcomes: Counter[str] = attrs.field(factory=Counter)
    _number: int = 0

    @property
    def calls(self) -> int:
        return self.outcomes.total()

    async def make_random_call(self) -> None:
        """Make one random call, or several related calls."""
        actions = [self.read] * 8 + [self.change] * 3 + [self.purchase] * 2 + [self.purchase_and_read]
        await self.rng.choice(actions)()

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Make one call; return its result, or None if it failed."""
        try:
            result = await method(*args, **kwargs)
        except MintedConnectError as error:
            self.outcomes[type(error).__name__] += 1
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            raise
        else:
            self.outcomes["succeeded"] += 1
            return result
        return None

    async def create_customer(self) -> str:
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
        basket = await self.call(self.minted.baskets.add_item, await self.create_customer(), sku=GOLD)
        if basket is not None:
            await self.call(self.minted.baskets.add_item, basket, sku=SILVER)
            await self.call(self.minted.baskets.update_item, basket, sku=GOLD, qty=2)
            await self.call(self.minted.baskets.clear, basket)

    async def purchase(self) -> Any:
        basket = await self.call(self.minted.baskets.add_item, await self.create_customer(), sku=GOLD)
        if basket is None:
            return None
        return await self.call(self.minted.complete.buy, basket, accept_price="current")

    async def purchase_and_read(self) -> None:
        """Buy, and read the order and its receipt."""
        completion = await self.purchase()
        if completion is not None and completion.order is not None:
            await self.call(
                self.minted.orders.get, completion.order.id, customer_id=completion.order.customer.external_id
            )
            await self.call(
                self.minted.orders.receipt, completion.order.id, customer_id=completion.order.customer.external_id
            )

    async def reconcile_pending(self, *, fence: bool = False) -> None:
        """Reconcile the pending intents, among them those of cancelled purchases."""
        for intent in await self.call(self.minted.complete.pending) or ():
            await self.call(self.minted.complete.reconcile, intent, fence=fence)
