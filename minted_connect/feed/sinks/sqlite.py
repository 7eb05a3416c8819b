"""A sink that writes ticks to a table of an SQLite database."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from minted_connect import validation
from minted_connect.errors import InvalidInput, SinkError
from minted_connect.feed.schema import COLUMNS, NAMES, ColumnType, to_text
from minted_connect.feed.sinks.base import Sink, as_path
from minted_connect.feed.tick import Tick

__all__ = ["SqliteSink"]

_TYPES: Final = {
    ColumnType.TIME: "TEXT",
    ColumnType.WHOLE: "INTEGER",
    ColumnType.TEXT: "TEXT",
    ColumnType.MONEY: "TEXT",  # SQLite would store a decimal as a float
    ColumnType.SECONDS: "REAL",
    ColumnType.FLAG: "INTEGER",
}
_TABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for the lock of another writer."""


class SqliteSink(Sink):
    """Write ticks to a table of an SQLite database; `currency_id` and `at` are its primary key.

    Money is text, exact; times are ISO 8601 text in UTC. Several processes may write to the same table. After a crash,
    SQLite itself restores the last complete batch.

    Args:
        path: the database file; created if it does not exist.
        table: name of the table: at most 63 letters, digits and underscores, not beginning with a digit or `sqlite_`;
            created if it does not exist.
        fsync: sync each batch to disk (`PRAGMA synchronous = FULL`). Without it, a power failure may lose the last
            batches.

    Raises:
        InvalidInput: if `path` is not a path, `table` is not such a name, or `fsync` is not a bool.
    """

    def __init__(self, path: str | os.PathLike[str], *, table: str = "ticks", fsync: bool = False) -> None:
        self.path: Final[Path] = as_path(path)
        validation.boolean("fsync", fsync)
        if not isinstance(table, str) or not _TABLE_NAME.fullmatch(table) or table.lower().startswith("sqlite_"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("table", "must be a name of letters, digits and underscores")
        self._table = table
        parameters = ", ".join([f":{name}" for name in NAMES])
        # Otherwise a history that overlaps with an earlier recording would be interleaved with its ticks.
        later = f'SELECT 1 FROM "{table}" WHERE currency_id = :currency_id AND at >= :at'  # noqa: S608 - a checked name
        self._insert = (
            f'INSERT OR IGNORE INTO "{table}" SELECT {parameters} WHERE NOT (:backfilled AND EXISTS ({later}))'
        )
        self._fsync = fsync
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SqliteSink({str(self.path)!r}, table={self._table!r})"

    def open(self) -> None:
        """Connect, and create the table if it does not exist.

        Raises:
            SinkError: if the database cannot be written, or the table has other columns than ticks.
        """
        if self._connection is not None:
            raise SinkError(f"{self.path}: this sink is already open")
        with self._translate_errors():
            # The sink is used by one thread at a time, which need not be the thread that opened it.
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
        connection.execute("PRAGMA journal_mode = WAL")
        columns = ", ".join([f'"{column.name}" {_TYPES[column.kind]}' for column in COLUMNS])
        key = 'PRIMARY KEY ("currency_id", "at")'
        connection.execute(f'CREATE TABLE IF NOT EXISTS "{self._table}" ({columns}, {key})')
        existing = [row[1] for row in connection.execute(f'PRAGMA table_info("{self._table}")')]
        if existing != NAMES:
            raise SinkError(f"{self.path}: the table {self._table} contains something other than ticks")

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, in one transaction; return the number of rows written.

        Raises:
            SinkError: if the sink is not open, or the ticks cannot be written.
        """
        connection = self._connection
        if connection is None:
            raise SinkError(f"{self.path}: this sink is not open")
        with self._translate_errors(), closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                before = connection.total_changes
                cursor.executemany(self._insert, map(to_text, ticks))
                written = connection.total_changes - before
                cursor.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
        return written

    def close(self) -> None:
        """Disconnect. Idempotent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translate_errors():
                connection.close()

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # SQLite's messages name tables and columns, never values.
            raise SinkError(f"{self.path}: {error}") from error
