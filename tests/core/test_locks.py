"""Locks by key, and statistics about the server."""

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


async def test_lock_serialises_equal_keys_in_order_of_arrival():
    locks, log = KeyedLocks(SYSTEM_CLOCK), []

    async def change(name: str, key: str) -> None:
        async with locks.hold(key, 5):
            log.append(f"{name} begins")
            await asyncio.sleep(0)
            log.append(f"{name} ends")

    await asyncio.gather(change("1", "a"), change("2", "a"), change("3", "a"))
    assert log == [f"{name} {step}" for name in "123" for step in ("begins", "ends")]
    log.clear()
    await asyncio.gather(change("1", "a"), change("2", "b"))
    assert log == ["1 begins", "2 begins", "1 ends", "2 ends"]


async def test_lock_wait_times_out():
    locks = KeyedLocks(SYSTEM_CLOCK)
    async with locks.hold("a", 5):
        with pytest.raises(NotSent, match=r"longer than 0\.01 s"):
            async with locks.hold("a", 0.01):
                pytest.fail("the lock is held")
    async with locks.hold("a", 0.01):
        pass


async def test_released_lock_with_waiter_goes_to_the_waiter():
    locks, order = KeyedLocks(SYSTEM_CLOCK), []

    async def wait() -> None:
        async with locks.hold("a", 5):
            order.append("waiter")
            await released.wait()

    released = asyncio.Event()
    async with locks.hold("a", 5):
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
    # The lock is released, but the waiter acquires it next.
    with pytest.raises(NotSent):
        async with locks.hold("a", 0.01):
            order.append("second")
    released.set()
    await waiter
    assert order == ["waiter"]


async def test_lock_after_error_or_cancelled_wait_is_free():
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


async def test_released_locks_are_garbage_collected():
    locks = KeyedLocks(SYSTEM_CLOCK)
    for number in range(10):
        async with locks.hold(number, 5):
            pass
    gc.collect()
    assert len(locks._locks) == 0


async def test_changes_to_one_basket_do_not_overlap(minted, sandbox: Sandbox):
    """A read-back compares the basket with its state before, so two changes at once could confirm each other."""
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
    # The two calls of the blocking client run in threads, whose order is not defined.
    assert {entry.operation for entry in list(sandbox.requests)[-2:]} == {"baskets.add_item", "baskets.delete_item"}
    assert [(item.sku, item.amount) for item in sandbox.shop.baskets[0].items] == [(SILVER, 1)]


async def test_update_during_completion_of_basket_raises_not_sent(minted, sandbox: Sandbox):
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    fault = sandbox.faults.add("hang", method="POST", path="*/complete/buy")
    buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
    while not fault.waiting:
        await asyncio.sleep(0.001)
    short_client = minted.with_options(deadline=0.05)
    with pytest.raises(NotSent, match="longer than"):
        await short_client.baskets.update_item(basket, sku=GOLD, qty=5)
    assert sandbox.requests.of("baskets.update_item") == []
    fault.remove()
    assert (await buying).differences == ()


@given(st.lists(st.floats(0, 60), max_size=200))
def test_p99_latency_is_exceeded_by_one_in_a_hundred(times: list[float]):
    stats = ServerStats()
    for took in times:
        stats.record_latency(took)
    latest = times[-128:]
    assert stats.p99_latency <= max(latest, default=0.0)
    assert sum(took > stats.p99_latency for took in latest) <= len(latest) // 100


@given(st.integers(-86_400 * 40, 86_400 * 40))
def test_clock_skew_is_read_from_the_date_header(seconds: int):
    stats = ServerStats()
    assert stats.clock_skew == timedelta()
    stats.record_date(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True), NOW)
    known = timedelta(seconds=seconds if abs(seconds) <= 31 * 86_400 else 0)
    assert stats.clock_skew == known
    # An unusable date does not replace the earlier skew.
    for unusable in ("yesterday", "", format_datetime(NOW + timedelta(days=40), usegmt=True)):
        stats.record_date(unusable, NOW, elapsed=100.0)
        assert stats.clock_skew == known


@pytest.mark.parametrize("unusable", ["", "yesterday", format_datetime(NOW + timedelta(days=40), usegmt=True)])
def test_server_stats_without_usable_date_has_none(unusable: str):
    stats = ServerStats()
    stats.record_date(unusable, NOW)
    assert not stats.has_date
    assert stats.server_time(NOW, 12.0) == NOW + timedelta(seconds=12)
    stats.record_date(format_datetime(NOW, usegmt=True), NOW)
    assert stats.has_date


def test_record_date_sets_server_time_and_date_error() -> None:
    stats = ServerStats()
    assert not stats.has_date
    stats.record_date(format_datetime(NOW, usegmt=True), NOW, elapsed=10.0, latency=7.0)
    assert stats.has_date
    assert stats.server_time(NOW, 12.0) == NOW.replace(microsecond=0) + timedelta(seconds=2)
    assert stats.date_error == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("age", "seconds"), [("0", 0), ("30", 30), ("9999999", 9_999_999), ("", 0), ("-1", 0), ("1e3", 0), ("9" * 8, 0)]
)
def test_age_seconds_of_header_value(age: str, seconds: float) -> None:
    assert age_seconds(age) == seconds
