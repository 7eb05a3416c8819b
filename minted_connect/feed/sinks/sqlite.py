"""A table of ticks in an SQLite database."""

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
from minted_connect.feed.sinks.lines import Sink, checked_path
from minted_connect.feed.tick import Tick

__all__ = ["SqliteSink"]

_TYPES: Final = {
    ColumnType.TIME: "TEXT",
    ColumnType.WHOLE: "INTEGER",
    ColumnType.TEXT: "TEXT",
    ColumnType.MONEY: "TEXT",  # a number would be a float
    ColumnType.SECONDS: "REAL",
    ColumnType.FLAG: "INTEGER",
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_PATIENCE: Final = 5.0
"""Seconds to wait for another writer."""


class SqliteSink(Sink):
    """A table in an SQLite database, made if it is not there: a row for each `currency_id` and `at`, never two.

    Money is text, exact; times are ISO 8601 text in UTC. Several processes may write to it.

    Args:
        path: the database file.
        table: its name: letters, digits and underscores.
        fsync: have each batch on the disk before going on; without it, a power cut may take the last ones along.

    Raises:
        InvalidInput: `path` is no path, or `table` no such name.
    """

    def __init__(self, path: str | os.PathLike[str], *, table: str = "ticks", fsync: bool = False) -> None:
        self.path: Final[Path] = checked_path(path)
        validation.boolean("fsync", fsync)
        if not isinstance(table, str) or not _NAME.fullmatch(table) or table.lower().startswith("sqlite_"):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("table", "must be a name of letters, digits and underscores")
        self._table = table
        marks = ", ".join([f":{name}" for name in NAMES])
        # What is backfilled twice would otherwise come to stand between the ticks of back then.
        later = f'SELECT 1 FROM "{table}" WHERE currency_id = :currency_id AND at >= :at'  # noqa: S608 - a checked name
        self._insertion = f'INSERT OR IGNORE INTO "{table}" SELECT {marks} WHERE NOT (:backfilled AND EXISTS ({later}))'
        self._fsync = fsync
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SqliteSink({str(self.path)!r}, table={self._table!r})"

    def open(self) -> None:
        """Connect, and make the table if it is not there.

        Raises:
            SinkError: it cannot be written, or holds something else.
        """
        if self._connection is not None:
            raise SinkError(f"{self.path}: this sink is open already")
        with self._troubles():
            # One thread at a time uses it, which need not be the one that opened it.
            connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
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
        there = [row[1] for row in connection.execute(f'PRAGMA table_info("{self._table}")')]
        if there != NAMES:
            raise SinkError(f"{self.path}: its table {self._table} holds something else than ticks")

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not there yet, all or none; return how many those were."""
        connection = self._connection
        if connection is None:
            raise SinkError(f"{self.path}: this sink is not open")
        with self._troubles(), closing(connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                before = connection.total_changes
                cursor.executemany(self._insertion, map(to_text, ticks))
                written = connection.total_changes - before
                cursor.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise
        return written

    def close(self) -> None:
        """Disconnect; may be called again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._troubles():
                connection.close()

    @contextmanager
    def _troubles(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The words of SQLite name tables and columns, not what is in them.
            raise SinkError(f"{self.path}: {error}") from error
