"""The rows and objects that `minted orders --save` writes: what accounts need, tokens only if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from minted_connect.cli.files import format_csv
from minted_connect.cli.output import to_jsonable
from minted_connect.models import LineItem, Order

__all__ = ["format_orders", "to_objects"]

_ORDER: Final = (
    *("id", "increment_id", "guid", "kind", "status", "order_at", "customer.external_id", "customer.firstname"),
    *("customer.lastname", "currency_code"),
)
"""Columns that each line of an order repeats."""
_AMOUNTS: Final = (
    *("paid_total", "price", "tax", "total", "payment_cost", "delivery_cost", "insurance_price", "conversion_price"),
    *("market_commission", "minted_markup_price", "silver_craftsmanship", "charge_fee", "minting_fee", "storage_fee"),
    *("charges_vat", "vat_rate"),
)
"""Columns of the order that only its first line has, so that the sum of a column counts each order once."""
_LINE: Final = ("sku", "product_name", "product_weight", "amount", "price", "tax_rate", "tax", "total")
_PAYMENT: Final = ("state", "amount", "comission", "total")
_TOKENS: Final = ("token", "price_token")
_PAYMENT_TOKENS: Final = ("token", "redirect_url")


def format_orders(orders: Sequence[Order], *, with_tokens: bool) -> str:
    """Format orders as CSV with one row for each line; an order without lines has one row."""
    tokens = _TOKENS if with_tokens else ()
    header = [
        *[name.replace(".", "_") for name in _ORDER],
        *[f"line_{name}" for name in _LINE],
        *_AMOUNTS,
        *[f"payment_{name}" for name in _PAYMENT],
        *tokens,
    ]
    rows: list[list[object]] = []
    for order in orders:
        for number, line in enumerate[LineItem | None](order.items or (None,)):
            first: Order | None = order if number == 0 else None
            payment = None if first is None else first.payment
            values = [
                *[_get(order, name) for name in _ORDER],
                *[_get(line, name) for name in _LINE],
                *[_get(first, name) for name in _AMOUNTS],
                *[_get(payment, name) for name in _PAYMENT],
                *[_get(order, name) for name in tokens],
            ]
            rows.append([to_jsonable(value) for value in values])
    return format_csv(header, rows)


def to_objects(orders: Sequence[Order], *, with_tokens: bool) -> list[dict[str, Any]]:
    """Return orders as objects for JSON, with all fields except tokens."""
    objects: list[dict[str, Any]] = [to_jsonable(order) for order in orders]
    if not with_tokens:
        for one in objects:
            for name in _TOKENS:
                one.pop(name, None)
            payment: dict[str, Any] = one.get("payment") or {}
            for name in _PAYMENT_TOKENS:
                payment.pop(name, None)
    return objects


def _get(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name, None)
    return model
