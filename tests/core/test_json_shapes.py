"""Shapes that Laravel and MySQL write: accepted where they cannot be misread, refused for money and pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect import models
from minted_connect.core.converter import StructureError, structure, unstructure
from minted_connect.core.exact_json import Malformed, loads
from minted_connect.models import Basket, Customer, Holding, Invoice, Order, Page, Product, Rate
from minted_connect.models.json_types import accepts_digits
from tests.support.strategies import SAMPLES


def sample(name: str) -> Any:
    return loads((SAMPLES / f"{name}.json").read_bytes())["data"]


def reshaped(data: Any, change: Callable[[str, Any], Any], name: str = "") -> Any:
    """Return data with the members of all objects changed."""
    if isinstance(data, dict):
        return {key: change(key, reshaped(value, change, key)) for key, value in data.items()}
    return [reshaped(value, change, name) for value in data] if isinstance(data, list) else data


def problems(data: Any, type_: Any) -> tuple[str, ...]:
    with pytest.raises(StructureError) as caught:
        structure(data, type_)
    return caught.value.problems


RESPONSES: dict[str, Any] = {
    "balance.response.assumed": tuple[Holding, ...],
    "complete_delivery.response": Order,
    "currency_rates.response.assumed": tuple[Rate, ...],
    "get_customer.response": Customer,
    "get_order_invoice.response.assumed": Invoice,
    "get_orders.response.assumed": Page[Order],
    "get_products.response.assumed": Page[Product],
    "update_basket_item.response": Basket,
}
PAGE_COUNTS = {"current_page", "last_page", "per_page"}


def ids_as_text(name: str, value: Any) -> Any:
    is_number = name == "id" or name in PAGE_COUNTS or name.endswith(("_id", "Id"))
    return str(value) if is_number and type(value) is int else value


def flags_as_numbers(_: str, value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def dates_as_midnights(name: str, value: Any) -> Any:
    return f"{value} 00:00:00" if name in {"birthdate", "estimated_arrival_date"} and isinstance(value, str) else value


@pytest.mark.requirement(52)
@pytest.mark.requirement(38)
@pytest.mark.parametrize("change", [ids_as_text, flags_as_numbers, dates_as_midnights])
@pytest.mark.parametrize("name", RESPONSES)
def test_shape_of_laravel_gives_an_equal_model(name: str, change: Callable[[str, Any], Any]) -> None:
    data = sample(name)
    assert structure(reshaped(data, change), RESPONSES[name]) == structure(data, RESPONSES[name])


def with_gaps(value: Any) -> Any:
    """Return data as PHP writes it if the first member of each array was filtered out."""
    if isinstance(value, dict):
        return {name: member if name == "links" else with_gaps(member) for name, member in value.items()}
    if not isinstance(value, list) or not value:
        return value
    return {str(number): with_gaps(member) for number, member in enumerate(value, 1)}


@pytest.mark.parametrize("name", RESPONSES)
def test_array_with_gaps_gives_an_equal_model(name: str) -> None:
    data, type_ = sample(name), RESPONSES[name]
    assert structure(with_gaps(data), type_) == structure(data, type_)
    assert unstructure(structure(with_gaps(data), type_)) == unstructure(structure(data, type_))


def test_page_with_gaps_and_an_odd_row_keeps_the_other_rows() -> None:
    data = sample("get_orders.response.assumed")
    rows = [*data["data"], {"id": 7}]
    page = structure({**data, "data": {str(2 * number): row for number, row in enumerate(rows)}}, Page[Order])
    assert len(page.items) == len(data["data"])
    assert [row.id for row in page.unreadable] == [7]


@pytest.mark.parametrize("rows", [{}, {"1": {}, "x": {}}, {"01": {}}, {"-1": {}}, {"": {}}, {"data": {}}])
def test_other_object_is_no_array(rows: Any) -> None:
    data = {**sample("get_orders.response.assumed"), "data": rows}
    assert problems(data, Page[Order]) == ("data.data: must be an array",)


@pytest.mark.requirement(52)
def test_page_total_may_be_digits() -> None:
    page = structure({**sample("get_products.response.assumed"), "total": "15"}, Page[Product])
    assert (page.total, type(page.total)) == (15, int)


# --- what stays strict -------------------------------------------------------------------------------------------


def number_fields() -> Iterator[tuple[type, str, bool]]:
    for name in models.__all__:
        model = getattr(models, name)
        if attrs.has(model):
            for field in attrs.fields(attrs.resolve_types(model)):
                if int in (field.type, *get_args(field.type)) and bool not in get_args(field.type):
                    yield model, field.name, accepts_digits(field)


@pytest.mark.requirement(52)
def test_only_ids_and_page_counts_accept_digits() -> None:
    accepting = {(model.__name__, name) for model, name, accepts in number_fields() if accepts}
    counts = {("Page", name) for name in (*PAGE_COUNTS, "total")}
    assert {name for model, name in accepting - counts} == {
        *("id", "product_id", "item_currency_id", "status_id", "currency_id", "company_id", "user_id", "order_id"),
    }
    assert accepting >= counts
    refusing = {(model.__name__, name) for model, name, accepts in number_fields() if not accepts}
    assert {("LineItem", "amount"), ("PriceFix", "remaining"), ("Product", "stock")} <= refusing


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", ["3", "", "03", "3.0"])
def test_pieces_and_remaining_seconds_of_text_are_refused(value: str) -> None:
    data = sample("update_basket_item.response")
    data["items"][0]["amount"] = data["pricefix"]["remaining"] = value
    rule = "must be a whole number"
    assert set(problems(data, Basket)) == {f"data.pricefix.remaining: {rule}", f"data.items[0].amount: {rule}"}


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", ["", [], "AED", "1,5"])
@pytest.mark.parametrize("name", ["paid_total", "total_amount", "charge_fee_rate"])
def test_empty_money_is_refused(name: str, value: Any) -> None:
    data = {**sample("update_basket_item.response"), name: value}
    assert problems(data, Basket) == (f"data.{name}: must be a number",)
    assert problems({"guid": "G", "total": value}, Invoice) == ("data.total: must be a number",)


@pytest.mark.requirement(52)
@pytest.mark.parametrize("name", ["status_name", "order_creation_status", "token", "guid", "type"])
def test_status_or_key_of_empty_array_is_refused(name: str) -> None:
    assert problems({**sample("update_basket_item.response"), name: []}, Basket) == (f"data.{name}: must be a string",)
    assert problems({"guid": "G", "status_name": []}, Invoice) == ("data.status_name: must be a string",)


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", ["007", "-1", "+1", "1_0", " 1", "1 ", "1e3", "٣", "1" * 19, "1.0", "0x1", "true"])
def test_id_of_other_text_is_refused(value: str) -> None:
    data = {**sample("update_basket_item.response"), "id": value}
    assert problems(data, Basket) == ("data.id: must be a whole number",)


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", [2, -1, "0", "1", "", []])
def test_flag_of_other_value_is_refused(value: Any) -> None:
    assert problems({"id": 1, "is_cash": value}, models.CustomerWallet) == ("data.is_cash: must be true or false",)


# --- null --------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize("value", [[], ""])
@pytest.mark.parametrize("name", ["shippingaddress", "billingaddress", "payment", "delivery", "pricefix"])
def test_empty_optional_object_is_none(name: str, value: Any) -> None:
    data = sample("update_basket_item.response")
    assert structure({**data, name: value}, Basket) == structure({**data, name: None}, Basket)


def test_empty_optional_text_id_and_date_are_none_or_text() -> None:
    data = {"external_id": "x", "tax_office": [], "middlename": "", "birthdate": "", "created_at": [], "user_id": ""}
    assert structure(data, Customer) == Customer("x", middlename="")


@pytest.mark.requirement(52)
@pytest.mark.parametrize("name", ["customer", "order_at", "items", "currency_code", "id"])
def test_empty_required_value_is_refused(name: str) -> None:
    value: Any = "" if name == "items" else []
    assert len(problems({**sample("update_basket_item.response"), name: value}, Basket)) == 1


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    "value",
    [
        *("0000-00-00", "0000-00-00 00:00:00", "0000-00-00T00:00:00.000000Z"),
        *("-0001-11-30", "-0001-11-30 00:00:00", "-0001-11-30T00:00:00.000000Z", "-0001-11-30T00:00:00+00:00"),
    ],
)
def test_zero_date_is_none_if_optional(value: str) -> None:
    data = {"external_id": "x", "birthdate": value, "created_at": value}
    assert structure(data, Customer) == Customer("x")
    order = {**sample("update_basket_item.response"), "order_at": value}
    assert problems(order, Basket) == ("data.order_at: must be a date and time",)


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    "time", [" 00:00:00", "T00:00:00Z", "T00:00:00.000000Z", "T00:00:00+03:00", " 00:00:00.000", "T00:00:00+0300"]
)
def test_date_with_its_midnight_is_the_date(time: str) -> None:
    customer = structure({"external_id": "x", "birthdate": f"1970-01-31{time}"}, Customer)
    assert customer.birthdate == date(1970, 1, 31)


@pytest.mark.requirement(52)
@pytest.mark.parametrize("time", ["T21:00:00.000000Z", " 00:00:01", " 00:00", "T00:00:00 Z", "x00:00:00", " 24:00:00"])
def test_date_with_another_time_is_refused(time: str) -> None:
    wrong = ("data.birthdate: must be a date, YYYY-MM-DD",)
    assert problems({"external_id": "x", "birthdate": f"1970-01-31{time}"}, Customer) == wrong


# --- before the document -----------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\n\xef\xbb\xbf \r\n"])
def test_byte_order_mark_before_a_document_is_skipped(mark: bytes) -> None:
    assert loads(mark + b'{"a": 1.50}') == {"a": Decimal("1.50")}


@pytest.mark.requirement(36)
@pytest.mark.parametrize(
    "warning", [b"<br />\n<b>Deprecated</b>: x in <b>y.php</b> on line <b>1</b><br />\n", b"Warning: {closure}()\n"]
)
def test_text_before_a_document_is_refused_and_named(warning: bytes) -> None:
    with pytest.raises(Malformed, match="text before the JSON document, such as a PHP warning"):
        loads(warning + b'{"data": {"a": [1]}, "success": true}\n')


@pytest.mark.parametrize(
    "body",
    [b"<html>{}</html>", b'<p>{"a": 1}</p>', b'x{"a": 1, "a": 2}', b'x{"a": NaN}', b'x{"a"' + b"[" * 99_999, b"x"],
)
def test_text_without_a_document_is_not_json(body: bytes) -> None:
    with pytest.raises(Malformed, match="not JSON, at character 0"):
        loads(body)


@pytest.mark.requirement(52)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_before_a_document_is_never_skipped(text: str) -> None:
    if text.strip(" \t\r\n\ufeff"):
        with pytest.raises(Malformed):
            loads(text.encode() + b'{"data": null, "success": true}')
