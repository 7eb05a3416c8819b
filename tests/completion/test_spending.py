"""Limits of purchases, through both clients."""

from __future__ import annotations

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from minted_connect import Options, SpendingLimit
from minted_connect.errors import ConfigurationError, LimitExceeded, OutcomeUnknown, PriceChanged
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.shops import Shop
from tests.support.operations import GOLD, Person

COMPLETE = "*/complete/*"
DAY = 86_400.0


@pytest.fixture
def durable_shop(connect: Any, sandbox: Sandbox, clock: ManualClock, journal_location: str) -> Shop:
    return Shop(connect, sandbox, clock, journal_location)


async def limited(shop: Shop, currency: str = "AED", **limits: Decimal) -> Any:
    """Return a client with limits."""
    return await shop.client(options=Options(clock=shop.clock, spending=SpendingLimit(currency=currency, **limits)))


async def price_of(shop: Shop) -> Decimal:
    """Return the price of one piece. It changes with time, by much less than half of it."""
    return (await shop.fill(await shop.client(), customer_id="price")).paid_total


async def buy(shop: Shop, client: Any, customer: str = "ada", qty: int = 1, **arguments: Any) -> Any:
    basket = await shop.fill(client, qty, customer_id=customer)
    return await client.complete.buy(basket, accept_price="current", **arguments)


async def test_limit_of_a_day_holds_over_clients_and_days(durable_shop: Shop):
    shop = durable_shop
    price = await price_of(shop)
    for _ in range(2):
        await buy(shop, await limited(shop, per_day=price * Decimal("2.5")))
    with pytest.raises(LimitExceeded, match="this account has spent") as caught:
        await buy(shop, await limited(shop, per_day=price * Decimal("2.5")), "bob")
    assert caught.value.limit == "per_day"
    assert shop.sent() == 2
    shop.advance(DAY)
    await buy(shop, await limited(shop, per_day=price * Decimal("2.5")), "bob")
    assert len(shop.sandbox.shop.orders) == 3


async def test_limit_of_a_customer_is_raised_and_nothing_is_sent(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, per_customer_per_day=await price_of(shop) * Decimal("1.5"))
    await buy(shop, client)
    with pytest.raises(LimitExceeded, match="this customer has spent"):
        await buy(shop, client)
    await buy(shop, client, "bob")
    assert shop.sent() == 2
    assert await client.complete.pending() == []


async def test_limit_of_a_purchase_is_checked_before_the_journal(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, per_purchase=await price_of(shop) * Decimal("1.5"))
    with pytest.raises(LimitExceeded, match=r"SpendingLimit\.per_purchase"):
        await buy(shop, client, qty=2)
    assert shop.sent() == 0
    if not shop.location.startswith("postgresql"):
        assert not Path(shop.location).exists()
    await buy(shop, client, qty=1)


async def test_changed_price_is_reported_before_the_limit(durable_shop: Shop):
    client = await limited(durable_shop, per_day=Decimal(0))
    basket = await durable_shop.fill(client)
    with pytest.raises(PriceChanged):
        await client.complete.buy(basket, expected_total=basket.paid_total + 1)


async def test_unknown_outcome_counts_until_it_is_settled(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, per_day=await price_of(shop) * Decimal("1.5"))
    shop.sandbox.faults.add("drop_after_commit", path=COMPLETE, times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await buy(shop, client)
    with pytest.raises(LimitExceeded):
        await buy(shop, client, "bob")
    await client.complete.decide(unknown.value, IntentState.REJECTED)
    await buy(shop, client, "bob")
    # An order that exists counts again, also after another decision.
    await client.complete.decide(unknown.value, IntentState.CONFIRMED, order_id=1)
    with pytest.raises(LimitExceeded) as caught:
        await buy(shop, client, "cem")
    assert caught.value.spent is not None
    assert caught.value.maximum is not None
    assert caught.value.spent > caught.value.maximum


async def test_order_above_the_agreed_total_counts_as_ordered(durable_shop: Shop, caplog: pytest.LogCaptureFixture):
    shop = durable_shop
    price = await price_of(shop)
    client = await limited(shop, per_day=price * 10)
    shop.sandbox.faults.add("extra_field", path=COMPLETE, field="paid_total", value=int(price * 9), times=1)
    with caplog.at_level(logging.CRITICAL, "minted_connect"):
        completion = await buy(shop, client)
    assert completion.differences
    with pytest.raises(LimitExceeded) as caught:
        await buy(shop, client, "bob", qty=2)
    assert caught.value.spent == int(price * 9)


async def test_replay_is_returned_at_the_limit(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, per_day=await price_of(shop) * Decimal("1.5"))
    first = await buy(shop, client, reference="plan/1")
    again = await buy(shop, client, reference="plan/1")
    assert (again.replayed, again.order_id) == (True, first.order_id)
    with pytest.raises(LimitExceeded):
        await buy(shop, client, reference="plan/2")


async def test_items_are_limited_and_release_their_claim(durable_shop: Shop):
    shop = durable_shop
    price = await price_of(shop)
    client = await limited(shop, per_customer_per_day=price * Decimal("1.5"))
    await shop.create_customer(client, "ada")

    async def buy_items(qty: int, reference: str) -> Any:
        return await client.complete.buy_items(
            "ada", {GOLD: qty}, reference=reference, max_total=price * 100, currency="AED"
        )

    with pytest.raises(LimitExceeded):
        await buy_items(2, "plan/1")
    # The claim is released: the reference can be bought at once, under the limit.
    basket = await client.baskets.get_active("ada")
    await client.baskets.clear(basket)
    await buy_items(1, "plan/1")
    with pytest.raises(LimitExceeded):
        await buy_items(1, "plan/2")
    assert shop.sent() == 1


async def test_sales_and_deliveries_are_not_limited(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, per_purchase=Decimal(0), per_customer_per_day=Decimal(0), per_day=Decimal(0))
    await shop.create_customer(client, "ada")
    shop.sandbox.shop.give("ada", GOLD, 2)
    selling = await client.baskets.add_item("ada", sku=GOLD, type="sell")
    await client.complete.sell(selling, accept_price="current")
    sending = await client.baskets.add_item("ada", sku=GOLD, type="delivery")
    await client.complete.delivery(sending, shipping=Person().shipping, accept_price="current")
    with pytest.raises(LimitExceeded):
        await buy(shop, client)


async def test_basket_in_another_currency_is_not_even_read(durable_shop: Shop):
    shop = durable_shop
    client = await limited(shop, "TRY", per_day=Decimal(1000))
    basket = await shop.fill(client, customer_id="ada")
    before = shop.sandbox.requests.total
    with pytest.raises(ConfigurationError, match="limits are in TRY, and this purchase is in AED"):
        await client.complete.buy(basket, accept_price="current")
    with pytest.raises(ConfigurationError, match="limits are in TRY, and this purchase is in AED"):
        await client.complete.buy_items("ada", {GOLD: 1}, reference="r", max_total=Decimal(10), currency="AED")
    assert shop.sandbox.requests.total == before


async def test_with_options_keeps_the_limits(durable_shop: Shop):
    client = (await limited(durable_shop, per_day=Decimal(0))).with_options(language="en")
    with pytest.raises(LimitExceeded):
        await buy(durable_shop, client)


class OldJournal:
    """Delegates to a journal, but knows no limits."""

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def prepare(self, intent: Any, **arguments: Any) -> None:
        await self._journal.prepare(intent, **arguments)


async def test_journals_without_limits_are_refused(connect: Any, tmp_path: Path):
    options = Options(spending=SpendingLimit(currency="AED", per_day=Decimal(1)))
    for journal in (None, MemoryJournal()):
        with pytest.raises(ConfigurationError, match=r"Options\.spending: needs a journal in a file or a database"):
            await connect("http://127.0.0.1:1", journal=journal, options=options)
    old = OldJournal(SqliteJournal(tmp_path / "j.db"))
    with pytest.raises(ConfigurationError, match="OldJournal lacks the argument spending of prepare"):
        await connect("http://127.0.0.1:1", journal=old, options=options)
    await connect("http://127.0.0.1:1", journal=old)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"currency": "aed", "per_day": Decimal(1)}, r"SpendingLimit\.currency: must be a code of three capital"),
        ({"currency": None, "per_day": Decimal(1)}, r"SpendingLimit\.currency: must be a code of three capital"),
        ({"currency": "AED"}, "SpendingLimit: give at least one of per_purchase, per_customer_per_day, per_day"),
        ({"currency": "AED", "per_day": 1}, r"SpendingLimit\.per_day: must be a Decimal, not int"),
        ({"currency": "AED", "per_day": 1.5}, r"SpendingLimit\.per_day: must be a Decimal, not float"),
        ({"currency": "AED", "per_purchase": Decimal("NaN")}, r"SpendingLimit\.per_purchase: must be a finite amount"),
        ({"currency": "AED", "per_customer_per_day": Decimal(-1)}, r"per_customer_per_day: must be a finite amount"),
        ({"currency": "AED", "per_day": Decimal("Infinity")}, r"SpendingLimit\.per_day: must be a finite amount"),
    ],
)
def test_invalid_limits_raise_configuration_error(arguments: dict[str, Any], text: str):
    with pytest.raises(ConfigurationError, match=text):
        SpendingLimit(**arguments)


def test_options_refuse_another_type():
    with pytest.raises(ConfigurationError, match=r"Options\.spending: must be SpendingLimit or None, not dict"):
        Options(spending={"per_day": 1})  # type: ignore[arg-type]
