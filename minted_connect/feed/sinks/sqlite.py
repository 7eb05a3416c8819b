"""A sink that writes ticks to a table of an SQLite database."""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from minted_connect import validation
from minted_connect.errors import InvalidInput, SinkError
from minted_connect.feed.schema import COLUMNS, NAMES, ColumnType, RowId, to_text
from minted_connect.feed.sinks.base import (
    PATIENCE,
    LastRow,
    Sink,
    as_path,
    check_patience,
    file_identity,
    find_last,
    translate_os_errors,
)
from minted_connect.feed.tick import Filter, Tick

__all__ = ["SqliteSink"]

_log = logging.getLogger("minted_connect.feed")

_TYPES: Final = {
    ColumnType.TIME: "TEXT",
    ColumnType.WHOLE: "INTEGER",
    ColumnType.TEXT: "TEXT",
    ColumnType.MONEY: "TEXT",  # SQLite would store a decimal as a float
    ColumnType.SECONDS: "REAL",
    ColumnType.FLAG: "INTEGER",
}
_TABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_BUSY_TIMEOUT: Final = 0.5
"""Maximum seconds that SQLite itself waits for a lock; between two such waits, the sink can be interrupted."""
_LOCKED: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_PRIMARY_CODE: Final = 0xFF
"""Mask that removes the details of an extended error code."""


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
        patience: seconds that `open` and `append` wait while another program has locked the database.

    Raises:
        InvalidInput: if `path` is not a path, `table` is not such a name, `fsync` is not a bool, or `patience` is
            neither 0 nor seconds.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, table: str = "ticks", fsync: bool = False, patience: float = PATIENCE
    ) -> None:
        self.path: Final[Path] = as_path(path)
        validation.boolean("fsync", fsync)
        self.patience: float = check_patience(patience)
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
        self._absolute = self.path  # set by `open`: a change of the working directory must not look like a rotation
        self._identity: tuple[int, int] | None = None  # of the open file; None if it has no path

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
            # SQLite has databases without a file, such as `:memory:`.
            self._absolute = self.path if self.path.name.startswith(":") else self.path.absolute()
            self._connect()

    def _connect(self) -> sqlite3.Connection:
        # The sink is used by one thread at a time, which need not be the thread that opened it.
        timeout = min(_BUSY_TIMEOUT, self.patience)
        connection = sqlite3.connect(self._absolute, timeout=timeout, isolation_level=None, check_same_thread=False)
        try:
            self._retry_while_locked(self.path, lambda: self._prepare(connection), _is_locked)
            self._identity = file_identity(self._absolute)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
        connection.execute("PRAGMA journal_mode = WAL")
        columns = ", ".join([f'"{column.name}" {_TYPES[column.kind]}' for column in COLUMNS])
        key = 'PRIMARY KEY ("currency_id", "at")'
        connection.execute(f'CREATE TABLE IF NOT EXISTS "{self._table}" ({columns}, {key})')
        existing = [row[1] for row in connection.execute(f'PRAGMA table_info("{self._table}")')]
        if existing != NAMES:
            raise SinkError(f"{self.path}: the table {self._table} contains something other than ticks")

    def last_row(self, matches: Filter | None = None, /) -> LastRow | None:
        """Return number and time of the row after which a recording continues; None without such a row."""
        connection = self._connection
        if connection is None:
            raise SinkError(f"{self.path}: this sink is not open")
        with self._translate_errors():
            rows = self._retry_while_locked(self.path, lambda: self._latest_rows(connection), _is_locked)
        return find_last(rows, matches)

    def _latest_rows(self, connection: sqlite3.Connection) -> list[RowId]:
        """Return the latest row of each currency that is not backfilled."""
        # By the primary key: a query that groups all rows would read the whole table.
        next_id = f'SELECT MIN(currency_id) FROM "{self._table}" WHERE currency_id > ?'  # noqa: S608 - a checked name
        latest = (
            f'SELECT at, number, metal, sku FROM "{self._table}" WHERE currency_id = ? AND NOT backfilled '  # noqa: S608
            "ORDER BY at DESC LIMIT 1"
        )
        rows: list[RowId] = []
        currency_id = -(2**63)
        while (currency_id := connection.execute(next_id, (currency_id,)).fetchone()[0]) is not None:
            for at, number, metal, sku in connection.execute(latest, (currency_id,)):
                rows.append(RowId((currency_id, at), number, metal, sku))
        return rows

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, in one transaction; return the number of rows written.

        Raises:
            SinkError: if the sink is not open, or the ticks cannot be written.
        """
        connection = self._connection
        if connection is None:
            raise SinkError(f"{self.path}: this sink is not open")
        rows = [to_text(tick) for tick in ticks]
        with self._translate_errors():
            current = self._reopen_if_replaced(connection)
            return self._retry_while_locked(self.path, lambda: self._write(current, rows), _is_locked)

    def _write(self, connection: sqlite3.Connection, rows: list[dict[str, Any]]) -> int:
        with closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                before = connection.total_changes
                cursor.executemany(self._insert, rows)
                written = connection.total_changes - before
                cursor.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
        return written

    def _reopen_if_replaced(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Return a connection to the file that is now at this path, and not to one that was moved or deleted."""
        if self._identity is None or file_identity(self._absolute) == self._identity:
            return connection
        _log.warning("%s: the file was moved, replaced or deleted; opening the path again", self.path)
        # SQLite itself does no checkpoint when it closes a moved file: the last rows would stay in the write-ahead log.
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.close()
        self._connection = None
        return self._connect()

    def close(self) -> None:
        """Disconnect. Idempotent."""
        # Not in `open`: the interruption of a recording may come before its thread has called `open`.
        self._interrupted_at = math.inf
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translate_errors():
                connection.close()

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        try:
            with translate_os_errors(self.path):
                yield
        except sqlite3.Error as error:
            # SQLite's messages name tables and columns, never values.
            raise SinkError(f"{self.path}: {error}") from error


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE in _LOCKED
