"""Executes statements in an open PostgreSQL transaction, and takes the locks that end with it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from minted_connect.journal.sql import Steps

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    Connection = AsyncConnection[tuple[Any, ...]]
    Rows = list[tuple[Any, ...]]

__all__ = ["begin", "combine", "execute", "lock", "lock_accounts", "lock_schema", "run_steps"]

_T = TypeVar("_T")

_LOCK_ID: Final = 0x4D4E5443
"""First key of the advisory locks ("MNTC"), which separates them from the locks of other applications."""

_REFERENCE_LOCK_ID: Final = _LOCK_ID + 1
_ACCOUNT_LOCK_ID: Final = _LOCK_ID + 2

# Shares of the remaining time. The server must time out before the client does, because its error names the reason.
_LOCK_SHARE: Final = 0.8
_STATEMENT_SHARE: Final = 0.9

_MAX_TIMEOUT: Final = 2**31 - 1
"""Maximum of a timeout setting of the server, in milliseconds."""


async def execute(
    connection: Connection, statement: str, params: Mapping[str, Any] | Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Execute one statement, and return its rows."""
    # Encoded, because psycopg's types accept only literal strings.
    cursor = await connection.execute(statement.encode(), params or None)
    # `description` would build an object for each column.
    return await cursor.fetchall() if cursor.rownumber is not None else []


async def begin(connection: Connection, query: str, seconds: float, *, read_only: bool) -> tuple[Any, ...]:
    """Begin a transaction, and return whether the server is a standby, followed by the results of a query.

    Args:
        connection: The connection, in autocommit mode.
        query: Expressions of a `SELECT` without parameters, separated by commas.
        seconds: Maximum of seconds for the transaction.
        read_only: Whether the transaction must not change anything.
    """
    times = (max(1, int(min(seconds * 1000 * share, _MAX_TIMEOUT))) for share in (_LOCK_SHARE, _STATEMENT_SHARE))
    lock_timeout, statement_timeout = times
    # One round trip: as psycopg sends them, `BEGIN` and the query take two. At a higher isolation level, the snapshot
    # would date from before the lock, and `find_active` could miss an intent that was committed while this transaction
    # waited for the lock. Commits must reach the disk even if the server's default differs.
    cursor = await connection.execute(
        f"BEGIN ISOLATION LEVEL READ COMMITTED{' READ ONLY' if read_only else ''}; "
        "SELECT set_config('synchronous_commit', 'on', true), "
        f"set_config('lock_timeout', '{lock_timeout}', true), "
        f"set_config('statement_timeout', '{statement_timeout}', true), pg_is_in_recovery(), {query}".encode()
    )
    while cursor.nextset():
        pass
    [(_, _, _, *results)] = await cursor.fetchall()
    return tuple(results)


async def run_steps(
    connection: Connection, steps: Steps[_T], bind: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> _T:
    """Execute the statements of a transaction, each of which may depend on the rows of those before.

    Args:
        connection: The connection.
        steps: The transaction.
        bind: Completes the parameters of a statement.
    """
    try:
        statement, params = next(steps)
        while True:
            statement, params = steps.send(await execute(connection, statement, bind(params)))
    except StopIteration as ended:
        result: _T = ended.value
        return result


def combine(statement: str, also: str) -> str:
    """Return one statement that executes both, in one round trip. Its row count is that of the first."""
    return f"WITH also AS ({also}) {statement}"


async def lock(connection: Connection, reference: str | None, external_customer_id: str) -> None:
    """Lock a reference and a customer until the end of the transaction, so that no other session changes their records.

    The unique indexes are not sufficient: between `find_active` and the insert, another session could prepare and
    confirm an intent. The index covers only open intents, so the same basket would be bought twice. Likewise, a claim
    could be stored beside an intent that needs none. If the hashes of two names collide, their transactions only wait
    for each other. All transactions take their locks in one order, so that they cannot deadlock: accounts, then a
    reference, then a customer, each under its own first key.
    """
    # Neither lock depends on the account, because a transaction considers the records of several accounts.
    if reference is not None:
        await _lock_name(connection, _REFERENCE_LOCK_ID, reference)
    await _lock_name(connection, _LOCK_ID, external_customer_id)


async def lock_accounts(connection: Connection, accounts: Collection[str]) -> None:
    """Lock accounts until the end of the transaction, so that no other session stores purchases under limits."""
    for account in sorted(accounts, key=_second_key):
        await _lock_name(connection, _ACCOUNT_LOCK_ID, account)


async def lock_schema(connection: Connection) -> None:
    """Lock the schema until the end of the transaction."""
    await execute(connection, "SELECT pg_advisory_xact_lock(%s)", [_LOCK_ID])


async def _lock_name(connection: Connection, first_key: int, name: str) -> None:
    await execute(connection, "SELECT pg_advisory_xact_lock(%s, %s)", [first_key, _second_key(name)])


def _second_key(name: str) -> int:
    return zlib.crc32(name.encode()) - 2**31
