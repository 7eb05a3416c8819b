"""The journal of a simulated day in its database, read and changed without the journal's own code."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import attrs
import psycopg

from tests.completion.day.plan import START, Settings
from tests.support import postgres

__all__ = ["Database", "StoredIntent", "open_database"]

_COLUMNS = "id, state, order_id, reference, external_customer_id, cart_token, paid_total, created_at"

# The claims of a PostgreSQL journal expire by `clock_timestamp()`. The search path finds this function before the one
# in `pg_catalog`.
_CLOCK = f"""
CREATE SCHEMA simulated;
CREATE TABLE simulated.clock (seconds DOUBLE PRECISION NOT NULL) WITH (fillfactor = 10);
INSERT INTO simulated.clock VALUES (0);
CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    $$ SELECT timestamptz '{START.isoformat()}' + make_interval(secs => seconds) FROM simulated.clock $$;
GRANT USAGE ON SCHEMA simulated TO PUBLIC;
GRANT SELECT ON simulated.clock TO PUBLIC;
"""


@attrs.frozen
class StoredIntent:
    """One row of the journal."""

    id: str
    state: str
    order_id: int | None
    reference: str | None
    customer: str
    cart_token: str
    paid_total: Decimal
    created_at: datetime

    @property
    def is_open(self) -> bool:
        """Whether its outcome is not known."""
        return self.state in {"prepared", "unknown"}

    @property
    def day(self) -> date:
        """The UTC day for which it counts."""
        return self.created_at.astimezone(UTC).date()


class Database(Protocol):
    """The database of a journal."""

    location: str

    def intents(self) -> list[StoredIntent]:
        """Return all intents."""
        ...

    def delete(self, intent_id: str) -> None:
        """Delete the row of an intent."""
        ...

    def move_clock(self, seconds: float) -> None:
        """Move the clock of the database."""
        ...


class _SqliteFile:
    def __init__(self, path: Path) -> None:
        self.location = str(path)

    def intents(self) -> list[StoredIntent]:
        if not Path(self.location).exists():
            return []
        with closing(sqlite3.connect(self.location)) as database:
            return [_load(row) for row in database.execute(f"SELECT {_COLUMNS} FROM intents")]

    def delete(self, intent_id: str) -> None:
        with closing(sqlite3.connect(self.location)) as database, database:
            assert database.execute("DELETE FROM intents WHERE id = ?", (intent_id,)).rowcount == 1

    def move_clock(self, seconds: float) -> None:
        pass


class _PostgresDatabase:
    def __init__(self, database: postgres.Database, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.location = database.url
        self._connection = connection

    def intents(self) -> list[StoredIntent]:
        if self._connection.execute("SELECT to_regclass('public.minted_connect_intents')").fetchone() == (None,):
            return []
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM public.minted_connect_intents".encode())
        return [_load(row) for row in rows]

    def delete(self, intent_id: str) -> None:
        done = self._connection.execute("DELETE FROM public.minted_connect_intents WHERE id = %s", (intent_id,))
        assert done.rowcount == 1

    def move_clock(self, seconds: float) -> None:
        self._connection.execute("UPDATE simulated.clock SET seconds = %s", (seconds,))


def _load(row: Any) -> StoredIntent:
    intent_id, state, order_id, reference, customer, cart_token, paid_total, created_at = row
    created = created_at if isinstance(created_at, datetime) else datetime.fromisoformat(created_at)
    return StoredIntent(intent_id, state, order_id, reference, customer, cart_token, Decimal(paid_total), created)


@contextmanager
def open_database(settings: Settings) -> Generator[tuple[Database, Path]]:
    """Make the database of a day, and a folder for its other files."""
    with tempfile.TemporaryDirectory() as folder:
        if settings.journal == "sqlite":
            yield _SqliteFile(Path(folder) / "journal.db"), Path(folder)
            return
        with postgres.running() as cluster, cluster.database() as database, database.connect() as connection:
            connection.execute(_CLOCK.encode())
            connection.execute(
                f"ALTER DATABASE {database.name} SET search_path = public, simulated, pg_catalog".encode()
            )
            yield _PostgresDatabase(database, connection), Path(folder)
