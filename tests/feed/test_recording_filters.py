"""Recordings with different filters into one destination: each continues after its own rows."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import pytest

from minted_connect import JsonLinesSink, SqliteSink
from minted_connect.feed.sinks import lines
from minted_connect.feed.tick import Filter
from tests.feed.test_fleet import fleet_at, gold, take
from tests.feed.test_fleet_data_loss import rows_of
from tests.feed.test_sinks import KINDS, make, read
from tests.feed.ticks import GOLD, SILVER, tick
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_reopened", [False, True])
def test_last_row_is_oldest_of_latest_rows_of_currencies(kind, is_reopened, tmp_path):
    sink = make(kind, tmp_path)
    with sink:
        sink.append([tick(1), tick(1, SILVER), tick(2), tick(2, SILVER), tick(3)])
        sink.append([tick(4), tick(5), tick(6, SILVER, backfilled=True, number=0)])
        if is_reopened:
            sink.close()
            sink.open()
        found = {
            matches: sink.last_row(Filter(*matches))
            for matches in [
                (None, "gold", None),
                (None, "silver", None),
                (GOLD.currency_id, None, None),
                (SILVER.currency_id, None, None),
                (None, None, GOLD.sku),
                (None, None, None),
                (None, "platinum", None),
                (5, None, None),
            ]
        }
        assert [None if row is None else row.number for row in found.values()] == [5, 2, 5, 2, 5, 2, None, None]
        assert found[None, "silver", None].at == tick(2).at
        assert sink.last_row() == found[None, None, None]


def test_parquet_sink_remembers_buffered_rows_beside_large_part(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "_MAX_ROWS", 10)
    with make("parquet", tmp_path, rows_per_part=20) as sink:
        sink.append([tick(number) for number in range(1, 21)])
    sink = make("parquet", tmp_path, rows_per_part=20)
    sink.open()
    sink.append([tick(21), tick(22)])
    sink._buffer.close()  # as a crash does: no part is written
    with make("parquet", tmp_path, rows_per_part=20) as sink:
        assert sink.last_row().number == 22
        assert sink.append([tick(number) for number in range(19, 24)]) == 1
    assert [row["number"] for row in read("parquet", tmp_path)] == list(range(1, 24))


async def record_metal(feed: Any, sink: Any, metal: str, number: int) -> None:
    """Record a metal until this round of the fleet was received; leave the feed open."""
    ticks = gold(feed)
    recording = asyncio.ensure_future(feed.record(sink, metal=metal))
    await take(ticks, lambda tick: tick.number >= number)
    recording.cancel()
    await asyncio.wait({recording})


async def test_record_beside_recording_of_other_metal_continues(member, redis_server, sandbox, tmp_path):
    path = tmp_path / "ticks.db"
    fleet = fleet_at(redis_server.url)
    others, feed = await member(fleet), await member(fleet)
    other = asyncio.ensure_future(others.record(SqliteSink(path), metal="gold"))
    await record_metal(feed, SqliteSink(path), "silver", 5)
    await take(gold(others), lambda tick: tick.number >= 25)
    await record_metal(feed, SqliteSink(path), "silver", 30)
    other.cancel()
    await asyncio.wait({other})
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT number, missed FROM ticks WHERE metal = 'silver' ORDER BY number").fetchall()
    finally:
        connection.close()
    assert [number for number, _ in rows] == list(range(rows[0][0], rows[0][0] + len(rows)))
    assert rows[-1][0] >= 30
    assert {missed for _, missed in rows} == {0}


async def test_record_with_other_filter_of_file_continues(member, redis_server, sandbox, tmp_path):
    path = tmp_path / "ticks.jsonl"
    feed = await member(fleet_at(redis_server.url))
    await record_metal(feed, JsonLinesSink(path), "silver", 5)
    await record_metal(feed, JsonLinesSink(path), "gold", 20)
    recording = asyncio.ensure_future(feed.record(JsonLinesSink(path)))
    reached = (await take(gold(feed), lambda tick: tick.number >= 30))[-1].number
    await wait_until(lambda: rows_of(path)[-1]["number"] >= reached)
    recording.cancel()
    await asyncio.wait({recording})
    for metal in ("silver", "gold"):
        numbers = [row["number"] for row in rows_of(path) if row["metal"] == metal]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[-1] >= 30
    assert {row["missed"] for row in rows_of(path)} == {0}
