"""Orders, baskets, holdings, products and rates as data frames."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from minted_connect import (
    Basket,
    Holding,
    InvalidInput,
    Order,
    Page,
    Product,
    Rate,
    RatePoint,
    UnreadableRow,
    to_arrow,
    to_pandas,
    to_polars,
)
from minted_connect.core.converter import structure
from minted_connect.core.exact_json import loads
from minted_connect.model_columns import LINES, MODELS

pa = pytest.importorskip("pyarrow")
SAMPLES = Path(__file__).parent / "samples"


def sample(name: str, type_: Any) -> Any:
    return structure(loads((SAMPLES / name).read_bytes())["data"], type_)


ORDER: Order = sample("complete_delivery.response.json", Order)
BASKET: Basket = sample("update_basket_item.response.json", Basket)
HOLDING = Holding("Bar", sku="MNTBAE0001", product_weight=Decimal("1.00"), amount=Decimal(3))
ODD_PAGE = Page((ORDER,), 1, 1, 10, 2, {}, (UnreadableRow("data.data[1]", ()),))
PRODUCT = Product(7, "Bar", "MNTBAE0001", list_price=Decimal("592.34"))


@pytest.mark.parametrize(("model", "of"), [(ORDER, Order), (BASKET, Basket), (HOLDING, Holding), (PRODUCT, Product)])
def test_columns_are_attributes_with_exact_values(model: Any, of: type) -> None:
    table = to_arrow([model, model])
    assert table.column_names == [column.name for column in MODELS[of]]
    [row, _] = table.to_pylist()
    for name, value in row.items():
        found = getattr(model, name, value)
        assert value == (str(found) if isinstance(value, str) else found), name
    assert to_arrow([], of=of).schema == table.schema
    assert to_polars([model]).height == len(to_pandas([model])) == 1


def test_orders_have_enough_for_accounts() -> None:
    [row] = to_arrow([ORDER]).to_pylist()
    assert row["customer_id"] == ORDER.customer.external_id
    assert (row["kind"], row["status"]) == ("delivery", "Pending")
    assert (row["delivery_cost"], row["charges_vat"], row["paid_total"]) == (
        Decimal(3),
        Decimal("0.15"),
        Decimal("3.15"),
    )
    assert row["order_at"] == ORDER.order_at


def test_lines_are_rows_without_totals_of_the_order() -> None:
    table = to_arrow([BASKET, BASKET], lines=True)
    rows = table.to_pylist()
    assert table.column_names == [column.name for column in LINES]
    assert len(rows) == 2 * len(BASKET.items)
    assert [row["line"] for row in rows[: len(BASKET.items)]] == [*range(1, len(BASKET.items) + 1)]
    for row, item in zip(rows, BASKET.items, strict=False):
        assert (row["sku"], row["amount"], row["total"]) == (item.sku, item.amount, item.total)
    assert "paid_total" not in rows[0]
    assert to_arrow([], of=Order, lines=True).schema == table.schema


def test_pages_are_lists_of_rows() -> None:
    assert to_arrow(Page((PRODUCT,), 1, 1, 10, 1)).num_rows == 1
    assert to_arrow(Page[Product]((), 1, 1, 10, 0), of=Product).num_rows == 0


def test_frames_have_no_personal_data() -> None:
    customer = attrs.evolve(ORDER.customer, firstname="canary-name", email="canary-mail")
    shown = str(to_arrow([attrs.evolve(ORDER, customer=customer)]).to_pylist())
    assert "canary" not in shown


def points(*prices: str) -> list[RatePoint]:
    start = BASKET.order_at
    return [
        RatePoint(1000013, "gold", "AED", start.replace(hour=hour), *[Decimal(price)] * 3)
        for hour, price in enumerate(prices)
    ]


def test_floats_have_numpy_types_and_can_be_plotted() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    frame = to_pandas(points("100", "110.0", "99"), decimals="float").set_index("time")
    assert str(frame["buy"].dtype) == "float64"
    assert frame["buy"].pct_change().round(6).tolist()[1:] == [0.1, -0.1]
    axes = frame["buy"].plot()
    assert len(axes.lines) == 1
    matplotlib.pyplot.close("all")
    assert to_polars(points("1"), decimals="float")["buy"].to_list() == [1.0]


def test_amounts_beyond_exact_columns_are_converted_to_floats_only() -> None:
    large = points("1e25")
    with pytest.raises(InvalidInput, match=r"^spot: must have at most 18 places"):
        to_arrow(large)
    assert to_arrow(large, decimals="float").to_pylist()[0]["spot"] == 1e25


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([ORDER, BASKET], {}, "^rows: must be one of Basket, Candle"),
        ([ORDER, None], {}, "^rows: must be one of Basket, Candle"),
        ([1], {}, "^rows: must be one of Basket, Candle"),
        ([], {"of": int}, "^of: must be one of Basket, Candle"),
        ([HOLDING], {"lines": True}, "^lines: must not be used"),
        ([], {"lines": True}, "^lines: must not be used"),
        ([ORDER], {"decimals": "text"}, "^decimals: must be 'exact' or 'float'"),
        ([ORDER], {"of": Product}, "^rows: must be of the class Product"),
        (None, {}, "^rows: must be a list or a page of models"),
        (ORDER, {}, "^rows: must be a list or a page of models"),
        ([attrs.evolve(ORDER, id=2**63)], {}, "^id: must fit into 64 bits"),
        (
            Page((ORDER,), 1, 1, 10, 2, {}, (UnreadableRow("data.data[1]", ()),)),
            {},
            "^rows: 1 of the page cannot be read",
        ),
    ],
)
def test_wrong_arguments_are_refused(rows: Any, arguments: Any, message: str) -> None:
    for convert in (to_arrow, to_pandas, to_polars):
        with pytest.raises(InvalidInput, match=message):
            convert(rows, **arguments)


def test_whole_numbers_with_gaps_stay_whole() -> None:
    frame = to_pandas([attrs.evolve(PRODUCT, stock=2**53 + 1), attrs.evolve(PRODUCT, stock=None)], decimals="float")
    assert int(frame["stock"][0]) == 2**53 + 1
    assert frame["stock"].isna().tolist() == [False, True]


def test_rates_become_rows() -> None:
    point = points("592.34")[0]
    rate = Rate(point.currency_id, "Dirham Gold", "gold", *[point.buy_price] * 3, "AED", point.time)
    [row] = to_arrow([rate]).to_pylist()
    assert (row["buy_price"], row["metal_type"]) == (Decimal("592.34"), "gold")
