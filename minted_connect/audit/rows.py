"""The listed orders of an audit: read through the client, and found by the keys of their intents."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.audit.report import Unread
from minted_connect.client import AsyncMintedConnect
from minted_connect.completion.bounded_reads import PER_PAGE
from minted_connect.completion.order_match import Match, is_failed, mapping, match_order
from minted_connect.errors import MintedConnectError
from minted_connect.models import CreationStatus, Intent, Order, Page
from minted_connect.models.json_types import CustomerMatch, compare_customer, customer_id_of
from minted_connect.resources.paging import NewRows

__all__ = ["OrderIndex", "OrderRow", "Orders", "read_orders"]


@attrs.frozen(eq=False)
class OrderRow:
    """An order as listed, also if it cannot be read."""

    id: int | None
    raw: Mapping[str, Any]
    order: Order | None = None
    """None if the row cannot be read."""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the order among all orders."""
        return str(self.id), str(self.raw.get("guid"))

    @property
    def is_failed(self) -> bool:
        """Whether the order was cancelled, refused or refunded."""
        return is_failed(self.raw)


@attrs.frozen
class Orders:
    """The orders of a list."""

    rows: list[OrderRow]
    unread: list[Unread]
    """Orders that could not be read, and failed requests."""
    has_failed: bool = False
    """Whether a request failed, so that any number of orders is missing."""


async def read_orders(minted: AsyncMintedConnect, **filters: Any) -> Orders:
    """Return the orders of all pages, and what could not be read."""

    def pages(number: int) -> AsyncGenerator[Page[Order], None]:
        return minted.orders.pages(page=number, per_page=PER_PAGE, **filters)

    rows: list[OrderRow] = []
    found = NewRows(pages)
    try:
        async with aclosing(found.lists()) as lists:
            async for orders in lists:
                # A basket that is listed among the orders is not an order yet.
                rows += [
                    OrderRow(order.id, order.raw, order)
                    for order in orders
                    if order.order_creation_status == CreationStatus.ORDER
                ]
    except MintedConnectError as error:
        return Orders(rows, [Unread("orders", str(error))], has_failed=True)
    unread: list[Unread] = []
    for row in found.unreadable:
        rows.append(OrderRow(row.id, mapping(row.raw)))
        name = "an order" if row.id is None else f"order {row.id}"
        unread.append(Unread("orders", f"{name} cannot be read: {row.problem}"))
    if not found.is_complete:
        unread.append(Unread("orders", "orders moved to other pages meanwhile, so some may be missing"))
    return Orders(rows, unread)


class OrderIndex:
    """Finds the orders of an intent by its keys.

    Args:
        rows: The orders.
        keeps_number: Whether an order has the number of its basket (question Q4).
    """

    def __init__(self, rows: Iterable[OrderRow], *, keeps_number: bool) -> None:
        self._keeps_number = keeps_number
        self._rows: dict[tuple[str, str], OrderRow] = {}
        self._by_key: dict[str, dict[tuple[str, str], OrderRow]] = {}
        for row in rows:
            self._rows[row.key] = row
            for key in _keys(row.raw.get("token"), row.raw.get("guid"), row.raw.get("increment_id"), row.id):
                self._by_key.setdefault(key, {})[row.key] = row

    def __iter__(self) -> Iterator[OrderRow]:
        return iter(self._rows.values())

    def find(self, intent: Intent) -> list[OrderRow]:
        """Return the orders that are proven to be the order of an intent."""
        keys = _keys(intent.cart_token, intent.guid, intent.increment_id, intent.basket_id, intent.order_id)
        candidates = {row.key: row for key in keys for row in self._by_key.get(key, {}).values()}
        return [row for row in candidates.values() if self._is_proven(row, intent)]

    def _is_proven(self, row: OrderRow, intent: Intent) -> bool:
        if intent.erased_at is not None:
            # The customer is a hash, and cannot be compared: the keys decide.
            intent = attrs.evolve(intent, external_customer_id=customer_id_of(row.raw) or "")
        if intent.order_id is not None and row.id == intent.order_id:
            return compare_customer(row.raw, intent.external_customer_id) is CustomerMatch.SAME
        return match_order(row.raw, row.order, intent, keeps_number=self._keeps_number) >= Match.ID


def _keys(*values: object) -> Iterator[str]:
    """Yield keys as text. A key that is received as a number has lost its leading zeros."""
    for value in values:
        if value and isinstance(value, str | int | Decimal):  # an unreadable row may have anything
            yield str(value).lstrip("0")
