"""One client-like object for both clients, so that behaviour is described once and shown twice."""

from __future__ import annotations

import asyncio.constants
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.core import routes
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.options import fresh_reads

# Shells start background jobs (`&`) with SIGINT ignored, `nohup` ignores SIGHUP, and Python leaves both so: the
# tests of signals would hang.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# In debug mode (`-X dev`) asyncio stores the stack of each callback, ten frames deep: a third of the time of the tests.
asyncio.constants.DEBUG_STACK_DEPTH = 1
FREEZE_EVERY = 200
SLOW = (
    # Thousands of calls, purchases or steps, or the whole suite again with one line of the source changed.
    *("test_leaks.py", "test_mutations.py", "test_soak.py", "feed/test_feed_soak.py", "completion/test_chaos.py"),
    *("completion/test_cancel_sweep.py", "completion/test_refusal_table.py", "completion/test_stateful.py", "matrix/"),
    *("completion/test_references_stateful.py", "completion/test_items_stateful.py", "sandbox/test_fault_modes.py"),
    # Processes that are started, killed, stopped or sent signals.
    *("completion/test_killed.py", "completion/test_killed_purchases.py", "completion/test_machines.py"),
    *("completion/test_plan_recipe.py", "completion/test_plans.py", "completion/test_items_stopped.py"),
    *(
        "completion/test_spending_processes.py",
        "completion/test_spending_rounds.py",
        "completion/test_day.py",
        "completion/test_reconciler_processes.py",
    ),
    *(
        "cli/test_endings.py",
        "cli/test_hints.py",
        "cli/test_plan_runs.py",
        "cli/test_plans_postgres.py",
        "cli/test_signals.py",
        "cli/test_streams.py",
        "feed/test_fleet_data_loss.py",
        "feed/test_fleet_outages.py",
        "test_frozen_applications.py",
        "test_frozen_time.py",
        "feed/test_fleet_processes.py",
        "feed/test_sinks.py::TestCrashes",
    ),
    *("test_forks.py", "test_threads_and_processes.py", "plugin/", "test_benchmarks.py"),
    # Servers and browsers that are installed beside Python.
    *("browser/", "frameworks/", "peers/", "completion/test_pgbouncer.py"),
)
"""Tests that get the mark `slow`, by path below `tests`: the quick suite leaves them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--route", choices=["auto", "session"], default="auto", help="the route of reads and basket changes"
    )
    parser.addoption("--requirement", type=int, help="run only the tests that prove this statement of the scorecard")


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by `-m`
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.partition("tests/")[2].startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    number = config.getoption("--requirement")
    if number is not None:
        proving = [item for item in items if any(number in mark.args for mark in item.iter_markers("requirement"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in proving])
        items[:] = proving


def pytest_collection_finish() -> None:
    """Exclude the collected tests and the libraries they import from every later garbage collection."""
    freeze_garbage_collection()


class _Freezer:
    """Excludes what finished tests left behind (reports, caches) from later garbage collections.

    By the end of a run that would be half a million objects, and a collection of them a pause of half a second: longer
    than some timeouts of the tests.
    """

    def __init__(self) -> None:
        self._finished = 0

    def pytest_runtest_logfinish(self) -> None:
        self._finished += 1
        if self._finished % FREEZE_EVERY == 0:
            freeze_garbage_collection()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--route") == "session":
        routes.has_direct_route = lambda: False
    config.pluginmanager.register(_Freezer())


def freeze_garbage_collection() -> None:
    """Collect first, so that a leak among the frozen objects is still reported."""
    gc.collect()
    gc.freeze()


_DONE = object()
_WALKS = {"pages", "iterate", "watch"}


class Awaitably:
    """Makes the blocking client look like the asynchronous one: each call runs in a worker thread."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name in _WALKS:
            return lambda *args, **kwargs: self._walk(value(*args, **kwargs))
        if name == "with_options":
            return lambda **kwargs: Awaitably(value(**kwargs))
        if callable(value):
            return lambda *args, **kwargs: anyio.to_thread.run_sync(lambda: value(*args, **kwargs))
        return Awaitably(value)

    @staticmethod
    async def _walk(iterator: Any) -> AsyncIterator[Any]:
        try:
            while (item := await anyio.to_thread.run_sync(next, iterator, _DONE)) is not _DONE:
                yield item
        finally:
            await anyio.to_thread.run_sync(iterator.close)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["async", "blocking"])
def flavour(request: pytest.FixtureRequest) -> str:
    return request.param


Connect = Callable[..., Awaitable[Any]]


@pytest.fixture
async def connect(flavour: str) -> AsyncIterator[Connect]:
    """Build a client of either flavour for a URL; it is closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def build(base_url: str, username: str = "partner", password: str = "secret", **options: Any) -> Any:
            options["options"] = fresh_reads(options.get("options"))
            if flavour == "async":
                client = AsyncMintedConnect(username, password, base_url=base_url, **options)
                return await stack.enter_async_context(client)
            blocking = MintedConnect(username, password, base_url=base_url, **options)
            stack.push_async_callback(anyio.to_thread.run_sync, blocking.close)
            return Awaitably(blocking)

        yield build


@pytest.fixture
def direct_route(request: pytest.FixtureRequest) -> None:
    """Skip a test of the direct route if the tests run with `--route=session`."""
    if request.config.getoption("--route") == "session":
        pytest.skip("tests the direct route")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """A fresh sandbox; it follows `clock` if the test uses that fixture."""
    clock = request.getfixturevalue("clock") if "clock" in request.fixturenames else None
    async with Sandbox(seed=1, clock=clock) as server:
        yield server


@pytest.fixture
async def minted(connect: Connect, sandbox: Sandbox) -> Any:
    """Either client, connected to a fresh sandbox."""
    return await connect(sandbox.url, sandbox.username, sandbox.password)
