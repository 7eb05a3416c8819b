"""The search for orders of earlier attempts: old baskets, other numbers, decisions, named accounts, new clients."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import CompletionPolicy, Options
from minted_connect.errors import NotSent, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.shops import CUSTOMER, REFERENCE, Shop

COMPLETE = "*/complete/*"
ORDERS = "*/orders*"
PROMPT = CompletionPolicy(orders_lag=1, latest_landing=1)


async def refuse(shop: Shop, client: Any, reference: str = REFERENCE) -> Any:
    """Let the server refuse a completion of a reference, and return its basket, which is still open."""
    shop.sandbox.faults.add("status", path=COMPLETE, status=422, times=1)
    with pytest.raises(Exception, match="422"):
        await shop.buy(client, reference)
    return await client.baskets.get_active(CUSTOMER)


@pytest.mark.requirement(47)
async def test_order_with_another_number_of_an_old_basket_is_found(connect, clock: ManualClock):
    async with Sandbox(seed=1, clock=clock, keep_ids=False) as sandbox:
        policy = CompletionPolicy(order_keeps_number=False, refusals=frozenset({422}))
        shop = Shop(connect, sandbox, clock, MemoryJournal())
        client = await shop.client(policy)
        await shop.fill(client)
        shop.advance(3 * 86_400)
        basket = await client.baskets.get_active(CUSTOMER)
        sandbox.faults.add("refusal", path=COMPLETE, status=422, commit="after", seconds=5, times=1)
        with pytest.raises(Exception, match="422"):
            await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
        shop.advance()
        again = await shop.buy(client)
        assert (again.replayed, again.order_id) == (True, sandbox.shop.orders[0].id)
        assert len(sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_decided_attempt_is_searched_before_it_is_tried_again(shop: Shop):
    client = await shop.client()
    shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    shop.sandbox.shop.set_status(shop.sandbox.shop.orders[0].id, "Cancelled")
    await client.complete.decide(unknown.value, "rejected")
    basket = await shop.fill(client)
    shop.sandbox.faults.add("status", path=ORDERS, status=403, times=3)
    with pytest.raises(NotSent, match="of this reference made an order could not be read"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_incomplete_list_requires_a_decision(shop: Shop):
    client = await shop.client(PROMPT)
    await shop.buy(client, "another", qty=2)
    basket = await refuse(shop, client)
    shop.advance()
    shop.sandbox.faults.add("drop_field", path=ORDERS, field="data.0", times=6)
    with pytest.raises(NotSent, match="fewer orders than its total"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    [intent] = await shop.intents()
    await client.complete.decide(intent, "rejected")
    bought = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (bought.replayed, len(shop.sandbox.shop.orders)) == (False, 2)


@pytest.mark.requirement(47)
async def test_order_of_another_reference_is_not_replayed_after_renaming(shop: Shop):
    client = await shop.client(PROMPT)
    basket = await refuse(shop, client, "october")
    november = await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    shop.advance()
    renamed = await shop.client(PROMPT, options=Options(clock=shop.clock, journal_account="shop"))
    october = await shop.buy(renamed, "october")
    assert (october.replayed, october.order_id != november.order_id) == (False, True)
    assert (await shop.buy(renamed, "november")).order_id == november.order_id


async def test_first_request_of_a_client_may_be_the_search(shop: Shop):
    basket = await refuse(shop, await shop.client(PROMPT))
    shop.advance()
    restarted = await shop.client(PROMPT)
    bought = await restarted.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (bought.replayed, len(shop.sandbox.shop.orders)) == (False, 1)
