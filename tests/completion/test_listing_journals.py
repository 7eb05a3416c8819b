"""`list_intents` of all journals: every intent once, oldest first, and nothing is created."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.audit import FindingKind, audit
from minted_connect.errors import JournalError
from minted_connect.journal import listing, open_journal
from minted_connect.journal.listing import ListingJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import intent_of
from tests.support.operations import GOLD
from tests.support.postgres import Database

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> ListingJournal:
    if request.param == "memory":
        opened: Journal = MemoryJournal()
    elif request.param == "sqlite":
        opened = open_journal(tmp_path / "journal.db")
    else:
        opened = open_journal(request.getfixturevalue("database").url)
    return listing.as_listing(opened)


async def list_all(journal: ListingJournal) -> list[Intent]:
    return [intent for page in [page async for page in journal.list_intents()] for intent in page.intents]


async def test_all_states_are_listed_once(journal: ListingJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minted_connect.journal.sql.PAGE_SIZE", 2)
    names = [str(number) for number in range(5)]
    for name in names:
        await journal.prepare(intent_of(id=name, cart_token=name))
    states = [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED, IntentState.REJECTED]
    for name, state in zip(names[1:], [*states[1:], IntentState.NOT_SENT], strict=True):
        await journal.settle(name, state)
    listed = await list_all(journal)
    assert sorted(intent.id for intent in listed) == names
    assert listed == [await journal.get(intent.id) for intent in listed]
    assert [intent.state for intent in listed if intent.id == "2"] == [IntentState.CONFIRMED]
    await journal.aclose()


async def test_database_pages_are_oldest_first(database: Database, tmp_path: Path) -> None:
    for location in (tmp_path / "journal.db", database.url):
        journal = listing.as_listing(open_journal(location))
        for name in ("c", "a", "b"):
            await journal.prepare(intent_of(id=name, cart_token=name))
        assert [intent.id for intent in await list_all(journal)] == ["c", "a", "b"]
        await journal.aclose()


async def test_unreadable_record_is_named_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = listing.as_listing(open_journal(path))
    for name in ("a", "b"):
        await journal.prepare(intent_of(id=name, cart_token=name))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE intents SET paid_total = '?' WHERE id = 'a'")
    database.close()
    [page] = [page async for page in journal.list_intents()]
    assert ([intent.id for intent in page.intents], page.unreadable) == (["b"], ("a",))
    await journal.aclose()


async def test_listing_an_absent_file_creates_nothing(tmp_path: Path) -> None:
    journal = listing.as_listing(open_journal(tmp_path / "journal.db"))
    assert await list_all(journal) == []
    assert [*tmp_path.iterdir()] == []
    await journal.aclose()


async def test_listing_an_empty_database_creates_nothing(database: Database) -> None:
    journal = listing.as_listing(open_journal(database.url))
    with pytest.raises(JournalError, match="no tables"):
        await list_all(journal)
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


async def test_listing_an_older_schema_does_not_upgrade_it(database: Database) -> None:
    journal = listing.as_listing(open_journal(database.url))
    await journal.prepare(intent_of())
    database.execute("UPDATE minted_connect_journal SET version = 1")
    with pytest.raises(JournalError, match="schema 1 is older"):
        await list_all(journal)
    assert database.execute("SELECT version FROM minted_connect_journal") == [(1,)]


async def test_role_that_can_only_read_lists_intents(database: Database) -> None:
    await listing.as_listing(open_journal(database.url)).prepare(intent_of())
    database.execute("CREATE ROLE auditor LOGIN PASSWORD 'secret'")
    try:
        database.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
        url = f"postgresql://auditor:secret@127.0.0.1:{database.port}/{database.name}"
        assert len(await list_all(listing.as_listing(open_journal(url)))) == 1
    finally:
        database.execute("DROP OWNED BY auditor")
        database.execute("DROP ROLE auditor")


@pytest.mark.requirement(54)
async def test_audit_reads_both_databases(database: Database, tmp_path: Path) -> None:
    journals = (tmp_path / "journal.db", database.url)
    async with Sandbox(seed=1) as server:
        settings: dict[str, Any] = {"base_url": server.url, "username": server.username, "password": server.password}
        for number, journal in enumerate(journals):
            async with AsyncMintedConnect(**settings, journal=journal) as minted:
                await minted.customers.create(f"customer-{number}")
                basket = await minted.baskets.add_item(f"customer-{number}", sku=GOLD)
                await minted.complete.buy(basket, expected_total=basket.paid_total, reference="plan/1")
        today = datetime.now(UTC).date()
        report = await audit(settings, start=today - timedelta(days=1), end=today, journals=journals)
        assert ([one.kind for one in report.findings], report.unread) == ([FindingKind.REFERENCE_REPEATED], ())
        assert (report.orders, report.matched) == (2, 2)
        database.execute("DROP TABLE minted_connect_intents, minted_connect_claims, minted_connect_journal")
        report = await audit(settings, start=today - timedelta(days=1), end=today, journals=journals)
        assert report.exit_code == 4
        assert all("secret" not in text for text in report.journals)
