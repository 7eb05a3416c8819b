"""Tests of the example shop that use only the fixtures of the SDK."""

from __future__ import annotations

import pytest

from tests.plugin import shop

GOLD = "MNTBAE0001"


@pytest.fixture
def customer(minted_blocking_client):
    return minted_blocking_client.customers.create("shop-customer-1", firstname="Ada").external_id


async def test_checkout_buys_once(minted_client, minted_sandbox, customer):
    number, paid = await shop.checkout(minted_client, customer, GOLD, 2)
    (order,) = [order async for order in minted_client.orders.iterate(customer_id=customer)]
    assert (order.id, order.paid_total) == (number, paid)
    assert len(minted_sandbox.requests.of("complete.buy")) == 1


async def test_checkout_after_lost_response_buys_once(minted_client, minted_faults, minted_sandbox, customer):
    minted_faults.add("drop_after_commit", path="*/complete/buy")
    number, _ = await shop.checkout(minted_client, customer, GOLD, 1)
    assert [order.id async for order in minted_client.orders.iterate()] == [number]
    assert len(minted_sandbox.requests.of("complete.buy")) == 1


@pytest.mark.minted(seed=7)  # with some seeds, the price after the lock is the same
async def test_checkout_with_expired_price_buys_nothing(
    minted_client, minted_clock, minted_sandbox, customer, monkeypatch
):
    add_item = minted_client.baskets.add_item

    async def add_item_and_wait(*args, **kwargs):
        basket = await add_item(*args, **kwargs)
        minted_clock.advance(241)
        return basket

    monkeypatch.setattr(minted_client.baskets, "add_item", add_item_and_wait)
    with pytest.raises(shop.PriceHasChanged):
        await shop.checkout(minted_client, customer, GOLD, 1)
    assert not minted_sandbox.requests.of("complete.buy")


def test_price_board_shows_the_price(minted_blocking_client):
    assert shop.price_board(minted_blocking_client) == "gold: 592.34 AED"


def test_price_board_without_vendor_shows_a_text(minted_blocking_client, minted_faults, minted_clock):
    minted_faults.add("status", path="*/rates", status=503, times=None)
    assert shop.price_board(minted_blocking_client) == "gold: please ask"
    assert len(minted_clock.sleeps) == 2  # three attempts, without real waits


@pytest.mark.minted(seed=7, lock_seconds=60)
def test_mark_configures_the_sandbox(minted_blocking_client, customer):
    basket = minted_blocking_client.baskets.add_item(customer, sku=GOLD)
    assert basket.price_fix.remaining == 60
