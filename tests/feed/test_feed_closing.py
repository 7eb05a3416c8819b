"""Closing a feed while its closing is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from tests.feed.test_fleet import fleet_at, gold
from tests.feed.test_recording import QueueFetch

pytestmark = pytest.mark.anyio


async def test_cancelled_close_closes_source(monkeypatch):
    feed, closed = QueueFetch().feed(), []

    async def record_close() -> None:
        closed.append(feed._hub.task.done())

    monkeypatch.setattr(feed._source, "aclose", record_close)
    async with feed:
        closing = asyncio.create_task(feed.aclose())
        await asyncio.sleep(0)  # it waits for the task of the feed
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert closed == [True]


async def test_cancelled_close_releases_lease(member, redis_server, sandbox):
    feed = await member(fleet_at(redis_server.url, lease=30))
    await anext(gold(feed))
    closing = asyncio.create_task(feed.aclose())
    await asyncio.sleep(0)  # it waits for the tasks of the feed
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert feed._hub.task.done()
    with redis_server.client() as db:
        assert not db.keys("*:lease")


async def test_run_cancelled_twice_releases_lease(member, redis_server, sandbox, monkeypatch):
    feed = await member(fleet_at(redis_server.url, lease=30))
    await anext(gold(feed))
    closed: list[bool] = []
    aclose = feed._source.aclose

    async def record_close() -> None:
        await aclose()
        closed.append(True)

    monkeypatch.setattr(feed._source, "aclose", record_close)
    feed._hub.task.cancel()
    await asyncio.sleep(0)  # its tasks are cancelled, and have not ended
    feed._hub.task.cancel()
    await asyncio.wait({feed._hub.task})
    assert closed == [True]
    with redis_server.client() as db:
        assert not db.keys("*:lease")
