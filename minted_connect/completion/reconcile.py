"""Finding out what became of an intent: read the basket and the orders, weigh what they show, wait, read again.

Nothing here sends a completion. A read that fails tells nothing: it never turns into a verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import attrs

from minted_connect.completion.order_match import Match, customer_of, is_cleared, is_failed, is_order, mapping, match
from minted_connect.completion.verdict import BasketSeen, Evidence, Fence, OrderSeen, Outcome, Verdict, verdict
from minted_connect.config import CompletionPolicy
from minted_connect.core.api_client import ApiClient
from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.core.headers import clock_skew
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.response import Response
from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    ClientClosedError,
    MintedConnectError,
    NotFound,
    Phase,
    ProtocolError,
    RequestTimeout,
)
from minted_connect.models import Intent, IntentState, Order

__all__ = ["Finding", "ReadBack"]

WAITS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between two looks; the last one repeats."""
LEAST: Final = 2.0
"""Seconds that a further look needs; one that is cut short shows less than the one before it."""
Mark = Callable[[Intent, datetime], Awaitable[None]]
"""Writes down that the basket of an intent is about to be cleared."""
_DAY: Final = timedelta(days=1)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_ROWS: Final = 30
_MOST_PAGES: Final = 20
# Of a 4xx, these say nothing about the basket: the credentials, the time, the pace.
_NO_ANSWER: Final = AMBIGUOUS_STATUSES | {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS}
_DATE_RESOLUTION: Final = timedelta(seconds=1)
"""Of the server's clock as its `Date` header shows it: two readings may differ by as much from the truth."""
_LONGEST_LOCK: Final = timedelta(seconds=600)
"""After its preparation, an intent of an older schema is taken as no longer sent."""


@attrs.frozen
class _Row:
    """One listed order of the intent's customer: as received, and as an Order if it can be read."""

    raw: Mapping[str, Any]
    order: Order | None
    match: Match


@attrs.frozen
class Finding:
    """What reading back came to."""

    verdict: Verdict
    evidence: Evidence
    order: Order | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    """The matching order as received."""
    notes: tuple[str, ...] = ()
    """What a person should look at, without personal data: other orders, and what was in the way."""

    @property
    def confirms_refusal(self) -> bool:
        """Whether the completion was refused and no order was made."""
        return self.verdict.outcome is Outcome.REJECTED and self.evidence.order is not OrderSeen.FAILED


class ReadBack:
    """Everything read back about one intent.

    Args:
        caller: Sends the reads.
        intent: The intent.
        refused_at: When the refusal of this very call came, in monotonic seconds; None for a refusal that was stored.
    """

    def __init__(self, api: ApiClient, intent: Intent, *, refused_at: float | None = None) -> None:
        self._api = api
        self._intent = intent
        self._refused_at = refused_at
        self._policy: CompletionPolicy = api.completion_policy
        # Of a refusal that was stored, it is not known whether a look has shown something else already.
        self._trusts_refusal = (
            refused_at is not None
            and intent.refusal is not None
            and intent.refusal.is_vendor_response
            and intent.refusal.status in self._policy.refusals
        )
        # The read before a completion has succeeded, so that a 401 now is not a wrong password.
        self._has_read = refused_at is not None
        self._give_up = 0.0
        self._offset = timedelta()
        self._basket = BasketSeen.UNREAD
        self._active_since: float | None = None
        self._active_reads = 0
        self._fence = Fence.NOT_USED
        self._fence_tried = intent.fenced_at is not None
        self._fenced_at = 0.0
        self._trouble: list[str] = []
        self._hopeless = False

    @property
    def is_hopeless(self) -> bool:
        """Whether further looks would fail as the latest one did."""
        return self._hopeless

    async def once(self, *, within: float) -> Finding:
        """Look once, for at most `within` seconds."""
        self._give_up = self._api.clock.monotonic() + within
        return await self._look()

    async def run(self, *, budget: float, fence: Mark | None) -> Finding:
        """Look, and go on looking until something is proven, for at most `budget` seconds.

        With `fence`, which notes that it is about to be done, a basket that is still open is cleared.
        """
        clock = self._api.clock
        give_up = self._give_up = clock.monotonic() + budget
        looks = 0
        while True:
            finding = await self._look()
            if finding.verdict.outcome is not Outcome.UNKNOWN or self._hopeless:
                return finding
            if fence is not None and self._fence is Fence.NOT_USED and _may_fence(finding.evidence):
                await self._clear(fence)
            pause = WAITS[min(looks, len(WAITS) - 1)]
            if clock.monotonic() + pause + LEAST > give_up:
                return finding
            await self._api.sleep_until(clock.monotonic() + pause)
            looks += 1

    def _is_refusal_settled(self, began: float, server_time: datetime | None) -> bool:
        """Return whether a look that began then would have shown an order that the refusal did not report."""
        refusal = self._intent.refusal
        if refusal is None:
            return False
        trusted = self._policy.latest_landing or 0.0
        wait = trusted if self._trusts_refusal else self._policy.settle_time
        if self._refused_at is not None:
            return began >= self._refused_at + wait
        return server_time is not None and server_time >= refusal.at + timedelta(seconds=wait) + _DATE_RESOLUTION

    def _may_still_be_sent(self, server_time: datetime | None) -> bool:
        """Return whether another process may still send the intent, or what it sent may not show yet."""
        intent = self._intent
        if intent.state != IntentState.PREPARED:
            return False
        last = intent.send_before or intent.created_by_server + _LONGEST_LOCK
        return (
            server_time is None or server_time < last + timedelta(seconds=self._policy.settle_time) + _DATE_RESOLUTION
        )

    async def _look(self) -> Finding:
        clock = self._api.clock
        # The clock of this machine proves nothing: until the server's was seen, it is too early for a verdict.
        has_date = self._api.state.server_stats.has_date
        began, server_time = clock.monotonic(), self._api.server_time() if has_date else None
        self._basket = await self._read_basket()
        asked = clock.monotonic()
        rows, searched = await self._read_orders()
        strong = sorted((row for row in rows if row.match > Match.LIKELY), key=_rank, reverse=True)
        seen = _order_seen(strong[0]) if strong else OrderSeen.NONE
        likely = [row for row in rows if row.match is Match.LIKELY]
        if self._basket is BasketSeen.ACTIVE and searched and not strong:
            self._active_reads += 1
            self._active_since = asked if self._active_since is None else self._active_since
        elif self._basket is not BasketSeen.UNREAD or strong:
            self._active_reads, self._active_since = 0, None
        evidence = Evidence(
            order=seen,
            likely=len(likely),
            searched=searched,
            basket=self._basket,
            active_reads=self._active_reads,
            active_seconds=0.0 if self._active_since is None else asked - self._active_since,
            fence=self._fence,
            fence_seconds=asked - self._fenced_at if self._fence is Fence.CLEARED else 0.0,
            fence_proves=self._policy.fence_proves_not_executed,
            orders_lag=self._policy.orders_lag,
            latest_landing=self._policy.latest_landing,
            refusal_is_settled=self._is_refusal_settled(began, server_time),
            may_still_be_sent=self._may_still_be_sent(server_time),
        )
        proven = verdict(evidence)
        trouble, self._trouble = self._trouble, []
        # A trusted refusal is confirmed by one look: anything else seen makes it one like all others.
        self._trusts_refusal = False
        if proven.outcome is Outcome.UNKNOWN:
            candidates = (f"order {row.raw.get('id')} looks like it" for row in likely)
            return Finding(
                proven,
                evidence,
                notes=(proven.reason, proven.leaning.value, *candidates, *trouble),
            )
        if not strong:
            return Finding(proven, evidence)
        again = (f"order {row.raw.get('id')} carries keys of the same basket" for row in strong[1:])
        return Finding(proven, evidence, strong[0].order, strong[0].raw, tuple(again))

    async def _read_basket(self) -> BasketSeen:
        intent = self._intent
        query = (("external_customer_id", intent.external_customer_id), ("cart_token", intent.cart_token))
        try:
            reply = await self._read(Request(OPERATIONS["baskets.get_active"], query=query))
        except MintedConnectError as error:
            # A 404 without the vendor's code may be a gateway's, and says nothing about the basket.
            if isinstance(error, NotFound) and error.code is not None:
                return BasketSeen.GONE
            self._note(error)
            return BasketSeen.UNREAD
        if reply.data is None:
            return BasketSeen.GONE
        data = mapping(reply.data)
        if customer_of(data) != intent.external_customer_id:
            self._trouble.append("the basket that was answered is another customer's")
            return BasketSeen.UNREAD
        if data.get("token") != intent.cart_token or is_order(data):
            return BasketSeen.GONE
        if data.get("items"):
            return BasketSeen.ACTIVE
        if self._fence_tried and self._fence is Fence.NOT_USED and is_cleared(data, intent):
            self._fence, self._fenced_at = Fence.CLEARED, self._api.clock.monotonic()
        return BasketSeen.GONE

    async def _read_orders(self) -> tuple[list[_Row], bool]:
        """Return this customer's orders that match, and whether all there are were looked at."""
        intent, now = self._intent, self._api.clock.wall()
        # An order says when its basket was made (seen in the examples), so a day back is the least to look at.
        # Both ends are widened by what the server's clock and ours differ, and differed when it was sent.
        first = min(intent.created_at, intent.created_at + self._offset, intent.created_by_server) - _DAY
        last = max(now, now + self._offset) + _DAY
        customer = ("customer_external_id", intent.external_customer_id)
        # Not by kind: a filter can only hide what is looked for, and the kind of each order is compared here.
        listed = (
            customer,
            ("sortBy", "created_at"),
            ("sortType", "desc"),
        )
        days = (("startDate", first.date().isoformat()), ("endDate", last.date().isoformat()))
        rows: dict[tuple[str, str], _Row] = {}
        complete = await self._search((customer, ("orderId", str(intent.basket_id))), first, rows)
        complete = await self._search((*listed, *days), first, rows) and complete
        # A basket of last week becomes an order of last week. By number it was found above, if ids are kept (Q4). Also
        # of a basket that was cleared: the completion may have taken it as it was before.
        if self._basket is BasketSeen.GONE and not any(row.match > Match.LIKELY for row in rows.values()):
            complete = await self._search(listed, _EVER, rows) and complete
        return list(rows.values()), complete

    async def _search(
        self, query: Sequence[tuple[str, str]], oldest: datetime, rows: dict[tuple[str, str], _Row]
    ) -> bool:
        """Add to `rows` what matches; return whether all there are were looked at."""
        try:
            found, whole = await self._pages(query, oldest)
        except MintedConnectError as error:
            self._note(error)
            return False
        rows.update(((str(row.raw.get("id")), str(row.raw.get("guid"))), row) for row in found)
        return whole

    async def _pages(self, query: Sequence[tuple[str, str]], oldest: datetime) -> tuple[list[_Row], bool]:
        found: list[_Row] = []
        for number in range(1, _MOST_PAGES + 1):
            request = Request(OPERATIONS["orders.page"], query=(("page", str(number)), ("total", str(_ROWS)), *query))
            reply = await self._read(request)
            page = mapping(reply.data)
            listed: Any = page.get("data")
            if not isinstance(listed, list):
                raise ProtocolError("Get Orders: the answer is not a page of orders")
            raws = [mapping(raw) for raw in listed]  # pyright: ignore[reportUnknownVariableType]
            rows = [self._row(raw) for raw in raws if customer_of(raw) in (self._intent.external_customer_id, None)]
            found += [row for row in rows if row.match is not Match.NONE]
            last_page = page.get("last_page")
            if not raws or (isinstance(last_page, int) and number >= last_page):
                return found, True
            if rows and all(row.order is not None and row.order.order_at < oldest for row in rows):
                return found, True
        self._trouble.append(f"more than {_MOST_PAGES * _ROWS} orders were listed; the rest was not looked at")
        return found, False

    def _row(self, raw: Mapping[str, Any]) -> _Row:
        order: Order | None
        try:
            order = self._api.structure(raw, Order)
        except ProtocolError:
            order = None
        found = match(raw, order, self._intent, keeps_number=self._policy.order_keeps_number)
        return _Row(raw, order, found)

    async def _clear(self, mark: Mark) -> None:
        """Clear the basket by customer and token, so that no other basket is touched."""
        intent, clock = self._intent, self._api.clock
        body = {"external_customer_id": intent.external_customer_id, "cart_token": intent.cart_token}
        if (left := self._give_up - clock.monotonic()) <= 0:
            return
        try:
            async with self._api.hold_lock(intent.external_customer_id, left):
                if clock.monotonic() >= self._give_up:
                    return
                # Written first: after a crash, a basket that was emptied looks like one that became an order.
                await mark(intent, clock.wall())
                self._fence_tried = True
                reply = await self._read(Request(OPERATIONS["baskets.clear"], body=body))
        except APIError as error:
            self._note(error)
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in _NO_ANSWER:
                self._fence = Fence.REFUSED
            return
        except MintedConnectError as error:
            self._note(error)
            return
        # A bare "success" proves nothing: it may be about a basket that has become an order already.
        if is_cleared(mapping(reply.data), intent):
            self._fence, self._fenced_at = Fence.CLEARED, clock.monotonic()

    async def _read(self, request: Request) -> Response:
        settings, clock = self._api.settings, self._api.clock
        left = self._give_up - clock.monotonic()
        if left <= 0:
            raise RequestTimeout("the time for reading back is over", phase=Phase.NOT_SENT)
        deadline = min(left, settings.deadline or settings.timeouts.total)
        api = self._api.with_settings(attrs.evolve(settings, deadline=deadline))
        reply = await api.exchange(request, bypass_limits=True)
        self._has_read = True
        self._offset = clock_skew(reply.headers.get("Date", ""), clock.wall(), self._offset)
        return reply

    def _note(self, error: MintedConnectError) -> None:
        # Waiting opens no closed client again, and makes no password right; a gateway's 401 may be gone next time.
        is_denied = isinstance(error, AuthenticationFailed) and (error.refused_digest or not self._has_read)
        self._hopeless = self._hopeless or is_denied or isinstance(error, ClientClosedError)
        self._trouble.append(f"{type(error).__name__}: {error}")


def _order_seen(row: _Row) -> OrderSeen:
    if not is_order(row.raw):
        return OrderSeen.STILL_BASKET
    return OrderSeen.FAILED if is_failed(row.raw) else OrderSeen.ACCEPTED


def _rank(row: _Row) -> tuple[bool, bool, Match]:
    seen = _order_seen(row)
    return seen is OrderSeen.ACCEPTED, seen is OrderSeen.FAILED, row.match


def _may_fence(evidence: Evidence) -> bool:
    # Only a basket that was just seen whole can be told apart, afterwards, from one that became an order.
    return evidence.basket is BasketSeen.ACTIVE and evidence.searched and not evidence.likely
