"""An intent as a row of a database, and back: the columns that every journal on disk has.

A new column here is a new version of the schema in each of those journals.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from minted_connect.models import Intent, IntentState, OrderKind, OrderProgress, OrderStatus, Refusal

__all__ = ["COLUMNS", "UNREADABLE", "from_row", "number_of", "progress_text", "quoted", "refusal_text", "to_row"]

COLUMNS: Final = (
    "id",
    "kind",
    "external_customer_id",
    "cart_token",
    "basket_id",
    "guid",
    "increment_id",
    "price_token",
    "paid_total",
    "currency_code",
    "items",
    "created_at",
    "state",
    "clock_offset",
    "known_orders",
    "order_id",
    "progress",
    "fenced_at",
    "server",
    "account",
    "send_before",
    "refusal",
)

UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
"""Errors of `from_row` for a row that this library did not write."""

_TEXTS: Final = (
    "id",
    "external_customer_id",
    "cart_token",
    "guid",
    "increment_id",
    "price_token",
    "currency_code",
    "state",
)
_STATES: Final = frozenset(IntentState)

_STATUSES: Final = frozenset(OrderStatus)

_BIGGEST: Final = 2**63
"""What no whole number of a database reaches."""


def quoted(states: Collection[IntentState]) -> str:
    """Return states as they stand in a list of SQL; they are words of our own, never input."""
    return ", ".join(f"'{state}'" for state in sorted(states))


def to_row(intent: Intent) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`."""
    plain = {
        "kind": str(intent.kind),
        "paid_total": str(intent.paid_total),
        "items": json.dumps(intent.items),
        "created_at": intent.created_at.isoformat(),
        "state": str(intent.state),
        "known_orders": json.dumps(intent.known_orders),
        "progress": progress_text(intent.progress),
        "fenced_at": intent.fenced_at.isoformat() if intent.fenced_at else None,
        "send_before": intent.send_before.isoformat() if intent.send_before else None,
        "refusal": refusal_text(intent.refusal) if intent.refusal else None,
    }
    return tuple(plain.get(name, getattr(intent, name)) for name in COLUMNS)


def from_row(row: Sequence[Any]) -> Intent:
    """Return the intent of a row. Columns that an older schema does not have are None.

    Raises:
        ValueError, TypeError, LookupError, ArithmeticError, RecursionError: if this library did not write the row.
    """
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in _TEXTS:
        if not isinstance(values[name], str):
            raise TypeError(name)
    for name in ("basket_id", "clock_offset", "order_id"):
        if not isinstance(values[name], int | None):
            raise TypeError(name)
    if values["basket_id"] is None:
        raise TypeError("basket_id")
    for name in ("server", "account"):
        if not isinstance(values[name], str | None):
            raise TypeError(name)
    values["kind"] = OrderKind(values["kind"])
    values["paid_total"] = Decimal(values["paid_total"])
    if not values["paid_total"].is_finite():
        raise ValueError("paid_total")
    values["items"] = tuple((str(sku), int(amount)) for sku, amount in json.loads(values["items"]))
    values["created_at"] = _time(values["created_at"])
    values["state"] = IntentState(values["state"]) if values["state"] in _STATES else values["state"]
    values["clock_offset"] = values["clock_offset"] or 0
    values["known_orders"] = tuple(map(int, json.loads(values["known_orders"] or "[]")))
    values["progress"] = _progress(values["progress"])
    for name in ("fenced_at", "send_before"):
        values[name] = None if values[name] is None else _time(values[name])
    values["refusal"] = _refusal(values["refusal"])
    return Intent(**values)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    return time


def refusal_text(refusal: Refusal) -> str:
    """Return a refusal as text."""
    return json.dumps(
        {
            "status": refusal.status,
            "is_vendor_response": refusal.is_vendor_response,
            "at": refusal.at.isoformat(),
        }
    )


def _refusal(text: str | None) -> Refusal | None:
    if text is None:
        return None
    seen = json.loads(text)
    return Refusal(int(seen["status"]), bool(seen["is_vendor_response"]), _time(seen["at"]))


def number_of(order_id: int | None) -> int | None:
    """Return an order's number if a database can hold it: what came of the intent counts more than the number."""
    return order_id if order_id is not None and abs(order_id) < _BIGGEST else None


def progress_text(progress: OrderProgress | None) -> str | None:
    """Return what was seen of an order as text."""
    if progress is None:
        return None
    arrival = progress.estimated_arrival_date
    return json.dumps(
        {
            "status": str(progress.status),
            "is_final": progress.is_final,
            "cargo_tracking_number": progress.cargo_tracking_number,
            "estimated_arrival_date": arrival.isoformat() if arrival else None,
        }
    )


def _progress(text: str | None) -> OrderProgress | None:
    if text is None:
        return None
    seen = json.loads(text)
    arrival = seen["estimated_arrival_date"]
    status = seen["status"]
    return OrderProgress(
        OrderStatus(status) if status in _STATUSES else status,
        seen["is_final"],
        seen["cargo_tracking_number"],
        date.fromisoformat(arrival) if arrival else None,
    )
