"""Keeps the shop in a SQLite file, one JSON row per entity, so that a restart finds everything again."""

import sqlite3
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, cast

from .json_codec import decode, encode

_SCHEMA = "CREATE TABLE IF NOT EXISTS entity (kind TEXT, id TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id))"

# Not INSERT OR REPLACE: that would move the row to the end, and entities are loaded in the order they were made.
_WRITE = "INSERT INTO entity VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"


class Store:
    """A SQLite file. Every `put` is on disk when it returns, as far as the process dying is concerned."""

    def __init__(self, path: str | PathLike[str]) -> None:
        # Opened by the thread that builds the sandbox, used by the one that serves it.
        self._db = sqlite3.connect(fspath(path), check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(_SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise

    def put(self, rows: list[tuple[str, str, dict[str, Any]]], dropped: Sequence[tuple[str, str]] = ()) -> None:
        """Write rows of (kind, id, body) and forget others: all or none."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(_WRITE, [(kind, key, encode(body)) for kind, key, body in rows])
            self._db.executemany("DELETE FROM entity WHERE kind = ? AND id = ?", dropped)

    def load(self, kind: str) -> list[dict[str, Any]]:
        """Return the bodies of a kind, oldest first."""
        rows = self._db.execute("SELECT body FROM entity WHERE kind = ? ORDER BY rowid", (kind,))
        return [cast("dict[str, Any]", decode(body)) for (body,) in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
