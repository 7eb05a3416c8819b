"""The end of a recording: errors of the feed during the replay, the patience of the sink, and late worker threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from minted_connect import AsyncMintedConnect, JsonLinesSink, PermissionDenied, SinkError
from minted_connect.feed.sinks.recording import _Writer
from tests.feed.conftest import INTERVAL
from tests.feed.test_fleet import RATES, fleet_at, gold
from tests.feed.test_fleet_data_loss import record_until
from tests.feed.test_recording import MemorySink, QueueFetch
from tests.feed.test_sinks import make
from tests.feed.ticks import GOLD
from tests.support.redis_server import RedisServer, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with running() as server:
        yield server


async def test_record_that_replays_raises_error_of_feed(member, own_redis, sandbox, tmp_path, caplog):
    fleet = fleet_at(own_redis.url)
    await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
    before = (tmp_path / "gold").read_bytes()
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        with pytest.raises(PermissionDenied):
            async with minted.rates.feed(interval=INTERVAL, fleet=fleet) as feed:
                await anext(gold(feed))
                with own_redis.client() as db:
                    db.acl_setuser("default", enabled=True, commands=["-xrevrange"])
                recording = asyncio.ensure_future(feed.record(JsonLinesSink(tmp_path / "gold"), metal="gold"))
                await wait_until(lambda: "replay" in feed._source._redis_errors)
                sandbox.faults.add("status", path=RATES, times=None, status=403)
                with pytest.raises(PermissionDenied) as caught:
                    await recording
                assert caught.value.__context__ is None
    assert "the recording ends before the rounds" in caplog.text
    assert (tmp_path / "gold").read_bytes() == before


@pytest.mark.parametrize("patience", [None, 0.3])
async def test_record_restores_patience_of_sink(patience, tmp_path):
    steps, sink, seen = QueueFetch(), make("sqlite", tmp_path, patience=7), []
    append = sink.append

    def note_patience(ticks):
        seen.append(sink.patience)
        return append(ticks)

    sink.append = note_patience
    async with steps.feed() as feed:
        recording = asyncio.ensure_future(feed.record(sink, patience=patience))
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: seen)
    assert await recording == 1
    assert set(seen) == {patience or 7}
    assert sink.patience == 7


async def test_writer_after_close_calls_no_method_of_sink():
    sink = MemorySink()
    writer = _Writer(sink)
    await writer.close()
    with pytest.raises(SinkError, match="has ended"):
        await writer.run(sink.open)
    assert sink.calls == ["close"]
    assert writer.error is None


@pytest.mark.parametrize("steps_before", range(6))
async def test_record_cancelled_before_its_thread_starts_writes_tick(steps_before):
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        recording = asyncio.ensure_future(feed.record(sink))
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: sink.ticks)
        steps.results.put_nowait((GOLD,))
        while feed._hub.round < 2:
            await asyncio.sleep(0)
        for _ in range(steps_before):
            await asyncio.sleep(0)
        recording.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recording
    assert [tick.number for tick in sink.ticks] == [1, 2]
    assert sink.calls[-1] == "close"
