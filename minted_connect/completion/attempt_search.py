"""Searches the orders for those of the earlier attempts of a reference, which were settled without an order."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import attrs

from minted_connect.completion.bounded_reads import BEGINNING, SEARCH_MARGIN, BoundedReads, ListedOrder
from minted_connect.completion.order_match import Match, identifiers, match_order, pieces_by_sku
from minted_connect.completion.outcomes import FAILED_ORDER, confirm
from minted_connect.completion.reconcile import DATE_RESOLUTION, MAX_PRICE_LOCK
from minted_connect.completion.settlement import Settlement, describe_intent
from minted_connect.completion.verdict import OrderSeen
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import AlreadyInFlight, CompletionRejected, NotSent
from minted_connect.journal.claims import Claim
from minted_connect.journal.protocol import already_in_flight_error, find_active_reference
from minted_connect.models import Completion, Intent, IntentState

__all__ = ["AttemptSearch"]

_logger = logging.getLogger("minted_connect.completion")


class AttemptSearch:
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
        """Return the completion of the order of an attempt; None if it is proven that no attempt made an order.

        Raises:
            MintedConnectError: as `reference.check_attempts`.
        """
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
        for intent in self._sent:
            await self._check_likely(intent, listed)
        for intent in open_to_doubt:
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
        first = min(times) - SEARCH_MARGIN
        customer = ("customer_external_id", self._customer)
        last = max(self._api.clock.wall(), self._api.server_time()) + SEARCH_MARGIN
        days = (("startDate", first.date().isoformat()), ("endDate", last.date().isoformat()))
        newest_first = (customer, ("sortBy", "created_at"), ("sortType", "desc"))
        listed, is_complete = await self._reads.list_orders((*newest_first, *days), self._customer, first)
        rows = {row.key: row for row in listed}
        for number in dict.fromkeys(intent.basket_id for intent in self._sent):
            found, is_found = await self._reads.list_orders(
                (customer, ("orderId", str(number))), self._customer, BEGINNING
            )
            rows.update((row.key, row) for row in found)
            is_complete = is_complete and is_found
        if self._sent:
            newest, _ = await self._reads.list_orders(newest_first, self._customer, BEGINNING)
            rows.update((row.key, row) for row in newest)
        return list(rows.values()), is_complete

    def _match(self, intent: Intent, row: ListedOrder) -> Match:
        keeps_number = self._api.completion_policy.order_keeps_number
        return match_order(row.raw, row.order, intent, keeps_number=keeps_number)

    async def _matches(self, listed: list[ListedOrder]) -> AsyncIterator[tuple[Intent, ListedOrder]]:
        """Yield the orders of the attempts, except those of baskets that another reference has completed since."""
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
        token, terms = claim.cart_token, json.loads(claim.terms)
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
            is_same_kind = row.order is not None and row.order.kind in {terms["kind"], None}
            if row.order is None or not is_same_kind or pieces_by_sku(row.order) != terms["pieces"]:
                text = f"order {number} has the basket of this reference, but other terms: use another reference"
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
        """Check that no order may be the one of this attempt, unless a person has decided that it is not."""
        decided_at = intent.decided_at
        for row in listed:
            match = self._match(intent, row)
            if match is Match.NONE or (match is Match.LIKELY and decided_at is not None):
                continue
            if match > Match.LIKELY and row.seen is OrderSeen.STILL_BASKET:
                continue
            token = row.raw.get("token") if match is Match.LIKELY else intent.cart_token
            other = await self._find_other_owner(token) if isinstance(token, str) and token else None
            if other is not None and self._is_order_of(other, row, listed):
                continue
            # A decision from before the basket was completed again cannot be about a second order of that basket.
            if decided_at is not None and (other is None or decided_at >= other.created_at):
                continue
            raise AlreadyInFlight(
                f"order {row.raw.get('id')} may be the order of intent {intent.id} of this reference, but no key "
                f"proves it. Find out, and record it with complete.decide: {intent.state} if it is not, else confirmed "
                "with its order_id",
                intent.id,
            )

    def _is_order_of(self, other: Intent, row: ListedOrder, listed: list[ListedOrder]) -> bool:
        """Return whether a row is the order with which an intent was confirmed.

        Without the number of that order, only a single order of its basket is known to be that one: a server may make
        two orders of one basket.
        """
        if other.state != IntentState.CONFIRMED:
            return False
        if other.order_id is not None:
            return identifiers(row.raw).get("id") == str(other.order_id)
        same = [
            one
            for one in listed
            if one.seen is not OrderSeen.STILL_BASKET
            and (self._match(other, one) > Match.LIKELY or one.raw.get("token") == other.cart_token)
        ]
        return same == [row]

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
        shows_at = sent + timedelta(seconds=policy.settle_time) + DATE_RESOLUTION
        if began is None or began < shows_at:
            text = "the server sends no usable Date"
            if began is not None:
                text = f"try again in {math.ceil((shows_at - began).total_seconds())} s"
            raise NotSent(f"an order of intent {intent.id} of this reference could still show: {text}")
