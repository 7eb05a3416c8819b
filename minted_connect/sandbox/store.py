"""Persistence: the shop in a SQLite file, one JSON row for each entity."""

import sqlite3
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, cast

from .entities import Basket, Entity, pack, unpack_basket, unpack_customer, unpack_order
from .json_codec import decode, encode

_SCHEMA = "CREATE TABLE IF NOT EXISTS entity (kind TEXT, id TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id))"

# Not INSERT OR REPLACE, which would move the row to the end: entities are loaded in the order of their creation.
_WRITE = "INSERT INTO entity VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body"

_META = "meta"


class Store:
    """A SQLite file. What was written survives a crash of the process, but not of the machine."""

    def __init__(self, path: str | PathLike[str]) -> None:
        # The thread that creates the sandbox opens it, the thread that serves it uses it.
        self._db = sqlite3.connect(fspath(path), check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(_SCHEMA)
        except sqlite3.Error:
            self._db.close()
            raise

    def save(self, entities: Sequence[Entity], dropped_baskets: Sequence[str] = ()) -> None:
        """Write entities and delete baskets by token, in one transaction."""
        rows: list[tuple[str, str, str]] = []
        for entity in entities:
            key = entity.token if isinstance(entity, Basket) else str(entity.id)
            rows.append((type(entity).__name__.lower(), key, encode(pack(entity))))
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany(_WRITE, rows)
            dropped = [("basket", token) for token in dropped_baskets]
            self._db.executemany("DELETE FROM entity WHERE kind = ? AND id = ?", dropped)

    def load(self) -> list[Entity]:
        """Return all entities: customers, then baskets, then orders, oldest first."""
        return [
            *map(unpack_customer, self._load("customer")),
            *map(unpack_basket, self._load("basket")),
            *map(unpack_order, self._load("order")),
        ]

    def save_meta(self, meta: dict[str, Any]) -> None:
        """Write the data of the shop that belongs to no entity."""
        self._db.execute(_WRITE, (_META, _META, encode(meta)))

    def load_meta(self) -> dict[str, Any] | None:
        """Return the data that `save_meta` wrote; None in a new file."""
        return next(iter(self._load(_META)), None)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _load(self, kind: str) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT body FROM entity WHERE kind = ? ORDER BY rowid", (kind,))
        return [cast("dict[str, Any]", decode(body)) for (body,) in rows]
