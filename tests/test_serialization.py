"""Models as plain data and JSON, and back, with nothing changed."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect import (
    Basket,
    Completion,
    Customer,
    InvalidInput,
    Order,
    OrderProgress,
    OrderStatus,
    Page,
    Payment,
    Product,
    Rate,
    from_dict,
    from_json,
    models,
    to_dict,
    to_json,
)
from minted_connect.core.converter import structure
from minted_connect.core.exact_json import loads
from minted_connect.serialization import is_data

SAMPLES = Path(__file__).parent / "samples"
CLASSES = sorted(
    (
        value
        for value in vars(models).values()
        if inspect.isclass(value) and attrs.has(value) and value not in {models.ReconcileResult, models.Deal}
    ),
    key=lambda class_: class_.__name__,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
money = st.decimals(-(10**12), 10**12, places=4) | st.sampled_from([Decimal("1E+3"), Decimal("-0"), Decimal("1.10")])
zones = st.sampled_from([UTC, timezone(timedelta(hours=3)), timezone(timedelta(hours=-9, minutes=-30))])
times = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=zones)
members = st.dictionaries(text, st.none() | st.booleans() | st.integers() | text, max_size=3)
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: text,
    int: st.integers(-(10**15), 10**15),
    bool: st.booleans(),
    Decimal: money,
    datetime: times,
    date: st.dates(),
}


def values_of(type_: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of an annotation."""
    origin, parts = get_origin(type_), get_args(type_)
    if origin in {Union, types.UnionType}:
        return st.one_of([st.none() if part is types.NoneType else values_of(part) for part in parts])
    if origin is tuple and parts[-1] is Ellipsis:
        return st.lists(values_of(parts[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, parts))
    if origin is Mapping:
        return st.dictionaries(text, text, max_size=2) if parts[1] is str else members
    if attrs.has(origin or type_):
        return models_of(type_)
    if isinstance(type_, type) and issubclass(type_, Enum):
        return st.sampled_from(type_)
    return SCALARS[type_]


def models_of(type_: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for a model with any values, but no `raw`."""
    class_ = get_origin(type_) or type_
    fields = [field for field in attrs.fields(attrs.resolve_types(class_)) if is_data(field)]
    hints = {
        field.name: tuple[Rate, ...] if class_ is Page and field.name == "items" else field.type for field in fields
    }
    return st.fixed_dictionaries({name: values_of(hint) for name, hint in hints.items()}).map(
        lambda values: class_(**values)
    )


def complete(model: Any) -> list[Any]:
    """Return all data of a model, also what `==` ignores."""
    return [getattr(model, field.name) for field in attrs.fields(type(model)) if is_data(field)]


def of(class_: Any) -> Any:
    return Page[Rate] if class_ is Page else class_


@pytest.mark.requirement(37)
@pytest.mark.parametrize("class_", CLASSES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_model_survives_plain_data_and_json(class_: Any, data: st.DataObject) -> None:
    model = data.draw(models_of(class_))
    for restored in (
        from_dict(of(class_), to_dict(model)),
        from_dict(of(class_), to_dict(model, mode="json")),
        from_dict(of(class_), json.loads(json.dumps(to_dict(model, mode="json")))),
        from_json(of(class_), to_json(model)),
        from_json(of(class_), to_json(model, indent=2).encode()),
    ):
        assert (restored, complete(restored)) == (model, complete(model))
        assert type(restored) is class_


def nested_list(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def cyclic_list() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def sample(name: str, type_: Any) -> Any:
    return structure(loads((SAMPLES / name).read_bytes())["data"], type_)


@pytest.fixture
def order() -> Any:
    return sample("complete_delivery.response.json", Order)


@pytest.fixture
def basket() -> Any:
    return sample("update_basket_item.response.json", Basket)


def test_documented_examples_survive_json(order: Order, basket: Basket) -> None:
    assert from_json(Order, to_json(order)) == order
    assert from_json(list[Order], to_json([order, order])) == [order, order]
    assert from_json(tuple[Basket, ...], to_json([basket])) == (basket,)
    page = Page((order,), 1, 1, 10, 1)
    assert from_json(Page[Order], to_json(page)) == page
    completion = Completion(order, {"id": "7"}, differences=("one more line",))
    assert from_json(Completion, to_json(completion)) == completion


def test_restored_price_lock_counts_as_expired(basket: Basket) -> None:
    restored = from_dict(Basket, to_dict(basket))
    assert restored == basket
    assert restored.is_expired


def test_money_and_times_are_text_in_json(order: Order) -> None:
    plain = to_dict(order, mode="json")
    assert plain["paid_total"] == str(order.paid_total)
    assert plain["order_at"] == "2026-04-02T15:47:18Z" or datetime.fromisoformat(plain["order_at"]) == order.order_at
    assert plain["order_at"].endswith("Z")
    assert plain["items"][0]["product_weight"] == str(order.items[0].product_weight)
    assert json.loads(to_json(order)) == plain
    assert not [value for value in flatten(plain) if isinstance(value, float | Decimal)]
    assert set(to_dict(order)) == set(plain)


def flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in flatten(item)]
    return [leaf for item in value for leaf in flatten(item)] if isinstance(value, list) else [value]


def test_unknown_fields_are_included_on_request(order: Order) -> None:
    with_more = attrs.evolve(order, raw={**order.raw, "cashback": Decimal("1.50"), "tags": [{"a": None}]})
    assert "unknown" not in to_dict(with_more)
    assert to_dict(with_more, unknown=True)["unknown"] == {"cashback": Decimal("1.50"), "tags": [{"a": None}]}
    restored = from_json(Order, to_json(with_more, unknown=True))
    assert restored == with_more
    assert restored.raw == {"cashback": "1.50", "tags": [{"a": None}]}
    assert to_dict(with_more, unknown=True, redact=True)["unknown"] == "***"
    assert "unknown" not in to_dict(order, unknown=True)


def test_known_fields_with_other_names_are_not_unknown(basket: Basket) -> None:
    assert "pricefix" in basket.raw
    assert "unknown" not in to_dict(basket, unknown=True)
    holding = structure({"productName": "Bar", "newKey": 1}, models.Holding)
    assert to_dict(holding, unknown=True)["unknown"] == {"newKey": 1}


def test_progress_keeps_what_its_comparison_ignores() -> None:
    progress = OrderProgress(OrderStatus.COMPLETED, True, paid_total=Decimal("10.50"), currency_code="AED")
    restored = from_json(OrderProgress, to_json(progress))
    assert (restored.paid_total, restored.currency_code) == (Decimal("10.50"), "AED")


def test_redacted_json_has_no_personal_data() -> None:
    customer = Customer("customer-0001", firstname="canary-name", identity_number="canary-11109")
    assert "canary" not in to_json(customer, redact=True)
    assert "canary" not in to_json([{"who": customer}], redact=True)
    assert "canary-name" in to_json(customer)


def test_containers_of_models_become_json(order: Order) -> None:
    document = {"orders": (order,), "total": Decimal("1.10"), "at": date(2026, 2, 3), "n": 1, "rate": 0.5, "no": None}
    value = json.loads(to_json(document))
    assert value["orders"] == [to_dict(order, mode="json")]
    assert {**value, "orders": 0} == {"orders": 0, "total": "1.10", "at": "2026-02-03", "n": 1, "rate": 0.5, "no": None}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", float("nan"), Decimal("Infinity"), [{"x": object()}]])
def test_values_without_a_form_in_json_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^value: must"):
        to_json(value)


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1E+120"),
        Decimal("1E-101"),
        Decimal("1E+5000"),
        10**5000,
        "\ud800",
        {1: "a", "1": "b"},
        {None: 1},
        nested_list(5000),
        cyclic_list(),
    ],
    ids=["large", "fraction", "huge", "digits", "surrogate", "number as key", "none as key", "nested", "cycle"],
)
def test_values_that_from_json_could_not_read_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^value: must"):
        to_json(value)


@pytest.mark.parametrize("value", [1, "x", None, {}, Order, [1]])
def test_to_dict_refuses_what_is_no_model(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^model: must be a model"):
        to_dict(value)


def test_unknown_mode_is_refused(order: Order) -> None:
    with pytest.raises(InvalidInput, match=r"^mode: must be 'python' or 'json'"):
        to_dict(order, mode="yaml")  # type: ignore[arg-type]


BROKEN: list[tuple[Any, str, str]] = [
    ({"paid_total": 1.5}, "data.paid_total", "a float is not exact"),
    ({"paid_total": "1,5"}, "data.paid_total", "must be a Decimal"),
    ({"paid_total": "NaN"}, "data.paid_total", "must be a Decimal"),
    ({"paid_total": Decimal("NaN")}, "data.paid_total", "must be a Decimal"),
    ({"paid_total": True}, "data.paid_total", "must be a Decimal"),
    ({"paid_total": "1" * 101}, "data.paid_total", "must be a Decimal"),
    ({"order_at": "2026-02-20T12:27:57"}, "data.order_at", "with its offset"),
    ({"order_at": datetime(2026, 2, 20)}, "data.order_at", "with its offset"),
    ({"order_at": "2026-02-31T12:27:57Z"}, "data.order_at", "must be a date and time"),
    ({"id": "7"}, "data.id", "must be a whole number"),
    ({"id": True}, "data.id", "must be a whole number"),
    ({"guid": 7}, "data.guid", "must be text"),
    ({"status_name": 7}, "data.status_name", "must be text"),
    ({"items": {}}, "data.items", "must be a list"),
    ({"items": [{}]}, r"data.items\[0\].item_currency_id", "required field missing"),
    ({"customer": None}, "data.customer", "must be an object"),
    ({"paid": 1}, "data", "unknown field 'paid'"),
]


@pytest.mark.parametrize(("change", "field", "rule"), BROKEN)
def test_bad_data_names_field_and_rule(order: Order, change: Any, field: str, rule: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: .*{rule}") as caught:
        from_dict(Order, {**to_dict(order), **change})
    assert caught.value.rule
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("data", [None, 1, [], "x", [1]])
def test_data_of_another_shape_is_refused(data: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^data: must be an object"):
        from_dict(Order, data)


@pytest.mark.parametrize("type_", [int, str, dict, list, list[int], "Order", None, Decimal])
def test_types_that_are_no_model_are_refused(type_: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^type_: must be a model class"):
        from_dict(type_, {})


@pytest.mark.parametrize("document", ["", "{", "NaN", '{"id": 1, "id": 2}', "\ud800", b"\xff", "[" * 500])
def test_text_that_is_no_json_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInput, match=r"^text: must be JSON"):
        from_json(Order, document)


def test_fractions_in_json_text_are_exact() -> None:
    payment = Payment("u", "t", True, "3d", "ok", Decimal("0.1"), Decimal(0), Decimal("0.1"))
    document = to_json(payment).replace('"amount":"0.1"', '"amount":0.1')
    assert from_json(Payment, document) == payment


def test_list_errors_name_the_row() -> None:
    rate = to_dict(models.Category(1, "Coins"))
    with pytest.raises(InvalidInput, match=r"^data\[1\].id: must be a whole number"):
        from_dict(list[models.Category], [rate, {**rate, "id": None}])
    with pytest.raises(InvalidInput, match=r"^data.items\[0\].id: required field missing"):
        from_dict(Page[Product], to_dict(Page((), 1, 1, 1, 0)) | {"items": [{}]})


def test_models_pass_through_unchanged(order: Order) -> None:
    assert from_dict(list[Order], [order, to_dict(order)]) == [order, order]


@given(members)
def test_free_form_objects_survive(details: Any) -> None:
    payment = Payment("u", "t", True, "3d", "ok", Decimal(1), Decimal(0), Decimal(1), details)
    assert from_json(Payment, to_json(payment)) == payment
