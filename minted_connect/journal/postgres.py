"""The PostgreSQL journal, shared by the processes of any number of machines.

Every operation is one transaction. Its settings end with it, so that it may run behind a connection pooler.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from minted_connect.clock import SYSTEM_CLOCK, call_later, monotonic
from minted_connect.core.cancellation import shielded
from minted_connect.core.event_loop import check_asyncio
from minted_connect.errors import ConfigurationError, JournalError, MintedConnectError
from minted_connect.journal.claims import Claim
from minted_connect.journal.postgres_connections import ConnectionPool, shut_down
from minted_connect.journal.postgres_errors import describe_error
from minted_connect.journal.postgres_schema import STATEMENTS, STEPS, VERSION
from minted_connect.journal.postgres_transaction import (
    begin,
    combine,
    execute,
    lock,
    lock_accounts,
    lock_schema,
    run_steps,
)
from minted_connect.journal.postgres_url import parse_url
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.journal.spending import SpendingCheck
from minted_connect.journal.sql import SqlJournal, Steps
from minted_connect.journal.statements import settle_params
from minted_connect.models import Intent, IntentState
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import is_seconds

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

    from minted_connect.journal.postgres_transaction import Connection, Rows

    _Work = Callable[[Connection], Awaitable["_T"]]

__all__ = ["PostgresJournal"]

_T = TypeVar("_T")

# Not `to_regclass`: within one transaction it does not notice a table that another session creates.
_SCHEMA_EXISTS: Final = (
    "EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'minted_connect_journal' AND pg_table_is_visible(oid))"
)
# Rows of older versions lack columns.
_JOURNAL: Final = "version, to_jsonb(one) FROM minted_connect_journal AS one"
_UNDEFINED_TABLE: Final = "42P01"


@attrs.define
class _OperationStatus:
    """Progress of one operation."""

    is_connected: bool = False
    is_commit_uncertain: bool = False
    """Whether the commit was sent and not confirmed."""
    only_reads: bool = False
    """Whether the operation must not create the tables."""
    has_tables: bool = True
    """Whether the tables exist, known after the start of an operation that only reads."""
    is_timed_out: bool = False
    """Whether the connection was shut down because the time was up."""


class PostgresJournal(SqlJournal):
    """A journal in a PostgreSQL database. Its tables are created at first use.

    Machines share a journal if they use the same tables: the same database, and the same schema according to the
    `search_path` of their role. The role needs permission to read and write the tables, and to create them unless they
    exist. Records are as durable as the server makes them: if another server can take over, make it a synchronous
    standby. Standbys are never read, because they lag behind. If the URL names several hosts, the journal uses the one
    that accepts writes.

    On Windows, psycopg needs a `SelectorEventLoop`. psycopg resolves host names in the event loop's default executor:
    if that executor may be exhausted, use IP addresses, or `hostaddr` in the URL.

    Args:
        url: `postgresql://user:password@host:port/database`, with libpq's parameters as its query.
        patience: Seconds for one operation: waiting for a free connection, connecting, waiting for locks, and the
            server's work.
        pool_size: Maximum of open connections for each event loop. They are kept for further operations, and closed
            after a minute without any; end the use with `aclose`. 0 = open a connection for each operation.
        read_only: Create and upgrade no tables, and change no record. Operations raise `JournalError` if the tables do
            not exist or are of another version.

    Raises:
        ConfigurationError: if the URL is not valid, if it names several hosts and `target_session_attrs` asks for a
            standby, or if psycopg is not installed (`pip install "minted-connect[postgres]"`).
    """

    _location = "(not built)"
    """Shown by `repr` if the constructor failed."""

    _statements = STATEMENTS

    def __init__(
        self, url: str | Secret, *, patience: float = 5.0, pool_size: int = 0, read_only: bool = False
    ) -> None:
        super().__init__()
        url = as_secret(url)  # before anything can fail: tracebacks may show local variables
        if not is_seconds(patience):
            raise ConfigurationError("patience: must be seconds above 0, and finite")
        if isinstance(pool_size, bool) or not isinstance(pool_size, int) or pool_size < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("pool_size: must be an integer of at least 0")
        self._location, needs_primary = parse_url(url)
        # With several hosts, libpq would use the first one that responds, even a standby.
        params = {"target_session_attrs": "read-write"} if needs_primary else {}
        self._connections = ConnectionPool(url, params, pool_size)
        self._patience = patience
        self._is_read_only = read_only
        self._is_pinned = False
        """Whether the tables were used before, and must stay the same ones."""
        self._identity: str | None = None
        """Random id stored when the tables were created."""

    def __repr__(self) -> str:
        return f"PostgresJournal({self._location!r})"

    async def prepare(
        self,
        intent: Intent,
        *,
        key: ReferenceKey | None = None,
        known: Collection[str] = (),
        claim: Claim | None = None,
        frees_customer: bool = False,
        spending: SpendingCheck | None = None,
    ) -> None:
        """Store an intent durably on the server."""
        self._raise_if_lost()
        steps = self._prepare_steps(intent, key, known, claim, frees_customer, spending)
        await shielded(self._prepare(intent, steps, spending))

    async def _prepare(self, intent: Intent, steps: Steps[None], spending: SpendingCheck | None) -> None:
        async def insert(connection: Connection) -> None:
            if spending is not None:
                await lock_accounts(connection, spending.accounts)
            await lock(connection, intent.reference, intent.external_customer_id)
            await run_steps(connection, steps, self._bind)

        status = _OperationStatus()
        try:
            await self._run(insert, status)
        except JournalError as error:
            if status.is_commit_uncertain and not await self._settle_not_sent(intent):
                raise JournalError(
                    f"{error}; the intent may be stored all the same, and show in complete.pending(): nothing was sent",
                    error.is_lost,
                ) from None
            raise
        self._remember(intent)

    async def _settle_not_sent(self, intent: Intent) -> bool:
        """Settle an intent that may have been stored although `prepare` fails; return whether that succeeded."""

        async def settle(connection: Connection) -> None:
            # If the server still processes the insert, that transaction holds this lock.
            await lock(connection, intent.reference, intent.external_customer_id)
            params = settle_params(intent.id, IntentState.NOT_SENT)
            await execute(connection, combine(self._statements.settle, self._statements.claims.settle), params)

        try:
            await self._run(settle, _OperationStatus())
        except JournalError:
            return False
        return True

    async def claim(self, claim: Claim, *, known: Collection[str]) -> Claim:
        """Store a claim durably, or take over an earlier one of the same reference, and return it."""
        self._raise_if_lost()
        return await shielded(self._claim(claim, known))

    async def _claim(self, claim: Claim, known: Collection[str]) -> Claim:
        taken = claim

        async def store(connection: Connection) -> None:
            nonlocal taken
            await lock(connection, claim.key.reference, claim.external_customer_id)
            taken = await run_steps(connection, self._claim_steps(claim, known), self._bind)

        status = _OperationStatus()
        try:
            await self._run(store, status)
        except JournalError:
            if status.is_commit_uncertain:
                # The claim may be stored all the same. If it cannot be released, it expires.
                with suppress(JournalError):
                    await self.release_claim(taken, grace=0)
            raise
        return taken

    async def _transact(
        self,
        steps: Steps[_T],
        claim: Claim | None,
        *,
        accounts: Collection[str] = (),
        names: tuple[str | None, str] | None = None,
    ) -> _T:
        if claim is not None:
            names = claim.key.reference, claim.external_customer_id

        async def work(connection: Connection) -> _T:
            await lock_accounts(connection, accounts)
            if names is not None:
                await lock(connection, *names)
            return await run_steps(connection, steps, self._bind)

        return await shielded(self._run(work, _OperationStatus()))

    async def _write(self, statement: str, params: Mapping[str, Any], *, also: str | None = None) -> None:
        intent_id = params.get("id")
        text = statement if also is None else combine(statement, also)

        async def update(connection: Connection) -> bool:
            if (
                await connection.execute(text.encode(), self._bind(params))
            ).rowcount or intent_id not in self._prepared:
                return True
            return bool(await execute(connection, self._statements.exists, self._exists_params(str(intent_id))))

        async def write() -> None:
            try:
                is_found = await self._run(update, _OperationStatus())
            except JournalError:
                if self._loss is None or intent_id not in self._prepared:
                    raise
                is_found = False
            if not is_found:
                self._report_missing(str(intent_id))

        await shielded(write())

    async def _read(self, query: str, params: Mapping[str, Any]) -> Rows:
        # Other queries come before a purchase, and report at once that the tables cannot be created.
        status = _OperationStatus(only_reads=query == "find_intents")

        async def select(connection: Connection) -> Rows:
            if not status.has_tables:
                return []
            return await execute(connection, getattr(self._statements, query), self._bind(params))

        return await shielded(self._run(select, status))

    async def aclose(self) -> None:
        """Close the idle connections of the running event loop; those in use are closed after their operation."""
        self._connections.close()

    async def has_tables(self) -> bool:
        """Return whether the tables of the journal exist; unlike all other methods, do not create them.

        Raises:
            JournalError: if the database cannot be read.
        """
        status = _OperationStatus(only_reads=True)

        async def find(_: Connection) -> bool:
            return status.has_tables

        return await shielded(self._run(find, status))

    async def _run(self, work: _Work[_T], status: _OperationStatus) -> _T:
        """Run `work` in a transaction; raise errors of psycopg and of the network as JournalError."""
        try:
            return await self._run_transaction(work, status)
        except Exception as error:
            message = describe_error(TimeoutError() if status.is_timed_out else error, connected=status.is_connected)
            if message is None:
                raise
            is_lost = self._is_pinned and getattr(error, "sqlstate", None) == _UNDEFINED_TABLE
        # Outside `except`: as its context, psycopg's error would expose row values and the password.
        if is_lost:
            raise self._report_lost("has lost its tables")
        raise JournalError(f"the journal {self._location} {message}")

    async def _run_transaction(self, work: _Work[_T], status: _OperationStatus) -> _T:
        check_asyncio()
        deadline = monotonic() + self._patience
        async with self._connections.connection(self._patience) as connection:
            status.is_connected = True

            def time_out() -> None:
                status.is_timed_out = True
                shut_down(connection)

            timer = call_later(SYSTEM_CLOCK, deadline - monotonic(), time_out)
            try:
                await self._begin(connection, deadline - monotonic(), status)
                result = await work(connection)
                await self._commit(connection, status)
                self._is_pinned = status.has_tables
                return result
            except MintedConnectError:
                # After other errors, such as those of the server, the connection is not used again.
                if not status.is_commit_uncertain:
                    with suppress(Exception):
                        await connection.rollback()
                raise
            finally:
                timer.cancel()
                if status.is_commit_uncertain:
                    await connection.close()

    async def _begin(self, connection: Connection, left: float, status: _OperationStatus) -> None:
        """Begin a transaction, and migrate the schema if needed. An operation that only reads does not create it."""
        # If tables that were used before are missing, the query fails, and `_run` reports it.
        query = f"true, {_JOURNAL}" if self._is_pinned else _SCHEMA_EXISTS
        is_standby, exists, *row = await begin(connection, query, left, read_only=self._is_read_only)
        if is_standby:
            raise JournalError(
                f"the journal {self._location} cannot be used: the server is a standby, which lags behind: name the "
                "primary"
            )
        version = await self._read_version(connection, exists, row)
        if self._is_read_only and version != VERSION:
            reason = f"its schema {version} is older than {VERSION}: a client upgrades it" if exists else "no tables"
            raise JournalError(f"the journal {self._location} cannot be read: {reason}")
        status.has_tables = exists or not status.only_reads
        if not status.has_tables or version == VERSION:
            return
        await lock_schema(connection)
        # Read again under the lock: another session may have migrated the schema.
        [(exists,)] = await execute(connection, f"SELECT {_SCHEMA_EXISTS}")
        for step in STEPS[await self._read_version(connection, exists) :]:
            await execute(connection, step)
        # SQL functions of databases are not random enough for a key.
        key = secrets.token_hex(32)
        await execute(
            connection,
            "UPDATE minted_connect_journal SET version = %s, erasure_key = coalesce(erasure_key, %s)",
            [VERSION, key],
        )
        await self._read_version(connection, True)

    def _accept_identity(self, identity: str) -> None:
        self._identity = identity

    async def _read_version(self, connection: Connection, exists: bool, row: Sequence[Any] = ()) -> int:
        """Return the schema version, 0 if no schema exists, and check that the tables are the ones used before.

        Args:
            connection: The connection.
            exists: Whether the tables exist.
            row: The results of `_JOURNAL`, unless they must be queried.

        Raises:
            JournalError: if the schema is newer than this library, or the tables are others.
        """
        if not exists:
            return 0
        if not row:
            [row] = await execute(connection, f"SELECT {_JOURNAL}")
        version, columns = row
        if version > VERSION:
            raise self._newer_schema(version, VERSION)
        identity = columns.get("identity")
        if self._is_pinned and identity != self._identity:
            raise self._report_lost("was replaced by another one while in use")
        self._identity, self._erasure_key = identity, columns.get("erasure_key")
        return int(version)

    async def _commit(self, connection: Connection, status: _OperationStatus) -> None:
        severities: list[str | None] = []

        def on_notice(notice: Diagnostic) -> None:
            severities.append(notice.severity_nonlocalized)

        status.is_commit_uncertain = True
        connection.add_notice_handler(on_notice)
        await connection.commit()
        connection.remove_notice_handler(on_notice)
        if "WARNING" in severities:
            # At a commit, the server warns only if its wait for the synchronous standby was cancelled.
            raise JournalError(f"the journal {self._location} stored the record, but its standby did not confirm it")
        status.is_commit_uncertain = False
