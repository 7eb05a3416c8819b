"""Journals that outlive the process, and the choice between them."""

from __future__ import annotations

from pathlib import Path

from minted_connect.errors import ConfigurationError
from minted_connect.journal.protocol import Journal, MemoryJournal
from minted_connect.secret import Secret

__all__ = ["open_journal", "sealed"]


def open_journal(journal: Journal | str | Path | Secret | None) -> Journal:
    """Return the journal itself, the one in a file of that path or a database of that URL, or for None one in memory.

    Raises:
        ConfigurationError: none of these, or what the database needs is not installed.
    """
    journal = hide_url(journal)
    # Lazily: most clients have no journal file, and fewer a database.
    match journal:
        case None:
            return MemoryJournal()
        case Secret():
            from minted_connect.journal.postgres import PostgresJournal  # noqa: PLC0415

            return PostgresJournal(journal)
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
            raise ConfigurationError(
                "journal: must be the path of a file, a URL postgresql://..., or an object with the methods of Journal"
            )


def hide_url(journal: Journal | str | Path | Secret | None) -> Journal | str | Path | Secret | None:
    """Return a URL as a `Secret`, for it may hold a password; anything else as it is."""
    return Secret(journal) if isinstance(journal, str) and "://" in journal else journal
