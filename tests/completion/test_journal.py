"""Tests of all journals: one active intent per basket, no loss in a crash, no silent failure."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from minted_connect.clock import monotonic
from minted_connect.core.cancellation import shielded
from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError, NotSent
from minted_connect.journal import open_journal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.journal.rows import to_row
from minted_connect.journal.sqlite import VERSION, SqliteJournal
from minted_connect.journal.statements import insert_params
from minted_connect.models import IntentState, OrderProgress, OrderStatus
from tests.completion.fakes import intent_of
from tests.completion.processes import run_together, start_child

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "memory":
        return MemoryJournal()
    return open_journal(
        tmp_path / "journal.db" if request.param == "sqlite" else request.getfixturevalue("database").url
    )


async def test_intent_is_pending_until_settled(journal: Journal) -> None:
    intent = intent_of()
    await journal.prepare(intent)
    assert await journal.pending() == [intent]
    await journal.settle(intent.id, IntentState.UNKNOWN)
    assert [one.state for one in await journal.pending()] == [IntentState.UNKNOWN]
    await journal.settle(intent.id, IntentState.CONFIRMED, order_id=10984)
    assert await journal.pending() == []
    await journal.aclose()
    await journal.aclose()


async def test_pending_is_oldest_first(journal: Journal) -> None:
    for name in ("c", "a", "b"):
        await journal.prepare(intent_of(id=name, cart_token=name))
    assert [intent.id for intent in await journal.pending()] == ["c", "a", "b"]


@pytest.mark.requirement(13)
@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED])
async def test_basket_has_at_most_one_active_intent(journal: Journal, state: IntentState) -> None:
    await journal.prepare(intent_of(id="first"))
    await journal.settle("first", state, order_id=10984 if state is IntentState.CONFIRMED else None)
    with pytest.raises(AlreadyInFlight, match="first") as caught:
        await journal.prepare(intent_of(id="second"))
    assert ("10984" in str(caught.value)) == (state is IntentState.CONFIRMED)
    assert not caught.value.safe_to_retry
    await journal.prepare(intent_of(id="third", cart_token="another basket"))
    await journal.prepare(intent_of(id="fourth", external_customer_id="another customer"))


@pytest.mark.parametrize("state", [IntentState.NOT_SENT, IntentState.REJECTED, IntentState.NOT_EXECUTED])
async def test_basket_without_completion_accepts_another_intent(journal: Journal, state: IntentState) -> None:
    await journal.prepare(intent_of(id="first"))
    await journal.settle("first", state)
    await journal.prepare(intent_of(id="second"))
    assert [intent.id for intent in await journal.pending()] == ["second"]


async def test_settled_intent_changes_only_to_confirmed(journal: Journal) -> None:
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.REJECTED)
    await journal.settle(intent_of().id, IntentState.UNKNOWN)
    assert await journal.pending() == []
    await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=1)
    with pytest.raises(AlreadyInFlight):
        await journal.prepare(intent_of(id="again"))


async def test_late_confirmation_rejects_further_intents(journal: Journal) -> None:
    await journal.prepare(intent_of(id="first"))
    await journal.settle("first", IntentState.NOT_EXECUTED)
    await journal.prepare(intent_of(id="second"))
    await journal.settle("second", IntentState.REJECTED)
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    with pytest.raises(AlreadyInFlight, match=r"first.*10984"):
        await journal.prepare(intent_of(id="third"))


@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN])
async def test_confirmation_beside_an_open_intent_rejects_others(journal: Journal, state: IntentState) -> None:
    await journal.prepare(intent_of(id="first"))
    await journal.settle("first", IntentState.NOT_EXECUTED)
    await journal.prepare(intent_of(id="second"))
    await journal.settle("second", state)
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    assert [intent.id for intent in await journal.pending()] == ["second"]
    with pytest.raises(AlreadyInFlight, match=r"first.*10984"):
        await journal.prepare(intent_of(id="third"))
    # The keys of both intents may match the same order.
    await journal.settle("second", IntentState.CONFIRMED, order_id=10984)
    assert await journal.pending() == []
    with pytest.raises(AlreadyInFlight, match="10984"):
        await journal.prepare(intent_of(id="third"))


async def test_confirmation_with_huge_order_number_is_stored(journal: Journal) -> None:
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=10**30)
    assert await journal.pending() == []
    with pytest.raises(AlreadyInFlight, match="completed already"):
        await journal.prepare(intent_of(id="again"))


PENDING = OrderProgress(OrderStatus.PENDING)
SHIPPED = OrderProgress("Shipped", cargo_tracking_number="MNT1", estimated_arrival_date=date(2026, 2, 24))
COMPLETED = OrderProgress(OrderStatus.COMPLETED, is_final=True)


async def test_order_awaits_completion_until_final(journal: Journal) -> None:
    intent = intent_of(known_orders=(10980, 10981), clock_offset=-3601)
    await journal.prepare(intent)
    assert await journal.awaiting_completion() == []
    await journal.save_progress(intent.external_customer_id, intent.cart_token, PENDING)  # ignored: not confirmed yet
    assert await journal.pending() == [intent]
    await journal.settle(intent.id, IntentState.CONFIRMED, order_id=10984, progress=PENDING)
    confirmed = attrs.evolve(intent, state=IntentState.CONFIRMED, order_id=10984, progress=PENDING)
    assert await journal.awaiting_completion() == [confirmed]
    await journal.save_progress(intent.external_customer_id, intent.cart_token, SHIPPED)
    assert await journal.awaiting_completion() == [attrs.evolve(confirmed, progress=SHIPPED)]
    await journal.settle(intent.id, IntentState.CONFIRMED)  # confirmed again, without progress
    assert await journal.awaiting_completion() == [attrs.evolve(confirmed, progress=SHIPPED)]
    await journal.save_progress(intent.external_customer_id, intent.cart_token, COMPLETED)
    assert await journal.awaiting_completion() == []
    assert await journal.find_active(intent.external_customer_id, intent.cart_token) == attrs.evolve(
        confirmed, progress=COMPLETED
    )


async def test_last_progress_decides_whether_order_is_final(journal: Journal) -> None:
    intent = intent_of()
    await journal.prepare(intent)
    await journal.settle(intent.id, IntentState.CONFIRMED, progress=COMPLETED)
    await journal.settle(intent.id, IntentState.CONFIRMED)
    assert await journal.awaiting_completion() == []
    await journal.settle(intent.id, IntentState.CONFIRMED, progress=SHIPPED)
    assert [one.progress for one in await journal.awaiting_completion()] == [SHIPPED]


async def test_fence_is_stored_for_open_intents_only(journal: Journal) -> None:
    intent = intent_of()
    at = intent.created_at + timedelta(minutes=1)
    await journal.prepare(intent)
    await journal.settle(intent.id, IntentState.UNKNOWN)
    await journal.fence(intent.id, at)
    await journal.fence(intent.id, at + timedelta(minutes=1))  # only the first time is stored
    await journal.fence("another", at)
    fenced = attrs.evolve(intent, state=IntentState.UNKNOWN, fenced_at=at)
    assert await journal.pending() == [fenced]
    assert await journal.find_active(intent.external_customer_id, intent.cart_token) == fenced
    await journal.settle(intent.id, IntentState.NOT_EXECUTED)
    await journal.fence(intent.id, at)
    assert await journal.pending() == []


async def test_order_that_is_final_at_once_does_not_await_completion(journal: Journal) -> None:
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.CONFIRMED, progress=COMPLETED)
    assert await journal.awaiting_completion() == []


async def test_awaiting_completion_is_oldest_first(journal: Journal) -> None:
    for name in ("c", "a", "b"):
        await journal.prepare(intent_of(id=name, cart_token=name))
        await journal.settle(name, IntentState.CONFIRMED)
    assert [intent.id for intent in await journal.awaiting_completion()] == ["c", "a", "b"]


async def test_find_active_prefers_a_confirmed_intent(journal: Journal) -> None:
    intent = intent_of(id="first")
    assert await journal.find_active(intent.external_customer_id, intent.cart_token) is None
    await journal.prepare(intent)
    assert await journal.find_active(intent.external_customer_id, intent.cart_token) == intent
    assert await journal.find_active("another customer", intent.cart_token) is None
    await journal.settle("first", IntentState.REJECTED)
    assert await journal.find_active(intent.external_customer_id, intent.cart_token) is None
    await journal.prepare(intent_of(id="second"))
    await journal.settle("first", IntentState.CONFIRMED, order_id=7)
    active = await journal.find_active(intent.external_customer_id, intent.cart_token)
    assert active is not None
    assert (active.id, active.order_id) == ("first", 7)


async def test_memory_journal_drops_only_old_closed_intents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minted_connect.journal.memory._MAX_CLOSED", 3)
    journal = MemoryJournal()
    await journal.prepare(intent_of(id="open", cart_token="open"))
    for number in range(5):
        await journal.prepare(intent_of(id=str(number), cart_token=str(number)))
        await journal.settle(str(number), IntentState.CONFIRMED)
    assert [intent.id for intent in await journal.pending()] == ["open"]
    assert [intent.id for intent in await journal.awaiting_completion()] == ["2", "3", "4"]
    await journal.settle("0", IntentState.CONFIRMED)  # ignored: the journal no longer contains the intent
    assert [intent.id for intent in await journal.awaiting_completion()] == ["2", "3", "4"]
    assert len(journal._ids_by_basket) == 4
    await journal.prepare(intent_of(id="again", cart_token="0"))


async def test_settle_of_unknown_id_is_ignored(journal: Journal) -> None:
    await journal.settle("another journal's", IntentState.CONFIRMED)
    assert await journal.pending() == []


async def test_open_journal_accepts_every_kind_of_journal(journal: Journal, tmp_path: Path) -> None:
    assert isinstance(journal, Journal)
    assert open_journal(journal) is journal
    assert isinstance(open_journal(None), MemoryJournal)
    assert isinstance(open_journal(tmp_path / "a.db"), SqliteJournal)
    assert isinstance(open_journal(str(tmp_path / "a.db")), SqliteJournal)


@pytest.mark.parametrize("wrong", ["", "mysql://canary@host/db", "POSTGRESQL://canary@host/db", 7, object()])
def test_open_journal_rejects_other_values(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^journal: ") as caught:
        open_journal(wrong)
    assert "canary" not in str(caught.value)


def test_open_journal_names_missing_methods() -> None:
    class Old:
        prepare = settle = save_progress = find_active = pending = aclose = MemoryJournal.prepare

    lacking = "record_refusal, adopt, get, fence, awaiting_completion"
    with pytest.raises(ConfigurationError, match=rf"journal: Old lacks {lacking} of Journal$"):
        open_journal(Old())  # type: ignore[arg-type]


async def test_one_of_several_concurrent_tasks_stores_its_intent(journal: Journal) -> None:
    results = await asyncio.gather(
        *(journal.prepare(intent_of(id=str(number))) for number in range(8)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [*["AlreadyInFlight"] * 7, "NoneType"]


# --- persistence across processes ----------------------------------------------------------------------------------


async def test_stored_intent_equals_the_prepared_intent(journal_location: str) -> None:
    intent = intent_of(items=(("A'; DROP", 1), ("%s", 2)), guid="", external_customer_id="Ağrı %(id)s :id \\")
    await open_journal(journal_location).prepare(intent)
    assert await open_journal(journal_location).pending() == [intent]
    assert await open_journal(journal_location).find_active(intent.external_customer_id, intent.cart_token) == intent


async def test_intent_survives_sigkill_of_its_process(journal_location: str) -> None:
    process = start_child("await journal.prepare(intent_of()); os.kill(os.getpid(), signal.SIGKILL)", journal_location)
    _, problems = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL, problems
    assert await open_journal(journal_location).pending() == [intent_of()]
    with pytest.raises(AlreadyInFlight):
        await open_journal(journal_location).prepare(intent_of(id="after the crash"))


async def test_one_of_two_concurrent_processes_gets_each_basket(journal_location: str) -> None:
    body = """
    print("ready", flush=True); sys.stdin.readline()
    for number in range(10):
        try:
            await journal.prepare(intent_of(id=f"{sys.argv[2]}-{number}", cart_token=f"basket-{number}"))
        except AlreadyInFlight:
            continue
        print(number, flush=True)
    """
    stored_numbers = " ".join(
        run_together([start_child(body.strip(), journal_location, name) for name in ("a", "b")])
    ).split()
    assert sorted(stored_numbers, key=int) == [str(number) for number in range(10)]
    assert len(await open_journal(journal_location).pending()) == 10


async def test_concurrent_tasks_of_two_processes_lose_no_intent(journal_location: str) -> None:
    body = """
    journal._patience = 30.0
    async def buyer(task):
        for number in range(30):
            name = f"{sys.argv[2]}-{task}-{number}"
            await journal.prepare(intent_of(id=name, cart_token=name))
            await journal.settle(name, "confirmed", order_id=number)
            print(name)
    await asyncio.gather(*(buyer(task) for task in range(4)))
    """
    processes = [start_child(body.strip(), journal_location, name) for name in ("a", "b")]
    outputs = await asyncio.gather(*(asyncio.to_thread(process.communicate, timeout=50) for process in processes))
    problems = [output[1] for output in outputs]
    assert [process.returncode for process in processes] == [0, 0], problems
    found = {intent.id for intent in await open_journal(journal_location).awaiting_completion()}
    assert found == {name for output in outputs for name in output[0].split()}
    assert len(found) == 2 * 4 * 30
    if not journal_location.startswith("postgresql"):
        with sqlite3.connect(journal_location) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()


# --- SQLite --------------------------------------------------------------------------------------------------------


VERSION_1 = """
CREATE TABLE intents (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, external_customer_id TEXT NOT NULL, cart_token TEXT NOT NULL,
    basket_id INTEGER NOT NULL, guid TEXT NOT NULL, increment_id TEXT NOT NULL, price_token TEXT NOT NULL,
    paid_total TEXT NOT NULL, currency_code TEXT NOT NULL, items TEXT NOT NULL, created_at TEXT NOT NULL,
    state TEXT NOT NULL, order_id INTEGER
);
CREATE UNIQUE INDEX one_open ON intents (external_customer_id, cart_token) WHERE state IN ('prepared', 'unknown');
CREATE INDEX one_holder ON intents (external_customer_id, cart_token)
    WHERE state IN ('confirmed', 'prepared', 'unknown');
PRAGMA application_id = 1296979011;
PRAGMA user_version = 1;
"""


def create_version_1(path: Path) -> None:
    """Create a journal with schema version 1, which holds an open and a confirmed intent."""
    with sqlite3.connect(path) as database:
        database.executescript(VERSION_1)
        for name, state, order in (("open", "unknown", None), ("done", "confirmed", 10984)):
            row = to_row(intent_of(id=name, cart_token=name))[:12]
            database.execute(f"INSERT INTO intents VALUES ({', '.join('?' * 14)})", (*row, state, order))
    database.close()


async def test_journal_with_schema_version_1_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    create_version_1(path)
    journal = SqliteJournal(path)
    expected = intent_of(id="open", cart_token="open", state=IntentState.UNKNOWN)
    assert await journal.pending() == [expected]
    assert [(intent.id, intent.order_id) for intent in await journal.awaiting_completion()] == [("done", 10984)]
    with pytest.raises(AlreadyInFlight, match="10984"):
        await journal.prepare(intent_of(id="again", cart_token="done"))
    await journal.settle("open", IntentState.CONFIRMED, order_id=1, progress=SHIPPED)
    assert [intent.progress for intent in await journal.awaiting_completion()] == [SHIPPED, None]


async def test_concurrent_processes_migrate_a_journal_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    create_version_1(path)
    body = """
    print("ready", flush=True); sys.stdin.readline()
    await journal.settle("open", "unknown")
    print(len(await journal.pending()), flush=True)
    """
    assert run_together([start_child(body.strip(), path) for _ in range(3)]) == ["1\n"] * 3
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    database.close()


async def test_failed_migration_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    create_version_1(path)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE unfinished (x)")  # conflicts with the index of that name
    database.close()
    with pytest.raises(JournalError):
        await SqliteJournal(path).settle("open", IntentState.UNKNOWN)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(database.execute("PRAGMA table_info(intents)").fetchall()) == 14
        database.execute("DROP TABLE unfinished")
    database.close()
    await SqliteJournal(path).settle("open", IntentState.UNKNOWN)
    assert len(await SqliteJournal(path).pending()) == 1


async def test_path_does_not_follow_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = SqliteJournal("journal.db")
    await journal.prepare(intent_of())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert await journal.pending() == [intent_of()]


@pytest.mark.parametrize("changes", [{"basket_id": 2**63}, {"basket_id": 10**30}, {"guid": "\ud800"}])
async def test_values_that_sqlite_cannot_store_are_rejected(tmp_path: Path, changes: dict[str, Any]) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    with pytest.raises(JournalError, match="cannot store"):
        await journal.prepare(intent_of(**changes))
    assert await journal.pending() == []
    await journal.prepare(intent_of(basket_id=2**63 - 1))


async def test_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    await SqliteJournal(tmp_path / "journal.db").prepare(intent_of())
    assert stat.S_IMODE((tmp_path / "journal.db").stat().st_mode) == 0o600


@pytest.mark.requirement(16)
async def test_writes_are_synchronous(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    names = ("journal_mode", "synchronous", "user_version")
    with journal.connect_to_write(monotonic() + 5) as database:
        modes = [database.execute(f"PRAGMA {name}").fetchone()[0] for name in names]
    assert modes == ["wal", 2, VERSION]


async def test_operation_keeps_the_locks_of_other_connections(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    database = journal._connect()
    try:
        database.execute("SELECT * FROM intents").fetchall()
        await journal.prepare(intent_of(id="ours", cart_token="ours"))
        # SQLite removes the log if it finds no lock of another connection when it closes the file.
        process = start_child("await journal.prepare(intent_of())", path)
        _, problems = await asyncio.to_thread(process.communicate, timeout=30)
        assert process.returncode == 0, problems
        assert (tmp_path / "journal.db-wal").exists()
    finally:
        database.close()
    assert len(await journal.pending()) == 2


def create_foreign_database(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE something (x)")
    database.close()


def create_newer_schema(path: Path) -> None:
    asyncio.run(SqliteJournal(path).prepare(intent_of()))
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()


def create_damaged_file(path: Path) -> None:
    asyncio.run(SqliteJournal(path).prepare(intent_of()))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (create_foreign_database, "another application"),
        (create_newer_schema, f"schema {VERSION + 1}"),
        (create_damaged_file, "is damaged"),
        (lambda path: path.write_bytes(b"not a database at all" * 100), "is not a journal"),
        (lambda path: path.mkdir(), "cannot be opened"),
    ],
)
def test_unusable_file_raises_an_error_with_the_reason(
    create: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    create(path)
    with pytest.raises(JournalError, match=message) as caught:
        asyncio.run(SqliteJournal(path).pending())
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, NotSent)


async def test_foreign_database_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    create_foreign_database(path)
    before = path.read_bytes()
    with pytest.raises(JournalError):
        await SqliteJournal(path).prepare(intent_of())
    assert path.read_bytes() == before


async def test_missing_directory_raises_journal_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file"):
        await SqliteJournal(tmp_path / "nowhere" / "journal.db").prepare(intent_of())


async def test_read_only_file_raises_journal_error(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    await journal.settle("none", IntentState.UNKNOWN)
    if os.geteuid() == 0:  # root can write every file
        set_up = journal._set_up

        def read_only(database: sqlite3.Connection) -> None:
            set_up(database)
            database.execute("PRAGMA query_only = 1")

        journal._set_up = read_only  # type: ignore[method-assign]
    path.chmod(0o400)
    with pytest.raises(JournalError, match="cannot be written"):
        await journal.prepare(intent_of())


async def test_read_only_directory_raises_journal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "mknod", _raise_permission_error)
        monkeypatch.setattr(tempfile, "mkstemp", _raise_permission_error)
    with pytest.raises(JournalError, match="Permission denied"):
        await SqliteJournal(tmp_path / "journal.db").prepare(intent_of())
    tmp_path.chmod(0o700)
    assert list(tmp_path.iterdir()) == []


def _raise_permission_error(*_: Any, **__: Any) -> Any:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("missing", [[], ["mknod"], ["mknod", "link"]])
async def test_file_is_created_once_without_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    for name in missing:
        monkeypatch.setattr(os, name, _raise_permission_error)
    path = tmp_path / "a b?c#d%20.db"
    await asyncio.gather(*(SqliteJournal(path).prepare(intent_of(id=str(n), cart_token=str(n))) for n in range(4)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert len(await SqliteJournal(path).pending()) == 4


async def test_symbolic_link_to_a_missing_file_creates_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "journal.db")
    await SqliteJournal(tmp_path / "link.db").prepare(intent_of())
    assert stat.S_IMODE((tmp_path / "journal.db").stat().st_mode) == 0o600
    assert await SqliteJournal(tmp_path / "journal.db").pending() == [intent_of()]


async def test_full_disk_raises_journal_error(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    with pytest.raises(JournalError, match="the disk is full"), journal.connect_to_write(monotonic() + 5) as database:
        database.execute("PRAGMA max_page_count = 1")
        for number in range(100):
            intent = intent_of(id=str(number), cart_token=str(number), guid="x" * 9000)
            database.execute(journal._statements.insert, insert_params(intent, None))


async def test_locked_file_raises_within_patience(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    await SqliteJournal(path).settle("none", IntentState.UNKNOWN)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(JournalError, match="locked by another process"):
            await SqliteJournal(path, patience=0.05).prepare(intent_of())
    finally:
        other.close()
    await SqliteJournal(path).prepare(intent_of())


async def test_cancellation_waits_for_the_operation(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path)
    await journal.settle("none", IntentState.UNKNOWN)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        task = asyncio.create_task(journal.prepare(intent_of()))
        for _ in range(3):
            await asyncio.sleep(0.02)
            task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
    finally:
        other.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await journal.pending() == [intent_of()]


async def test_new_file_locked_by_its_creator_raises(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(JournalError, match="locked by another process"):
            await SqliteJournal(path, patience=0.05).prepare(intent_of())
    finally:
        other.close()


# --- shielded ------------------------------------------------------------------------------------------------------


async def test_shielded_delays_a_cancellation_until_the_end() -> None:
    steps: list[str] = []
    started, resume = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await resume.wait()
        steps.append("done")

    task = asyncio.create_task(shielded(work()))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    resume.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["done"]


async def test_shielded_delays_repeated_cancellations() -> None:
    resume = asyncio.Event()
    task = asyncio.create_task(shielded(resume.wait()))
    for _ in range(5):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    resume.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_shielded_ends_if_the_work_is_cancelled() -> None:
    work = asyncio.create_task(asyncio.sleep(60))
    task = asyncio.create_task(shielded(work))
    await asyncio.sleep(0)
    task.cancel()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_shielded_delays_a_cancel_scope_and_retrieves_errors() -> None:
    steps: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        steps.append("done")
        raise JournalError("raised after the cancellation")

    with anyio.CancelScope() as scope:
        scope.cancel()
        await shielded(work())
    assert scope.cancelled_caught
    assert steps == ["done"]


async def test_shielded_returns_and_raises_like_the_work() -> None:
    async def fail() -> None:
        raise JournalError("no")

    assert await shielded(asyncio.sleep(0, "yes")) == "yes"
    with pytest.raises(JournalError):
        await shielded(fail())
