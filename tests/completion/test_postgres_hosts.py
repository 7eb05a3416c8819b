"""URLs with several hosts: open intents are read from the primary only, even while it is down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.journal.postgres import PostgresJournal
from tests.completion.fakes import intent_of
from tests.support.postgres import BUYER, Cluster, Database, running

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def second() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture
def second_database(second: Cluster, database: Database) -> Iterator[Database]:
    """Return an empty database with the same name on another server, like a standby that lags behind."""
    copy = Database(second.port, database.name)
    second.template.execute(f'CREATE DATABASE {copy.name} OWNER "{BUYER}"')
    connection = copy.connect(BUYER)
    connection.close()
    yield copy
    second.template.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")


def url_of_both(first: Database, second: Database, query: str = "") -> str:
    return first.url_with(query, host=f"127.0.0.1:{first.port},127.0.0.1", port=second.port)


@pytest.fixture
async def read_only(second_database: Database) -> Database:
    await PostgresJournal(second_database.url).pending()
    second_database.execute(
        f'ALTER ROLE "{BUYER}" IN DATABASE {second_database.name} SET default_transaction_read_only = on'
    )
    return second_database


@pytest.mark.parametrize("query", ["", "target_session_attrs=any", "target_session_attrs=read-write"])
@pytest.mark.parametrize("order", ["primary first", "standby first"])
async def test_pending_reads_from_the_writable_server(
    database: Database, read_only: Database, query: str, order: str
) -> None:
    await PostgresJournal(database.url).prepare(intent_of())
    hosts = (database, read_only) if order == "primary first" else (read_only, database)
    journal = PostgresJournal(url_of_both(*hosts, query))
    assert await journal.pending() == [intent_of()]
    await journal.prepare(intent_of(id="second", cart_token="second"))
    assert len(await PostgresJournal(database.url).pending()) == 2


async def test_pending_without_the_primary_raises_journal_error(
    cluster: Cluster, database: Database, read_only: Database
) -> None:
    journal = PostgresJournal(url_of_both(database, read_only))
    await journal.prepare(intent_of())
    cluster.stop()
    try:
        with pytest.raises(JournalError, match="cannot be"):
            await journal.pending()  # must not report that nothing is open
        with pytest.raises(JournalError, match="cannot be"):
            await journal.prepare(intent_of(id="second", cart_token="second"))
    finally:
        cluster.start()
    assert await journal.pending() == [intent_of()]


@pytest.mark.parametrize("session_attrs", ["read-only", "standby", "prefer-standby"])
@pytest.mark.parametrize("source", ["url", "environment"])
def test_several_hosts_with_a_standby_request_are_rejected(
    session_attrs: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://canary:canary@a,b/orders"
    if source == "url":
        url += f"?target_session_attrs={session_attrs}"
    else:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", session_attrs)
    with pytest.raises(ConfigurationError, match=r"^journal: target_session_attrs must be read-write") as caught:
        PostgresJournal(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "session"),
    [
        ("postgresql://a/orders", {}),
        ("postgresql://a,b/orders", {"target_session_attrs": "read-write"}),
        ("postgresql:///orders?hostaddr=10.0.0.1,10.0.0.2", {"target_session_attrs": "read-write"}),
        ("postgresql://a,b/orders?target_session_attrs=primary", {}),
    ],
)
def test_several_hosts_request_the_writable_server(url: str, session: Any) -> None:
    assert PostgresJournal(url)._connections._params == session


@pytest.fixture
def standby(cluster: Cluster, second: Cluster) -> Iterator[Cluster]:
    """Run the second server as a standby, which stays in recovery."""
    second.stop()
    (second.folder / "data" / "standby.signal").touch()
    second.start()
    yield second
    second.stop()
    (second.folder / "data" / "standby.signal").unlink()
    second.start()


async def test_pending_on_a_standby_raises_journal_error(
    second_database: Database, request: pytest.FixtureRequest
) -> None:
    await PostgresJournal(second_database.url).prepare(intent_of())
    request.getfixturevalue("standby")
    journal = PostgresJournal(second_database.url)
    for call in (journal.pending, journal.awaiting_completion):
        with pytest.raises(JournalError, match="the server is a standby, which lags behind: name the primary"):
            await call()
