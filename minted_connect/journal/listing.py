"""Lists all intents of a journal, in any state and of all accounts. Reads only: a journal is never created."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import attrs

from minted_connect.errors import ConfigurationError
from minted_connect.journal.protocol import Journal
from minted_connect.journal.rows import COLUMNS, ROW_ERRORS, from_row
from minted_connect.models import Intent

__all__ = ["PAGE_SIZE", "IntentPage", "ListingJournal", "as_listing", "load_page"]

PAGE_SIZE: Final = 500
"""Number of intents that one query reads."""

_ID: Final = COLUMNS.index("id")


@attrs.frozen
class IntentPage:
    """Some of the intents of a journal."""

    intents: tuple[Intent, ...]
    unreadable: tuple[str, ...] = ()
    """Ids of the records of this page that cannot be read."""


@runtime_checkable
class ListingJournal(Journal, Protocol):
    """A `Journal` that can list all of its intents (`minted_connect.audit`)."""

    def list_intents(self) -> AsyncGenerator[IntentPage, None]:
        """Iterate over all intents, oldest first, in pages.

        An intent that was stored before the iteration began is listed once, unless the journal has forgotten it. The
        journal is not created, and its schema is not changed.

        Raises:
            JournalError: if the intents could not be read.
        """
        ...


def as_listing(journal: Journal) -> ListingJournal:
    """Return a journal that can list its intents.

    Raises:
        ConfigurationError: if it cannot.
    """
    if not isinstance(journal, ListingJournal):
        raise ConfigurationError(f"journal: {type(journal).__name__} lacks list_intents of ListingJournal")
    return journal


def load_page(rows: Sequence[Sequence[Any]]) -> IntentPage:
    """Convert rows to a page. Each row has the values of `COLUMNS`, followed by others."""
    intents: list[Intent] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            intents.append(from_row(row[: len(COLUMNS)]))
        except ROW_ERRORS:
            intent_id = row[_ID]
            unreadable.append(intent_id if isinstance(intent_id, str) else repr(intent_id))
    return IntentPage(tuple(intents), tuple(unreadable))
