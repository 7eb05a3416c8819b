"""Conversion of ticks, rate points and candles to data frames, checked with polars and pandas."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import attrs
import pytest

from minted_connect import ConfigurationError, InvalidInput, ohlc, to_arrow, to_pandas, to_polars
from minted_connect.feed.schema import COLUMNS
from minted_connect.models.rate import RatePoint
from tests.feed.ticks import BEGUN, GOLD, SILVER, tick

NAMES = [column.name for column in COLUMNS]
TICKS = [
    tick(1, attrs.evolve(GOLD, spot_price=Decimal("1777.020")), change=Decimal("-0.1"), gap=2.5, missed=4),
    tick(2, SILVER, backfilled=True),
]
POINT = RatePoint(
    currency_id=1000013,
    metal_type="gold",
    currency_code="AED",
    time=datetime(2026, 2, 20, 15, tzinfo=timezone(timedelta(hours=3))),
    spot_price=Decimal("586.48"),
    buy_price=Decimal("592.34"),
    sell_price=Decimal("580.62"),
)


def test_to_arrow_returns_exact_typed_columns():
    table = to_arrow(TICKS)
    assert table.column_names == NAMES
    types = {str(field.type) for field in table.schema}
    assert types == {"timestamp[us, tz=UTC]", "int64", "string", "decimal128(38, 18)", "double", "bool"}
    first, second = table.to_pylist()
    assert first["at"] == BEGUN + timedelta(seconds=1)
    assert (first["spot"], first["change"], first["gap"], first["missed"]) == (
        Decimal("1777.020"),
        Decimal("-0.1"),
        2.5,
        4,
    )
    assert (second["metal"], second["sku"], second["change"], second["backfilled"]) == ("silver", None, None, True)


def test_to_polars_returns_exact_typed_columns():
    import polars as pl

    frame = to_polars(TICKS)
    assert frame.columns == NAMES
    assert frame.schema["spot"] == pl.Decimal(38, 18)
    assert frame.schema["at"] == pl.Datetime("us", "UTC")
    assert frame["spot"].to_list() == [Decimal("1777.020"), Decimal("586.480")]
    assert frame.filter(pl.col("metal") == "silver")["backfilled"].to_list() == [True]


def test_to_pandas_returns_exact_typed_columns():
    frame = to_pandas(TICKS)
    assert list(frame.columns) == NAMES
    assert list(frame["spot"]) == [Decimal("1777.020"), Decimal("586.480")]
    assert frame["spot"].sum() == Decimal("2363.50")
    assert str(frame["at"].dtype) == "timestamp[us, tz=UTC][pyarrow]"
    assert frame["sku"].isna().tolist() == [False, True]


@pytest.mark.parametrize("convert", [to_arrow, to_polars, to_pandas])
def test_columns_depend_on_kind_of_rows(convert):
    candles = ohlc([POINT], "day", tz=timezone(timedelta(hours=-5)))
    for rows, names in (
        ([POINT], "time currency_id metal currency spot buy sell"),
        (candles, "start end currency_id currency open high low close count"),
        ([], " ".join(NAMES)),
        (iter([POINT, POINT]), "time currency_id metal currency spot buy sell"),
    ):
        frame = convert(rows)
        assert list(getattr(frame, "column_names", None) or frame.columns) == names.split()
    table = to_arrow(candles)
    assert table["start"][0].as_py() == datetime(2026, 2, 20, 5, tzinfo=UTC)
    assert table["close"][0].as_py() == Decimal("586.48")


@pytest.mark.parametrize("rows", [[TICKS[0], POINT], ["x"], [None], [5, TICKS[0]]])
def test_rows_of_other_types_raise_invalid_input(rows):
    with pytest.raises(InvalidInput, match=r"rows: must be one of .*, and the same for all rows"):
        to_arrow(rows)


@pytest.mark.parametrize("price", ["1e-19", "1e20", "-123456789012345678901"])
def test_amount_that_does_not_fit_raises_invalid_input(price):
    with pytest.raises(InvalidInput) as caught:
        to_arrow([attrs.evolve(POINT, buy_price=Decimal(price))])
    assert caught.value.field == "buy"


@pytest.mark.parametrize("price", ["0E+30", "1E+19", "1.000000000000000000000", f"-{'9' * 20}.{'9' * 18}"])
def test_largest_and_scaled_amounts_are_exact(price):
    (back,) = to_arrow([attrs.evolve(POINT, buy_price=Decimal(price))])["buy"].to_pylist()
    assert back == Decimal(price)


@pytest.mark.parametrize(("module", "convert"), [("pyarrow", to_arrow), ("polars", to_polars), ("pandas", to_pandas)])
def test_missing_module_names_extra(monkeypatch, module, convert):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf'{module} is not installed: pip install "minted-connect\[dataframe'):
        convert(TICKS)


def test_dataframe_modules_are_not_imported_at_start():
    from tests.support.subprocesses import run_script

    script = """
import sys
from minted_connect import AsyncMintedConnect, CsvSink, ohlc

print({"pyarrow", "polars", "pandas"} & set(sys.modules))
"""
    assert run_script(script) == ["set()"]
