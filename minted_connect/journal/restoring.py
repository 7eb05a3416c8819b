"""Journals that were restored from a backup, and do not contain the purchases since then.

Such a journal has a mark: the time of the backup. Until `minted audit --import` has taken over the orders since then,
nothing that rests on a complete journal is stored: no reference, no claim, and no purchase under `Options.spending`.

An order has no reference. So an intent that was stored for an order may be the one of a reference that the backup does
not contain: it blocks references with the same terms until a person has assigned it to one, or to none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, cast, runtime_checkable

import attrs

from minted_connect.errors import ConfigurationError, InvalidInput, JournalError
from minted_connect.journal.protocol import CLOSED, Journal, JournalAccount, ReferenceKey, find_active_reference
from minted_connect.models import Intent, IntentState

__all__ = [
    "ImportCount",
    "OrderImport",
    "RestorableJournal",
    "as_restorable",
    "check_assignment",
    "check_imported",
    "check_mark",
    "find_unsettled",
    "has_terms",
    "pieces_of",
    "restored_error",
]


@attrs.frozen
class OrderImport:
    """An order to take over."""

    intent: Intent
    """The intent to store if the journal has none: confirmed, or rejected if the order has failed."""
    is_order_of: Callable[[Intent], bool]
    """Returns whether a key proves that the order is the one of an intent of the same customer."""


@attrs.frozen
class ImportCount:
    """The number of orders that were taken over."""

    known: int = 0
    """Orders whose intent the journal had."""
    settled: int = 0
    """Orders whose intent was not confirmed, and is now."""
    stored: int = 0
    """Orders without an intent, which have one now."""

    def __add__(self, other: ImportCount) -> ImportCount:
        return ImportCount(self.known + other.known, self.settled + other.settled, self.stored + other.stored)


@runtime_checkable
class RestorableJournal(Journal, Protocol):
    """A `Journal` that knows whether it was restored from a backup, and can take over the orders since then."""

    async def restored_from(self, account: str | None = None) -> datetime | None:
        """Return the time of the backup that this journal was restored from, or None.

        None also if the orders since then were taken over.

        Args:
            account: None if the orders of this account were taken over, although those of others were not.

        Raises:
            JournalError: if the journal cannot be read.
        """
        ...

    async def mark_restored(self, at: datetime) -> datetime:
        """Store durably that the journal was restored from a backup made at a time, and return the stored time.

        The stored time is the earlier one if the journal has a mark already. The journal receives another random id, so
        that clients which use it notice that its content is an older one.

        Raises:
            InvalidInput: if it is not a timezone-aware time in the past.
            JournalError: if the mark could not be stored.
        """
        ...

    async def import_orders(
        self, orders: Sequence[OrderImport], *, owner: JournalAccount, unnamed_account: str
    ) -> ImportCount:
        """Take over orders, all or none of them.

        An order that is the one of a confirmed intent is known. If it is the one of another intent, that intent is
        settled as confirmed, unless the order has failed. Without an intent, `OrderImport.intent` is stored.

        Args:
            orders: The orders, all of one account.
            owner: The account.
            unnamed_account: As in `ReferenceKey`.

        Raises:
            JournalError: if an intent of a customer cannot be read, or nothing could be stored durably.
        """
        ...

    async def end_import(self, mark: datetime, *, account: str, unnamed_account: str) -> bool:
        """Remove the mark for an account, whose orders since then were taken over; return whether that was possible.

        The mark stays for other accounts that the journal contains. It cannot be removed if it has another time
        meanwhile.

        Raises:
            JournalError: if nothing could be stored durably.
        """
        ...

    async def assign_reference(
        self, intent_id: str, key: ReferenceKey | None, terms: str | None, at: datetime
    ) -> Intent:
        """Assign an imported intent to a reference, or to none, and return it.

        Args:
            intent_id: Id of the intent.
            key: The key of the reference; None = none.
            terms: Its terms, if there is a reference.
            at: Stored as `assigned_at`.

        Raises:
            InvalidInput: from `check_assignment`, or if the journal does not contain the intent.
            JournalError: if nothing could be stored durably.
        """
        ...


def as_restorable(operation: str, journal: Journal) -> RestorableJournal:
    """Return a journal that can have a mark.

    Raises:
        ConfigurationError: if it cannot.
    """
    if isinstance(journal, RestorableJournal):
        return journal
    own = sorted({*dir(RestorableJournal)} - {*dir(Journal)})
    names = (name for name in own if not name.startswith("_"))
    missing = ", ".join(name for name in names if not callable(getattr(journal, name, None)))
    raise ConfigurationError(f"{operation}: the journal {type(journal).__name__} lacks {missing} of RestorableJournal")


def check_mark(at: datetime, now: datetime) -> datetime:
    """Return the time of a backup.

    Raises:
        InvalidInput: if it is not a timezone-aware time in the past.
    """
    if not isinstance(at, datetime) or at.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("at", "must be a datetime with a time zone")
    if at > now:
        raise InvalidInput.of("at", "must be the time of a backup, which is in the past")
    return at


def restored_error(location: str, at: datetime) -> JournalError:
    """Build the error for a journal with a mark."""
    return JournalError(
        f"the journal {location} was restored from a backup of {at:%Y-%m-%d %H:%M:%S} UTC, and does not contain the "
        "purchases since then: nothing was sent. Run `minted audit --import` first, which takes over the orders since "
        "the backup; until then, no reference, no call with items, and nothing under Options.spending is completed"
    )


def find_unsettled(order: OrderImport, found: Iterable[Intent]) -> tuple[bool, Intent | None]:
    """Return whether the journal has the intent of an order, and the one that is not settled as confirmed.

    Args:
        order: The order.
        found: The intents of its customer.
    """
    number, own = order.intent.order_id, [intent for intent in found if order.is_order_of(intent)]
    confirmed = [intent for intent in own if intent.state == IntentState.CONFIRMED]
    if any(intent.order_id in {number, None} for intent in confirmed):
        return True, None
    if any(intent.imported_at is not None and intent.order_id == number for intent in own):
        return True, None  # imported earlier, as the intent of an order that has failed
    # If another order of the same basket confirmed the intent, this order has none.
    others = [intent for intent in own if intent.state != IntentState.CONFIRMED]
    if not others or confirmed:
        return False, None
    if order.intent.state != IntentState.CONFIRMED:
        return True, None  # `reconcile` settles open intents whose order has failed
    sent = [intent for intent in others if intent.state != IntentState.NOT_SENT] or others
    return True, max(sent, key=lambda intent: (intent.state not in CLOSED, intent.created_at))


def check_imported(terms: str | None, imported: Iterable[Intent]) -> None:
    """Check that none of the imported intents of a customer may be the one of a reference.

    The address of a delivery is not compared, because the address of an order is not known.

    Args:
        terms: The terms of the reference.
        imported: The imported intents of its customer that are not assigned.

    Raises:
        JournalError: if one has the same terms; the text names the order and what to do.
    """
    same = [intent for intent in imported if has_terms(intent, terms)]
    if not same:
        return
    first = min(same, key=lambda intent: intent.created_at)
    order = "an order" if first.order_id is None else f"order {first.order_id}"
    more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
    raise JournalError(
        f"{order}{more} was taken over after the journal was restored, and may be the one of this reference: customer, "
        "kind, pieces and currency are the same. Nothing was sent. Find out, and call "
        f"complete.assign_reference('{first.id}', reference) if it is, which replays the reference from now on; or "
        "with the reference that it belongs to; or with None if it was made without a reference",
        intent_id=first.id,
    )


def has_terms(intent: Intent, terms: str | None) -> bool:
    """Return whether kind, pieces and currency of an intent are those of terms."""
    expected = cast("dict[str, Any]", json.loads(terms or "{}"))
    return {"kind": str(intent.kind), "pieces": pieces_of(intent), "currency": intent.currency_code} == {
        name: expected.get(name) for name in ("kind", "pieces", "currency")
    }


def pieces_of(intent: Intent) -> dict[str, int]:
    """Return the number of pieces of each sku."""
    pieces: Counter[str] = Counter()
    for sku, amount in intent.items:
        pieces[sku] += amount
    return dict(pieces)


def check_assignment(
    intent: Intent | None, key: ReferenceKey | None, terms: str | None, found: Collection[Intent]
) -> bool:
    """Check that an intent can be assigned to a reference; return False if it is already.

    Args:
        intent: The intent.
        key: The key of the reference; None = none.
        terms: Its terms.
        found: The intents with the reference that the journal holds.

    Raises:
        InvalidInput: if the intent was not imported, or is assigned to another reference; or if another intent with the
            reference is open or confirmed, or has other terms.
    """
    if intent is None:
        raise InvalidInput.of("intent_id", "the journal does not contain this intent")
    if intent.imported_at is None:
        text = f"intent {intent.id} was not imported: only `minted audit --import` stores intents without a reference"
        raise InvalidInput.of("intent_id", text)
    reference = None if key is None else key.reference
    if intent.reference is not None:
        if intent.reference == reference:
            return False
        text = f"intent {intent.id} is assigned to another reference: a reference that was completed stays completed"
        raise InvalidInput.of("reference", text)
    if (active := find_active_reference(found)) is not None:
        raise InvalidInput.of("reference", f"was completed already, or may have been: intent {active.id}")
    for one in found:
        before, now = (cast("dict[str, Any]", json.loads(text or "{}")) for text in (one.terms, terms))
        if any(before.get(name) != value for name, value in now.items()):
            raise InvalidInput.of("reference", f"was used before with other terms (intent {one.id})")
    return True
