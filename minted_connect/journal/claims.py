"""Claims: one call at a time changes the basket of a customer and completes a reference.

A claim is exclusive for (account, reference), and until its call ends also for (account, customer, kind). It expires by
the clock of the journal's database. Requests that change the basket are sent only before the expiry. The claim can be
taken over only `grace` seconds later, when the server cannot execute any of them any more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

import attrs

from minted_connect.errors import AlreadyInFlight, ConfigurationError
from minted_connect.journal.protocol import Journal, ReferenceJournal, ReferenceKey
from minted_connect.models import Intent, OrderKind

__all__ = [
    "Claim",
    "ClaimJournal",
    "StoredClaim",
    "as_claim_journal",
    "check_claims",
    "check_no_claim",
    "claim_lost_error",
    "claimed_error",
    "find_latest_claim",
    "take_claim",
]


@attrs.frozen
class Claim:
    """The right to change a customer's basket and to complete a reference."""

    key: ReferenceKey
    external_customer_id: str = attrs.field(repr=False)
    kind: OrderKind
    terms: str = attrs.field(repr=False)
    """Of the reference; see `completion.reference`."""
    owner: str
    """A UUID of the call."""
    seconds: float
    """Seconds until the claim expires, from the call of `claim` or `renew_claim`."""
    grace: float
    """Seconds after the expiry during which changes that were sent before may still be executed."""
    saw_basket: bool
    """Whether the customer had an open basket of this kind when the reference was claimed."""
    cart_token: str | None = attrs.field(repr=False)
    """The open basket that was seen, else the basket that an earlier call completed; None if not known."""
    created_at: datetime
    """When the reference was first claimed, by the client's clock, timezone-aware."""
    generation: int = 1
    """Number of calls that have claimed the reference."""


@attrs.frozen
class StoredClaim:
    """A claim as the journal has it, and its remaining times by the clock of the database."""

    claim: Claim
    holds_customer: bool
    """Whether the claim still excludes other claims for its customer and kind."""
    expires_in: float
    """Seconds until the claim expires; 0 or less if it has expired or was released."""
    free_in: float
    """Seconds until the claim can be taken over; 0 or less if it can be."""

    def is_held_by(self, claim: Claim) -> bool:
        """Return whether `claim` is this claim, and has not expired."""
        stored = self.claim
        return (stored.owner, stored.generation) == (claim.owner, claim.generation) and self.expires_in > 0


@runtime_checkable
class ClaimJournal(ReferenceJournal, Protocol):
    """A `ReferenceJournal` that also stores claims (`complete.buy_items` and the like)."""

    async def prepare(
        self,
        intent: Intent,
        *,
        key: ReferenceKey | None = None,
        known: Collection[str] = (),
        claim: Claim | None = None,
        frees_customer: bool = False,
    ) -> None:
        """Store an intent durably, as `ReferenceJournal.prepare`, only if `claim` is still held.

        Without a claim, no claim for the customer and kind of the intent may be held by another call.

        Args:
            intent: The intent.
            key: The key of its reference, if it has one.
            known: Ids of the intents with this reference that the caller has considered.
            claim: The claim of the caller. It receives the cart token of the intent.
            frees_customer: Whether `settle` of this intent, with any state, ends the exclusion of other claims for the
                customer.

        Raises:
            AlreadyInFlight: as `ReferenceJournal.prepare`; if `claim` has expired or was taken over; or without a
                claim, if another call holds one.
            JournalError: as `Journal.prepare`.
        """
        ...

    async def claim(self, claim: Claim, *, known: Collection[str]) -> Claim:
        """Store a claim durably, or take over an earlier one of the same reference, and return it.

        A claim that was taken over has the `created_at` of the earlier call, the next generation, and, if it is for the
        same customer, the earlier `saw_basket` and `cart_token`. Everything is checked in one transaction.

        Args:
            claim: The claim to store.
            known: Ids of the intents with the reference that the caller has considered.

        Raises:
            AlreadyInFlight: from `check_reference` (an intent of the reference is open or confirmed) and `take_claim`.
            ConfigurationError: from `check_reference`.
            JournalError: if the claim could not be stored durably.
        """
        ...

    async def renew_claim(self, claim: Claim) -> None:
        """Extend a claim by its `seconds` from now, and store its `saw_basket`, `cart_token` and `grace`.

        Raises:
            AlreadyInFlight: if the claim has expired or was taken over.
            JournalError: if the claim could not be stored durably.
        """
        ...

    async def release_claim(self, claim: Claim, *, grace: float) -> None:
        """End a claim, and store its `cart_token`; it can be taken over `grace` seconds from now.

        Ignored if it was taken over. Until then it still excludes other claims for its customer and kind.

        Raises:
            JournalError: if the end could not be stored.
        """
        ...

    async def find_claim(self, key: ReferenceKey) -> Claim | None:
        """Return the claim of a reference, held or not, or None. Its `seconds` are those that are left.

        Raises:
            JournalError: if the claim could not be read.
        """
        ...


def as_claim_journal(operation: str, journal: Journal) -> ClaimJournal:
    """Return a journal that can store claims.

    Raises:
        ConfigurationError: if it cannot.
    """
    if isinstance(journal, ClaimJournal):
        return journal
    names = (name for name in dir(ClaimJournal) if not name.startswith("_") and not hasattr(journal, name))
    missing = ", ".join(names)
    raise ConfigurationError(f"{operation}: the journal {type(journal).__name__} lacks {missing} of ClaimJournal")


def take_claim(claim: Claim, stored: Sequence[StoredClaim]) -> Claim:
    """Return the claim to store. With it, the claims in `stored` no longer exclude others for their customers.

    Args:
        claim: The claim of the caller.
        stored: The claims of the same reference, and those that hold the same customer and kind.

    Raises:
        AlreadyInFlight: if one of them cannot be taken over yet.
    """
    if held := [one for one in stored if one.free_in > 0]:
        last = max(held, key=lambda one: one.free_in)
        subject = "this reference" if _is_same(last, claim) else "this customer"
        raise claimed_error(last.expires_in, last.free_in, subject)
    earlier = find_latest_claim([one.claim for one in stored if _is_same(one, claim)], claim.key)
    if earlier is None:
        return claim
    is_same_customer = earlier.external_customer_id == claim.external_customer_id
    return attrs.evolve(
        claim,
        saw_basket=earlier.saw_basket if is_same_customer else claim.saw_basket,
        cart_token=earlier.cart_token if is_same_customer else None,
        created_at=earlier.created_at,
        generation=earlier.generation + 1,
    )


def find_latest_claim(claims: Iterable[Claim], key: ReferenceKey) -> Claim | None:
    """Return the latest of the claims of a reference, or None; of equal generations, the one of the named account."""
    return max(claims, key=lambda one: (one.generation, one.key.owner.account == key.owner.account), default=None)


def check_claims(claim: Claim, stored: Sequence[StoredClaim]) -> None:
    """Check that a claim is still held.

    Raises:
        AlreadyInFlight: if it has expired or was taken over.
    """
    if not any(one.is_held_by(claim) for one in stored):
        raise claim_lost_error()


def check_no_claim(stored: Sequence[StoredClaim]) -> None:
    """Check that no call holds one of these claims.

    Raises:
        AlreadyInFlight: if one is held, or changes of its call may still be executed.
    """
    if held := [one for one in stored if one.holds_customer and one.free_in > 0]:
        last = max(held, key=lambda one: one.free_in)
        raise claimed_error(last.expires_in, last.free_in, "this customer")


def claim_lost_error() -> AlreadyInFlight:
    """Build the error for a claim that has expired or was taken over."""
    return AlreadyInFlight(
        "this call took longer than its claim on the customer's basket (CompletionPolicy.claim_seconds): nothing was "
        "completed; call again"
    )


def _is_same(one: StoredClaim, claim: Claim) -> bool:
    return one.claim.key.reference == claim.key.reference


def claimed_error(expires_in: float, free_in: float, subject: str) -> AlreadyInFlight:
    """Build the error for a claim that cannot be taken over yet; the times are those of `StoredClaim`."""
    text = f"another call is completing items for {subject}"
    if expires_in <= 0:
        text = f"changes of an earlier call for {subject} may still be executed"
    return AlreadyInFlight(f"{text}: try again, at the latest in {math.ceil(free_in)} s")
