"""Writes of one process that wait at the same time are committed together; each is stored whole or not at all."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.errors import AlreadyInFlight, JournalError
from minted_connect.journal.group_commit import GroupCommit, Write
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from tests.completion.fakes import intent_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.prepare(intent_of(id="first", cart_token="first"))
    yield journal
    await journal.aclose()


@contextmanager
def locked(journal: SqliteJournal) -> Iterator[None]:
    """Hold the write lock of the file, as another process does."""
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def count_commits(journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each commit of the journal adds an entry."""
    commits: list[str] = []
    connect = journal._connect

    def traced(deadline: float | None = None) -> sqlite3.Connection:
        database = connect(deadline)
        database.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        return database

    monkeypatch.setattr(journal, "_connect", traced)
    return commits


async def queue(journal: SqliteJournal, *writes: Any) -> list[asyncio.Task[Any]]:
    """Start writes while the file is locked, so that they wait together."""
    with locked(journal):
        tasks = [asyncio.ensure_future(write) for write in writes]
        for _ in range(3):
            await asyncio.sleep(0)  # each has queued its write
    return tasks


async def names_of(journal: SqliteJournal) -> list[str]:
    return sorted(intent.id for intent in await journal.pending())


async def test_writes_that_wait_are_committed_together(journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = count_commits(journal, monkeypatch)
    names = [str(number) for number in range(20)]
    tasks = await queue(journal, *(journal.prepare(intent_of(id=name, cart_token=name)) for name in names))
    await asyncio.gather(*tasks)
    assert await names_of(journal) == sorted(["first", *names])
    assert len(commits) <= 2  # of those that were waiting for the lock already, and of all others


async def test_refused_write_leaves_the_others_of_its_group(journal: SqliteJournal) -> None:
    tasks = await queue(
        journal,
        journal.prepare(intent_of(id="a", cart_token="a")),
        journal.prepare(intent_of(id="b", cart_token="b")),
        journal.prepare(intent_of(id="c", cart_token="b")),  # the same basket
        journal.settle("first", IntentState.CONFIRMED, order_id=7),
        journal.prepare(intent_of(id="d", cart_token="d")),
    )
    results = await asyncio.gather(*tasks, return_exceptions=True)
    [refused] = [result for result in results if result is not None]
    assert isinstance(refused, AlreadyInFlight)
    assert refused.intent_id == "b"
    assert await names_of(journal) == ["a", "b", "d"]
    first = await journal.get("first")
    assert first is not None
    assert first.order_id == 7


class FailingConnection(sqlite3.Connection):
    """Cannot commit, as if the disk reported an error."""

    def execute(self, statement: str, *more: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR  # type: ignore[misc]
            raise error
        return super().execute(statement, *more)


@pytest.mark.requirement(13)
async def test_failed_commit_fails_each_write_of_the_group(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect_as = journal._connect_as

    def failing(mode: str, deadline: float | None) -> sqlite3.Connection:
        if mode != "mode=rw":
            return connect_as(mode, deadline)
        uri = f"{journal.path.as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, isolation_level=None, factory=FailingConnection)

    monkeypatch.setattr(journal, "_connect_as", failing)
    names = [str(number) for number in range(5)]
    tasks = await queue(journal, *(journal.prepare(intent_of(id=name, cart_token=name)) for name in names))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {JournalError}
    assert all("disk reports an error" in str(error) for error in errors), errors
    assert len({id(error) for error in errors}) == len(names)
    monkeypatch.undo()
    assert await names_of(journal) == ["first"]
    # Nothing is remembered as stored.
    await journal.prepare(intent_of(id="0", cart_token="0"))
    assert await names_of(journal) == ["0", "first"]


async def test_each_write_waits_for_the_lock_until_its_own_deadline(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", patience=0.2)
    await journal.prepare(intent_of(id="first", cart_token="first"))
    with locked(journal):
        early = asyncio.ensure_future(journal.prepare(intent_of(id="a", cart_token="a")))
        while not journal._commits._lock.locked():
            await asyncio.sleep(0)
        journal._patience = 30
        late = asyncio.ensure_future(journal.prepare(intent_of(id="b", cart_token="b")))
        with pytest.raises(JournalError, match="locked by another process"):
            await early
        assert not late.done()
    await late
    assert await names_of(journal) == ["b", "first"]
    await journal.aclose()


async def test_write_without_a_thread_is_not_committed_later(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(work: Any) -> Any:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(journal._thread, "submit", fail)
        with pytest.raises(JournalError, match="no thread can be started"):
            await journal.prepare(intent_of(id="a", cart_token="a"))
    await journal.prepare(intent_of(id="b", cart_token="b"))
    assert await names_of(journal) == ["b", "first"]


class MemoryDatabase:
    """A database in memory behind the interface of a group commit."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")

    @contextmanager
    def connect_to_write(self, deadline: float) -> Iterator[sqlite3.Connection]:
        yield self.connection

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        yield

    def check_file(self) -> None:
        pass


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12), st.integers(1, 5))
def test_groups_store_what_single_transactions_would(numbers: list[tuple[int, bool]], group: int) -> None:
    def insert(number: int, fails: bool) -> Any:
        def work(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO numbers VALUES (?)", [number])
            if fails:
                raise ZeroDivisionError
            return number

        return work

    stored, expected = set[int](), []
    for number, fails in numbers:
        is_stored = not fails and number not in stored
        expected.append(is_stored)
        if is_stored:
            stored.add(number)
    database, remembered = MemoryDatabase(), []
    commits, found = GroupCommit(), []
    for start in range(0, len(numbers), group):
        writes = [
            Write(insert(number, fails), lambda number=number: remembered.append(number))  # type: ignore[misc]
            for number, fails in numbers[start : start + group]
        ]
        for write in writes:
            commits.add(write)
        for write in writes:
            try:
                commits.finish(write, database, 0)
                found.append(True)
            except (ZeroDivisionError, sqlite3.IntegrityError):
                found.append(False)
    rows = [number for (number,) in database.connection.execute("SELECT number FROM numbers ORDER BY number")]
    database.connection.close()
    assert found == expected
    assert rows == sorted(remembered) == sorted(stored)


def test_child_process_leaves_the_writes_of_its_parent_alone() -> None:
    database = MemoryDatabase()
    commits = GroupCommit()
    commits.add(Write(lambda connection: connection.execute("INSERT INTO numbers VALUES (1)")))
    commits._lock.acquire()
    child = os.fork()
    if child == 0:
        write = Write(lambda connection: connection.execute("INSERT INTO numbers VALUES (2)").rowcount)
        commits.add(write)
        commits.finish(write, database, 0)
        rows = database.connection.execute("SELECT number FROM numbers").fetchall()
        os._exit(0 if rows == [(2,)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    database.connection.close()
