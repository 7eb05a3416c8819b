"""Recording a running feed: with both clients, cancelled, failing, and continued."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    CsvSink,
    InvalidInput,
    JsonLinesSink,
    MintedConnect,
    Options,
    Sink,
    SinkError,
    TransportError,
    record,
)
from minted_connect.feed import LocalSource, Poller, RateFeed
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from tests.feed.test_sinks import KINDS, make, read
from tests.feed.ticks import GOLD, SILVER
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


class MemorySink(Sink):
    """Stores ticks in memory; can be blocked, and can fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ticks: list[Any] = []
        self.threads: set[str] = set()
        self.may_write = threading.Event()
        self.may_write.set()
        self.writing = threading.Event()
        self.fails = False

    def open(self) -> None:
        self.calls.append("open")

    def append(self, ticks: Any) -> int:
        self.writing.set()
        assert self.may_write.wait(20)
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise SinkError("the disk is full")
        self.calls.append("append")
        self.ticks += ticks
        return len(ticks)

    def close(self) -> None:
        self.calls.append("close")


class QueueFetch:
    """A fetch function that returns what the test puts into a queue."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self) -> Any:
        result = await self.results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    async def no_history(self, _: Any) -> Any:
        return ()

    def feed(self) -> RateFeed:
        clock = ManualClock(auto_advance=True)
        poller = Poller(self, interval=1, clock=clock, random=lambda: 0.5, breaker=None)
        return RateFeed(LocalSource(poller, clock=clock), clock=clock)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_record_writes_ticks_in_worker_thread():
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        recording = asyncio.ensure_future(feed.record(sink))
        for count in range(1, 4):
            steps.results.put_nowait((GOLD, SILVER))
            await wait_until(lambda count=count: len(sink.ticks) == 2 * count)
        steps.results.put_nowait(TransportError("no response"))
        await wait_until(lambda: feed.failures)
        assert sink.calls[-1] != "close"
    assert await recording == 6
    assert [(tick.number, tick.rate.metal_type) for tick in sink.ticks][:3] == [(1, "gold"), (1, "silver"), (2, "gold")]
    assert not any(tick.stale for tick in sink.ticks)
    assert (sink.calls[0], sink.calls[-1], sink.calls.count("close")) == ("open", "close", 1)
    assert threading.main_thread().name not in sink.threads


async def test_ticks_received_during_write_are_written_together():
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        sink.may_write.clear()
        recording = asyncio.ensure_future(record(feed, sink, metal="gold"))
        for number in range(1, 6):
            steps.results.put_nowait((GOLD, SILVER))
            await wait_until(lambda number=number: feed._hub.round == number)
            if number == 1:
                await wait_until(sink.writing.is_set)
        sink.may_write.set()
    assert await recording == 5
    assert sink.calls.count("append") == 2
    assert [tick.number for tick in sink.ticks] == [1, 2, 3, 4, 5]


async def test_cancelled_record_writes_received_ticks(caplog):
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        sink.may_write.clear()
        recording = asyncio.ensure_future(feed.record(sink))
        for number in range(1, 4):
            steps.results.put_nowait((GOLD,))
            await wait_until(lambda number=number: feed._hub.round == number)
            await wait_until(sink.writing.is_set)
        recording.cancel()
        await asyncio.sleep(0)
        sink.may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await recording
        assert [tick.number for tick in sink.ticks] == [1, 2, 3]
        assert sink.calls[-1] == "close"
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: feed._hub.round == 4)  # the feed keeps running


async def test_cancelled_record_with_history_writes_received_ticks():
    steps, sink = QueueFetch(), MemorySink()
    feed = steps.feed()
    feed._fetch_history = steps.no_history
    async with feed:
        sink.may_write.clear()
        recording = asyncio.ensure_future(feed.record(sink, history=True))
        for number in range(1, 4):
            steps.results.put_nowait((GOLD,))
            await wait_until(lambda number=number: feed._hub.round == number)
            await wait_until(lambda: feed._hub.history is not None)
            await wait_until(sink.writing.is_set)
        recording.cancel()
        await asyncio.sleep(0)
        sink.may_write.set()
        with pytest.raises(asyncio.CancelledError):
            await recording
    assert [tick.number for tick in sink.ticks] == [1, 2, 3]


async def test_record_raises_error_of_feed_after_last_tick():
    steps, sink = QueueFetch(), MemorySink()
    with pytest.raises(ZeroDivisionError):
        async with steps.feed() as feed:
            recording = asyncio.ensure_future(feed.record(sink))
            steps.results.put_nowait((GOLD,))
            await wait_until(lambda: sink.ticks)
            steps.results.put_nowait(ZeroDivisionError())
            with pytest.raises(ZeroDivisionError):
                await recording
            assert sink.calls[-1] == "close"


async def test_failing_sink_ends_recording_but_not_feed():
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        sink.fails = True
        steps.results.put_nowait((GOLD,))
        with pytest.raises(SinkError, match="the disk is full"):
            await feed.record(sink)
        assert sink.calls == ["open", "close"]
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: feed._hub.round == 2)


async def test_record_logs_dropped_ticks(caplog):
    steps, sink = QueueFetch(), MemorySink()
    async with steps.feed() as feed:
        sink.may_write.clear()
        recording = asyncio.ensure_future(feed.record(sink, buffer=2))
        for number in range(1, 8):
            steps.results.put_nowait((GOLD,))
            await wait_until(lambda number=number: feed._hub.round == number)
            await wait_until(sink.writing.is_set)
        sink.may_write.set()
        await wait_until(lambda: len(sink.ticks) == 3)
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: len(sink.ticks) == 4)
    assert await recording == 4
    assert [tick.number for tick in sink.ticks] == [1, 6, 7, 8]
    assert "4 ticks were dropped before they could be recorded" in caplog.text


async def test_record_into_invalid_sink_raises(tmp_path: Path):
    steps = QueueFetch()
    async with steps.feed() as feed:
        with pytest.raises(SinkError, match="nowhere"):
            await feed.record(CsvSink(tmp_path / "nowhere" / "x.csv"))
        for wrong in (None, "ticks.csv", tmp_path):
            with pytest.raises(InvalidInput, match="sink: must be Sink"):
                await feed.record(wrong)


@pytest.mark.parametrize("kind", KINDS)
async def test_record_over_http_twice_repeats_no_row(kind, tmp_path):
    clock = ManualClock()
    async with Sandbox(seed=1, clock=clock) as sandbox:
        for _ in range(2):
            async with (
                AsyncMintedConnect(
                    sandbox.username, sandbox.password, base_url=sandbox.url, options=Options(clock=clock)
                ) as minted,
                minted.rates.feed(interval=3600, backfill=timedelta(hours=12)) as feed,
            ):
                recording = asyncio.ensure_future(feed.record(make(kind, tmp_path), history=True))
                await wait_until(lambda: feed._hub.history is not None)
                for hour in range(3):
                    await wait_until(
                        lambda hour=hour: feed._hub.round == hour + 1 and feed._hub.next_poll_at > clock.monotonic()
                    )
                    clock.advance(3600 * 1.2)
                await wait_until(lambda: feed._hub.round == 4)
                await feed.aclose()
                assert await recording
                clock.advance(60)
    rows = read(kind, tmp_path)
    keys = [(row["currency_id"], row["at"]) for row in rows]
    assert len(keys) == len(set(keys))
    for currency_id in {key for key, _ in keys}:
        times = [at for key, at in keys if key == currency_id]
        assert times == sorted(times)
        past = [row["at"] for row in rows if row["currency_id"] == currency_id and row["backfilled"]]
        assert len(past) >= 12
        assert [row["backfilled"] for row in rows if row["currency_id"] == currency_id].count(False) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_blocking_record_writes_until_feed_closes(kind, tmp_path):
    with (
        ThreadedSandbox(seed=1) as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
        minted.rates.feed(interval=0.01) as feed,
    ):
        ticks = feed.subscribe(metal="silver", buffer=1000)

        def close() -> None:
            while next(ticks).number < 10:
                pass
            feed.close()

        closer = threading.Thread(target=close)
        closer.start()
        rows = feed.record(make(kind, tmp_path), metal="gold")
        closer.join()
    assert rows >= 9
    rows_read = read(kind, tmp_path)
    assert len(rows_read) == rows
    assert {row["metal"] for row in rows_read} == {"gold"}


def test_sink_appends_ticks_of_script(tmp_path):
    with (
        ThreadedSandbox(seed=1) as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
        minted.rates.feed(interval=3600) as feed,
        JsonLinesSink(tmp_path / "ticks.jsonl") as sink,
    ):
        ticks = feed.subscribe()
        assert sink.append([next(ticks), *ticks.ready()]) == 2
        assert ticks.ready() == []
