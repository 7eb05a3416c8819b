"""Tests of the PostgreSQL journal; `test_journal` tests what all journals have in common."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

import minted_connect
from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError, NotSent
from minted_connect.journal import postgres
from minted_connect.journal.postgres import PostgresJournal, _OperationStatus
from minted_connect.journal.postgres_errors import describe_error
from minted_connect.journal.postgres_transaction import execute, lock
from minted_connect.journal.protocol import Journal, JournalAccount, ReferenceKey
from minted_connect.journal.rows import COLUMNS, to_row
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState, OrderProgress, OrderStatus
from minted_connect.secret import Secret
from tests.completion.fakes import CUSTOMER, TOKEN, intent_of
from tests.completion.processes import run_together, start_child
from tests.support.leak_text import local_variables, texts_of
from tests.support.postgres import BUYER, PASSWORD, Cluster, Database

pytestmark = pytest.mark.anyio

GUEST = "canary-guest"


@pytest.fixture(params=[0, 4], ids=["no pool", "pool"])
def pool_size(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
async def journal(database: Database, pool_size: int) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(database.url, pool_size=pool_size)
    yield journal
    await journal.aclose()


@pytest.fixture
async def short_patience(database: Database, pool_size: int) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(database.url, pool_size=pool_size, patience=1.0)
    yield journal
    await journal.aclose()


def assert_private(error: BaseException) -> None:
    texts = "".join([*texts_of(error), local_variables(error)])
    for secret in (PASSWORD, "canary-p", BUYER, GUEST, TOKEN, CUSTOMER):
        assert secret not in texts


async def expect_journal_error(call: Awaitable[object], message: str, database: Database | None = None) -> JournalError:
    """Await a call that must fail with this message, and check that the error holds no private data."""
    with pytest.raises(JournalError, match=message) as caught:
        await call
    error = caught.value
    assert isinstance(error, NotSent)
    assert database is None or f"the journal postgresql://127.0.0.1:{database.port}/{database.name} " in str(error)
    assert_private(error)
    return error


async def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not become true")


def is_waiting(database: Database) -> bool:
    """Return whether a session waits for a lock of another one."""
    return bool(database.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))


def set_default(database: Database, setting: str) -> None:
    """Change a default setting of the journal's role in this database."""
    database.execute(f'ALTER ROLE "{BUYER}" IN DATABASE {database.name} SET {setting}')


def add_insert_trigger(database: Database, action: str, *, at_commit: bool = False) -> None:
    """Let the server run `action` while it stores an intent."""
    kind, when = ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED") if at_commit else ("TRIGGER", "")
    database.execute(
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {action}; RETURN NEW; END $$;"
        f"CREATE {kind} act {'AFTER' if at_commit else 'BEFORE'} INSERT ON minted_connect_intents {when} "
        "FOR EACH ROW EXECUTE FUNCTION act()",
        user=BUYER,
    )


@attrs.define
class BreakingProxy:
    """A proxy that fails at the first COMMIT: it closes the connection before, during or after, or stays silent."""

    port: int
    failure: str
    reconnects: bool
    """Whether later connections are forwarded."""
    server: asyncio.Server | None = None
    has_failed: bool = False

    async def __aenter__(self) -> int:
        self.server = await asyncio.start_server(self.forward_connection, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()

    async def forward_connection(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.has_failed and not self.reconnects:
            to_client.close()
            return
        server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        is_failed_connection = False

        async def forward() -> None:
            nonlocal is_failed_connection
            while data := await client.read(65536):
                if b"COMMIT\0" in data and not self.has_failed:
                    self.has_failed = is_failed_connection = True
                    if self.failure == "before":
                        break
                to_server.write(data)
                if is_failed_connection and self.failure == "during":
                    to_client.close()
            to_server.close()

        async def forward_response() -> None:
            while data := await server.read(65536):
                if not is_failed_connection:
                    to_client.write(data)
                elif self.failure == "after":
                    break
            to_client.close()

        await asyncio.gather(forward(), forward_response(), return_exceptions=True)


# --- durability ----------------------------------------------------------------------------------------------------


async def test_transactions_set_durability_and_timeouts(database: Database, journal: PostgresJournal) -> None:
    set_default(database, "synchronous_commit = off")
    set_default(database, "default_transaction_isolation = 'serializable'")
    assert database.execute("SHOW synchronous_commit", user=BUYER) == [("off",)]
    names = ["synchronous_commit", "transaction_isolation", "lock_timeout", "statement_timeout", "application_name"]

    async def work(connection: Any) -> Any:
        assert connection.prepare_threshold is None
        [row] = await execute(connection, f"SELECT {', '.join(f'''current_setting('{name}')''' for name in names)}")
        return row

    commit, isolation, lock, statement, name = await journal._run(work, _OperationStatus())
    assert (commit, isolation, name) == ("on", "read committed", "minted_connect")
    assert 0 < int(lock.removesuffix("ms")) < int(statement.removesuffix("ms")) < 5000


@pytest.mark.parametrize("signal_number", [signal.SIGQUIT, signal.SIGKILL])
async def test_intent_survives_a_server_crash(
    cluster: Cluster, database: Database, journal: PostgresJournal, pool_size: int, signal_number: signal.Signals
) -> None:
    # The process of a session may outlive its server for a moment.
    message = "cannot be reached|closed the connection|shutting down" if pool_size else "cannot be reached"
    set_default(database, "synchronous_commit = off")
    await journal.pending()
    await journal.prepare(intent_of())
    cluster.stop(signal_number)  # data that is not yet on the disk is lost
    try:
        await expect_journal_error(journal.prepare(intent_of(id="while it is down")), message, database)
    finally:
        cluster.start()
    assert await journal.pending() == [intent_of()]


async def test_journal_works_after_a_server_restart(cluster: Cluster, journal: PostgresJournal) -> None:
    await journal.prepare(intent_of())
    cluster.stop()
    cluster.start()
    await journal.settle(intent_of().id, IntentState.UNKNOWN)
    assert [intent.state for intent in await journal.pending()] == [IntentState.UNKNOWN]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
async def test_server_stopped_during_prepare_stores_nothing(
    cluster: Cluster, database: Database, journal: PostgresJournal, signal_number: signal.Signals
) -> None:
    await journal.prepare(intent_of(id="first", cart_token="first"))
    other = database.connect()
    other.execute("BEGIN; LOCK TABLE minted_connect_intents")
    preparing = asyncio.create_task(journal.prepare(intent_of()))
    await wait_until(lambda: is_waiting(database))
    cluster.stop(signal_number)
    try:
        await expect_journal_error(preparing, "closed the connection|shutting down", database)
    finally:
        other.close()
        cluster.start()
    assert [intent.id for intent in await journal.pending()] == ["first"]
    await journal.prepare(intent_of())


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("before", "closed the connection"),
        ("during", "closed the connection"),
        ("after", "closed the connection"),
        ("silently", "did not respond in time"),
    ],
)
async def test_commit_with_lost_response_is_settled_as_not_sent(
    database: Database, pool_size: int, failure: str, message: str
) -> None:
    direct = PostgresJournal(database.url)
    await direct.pending()
    if failure == "during":
        add_insert_trigger(database, "PERFORM pg_sleep(0.2)", at_commit=True)
    async with (
        BreakingProxy(database.port, failure, reconnects=True) as port,
        asyncio.timeout(5),
    ):  # psycopg itself would wait longer
        journal = PostgresJournal(database.url_with(port=port), patience=1.0, pool_size=pool_size)
        await expect_journal_error(journal.prepare(intent_of()), message)
        await journal.aclose()
    assert await direct.pending() == []
    rows = database.execute("SELECT state FROM minted_connect_intents")
    assert rows == ([] if failure == "before" else [("not_sent",)])
    await direct.prepare(intent_of(id="again"))


@pytest.mark.parametrize("failure", ["before", "after"])
async def test_commit_that_cannot_be_undone_is_reported(database: Database, failure: str) -> None:
    direct = PostgresJournal(database.url)
    await direct.pending()
    async with BreakingProxy(database.port, failure, reconnects=False) as port:
        error = await expect_journal_error(
            PostgresJournal(database.url_with(port=port)).prepare(intent_of()), "closed the"
        )
    assert "the intent may be stored all the same, and show in complete.pending(): nothing was sent" in str(error)
    assert await direct.pending() == ([] if failure == "before" else [intent_of()])


@pytest.fixture
def no_standby(cluster: Cluster, database: Database) -> Iterator[None]:
    """Create the journal, and let the server wait at every commit for a standby that does not exist."""
    asyncio.run(PostgresJournal(database.url).pending())
    cluster.stop()
    cluster.start(synchronous_standby_names="nobody")
    yield
    cluster.stop()
    cluster.start()


@pytest.mark.parametrize("cancelled", ["in time", "by hand"])
@pytest.mark.usefixtures("no_standby")
async def test_commit_that_the_standby_does_not_confirm_fails(
    database: Database, journal: PostgresJournal, short_patience: PostgresJournal, cancelled: str
) -> None:
    if cancelled == "in time":
        error = await expect_journal_error(short_patience.prepare(intent_of()), "did not respond in time", database)
    else:
        preparing = asyncio.create_task(journal.prepare(intent_of()))
        stop = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await wait_until(lambda: [database.execute(stop), preparing.done()][-1])
        error = await expect_journal_error(preparing, "stored the record, but its standby did not confirm it", database)
    assert "may be stored all the same" in str(error)
    assert await journal.pending() == []  # settled as not sent


# --- one active intent per basket, on any number of machines -------------------------------------------------------


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("state", ["prepared", "confirmed"])
async def test_no_intent_is_stored_between_search_and_insert(
    database: Database, journal: PostgresJournal, isolation: str, state: str
) -> None:
    set_default(database, f"default_transaction_isolation = '{isolation}'")
    await journal.prepare(intent_of(id="first"))
    await journal.settle("first", IntentState.REJECTED)
    other = await psycopg.AsyncConnection.connect(database.url)
    async with other:
        await lock(other, None, CUSTOMER)  # like another machine that is preparing an intent
        preparing = asyncio.create_task(journal.prepare(intent_of(id="second")))
        await wait_until(lambda: is_waiting(database))
        await other.execute(f"UPDATE minted_connect_intents SET state = '{state}', order_id = 10984")
    with pytest.raises(AlreadyInFlight, match="first"):
        await preparing


@pytest.mark.requirement(47)
@pytest.mark.parametrize("state", ["prepared", "confirmed"])
async def test_prepare_waits_for_another_machine_with_the_same_reference(database: Database, state: str) -> None:
    journal = PostgresJournal(database.url)
    owned = {"server": "s", "account": "a", "reference": "november", "terms": "{}"}
    key = ReferenceKey("november", JournalAccount("s", "a"), "a")
    await journal.prepare(intent_of(id="first", **owned), key=key)
    await journal.settle("first", IntentState.REJECTED)
    other = await psycopg.AsyncConnection.connect(database.url)
    async with other:
        await lock(other, "november", "another customer")
        preparing = asyncio.create_task(journal.prepare(intent_of(id="second", **owned), key=key, known=["first"]))
        await wait_until(lambda: is_waiting(database))
        await other.execute(
            f"UPDATE minted_connect_intents SET state = '{state}', cart_token = 'another', order_id = 10984"
        )
    with pytest.raises(AlreadyInFlight, match="this reference"):
        await preparing


async def test_index_rejects_a_second_intent_without_the_lock(database: Database, journal: PostgresJournal) -> None:
    await journal.prepare(intent_of())
    insert = 'INSERT INTO minted_connect_intents SELECT (jsonb_populate_record(one, \'{"id": "again"}\')).*'
    copy = f"{insert.replace('INTO minted_connect_intents', 'INTO minted_connect_intents OVERRIDING USER VALUE')}"
    with pytest.raises(psycopg.errors.UniqueViolation, match="minted_connect_one_open"):
        database.execute(f"{copy} FROM minted_connect_intents AS one")
    await journal.settle(intent_of().id, IntentState.REJECTED)
    with database.connect() as other:
        other.execute(f"BEGIN; {copy} FROM minted_connect_intents AS one".replace('"again"', '"x", "state": "unknown"'))
        preparing = asyncio.create_task(journal.prepare(intent_of(id="third")))
        await wait_until(lambda: is_waiting(database))
        other.execute("COMMIT")
        await expect_journal_error(preparing, "rejects this intent: another intent has the same basket", database)
    await expect_journal_error(
        journal.prepare(intent_of(cart_token="another")), "rejects this intent", database
    )  # the same id


async def test_concurrent_machines_create_the_tables_once(database: Database) -> None:
    body = """
    print("ready", flush=True); sys.stdin.readline()
    intents = [intent_of(id=f"{sys.argv[2]}{n}", cart_token=str(n)) for n in range(4)]
    results = await asyncio.gather(*map(journal.prepare, intents), return_exceptions=True)
    print(*(error for error in results if not isinstance(error, AlreadyInFlight | None)), len(await journal.pending()))
    """
    assert run_together([start_child(body.strip(), database.url, name) for name in "abc"]) == ["4\n"] * 3
    assert database.execute("SELECT version FROM minted_connect_journal") == [(postgres.VERSION,)]


async def test_role_without_create_permission_uses_the_tables(database: Database, guest: str) -> None:
    await expect_journal_error(PostgresJournal(guest).prepare(intent_of()), "role has no permission", database)
    await PostgresJournal(database.url).prepare(intent_of())
    await expect_journal_error(PostgresJournal(guest).pending(), "role has no permission", database)
    database.execute(f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "{GUEST}"')
    await PostgresJournal(guest).prepare(intent_of(id="second", cart_token="second"))
    await PostgresJournal(guest).settle("second", IntentState.UNKNOWN)
    assert len(await PostgresJournal(guest).pending()) == 2
    database.execute(f"REVOKE CONNECT ON DATABASE {database.name} FROM PUBLIC")
    await expect_journal_error(PostgresJournal(guest).pending(), "no permission for the database", database)


@pytest.fixture
def guest(database: Database) -> Iterator[str]:
    """Return the URL of a role without tables and permissions."""
    name = sql.Identifier(GUEST)
    with database.connect() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, PASSWORD))
        yield database.url_with(user=GUEST)
        admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


async def test_every_schema_is_a_separate_journal(database: Database) -> None:
    database.execute("CREATE SCHEMA one; CREATE SCHEMA two", user=BUYER)
    journals = [PostgresJournal(database.url_with(query=f"options=-csearch_path%3D{name}")) for name in ("one", "two")]
    for journal in journals:
        await journal.prepare(intent_of())
        assert await journal.pending() == [intent_of()]
    missing = PostgresJournal(database.url_with(query="options=-csearch_path%3Dthree"))
    await expect_journal_error(missing.pending(), "has no schema for its tables: check the search_path", database)


async def test_first_server_that_responds_is_used(database: Database) -> None:
    journal = PostgresJournal(database.url_with(host="127.0.0.1:1,127.0.0.1"))
    assert repr(journal) == f"PostgresJournal('postgresql://127.0.0.1:1,127.0.0.1:{database.port}/{database.name}')"
    await journal.prepare(intent_of())


def test_journal_works_in_several_loops_and_disconnects(database: Database) -> None:
    journal = PostgresJournal(database.url)
    asyncio.run(journal.prepare(intent_of()))
    assert asyncio.run(journal.pending()) == [intent_of()]
    asyncio.run(wait_until(lambda: not database.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", BUYER)))


BASKETS = st.sampled_from(["0", "1"])
PROGRESS = st.builds(OrderProgress, st.sampled_from([*OrderStatus, "Shipped"]), is_final=st.booleans())
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prepare"), BASKETS),
        st.tuples(
            st.just("settle"),
            st.integers(0, 3),
            st.sampled_from(IntentState),
            st.none() | st.integers(-(2**64), 2**64),
            st.none() | PROGRESS,
        ),
        st.tuples(st.just("save_progress"), BASKETS, PROGRESS),
    ),
    max_size=10,
)


async def run_steps(journal: Journal, name: str, steps: list[Any]) -> list[Any]:
    """Execute the steps, and return the errors and the final content."""
    results: list[Any] = []
    ids: list[str] = []
    for kind, *values in steps:
        try:
            match kind, values:
                case "prepare", [basket]:
                    ids.append(f"{name}-{len(ids)}")
                    await journal.prepare(intent_of(id=ids[-1], external_customer_id=name, cart_token=basket))
                case "settle", [number, state, order, progress]:
                    await journal.settle(f"{name}-{number}", state, order_id=order, progress=progress)
                case "save_progress", [basket, progress]:
                    await journal.save_progress(name, basket, progress)
        except AlreadyInFlight as error:
            results.append((str(error), error.intent_id, error.order_id))
    for intents in (await journal.pending(), await journal.awaiting_completion()):
        results.append([intent for intent in intents if intent.external_customer_id == name])
    return [*results, await journal.find_active(name, "0"), await journal.find_active(name, "1")]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_postgres_and_sqlite_journals_behave_equally(database: Database, tmp_path: Path, steps: list[Any]) -> None:
    name = os.urandom(8).hex()

    async def run_both() -> tuple[list[Any], list[Any]]:
        journals = (PostgresJournal(database.url), SqliteJournal(tmp_path / "journal.db"))
        postgres_result, sqlite_result = await asyncio.gather(
            *(run_steps(journal, name, steps) for journal in journals)
        )
        return postgres_result, sqlite_result

    postgres_result, sqlite_result = asyncio.run(run_both())
    assert postgres_result == sqlite_result


# --- versions of the schema ----------------------------------------------------------------------------------------


MIGRATION = "ALTER TABLE minted_connect_intents ADD COLUMN weather TEXT; CREATE TABLE in_the_way ()"


async def test_concurrent_operations_migrate_the_schema_once(
    database: Database, journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.prepare(intent_of())
    monkeypatch.setattr(postgres, "STEPS", (*postgres.STEPS, MIGRATION))
    monkeypatch.setattr(postgres, "VERSION", len(postgres.STEPS))
    found = await asyncio.gather(*(PostgresJournal(database.url).pending() for _ in range(6)))
    assert found == [[intent_of()]] * 6
    assert database.execute("SELECT version FROM minted_connect_journal") == [(postgres.VERSION,)]
    assert database.execute("SELECT weather FROM minted_connect_intents") == [(None,)]


async def test_failed_migration_changes_nothing(
    database: Database, journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.prepare(intent_of())
    database.execute("CREATE TABLE in_the_way ()", user=BUYER)
    with monkeypatch.context() as patch:
        patch.setattr(postgres, "STEPS", (*postgres.STEPS, MIGRATION))
        patch.setattr(postgres, "VERSION", len(postgres.STEPS))
        await expect_journal_error(journal.pending(), "names of the journal's tables", database)
    assert database.execute("SELECT version FROM minted_connect_journal") == [(postgres.VERSION,)]
    assert await journal.pending() == [intent_of()]


async def test_journal_with_schema_version_1_is_migrated(database: Database, journal: PostgresJournal) -> None:
    database.execute(f"{postgres.STEPS[0]}; UPDATE minted_connect_journal SET version = 1", user=BUYER)
    values = dict(zip(COLUMNS, to_row(intent_of()), strict=True))
    later = [
        "fenced_at",
        "server",
        "account",
        "send_before",
        "refusal",
        "reference",
        "terms",
        "decided_at",
        "forgotten_at",
        "imported_at",
        "assigned_at",
        "erased_at",
    ]
    names = [name for name in COLUMNS if name not in later]
    placeholders = ", ".join(["%s"] * len(names))
    insert = f"INSERT INTO minted_connect_intents ({', '.join(names)}) VALUES ({placeholders})"
    database.execute(insert, *(values[name] for name in names), user=BUYER)
    assert await journal.pending() == [intent_of()]
    await journal.fence(intent_of().id, intent_of().created_at)
    assert [one.fenced_at for one in await journal.pending()] == [intent_of().created_at]


NEWER = f"UPDATE minted_connect_journal SET version = {postgres.VERSION + 1}"
NO_VERSION = "DELETE FROM minted_connect_journal"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            NEWER,
            f"has schema {postgres.VERSION + 1}, this library knows {postgres.VERSION}: upgrade the library$",
        ),
        (NO_VERSION, "contains a record that cannot be read$"),
        (
            "ALTER TABLE minted_connect_journal RENAME version TO x",
            "contains other tables with the names of the journal's tables$",
        ),
        ("ALTER TABLE minted_connect_intents DROP COLUMN items", "names of the journal's tables$"),
    ],
)
async def test_unusable_tables_raise_an_error_with_the_reason(
    database: Database, journal: PostgresJournal, statement: str, message: str
) -> None:
    await journal.prepare(intent_of())
    database.execute(statement)
    await expect_journal_error(journal.pending(), message, database)
    await expect_journal_error(journal.prepare(intent_of(id="second")), message, database)


# --- other errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"basket_id": 2**63}, {"basket_id": 10**30}, {"guid": "\ud800"}, {"guid": "a\0b"}])
async def test_values_that_cannot_be_stored_are_rejected(
    database: Database, journal: PostgresJournal, changes: dict[str, Any]
) -> None:
    await expect_journal_error(journal.prepare(intent_of(**changes)), "cannot store this intent", database)
    assert await journal.pending() == []
    await journal.prepare(intent_of(basket_id=2**63 - 1))


async def test_characters_missing_in_the_encoding_are_rejected(cluster: Cluster) -> None:
    with cluster.database("ENCODING 'LATIN1' TEMPLATE template0") as database:
        journal = PostgresJournal(database.url)
        await expect_journal_error(journal.prepare(intent_of(guid="şifre")), "cannot store this intent", database)
        await journal.prepare(intent_of(guid="clé"))
        assert await journal.pending() == [intent_of(guid="clé")]


async def test_database_without_an_encoding_stores_utf8(cluster: Cluster) -> None:
    with cluster.database("ENCODING 'SQL_ASCII' TEMPLATE template0") as database:
        await PostgresJournal(database.url).prepare(intent_of(guid="şifre"))
        assert await PostgresJournal(database.url).pending() == [intent_of(guid="şifre")]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"password": "canary-password"}, "rejected the user name or the password"),
        ({"password": ""}, "rejected the user name or the password"),
        ({"user": "canary-nobody"}, "rejected the user name or the password"),
        ({"name": "nowhere"}, "cannot be used: the database does not exist"),
        ({"port": 1}, "cannot be reached"),
        ({"host": "nowhere.invalid"}, "cannot be reached"),
        ({"host": "", "query": "host=/nowhere"}, "cannot be reached"),
        ({"query": "sslmode=require"}, "cannot be connected to: client and server accept no common encryption"),
        ({"query": "target_session_attrs=standby"}, "cannot be written: the server is a standby, or set to read only"),
    ],
)
async def test_unusable_server_raises_an_error_with_the_reason(
    database: Database, parts: dict[str, Any], message: str
) -> None:
    # Resolvers retry after five seconds.
    await expect_journal_error(PostgresJournal(database.url_with(**parts), patience=15).prepare(intent_of()), message)


async def test_exhausted_connection_limit_raises_journal_error(database: Database, journal: PostgresJournal) -> None:
    database.execute(f'ALTER ROLE "{BUYER}" CONNECTION LIMIT 0')
    try:
        await expect_journal_error(journal.pending(), "has no free connection", database)
    finally:
        database.execute(f'ALTER ROLE "{BUYER}" CONNECTION LIMIT -1')


async def test_read_only_server_raises_journal_error(database: Database, journal: PostgresJournal) -> None:
    set_default(database, "default_transaction_read_only = on")
    await expect_journal_error(
        journal.pending(), "cannot be written: the server is a standby, or set to read only", database
    )
    set_default(database, "default_transaction_read_only = off")
    await journal.prepare(intent_of())
    set_default(database, "default_transaction_read_only = on")
    await journal.aclose()  # a session keeps the default with which it began
    await expect_journal_error(
        journal.prepare(intent_of(id="second", cart_token="second")), "cannot be written", database
    )
    await expect_journal_error(journal.settle(intent_of().id, IntentState.CONFIRMED), "cannot be written", database)
    assert await journal.pending() == [intent_of()]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("53100", "cannot grow: the disk is full"),
        ("53200", "cannot be written: the server is out of memory, connections or disk space"),
        ("40P01", "is locked by another session"),
        ("57P03", "is starting or shutting down"),
        ("58030", "the disk of the server reports an error"),
        ("XX001", "is damaged"),
        ("08006", "closed the connection"),
        ("P0001", r"failed \(RaiseException\)"),
    ],
)
async def test_server_error_is_described_without_private_data(
    database: Database, journal: PostgresJournal, state: str, message: str
) -> None:
    await journal.pending()
    add_insert_trigger(database, f"RAISE EXCEPTION 'no: %', NEW USING ERRCODE = '{state}', DETAIL = NEW.cart_token")
    await expect_journal_error(journal.prepare(intent_of()), message, database)
    assert await journal.pending() == []


async def test_terminated_session_raises_journal_error(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    add_insert_trigger(database, "PERFORM pg_terminate_backend(pg_backend_pid())")
    await expect_journal_error(
        journal.prepare(intent_of()), "is starting or shutting down|closed the connection", database
    )


async def test_lock_of_another_session_raises_within_patience(
    database: Database, journal: PostgresJournal, short_patience: PostgresJournal
) -> None:
    await journal.pending()
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE minted_connect_intents IN EXCLUSIVE MODE")
        await expect_journal_error(short_patience.prepare(intent_of()), "is locked by another session", database)
        await expect_journal_error(
            short_patience.settle("any", IntentState.UNKNOWN), "is locked by another session", database
        )
        assert await journal.pending() == []  # queries are not blocked
        other.execute("ROLLBACK")
    await journal.prepare(intent_of())


async def test_slow_server_raises_within_patience(
    database: Database, journal: PostgresJournal, short_patience: PostgresJournal
) -> None:
    await journal.pending()
    add_insert_trigger(database, "PERFORM pg_sleep(60)")
    await expect_journal_error(
        short_patience.prepare(intent_of()), "did not respond in time: the server was too slow", database
    )
    await journal.aclose()
    await wait_until(lambda: not database.execute("SELECT 1 FROM pg_stat_activity WHERE usename = %s", BUYER))


async def test_silent_server_raises_within_patience() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        journal = PostgresJournal(f"postgresql://u:canary@127.0.0.1:{silent.getsockname()[1]}/db", patience=0.2)
        await expect_journal_error(
            journal.prepare(intent_of()), "cannot be reached: the server did not respond in time"
        )


async def test_cancellation_waits_for_the_operation(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE minted_connect_intents IN EXCLUSIVE MODE")
        task = asyncio.create_task(journal.prepare(intent_of()))
        await wait_until(lambda: is_waiting(database))
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        other.execute("ROLLBACK")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await journal.pending() == [intent_of()]


async def test_cancelled_operation_ends_within_patience(
    database: Database, journal: PostgresJournal, short_patience: PostgresJournal
) -> None:
    await journal.pending()
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE minted_connect_intents IN EXCLUSIVE MODE")
        task = asyncio.create_task(short_patience.prepare(intent_of()))
        await wait_until(lambda: is_waiting(database))
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert_private(caught.value)
        other.execute("ROLLBACK")
    assert await journal.pending() == []


async def test_executor_that_is_shut_down_raises_journal_error(database: Database) -> None:
    await asyncio.get_running_loop().shutdown_default_executor()
    await expect_journal_error(
        PostgresJournal(database.url_with(host="localhost")).pending(),
        "no thread is available to resolve the host name",
    )


def test_describe_error_of_client_errors() -> None:
    text = describe_error(psycopg.InterfaceError("Psycopg cannot use the 'ProactorEventLoop'"), connected=False)
    assert text == "cannot be used on this event loop: psycopg needs a SelectorEventLoop"
    assert (
        describe_error(psycopg.OperationalError("Verbindung nicht möglich"), connected=False)
        == "cannot be connected to"
    )
    assert describe_error(AssertionError(), connected=True) is None


async def test_other_errors_are_raised_unchanged(journal: PostgresJournal) -> None:
    async def work(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await journal._run(work, _OperationStatus())


async def test_psycopg_logs_no_private_data(
    database: Database, journal: PostgresJournal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "psycopg")
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=1)
    await expect_journal_error(
        PostgresJournal(database.url_with(name="nowhere")).pending(), "the database does not exist"
    )
    logged = "".join(caplog.handler.format(record) + repr(record.args) for record in caplog.records)
    assert "psycopg" in logged
    assert not [secret for secret in (PASSWORD, "canary-p", TOKEN, CUSTOMER) if secret in logged]


# --- the URL, and the clients --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://canary-u:canary-p@db.example/orders", "postgresql://db.example:5432/orders"),
        ("postgres://db.example:6432/orders?password=canary-p&user=canary-u", "postgresql://db.example:6432/orders"),
        ("postgresql://canary-u:canary%40%2Fp@[::1]:6432/orders", "postgresql://[::1]:6432/orders"),
        ("postgresql://canary-u@a,b:6432/orders", "postgresql://a:,b:6432/orders"),
        ("postgresql:///orders?host=/run/postgresql", "postgresql:///run/postgresql:5432/orders"),
        ("postgresql:///orders?hostaddr=10.0.0.1&port=7", "postgresql://10.0.0.1:7/orders"),
    ],
)
def test_repr_contains_no_user_and_no_password(url: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert repr(PostgresJournal(url)) == repr(PostgresJournal(Secret(url))) == f"PostgresJournal('{expected}')"


def test_repr_completes_the_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGHOST", "db.example"), ("PGPORT", "6432"), ("PGDATABASE", "orders")):
        monkeypatch.setenv(name, value)
    assert repr(PostgresJournal("postgresql://")) == "PostgresJournal('postgresql://db.example:6432/orders')"


WRONG_URLS = [
    "postgresql://canary:p@canary@db.example/orders",
    "postgresql://canary:p@canary/word@db.example/orders",
    "postgresql://canary:a/canary@db.example/orders",
    "postgresql://canary:%zz@db.example/orders",
    "postgresql://db.example:canary/orders",
    "postgresql://db.example/orders?canary=1",
    "postgresql://db.example/orders%0Acanary",
    "postgresql://db.example/orders\0canary",
    "postgresql://db.example/orders\ud800canary",
    "mysql://canary:canary@db.example/orders",
    "https://canary:canary@db.example/orders",
    "sqlite:///canary.db",
]


@pytest.mark.parametrize("url", WRONG_URLS)
@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
def test_invalid_url_is_rejected_without_showing_it(url: str, client: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^journal: must be ") as caught:
        client("partner", "secret", journal=url)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[1:]
    assert "canary" not in "".join([*texts_of(caught.value), *(str(frame.locals) for frame in frames)])


@pytest.mark.parametrize("patience", [0, -1, float("nan"), float("inf"), True, "5", None])
def test_invalid_patience_is_rejected(patience: Any) -> None:
    with pytest.raises(ConfigurationError, match="patience: must be seconds"):
        PostgresJournal("postgresql://db.example/orders", patience=patience)


async def test_extreme_values_of_patience_work(database: Database) -> None:
    await PostgresJournal(database.url, patience=sys.float_info.max).prepare(intent_of())
    await expect_journal_error(
        PostgresJournal(database.url, patience=1e-9).pending(), "did not respond in time", database
    )


@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
def test_missing_psycopg_raises_with_the_install_command(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert minted_connect.PostgresJournal is PostgresJournal  # the name is available without psycopg
    with pytest.raises(ConfigurationError, match=r'pip install "minted-connect\[postgres\]"') as caught:
        client("partner", "secret", journal="postgresql://canary:canary@db.example/orders")
    assert "canary" not in "".join(texts_of(caught.value)).replace('journal="postgresql://canary:canary', "")


@pytest.mark.parametrize("source", ["argument", "environment", "object"])
async def test_client_uses_and_closes_its_postgres_journal(
    database: Database, flavour: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[object] = []
    close = PostgresJournal.aclose

    async def aclose(journal: PostgresJournal) -> None:
        closed.append(journal)
        await close(journal)

    monkeypatch.setattr(PostgresJournal, "aclose", aclose)
    await PostgresJournal(database.url).prepare(intent_of())
    for name, value in (("USERNAME", "partner"), ("PASSWORD", "secret"), ("JOURNAL", database.url)):
        monkeypatch.setenv(f"MINTED_CONNECT_{name}", value)
    journal = PostgresJournal(database.url) if source == "object" else database.url.replace("postgresql", "postgres", 1)

    def build(client: Any) -> Any:
        return client.from_env() if source == "environment" else client("partner", "secret", journal=journal)

    if flavour == "async":
        async with build(AsyncMintedConnect) as minted:
            assert await minted.complete.pending() == [intent_of()]
    else:

        def work() -> None:
            with build(MintedConnect) as minted:
                assert minted.complete.pending() == [intent_of()]

        await asyncio.to_thread(work)
    assert len(closed) == (source != "object")
