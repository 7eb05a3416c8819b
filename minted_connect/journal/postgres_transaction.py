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

__all__ = ["combine", "execute", "lock", "lock_accounts", "lock_schema", "run_steps"]

_T = TypeVar("_T")

_LOCK_ID: Final = 0x4D4E5443
"""First key of the advisory locks ("MNTC"), which separates them from the locks of other applications."""

_REFERENCE_LOCK_ID: Final = _LOCK_ID + 1
_ACCOUNT_LOCK_ID: Final = _LOCK_ID + 2


async def execute(
    connection: Connection, statement: str, params: Mapping[str, Any] | Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Execute one statement, and return its rows."""
    # Encoded, because psycopg's types accept only literal strings.
    cursor = await connection.execute(statement.encode(), params or None)
    return await cursor.fetchall() if cursor.description else []


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
