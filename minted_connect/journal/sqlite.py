"""The SQLite journal: one file, shared by the processes of one machine.

Every query, and every group of writes that wait at the same time, opens the file and closes it, so that no connection
can be inherited through a fork, used from another thread, or left open. Queries open the file read-only and never
create it. `sql` has the transactions, `group_commit` their commits, `statements` the statements, `rows` the columns.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from minted_connect.clock import SYSTEM_CLOCK, monotonic
from minted_connect.core.cancellation import shielded
from minted_connect.core.fsync import sync_directory
from minted_connect.errors import JournalError
from minted_connect.journal.boot_clock import boot_clock_params
from minted_connect.journal.claims import Claim
from minted_connect.journal.group_commit import GroupCommit, Write
from minted_connect.journal.paths import check_path
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.journal.rows import ROW_ERRORS
from minted_connect.journal.spending import SpendingCheck
from minted_connect.journal.sql import SqlJournal, Steps
from minted_connect.journal.sqlite_backup import write_backup
from minted_connect.journal.sqlite_content import remove_old_content
from minted_connect.journal.sqlite_errors import describe_error, is_missing_table, result_code
from minted_connect.journal.sqlite_file import FileLost, JournalFile
from minted_connect.journal.sqlite_schema import (
    APPLICATION_ID,
    IDENTITY_VERSION,
    KEY_VERSION,
    STATEMENTS,
    VERSION,
    migrate,
    statements_for,
)
from minted_connect.journal.worker import WorkerThread
from minted_connect.models import Intent

__all__ = ["SqliteJournal"]

_logger = logging.getLogger("minted_connect.completion")

_T = TypeVar("_T")

_LARGE_WAL: Final = 16 * 2**20
"""Size of a write-ahead log in bytes: four times the size at which SQLite begins to empty it."""

_Rows = Sequence[tuple[Any, ...]]

# A single statement, so that all values belong to one state of a file that another process is creating.
_READ_SCHEMA: Final = (
    "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
    "FROM pragma_user_version, pragma_application_id"
)


class SqliteJournal(SqlJournal):
    """A journal in the file `path`, which is created at first use. Its directory must exist, on a local disk.

    All operations run on a dedicated thread, which starts with the first operation and ends with `aclose`. The journal
    can still be used after `aclose`.

    SQLite keeps a log beside the file: mount the directory into a container, not the file alone, and do not create
    hard links to the file. Symbolic links are safe.

    Args:
        path: The file. While it is in use, SQLite keeps `<path>-wal` and `<path>-shm` beside it.
        patience: Seconds to wait for the locks of other processes.

    Raises:
        ConfigurationError: if `path` is a name that SQLite reserves, such as `:memory:`, or a URI.
    """

    _statements = STATEMENTS

    def __init__(self, path: str | os.PathLike[str], *, patience: float = 5.0) -> None:
        super().__init__()
        check_path(os.fspath(path))
        # Resolve it now: after a change of the working directory, a relative path would lead to another journal.
        self.path: Path = Path(path).absolute()
        self._location = str(self.path)
        self._patience = patience
        self._file = JournalFile(self.path)
        self._thread = WorkerThread("minted-journal")
        self._commits = GroupCommit()
        self._is_large_wal_logged = False

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    async def prepare(
        self,
        intent: Intent,
        *,
        key: ReferenceKey | None = None,
        known: Collection[str] = (),
        claim: Claim | None = None,
        frees_customer: bool = False,
        spending: SpendingCheck | None = None,
    ) -> None:
        """Store an intent durably in the file."""
        self._raise_if_lost()
        steps = self._prepare_steps(intent, key, known, claim, frees_customer, spending)
        await self._commit(Write(partial(self._run_steps, steps), partial(self._remember, intent)))

    async def _transact(self, steps: Steps[_T], claim: Claim | None, **_: object) -> _T:  # noqa: ARG002 - the write lock excludes all others
        return await self._commit(Write(partial(self._run_steps, steps)))

    def _run_steps(self, steps: Steps[_T], database: sqlite3.Connection) -> _T:
        # Read under the write lock, for which this process may have waited.
        clock = boot_clock_params()
        try:
            statement, params = next(steps)
            while True:
                statement, params = steps.send(self._execute(database, statement, self._bind({**params, **clock})))
        except StopIteration as ended:
            result: _T = ended.value
            return result

    def _execute(self, database: sqlite3.Connection, statement: str, params: Mapping[str, Any]) -> _Rows:
        try:
            return database.execute(statement, params).fetchall()
        except (ValueError, OverflowError) as error:
            raise JournalError(f"the journal {self.path} cannot store this intent") from error

    async def _write(self, statement: str, params: Mapping[str, Any], *, also: str | None = None) -> None:
        intent_id = params.get("id")

        def execute(database: sqlite3.Connection) -> bool:
            bound = self._bind(params)
            if also is not None:
                database.execute(also, {**bound, **boot_clock_params()})
            if database.execute(statement, bound).rowcount or intent_id not in self._prepared:
                return True
            return bool(database.execute(self._statements.exists, self._exists_params(str(intent_id))).fetchall())

        try:
            is_found = await self._commit(Write(execute))
        except JournalError:
            if self._loss is None or intent_id not in self._prepared:
                raise
            is_found = False
        if not is_found:
            self._report_missing(str(intent_id))

    async def _commit(self, write: Write[_T]) -> _T:
        self._commits.add(write)
        try:
            running = self._submit(partial(self._commits.finish, write, self))
        except BaseException:
            self._commits.discard(write)
            raise
        return await shielded(running)

    async def _read(self, query: str, params: Mapping[str, Any]) -> _Rows:
        return await shielded(self._submit(partial(self._select, query, params)))

    def _submit(self, work: Callable[[float], _T]) -> asyncio.Future[_T]:
        """Run `work(deadline)` on the thread. A cancelled task cannot stop it: await its result `shielded`."""
        deadline = monotonic() + self._patience
        try:
            return self._thread.submit(partial(work, deadline))
        except RuntimeError as error:
            raise JournalError(f"the journal {self.path} cannot be used: no thread can be started") from error

    async def aclose(self) -> None:
        """End the thread; the next operation starts another one. Idempotent."""
        await self._thread.stop()

    async def backup(self, path: str | os.PathLike[str]) -> datetime:
        """Write a copy of the journal to a new file, and return the time of the copy.

        Other processes may use the journal meanwhile. Only the owner can read the copy (mode 0600), which is complete
        or does not exist. It is marked as a backup of this time (of its own backup, if the journal has a mark): a
        client that uses the copy completes no reference, no call with items, and nothing under `Options.spending`
        until `minted audit --import` has taken over the orders since then. Clients that use the journal notice if the
        copy replaces it.

        Args:
            path: The file; its directory must exist.

        Raises:
            ConfigurationError: if the file exists already, or its directory does not exist.
            JournalError: if the journal does not exist, cannot be read or is damaged, or the copy cannot be written.
        """
        target, at = Path.cwd() / path, SYSTEM_CLOCK.wall()
        await shielded(self._submit(partial(self._back_up, target, at)))
        return at

    def _back_up(self, target: Path, at: datetime, deadline: float) -> None:
        with self.translate_errors():
            if not self._file.check():
                raise JournalError(f"the journal {self.path} does not exist, or is empty: no backup was written")
            with closing(self._connect_as("mode=ro", deadline)) as database:
                version = self._read_version(database)
                self._pin(database, version)
                write_backup(database, version, target, at, deadline)

    def _pin(self, database: sqlite3.Connection, version: int) -> None:
        """Pin the file, and read the key for erased names."""
        identity = key = None
        if version >= IDENTITY_VERSION:
            columns = "identity, erasure_key" if version >= KEY_VERSION else "identity, NULL"
            for identity, key in database.execute(f"SELECT {columns} FROM journal"):  # noqa: B007, S608 - one row
                pass
        self._file.pin(None if identity is None else str(identity))
        self._erasure_key = key

    async def _purge(self) -> None:
        await shielded(self._submit(self._remove_old_content))

    def _remove_old_content(self, deadline: float) -> None:
        with self.connect_to_write(deadline) as database:
            remove_old_content(database, wal=self._file.wal)

    def _accept_identity(self, identity: str) -> None:
        self._file.identity = identity

    @contextmanager
    def connect_to_write(self, deadline: float) -> Generator[sqlite3.Connection]:
        """Open the file for writing, and close it at the end. Raise errors of SQLite as JournalError."""
        with self.translate_errors():
            database = self._connect(deadline)
            try:
                yield database
                self._limit_wal(database)
            finally:
                database.close()

    def check_file(self) -> None:
        """Check that the path still leads to the file that was changed: it may have been replaced meanwhile."""
        self._file.check_pinned()

    def _limit_wal(self, database: sqlite3.Connection) -> None:
        """Empty a large write-ahead log. Log once if a transaction of another connection prevents that."""
        try:
            size = self._file.wal.stat().st_size
        except OSError:
            return
        if size < _LARGE_WAL:
            self._is_large_wal_logged = False
            return
        is_busy = 1
        # The write is committed: a failure here must not be reported as a failure of the write.
        with suppress(sqlite3.Error):
            database.execute("PRAGMA busy_timeout = 0")
            is_busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy and not self._is_large_wal_logged:
            self._is_large_wal_logged = True
            _logger.warning(
                "the journal %s works, but its write-ahead log has %d MiB and cannot be emptied while another process "
                "reads the journal in one long transaction. Find this process with: lsof %s",
                self.path,
                size // 2**20,
                self._file.wal,
            )

    def _select(self, query: str, params: Mapping[str, Any], deadline: float | None = None) -> _Rows:
        with self.translate_errors():
            if not self._file.check():
                return ()
            try:
                return self._select_as("mode=ro", query, params, deadline)
            except sqlite3.OperationalError as error:
                if result_code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                    raise
                cannot_open = error
            # In a directory that is not writable, SQLite cannot create the `-shm` file that it shares with others.
            if self._file.wal.exists():
                raise JournalError(
                    f"the journal {self.path} cannot be read: its directory cannot be written, and {self._file.wal} "
                    "may hold its latest records. Read it as its owner, or copy both files to another directory"
                ) from cannot_open
            return self._select_as("immutable=1", query, params, deadline)

    def _select_as(self, mode: str, query: str, params: Mapping[str, Any], deadline: float | None) -> _Rows:
        database = self._connect_as(mode, deadline)
        try:
            version = self._read_version(database)
            if version == 0:
                if self._file.is_pinned:
                    raise FileLost("was emptied while in use")
                return ()
            self._pin(database, version)
            statements = self._statements if version == VERSION else statements_for(version)
            return database.execute(
                getattr(statements, query), self._bind({**params, **boot_clock_params()})
            ).fetchall()
        finally:
            database.close()

    @contextmanager
    def translate_errors(self) -> Generator[None]:
        """Raise errors of SQLite and of the operating system as JournalError."""
        try:
            yield
        except FileLost as lost:
            raise self._report_lost(str(lost)) from lost
        except sqlite3.Error as error:
            if is_missing_table(error) and self._file.is_pinned:
                raise self._report_lost("has lost its tables") from error
            if result_code(error) == sqlite3.SQLITE_NOTADB and self._file.is_pinned:
                raise self._report_lost("was overwritten or replaced while in use") from error
            raise JournalError(f"the journal {self.path} {describe_error(error)}") from error
        except OSError as error:
            raise JournalError(f"the journal {self.path} cannot be opened or created: {error.strerror}") from error
        except ROW_ERRORS as error:
            raise JournalError(f"the journal {self.path} contains a record that cannot be read") from error

    def _connect_as(self, mode: str, deadline: float | None) -> sqlite3.Connection:
        left = self._patience if deadline is None else deadline - monotonic()
        # An operation that was queued behind others of this process still waits a little for other processes.
        timeout = max(left, self._patience / 10)
        database = sqlite3.connect(f"{self.path.as_uri()}?{mode}", uri=True, timeout=timeout, isolation_level=None)
        # By default, a single value that is not valid UTF-8 makes `fetchall` fail for all rows.
        database.text_factory = _decode
        return database

    def _connect(self, deadline: float | None = None) -> sqlite3.Connection:
        """Open the file for writing, create it if needed, and migrate its schema."""
        if self._file.check() is None:
            self._file.create()
        # Mode `rw`, not `rwc`: a file that SQLite creates would be readable by other users.
        database = self._connect_as("mode=rw", deadline)
        try:
            self._set_up(database)
            self._pin(database, VERSION)
        except BaseException:
            database.close()
            raise
        return database

    def _set_up(self, database: sqlite3.Connection) -> None:
        version = self._read_version(database)
        if version == 0 and self._file.is_pinned:
            raise FileLost("was emptied while in use")
        # SQLite's own timeout does not apply to the change of the journal mode, which fails at once if another process
        # uses a new file.
        deadline = monotonic() + self._patience
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if result_code(error) != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                    raise
                time.sleep(0.01)
        database.execute("PRAGMA synchronous = FULL")
        if version == VERSION:
            return
        with _transaction(database):
            # Read again under the write lock: another process may have migrated the schema.
            migrate(database, self._read_version(database))
        sync_directory(self.path.parent)

    def _read_version(self, database: sqlite3.Connection) -> int:
        """Return the schema version of the file, 0 if it is empty.

        Raises:
            JournalError: if the file is a database of another application, or has a newer schema.
        """
        version, application_id, tables = database.execute(_READ_SCHEMA).fetchone()
        if application_id == APPLICATION_ID and 0 < version <= VERSION:
            return int(version)
        if application_id == APPLICATION_ID:
            raise self._newer_schema(version, VERSION)
        if application_id or version or tables:
            raise JournalError(f"the journal {self.path} is a database of another application")
        return 0


@contextmanager
def _transaction(database: sqlite3.Connection) -> Generator[None]:
    """Run a transaction that takes the write lock at its start, so that nothing it reads can be outdated."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _decode(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
