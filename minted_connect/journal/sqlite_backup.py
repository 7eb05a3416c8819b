"""Copies the file of an SQLite journal while other processes write to it, and marks the copy."""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from minted_connect.clock import monotonic
from minted_connect.core.fsync import sync_directory
from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.journal.rows import dump_time
from minted_connect.journal.sqlite_errors import describe_error
from minted_connect.journal.sqlite_schema import STATEMENTS, migrate

__all__ = ["check_target", "write_backup"]

_PREFIX = ".minted-"
"""Of temporary names. `JournalFile` removes those that are hard links of a journal."""


def check_target(path: Path) -> None:
    """Check that a backup can be written to a path.

    Raises:
        ConfigurationError: if there is a file already, or if its directory does not exist.
    """
    if os.path.lexists(path):
        raise ConfigurationError(f"backup: {path} exists already: a backup overwrites nothing")
    if not path.parent.is_dir():
        raise ConfigurationError(f"backup: the directory {path.parent} does not exist")


def write_backup(source: sqlite3.Connection, version: int, path: Path, at: datetime, deadline: float) -> None:
    """Write a marked copy of a journal, which only its owner can read, and which is complete or does not exist.

    Args:
        source: A connection to the journal.
        version: Its schema version. The copy has the current one.
        path: The new file.
        at: A time before the copy begins.
        deadline: Monotonic time until which to wait for the locks of other processes.

    Raises:
        ConfigurationError: from `check_target`.
        JournalError: if the copy cannot be written, or is damaged.
    """
    check_target(path)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=_PREFIX, dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        _copy(source, version, temporary, at, deadline)
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _move(temporary, path)
        sync_directory(path.parent)
    except FileExistsError:
        # Another process has created the file meanwhile.
        check_target(path)
        raise
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else describe_error(error)
        raise JournalError(f"the backup {path} of the journal was not written: {reason}") from error
    finally:
        if temporary is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(OSError):
                    Path(f"{temporary}{suffix}").unlink(missing_ok=True)


def _copy(source: sqlite3.Connection, version: int, path: Path, at: datetime, deadline: float) -> None:
    def check_deadline(status: int, *_: int) -> None:
        # The only step copies all pages. SQLite repeats it for as long as another process locks the journal.
        if status in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} and monotonic() > deadline:
            raise JournalError(f"the backup {path} was not written: the journal is locked by another process")

    with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as copy:
        source.backup(copy, progress=check_deadline, sleep=0.05)
        # A backup is one file: without a write-ahead log beside it.
        copy.execute("PRAGMA journal_mode = DELETE")
        [(result,)] = copy.execute("PRAGMA quick_check(1)").fetchall()
        if result != "ok":
            raise JournalError("the journal is damaged, so no backup was written: restore an earlier one")
        copy.execute("BEGIN IMMEDIATE")
        migrate(copy, version)
        copy.execute(STATEMENTS.mark, {"at": dump_time(at), "identity": secrets.token_hex(16)})
        copy.execute("COMMIT")


def _move(temporary: Path, path: Path) -> None:
    """Give a file its final name, unless another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links (FAT).
        check_target(path)
        temporary.rename(path)
