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

from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.journal.postgres_errors import said_by
from minted_connect.journal.postgres_schema import STEPS, VERSION
from minted_connect.journal.postgres_url import parse_url
from minted_connect.journal.protocol import already_in_flight, shielded
from minted_connect.journal.sql import Statements, insertion, settlement
from minted_connect.journal.stored import StoredJournal
from minted_connect.models import Intent, IntentState
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import is_seconds

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.errors import Diagnostic

    _Connection = AsyncConnection[tuple[Any, ...]]
    _Rows = list[tuple[Any, ...]]
    _Work = Callable[[_Connection], Awaitable["_T"]]

__all__ = ["PostgresJournal"]

_T = TypeVar("_T")

_LOCKS: Final = 0x4D4E5443
"""Marks advisory locks as ours ("MNTC")."""

# Not `to_regclass`: within a transaction that one goes on saying no while another session makes the table.
_THERE: Final = (
    "EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'minted_connect_journal' AND pg_table_is_visible(oid))"
)
# SET LOCAL, all at once. Whatever the server's default, what was committed has to be on its disk.
_SET_LOCAL: Final = (
    "SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', %s, true), "
    f"set_config('statement_timeout', %s, true), pg_is_in_recovery(), {_THERE}"
)
# Parts of the time that is left: the server gives up before we do, since it can tell what was waited for in vain.
_LOCK, _STATEMENT = 0.8, 0.9
_UNDEFINED_TABLE: Final = "42P01"
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
    """A journal in a PostgreSQL database; its tables are made at first use.

    Machines share it if they find the same tables: the same database, and the same schema by the `search_path` of
    their role. The role has to be allowed to read and write the tables, to create them only if they are not there.
    What is written down is as safe as the server keeps it: where another takes over, let it be a synchronous standby.
    A standby is never read, because it lags behind. If the URL names several hosts, the one that can be written is
    taken.

    On Windows psycopg needs a `SelectorEventLoop`. It resolves host names in the event loop's default executor: where
    that may be full, give addresses, or `hostaddr` in the URL.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters as its query.
        patience: Seconds for one operation: connecting, locks of others, the server's work.

    Raises:
        ConfigurationError: if the URL is not valid, if it names several hosts and `target_session_attrs` asks for a
            standby, or if psycopg is not installed (`pip install "minted-connect[postgres]"`).
    """

    _place = "(not built)"
    """The URL as it may be shown."""

    _sql = Statements.of(table="minted_connect_intents", age="number", mark=r"%(\1)s")

    def __init__(self, url: str | Secret, *, patience: float = 5.0) -> None:
        super().__init__()
        url = as_secret(url)  # before anything can fail: tracebacks may show local variables
        if not is_seconds(patience):
            raise ConfigurationError("patience: must be seconds above 0, and finite")
        self._url = url
        self._place, several = parse_url(url)
        # Of several hosts, libpq would take the first one that responds, a standby too.
        self._session: dict[str, Any] = {"target_session_attrs": "read-write"} if several else {}
        self._patience = patience
        self._used = False
        """Whether the tables were there before: from now on they must stay."""
        self._identity: str | None = None
        """Drawn when the tables were made."""

    def __repr__(self) -> str:
        return f"PostgresJournal({self._place!r})"

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, on the server's disk before returning."""
        self._check_not_lost()
        await shielded(self._prepare(intent))

    async def _prepare(self, intent: Intent) -> None:
        async def work(connection: _Connection) -> Intent | None:
            await _lock(connection, intent)
            # The tables may have been emptied, or restored from an older copy.
            if self._latest is not None and not await _execute(connection, self._sql.exists, {"id": self._latest}):
                raise self._report_lost(f"does not hold intent {self._latest} any more, which was written here")
            basket = {
                "customer": intent.external_customer_id,
                "token": intent.cart_token,
                "account": intent.account,
            }
            holder = self._first(await _execute(connection, self._sql.holder, basket))
            if holder is None:
                await _execute(connection, self._sql.insert, insertion(intent))
            return holder

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
        self._remember(intent)

    async def _withdraw(self, intent: Intent) -> bool:
        """Close an intent that may have been written down while its caller is told that it was not."""

        async def work(connection: _Connection) -> None:
            # If the server still works on the record, it does so under this lock.
            await _lock(connection, intent)
            await _execute(connection, self._sql.settle, settlement(intent.id, IntentState.NOT_SENT))

        try:
            await self._run(work, _Progress())
        except JournalError:
            return False
        return True

    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        intent_id = values.get("id")

        async def work(connection: _Connection) -> bool:
            if (await connection.execute(statement.encode(), values)).rowcount or intent_id not in self._prepared:
                return True
            return bool(await _execute(connection, self._sql.exists, {"id": intent_id}))

        async def write() -> None:
            try:
                is_found = await self._run(work, _Progress())
            except JournalError:
                if self._lost is None or intent_id not in self._prepared:
                    raise
                is_found = False
            if not is_found:
                self._report_missing(str(intent_id))

        await shielded(write())

    async def _read(self, query: str, values: Mapping[str, Any]) -> _Rows:
        async def work(connection: _Connection) -> _Rows:
            return await _execute(connection, getattr(self._sql, query), values)

        return await shielded(self._run(work, _Progress()))

    async def _run(self, work: _Work[_T], progress: _Progress) -> _T:
        try:
            return await self._converse(work, progress)
        except Exception as error:
            problem = said_by(TimeoutError() if progress.late else error, connected=progress.connected)
            if problem is None:
                raise
            is_lost = self._used and getattr(error, "sqlstate", None) == _UNDEFINED_TABLE
        # Not inside `except`: the error of psycopg would hang on ours, with rows of ours in its text, and the password.
        if is_lost:
            raise self._report_lost("has lost its tables")
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
                **self._session,
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
            self._used = True
            return result
        finally:
            alarm.cancel()
            # What was not committed, the server rolls back.
            await connection.close()

    async def _set_up(self, connection: _Connection, left: float) -> None:
        """Begin a transaction in which the schema is that of this library."""
        waits = [str(max(1, int(min(left * 1000 * part, _LONGEST)))) for part in (_LOCK, _STATEMENT)]
        [(*_, standby, there)] = await _execute(connection, _SET_LOCAL, waits)
        if standby:
            raise JournalError(
                f"the journal {self._place} cannot be used: the server is a standby, which lags behind: name the "
                "primary"
            )
        if self._used and not there:
            raise self._report_lost("has lost its tables")
        if await self._version(connection, there) == VERSION:
            await self._check_identity(connection)
            return
        await _execute(connection, "SELECT pg_advisory_xact_lock(%s)", [_LOCKS])
        # Looked at again, now that nobody else can be making or changing it.
        [(there,)] = await _execute(connection, f"SELECT {_THERE}")
        for step in STEPS[await self._version(connection, there) :]:
            await _execute(connection, step)
        await _execute(connection, "UPDATE minted_connect_journal SET version = %s", [VERSION])
        await self._check_identity(connection)

    async def _check_identity(self, connection: _Connection) -> None:
        """Check that these are the tables that were used before."""
        [(identity,)] = await _execute(connection, "SELECT identity FROM minted_connect_journal")
        if self._used and identity != self._identity:
            raise self._report_lost("was replaced by another one while in use")
        self._identity = identity

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
