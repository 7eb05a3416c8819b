"""Journals that are deleted, emptied, replaced or overwritten while in use, and unreadable records."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.errors import AlreadyInFlight, InvalidInput, JournalError
from minted_connect.journal import open_journal
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState, Refusal
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import FakeApiClient, completions_of, intent_of
from tests.completion.processes import start_child
from tests.support.operations import GOLD
from tests.support.postgres import Database

pytestmark = pytest.mark.anyio

BUY = "*/complete/buy"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def rename_over(path: Path) -> None:
    other = path.with_name("other.db")
    asyncio.run(SqliteJournal(other).prepare(intent_of(id="elsewhere")))
    other.replace(path)


def create_again(path: Path) -> None:
    """Create the journal again as another process would; the new file may get the inode of the old one."""
    remove(path)
    asyncio.run(SqliteJournal(path).prepare(intent_of(id="elsewhere")))


def overwrite(path: Path) -> None:
    path.write_bytes(b"no journal at all" * 1000)


def replace_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()


def remove_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_directory_with_file(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")


def drop_tables(path: Path) -> None:
    execute(path, "DROP TABLE intents")


DAMAGES = [
    remove,
    truncate,
    rename_over,
    create_again,
    overwrite,
    replace_directory,
    remove_directory,
    replace_directory_with_file,
    drop_tables,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "journal.db"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("first_use", ["written", "listed"])
@pytest.mark.requirement(49)
async def test_prepare_with_a_lost_journal_raises_journal_error(
    path: Path, damage: Callable[[Path], None], first_use: str
) -> None:
    await SqliteJournal(path).prepare(intent_of())
    journal = SqliteJournal(path)
    if first_use == "written":
        await journal.prepare(intent_of(id="second", cart_token="second"))
    else:
        assert len(await journal.pending()) == 1
    await asyncio.to_thread(damage, path)
    existed = path.exists()
    for _ in range(2):
        with pytest.raises(JournalError, match=r"Nothing is sent with it any more.*build a new client") as caught:
            await journal.prepare(intent_of(id="third", cart_token="third"))
        assert str(path) in str(caught.value)
        assert (caught.value.is_lost, caught.value.safe_to_retry) == (True, False)
    assert path.exists() == existed  # the file is not created again
    with pytest.raises(JournalError):
        await journal.pending()
    with pytest.raises(JournalError):
        await journal.awaiting_completion()


async def test_older_copy_in_the_same_file_is_detected(path: Path) -> None:
    journal = SqliteJournal(path)
    await journal.prepare(intent_of())
    copy = path.read_bytes()
    await journal.prepare(intent_of(id="second", cart_token="second"))
    path.write_bytes(copy)  # like `cp`: same inode, same identity
    with pytest.raises(JournalError, match="no longer contains intent second, which was written here"):
        await journal.prepare(intent_of(id="third", cart_token="third"))


async def test_removed_log_is_detected(path: Path) -> None:
    journal = SqliteJournal(path)
    await journal.prepare(intent_of())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:  # prevents SQLite from truncating the log
        other.execute("SELECT * FROM intents").fetchall()
        await journal.prepare(intent_of(id="second", cart_token="second"))
        main = path.read_bytes()
    remove(path)
    path.write_bytes(main)
    with pytest.raises(JournalError, match="Nothing is sent"):
        await journal.prepare(intent_of(id="third", cart_token="third"))


async def test_emptied_file_with_a_log_is_not_changed(path: Path) -> None:
    process = start_child("await journal.prepare(intent_of()); os.kill(os.getpid(), signal.SIGKILL)", path)
    process.communicate(timeout=30)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("SELECT * FROM intents").fetchall()
        await SqliteJournal(path).prepare(intent_of(id="second", cart_token="second"))
        log = Path(f"{path}-wal").read_bytes()
        assert log
    os.truncate(path, 0)
    Path(f"{path}-wal").write_bytes(log)
    for call in (SqliteJournal(path).pending, lambda: SqliteJournal(path).prepare(intent_of(id="third"))):
        with pytest.raises(JournalError, match=r"is empty, but .*-wal still contains records"):
            await call()
    assert Path(f"{path}-wal").read_bytes() == log


# --- during a purchase ---------------------------------------------------------------------------------------------


def delete_rows(path: Path) -> None:
    execute(path, "DELETE FROM intents")


@pytest.mark.parametrize("damage", [*DAMAGES, delete_rows])
async def test_purchase_with_a_lost_record_returns_and_logs(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Sandbox() as sandbox,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=path) as minted,
    ):
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = sandbox.faults.add("hang", path=BUY)
        buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
        while not fault.waiting:
            await asyncio.sleep(0.01)
        [open_one] = await SqliteJournal(path).pending()
        await asyncio.to_thread(damage, path)
        fault.remove()
        done = await buying  # the outcome still reaches the caller
        assert done.order is not None
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert [text for text in errors if open_one.id in text and str(path) in text and "record is lost" in text]
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        with pytest.raises(JournalError, match="build a new client"):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert len(sandbox.shop.orders) == 1
        assert len(sandbox.requests.of("complete.buy")) == 1


@pytest.fixture
def delete_row(journal_location: str, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that deletes the record of an intent."""

    def delete(intent_id: str) -> None:
        if journal_location.startswith("postgresql"):
            database: Database = request.getfixturevalue("database")
            database.execute("DELETE FROM minted_connect_intents WHERE id = %s", intent_id)
        else:
            execute(Path(journal_location), f"DELETE FROM intents WHERE id = '{intent_id}'")

    return delete


@pytest.mark.parametrize("call", ["settle", "record_refusal"])
@pytest.mark.requirement(49)
async def test_outcome_of_a_deleted_row_is_logged_and_stops_sending(
    journal_location: str, delete_row: Callable[[str], None], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal, intent = open_journal(journal_location), intent_of()
    await journal.prepare(intent)
    await asyncio.to_thread(delete_row, intent.id)
    if call == "settle":
        await journal.settle(intent.id, IntentState.CONFIRMED, order_id=1)
    else:
        await journal.record_refusal(intent.id, Refusal(403, False, intent.created_at))
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert intent.id in record.getMessage()
    assert "canary" not in record.getMessage()
    with pytest.raises(JournalError, match="build a new client") as caught:
        await journal.prepare(intent_of(id="second", cart_token="second"))
    assert (caught.value.is_lost, caught.value.safe_to_retry) == (True, False)
    await open_journal(journal_location).prepare(intent_of(id="second", cart_token="second"))  # a new client


async def test_fence_of_a_deleted_row_raises_journal_error(
    journal_location: str, delete_row: Callable[[str], None]
) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_of())
    await asyncio.to_thread(delete_row, intent_of().id)
    with pytest.raises(JournalError) as caught:
        await journal.fence(intent_of().id, intent_of().created_at)
    assert not caught.value.safe_to_retry


async def test_row_deleted_after_its_outcome_is_detected(
    journal_location: str, delete_row: Callable[[str], None]
) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.CONFIRMED)
    await asyncio.to_thread(delete_row, intent_of().id)
    with pytest.raises(JournalError, match="no longer contains intent"):
        await journal.prepare(intent_of(id="second", cart_token="second"))


async def test_intent_settled_by_another_process_is_not_lost(
    journal_location: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_of())
    await open_journal(journal_location).settle(intent_of().id, IntentState.NOT_EXECUTED)
    await journal.settle(intent_of().id, IntentState.REJECTED)
    await journal.settle("another journal's", IntentState.REJECTED)
    await journal.prepare(intent_of(id="second"))
    assert caplog.records == []


@pytest.mark.parametrize("statement", ["DROP TABLE {}intents", "DROP TABLE {}intents, {}journal, {}claims"])
async def test_dropped_tables_are_not_created_again(database: Database, statement: str) -> None:
    journal = open_journal(database.url)
    await journal.prepare(intent_of())
    database.execute(statement.format(*["minted_connect_"] * 3))
    await journal.settle(intent_of().id, IntentState.CONFIRMED)  # logged; the outcome reaches the caller
    for call in (journal.pending, lambda: journal.prepare(intent_of(id="second"))):
        with pytest.raises(JournalError, match="has lost its tables"):
            await call()
    assert database.execute("SELECT 1 FROM pg_class WHERE relname = 'minted_connect_intents'") == []


async def test_tables_created_by_another_client_count_as_replaced(database: Database) -> None:
    journal = open_journal(database.url)
    assert await journal.pending() == []
    database.execute("DROP TABLE minted_connect_intents, minted_connect_journal, minted_connect_claims")
    await open_journal(database.url).prepare(intent_of())
    with pytest.raises(JournalError, match="was replaced"):
        await journal.prepare(intent_of(id="second", cart_token="second"))


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [0, 4096, 20000])
async def test_full_disk_loses_no_stored_intent(path: Path, limit_file_size: Callable[[int], None], size: int) -> None:
    journal = SqliteJournal(path)
    await journal.prepare(intent_of())
    limit_file_size(size)
    stored = [intent_of().id]
    with pytest.raises(JournalError):
        for number in range(100):
            await journal.prepare(intent_of(id=str(number), cart_token=str(number)))
            stored.append(str(number))
    limit_file_size(resource.RLIM_INFINITY)
    await journal.prepare(intent_of(id="after", cart_token="after"))
    assert [intent.id for intent in await journal.pending()] == [*stored, "after"]


# --- unreadable records --------------------------------------------------------------------------------------------


INVALID = [
    "items = '{'",
    "items = 'null'",
    "paid_total = 'a lot'",
    "paid_total = 'NaN'",
    "kind = 'gift'",
    "created_at = 'yesterday'",
    "created_at = '2026-02-20T12:28:30'",
    "known_orders = '[\"x\"]'",
    "refusal = '[]'",
    "send_before = 'never'",
]
INVALID_IN_SQLITE = ["created_at = x'00ff'", "state = x'00'", "guid = CAST(x'ff' AS TEXT)", "basket_id = 'x'"]


async def corrupt(journal_location: str, assignment: str, request: pytest.FixtureRequest) -> None:
    where = f"SET {assignment} WHERE id = 'bad'"
    if journal_location.startswith("postgresql"):
        database: Database = request.getfixturevalue("database")
        await asyncio.to_thread(database.execute, f"UPDATE minted_connect_intents {where}")
    else:
        execute(Path(journal_location), f"UPDATE intents {where}")


@pytest.mark.parametrize("assignment", INVALID + INVALID_IN_SQLITE)
@pytest.mark.requirement(49)
async def test_invalid_record_does_not_hide_other_records(
    journal_location: str, assignment: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    if journal_location.startswith("postgresql") and assignment in INVALID_IN_SQLITE:
        pytest.skip("the types of PostgreSQL forbid it")
    journal: Any = open_journal(journal_location)
    for name in ("first", "bad", "last"):
        await journal.prepare(intent_of(id=name, cart_token=name))
    await corrupt(journal_location, assignment, request)
    assert [intent.id for intent in await journal.pending()] == ["first", "last"]
    assert journal.unreadable == ("bad",)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "cannot be read, and may be open purchases: intents bad" in record.getMessage()
    with pytest.raises(JournalError, match="cannot be read: intent bad"):
        await journal.prepare(intent_of(id="again", cart_token="bad"))
    with pytest.raises(JournalError, match="cannot be read: intent bad"):
        await journal.find_active(intent_of().external_customer_id, "bad")
    with pytest.raises(JournalError, match="cannot be read: intent bad"):
        await journal.get("bad")
    await journal.prepare(intent_of(id="other", cart_token="other"))
    await journal.settle("bad", IntentState.REJECTED)  # settled manually
    assert len(await journal.pending()) == 3
    assert journal.unreadable == ()


async def test_invalid_confirmed_record_does_not_hide_others(
    journal_location: str, request: pytest.FixtureRequest
) -> None:
    journal: Any = open_journal(journal_location)
    for name in ("first", "bad"):
        await journal.prepare(intent_of(id=name, cart_token=name))
        await journal.settle(name, IntentState.CONFIRMED)
    await corrupt(journal_location, "items = '{'", request)
    assert [intent.id for intent in await journal.awaiting_completion()] == ["first"]
    assert journal.unreadable == ("bad",)
    assert await journal.pending() == []


async def test_unknown_state_counts_as_open(journal_location: str, request: pytest.FixtureRequest) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_of(id="bad"))
    await corrupt(journal_location, "state = 'held'", request)
    assert [intent.state for intent in await journal.pending()] == ["held"]
    with pytest.raises(AlreadyInFlight, match="bad"):
        await journal.prepare(intent_of(id="again"))
    await journal.settle("bad", IntentState.NOT_EXECUTED)
    assert await journal.pending() == []


async def test_decide_about_an_invalid_record_names_it(journal_location: str, request: pytest.FixtureRequest) -> None:
    journal = open_journal(journal_location)
    await journal.prepare(intent_of(id="bad"))
    await corrupt(journal_location, "items = '{'", request)
    with pytest.raises(JournalError, match="intent bad"):
        await completions_of(FakeApiClient(), journal).decide(intent_of(id="bad"), "rejected")
    with pytest.raises(InvalidInput):
        await completions_of(FakeApiClient(), journal).decide(intent_of(id="another"), "rejected")
