"""Orders: what completed baskets became."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import date
from typing import Final, Literal, TypedDict, Unpack

from minted_connect import validation
from minted_connect.core.api_client import ApiClient
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.models import (
    Completion,
    Intent,
    Invoice,
    Order,
    OrderChange,
    OrderKind,
    OrderProgress,
    OrderStatus,
    Page,
    Receipt,
)
from minted_connect.resources import base
from minted_connect.resources.order_tracking import FIRST, Looks, OrderPoller, OrderRef, SaveProgress, not_listed

__all__ = ["AsyncOrders", "OrderFilters", "SortBy"]

SortBy = Literal["type", "total", "customer_external_id", "created_at"]
"""What Get Orders sorts by (from E-Commerce Get Orders, api-8228838, 2024-08-11)."""

_KINDS: Final = frozenset(OrderKind)
_SORT_BY: Final = frozenset({"type", "total", "customer_external_id", "created_at"})
_SORT_TYPES: Final = frozenset({"asc", "desc"})


class OrderFilters(TypedDict, total=False):
    """What `AsyncOrders.page`, `pages` and `iterate` have in common."""

    customer_external_id: str | None
    status: int | Sequence[int] | None
    tx_type: OrderKind | str | Sequence[OrderKind | str] | None
    start: date | None
    end: date | None
    order_id: int | None
    sort_by: SortBy
    sort_type: Literal["asc", "desc"]
    per_page: int


class AsyncOrders(base.Resource):
    """The orders of all customers of the partner, or of one."""

    def __init__(self, api: ApiClient, noted: SaveProgress | None = None) -> None:
        super().__init__(api)
        self._looks = Looks(self._rows, api.clock)
        self._noted = noted

    async def page(
        self,
        *,
        customer_external_id: str | None = None,
        status: int | Sequence[int] | None = None,
        tx_type: OrderKind | str | Sequence[OrderKind | str] | None = None,
        start: date | None = None,
        end: date | None = None,
        order_id: int | None = None,
        sort_by: SortBy = "created_at",
        sort_type: Literal["asc", "desc"] = "desc",
        page: int = 1,
        per_page: int = 10,
    ) -> Page[Order]:
        """Return one page of orders, newest first unless sorted otherwise.

        Args:
            customer_external_id: Only this customer's. (The vendor spells it this way in this one query.)
            status: Only these status ids, not names; only 1 Created and 2 Pending are documented.
            tx_type: Only these kinds: `buy`, `sell`, `delivery`.
            start: First day, given together with `end`. Whether both count in, and in which zone, is not known.
            end: Last day.
            order_id: Only the order with this `id` (that it means the `id` is inferred, Q4).
            sort_by: What to sort by.
            sort_type: `asc` or `desc`.
            page: From 1.
            per_page: Rows per page (the E-Commerce page allows 5 to 30).

        Raises:
            IntegrityError: filtered by customer, the answer holds another customer's order.

        Source: Get Orders (api-26192668, 2026-03-16): partly documented (the request); the answer is inferred from
        Webview Get Orders (api-26025311, 2025-12-25).
        """
        query = [
            ("page", str(validation.integer("page", page, 1))),
            # The vendor's name for rows per page; in the answer `total` is the number of all rows.
            ("total", str(validation.integer("per_page", per_page, 1))),
            ("sortBy", validation.one_of("sort_by", sort_by, _SORT_BY)),
            ("sortType", validation.one_of("sort_type", sort_type, _SORT_TYPES)),
        ]
        if status is not None:
            query.append(("status", _status_ids(status)))
        query += validation.date_range(start, end)
        if tx_type is not None:
            kinds = validation.comma_separated("tx_type", tx_type)
            for kind in kinds.split(","):
                validation.one_of("tx_type", kind, _KINDS)
            query.append(("tx_type", kinds))
        if customer_external_id is not None:
            wanted = validation.text("customer_external_id", customer_external_id)
            query.append(("customer_external_id", wanted))
        if order_id is not None:
            query.append(("orderId", str(validation.integer("order_id", order_id, 1))))
        request = Request(OPERATIONS["orders.page"], query=query)
        check = None if customer_external_id is None else _all_of(customer_external_id)
        return await self._api.send(request, Page[Order], check=check)

    def pages(self, *, page: int = 1, **filters: Unpack[OrderFilters]) -> AsyncGenerator[Page[Order], None]:
        """Walk the pages from `page` on, one request each; it takes what `page` takes.

        Orders made meanwhile push rows on to the next page, so a row can show twice.
        """
        return base.pages(lambda number: self.page(page=number, **filters), page)

    def iterate(self, **filters: Unpack[OrderFilters]) -> AsyncGenerator[Order, None]:
        """Walk all orders, fetching pages of `per_page` as needed; it takes what `page` takes, but no `page`."""
        return base.items(self.pages(**filters))

    async def get(self, order_id: int, *, customer_external_id: str) -> Order:
        """Return one order of one customer.

        The API has no call for one order: this asks Get Orders with its `orderId` filter, and looks at the rows.

        Raises:
            NotFound: no row of the answer is this order of this customer. Not the server's word: `.status` is 0.

        Source: Get Orders (api-26192668, 2026-03-16): partly documented (the filter); that `orderId` is the `id` of
        the order is inferred (Q4).
        """
        number = validation.integer("order_id", order_id, 1)
        for row in await self._rows(customer_external_id, number):
            if row.id == number and row.customer.external_id == customer_external_id:
                return row
        raise not_listed()

    async def _rows(self, customer_external_id: str, order_id: int) -> Page[Order]:
        """Return what is listed for one order: a filter that the server does not know is ignored (assumed)."""
        wanted = validation.text("customer_external_id", customer_external_id)
        query = (("customer_external_id", wanted), ("orderId", str(order_id)))
        return await self._api.send(Request(OPERATIONS["orders.page"], query=query), Page[Order])

    async def wait(
        self,
        order: Order | Completion | Intent,
        *,
        until: OrderStatus | str | Collection[OrderStatus | str] | None = None,
        timeout: float = 600.0,
    ) -> Order:
        """Return the order once its status is (one of) `until`, or final: completed, cancelled or refunded.

        Look at `status` of what comes back: an order waited for until `Shipped` may have been cancelled instead.
        It is looked at as by `watch`, and a last time at the end of `timeout`; that look may take two seconds more.
        What passes by is waited out as by `watch`, for as long as `timeout` allows.

        Args:
            order: As last seen; or what `complete` gave, or an intent of `complete.unfinished()`, which are looked at
                at once unless they hold the order.
            until: Status names that end the wait; None = only a final one does.
            timeout: Most seconds to wait.

        Raises:
            RequestTimeout: the order still has another status after `timeout` seconds. If looks failed at the end, or
                the server asks to be left alone for longer than that, the text says so and the cause is their error.
            NotFound: it is still not listed two minutes after the first look.
            APIError: the server refuses to show it: credentials, permission.

        Source: as `get`.
        """
        target = OrderRef.of(order)
        timeout = validation.seconds("timeout", timeout)
        wanted = () if until is None else [validation.text("until", one) for one in validation.as_list("until", until)]
        following = self._follow(target, first=0.0)
        clock = self._api.clock
        end = clock.monotonic() + timeout
        seen = target.order
        while seen is None or not (seen.is_final or seen.status in wanted):
            if clock.monotonic() + following.asked >= end:
                raise following.late() from following.failure
            seen = await following.look(end) or seen
            await following.keep()
        if seen.is_final:
            await following.keep()
        return seen

    def watch(
        self, order: Order | Completion | Intent, *, patience: float = 600.0
    ) -> AsyncGenerator[OrderChange, None]:
        """Yield each change of an order until its status is final; nothing if it is final already.

        A change is another status, or another cargo tracking number or estimated arrival of its delivery. It is
        written into the journal when the next one is asked for, if the order came of an intent there: after a restart,
        watch each of `complete.unfinished()`. What happened meanwhile then comes first, as one change, and so does the
        one that was being dealt with when the process ended; what was dealt with before does not come again.

        It is looked at 2, 4, 8, 15 and then every 30 seconds after the last change; every minute after an hour without
        one, every five minutes after a day. All who follow an order through one client share a look under way.
        Failures that pass by do not end the watch: no connection, 5xx, 429 (whose `retry_after` is obeyed), an answer
        that cannot be read, a limiter or breaker of your own. A purchase that is not listed yet is waited for two
        minutes. A status that is not documented does not count as final (S7).

        Args:
            order: As last seen; or what `complete` gave, or an intent of `complete.unfinished()`.
            patience: Seconds that looks may fail on end; then the last error is raised. So it is, at once, if the
                server asks to be left alone for longer than that.

        Raises:
            NotFound: it is not listed, two minutes after the watch began.
            APIError: the server refuses to show it: credentials, permission.
            IntegrityError: the answer is about somebody else.
            ClientClosedError: the client was closed; noticed at the next look.

        Source: as `get`.
        """
        target = OrderRef.of(order)
        return self._watch(target, validation.seconds("patience", patience))

    async def _watch(self, target: OrderRef, patience: float) -> AsyncGenerator[OrderChange, None]:
        clock = self._api.clock
        # At a restart all of them are watched from the same moment on.
        following = self._follow(target, first=FIRST * self._api.settings.options.random())
        before = target.progress
        if target.order is not None and target.order.is_final:
            await following.keep()
        while before is None or not before.is_final:
            order = await following.look()
            if order is None:
                if clock.monotonic() + following.asked >= following.failing_since + patience:
                    assert following.failure is not None
                    raise following.failure
                continue
            change = OrderChange(order, before, OrderProgress.of(order))
            if change.changed:
                yield change
            # Only now: whoever is told of a cancelled order and dies over it has to be told again.
            await following.keep()
            before = change.after

    def _follow(self, target: OrderRef, *, first: float) -> OrderPoller:
        return OrderPoller(target, self._looks, self._api.settings.options, self._noted, first=first)

    async def receipt(self, order_id: int, *, customer_id: str) -> Receipt:
        """Return the identifiers of an order and a link to its receipt; `Receipt.raw` holds what else there is.

        Source: Receipt: inferred, the most doubtful of all operations (S19).
        """
        query = (
            ("external_customer_id", validation.customer_id(customer_id)),
            ("orderId", str(validation.integer("order_id", order_id, 1))),
        )
        return await self._api.send(Request(OPERATIONS["orders.receipt"], query=query), Receipt)

    async def invoice(self, external_order_id: str) -> Invoice:
        """Return the invoice of an order: its figures and, once it exists, a link to the document.

        Source: Get Order Invoice (api-38613148, 2026-06-25): partly documented (path and first keys); which id goes
        in the path, and the rest of the answer, are inferred (S18).
        """
        wanted = validation.text("external_order_id", external_order_id)
        return await self._api.send(Request(OPERATIONS["orders.invoice"], (wanted,)), Invoice)


def _status_ids(status: int | Sequence[int]) -> str:
    return ",".join(str(validation.integer("status", one, 1)) for one in validation.as_list("status", status))


def _all_of(customer_external_id: str) -> Callable[[Page[Order]], list[str]]:
    """Return what names the rows of other customers: a filter the server misread returns everybody's."""

    def wrong(found: Page[Order]) -> list[str]:
        return [
            f"data.data[{number}].customer.external_id: is another customer's"
            for number, row in enumerate(found.items)
            if row.customer.external_id != customer_external_id
        ]

    return wrong
