"""The `Journal` protocol: a write-ahead log of purchases.

A completion is stored as an intent before its first byte is sent. An open intent (prepared or unknown) may have been
sent: after a crash the journal is the only record of it. A basket with an open or confirmed intent accepts no further
intent of the same account, which prevents other tasks, processes and machines from completing the basket again. A
confirmed intent also stores the last known state of its order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

import attrs

from minted_connect.errors import AlreadyInFlight, ConfigurationError
from minted_connect.models import Intent, IntentState, OrderProgress, Refusal

__all__ = [
    "ACTIVE",
    "CLOSED",
    "EXPECTED",
    "INACTIVE",
    "OPEN",
    "Journal",
    "JournalAccount",
    "ReferenceJournal",
    "ReferenceKey",
    "already_in_flight_error",
    "check_reference",
    "find_active_reference",
    "other_references_error",
]

EXPECTED: Final = "must be the path of a file, a URL postgresql://..., or an object with the methods of Journal"
"""The values that the argument `journal` accepts, for error messages."""

OPEN: Final = frozenset({IntentState.PREPARED, IntentState.UNKNOWN})
"""States in which the completion may have been sent and its outcome is not known."""

ACTIVE: Final = OPEN | {IntentState.CONFIRMED}
"""States in which no other completion of the same basket is allowed."""

INACTIVE: Final = frozenset({IntentState.REJECTED, IntentState.NOT_SENT, IntentState.NOT_EXECUTED})
"""States after which the basket may be completed again."""

CLOSED: Final = INACTIVE | {IntentState.CONFIRMED}
"""States in which the outcome is known. Any other stored state counts as open."""


@attrs.frozen
class JournalAccount:
    """The server and the account that an intent belongs to, as hashes."""

    server: str
    account: str


@runtime_checkable
class Journal(Protocol):
    """Stores intents. Any object with these methods can be passed as `journal`.

    One journal may contain the intents of several accounts. An intent without an account was written by an older schema
    and counts as an intent of every account until `settle` or `adopt` assigns it to one.

    A journal may leave records that it cannot read out of its lists. If so, it must provide their ids in the attribute
    `unreadable`, a tuple of strings, so that callers do not mistake them for closed intents.
    """

    async def prepare(self, intent: Intent) -> None:
        """Store an intent durably.

        Raises:
            AlreadyInFlight: if an open or confirmed intent for the same customer and cart token exists that has the
                same account or none.
            JournalError: if the intent could not be stored durably, or if this journal has lost a record that it had
                written.
        """
        ...

    async def settle(
        self,
        intent_id: str,
        state: IntentState,
        *,
        order_id: int | None = None,
        progress: OrderProgress | None = None,
        owner: JournalAccount | None = None,
    ) -> None:
        """Store the outcome of an intent.

        A closed intent changes only to confirmed, because an order that exists overrides every other outcome. That
        holds even if a newer intent of the same basket is active; the newer one stays open.

        An unknown id is ignored, because it may belong to another journal. If this object prepared the intent, the
        journal has lost it: the loss is logged, and `prepare` raises from then on.

        Args:
            intent_id: Id of the intent.
            state: The new state.
            order_id: Number of the order, if the intent is confirmed.
            progress: Last known state of the order.
            owner: Assigned to the intent if it has no account yet.

        Raises:
            JournalError: if the outcome could not be stored.
        """
        ...

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store durably the response that refused an open intent, and change the intent's state to unknown.

        Raises:
            JournalError: if the refusal could not be stored.
        """
        ...

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account, even if it belongs to another one.

        Raises:
            JournalError: if the account could not be stored.
        """
        ...

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Store the last known state of the order that this basket became; ignored without a confirmed intent.

        Raises:
            JournalError: if the state could not be stored.
        """
        ...

    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id in any state, or None.

        Raises:
            JournalError: if the intent could not be read.
        """
        ...

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Store durably that the basket of an open intent is about to be cleared at time `at`.

        Only the first time is kept. After a crash this record alone distinguishes a basket that was cleared from one
        that became an order.

        Raises:
            JournalError: if the time could not be stored.
        """
        ...

    async def find_active(
        self, external_customer_id: str, cart_token: str, *, account: str | None = None
    ) -> Intent | None:
        """Return the open or confirmed intent for this basket, or None; a confirmed one takes precedence.

        Only intents of this account and intents without an account are considered.

        Raises:
            JournalError: if the intent could not be read.
        """
        ...

    async def pending(self) -> list[Intent]:
        """Return the open intents of all accounts, oldest first.

        Raises:
            JournalError: if the intents could not be read.
        """
        ...

    async def awaiting_completion(self) -> list[Intent]:
        """Return the confirmed intents of all accounts whose order is not known to be final, oldest first.

        Raises:
            JournalError: if the intents could not be read.
        """
        ...

    async def aclose(self) -> None:
        """Release resources. Idempotent."""
        ...


@attrs.frozen
class ReferenceKey:
    """Selects the intents of one reference of one account."""

    reference: str = attrs.field(repr=False)
    owner: JournalAccount
    unnamed_account: str
    """The account of this user name and server without `Options.journal_account`; its intents count, too."""

    @property
    def is_named(self) -> bool:
        """Whether `Options.journal_account` is set. If not, the intents of other accounts may be the user's, too."""
        return self.owner.account != self.unnamed_account


@runtime_checkable
class ReferenceJournal(Journal, Protocol):
    """A `Journal` that also stores references (`complete.buy(..., reference=)`)."""

    async def prepare(self, intent: Intent, *, key: ReferenceKey | None = None, known: Collection[str] = ()) -> None:
        """Store an intent durably, with its reference, after `check_reference`, all in one transaction.

        Args:
            intent: The intent.
            key: The key of its reference, if it has one.
            known: Ids of the intents with this reference that the caller has considered.

        Raises:
            AlreadyInFlight: as `Journal.prepare`, and from `check_reference`.
            ConfigurationError: from `check_reference`.
            JournalError: as `Journal.prepare`.
        """
        ...

    async def find_by_reference(self, key: ReferenceKey) -> list[Intent]:
        """Return the intents with a reference, in any state, oldest first.

        Raises:
            JournalError: if the intents, or one of them, could not be read.
        """
        ...

    async def find_other_references(self, key: ReferenceKey, *, same: bool = False) -> list[str]:
        """Return the ids of some intents with references that belong to other accounts of the same server.

        Args:
            key: The key of a reference.
            same: Only intents with the reference of `key`.

        Raises:
            JournalError: if the intents could not be read.
        """
        ...

    async def record_decision(self, intent_id: str, at: datetime) -> None:
        """Store durably that a person has settled an intent.

        Raises:
            JournalError: if the time could not be stored.
        """
        ...


def check_reference(key: ReferenceKey, found: Sequence[Intent], known: Collection[str], others: Sequence[str]) -> None:
    """Check that an intent with this reference may be stored.

    Args:
        key: The key of the reference.
        found: The intents with the reference that the journal holds.
        known: Ids of the intents that the caller has considered.
        others: Ids of intents of other accounts with the same reference.

    Raises:
        AlreadyInFlight: if one of `found` is open or confirmed, or not in `known`.
        ConfigurationError: if there are `others`, and `Options.journal_account` is not set.
    """
    if (active := find_active_reference(found)) is not None:
        raise already_in_flight_error(active, "this reference")
    for intent in found:
        if intent.id not in known:
            text = f"another call has tried this reference meanwhile (intent {intent.id}): call again"
            raise AlreadyInFlight(text, intent.id)
    if others and not key.is_named:
        raise other_references_error(others)


def other_references_error(intent_ids: Sequence[str]) -> ConfigurationError:
    """Build the error for a journal with references of another user name."""
    return ConfigurationError(
        "reference: the journal holds references of another user name of this server, which may belong to the same "
        f"account (intents {', '.join(intent_ids)}): set Options.journal_account to one name for all user names of an "
        "account, and pass the ids of the intents that were written without it to complete.adopt"
    )


def find_active_reference(intents: Iterable[Intent]) -> Intent | None:
    """Return the open or confirmed one of the intents with one reference, or None; a confirmed one takes precedence."""
    active = [intent for intent in intents if intent.state not in INACTIVE]
    return min(active, key=lambda intent: intent.state != IntentState.CONFIRMED, default=None)


def already_in_flight_error(active: Intent, subject: str = "this basket") -> AlreadyInFlight:
    """Build the error that names the active intent of a basket or a reference, and the remedy."""
    if active.state == IntentState.CONFIRMED:
        order = "an order" if active.order_id is None else f"order {active.order_id}"
        text = f"{subject} was completed already (intent {active.id}): it is {order}"
    else:
        text = (
            f"{subject} is being completed, or its outcome is not known yet (intent {active.id}): "
            "find it in complete.pending() and reconcile it"
        )
    return AlreadyInFlight(text, active.id, active.order_id)
