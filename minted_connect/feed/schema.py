"""The columns of a recorded tick, which are the same in every sink and data frame."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import attrs

from minted_connect.feed.tick import Tick

__all__ = [
    "COLUMNS",
    "NAMES",
    "Column",
    "ColumnType",
    "Key",
    "RowId",
    "as_text",
    "from_text",
    "make_key",
    "make_row_id",
    "to_rows",
    "to_text",
]


class ColumnType(enum.Enum):
    """Type of the values of a column; any value may be None."""

    TIME = "time"
    """Aware datetime in UTC."""
    WHOLE = "whole"
    """Integer."""
    TEXT = "text"
    MONEY = "money"
    """Decimal, money per gram."""
    SECONDS = "seconds"
    """Float."""
    FLAG = "flag"
    """Boolean."""


@attrs.frozen
class Column:
    """One column of a table."""

    name: str
    kind: ColumnType
    get: Callable[[Any], Any]
    """Returns the value of a row's object in this column."""


COLUMNS: Final[Sequence[Column]] = (
    Column("at", ColumnType.TIME, lambda tick: tick.at),
    Column("currency_id", ColumnType.WHOLE, lambda tick: tick.rate.currency_id),
    Column("currency_name", ColumnType.TEXT, lambda tick: tick.rate.currency_name),
    Column("metal", ColumnType.TEXT, lambda tick: str(tick.rate.metal_type)),
    Column("sku", ColumnType.TEXT, lambda tick: tick.rate.sku),
    Column("currency", ColumnType.TEXT, lambda tick: tick.currency),
    Column("weight_unit", ColumnType.TEXT, lambda tick: tick.weight_unit),
    Column("spot", ColumnType.MONEY, lambda tick: tick.spot),
    Column("buy", ColumnType.MONEY, lambda tick: tick.buy),
    Column("sell", ColumnType.MONEY, lambda tick: tick.sell),
    Column("change", ColumnType.MONEY, lambda tick: tick.change),
    Column("number", ColumnType.WHOLE, lambda tick: tick.number),
    Column("gap", ColumnType.SECONDS, lambda tick: tick.gap),
    Column("missed", ColumnType.WHOLE, lambda tick: tick.missed),
    Column("source_time", ColumnType.TIME, lambda tick: tick.source_time),
    Column("backfilled", ColumnType.FLAG, lambda tick: tick.backfilled),
)
"""Columns of a tick, in order."""

NAMES: Final = [column.name for column in COLUMNS]

Key = tuple[int, str]
"""Primary key of a row: `currency_id`, and `at` as text."""


class RowId(NamedTuple):
    """The parts of a row that a sink remembers."""

    key: Key
    number: int
    """0 if the row is backfilled."""
    metal: str
    sku: str | None


def to_rows(objects: Sequence[Any], columns: Sequence[Column] = COLUMNS) -> list[dict[str, Any]]:
    """Convert each object to a row of Python values; times are in UTC."""
    return [{column.name: _get_value(column, each) for column in columns} for each in objects]


def _get_value(column: Column, obj: Any) -> Any:
    value = column.get(obj)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def make_key(tick: Tick) -> Key:
    """Return the key of the row of a tick."""
    return tick.rate.currency_id, str(as_text(tick.at))


def make_row_id(tick: Tick) -> RowId:
    """Return the parts of the row of a tick that a sink remembers."""
    return RowId(make_key(tick), tick.number, str(tick.rate.metal_type), tick.rate.sku)


def as_text(value: Any) -> Any:
    """Convert a decimal or a datetime to exact text, for formats without these types; return other values unchanged."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


def to_text(tick: Tick) -> dict[str, Any]:
    """Convert a tick to a row of JSON values."""
    return {column.name: as_text(column.get(tick)) for column in COLUMNS}


_PARSERS: Final[Mapping[ColumnType, Callable[[str], Any]]] = {
    ColumnType.MONEY: Decimal,
    ColumnType.TIME: datetime.fromisoformat,
}


def from_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of JSON values made by `to_text` back to Python values."""
    values: dict[str, Any] = {}
    for column in COLUMNS:
        value = row[column.name]
        if value is not None and column.kind in _PARSERS:
            value = _PARSERS[column.kind](value)
        values[column.name] = value
    return values
