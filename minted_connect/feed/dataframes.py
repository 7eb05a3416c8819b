"""Converts ticks, points of Rate History and candles to tables of Arrow, polars and pandas (extra `dataframe`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from minted_connect.core.extras import import_extra
from minted_connect.errors import InvalidInput
from minted_connect.feed.candles import Candle
from minted_connect.feed.schema import COLUMNS, Column, ColumnType, to_rows
from minted_connect.feed.tick import Tick
from minted_connect.models.rate import RatePoint

if TYPE_CHECKING:
    import polars as pl

__all__ = ["POINTS", "check_money", "import_arrow", "make_table", "to_arrow", "to_pandas", "to_polars"]

_SCALE: Final = 18
_PRECISION: Final = 38
"""Of `decimal128`: 38 digits, 18 of them after the point."""

_EXACT: Final = Context(prec=200, Emin=-999_999, Emax=999_999)
"""Normalizes amounts of up to 200 digits without rounding; the client accepts none of more than 100 from the server."""

POINTS: Final[Sequence[Column]] = (
    Column("time", ColumnType.TIME, lambda point: point.time),
    Column("currency_id", ColumnType.WHOLE, lambda point: point.currency_id),
    Column("metal", ColumnType.TEXT, lambda point: str(point.metal_type)),
    Column("currency", ColumnType.TEXT, lambda point: point.currency_code),
    Column("spot", ColumnType.MONEY, lambda point: point.spot_price),
    Column("buy", ColumnType.MONEY, lambda point: point.buy_price),
    Column("sell", ColumnType.MONEY, lambda point: point.sell_price),
)
"""Columns of a point of Rate History."""
_CANDLES: Final[Sequence[Column]] = (
    Column("start", ColumnType.TIME, lambda candle: candle.start),
    Column("end", ColumnType.TIME, lambda candle: candle.end),
    Column("currency_id", ColumnType.WHOLE, lambda candle: candle.currency_id),
    Column("currency", ColumnType.TEXT, lambda candle: candle.currency),
    Column("open", ColumnType.MONEY, lambda candle: candle.open),
    Column("high", ColumnType.MONEY, lambda candle: candle.high),
    Column("low", ColumnType.MONEY, lambda candle: candle.low),
    Column("close", ColumnType.MONEY, lambda candle: candle.close),
    Column("count", ColumnType.WHOLE, lambda candle: candle.count),
)
_BY_CLASS: Final[Mapping[type, Sequence[Column]]] = {Tick: COLUMNS, RatePoint: POINTS, Candle: _CANDLES}


def to_arrow(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> Any:
    """Convert ticks, points of Rate History or candles to an Arrow table.

    Money is `decimal128(38, 18)`, times are timestamps in microseconds and UTC, gaps are seconds. Without rows, the
    table has the columns of ticks.

    Raises:
        InvalidInput: if the rows are of another type or of several types, or an amount does not fit exactly.
        ConfigurationError: if pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    objects: list[Any] = [*rows]
    class_: type[object] = cast("type[object]", type(objects[0])) if objects else Tick
    columns = _BY_CLASS.get(class_)
    if columns is None or not all(isinstance(each, class_) for each in objects):
        raise InvalidInput.of("rows", "must be ticks, rate points or candles, all of one kind")
    return make_table(to_rows(objects, columns), columns)


def to_polars(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> pl.DataFrame:
    """Convert ticks, points of Rate History or candles to a polars data frame with the types of `to_arrow`.

    Raises:
        InvalidInput: as in `to_arrow`.
        ConfigurationError: if polars or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows)
    frame: pl.DataFrame = _import("polars").from_arrow(table)
    return frame


def to_pandas(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> Any:
    """Convert ticks, points of Rate History or candles to a pandas data frame with the Arrow types of `to_arrow`.

    Raises:
        InvalidInput: as in `to_arrow`.
        ConfigurationError: if pandas or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows)
    return table.to_pandas(types_mapper=_import("pandas").ArrowDtype)


def import_arrow(submodule: str = "") -> Any:
    """Return pyarrow, or its `submodule` (`.parquet`).

    Raises:
        ConfigurationError: if pyarrow is not installed.
    """
    return _import("pyarrow" + submodule)


def _import(name: str) -> Any:
    return import_extra(name, "dataframe", f"{name.partition('.')[0]} is not installed")


def make_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS) -> Any:
    """Convert rows of Python values to an Arrow table.

    Raises:
        InvalidInput: if an amount does not fit exactly.
        ConfigurationError: if pyarrow is not installed.
    """
    pa = import_arrow()
    types = {
        ColumnType.TIME: pa.timestamp("us", tz="UTC"),
        ColumnType.WHOLE: pa.int64(),
        ColumnType.TEXT: pa.string(),
        ColumnType.MONEY: pa.decimal128(_PRECISION, _SCALE),
        ColumnType.SECONDS: pa.float64(),
        ColumnType.FLAG: pa.bool_(),
    }
    check_money(rows, columns)
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    return pa.table({column.name: [_normalize(row[column.name]) for row in rows] for column in columns}, schema=schema)


def _normalize(value: Any) -> Any:
    # Arrow counts the digits as written: 0E+21 would not fit, nor would fifty zeros after the point.
    return Decimal(format(value.normalize(_EXACT), "f")) if isinstance(value, Decimal) else value


def check_money(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS) -> None:
    """Check that every amount fits into `decimal128(38, 18)` without rounding.

    Raises:
        InvalidInput: if one does not.
    """
    for column in columns:
        if column.kind is ColumnType.MONEY:
            for row in rows:
                if (value := row[column.name]) is not None and not _fits(value):
                    rule = f"must have at most {_SCALE} places and {_PRECISION - _SCALE} digits before them"
                    raise InvalidInput.of(column.name, rule)


def _fits(value: Decimal) -> bool:
    if not value.is_finite():
        return False
    _, digits, exponent = value.normalize(_EXACT).as_tuple()
    assert isinstance(exponent, int)  # of a finite number
    return exponent >= -_SCALE and len(digits) + exponent <= _PRECISION - _SCALE
