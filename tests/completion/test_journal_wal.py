"""A SQLite journal that another process reads in one endless transaction: its write-ahead log cannot be emptied."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from tests.completion.fakes import intent_of

LARGE = 20 * 2**20
READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN")
database.execute("SELECT count(*) FROM intents").fetchone()
print("reading", flush=True)
sys.stdin.readline()
database.execute("COMMIT")
print("idle", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def wal_size(path: Path) -> int:
    wal = Path(f"{path}-wal")
    return wal.stat().st_size if wal.exists() else 0


def grow_wal(path: Path) -> None:
    """Write more than the limit into the write-ahead log, as thousands of purchases do."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS filler (data)")
        database.execute("INSERT INTO filler VALUES (zeroblob(?))", (LARGE,))


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record for record in caplog.records if record.name == "minted_connect.completion"]
    assert all(line.levelno == logging.WARNING for line in lines)
    return [line.getMessage() for line in lines]


@pytest.fixture
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in a read transaction on the journal; a line on its standard input ends the transaction."""
    asyncio.run(prepare_first(path))
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        try:
            yield process
        finally:
            process.kill()


async def prepare_first(path: Path) -> None:
    journal = SqliteJournal(path)
    await journal.prepare(intent_of())
    await journal.aclose()


async def use(journal: SqliteJournal, number: int) -> None:
    intent = intent_of(id=f"intent-{number}", cart_token=f"{number:032d}")
    await journal.prepare(intent)
    assert await journal.get(intent.id) == intent
    await journal.settle(intent.id, IntentState.CONFIRMED)


async def test_endless_reader_is_logged_once(path: Path, reader, caplog: pytest.LogCaptureFixture):
    journal = SqliteJournal(path)
    await use(journal, 1)
    assert warnings_of(caplog) == []
    grow_wal(path)
    for number in range(2, 6):
        await use(journal, number)
    [line] = warnings_of(caplog)
    assert f"the journal {path} works, but its write-ahead log has 20 MiB" in line
    assert line.endswith(f"lsof {path}-wal")
    assert wal_size(path) > LARGE
    assert await journal.pending() == [intent_of()]
    await asyncio.wait_for(journal.aclose(), 10)


async def test_wal_is_emptied_after_the_reader_ended(path: Path, reader, caplog: pytest.LogCaptureFixture):
    journal = SqliteJournal(path)
    grow_wal(path)
    await use(journal, 1)
    reader.stdin.write("end\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "idle\n"  # its connection stays open, so that the file is not deleted
    await use(journal, 2)
    assert wal_size(path) < 2**20
    assert len(warnings_of(caplog)) == 1
    assert len(await journal.pending()) == 1
    await journal.aclose()


async def test_second_growth_is_logged_again(path: Path, reader, caplog: pytest.LogCaptureFixture):
    journal = SqliteJournal(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        grow_wal(path)
        await use(journal, 1)
        reader.kill()
        reader.wait()
        await use(journal, 2)
        assert wal_size(path) < 2**20
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM intents").fetchone()
        grow_wal(path)
        await use(journal, 3)
    assert len(warnings_of(caplog)) == 2
    await journal.aclose()


async def test_purchase_with_endless_reader_succeeds(connect, sandbox, path: Path, reader):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, journal=str(path))
    grow_wal(path)
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order_id == sandbox.shop.orders[0].id
