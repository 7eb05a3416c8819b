"""`complete.intents`, `intents_page`, `intent` and `forget` through both clients, with all journals."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio.to_thread
import attrs
import pytest

from minted_connect import IntentPage, Options
from minted_connect.errors import ConfigurationError, InvalidInput, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.shops import CUSTOMER, REFERENCE, Shop

pytestmark = pytest.mark.anyio

DAYS_3 = 3 * 86400.0
NAIVE = datetime(2026, 11, 30)


async def collect(found: Any) -> list[Intent]:
    """Return all elements of the iterator of either client."""
    if inspect.isawaitable(found):
        iterator = await found
        return await anyio.to_thread.run_sync(lambda: list(iterator))
    return [intent async for intent in found]


async def buy(shop: Shop, client: Any, reference: str | None = None, customer: str = CUSTOMER) -> str:
    """Buy something, and return the id of the intent."""
    basket = await shop.fill(client, customer_id=customer)
    await client.complete.buy(basket, expected_total=basket.paid_total, reference=reference)
    shop.advance(1)
    return (await collect(client.complete.intents()))[-1].id


async def test_intents_are_listed_oldest_first(shop: Shop):
    client = await shop.client()
    assert await collect(client.complete.intents()) == []
    ids = [await buy(shop, client, f"r-{number}") for number in range(3)]
    assert len({*ids}) == 3
    found = await collect(client.complete.intents(per_page=2))
    assert [intent.id for intent in found] == ids
    assert {intent.state for intent in found} == {IntentState.CONFIRMED}
    page = await client.complete.intents_page(per_page=2)
    assert isinstance(page, IntentPage)
    assert [intent.id for intent in page] == ids[:2]
    rest = await client.complete.intents_page(per_page=2, after=page.next_after)
    assert ([intent.id for intent in rest], rest.next_after, rest.unreadable) == (ids[2:], None, ())


async def test_intents_can_be_filtered(shop: Shop):
    client = await shop.client()
    plain = await buy(shop, client)
    other = await buy(shop, client, customer="customer-2")
    noon = shop.clock.wall()
    named = await buy(shop, client, REFERENCE)
    for filters, expected in (
        ({"state": "confirmed"}, [plain, other, named]),
        ({"state": [IntentState.UNKNOWN, "prepared"]}, []),
        ({"customer_id": "customer-2"}, [other]),
        ({"reference": REFERENCE}, [named]),
        ({"since": noon}, [named]),
        ({"until": noon}, [plain, other]),
        ({"since": noon.astimezone(UTC) + timedelta(days=1)}, []),
        ({"customer_id": CUSTOMER, "until": noon}, [plain]),
    ):
        assert [intent.id for intent in await collect(client.complete.intents(**filters))] == expected, filters
    assert shop.sent() == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "open"),
        ("state", []),
        ("customer_id", ""),
        ("reference", 7),
        ("since", NAIVE),
        ("until", "2026-11-30"),
        ("until", NAIVE.date()),
        ("all_accounts", 1),
        ("per_page", 0),
        ("per_page", 1001),
    ],
)
async def test_intents_with_wrong_argument_raises_invalid_input(minted: Any, field: str, value: Any):
    for call in (minted.complete.intents_page, lambda **given: collect(minted.complete.intents(**given))):
        with pytest.raises(InvalidInput, match=field):
            await call(**{field: value})


async def test_intents_of_other_accounts_are_listed_only_if_asked(shop: Shop):
    client = await shop.client()
    mine = await buy(shop, client, REFERENCE)
    other = await shop.client(options=Options(clock=shop.clock, journal_account="other"))
    assert await collect(other.complete.intents()) == []
    assert [intent.id for intent in await collect(other.complete.intents(all_accounts=True))] == [mine]
    assert (await other.complete.intents_page(all_accounts=True)).items[0].id == mine
    assert await other.complete.intent(intent_id=mine) is None
    assert (await other.complete.intent(intent_id=mine, all_accounts=True)).id == mine
    shop.advance(DAYS_3)
    assert await other.complete.forget(before=shop.clock.wall() - timedelta(days=2)) == 0


async def test_intent_returns_the_attempt_that_matters(shop: Shop):
    client = await shop.client()
    assert await client.complete.intent(reference=REFERENCE) is None
    assert await client.complete.intent(intent_id="another") is None
    intent_id = await buy(shop, client, REFERENCE)
    assert (await client.complete.intent(reference=REFERENCE)).id == intent_id
    found = await client.complete.intent(intent_id=intent_id)
    assert (found.id, found.state, found.reference) == (intent_id, IntentState.CONFIRMED, REFERENCE)
    for arguments in ({}, {"reference": REFERENCE, "intent_id": intent_id}):
        with pytest.raises(InvalidInput, match="give either reference or intent_id"):
            await client.complete.intent(**arguments)


# --- forget --------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_forgotten_reference_is_replayed_without_a_difference(shop: Shop):
    client = await shop.client()
    plain, named = await buy(shop, client), await buy(shop, client, REFERENCE)
    bought = await client.complete.intent(intent_id=named)
    shop.advance(DAYS_3)
    assert await client.complete.forget(before=shop.clock.wall() - timedelta(days=2)) == 2
    assert [intent.id for intent in await collect(client.complete.intents())] == [named]
    assert await client.complete.intent(intent_id=plain) is None
    kept = await client.complete.intent(reference=REFERENCE)
    assert kept.forgotten_at is not None
    for name in ("reference", "account", "terms", "cart_token", "guid", "increment_id", "basket_id", "order_id"):
        assert getattr(kept, name) == getattr(bought, name), name
    assert (kept.paid_total, kept.price_token, kept.progress) == (0, "", None)
    assert await client.complete.unfinished() == []
    again = await shop.client()
    basket = await shop.fill(again)
    repeated = await again.complete.buy(basket, expected_total=basket.paid_total, reference=REFERENCE)
    assert (repeated.replayed, repeated.differences, repeated.order_id) == (True, (), bought.order_id)
    with pytest.raises(InvalidInput, match="other terms"):
        await shop.buy(again, REFERENCE, qty=3)
    assert shop.sent() == 2
    await buy(shop, client, "another")
    assert shop.sent() == 3


@pytest.mark.requirement(47)
async def test_forget_keeps_open_intents(shop: Shop):
    client = await shop.client()
    shop.sandbox.faults.add("drop_after_commit", path="*/complete/buy", times=1)
    with pytest.raises(OutcomeUnknown) as caught:
        await shop.buy(client)
    shop.advance(DAYS_3)
    assert await client.complete.forget(before=shop.clock.wall() - timedelta(days=2)) == 0
    [pending] = await client.complete.pending()
    assert pending == attrs.evolve(caught.value.intent, state=IntentState.UNKNOWN)
    assert (await client.complete.reconcile(pending)).order is not None


async def test_forget_of_late_intents_raises_invalid_input(shop: Shop):
    client = await shop.client()
    now = shop.clock.wall()
    for before in (now + timedelta(days=1), now, now - timedelta(hours=47), NAIVE, 5):
        with pytest.raises(InvalidInput, match="before"):
            await client.complete.forget(before=before)


class PlainJournal:
    """A journal of an application, with the methods of `Journal` only."""

    def __init__(self) -> None:
        inner = MemoryJournal()
        for name in vars(Journal):
            if not name.startswith("_"):
                setattr(self, name, getattr(inner, name))


async def test_journal_without_list_raises_configuration_error(connect: Any, sandbox: Sandbox):
    client = await connect(sandbox.url, sandbox.username, sandbox.password, journal=PlainJournal())
    text = r"PlainJournal lacks find_intents, forget of ListableJournal"
    with pytest.raises(ConfigurationError, match=f"intents: the journal {text}"):
        await collect(client.complete.intents())
    with pytest.raises(ConfigurationError, match=f"forget: the journal {text}"):
        await client.complete.forget(before=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ConfigurationError, match="lacks find_by_reference of ReferenceJournal"):
        await client.complete.intent(reference=REFERENCE)
    assert await client.complete.intent(intent_id="any") is None
