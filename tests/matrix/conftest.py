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
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.sandbox import Sandbox
from minted_connect.sandbox.clock import START
from tests.matrix.cells import ORDERS_LAG
from tests.matrix.proxy import FaultProxy
from tests.matrix.world import Clock, HookedJournal, MatrixWorld, tls_contexts

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
    """Return a function that builds a world, with TLS if `tls`.

    `options` are the client's options, `policy` the fields of its completion policy besides `orders_lag`, `server` the
    options of the sandbox, `start` the time of its clock, and `settings` further arguments of the client.
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
            serving, trusting = tls_contexts(authority) if tls else (None, None)
            proxy = await stack.enter_async_context(FaultProxy(sandbox, clock, serving))

            def options_for(policy: Any, options: Any) -> Options:
                completion = CompletionPolicy(**{"orders_lag": ORDERS_LAG, **policy})
                return Options(**{"clock": clock, "random": lambda: 0.5, "completion": completion, **options})

            path = tmp_path / "journal.db"
            journal = HookedJournal(path)
            client = {
                "journal": journal,
                "options": options_for(policy or {}, options or {}),
                "ssl_context": trusting,
                **settings,
            }

            async def new_client(host: str = host, **more: Any) -> Any:
                url = proxy.url.replace("127.0.0.1", host)
                arguments = {**client, **more}
                if isinstance(arguments["journal"], SqliteJournal):
                    # A client does not close a journal object that it receives.
                    stack.push_async_callback(arguments["journal"].aclose)
                return await connect(url, sandbox.username, sandbox.password, **arguments)

            return MatrixWorld(
                sandbox, proxy, clock, await new_client(), path, flavour, journal, new_client, options_for
            )

        yield make


@pytest.fixture
async def world(build: Build) -> MatrixWorld:
    return await build()


@pytest.fixture
async def world_today(build: Build) -> MatrixWorld:
    """Build a world at the current time, for other processes, which use the clock of the machine."""
    return await build(start=datetime.now(UTC))
