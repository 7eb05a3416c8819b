"""Reads that must end by a deadline, and whose failures are evidence, not errors: of read-backs and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs

from minted_connect.completion.order_match import is_failed, is_order, last_page, mapping, total_rows
from minted_connect.completion.verdict import OrderSeen
from minted_connect.core.api_client import ApiClient
from minted_connect.core.headers import clock_skew
from minted_connect.core.model_decoder import as_rows
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.response import Response
from minted_connect.errors import (
    AuthenticationFailed,
    ClientClosedError,
    MintedConnectError,
    Phase,
    ProtocolError,
    RequestTimeout,
)
from minted_connect.models import Order
from minted_connect.models.json_types import CustomerMatch, compare_customer

__all__ = ["BEGINNING", "MAX_PAGES", "PER_PAGE", "SEARCH_MARGIN", "BoundedReads", "ListedOrder"]

BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
"""`oldest` of a search without dates."""
SEARCH_MARGIN: Final = timedelta(days=1)
"""By how much a search by date is widened at both ends: an order is dated by its basket, and clocks differ."""

PER_PAGE: Final = 30
"""Orders on a page: the maximum of the E-Commerce page (api-8228838)."""
MAX_PAGES: Final = 20
"""Number of pages that one search reads at most."""


@attrs.frozen
class ListedOrder:
    """One row of the list of orders: as received, and parsed if possible."""

    raw: Mapping[str, Any]
    order: Order | None

    @property
    def key(self) -> tuple[str, str]:
        """Equal for the same row in two lists."""
        return str(self.raw.get("id")), str(self.raw.get("guid"))

    @property
    def seen(self) -> OrderSeen:
        """Whether the row is an order, and whether that order failed."""
        if not is_order(self.raw):
            return OrderSeen.STILL_BASKET
        return OrderSeen.FAILED if is_failed(self.raw) else OrderSeen.ACCEPTED


class BoundedReads:
    """Sends reads over the connections for recovery, past rate limiter, circuit breaker and retry budget.

    Args:
        api: Sends the reads.
        has_read: Whether the client has authenticated before, so that a 401 does not mean a wrong password.
    """

    def __init__(self, api: ApiClient, *, has_read: bool) -> None:
        self._api = api
        self._has_read = has_read
        self.deadline: float = 0.0
        """Monotonic time at which the reads must end."""
        self.clock_offset: timedelta = timedelta()
        """By how much the server's clock was ahead of this one at the latest response."""
        self.failures: list[str] = []
        """Failed reads since `take_failures`, without personal data."""
        self.has_failed: bool = False
        """Whether a read failed. A list that was read, but not to its end, is only in `failures`."""
        self.has_failed_permanently: bool = False
        """Whether further reads would fail as the latest one did: the client is closed or its password is wrong."""

    async def send(self, request: Request) -> Response:
        """Send a request within the deadline.

        Raises:
            RequestTimeout: if the deadline has passed.
        """
        settings, clock = self._api.settings, self._api.clock
        left = self.deadline - clock.monotonic()
        if left <= 0:
            raise RequestTimeout("the time for the read-back is over", phase=Phase.NOT_SENT)
        deadline = min(left, settings.deadline or settings.timeouts.total)
        api = self._api.with_settings(attrs.evolve(settings, deadline=deadline))
        response = await api.exchange(request, bypass_limits=True)
        self._has_read = True
        self.clock_offset = clock_skew(response.headers.get("Date", ""), clock.wall(), self.clock_offset)
        return response

    async def list_orders(
        self, query: Sequence[tuple[str, str]], customer: str, oldest: datetime
    ) -> tuple[list[ListedOrder], bool]:
        """List the orders that may belong to a customer; return them, and whether all that may matter were read.

        Args:
            query: Filters and sorting. To end at `oldest`, the newest orders must come first.
            customer: External id of the customer.
            oldest: Read no further page once all orders of one are older.
        """
        try:
            return await self._read_pages(query, customer, oldest)
        except MintedConnectError as error:
            self.record_failure(error)
            return [], False

    async def _read_pages(
        self, query: Sequence[tuple[str, str]], customer: str, oldest: datetime
    ) -> tuple[list[ListedOrder], bool]:
        found: list[ListedOrder] = []
        previous: Any = None
        received = 0
        for number in range(1, MAX_PAGES + 1):
            request = Request(
                OPERATIONS["orders.page"], query=(("page", str(number)), ("total", str(PER_PAGE)), *query)
            )
            response = await self.send(request)
            page = mapping(response.data)
            items = as_rows(page.get("data"))
            if items is None:
                raise ProtocolError("Get Orders: the response is not a page of orders")
            raws = [mapping(raw) for raw in items]
            rows = [self.parse(raw) for raw in raws if compare_customer(raw, customer) is not CustomerMatch.OTHER]
            found += rows
            last, current = last_page(page, default=MAX_PAGES + 1), page.get("current_page")
            if current is not None and current == previous and str(current) != str(last):
                self.failures.append("the server or a cache ignores the page number of Get Orders")
                return found, False
            previous = current
            received += len(raws)
            if not raws or number >= last:
                if received < total_rows(page):
                    self.failures.append("Get Orders returned fewer orders than its total")
                    return found, False
                return found, True
            if rows and all(row.order is not None and row.order.order_at < oldest for row in rows):
                return found, True
        self.failures.append(f"only the first {MAX_PAGES * PER_PAGE} orders were read; there are more")
        return found, False

    def parse(self, raw: Mapping[str, Any]) -> ListedOrder:
        """Parse a row of the list of orders, if possible."""
        try:
            return ListedOrder(raw, self._api.structure(raw, Order))
        except ProtocolError:
            return ListedOrder(raw, None)

    def record_failure(self, error: MintedConnectError) -> None:
        """Note a failed read."""
        # A closed client stays closed and a wrong password stays wrong, but a 401 of a gateway may be temporary.
        is_denied = isinstance(error, AuthenticationFailed) and (error.refused_digest or not self._has_read)
        if is_denied or isinstance(error, ClientClosedError):
            self.has_failed_permanently = True
        self.has_failed = True
        self.failures.append(f"{type(error).__name__}: {error}")

    def take_failures(self) -> list[str]:
        """Return the failed reads since the last call."""
        failures, self.failures = self.failures, []
        return failures
