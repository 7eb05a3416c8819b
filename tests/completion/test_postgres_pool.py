"""Tests of the connection pool of the PostgreSQL journal; `test_postgres` runs with and without a pool."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator

import psycopg
import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError
from minted_connect.journal import postgres_connections
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.models import IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import intent_of
from tests.completion.test_postgres import (
    BreakingProxy,
    add_insert_trigger,
    expect_journal_error,
    is_waiting,
    wait_until,
)
from tests.support.postgres import BUYER, Database
from tests.support.subprocesses import python

pytestmark = pytest.mark.anyio


@pytest.fixture
async def journal(database: Database) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(database.url, pool_size=3)
    yield journal
    await journal.aclose()


def sessions(database: Database) -> list[int]:
    """Return the process ids of the server's sessions of the journal, oldest first."""
    query = "SELECT pid FROM pg_stat_activity WHERE usename = %s ORDER BY backend_start"
    return [pid for (pid,) in database.execute(query, BUYER)]


async def test_operations_reuse_one_session(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    first = sessions(database)
    await journal.prepare(intent_of())
    await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=1)
    assert await journal.pending() == []
    assert sessions(database) == first
    assert len(first) == 1


async def test_concurrent_operations_open_at_most_the_pool(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    intents = [intent_of(id=f"{i}", cart_token=f"{i}", external_customer_id=f"{i}") for i in range(20)]
    await asyncio.gather(*(journal.prepare(intent) for intent in intents))
    assert len(await journal.pending()) == 20
    assert len(sessions(database)) == 3


async def test_session_keeps_no_setting_of_a_transaction(database: Database, journal: PostgresJournal) -> None:
    await journal.prepare(intent_of())
    async with journal._connections.connection(5) as connection:
        names = ("lock_timeout", "statement_timeout", "synchronous_commit", "transaction_read_only")
        found = [(await (await connection.execute(f"SHOW {name}".encode())).fetchall())[0][0] for name in names]
        locks = await (await connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'")).fetchall()
    assert found == ["0", "0", "on", "off"]
    assert locks == []
    assert not connection._notice_handlers


async def test_error_of_the_journal_keeps_the_connection(database: Database, journal: PostgresJournal) -> None:
    await journal.prepare(intent_of())
    before = sessions(database)
    with pytest.raises(AlreadyInFlight):
        await journal.prepare(intent_of(id="second"))
    assert sessions(database) == before
    await journal.prepare(intent_of(id="third", cart_token="third"))


async def test_error_of_the_server_closes_the_connection(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    add_insert_trigger(database, "RAISE SQLSTATE '53200'")
    before = sessions(database)
    await expect_journal_error(journal.prepare(intent_of()), "out of memory", database)
    await journal.pending()
    assert not set(before) & set(sessions(database))


@pytest.mark.parametrize("failure", ["before", "after"])
async def test_connection_with_an_uncertain_commit_is_closed(database: Database, failure: str) -> None:
    direct = PostgresJournal(database.url)
    await direct.pending()
    async with BreakingProxy(database.port, failure, reconnects=True) as port:
        journal = PostgresJournal(database.url_with(port=port), pool_size=1)
        await expect_journal_error(journal.prepare(intent_of()), "closed the connection")
        await journal.prepare(intent_of(id="again"))
        await journal.aclose()
    assert await direct.pending() == [intent_of(id="again")]


async def test_commit_refused_by_the_server_closes_the_connection(database: Database) -> None:
    journal = PostgresJournal(database.url, pool_size=1)
    await journal.pending()
    add_insert_trigger(database, "RAISE SQLSTATE '53100'", at_commit=True)
    before = sessions(database)
    await expect_journal_error(journal.prepare(intent_of()), "the disk is full")
    assert await journal.pending() == []
    assert not set(before) & set(sessions(database))
    await journal.aclose()


@pytest.mark.parametrize("count", [1, 3])
async def test_sessions_ended_by_the_server_are_replaced(
    database: Database, journal: PostgresJournal, count: int
) -> None:
    await journal.pending()
    await asyncio.gather(*(journal.pending() for _ in range(count)))
    ended = sessions(database)
    assert len(ended) == count
    database.execute("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = %s", BUYER)
    await journal.prepare(intent_of())
    assert not set(ended) & set(sessions(database))


async def test_connection_lost_without_a_trace_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connections, "_TRUSTED_IDLE", 0.0)
    accepted = list[asyncio.Task[object] | None]()
    is_dropping = False

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, drops: bool) -> None:
        while data := await reader.read(65536):
            if not (drops and is_dropping):
                writer.write(data)
        writer.close()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        accepted.append(asyncio.current_task())
        drops = len(accepted) == 1
        server, to_server = await asyncio.open_connection("127.0.0.1", database.port)
        await asyncio.gather(forward(client, to_server, drops=drops), forward(server, to_client, drops=drops))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy, asyncio.timeout(10):
        port = proxy.sockets[0].getsockname()[1]
        journal = PostgresJournal(database.url_with(port=port), pool_size=1, patience=2.0)
        await journal.pending()
        is_dropping = True
        await journal.prepare(intent_of())
        await journal.pending()
        await journal.aclose()
        assert len(accepted) == 2
        await asyncio.wait([task for task in accepted if task is not None])


async def test_connection_is_replaced_after_its_lifetime(
    database: Database, journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.pending()
    before = sessions(database)
    monkeypatch.setattr(postgres_connections, "_MAX_LIFETIME", 0.0)
    await journal.pending()
    await wait_until(lambda: len(sessions(database)) == 1)
    assert sessions(database) != before


async def test_waiting_for_a_connection_counts_into_patience(database: Database) -> None:
    journal, other = PostgresJournal(database.url, pool_size=1, patience=0.5), database.connect()
    await journal.pending()
    async with journal._connections.connection(5):
        message = "has no free connection: other operations use all connections of its pool"
        await expect_journal_error(journal.prepare(intent_of()), message, database)
    other.execute("BEGIN; LOCK TABLE minted_connect_intents IN EXCLUSIVE MODE")
    results = await asyncio.gather(journal.prepare(intent_of()), journal.pending(), return_exceptions=True)
    assert "is locked by another session" in str(results[0])
    assert results[1] == []  # the lock timed out earlier than the patience
    other.close()
    await journal.prepare(intent_of())
    await journal.aclose()


async def test_wrong_password_is_reported_at_once(database: Database) -> None:
    journal = PostgresJournal(database.url_with(password="canary-p"), pool_size=2, patience=60)
    async with asyncio.timeout(10):
        await expect_journal_error(journal.pending(), "rejected the user name or the password", database)
        # The failed attempts have returned their places in the pool.
        results = await asyncio.gather(*(journal.pending() for _ in range(5)), return_exceptions=True)
    assert all("rejected the user name" in str(result) for result in results)


async def test_cancelled_operation_returns_its_connection(database: Database) -> None:
    journal = PostgresJournal(database.url, pool_size=1)
    await journal.pending()
    for number in range(3):
        with database.connect() as other:
            other.execute("BEGIN; LOCK TABLE minted_connect_intents IN EXCLUSIVE MODE")
            preparing = asyncio.create_task(journal.prepare(intent_of(id=f"{number}", cart_token=f"{number}")))
            await wait_until(lambda: is_waiting(database))
            preparing.cancel()
            other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await preparing
    assert len(sessions(database)) == 1
    await journal.aclose()


async def test_idle_connections_are_closed_in_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_connections, "_MAX_IDLE", 0.1)
    journal = PostgresJournal(database.url, pool_size=3)
    await asyncio.gather(*(journal.pending() for _ in range(3)))
    await wait_until(lambda: not sessions(database))
    await journal.prepare(intent_of())
    await journal.aclose()


async def test_aclose_ends_all_sessions(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    async with journal._connections.connection(5):
        await journal.aclose()
        assert len(sessions(database)) == 1  # in use
    await wait_until(lambda: not sessions(database))
    await journal.aclose()
    await journal.prepare(intent_of())  # opens new ones
    await journal.aclose()
    await wait_until(lambda: not sessions(database))


async def test_client_closes_the_pool_of_its_url(database: Database, sandbox: Sandbox) -> None:
    async with AsyncMintedConnect(
        sandbox.username, sandbox.password, base_url=sandbox.url, journal=database.url
    ) as minted:
        assert await minted.complete.pending() == []
        assert len(sessions(database)) == 1
    await wait_until(lambda: not sessions(database))


def test_event_loops_share_no_connection(database: Database) -> None:
    journal = PostgresJournal(database.url, pool_size=2)
    found: dict[str, object] = {}
    barrier = threading.Barrier(2)

    async def use(name: str) -> None:
        for number in range(10):
            await asyncio.to_thread(barrier.wait, 20)
            await journal.prepare(intent_of(id=f"{name}{number}", cart_token=f"{name}{number}"))
        await journal.aclose()

    def run(name: str) -> None:
        try:
            found[name] = asyncio.run(use(name))
        except Exception as error:
            found[name] = error

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {"a": None, "b": None}
    assert len(asyncio.run(PostgresJournal(database.url).pending())) == 20


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX forks, Windows does not")
def test_fork_leaves_the_sessions_to_the_parent(database: Database) -> None:
    program = """
import asyncio, os, sys
from minted_connect.journal.postgres import PostgresJournal
from tests.completion.fakes import intent_of

journal = PostgresJournal(sys.argv[1], pool_size=2)

async def prepare(name):
    await journal.prepare(intent_of(id=name, cart_token=name))
    async with journal._connections.connection(5) as connection:
        return connection.info.backend_pid

async def end(name):
    pid = await prepare(name)
    await journal.aclose()
    return pid

with asyncio.Runner() as runner:
    before = runner.run(prepare("first"))
    if (child := os.fork()) == 0:
        code = 0 if asyncio.run(end("child")) != before else 1
        sys.stderr.flush()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert runner.run(end("parent")) == before
"""
    process = python(program, database.url)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    pending = asyncio.run(PostgresJournal(database.url).pending())
    assert {intent.id for intent in pending} == {"first", "child", "parent"}


def test_program_that_does_not_close_the_journal_ends(database: Database) -> None:
    program = (
        "import asyncio, sys; from minted_connect.journal.postgres import PostgresJournal\n"
        "journal = PostgresJournal(sys.argv[1], pool_size=2); asyncio.run(journal.pending()); print('ended')"
    )
    process = python(program, database.url)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "ended\n")


@pytest.mark.parametrize("pool_size", [-1, 1.5, True, "3", None])
def test_invalid_pool_size_is_refused(pool_size: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^pool_size: must be an integer of at least 0$"):
        PostgresJournal("postgresql://db.example/orders", pool_size=pool_size)  # type: ignore[arg-type]


async def test_server_errors_stay_journal_errors(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    async with journal._connections.connection(5) as connection:
        with pytest.raises(psycopg.Error):
            await connection.execute("SELECT no_such_column")
    with pytest.raises(JournalError, match="lost its tables"):
        database.execute("DROP TABLE minted_connect_intents, minted_connect_journal, minted_connect_claims", user=BUYER)
        await journal.pending()
