"""Journals whose intents can be listed and forgotten (`complete.intents`, `complete.forget`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

import attrs

from minted_connect.errors import ConfigurationError
from minted_connect.journal.protocol import Journal
from minted_connect.models import Intent, IntentPage, IntentState

__all__ = ["ForgettingJournal", "IntentFilter", "ListableJournal", "as_listable", "iterate_pages"]

_PER_PAGE: Final = 500
"""Number of intents that one query reads."""


@attrs.frozen
class IntentFilter:
    """Selects intents. None selects all."""

    account: str | None = None
    """Only intents of this account and intents without an account."""
    states: frozenset[IntentState] | None = None
    external_customer_id: str | None = attrs.field(default=None, repr=False)
    reference: str | None = attrs.field(default=None, repr=False)
    since: datetime | None = None
    """Only intents with `created_at` at this time or later."""
    until: datetime | None = None
    """Only intents with `created_at` before this time."""

    def matches(self, intent: Intent) -> bool:
        """Return whether an intent is selected."""
        return (
            (self.account is None or intent.account in {self.account, None})
            and (self.states is None or intent.state in self.states)
            and self.external_customer_id in {intent.external_customer_id, None}
            and self.reference in {intent.reference, None}
            and (self.since is None or intent.created_at >= self.since)
            and (self.until is None or intent.created_at < self.until)
        )


@runtime_checkable
class ListableJournal(Journal, Protocol):
    """A `Journal` whose settled intents can be listed and forgotten, too."""

    async def find_intents(self, filters: IntentFilter, *, after: int = 0, limit: int) -> IntentPage:
        """Return the next intents that match, oldest first; at most `limit`, unreadable records included.

        Args:
            filters: Selects the intents.
            after: The `next_after` of the page before; 0 for the first page.
            limit: Maximum number of records.

        Raises:
            JournalError: if the intents could not be read.
        """
        ...

    async def forget(self, before: datetime, at: datetime, *, account: str) -> int:
        """Forget the closed intents with `created_at` before a time, and return their number.

        An intent without a reference is removed, unless an attempt or a claim of a reference has the same basket. An
        intent with a reference that was confirmed is reduced to its ids, keys, terms, state and order number, and
        receives `forgotten_at`; attempts of a reference that was not confirmed stay, because a further attempt searches
        for their orders.

        Args:
            before: Later intents stay.
            at: Stored as `forgotten_at`.
            account: Only intents of this account and intents without an account.

        Raises:
            JournalError: if nothing could be stored durably.
        """
        ...


@runtime_checkable
class ForgettingJournal(Protocol):
    """A journal that knows what it has forgotten. An audit then does not expect the intents of orders from before."""

    async def find_forgotten(self) -> datetime | None:
        """Return the time from before which settled intents were forgotten, None if none was.

        Raises:
            JournalError: if the journal could not be read.
        """
        ...


def as_listable(operation: str, journal: Journal) -> ListableJournal:
    """Return a journal that can list its intents.

    Raises:
        ConfigurationError: if it cannot.
    """
    if isinstance(journal, ListableJournal):
        return journal
    methods = ("find_intents", "forget")
    missing = ", ".join(method for method in methods if not callable(getattr(journal, method, None)))
    raise ConfigurationError(f"{operation}: the journal {type(journal).__name__} lacks {missing} of ListableJournal")


async def iterate_pages(journal: ListableJournal, filters: IntentFilter) -> AsyncGenerator[IntentPage, None]:
    """Iterate over all pages of the intents that match, oldest first.

    Raises:
        JournalError: if the intents could not be read.
    """
    after: int | None = 0
    while after is not None:
        page = await journal.find_intents(filters, after=after, limit=_PER_PAGE)
        yield page
        after = page.next_after
