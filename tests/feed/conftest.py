"""Fixtures of the fleet tests: Redis servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_server import RedisServer, running


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
