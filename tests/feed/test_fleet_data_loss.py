"""Numbers of rounds, and recordings, when Redis loses the data of a fleet or no longer stores the rounds."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from minted_connect import JsonLinesSink, SqliteSink
from minted_connect.feed.fleet.entries import Entry
from minted_connect.feed.fleet.numbering import Numbering
from tests.feed.test_fleet import LEASE, fleet_at, gold, is_in_order, take
from tests.feed.test_redis_stream import member_at, publish
from tests.feed.ticks import GOLD
from tests.support.redis_server import PASSWORD, RedisServer, TcpProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def bytes_client(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, password=PASSWORD)


def fresh(ticks: list[Any]) -> list[Any]:
    return [tick for tick in ticks if not tick.stale]


class TestNumbers:
    async def test_numbers_of_absent_member_never_go_back(self, member, redis_server, sandbox, caplog):
        async with TcpProxy(redis_server.port) as proxy:
            first = await member(fleet_at(proxy.url))
            ticks = gold(first)
            before = fresh(await take(ticks, lambda tick: tick.number >= 40))
            proxy.disconnect()
            with redis_server.client() as db:
                db.flushall()
            second = await member(fleet_at(redis_server.url))
            others = gold(second)
            theirs = await take(others, lambda tick: tick.number >= 10)
            assert theirs[0].number == 1
            proxy.reconnect()
            after = fresh(await take(ticks, lambda tick: not tick.stale and tick.number > before[-1].number))
            after += fresh(await take(ticks, lambda tick: tick.number >= after[-1].number + 5))
            theirs = fresh(theirs + await take(others, lambda tick: tick.number >= after[-1].number))
        assert is_in_order([*before, *after])
        assert is_in_order(theirs)
        # Each round of the second member was read by the first one, or is counted as missed.
        unread = [tick for tick in theirs if tick.at < after[0].at]
        assert len(unread) >= 10
        assert [tick.missed for tick in after] == [len(unread), *[0] * (len(after) - 1)]
        assert {tick.missed for tick in theirs} == {0}
        assert {tick.number: tick.at for tick in after}.items() <= {tick.number: tick.at for tick in theirs}.items()
        assert caplog.text.count("lost the numbers of the fleet") == 1

    async def test_heartbeat_raises_number_of_other_epoch(self, redis_server):
        old, fresh_member = member_at(redis_server.url), member_at(redis_server.url)
        await old.open()
        await fresh_member.open()
        try:
            term = await old.acquire_lease()
            for _ in range(5):
                await publish(old, term)
            assert [entry.after for entry in await old.read()] == [0, 1, 2, 3, 4]
            with redis_server.client() as db:
                db.flushall()
            term = await fresh_member.acquire_lease()
            await publish(fresh_member, term)
            await publish(fresh_member, term)
            assert not await old.acquire_lease()
            await publish(fresh_member, term)
            entries = await fresh_member.read()
            assert [(entry.number, entry.after) for entry in entries] == [(1, 0), (2, 1), (6, 2)]
            assert len({entry.epoch for entry in entries}) == 1
            assert [entry.number for entry in await old.read()] == [1, 2, 6]
        finally:
            await old.aclose()
            await fresh_member.aclose()

    async def test_rounds_lost_by_failover_to_late_replica_are_missed(self, redis_server):
        leader, late = member_at(redis_server.url), member_at(redis_server.url)
        await leader.open()
        await late.open()
        try:
            term = await leader.acquire_lease()
            for _ in range(3):
                await publish(leader, term)
            with bytes_client(redis_server) as db:
                (stream,), (state,) = db.keys("*:stream"), db.keys("*:state")
                copy = db.dump(stream), db.dump(state)
            before = await late.read()
            for _ in range(2):
                await publish(leader, term)
            await leader.read()
            with bytes_client(redis_server) as db:
                for key, value in zip((stream, state), copy, strict=True):
                    db.restore(key, 0, value, replace=True)
            await leader.acquire_lease()
            await publish(leader, term)
            (entry,) = [one for one in await late.read() if one.number > 3]
            assert (entry.number, entry.after) == (6, 5)
            numbering = Numbering()
            assert [numbering.advance(one) for one in (*before, entry)] == [0, 0, 0, 2]
        finally:
            await leader.aclose()
            await late.aclose()


def entry(number: int, after: int | None = None, *, rates: bool = True) -> Entry:
    after = number - 1 if after is None else after
    return Entry("1-1", number, number, 0.0, 1.0, 1.0, after, "", (GOLD,) if rates else ())


class TestNumbering:
    def test_missing_numbers_are_missed(self):
        numbering = Numbering()
        assert [numbering.advance(entry(number)) for number in (7, 8, 11)] == [0, 0, 2]

    def test_missed_rounds_are_stated_by_next_good_round(self):
        numbering = Numbering(3)
        assert [numbering.advance(one) for one in (entry(6, rates=False), entry(8), entry(9))] == [0, 3, 0]

    def test_skipped_rounds_are_missed(self):
        numbering = Numbering(35)
        for number in range(1, 13):
            assert numbering.is_restarted(entry(number))
            assert numbering.skip() == (number == 1)
        assert not numbering.is_restarted(entry(40, 12))
        assert numbering.advance(entry(40, 12)) == 4 + 12
        assert numbering.advance(entry(41)) == 0

    def test_numbers_that_were_skipped_by_the_fleet_are_not_missed(self):
        numbering = Numbering(10)
        assert numbering.advance(entry(40, 12)) == 2
        assert numbering.advance(entry(60, 40)) == 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def record_until(feed: Any, sink: Any, number: int, **options: Any) -> int:
    """Record gold until this round of the fleet was received, then close the feed."""
    ticks = gold(feed)
    recording = asyncio.ensure_future(feed.record(sink, metal="gold", **options))
    await take(ticks, lambda tick: tick.number >= number)
    await feed.aclose()
    return await recording


class TestRecordings:
    @pytest.mark.parametrize("sink_class", [JsonLinesSink, SqliteSink])
    async def test_record_continues_with_rounds_of_stream(self, sink_class, member, redis_server, sandbox, tmp_path):
        fleet = fleet_at(redis_server.url)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), sink_class(tmp_path / "gold"), 5)
        reached = (await take(leader, lambda tick: tick.number >= 30))[-1].number
        await record_until(await member(fleet), sink_class(tmp_path / "gold"), reached + 5)
        with sink_class(tmp_path / "gold") as sink:
            last = sink.last_row().number
        if sink_class is JsonLinesSink:
            rows = rows_of(tmp_path / "gold")
            numbers = [row["number"] for row in rows]
            assert numbers == list(range(numbers[0], last + 1))
            assert last >= reached
            assert {(row["missed"], row["gap"]) for row in rows} == {(0, 0.0)}

    async def test_record_of_long_absence_reads_stream_in_batches(self, member, redis_server, tmp_path, monkeypatch):
        from minted_connect.feed.fleet import redis_stream

        monkeypatch.setattr(redis_stream, "_READ_COUNT", 3)
        fleet = fleet_at(redis_server.url)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
        reached = (await take(leader, lambda tick: tick.number >= 40))[-1].number
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), reached + 2)
        numbers = [row["number"] for row in rows_of(tmp_path / "gold")]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))

    async def test_record_states_rounds_that_stream_no_longer_holds(self, member, redis_server, sandbox, tmp_path):
        fleet = fleet_at(redis_server.url, keep=5)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
        last = rows_of(tmp_path / "gold")[-1]
        reached = (await take(leader, lambda tick: tick.number >= last["number"] + 20))[-1].number
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), reached + 5)
        rows = rows_of(tmp_path / "gold")
        (gap,) = [row for row in rows if row["missed"]]
        assert gap["missed"] == gap["number"] - last["number"] - 1 >= 14
        elapsed = datetime.fromisoformat(gap["at"]) - datetime.fromisoformat(last["at"])
        assert gap["gap"] == pytest.approx(elapsed.total_seconds())
        assert len(rows) == rows[-1]["number"] - rows[0]["number"] + 1 - gap["missed"]

    async def test_record_after_loss_of_data_states_gap(self, member, redis_server, sandbox, tmp_path):
        fleet = fleet_at(redis_server.url)
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 20)
        last = rows_of(tmp_path / "gold")[-1]
        with redis_server.client() as db:
            db.flushall()
        await asyncio.sleep(LEASE / 2)
        leader = gold(await member(fleet))
        await take(leader, lambda tick: tick.number >= 5)
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 10)
        new = [row for row in rows_of(tmp_path / "gold") if row["at"] > last["at"]]
        assert [row["number"] for row in new] == list(range(1, len(new) + 1))
        assert [row["gap"] > LEASE / 2 for row in new] == [True, *[False] * (len(new) - 1)]

    async def test_record_with_history_fills_only_what_stream_lacks(self, member, redis_server, sandbox, tmp_path):
        fleet = fleet_at(redis_server.url, keep=1000)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
        reached = (await take(leader, lambda tick: tick.number >= 25))[-1].number
        feed = await member(fleet, backfill=timedelta(hours=5))
        recording = asyncio.ensure_future(feed.record(JsonLinesSink(tmp_path / "gold"), metal="gold", history=True))
        await take(gold(feed), lambda tick: tick.number >= reached + 3)
        await wait_until(lambda: feed._hub.history is not None)
        await feed.aclose()
        await recording
        rows = rows_of(tmp_path / "gold")
        numbers = [row["number"] for row in rows if not row["backfilled"]]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert [row["at"] for row in rows] == sorted({row["at"] for row in rows})

    async def test_record_continues_after_outage_during_replay(self, member, redis_server, sandbox, tmp_path):
        fleet = fleet_at(redis_server.url)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
        reached = (await take(leader, lambda tick: tick.number >= 20))[-1].number
        async with TcpProxy(redis_server.port) as proxy:
            feed = await member(fleet_at(proxy.url))
            await anext(gold(feed))
            proxy.disconnect()
            recording = asyncio.ensure_future(feed.record(JsonLinesSink(tmp_path / "gold"), metal="gold"))
            await asyncio.sleep(LEASE / 2)
            proxy.reconnect()
            await take(gold(feed), lambda tick: tick.number >= reached + 20)
            await feed.aclose()
            await recording
        numbers = [row["number"] for row in rows_of(tmp_path / "gold")]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))

    async def test_feed_closed_during_replay_leaves_no_hole(self, member, redis_server, sandbox, tmp_path, caplog):
        fleet = fleet_at(redis_server.url)
        leader = gold(await member(fleet))
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 5)
        await take(leader, lambda tick: tick.number >= 20)
        async with TcpProxy(redis_server.port) as proxy:
            feed = await member(fleet_at(proxy.url))
            await anext(gold(feed))
            proxy.disconnect()
            recording = asyncio.ensure_future(feed.record(JsonLinesSink(tmp_path / "gold"), metal="gold"))
            await asyncio.sleep(LEASE / 4)
            await feed.aclose()
            await recording
        assert "the recording ends before the rounds" in caplog.text
        await record_until(await member(fleet), JsonLinesSink(tmp_path / "gold"), 30)
        numbers = [row["number"] for row in rows_of(tmp_path / "gold")]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
