"""After thousands of calls, failed and cancelled ones among them, there is as little left over as after one."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from minted_connect import AsyncMintedConnect, ClientClosedError, MintedConnect, MintedConnectError, Options
from minted_connect.core.wire import Lane
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from tests.tour import GOLD

CUSTOMER = "customer-1"
AT_ONCE = 12
POOL = 8
FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop_before_read", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("status", {"status": 500}),
    ("status", {"status": 401}),
    ("html", {}),
    ("stale_nonce", {}),
    ("rate_limit", {"retry_after": 1}),
    ("redirect", {}),
    ("many_headers", {}),
    ("two_answers", {}),
    ("interim", {}),
    ("too_large", {"size": 20_000}),
]


def swift() -> Options:
    return Options(clock=ManualClock(auto_advance=True), pool_size=POOL, max_body=16_384)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def calls(minted: Any, basket: Any) -> list[Callable[[], Any]]:
    some = [
        minted.rates.current,
        lambda: minted.baskets.get_active(CUSTOMER),
        lambda: minted.baskets.update_item(basket, sku=GOLD, qty=2),
        lambda: minted.customers.get(CUSTOMER),
        lambda: minted.customers.get("nobody"),
        lambda: minted.request("GET", "/nowhere"),
    ]
    return some * (AT_ONCE // len(some))


async def scene(minted: AsyncMintedConnect) -> Any:
    await minted.customers.create(CUSTOMER, firstname="Grace")
    return await minted.baskets.add_item(CUSTOMER, sku=GOLD)


async def storm(minted: AsyncMintedConnect, sandbox: Sandbox, basket: Any, rounds: int) -> Counter[str]:
    """Make `rounds` bursts of calls, each under another fault, and cancel every fifth burst half-way."""
    ends: Counter[str] = Counter()

    async def one(call: Callable[[], Any]) -> None:
        try:
            await call()
            ends["answered"] += 1
        except MintedConnectError:
            ends["failed"] += 1
        except asyncio.CancelledError:
            ends["cancelled"] += 1
            raise

    for number in range(rounds):
        kind, args = FAULTS[number % len(FAULTS)]
        hanging = sandbox.faults.add("hang", times=POOL // 2) if number % 5 == 0 else None
        sandbox.faults.add(kind, times=AT_ONCE // 3, **args)
        async with anyio.create_task_group() as group:
            for call in calls(minted, basket):
                group.start_soon(one, call)
            if hanging is not None:
                while hanging.waiting < POOL // 2:
                    await asyncio.sleep(0)
                group.cancel_scope.cancel()
        sandbox.faults.clear()
    return ends


async def settled(baseline: tuple[int, int, int]) -> tuple[int, int, int]:
    """Open files, tasks and threads, once the loop has seen to what was closed."""
    now = (0, 0, 0)
    for _ in range(1000):
        gc.collect(0)
        now = (open_files(), len(asyncio.all_tasks()), threading.active_count())
        if all(is_ <= was for is_, was in zip(now, baseline, strict=True)):
            break
        await asyncio.sleep(0)
    return now


@pytest.fixture
async def fast_loop(anyio_backend: str) -> None:
    """A loop that keeps no stack of every callback, as -X dev has it do: that is slow, and memory of its own."""
    asyncio.get_running_loop().set_debug(False)


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
@pytest.mark.usefixtures("fast_loop")
async def test_the_async_client_leaves_nothing_open():
    async with Sandbox(clock=ManualClock(auto_advance=True), log_limit=0) as sandbox:
        async with AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, options=swift()
        ) as minted:
            basket = await scene(minted)
        baseline = await settled((0, 0, 0))
        async with AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, options=swift()
        ) as minted:
            ends = await storm(minted, sandbox, basket, rounds=200)
            # Open still: at most the pool, and for each of its connections the sandbox's end.
            files, _, threads = await settled((baseline[0] + 2 * POOL, *baseline[1:]))
            assert files <= baseline[0] + 2 * POOL
            assert threads == baseline[2]
            road = minted._caller.shared.transport._roads[Lane.EVERYDAY]
            assert not road.session.connector._acquired
            assert road.slots._value == POOL
            assert isinstance(await minted.rates.current(), tuple)
        assert await settled(baseline) == baseline
    assert sum(ends.values()) == 200 * AT_ONCE
    assert min(ends["answered"], ends["failed"], ends["cancelled"]) > 200


@pytest.mark.usefixtures("fast_loop")
async def test_memory_stays_flat():
    async with (
        Sandbox(clock=ManualClock(auto_advance=True), log_limit=0) as sandbox,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=swift()) as minted,
    ):
        basket = await scene(minted)
        tracemalloc.start()
        try:
            sizes = []
            for _ in range(3):
                await storm(minted, sandbox, basket, rounds=2 * len(FAULTS))
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    # 312 calls a storm: what keeps one answer each would grow by far more than this.
    assert sizes[2] - sizes[1] < 200_000


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_the_blocking_client_leaves_nothing_open():
    with ThreadedSandbox(clock=ManualClock(auto_advance=True), log_limit=0) as sandbox:

        def use(rounds: int) -> Counter[str]:
            ends: Counter[str] = Counter()

            def one(call: Callable[[], Any]) -> str:
                try:
                    call()
                except MintedConnectError:
                    return "failed"
                return "answered"

            with (
                MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=swift()) as minted,
                ThreadPoolExecutor(AT_ONCE) as pool,
            ):
                basket = minted.baskets.add_item(CUSTOMER, sku=GOLD)
                for number in range(rounds):
                    kind, args = FAULTS[number % len(FAULTS)]
                    sandbox.faults.add(kind, times=AT_ONCE // 3, **args)
                    ends.update(pool.map(one, calls(minted, basket)))
                    sandbox.faults.clear()
                minted.baskets.clear(basket)
            return ends

        with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
            minted.customers.create(CUSTOMER)
        use(1)
        baseline = threading.active_count()
        ends = use(40)
        assert sum(ends.values()) == 40 * AT_ONCE
        assert min(ends["answered"], ends["failed"]) > 100
        assert threading.active_count() == baseline
    gc.collect()
    assert not [thread for thread in threading.enumerate() if "minted" in thread.name.casefold()]


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_closing_and_building_again_adds_nothing():
    def once(*, hanging: bool) -> None:
        with (
            MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=swift()) as minted,
            ThreadPoolExecutor(1) as pool,
        ):
            minted.rates.current()
            if hanging:
                fault = sandbox.faults.add("hang")
                late = pool.submit(minted.rates.current)
                while not fault.waiting:
                    time.sleep(0)
                minted.close()
                with pytest.raises(ClientClosedError):
                    late.result(10)
                sandbox.faults.clear()

    before = open_files()
    with ThreadedSandbox(log_limit=0) as sandbox:
        once(hanging=True)
        baseline = threading.active_count()
        for number in range(20):
            once(hanging=number % 2 == 0)
        assert threading.active_count() == baseline
    gc.collect()
    assert open_files() <= before
