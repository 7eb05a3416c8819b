"""Tables of models for notebooks, which call `_repr_html_`. All text is escaped, and personal data is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any, Final

from minted_connect.models import Basket, Completion, Deal, Holding, Order, Page, Product, Rate, RatePoint
from minted_connect.models.masking import shorten

__all__ = ["completion_to_html", "deal_to_html", "page_to_html", "rows_to_html"]

_MAX_ROWS: Final = 100
_MAX_TEXT: Final = 80
_FEES: Final = (
    ("delivery", "delivery_cost"),
    ("transaction", "payment_cost"),
    ("service", "charge_fee"),
    ("minting", "minting_fee"),
    ("storage", "storage_fee"),
    ("VAT on fees", "charges_vat"),
)

_Column = tuple[str, Callable[[Any], object]]
_DEAL: Final[Sequence[_Column]] = (
    ("id", lambda deal: deal.id),
    ("number", lambda deal: deal.increment_id),
    ("kind", lambda deal: deal.kind or deal.type),
    ("status", lambda deal: deal.status),
    ("lines", lambda deal: len(deal.items)),
    ("paid total", lambda deal: deal.paid_total),
    ("currency", lambda deal: deal.currency_code),
    ("time", lambda deal: deal.order_at),
)
_COLUMNS: Final[Mapping[type, Sequence[_Column]]] = {
    Order: _DEAL,
    Basket: _DEAL,
    Product: (
        ("sku", lambda product: product.sku),
        ("name", lambda product: product.name),
        ("price", lambda product: product.sale_price or product.list_price),
        ("currency", lambda product: product.currency_code),
        ("stock", lambda product: product.stock),
    ),
    Rate: (
        ("account", lambda rate: rate.currency_name),
        ("buy", lambda rate: rate.buy_price),
        ("sell", lambda rate: rate.sell_price),
        ("spot", lambda rate: rate.spot_price),
        ("currency", lambda rate: f"{rate.currency_code}/g"),
        ("time", lambda rate: rate.updated_at),
    ),
    RatePoint: (
        ("time", lambda point: point.time),
        ("metal", lambda point: point.metal_type),
        ("buy", lambda point: point.buy_price),
        ("sell", lambda point: point.sell_price),
        ("spot", lambda point: point.spot_price),
        ("currency", lambda point: f"{point.currency_code}/g"),
    ),
    Holding: (
        ("product", lambda holding: holding.product_name),
        ("sku", lambda holding: holding.sku),
        ("pieces", lambda holding: holding.amount),
        ("value", lambda holding: holding.total_value),
        ("currency", lambda holding: holding.currency_code),
    ),
}
_LINE: Final[Sequence[_Column]] = (
    ("sku", lambda item: item.sku),
    ("product", lambda item: item.product_name),
    ("weight, g", lambda item: item.product_weight),
    ("pieces", lambda item: item.amount),
    ("price", lambda item: item.price),
    ("total", lambda item: item.total),
)


def deal_to_html(deal: Deal) -> str:
    """Return an order or a basket as a table of its lines, with its fees and its total."""
    fees = [(name, value) for name, attribute in _FEES if (value := getattr(deal, attribute))]
    sums = [*fees, ("paid total", deal.paid_total)]
    footer = "".join(
        f"<tr><td colspan={len(_LINE) - 1}>{_cell(name)}</td><td>{_cell(value)}</td></tr>" for name, value in sums
    )
    title = f"{type(deal).__name__} {deal.id}: {deal.kind or deal.type}, {deal.status}, {deal.currency_code}"
    return _table(f"{title}, {_text(deal.order_at)}", _LINE, deal.items, footer)


def completion_to_html(completion: Completion) -> str:
    """Return a completion: its order, and what differs from what was agreed to."""
    number = "without a readable id" if completion.order_id is None else str(completion.order_id)
    facts = [name for name in ("reconciled", "replayed") if getattr(completion, name)]
    title = f"<p>{_cell(f'Completion: order {number}')}{_cell(''.join(f', {fact}' for fact in facts))}</p>"
    differences = "".join(f"<li>{_cell(text)}</li>" for text in completion.differences)
    order = "" if completion.order is None else deal_to_html(completion.order)
    return f"{title}{f'<ul>{differences}</ul>' if differences else ''}{order}"


def page_to_html(page: Page[Any]) -> str:
    """Return the rows of a page as a table."""
    return rows_to_html(page.items, repr(page).strip("<>"))


def rows_to_html(rows: Sequence[Any], title: str = "") -> str:
    """Return models of one kind as a table; of other kinds, their `repr`."""
    classes = {row.__class__ for row in rows}
    columns = _COLUMNS.get(rows[0].__class__) if len(classes) == 1 else None
    if columns is None:
        columns = (("row", repr),)
    return _table(title, columns, rows)


def _table(title: str, columns: Sequence[_Column], rows: Sequence[Any], footer: str = "") -> str:
    head = "".join(f"<th>{_cell(name)}</th>" for name, _ in columns)
    body = "".join(_row(get(row) for _, get in columns) for row in rows[:_MAX_ROWS])
    if len(rows) > _MAX_ROWS:
        body += f"<tr><td colspan={len(columns)}>... {len(rows) - _MAX_ROWS} more rows</td></tr>"
    caption = f"<caption>{_cell(title)}</caption>" if title else ""
    foot = f"<tfoot>{footer}</tfoot>" if footer else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>"


def _row(values: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in values)}</tr>"


def _cell(value: object) -> str:
    return escape(shorten(_text(value), _MAX_TEXT))


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.isoformat(" ", "minutes")
        case Decimal():
            return format(value, "f")
        case _:
            return str(value)
