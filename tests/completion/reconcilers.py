"""Reconcilers of either client, and the events that they report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import attrs

from minted_connect import OutcomeUnknown, ReconcileResult, ReconcilerStatus
from minted_connect.completion.lease import RESERVED
from minted_connect.journal.claims import Claim, as_claim_journal
from minted_connect.journal.protocol import Journal, ReferenceKey
from minted_connect.models import Intent
from tests.completion.shops import Shop
from tests.conftest import Awaitably


@attrs.define
class Events:
    """The values that the hooks of a reconciler received."""

    results: list[ReconcileResult] = attrs.field(factory=list[ReconcileResult])
    errors: list[Exception] = attrs.field(factory=list[Exception])
    statuses: list[ReconcilerStatus] = attrs.field(factory=list[ReconcilerStatus])

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.statuses]

    @property
    def hooks(self) -> dict[str, Any]:
        return {
            "on_result": self.results.append,
            "on_error": self.errors.append,
            "on_status": self.statuses.append,
        }


@asynccontextmanager
async def reconciling(client: Any, events: Events | None = None, **options: Any) -> AsyncIterator[Any]:
    """Open a reconciler of either client."""
    options = {**({} if events is None else events.hooks), **options}
    if not isinstance(client, Awaitably):
        async with client.complete.reconciler(**options) as reconciler:
            yield reconciler
        return
    reconciler = await client.complete.reconciler(**options)
    await anyio.to_thread.run_sync(reconciler.__enter__)
    try:
        yield reconciler
    finally:
        await anyio.to_thread.run_sync(reconciler.close)


async def lose_response(
    shop: Shop, client: Any, customer: str, fault: str = "drop_after_commit", **args: Any
) -> Intent:
    """Buy for a customer, lose the response by a fault, and return the intent."""
    basket = await shop.fill(client, customer_id=customer)
    shop.sandbox.faults.add(fault, path="*/complete/*", times=1, **args)  # type: ignore[call-overload]
    try:
        await client.complete.buy(basket, expected_total=basket.paid_total)
    except OutcomeUnknown as unknown:
        return unknown.intent
    raise AssertionError("the outcome is known")


async def find_lease(client: Any, journal: Journal) -> Claim | None:
    """Return the lease of the reconcilers of a client's account."""
    inner = client._target._inner if isinstance(client, Awaitably) else client
    owner = inner._settlement.owner
    return await as_claim_journal("test", journal).find_claim(ReferenceKey(RESERVED, owner, owner.account))
