"""Converts models, ticks and candles to tables of Arrow, polars and pandas (extra `dataframe`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from minted_connect.core.extras import import_extra
from minted_connect.errors import InvalidInput
from minted_connect.feed.candles import Candle
from minted_connect.feed.schema import COLUMNS, Column, ColumnType, to_rows
from minted_connect.feed.tick import Tick
from minted_connect.model_columns import LINES, MODELS, explode
from minted_connect.models.deal import Deal
from minted_connect.models.page import Page
from minted_connect.models.rate import RatePoint

if TYPE_CHECKING:
    import polars as pl

__all__ = ["POINTS", "Decimals", "check_money", "import_arrow", "make_table", "to_arrow", "to_pandas", "to_polars"]

_SCALE: Final = 18
_PRECISION: Final = 38
"""Of `decimal128`: 38 digits, 18 of them after the point."""

_MAX_WHOLE: Final = 2**63

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
_BY_CLASS: Final[Mapping[type, Sequence[Column]]] = {Tick: COLUMNS, RatePoint: POINTS, Candle: _CANDLES, **MODELS}

Decimals = Literal["exact", "float"]


def to_arrow(
    rows: Iterable[Any], *, lines: bool = False, decimals: Decimals = "exact", of: type[Any] | None = None
) -> Any:
    """Convert orders, baskets, products, holdings, rates, points of Rate History, ticks or candles to an Arrow table.

    Money, weights (g) and percentages are `decimal128(38, 18)`, times are timestamps in microseconds and UTC, gaps are
    seconds. The columns have the names of the attributes. There is no personal data except the id of the customer.

    Args:
        rows: The models, all of one kind: a list, or a `Page`.
        lines: One row for each line of the orders or baskets, without the totals of the order.
        decimals: `"float"` converts money to floats, for charts and statistics, never for accounts.
        of: The class of the rows, for the columns of an empty list; by default those of ticks.

    Raises:
        InvalidInput: if the rows are of another type or of several types, if `lines` is used for rows without lines,
            or if an amount does not fit exactly.
        ConfigurationError: if pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    if decimals not in ("exact", "float"):
        raise InvalidInput.of("decimals", "must be 'exact' or 'float'")
    objects = _to_list(rows)
    class_ = cast("type[Any]", type(objects[0]) if objects else (of or Tick))
    columns = _BY_CLASS.get(class_)
    if columns is None or not all(isinstance(each, class_) for each in objects):
        rule = f"must be one of {', '.join(sorted(each.__name__ for each in _BY_CLASS))}, and the same for all rows"
        raise InvalidInput.of("rows" if objects else "of", rule)
    if of is not None and class_ is not of:
        raise InvalidInput.of("rows", f"must be of the class {of.__name__}")
    if lines:
        if not issubclass(class_, Deal):
            raise InvalidInput.of("lines", "must not be used: only orders and baskets have lines")
        objects, columns = [*explode(objects)], LINES
    return make_table(to_rows(objects, columns), columns, decimals)


def _to_list(rows: Any) -> list[Any]:
    if not isinstance(rows, Iterable):
        raise InvalidInput.of("rows", "must be a list or a page of models")
    if isinstance(rows, Page) and rows.unreadable:
        number = len(rows.unreadable)
        raise InvalidInput.of("rows", f"{number} of the page cannot be read: pass its items to leave them out")
    return [*rows]


def to_polars(
    rows: Iterable[Any], *, lines: bool = False, decimals: Decimals = "exact", of: type[Any] | None = None
) -> pl.DataFrame:
    """Convert models, ticks or candles to a polars data frame. Rows, types and arguments are those of `to_arrow`.

    Raises:
        InvalidInput: as in `to_arrow`.
        ConfigurationError: if polars or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows, lines=lines, decimals=decimals, of=of)
    frame: pl.DataFrame = _import("polars").from_arrow(table)
    return frame


def to_pandas(
    rows: Iterable[Any], *, lines: bool = False, decimals: Decimals = "exact", of: type[Any] | None = None
) -> Any:
    """Convert models, ticks or candles to a pandas data frame. Rows and arguments are those of `to_arrow`.

    The types are those of Arrow; with `decimals="float"`, they are those of numpy, which `.plot()` and `.pct_change()`
    need.

    Raises:
        InvalidInput: as in `to_arrow`.
        ConfigurationError: if pandas or pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """
    table = to_arrow(rows, lines=lines, decimals=decimals, of=of)
    pandas = _import("pandas")
    # Whole numbers with gaps would become floats.
    whole = {import_arrow().int64(): pandas.Int64Dtype()}
    return table.to_pandas(types_mapper=pandas.ArrowDtype if decimals == "exact" else whole.get)


def import_arrow(submodule: str = "") -> Any:
    """Return pyarrow, or its `submodule` (`.parquet`).

    Raises:
        ConfigurationError: if pyarrow is not installed.
    """
    return _import("pyarrow" + submodule)


def _import(name: str) -> Any:
    return import_extra(name, "dataframe", f"{name.partition('.')[0]} is not installed")


def make_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column] = COLUMNS, decimals: Decimals = "exact"
) -> Any:
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
        ColumnType.MONEY: pa.decimal128(_PRECISION, _SCALE) if decimals == "exact" else pa.float64(),
        ColumnType.SECONDS: pa.float64(),
        ColumnType.FLAG: pa.bool_(),
    }
    for column in columns:
        if column.kind is ColumnType.WHOLE and any(abs(row[column.name] or 0) >= _MAX_WHOLE for row in rows):
            raise InvalidInput.of(column.name, "must fit into 64 bits")
    convert = _normalize if decimals == "exact" else _to_float
    if decimals == "exact":
        check_money(rows, columns)
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    return pa.table({column.name: [convert(row[column.name]) for row in rows] for column in columns}, schema=schema)


def _normalize(value: Any) -> Any:
    # Arrow counts the digits as written: 0E+21 would not fit, nor would fifty zeros after the point.
    return Decimal(format(value.normalize(_EXACT), "f")) if isinstance(value, Decimal) else value


def _to_float(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


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
