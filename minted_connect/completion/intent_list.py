"""Lists and forgets the intents of a journal, for `complete.intents`, `intent` and `forget`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from minted_connect import validation
from minted_connect.completion.settlement import Settlement
from minted_connect.core.cancellation import shielded
from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.journal.erasure import as_erasable
from minted_connect.journal.listing import IntentFilter, as_listable
from minted_connect.journal.protocol import (
    Journal,
    JournalAccount,
    ReferenceJournal,
    ReferenceKey,
    find_active_reference,
)
from minted_connect.models import Intent, IntentPage, IntentState

__all__ = ["erase_customer", "find_by_reference", "forget_intents", "list_page", "make_filter"]

_logger = logging.getLogger("minted_connect.completion")

_STATES: Final = frozenset(IntentState)
_MAX_PER_PAGE: Final = 1000
_MIN_AGE: Final = timedelta(hours=48)
"""Minimum age of an intent that is forgotten.

A late order may still confirm a younger one, and limits for a day, in any time zone, still count it.
"""


def make_filter(
    owner: JournalAccount | None,
    state: IntentState | str | Sequence[IntentState | str] | None,
    customer_id: str | None,
    reference: str | None,
    since: datetime | None,
    until: datetime | None,
    *,
    all_accounts: bool,
) -> IntentFilter:
    """Check the arguments of `complete.intents`, and return them as a filter.

    Raises:
        InvalidInput: if one of them is invalid.
    """
    validation.boolean("all_accounts", all_accounts)
    states = None
    if state is not None:
        states = frozenset(
            IntentState(validation.one_of("state", one, _STATES)) for one in validation.as_list("state", state)
        )
    return IntentFilter(
        None if all_accounts or owner is None else owner.account,
        states,
        None if customer_id is None else validation.customer_id(customer_id),
        None if reference is None else validation.text("reference", reference),
        None if since is None else _check_time("since", since),
        None if until is None else _check_time("until", until),
    )


async def list_page(journal: Journal, filters: IntentFilter, *, after: int = 0, per_page: int) -> IntentPage:
    """Return one page of intents.

    Raises:
        InvalidInput: if an argument is invalid.
        ConfigurationError: if the journal cannot list its intents.
        JournalError: if the journal cannot be read.
    """
    validation.integer("after", after, 0)
    validation.integer("per_page", per_page, 1, _MAX_PER_PAGE)
    return await as_listable("intents", journal).find_intents(filters, after=after, limit=per_page)


async def find_by_reference(settlement: Settlement, unnamed_account: str, reference: str) -> Intent | None:
    """Return the confirmed intent with a reference, else the open one, else the latest, else None.

    Raises:
        InvalidInput: if the reference is invalid.
        ConfigurationError: if the journal cannot store references.
        JournalError: if the journal cannot be read.
    """
    journal = settlement.journal
    if not isinstance(journal, ReferenceJournal):
        raise ConfigurationError(
            f"reference: the journal {type(journal).__name__} lacks find_by_reference of ReferenceJournal"
        )
    key = ReferenceKey(validation.text("reference", reference), settlement.owner, unnamed_account)
    intents = await journal.find_by_reference(key)
    return find_active_reference(intents) or max(intents, key=lambda one: one.created_at, default=None)


async def forget_intents(settlement: Settlement, before: datetime, now: datetime) -> int:
    """Forget settled intents, and return their number.

    Raises:
        InvalidInput: if `before` is not a timezone-aware time at least 48 hours ago.
        ConfigurationError: if the journal cannot forget intents.
        JournalError: if the journal cannot be written.
    """
    if _check_time("before", before) > now - _MIN_AGE:
        raise InvalidInput.of("before", "must be at least 48 hours ago")
    journal = as_listable("forget", settlement.journal)
    return await shielded(journal.forget(before, now, account=settlement.owner.account))


async def erase_customer(
    journal: Journal, customer_id: str, at: datetime, *, account: str, unnamed_account: str
) -> int:
    """Erase a customer from a journal, and return the number of records.

    Raises:
        AlreadyInFlight: if an intent of the customer is open, or a claim is held.
        ConfigurationError: if the journal cannot erase customers.
        JournalError: if the journal cannot be written.
    """
    erasable = as_erasable("erase_customer", journal)
    count = await shielded(erasable.erase_customer(customer_id, at, account=account, unnamed_account=unnamed_account))
    _logger.warning("a customer was erased from %d records of the journal", count)
    return count


def _check_time(field: str, value: Any) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput.of(field, "must be a datetime with a time zone")
    return value
