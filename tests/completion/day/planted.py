"""Five discrepancies between a journal and the orders, planted after a clean day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs

from minted_connect import AsyncMintedConnect
from minted_connect.audit import Finding, FindingKind
from minted_connect.models import Completion
from minted_connect.sandbox.shop import Shop
from tests.completion.chaos.plan import SKUS
from tests.completion.day.clock import LeadingClock
from tests.completion.day.databases import Database
from tests.completion.day.plan import ORDERS_LAG, READS_LAG

__all__ = ["Planted", "plant"]

Planted = tuple[FindingKind, frozenset[str], frozenset[int]]
"""Kind of a finding, the intents and the orders that it names."""


def planted(finding: Finding) -> Planted:
    """Return what a finding names."""
    return finding.kind, frozenset(finding.intent_ids), frozenset(finding.order_ids)


async def plant(
    shop: Shop,
    clock: LeadingClock,
    database: Database,
    client_settings: Callable[[str | None], dict[str, Any]],
    second_journal: str,
) -> list[Planted]:
    """Plant five discrepancies, and return the findings that must name them.

    Args:
        shop: The state of the sandbox.
        clock: Moved between a change and the purchase that reads it.
        database: The journal of the day.
        client_settings: Returns the arguments of a client with a journal.
        second_journal: The file of another journal, that the audit compares, too.
    """
    intents = database.intents()
    # Without the row of the purchase, an earlier attempt with the same basket would be the intent of the order.
    baskets = Counter(one.cart_token for one in intents)
    once = [one for one in intents if one.order_id is not None and baskets[one.cart_token] == 1]
    confirmed = sorted(once, key=lambda one: one.created_at)
    lost, changed, repeated, cancelled = (confirmed[len(confirmed) * part // 5] for part in (1, 2, 3, 4))

    async def buy(customer: str, journal: str | None, reference: str | None) -> tuple[Completion, str]:
        async with AsyncMintedConnect(**client_settings(journal)) as minted:
            active = await minted.baskets.get_active(customer)
            if active is not None and active.items:
                await minted.baskets.clear(active)
                clock.move_to(clock.monotonic() + READS_LAG + ORDERS_LAG)
            basket = await minted.baskets.add_item(customer, sku=SKUS[0])
            clock.move_to(clock.monotonic() + READS_LAG + ORDERS_LAG)
            done = await minted.complete.buy(basket, accept_price="current", reference=reference)
            intents = [one.id async for one in minted.complete.intents(customer_id=customer)]
            return done, intents[-1]

    by_hand, _ = await buy(confirmed[0].customer, None, None)
    assert by_hand.order_id is not None
    again, again_id = await buy(repeated.customer, second_journal, repeated.reference)
    assert again.order_id is not None
    assert repeated.order_id is not None
    database.delete(lost.id)
    [order] = [order for order in shop.orders if order.id == changed.order_id]
    order.figures = attrs.evolve(order.figures, paid_total=order.figures.paid_total + Decimal("100.00"))
    shop._save(order)
    assert cancelled.order_id is not None
    shop.set_status(cancelled.order_id, "Cancelled")
    return [
        (FindingKind.ORDER_WITHOUT_INTENT, frozenset(), frozenset({by_hand.order_id})),
        (FindingKind.ORDER_WITHOUT_INTENT, frozenset(), frozenset({lost.order_id or 0})),
        (FindingKind.TOTAL_DIFFERS, frozenset({changed.id}), frozenset({changed.order_id or 0})),
        (
            FindingKind.REFERENCE_REPEATED,
            frozenset({repeated.id, again_id}),
            frozenset({repeated.order_id, again.order_id}),
        ),
        (FindingKind.ORDER_FAILED, frozenset({cancelled.id}), frozenset({cancelled.order_id})),
    ]
