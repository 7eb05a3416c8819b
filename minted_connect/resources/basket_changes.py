"""Reads of the open basket, and changes with their read-back, shared by `baskets` and `basket_replace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minted_connect.core.api_client import ApiClient
from minted_connect.core.pool import PoolKind
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import MintedConnectError, NotFound
from minted_connect.models import Basket
from minted_connect.resources.base import owner_problems

__all__ = ["pieces_of", "read_active", "read_active_over_recovery_pool", "send_change"]


async def read_active(api: ApiClient, customer_id: str, cart_token: str | None) -> Basket | None:
    """Read the open basket of a customer; see `AsyncBaskets.get_active`."""
    query = [("external_customer_id", customer_id)]
    if cart_token is not None:
        query.append(("cart_token", cart_token))
    request = Request(OPERATIONS["baskets.get_active"], query=query)
    try:
        return await api.send_optional(request, Basket, check=_owner_check(customer_id, cart_token))
    except NotFound as error:
        if not error.is_vendor_response:
            raise
        return None


async def read_active_over_recovery_pool(api: ApiClient, customer_id: str, cart_token: str | None) -> Basket | None:
    """Do as `read_active`. The connections of the default pool may be broken, as the one of a failed change was."""
    return await read_active(api.with_pool(PoolKind.RECOVERY), customer_id, cart_token)


async def send_change(
    api: ApiClient, operation: str, body: dict[str, Any], is_applied: Callable[[Basket], bool] | None
) -> Basket:
    """Send a change of a basket, and return the basket.

    If the change may have been executed, the basket is read and checked with `is_applied`, if given.
    """
    customer, token = body["external_customer_id"], body.get("cart_token")

    async def read_back(error: MintedConnectError) -> Basket:
        assert is_applied is not None
        try:
            found = await read_active_over_recovery_pool(api, customer, token)
        except MintedConnectError:
            raise error from None
        if found is None or not is_applied(found):
            raise error
        return found

    return await api.send(
        Request(OPERATIONS[operation], body=body),
        Basket,
        read_back=None if is_applied is None else read_back,
        lock=customer,
        check=_owner_check(customer, token),
    )


def pieces_of(basket: Basket, sku: str) -> int:
    """Return the number of pieces of a product in a basket."""
    return sum(item.amount for item in basket.items if item.sku == sku)


def _owner_check(customer_id: str, cart_token: str | None) -> Callable[[Basket], list[str]]:
    def check(basket: Basket) -> list[str]:
        problems = owner_problems(customer_id, {"data.customer": basket.customer})
        if cart_token is not None and basket.token != cart_token:
            problems.append("data.token: is another basket's")
        return problems

    return check
