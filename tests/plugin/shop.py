"""A shop that sells gold through Minted Connect: an example of an application that uses the SDK."""

from __future__ import annotations

from decimal import Decimal

from minted_connect import AsyncMintedConnect, MintedConnect, OutcomeUnknown, PriceChanged, PriceFixExpired, ServerError


class PriceHasChanged(Exception):
    """The price has changed; the customer must agree to the new price first."""


async def checkout(minted: AsyncMintedConnect, customer: str, sku: str, qty: int) -> tuple[int, Decimal]:
    """Buy, and return the id of the order and the paid amount."""
    basket = await minted.baskets.add_item(customer, sku=sku, qty=qty)
    try:
        completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    except (PriceChanged, PriceFixExpired):
        raise PriceHasChanged from None
    except OutcomeUnknown as unknown:
        completion = await minted.complete.reconcile(unknown)
    assert completion.order is not None
    return completion.order.id, completion.order.paid_total


def price_board(minted: MintedConnect) -> str:
    """Return a line for the price board, also while the vendor is down."""
    try:
        rates = minted.rates.current(metals="gold")
    except ServerError:
        return "gold: please ask"
    return f"gold: {rates[0].buy_price} {rates[0].currency_code}"
