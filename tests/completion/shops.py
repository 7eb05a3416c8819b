"""A sandbox with several clients of one journal, for the tests of references."""

from __future__ import annotations

from typing import Any

import attrs

from minted_connect import CompletionPolicy, Options, Timeouts
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.protocol import ReferenceJournal, ReferenceKey
from minted_connect.models import Basket, Intent
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD

CUSTOMER = "customer-1"
REFERENCE = "plan/2026-11/customer-1"
SETTLED = 60.0
"""Seconds after which an order of the default policy would show."""


class Shop:
    """A sandbox, and clients of one journal, each of which could be a restarted process."""

    def __init__(self, connect: Any, sandbox: Sandbox, clock: ManualClock, location: Any) -> None:
        self._connect, self.sandbox, self.clock, self.location = connect, sandbox, clock, location
        self._customers: set[str] = set()

    async def client(self, policy: CompletionPolicy | None = None, **settings: Any) -> Any:
        options = settings.pop("options", None) or Options(clock=self.clock)
        timeouts = Timeouts(complete_read=1.0)
        settings = {"journal": self.location, "timeouts": timeouts, "options": options, **settings}
        if policy is not None:
            settings["options"] = attrs.evolve(options, completion=policy)
        return await self._connect(self.sandbox.url, self.sandbox.username, self.sandbox.password, **settings)

    async def create_customer(self, client: Any, customer: str = CUSTOMER) -> bool:
        """Create a customer unless it exists; return whether it was created."""
        if customer in self._customers:
            return False
        self._customers.add(customer)
        await client.customers.create(customer, firstname="Brant", lastname="Ankunding")
        return True

    async def fill(self, client: Any, qty: int = 1, sku: str = GOLD, **changes: Any) -> Basket:
        customer = changes.pop("customer_id", CUSTOMER)
        is_new = await self.create_customer(client, customer)
        if not is_new and (active := await client.baskets.get_active(customer)) is not None and active.items:
            await client.baskets.clear(active)
        return await client.baskets.add_item(customer, sku=sku, qty=qty, type=changes.pop("type", "buy"))

    async def buy(self, client: Any, reference: str = REFERENCE, **changes: Any) -> Any:
        basket = await self.fill(client, **changes)
        return await client.complete.buy(basket, expected_total=basket.paid_total, reference=reference)

    async def intents(self, reference: str = REFERENCE) -> list[Intent]:
        """Return the intents with a reference, as the journal has them."""
        owner = account_of_user(self.sandbox.url, self.sandbox.username, None)
        journal = open_journal(self.location)
        assert isinstance(journal, ReferenceJournal)
        found = await journal.find_by_reference(ReferenceKey(reference, owner, owner.account))
        await journal.aclose()
        return found

    def advance(self, seconds: float = SETTLED) -> None:
        self.clock.advance(seconds)

    def sent(self) -> int:
        return len([one for one in self.sandbox.requests if "/complete/" in one.path])
