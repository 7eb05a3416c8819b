"""Thousands of calls, among them failed and cancelled ones, leave no socket, task, thread, object or memory."""

from __future__ import annotations

import asyncio
import gc
import random
import re
import statistics
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from minted_connect import (
    AsyncMintedConnect,
    ClientClosedError,
    CompletionPolicy,
    MintedConnect,
    Options,
    OutcomeUnknown,
)
from minted_connect.core.auth.digest import AuthFlow, Signer
from minted_connect.core.pool import PoolKind, PreparedRequest
from minted_connect.core.request import Request
from minted_connect.core.response import RawResponse, Response
from minted_connect.models import Basket, Intent, Order
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from tests.conftest import Awaitably
from tests.support.fds import open_files
from tests.support.load import Load
from tests.support.random_faults import RandomFaults
from tests.support.subprocesses import python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")

AT_ONCE = 12
POOL = 8


def without_waits(clock: ManualClock | None = None) -> Options:
    return Options(
        clock=clock or ManualClock(auto_advance=True),
        pool_size=POOL,
        max_body=32_768,
        # Both are true for the sandbox.
        completion=CompletionPolicy(fence_proves_not_executed=True, orders_lag=1, reconcile_budget=10),
    )


CALL_CLASSES = (
    Basket,
    AuthFlow,
    Intent,
    Order,
    OutcomeUnknown,
    RawResponse,
    Response,
    Request,
    Signer,
    PreparedRequest,
    asyncio.Future,
)
"""The classes of objects that calls create: of the library, and the futures and tasks of asyncio."""


def count_objects() -> int:
    """Return the number of objects of calls that still exist."""
    gc.collect()
    return sum(isinstance(value, CALL_CLASSES) for value in gc.get_objects())


async def make_calls(load: Load, faults: RandomFaults, clock: ManualClock, calls: int, *, cancels: bool) -> None:
    """Make calls in bursts; cancel some bursts, and advance the clock while requests get no response."""
    end = load.calls + calls
    while load.calls < end:
        faults.renew()
        # Decided before the burst starts.
        will_cancel = cancels and load.rng.random() < 0.1

        async def advance_or_cancel(group: Any, will_cancel: bool = will_cancel) -> None:
            rounds = 0
            while True:
                rounds += 1
                if will_cancel and (faults.has_waiting or rounds > 50):
                    group.cancel_scope.cancel()
                elif faults.has_waiting:
                    clock.advance(61)
                    await asyncio.sleep(0.01)  # the calls that timed out end
                    faults.remove_triggered()
                await asyncio.sleep(0 if cancels else 0.001)

        async with anyio.create_task_group() as outer:
            async with anyio.create_task_group() as burst:
                outer.start_soon(advance_or_cancel, burst)
                for _ in range(AT_ONCE):
                    burst.start_soon(load.make_random_call)
            outer.cancel_scope.cancel()


def sockets() -> int:
    return sum(name.startswith("socket:") for name in open_files())


async def wait_until_closed(most_sockets: int, most_tasks: int) -> bool:
    """Return whether the event loop closes sockets and tasks down to these numbers."""
    for _ in range(1000):
        gc.collect(0)
        if sockets() <= most_sockets and len(asyncio.all_tasks()) <= most_tasks:
            return True
        await asyncio.sleep(0)
    return False


def idle_connections(client: AsyncMintedConnect) -> int:
    """Check that no resource of a client is in use, and return the number of its idle connections."""
    shared = client._api.state
    digest, pools = shared.transport._digest._state, shared.transport._pools or {}
    assert digest.leader is None
    assert digest.signer is not None
    assert len(shared.locks._locks) == 0
    assert client.complete._settlement.in_flight == {}
    idle = Counter()
    for kind, pool in pools.items():
        connector: Any = pool.connections.session.connector
        assert pool.slots._value == POOL
        assert not pool.slots._waiters
        assert not connector._acquired
        assert not connector._waiters
        idle[kind] = sum(map(len, connector._conns.values()))
    assert len(pools) == 3
    assert idle[PoolKind.COMPLETION] == idle[PoolKind.RECOVERY] == 0
    assert idle[PoolKind.DEFAULT] <= POOL
    return idle[PoolKind.DEFAULT]


def library_threads(earlier: Collection[threading.Thread]) -> list[str]:
    """Return the names of the threads of the library: all but those of Python, anyio and pytest, and earlier ones."""
    others = ("MainThread", "asyncio_", "AnyIO worker thread", "pytest")
    threads = [thread for thread in threading.enumerate() if thread not in earlier]
    return [thread.name for thread in threads if not thread.name.startswith(others)]


@pytest.fixture
async def fast_loop(anyio_backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Switch off logging and the debug mode of the event loop, which keeps a stack per callback: both use memory."""
    asyncio.get_running_loop().set_debug(False)
    for name in ("minted_connect", "asyncio"):
        caplog.set_level("CRITICAL", name)


@pytest.mark.requirement(24)
@pytest.mark.requirement(41)
@pytest.mark.usefixtures("fast_loop")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("flavour", "calls"), [("async", 7_000), ("blocking", 3_000)])
async def test_thousands_of_calls_leave_nothing_open(flavour, calls, tmp_path: Path):
    clock, rng, earlier = ManualClock(auto_advance=True), random.Random(2026), threading.enumerate()
    async with Sandbox(seed=1, clock=clock, log_limit=0) as sandbox:
        faults, base, tasks = RandomFaults(sandbox.faults, rng, 0.2), sockets(), len(asyncio.all_tasks())
        settings: dict[str, Any] = {
            "base_url": sandbox.url,
            "journal": tmp_path / "journal.db",
            "options": without_waits(clock),
        }
        if flavour == "async":
            minted = inner = AsyncMintedConnect(sandbox.username, sandbox.password, **settings)
            close = inner.aclose
        else:
            minted = Awaitably(MintedConnect(sandbox.username, sandbox.password, **settings))
            inner, close = minted._target._inner, minted.close
        load, loops = Load(minted, rng), 0 if flavour == "async" else 2  # an event loop uses two sockets to wake itself
        async with AsyncExitStack() as stack:
            stack.push_async_callback(close)
            objects = []
            for part in range(1, 6):
                await make_calls(load, faults, clock, part * calls // 5 - load.calls, cancels=flavour == "async")
                faults.remove_all()
                await load.reconcile_pending(fence=True)
                idle = idle_connections(inner)
                # Both ends of a connection are in this process; the sandbox has a task for each.
                assert await wait_until_closed(base + loops + 2 * idle, tasks + idle)
                assert clock._timers == {}
                # The thread of the journal ends with the client.
                own = ["MintedConnect loop"] * (flavour == "blocking")
                assert sorted(library_threads(earlier)) == sorted([*own, "minted-journal"])
                assert not [name for name in open_files() if "journal" in name]
                objects.append(count_objects())
        assert objects[-1] <= objects[0] + 5 * POOL
        assert await wait_until_closed(base, tasks)
        assert library_threads(earlier) == []
    assert [path.name for path in tmp_path.iterdir()] == ["journal.db"]
    assert load.calls >= calls
    expected = {"succeeded": 100, "NotFound": 20, "ServerError": 5, "TransportError": 5, "RequestTimeout": 5}
    unknown = load.outcomes["OutcomeUnknown"]
    assert {name for name, least in expected.items() if load.outcomes[name] < least} == set()
    assert unknown > 10
    assert load.outcomes["cancelled"] > 50 or flavour == "blocking"


BAD_SERVER = """
import random, sys, threading
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.support.random_faults import RandomFaults

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set())).start()
with ThreadedSandbox(seed=1, clock=ManualClock(auto_advance=True), log_limit=0) as sandbox:
    faults = RandomFaults(sandbox.faults, random.Random(7), 0.2)
    print(sandbox.url, sandbox.username, sandbox.password, flush=True)
    while not over.wait(0.01):
        faults.renew()  # removes faults in which requests hang
    faults.remove_all()
"""


async def replace_last_results() -> None:
    """Make each worker thread of anyio return a number, because a thread keeps its last result, a page of orders."""
    barrier = threading.Barrier(AT_ONCE)
    await asyncio.gather(*(anyio.to_thread.run_sync(barrier.wait, 10) for _ in range(AT_ONCE)))


@pytest.mark.requirement(41)
@pytest.mark.usefixtures("fast_loop")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("flavour", "calls"), [("async", 3000), ("blocking", 3000)])
async def test_memory_stays_flat(connect, calls, tmp_path: Path):
    """Run the server in another process, because it keeps every order in memory."""
    interval = calls // 16
    with python(BAD_SERVER) as server:
        url, username, password = server.stdout.readline().split()
        tracemalloc.start()
        minted = await connect(url, username, password, options=without_waits(), journal=tmp_path / "journal.db")
        load, sizes = Load(minted, random.Random(2026)), []
        for until in range(interval, calls + 1, interval):
            while load.calls < until:
                await asyncio.gather(*(load.make_random_call() for _ in range(AT_ONCE)))
            re.purge()  # re caches up to 512 patterns, which were used to mask errors
            await replace_last_results()
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        server.stdin.close()
    # Buffers make single sizes differ by up to 200 kB; a leak of 250 bytes per call moves all later sizes.
    # (Measured: a growth of 45 to 210 kB.)
    growth = statistics.median(sizes[9:]) - statistics.median(sizes[2:9])
    assert growth < 250 * calls // 2
    assert load.outcomes["ServerError"] + load.outcomes["TransportError"] > 20


def test_repeated_open_and_close_leaves_nothing_open():
    def use_client(*, has_waiting: bool) -> None:
        with (
            MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=without_waits()) as minted,
            ThreadPoolExecutor(1) as pool,
        ):
            minted.rates.current()
            if has_waiting:
                fault = sandbox.faults.add("hang")
                call = pool.submit(minted.rates.current)
                while not fault.waiting:
                    time.sleep(0)
                minted.close()
                with pytest.raises(ClientClosedError):
                    call.result(10)
                sandbox.faults.clear()

    before = open_files()
    with ThreadedSandbox(seed=1, log_limit=0) as sandbox:
        use_client(has_waiting=True)
        baseline = threading.active_count()
        for number in range(20):
            use_client(has_waiting=number % 2 == 0)
        assert threading.active_count() == baseline
    gc.collect()
    assert Counter(open_files()) <= Counter(before)
