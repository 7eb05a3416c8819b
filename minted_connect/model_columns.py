"""The columns of models in data frames: names of attributes, without personal data except the customer's id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

import attrs

from minted_connect.feed.schema import Column, ColumnType
from minted_connect.models import Basket, Deal, Holding, LineItem, Order, Product, Rate

__all__ = ["LINES", "MODELS", "DealLine", "explode"]

_TEXT, _WHOLE, _MONEY, _TIME = ColumnType.TEXT, ColumnType.WHOLE, ColumnType.MONEY, ColumnType.TIME


def _columns(kind: ColumnType, names: str) -> list[Column]:
    return [Column(name, kind, attrgetter(name)) for name in names.split()]


def _text(name: str) -> Column:
    """Return the column of an enumeration that may be a string or None."""
    get = attrgetter(name)
    return Column(name.rpartition(".")[2], _TEXT, lambda row: None if (value := get(row)) is None else str(value))


def _nested(name: str, kind: ColumnType, outer: str, inner: str) -> Column:
    """Return the column of an attribute of an object that may be None."""
    return Column(name, kind, lambda row: getattr(getattr(row, outer), inner, None))


_DEAL: Final[Sequence[Column]] = (
    *_columns(_WHOLE, "id"),
    *_columns(_TEXT, "increment_id guid"),
    *(_text("kind"), _text("status")),
    _nested("customer_id", _TEXT, "customer", "external_id"),
    *_columns(_TIME, "order_at"),
    *_columns(_TEXT, "currency_code"),
    *_columns(_MONEY, "price tax total payment_cost delivery_cost insurance_price conversion_price market_commission"),
    *_columns(_MONEY, "minted_markup_price silver_craftsmanship charge_fee charge_fee_rate minting_fee storage_fee"),
    *_columns(_MONEY, "storage_fee_rate charges_vat vat_rate paid_total total_amount"),
    _nested("payment_state", _TEXT, "payment", "state"),
    _nested("payment_amount", _MONEY, "payment", "amount"),
    _nested("payment_comission", _MONEY, "payment", "comission"),
    _nested("payment_total", _MONEY, "payment", "total"),
)


@attrs.frozen
class DealLine:
    """One line of an order or basket, with the object that has it."""

    deal: Deal
    number: int
    """Position of the line, from 1."""
    item: LineItem


LINES: Final[Sequence[Column]] = (
    Column("id", _WHOLE, attrgetter("deal.id")),
    Column("increment_id", _TEXT, attrgetter("deal.increment_id")),
    _text("deal.kind"),
    _text("deal.status"),
    Column("customer_id", _TEXT, attrgetter("deal.customer.external_id")),
    Column("order_at", _TIME, attrgetter("deal.order_at")),
    Column("currency_code", _TEXT, attrgetter("deal.currency_code")),
    Column("line", _WHOLE, attrgetter("number")),
    *(Column(name, _TEXT, attrgetter(f"item.{name}")) for name in ("sku", "product_name", "item_currency_name")),
    *(Column(name, _WHOLE, attrgetter(f"item.{name}")) for name in ("product_id", "item_currency_id", "amount")),
    *(
        Column(name, _MONEY, attrgetter(f"item.{name}"))
        for name in ("product_weight", "price", "tax_rate", "tax", "total")
    ),
)
"""Columns of the lines of orders or baskets: no totals of the order, which a sum would count once for each line."""

MODELS: Final[Mapping[type, Sequence[Column]]] = {
    Order: _DEAL,
    Basket: (*_DEAL, _nested("next_update", _TIME, "price_fix", "next_update")),
    Holding: (
        *_columns(_TEXT, "sku product_name"),
        *_columns(_WHOLE, "product_id"),
        _text("metal_type"),
        *_columns(_MONEY, "product_weight amount deliverable_amount blocked_amount unit_value total_value"),
        *_columns(_TEXT, "currency_code"),
        Column("is_deliverable", ColumnType.FLAG, attrgetter("is_deliverable")),
    ),
    Product: (
        *_columns(_WHOLE, "id"),
        *_columns(_TEXT, "sku name text barcode"),
        *_columns(_WHOLE, "stock"),
        *_columns(_MONEY, "list_price sale_price"),
        *_columns(_TEXT, "currency_code"),
        _nested("category", _TEXT, "category", "name"),
        _nested("basecurrency", _TEXT, "basecurrency", "name"),
    ),
    Rate: (
        *_columns(_TIME, "updated_at"),
        *_columns(_WHOLE, "currency_id"),
        *_columns(_TEXT, "currency_name"),
        _text("metal_type"),
        *_columns(_TEXT, "sku currency_code"),
        *_columns(_MONEY, "spot_price buy_price sell_price"),
    ),
}
"""Columns by model."""


def explode(deals: Sequence[Deal]) -> Iterator[DealLine]:
    """Yield each line of orders or baskets."""
    for deal in deals:
        for number, item in enumerate(deal.items, 1):
            yield DealLine(deal, number, item)
