"""Sinks whose destination another program has locked."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from minted_connect import CsvSink, InvalidInput, JsonLinesSink, ParquetSink, SinkError, SqliteSink
from minted_connect.feed.sinks import base
from tests.feed.test_recording import QueueFetch
from tests.feed.test_sinks import KINDS, make, read
from tests.feed.ticks import GOLD, tick
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Lock a database as a backup or a browser of databases does."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"BEGIN {how}")
        yield connection
    finally:
        connection.close()


def unlock_after(connection: sqlite3.Connection, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, connection.execute, ("ROLLBACK",))
    timer.start()
    return timer


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_append_waits_for_lock_of_database(how, tmp_path, caplog):
    caplog.set_level("INFO")
    with make("sqlite", tmp_path) as sink, locked(sink.path, how) as holder:
        timer = unlock_after(holder, 1.2)  # longer than SQLite itself waits
        assert sink.append([tick(1)]) == 1
        timer.join()
    assert len(read("sqlite", tmp_path)) == 1
    assert caplog.text.count("locked by another program; waiting up to 600 s") == 1
    assert caplog.text.count("the lock was released after") == 1


def test_open_waits_for_lock_of_database(tmp_path):
    with locked(tmp_path / "ticks.db", "EXCLUSIVE") as holder:
        timer = unlock_after(holder, 1.2)
        with make("sqlite", tmp_path) as sink:
            assert sink.append([tick(1)]) == 1
        timer.join()


def test_lock_beyond_patience_raises_sink_error(tmp_path):
    with make("sqlite", tmp_path, patience=0.2) as sink:
        with locked(sink.path):
            started = time.monotonic()
            with pytest.raises(SinkError, match="database is locked"):
                sink.append([tick(1)])
            assert time.monotonic() - started < 5
        assert sink.append([tick(1)]) == 1


def test_sink_without_patience_raises_at_once(tmp_path):
    with make("sqlite", tmp_path, patience=0) as sink, locked(sink.path), pytest.raises(SinkError, match="locked"):
        sink.append([tick(1)])


def test_interrupt_shortens_wait_until_next_open(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_INTERRUPTED_WAIT", 0.1)
    with make("sqlite", tmp_path) as sink, locked(sink.path):
        timer = threading.Timer(0.3, sink.interrupt)
        timer.start()
        with pytest.raises(SinkError, match="locked"):
            sink.append([tick(1)])
        timer.join()
    with sink, locked(sink.path) as holder:
        timer = unlock_after(holder, 0.5)
        assert sink.append([tick(1)]) == 1
        timer.join()


@pytest.mark.parametrize(("patience", "seconds"), [(0, 0), (0.2, 200), (600, 500)])
def test_sqlite_waits_no_longer_than_patience(patience, seconds, tmp_path):
    with make("sqlite", tmp_path, patience=patience) as sink:
        assert sink._connection.execute("PRAGMA busy_timeout").fetchone() == (seconds,)


@contextmanager
def in_use(kind: str, folder: Path) -> Iterator[Callable[[], Any]]:
    """Keep a sink of this kind from opening; yield a function that permits it."""
    if kind == "sqlite":
        with locked(folder / "ticks.db", "EXCLUSIVE") as holder:
            yield lambda: holder.execute("ROLLBACK")
    else:
        with make(kind, folder) as other:
            yield other.close


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(sys.platform == "win32", reason="needs advisory locks")
def test_interrupt_before_open_shortens_its_wait(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_INTERRUPTED_WAIT", 0.1)
    sink = make(kind, tmp_path, patience=8)
    sink.interrupt()
    with in_use(kind, tmp_path) as release:
        started = time.monotonic()
        with pytest.raises(SinkError, match=r"locked|another sink"):
            sink.open()
        assert time.monotonic() - started < 5
        sink.close()
        timer = threading.Timer(0.5, release)
        timer.start()
        with sink:  # waits longer than an interrupted sink
            assert sink.append([tick(1)]) == 1
        timer.join()


@pytest.mark.skipif(sys.platform == "win32", reason="needs advisory locks")
def test_interrupt_of_parquet_sink_holds_when_it_reopens(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_INTERRUPTED_WAIT", 0.1)
    sink = make("parquet", tmp_path, patience=8)
    sink.open()
    sink.append([tick(1)])
    sink.directory.rename(tmp_path / "moved")
    with make("parquet", tmp_path) as other:
        other.append([tick(2)])
        sink.interrupt()
        started = time.monotonic()
        with pytest.raises(SinkError, match="another sink is writing to this file"):
            sink.append([tick(3)])
        assert time.monotonic() - started < 5
    sink.close()
    with sink:
        assert sink.append([tick(3)]) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.skipif(sys.platform == "win32", reason="needs advisory locks")
def test_file_sink_with_patience_waits_for_other_sink(kind, tmp_path):
    first = make(kind, tmp_path)
    first.open()
    first.append([tick(1)])
    timer = threading.Timer(0.3, first.close)
    timer.start()
    with make(kind, tmp_path, patience=20) as second:
        assert second.append([tick(1), tick(2)]) == 1
    timer.join()


async def test_record_waits_for_lock_and_loses_no_tick(tmp_path):
    steps, sink = QueueFetch(), make("sqlite", tmp_path)
    with make("sqlite", tmp_path):
        pass  # creates the table
    async with steps.feed() as feed:
        recording = asyncio.ensure_future(feed.record(sink))
        steps.results.put_nowait((GOLD,))
        await wait_until(lambda: read("sqlite", tmp_path))
        with locked(sink.path) as holder:
            for number in range(2, 6):
                steps.results.put_nowait((GOLD,))
                await wait_until(lambda number=number: feed._hub.round == number)
            timer = unlock_after(holder, 1.2)
            await wait_until(lambda: len(read("sqlite", tmp_path)) == 5)
            timer.join()
    assert await recording == 5


async def test_record_with_patience_ends_after_it(tmp_path):
    steps, sink = QueueFetch(), make("sqlite", tmp_path)
    async with steps.feed() as feed:
        with make("sqlite", tmp_path), locked(sink.path):
            steps.results.put_nowait((GOLD,))
            with pytest.raises(SinkError, match="database is locked"):
                await feed.record(sink, patience=0.3)
    assert sink.patience == 600


@pytest.mark.parametrize("how", ["native", "anyio"])
async def test_cancelled_record_of_locked_sink_ends_soon(how, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(base, "_INTERRUPTED_WAIT", 0.2)
    steps, sink = QueueFetch(), make("sqlite", tmp_path)
    async with steps.feed() as feed:
        with make("sqlite", tmp_path), locked(sink.path):
            steps.results.put_nowait((GOLD,))
            started = time.monotonic()
            if how == "native":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(feed.record(sink), 0.5)
            else:
                with anyio.move_on_after(0.5) as scope:
                    await feed.record(sink)
                assert scope.cancelled_caught
            assert time.monotonic() - started < 10
    assert "the last ticks were not recorded" in caplog.text


@pytest.mark.parametrize("sink_class", [CsvSink, JsonLinesSink, SqliteSink, ParquetSink])
@pytest.mark.parametrize("patience", [-1, "5", None, float("inf"), float("nan"), True, False])
def test_invalid_patience_raises_invalid_input(sink_class, patience):
    with pytest.raises(InvalidInput) as caught:
        sink_class("x", patience=patience)
    assert caught.value.field == "patience"


def test_default_patience_is_ten_minutes_for_databases_only():
    assert [sink_class("x").patience for sink_class in (CsvSink, JsonLinesSink, ParquetSink, SqliteSink)] == [
        0.0,
        0.0,
        0.0,
        600.0,
    ]
