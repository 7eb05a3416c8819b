"""Short `repr`s, and tables for notebooks: escaped, and without personal data."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect import Basket, Completion, Customer, Holding, Order, Page, Product, Rate, RatePoint
from minted_connect.core.converter import structure
from minted_connect.core.exact_json import loads

SAMPLES = Path(__file__).parent / "samples"
ATTACK = '<script>alert("x")</script>'


def sample(name: str, type_: Any) -> Any:
    return structure(loads((SAMPLES / name).read_bytes())["data"], type_)


ORDER: Order = sample("complete_delivery.response.json", Order)
BASKET: Basket = sample("update_basket_item.response.json", Basket)
RATE = Rate(1, "Dirham Gold", "gold", Decimal("586.48"), Decimal("592.34"), Decimal(1), "AED", ORDER.order_at)
POINT = RatePoint(1, "gold", "AED", ORDER.order_at, Decimal(1), Decimal("592.34"), Decimal(1))
PRODUCT = Product(7, "Bar", "MNTBAE0001", list_price=Decimal("592.34"))
HOLDING = Holding("Bar", sku="MNTBAE0001", amount=Decimal(3))


class Parser(HTMLParser):
    """Collects cells, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shown(model: Any) -> Parser:
    return Parser(model._repr_html_())


def test_order_is_shown_in_one_short_line() -> None:
    assert repr(ORDER) == "<Order 11120 delivery: Pending, 1 line, 3.15 AED, 2026-03-26 10:50+00:00>"
    assert repr(BASKET).startswith(f"<Basket {BASKET.id} buy: ")
    assert repr(RATE) == "<Rate gold Dirham Gold: buy 592.34, sell 1 AED/g, 2026-03-26 10:50+00:00>"
    assert (
        repr(Completion(ORDER, differences=("x",), replayed=True)) == f"<Completion: {ORDER!r}, replayed, 1 difference>"
    )
    assert repr(Completion(None, {"id": "7"})) == "<Completion: order 7, unreadable>"
    assert repr(Page((ORDER,), 1, 3, 10, 25)) == "<Page: 1 of 25 rows, page 1 of 3>"


@given(st.text(), st.text(), st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 10**60))
def test_repr_of_any_order_has_at_most_120_characters(status: str, code: str, total: Decimal, number: int) -> None:
    order = attrs.evolve(ORDER, status_name=status, type=status, currency_code=code, paid_total=total, id=number)
    assert len(repr(order)) <= 120
    assert repr(order).isprintable()


def test_order_is_shown_as_a_table_of_lines_and_fees() -> None:
    texts = shown(ORDER).texts
    assert texts[0].startswith("Order 11120: delivery, Pending, AED")
    for text in (ORDER.items[0].sku, "delivery", "3", "VAT on fees", "0.15", "paid total", "3.15"):
        assert text in texts
    assert "storage" not in texts  # a fee of 0


@pytest.mark.parametrize("model", [RATE, Page((RATE,), 1, 1, 1, 1), Page((POINT,), 1, 1, 1, 1)])
def test_prices_are_shown(model: Any) -> None:
    assert "592.34" in shown(model).texts


def test_pages_are_shown_as_tables() -> None:
    for row, text in ((ORDER, "Pending"), (PRODUCT, "MNTBAE0001"), (HOLDING, "Bar"), (BASKET, "buy")):
        found = shown(Page((row, row), 1, 1, 10, 2))
        assert text in found.texts
        assert "Page: 2 of 2 rows, page 1 of 1" in found.texts
    assert "table" in shown(Page((), 1, 1, 10, 0)).tags
    assert "... 50 more rows" in shown(Page((PRODUCT,) * 150, 1, 1, 150, 150)).texts


def test_completion_is_shown_with_its_differences() -> None:
    completion = Completion(ORDER, reconciled=True, differences=("paid_total is 2, not 1", ATTACK))
    found = shown(completion)
    assert "".join(found.texts).startswith("Completion: order 11120, reconciled")
    assert "paid_total is 2, not 1" in found.texts
    assert "script" not in found.tags
    assert "without a readable id" in "".join(shown(Completion(None)).texts)


def test_text_of_the_server_is_escaped() -> None:
    item = attrs.evolve(ORDER.items[0], sku=ATTACK, product_name=ATTACK)
    order = attrs.evolve(ORDER, items=(item,), status_name=ATTACK, currency_code=ATTACK, type=ATTACK)
    product = attrs.evolve(PRODUCT, name=ATTACK, sku=ATTACK)
    for model in (
        order,
        Page((order,), 1, 1, 1, 1),
        Page((product,), 1, 1, 1, 1),
        attrs.evolve(RATE, currency_name=ATTACK),
    ):
        assert "script" not in shown(model).tags
        assert "<script" not in model._repr_html_()


@pytest.mark.requirement(33)
def test_tables_contain_no_personal_data() -> None:
    customer = Customer("canary-1-external-id", firstname="canary-2", email="canary-3", identity_number="canary-4")
    address = attrs.evolve(ORDER.shippingaddress, fullname="canary-5", phone="canary-6")
    order = attrs.evolve(ORDER, customer=customer, shippingaddress=address, token="canary-7" * 4)
    for model in (order, Completion(order), Page((order,), 1, 1, 1, 1), Page((customer,), 1, 1, 1, 1)):
        assert "canary" not in model._repr_html_().replace("canary-1-external-id", "")
