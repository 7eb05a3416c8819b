"""Fixtures of the fleet tests: Redis servers and members of a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect, Fleet, Options, RateFeed
from minted_connect.clock import Clock
from minted_connect.sandbox import Sandbox
from tests.support.redis_server import RedisServer, running

INTERVAL = 0.05


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with running() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """Return the shared server, without data; tests must not stop it."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def stoppable_redis() -> Iterator[RedisServer]:
    """Start a server that the test may stop."""
    with running() as server:
        yield server


Members = Callable[..., Any]


@pytest.fixture
async def member(sandbox: Sandbox) -> AsyncIterator[Members]:
    """Return a function that opens the feed of a new client."""
    async with AsyncExitStack() as stack:

        async def member(fleet: Fleet, *, clock: Clock | None = None, **more: Any) -> RateFeed:
            options = Options() if clock is None else Options(clock=clock)
            client = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options)
            await stack.enter_async_context(client)
            feed = client.rates.feed(**{"interval": INTERVAL, "fleet": fleet, **more})
            return await stack.enter_async_context(feed)

        yield member
