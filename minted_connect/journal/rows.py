"""Converts intents to database rows and back.

A column added here needs a new schema version in every database journal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final

from minted_connect.models import Intent, IntentState, OrderKind, OrderProgress, OrderStatus, Refusal

__all__ = [
    "COLUMNS",
    "ROW_ERRORS",
    "dump_order_id",
    "dump_progress",
    "dump_refusal",
    "dump_time",
    "from_row",
    "load_progress",
    "to_row",
]

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
    "reference",
    "terms",
    "decided_at",
    "forgotten_at",
    "imported_at",
    "assigned_at",
    "erased_at",
)

ROW_ERRORS: Final = (ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
"""Errors that `from_row` raises for a row that this library did not write."""

_STRING_COLUMNS: Final = (
    "id",
    "external_customer_id",
    "cart_token",
    "guid",
    "increment_id",
    "price_token",
    "currency_code",
    "state",
)
_TIMES: Final = (
    "fenced_at",
    "send_before",
    "decided_at",
    "forgotten_at",
    "imported_at",
    "assigned_at",
    "erased_at",
)
"""Columns with a time or NULL."""

_STATES: Final = frozenset(IntentState)

_STATUSES: Final = frozenset(OrderStatus)

_BIGINT_LIMIT: Final = 2**63


def to_row(intent: Intent) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for an intent."""
    converted = {
        "kind": str(intent.kind),
        "paid_total": str(intent.paid_total),
        "items": json.dumps(intent.items),
        "created_at": dump_time(intent.created_at),
        "state": str(intent.state),
        "known_orders": json.dumps(intent.known_orders),
        "progress": dump_progress(intent.progress),
        "fenced_at": intent.fenced_at.isoformat() if intent.fenced_at else None,
        "send_before": intent.send_before.isoformat() if intent.send_before else None,
        "decided_at": intent.decided_at.isoformat() if intent.decided_at else None,
        "forgotten_at": intent.forgotten_at.isoformat() if intent.forgotten_at else None,
        "imported_at": intent.imported_at.isoformat() if intent.imported_at else None,
        "assigned_at": intent.assigned_at.isoformat() if intent.assigned_at else None,
        "erased_at": intent.erased_at.isoformat() if intent.erased_at else None,
        "refusal": dump_refusal(intent.refusal) if intent.refusal else None,
    }
    return tuple(converted.get(name, getattr(intent, name)) for name in COLUMNS)


def from_row(row: Sequence[Any]) -> Intent:
    """Convert a row to an intent. Columns that an older schema lacks must be None.

    Raises:
        ValueError, TypeError, LookupError, ArithmeticError, RecursionError: if this library did not write the row
            (`ROW_ERRORS`).
    """
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in _STRING_COLUMNS:
        if not isinstance(values[name], str):
            raise TypeError(name)
    for name in ("basket_id", "clock_offset", "order_id"):
        if not isinstance(values[name], int | None):
            raise TypeError(name)
    if values["basket_id"] is None:
        raise TypeError("basket_id")
    for name in ("server", "account", "reference", "terms"):
        if not isinstance(values[name], str | None):
            raise TypeError(name)
    values["kind"] = OrderKind(values["kind"])
    values["paid_total"] = Decimal(values["paid_total"])
    if not values["paid_total"].is_finite():
        raise ValueError("paid_total")
    values["items"] = tuple((str(sku), int(amount)) for sku, amount in json.loads(values["items"]))
    values["created_at"] = _load_datetime(values["created_at"])
    values["state"] = IntentState(values["state"]) if values["state"] in _STATES else values["state"]
    values["clock_offset"] = values["clock_offset"] or 0
    values["known_orders"] = tuple(map(int, json.loads(values["known_orders"] or "[]")))
    values["progress"] = load_progress(values["progress"])
    for name in _TIMES:
        values[name] = None if values[name] is None else _load_datetime(values[name])
    values["refusal"] = _load_refusal(values["refusal"])
    if (values["reference"] is None) != (values["terms"] is None):
        raise ValueError("a reference without terms")
    if values["terms"] is not None and not isinstance(json.loads(values["terms"]), dict):
        raise TypeError("terms")
    return Intent(**values)


def dump_time(time: datetime) -> str:
    """Return a time as text in UTC. Compared by code point, earlier times come first."""
    return time.astimezone(UTC).isoformat()


def dump_order_id(order_id: int | None) -> int | None:
    """Return an order's number, or None if it exceeds 64 bits: the outcome must be stored even without the number."""
    return order_id if order_id is not None and abs(order_id) < _BIGINT_LIMIT else None


def dump_refusal(refusal: Refusal) -> str:
    """Return a refusal as JSON."""
    return json.dumps(
        {
            "status": refusal.status,
            "is_vendor_response": refusal.is_vendor_response,
            "at": refusal.at.isoformat(),
        }
    )


def dump_progress(progress: OrderProgress | None) -> str | None:
    """Return the last known state of an order as JSON."""
    if progress is None:
        return None
    arrival = progress.estimated_arrival_date
    return json.dumps(
        {
            "status": str(progress.status),
            "is_final": progress.is_final,
            "cargo_tracking_number": progress.cargo_tracking_number,
            "estimated_arrival_date": arrival.isoformat() if arrival else None,
            "paid_total": None if progress.paid_total is None else str(progress.paid_total),
            "currency_code": progress.currency_code,
        }
    )


def _load_datetime(text: str) -> datetime:
    loaded = datetime.fromisoformat(text)
    if loaded.tzinfo is None:
        raise ValueError("a time without a time zone")
    return loaded


def _load_refusal(text: str | None) -> Refusal | None:
    if text is None:
        return None
    loaded = json.loads(text)
    return Refusal(int(loaded["status"]), bool(loaded["is_vendor_response"]), _load_datetime(loaded["at"]))


def load_progress(text: str | None) -> OrderProgress | None:
    """Convert the column `progress`.

    Raises:
        ValueError, TypeError, LookupError, ArithmeticError, RecursionError: as `from_row`.
    """
    if text is None:
        return None
    loaded = json.loads(text)
    arrival = loaded["estimated_arrival_date"]
    status, paid_total = loaded["status"], loaded.get("paid_total")
    return OrderProgress(
        OrderStatus(status) if status in _STATUSES else status,
        loaded["is_final"],
        loaded["cargo_tracking_number"],
        date.fromisoformat(arrival) if arrival else None,
        None if paid_total is None else Decimal(paid_total),
        loaded.get("currency_code"),
    )
