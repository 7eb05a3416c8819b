"""Deadlines, waits and purchases while freezegun or time-machine has frozen the time of the process."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path

import freezegun
import pytest
import time_machine

from minted_connect import (
    AsyncMintedConnect,
    CompletionPolicy,
    JournalError,
    Options,
    OutcomeUnknown,
    PermissionDenied,
    RateLimit,
    RequestTimeout,
    RetryPolicy,
    Timeouts,
)
from minted_connect.clock import SYSTEM_CLOCK, call_later, timeout
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.sandbox.clock import MovableClock
from tests.completion.fakes import intent_of

Freeze = Callable[[], AbstractContextManager[object]]
FREEZERS: dict[str, Freeze] = {
    "freezegun": lambda: freezegun.freeze_time("2026-01-01"),
    "freezegun_future": lambda: freezegun.freeze_time("2031-01-01"),
    "time_machine": lambda: time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False),
}
CUSTOMER = "customer-1"
GOLD = "MNTBAE0001"


@pytest.fixture(params=FREEZERS)
def freeze(request: pytest.FixtureRequest) -> Freeze:
    return FREEZERS[request.param]


def real_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def basket_of(minted):
    await minted.customers.create(CUSTOMER)
    return await minted.baskets.add_item(CUSTOMER, sku=GOLD)


async def test_purchase_in_frozen_time_succeeds(minted, freeze: Freeze):
    with freeze():
        basket = await basket_of(minted)
        before = basket.seconds_left
        completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
        order = await minted.orders.get(completion.order_id, customer_id=CUSTOMER)
        assert order.paid_total == basket.paid_total
        assert basket.seconds_left < before


async def test_purchase_across_frozen_time_succeeds(minted, freeze: Freeze):
    basket = await basket_of(minted)
    with freeze():
        completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert (await minted.orders.get(completion.order_id, customer_id=CUSTOMER)).paid_total == basket.paid_total


async def test_request_in_frozen_time_times_out(connect, sandbox: Sandbox, freeze: Freeze):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, timeouts=Timeouts(read=0.3, total=0.5))
    sandbox.faults.add("hang", path="*/rates", times=None)
    with freeze():
        started = real_time()
        with pytest.raises(RequestTimeout):
            await minted.rates.current()
        assert 0.2 < real_time() - started < 10


async def test_lost_response_in_frozen_time_is_read_back(minted, sandbox: Sandbox, freeze: Freeze):
    with freeze():
        basket = await basket_of(minted)
        sandbox.faults.add("drop_after_commit", path="*/complete/buy")
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        completion = await minted.complete.reconcile(caught.value)
    assert completion.order_id == sandbox.shop.orders[0].id


async def test_refusal_in_frozen_time_settles(connect, sandbox: Sandbox, freeze: Freeze):
    policy = CompletionPolicy(orders_lag=0.4, latest_landing=0.2)
    options = Options(completion=policy)
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
    with freeze():
        basket = await basket_of(minted)
        sandbox.faults.add("refusal", path="*/complete/buy", status=403, commit="never")
        started = real_time()
        with pytest.raises(PermissionDenied):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert 0.5 < real_time() - started < 10


async def test_order_wait_in_frozen_time_ends(connect, freeze: Freeze):
    async with Sandbox(seed=1, status_interval=0.2) as sandbox:
        minted = await connect(sandbox.url, sandbox.username, sandbox.password)
        with freeze():
            basket = await basket_of(minted)
            completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
            order = await minted.orders.wait(completion, timeout=30)
    assert order.is_final


async def test_rate_limit_in_frozen_time_waits(connect, sandbox: Sandbox, freeze: Freeze):
    options = Options(rate_limit=RateLimit(rate=10, burst=1))
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
    with freeze():
        started = real_time()
        for _ in range(4):
            await minted.rates.current()
        assert 0.25 < real_time() - started < 10


async def test_delay_in_frozen_time_ends(minted, sandbox: Sandbox, freeze: Freeze):
    sandbox.faults.add("delay", path="*/rates", seconds=0.2)
    with freeze():
        started = real_time()
        await minted.rates.current()
        assert 0.15 < real_time() - started < 10


async def test_movable_clock_in_frozen_time_advances(freeze: Freeze):
    clock = MovableClock()
    with freeze():
        started = real_time()
        await clock.sleep_elapsed(0.1)
        assert 0.05 < real_time() - started < 10
        sleeping = asyncio.ensure_future(clock.sleep_elapsed(600))
        await asyncio.sleep(0)
        clock.advance(600)
        await sleeping


async def test_locked_journal_in_frozen_time_fails(tmp_path: Path, freeze: Freeze):
    journal = SqliteJournal(tmp_path / "journal.sqlite", patience=0.3)
    await journal.prepare(intent_of())
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with freeze(), pytest.raises(JournalError, match="is locked by another process"):
            await journal.prepare(intent_of())
    await journal.aclose()


async def test_timers_in_frozen_time_are_cancelled(freeze: Freeze):
    called: list[str] = []
    with freeze():
        call_later(SYSTEM_CLOCK, 0.05, lambda: called.append("cancelled")).cancel()
        call_later(SYSTEM_CLOCK, 0.1, lambda: called.append("due"))
        async with timeout(SYSTEM_CLOCK, 0.15):
            await SYSTEM_CLOCK.sleep(0.12)
        with pytest.raises(TimeoutError):
            async with timeout(SYSTEM_CLOCK, 0.1):
                await SYSTEM_CLOCK.sleep(600)
    assert called == ["due"]


PROGRAM = """
import asyncio
import freezegun

with freezegun.freeze_time("2026-01-01"):
    from minted_connect import AsyncMintedConnect, MintedConnect, RequestTimeout, Timeouts

    with MintedConnect.sandbox() as minted:
        minted.customers.create("customer-1")
        basket = minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        minted.complete.buy(basket, expected_total=basket.paid_total)

async def main():
    async with AsyncMintedConnect.sandbox(timeouts=Timeouts(read=0.3, total=0.5)) as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        await minted.complete.buy(basket, expected_total=basket.paid_total)
        minted.sandbox_server.faults.add("hang", path="*/rates", times=None)
        try:
            await minted.rates.current()
        except RequestTimeout:
            print("timed out")

asyncio.run(main())
with freezegun.freeze_time("2026-01-01"):
    asyncio.run(main())
"""


def test_import_in_frozen_time_works():
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    process = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["timed out", "timed out"]


async def test_feed_in_frozen_time_polls(sandbox: Sandbox, freeze: Freeze):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        with freeze():
            async with minted.rates.feed(interval=0.1) as feed:
                async for tick in feed.subscribe():
                    if tick.number == 3:
                        break
    assert sandbox.requests.total >= 3


async def test_manual_clock_in_frozen_time_times_out(connect, sandbox: Sandbox, freeze: Freeze):
    options = Options(clock=ManualClock())
    settings = {"timeouts": Timeouts(read=0.3, total=0.5), "retry": RetryPolicy(read_attempts=1)}
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options, **settings)
    sandbox.faults.add("hang", path="*/rates", times=None)
    with freeze(), pytest.raises(RequestTimeout):
        await minted.rates.current()
