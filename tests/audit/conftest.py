"""A shop of one day: clients with journals in files, a sandbox with a movable clock, and its audit."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect, CompletionPolicy, Options, Timeouts
from minted_connect.audit import AuditReport, audit
from minted_connect.models import Completion
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD

DAY = date(2026, 2, 20)
"""The day on which a `ManualClock` starts, at 12:27 UTC."""
POLICY = CompletionPolicy(orders_lag=1.0, latest_landing=2.0, fence_proves_not_executed=True, reconcile_budget=20.0)
WHILE = 120.0
"""Seconds after which no purchase is recent."""


class AuditedShop:
    """A sandbox, and clients that write to journals of their own."""

    def __init__(self, sandbox: Sandbox, clock: ManualClock, folder: Path, stack: AsyncExitStack) -> None:
        self.sandbox, self.clock, self.folder, self._stack = sandbox, clock, folder, stack
        self.journals: list[Path] = []
        self._customers: set[str] = set()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "username": self.sandbox.username,
            "password": self.sandbox.password,
            "base_url": self.sandbox.url,
            "options": Options(clock=self.clock, completion=POLICY),
            "timeouts": Timeouts(complete_read=1.0),
        }

    async def client(self, name: str | None = "journal") -> AsyncMintedConnect:
        """Return a client with a journal in a file of this name, or with one in memory, which is not audited."""
        settings = self.settings
        if name is not None:
            settings["journal"] = self.folder / f"{name}.db"
            if settings["journal"] not in self.journals:
                self.journals.append(settings["journal"])
        return await self._stack.enter_async_context(AsyncMintedConnect(**settings))

    async def buy(
        self, client: AsyncMintedConnect, customer: str = "customer-1", qty: int = 1, **settings: Any
    ) -> Completion:
        if customer not in self._customers:
            self._customers.add(customer)
            await client.customers.create(customer, firstname="Brant", lastname="Ankunding")
        if (active := await client.baskets.get_active(customer)) is not None and active.items:
            await client.baskets.clear(active)
        basket = await client.baskets.add_item(customer, sku=GOLD, qty=qty)
        return await client.complete.buy(basket, expected_total=basket.paid_total, **settings)

    async def audit(self, start: date = DAY, end: date | None = None, **settings: Any) -> AuditReport:
        settings = {"journals": self.journals, **settings}
        return await audit(self.settings, start=start, end=end, **settings)

    def execute(self, statement: str, *values: object, journal: int = 0) -> None:
        """Change a journal behind its back."""
        with sqlite3.connect(self.journals[journal]) as database:
            assert database.execute(statement, values).rowcount == 1
        database.close()


@pytest.fixture
async def shop(sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> AsyncIterator[AuditedShop]:
    async with AsyncExitStack() as stack:
        yield AuditedShop(sandbox, clock, tmp_path, stack)
