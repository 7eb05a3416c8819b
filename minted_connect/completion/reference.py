"""References: the caller's own keys, each of which is completed at most once, across baskets, processes and restarts.

Before anything is sent, `find_attempts` looks up the earlier intents of a reference. `replay_confirmed` returns the
completion of one that was confirmed. `check_attempts` proves that the others made no order. `ReferenceJournal.prepare`
checks once more, in one transaction with the new intent, that nothing was added meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import attrs

from minted_connect import validation
from minted_connect.completion.bounded_reads import BoundedReads, ListedOrder
from minted_connect.completion.in_flight import Reference
from minted_connect.completion.order_match import Match, differences, identifiers, match_order, pieces_by_sku
from minted_connect.completion.outcomes import FAILED_ORDER, confirm
from minted_connect.completion.reconcile import MAX_PRICE_LOCK
from minted_connect.completion.settlement import Settlement, describe_intent
from minted_connect.completion.verdict import OrderSeen
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import (
    AlreadyInFlight,
    CompletionRejected,
    ConfigurationError,
    InvalidInput,
    NotSent,
    OutcomeUnknown,
    Phase,
)
from minted_connect.journal.claims import Claim, ClaimJournal
from minted_connect.journal.protocol import (
    ReferenceJournal,
    ReferenceKey,
    already_in_flight_error,
    find_active_reference,
    other_references_error,
)
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind

__all__ = ["Attempts", "check_attempts", "find_attempts", "find_claim", "make_reference", "replay_confirmed"]

_logger = logging.getLogger("minted_connect.completion")

_MAX_LENGTH: Final = 200
_DAY: Final = timedelta(days=1)
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
_DATE_RESOLUTION: Final = timedelta(seconds=1)
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
    if len(key) > _MAX_LENGTH:
        raise InvalidInput.of("reference", f"must have at most {_MAX_LENGTH} characters")
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
    intents = await journal.find_by_reference(key)
    for intent in intents:
        _check_terms(intent, reference)
    return Attempts(key, tuple(intents))


def _check_terms(intent: Intent, reference: Reference) -> None:
    if intent.terms == reference.terms:
        return
    before, now = (cast("dict[str, Any]", json.loads(terms or "{}")) for terms in (intent.terms, reference.terms))
    differing = ", ".join(name for name in now if before.get(name) != now[name])
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
    listed, _ = await reads.list_orders(query, intent.external_customer_id, _BEGINNING)
    keeps_number = api.completion_policy.order_keeps_number
    found = [row for row in listed if match_order(row.raw, row.order, intent, keeps_number=keeps_number) > Match.LIKELY]
    if not found:
        keys = {} if intent.order_id is None else {"id": str(intent.order_id)}
        return Completion(None, keys, replayed=True)
    raw, order = found[0].raw, found[0].order
    differing = differences(raw, order, intent)
    return Completion(order, identifiers(raw), raw, differences=differing, replayed=True)


async def find_claim(settlement: Settlement, attempts: Attempts, basket: Basket) -> Claim | None:
    """Return the claim of a reference if it has another basket than this one, else None.

    Raises:
        JournalError: if the journal cannot be read.
    """
    journal = settlement.journal
    claim = await journal.find_claim(attempts.key) if isinstance(journal, ClaimJournal) else None
    return None if claim is None or claim.cart_token in {None, basket.token} else claim


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
    active = find_active_reference(attempts.intents)
    if active is not None and active.state == IntentState.PREPARED:
        raise already_in_flight_error(active, "this reference")
    if active is not None:
        text = f"the outcome of this reference is unknown (intent {active.id}): reconcile it"
        raise OutcomeUnknown(text, active, Phase.SENT, ("an earlier completion may have been executed",))
    if claim is not None and claim.cart_token in {None, *(intent.cart_token for intent in attempts.intents)}:
        claim = None
    if not attempts.intents and claim is None:
        return None
    return await _Search(api, settlement, attempts.intents, claim, end).run()


class _Search:
    """Searches the orders once for the keys of all attempts of a reference, which are all of one customer."""

    def __init__(
        self, api: ApiClient, settlement: Settlement, intents: tuple[Intent, ...], claim: Claim | None, end: float
    ) -> None:
        self._api = api
        self._settlement = settlement
        self._intents = intents
        self._claim = claim
        self._sent = [intent for intent in intents if intent.state != IntentState.NOT_SENT]
        self._customer = intents[0].external_customer_id if claim is None else claim.external_customer_id
        self._reads = BoundedReads(api, has_read=False)
        self._reads.deadline = end

    async def run(self) -> Completion | None:
        # The local clock proves nothing about a stored intent, and before the first response no other one is known.
        if self._sent and not self._api.state.server_stats.has_date:
            await self._list()
        began = self._api.server_time() if self._api.state.server_stats.has_date else None
        listed, is_complete = await self._list()
        failed: tuple[Intent, ListedOrder] | None = None
        async for intent, row in self._matches(listed):
            if row.seen is OrderSeen.ACCEPTED:
                text = "%s: was settled as %s, but its order exists"
                _logger.error(text, describe_intent(intent), intent.state)
                completion = await confirm(self._settlement, intent, row.order, row.raw, reconciled=True)
                return attrs.evolve(completion, replayed=True)
            failed = (intent, row)
        if failed is not None:
            intent, row = failed
            text = f"intent {intent.id} of this reference: {FAILED_ORDER}: use another reference to order again"
            raise CompletionRejected(text, row.order)
        if self._claim is not None and (claimed := await self._find_claimed(self._claim, listed)) is not None:
            return claimed
        open_to_doubt = [one for one in self._sent if one.decided_at is None]
        # A decision does not replace a search that could succeed later.
        needs_complete_search = bool(open_to_doubt) or self._claim is not None
        if (self._sent and self._reads.has_failed) or (needs_complete_search and not is_complete):
            reason = "; ".join(self._reads.take_failures())
            raise NotSent(f"whether an earlier attempt of this reference made an order could not be read: {reason}")
        for intent in open_to_doubt:
            await self._check_likely(intent, listed)
            self._check_time(intent, began)
        return None

    async def _list(self) -> tuple[list[ListedOrder], bool]:
        """List the orders since the first attempt, those with the number of an attempt's basket, and the newest ones.

        An order may be dated by its basket, which may be older, and may have another number: only the newest orders of
        all dates include it then. Those older than the pages that are read do not make the search incomplete.
        """
        times = [min(intent.created_at, intent.created_by_server) for intent in self._intents]
        if self._claim is not None:
            times.append(self._claim.created_at)
        first = min(times) - _DAY
        customer = ("customer_external_id", self._customer)
        last = max(self._api.clock.wall(), self._api.server_time()) + _DAY
        days = (("startDate", first.date().isoformat()), ("endDate", last.date().isoformat()))
        newest_first = (customer, ("sortBy", "created_at"), ("sortType", "desc"))
        listed, is_complete = await self._reads.list_orders((*newest_first, *days), self._customer, first)
        rows = {row.key: row for row in listed}
        for number in dict.fromkeys(intent.basket_id for intent in self._sent):
            found, is_found = await self._reads.list_orders(
                (customer, ("orderId", str(number))), self._customer, _BEGINNING
            )
            rows.update((row.key, row) for row in found)
            is_complete = is_complete and is_found
        if self._sent:
            newest, _ = await self._reads.list_orders(newest_first, self._customer, _BEGINNING)
            rows.update((row.key, row) for row in newest)
        return list(rows.values()), is_complete

    def _match(self, intent: Intent, row: ListedOrder) -> Match:
        keeps_number = self._api.completion_policy.order_keeps_number
        return match_order(row.raw, row.order, intent, keeps_number=keeps_number)

    async def _matches(self, listed: list[ListedOrder]) -> AsyncIterator[tuple[Intent, ListedOrder]]:
        for intent in self._intents:
            for row in listed:
                if self._match(intent, row) > Match.LIKELY and row.seen is not OrderSeen.STILL_BASKET:
                    other = await self._find_other_owner(intent.cart_token)
                    if other is None:
                        yield intent, row
                    elif other.state != IntentState.CONFIRMED:
                        raise already_in_flight_error(other)

    async def _find_claimed(self, claim: Claim, listed: list[ListedOrder]) -> Completion | None:
        """Return the completion of an order with the claim's basket that no intent of this journal made, or None."""
        token = claim.cart_token
        assert token is not None
        for row in listed:
            if row.raw.get("token") != token or row.seen is OrderSeen.STILL_BASKET:
                continue
            other = await self._find_other_owner(token)
            if other is not None and other.state != IntentState.CONFIRMED:
                raise already_in_flight_error(other)
            if other is not None:
                continue
            number = row.raw.get("id")
            if row.seen is OrderSeen.FAILED:
                text = f"order {number} of the basket of this reference failed: use another reference to order again"
                raise CompletionRejected(text, row.order)
            if row.order is None or pieces_by_sku(row.order) != json.loads(claim.terms)["pieces"]:
                text = f"order {number} has the basket of this reference, but other items: use another reference"
                raise AlreadyInFlight(text)
            _logger.warning("order %s has the basket of a reference, but no intent: replayed", number)
            return Completion(row.order, identifiers(row.raw), row.raw, replayed=True)
        return None

    async def _find_other_owner(self, cart_token: str) -> Intent | None:
        """Return the open or confirmed intent without this reference that has this basket, or None."""
        accounts = dict.fromkeys((self._settlement.owner.account, self._api.account))
        journal = self._settlement.journal
        found = [await journal.find_active(self._customer, cart_token, account=account) for account in accounts]
        return find_active_reference(intent for intent in found if intent is not None)

    async def _check_likely(self, intent: Intent, listed: list[ListedOrder]) -> None:
        for row in listed:
            if self._match(intent, row) is not Match.LIKELY:
                continue
            token = row.raw.get("token")
            if isinstance(token, str) and token and token != intent.cart_token:
                other = await self._find_other_owner(token)
                if other is not None and other.state == IntentState.CONFIRMED:
                    continue
            raise AlreadyInFlight(
                f"order {row.raw.get('id')} may be the order of intent {intent.id} of this reference, but no key "
                "proves it: record what you find out with complete.decide",
                intent.id,
            )

    def _check_time(self, intent: Intent, began: datetime | None) -> None:
        """Check that an order which this attempt may have made would show by now."""
        policy = self._api.completion_policy
        if intent.state == IntentState.NOT_EXECUTED and intent.fenced_at is not None and policy.latest_landing is None:
            raise AlreadyInFlight(
                f"intent {intent.id} of this reference was settled as not executed because its basket was cleared; "
                "without CompletionPolicy.latest_landing, that does not exclude an order later. Ask the vendor, and "
                "record the reply with complete.decide",
                intent.id,
            )
        sent = intent.send_before or intent.created_by_server + MAX_PRICE_LOCK
        if intent.refusal is not None:
            sent = intent.refusal.at
        shows_at = sent + timedelta(seconds=policy.settle_time) + _DATE_RESOLUTION
        if began is None or began < shows_at:
            text = "the server sends no usable Date"
            if began is not None:
                text = f"try again in {math.ceil((shows_at - began).total_seconds())} s"
            raise NotSent(f"an order of intent {intent.id} of this reference could still show: {text}")
