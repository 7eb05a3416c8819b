"""A journal in a database that is opened with `read_only`: nothing is created, upgraded or stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.audit import FindingKind, audit
from minted_connect.errors import JournalError
from minted_connect.journal import open_journal
from minted_connect.journal.listing import IntentFilter, as_listable
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import intent_of
from tests.support.operations import GOLD
from tests.support.postgres import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stored(database: Database) -> Database:
    """A database with a journal of one intent."""
    await open_journal(database.url).prepare(intent_of())
    return database


async def count_intents(url: str) -> int:
    journal = as_listable("audit", open_journal(url, read_only=True))
    return len(await journal.find_intents(IntentFilter(), limit=10))


async def test_empty_database_stays_empty(database: Database) -> None:
    with pytest.raises(JournalError, match="no tables"):
        await count_intents(database.url)
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


async def test_older_schema_is_not_upgraded(stored: Database) -> None:
    stored.execute("UPDATE minted_connect_journal SET version = 1")
    with pytest.raises(JournalError, match="schema 1 is older"):
        await count_intents(stored.url)
    assert stored.execute("SELECT version FROM minted_connect_journal") == [(1,)]


async def test_nothing_can_be_stored(stored: Database) -> None:
    journal = open_journal(stored.url, read_only=True)
    with pytest.raises(JournalError):
        await journal.prepare(intent_of(id="other", cart_token="other"))
    assert await count_intents(stored.url) == 1


async def test_role_that_can_only_read_lists_intents(stored: Database) -> None:
    stored.execute("CREATE ROLE auditor LOGIN PASSWORD 'secret'")
    try:
        stored.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO auditor")
        assert await count_intents(f"postgresql://auditor:secret@127.0.0.1:{stored.port}/{stored.name}") == 1
    finally:
        stored.execute("DROP OWNED BY auditor")
        stored.execute("DROP ROLE auditor")


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
