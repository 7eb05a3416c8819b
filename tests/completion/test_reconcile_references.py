"""Reconciling the attempt of one reference after another reference has completed the same basket."""

from __future__ import annotations

from contextlib import suppress

import pytest

from minted_connect import CompletionPolicy
from minted_connect.errors import MintedConnectError, NotExecuted, OutcomeUnknown
from minted_connect.models import IntentState
from tests.completion.shops import Shop


@pytest.mark.requirement(47)
@pytest.mark.parametrize("pieces", [1, 2])
async def test_order_of_another_reference_does_not_confirm_attempt(shop: Shop, pieces: int):
    client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1, fence_proves_not_executed=True))
    shop.sandbox.faults.add("drop_before_read", path="*/complete/*", times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client, "october")
    with pytest.raises(NotExecuted):
        await client.complete.reconcile(unknown.value, fence=True)
    november = await shop.buy(client, "november", qty=pieces)
    # Another process may still reconcile the attempt, or its caller may do so again.
    with suppress(MintedConnectError):
        await client.complete.reconcile(unknown.value)
    [october] = await shop.intents("october")
    assert (october.state, october.order_id) == (IntentState.NOT_EXECUTED, None)
    shop.advance(600)
    bought = await shop.buy(client, "october")
    assert (bought.replayed, len(shop.sandbox.shop.orders)) == (False, 2)
    assert bought.order_id != november.order_id
