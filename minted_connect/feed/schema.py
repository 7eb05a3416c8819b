"""What a recorded tick consists of: the same columns in every sink and data frame."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import attrs

from minted_connect.feed.tick import Tick

__all__ = ["COLUMNS", "NAMES", "Column", "ColumnType", "Key", "as_text", "from_text", "key_of", "rows_of", "to_text"]


class ColumnType(enum.Enum):
    """What the values of a column are."""

    TIME = "time"
    """Aware, in UTC."""
    WHOLE = "whole"
    TEXT = "text"
    MONEY = "money"
    """Decimal, money per gram."""
    SECONDS = "seconds"
    FLAG = "flag"


@attrs.frozen
class Column:
    """One column: None stands for what there is not."""

    name: str
    kind: ColumnType
    of: Callable[[Any], Any]


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
"""Of a tick, in their order."""

NAMES: Final = [column.name for column in COLUMNS]

Key = tuple[int, str]
"""What tells a row from all others: `currency_id`, and `at` as it is written."""


def rows_of(things: Sequence[Any], columns: Sequence[Column] = COLUMNS) -> list[dict[str, Any]]:
    """Return a row of Python values for each thing; times in UTC."""
    return [{column.name: _value(column, thing) for column in columns} for thing in things]


def _value(column: Column, thing: Any) -> Any:
    value = column.of(thing)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def key_of(tick: Tick) -> Key:
    """Return the key of the row that a tick makes."""
    return tick.rate.currency_id, str(as_text(tick.at))


def as_text(value: Any) -> Any:
    """Return a value as formats without decimals and times hold it: exact text for these, others as they are."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return value


def to_text(tick: Tick) -> dict[str, Any]:
    """Return a tick as a row of JSON values."""
    return {column.name: as_text(column.of(tick)) for column in COLUMNS}


_READ: Final[Mapping[ColumnType, Callable[[str], Any]]] = {
    ColumnType.MONEY: Decimal,
    ColumnType.TIME: datetime.fromisoformat,
}


def from_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of JSON values, as `to_text` made them, as Python values again."""
    made: dict[str, Any] = {}
    for column in COLUMNS:
        value = row[column.name]
        if value is not None and column.kind in _READ:
            value = _READ[column.kind](value)
        made[column.name] = value
    return made
