"""An intent as a row of a database, and back: the columns that every journal on disk has.

A new column here is a new version of the schema in each of those journals.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from minted_connect.models import Intent, IntentState, Kind, OrderProgress, Status

__all__ = ["COLUMNS", "from_row", "number_of", "progress_text", "quoted", "to_row"]

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
)

_STATUSES: Final = frozenset(Status)

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
    }
    return tuple(plain.get(name, getattr(intent, name)) for name in COLUMNS)


def from_row(row: Sequence[Any]) -> Intent:
    """Return the intent of a row.

    Raises:
        ValueError, TypeError, LookupError, InvalidOperation: it is none that this library wrote.
    """
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    values["kind"] = Kind(values["kind"])
    values["paid_total"] = Decimal(values["paid_total"])
    values["items"] = tuple((str(sku), int(amount)) for sku, amount in json.loads(values["items"]))
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    values["state"] = IntentState(values["state"])
    values["known_orders"] = tuple(map(int, json.loads(values["known_orders"])))
    values["progress"] = _progress(values["progress"])
    if values["fenced_at"] is not None:
        values["fenced_at"] = datetime.fromisoformat(values["fenced_at"])
    return Intent(**values)


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
        Status(status) if status in _STATUSES else status,
        seen["is_final"],
        seen["cargo_tracking_number"],
        date.fromisoformat(arrival) if arrival else None,
    )
