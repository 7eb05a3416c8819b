"""References: each is completed at most once, across baskets, clients, restarts and journals."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy, Options, Timeouts
from minted_connect.errors import (
    AlreadyInFlight,
    CompletionRejected,
    ConfigurationError,
    InvalidInput,
    JournalError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
)
from minted_connect.journal import memory, open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, JournalAccount, ReferenceJournal
from minted_connect.models import Basket, Intent, IntentState, OrderKind
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import SHIPPING, intent_of
from tests.support.operations import GOLD, SILVER

CUSTOMER = "customer-1"
COMPLETE = "*/complete/*"
ORDERS = "*/orders*"
REFERENCE = "plan/2026-11/customer-1"
MINE = JournalAccount("server", "mine")
OTHER = JournalAccount("server", "other")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    return open_journal(tmp_path / "j.db" if request.param == "sqlite" else request.getfixturevalue("database").url)


def named(intent_id: str, owner: JournalAccount = MINE, **changes: Any) -> Intent:
    """Return an intent with a reference and a basket of its own."""
    defaults = {"reference": REFERENCE, "terms": "{}", "cart_token": intent_id, "state": IntentState.PREPARED}
    return intent_of(id=intent_id, server=owner.server, account=owner.account, **{**defaults, **changes})


# Journals.


@pytest.mark.requirement(47)
@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED])
async def test_prepare_with_active_reference_raises_already_in_flight(journal, state):
    await journal.prepare(named("first"))
    if state != IntentState.PREPARED:
        await journal.settle("first", state, order_id=10984)
    with pytest.raises(AlreadyInFlight, match="this reference") as caught:
        await journal.prepare(named("second"))
    assert caught.value.intent_id == "first"
    assert await journal.get("second") is None


@pytest.mark.parametrize("state", [IntentState.REJECTED, IntentState.NOT_SENT, IntentState.NOT_EXECUTED])
async def test_prepare_after_failed_attempt_is_accepted(journal, state):
    await journal.prepare(named("first"))
    await journal.settle("first", state)
    await journal.prepare(named("second"))
    found = await journal.find_by_reference(REFERENCE, account=MINE.account)
    assert [(intent.id, intent.state) for intent in found] == [("first", state), ("second", IntentState.PREPARED)]
    assert found[1] == named("second")


@pytest.mark.requirement(47)
async def test_prepare_after_late_confirmation_of_older_attempt_raises(journal):
    await journal.prepare(named("first"))
    await journal.settle("first", IntentState.NOT_EXECUTED)
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await journal.prepare(named("second"))


async def test_references_of_accounts_are_separate(journal):
    await journal.prepare(named("mine"))
    await journal.prepare(named("other", OTHER))
    for owner, intent_id in ((MINE, "mine"), (OTHER, "other")):
        [found] = await journal.find_by_reference(REFERENCE, account=owner.account)
        assert found.id == intent_id
    assert await journal.find_by_reference("another", account=MINE.account) == []


async def test_has_other_references_is_true_for_another_user_of_the_server(journal):
    await journal.prepare(named("mine"))
    await journal.prepare(named("plain", OTHER, reference=None, terms=None))
    assert not await journal.has_other_references(MINE)
    assert await journal.has_other_references(OTHER)
    assert not await journal.has_other_references(JournalAccount("elsewhere", "other"))
    await journal.adopt("mine", OTHER)
    assert not await journal.has_other_references(OTHER)
    [adopted] = await journal.find_by_reference(REFERENCE, account=OTHER.account)
    assert adopted.id == "mine"


@pytest.mark.requirement(47)
async def test_concurrent_prepare_of_one_reference_succeeds_once(journal_location):
    journals = [open_journal(journal_location) for _ in range(6)]
    prepared = [one.prepare(named(f"intent-{number}")) for number, one in enumerate(journals)]
    results = await asyncio.gather(*prepared, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [AlreadyInFlight] * 5
    [stored] = await journals[0].find_by_reference(REFERENCE, account=MINE.account)
    assert results[int(stored.id.removeprefix("intent-"))] is None
    for one in journals:
        await one.aclose()


async def test_unreadable_record_of_a_reference_raises_journal_error(tmp_path):
    journal = open_journal(tmp_path / "j.db")
    await journal.prepare(named("first"))
    await journal.settle("first", IntentState.NOT_SENT)
    with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
        database.execute("UPDATE intents SET items = 'none'")
    assert isinstance(journal, ReferenceJournal)
    for call in (journal.find_by_reference(REFERENCE, account=MINE.account), journal.prepare(named("second"))):
        with pytest.raises(JournalError, match="cannot be read: intent first"):
            await call
    await journal.aclose()


async def test_memory_keeps_references_beyond_its_limit(monkeypatch, caplog):
    monkeypatch.setattr(memory, "_MAX_CLOSED", 2)
    journal = MemoryJournal()
    for number in range(5):
        await journal.prepare(named(f"named-{number}", reference=f"r-{number}"))
        await journal.settle(f"named-{number}", IntentState.CONFIRMED)
        await journal.prepare(named(f"plain-{number}", reference=None, terms=None))
        await journal.settle(f"plain-{number}", IntentState.CONFIRMED)
    kept = [f"plain-{number}" for number in range(5) if await journal.get(f"plain-{number}")]
    assert kept == ["plain-3", "plain-4"]
    assert all([await journal.find_by_reference(f"r-{number}", account=MINE.account) for number in range(5)])
    assert len([record for record in caplog.records if "keeps all references" in record.message]) == 1


# Clients.


class Shop:
    """A sandbox, and clients of one journal, each of which could be a restarted process."""

    def __init__(self, connect: Any, sandbox: Sandbox, clock: ManualClock, location: Any) -> None:
        self._connect, self.sandbox, self._clock, self.location = connect, sandbox, clock, location
        self._customers: set[str] = set()

    async def client(self, policy: CompletionPolicy | None = None, **settings: Any) -> Any:
        options = settings.pop("options", None) or Options(clock=self._clock)
        timeouts = Timeouts(complete_read=1.0)
        settings = {"journal": self.location, "timeouts": timeouts, "options": options, **settings}
        if policy is not None:
            settings["options"] = attrs.evolve(options, completion=policy)
        return await self._connect(self.sandbox.url, self.sandbox.username, self.sandbox.password, **settings)

    async def fill(self, client: Any, qty: int = 1, sku: str = GOLD, **changes: Any) -> Basket:
        customer = changes.pop("customer_id", CUSTOMER)
        if customer not in self._customers:
            self._customers.add(customer)
            await client.customers.create(customer, firstname="Brant", lastname="Ankunding")
        elif (active := await client.baskets.get_active(customer)) is not None and active.items:
            await client.baskets.clear(active)
        return await client.baskets.add_item(customer, sku=sku, qty=qty, type=changes.pop("type", "buy"))

    async def buy(self, client: Any, reference: str = REFERENCE, **changes: Any) -> Any:
        basket = await self.fill(client, **changes)
        return await client.complete.buy(basket, expected_total=basket.paid_total, reference=reference)

    @property
    def account(self) -> str:
        return account_of_user(self.sandbox.url, self.sandbox.username, None).account

    def sent(self) -> int:
        return len([one for one in self.sandbox.requests if "/complete/" in one.path])


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> Shop:
    location: Any = MemoryJournal()
    if request.param != "memory":
        location = tmp_path / "j.db" if request.param == "sqlite" else request.getfixturevalue("database").url
    return Shop(connect, sandbox, clock, location)


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
    journal = open_journal(shop.location)
    completed = await shop.buy(client, "model")
    [model] = await journal.find_by_reference("model", account=shop.account)
    assert completed.order_id == model.order_id
    stopped = attrs.evolve(model, id="stopped", cart_token="T" * 32, state=IntentState.PREPARED, order_id=None)
    await journal.prepare(attrs.evolve(stopped, reference=REFERENCE))
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
    if latest_landing is None:
        with pytest.raises(OutcomeUnknown, match="latest_landing") as caught:
            await shop.buy(client)
        assert caught.value.intent.id == unknown.value.intent.id
        assert shop.sandbox.shop.orders == []
    else:
        assert not (await shop.buy(client)).replayed
        assert len(shop.sandbox.shop.orders) == 1


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"qty": 2}, "pieces"),
        ({"sku": SILVER}, "pieces"),
        ({"customer_id": "customer-2"}, "customer"),
        ({"type": "sell"}, "kind"),
    ],
)
async def test_reference_with_other_terms_raises_invalid_input(shop: Shop, change, differing):
    client = await shop.client()
    await shop.buy(client)
    basket = await shop.fill(client, **change)
    complete = client.complete.sell if basket.kind == OrderKind.SELL else client.complete.buy
    with pytest.raises(InvalidInput, match=f"other terms .*: {differing} differ") as caught:
        await complete(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert CUSTOMER not in str(caught.value)
    assert shop.sent() == 1


async def test_delivery_reference_with_another_address_raises_invalid_input(shop: Shop):
    client = await shop.client()
    await shop.buy(client, "purchase", qty=2)
    for shipping, raises in ((SHIPPING, False), (SHIPPING, False), (attrs.evolve(SHIPPING, city="Ankara"), True)):
        basket = await shop.fill(client, type="delivery")
        call = client.complete.delivery(
            basket, shipping=shipping, expected_total=basket.paid_total, reference=REFERENCE
        )
        if raises:
            with pytest.raises(InvalidInput, match=": address differ"):
                await call
        else:
            assert (await call).order is not None
    [intent] = await open_journal(shop.location).find_by_reference(REFERENCE, account=shop.account)
    assert SHIPPING.city not in json.dumps(intent.terms, ensure_ascii=False)


@pytest.mark.parametrize("reference", ["", " ", "a\nb", "x" * 201, 5, "\ud800"])
async def test_reference_that_cannot_be_stored_raises_invalid_input(minted, sandbox: Sandbox, reference):
    await minted.customers.create(CUSTOMER, firstname="Brant", lastname="Ankunding")
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=1, type="buy")
    total = sandbox.requests.total
    with pytest.raises(InvalidInput, match="reference"):
        await minted.complete.buy(basket, expected_total=basket.paid_total, reference=reference)
    assert sandbox.requests.total == total


async def test_references_of_another_user_require_journal_account(shop: Shop):
    await shop.buy(await shop.client(), "first")
    shop.sandbox.add_partner("second", "password")
    options = Options(clock=shop._clock)
    second = await shop._connect(shop.sandbox.url, "second", "password", journal=shop.location, options=options)
    with pytest.raises(ConfigurationError, match=r"journal_account.*complete\.adopt"):
        await shop.buy(second, "first", customer_id="customer-2")
    named_options = attrs.evolve(options, journal_account="second")
    again = await shop._connect(shop.sandbox.url, "second", "password", journal=shop.location, options=named_options)
    assert not (await shop.buy(again, "first", customer_id="customer-3")).replayed


class PlainJournal:
    """A journal of one's own without the methods for references."""

    def __init__(self) -> None:
        journal = MemoryJournal()
        for name in vars(Journal):
            if not name.startswith("_"):
                setattr(self, name, getattr(journal, name))


async def test_own_journal_without_methods_raises_configuration_error(connect, sandbox: Sandbox, clock: ManualClock):
    shop = Shop(connect, sandbox, clock, PlainJournal())
    client = await shop.client()
    basket = await shop.fill(client)
    with pytest.raises(ConfigurationError, match="PlainJournal lacks find_by_reference, has_other_references"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (await client.complete.buy(basket, expected_total=basket.paid_total)).order is not None


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
