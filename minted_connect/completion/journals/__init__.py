"""Journals that outlive the process, and the choice between them."""

from __future__ import annotations

from pathlib import Path

from minted_connect.completion.journal import Journal, MemoryJournal
from minted_connect.errors import ConfigurationError

__all__ = ["open_journal"]


def open_journal(journal: Journal | str | Path | None) -> Journal:
    """Return the journal itself, the SQLite journal in a file of that path, or for None one in memory.

    Raises:
        ConfigurationError: neither of these.
    """
    if journal is None:
        return MemoryJournal()
    if isinstance(journal, str | Path):
        if not str(journal) or "://" in str(journal):
            raise ConfigurationError("journal: must be the path of a file, or an object with the methods of Journal")
        # Lazily: most clients have no journal file.
        from minted_connect.completion.journals.sqlite import SqliteJournal  # noqa: PLC0415

        return SqliteJournal(journal)
    if not isinstance(journal, Journal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError("journal: must be the path of a file, or an object with the methods of Journal")
    return journal
