"""A journal in one SQLite file, shared by the processes of one machine.

Every operation opens the file, commits and closes it again: a purchase is rare beside that, and no connection can be
inherited through a fork, used from a wrong thread, or left open.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from decimal import InvalidOperation
from pathlib import Path
from typing import Any, Final, TypeVar

from minted_connect.completion.journal import HOLDING, OPEN, already_in_flight, to_the_end
from minted_connect.completion.journals.rows import from_row, quoted
from minted_connect.completion.journals.statements import UNFINISHED, Statements, insertion
from minted_connect.completion.journals.stored import StoredJournal
from minted_connect.core.disk import sync_directory
from minted_connect.errors import JournalError
from minted_connect.models import Intent

__all__ = ["SqliteJournal"]

_T = TypeVar("_T")

APPLICATION: Final = 0x4D4E5443
"""Marks the file as ours (`PRAGMA application_id`, "MNTC")."""

_STEPS: Final = (
    f"""
CREATE TABLE intents (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    external_customer_id TEXT NOT NULL,
    cart_token TEXT NOT NULL,
    basket_id INTEGER NOT NULL,
    guid TEXT NOT NULL,
    increment_id TEXT NOT NULL,
    price_token TEXT NOT NULL,
    paid_total TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    items TEXT NOT NULL,
    created_at TEXT NOT NULL,
    state TEXT NOT NULL,
    order_id INTEGER
);
CREATE UNIQUE INDEX one_open ON intents (external_customer_id, cart_token) WHERE state IN ({quoted(OPEN)});
CREATE INDEX one_holder ON intents (external_customer_id, cart_token) WHERE state IN ({quoted(HOLDING)});
PRAGMA application_id = {APPLICATION}
""",
    f"""
ALTER TABLE intents ADD COLUMN clock_offset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE intents ADD COLUMN known_orders TEXT NOT NULL DEFAULT '[]';
ALTER TABLE intents ADD COLUMN progress TEXT;
ALTER TABLE intents ADD COLUMN finished INTEGER NOT NULL DEFAULT 0;
CREATE INDEX unfinished ON intents (state) WHERE {UNFINISHED}
""",
    "ALTER TABLE intents ADD COLUMN fenced_at TEXT",
)
"""How to come from each version of the schema to the next; what was released is never changed."""

VERSION: Final = len(_STEPS)
"""Of the schema (`PRAGMA user_version`)."""

# One statement, so that it sees one state of a file that another process is just making.
_STATE: Final = (
    "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
    "FROM pragma_user_version, pragma_application_id"
)

_PROBLEMS: Final = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened or created",
    sqlite3.SQLITE_PERM: "cannot be opened: no permission",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a journal, or is damaged",
}


class SqliteJournal(StoredJournal):
    """A journal in the file `path`, made at first use; its directory has to exist, on a disk of this machine.

    Args:
        path: The file. Beside it SQLite keeps `<path>-wal` and `<path>-shm` while it is in use.
        patience: Seconds to wait for other processes that are writing.
    """

    _sql = Statements.of(table="intents", age="rowid")

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 5.0) -> None:
        # Now: a process that changes its directory later must not find another journal, without what is pending.
        self.path: Path = Path(path).absolute()
        self._patience = patience

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, on the disk before returning."""

        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                try:
                    basket = {"customer": intent.external_customer_id, "token": intent.cart_token}
                    holder = database.execute(self._sql.holder, basket).fetchone()
                    if holder is None:
                        database.execute(self._sql.insert, insertion(intent))
                except (ValueError, OverflowError) as error:
                    raise JournalError(f"the journal {self.path} cannot hold this intent") from error
                if holder is not None:
                    raise already_in_flight(from_row(holder))

        await self._run(work)

    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute(statement, values)

        await self._run(work)

    async def _read(self, query: str, **values: str) -> list[Intent]:
        return await self._run(lambda database: [from_row(row) for row in database.execute(query, values)])

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            running = asyncio.get_running_loop().run_in_executor(None, self._do, work)
        except RuntimeError as error:
            raise JournalError(f"the journal {self.path} cannot be used: there is no thread for it") from error
        # The thread goes on under a cancelled task; unlike a task, this future cannot be cancelled by anyone else.
        return await to_the_end(running)

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            database = self._open()
            try:
                return work(database)
            finally:
                database.close()
        except sqlite3.Error as error:
            # The low byte is the class of the problem; the rest of an extended code says where it struck.
            problem = _PROBLEMS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, f"failed ({type(error).__name__})")
            raise JournalError(f"the journal {self.path} {problem}") from error
        except OSError as error:
            raise JournalError(f"the journal {self.path} cannot be opened or created: {error.strerror}") from error
        except (ValueError, TypeError, LookupError, InvalidOperation) as error:
            raise JournalError(f"the journal {self.path} holds a record that cannot be read") from error

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            _create(self.path)
        # `rw`: SQLite itself would create it for everybody to read.
        uri = f"{self.path.as_uri()}?mode=rw"
        database = sqlite3.connect(uri, uri=True, timeout=self._patience, isolation_level=None)
        try:
            self._set_up(database)
        except BaseException:
            database.close()
            raise
        return database

    def _set_up(self, database: sqlite3.Connection) -> None:
        version = self._version(database)
        # Changing the mode of a new file fails at once, without SQLite's own waiting, if another process is there.
        give_up = time.monotonic() + self._patience
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.01)
        database.execute("PRAGMA synchronous = FULL")
        if version == VERSION:
            return
        with _transaction(database):
            # Looked at again, now that nobody else can be making or changing it.
            version = self._version(database)
            for step in _STEPS[version:]:
                for statement in step.split(";"):
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
        sync_directory(self.path.parent)

    def _version(self, database: sqlite3.Connection) -> int:
        """Return the version of the schema that is there, 0 if the file is empty; refuse everything else."""
        version, application, tables = database.execute(_STATE).fetchone()
        if application == APPLICATION and 0 < version <= VERSION:
            return int(version)
        if application == APPLICATION:
            raise JournalError(
                f"the journal {self.path} has schema {version}, this library knows {VERSION}: upgrade the library"
            )
        if application or version or tables:
            raise JournalError(f"the journal {self.path} is a database of something else")
        return 0


@contextmanager
def _transaction(database: sqlite3.Connection) -> Generator[None]:
    """Write alone: the write lock is taken at the start, so that nothing read inside can be outdated."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _create(path: Path) -> None:
    """Make an empty file unless there is one, for the owner's eyes only: it names customers and baskets.

    Closing any descriptor of a file drops every POSIX lock this process has on it, those of SQLite in other threads
    too. So the file is made, and closed, before it gets its name.
    """
    path = Path(os.path.realpath(path))
    descriptor, draft = tempfile.mkstemp(prefix=".minted-", dir=path.parent)
    os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # No hard links here (FAT). Left open for that reason: once for a new file, never again.
        with suppress(FileExistsError):
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    finally:
        Path(draft).unlink()
