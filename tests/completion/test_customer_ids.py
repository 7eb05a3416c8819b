"""A customer id that lost its leading zeros or its JSON type is not the id of another customer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minted_connect import OutcomeUnknown
from minted_connect.completion.order_match import Match, match_order, refers_to
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter, exact_json
from minted_connect.models import Intent, Order
from minted_connect.models.json_types import CustomerMatch, compare_customer, customer_id_of
from tests.completion.fakes import FakeApiClient, basket_json, intent_of, order_json, reconcile

pytestmark = pytest.mark.anyio

UNREADABLE: list[Any] = [None, "", [], {}, ["7"], True, False, Decimal("1.5")]

digits = st.from_regex(r"[0-9]{1,20}", fullmatch=True) | st.from_regex(r"0{1,9}[0-9]{1,9}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
customers = digits | texts | st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(str)


def as_numbers(customer: str) -> list[Any]:
    """Return the numbers that PHP or JavaScript may write in place of a customer id."""
    numbers: list[Any] = []
    if customer.isascii() and customer.isdigit():
        numbers += [int(customer), exact_json.loads(repr(float(customer)).encode()), int(float(customer))]
    return numbers


def owned_by(customer: Any, **changes: Any) -> dict[str, Any]:
    order = order_json(**changes)
    return {**order, "customer": {**order["customer"], "external_id": customer}}


def match(raw: dict[str, Any], intent: Intent) -> Match:
    try:
        order = converter.structure(raw, Order)
    except converter.StructureError:
        order = None
    return match_order(raw, order, intent)


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
@given(customer=customers, data=st.data())
def test_order_with_our_token_is_never_another_customers(customer: str, data: st.DataObject) -> None:
    stripped = customer.lstrip("0") or "0"
    without_zeros = [stripped] if customer.isascii() and customer.isdigit() else []
    found = data.draw(st.sampled_from([customer, *without_zeros, *as_numbers(customer), *UNREADABLE]))
    intent = intent_of(external_customer_id=customer)
    strength = match(owned_by(found), intent)
    if found == customer:
        assert strength is Match.TOKEN
    else:
        assert strength in {Match.LIKELY, Match.TOKEN}
    # Only an id that is the expected one, digit by digit, proves the customer.
    assert (strength is Match.TOKEN) == (str(customer_id_of(owned_by(found))) == customer)


@pytest.mark.requirement(52)
@given(customer=customers, other=customers, as_number=st.booleans())
def test_order_of_another_customer_never_matches(customer: str, other: str, as_number: bool) -> None:
    assume(customer.lstrip("0") != other.lstrip("0"))
    numbers = as_numbers(other)[:1] if as_number else []
    if numbers:
        assume(not (customer.isascii() and customer.isdigit()) or float(customer) != float(other))
        assume(customer.strip() == customer and customer.isdigit())
    raw, intent = owned_by(numbers[0] if numbers else other), intent_of(external_customer_id=customer)
    assert match(raw, intent) is Match.NONE
    assert not refers_to(raw, intent)


@given(
    found=customers | st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3),
    expected=customers,
)
def test_comparison_accepts_any_value(found: Any, expected: str) -> None:
    raw = {"customer": {"external_id": found}}
    assert (compare_customer(raw, expected) is CustomerMatch.SAME) == (customer_id_of(raw) == expected)


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("found", "expected", "comparison"),
    [
        ("007", "007", CustomerMatch.SAME),
        (7, "7", CustomerMatch.SAME),
        (0, "0", CustomerMatch.SAME),
        (Decimal("7.0"), "7", CustomerMatch.SAME),
        (7, "007", CustomerMatch.UNKNOWN),
        ("7", "007", CustomerMatch.UNKNOWN),
        ("007", "7", CustomerMatch.UNKNOWN),
        (0, "000", CustomerMatch.UNKNOWN),
        (1000, "1e3", CustomerMatch.UNKNOWN),
        (Decimal("1.2345678901234567e19"), "12345678901234567890", CustomerMatch.UNKNOWN),
        (8, "007", CustomerMatch.OTHER),
        (70, "007", CustomerMatch.OTHER),
        (0, "alice", CustomerMatch.OTHER),
        ("0a", "a", CustomerMatch.OTHER),
        ("alice", "bob", CustomerMatch.OTHER),
        *[(value, "7", CustomerMatch.UNKNOWN) for value in UNREADABLE],
    ],
)
def test_customer_is_compared_by_text_and_number(found: Any, expected: str, comparison: CustomerMatch) -> None:
    assert compare_customer({"customer": {"external_id": found}}, expected) is comparison


@pytest.mark.parametrize("raw", [None, [], {}, {"customer": None}, {"customer": []}, {"customer": "7"}])
def test_object_without_a_customer_is_unknown(raw: Any) -> None:
    assert (customer_id_of(raw), compare_customer(raw, "7")) == (None, CustomerMatch.UNKNOWN)


# --- read-back ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
@pytest.mark.parametrize("found", [7, "7", Decimal("7.0"), None, []])
async def test_own_order_without_zeros_keeps_the_verdict_open(found: Any) -> None:
    """Without the row, the search would be complete, and the open basket would prove that nothing was bought."""
    api = FakeApiClient(completion=CompletionPolicy(reconcile_budget=200.0, latest_landing=1.0))
    basket = basket_json()
    api.basket = {**basket, "customer": {**basket["customer"], "external_id": "007"}}
    api.orders = [owned_by(found)]
    with pytest.raises(OutcomeUnknown) as caught:
        await reconcile(api, intent_of(external_customer_id="007"))
    assert "order 10984 may be the order of this purchase" in caught.value.evidence
