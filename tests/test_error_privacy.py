"""Attributes and pickles of errors hold no personal data; a copy in memory keeps the order of a rejected completion."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import date
from typing import Any

import attrs
import pytest

from minted_connect import CompletionRejected, MintedConnectError, ValidationFailed
from minted_connect.core import converter, exact_json
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.response import RawResponse, parse_response
from minted_connect.models import Order
from tests.core.test_response import SAMPLES

CANARIES = ("zerrin@kanarya.example", "98765432109", "Zerrin")
BODY = {"external_id": "shop-1", "email": CANARIES[0], "identity_number": CANARIES[1], "firstname": CANARIES[2]}


def failure(status: int, document: Any) -> MintedConnectError:
    raw = RawResponse(status, {}, document if isinstance(document, bytes) else json.dumps(document).encode())
    with pytest.raises(MintedConnectError) as caught:
        parse_response(raw, request=Request(OPERATIONS["customers.create"], body=BODY))
    return caught.value


def everything(error: MintedConnectError) -> str:
    return f"{vars(error)!r} {error.args!r} {pickle.dumps(error).decode('utf-8', 'replace')}"


TEXT = f"{CANARIES[2]}: {CANARIES[0]} and {CANARIES[1]} are taken"


@pytest.mark.requirement(33)
@pytest.mark.parametrize(
    ("status", "document"),
    [
        (409, {"data": None, "success": False, "code": 409, "message": TEXT}),
        (200, {"data": None, "success": False, "code": 7, "message": TEXT}),
        (500, {"message": TEXT}),
        (403, f"<p>{TEXT}</p>".encode()),
        (422, {"data": None, "success": False, "code": 422, "message": TEXT}),
        (422, {"message": "No.", "errors": {"email": [TEXT], "x": TEXT}}),
        (422, {"message": "No.", "errors": {CANARIES[0]: ["taken"], f"users.{CANARIES[2]}": ["taken"]}}),
        (422, {"errors": [{"field": CANARIES[1], "message": "taken"}]}),
        (422, [TEXT]),
    ],
)
def test_error_attributes_and_pickle_hold_masked_text(status, document):
    error = failure(status, document)
    for canary in CANARIES:
        assert canary not in everything(error)


def test_names_of_sent_fields_stay_readable():
    body = {"sku": "qty", "qty": "sku"}
    raw = RawResponse(422, {}, json.dumps({"errors": {"qty": ["the qty is wrong"], "sku": ["wrong"]}}).encode())
    with pytest.raises(ValidationFailed) as caught:
        parse_response(raw, request=Request(OPERATIONS["baskets.add_item"], body=body))
    assert caught.value.fields == {"qty": ("the *** is wrong",), "sku": ("wrong",)}
    assert str(caught.value).endswith("qty: the *** is wrong; sku: wrong")


def test_text_of_many_fields_is_short():
    error = failure(422, {"errors": {f"field{number}": ["x" * 150] for number in range(500)}})
    assert isinstance(error, ValidationFailed)
    assert len(error.fields) == 500
    assert error.reason.endswith("…")
    assert len(error.reason) < 300


def test_fields_that_are_masked_to_one_name_keep_all_messages():
    error = failure(422, {"errors": {"a@kanarya.example": ["one"], "b@kanarya.example": ["two"]}})
    assert isinstance(error, ValidationFailed)
    assert error.fields == {"***": ("one", "two")}


@pytest.fixture
def order() -> Order:
    document = exact_json.loads((SAMPLES / "complete_delivery.response.json").read_bytes(), max_depth=64)
    order = converter.structure(document["data"], Order)
    customer = attrs.evolve(order.customer, firstname=CANARIES[2], birthdate=date(1971, 2, 3), email="")
    return attrs.evolve(order, customer=customer)


@pytest.mark.requirement(33)
def test_pickled_rejection_holds_no_personal_data(order: Order):
    error = CompletionRejected("the order was cancelled", order)
    text = everything(error)[len(repr(vars(error))) :]
    pickled = pickle.dumps(error).decode("utf-8", "replace")
    personal = [getattr(order.customer, name) for name in ("firstname", "lastname", "phone", "identity_number")]
    address = order.shippingaddress
    personal += [order.token, order.price_token, *([address.fullname, address.address] if address else [])]
    assert len([value for value in personal if value]) >= 6
    for value in filter(None, personal):
        assert value not in pickled
    assert "1971" not in pickled
    assert text


def test_unpickled_rejection_keeps_what_is_not_personal(order: Order):
    error = CompletionRejected("the order was cancelled", order)
    error.add_note("a note")
    error.attempts = 3
    loaded = pickle.loads(pickle.dumps(error))
    assert (str(loaded), loaded.__notes__, loaded.attempts) == (str(error), ["a note"], 3)
    kept = loaded.order
    assert (kept.id, kept.paid_total, kept.status_name, kept.items) == (
        order.id,
        order.paid_total,
        order.status_name,
        order.items,
    )
    assert kept.raw == {}
    assert (kept.customer.firstname, kept.customer.email, kept.customer.birthdate) == ("***", "", None)
    assert kept.customer.id == order.customer.id


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copied_rejection_keeps_its_order(order: Order, duplicate):
    error = CompletionRejected("the order was cancelled", order)
    error.add_note("a note")
    copied = duplicate(error)
    copied.add_note("another note")
    assert (copied.order, copied.order.raw, copied.args) == (order, order.raw, error.args)
    assert error.__notes__ == ["a note"]
