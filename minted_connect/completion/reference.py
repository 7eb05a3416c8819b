"""References: the caller's own keys, each of which is completed at most once, across baskets, processes and restarts.

Before anything is sent, `replay_reference` looks for earlier intents with the reference. `Journal.prepare` checks once
more, in one transaction with the new intent, that no intent with the reference is open or confirmed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs

from minted_connect import validation
from minted_connect.completion.order_match import differences, identifiers, pieces_by_sku
from minted_connect.completion.outcomes import confirm
from minted_connect.completion.reconcile import OrderSearch, ReadBack
from minted_connect.completion.settlement import Reference, Settlement, describe_intent
from minted_connect.completion.verdict import OrderSeen
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import CompletionRejected, ConfigurationError, InvalidInput, NotSent, OutcomeUnknown, Phase
from minted_connect.journal.protocol import ReferenceJournal, already_in_flight_error, find_active_reference
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind

__all__ = ["make_reference", "replay_reference"]

_logger = logging.getLogger("minted_connect.completion")

MAX_LENGTH: Final = 200


def make_reference(key: str, kind: OrderKind, basket: Basket, extra: Mapping[str, Any]) -> Reference:
    """Check a reference, and return it with its terms: kind, customer, pieces, currency and a hash of the address.

    Raises:
        InvalidInput: if it is not a string of 1 to 200 printable characters.
    """
    validation.text("reference", key)
    if len(key) > MAX_LENGTH:
        raise InvalidInput.of("reference", f"must have at most {MAX_LENGTH} characters")
    address = json.dumps(extra, sort_keys=True).encode() if extra else None
    terms = {
        "kind": str(kind),
        "customer": basket.customer.external_id,
        "pieces": dict(pieces_by_sku(basket)),
        "currency": basket.currency_code,
        "address": None if address is None else hashlib.sha256(address).hexdigest(),
    }
    return Reference(key, json.dumps(terms, sort_keys=True))


async def replay_reference(
    api: ApiClient, settlement: Settlement, reference: Reference, *, end: float
) -> Completion | None:
    """Return the completion of a reference that was completed before; None if it may be completed now.

    Args:
        api: Sends the reads.
        settlement: Of the client.
        reference: The reference.
        end: Monotonic time at which the call must end.

    Raises:
        InvalidInput: if the reference was used with other terms.
        AlreadyInFlight: if another process is completing it.
        OutcomeUnknown: if an earlier completion of it may have been executed.
        CompletionRejected: if an order was made for it, but failed.
        NotSent: if it could not be found out whether earlier attempts made an order.
        ConfigurationError: if the journal cannot store references, or holds those of another user.
        JournalError: if the journal cannot be read.
    """
    journal = await _open_for_references(api, settlement)
    intents = await journal.find_by_reference(reference.key, account=settlement.owner.account)
    for intent in intents:
        _check_terms(intent, reference)
    active = find_active_reference(intents)
    if active is None:
        return await _search_earlier_attempts(api, settlement, intents, end=end)
    if active.state == IntentState.CONFIRMED:
        return await _read_confirmed(api, active, end=end)
    if active.state == IntentState.PREPARED:
        raise already_in_flight_error(active, "this reference")
    text = f"the outcome of this reference is unknown (intent {active.id}): reconcile it"
    raise OutcomeUnknown(text, active, Phase.SENT, ("an earlier completion may have been executed",))


async def _open_for_references(api: ApiClient, settlement: Settlement) -> ReferenceJournal:
    journal = settlement.journal
    if not isinstance(journal, ReferenceJournal):
        missing = [name for name in ("find_by_reference", "has_other_references") if not hasattr(journal, name)]
        raise ConfigurationError(
            f"reference: the journal {type(journal).__name__} lacks {', '.join(missing)} of ReferenceJournal"
        )
    if not settlement.has_checked_references:
        is_named = api.settings.options.journal_account is not None
        if not is_named and await journal.has_other_references(settlement.owner):
            raise ConfigurationError(
                "reference: the journal holds references of another user name of this server, which may belong to the "
                "same account: set Options.journal_account to one name for all user names of an account, and assign "
                "the intents that were written without it with complete.adopt"
            )
        settlement.has_checked_references = True
    return journal


def _check_terms(intent: Intent, reference: Reference) -> None:
    if intent.terms == reference.terms:
        return
    before, now = (cast("dict[str, Any]", json.loads(terms or "{}")) for terms in (intent.terms, reference.terms))
    differing = ", ".join(name for name in now if before.get(name) != now[name])
    raise InvalidInput.of(
        "reference", f"was used before with other terms (intent {intent.id}): {differing or 'unknown'} differ"
    )


async def _read_confirmed(api: ApiClient, intent: Intent, *, end: float) -> Completion:
    """Return the completion of a confirmed intent: with its order if it can be read, else as the journal has it."""
    within = end - api.clock.monotonic()
    found = await ReadBack(api, intent).find_order(within=within, by_number=intent.order_id)
    if found.seen is OrderSeen.NONE:
        keys = {} if intent.order_id is None else {"id": str(intent.order_id)}
        return Completion(None, keys, replayed=True)
    differing = differences(found.raw, found.order, intent)
    return Completion(found.order, identifiers(found.raw), found.raw, differences=differing, replayed=True)


async def _search_earlier_attempts(
    api: ApiClient, settlement: Settlement, intents: Sequence[Intent], *, end: float
) -> Completion | None:
    """Search the orders for the keys of attempts that made no order as far as is known."""
    for intent in intents:
        found = await ReadBack(api, intent).find_order(within=end - api.clock.monotonic())
        match found.seen:
            case OrderSeen.ACCEPTED:
                _logger.error("%s: was settled as %s, but its order exists", describe_intent(intent), intent.state)
                completion = await confirm(settlement, intent, found.order, found.raw, reconciled=True)
                return attrs.evolve(completion, replayed=True)
            case OrderSeen.FAILED:
                text = "an order was made for this reference, but it failed, was cancelled or was refunded"
                raise CompletionRejected(
                    f"intent {intent.id}: {text}: use another reference to order again", found.order
                )
            case _:
                _check_is_free(api, intent, found)
    return None


def _check_is_free(api: ApiClient, intent: Intent, found: OrderSearch) -> None:
    """Check that an attempt without an order does not prevent another one."""
    if not found.is_complete or found.seen is OrderSeen.STILL_BASKET:
        reason = "; ".join(found.notes) or "an entry in the list of orders may be it, but cannot be read"
        raise NotSent(f"whether intent {intent.id} of this reference made an order could not be read: {reason}")
    if (
        intent.state == IntentState.NOT_EXECUTED
        and intent.fenced_at is not None
        and api.completion_policy.latest_landing is None
    ):
        text = (
            f"intent {intent.id} of this reference was settled as not executed because its basket was cleared. Without "
            "CompletionPolicy.latest_landing, that does not exclude that it is executed later"
        )
        raise OutcomeUnknown(text, intent, Phase.SENT, ("the basket was cleared, and no order is listed",))
