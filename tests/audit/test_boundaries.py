"""Audits at the boundary of a day, while pages drift, and after intents were forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from minted_connect.audit import FindingKind
from tests.audit.conftest import DAY, WHILE, AuditedShop
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio

NEXT = DAY + timedelta(days=1)


async def advance_to_midnight(shop: AuditedShop, seconds: float) -> None:
    """Move the clock to some seconds before midnight."""
    now = shop.clock.wall()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    shop.clock.advance((midnight - now).total_seconds() - seconds)


async def test_purchase_after_midnight_of_an_older_basket_is_clean(shop: AuditedShop) -> None:
    client = await shop.client()
    await advance_to_midnight(shop, 10.0)
    await client.customers.create("ada", firstname="Ada", lastname="Lovelace")
    basket = await client.baskets.add_item("ada", sku=GOLD)
    shop.clock.advance(20.0)
    await client.complete.buy(basket, expected_total=basket.paid_total)
    shop.clock.advance(WHILE)
    # The order belongs to the day of its basket, and the intent to the next one.
    for day, orders, intents in ((DAY, 1, 0), (NEXT, 0, 1)):
        report = await shop.audit(day)
        assert report.is_clean
        assert (report.orders, report.intents, report.matched) == (orders, intents, intents)


async def test_lost_row_at_midnight_is_found_on_one_day_only(shop: AuditedShop) -> None:
    client = await shop.client()
    await advance_to_midnight(shop, 10.0)
    await client.customers.create("ada", firstname="Ada", lastname="Lovelace")
    basket = await client.baskets.add_item("ada", sku=GOLD)
    shop.clock.advance(20.0)
    done = await client.complete.buy(basket, expected_total=basket.paid_total)
    shop.clock.advance(WHILE)
    shop.execute("DELETE FROM intents WHERE order_id = ?", done.order_id)
    first, second = await shop.audit(DAY), await shop.audit(NEXT)
    assert [finding.order_ids for finding in first.findings] == [(done.order_id,)]
    assert second.is_clean
    both = await shop.audit(DAY, NEXT)
    assert [finding.kind for finding in both.findings] == [FindingKind.ORDER_WITHOUT_INTENT]


@pytest.mark.parametrize("error", [-7200.0, 7200.0])
async def test_wrong_clock_of_a_client_changes_no_day(shop: AuditedShop, error: float) -> None:
    client = await shop.client()
    await advance_to_midnight(shop, 3600.0)
    await shop.buy(client)
    # The journal row as a client writes it whose clock is wrong by two hours: on another day by its own clock.
    intents = [one async for one in client.complete.intents()]
    created = intents[0].created_at + timedelta(seconds=error)
    shop.execute("UPDATE intents SET created_at = ?, clock_offset = ?", created.isoformat(), int(-error))
    shop.clock.advance(WHILE + 7200.0)
    report = await shop.audit(DAY)
    assert report.is_clean
    assert (report.orders, report.intents, report.matched) == (1, 1, 1)


async def test_orders_that_are_made_while_pages_are_read_lose_none(shop: AuditedShop) -> None:
    client = await shop.client()
    for number in range(70):
        await shop.buy(client, f"customer-{number % 5}")
    shop.clock.advance(WHILE)
    shop.sandbox.faults.add("page_drift", path="*/orders", after=1, times=1)
    report = await shop.audit()
    # Either nothing was missed, or the report says that something may be missing.
    assert report.findings == ()
    assert report.is_clean or not report.is_complete


@pytest.mark.requirement(54)
async def test_forgotten_references_stay_clean(shop: AuditedShop) -> None:
    client = await shop.client()
    for number in range(3):
        await shop.buy(client, reference=f"plan/{number}")
    shop.clock.advance(3 * 86_400.0)
    assert await client.complete.forget(before=shop.clock.wall() - timedelta(days=2)) == 3
    report = await shop.audit()
    assert report.is_clean
    assert report.matched == 3


@pytest.mark.requirement(54)
async def test_forgotten_purchases_without_reference_are_unread(shop: AuditedShop) -> None:
    client = await shop.client()
    done = await shop.buy(client)
    shop.clock.advance(3 * 86_400.0)
    assert await client.complete.forget(before=shop.clock.wall() - timedelta(days=2)) == 1
    report = await shop.audit()
    # Neither a finding, which would accuse a purchase that was in order, nor clean, which nothing proves any more.
    assert report.findings == ()
    assert report.exit_code == 4
    [unread] = report.unread
    assert unread.source == str(shop.journals[0])
    assert "complete.forget has removed" in unread.problem
    assert unread.problem.endswith(f" of the orders {done.order_id}")


@pytest.mark.requirement(54)
async def test_order_without_intent_after_forgotten_ones_is_named(shop: AuditedShop) -> None:
    client, by_hand = await shop.client(), await shop.client(None)
    await shop.buy(client)
    shop.clock.advance(3 * 86_400.0)
    before = shop.clock.wall() - timedelta(days=2)
    assert await client.complete.forget(before=before) == 1
    manual = await shop.buy(by_hand)
    shop.clock.advance(WHILE)
    report = await shop.audit(DAY + timedelta(days=3))
    [finding] = report.findings
    assert finding.order_ids == (manual.order_id,)
    assert report.exit_code == 3
