"""A journal in one SQLite file, shared by the processes of one machine.

Every operation opens the file, commits and closes it again: a purchase is rare beside that, and no connection can be
inherited through a fork, used from a wrong thread, or left open. Reading opens it read-only, and never creates it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from minted_connect.core.fsync import sync_directory
from minted_connect.errors import JournalError
from minted_connect.journal.paths import check_path
from minted_connect.journal.protocol import already_in_flight, shielded
from minted_connect.journal.rows import UNREADABLE
from minted_connect.journal.sql import Statements, insertion
from minted_connect.journal.sqlite_file import FileLost, JournalFile
from minted_connect.journal.sqlite_schema import APPLICATION, IDENTIFIED, STEPS, VERSION, statements_of
from minted_connect.journal.stored import StoredJournal
from minted_connect.journal.worker import WorkerThread
from minted_connect.models import Intent

__all__ = ["SqliteJournal"]

_T = TypeVar("_T")

_Rows = Sequence[tuple[Any, ...]]

# One statement, so that it sees one state of a file that another process is just making.
_STATE: Final = (
    "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
    "FROM pragma_user_version, pragma_application_id"
)

_PROBLEMS: Final = {
    sqlite3.SQLITE_ERROR: "holds something else than a journal, or is damaged",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened or created",
    sqlite3.SQLITE_PERM: "cannot be opened: no permission",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a journal, or is damaged",
    sqlite3.SQLITE_CONSTRAINT: "refuses this intent: another has its basket, or its id",
}


class SqliteJournal(StoredJournal):
    """A journal in the file `path`, made at first use; its directory has to exist, on a disk of this machine.

    All its work is done on a thread of its own, which starts with the first operation and ends with `aclose`, after
    which the journal can still be used.

    Mount the directory into a container, not the file alone, and give the file one name only: SQLite keeps a log beside
    it. Symbolic links are safe.

    Args:
        path: The file. Beside it SQLite keeps `<path>-wal` and `<path>-shm` while it is in use.
        patience: Seconds to wait for other processes that are writing.

    Raises:
        ConfigurationError: if `path` is a name that SQLite reserves, such as `:memory:`, or a URI.
    """

    _sql = Statements.of(table="intents", age="rowid")

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 5.0) -> None:
        super().__init__()
        check_path(os.fspath(path))
        # Now: a process that changes its directory later must not find another journal, without what is pending.
        self.path: Path = Path(path).absolute()
        self._place = str(self.path)
        self._patience = patience
        self._file = JournalFile(self.path)
        self._thread = WorkerThread("minted-journal")

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, on the disk before returning."""

        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                self._check_latest(database)
                try:
                    basket = {
                        "customer": intent.external_customer_id,
                        "token": intent.cart_token,
                        "account": intent.account,
                    }
                    holders = database.execute(self._sql.holder, basket).fetchall()
                    if not holders:
                        database.execute(self._sql.insert, insertion(intent))
                except (ValueError, OverflowError) as error:
                    raise JournalError(f"the journal {self.path} cannot hold this intent") from error
                if (holder := self._first(holders)) is not None:
                    raise already_in_flight(holder)
            # It may have been written into a file that has lost its name by now.
            self._file.check_name()
            self._remember(intent)

        self._check_not_lost()
        await self._run(partial(self._do, work))

    def _check_latest(self, database: sqlite3.Connection) -> None:
        """Check that the file still holds what was written here last: an older copy may have taken its place."""
        if self._latest is not None and not database.execute(self._sql.exists, {"id": self._latest}).fetchall():
            raise FileLost(f"does not hold intent {self._latest} any more, which was written here")

    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                changed = database.execute(statement, values).rowcount
                missing = (
                    not changed
                    and values.get("id") in self._prepared
                    and not database.execute(self._sql.exists, {"id": values["id"]}).fetchall()
                )
            if missing:
                self._report_missing(values["id"])

        def write(give_up: float) -> None:
            try:
                self._do(work, give_up)
            except JournalError:
                if self._lost is None or values.get("id") not in self._prepared:
                    raise
                self._report_missing(values["id"])

        await self._run(write)

    async def _read(self, query: str, values: Mapping[str, Any]) -> _Rows:
        return await self._run(partial(self._do_reading, query, values))

    async def _run(self, work: Callable[[float], _T]) -> _T:
        give_up = time.monotonic() + self._patience
        try:
            running = self._thread.submit(partial(work, give_up))
        except RuntimeError as error:
            raise JournalError(f"the journal {self.path} cannot be used: there is no thread for it") from error
        # The thread goes on under a cancelled task; unlike a task, this future cannot be cancelled by anyone else.
        return await shielded(running)

    async def aclose(self) -> None:
        """End the thread; the next operation starts another one. Idempotent."""
        await self._thread.stop()

    def _do(self, work: Callable[[sqlite3.Connection], _T], give_up: float | None = None) -> _T:
        with self._translated():
            database = self._open(give_up)
            try:
                return work(database)
            finally:
                database.close()

    def _do_reading(self, query: str, values: Mapping[str, Any], give_up: float | None = None) -> _Rows:
        with self._translated():
            if not self._file.check():
                return ()
            try:
                return self._select("mode=ro", query, values, give_up)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                    raise
                problem = error
            # A directory that cannot be written has no room for the files that SQLite shares with other processes.
            if self._file.log.exists():
                raise JournalError(
                    f"the journal {self.path} cannot be read: its directory cannot be written, and {self._file.log} "
                    "may hold its latest records. Read it as its owner, or copy both files to another directory"
                ) from problem
            return self._select("immutable=1", query, values, give_up)

    def _select(self, how: str, query: str, values: Mapping[str, Any], give_up: float | None) -> _Rows:
        database = self._connect(how, give_up)
        try:
            version = self._version(database)
            if version == 0:
                if self._file.is_used:
                    raise FileLost("was emptied while in use")
                return ()
            self._file.mark_used(_identity(database, version))
            sql = self._sql if version == VERSION else statements_of(version)
            return database.execute(getattr(sql, query), values).fetchall()
        finally:
            database.close()

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Raise a JournalError for everything that can be wrong with the file."""
        try:
            yield
        except FileLost as lost:
            raise self._report_lost(str(lost)) from lost
        except sqlite3.Error as error:
            if _is_about_tables(error) and self._file.is_used:
                raise self._report_lost("has lost its tables") from error
            # The low byte is the class of the problem; the rest of an extended code says where it struck.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB and self._file.is_used:
                raise self._report_lost("was overwritten or replaced while in use") from error
            problem = _PROBLEMS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, f"failed ({type(error).__name__})")
            raise JournalError(f"the journal {self.path} {problem}") from error
        except OSError as error:
            raise JournalError(f"the journal {self.path} cannot be opened or created: {error.strerror}") from error
        except UNREADABLE as error:
            raise JournalError(f"the journal {self.path} holds a record that cannot be read") from error

    def _connect(self, how: str, give_up: float | None) -> sqlite3.Connection:
        left = self._patience if give_up is None else give_up - time.monotonic()
        # Jobs that waited for others of this process still get a part of the patience with other processes.
        timeout = max(left, self._patience / 10)
        database = sqlite3.connect(f"{self.path.as_uri()}?{how}", uri=True, timeout=timeout, isolation_level=None)
        # One text that is not UTF-8 would hide all rows.
        database.text_factory = _text
        return database

    def _open(self, give_up: float | None = None) -> sqlite3.Connection:
        if self._file.check() is None:
            self._file.create()
        # `rw`: SQLite itself would create it for everybody to read.
        database = self._connect("mode=rw", give_up)
        try:
            self._set_up(database)
            self._file.mark_used(_identity(database, VERSION))
        except BaseException:
            database.close()
            raise
        return database

    def _set_up(self, database: sqlite3.Connection) -> None:
        version = self._version(database)
        if version == 0 and self._file.is_used:
            raise FileLost("was emptied while in use")
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
            for step in STEPS[version:]:
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


def _identity(database: sqlite3.Connection, version: int) -> str | None:
    if version < IDENTIFIED:
        return None
    row = database.execute("SELECT identity FROM journal").fetchone()
    return None if row is None else str(row[0])


def _is_about_tables(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR and str(error).startswith("no such table")


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
