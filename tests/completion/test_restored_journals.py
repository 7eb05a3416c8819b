"""Backups of journals, and what a journal refuses until the orders since its backup were taken over."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy, Options, SpendingLimit
from minted_connect.clock import SYSTEM_CLOCK
from minted_connect.completion.lease import RESERVED, Lease
from minted_connect.errors import (
    AlreadyInFlight,
    ConfigurationError,
    InvalidInput,
    JournalError,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal, sqlite_schema
from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.journal.restoring import RestorableJournal, as_restorable
from minted_connect.journal.spending import SpendingCheck
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from tests.completion.fakes import intent_of
from tests.completion.processes import start_child
from tests.completion.shops import CUSTOMER, REFERENCE, Shop
from tests.completion.test_claim_journals import claim_of
from tests.completion.test_intent_lists import one
from tests.support.operations import GOLD
from tests.support.postgres import Cluster, Database

pytestmark = pytest.mark.anyio

MINE = JournalAccount("server", "mine")
KEY = ReferenceKey("r-1", MINE, "mine")
AT = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
REFUSED = r"was restored from a backup of .* UTC.*nothing was sent.*minted audit --import"


@pytest.fixture
async def journal(journal_location: str) -> Any:
    journal = open_journal(journal_location)
    yield journal
    await journal.aclose()


@pytest.fixture
def durable_shop(connect: Any, sandbox: Any, clock: Any, journal_location: str) -> Shop:
    """A shop with a journal in a file or a database."""
    return Shop(connect, sandbox, clock, journal_location)


async def mark(location: str, at: datetime = AT) -> None:
    journal = open_journal(location)
    await as_restorable("mark", journal).mark_restored(at)
    await journal.aclose()


# --- the mark ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_marked_journal_refuses_what_needs_all_purchases(journal):
    assert await journal.restored_from() is None
    assert await journal.mark_restored(AT) == AT
    assert await journal.restored_from() == AT
    limit = SpendingCheck(SpendingLimit(currency="AED", per_day=Decimal(10**6)), "mine", "mine")
    with pytest.raises(JournalError, match=REFUSED):
        await journal.prepare(one("reference", reference="r-1"), key=KEY)
    with pytest.raises(JournalError, match=REFUSED):
        await journal.claim(claim_of(key=KEY), known=())
    with pytest.raises(JournalError, match=REFUSED):
        await journal.prepare(one("spending"), spending=limit)
    assert await journal.find_claim(KEY) is None
    assert await journal.pending() == []
    await journal.prepare(one("plain"))
    await journal.settle("plain", IntentState.CONFIRMED, order_id=7)
    [found] = await journal.find_intents(IntentFilter(), limit=5)
    assert (found.id, found.order_id) == ("plain", 7)


async def test_reconciler_gets_its_lease_from_a_marked_journal(journal):
    await journal.mark_restored(AT)
    lease = Lease(journal, ReferenceKey(RESERVED, MINE, "mine"), 30.0, SYSTEM_CLOCK.wall)
    assert await lease.acquire() == 0.0
    await lease.renew()
    await lease.release()


async def test_claim_from_before_the_mark_completes_nothing(journal):
    claim = await journal.claim(claim_of(key=KEY), known=())
    await journal.mark_restored(AT)
    with pytest.raises(JournalError, match=REFUSED):
        await journal.prepare(one("reference", reference="r-1", terms="{}"), key=KEY, claim=claim)
    await journal.release_claim(claim, grace=0)


async def test_earlier_mark_stays(journal):
    await journal.mark_restored(AT)
    assert await journal.mark_restored(AT + timedelta(days=1)) == AT
    assert await journal.mark_restored(AT - timedelta(microseconds=1)) == AT - timedelta(microseconds=1)


@pytest.mark.parametrize("at", [datetime(2026, 11, 1), datetime(2999, 1, 1, tzinfo=UTC), "2026-11-01"])
async def test_mark_must_be_a_time_in_the_past(journal, at):
    with pytest.raises(InvalidInput):
        await journal.mark_restored(at)
    assert await journal.restored_from() is None


async def test_clients_of_a_journal_notice_its_mark(journal, journal_location):
    other = open_journal(journal_location)
    await other.prepare(intent_of())
    await journal.mark_restored(AT)
    with pytest.raises(JournalError, match="was replaced by another one while in use") as caught:
        await other.prepare(intent_of(id="second", cart_token="second"))
    assert caught.value.is_lost
    await journal.prepare(intent_of(id="second", cart_token="second"))
    await other.aclose()


async def test_mark_that_cannot_be_read_refuses(journal, journal_location, request):
    await journal.mark_restored(AT)
    statement = "UPDATE {} SET restored_from = 'yesterday'"
    if "://" in journal_location:
        request.getfixturevalue("database").execute(statement.format("minted_connect_journal"))
    else:
        with closing(sqlite3.connect(journal_location)) as database, database:
            database.execute(statement.format("journal"))
    with pytest.raises(JournalError, match=r"has a mark \(restored_from\) that cannot be read"):
        await journal.prepare(one("reference", reference="r-1"), key=KEY)


@pytest.mark.parametrize("version", range(1, sqlite_schema.VERSION))
async def test_file_of_an_older_schema_has_no_mark(tmp_path, version):
    with closing(sqlite3.connect(tmp_path / "j.db")) as file, file:
        for statement in ";".join(sqlite_schema.STEPS[:version]).split(";"):
            file.execute(statement)
        file.execute(f"PRAGMA user_version = {version}")
    journal = SqliteJournal(tmp_path / "j.db")
    assert await journal.restored_from() is None
    await journal.backup(tmp_path / "backup.db")
    assert await journal.restored_from() is None
    assert await SqliteJournal(tmp_path / "backup.db").restored_from() is not None


def test_journal_without_marks_is_named():
    with pytest.raises(
        ConfigurationError, match="MemoryJournal lacks assign_reference, end_import, import_orders, mark_"
    ):
        as_restorable("import", MemoryJournal())


# --- both clients --------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_client_of_a_marked_journal_sends_no_reference(durable_shop: Shop):
    shop = durable_shop
    before = await shop.buy(await shop.client())
    await mark(shop.location)
    client, sent = await shop.client(), shop.sent()
    with pytest.raises(JournalError, match=REFUSED):
        await shop.buy(client, "another")
    items = {"items": {GOLD: 1}, "max_total": Decimal(10**6), "currency": "AED"}
    basket = await shop.fill(client, qty=2)
    with pytest.raises(JournalError, match=REFUSED):
        await client.complete.buy_items(CUSTOMER, reference="items", replace=True, **items)
    assert (await client.baskets.get_active(CUSTOMER)).items == basket.items
    limit = Options(clock=shop.clock, spending=SpendingLimit(currency="AED", per_day=Decimal(10**6)))
    capped = await shop.client(options=limit)
    with pytest.raises(JournalError, match=REFUSED):
        await capped.complete.buy(basket, expected_total=basket.paid_total)
    assert shop.sent() == sent
    assert len(shop.sandbox.shop.orders) == 1
    for again in (await shop.buy(client), await client.complete.buy_items(CUSTOMER, reference=REFERENCE, **items)):
        assert (again.replayed, again.order_id) == (True, before.order_id)
    basket = await shop.fill(client, qty=2)
    plain = await client.complete.buy(basket, expected_total=basket.paid_total)
    assert plain.order_id != before.order_id
    assert len(shop.sandbox.shop.orders) == 2


async def test_client_of_a_marked_journal_settles_open_intents(durable_shop: Shop):
    shop = durable_shop
    shop.sandbox.faults.add("drop_after_commit", path="*/complete/*")
    client = await shop.client()
    with pytest.raises(OutcomeUnknown):
        await shop.buy(client)
    await mark(shop.location)
    client = await shop.client(CompletionPolicy(orders_lag=1.0))
    with pytest.raises(OutcomeUnknown):
        await shop.buy(client)
    [intent] = await client.complete.pending()
    assert (await client.complete.reconcile(intent)).order_id is not None
    assert (await shop.buy(client)).replayed


# --- backups -------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_backup_is_a_private_marked_copy(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(one("first", reference="r-1"), key=KEY)
    started = SYSTEM_CLOCK.wall()
    at = await journal.backup(tmp_path / "backup.db")
    assert started <= at <= SYSTEM_CLOCK.wall()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("j.db")) == ["backup.db"]
    assert stat.S_IMODE((tmp_path / "backup.db").stat().st_mode) == 0o600
    copy = SqliteJournal(tmp_path / "backup.db")
    assert await copy.restored_from() == at
    assert await copy.pending() == await journal.pending()
    assert await journal.restored_from() is None
    await journal.prepare(one("second", reference="r-2"), key=attrs.evolve(KEY, reference="r-2"))
    with pytest.raises(JournalError, match=REFUSED):
        await copy.prepare(one("second", reference="r-2"), key=attrs.evolve(KEY, reference="r-2"))
    with pytest.raises(AlreadyInFlight, match="basket"):
        await copy.prepare(one("third", cart_token="first"))


async def test_backup_of_a_marked_journal_keeps_the_earlier_time(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.mark_restored(AT)
    await journal.backup(tmp_path / "backup.db")
    assert await SqliteJournal(tmp_path / "backup.db").restored_from() == AT


async def test_client_notices_a_backup_in_place_of_its_journal(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(intent_of())
    await journal.backup(tmp_path / "backup.db")
    content = (tmp_path / "backup.db").read_bytes()
    for name in ("j.db-wal", "j.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "j.db").write_bytes(content)  # the same inode
    with pytest.raises(JournalError, match="was replaced by another one while in use"):
        await journal.prepare(intent_of(id="second", cart_token="second"))


@pytest.mark.parametrize("name", ["exists.db", "link.db", "j.db"])
async def test_backup_overwrites_nothing(tmp_path, name):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(intent_of())
    (tmp_path / "exists.db").write_text("precious")
    (tmp_path / "link.db").symlink_to("nowhere")
    before = (tmp_path / name).read_bytes() if name != "link.db" else b""
    with pytest.raises(ConfigurationError, match=r"exists already: a backup overwrites nothing"):
        await journal.backup(tmp_path / name)
    assert name == "link.db" or (tmp_path / name).read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ConfigurationError, match=r"directory .* does not exist"):
        await journal.backup(tmp_path / "nowhere" / "backup.db")


async def test_backup_of_a_missing_journal_creates_nothing(tmp_path):
    with pytest.raises(JournalError, match="does not exist, or is empty"):
        await SqliteJournal(tmp_path / "j.db").backup(tmp_path / "backup.db")
    assert list(tmp_path.iterdir()) == []


async def test_backup_of_a_damaged_journal_writes_nothing(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    for number in range(40):
        await journal.prepare(one(f"{number}", external_customer_id="x" * 500))
    with closing(sqlite3.connect(tmp_path / "j.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (tmp_path / "j.db").open("r+b") as file:
        file.seek(8192)
        file.write(os.urandom(4096 * 3))
    with pytest.raises(JournalError, match=r"damaged|not a journal"):
        await SqliteJournal(tmp_path / "j.db").backup(tmp_path / "backup.db")
    assert not (tmp_path / "backup.db").exists()
    assert not list(tmp_path.glob(".minted-*"))


async def test_backup_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(intent_of())

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(JournalError, match=r"backup\.db of the journal was not written: No space left on device"):
        await journal.backup(tmp_path / "backup.db")
    monkeypatch.undo()
    assert not list(tmp_path.glob("*backup*"))
    assert not list(tmp_path.glob(".minted-*"))
    await journal.prepare(intent_of(id="second", cart_token="second"))


WRITER = """
    for number in range(2000):
        await journal.prepare(intent_of(id=f"{sys.argv[2]}-{number}", cart_token=f"{sys.argv[2]}-{number}"))
        print(number, flush=True)
"""


async def test_backups_while_processes_write_are_complete(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(intent_of(id="0", cart_token="0"))
    writers = [start_child(WRITER.strip(), tmp_path / "j.db", name) for name in "ab"]
    try:
        counts = []
        for number in range(6):
            for writer in writers:
                assert writer.stdout is not None
                for _ in range(3):
                    await asyncio.to_thread(writer.stdout.readline)
            await journal.backup(tmp_path / f"{number}.db")
            copy = SqliteJournal(tmp_path / f"{number}.db")
            ids = [intent.id for intent in await copy.pending()]
            for name in "ab":
                mine = [intent_id for intent_id in ids if intent_id.startswith(name)]
                assert mine == [f"{name}-{index}" for index in range(len(mine))]
                assert len(mine) >= 3 * (number + 1)
            counts.append(len(ids))
            await copy.aclose()
        assert counts == sorted({*counts})
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    await journal.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
async def test_killed_backup_leaves_no_file_with_its_name(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.prepare(intent_of())
    body = """
    import minted_connect.journal.sqlite_backup as module
    import os, signal
    module._move = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    await journal.backup(sys.argv[2])
    """
    child = start_child(body.strip(), tmp_path / "j.db", tmp_path / "backup.db")
    await asyncio.to_thread(child.communicate)
    assert child.returncode == -9
    assert not (tmp_path / "backup.db").exists()
    await journal.backup(tmp_path / "backup.db")
    assert len(await SqliteJournal(tmp_path / "backup.db").pending()) == 1


async def test_dump_of_a_database_is_restored_and_marked(cluster: Cluster, database: Database, tmp_path: Path):
    journal = open_journal(database.url)
    await journal.prepare(one("first", reference="r-1"), key=KEY)
    await journal.settle("first", IntentState.CONFIRMED, order_id=7)
    run = partial(subprocess.run, check=True, timeout=30)
    dump = [cluster.binaries / "pg_dump", "--format=custom", "--table=minted_connect_*", f"--file={tmp_path / 'j'}"]
    run([*dump, database.url])
    at = SYSTEM_CLOCK.wall()
    await journal.prepare(one("second", reference="r-2"), key=attrs.evolve(KEY, reference="r-2"))
    tables = ", ".join(f"minted_connect_{name}" for name in ("intents", "claims", "journal"))
    database.execute(f"DROP TABLE {tables}")
    run([cluster.binaries / "pg_restore", "--no-owner", f"--dbname={database.url}", tmp_path / "j"])
    with pytest.raises(JournalError, match="no longer contains intent second"):
        await journal.prepare(one("third"))
    restored = open_journal(database.url)
    await as_restorable("test", restored).mark_restored(at)
    with pytest.raises(JournalError, match=REFUSED):
        await restored.prepare(one("second", reference="r-2"), key=attrs.evolve(KEY, reference="r-2"))
    assert [found.id for found in await restored.find_by_reference(KEY)] == ["first"]
    await restored.prepare(one("third"))
    page = await restored.find_intents(IntentFilter(), limit=5)
    assert [intent.id for intent in page] == ["first", "third"]


def test_restorable_journals(tmp_path: Path, database: Database):
    assert isinstance(SqliteJournal(tmp_path / "j.db"), RestorableJournal)
    assert isinstance(open_journal(database.url), RestorableJournal)
