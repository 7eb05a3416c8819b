"""Erases a customer from a journal: names become keyed hashes, which lookups still match.

The key is random and belongs to the journal. Without it, a hash leads to no name, also not by trying all names.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol, cast, runtime_checkable

import attrs

from minted_connect.errors import AlreadyInFlight, ConfigurationError
from minted_connect.journal.claims import Claim
from minted_connect.journal.protocol import Journal
from minted_connect.models import Intent, OrderProgress

__all__ = [
    "ErasableJournal",
    "as_erasable",
    "erase_reference",
    "erase_terms",
    "hash_name",
    "known_names",
    "open_intent_error",
    "reduce_progress",
    "restore_claim",
    "restore_intent",
]

_PREFIX: Final = "erased:"

HashName = Callable[[str], str]


@runtime_checkable
class ErasableJournal(Journal, Protocol):
    """A `Journal` that can erase a customer."""

    async def erase_customer(
        self, external_customer_id: str, at: datetime, *, account: str, unnamed_account: str
    ) -> int:
        """Erase a customer from the records of an account, and return the number of intents and claims.

        The customer id becomes a hash (`hash_name`), and so do references that contain it, and the customer and the
        address in terms. The tracking number and the arrival date of orders are removed. Afterwards every method that
        takes the customer id, or one of these references, finds the records as before; they have the hashes.

        Args:
            external_customer_id: The customer.
            at: Stored as `Intent.erased_at`.
            account: The account. Intents without an account are erased, too.
            unnamed_account: As in `ReferenceKey`.

        Raises:
            AlreadyInFlight: if an intent of the customer is open, or a claim is held.
            JournalError: if nothing could be stored durably, or if earlier content could not be removed from a file.
        """
        ...

    def erased_name(self, name: str) -> str | None:
        """Return the hash of a name; None before the journal was used, or if it erases no customer yet."""
        ...


def as_erasable(operation: str, journal: Journal) -> ErasableJournal:
    """Return a journal that can erase a customer.

    Raises:
        ConfigurationError: if it cannot.
    """
    if isinstance(journal, ErasableJournal):
        return journal
    names = ("erase_customer", "erased_name")
    missing = ", ".join(name for name in names if not callable(getattr(journal, name, None)))
    raise ConfigurationError(f"{operation}: the journal {type(journal).__name__} lacks {missing} of ErasableJournal")


def hash_name(key: str, name: str) -> str:
    """Return the keyed hash of a name: HMAC-SHA256."""
    return _PREFIX + hmac.new(key.encode(), name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def known_names(journal: Journal, names: Iterable[str]) -> Mapping[str, str]:
    """Return names by their hashes, as far as the journal knows hashes."""
    if not isinstance(journal, ErasableJournal):
        return {}
    return {hashed: name for name in names if (hashed := journal.erased_name(name)) is not None}


def restore_intent(intent: Intent, names: Mapping[str, str]) -> Intent:
    """Return an intent with the names of the caller in place of their hashes."""
    if intent.erased_at is None or not names:
        return intent
    return attrs.evolve(
        intent,
        external_customer_id=names.get(intent.external_customer_id, intent.external_customer_id),
        reference=None if intent.reference is None else names.get(intent.reference, intent.reference),
        terms=None if intent.terms is None else _replace_in_terms(intent.terms, lambda name: names.get(name, name)),
    )


def restore_claim(claim: Claim, names: Mapping[str, str]) -> Claim:
    """Return a claim with the names of the caller in place of their hashes."""
    customer, reference = claim.external_customer_id, claim.key.reference
    if not {customer, reference} & names.keys():
        return claim
    return attrs.evolve(
        claim,
        key=attrs.evolve(claim.key, reference=names.get(reference, reference)),
        external_customer_id=names.get(customer, customer),
        terms=_replace_in_terms(claim.terms, lambda name: names.get(name, name)),
    )


def erase_terms(terms: str, hashed: HashName) -> str:
    """Return terms with hashes of the customer and of the address, which a plain hash would not protect."""
    return _replace_in_terms(terms, hashed)


def erase_reference(reference: str, external_customer_id: str, hashed: HashName) -> str:
    """Return the hash of a reference that contains the customer id, and any other reference as it is."""
    return hashed(reference) if external_customer_id.casefold() in reference.casefold() else reference


def reduce_progress(progress: OrderProgress | None) -> OrderProgress | None:
    """Return the progress of an order without personal data: status and total, for the limits of a day."""
    if progress is None:
        return None
    return attrs.evolve(progress, cargo_tracking_number=None, estimated_arrival_date=None)


def open_intent_error(intent_id: str) -> AlreadyInFlight:
    """Build the error for a customer with an open intent."""
    return AlreadyInFlight(
        f"intent {intent_id} of this customer is open: find it in complete.pending() and reconcile it before the "
        "customer is erased",
        intent_id,
    )


def _replace_in_terms(terms: str, replace: HashName) -> str:
    loaded = cast("dict[str, Any]", json.loads(terms))
    for name in ("customer", "address"):
        value = loaded.get(name)
        if isinstance(value, str):
            loaded[name] = replace(value)
    return json.dumps(loaded, sort_keys=True)
