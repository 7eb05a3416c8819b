from __future__ import annotations

import json
import pickle
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minted_connect.core import exact_json
from minted_connect.core.converter import StructureError, structure, unstructure
from minted_connect.core.exact_json import Malformed, dumps, loads
from minted_connect.core.model_decoder import ASSUMED_UTC, describe_problems
from minted_connect.errors import InvalidInput
from minted_connect.models import (
    AccountType,
    Basket,
    CreationStatus,
    Customer,
    Gender,
    Holding,
    Intent,
    IntentState,
    Invoice,
    LineItem,
    MetalType,
    Order,
    OrderKind,
    OrderStatus,
    Page,
    PriceFix,
    Product,
    Rate,
    RatePoint,
    Receipt,
    Shipping,
)
from tests.support.strategies import MODELS, SAMPLES, corrupted

# Without the explain phase, which takes longer than the time limit of a test for objects of this size.
slow = settings(
    deadline=None,
    max_examples=50,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

RESPONSES: dict[str, Any] = {
    "add_basket_item_2026_02.response": Basket,
    "balance.response.assumed": tuple[Holding, ...],
    "clear_basket.response.assumed": Basket,
    "complete_buy.response.assumed": Order,
    "complete_delivery.response": Order,
    "complete_sell.response.assumed": Order,
    "create_customer.response": Customer,
    "currency_rates.response.assumed": tuple[Rate, ...],
    "get_customer.response": Customer,
    "get_order_invoice.response.assumed": Invoice,
    "get_orders.response.assumed": Page[Order],
    "get_products.response.assumed": Page[Product],
    "rate_history.response.assumed": tuple[RatePoint, ...],
    "receipt.response.assumed": Receipt,
    "update_basket_item.response": Basket,
}
WITHOUT_DATA = {"get_active_basket_none.response.assumed", "remove_customer.response.assumed"}


def sample(name: str) -> Any:
    return loads((SAMPLES / f"{name}.json").read_bytes())


def basket_data(**changes: Any) -> dict[str, Any]:
    return {**sample("update_basket_item.response")["data"], **changes}


def problems(data: Any, type_: Any) -> tuple[str, ...]:
    with pytest.raises(StructureError) as caught:
        structure(data, type_)
    return caught.value.problems


# --- samples -----------------------------------------------------------------------------------------------------


def test_each_sample_response_has_a_type():
    assert {path.name.removesuffix(".json") for path in SAMPLES.glob("*.response*")} == set(RESPONSES) | WITHOUT_DATA


@pytest.mark.parametrize("name", RESPONSES)
def test_sample_converted_to_model_and_back_is_equal(name: str):
    data = sample(name)["data"]
    model = structure(data, RESPONSES[name])
    assert loads(dumps(unstructure(model))) == data


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.json")))
def test_sample_parsed_and_dumped_is_equal(name: str):
    body = (SAMPLES / name).read_bytes()
    assert json.loads(dumps(loads(body)), parse_float=Decimal) == json.loads(body, parse_float=Decimal)


def test_shipping_is_unstructured_as_in_the_sample():
    wanted = sample("complete_delivery.request.assumed")["shipping"]
    assert unstructure(structure(wanted, Shipping)) == wanted


def test_basket_has_the_values_of_the_sample():
    basket = structure(sample("update_basket_item.response")["data"], Basket)
    assert basket.paid_total == Decimal("1852.6")
    assert basket.type is OrderKind.BUY
    assert basket.order_creation_status is CreationStatus.BASKET
    assert basket.status is OrderStatus.CREATED
    assert basket.customer.gender is Gender.MALE
    assert basket.customer.account_type is AccountType.PERSON
    assert basket.customer.birthdate == date(1970, 1, 31)
    assert basket.order_at == datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
    assert basket.price_fix is not None
    assert basket.price_fix.next_update == datetime(2026, 2, 20, 12, 31, 57, tzinfo=UTC)
    assert basket.price_fix.next_update.utcoffset() == timedelta(hours=3)
    assert [(item.sku, item.amount, item.total) for item in basket.items] == [("MNTBAE0001", 3, Decimal("1777.02"))]
    assert [part.id for part in basket.items[0].prices] == [6, 4, 7, 2]
    assert basket.payment is not None
    assert basket.payment.comission == Decimal("51.18")
    assert basket.raw["pricefix"] == {"remaining": 201, "nextUpdate": "2026-02-20T15:31:57+03:00"}


def test_page_has_rows_and_numbers_of_the_sample():
    page = structure(sample("get_orders.response.assumed")["data"], Page[Order])
    assert [type(order) for order in page] == [Order] * 3 == [type(order) for order in page.items]
    assert (len(page), page.total, page.current_page, page.last_page, page.has_next) == (3, 3, 1, 1, False)
    assert page.raw["path"].endswith("/orders")
    assert page.items[0].raw is page.raw["data"][0]


def test_camel_case_keys_are_structured_and_unstructured():
    data = sample("balance.response.assumed")["data"]
    coin, bar = structure(data, tuple[Holding, ...])
    assert (coin.product_name, coin.metal_type) == ("2012 Birleşik Krallık Madeni Koleksiyon Para", MetalType.SILVER)
    assert (bar.deliverable_amount, bar.unit_value, bar.is_deliverable) == (2, Decimal("580.62"), True)
    assert set(unstructure(bar)) == set(data[1])


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(37)
@pytest.mark.parametrize(
    "digits", ["1777.02", "0.1", "1234567890123456.123456789", "1777.020", "-0.00", "1e2", "12E-3", "0.3"]
)
def test_fraction_is_parsed_to_the_last_digit(digits: str):
    value = loads(digits.encode())
    assert (type(value), value.as_tuple()) == (Decimal, Decimal(digits).as_tuple())
    assert loads(dumps(value)).as_tuple() == value.as_tuple()


def test_money_of_number_or_string_is_decimal():
    written = {
        "1777.02": "1777.02",
        "3": "3",
        "0": "0",
        '"1777.02"': "1777.02",
        '"-3"': "-3",
        "12345678901234567890": "",
    }
    for json_data, digits in written.items():
        basket = structure(basket_data(paid_total=loads(json_data.encode())), Basket)
        assert type(basket.paid_total) is Decimal
        assert str(basket.paid_total) == (digits or json_data)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1e5", "", " 1", "1 ", "1,5", "٣", "1_0", "0x1", "--1", ".5", "5."]
)
def test_money_of_invalid_string_is_refused(value: str):
    assert problems(basket_data(paid_total=value), Basket) == ("data.paid_total: must be a number",)


@pytest.mark.parametrize("value", [1.5, True, False, None, [], {}, b"1"])
def test_money_of_float_or_other_type_is_refused(value: Any):
    assert problems(basket_data(paid_total=value), Basket) == ("data.paid_total: must be a number",)


@pytest.mark.parametrize("value", [Decimal("1.9"), True, False, "3.0", None, 3.0, [3], Decimal("0.1")])
def test_integer_of_other_value_is_refused(value: Any):
    assert problems(basket_data(id=value), Basket) == ("data.id: must be a whole number",)


@pytest.mark.parametrize("value", [Decimal("3.0"), Decimal("3.00"), Decimal(3), 3])
def test_integer_of_whole_decimal_is_int(value: Any):
    whole = structure(basket_data(id=value), Basket).id
    assert (whole, type(whole)) == (3, int)


@pytest.mark.parametrize("value", [None, 1, True, Decimal("1.0"), [], {}])
def test_string_of_other_type_is_refused(value: Any):
    assert problems(basket_data(guid=value), Basket) == ("data.guid: must be a string",)
    assert problems(basket_data(status_name=value), Basket) == ("data.status_name: must be a string",)


@pytest.mark.parametrize("value", ["false", "true", 2, -1, "1", None, []])
def test_boolean_of_other_value_is_refused(value: Any):
    data = basket_data()
    payment = {**data["payment"], "is_3d": value}
    assert problems({**data, "payment": payment}, Basket) == ("data.payment.is_3d: must be true or false",)


def test_number_with_too_many_digits_is_refused():
    for digits in ("1e999999999", "1e100", "-1E+5000", "1e-999999999", "1e-150", "0e-999999", "0." + "1" * 101):
        with pytest.raises(Malformed, match="out of range"):
            loads(f'{{"price": {digits}}}'.encode())
    with pytest.raises(Malformed, match="out of range"):
        loads(b"1" * 10_000)


# --- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(36)
@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"   ", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"{}\xef\xbb\xbf", "something follows"),
        (b"{} {}", "something follows"),
        (b"{}x", "something follows"),
        (b'{"a": NaN}', "NaN"),
        (b"[Infinity]", "NaN"),
        (b"[-Infinity]", "NaN"),
        (b'{"a": 1, "a": 1}', "same key twice"),
        (b'[{"x": {"a": 1, "b": 2, "\\u0061": 3}}]', "same key twice"),
        (b'"\xff"', "Unicode"),
        (b'"\xed\xa0\x80"', "Unicode"),
        (b'"\\ud800"', "Unicode"),
        (b'{"\\uDC00": 1}', "Unicode"),
        (b'"a\x01"', "not JSON"),
    ],
)
def test_invalid_or_ambiguous_json_is_refused(body: bytes, problem: str):
    with pytest.raises(Malformed, match=problem):
        loads(body)


def test_surrogate_pairs_are_parsed_as_characters():
    assert loads(b'"\\ud83d\\ude00 \\u00f6 \\uD83D\\uDE00"') == "😀 ö 😀"


def test_white_space_around_a_document_is_allowed():
    assert loads(b"\r\n\t [1] \n") == [1]


@pytest.mark.requirement(36)
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_beyond_the_limit_is_refused(brackets: tuple[str, str]):
    opening, closing = brackets
    levels = 64 // (opening.count("[") + opening.count("{"))
    assert loads((opening * levels + "1" + closing * levels).encode())
    with pytest.raises(Malformed, match="nested deeper than 64"):
        loads((opening * (levels + 1) + "1" + closing * (levels + 1)).encode())


def test_very_deep_nesting_is_refused():
    for body in (b"[" * 200_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        with pytest.raises(Malformed):
            loads(body)


def test_many_nested_siblings_are_allowed():
    rows = loads(b"[" + b",".join([b"[{}]"] * 500) + b"]")
    assert len(rows) == 500


def test_decoder_uses_the_c_scanner():
    assert isinstance(exact_json._DECODER.scan_once, json.scanner.c_make_scanner)


def test_malformed_error_never_quotes_the_body():
    for body in (
        b'{"canary-key": canary}',
        b'{"canary": 1, "canary": 2}',
        b'["canary"] canary',
        b"canary" + b"9" * 9_000,
    ):
        with pytest.raises(Malformed) as caught:
            loads(body)
        assert "canary" not in f"{caught.value!r} {caught.value.__context__ and caught.value.__suppress_context__}"


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_malformed(body: bytes):
    try:
        parsed = loads(body)
    except Malformed:
        return
    assert loads(dumps(parsed)) == parsed


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**40), max_value=10**40, places=20),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('aöß"\\\n', max_size=4), inner, max_size=3),
        max_leaves=12,
    )
)
def test_dumped_data_is_json_and_loads_equal(data: Any):
    body = dumps(data)
    assert loads(body) == data
    assert json.loads(body, parse_float=Decimal) == data


def test_dumps_writes_decimals_as_numbers_and_text_as_utf8():
    assert dumps({"a": Decimal("1777.020"), "ö": [1, True, None, ()]}) == '{"a":1777.020,"ö":[1,true,null,[]]}'.encode()


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("-Infinity"), "\ud800", 0.5, {1, 2}, b"x", object()])
def test_dumps_of_unsupported_value_raises_invalid_input(value: Any):
    with pytest.raises(InvalidInput) as caught:
        dumps({"a": value})
    assert caught.value.field == "body"


# --- times -------------------------------------------------------------------------------------------------------


def test_time_without_zone_is_assumed_utc():
    customer = structure({"external_id": "x", "created_at": "2023-03-05 04:51:18"}, Customer)
    assert customer.created_at == datetime(2023, 3, 5, 4, 51, 18, tzinfo=UTC)
    assert customer.created_at is not None
    assert customer.created_at.tzinfo is ASSUMED_UTC
    assert customer.created_at.tzname() == "UTC (assumed)"
    assert unstructure(pickle.loads(pickle.dumps(customer)))["created_at"] == "2023-03-05 04:51:18"


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "now",
            "2026-02-20",
            "2026-02-30T00:00:00Z",
            "0000-00-00 00:00:00",
            "2026-02-20T12:27",
            "20260220T122757",
        ),
        *(
            "2026-W08-5T12:27:57x",
            "2026-02-20x12:27:57Z",
            "2026-02-20T12:27:57+99:99",
            1771590477,
            None,
            Decimal("1.5"),
        ),
    ],
)
def test_invalid_time_is_refused(value: Any):
    assert problems(basket_data(order_at=value), Basket) == ("data.order_at: must be a date and time",)


@pytest.mark.parametrize("value", ["31.01.1970", "1970-02-30", "1970-01-31 00:00:01", "19700131", "1970-W01-1", 0])
def test_invalid_date_is_refused(value: Any):
    wrong = ("data.birthdate: must be a date, YYYY-MM-DD",)
    assert problems({"external_id": "x", "birthdate": value}, Customer) == wrong


# --- missing, unknown and null values ----------------------------------------------------------------------------


@pytest.mark.requirement(38)
def test_missing_fields_are_named_by_their_json_path():
    data = sample("update_basket_item.response")["data"]
    del data["items"][0]["sku"], data["items"][0]["prices"][2]["price"], data["pricefix"]["nextUpdate"], data["guid"]
    assert set(problems(data, Basket)) == {
        "data.guid: required field missing",
        "data.items[0].sku: required field missing",
        "data.items[0].prices[2].price: required field missing",
        "data.pricefix.nextUpdate: required field missing",
    }


def test_problems_in_rows_and_pages_are_named_by_path():
    assert problems([{"productName": 1}], tuple[Holding, ...]) == ("data[0].productName: must be a string",)
    page = {"data": [{}], "current_page": 1, "last_page": 1, "per_page": 1, "total": "one"}
    assert "data.total: must be a whole number" in problems(page, Page[Product])
    assert "data.data[0].sku: required field missing" in problems(page, Page[Product])


def test_at_most_twenty_problems_are_listed():
    assert len(problems([{}] * 100, tuple[Rate, ...])) == 20


@pytest.mark.parametrize("type_", [Basket, Page[Order], Customer])
@pytest.mark.parametrize("data", [None, [], "text", 1, True, Decimal("1.5")])
def test_model_of_other_than_object_is_refused(type_: Any, data: Any):
    assert problems(data, type_) == ("data: must be an object",)


@pytest.mark.parametrize("data", [None, {}, "text", 1])
def test_models_of_other_than_array_are_refused(data: Any):
    assert problems(data, tuple[Rate, ...]) == ("data: must be an array",)


@pytest.mark.parametrize(
    "name", ["external_id", "shippingaddress", "billingaddress", "payment", "delivery", "currency", "pricefix"]
)
def test_null_and_missing_keys_are_none_and_unstructure_equal(name: str):
    null = basket_data(**{name: None})
    absent = {key: value for key, value in null.items() if key != name}
    for data in (null, absent):
        basket = structure(data, Basket)
        assert getattr(basket, {"pricefix": "price_fix"}.get(name, name)) is None
        assert unstructure(basket) == data


@pytest.mark.requirement(38)
def test_unknown_keys_are_kept_in_raw_and_unstructured():
    data = basket_data(loyalty={"points": Decimal("1.50")})
    data["items"][0]["colour"] = "red"
    basket = structure(data, Basket)
    assert basket.raw["loyalty"]["points"] == Decimal("1.50")
    assert unstructure(basket) == data


def test_changed_model_is_unstructured_with_its_change():
    basket = structure(basket_data(), Basket)
    line = attrs.evolve(basket.items[0], amount=7)
    changed = unstructure(attrs.evolve(basket, external_id="mine", items=(line, line)))
    assert unstructure(attrs.evolve(basket, payment=None))["payment"] is None
    assert (changed["external_id"], [row["amount"] for row in changed["items"]]) == ("mine", [7, 7])


@pytest.mark.requirement(38)
def test_unknown_enum_values_stay_strings():
    data = basket_data(status_name="Lost at sea", type="swap", order_creation_status="draft")
    data["customer"] = {**data["customer"], "gender": "X", "account_type": "trust"}
    basket = structure(data, Basket)
    assert (basket.status, basket.type, basket.order_creation_status) == ("Lost at sea", "swap", "draft")
    assert (basket.customer.gender, basket.customer.account_type) == ("X", "trust")
    assert {type(word) for word in (basket.status, basket.type, basket.customer.gender)} == {str}
    assert unstructure(basket) == data


# --- price fix ---------------------------------------------------------------------------------------------------


def test_price_fix_with_clock_expires_after_remaining():
    now = 1_000.0
    basket = structure(basket_data(), Basket, elapsed=lambda: now)
    assert basket.price_fix is not None
    assert (basket.price_fix.sent_at, basket.price_fix.seconds_left, basket.price_fix.expired) == (
        1_000.0,
        201.0,
        False,
    )
    now = 1_200.5
    assert basket.price_fix.seconds_left == 0.5
    now = 1_201.0
    assert (basket.price_fix.seconds_left, basket.price_fix.expired) == (0.0, True)
    assert set(unstructure(basket)["pricefix"]) == {"remaining", "nextUpdate"}


def test_price_fix_without_clock_is_expired():
    basket = structure(basket_data(), Basket)
    assert basket.price_fix is not None
    assert (basket.price_fix.sent_at, basket.price_fix.seconds_left, basket.price_fix.expired) == (None, None, True)


# --- intents, as journals store them -----------------------------------------------------------------------------


def test_intent_dumped_and_loaded_is_equal():
    at = datetime(2026, 2, 20, 12, 28, tzinfo=UTC)
    intent = Intent(
        *("0b7f", OrderKind.BUY, "customer", "cart", 10984, "GUID", "59047701704", "price"),
        *(Decimal("1852.60"), "AED", (("MNTBAE0001", 3), ("MNTBAE0013", 1)), at),
    )
    again = structure(loads(dumps(unstructure(intent))), Intent)
    assert again == intent
    assert (str(again.paid_total), again.state, type(again.kind)) == ("1852.60", IntentState.PREPARED, OrderKind)
    wrong = {**unstructure(intent), "kind": "canary"}
    long = {**unstructure(intent), "items": [["MNTBAE0001", 3, 3]]}
    assert problems(long, Intent) == ("data.items[0]: must have 2 members",)
    assert problems(wrong, Intent) == ("data.kind: must be buy, sell or delivery",)


# --- generated data ----------------------------------------------------------------------------------------------


@slow
@given(st.data())
@pytest.mark.parametrize("type_", MODELS, ids=str)
def test_json_converted_to_model_and_back_is_equal(type_: Any, data: st.DataObject):
    json_data = data.draw(MODELS[type_])
    model = structure(json_data, type_)
    assert loads(dumps(unstructure(model))) == json_data
    assert structure(loads(dumps(unstructure(model))), type_) == model


@pytest.mark.requirement(43)
@slow
@given(st.data())
@pytest.mark.parametrize("type_", MODELS, ids=str)
def test_corrupted_data_is_a_model_or_raises_structure_error(type_: Any, data: st.DataObject):
    json_data = data.draw(corrupted(MODELS[type_]))
    try:
        model = structure(json_data, type_)
    except StructureError as mismatch:
        assert mismatch.problems
        assert all(problem.startswith("data") and ": " in problem for problem in mismatch.problems)
        assert "does not match the schema" not in str(mismatch)
    else:
        if isinstance(model, Page):
            model = attrs.evolve(model, unreadable=())  # rows that cannot be read are not written back
        assert structure(unstructure(model), type_) == model


CANARIES = {
    "firstname": "Zerrin", "lastname": "Kanarya", "email": "zerrin@kanarya.example", "phone": "+905559998877",
    "identity_number": "98765432109", "birthdate": "1961-07-17", "external_id": "kanarya-0001-customer",
}  # fmt: skip


def test_problems_contain_paths_and_no_values():
    data = basket_data(
        customer={**CANARIES, "birthdate": "17.07.1961 Kanarya", "fullname": ["Zerrin"]}, price="98765432109x"
    )
    data["items"] = [{**data["items"][0], "sku": ["Kanarya"]}, "Kanarya"]
    with pytest.raises(StructureError) as caught:
        structure(data, Basket)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    assert "data.customer.birthdate" in shown
    assert [word for word in ("Kanarya", "Zerrin", "98765432109", "17.07") if word in shown] == []


def test_problem_of_other_exception_omits_its_text():
    assert [*describe_problems(OverflowError("canary"), "data.x")] == ["data.x: does not match the schema"]


def test_generated_and_cattrs_hooks_require_the_same_fields():
    # This library generates the fast hook and cattrs the one that explains errors: both must require the same fields.
    item = sample("update_basket_item.response")["data"]["items"][0]
    for name in attrs.fields_dict(LineItem):
        if name in {"product_images", "prices"}:
            continue
        lacking = {key: value for key, value in item.items() if key != name}
        assert problems(lacking, LineItem) == (f"data.{name}: required field missing",)
    assert problems({"remaining": 1}, PriceFix) == ("data.nextUpdate: required field missing",)
