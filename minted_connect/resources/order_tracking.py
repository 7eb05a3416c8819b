"""Following an order: which row is it, when to look again, and which failures pass by.

Nothing here ends by itself but by its caller's will: `AsyncOrders.wait` and `watch` say when enough is enough.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, cast

import attrs

from minted_connect.clock import Clock, timeout
from minted_connect.config import Options
from minted_connect.core.failures import attach_request, is_transient
from minted_connect.core.request import OPERATIONS
from minted_connect.errors import (
    IntegrityError,
    InvalidInput,
    MintedConnectError,
    NotFound,
    Phase,
    RateLimited,
    RequestTimeout,
    ServerError,
)
from minted_connect.models import Completion, CreationStatus, Intent, IntentState, Order, OrderProgress, Page

__all__ = ["FIRST", "Looks", "OrderPoller", "OrderRef", "SaveProgress", "not_listed", "poll_interval"]

_logger = logging.getLogger("minted_connect")

SaveProgress = Callable[[str, str, OrderProgress], Awaitable[None]]
"""Keeps what was seen of an order, by its customer and cart token."""

_STEPS: Final = (2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two looks at an order that stays as it is; the last one repeats."""
_SLOWER: Final = ((86_400.0, 300.0), (3_600.0, 60.0))
"""After so many seconds without a change, so many seconds between two looks: a delivery takes days."""
_JITTER: Final = 0.1
"""Part of a pause by which it may differ, so that what was started together does not stay together."""
FIRST: Final = _STEPS[0]
_LAG: Final = 120.0
"""Seconds in which a purchase may be missing from Get Orders (Q5)."""
_LEAST: Final = 2.0
"""Seconds that a look gets at the end of the time, too; one that is cut short shows nothing."""
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")
_ASKED: Final = OPERATIONS["orders.page"]


@attrs.frozen
class OrderRef:
    """The order that is followed, and what is known of it at the start."""

    customer: str
    number: int
    """What Get Orders is asked for."""
    token: str
    """Cart token of the basket that it was."""
    keys: tuple[str, ...] = ()
    """Cart token, guid and increment_id, where the number is only the basket's and need not be the order's (Q4)."""
    order: Order | None = None
    progress: OrderProgress | None = None

    @classmethod
    def of(cls, order: Order | Completion | Intent) -> OrderRef:
        """Return what to look for.

        Raises:
            InvalidInput: it is none of these, or names no order.
        """
        if isinstance(order, Completion):
            return cls.of(order.order) if order.order is not None else cls._unread(order)
        if isinstance(order, Order):
            progress = OrderProgress.of(order)
            return cls(order.customer.external_id, order.id, order.token, order=order, progress=progress)
        if not isinstance(order, Intent):  # pyright: ignore[reportUnnecessaryIsInstance]
            kinds = "the Order, the Completion, or the Intent from complete.unfinished()"
            raise InvalidInput.of("order", f"give {kinds}, not {type(order).__name__}")
        if order.state != IntentState.CONFIRMED:
            raise InvalidInput.of("order", f"is an intent that is {order.state}: reconcile it first")
        customer, token = order.external_customer_id, order.cart_token
        if order.order_id is not None:
            return cls(customer, order.order_id, token, progress=order.progress)
        keys = (token, order.guid, order.increment_id)
        return cls(customer, order.basket_id, token, keys, progress=order.progress)

    @classmethod
    def _unread(cls, completion: Completion) -> OrderRef:
        raw = completion.raw
        buyer = raw.get("customer")
        customer = cast("Mapping[str, Any]", buyer).get("external_id") if isinstance(buyer, Mapping) else None
        number, token = completion.keys.get("id", ""), raw.get("token")
        if not isinstance(customer, str) or not _NUMBER.fullmatch(number):
            raise InvalidInput.of("order", "names no order: follow its intent, from complete.unfinished()")
        return cls(customer, int(number), token if isinstance(token, str) else "")

    def among(self, rows: Iterable[Order]) -> Order | None:
        """Return the row that is this order, if there is one.

        Raises:
            IntegrityError: it is shown as somebody else's.
        """
        # A row that is still a basket is one of before the purchase.
        found = (row for row in rows if self._is(row) and row.order_creation_status != CreationStatus.BASKET)
        order = next(found, None)
        if order is not None and order.customer.external_id != self.customer:
            problem = "customer.external_id: is another customer's"
            raise attach_request(IntegrityError("the response belongs to another customer", (problem,)), _ASKED.info)
        return order

    def _is(self, row: Order) -> bool:
        if not self.keys:
            return row.id == self.number
        theirs = (row.token, row.guid, row.increment_id)
        return any(mine and mine == other for mine, other in zip(self.keys, theirs, strict=True))


def not_listed() -> NotFound:
    """Build the error for an answer without the order: not the server's word, so its status is 0."""
    return attach_request(NotFound("no order of this id and this customer was listed"), _ASKED.info)


def poll_interval(looks: int, quiet: float, roll: float) -> float:
    """Return the seconds before another look.

    Args:
        looks: How many there were since the last change.
        quiet: Seconds since then.
        roll: A random number in [0, 1).
    """
    usual = _STEPS[min(looks, len(_STEPS) - 1)]
    pause = next((seconds for after, seconds in _SLOWER if quiet >= after), usual)
    return pause * (1 - _JITTER + 2 * _JITTER * roll)


@attrs.define(eq=False)
class _Look:
    """One look under way, and what it came to."""

    began: float
    landed: asyncio.Event = attrs.field(factory=asyncio.Event)
    rows: Page[Order] | None = None
    error: Exception | None = None


class Looks:
    """Looks at orders: at each but once at a time, however many follow it."""

    def __init__(self, fetch: Callable[[str, int], Awaitable[Page[Order]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._flying: dict[tuple[object, ...], _Look] = {}

    async def rows(self, customer: str, number: int, *, since: float) -> Page[Order]:
        """Return what Get Orders shows of an order, as it was at `since` or later."""
        # Another loop, or the parent of this process, will never tell how its look ended.
        key = (os.getpid(), asyncio.get_running_loop(), customer, number)
        while (look := self._flying.get(key)) is not None:
            await look.landed.wait()
            if look.began < since:
                continue
            if look.error is not None:
                raise look.error
            if look.rows is not None:
                return look.rows
            # Given up by whom it belonged to: the next one in line takes over.
        look = self._flying[key] = _Look(self._clock.monotonic())
        try:
            look.rows = await self._fetch(customer, number)
        except Exception as error:
            look.error = error
            raise
        finally:
            del self._flying[key]
            look.landed.set()
        return look.rows


class OrderPoller:
    """One caller at the heels of one order.

    Args:
        target: Whom to follow.
        looks: Those of the client.
        options: Of the client: its clock and its randomness.
        noted: Where to write down what is seen.
        first: Seconds before the first look at an order that was not handed in.

    Attributes:
        failure: How the latest look failed; None if it did not.
        failing_since: When looks began to fail, as long as they do.
        asked: Seconds that the server then wants to be left alone.
    """

    def __init__(
        self, target: OrderRef, looks: Looks, options: Options, noted: SaveProgress | None, *, first: float
    ) -> None:
        self.target = target
        self.failure: MintedConnectError | None = None
        self.failing_since: float = 0.0
        self.asked: float = 0.0
        self._looks, self._clock, self._random, self._noted = looks, options.clock, options.random, noted
        self._first = first if target.order is None else None
        self._started = self._changed = self._clock.monotonic()
        self._count = 0  # of looks since the last change
        self._seen: OrderProgress | None = target.progress
        # What an order shows that was handed in is not written down yet; what an intent shows was read from there.
        self._kept: OrderProgress | None = target.progress if target.order is None else None
        self._warned = False

    async def look(self, end: float | None = None) -> Order | None:
        """Pause, then look once: return the order, or None if that failed as the next look may not.

        Args:
            end: When time is up, on the monotonic clock: neither pause nor look goes (much) beyond it.

        Raises:
            MintedConnectError: the look failed as the next one would.
        """
        pause = self._pause()
        await self._clock.sleep(pause if end is None else min(pause, max(0.0, end - self._clock.monotonic())))
        try:
            order = await self._look_within(end)
        except MintedConnectError as error:
            self._failed(error)
            return None
        self.failure, self.asked, self._warned = None, 0.0, False
        progress = OrderProgress.of(order)
        self._count += 1
        if progress != self._seen:
            self._seen, self._changed, self._count = progress, self._clock.monotonic(), 0
        return order

    async def keep(self) -> None:
        """Write down how far the order has come, unless that is; if it cannot be, that is no reason to stop."""
        progress = self._seen
        if self._noted is None or progress is None or progress == self._kept:
            return
        self._kept = progress
        try:
            await self._noted(self.target.customer, self.target.token, progress)
        except Exception:
            _logger.exception("order %d: the journal could not note that it is %s", self.target.number, progress.status)

    def late(self) -> RequestTimeout:
        """Build the error for time that is up."""
        elapsed = self._clock.monotonic() - self._started
        status = None if self._seen is None else self._seen.status
        text = f"the order is still {status} after {elapsed:.0f} s"
        if self.failure is not None:
            was = "has not been seen" if status is None else f"was {status} when last seen"
            text = f"the order {was}: after {elapsed:.0f} s looks still fail ({type(self.failure).__name__})"
        error = RequestTimeout(text, phase=Phase.RESPONDED)
        error.request, error.elapsed = _ASKED.info, elapsed
        return error

    def _pause(self) -> float:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        quiet = self._clock.monotonic() - self._changed
        return max(poll_interval(self._count, quiet, self._random()), self.asked)

    async def _look_within(self, end: float | None) -> Order:
        if end is None:
            return await self._look()
        try:
            async with timeout(self._clock, max(end - self._clock.monotonic(), _LEAST)):
                return await self._look()
        except TimeoutError as error:
            if isinstance(error, MintedConnectError):
                raise
            raise attach_request(RequestTimeout("no answer before the time to wait was up"), _ASKED.info) from None

    async def _look(self) -> Order:
        target = self.target
        order = target.among(await self._looks.rows(target.customer, target.number, since=self._started))
        if order is None:
            raise not_listed()
        return order

    def _failed(self, error: MintedConnectError) -> None:
        """Take note of a look that failed; raise its error if the next one would fail as well."""
        now = self._clock.monotonic()
        trouble = is_transient(error)
        lagging = isinstance(error, NotFound) and now - self._started < _LAG
        if not trouble and not lagging:
            raise error
        if self.failure is None:
            self.failing_since = now
        if trouble and not self._warned:
            self._warned = True
            text = "%s %s: order %d cannot be looked at for now (%s); it is tried on"
            _logger.warning(text, _ASKED.method, _ASKED.path, self.target.number, type(error).__name__)
        self.failure = error
        self.asked = (error.retry_after or 0.0) if isinstance(error, RateLimited | ServerError) else 0.0
        self._count += 1
