"""Ticks, points of Rate History and candles as tables of Arrow, polars and pandas; all of them extras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, cast

from minted_connect.core.extras import import_extra
from minted_connect.errors import InvalidInput
from minted_connect.feed.candles import Candle
from minted_connect.feed.schema import COLUMNS, Column, ColumnType, rows_of
from minted_connect.feed.tick import Tick
from minted_connect.models.rate import RatePoint

if TYPE_CHECKING:
    import polars as pl

__all__ = ["POINTS", "check_money", "import_arrow", "table_of", "to_arrow", "to_pandas", "to_polars"]

_PLACES: Final = 18
_DIGITS: Final = 38
"""What `decimal128` holds: 18 places, and 20 digits before them."""

_WIDE: Final = Context(prec=200, Emin=-999_999, Emax=999_999)
"""Normalizes without rounding: no amount from the server has more than 100 digits."""

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
_CANDLE: Final[Sequence[Column]] = (
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
_BY_CLASS: Final[Mapping[type, Sequence[Column]]] = {Tick: COLUMNS, RatePoint: POINTS, Candle: _CANDLE}


def to_arrow(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> Any:
    """Return ticks, points of Rate History or candles as an Arrow table.

    Money is `decimal128(38, 18)`, times are microseconds in UTC, gaps are seconds. Of no rows, a table of no ticks.

    Raises:
        InvalidInput: rows of something else or of several kinds, or money that these decimals do not hold exactly.
        ConfigurationError: pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    things: list[Any] = [*rows]
    kind: type[object] = cast("type[object]", type(things[0])) if things else Tick
    columns = _BY_CLASS.get(kind)
    if columns is None or not all(isinstance(thing, kind) for thing in things):
        raise InvalidInput.of("rows", "must be ticks, rate points or candles, all of one kind")
    return table_of(rows_of(things, columns), columns)


def to_polars(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> pl.DataFrame:
    """Return ticks, points of Rate History or candles as a polars data frame; the types are those of `to_arrow`.

    Raises:
        InvalidInput: as `to_arrow`.
        ConfigurationError: polars or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows)
    made: pl.DataFrame = _extra("polars").from_arrow(table)
    return made


def to_pandas(rows: Iterable[Tick] | Iterable[RatePoint] | Iterable[Candle]) -> Any:
    """Return ticks, points of Rate History or candles as a pandas data frame of Arrow types, those of `to_arrow`.

    Raises:
        InvalidInput: as `to_arrow`.
        ConfigurationError: pandas or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows)
    return table.to_pandas(types_mapper=_extra("pandas").ArrowDtype)


def import_arrow(part: str = "") -> Any:
    """Return pyarrow, or a part of it.

    Raises:
        ConfigurationError: it is not installed.
    """
    return _extra("pyarrow" + part)


def _extra(name: str) -> Any:
    return import_extra(name, "dataframe", f"{name.partition('.')[0]} is not installed")


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS) -> Any:
    """Return rows of Python values as an Arrow table."""
    pa = import_arrow()
    types = {
        ColumnType.TIME: pa.timestamp("us", tz="UTC"),
        ColumnType.WHOLE: pa.int64(),
        ColumnType.TEXT: pa.string(),
        ColumnType.MONEY: pa.decimal128(_DIGITS, _PLACES),
        ColumnType.SECONDS: pa.float64(),
        ColumnType.FLAG: pa.bool_(),
    }
    check_money(rows, columns)
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    return pa.table({column.name: [_held(row[column.name]) for row in rows] for column in columns}, schema=schema)


def _held(value: Any) -> Any:
    # Arrow counts digits as they are written: 0E+21 would not fit, nor would fifty zeros behind a point.
    return Decimal(format(value.normalize(_WIDE), "f")) if isinstance(value, Decimal) else value


def check_money(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS) -> None:
    """Check that every amount fits exactly: none is ever rounded.

    Raises:
        InvalidInput: one does not.
    """
    for column in columns:
        if column.kind is ColumnType.MONEY:
            for row in rows:
                if (value := row[column.name]) is not None and not _fits(value):
                    rule = f"must have at most {_PLACES} places and {_DIGITS - _PLACES} digits before them"
                    raise InvalidInput.of(column.name, rule)


def _fits(value: Decimal) -> bool:
    if not value.is_finite():
        return False
    _, digits, exponent = value.normalize(_WIDE).as_tuple()
    assert isinstance(exponent, int)  # of a finite number
    return exponent >= -_PLACES and len(digits) + exponent <= _DIGITS - _PLACES
