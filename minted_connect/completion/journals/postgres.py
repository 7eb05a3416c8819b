"""A journal in a PostgreSQL database, shared by the processes of any number of machines.

Every operation connects, commits and disconnects again: a purchase is rare beside that, and no connection can be
inherited through a fork, bound to an event loop that has ended, gone stale behind a load balancer, or left open.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from minted_connect.completion.journal import HOLDING, OPEN, already_in_flight, to_the_end
from minted_connect.completion.journals.refusals import said_by
from minted_connect.completion.journals.rows import from_row, quoted
from minted_connect.completion.journals.statements import UNFINISHED, Statements, insertion, settlement
from minted_connect.completion.journals.stored import StoredJournal
from minted_connect.config import Secret, as_secret, is_seconds
from minted_connect.core.extras import load
from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.models import Intent, IntentState

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.errors import Diagnostic

    _Connection = AsyncConnection[tuple[Any, ...]]
    _Work = Callable[[_Connection], Awaitable["_T"]]

__all__ = ["PostgresJournal"]

_T = TypeVar("_T")

_SCHEMES: Final = ("postgresql://", "postgres://")

_LOCKS: Final = 0x4D4E5443
"""Marks advisory locks as ours ("MNTC")."""

_STEPS: Final = (
    # Keys are compared byte by byte: an order of letters that changes with an upgrade of the operating system
    # leaves a broken index behind, and that could let a second open record in.
    f"""
CREATE TABLE minted_connect_journal (version INTEGER NOT NULL);
INSERT INTO minted_connect_journal VALUES (0);
CREATE TABLE minted_connect_intents (
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT NOT NULL,
    external_customer_id TEXT COLLATE "C" NOT NULL,
    cart_token TEXT COLLATE "C" NOT NULL,
    basket_id BIGINT NOT NULL,
    guid TEXT NOT NULL,
    increment_id TEXT NOT NULL,
    price_token TEXT NOT NULL,
    paid_total TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    items TEXT NOT NULL,
    created_at TEXT NOT NULL,
    state TEXT NOT NULL,
    clock_offset INTEGER NOT NULL,
    known_orders TEXT NOT NULL,
    order_id BIGINT,
    progress TEXT,
    finished BOOLEAN NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX minted_connect_one_open ON minted_connect_intents (external_customer_id, cart_token)
    WHERE state IN ({quoted(OPEN)});
CREATE INDEX minted_connect_one_holder ON minted_connect_intents (external_customer_id, cart_token)
    WHERE state IN ({quoted(HOLDING)});
CREATE INDEX minted_connect_unfinished ON minted_connect_intents (number) WHERE {UNFINISHED}
""",  # noqa: S608 - no word of it is input
    "ALTER TABLE minted_connect_intents ADD COLUMN fenced_at TEXT",
)
"""How to come from each version of the schema to the next; what was released is never changed."""

VERSION: Final = len(_STEPS)
"""Of the schema, as `minted_connect_journal` tells it."""

# Not `to_regclass`: within a transaction that one goes on saying no while another session makes the table.
_THERE: Final = (
    "EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'minted_connect_journal' AND pg_table_is_visible(oid))"
)
# SET LOCAL, all at once. Whatever the server's default, what was committed has to be on its disk.
_SET_LOCAL: Final = (
    "SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', %s, true), "
    f"set_config('statement_timeout', %s, true), {_THERE}"
)
# Parts of the time that is left: the server gives up before we do, since it can tell what was waited for in vain.
_LOCK, _STATEMENT = 0.8, 0.9
_LONGEST: Final = 2**31 - 1
"""Milliseconds of a timeout of the server."""


@attrs.define
class _Progress:
    """How far an operation came."""

    connected: bool = False
    committing: bool = False
    """It is not known for sure whether it was committed."""
    late: bool = False
    """Its time was up, and we hung up on the server."""


class PostgresJournal(StoredJournal):
    """A journal in a PostgreSQL database; its two tables are made at first use.

    Machines share it if they find the same tables: the same database, and the same schema by the `search_path` of
    their role. The role has to be allowed to read and write the tables, to create them only if they are not there.
    What is written down is as safe as the server keeps it: where another takes over, let it be a synchronous standby.

    On Windows psycopg needs a `SelectorEventLoop`.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters as its query.
        patience: Seconds for one operation: connecting, locks of others, the server's work.

    Raises:
        ConfigurationError: no such URL, or psycopg is not installed (`pip install "minted-connect[postgres]"`).
    """

    _place = "(not built)"
    """The URL as it may be shown."""

    _sql = Statements.of(table="minted_connect_intents", age="number", mark=r"%(\1)s")

    def __init__(self, url: str | Secret, *, patience: float = 5.0) -> None:
        url = as_secret(url)  # before anything can fail: tracebacks may show local variables
        if not is_seconds(patience):
            raise ConfigurationError("patience: must be seconds above 0, and finite")
        self._url = url
        self._place = _checked(url)
        self._patience = patience

    def __repr__(self) -> str:
        return f"PostgresJournal({self._place!r})"

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, on the server's disk before returning."""
        await to_the_end(self._prepare(intent))

    async def _prepare(self, intent: Intent) -> None:
        async def work(connection: _Connection) -> Intent | None:
            await _lock(connection, intent)
            basket = {"customer": intent.external_customer_id, "token": intent.cart_token}
            for row in await _execute(connection, self._sql.holder, basket):
                return from_row(row)
            await _execute(connection, self._sql.insert, insertion(intent))
            return None

        progress = _Progress()
        try:
            holder = await self._run(work, progress)
        except JournalError as error:
            if progress.committing and not await self._withdraw(intent):
                raise JournalError(
                    f"{error}; it may be written down all the same, and show in complete.pending(): nothing was sent"
                ) from None
            raise
        if holder is not None:
            raise already_in_flight(holder)

    async def _withdraw(self, intent: Intent) -> bool:
        """Close an intent that may have been written down while its caller is told that it was not."""

        async def work(connection: _Connection) -> None:
            # If the server still works on the record, it does so under this lock.
            await _lock(connection, intent)
            await _execute(connection, self._sql.settle, settlement(intent.id, IntentState.NOT_SENT, None, None))

        try:
            await self._run(work, _Progress())
        except JournalError:
            return False
        return True

    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        async def work(connection: _Connection) -> None:
            await _execute(connection, statement, values)

        await to_the_end(self._run(work, _Progress()))

    async def _read(self, query: str, **values: str) -> list[Intent]:
        async def work(connection: _Connection) -> list[Intent]:
            return [from_row(row) for row in await _execute(connection, query, values)]

        return await to_the_end(self._run(work, _Progress()))

    async def _run(self, work: _Work[_T], progress: _Progress) -> _T:
        try:
            return await self._converse(work, progress)
        except Exception as error:
            problem = said_by(TimeoutError() if progress.late else error, connected=progress.connected)
            if problem is None:
                raise
        # Not inside `except`: the error of psycopg would hang on ours, with rows of ours in its text, and the password.
        raise JournalError(f"the journal {self._place} {problem}")

    async def _converse(self, work: _Work[_T], progress: _Progress) -> _T:
        import psycopg  # noqa: PLC0415

        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        async with asyncio.timeout_at(deadline):
            connection = await psycopg.AsyncConnection.connect(
                self._url.reveal(),
                prepare_threshold=None,  # a pooler in between gives each transaction another session
                client_encoding="utf8",
                fallback_application_name="minted_connect",
            )
        progress.connected = True
        # No timeout from here on: psycopg, cancelled, waits for a server to stop that may be there no more.
        alarm = loop.call_at(deadline, _hang_up, connection, progress)
        try:
            # Or the transaction would see what there was before it got the lock, and look for a holder in vain.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await self._set_up(connection, deadline - loop.time())
            result = await work(connection)
            await self._commit(connection, progress)
            return result
        finally:
            alarm.cancel()
            # What was not committed, the server rolls back.
            await connection.close()

    async def _set_up(self, connection: _Connection, left: float) -> None:
        """Begin a transaction in which the schema is that of this library."""
        waits = [str(max(1, int(min(left * 1000 * part, _LONGEST)))) for part in (_LOCK, _STATEMENT)]
        [(*_, there)] = await _execute(connection, _SET_LOCAL, waits)
        if await self._version(connection, there) == VERSION:
            return
        await _execute(connection, "SELECT pg_advisory_xact_lock(%s)", [_LOCKS])
        # Looked at again, now that nobody else can be making or changing it.
        [(there,)] = await _execute(connection, f"SELECT {_THERE}")
        for step in _STEPS[await self._version(connection, there) :]:
            await _execute(connection, step)
        await _execute(connection, "UPDATE minted_connect_journal SET version = %s", [VERSION])

    async def _version(self, connection: _Connection, there: bool) -> int:
        """Return the version of the schema that is there, 0 if there is none; refuse a newer one."""
        if not there:
            return 0
        [(version,)] = await _execute(connection, "SELECT version FROM minted_connect_journal")
        if version > VERSION:
            raise JournalError(
                f"the journal {self._place} has schema {version}, this library knows {VERSION}: upgrade the library"
            )
        return int(version)

    async def _commit(self, connection: _Connection, progress: _Progress) -> None:
        told: list[str | None] = []

        def hear(notice: Diagnostic) -> None:
            told.append(notice.severity_nonlocalized)

        progress.committing = True
        connection.add_notice_handler(hear)
        await connection.commit()
        if "WARNING" in told:
            # The one thing it warns of then: somebody cancelled the wait for the standby.
            raise JournalError(f"the journal {self._place} wrote it down, but the standby did not")
        progress.committing = False


def _hang_up(connection: _Connection, progress: _Progress) -> None:
    """End every wait for this server."""
    progress.late = True
    # The family is not looked at: a socket of any kind is shut down by its number. It may be down already.
    with suppress(Exception), socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line:
        line.shutdown(socket.SHUT_RDWR)


async def _execute(
    connection: _Connection, statement: str, values: Mapping[str, Any] | Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    # Encoded, because psycopg's types take no str but a literal one.
    cursor = await connection.execute(statement.encode(), values or None)
    return await cursor.fetchall() if cursor.description else []


async def _lock(connection: _Connection, intent: Intent) -> None:
    """Keep everybody else from preparing for this basket until the end of the transaction.

    The unique index alone would not do: between our look for a holder and our insert, another's record may come and
    become a confirmed one, which the index lets pass, and the same basket would be bought twice. A lock of two baskets
    with one hash only takes them one after the other.
    """
    basket = zlib.crc32(f"{intent.external_customer_id}\0{intent.cart_token}".encode()) - 2**31
    await _execute(connection, "SELECT pg_advisory_xact_lock(%s, %s)", [_LOCKS, basket])


def _checked(url: Secret) -> str:
    """Return the URL as it may be shown: host, port and database."""
    if not url.reveal().startswith(_SCHEMES):
        raise ConfigurationError(
            "journal: must be the path of a file, a URL postgresql://..., or an object with the methods of Journal"
        )
    load("psycopg", "postgres", "journal: a PostgreSQL journal needs psycopg")
    place = _shown(url)
    if place is None:
        raise ConfigurationError(
            "journal: must be a URL like postgresql://user:password@host:5432/database; in a password write %40 for @, "
            "%2F for /, and so on"
        )
    return place


def _shown(url: Secret) -> str | None:
    # A function of its own, which raises nothing, because its variables hold the password.
    from psycopg import Error, conninfo, pq  # noqa: PLC0415

    parts: dict[str, Any] = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    try:
        parts |= conninfo.conninfo_to_dict(url.reveal())
    except (Error, ValueError):
        return None
    hosts = str(parts["host"] or parts["hostaddr"] or "localhost").split(",")
    ports, database = str(parts["port"]).split(","), str(parts["dbname"] or parts["user"])
    # What libpq takes for a host or the database may be the rest of a password.
    names = "".join([*hosts, database])
    if "@" in names or not (names.isprintable() and url.reveal().isprintable()):
        return None
    if not all(port.isdecimal() for port in ports if port):
        return None
    addresses = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False)
    return f"postgresql://{','.join(_address(host, port) for host, port in addresses)}/{database}"


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
