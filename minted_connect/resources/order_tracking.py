"""Polling of one order for `AsyncOrders.wait` and `watch`: which row it is, when to poll, which errors to retry."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import attrs

from minted_connect.clock import timeout
from minted_connect.config import Options
from minted_connect.core.failures import attach_request, is_transient
from minted_connect.core.logs import log_error
from minted_connect.core.request import OPERATIONS
from minted_connect.core.response import make_integrity_error, make_schema_error
from minted_connect.errors import (
    InvalidInput,
    MintedConnectError,
    NotFound,
    Phase,
    RateLimited,
    RequestTimeout,
    ServerError,
)
from minted_connect.models import Completion, CreationStatus, Intent, IntentState, Order, OrderProgress, Page
from minted_connect.models.json_types import CustomerMatch, compare_customer, customer_id_of
from minted_connect.resources.base import owner_problems

__all__ = [
    "FIRST_PAUSE",
    "FetchOrders",
    "OrderPoller",
    "OrderRef",
    "SaveProgress",
    "check_unreadable",
    "not_listed",
    "poll_interval",
]

_logger = logging.getLogger("minted_connect")

FetchOrders = Callable[[str, int], Awaitable[Page[Order]]]
"""Returns the rows that Get Orders lists for a customer id and an order id."""

SaveProgress = Callable[[str, str, OrderProgress], Awaitable[None]]
"""Saves the progress of the order that a customer's basket became: customer id, cart token, progress."""

_INTERVALS: Final = (2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between polls after a change; the last value repeats."""
_SLOW_INTERVALS: Final = ((86_400.0, 300.0), (3_600.0, 60.0))
"""(seconds without a change, seconds between polls from then on): a delivery takes days."""
_JITTER: Final = 0.1
"""Fraction by which an interval varies, so that polls that started together spread."""
FIRST_PAUSE: Final = _INTERVALS[0]
_MAX_LAG: Final = 120.0
"""Seconds in which a completed purchase may be missing from Get Orders (Q5)."""
_MIN_TIMEOUT: Final = 2.0
"""Seconds for the last poll of a wait, even if less time is left: a shorter timeout would cut the response off."""
_REQUEST: Final = OPERATIONS["orders.page"].info


@attrs.frozen
class OrderRef:
    """Identifies the order to poll, with its last known state."""

    customer: str
    number: int
    """The `orderId` filter of Get Orders."""
    token: str
    """Cart token of the basket that became the order."""
    keys: tuple[str, ...] = ()
    """Cart token, guid and increment_id, if `number` is the basket's, which may differ from the order's (Q4)."""
    order: Order | None = None
    progress: OrderProgress | None = None

    @classmethod
    def of(cls, order: Order | Completion | Intent) -> OrderRef:
        """Return the reference to an order.

        Raises:
            InvalidInput: if `order` has another type, or does not identify an order.
        """
        if isinstance(order, Completion):
            return cls.of(order.order) if order.order is not None else cls._from_unreadable(order)
        if isinstance(order, Order):
            progress = OrderProgress.of(order)
            return cls(order.customer.external_id, order.id, order.token, order=order, progress=progress)
        if not isinstance(order, Intent):  # pyright: ignore[reportUnnecessaryIsInstance]
            kinds = "an Order, a Completion, or an Intent from complete.unfinished()"
            raise InvalidInput.of("order", f"must be {kinds}, not {type(order).__name__}")
        if order.state != IntentState.CONFIRMED:
            raise InvalidInput.of("order", f"is an intent in state {order.state}: reconcile it first")
        customer, token = order.external_customer_id, order.cart_token
        if order.order_id is not None:
            return cls(customer, order.order_id, token, progress=order.progress)
        keys = (token, order.guid, order.increment_id)
        return cls(customer, order.basket_id, token, keys, progress=order.progress)

    @classmethod
    def _from_unreadable(cls, completion: Completion) -> OrderRef:
        customer, number, token = customer_id_of(completion.raw), completion.order_id, completion.raw.get("token")
        if customer is None or not number:
            raise InvalidInput.of("order", "does not identify an order: pass its intent from complete.unfinished()")
        return cls(customer, number, token if isinstance(token, str) else "")

    def find_in(self, rows: Iterable[Order]) -> Order | None:
        """Return the row of this order, or None.

        Raises:
            IntegrityError: if the row belongs to another customer.
        """
        # A row that is still a basket shows the state before the purchase.
        found = (row for row in rows if self._matches(row) and row.order_creation_status != CreationStatus.BASKET)
        order = next(found, None)
        if order is not None and (problems := owner_problems(self.customer, {"customer": order.customer})):
            raise make_integrity_error(problems, _REQUEST)
        return order

    def _matches(self, row: Order) -> bool:
        if not self.keys:
            return row.id == self.number
        candidate = (row.token, row.guid, row.increment_id)
        return any(key and key == other for key, other in zip(self.keys, candidate, strict=True))


def not_listed() -> NotFound:
    """Build the error for a response without the order. The server did not send this error: its status is 0."""
    return attach_request(NotFound("no order with this id is listed for this customer"), _REQUEST)


def check_unreadable(rows: Page[Order], number: int | None, customer_id: str) -> None:
    """Check that the order cannot be one of the unreadable rows.

    Args:
        rows: The rows listed for the order, which was not found among those that can be read.
        number: Id of the order; None if only the id of its basket is known, which may differ (Q4).
        customer_id: The customer of the order.

    Raises:
        ProtocolError: if a row that cannot be read is the order, or may be it.
    """
    for row in rows.unreadable:
        may_be_own = compare_customer(row.raw, customer_id) is not CustomerMatch.OTHER
        if may_be_own and (number is None or row.id in (number, None)):
            raise make_schema_error(row.problems, _REQUEST)


def poll_interval(polls: int, quiet: float, roll: float) -> float:
    """Return the seconds to wait before the next poll.

    Args:
        polls: Number of polls since the last change.
        quiet: Seconds since the last change.
        roll: A random number in [0, 1).
    """
    usual = _INTERVALS[min(polls, len(_INTERVALS) - 1)]
    interval = next((seconds for after, seconds in _SLOW_INTERVALS if quiet >= after), usual)
    return interval * (1 - _JITTER + 2 * _JITTER * roll)


class OrderPoller:
    """Polls one order. `AsyncOrders.wait` and `watch` decide when to stop.

    Args:
        target: The order to poll.
        fetch: Requests the rows of the order.
        options: The client's options: its clock and random source.
        save_progress: Saves the progress of the order; None: it is not saved.
        first_pause: Seconds before the first poll, if the caller did not pass an `Order`.

    Attributes:
        failure: Error of the latest poll; None if it succeeded.
        failing_since: Monotonic time of the first of the polls that have failed since the last success.
        retry_after: Seconds that the server asked to wait, in the latest poll.
    """

    def __init__(
        self,
        target: OrderRef,
        fetch: FetchOrders,
        options: Options,
        save_progress: SaveProgress | None,
        *,
        first_pause: float,
    ) -> None:
        self.target = target
        self.failure: MintedConnectError | None = None
        self.failing_since: float = 0.0
        self.retry_after: float = 0.0
        self._fetch, self._clock, self._random, self._save = fetch, options.clock, options.random, save_progress
        self._first_pause = first_pause if target.order is None else None
        self._started = self._changed = self._clock.monotonic()
        self._polls = 0
        """Since the last change."""
        self._progress: OrderProgress | None = target.progress
        # The progress of an intent was read from the journal; that of an `Order` was not saved yet.
        self._saved: OrderProgress | None = target.progress if target.order is None else None
        self._warned = False

    async def poll(self, end: float | None = None) -> Order | None:
        """Pause, then request the order once; return None if that failed with an error that may pass.

        Args:
            end: Monotonic time at which the caller's time is up. The pause ends by then, the request soon after.

        Raises:
            MintedConnectError: if the next poll would fail, too.
        """
        pause = self._next_pause()
        await self._clock.sleep(pause if end is None else min(pause, max(0.0, end - self._clock.monotonic())))
        try:
            order = await self._request_until(end)
        except MintedConnectError as error:
            self._record_failure(error)
            return None
        self.failure, self.retry_after, self._warned = None, 0.0, False
        progress = OrderProgress.of(order)
        self._polls += 1
        if progress != self._progress:
            self._progress, self._changed, self._polls = progress, self._clock.monotonic(), 0
        return order

    async def save_progress(self) -> None:
        """Save the progress of the order unless it is saved already. A failure is logged and does not end polling."""
        progress = self._progress
        if self._save is None or progress is None or progress == self._saved:
            return
        self._saved = progress
        try:
            await self._save(self.target.customer, self.target.token, progress)
        except Exception:  # noqa: BLE001 - it is logged
            text = "order %d: the journal could not save status %s"
            log_error(_logger, text, self.target.number, progress.status, exc_info=True)

    def timeout_error(self) -> RequestTimeout:
        """Build the error for a wait that timed out."""
        elapsed = self._clock.monotonic() - self._started
        status = None if self._progress is None else self._progress.status
        text = f"the order is still {status} after {elapsed:.0f} s"
        if self.failure is not None:
            last = "has not been seen" if status is None else f"was {status} when last seen"
            text = f"the order {last}: polls still fail after {elapsed:.0f} s ({type(self.failure).__name__})"
        error = RequestTimeout(text, phase=Phase.RESPONDED)
        error.request, error.elapsed = _REQUEST, elapsed
        return error

    def _next_pause(self) -> float:
        if self._first_pause is not None:
            first, self._first_pause = self._first_pause, None
            return first
        quiet = self._clock.monotonic() - self._changed
        return max(poll_interval(self._polls, quiet, self._random()), self.retry_after)

    async def _request_until(self, end: float | None) -> Order:
        if end is None:
            return await self._request()
        try:
            async with timeout(self._clock, max(end - self._clock.monotonic(), _MIN_TIMEOUT)):
                return await self._request()
        except TimeoutError as error:
            if isinstance(error, MintedConnectError):
                raise
            raise attach_request(RequestTimeout("no response before the end of the wait"), _REQUEST) from None

    async def _request(self) -> Order:
        target = self.target
        rows = await self._fetch(target.customer, target.number)
        order = target.find_in(rows)
        if order is None:
            check_unreadable(rows, None if target.keys else target.number, target.customer)
            raise not_listed()
        return order

    def _record_failure(self, error: MintedConnectError) -> None:
        """Record the error of a poll; raise it if the next poll would fail, too."""
        now = self._clock.monotonic()
        transient = is_transient(error)
        may_be_late = isinstance(error, NotFound) and now - self._started < _MAX_LAG
        if not transient and not may_be_late:
            raise error
        if self.failure is None:
            self.failing_since = now
        if transient and not self._warned:
            self._warned = True
            text = "%s %s: polling order %d failed (%s); retrying"
            _logger.warning(text, _REQUEST.method, _REQUEST.route, self.target.number, type(error).__name__)
        self.failure = error
        self.retry_after = (error.retry_after or 0.0) if isinstance(error, RateLimited | ServerError) else 0.0
        self._polls += 1
