from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import pytest

from minted_connect import models
from minted_connect.core.converter import structure
from minted_connect.core.exact_json import loads
from minted_connect.errors import APIError, CompletionRejected, NotExecuted, NotSent, OrderUnreadable
from minted_connect.models import (
    Basket,
    BasketKey,
    Completion,
    Customer,
    Intent,
    IntentState,
    Order,
    OrderKind,
    OrderStatus,
    Page,
    PriceFix,
    Receipt,
    Shipping,
)
from minted_connect.serialization import to_dict
from tests.support.strategies import SAMPLES

CLASSES = [value for value in vars(models).values() if inspect.isclass(value) and attrs.has(value)]
TOP_LEVEL = {"Customer", "Product", "Basket", "Order", "Holding", "Rate", "RatePoint", "Receipt", "Invoice", "Page"}


def sample(name: str, type_: Any) -> Any:
    return structure(loads((SAMPLES / name).read_bytes())["data"], type_)


@pytest.fixture
def basket() -> Basket:
    return sample("update_basket_item.response.json", Basket)


@pytest.fixture
def order() -> Order:
    return sample("complete_delivery.response.json", Order)


def test_all_lists_public_models_in_order():
    public = {
        name
        for name, value in vars(models).items()
        if not name.startswith("_") and not inspect.ismodule(value) and value.__module__.startswith("minted_connect")
    }
    assert models.__all__ == sorted(public)


@pytest.mark.parametrize("model", CLASSES)
def test_model_is_frozen_documented_and_resolvable(model: type):
    assert model.__doc__
    assert model.__module__.startswith("minted_connect.models.")
    assert get_type_hints(model)
    fields = attrs.fields(model)
    assert not any(field.kw_only for field in fields)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(object.__new__(model), fields[0].name, None)


@pytest.mark.requirement(37)
def test_model_fields_contain_no_float():
    hints = [hint for model in CLASSES for name, hint in get_type_hints(model).items() if name != "sent_at"]
    assert not [hint for hint in hints if float in {hint, *get_args(hint)}]


@pytest.mark.parametrize("name", sorted({*TOP_LEVEL, "Completion"}))
def test_raw_is_excluded_from_repr_and_comparison(name: str):
    raw = attrs.fields_dict(getattr(models, name))["raw"]
    assert (raw.repr, raw.eq, raw.hash) == (False, False, None)


def test_models_without_raw_are_equal(basket: Basket):
    bare = attrs.evolve(basket, raw={})
    assert (bare == basket, hash(bare) == hash(basket), repr(bare) == repr(basket)) == (True, True, True)


@pytest.mark.parametrize("duplicate", [lambda model: pickle.loads(pickle.dumps(model)), copy.copy, copy.deepcopy])
def test_models_survive_pickle_and_copy(basket: Basket, order: Order, duplicate: Any):
    for model in (basket, order, Page((order,), 1, 1, 10, 1)):
        duplicated = duplicate(model)
        assert (duplicated, duplicated.raw) == (model, model.raw)


# --- kinds and states --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "tx_type", "delivered", "kind"),
    [
        ("buy", "sell", True, OrderKind.BUY),
        ("sell", "oneoffpurchase", False, OrderKind.SELL),
        ("delivery", "", False, OrderKind.DELIVERY),
        ("walletable_ecommerce", "oneoffpurchase", True, OrderKind.BUY),
        ("walletable_ecommerce", "buy", False, OrderKind.BUY),
        ("walletable_ecommerce", "sell", False, OrderKind.SELL),
        ("walletable_ecommerce", "delivery", False, OrderKind.DELIVERY),
        ("walletable_ecommerce", "gift", True, OrderKind.DELIVERY),
        ("walletable_ecommerce", "gift", False, None),
    ],
)
def test_kind_is_from_type_then_tx_type_then_delivery(
    order: Order, type_: str, tx_type: str, delivered: bool, kind: OrderKind | None
):
    shipment = order.delivery if delivered else None
    assert attrs.evolve(order, type=type_, tx_type=tx_type, delivery=shipment).kind is kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("update_basket_item.response.json", OrderKind.BUY),
        ("complete_buy.response.assumed.json", OrderKind.BUY),
        ("complete_sell.response.assumed.json", OrderKind.SELL),
        ("complete_delivery.response.json", OrderKind.DELIVERY),
    ],
)
def test_kind_of_each_sample(name: str, kind: OrderKind):
    assert sample(name, Order).kind is kind


@pytest.mark.parametrize("status", [*OrderStatus, "Lost at sea"])
def test_order_is_final_and_is_failed_by_status(order: Order, status: OrderStatus | str):
    order = attrs.evolve(order, status_name=status)
    assert order.status == status
    assert order.is_final == (status in {"Completed", "Cancelled", "Refunded"})
    assert order.is_failed == (status in {"Cancelled", "Refunded"})


def test_basket_key_has_customer_and_token(basket: Basket):
    assert basket.key == BasketKey("ea0982a7-4fd3-43ff-a682-cae5870d1eac", "SKTHzfR4HnKXmcM4XeHfFRUPq6n3jJGL")


@pytest.mark.parametrize(("current", "last", "more"), [(1, 1, False), (1, 2, True), (2, 2, False), (1, 0, False)])
def test_page_has_next_before_the_last_page(current: int, last: int, more: bool):
    page = Page(("a", "b"), current, last, 2, 3)
    assert (page.has_next, [*page], len(page)) == (more, ["a", "b"], 2)


# --- the price lock ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remaining", "seconds_left", "expired"), [(201, 101.0, False), (100, 0.0, True), (-2, 0.0, True)]
)
def test_price_fix_expires_by_its_monotonic_clock(remaining: int, seconds_left: float, expired: bool):
    fix = PriceFix(remaining, datetime.now(UTC), None, None, 500.0, lambda: 600.0)
    assert (fix.seconds_left, fix.expired) == (seconds_left, expired)


def test_price_fix_clock_survives_evolve_but_not_copy():
    fix = PriceFix(201, datetime.now(UTC), True, "token", 500.0, lambda: 600.0)
    assert attrs.evolve(fix, token="other").seconds_left == 101.0
    for duplicated in (pickle.loads(pickle.dumps(fix)), copy.deepcopy(fix)):
        assert duplicated == fix
        assert (duplicated.seconds_left, duplicated.expired) == (None, True)


def test_price_fixes_with_other_clocks_are_equal():
    at = datetime.now(UTC)
    fix, duplicated = PriceFix(1, at, None, None, 1.0, lambda: 2.0), PriceFix(1, at)
    assert (fix, hash(fix), repr(fix)) == (duplicated, hash(duplicated), repr(duplicated))


# --- personal data -----------------------------------------------------------------------------------------------

PERSONAL_DATA = [
    "Zerrin",
    "Kanarya",
    "zerrin@kanarya.example",
    "+905559998877",
    "987654321",
    "1961",
    "Papağan",
    "Kafes",
    "34711",
]


def customer() -> Customer:
    return Customer(
        *("kanarya-Kanarya-0001", "Zerrin", "Kanarya", "Kanarya", "Zerrin Kanarya", "zerrin@kanarya.example"),
        *("+905559998877", "F", "98765432109", "Kanarya V.D.", date(1961, 7, 17)),
    )


def shipping() -> Shipping:
    return Shipping(
        *("Zerrin Kanarya", "+905559998877", "Kanarya", "Kanarya", "Kafes Mah.", "Papağan Sk.", "98765432109"),
        *("Kanarya", "Papağan Sk.", "34711", "zerrin@kanarya.example"),
    )


@pytest.mark.requirement(33)
def test_repr_contains_no_personal_data(basket: Basket, order: Order):
    address = attrs.evolve(order.shippingaddress, fullname="Zerrin Kanarya", phone="+905559998877", address="Papağan")
    billing = {"fullname": "Zerrin Kanarya"}
    payment = attrs.evolve(basket.payment, details={"card": "Zerrin 98765432109"})
    with_data = attrs.evolve(
        order, customer=customer(), shippingaddress=address, billingaddress=billing, payment=payment, raw=billing
    )
    intent = Intent(
        *(
            "id",
            OrderKind.BUY,
            "Kanarya-customer-id",
            "SKTHzfR4HnKXmcM4XeHfFRUPq6n3jJGL",
            1,
            "guid",
            "number",
            "price-token",
        ),
        *(Decimal(1), "AED", (), datetime.now(UTC), IntentState.UNKNOWN),
    )
    assert hash(with_data) == hash(attrs.evolve(with_data, raw={}))
    page = Page((with_data,), 1, 1, 10, 1, billing)
    shown = repr(
        [
            with_data,
            customer(),
            shipping(),
            intent,
            page,
            Completion(with_data, {}, billing),
            basket.key,
            Receipt(url="Zerrin"),
        ]
    )
    assert [word for word in [*PERSONAL_DATA, "SKTHzfR4HnKXmcM4XeHf"] if word in shown] == []


def test_completion_order_id_comes_from_order_or_keys(order: Order):
    assert Completion(order, {"id": "7"}).order_id == order.id
    assert Completion(None, {"id": "10984"}).order_id == 10984
    for unread in ({}, {"id": ""}, {"id": "-1"}, {"id": "1e5"}, {"id": "\u0661"}, {"id": "1\n"}, {"id": "9" * 5000}):
        assert Completion(None, unread).order_id is None


def test_completion_require_order_returns_the_order(order: Order):
    assert Completion(order).require_order() is order


@pytest.mark.parametrize(("keys", "number"), [({"id": "10984"}, 10984), ({}, None)])
def test_completion_require_order_unreadable_raises(keys: dict[str, str], number: int | None):
    with pytest.raises(OrderUnreadable, match=r"\Athe purchase is confirmed .*do not buy again") as caught:
        Completion(None, keys).require_order()
    assert caught.value.order_id == number
    assert not caught.value.safe_to_retry
    assert not isinstance(caught.value, NotSent | NotExecuted | CompletionRejected | APIError)


def test_basket_seconds_left_is_that_of_its_price_fix(basket: Basket):
    fix = PriceFix(201, datetime.now(UTC), sent_at=1000.0, elapsed=lambda: 1100.0)
    fixed = attrs.evolve(basket, price_fix=fix)
    assert (fixed.seconds_left, fixed.is_expired) == (101.0, False)
    expired = attrs.evolve(basket, price_fix=attrs.evolve(fix, remaining=100))
    assert (expired.seconds_left, expired.is_expired) == (0.0, True)
    for unknown in (None, PriceFix(201, datetime.now(UTC))):
        bare = attrs.evolve(basket, price_fix=unknown)
        assert (bare.seconds_left, bare.is_expired) == (None, True)


def test_customer_repr_keeps_last_characters():
    assert "identity_number='***09'" in repr(customer())
    assert "external_id='***0001'" in repr(customer())
    assert "firstname=None" in repr(Customer("x"))
    assert repr(Customer("short", identity_number="1234")).count("***") == 2


def test_to_dict_contains_all_data_unless_redacted(basket: Basket):
    with_data = attrs.evolve(basket, customer=customer())
    plain, redacted = to_dict(with_data), to_dict(with_data, redact=True)
    assert plain["customer"]["firstname"] == "Zerrin"
    assert plain["items"][0]["prices"][2]["price"] == Decimal("11.85")
    assert [word for word in PERSONAL_DATA if word in repr(redacted)] == []
    assert (redacted["customer"]["middlename"], redacted["customer"]["wallets"]) == ("***", [])
    assert (redacted["paid_total"], redacted["items"]) == (Decimal("1852.6"), plain["items"])
    assert "raw" not in {*plain, *plain["customer"]}
    assert set(plain["price_fix"]) == {"remaining", "next_update", "updated", "token"}


def test_open_enums_are_typed_as_enum_or_string():
    hints = [hint for model in CLASSES for hint in get_type_hints(model).values() if get_origin(hint) is not None]
    for hint in hints:
        if {OrderStatus, models.MetalType, models.Gender} & {*get_args(hint)}:
            assert str in get_args(hint)
