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
def behind(second: Cluster, database: Database) -> Iterator[Database]:
    """An empty database with the same name on another server, like a standby that lags behind."""
    copy = Database(second.port, database.name)
    second.template.execute(f'CREATE DATABASE {copy.name} OWNER "{BUYER}"')
    connection = copy.connect(BUYER)
    connection.close()
    yield copy
    second.template.execute(f"DROP DATABASE {copy.name} WITH (FORCE)")


def both(first: Database, second: Database, query: str = "") -> str:
    return first.url_with(query, host=f"127.0.0.1:{first.port},127.0.0.1", port=second.port)


@pytest.fixture
async def read_only(behind: Database) -> Database:
    await PostgresJournal(behind.url).pending()
    behind.execute(f'ALTER ROLE "{BUYER}" IN DATABASE {behind.name} SET default_transaction_read_only = on')
    return behind


@pytest.mark.parametrize("query", ["", "target_session_attrs=any", "target_session_attrs=read-write"])
@pytest.mark.parametrize("order", ["primary first", "standby first"])
async def test_the_server_that_can_be_written_is_read(
    database: Database, read_only: Database, query: str, order: str
) -> None:
    await PostgresJournal(database.url).prepare(intent_of())
    hosts = (database, read_only) if order == "primary first" else (read_only, database)
    journal = PostgresJournal(both(*hosts, query))
    assert await journal.pending() == [intent_of()]
    await journal.prepare(intent_of(id="second", cart_token="second"))
    assert len(await PostgresJournal(database.url).pending()) == 2


async def test_without_the_primary_nothing_is_read(cluster: Cluster, database: Database, read_only: Database) -> None:
    journal = PostgresJournal(both(database, read_only))
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


@pytest.mark.parametrize("wanted", ["read-only", "standby", "prefer-standby"])
@pytest.mark.parametrize("where", ["url", "environment"])
def test_several_hosts_with_standby_requested_are_refused(
    wanted: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://canary:canary@a,b/orders"
    if where == "url":
        url += f"?target_session_attrs={wanted}"
    else:
        monkeypatch.setenv("PGTARGETSESSIONATTRS", wanted)
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
def test_several_hosts_request_the_writable_one(url: str, session: Any) -> None:
    assert PostgresJournal(url)._connect_params == session


@pytest.fixture
def standby(cluster: Cluster, second: Cluster) -> Iterator[Cluster]:
    """The second server as a standby, which stays in recovery."""
    second.stop()
    (second.folder / "data" / "standby.signal").touch()
    second.start()
    yield second
    second.stop()
    (second.folder / "data" / "standby.signal").unlink()
    second.start()


async def test_a_standby_is_not_read(behind: Database, request: pytest.FixtureRequest) -> None:
    await PostgresJournal(behind.url).prepare(intent_of())
    request.getfixturevalue("standby")
    journal = PostgresJournal(behind.url)
    for call in (journal.pending, journal.awaiting_completion):
        with pytest.raises(JournalError, match="the server is a standby, which lags behind: name the primary"):
            await call()
