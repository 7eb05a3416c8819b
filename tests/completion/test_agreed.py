"""The agreed terms: the price before and after a purchase, the price lock, and wrong clocks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import anyio
import pytest

from minted_connect import (
    NotSent,
    Options,
    OutcomeUnknown,
    PoolTimeout,
    PriceChanged,
    PriceFixExpired,
    RequestTimeout,
    RetryPolicy,
    Timeouts,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.sandbox.clock import START
from tests.completion.fakes import FakeApiClient, completions_of, intent_of, order_json
from tests.support.operations import GOLD

BUY = "*/complete/buy"
HOUR, DAY = 3600, 86_400


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, clock=clock) as server:
        yield server


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Any:
    options = Options(clock=clock)
    client = await connect(sandbox.url, sandbox.username, sandbox.password, retry=RetryPolicy.none(), options=options)
    await client.customers.create("customer-1", firstname="Grace")
    return client


async def fill_basket(minted: Any) -> Any:
    return await minted.baskets.add_item("customer-1", sku=GOLD, qty=3)


# --- the price ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(18)
@pytest.mark.parametrize("difference", ["0.01", "-0.01", "100"])
async def test_buy_at_another_price_than_agreed_raises_price_changed(minted, sandbox, difference):
    basket = await fill_basket(minted)
    agreed = basket.paid_total + Decimal(difference)
    with pytest.raises(PriceChanged) as caught:
        await minted.complete.buy(basket, expected_total=agreed)
    assert (caught.value.expected, caught.value.actual) == (agreed, basket.paid_total)
    assert sandbox.requests.of("complete.buy") == []
    assert await minted.complete.pending() == []


async def test_expired_basket_is_compared_at_its_new_price(minted, sandbox, clock):
    """Reading an expired basket fixes a new price, so an earlier copy of the basket proves nothing."""
    basket = await fill_basket(minted)
    clock.advance(241)
    with pytest.raises(PriceChanged) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert caught.value.actual != basket.paid_total
    assert sandbox.shop.orders == []
    done = await minted.complete.buy(basket, expected_total=caught.value.actual)
    assert done.order.paid_total == caught.value.actual


CHANGED: list[tuple[str, Any, str]] = [
    ("paid_total", Decimal("9999.99"), "paid_total: agreed {total}, ordered 9999.99"),
    ("currency_code", "USD", "currency_code: agreed AED, ordered USD"),
    ("items.0.amount", 4, f"pieces of {GOLD}: agreed 3, ordered 4"),
    ("items.0.sku", "MNTBAE0013", f"pieces of {GOLD}: agreed 3, ordered 0"),
]


@pytest.mark.requirement(18)
@pytest.mark.parametrize(("field", "value", "expected"), CHANGED, ids=[field for field, _, _ in CHANGED])
@pytest.mark.parametrize("in_response", [True, False], ids=["in the response", "in the read-back"])
async def test_order_that_differs_from_the_agreed_terms_is_reported(
    minted, sandbox, caplog, field, value, expected, in_response
):
    basket = await fill_basket(minted)
    if in_response:
        sandbox.faults.add("extra_field", path=BUY, field=field, value=value)
        done = await minted.complete.buy(basket, expected_total=basket.paid_total)
    else:
        sandbox.faults.add("drop_after_commit", path=BUY)
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        sandbox.faults.add("extra_field", path="*/orders", field=f"*.{field}", value=value, times=None)
        done = await minted.complete.reconcile(caught.value)
    assert expected.format(total=basket.paid_total) in done.differences
    assert done.order is not None  # a difference does not hide the order
    assert await minted.complete.pending() == []
    assert any(expected.format(total=basket.paid_total) in record.getMessage() for record in caplog.records)
    assert {record.levelno for record in caplog.records if "agreed" in record.getMessage()} == {logging.WARNING}


async def test_order_as_agreed_has_no_differences(minted):
    basket = await fill_basket(minted)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).differences == ()


# --- the price lock ----------------------------------------------------------------------------------------------


@pytest.mark.requirement(19)
@pytest.mark.parametrize("jump", [-HOUR, HOUR, -400 * DAY, 400 * DAY])
async def test_wall_clock_jump_does_not_change_the_price_lock(minted, sandbox, clock, jump):
    basket = await fill_basket(minted)
    clock.jump_wall(jump)
    assert basket.price_fix.seconds_left == 240
    clock.advance(236)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
    basket = await fill_basket(minted)
    clock.jump_wall(-jump)
    clock.advance(238)
    with pytest.raises(PriceFixExpired):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(sandbox.shop.orders) == 1


@pytest.mark.requirement(19)
@pytest.mark.parametrize(("left", "bought"), [(3, True), (2, False)])
async def test_buy_within_the_lock_margin_raises_price_fix_expired(minted, sandbox, clock, left, bought):
    basket = await fill_basket(minted)
    clock.advance(240 - left)
    if bought:
        assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
    else:
        with pytest.raises(PriceFixExpired):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(sandbox.requests.of("complete.buy")) == bought


async def test_next_update_of_the_server_does_not_end_the_lock(minted, sandbox):
    sandbox.faults.add("extra_field", field="pricefix.nextUpdate", value="2001-01-01T00:00:00.000000Z", times=None)
    basket = await fill_basket(minted)
    assert basket.price_fix.next_update.year == 2001
    assert (basket.price_fix.seconds_left, basket.price_fix.expired) == (240, False)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None


# --- a server with a wrong clock ---------------------------------------------------------------------------------

SKEWS = [-20 * DAY, -26 * HOUR, -HOUR, HOUR, 26 * HOUR, 20 * DAY]


@pytest.fixture(params=SKEWS)
def skew(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
async def skewed(connect: Any, clock: ManualClock, skew: int) -> AsyncIterator[tuple[Any, Sandbox]]:
    """Return a client, and a sandbox whose clock differs from it by `skew`."""
    async with Sandbox(seed=1, clock=ManualClock(START + timedelta(seconds=skew), auto_advance=True)) as sandbox:
        options = Options(clock=clock, random=lambda: 0.0)
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
        await minted.customers.create("customer-1")
        yield minted, sandbox


@pytest.mark.requirement(20)
async def test_server_clock_does_not_affect_lock_wait_or_deadline(skewed, clock):
    minted, sandbox = skewed
    basket = await fill_basket(minted)
    assert basket.price_fix.seconds_left == 240
    clock.advance(230)
    assert basket.price_fix.seconds_left == 10
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None

    sandbox.faults.add("rate_limit", retry_after=7)
    await minted.rates.current()
    assert clock.sleeps == [7]

    fault = sandbox.faults.add("hang", path="*/rates")
    began = clock.monotonic()
    call = asyncio.create_task(minted.with_options(deadline=20).rates.current())
    while not fault.waiting:
        await asyncio.sleep(0)
    clock.advance(20)
    with pytest.raises(RequestTimeout):
        await call
    assert clock.monotonic() - began == 20


@pytest.mark.requirement(20)
async def test_reconcile_searches_the_dates_of_both_clocks(skewed, skew, clock):
    minted, sandbox = skewed
    basket = await fill_basket(minted)
    sandbox.faults.add("drop_after_commit", path=BUY)
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert caught.value.intent.clock_offset == skew
    assert caught.value.intent.created_at == clock.wall()  # the time of the client, not of the server
    assert (await minted.complete.reconcile(caught.value)).reconciled
    listed = sandbox.requests.of("orders.page")[-1].query
    [order] = sandbox.shop.orders
    for moment in (START + timedelta(seconds=skew), START):
        assert listed["startDate"] <= str((moment - timedelta(days=1)).date())
        assert listed["endDate"] >= str((moment + timedelta(days=1)).date())
    assert order.token == basket.token


@pytest.mark.requirement(20)
@pytest.mark.parametrize("days", [-20, -2, 2, 20])
async def test_wrong_date_header_only_widens_the_search(days: int) -> None:
    api = FakeApiClient()
    server_time = api.clock.wall() + timedelta(days=days)
    api.date, api.orders = server_time.strftime("%a, %d %b %Y %H:%M:%S GMT"), [order_json()]
    assert (await completions_of(api, MemoryJournal()).reconcile(intent_of())).reconciled
    listed = dict(api.sent[-1].query)
    assert (listed["startDate"], listed["endDate"]) == (
        min("2026-02-19", str((server_time - timedelta(days=1)).date())),
        max("2026-02-21", str((server_time + timedelta(days=1)).date())),
    )


# --- the connection pool of completions --------------------------------------------------------------------------


@pytest.mark.requirement(23)
async def test_full_completion_pool_raises_pool_timeout_unsent(connect, clock, sandbox):
    minted = await connect(
        sandbox.url,
        sandbox.username,
        sandbox.password,
        timeouts=Timeouts(pool=0.05),
        options=Options(clock=clock, pool_size=1),
    )
    baskets = []
    for customer in ("customer-1", "customer-2"):
        await minted.customers.create(customer)
        baskets.append(await minted.baskets.add_item(customer, sku=GOLD))
    hang = sandbox.faults.add("hang", path=BUY)
    async with anyio.create_task_group() as group:

        async def first() -> None:
            assert (await minted.complete.buy(baskets[0], accept_price="current")).order is not None

        group.start_soon(first)
        while not hang.waiting:
            await anyio.sleep(0)
        with pytest.raises(PoolTimeout) as caught:
            await minted.complete.buy(baskets[1], accept_price="current")
        assert isinstance(caught.value, NotSent)
        assert caught.value.safe_to_retry
        assert len(sandbox.requests.of("complete.buy")) == 1
        assert len(await minted.rates.current()) == 2  # other calls have their own pool
        assert await minted.complete.pending() == []  # the first is in flight, the second is settled
        hang.remove()
    assert (await minted.complete.buy(baskets[1], accept_price="current")).order is not None
    assert len(sandbox.shop.orders) == 2
