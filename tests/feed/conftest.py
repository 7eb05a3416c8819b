"""What the tests of fleets share: a Redis server, and the address of one that each test has to itself."""

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
    """Empty; the server of all tests that let it live."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def mortal_redis() -> Iterator[RedisServer]:
    """For a test that stops it."""
    with running() as server:
        yield server
