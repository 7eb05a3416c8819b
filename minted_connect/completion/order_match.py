"""Matches listed orders, which `reconcile.ReadBack` searches, to an intent, and lists the differences. No I/O.

`ReadBack` decides between several orders that match.

The functions read JSON as received, so that an order is recognised even if an unrelated field of it cannot be parsed.
Ids are compared as text, because PHP may write the same id as a number or as a string.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, cast

from minted_connect.models import CreationStatus, Deal, Intent, Order
from minted_connect.models.json_types import CustomerMatch, compare_customer, whole_number
from minted_connect.models.order_status import is_failing, is_known

__all__ = [
    "Match",
    "differences",
    "identifiers",
    "is_cleared",
    "is_failed",
    "is_order",
    "last_page",
    "mapping",
    "match_order",
    "pieces_by_sku",
    "refers_to",
    "total_rows",
]

_CREATED_BEFORE: Final = timedelta(minutes=10)
"""Maximum time by which an order without common keys may be dated earlier than its intent."""


class Match(enum.IntEnum):
    """Certainty that a listed order belongs to an intent, weakest first. From `ID` on, members name the proving key."""

    NONE = 0
    """The order belongs to another purchase."""
    LIKELY = 1
    """The order may belong to the intent, but no key proves it: a person has to decide."""
    ID = 2
    INCREMENT_ID = 3
    GUID = 4
    TOKEN = 5


def match_order(raw: Mapping[str, Any], order: Order | None, intent: Intent, *, keeps_number: bool = True) -> Match:
    """Return how strongly a listed order matches an intent. Orders of other customers never match.

    If the customer of the order is not known for certain, no key proves that the order belongs to the intent.

    Args:
        raw: The order as received.
        order: The same order parsed, None if it cannot be parsed.
        intent: The intent whose order is searched.
        keeps_number: Whether an order has the number (`id`) of its basket (question Q4).
    """
    customer = compare_customer(raw, intent.external_customer_id)
    if customer is CustomerMatch.OTHER:
        return Match.NONE
    is_own = customer is CustomerMatch.SAME
    other_keys = False
    for strength, name, expected in (
        (Match.TOKEN, "token", intent.cart_token),
        (Match.GUID, "guid", intent.guid),
        (Match.INCREMENT_ID, "increment_id", intent.increment_id),
    ):
        # An empty key on either side proves neither a match nor a mismatch.
        if not expected or not raw.get(name):
            continue
        if _is_key(raw[name], expected):
            return strength if is_own else Match.LIKELY
        other_keys = True
    if _as_text(raw.get("id")) in [str(number) for number in intent.known_orders]:
        return Match.NONE  # listed before the completion was sent
    if order is None:
        # Without any key to compare, the order may be the one of the intent.
        return Match.NONE if other_keys else Match.LIKELY
    if order.order_creation_status != CreationStatus.ORDER or order.kind not in {intent.kind, None}:
        return Match.NONE
    if pieces_by_sku(order) != _agreed_pieces(intent):
        return Match.NONE
    # Orders may have a number range different from baskets (Q4): an order with an equal number may belong to another
    # purchase, and if its keys name another basket, even one with equal items.
    if order.id == intent.basket_id:
        return Match.ID if is_own and keeps_number and not other_keys else Match.LIKELY
    is_recent = order.order_at >= min(intent.created_at, intent.created_by_server) - _CREATED_BEFORE
    return Match.LIKELY if is_recent and order.paid_total == intent.paid_total else Match.NONE


def differences(raw: Mapping[str, Any], order: Order | None, intent: Intent) -> tuple[str, ...]:
    """Return descriptions of the differences between an order and its intent.

    Args:
        raw: The order as received.
        order: The same order parsed, None if it cannot be parsed.
        intent: The intent that the order belongs to.
    """
    return (*_raw_differences(raw, intent), *(_order_differences(order, intent) if order is not None else ()))


def _raw_differences(raw: Mapping[str, Any], intent: Intent) -> Iterator[str]:
    keys = (("token", intent.cart_token), ("guid", intent.guid), ("increment_id", intent.increment_id))
    for name, expected in keys:
        actual = raw.get(name)
        if expected and actual and not _is_key(actual, expected):
            yield f"{name}: the order has another value than the basket had"
    status = raw.get("status_name")
    if status is not None and not is_known(status):
        yield "status_name: unknown status, check the order"


def _order_differences(order: Order, intent: Intent) -> Iterator[str]:
    if order.paid_total != intent.paid_total and intent.forgotten_at is None:
        yield f"paid_total: agreed {intent.paid_total}, ordered {order.paid_total}"
    if order.currency_code != intent.currency_code:
        yield f"currency_code: agreed {intent.currency_code}, ordered {order.currency_code}"
    if order.kind not in {intent.kind, None}:
        yield f"kind: agreed {intent.kind}, ordered {order.kind}"
    agreed, ordered = _agreed_pieces(intent), pieces_by_sku(order)
    for sku in sorted(agreed.keys() | ordered.keys()):
        if agreed[sku] != ordered[sku]:
            yield f"pieces of {sku}: agreed {agreed[sku]}, ordered {ordered[sku]}"


def identifiers(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return those of the identifiers `id`, `guid` and `increment_id` that the order has."""
    found = ((name, _as_text(raw.get(name))) for name in ("id", "guid", "increment_id"))
    return {name: text for name, text in found if isinstance(text, str)}


def refers_to(raw: Mapping[str, Any], intent: Intent) -> bool:
    """Return whether a response refers to the customer and the basket of an intent.

    The token decides. Without a token, the guid and the order number decide: at least one must be present, and all
    that are present must be equal.
    """
    if compare_customer(raw, intent.external_customer_id) is not CustomerMatch.SAME:
        return False
    if raw.get("token"):
        return _is_key(raw["token"], intent.cart_token)
    keys = (("guid", intent.guid), ("increment_id", intent.increment_id))
    matches = [_is_key(raw[name], expected) for name, expected in keys if expected and raw.get(name)]
    return bool(matches) and all(matches)


def is_order(raw: Mapping[str, Any]) -> bool:
    """Return whether `order_creation_status` marks the object as an order, not a basket."""
    return raw.get("order_creation_status") == CreationStatus.ORDER


def is_failed(raw: Mapping[str, Any]) -> bool:
    """Return whether `status_name` is one of the failing statuses, such as cancelled, rejected or refunded."""
    return is_failing(raw.get("status_name"))


def is_cleared(data: Mapping[str, Any], intent: Intent) -> bool:
    """Return whether a response shows the basket of the intent, still a basket and without items."""
    return (
        refers_to(data, intent)
        and data.get("order_creation_status") == CreationStatus.BASKET
        and data.get("items") == []
    )


def last_page(page: Mapping[str, Any], *, default: int) -> int:
    """Return the number of the last page, `default` if it cannot be read."""
    return _page_number(page, "last_page", default)


def total_rows(page: Mapping[str, Any]) -> int:
    """Return the number of rows on all pages, 0 if it cannot be read."""
    return _page_number(page, "total", 0)


def _page_number(page: Mapping[str, Any], name: str, default: int) -> int:
    number = whole_number(page.get(name))
    return default if number is None or number < 0 else number


def _as_text(value: object) -> object:
    """Return a whole number as text, any other value unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return value
    return str(int(value)) if value == int(value) else value


def _is_key(value: object, expected: str) -> bool:
    """Return whether a key as received is the expected one. A number has lost the leading zeros of the key."""
    if isinstance(value, str):
        return value == expected
    text = _as_text(value)
    return isinstance(text, str) and text == (expected.lstrip("0") or "0")


def mapping(data: Any) -> Mapping[str, Any]:
    """Return `data` if it is a JSON object, else an empty mapping."""
    return cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else {}


def pieces_by_sku(deal: Deal) -> Counter[str]:
    """Return the number of pieces of each sku, summed over the items."""
    pieces: Counter[str] = Counter()
    for item in deal.items:
        pieces[item.sku] += item.amount
    return pieces


def _agreed_pieces(intent: Intent) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for sku, amount in intent.items:
        pieces[sku] += amount
    return pieces
