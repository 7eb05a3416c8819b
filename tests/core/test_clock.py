"""Timeouts: a request that hangs ends on the test's clock, and in real time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minted_connect import Options, OutcomeUnknown, PoolTimeout, RequestTimeout, RetryPolicy, Timeouts
from minted_connect.clock import SystemClock, timeout
from minted_connect.sandbox import ManualClock, Sandbox

pytestmark = pytest.mark.anyio

AGES = 1e6
"""Seconds, more than any test takes."""


async def hanging(fault: Any) -> None:
    while not fault.waiting:
        await asyncio.sleep(0)


async def test_a_clock_without_alarms_costs_nothing() -> None:
    assert isinstance(timeout(SystemClock(), 1), asyncio.Timeout)


async def test_what_ends_in_time_is_left_alone() -> None:
    clock = ManualClock()
    async with timeout(clock, 5):
        clock.advance(4.9)
        await asyncio.sleep(0)
    clock.advance(60)
    await asyncio.sleep(0)


async def test_the_alarm_ends_it_and_so_does_real_time() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        async with timeout(clock, AGES):
            clock.advance(AGES)
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with timeout(clock, 0.01):
            await asyncio.Event().wait()


async def test_both_at_once_are_one_timeout() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        async with timeout(clock, 0.01):
            try:
                await asyncio.Event().wait()
            finally:
                clock.advance(1)
                await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_cancellation_stays_one() -> None:
    clock = ManualClock()

    async def hang() -> None:
        async with timeout(clock, 5):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.advance(60)
    await asyncio.sleep(0)


@pytest.fixture
async def served(connect):
    """Either client and a sandbox on one clock that stands still."""
    clock = ManualClock()
    async with Sandbox(seed=1, clock=clock) as sandbox:
        timeouts = Timeouts(pool=AGES, read=AGES, total=2 * AGES, complete_read=AGES, complete_total=2 * AGES)
        settings = {"options": Options(clock=clock, pool_size=1), "timeouts": timeouts, "retry": RetryPolicy.none()}
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, **settings)
        await minted.customers.create("customer-1")
        yield minted, sandbox, clock


async def test_a_purchase_that_hangs_is_unknown_as_soon_as_the_clock_says_so(served) -> None:
    minted, sandbox, clock = served
    basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    fault = sandbox.faults.add("hang", path="*/complete/*", commit=True)
    call = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await hanging(fault)
    clock.advance(AGES - 1)
    assert not (await asyncio.wait({call}, timeout=0))[0]
    clock.advance(1)
    with pytest.raises(OutcomeUnknown) as caught:
        await call
    assert caught.value.evidence[0].startswith("RequestTimeout: ")


async def test_a_read_that_hangs_times_out_as_soon_as_the_clock_says_so(served) -> None:
    minted, sandbox, clock = served
    fault = sandbox.faults.add("hang", path="*/rates")
    call = asyncio.ensure_future(minted.rates.current())
    await hanging(fault)
    clock.advance(AGES)
    with pytest.raises(RequestTimeout):
        await call


async def test_waiting_for_a_connection_ends_as_soon_as_the_clock_says_so(served) -> None:
    minted, sandbox, clock = served
    fault = sandbox.faults.add("hang", path="*/rates")
    patient = minted.with_options(timeouts=Timeouts(read=AGES**2, total=AGES**2))
    first = asyncio.ensure_future(patient.rates.current())
    await hanging(fault)
    second = asyncio.ensure_future(minted.products.page())
    while not second.done():
        # Repeatedly: the moment at which the second call begins to wait cannot be observed.
        clock.advance(AGES / 4)
        await asyncio.wait({second}, timeout=0.01)
    with pytest.raises(PoolTimeout):
        await second
    fault.remove()
    await first
