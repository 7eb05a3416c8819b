"""Describes errors of SQLite."""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["describe_error", "is_missing_table", "result_code"]

# By primary result code.
_MESSAGES: Final = {
    sqlite3.SQLITE_ERROR: "is not a journal, or is damaged",
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_READONLY: "cannot be written",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened or created",
    sqlite3.SQLITE_PERM: "cannot be opened: no permission",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error, or is full",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a journal, or is damaged",
    sqlite3.SQLITE_CONSTRAINT: "rejects this intent: another intent has the same basket or id",
}


def describe_error(error: sqlite3.Error) -> str:
    """Return the reason of an error, which completes "the journal PATH ...": no value of a row."""
    return _MESSAGES.get(result_code(error), f"failed ({type(error).__name__})")


def result_code(error: sqlite3.Error) -> int:
    """Return the primary result code, which is the low byte of an extended one."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_missing_table(error: sqlite3.Error) -> bool:
    """Return whether a statement failed because its table does not exist."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR and str(error).startswith("no such table")
