"""Reads back the outcome of a completion: polls the basket and searches the orders until a verdict is proven.

This module never sends a completion. A read without a usable response proves nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import attrs

from minted_connect.completion.bounded_reads import BEGINNING, SEARCH_MARGIN, BoundedReads, ListedOrder
from minted_connect.completion.order_match import (
    Match,
    is_cleared,
    is_order,
    mapping,
    match_order,
)
from minted_connect.completion.unknown_text import NOT_READ, Report, report_reads
from minted_connect.completion.verdict import BasketSeen, Evidence, Fence, OrderSeen, Outcome, Verdict, verdict
from minted_connect.config import CompletionPolicy
from minted_connect.core.api_client import ApiClient
from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import (
    APIError,
    MintedConnectError,
    NotFound,
)
from minted_connect.models import Intent, IntentState, Order
from minted_connect.models.json_types import CustomerMatch, compare_customer

__all__ = ["DATE_RESOLUTION", "MAX_PRICE_LOCK", "ReadBack", "ReadBackResult", "RecordFence"]

WAITS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between two polls; the last value repeats."""
MIN_POLL_TIME: Final = 2.0
"""Seconds that must be left for another poll: a poll that is cut short shows less than the one before it."""
RecordFence = Callable[[Intent, datetime], Awaitable[None]]
"""Writes into the journal that the basket of an intent is about to be cleared."""
_MAX_ORDERS: Final = 5
"""Number of orders that are named one by one in notes for people."""
# These 4xx are about credentials, timing or rate limits, and prove nothing about the basket.
_INCONCLUSIVE_STATUSES: Final = AMBIGUOUS_STATUSES | {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}
DATE_RESOLUTION: Final = timedelta(seconds=1)
"""Resolution of the server's clock in its `Date` header: the difference of two readings is wrong by up to this much."""
MAX_PRICE_LOCK: Final = timedelta(seconds=600)
"""An intent without `send_before` (an older schema) can no longer be sent this long after it was prepared."""


@attrs.frozen
class _Row:
    """One listed order of the intent's customer."""

    listed: ListedOrder
    match: Match

    @property
    def raw(self) -> Mapping[str, Any]:
        """The order as received."""
        return self.listed.raw


@attrs.frozen
class ReadBackResult:
    """The result of a poll."""

    verdict: Verdict
    evidence: Evidence
    order: Order | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    """The matching order as received."""
    notes: tuple[str, ...] = ()
    """For people: the reason, other orders that may matter, and failed reads. Contains no personal data."""
    report: Report = NOT_READ
    """The evidence in words, if the verdict is unknown."""

    @property
    def confirms_refusal(self) -> bool:
        """Whether the completion was refused and no order was made."""
        return self.verdict.outcome is Outcome.REJECTED and self.evidence.order is not OrderSeen.FAILED


class ReadBack:
    """Reads back one intent, and keeps the evidence from one poll to the next.

    Args:
        api: Sends the reads.
        intent: The intent.
        responded_at: Monotonic time of the response to the completion, if this call has sent it; None for a stored
            intent, whose refusal is dated by the server's clock.
    """

    def __init__(self, api: ApiClient, intent: Intent, *, responded_at: float | None = None) -> None:
        self._api = api
        self._intent = intent
        self._responded_at = responded_at
        self._policy: CompletionPolicy = api.completion_policy
        # For a stored refusal it is not known whether an earlier poll has already contradicted it.
        self._trusts_refusal = (
            responded_at is not None
            and intent.refusal is not None
            and intent.refusal.is_vendor_response
            and intent.refusal.status in self._policy.refusals
        )
        # The preflight read has succeeded, so a 401 does not mean a wrong password.
        self._reads = BoundedReads(api, has_read=responded_at is not None)
        self._basket = BasketSeen.UNREAD
        self._active_since: float | None = None
        self._active_reads = 0
        self._fence = Fence.NOT_USED
        self._fence_tried = intent.fenced_at is not None
        self._fenced_at = 0.0
        self._searched: set[tuple[str, str]] = set()
        """Keys of the orders of the customer that the latest poll read."""

    @property
    def has_failed_permanently(self) -> bool:
        """Whether further polls would fail as the latest one did: the client is closed or its password is wrong."""
        return self._reads.has_failed_permanently

    async def poll_once(self, *, within: float) -> ReadBackResult:
        """Poll once, for at most `within` seconds."""
        self._reads.deadline = self._api.clock.monotonic() + within
        return await self._poll()

    async def poll(
        self,
        *,
        budget: float,
        record_fence: RecordFence | None,
        limiter: AbstractAsyncContextManager[object] | None = None,
    ) -> ReadBackResult:
        """Poll until a verdict is proven, for at most `budget` seconds.

        Args:
            budget: Seconds.
            record_fence: If given, a basket that is still open is cleared, and this is called before.
            limiter: Entered for each poll, and left between two polls: limits the polls of several read-backs.
        """
        clock = self._api.clock
        deadline = self._reads.deadline = clock.monotonic() + budget
        result: ReadBackResult | None = None
        polls = 0
        while True:
            async with limiter or nullcontext():
                if result is not None and clock.monotonic() + MIN_POLL_TIME > deadline:
                    return result
                result = await self._poll()
                if result.verdict.outcome is not Outcome.UNKNOWN or self.has_failed_permanently:
                    return result
                if record_fence is not None and self._fence is Fence.NOT_USED and _may_fence(result.evidence):
                    await self._clear_basket(record_fence)
            pause = WAITS[min(polls, len(WAITS) - 1)]
            if clock.monotonic() + pause + MIN_POLL_TIME > deadline:
                return result
            await self._api.sleep_until(clock.monotonic() + pause)
            polls += 1

    def _is_refusal_settled(self, began: float, server_time: datetime | None) -> bool:
        """Return whether a poll that began at this time would show an order that was made in spite of the refusal."""
        refusal = self._intent.refusal
        if refusal is None:
            return False
        policy = self._policy
        wait = (policy.latest_landing or 0.0) if self._trusts_refusal else policy.settle_time
        if self._responded_at is not None:
            return began >= self._responded_at + wait
        return server_time is not None and server_time >= refusal.at + timedelta(seconds=wait) + DATE_RESOLUTION

    def _may_still_be_sent(self, server_time: datetime | None) -> bool:
        """Return whether another process may still send the intent, or the order it made may not show yet."""
        if self._intent.state != IntentState.PREPARED:
            return False
        return server_time is None or server_time < self._settled_at(self._intent)

    def _settled_at(self, intent: Intent) -> datetime:
        """Return the server time at which the order of a prepared intent would show."""
        send_before = intent.send_before or intent.created_by_server + MAX_PRICE_LOCK
        return send_before + timedelta(seconds=self._policy.settle_time) + DATE_RESOLUTION

    def _seconds_to_settle(self, evidence: Evidence, began: float, server_time: datetime | None) -> float:
        """Return in how many seconds an order of a refused or prepared intent would show, 0 for other intents."""
        intent, settle_time = self._intent, self._policy.settle_time
        if evidence.may_still_be_sent:
            return settle_time if server_time is None else (self._settled_at(intent) - server_time).total_seconds()
        if intent.refusal is None or evidence.is_refusal_settled:
            return 0.0
        if self._responded_at is not None:
            return self._responded_at + settle_time - began
        if server_time is None:
            return settle_time
        settled_at = intent.refusal.at + timedelta(seconds=settle_time) + DATE_RESOLUTION
        return (settled_at - server_time).total_seconds()

    async def _poll(self) -> ReadBackResult:
        clock = self._api.clock
        # The local clock proves nothing about a stored intent: without a `Date` header, it is too early for a verdict.
        has_date = self._api.state.server_stats.has_date
        began, server_time = clock.monotonic(), self._api.server_time() if has_date else None
        self._basket = await self._read_basket()
        searched_at = clock.monotonic()
        rows, is_search_complete = await self._read_orders()
        matching = sorted((row for row in rows if row.match > Match.LIKELY), key=_sort_key, reverse=True)
        likely = [row for row in rows if row.match is Match.LIKELY]
        if self._basket is BasketSeen.ACTIVE and is_search_complete and not matching:
            self._active_reads += 1
            self._active_since = searched_at if self._active_since is None else self._active_since
        elif self._basket is not BasketSeen.UNREAD or matching:
            self._active_reads, self._active_since = 0, None
        evidence = Evidence(
            order=matching[0].listed.seen if matching else OrderSeen.NONE,
            likely_orders=len(likely),
            is_search_complete=is_search_complete,
            basket=self._basket,
            active_reads=self._active_reads,
            active_seconds=0.0 if self._active_since is None else searched_at - self._active_since,
            fence=self._fence,
            fence_seconds=searched_at - self._fenced_at if self._fence is Fence.CLEARED else 0.0,
            fence_proves_not_executed=self._policy.fence_proves_not_executed,
            orders_lag=self._policy.orders_lag,
            latest_landing=self._policy.latest_landing,
            is_refusal_settled=self._is_refusal_settled(began, server_time),
            may_still_be_sent=self._may_still_be_sent(server_time),
        )
        proven = verdict(evidence)
        failures = self._reads.take_failures()
        # Only the first poll may confirm a trusted refusal early; after any other result it is treated like all others.
        self._trusts_refusal = False
        if proven.outcome is Outcome.UNKNOWN:
            candidates = _list_orders(likely, "may be the order of this purchase")
            notes = (proven.reason, proven.likelihood.value, *candidates, *failures)
            report = report_reads(
                evidence,
                proven.likelihood,
                self._intent,
                orders=len(self._searched),
                seconds_to_settle=self._seconds_to_settle(evidence, began, server_time),
                has_failed_permanently=self.has_failed_permanently,
            )
            return ReadBackResult(proven, evidence, notes=notes, report=report)
        if not matching:
            return ReadBackResult(proven, evidence)
        duplicates = _list_orders(matching[1:], "has keys of the same basket")
        return ReadBackResult(proven, evidence, matching[0].listed.order, matching[0].raw, duplicates)

    async def _read_basket(self) -> BasketSeen:
        intent = self._intent
        query = (("external_customer_id", intent.external_customer_id), ("cart_token", intent.cart_token))
        try:
            response = await self._reads.send(Request(OPERATIONS["baskets.get_active"], query=query))
        except MintedConnectError as error:
            # A 404 without the vendor's envelope may come from a gateway and proves nothing about the basket.
            if isinstance(error, NotFound) and error.is_vendor_response:
                return BasketSeen.GONE
            self._reads.record_failure(error)
            return BasketSeen.UNREAD
        # Only null: other empty data is not documented, and may come from a proxy or an error handler.
        if response.data is None:
            return BasketSeen.GONE
        data = mapping(response.data)
        if not data:
            self._reads.failures.append("the response contains no basket")
            return BasketSeen.UNREAD
        if compare_customer(data, intent.external_customer_id) is not CustomerMatch.SAME:
            self._reads.failures.append("the basket in the response is not known to belong to this customer")
            return BasketSeen.UNREAD
        if data.get("token") != intent.cart_token or is_order(data):
            return BasketSeen.GONE
        if data.get("items"):
            return BasketSeen.ACTIVE
        if self._fence_tried and self._fence is Fence.NOT_USED and is_cleared(data, intent):
            self._fence, self._fenced_at = Fence.CLEARED, self._api.clock.monotonic()
        return BasketSeen.GONE

    async def _read_orders(self) -> tuple[list[_Row], bool]:
        """Return the matching orders of this customer, and whether every search was complete."""
        intent, now = self._intent, self._api.clock.wall()
        # An order is dated by the creation of its basket (in the vendor's examples), so search from a day before.
        # Widen both ends by the offset of the server's clock, now and when the completion was sent.
        first = min(intent.created_at, intent.created_at + self._reads.clock_offset, intent.created_by_server)
        first -= SEARCH_MARGIN
        last = max(now, now + self._reads.clock_offset) + SEARCH_MARGIN
        customer = ("customer_external_id", intent.external_customer_id)
        # Without a filter by kind, which could only hide the order; `match_order` compares the kind.
        newest_first = (customer, ("sortBy", "created_at"), ("sortType", "desc"))
        days = (("startDate", first.date().isoformat()), ("endDate", last.date().isoformat()))
        rows: dict[tuple[str, str], _Row] = {}
        self._searched.clear()
        complete = await self._search((customer, ("orderId", str(intent.basket_id))), first, rows)
        complete = await self._search((*newest_first, *days), first, rows) and complete
        # A basket of last week becomes an order dated last week, which only the search by number finds, and only if
        # orders keep the number (Q4). So search without dates too, also if the basket was cleared: it may have been
        # completed before.
        is_found = any(row.match > Match.LIKELY for row in rows.values())
        if not (is_found or self._basket is BasketSeen.ACTIVE or self.has_failed_permanently):
            complete = await self._search(newest_first, BEGINNING, rows) and complete
        return list(rows.values()), complete

    async def _search(
        self, query: Sequence[tuple[str, str]], oldest: datetime, rows: dict[tuple[str, str], _Row]
    ) -> bool:
        """Add the matching orders to `rows`; return whether all pages that may hold one were read."""
        intent, keeps_number = self._intent, self._policy.order_keeps_number
        listed, is_complete = await self._reads.list_orders(query, intent.external_customer_id, oldest)
        self._searched.update(one.key for one in listed)
        for one in listed:
            match = match_order(one.raw, one.order, intent, keeps_number=keeps_number)
            if match is not Match.NONE:
                rows[one.key] = _Row(one, match)
        return is_complete

    async def _clear_basket(self, record_fence: RecordFence) -> None:
        """Clear the basket by customer and token, so that no other basket is touched."""
        intent, clock = self._intent, self._api.clock
        body = {"external_customer_id": intent.external_customer_id, "cart_token": intent.cart_token}
        if (left := self._reads.deadline - clock.monotonic()) <= 0:
            return
        try:
            async with self._api.hold_lock(intent.external_customer_id, left):
                if clock.monotonic() >= self._reads.deadline:
                    return
                # Recorded first: after a crash, a cleared basket could not be told from one that became an order.
                await record_fence(intent, clock.wall())
                self._fence_tried = True
                response = await self._reads.send(Request(OPERATIONS["baskets.clear"], body=body))
        except APIError as error:
            self._reads.record_failure(error)
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in _INCONCLUSIVE_STATUSES:
                self._fence = Fence.REFUSED
            return
        except MintedConnectError as error:
            self._reads.record_failure(error)
            return
        # `success` alone proves nothing: the basket may already have become an order.
        if is_cleared(mapping(response.data), intent):
            self._fence, self._fenced_at = Fence.CLEARED, clock.monotonic()


def _list_orders(rows: Sequence[_Row], text: str) -> tuple[str, ...]:
    """Return a note for each of the first orders, and one with the number of the others."""
    notes = [f"order {row.raw.get('id')} {text}" for row in rows[:_MAX_ORDERS]]
    if len(rows) > _MAX_ORDERS:
        notes.append(f"and {len(rows) - _MAX_ORDERS} further orders")
    return tuple(notes)


def _sort_key(row: _Row) -> tuple[bool, bool, Match]:
    seen = row.listed.seen
    return seen is OrderSeen.ACCEPTED, seen is OrderSeen.FAILED, row.match


def _may_fence(evidence: Evidence) -> bool:
    # Only a basket that was just read as open, without an order, can later be told from one that became an order.
    return evidence.basket is BasketSeen.ACTIVE and evidence.is_search_complete and not evidence.likely_orders
