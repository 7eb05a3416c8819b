"""References: the caller's own keys, each of which is completed at most once, across baskets, processes and restarts.

Before anything is sent, `find_attempts` looks up the earlier intents of a reference. `replay_confirmed` returns the
completion of one that was confirmed. `check_attempts` proves that the others made no order. `ReferenceJournal.prepare`
checks once more, in one transaction with the new intent, that nothing was added meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from minted_connect import validation
from minted_connect.completion.attempt_search import AttemptSearch
from minted_connect.completion.bounded_reads import BEGINNING, BoundedReads
from minted_connect.completion.in_flight import Reference
from minted_connect.completion.order_match import Match, differences, identifiers, match_order
from minted_connect.completion.settlement import Settlement
from minted_connect.completion.unknown_text import build_unknown
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import ConfigurationError, InvalidInput, Phase
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.erasure import known_names, restore_claim, restore_intent
from minted_connect.journal.protocol import (
    ReferenceJournal,
    ReferenceKey,
    already_in_flight_error,
    find_active_reference,
    other_references_error,
)
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind

__all__ = [
    "Attempts",
    "check_attempts",
    "check_open_attempts",
    "find_attempts",
    "find_claim",
    "make_reference",
    "replay_confirmed",
]

_METHODS: Final = ("find_by_reference", "find_other_references", "record_decision")


@attrs.frozen
class Attempts:
    """The earlier intents of one reference."""

    key: ReferenceKey
    intents: tuple[Intent, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the intents."""
        return tuple(intent.id for intent in self.intents)


def make_reference(
    key: str, kind: OrderKind, customer_id: str, pieces: Mapping[str, int], currency: str, extra: Mapping[str, Any]
) -> Reference:
    """Check a reference, and return it with its terms: kind, customer, pieces, currency and a hash of the address.

    Raises:
        InvalidInput: if it is not a string of 1 to 200 printable characters.
    """
    validation.text("reference", key)
    if len(key) > validation.MAX_REFERENCE:
        raise InvalidInput.of("reference", f"must have at most {validation.MAX_REFERENCE} characters")
    address = json.dumps(extra, sort_keys=True).encode() if extra else None
    terms = {
        "kind": str(kind),
        "customer": customer_id,
        "pieces": dict(pieces),
        "currency": currency,
        "address": None if address is None else hashlib.sha256(address).hexdigest(),
    }
    return Reference(key, json.dumps(terms, sort_keys=True))


async def find_attempts(api: ApiClient, settlement: Settlement, reference: Reference) -> Attempts:
    """Return the earlier intents of a reference.

    Raises:
        InvalidInput: if the reference was used with other terms.
        ConfigurationError: if the journal cannot store references, or holds those of another user of the server.
        JournalError: if the journal cannot be read.
    """
    journal = settlement.journal
    if not isinstance(journal, ReferenceJournal):
        missing = ", ".join(name for name in _METHODS if not hasattr(journal, name))
        raise ConfigurationError(f"reference: the journal {type(journal).__name__} lacks {missing} of ReferenceJournal")
    key = ReferenceKey(reference.key, settlement.owner, api.account)
    if not (key.is_named or settlement.has_checked_references):
        others = await journal.find_other_references(key)
        if others:
            raise other_references_error(others)
        settlement.has_checked_references = True
    found = await journal.find_by_reference(key)
    # The records of a customer who was erased have hashes in place of the names that this call has.
    names = known_names(journal, _names_in(reference))
    intents = [restore_intent(intent, names) for intent in found]
    for intent in intents:
        _check_terms(intent, reference)
    return Attempts(key, tuple(intents))


def _names_in(reference: Reference) -> list[str]:
    """Return what is hashed if the customer of a reference is erased: reference, customer and address."""
    terms = cast("dict[str, Any]", json.loads(reference.terms))
    return [reference.key, *(value for name in ("customer", "address") if (value := terms[name]) is not None)]


def _check_terms(intent: Intent, reference: Reference) -> None:
    if intent.terms == reference.terms:
        return
    before, now = (cast("dict[str, Any]", json.loads(terms or "{}")) for terms in (intent.terms, reference.terms))
    # The address of an imported order is not known. What was assigned to the reference is replayed without it.
    names = before if intent.imported_at is not None else now
    differing = ", ".join(name for name in names if before.get(name) != now.get(name))
    if not differing and names:
        return
    raise InvalidInput.of("reference", f"was used before with other terms (intent {intent.id}): {differing} differ")


async def replay_confirmed(api: ApiClient, attempts: Attempts, *, end: float) -> Completion | None:
    """Return the completion of a reference that was confirmed, None if it was not.

    The order is read back with one request. If that fails, the completion is returned as the journal has it.

    Args:
        api: Sends the request.
        attempts: The intents of the reference.
        end: Monotonic time at which the call must end.
    """
    intent = find_active_reference(attempts.intents)
    if intent is None or intent.state != IntentState.CONFIRMED:
        return None
    reads = BoundedReads(api, has_read=True)
    reads.deadline = end
    number = str(intent.basket_id if intent.order_id is None else intent.order_id)
    query = (("customer_external_id", intent.external_customer_id), ("orderId", number))
    listed, _ = await reads.list_orders(query, intent.external_customer_id, BEGINNING)
    keeps_number = api.completion_policy.order_keeps_number
    found = [row for row in listed if match_order(row.raw, row.order, intent, keeps_number=keeps_number) > Match.LIKELY]
    if not found:
        keys = {} if intent.order_id is None else {"id": str(intent.order_id)}
        return Completion(None, keys, replayed=True)
    raw, order = found[0].raw, found[0].order
    differing = differences(raw, order, intent)
    return Completion(order, identifiers(raw), raw, differences=differing, replayed=True)


async def find_claim(settlement: Settlement, attempts: Attempts, reference: Reference, basket: Basket) -> Claim | None:
    """Return the claim of a reference, with these terms, if it has another basket of the same customer; else None.

    Raises:
        JournalError: if the journal cannot be read.
    """
    journal = settlement.journal
    claim = await journal.find_claim(attempts.key) if isinstance(journal, ClaimJournal) else None
    if claim is not None:
        claim = restore_claim(claim, known_names(journal, _names_in(reference)))
    if claim is None or claim.cart_token in {None, basket.token}:
        return None
    # The terms of a claim can be corrected, also to another customer.
    is_same_customer = claim.external_customer_id == basket.customer.external_id
    return attrs.evolve(claim, terms=reference.terms) if is_same_customer else None


async def check_attempts(
    api: ApiClient, settlement: Settlement, attempts: Attempts, claim: Claim | None, *, end: float
) -> Completion | None:
    """Check that no attempt of a reference made an order, or may still make one; None if that is proven.

    If the order of an attempt is found, the attempt is settled as confirmed, and its completion is returned.

    Args:
        api: Sends the reads.
        settlement: Of the client.
        attempts: The intents of the reference, none of them confirmed.
        claim: The claim of the reference, if its basket may have become an order without an intent.
        end: Monotonic time at which the call must end.

    Raises:
        OutcomeUnknown: if an attempt has an unknown outcome.
        AlreadyInFlight: if an attempt is prepared, or if only a person can decide whether it made an order.
        CompletionRejected: if an attempt made an order, and the order failed.
        NotSent: if the orders could not be read, or if an order of an attempt could show later.
    """
    check_open_attempts(attempts)
    if claim is not None and claim.cart_token in {None, *(intent.cart_token for intent in attempts.intents)}:
        claim = None
    if not attempts.intents and claim is None:
        return None
    return await AttemptSearch(api, settlement, attempts.intents, claim, end).run()


def check_open_attempts(attempts: Attempts) -> None:
    """Check that no attempt of a reference is open.

    Raises:
        OutcomeUnknown: if an attempt has an unknown outcome.
        AlreadyInFlight: if an attempt is prepared.
    """
    active = find_active_reference(attempts.intents)
    if active is None:
        return
    if active.state in {IntentState.PREPARED, IntentState.CONFIRMED}:
        raise already_in_flight_error(active, "this reference")
    raise build_unknown(active, Phase.SENT, ("an earlier completion of this reference may have been executed",))
