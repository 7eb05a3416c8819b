"""What was agreed to is what is bought: the price before and after, the lock on one clock, whatever others show."""

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
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.journal.memory import MemoryJournal
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.sandbox.clock import START
from tests.completion.fakes import FakeApiClient, intent_of, order_json
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


async def filled(minted: Any) -> Any:
    return await minted.baskets.add_item("customer-1", sku=GOLD, qty=3)


# The price.


@pytest.mark.requirement(18)
@pytest.mark.parametrize("more", ["0.01", "-0.01", "100"])
async def test_another_price_than_was_agreed_to_is_not_paid(minted, sandbox, more):
    basket = await filled(minted)
    agreed = basket.paid_total + Decimal(more)
    with pytest.raises(PriceChanged) as caught:
        await minted.complete.buy(basket, expected_total=agreed)
    assert (caught.value.expected, caught.value.actual) == (agreed, basket.paid_total)
    assert sandbox.requests.of("complete.buy") == []
    assert await minted.complete.pending() == []


async def test_the_price_that_counts_is_the_one_after_the_last_look(minted, sandbox, clock):
    """Reading prices an expired basket anew, so the caller's copy and the look of a moment ago prove nothing."""
    basket = await filled(minted)
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
@pytest.mark.parametrize(("field", "value", "said"), CHANGED, ids=[field for field, _, _ in CHANGED])
@pytest.mark.parametrize("answered", [True, False], ids=["in the answer", "in what was read back"])
async def test_an_order_is_compared_with_what_was_agreed_to(minted, sandbox, caplog, field, value, said, answered):
    basket = await filled(minted)
    if answered:
        sandbox.faults.add("extra_field", path=BUY, field=field, value=value)
        done = await minted.complete.buy(basket, expected_total=basket.paid_total)
    else:
        sandbox.faults.add("drop_after_commit", path=BUY)
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        sandbox.faults.add("extra_field", path="*/orders", field=f"*.{field}", value=value, times=None)
        done = await minted.complete.reconcile(caught.value)
    assert said.format(total=basket.paid_total) in done.differences
    assert done.order is not None  # never hidden because a figure differs
    assert await minted.complete.pending() == []
    assert any(said.format(total=basket.paid_total) in record.getMessage() for record in caplog.records)
    assert {record.levelno for record in caplog.records if "agreed" in record.getMessage()} == {logging.WARNING}


async def test_an_order_as_agreed_differs_in_nothing(minted):
    basket = await filled(minted)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).differences == ()


# The lock.


@pytest.mark.requirement(19)
@pytest.mark.parametrize("jump", [-HOUR, HOUR, -400 * DAY, 400 * DAY])
async def test_the_time_of_day_does_not_end_a_lock_and_does_not_prolong_it(minted, sandbox, clock, jump):
    basket = await filled(minted)
    clock.jump_wall(jump)
    assert basket.price_fix.seconds_left == 240
    clock.advance(236)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
    basket = await filled(minted)
    clock.jump_wall(-jump)
    clock.advance(238)
    with pytest.raises(PriceFixExpired):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(sandbox.shop.orders) == 1


@pytest.mark.requirement(19)
@pytest.mark.parametrize(("left", "bought"), [(3, True), (2, False)])
async def test_a_few_seconds_of_the_lock_are_kept_back(minted, sandbox, clock, left, bought):
    basket = await filled(minted)
    clock.advance(240 - left)
    if bought:
        assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
    else:
        with pytest.raises(PriceFixExpired):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(sandbox.requests.of("complete.buy")) == bought


async def test_the_servers_word_for_the_end_of_a_lock_is_not_asked(minted, sandbox):
    sandbox.faults.add("extra_field", field="pricefix.nextUpdate", value="2001-01-01T00:00:00.000000Z", times=None)
    basket = await filled(minted)
    assert basket.price_fix.next_update.year == 2001
    assert (basket.price_fix.seconds_left, basket.price_fix.expired) == (240, False)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None


# A server whose clock goes wrong.

SKEWS = [-20 * DAY, -26 * HOUR, -HOUR, HOUR, 26 * HOUR, 20 * DAY]


@pytest.fixture(params=SKEWS)
def skew(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
async def skewed(connect: Any, clock: ManualClock, skew: int) -> AsyncIterator[tuple[Any, Sandbox]]:
    """Either client, and a sandbox that lives in another time."""
    async with Sandbox(seed=1, clock=ManualClock(START + timedelta(seconds=skew), auto_advance=True)) as sandbox:
        options = Options(clock=clock, random=lambda: 0.0)
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
        await minted.customers.create("customer-1")
        yield minted, sandbox


@pytest.mark.requirement(20)
async def test_neither_lock_nor_pause_nor_deadline_minds_the_servers_clock(skewed, clock):
    minted, sandbox = skewed
    basket = await filled(minted)
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
async def test_what_became_of_a_purchase_is_looked_for_in_both_times(skewed, skew, clock):
    minted, sandbox = skewed
    basket = await filled(minted)
    sandbox.faults.add("drop_after_commit", path=BUY)
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert caught.value.intent.clock_offset == skew
    assert caught.value.intent.created_at == clock.wall()  # and not as the server would have it
    assert (await minted.complete.reconcile(caught.value)).reconciled
    listed = sandbox.requests.of("orders.page")[-1].query
    [order] = sandbox.shop.orders
    for moment in (START + timedelta(seconds=skew), START):
        assert listed["startDate"] <= str((moment - timedelta(days=1)).date())
        assert listed["endDate"] >= str((moment + timedelta(days=1)).date())
    assert order.token == basket.token


@pytest.mark.requirement(20)
@pytest.mark.parametrize("days", [-20, -2, 2, 20])
async def test_a_date_that_lies_only_widens_the_search(days: int) -> None:
    api = FakeApiClient()
    told = api.clock.wall() + timedelta(days=days)
    api.date, api.orders = told.strftime("%a, %d %b %Y %H:%M:%S GMT"), [order_json()]
    assert (await AsyncCompletions(api, MemoryJournal()).reconcile(intent_of())).reconciled
    listed = dict(api.sent[-1].query)
    assert (listed["startDate"], listed["endDate"]) == (
        min("2026-02-19", str((told - timedelta(days=1)).date())),
        max("2026-02-21", str((told + timedelta(days=1)).date())),
    )


# The places of completions.


@pytest.mark.requirement(23)
async def test_a_full_lane_of_completions_is_said_fast_and_nothing_was_sent(connect, clock, sandbox):
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
        assert len(await minted.rates.current()) == 2  # everyday calls have places of their own
        assert await minted.complete.pending() == []  # the first one is under way, the second is closed
        hang.remove()
    assert (await minted.complete.buy(baskets[1], accept_price="current")).order is not None
    assert len(sandbox.shop.orders) == 2
