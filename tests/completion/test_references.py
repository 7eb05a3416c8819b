"""References: each is completed at most once, across baskets, clients, restarts and journals."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy, Options
from minted_connect.errors import (
    AlreadyInFlight,
    CompletionRejected,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.shops import CUSTOMER, REFERENCE, Shop

COMPLETE = "*/complete/*"
ORDERS = "*/orders*"


@pytest.mark.requirement(47)
async def test_confirmed_reference_is_replayed_with_one_request(shop: Shop):
    first = await shop.buy(await shop.client())
    assert not first.replayed
    restarted = await shop.client()
    basket = await shop.fill(restarted)
    before = shop.sandbox.requests.total
    again = await restarted.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert shop.sandbox.requests.total - before == 1
    assert again.replayed
    assert (again.order_id, again.order.paid_total) == (first.order_id, first.order.paid_total)
    assert again.differences == ()
    assert len(shop.sandbox.shop.orders) == 1


async def test_another_reference_is_bought_again(shop: Shop):
    client = await shop.client()
    orders = {(await shop.buy(client, reference)).order_id for reference in ("october", "november")}
    assert len(orders) == 2


@pytest.mark.requirement(47)
async def test_replay_without_readable_orders_returns_the_order_id(shop: Shop):
    first = await shop.buy(await shop.client())
    client = await shop.client()
    basket = await shop.fill(client)
    shop.sandbox.faults.add("status", path=ORDERS, status=404)
    again = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (again.replayed, again.order, again.order_id) == (True, None, first.order_id)
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_unknown_reference_raises_outcome_unknown_until_reconciled(shop: Shop):
    client = await shop.client()
    shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    with pytest.raises(OutcomeUnknown) as again:
        await shop.buy(await shop.client())
    assert again.value.intent.id == unknown.value.intent.id
    assert (shop.sent(), len(shop.sandbox.shop.orders)) == (1, 1)
    settled = await client.complete.reconcile(again.value)
    replayed = await shop.buy(await shop.client())
    assert (replayed.replayed, replayed.order_id) == (True, settled.order_id)
    assert shop.sent() == 1


async def test_prepared_reference_raises_already_in_flight(shop: Shop):
    client = await shop.client()
    completed = await shop.buy(client, "model")
    [model] = await shop.intents("model")
    assert completed.order_id == model.order_id
    stopped = attrs.evolve(model, id="stopped", cart_token="T" * 32, state=IntentState.PREPARED, order_id=None)
    owner = account_of_user(shop.sandbox.url, shop.sandbox.username, None)
    journal: Any = open_journal(shop.location)
    key = ReferenceKey(REFERENCE, owner, owner.account)
    await journal.prepare(attrs.evolve(stopped, reference=REFERENCE), key=key)
    with pytest.raises(AlreadyInFlight, match="this reference is being completed") as caught:
        await shop.buy(client)
    assert caught.value.intent_id == "stopped"
    assert shop.sent() == 1
    await journal.aclose()


@pytest.mark.requirement(47)
async def test_attempt_settled_wrongly_is_found_and_replayed(shop: Shop, caplog):
    client = await shop.client()
    shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    await client.complete.decide(unknown.value, "not_executed")
    again = await shop.buy(client)
    assert again.replayed
    assert (shop.sent(), len(shop.sandbox.shop.orders)) == (1, 1)
    assert "was settled as not_executed, but its order exists" in caplog.text
    assert [intent.id for intent in await client.complete.unfinished()] == [unknown.value.intent.id]


async def test_attempt_that_was_not_sent_is_tried_again(shop: Shop):
    client = await shop.client()
    basket = await shop.fill(client)
    with pytest.raises(NotSent):
        await client.complete.buy(basket, expected_total=basket.paid_total + 1, reference=REFERENCE)
    bought = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (bought.replayed, shop.sent()) == (False, 1)


@pytest.mark.requirement(47)
async def test_rejected_attempt_is_searched_before_it_is_tried_again(shop: Shop):
    client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1))
    shop.sandbox.faults.add("status", path=COMPLETE, status=422, times=1)
    with pytest.raises(Exception, match="422"):
        await shop.buy(client)
    basket = await client.baskets.get_active(CUSTOMER)
    with pytest.raises(NotSent, match=r"could still show: try again in [1-3] s"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    shop.advance()
    shop.sandbox.faults.add("status", path=ORDERS, status=403)
    with pytest.raises(NotSent, match="of this reference made an order could not be read"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    shop.sandbox.faults.clear()
    assert (shop.sent(), shop.sandbox.shop.orders) == (1, [])
    bought = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (bought.replayed, len(shop.sandbox.shop.orders)) == (False, 1)


@pytest.mark.requirement(47)
async def test_reference_with_failed_order_is_not_bought_again(shop: Shop):
    client = await shop.client()
    shop.sandbox.faults.add("order_status", path=COMPLETE, name="Cancelled", times=1)
    with pytest.raises(CompletionRejected):
        await shop.buy(client)
    with pytest.raises(CompletionRejected, match="use another reference"):
        await shop.buy(client)
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
@pytest.mark.parametrize("latest_landing", [None, 2.0])
async def test_cleared_basket_frees_reference_only_with_latest_landing(shop: Shop, latest_landing):
    policy = CompletionPolicy(orders_lag=1, latest_landing=latest_landing, fence_proves_not_executed=True)
    client = await shop.client(policy)
    shop.sandbox.faults.add("drop_before_read", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    with pytest.raises(NotExecuted, match="the basket was cleared"):
        await client.complete.reconcile(unknown.value, fence=True)
    shop.advance(600)
    if latest_landing is None:
        with pytest.raises(AlreadyInFlight, match=r"latest_landing.*complete\.decide") as caught:
            await shop.buy(client)
        assert caught.value.intent_id == unknown.value.intent.id
        assert shop.sandbox.shop.orders == []
        await client.complete.decide(caught.value.intent_id, "not_executed")
    assert not (await shop.buy(client)).replayed
    assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.requirement(47)
async def test_account_named_later_keeps_its_references(shop: Shop):
    first = await shop.buy(await shop.client())
    renamed = await shop.client(options=Options(clock=shop.clock, journal_account="shop"))
    again = await shop.buy(renamed)
    assert (again.replayed, again.order_id) == (True, first.order_id)


@pytest.mark.requirement(47)
async def test_order_of_another_reference_with_the_same_basket_is_not_replayed(shop: Shop):
    client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1))
    shop.sandbox.faults.add("status", path=COMPLETE, status=422, times=1)
    with pytest.raises(Exception, match="422"):
        await shop.buy(client, "october")
    basket = await client.baskets.get_active(CUSTOMER)
    november = await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    shop.advance()
    october = await shop.buy(client, "october")
    assert (november.replayed, october.replayed) == (False, False)
    assert october.order_id != november.order_id
    assert (await shop.buy(client, "november")).order_id == november.order_id


@pytest.mark.requirement(47)
async def test_accepted_order_of_a_later_attempt_is_replayed_before_a_failed_one(shop: Shop):
    client = await shop.client()
    numbers = []
    for _ in range(2):
        shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
        with pytest.raises(OutcomeUnknown) as unknown:
            await shop.buy(client)
        await client.complete.decide(unknown.value, "not_executed")
        numbers.append(shop.sandbox.shop.orders[-1].id)
        shop.sandbox.shop.unlisted.add(numbers[-1])
    shop.sandbox.shop.unlisted.clear()
    shop.sandbox.shop.set_status(numbers[0], "Cancelled")
    again = await shop.buy(client)
    assert (again.replayed, again.order_id) == (True, numbers[1])


class RacingJournal(MemoryJournal):
    """Lets another client act between the search for earlier attempts and `prepare`."""

    before_prepare: Any = None

    async def prepare(self, intent: Intent, **arguments: Any) -> None:
        act, self.before_prepare = self.before_prepare, None
        if act is not None:
            await act()
        await super().prepare(intent, **arguments)


@pytest.mark.requirement(47)
async def test_reference_completed_meanwhile_by_another_process_is_replayed(connect, sandbox: Sandbox, clock):
    journal = RacingJournal()
    shop = Shop(connect, sandbox, clock, journal)
    client, other = await shop.client(), await shop.client()
    basket = await shop.fill(client)
    bought: list[Any] = []

    async def buy() -> None:
        bought.append(await other.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE))

    journal.before_prepare = buy
    again = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (again.replayed, again.order_id) == (True, bought[0].order_id)
    assert shop.sent() == 1


async def test_many_attempts_are_searched_with_few_requests(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "model")
    [model] = await shop.intents("model")
    owner = account_of_user(shop.sandbox.url, shop.sandbox.username, None)
    journal: Any = open_journal(shop.location)
    key = ReferenceKey(REFERENCE, owner, owner.account)
    known: list[str] = []
    for number in range(20):
        keys = {"cart_token": f"{number:032}", "guid": f"G{number}", "increment_id": f"I{number}", "basket_id": number}
        tried = attrs.evolve(model, id=f"tried-{number}", **keys, order_id=None, progress=None, reference=REFERENCE)
        await journal.prepare(attrs.evolve(tried, state=IntentState.PREPARED), key=key, known=known)
        await journal.settle(tried.id, IntentState.NOT_SENT)
        known.append(tried.id)
    await journal.aclose()
    basket = await shop.fill(client)
    before = shop.sandbox.requests.total
    bought = await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (bought.replayed, shop.sandbox.requests.total - before) == (False, 3)


async def test_two_confirmed_intents_of_one_reference_are_logged_at_error(shop: Shop, caplog):
    client = await shop.client()
    policy_client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1, fence_proves_not_executed=True))
    shop.sandbox.faults.add("drop_before_read", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    await client.complete.decide(unknown.value, "not_executed")
    second = await shop.buy(policy_client)
    assert "more than once" not in caplog.text
    await client.complete.decide(unknown.value, "confirmed")
    [logged] = [record for record in caplog.records if "more than once" in record.message]
    assert logged.levelno == logging.ERROR
    assert unknown.value.intent.id in logged.message
    assert second.order_id is not None


@pytest.mark.requirement(47)
async def test_order_of_a_basket_that_was_completed_again_counts_once(shop: Shop):
    """One process settles an attempt, and completes its basket for another reference; another one still reads back."""
    client = await shop.client()
    shop.sandbox.faults.add("drop_before_read", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    other = await shop.client()
    await other.complete.decide(unknown.value, "not_executed")
    basket = await other.baskets.get_active(CUSTOMER)
    bought = await other.complete.buy(basket, expected_total=basket.paid_total, reference="another")
    for fence in (False, True):
        with pytest.raises(NotExecuted, match="completed again"):
            await client.complete.reconcile(unknown.value, fence=fence)
    [attempt] = await shop.intents()
    assert attempt.state == IntentState.NOT_EXECUTED
    [confirmed] = await shop.intents("another")
    assert confirmed.order_id == bought.order_id


async def test_basket_of_a_settled_attempt_is_not_cleared(shop: Shop):
    client = await shop.client()
    shop.sandbox.faults.add("drop_before_read", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await shop.buy(client)
    await (await shop.client()).complete.decide(unknown.value, "not_executed")
    with pytest.raises(OutcomeUnknown):
        await client.with_options().complete.reconcile(unknown.value, fence=True)
    assert (await client.baskets.get_active(CUSTOMER)).items
