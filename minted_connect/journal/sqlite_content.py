"""Removes what changed records have left behind in the file of an SQLite journal."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from minted_connect.errors import JournalError

__all__ = ["remove_old_content"]


def remove_old_content(database: sqlite3.Connection, *, wal: Path) -> None:
    """Rewrite the file and empty its log, so that no bytes of earlier content are left in them.

    Args:
        database: A connection to the journal, outside a transaction.
        wal: The log.

    Raises:
        JournalError: if another process reads the journal in one long transaction.
    """
    # Also applies to the temporary database of VACUUM, which becomes the content of the file.
    database.execute("PRAGMA secure_delete = ON")
    database.execute("PRAGMA temp_store = MEMORY")
    database.execute("VACUUM")
    [(is_busy, _, _)] = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if is_busy:
        raise JournalError(
            f"the records of the customer are erased, but {wal} still has earlier content, because another process "
            "reads the journal in one long transaction: erase the customer again when it has ended"
        )
