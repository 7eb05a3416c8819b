"""Orders: list, read and follow them, receipts and invoices."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from datetime import date
from functools import partial
from typing import Final, Literal

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
from minted_connect.models.json_types import CustomerMatch, compare_customer
from minted_connect.resources import base, paging
from minted_connect.resources.order_tracking import (
    FIRST_PAUSE,
    OrderPoller,
    OrderRef,
    SaveProgress,
    check_unreadable,
    not_listed,
)

__all__ = ["AsyncOrders", "SortBy"]

SortBy = Literal["type", "total", "customer_external_id", "created_at"]
"""Sort keys of Get Orders, spelled as the vendor does (E-Commerce Get Orders, api-8228838, 2024-08-11)."""

_KINDS: Final = frozenset(OrderKind)
_SORT_BY: Final = frozenset({"type", "total", "customer_external_id", "created_at"})
_SORT_TYPES: Final = frozenset({"asc", "desc"})


class AsyncOrders(base.Resource):
    """Orders of all customers of the partner, or of one customer."""

    def __init__(self, api: ApiClient, save_progress: SaveProgress | None = None) -> None:
        super().__init__(api)
        self._save_progress = save_progress

    async def page(
        self,
        *,
        customer_id: str | None = None,
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
        """Return one page of orders; by default the newest come first.

        Args:
            customer_id: Only orders of this customer.
            status: Only orders with these status ids (numbers). Documented are 1 (Created) and 2 (Pending).
            tx_type: Only orders of these kinds: `buy`, `sell`, `delivery`.
            start: First day; requires `end`. Whether both days are included, and their time zone, is not documented.
            end: Last day; requires `start`.
            order_id: Only the order with this `id` (that the filter means the `id` is inferred, Q4).
            sort_by: Sort key.
            sort_type: `asc` or `desc`.
            page: Page number, from 1.
            per_page: Rows per page (the E-Commerce page allows 5 to 30).

        Raises:
            IntegrityError: if `customer_id` is given and the response contains an order of another customer.

        Source: Get Orders (api-26192668, 2026-03-16): partly documented (the request); the response is inferred from
        Webview Get Orders (api-26025311, 2025-12-25).
        """
        query = [
            ("page", str(validation.integer("page", page, 1))),
            # In requests `total` is the number of rows per page, in responses that of all rows.
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
        if customer_id is not None:
            wanted = validation.customer_id(customer_id)
            # In this one query the vendor does not call it `external_customer_id`.
            query.append(("customer_external_id", wanted))
        if order_id is not None:
            query.append(("orderId", str(validation.integer("order_id", order_id, 1))))
        request = Request(OPERATIONS["orders.page"], query=query)
        check = None if customer_id is None else _owner_check(customer_id)
        return await self._api.send(request, Page[Order], check=check)

    def pages(
        self,
        *,
        customer_id: str | None = None,
        status: int | Sequence[int] | None = None,
        tx_type: OrderKind | str | Sequence[OrderKind | str] | None = None,
        start: date | None = None,
        end: date | None = None,
        order_id: int | None = None,
        sort_by: SortBy = "created_at",
        sort_type: Literal["asc", "desc"] = "desc",
        page: int = 1,
        per_page: int = 10,
    ) -> AsyncGenerator[Page[Order], None]:
        """Iterate over the pages from `page` on, one request each. The arguments are those of `page`.

        An order that is created meanwhile moves the others towards the next page, so an order can be yielded twice;
        one that leaves the list moves them back, so that an order can be missed. `iterate` handles both.
        """
        fetch = partial(
            self.page,
            customer_id=customer_id,
            status=status,
            tx_type=tx_type,
            start=start,
            end=end,
            order_id=order_id,
            sort_by=sort_by,
            sort_type=sort_type,
            per_page=per_page,
        )
        return paging.pages(lambda number: fetch(page=number), page)

    def iterate(
        self,
        *,
        customer_id: str | None = None,
        status: int | Sequence[int] | None = None,
        tx_type: OrderKind | str | Sequence[OrderKind | str] | None = None,
        start: date | None = None,
        end: date | None = None,
        order_id: int | None = None,
        sort_by: SortBy = "created_at",
        sort_type: Literal["asc", "desc"] = "desc",
        per_page: int = 10,
    ) -> AsyncGenerator[Order, None]:
        """Iterate over all orders; pages of `per_page` rows are requested as needed. Filters are those of `page`.

        Each order is yielded once, also if orders are created or leave the list meanwhile, which moves the others to
        other pages. If the number of orders does not agree with `Page.total` at the end, pages are requested once more;
        if orders may be missing then, a warning is logged. Orders that cannot be read are left out and logged, too.
        """
        lists = paging.new_rows(AsyncOrders.pages)(
            self,
            customer_id=customer_id,
            status=status,
            tx_type=tx_type,
            start=start,
            end=end,
            order_id=order_id,
            sort_by=sort_by,
            sort_type=sort_type,
            per_page=per_page,
        )
        return paging.items(lists)

    async def get(self, order_id: int, *, customer_id: str) -> Order:
        """Return one order of one customer.

        The API has no operation for one order: this sends Get Orders with its `orderId` filter and searches the rows.

        Raises:
            NotFound: if no row is this order of this customer. The server did not send this error: its `status` is 0.
            ProtocolError: if the row of this order cannot be read, or a row without a readable id may be this order.

        Source: Get Orders (api-26192668, 2026-03-16): partly documented (the filter); that `orderId` is the `id` of
        the order is inferred (Q4).
        """
        number = validation.integer("order_id", order_id, 1)
        rows = await self._rows(customer_id, number)
        for row in rows:
            if row.id == number and row.customer.external_id == customer_id:
                return row
        check_unreadable(rows, number, customer_id)
        raise not_listed()

    async def _rows(self, customer_id: str, order_id: int) -> Page[Order]:
        """Return the rows listed for one order.

        They may include other orders: a server that does not know a filter ignores it (assumed).
        """
        wanted = validation.customer_id(customer_id)
        query = (("customer_external_id", wanted), ("orderId", str(order_id)))
        return await self._api.send(Request(OPERATIONS["orders.page"], query=query), Page[Order])

    async def wait(
        self,
        order: Order | Completion | Intent,
        *,
        until: OrderStatus | str | Collection[OrderStatus | str] | None = None,
        timeout: float = 600.0,
    ) -> Order:
        """Poll an order until its status is one of `until` or final (completed, cancelled, refunded), and return it.

        Check the `status` of the returned order: a wait for `Shipped` also ends when the order is cancelled. The
        order is polled at the intervals of `watch`, and once more at the end of `timeout`; that last request may take
        two seconds longer. Transient errors are retried as in `watch`, until `timeout`.

        Args:
            order: The order as last seen, the result of `complete.*`, or an intent from `complete.unfinished()`. For an
                argument without an `Order`, the first poll is sent at once.
            until: Status names that end the wait; None: only a final status does.
            timeout: Maximum time to wait, in seconds.

        Raises:
            RequestTimeout: if the order has another status after `timeout` seconds. If the last poll failed, or the
                server asks to wait for longer than that, the text says so and `__cause__` is the error of that poll.
            NotFound: if a poll two minutes or more after the call does not list the order.
            IntegrityError: if the response belongs to another customer.
            APIError: if the server refuses the request, for credentials or permission.

        Source: as `get`.
        """
        target = OrderRef.of(order)
        timeout = validation.seconds("timeout", timeout)
        wanted = () if until is None else [validation.text("until", one) for one in validation.as_list("until", until)]
        poller = self._poller(target, first_pause=0.0)
        clock = self._api.clock
        end = clock.monotonic() + timeout
        found = target.order
        while found is None or not (found.is_final or found.status in wanted):
            if clock.monotonic() + poller.retry_after >= end:
                raise poller.timeout_error() from poller.failure
            found = await poller.poll(end) or found
            await poller.save_progress()
        if found.is_final:
            await poller.save_progress()
        return found

    def watch(
        self, order: Order | Completion | Intent, *, patience: float = 600.0
    ) -> AsyncGenerator[OrderChange, None]:
        """Poll an order and yield each change until its status is final; yield nothing if it is final already.

        A change is a new status, cargo tracking number or estimated arrival date. If the journal has an intent of the
        order, the change is saved there when the next one is requested. After a restart, watch each intent from
        `complete.unfinished()`: the first change then covers everything since the last saved one. A change that was
        being handled when the process ended is yielded again.

        After a change the order is polled after 2, 4, 8, 15 s and then every 30 s, plus or minus a tenth; every minute
        after an hour without a change, every five minutes after a day. Transient errors are retried: connection
        errors, 5xx, 429 (its `Retry-After` is honoured), unreadable responses, and this client's rate limiter and
        circuit breaker. An order that is not listed yet is polled for two minutes. A status that is not documented
        does not count as final unless it means a failure (S7).

        Args:
            order: The order as last seen, the result of `complete.*`, or an intent from `complete.unfinished()`.
            patience: Seconds for which polls may fail without a success; then the last error is raised. It is raised
                at once if the server asks to wait for longer than that.

        Raises:
            NotFound: if a poll two minutes or more after the start does not list the order.
            IntegrityError: if the response belongs to another customer.
            APIError: if the server refuses the request, for credentials or permission.
            MintedConnectError: the last transient error, if polls have failed for `patience` seconds: for instance a
                `TransportError`, or a `ProtocolError` if the row of the order cannot be read.
            ClientClosedError: if the client was closed; raised by the next poll.

        Source: as `get`.
        """
        target = OrderRef.of(order)
        return self._watch(target, validation.seconds("patience", patience))

    async def _watch(self, target: OrderRef, patience: float) -> AsyncGenerator[OrderChange, None]:
        clock = self._api.clock
        # After a restart a program watches all of its unfinished orders from the same moment on.
        poller = self._poller(target, first_pause=FIRST_PAUSE * self._api.settings.options.random())
        before = target.progress
        if target.order is not None and target.order.is_final:
            await poller.save_progress()
        while before is None or not before.is_final:
            order = await poller.poll()
            if order is None:
                if clock.monotonic() + poller.retry_after >= poller.failing_since + patience:
                    assert poller.failure is not None
                    raise poller.failure
                continue
            change = OrderChange(order, before, OrderProgress.of(order))
            if change.changed:
                yield change
            # Save after the yield: a program that crashes while it handles a change must receive it again.
            await poller.save_progress()
            before = change.after

    def _poller(self, target: OrderRef, *, first_pause: float) -> OrderPoller:
        options = self._api.settings.options
        return OrderPoller(target, self._rows, options, self._save_progress, first_pause=first_pause)

    async def receipt(self, order_id: int, *, customer_id: str) -> Receipt:
        """Return the identifiers of an order and a link to its receipt; `Receipt.raw` is the whole response.

        Source: Receipt: inferred, with the least evidence of all operations (S19).
        """
        query = (
            ("external_customer_id", validation.customer_id(customer_id)),
            ("orderId", str(validation.integer("order_id", order_id, 1))),
        )
        return await self._api.send(Request(OPERATIONS["orders.receipt"], query=query), Receipt)

    async def invoice(self, external_order_id: str) -> Invoice:
        """Return the invoice of an order: its amounts and, once it exists, a link to the document.

        Source: Get Order Invoice (api-38613148, 2026-06-25): partly documented (path and first keys); which id the
        path takes, and the rest of the response, are inferred (S18).
        """
        number = validation.text("external_order_id", external_order_id)
        return await self._api.send(Request(OPERATIONS["orders.invoice"], (number,)), Invoice)


def _status_ids(status: int | Sequence[int]) -> str:
    return ",".join(str(validation.integer("status", number, 1)) for number in validation.as_list("status", status))


def _owner_check(customer_id: str) -> Callable[[Page[Order]], list[str]]:
    def check(page: Page[Order]) -> list[str]:
        gaps = {row.path for row in page.unreadable}
        paths = (path for number in itertools.count() if (path := f"data.data[{number}]") not in gaps)
        owners = {f"{path}.customer": row.customer for path, row in zip(paths, page.items, strict=False)}
        problems = base.owner_problems(customer_id, owners)
        others = (row for row in page.unreadable if compare_customer(row.raw, customer_id) is CustomerMatch.OTHER)
        return [*problems, *(f"{row.path}.customer.external_id: is another customer's" for row in others)]

    return check
