"""Timeouts: a hanging request times out on the clock of the test, and in real time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minted_connect import Options, OutcomeUnknown, PoolTimeout, RequestTimeout, RetryPolicy, Timeouts
from minted_connect.clock import SystemClock, timeout
from minted_connect.sandbox import ManualClock, Sandbox

pytestmark = pytest.mark.anyio

LONG = 1e6
"""Timeout in seconds, longer than any test takes."""


async def wait_until_hanging(fault: Any) -> None:
    while not fault.waiting:
        await asyncio.sleep(0)


async def test_timeout_of_system_clock_is_asyncio_timeout() -> None:
    assert isinstance(timeout(SystemClock(), 1), asyncio.Timeout)


async def test_timeout_of_body_in_time_does_nothing() -> None:
    clock = ManualClock()
    async with timeout(clock, 5):
        clock.advance(4.9)
        await asyncio.sleep(0)
    clock.advance(60)
    await asyncio.sleep(0)


async def test_timeout_expires_on_the_clock_or_in_real_time() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        async with timeout(clock, LONG):
            clock.advance(LONG)
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with timeout(clock, 0.01):
            await asyncio.Event().wait()


async def test_timeout_expiring_on_both_clocks_raises_once() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        async with timeout(clock, 0.01):
            try:
                await asyncio.Event().wait()
            finally:
                clock.advance(1)
                await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_timeout_of_cancelled_body_raises_cancelled_error() -> None:
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
async def client_and_sandbox(connect):
    """A client of either kind, a sandbox, and their common clock, which only the test advances."""
    clock = ManualClock()
    async with Sandbox(seed=1, clock=clock) as sandbox:
        timeouts = Timeouts(pool=LONG, read=LONG, total=2 * LONG, complete_read=LONG, complete_total=2 * LONG)
        settings = {"options": Options(clock=clock, pool_size=1), "timeouts": timeouts, "retry": RetryPolicy.none()}
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, **settings)
        await minted.customers.create("customer-1")
        yield minted, sandbox, clock


async def test_hanging_purchase_at_clock_timeout_raises_unknown(client_and_sandbox) -> None:
    minted, sandbox, clock = client_and_sandbox
    basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    fault = sandbox.faults.add("hang", path="*/complete/*", commit=True)
    call = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await wait_until_hanging(fault)
    clock.advance(LONG - 1)
    assert not (await asyncio.wait({call}, timeout=0))[0]
    clock.advance(1)
    with pytest.raises(OutcomeUnknown) as caught:
        await call
    assert caught.value.evidence[0].startswith("RequestTimeout: ")


async def test_hanging_read_at_clock_timeout_raises_timeout(client_and_sandbox) -> None:
    minted, sandbox, clock = client_and_sandbox
    fault = sandbox.faults.add("hang", path="*/rates")
    call = asyncio.ensure_future(minted.rates.current())
    await wait_until_hanging(fault)
    clock.advance(LONG)
    with pytest.raises(RequestTimeout):
        await call


async def test_pool_wait_at_clock_timeout_raises_pool_timeout(client_and_sandbox) -> None:
    minted, sandbox, clock = client_and_sandbox
    fault = sandbox.faults.add("hang", path="*/rates")
    long_client = minted.with_options(timeouts=Timeouts(read=LONG**2, total=LONG**2))
    first = asyncio.ensure_future(long_client.rates.current())
    await wait_until_hanging(fault)
    second = asyncio.ensure_future(minted.products.page())
    while not second.done():
        # Repeatedly: the moment at which the second call begins to wait cannot be observed.
        clock.advance(LONG / 4)
        await asyncio.wait({second}, timeout=0.01)
    with pytest.raises(PoolTimeout):
        await second
    fault.remove()
    await first
