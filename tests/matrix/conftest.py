"""Builds the environment of each cell."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from minted_connect import CompletionPolicy, Options
from minted_connect.sandbox import Sandbox
from minted_connect.sandbox.clock import START
from tests.matrix.cells import LAG
from tests.matrix.proxy import Chaos
from tests.matrix.world import Clock, MatrixWorld, Written, contexts

# Register before the first import: the module has assertions but is not a test module.
pytest.register_assert_rewrite("tests.matrix.outcomes")

# The faults need POSIX: sockets, signals, forks.
collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []

Build = Callable[..., Awaitable[MatrixWorld]]


@pytest.fixture
async def fast_loop(anyio_backend: str) -> None:
    """Turn off asyncio's debug mode, whose stack traces take half of the time of these tests."""
    asyncio.get_running_loop().set_debug(False)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def build(
    fast_loop: None, connect: Any, tmp_path: Path, flavour: str, authority: trustme.CA
) -> AsyncIterator[Build]:
    """Build a world, over TLS if asked for.

    `options` are those of the client, `policy` is what its completion policy has besides `orders_lag`, `server` are the
    options of the sandbox, `start` is the time there, and `settings` the rest that the client is given.
    """
    async with AsyncExitStack() as stack:

        async def make(
            *,
            tls: bool = False,
            host: str = "127.0.0.1",
            options: Any = None,
            policy: Any = None,
            server: Any = None,
            start: datetime = START,
            **settings: Any,
        ) -> MatrixWorld:
            clock = Clock(start)
            sandbox = await stack.enter_async_context(Sandbox(seed=1, clock=clock, **(server or {})))
            serving, trusting = contexts(authority) if tls else (None, None)
            proxy = await stack.enter_async_context(Chaos(sandbox, clock, serving))

            def options_for(policy: Any, options: Any) -> Options:
                completion = CompletionPolicy(**{"orders_lag": LAG, **policy})
                return Options(**{"clock": clock, "random": lambda: 0.5, "completion": completion, **options})

            path = tmp_path / "journal.db"
            journal = Written(path)
            client = {
                "journal": journal,
                "options": options_for(policy or {}, options or {}),
                "ssl_context": trusting,
                **settings,
            }

            async def again(host: str = host, **more: Any) -> Any:
                url = proxy.url.replace("127.0.0.1", host)
                return await connect(url, sandbox.username, sandbox.password, **{**client, **more})

            return MatrixWorld(sandbox, proxy, clock, await again(), path, flavour, journal, again, options_for)

        yield make


@pytest.fixture
async def world(build: Build) -> MatrixWorld:
    return await build()


@pytest.fixture
async def world_today(build: Build) -> MatrixWorld:
    """A world at the current time, for other processes, which use the clock of the machine."""
    return await build(start=datetime.now(UTC))
