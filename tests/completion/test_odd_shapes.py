"""No shape that Laravel or MySQL gives to a response changes how an order matches, or what a read-back proves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect import MintedConnectError
from minted_connect.completion.order_match import (
    Match,
    differences,
    identifiers,
    is_cleared,
    last_page,
    match_order,
    refers_to,
)
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent, IntentState, Order
from minted_connect.models.json_types import customer_id_of
from tests.completion.fakes import (
    CUSTOMER,
    TOKEN,
    FakeApiClient,
    basket_json,
    completions_of,
    intent_of,
    order_json,
    order_of,
    page_json,
)

pytestmark = pytest.mark.anyio

Change = Callable[[str, Any], Any]
_DATES = {"birthdate", "estimated_arrival_date"}
_OBJECTS = {"shippingaddress", "billingaddress", "payment", "delivery"}


def ids_as_text(name: str, value: Any) -> Any:
    is_number = name == "id" or name.endswith("_id") or name in {"current_page", "last_page", "per_page"}
    return str(value) if is_number and type(value) is int else value


def flags_as_numbers(_: str, value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def objects_as_arrays(name: str, value: Any) -> Any:
    return [] if value is None and name in _OBJECTS else value


def nulls_as_text(name: str, value: Any) -> Any:
    return "" if value is None and name not in {"data", "token", "guid"} else value


def zero_dates(name: str, value: Any) -> Any:
    return "0000-00-00" if name in _DATES and value is None else value


def midnights(name: str, value: Any) -> Any:
    return f"{value}T00:00:00.000000Z" if name in _DATES and value else value


QUIRKS: list[Change] = [ids_as_text, flags_as_numbers, objects_as_arrays, nulls_as_text, zero_dates, midnights]


def reshaped(data: Any, changes: list[Change]) -> Any:
    """Return data with the members of all objects changed."""
    if isinstance(data, list):
        return [reshaped(value, changes) for value in data]
    if not isinstance(data, dict):
        return data
    found = {}
    for name, value in data.items():
        member = reshaped(value, changes)
        for change in changes:
            member = change(name, member)
        found[name] = member
    return found


def parsed(raw: Any) -> Order | None:
    try:
        return converter.structure(raw, Order)
    except converter.StructureError:
        return None


def key(own: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([own, "OTHER", "", None])


ORDERS = st.fixed_dictionaries(
    {
        "token": key(TOKEN),
        "guid": key(intent_of().guid),
        "increment_id": st.sampled_from([intent_of().increment_id, "1", ""]),
        "id": st.sampled_from([10984, 77, 10**12]),
        "status_name": st.sampled_from(["Pending", "Cancelled", "Lost at sea"]),
        "order_creation_status": st.sampled_from(["order", "basket"]),
        "paid_total": st.sampled_from([Decimal("1852.6"), Decimal("1852.61"), "1852.60"]),
        "order_at": st.sampled_from(["2026-02-20T12:27:57.000000Z", "2026-02-01 00:00:00"]),
        "delivery": st.sampled_from([None, {"estimated_arrival_date": None}, {"estimated_arrival_date": "2026-02-24"}]),
        "payment": st.sampled_from(
            [
                None,
                {
                    "redirect_url": "",
                    "token": "",
                    "is_3d": False,
                    "auth_mode": "",
                    "state": "new",
                    "amount": 1,
                    "comission": 0,
                    "total": 1,
                    "details": None,
                },
            ]
        ),
    }
).map(lambda changes: order_json(**changes))
INTENTS = st.builds(
    intent_of, known_orders=st.sampled_from([(), (77,), (10984,)]), increment_id=st.sampled_from(["59047701704", ""])
)
CHANGES = st.lists(st.sampled_from(QUIRKS), min_size=1, max_size=4, unique=True)


@pytest.mark.requirement(52)
@pytest.mark.requirement(38)
@settings(deadline=None, max_examples=200)
@given(raw=ORDERS, intent=INTENTS, changes=CHANGES, keeps_number=st.booleans())
def test_quirk_does_not_change_a_match(raw: Any, intent: Intent, changes: list[Change], keeps_number: bool) -> None:
    odd = reshaped(raw, changes)
    found = match_order(raw, parsed(raw), intent, keeps_number=keeps_number)
    assert match_order(odd, parsed(odd), intent, keeps_number=keeps_number) is found
    assert (parsed(odd) is None) == (parsed(raw) is None)
    assert differences(odd, parsed(odd), intent) == differences(raw, parsed(raw), intent)
    assert identifiers(odd).get("id") == identifiers(raw).get("id")
    assert refers_to(odd, intent) == refers_to(raw, intent)
    cleared = {**raw, "items": [], "order_creation_status": "basket"}
    assert is_cleared(reshaped(cleared, changes), intent) == is_cleared(cleared, intent)


def read_back(rows: list[Any], basket: Any, intent: Intent, changes: list[Change]) -> tuple[Any, ...]:
    """Reconcile an intent against a server with these shapes; return the outcome."""

    async def reconcile() -> tuple[Any, ...]:
        api = FakeApiClient(completion=CompletionPolicy(reconcile_budget=3.0))
        api.basket, api.orders = reshaped(basket, changes), reshaped(page_json(rows), changes)
        journal = MemoryJournal()
        await journal.prepare(intent)
        try:
            completion = await completions_of(api, journal).reconcile(intent)
        except MintedConnectError as error:
            outcome: tuple[Any, ...] = (type(error), getattr(error, "evidence", ()))
        else:
            outcome = (completion.order_id, completion.differences)
        [stored] = [*journal._closed.values(), *journal._open.values()]
        return (*outcome, stored.state, stored.order_id, api.count("orders.page"))

    return asyncio.run(reconcile())


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(ORDERS, max_size=2),
    basket=st.sampled_from([None, basket_json(), basket_json(items=[]), basket_json(token="X" * 32)]),
    intent=INTENTS,
    changes=CHANGES,
)
def test_quirk_does_not_change_a_verdict(rows: list[Any], basket: Any, intent: Intent, changes: list[Change]) -> None:
    assert read_back(rows, basket, intent, changes) == read_back(rows, basket, intent, [])


# --- ids as numbers ----------------------------------------------------------------------------------------------


@pytest.mark.requirement(52)
@pytest.mark.parametrize("increment_id", ["59047701704", "00047701704"])
def test_key_as_number_matches(increment_id: str) -> None:
    raw = order_json(token=None, guid=None, increment_id=int(increment_id))
    intent = intent_of(increment_id=increment_id)
    assert match_order(raw, parsed(raw), intent) is Match.INCREMENT_ID
    assert refers_to(raw, intent)
    assert not any("increment_id" in difference for difference in differences(raw, None, intent))
    assert not refers_to(raw, intent_of(increment_id="59047701705"))


@pytest.mark.requirement(52)
def test_customer_as_number_is_the_customer() -> None:
    raw = order_json()
    raw["customer"]["external_id"] = 4711
    intent = intent_of(external_customer_id="4711")
    assert customer_id_of(raw) == "4711"
    assert match_order(raw, parsed(raw), intent) is Match.TOKEN
    assert match_order(raw, parsed(raw), intent_of(external_customer_id="4712")) is Match.NONE


@pytest.mark.requirement(52)
def test_known_order_as_text_is_excluded() -> None:
    raw = {"customer": {"external_id": CUSTOMER}, "id": "77"}
    assert match_order(raw, None, intent_of(known_orders=(77,))) is Match.NONE
    assert match_order(raw, None, intent_of(known_orders=(78,))) is Match.LIKELY


@pytest.mark.requirement(52)
@pytest.mark.parametrize(
    ("value", "expected"), [(3, 3), ("3", 3), (None, 9), ("", 9), ("x", 9), (True, 9), ([], 9), ("9" * 5000, 9)]
)
def test_last_page_is_read_from_number_or_digits(value: Any, expected: int) -> None:
    assert last_page({"last_page": value}, default=9) == expected


async def test_order_number_as_text_is_stored_in_the_journal() -> None:
    api, journal = FakeApiClient(), MemoryJournal()
    api.basket, api.orders = None, [order_json(id="10984")]
    await journal.prepare(intent_of())
    completion = await completions_of(api, journal).reconcile(intent_of())
    assert (completion.order_id, completion.require_order().id) == (10984, 10984)
    [stored] = journal._closed.values()
    assert (stored.state, stored.order_id) == (IntentState.CONFIRMED, 10984)


async def test_order_in_an_array_with_gaps_is_found() -> None:
    api = FakeApiClient()
    api.basket = None
    api.orders = lambda _: {**page_json([]), "data": {"3": order_of("customer-2"), "8": order_json()}}
    completion = await completions_of(api, MemoryJournal()).reconcile(intent_of())
    assert completion.order is not None
