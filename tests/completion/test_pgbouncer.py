"""The PostgreSQL journal behind PgBouncer, which gives each transaction another session of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.errors import AlreadyInFlight, JournalError
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.models import IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import intent_of
from tests.support.operations import GOLD
from tests.support.postgres import BUYER, PASSWORD, START, Database
from tests.support.programs import find
from tests.support.subprocesses import until

pytestmark = pytest.mark.anyio

SERVER_SESSIONS = 2


def configuration(folder: Path, port: int, database: Database) -> str:
    return f"""
[databases]
* = host=127.0.0.1 port={database.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder / "users"}
pool_mode = transaction
default_pool_size = {SERVER_SESSIONS}
query_wait_timeout = 20
"""


@pytest.fixture
def bouncer(database: Database) -> Iterator[str]:
    """Yield the URL of the database through PgBouncer, in the mode `transaction`."""
    program = find("pgbouncer")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{BUYER}" "{PASSWORD}"\n', "utf-8")
        (folder / "pgbouncer.ini").write_text(configuration(folder, port, database), "utf-8")
        # PgBouncer refuses to run as root.
        account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if account:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres", "postgres")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, folder / "pgbouncer.ini"], stdout=log, stderr=log, **account)
        url = database.url_with(port=port)

        def is_ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                psycopg.connect(url).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            until(is_ready)
            yield url
        finally:
            process.terminate()
            process.wait(START)


@pytest.fixture(params=[0, 4], ids=["no pool", "pool"])
async def journal(bouncer: str, request: pytest.FixtureRequest) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(bouncer, pool_size=request.param)
    yield journal
    await journal.aclose()


async def test_concurrent_intents_are_stored_once_each(database: Database, journal: PostgresJournal) -> None:
    await journal.pending()
    intents = [intent_of(id=f"{n}", cart_token=f"{n // 2}") for n in range(20)]
    results = await asyncio.gather(*(journal.prepare(intent) for intent in intents), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [AlreadyInFlight] * 10
    stored = await journal.pending()
    assert sorted(intent.cart_token for intent in stored) == sorted(f"{n}" for n in range(10))
    await asyncio.gather(*(journal.settle(intent.id, IntentState.CONFIRMED, order_id=1) for intent in stored))
    assert await PostgresJournal(database.url).pending() == []
    assert len(await PostgresJournal(database.url).awaiting_completion()) == 10


async def test_sessions_keep_no_setting_and_no_lock(database: Database, bouncer: str, journal: PostgresJournal) -> None:
    await asyncio.gather(*(journal.prepare(intent_of(id=f"{n}", cart_token=f"{n}")) for n in range(8)))
    names = ("lock_timeout", "statement_timeout", "transaction_read_only", "transaction_isolation")
    connections = [await psycopg.AsyncConnection.connect(bouncer, autocommit=True) for _ in range(SERVER_SESSIONS)]
    for connection in connections:
        await connection.execute("BEGIN")  # each takes a session of the server
    for connection in connections:
        found = [(await (await connection.execute(f"SHOW {name}".encode())).fetchall())[0][0] for name in names]
        assert found == ["0", "0", "off", "read committed"]
        await connection.close()
    assert database.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []


async def test_server_restart_behind_the_pooler(database: Database, journal: PostgresJournal) -> None:
    await journal.prepare(intent_of())
    database.execute("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE usename = %s", BUYER)
    try:
        await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=1)
    except JournalError:
        # The pooler may notice only now that its session has ended.
        await journal.settle(intent_of().id, IntentState.CONFIRMED, order_id=1)
    assert await journal.pending() == []


async def test_purchases_are_made_once_each(bouncer: str, sandbox: Sandbox) -> None:
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=bouncer) as minted:
        customers = [f"customer-{n}" for n in range(10)]
        for customer in customers:
            await minted.customers.create(customer)
        baskets = [await minted.baskets.add_item(customer, sku=GOLD) for customer in customers]
        done = await asyncio.gather(
            *(minted.complete.buy(basket, expected_total=basket.paid_total) for basket in baskets)
        )
        assert len({completion.order_id for completion in done}) == 10
        assert await minted.complete.pending() == []
