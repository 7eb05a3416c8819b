"""Journals list their intents in pages, oldest first, and forget settled ones."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect.errors import AlreadyInFlight
from minted_connect.journal import open_journal, sqlite_schema
from minted_connect.journal.listing import IntentFilter, ListableJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import CLOSED, JournalAccount, ReferenceKey
from minted_connect.journal.rows import COLUMNS, to_row
from minted_connect.journal.sql import SqlJournal
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent, IntentState, OrderProgress, OrderStatus, Refusal
from tests.completion.fakes import TOTAL, intent_of
from tests.completion.test_claim_journals import claim_of
from tests.support.postgres import BUYER, Database

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINE = JournalAccount("server", "mine")
PROGRESS = OrderProgress(OrderStatus.PENDING, False, None, None)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> ListableJournal:
    if request.param == "memory":
        return MemoryJournal()
    opened = open_journal(tmp_path / "j.db" if request.param == "sqlite" else request.getfixturevalue("database").url)
    assert isinstance(opened, ListableJournal)
    return opened


def one(intent_id: str, **changes: Any) -> Intent:
    """Return an intent of this account with a basket of its own; it has terms if it has a reference."""
    terms = "{}" if changes.get("reference") else None
    values = {"server": MINE.server, "account": MINE.account, "cart_token": intent_id, "terms": terms, **changes}
    return intent_of(id=intent_id, **{"state": IntentState.PREPARED, "created_at": NOON, **values})


def key(reference: str) -> ReferenceKey:
    return ReferenceKey(reference, MINE, MINE.account)


async def store(journal: Any, intent: Intent, state: IntentState | None = None) -> None:
    await journal.prepare(intent)
    if state is not None:
        await journal.settle(intent.id, state, order_id=7 if state is IntentState.CONFIRMED else None)


async def list_all(journal: Any, filters: IntentFilter = IntentFilter(), limit: int = 100) -> list[Intent]:  # noqa: B008
    found: list[Intent] = []
    after: int | None = 0
    while after is not None:
        page = await journal.find_intents(filters, after=after, limit=limit)
        assert page.unreadable == ()
        assert len(page) <= limit
        assert len(page) == limit or page.next_after is None
        found += page
        after = page.next_after
    return found


async def test_find_intents_in_empty_journal_returns_one_page(journal):
    page = await journal.find_intents(IntentFilter(), limit=5)
    assert (page.items, page.unreadable, page.next_after) == ((), (), None)


async def test_find_intents_of_missing_database_creates_no_table(database: Database):
    journal = open_journal(database.url)
    page = await journal.find_intents(IntentFilter(), limit=5)
    assert (page.items, page.next_after) == ((), None)
    assert database.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'minted_connect%'") == [(0,)]
    await journal.prepare(one("first"))
    assert await list_all(journal) == [one("first")]


async def test_find_intents_of_missing_file_creates_no_file(tmp_path):
    assert await list_all(SqliteJournal(tmp_path / "j.db")) == []
    assert not (tmp_path / "j.db").exists()


@pytest.mark.parametrize("version", range(1, sqlite_schema.VERSION))
async def test_find_intents_reads_files_of_older_schemas(tmp_path, version):
    with closing(sqlite3.connect(tmp_path / "j.db")) as file, file:
        for statement in ";".join(sqlite_schema.STEPS[:version]).split(";"):
            file.execute(statement)
        known = {name for _, name, *_ in file.execute("PRAGMA table_info(intents)")}
        intent = one("first", account=None, server=None)
        values = {name: value for name, value in zip(COLUMNS, to_row(intent), strict=True) if name in known}
        file.execute(f"INSERT INTO intents ({', '.join(values)}) VALUES (:{', :'.join(values)})", values)
        file.execute(f"PRAGMA user_version = {version}")
    before = (tmp_path / "j.db").read_bytes()
    journal = SqliteJournal(tmp_path / "j.db")
    assert await list_all(journal, IntentFilter(account="mine")) == [intent]
    assert (tmp_path / "j.db").read_bytes() == before
    assert await forget(journal) == 0
    await journal.settle("first", IntentState.REJECTED)
    assert await forget(journal) == 1


async def test_page_with_as_many_rows_as_the_limit_is_the_last(journal):
    for number in range(4):
        await store(journal, one(str(number)))
    first = await journal.find_intents(IntentFilter(), limit=2)
    assert [intent.id for intent in first] == ["0", "1"]
    second = await journal.find_intents(IntentFilter(), after=first.next_after, limit=2)
    assert ([intent.id for intent in second], second.next_after) == (["2", "3"], None)


async def test_intent_keeps_its_page_when_it_is_settled(journal):
    for number in range(4):
        await store(journal, one(str(number)))
    first = await journal.find_intents(IntentFilter(), limit=2)
    for intent_id in ("0", "2"):
        await journal.settle(intent_id, IntentState.CONFIRMED)
    await store(journal, one("4"))
    rest = await journal.find_intents(IntentFilter(), after=first.next_after, limit=10)
    assert [intent.id for intent in rest] == ["2", "3", "4"]
    assert rest.items[0].state == IntentState.CONFIRMED


TIMES = [
    NOON,
    NOON + timedelta(microseconds=1),
    NOON - timedelta(microseconds=1),
    NOON.astimezone(ZoneInfo("Asia/Dubai")),
]
ROWS = st.tuples(
    st.sampled_from([None, *IntentState]),
    st.fixed_dictionaries(
        {
            "external_customer_id": st.sampled_from(["a", "A", "b%", "b_"]),
            "reference": st.sampled_from([None, "r-1", "R-1", "r_1"]),
            "account": st.sampled_from(["mine", "other", None]),
            "created_at": st.sampled_from(TIMES)
            | st.datetimes(datetime(2026, 11, 29), datetime(2026, 12, 1), timezones=st.just(UTC)),
        }
    ),
)
FILTERS = st.builds(
    IntentFilter,
    account=st.sampled_from([None, "mine", "none"]),
    states=st.none() | st.frozensets(st.sampled_from(IntentState), min_size=1),
    external_customer_id=st.sampled_from([None, "a", "b%", "c"]),
    reference=st.sampled_from([None, "r-1", "r_1"]),
    since=st.sampled_from([None, NOON - DAY, NOON, NOON + timedelta(microseconds=1)]),
    until=st.sampled_from([None, NOON, NOON + DAY]),
)


async def store_rows(journal: Any, rows: list[Any]) -> list[Intent]:
    """Store intents, and return them as the journal has them."""
    for number, (state, changes) in enumerate(rows):
        await store(journal, one(str(number), **changes), state)
    stored = [await journal.get(str(number)) for number in range(len(rows))]
    assert None not in stored
    return stored


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=8), filters=FILTERS, limit=st.integers(1, 5))
def test_pages_equal_a_filtered_list(tmp_path: Path, rows: list[Any], filters: IntentFilter, limit: int) -> None:
    async def check() -> None:
        for journal in (MemoryJournal(), SqliteJournal(tmp_path / f"{os.urandom(8).hex()}.db")):
            stored = await store_rows(journal, rows)
            wanted = [intent for intent in stored if filters.matches(intent)]
            assert await list_all(journal, filters, limit) == wanted

    asyncio.run(check())


def test_pages_of_a_database_equal_a_filtered_list(database: Database) -> None:
    journal = open_journal(database.url)
    # The product of all values that the filters distinguish, in an order without a pattern.
    values = itertools.product(IntentState, ("a", "A", "b%"), (None, "r-1", "R-1"), ("mine", "other"))
    rows = [
        (state, {"external_customer_id": customer, "reference": reference, "account": account, "created_at": time})
        for (state, customer, reference, account), time in zip(values, itertools.cycle(TIMES), strict=False)
    ][::4]
    stored = asyncio.run(store_rows(journal, rows))

    @settings(max_examples=60, deadline=None)
    @given(filters=FILTERS, limit=st.integers(4, 40))
    def check(filters: IntentFilter, limit: int) -> None:
        wanted = [intent for intent in stored if filters.matches(intent)]
        assert asyncio.run(list_all(journal, filters, limit)) == wanted

    check()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_unreadable_record_is_listed_and_hides_no_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
):
    for_postgres = kind == "postgres"
    journal: Any = open_journal(request.getfixturevalue("database").url if for_postgres else tmp_path / "j.db")
    for number in range(5):
        await store(journal, one(str(number)), IntentState.CONFIRMED)
    if for_postgres:
        database = request.getfixturevalue("database")
        database.execute("UPDATE minted_connect_intents SET items = 'secret' WHERE id IN ('1', '3')", user=BUYER)
    else:
        with closing(sqlite3.connect(tmp_path / "j.db")) as file, file:
            file.execute("UPDATE intents SET items = x'ff00' WHERE id IN ('1', '3')")
    pages = []
    after: int | None = 0
    while after is not None:
        pages.append(await journal.find_intents(IntentFilter(), after=after, limit=2))
        after = pages[-1].next_after
    assert [[intent.id for intent in page] for page in pages] == [["0"], ["2"], ["4"]]
    assert [page.unreadable for page in pages] == [("1",), ("3",), ()]
    assert journal.unreadable == ()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [text.rpartition(": ")[2] for text in errors] == ["intents 1", "intents 3"]
    assert "secret" not in caplog.text


# --- forget --------------------------------------------------------------------------------------------------------


async def forget(journal: Any, before: datetime = NOON + DAY, account: str = MINE.account) -> int:
    return await journal.forget(before, NOON + 3 * DAY, account=account)


@pytest.mark.parametrize("state", list(IntentState))
async def test_forget_removes_only_settled_intents(journal, state):
    await store(journal, one("first"), None if state is IntentState.PREPARED else state)
    assert await forget(journal) == (state in CLOSED)
    assert (await journal.get("first") is None) == (state in CLOSED)


async def test_forget_keeps_later_intents_and_other_accounts(journal):
    await store(journal, one("at the time", created_at=NOON + DAY), IntentState.CONFIRMED)
    await store(journal, one("other", account="other"), IntentState.CONFIRMED)
    await store(journal, one("none", account=None, server=None), IntentState.NOT_SENT)
    await store(journal, one("old"), IntentState.CONFIRMED)
    assert await forget(journal) == 2
    assert [intent.id for intent in await list_all(journal)] == ["at the time", "other"]
    assert await forget(journal) == 0


@pytest.mark.requirement(47)
async def test_forget_reduces_a_bought_reference(journal):
    full = one(
        "first",
        reference="r-1",
        known_orders=(1, 2),
        clock_offset=3,
        send_before=NOON,
        refusal=Refusal(409, True, NOON),
        fenced_at=NOON,
        decided_at=NOON,
        terms='{"pieces": {}}',
    )
    await journal.prepare(full, key=key("r-1"))
    await journal.settle("first", IntentState.CONFIRMED, order_id=7, progress=PROGRESS)
    assert [intent.id for intent in await journal.awaiting_completion()] == ["first"]
    assert await forget(journal) == 1
    [found] = await journal.find_by_reference(key("r-1"))
    assert found == one(
        "first",
        reference="r-1",
        terms=full.terms,
        state=IntentState.CONFIRMED,
        order_id=7,
        price_token="",
        paid_total=TOTAL * 0,
        forgotten_at=NOON + 3 * DAY,
    )
    assert await journal.awaiting_completion() == []
    await journal.save_progress(full.external_customer_id, full.cart_token, PROGRESS, account="mine")
    assert await journal.awaiting_completion() == []
    assert await forget(journal) == 0
    with pytest.raises(AlreadyInFlight, match="it is order 7"):
        await journal.prepare(one("second", reference="r-1"), key=key("r-1"), known=["first"])


@pytest.mark.requirement(47)
async def test_forget_keeps_attempts_of_an_open_reference(journal):
    first, second = one("first", reference="r-1"), one("second", reference="r-1")
    await journal.prepare(first, key=key("r-1"))
    await journal.settle("first", IntentState.NOT_EXECUTED)
    await journal.prepare(second, key=key("r-1"), known=["first"])
    await store(journal, one("other", reference="r-2"), IntentState.REJECTED)
    assert await forget(journal) == 0
    assert (await journal.get("first")).paid_total == TOTAL
    await journal.settle("second", IntentState.CONFIRMED)
    assert await forget(journal) == 2
    assert [intent.forgotten_at is None for intent in await list_all(journal)] == [False, False, True]
    assert [intent.id for intent in await journal.find_by_reference(key("r-1"))] == ["first", "second"]


@pytest.mark.requirement(47)
async def test_forget_keeps_the_buyer_of_the_basket_of_a_reference(journal):
    """Else the order of the basket would count as the order of the reference."""
    await journal.prepare(one("attempt", reference="r-1", cart_token="basket"), key=key("r-1"))
    await journal.settle("attempt", IntentState.NOT_EXECUTED)
    await store(journal, one("buyer", cart_token="basket"), IntentState.CONFIRMED)
    claim = claim_of(key=key("r-2"), external_customer_id="other", cart_token="claimed")
    await journal.claim(claim, known=())
    await journal.release_claim(claim, grace=0)
    await store(journal, one("claimed"), IntentState.CONFIRMED)
    await store(journal, one("old"), IntentState.CONFIRMED)
    assert await forget(journal) == 1
    assert [intent.id for intent in await list_all(journal)] == ["attempt", "buyer", "claimed"]
    assert (await journal.find_active(intent_of().external_customer_id, "basket", account="mine")).id == "buyer"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_forgotten_intents_are_not_reported_as_lost(kind, tmp_path, request, caplog):
    location = request.getfixturevalue("database").url if kind == "postgres" else tmp_path / "j.db"
    journal, other = open_journal(location), open_journal(location)
    assert isinstance(other, SqlJournal)
    await journal.prepare(one("unknown"))
    await journal.prepare(one("last"))
    for intent_id in ("unknown", "last"):
        await other.settle(intent_id, IntentState.CONFIRMED)
    assert await forget(other) == 2
    await journal.settle("unknown", IntentState.CONFIRMED)
    await journal.prepare(one("next", created_at=NOON + 2 * DAY))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    # A record that is missing although it is newer than what was forgotten is still lost.
    if kind == "postgres":
        request.getfixturevalue("database").execute("DELETE FROM minted_connect_intents", user=BUYER)
    else:
        with closing(sqlite3.connect(tmp_path / "j.db")) as file, file:
            file.execute("DELETE FROM intents")
    await forget(other, NOON)
    await journal.settle("next", IntentState.CONFIRMED)
    assert "intent next: its record is lost" in caplog.text
