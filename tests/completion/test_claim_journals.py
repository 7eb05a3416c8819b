"""Journals with claims: which calls hold a reference and a customer, and for how long."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError
from minted_connect.journal import boot_clock, open_journal, postgres_schema, sqlite_schema
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.journal.postgres_transaction import lock
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.journal.rows import COLUMNS, to_row
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Intent, IntentState, OrderKind, Refusal
from tests.completion.fakes import CUSTOMER, intent_of
from tests.completion.test_postgres import BreakingProxy, wait_until
from tests.support.postgres import BUYER, Database

pytestmark = pytest.mark.anyio

REFERENCE = "plan/2026-11/customer-1"
MINE = JournalAccount("server", "mine")
OTHER = JournalAccount("server", "other")
NAMED = JournalAccount("server", "named")
FIRST_CLAIMED = datetime(2026, 11, 30, 12, tzinfo=UTC)


@attrs.frozen
class Journals:
    """A journal, more objects for the same records, and a way to let time pass for its claims."""

    journal: ClaimJournal
    open_another: Callable[[], ClaimJournal]
    age: Callable[[float], None]
    """Make all claims this many seconds older."""


def open_sqlite(path: Path) -> Journals:
    def age(seconds: float) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(
                "UPDATE claims SET expires_elapsed = expires_elapsed - ?, "
                "expires_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', expires_at, ?)",
                (seconds, f"-{seconds} seconds"),
            )

    return Journals(SqliteJournal(path), lambda: SqliteJournal(path), age)


def open_postgres(database: Database) -> Journals:
    def age(seconds: float) -> None:
        database.execute(
            "UPDATE minted_connect_claims SET expires_at = expires_at - make_interval(secs => %s)", seconds
        )

    return Journals(PostgresJournal(database.url), lambda: PostgresJournal(database.url), age)


def open_memory() -> Journals:
    journal = MemoryJournal()

    def age(seconds: float) -> None:
        for entry in journal._claims.entries.values():
            entry.expires_at -= seconds

    return Journals(journal, lambda: journal, age)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def journals(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journals]:
    match request.param:
        case "memory":
            opened = open_memory()
        case "sqlite":
            opened = open_sqlite(tmp_path / "j.db")
        case _:
            opened = open_postgres(request.getfixturevalue("database"))
    yield opened
    await opened.journal.aclose()


@pytest.fixture
def journal(journals: Journals) -> ClaimJournal:
    return journals.journal


@pytest.fixture
def age(journals: Journals) -> Callable[[float], None]:
    return journals.age


def key_of(owner: JournalAccount = MINE, reference: str = REFERENCE, unnamed: str | None = None) -> ReferenceKey:
    return ReferenceKey(reference, owner, unnamed or owner.account)


def claim_of(owner: str = "first", **changes: Any) -> Claim:
    defaults: dict[str, Any] = {
        "key": key_of(),
        "external_customer_id": CUSTOMER,
        "kind": OrderKind.BUY,
        "terms": "{}",
        "seconds": 120.0,
        "grace": 60.0,
        "saw_basket": True,
        "cart_token": "basket-1",
        "created_at": FIRST_CLAIMED,
    }
    return Claim(owner=owner, **{**defaults, **changes})


def intent_with(claim: Claim, intent_id: str = "intent", **changes: Any) -> Intent:
    """Return an intent that completes the reference of a claim."""
    owner = claim.key.owner
    values = {"reference": claim.key.reference, "terms": claim.terms, "cart_token": intent_id}
    values |= {"server": owner.server, "account": owner.account, "external_customer_id": claim.external_customer_id}
    return intent_of(id=intent_id, state=IntentState.PREPARED, **{**values, **changes})


def plain_intent(intent_id: str = "plain", owner: JournalAccount = MINE, **changes: Any) -> Intent:
    """Return an intent without a reference."""
    state = IntentState.PREPARED
    return intent_of(
        id=intent_id, cart_token=intent_id, server=owner.server, account=owner.account, state=state, **changes
    )


# --- one call at a time --------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_claimed_reference_refuses_a_second_claim(journal):
    assert await journal.claim(claim_of(), known=()) == claim_of()
    with pytest.raises(AlreadyInFlight, match=r"items for this reference: try again, at the latest in 1(7\d|80) s"):
        await journal.claim(claim_of("second", external_customer_id="another"), known=())
    found = await journal.find_claim(key_of())
    assert attrs.evolve(found, seconds=120.0) == claim_of()
    assert 110 < found.seconds <= 120


@pytest.mark.requirement(47)
async def test_claimed_customer_refuses_another_reference(journal):
    await journal.claim(claim_of(), known=())
    with pytest.raises(AlreadyInFlight, match=r"items for this customer: try again, at the latest in 1(7\d|80) s"):
        await journal.claim(claim_of("second", key=key_of(reference="another")), known=())
    assert await journal.find_claim(key_of(reference="another")) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": OrderKind.SELL, "key": key_of(reference="another")},
        {"external_customer_id": "another", "key": key_of(reference="another")},
        {"key": key_of(OTHER)},
        {"key": key_of(NAMED, unnamed=OTHER.account)},
    ],
    ids=["kind", "customer", "account", "named account"],
)
async def test_claims_for_different_baskets_do_not_collide(journal, changes):
    await journal.claim(claim_of(), known=())
    other = claim_of("second", **changes)
    assert await journal.claim(other, known=()) == other
    await journal.renew_claim(claim_of())
    await journal.renew_claim(other)


@pytest.mark.requirement(47)
async def test_account_that_was_named_later_keeps_its_claims(journal, age):
    await journal.claim(claim_of(), known=())
    key = key_of(NAMED, unnamed=MINE.account)
    assert (await journal.find_claim(key)).owner == "first"
    for other in (claim_of("second", key=key), claim_of("second", key=attrs.evolve(key, reference="another"))):
        with pytest.raises(AlreadyInFlight, match="another call is completing"):
            await journal.claim(other, known=())
    with pytest.raises(AlreadyInFlight, match="this customer"):
        await journal.prepare(intent_with(claim_of(key=key)), key=key)
    age(181)
    taken = await journal.claim(claim_of("second", key=key, cart_token=None), known=())
    assert (taken.generation, taken.cart_token, taken.key) == (2, "basket-1", key)
    found = await journal.find_claim(key)
    assert (found.owner, found.generation) == ("second", 2)


async def test_named_account_finds_its_own_of_two_equal_claims(journal):
    key = key_of(NAMED, unnamed=MINE.account)
    await journal.claim(claim_of("named", key=key), known=())
    await journal.claim(claim_of("mine"), known=())
    assert (await journal.find_claim(key)).owner == "named"
    assert (await journal.find_claim(key_of())).owner == "mine"


@pytest.mark.requirement(47)
async def test_concurrent_claims_succeed_once(journals):
    several = [journals.open_another() for _ in range(6)]
    claims = [claim_of(str(number)) for number in range(6)]
    calls = [one.claim(claim, known=()) for one, claim in zip(several, claims, strict=True)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    [winner] = [result for result in results if isinstance(result, Claim)]
    assert [type(result) for result in results if result is not winner] == [AlreadyInFlight] * 5
    assert (await journals.journal.find_claim(key_of())).owner == winner.owner
    for one in several:
        await one.aclose()


@pytest.mark.requirement(47)
async def test_prepare_waits_for_a_claim_of_another_machine(database):
    journal = PostgresJournal(database.url)
    await journal.claim(claim_of(), known=())
    await journal.release_claim(claim_of(), grace=0)
    other = await psycopg.AsyncConnection.connect(database.url)
    async with other:
        await lock(other, "another reference", CUSTOMER)
        calls = [journal.prepare(plain_intent()), journal.claim(claim_of("second"), known=())]
        waiting = asyncio.gather(*calls, return_exceptions=True)
        await wait_until(lambda: len(database.execute("SELECT 1 FROM pg_locks WHERE NOT granted")) == len(calls))
        await other.execute(
            "UPDATE minted_connect_claims SET reference = 'another reference', holds_customer = TRUE, "
            "expires_at = clock_timestamp() + interval '2 minutes'"
        )
    errors = await waiting
    assert [type(error) for error in errors] == [AlreadyInFlight] * 2
    assert all("for this customer" in str(error) for error in errors)
    assert await journal.pending() == []


# --- takeover ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(47)
async def test_claim_is_taken_over_after_expiry_and_grace(journal, age):
    await journal.claim(claim_of(), known=())
    age(121)
    second = claim_of("second", saw_basket=False, cart_token=None, created_at=FIRST_CLAIMED + timedelta(hours=1))
    with pytest.raises(AlreadyInFlight, match=r"changes of an earlier call for this reference may .* in (59|60) s"):
        await journal.claim(second, known=())
    age(60)
    expected = attrs.evolve(claim_of("second"), generation=2)
    assert await journal.claim(second, known=()) == expected
    found = await journal.find_claim(key_of())
    assert attrs.evolve(found, seconds=120.0) == expected
    with pytest.raises(AlreadyInFlight, match="this call took longer than its claim"):
        await journal.renew_claim(claim_of())
    await journal.release_claim(claim_of(), grace=0)
    await journal.renew_claim(expected)


@pytest.mark.requirement(47)
async def test_claim_that_ended_leaves_the_customer_to_others(journal, age):
    await journal.claim(claim_of(), known=())
    age(181)
    other = claim_of("second", key=key_of(reference="another"))
    assert await journal.claim(other, known=()) == other
    with pytest.raises(AlreadyInFlight, match="this customer"):
        await journal.claim(claim_of("third"), known=())
    age(181)
    assert (await journal.claim(claim_of("third"), known=())).generation == 2


@pytest.mark.requirement(47)
@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED])
async def test_active_reference_refuses_a_claim(journal, state):
    intent = intent_with(claim_of())
    await journal.prepare(intent, key=key_of())
    await journal.settle(intent.id, state)
    with pytest.raises(AlreadyInFlight, match="this reference") as caught:
        await journal.claim(claim_of(), known=[intent.id])
    assert caught.value.intent_id == intent.id
    assert await journal.find_claim(key_of()) is None


@pytest.mark.requirement(47)
async def test_claim_beside_an_attempt_that_was_not_searched_raises(journal):
    intent = intent_with(claim_of())
    await journal.prepare(intent, key=key_of())
    await journal.settle(intent.id, IntentState.NOT_EXECUTED)
    with pytest.raises(AlreadyInFlight, match="meanwhile"):
        await journal.claim(claim_of(), known=["another"])
    assert await journal.claim(claim_of(), known=[intent.id]) == claim_of()


@pytest.mark.requirement(47)
async def test_claim_of_a_reference_of_another_user_raises(journal):
    await journal.prepare(intent_with(claim_of()), key=key_of())
    with pytest.raises(ConfigurationError, match=r"set Options\.journal_account"):
        await journal.claim(claim_of(key=key_of(OTHER)), known=())


# --- prepare -------------------------------------------------------------------------------------------------------


async def test_prepare_with_claim_stores_intent_and_cart_token(journal):
    claim = await journal.claim(claim_of(), known=())
    intent = intent_with(claim)
    await journal.prepare(intent, key=claim.key, claim=claim)
    assert await journal.get(intent.id) == intent
    assert (await journal.find_claim(claim.key)).cart_token == intent.cart_token


@pytest.mark.requirement(47)
async def test_prepare_with_expired_claim_stores_nothing(journal, age):
    claim = await journal.claim(claim_of(), known=())
    age(121)
    with pytest.raises(AlreadyInFlight, match=r"longer than its claim .*: nothing was completed; call again"):
        await journal.prepare(intent_with(claim), key=claim.key, claim=claim)
    assert await journal.pending() == []
    assert (await journal.find_claim(claim.key)).cart_token == "basket-1"


@pytest.mark.requirement(47)
async def test_prepare_with_claim_taken_over_stores_nothing(journal, age):
    claim = await journal.claim(claim_of(), known=())
    age(181)
    taken = await journal.claim(claim_of("second"), known=())
    for lost in (claim, attrs.evolve(claim, owner="second"), attrs.evolve(taken, owner="first")):
        with pytest.raises(AlreadyInFlight, match="longer than its claim"):
            await journal.prepare(intent_with(lost), key=lost.key, claim=lost)
    assert await journal.pending() == []
    await journal.prepare(intent_with(taken), key=taken.key, claim=taken)


@pytest.mark.requirement(47)
async def test_prepare_without_claim_beside_a_held_one_raises(journal, age):
    await journal.claim(claim_of(), known=())
    with pytest.raises(AlreadyInFlight, match="another call is completing items for this customer"):
        await journal.prepare(plain_intent())
    with pytest.raises(AlreadyInFlight, match="another call is completing items for this customer"):
        await journal.prepare(intent_with(claim_of()), key=key_of())
    age(121)
    with pytest.raises(AlreadyInFlight, match="changes of an earlier call for this customer may still be executed"):
        await journal.prepare(plain_intent())
    assert await journal.pending() == []
    age(60)
    await journal.prepare(plain_intent())


async def test_prepare_without_claim_of_other_baskets_is_accepted(journal):
    await journal.claim(claim_of(), known=())
    await journal.prepare(plain_intent("customer", external_customer_id="another"))
    await journal.prepare(plain_intent("kind", kind=OrderKind.SELL))
    await journal.prepare(plain_intent("account", OTHER))
    assert len(await journal.pending()) == 3


# --- the end of a claim --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(set(IntentState) - {IntentState.PREPARED}))
async def test_settle_frees_the_customer(journal, state):
    claim = await journal.claim(claim_of(), known=())
    intent = intent_with(claim)
    await journal.prepare(intent, key=claim.key, claim=claim, frees_customer=True)
    other = claim_of("second", key=key_of(reference="another"))
    with pytest.raises(AlreadyInFlight, match="this customer"):
        await journal.claim(other, known=())
    await journal.settle(intent.id, state)
    assert (await journal.get(intent.id)).state == state
    assert await journal.claim(other, known=()) == other


async def test_settle_without_frees_customer_keeps_the_claim(journal):
    claim = await journal.claim(claim_of(), known=())
    await journal.prepare(intent_with(claim), key=claim.key, claim=claim)
    await journal.settle("intent", IntentState.NOT_SENT)
    await journal.renew_claim(claim)


async def test_recorded_refusal_keeps_the_claim(journal):
    claim = await journal.claim(claim_of(), known=())
    await journal.prepare(intent_with(claim), key=claim.key, claim=claim, frees_customer=True)
    await journal.record_refusal("intent", Refusal(422, is_vendor_response=True, at=FIRST_CLAIMED))
    await journal.renew_claim(claim)
    await journal.settle("intent", IntentState.REJECTED)
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await journal.renew_claim(claim)


@pytest.mark.requirement(47)
async def test_late_settle_of_older_intent_keeps_a_newer_claim(journal, age):
    claim = await journal.claim(claim_of(), known=())
    await journal.prepare(intent_with(claim, "first"), key=claim.key, claim=claim, frees_customer=True)
    await journal.settle("first", IntentState.NOT_SENT)
    newer = await journal.claim(claim_of("second"), known=["first"])
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    await journal.renew_claim(newer)
    age(181)
    other = await journal.claim(claim_of("third", key=key_of(reference="another")), known=())
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    await journal.renew_claim(other)
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await journal.prepare(intent_with(newer, "second"), key=newer.key, known=["first"], claim=newer)


async def test_claim_taken_over_forgets_the_intent_of_before(journal, age):
    claim = await journal.claim(claim_of(), known=())
    await journal.prepare(intent_with(claim, "first"), key=claim.key, claim=claim, frees_customer=True)
    await journal.record_refusal("first", Refusal(422, is_vendor_response=True, at=FIRST_CLAIMED))
    age(181)
    other = await journal.claim(claim_of("second", key=key_of(reference="another")), known=())
    await journal.settle("first", IntentState.REJECTED)
    await journal.renew_claim(other)


async def test_released_claim_is_free_at_once(journal):
    await journal.claim(claim_of(), known=())
    await journal.release_claim(claim_of(cart_token="basket-2"), grace=0)
    found = await journal.find_claim(key_of())
    assert (found.seconds, found.cart_token) == (0, "basket-2")
    await journal.prepare(plain_intent())
    other = claim_of("second", key=key_of(reference="another"))
    assert await journal.claim(other, known=()) == other
    await journal.release_claim(other, grace=0)
    assert (await journal.claim(claim_of("third"), known=())).generation == 2


@pytest.mark.requirement(47)
async def test_released_claim_with_grace_is_free_after_it(journal, age):
    await journal.claim(claim_of(), known=())
    await journal.release_claim(claim_of(), grace=30)
    others = [claim_of("second"), claim_of("second", key=key_of(reference="another"))]
    for other in others:
        with pytest.raises(AlreadyInFlight, match=r"changes of an earlier call .* at the latest in (29|30) s"):
            await journal.claim(other, known=())
    with pytest.raises(AlreadyInFlight, match="changes of an earlier call"):
        await journal.prepare(plain_intent())
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await journal.renew_claim(claim_of())
    age(30)
    await journal.claim(others[1], known=())


async def test_release_of_an_unknown_claim_is_ignored(journal):
    await journal.release_claim(claim_of(), grace=0)
    await journal.claim(claim_of(), known=())
    await journal.release_claim(claim_of("second"), grace=0)
    await journal.release_claim(claim_of(generation=2), grace=0)
    await journal.renew_claim(claim_of())


async def test_renewed_claim_has_its_seconds_from_now(journal, age):
    await journal.claim(claim_of(cart_token=None, saw_basket=False), known=())
    age(119)
    renewed = claim_of(cart_token="basket-2", saw_basket=True)
    await journal.renew_claim(renewed)
    found = await journal.find_claim(key_of())
    assert found.seconds > 110
    assert attrs.evolve(found, seconds=120.0) == renewed
    age(121)
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await journal.renew_claim(renewed)
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await journal.renew_claim(claim_of(key=key_of(reference="another")))


# --- the clock of an SQLite journal --------------------------------------------------------------------------------


@pytest.fixture
def boot_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("first boot\n")
    monkeypatch.setattr(boot_clock, "_BOOT_ID", path)
    return path


def change_claims(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE claims SET {change}")


async def test_claim_of_another_boot_is_over(tmp_path, boot_id):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.claim(claim_of(), known=())
    boot_id.write_text("second boot\n")
    with pytest.raises(AlreadyInFlight, match="longer than its claim"):
        await journal.prepare(intent_with(claim_of()), key=key_of(), claim=claim_of())
    await journal.prepare(plain_intent())
    assert (await journal.claim(claim_of("second"), known=())).generation == 2
    await journal.renew_claim(claim_of("second", generation=2))


async def test_claim_expires_by_the_time_since_the_boot(tmp_path, boot_id):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.claim(claim_of(), known=())
    change_claims(journal.path, "expires_at = '2020-01-01T00:00:00.000+00:00'")
    await journal.renew_claim(claim_of())
    change_claims(journal.path, "expires_at = '2120-01-01T00:00:00.000+00:00', expires_elapsed = expires_elapsed - 180")
    assert (await journal.claim(claim_of("second"), known=())).generation == 2


@pytest.mark.parametrize("missing", ["before", "after"])
async def test_claim_without_boot_id_expires_by_the_time_of_day(tmp_path, boot_id, missing):
    journal = SqliteJournal(tmp_path / "j.db")
    if missing == "before":
        boot_id.write_text("")
    await journal.claim(claim_of(), known=())
    if missing == "before":
        boot_id.write_text("second boot")
    else:
        boot_id.unlink()
    assert 110 < (await journal.find_claim(key_of())).seconds <= 120.01
    await journal.release_claim(claim_of(), grace=30)
    with pytest.raises(AlreadyInFlight, match=r"in (29|30|31) s"):
        await journal.claim(claim_of("second"), known=())


async def test_stored_expiry_is_a_time_in_utc(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.claim(claim_of(), known=())
    with closing(sqlite3.connect(journal.path)) as database:
        [(text, boot)] = database.execute("SELECT expires_at, boot_id FROM claims").fetchall()
    left = datetime.fromisoformat(text) - datetime.now(UTC)
    assert timedelta(seconds=110) < left <= timedelta(seconds=120.01)
    assert boot == boot_clock.boot_clock_params()["boot_id"]


# --- older schemas and damage --------------------------------------------------------------------------------------


async def test_file_of_schema_version_4_is_migrated(tmp_path):
    path = tmp_path / "j.db"
    with closing(sqlite3.connect(path)) as database, database:
        for statement in ";".join(sqlite_schema.STEPS[:4]).split(";"):
            database.execute(statement)
        values = dict(zip(COLUMNS, to_row(plain_intent()), strict=True))
        for later in ("decided_at", "forgotten_at", "imported_at", "assigned_at", "erased_at"):
            del values[later]
        columns = ", ".join(values)
        database.execute(f"INSERT INTO intents ({columns}) VALUES (:{', :'.join(values)})", values)
        database.execute("PRAGMA user_version = 4")
    journal = SqliteJournal(path)
    before = path.read_bytes()
    assert await journal.find_claim(key_of()) is None
    assert path.read_bytes() == before
    assert await journal.claim(claim_of(), known=()) == claim_of()
    assert await journal.pending() == [plain_intent()]
    assert (await journal.find_claim(key_of())).owner == "first"


async def test_database_of_schema_version_4_is_migrated(database):
    database.execute(";".join(postgres_schema.STEPS[:4]), user=BUYER)
    database.execute("UPDATE minted_connect_journal SET version = 4", user=BUYER)
    journal = PostgresJournal(database.url)
    assert await journal.find_claim(key_of()) is None
    assert await journal.claim(claim_of(), known=()) == claim_of()


async def test_unreadable_claim_raises_journal_error(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.claim(claim_of(), known=())
    for change in ("created_at = 'never'", "created_at = '2026-11-30T12:00:00'", "owner = x'ff'", "generation = 'one'"):
        change_claims(journal.path, change)
        calls = (
            partial(journal.find_claim, key_of()),
            partial(journal.claim, claim_of(), known=()),
            partial(journal.prepare, plain_intent()),
            partial(journal.renew_claim, claim_of()),
        )
        for call in calls:
            with pytest.raises(JournalError, match="contains a claim that cannot be read: remove it from the table"):
                await call()


async def test_lost_journal_stores_no_claim(journal_location, request):
    journal = open_journal(journal_location)
    assert isinstance(journal, ClaimJournal)
    await journal.prepare(plain_intent())
    await journal.settle("plain", IntentState.NOT_SENT)
    if journal_location.startswith("postgresql"):
        request.getfixturevalue("database").execute("DELETE FROM minted_connect_intents")
    else:
        with closing(sqlite3.connect(journal_location)) as database, database:
            database.execute("DELETE FROM intents")
    for _ in range(2):
        with pytest.raises(JournalError, match="no longer contains intent plain"):
            await journal.claim(claim_of(), known=())
    with pytest.raises(JournalError, match="no longer contains intent plain"):
        await journal.renew_claim(claim_of())
    assert await journal.find_claim(key_of()) is None
    await journal.aclose()


async def test_claim_in_a_file_that_was_replaced_raises(tmp_path):
    journal = SqliteJournal(tmp_path / "j.db")
    await journal.claim(claim_of(), known=())
    (tmp_path / "j.db").unlink()
    for call in (journal.renew_claim(claim_of()), journal.release_claim(claim_of(), grace=0)):
        with pytest.raises(JournalError, match="was deleted while in use"):
            await call
    with pytest.raises(JournalError, match="was deleted while in use"):
        await journal.claim(claim_of("second"), known=())
    assert not (tmp_path / "j.db").exists()
    await journal.aclose()


@pytest.mark.parametrize("failure", ["before", "after"])
async def test_claim_with_uncertain_commit_is_released(database, failure):
    direct = PostgresJournal(database.url)
    await direct.claim(claim_of(), known=())
    await direct.release_claim(claim_of(), grace=0)
    async with BreakingProxy(database.port, failure, reconnects=True) as port:
        journal = PostgresJournal(database.url_with(port=port), patience=1.0)
        with pytest.raises(JournalError, match="closed the connection"):
            await journal.claim(claim_of("second"), known=())
    stored = await direct.find_claim(key_of())
    assert (stored.owner, stored.generation) == (("first", 1) if failure == "before" else ("second", 2))
    await direct.claim(claim_of("third"), known=())


async def test_claim_with_uncertain_commit_that_cannot_be_released_expires(database):
    direct = PostgresJournal(database.url)
    await direct.pending()
    async with BreakingProxy(database.port, "after", reconnects=False) as port:
        journal = PostgresJournal(database.url_with(port=port))
        with pytest.raises(JournalError, match="closed the connection"):
            await journal.claim(claim_of(), known=())
    with pytest.raises(AlreadyInFlight, match=r"in 1(7\d|80) s"):
        await direct.claim(claim_of("second"), known=())


async def test_settle_of_uncertain_commit_frees_the_customer(database):
    direct = PostgresJournal(database.url)
    claim = await direct.claim(claim_of(), known=())
    async with BreakingProxy(database.port, "after", reconnects=True) as port:
        journal = PostgresJournal(database.url_with(port=port), patience=1.0)
        with pytest.raises(JournalError, match="closed the connection"):
            await journal.prepare(intent_with(claim), key=claim.key, claim=claim, frees_customer=True)
    assert (await direct.get("intent")).state == IntentState.NOT_SENT
    await direct.claim(claim_of("second", key=key_of(reference="another")), known=())


async def test_intent_stores_the_generation_of_its_claim(journal_location, request):
    journal = open_journal(journal_location)
    assert isinstance(journal, ClaimJournal)
    await journal.claim(claim_of(), known=())
    await journal.release_claim(claim_of(), grace=0)
    claim = await journal.claim(claim_of("second"), known=())
    await journal.prepare(intent_with(claim), key=claim.key, claim=claim)
    if journal_location.startswith("postgresql"):
        rows = request.getfixturevalue("database").execute("SELECT claim_generation FROM minted_connect_intents")
    else:
        with closing(sqlite3.connect(journal_location)) as database:
            rows = database.execute("SELECT claim_generation FROM intents").fetchall()
    assert rows == [(2,)]
    await journal.aclose()


async def test_every_journal_stores_claims(journals):
    assert isinstance(open_journal(journals.journal), ClaimJournal)


# --- all journals behave equally -----------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 1), st.integers(0, 1), st.sampled_from([MINE, NAMED])),
        st.tuples(st.just("renew"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 1), st.sampled_from([0, 30])),
        st.tuples(st.just("prepare"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("prepare"), st.none(), st.integers(0, 1)),
        st.tuples(st.just("settle"), st.integers(0, 3), st.sampled_from([IntentState.NOT_SENT, IntentState.UNKNOWN])),
        st.tuples(st.just("age"), st.just(40)),  # no sum of these equals an expiry
    ),
    min_size=6,
    max_size=20,
)


async def run_steps(journals: Journals, name: str, steps: list[Any]) -> list[str]:
    """Execute the steps, and return their results with the claims that are stored at the end."""
    journal, results = journals.journal, []
    claims: list[Claim] = []
    intents: list[str] = []
    keys = [
        ReferenceKey(f"{name}-{reference}", JournalAccount(name, f"{name}-{owner.account}"), f"{name}-{MINE.account}")
        for reference in (0, 1)
        for owner in (MINE, NAMED)
    ]

    async def execute(step: tuple[Any, ...]) -> object:
        match step:
            case "claim", reference, customer, owner:
                key = keys[2 * reference + (owner is NAMED)]
                values = {"external_customer_id": f"{name}-{customer}", "seconds": 100.0, "grace": 50.0}
                claim = claim_of(f"call-{len(claims)}", key=key, cart_token=f"basket-{len(claims)}", **values)
                claims.append(await journal.claim(claim, known=intents))
                return attrs.evolve(claims[-1], key=key_of())
            case "prepare", None, customer:
                intents.append(f"{name}-{len(intents)}")
                owner = JournalAccount(name, keys[0].unnamed_account)
                return await journal.prepare(
                    plain_intent(intents[-1], owner, external_customer_id=f"{name}-{customer}")
                )
            case "settle", number, state:
                return await journal.settle(f"{name}-{number}", state)
            case "age", seconds:
                return journals.age(seconds)
        claim = claims[step[1] % len(claims)]
        match step:
            case "renew", _:
                return await journal.renew_claim(claim)
            case "release", _, grace:
                return await journal.release_claim(claim, grace=grace)
            case _:
                intents.append(f"{name}-{len(intents)}")
                intent = intent_with(claim, intents[-1])
                return await journal.prepare(intent, key=claim.key, known=intents, claim=claim, frees_customer=step[2])

    for step in steps:
        if step[0] in {"claim", "settle", "age"} or step[1] is None or claims:
            try:
                results.append(repr(await execute(step)))
            except (AlreadyInFlight, ConfigurationError) as error:
                results.append(str(error))
    for key in keys:
        found = await journal.find_claim(key)
        results.append(repr(found and (found.owner, found.generation, found.cart_token, round(found.seconds, -1))))
    return [re.sub(r"in \d+ s", "in some s", result.replace(name, "")) for result in results]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_journals_with_claims_behave_equally(database: Database, tmp_path: Path, steps: list[Any]) -> None:
    async def run_all() -> list[list[str]]:
        journals = (open_memory(), open_sqlite(tmp_path / "j.db"), open_postgres(database))
        name = os.urandom(8).hex()
        results = [await run_steps(one, name, steps) for one in journals]
        for one in journals:
            await one.journal.aclose()
        return results

    memory, sqlite, postgres = asyncio.run(run_all())
    assert memory == sqlite
    assert memory == postgres
