"""One client-like object for both clients, so that behaviour is described once and shown twice."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.sandbox import Sandbox
from tests.support.clients import fresh_reads

# Shells start background jobs (`&`) with SIGINT ignored, and Python leaves it so: the tests of Ctrl-C would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requirement", type=int, help="run only the tests that prove this statement of the scorecard")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number = config.getoption("--requirement")
    if number is not None:
        proving = [item for item in items if any(number in mark.args for mark in item.iter_markers("requirement"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in proving])
        items[:] = proving


def pytest_collection_finish() -> None:
    """Take what was collected, thousands of tests and the libraries they use, out of every later garbage collection.

    Each would stand still for a quarter of a second over it, which is longer than some timeouts here.
    """
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
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1) as server:
        yield server


@pytest.fixture
async def minted(connect: Connect, sandbox: Sandbox) -> Any:
    """Either client, connected to a fresh sandbox."""
    return await connect(sandbox.url, sandbox.username, sandbox.password)
