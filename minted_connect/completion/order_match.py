"""Telling whether a listed order is the one of an intent, and where it differs: pure, over JSON as received.

JSON, because a purchase must be recognised also where one unrelated field of its order cannot be read.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, cast

from minted_connect.models import CreationStatus, Deal, Intent, Order
from minted_connect.models.order_status import is_failing, is_known

__all__ = [
    "Match",
    "customer_of",
    "differences",
    "identifiers",
    "is_cleared",
    "is_failed",
    "is_order",
    "lines",
    "mapping",
    "match",
    "refers_to",
]

BEFORE: Final = timedelta(minutes=10)
"""How much older than its intent an order without common keys may say it is."""


class Match(enum.IntEnum):
    """How surely a listed order is the one of an intent, by the strongest key they share."""

    NONE = 0
    LIKELY = 1
    """Same kind, lines, total and time, but no common key; or the same number under other keys: for a person."""
    ID = 2
    INCREMENT_ID = 3
    GUID = 4
    TOKEN = 5


def match(raw: Mapping[str, Any], order: Order | None, intent: Intent, *, keeps_number: bool = True) -> Match:
    """Return how surely a listed order is the one of the intent; orders of other customers are never it.

    Args:
        raw: The order as received.
        order: The same, if it can be read.
        intent: Whose order is looked for.
        keeps_number: Whether an order has the number of its basket (question Q4).
    """
    customer = customer_of(raw)
    if customer not in (intent.external_customer_id, None):
        return Match.NONE
    other_keys = False
    for found, name, wanted in (
        (Match.TOKEN, "token", intent.cart_token),
        (Match.GUID, "guid", intent.guid),
        (Match.INCREMENT_ID, "increment_id", intent.increment_id),
    ):
        # Two empty keys have nothing in common, and an empty one differs from none.
        if not wanted or not raw.get(name):
            continue
        if raw[name] == wanted:
            return Match.LIKELY if customer is None else found
        other_keys = True
    if raw.get("id") in intent.known_orders:
        return Match.NONE  # it was there before
    if order is None:
        # Without a single key to compare it cannot be told from ours.
        return Match.NONE if other_keys else Match.LIKELY
    if order.order_creation_status != CreationStatus.ORDER or order.kind not in {intent.kind, None}:
        return Match.NONE
    if lines(order) != _agreed_lines(intent):
        return Match.NONE
    # Orders may be numbered apart from baskets (Q4): an equal number alone could be another purchase, and with equal
    # lines too if it names another basket.
    if order.id == intent.basket_id:
        return Match.LIKELY if other_keys or customer is None or not keeps_number else Match.ID
    recent = order.order_at >= min(intent.created_at, intent.created_by_server) - BEFORE
    return Match.LIKELY if recent and order.paid_total == intent.paid_total else Match.NONE


def differences(raw: Mapping[str, Any], order: Order | None, intent: Intent) -> tuple[str, ...]:
    """Return where an order differs from its intent, in words.

    Args:
        raw: The order as received.
        order: The same, if it can be read.
        intent: The intent that it belongs to.
    """
    return (*_contradictions(raw, intent), *(_differences(order, intent) if order is not None else ()))


def _contradictions(raw: Mapping[str, Any], intent: Intent) -> Iterator[str]:
    keys = (("token", intent.cart_token), ("guid", intent.guid), ("increment_id", intent.increment_id))
    for name, wanted in keys:
        found = raw.get(name)
        if wanted and found and found != wanted:
            yield f"{name}: the basket had another one than the order"
    status = raw.get("status_name")
    if status is not None and not is_known(status):
        yield "status_name: this status is not known: look at the order"


def _differences(order: Order, intent: Intent) -> Iterator[str]:
    if order.paid_total != intent.paid_total:
        yield f"paid_total: agreed {intent.paid_total}, ordered {order.paid_total}"
    if order.currency_code != intent.currency_code:
        yield f"currency_code: agreed {intent.currency_code}, ordered {order.currency_code}"
    if order.kind not in {intent.kind, None}:
        yield f"kind: agreed {intent.kind}, ordered {order.kind}"
    agreed, ordered = _agreed_lines(intent), lines(order)
    for sku in sorted(agreed.keys() | ordered.keys()):
        if agreed[sku] != ordered[sku]:
            yield f"pieces of {sku}: agreed {agreed[sku]}, ordered {ordered[sku]}"


def identifiers(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return the identifiers of an order as far as they can be read."""
    return {name: str(raw[name]) for name in ("id", "guid", "increment_id") if isinstance(raw.get(name), str | int)}


def refers_to(raw: Mapping[str, Any], intent: Intent) -> bool:
    """Return whether an answer names the customer and the basket of the intent.

    The token decides. Where the answer has none, the other keys do, unless one of them contradicts.
    """
    if customer_of(raw) != intent.external_customer_id:
        return False
    if raw.get("token"):
        return bool(raw["token"] == intent.cart_token)
    keys = (("guid", intent.guid), ("increment_id", intent.increment_id))
    agree = [raw[name] == wanted for name, wanted in keys if wanted and raw.get(name)]
    return bool(agree) and all(agree)


def is_order(raw: Mapping[str, Any]) -> bool:
    """Return whether the object says that it is an order and no longer a basket."""
    return raw.get("order_creation_status") == CreationStatus.ORDER


def is_failed(raw: Mapping[str, Any]) -> bool:
    """Return whether the object says that the order was cancelled, refused or paid back."""
    return is_failing(raw.get("status_name"))


def is_cleared(data: Mapping[str, Any], intent: Intent) -> bool:
    """Return whether an answer shows the very basket of the intent, still a basket, without lines."""
    return (
        refers_to(data, intent)
        and data.get("order_creation_status") == CreationStatus.BASKET
        and data.get("items") == []
    )


def customer_of(raw: Mapping[str, Any]) -> object:
    """Return the customer's id as far as there is one."""
    return mapping(raw.get("customer")).get("external_id")


def mapping(data: Any) -> Mapping[str, Any]:
    """Return a JSON object, an empty one in place of anything else."""
    return cast("Mapping[str, Any]", data) if isinstance(data, Mapping) else {}


def lines(deal: Deal) -> Counter[str]:
    """Return the pieces by sku, whatever lines they are split into."""
    pieces: Counter[str] = Counter()
    for item in deal.items:
        pieces[item.sku] += item.amount
    return pieces


def _agreed_lines(intent: Intent) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for sku, amount in intent.items:
        pieces[sku] += amount
    return pieces
