"""Changes with the same key run one after the other, and statistics about the server."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.clock import SYSTEM_CLOCK
from minted_connect.core.headers import age_seconds
from minted_connect.core.locks import KeyedLocks
from minted_connect.core.server_stats import ServerStats
from minted_connect.errors import NotSent
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD, SILVER

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 2, 20, 12, 0, tzinfo=UTC)


async def test_one_thing_at_a_time_in_order_of_arrival():
    locks, log = KeyedLocks(SYSTEM_CLOCK), []

    async def change(name: str, thing: str) -> None:
        async with locks.hold(thing, 5):
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    await asyncio.gather(change("1", "a"), change("2", "a"), change("3", "a"))
    assert log == [f"{name} {what}" for name in "123" for what in ("begins", "ends")]
    log.clear()
    await asyncio.gather(change("1", "a"), change("2", "b"))
    assert log == ["1 begins", "2 begins", "1 ends", "2 ends"]


async def test_waiting_has_an_end():
    locks = KeyedLocks(SYSTEM_CLOCK)
    async with locks.hold("a", 5):
        with pytest.raises(NotSent, match=r"longer than 0\.01 s"):
            async with locks.hold("a", 0.01):
                pytest.fail("it is not free")
    async with locks.hold("a", 0.01):
        pass


async def test_a_waiter_that_was_woken_comes_first_and_is_waited_for_with_an_end():
    locks, order = KeyedLocks(SYSTEM_CLOCK), []

    async def wait() -> None:
        async with locks.hold("a", 5):
            order.append("waiter")
            await released.wait()

    released = asyncio.Event()
    async with locks.hold("a", 5):
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
    # The lock is free for a moment, and promised to the waiter.
    with pytest.raises(NotSent):
        async with locks.hold("a", 0.01):
            order.append("second")
    released.set()
    await waiter
    assert order == ["waiter"]


async def test_who_gives_up_or_fails_lets_the_next_one_in():
    locks = KeyedLocks(SYSTEM_CLOCK)
    with pytest.raises(ValueError, match="odd"):
        async with locks.hold("a", 5):
            raise ValueError("odd")
    async with locks.hold("a", 5):

        async def wait() -> None:
            async with locks.hold("a", 5):
                pass

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
    async with locks.hold("a", 0.01):
        pass


async def test_nothing_is_kept_of_what_is_over():
    locks = KeyedLocks(SYSTEM_CLOCK)
    for number in range(10):
        async with locks.hold(number, 5):
            pass
    gc.collect()
    assert len(locks._locks) == 0


async def test_changes_of_one_basket_do_not_overlap(minted, sandbox: Sandbox):
    """Each of two additions is proven by what the basket held before, so neither may count the other's line."""
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    fault = sandbox.faults.add("hang", method="PATCH", commit=True)
    first = asyncio.create_task(minted.baskets.update_item(basket, sku=GOLD, qty=2))
    while not fault.waiting:
        await asyncio.sleep(0.001)
    second = asyncio.create_task(minted.baskets.add_item(basket, sku=SILVER))
    english = minted.with_options(language="en")
    third = asyncio.create_task(english.baskets.delete_item(basket, sku=GOLD))
    await minted.baskets.get_active("customer-1")  # reads do not wait for the lock
    assert [entry.operation for entry in sandbox.requests][-2:] == ["baskets.update_item", "baskets.get_active"]
    fault.remove()
    await asyncio.gather(first, second, third)
    # Two threads arrive in any order.
    assert {entry.operation for entry in list(sandbox.requests)[-2:]} == {"baskets.add_item", "baskets.delete_item"}
    assert [(item.sku, item.amount) for item in sandbox.shop.baskets[0].items] == [(SILVER, 1)]


async def test_nobody_changes_a_basket_that_is_being_completed(minted, sandbox: Sandbox):
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    fault = sandbox.faults.add("hang", method="POST", path="*/complete/buy")
    buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
    while not fault.waiting:
        await asyncio.sleep(0.001)
    hurried = minted.with_options(deadline=0.05)
    with pytest.raises(NotSent, match="longer than"):
        await hurried.baskets.update_item(basket, sku=GOLD, qty=5)
    assert sandbox.requests.of("baskets.update_item") == []
    fault.remove()
    assert (await buying).differences == ()


@given(st.lists(st.floats(0, 60), max_size=200))
def test_the_slowest_of_a_hundred(times: list[float]):
    stats = ServerStats()
    for took in times:
        stats.record_latency(took)
    latest = times[-128:]
    assert stats.p99_latency <= max(latest, default=0.0)
    assert sum(took > stats.p99_latency for took in latest) <= len(latest) // 100


@given(st.integers(-86_400 * 40, 86_400 * 40))
def test_how_far_the_clock_of_the_server_is_ahead(seconds: int):
    stats = ServerStats()
    assert stats.clock_skew == timedelta()
    stats.record_date(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True), NOW)
    known = timedelta(seconds=seconds if abs(seconds) <= 31 * 86_400 else 0)
    assert stats.clock_skew == known
    # An older reading of the server's clock is better than none.
    for useless in ("yesterday", "", format_datetime(NOW + timedelta(days=40), usegmt=True)):
        stats.record_date(useless, NOW, elapsed=100.0)
        assert stats.clock_skew == known


@pytest.mark.parametrize("useless", ["", "yesterday", format_datetime(NOW + timedelta(days=40), usegmt=True)])
def test_server_stats_without_usable_date_has_none(useless: str):
    stats = ServerStats()
    stats.record_date(useless, NOW)
    assert not stats.has_date
    assert stats.server_time(NOW, 12.0) == NOW + timedelta(seconds=12)
    stats.record_date(format_datetime(NOW, usegmt=True), NOW)
    assert stats.has_date


def test_a_date_may_be_older_than_its_response_took_and_its_cache_says() -> None:
    stats = ServerStats()
    assert not stats.has_date
    stats.record_date(format_datetime(NOW, usegmt=True), NOW, elapsed=10.0, latency=7.0)
    assert stats.has_date
    assert stats.server_time(NOW, 12.0) == NOW.replace(microsecond=0) + timedelta(seconds=2)
    assert stats.date_error == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("age", "seconds"), [("0", 0), ("30", 30), ("9999999", 9_999_999), ("", 0), ("-1", 0), ("1e3", 0), ("9" * 8, 0)]
)
def test_the_age_of_a_cached_response(age: str, seconds: float) -> None:
    assert age_seconds(age) == seconds
