"""A mixed load under random faults, for either client: reads, changes, purchases and reconciliations."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import attrs

from minted_connect import MintedConnectError
from minted_connect.sandbox.active_faults import Fault, Faults
from tests.support.operations import GOLD, SILVER

FAULTS: list[tuple[str, dict[str, Any]]] = [
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
class RandomFaults:
    """Makes a share of the requests of a sandbox fail, with different faults; call `renew` regularly."""

    faults: Faults
    rng: random.Random
    share: float
    planned: list[Fault] = attrs.field(factory=list)

    def renew(self, requests: int = 100) -> None:
        """Remove triggered faults; if no fault is left, plan faults for the next requests."""
        self.remove_triggered()
        every = round(1 / self.share)
        if not self.planned:
            for after in range(0, requests, every):
                kind, args = self.rng.choice(FAULTS)
                self.planned.append(self.faults.add(kind, after=after + self.rng.randrange(every), **args))

    def remove_triggered(self) -> None:
        """Remove the triggered faults; requests that hang in a fault continue."""
        for fault in [fault for fault in self.planned if fault.hits]:
            fault.remove()
            self.planned.remove(fault)

    def remove_all(self) -> None:
        """Remove all faults."""
        for fault in self.planned:
            fault.remove()
        self.planned.clear()

    @property
    def has_waiting(self) -> bool:
        return any(fault.waiting for fault in self.planned)


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
