"""Orders: what completed baskets became."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import date
from typing import Final, Literal, TypedDict, Unpack

from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import NotFound, Phase, RequestTimeout
from minted_connect.models import Invoice, Kind, Order, Page, Receipt, Status
from minted_connect.resources import base, checks

__all__ = ["AsyncOrders", "OrderFilters", "SortBy"]

SortBy = Literal["type", "total", "customer_external_id", "created_at"]
"""What Get Orders sorts by (from E-Commerce Get Orders, api-8228838, 2024-08-11)."""

_KINDS: Final = frozenset(Kind)
_SORT_BY: Final = frozenset({"type", "total", "customer_external_id", "created_at"})
_SORT_TYPES: Final = frozenset({"asc", "desc"})
_POLLS: Final = (2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two looks at an order whose status stays; the last one repeats."""


class OrderFilters(TypedDict, total=False):
    """What `AsyncOrders.page`, `pages` and `iterate` have in common."""

    customer_external_id: str | None
    status: int | Sequence[int] | None
    tx_type: Kind | str | Sequence[Kind | str] | None
    start: date | None
    end: date | None
    order_id: int | None
    sort_by: SortBy
    sort_type: Literal["asc", "desc"]
    per_page: int


class AsyncOrders(base.Resource):
    """The orders of all customers of the partner, or of one."""

    async def page(
        self,
        *,
        customer_external_id: str | None = None,
        status: int | Sequence[int] | None = None,
        tx_type: Kind | str | Sequence[Kind | str] | None = None,
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
            per_page: Rows per page, 5 to 30 (from the E-Commerce page).

        Raises:
            IntegrityError: filtered by customer, the answer holds another customer's order.

        Source: Get Orders (api-26192668, 2026-03-16): partly documented (the request); the answer is inferred from
        Webview Get Orders (api-26025311, 2025-12-25).
        """
        least, most = self._limits.orders_per_page or (1, None)
        query = [
            ("page", str(checks.whole("page", page, 1))),
            # The vendor's name for rows per page; in the answer `total` is the number of all rows.
            ("total", str(checks.whole("per_page", per_page, least, most))),
            ("sortBy", checks.one_of("sort_by", sort_by, _SORT_BY)),
            ("sortType", checks.one_of("sort_type", sort_type, _SORT_TYPES)),
        ]
        if status is not None:
            query.append(("status", _status_ids(status)))
        query += checks.span(start, end)
        if tx_type is not None:
            kinds = checks.joined("tx_type", tx_type)
            for kind in kinds.split(","):
                checks.one_of("tx_type", kind, _KINDS)
            query.append(("tx_type", kinds))
        if customer_external_id is not None:
            wanted = checks.text("customer_external_id", customer_external_id, self._limits.external_customer_id)
            query.append(("customer_external_id", wanted))
        if order_id is not None:
            query.append(("orderId", str(checks.whole("order_id", order_id, 1))))
        request = Request(OPERATIONS["orders.page"], query=query)
        check = None if customer_external_id is None else _all_of(customer_external_id)
        return await self._caller.send(request, Page[Order], check=check)

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
        return await self._get(checks.whole("order_id", order_id, 1), customer_external_id)

    async def _get(self, order_id: int, customer_external_id: str) -> Order:
        wanted = checks.text("customer_external_id", customer_external_id, self._limits.external_customer_id)
        query = (("customer_external_id", wanted), ("orderId", str(order_id)))
        request = Request(OPERATIONS["orders.page"], query=query)
        # A filter that the server does not know is ignored (assumed), so other rows may come too: they are dropped.
        for row in await self._caller.send(request, Page[Order]):
            if row.id == order_id and row.customer.external_id == customer_external_id:
                return row
        raise NotFound(
            f"{request.operation.method} {request.operation.path}: no order of this id and this customer was listed",
            method=request.operation.method,
            path=request.operation.path,
        )

    async def wait(
        self,
        order: Order,
        *,
        until: Status | str | Collection[Status | str] | None = None,
        timeout: float = 600.0,
    ) -> Order:
        """Return the order once its status is (one of) `until`, or final: completed, cancelled or refunded.

        Look at `status` of what comes back: an order waited for until `Shipped` may have been cancelled instead.
        It is looked at after 2, 4, 8, 15 and then every 30 seconds, and a last time at the end of `timeout`.

        Args:
            order: As last seen.
            until: Status names that end the wait; None = only a final one does.
            timeout: Most seconds to wait.

        Raises:
            RequestTimeout: the order still has another status after `timeout` seconds.

        Source: as `get`.
        """
        checks.instance("order", order, Order)
        timeout = checks.seconds("timeout", timeout)
        wanted = () if until is None else [checks.text("until", one) for one in checks.several("until", until)]
        clock = self._caller.clock
        started = clock.monotonic()
        polls = 0
        while not (order.is_final or order.status in wanted):
            elapsed = clock.monotonic() - started
            if elapsed >= timeout:
                operation = OPERATIONS["orders.page"]
                raise RequestTimeout(
                    f"the order is still {order.status} after {elapsed:.0f} s",
                    operation.method,
                    operation.path,
                    elapsed=elapsed,
                    phase=Phase.ANSWERED,
                    idempotent=True,
                )
            await clock.sleep(min(_POLLS[min(polls, len(_POLLS) - 1)], timeout - elapsed))
            polls += 1
            order = await self._get(order.id, order.customer.external_id)
        return order

    async def watch(self, order: Order) -> AsyncGenerator[Order, None]:
        """Yield the order each time its status changed, until that is final; nothing if it is final already.

        It is looked at 2, 4, 8, 15 and then every 30 seconds after the last change. A failed look raises and ends
        the watch; start another one from the order last seen.

        Source: as `get`.
        """
        checks.instance("order", order, Order)
        clock = self._caller.clock
        polls = 0
        while not order.is_final:
            await clock.sleep(_POLLS[min(polls, len(_POLLS) - 1)])
            polls += 1
            seen = await self._get(order.id, order.customer.external_id)
            if seen.status != order.status:
                polls = 0
                order = seen
                yield order

    async def receipt(self, order_id: int, *, customer_id: str) -> Receipt:
        """Return the identifiers of an order and a link to its receipt; `Receipt.raw` holds what else there is.

        Source: Receipt: inferred, the most doubtful of all operations (S19).
        """
        query = (
            ("external_customer_id", checks.customer_id(customer_id, self._limits.external_customer_id)),
            ("orderId", str(checks.whole("order_id", order_id, 1))),
        )
        return await self._caller.send(Request(OPERATIONS["orders.receipt"], query=query), Receipt)

    async def invoice(self, external_order_id: str) -> Invoice:
        """Return the invoice of an order: its figures and, once it exists, a link to the document.

        Source: Get Order Invoice (api-38613148, 2026-06-25): partly documented (path and first keys); which id goes
        in the path, and the rest of the answer, are inferred (S18).
        """
        wanted = checks.text("external_order_id", external_order_id)
        return await self._caller.send(Request(OPERATIONS["orders.invoice"], (wanted,)), Invoice)


def _status_ids(status: int | Sequence[int]) -> str:
    return ",".join(str(checks.whole("status", one, 1)) for one in checks.several("status", status))


def _all_of(customer_external_id: str) -> Callable[[Page[Order]], list[str]]:
    """Return what names the rows of other customers: a filter the server misread returns everybody's."""

    def wrong(found: Page[Order]) -> list[str]:
        return [
            f"data.data[{number}].customer.external_id: is another customer's"
            for number, row in enumerate(found.items)
            if row.customer.external_id != customer_external_id
        ]

    return wrong
