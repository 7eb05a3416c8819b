"""The journal: stores every intent to buy, sell or ship before it is sent, so that no purchase is lost or repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from minted_connect.errors import ConfigurationError
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.paths import check_directory
from minted_connect.journal.protocol import EXPECTED, Journal
from minted_connect.secret import Secret

__all__ = ["hide_url", "open_client_journal", "open_journal"]

_POOL_SIZE: Final = 10
"""Maximum of connections to PostgreSQL of a client whose journal is given as a URL."""


def open_journal(
    journal: Journal | str | Path | Secret | None, *, read_only: bool = False, pool_size: int = 0
) -> Journal:
    """Return the journal for a path (SQLite), a URL (PostgreSQL), a `Journal` object (returned as it is), or None.

    None gives a new journal in memory. With `read_only`, a database must have the tables of this version; reading a
    file never creates or changes it. A journal with a connection pool (`pool_size`, PostgreSQL only) must be closed.

    Raises:
        ConfigurationError: if the argument is something else, or if the extra `postgres` is needed and not installed.
    """
    journal = hide_url(journal)
    # Imported on demand: most clients use neither SQLite nor PostgreSQL.
    match journal:
        case None:
            return MemoryJournal()
        case Secret():
            from minted_connect.journal.postgres import PostgresJournal  # noqa: PLC0415

            return PostgresJournal(journal, pool_size=pool_size, read_only=read_only)
        case str() | Path() if str(journal):
            from minted_connect.journal.sqlite import SqliteJournal  # noqa: PLC0415

            return SqliteJournal(journal)
        case type():  # pyright: ignore[reportUnnecessaryComparison]
            raise ConfigurationError(f"journal: is a class; give an instance, {journal.__name__}(...)")
        case Journal():
            return journal
        case _:
            methods = [name for name in vars(Journal) if not name.startswith("_")]
            missing = [name for name in methods if not hasattr(journal, name)]
            if len(missing) < len(methods):
                raise ConfigurationError(f"journal: {type(journal).__name__} lacks {', '.join(missing)} of Journal")
            raise ConfigurationError(f"journal: {EXPECTED}")


def open_client_journal(journal: Journal | str | Path | Secret | None) -> Journal:
    """Return the journal of a client, as `open_journal`; a file must lie in a directory that exists.

    Raises:
        ConfigurationError: as `open_journal`, or if the directory does not exist.
    """
    opened = open_journal(journal, pool_size=_POOL_SIZE)
    if isinstance(journal, str | Path):
        check_directory(str(journal))
    return opened


def hide_url(journal: Journal | str | Path | Secret | None) -> Journal | str | Path | Secret | None:
    """Return a URL as a `Secret`, because it may contain a password; return anything else as it is."""
    return Secret(journal) if isinstance(journal, str) and "://" in journal else journal
