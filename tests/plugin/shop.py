"""A shop that sells gold through Minted Connect: an example of an application that uses the SDK."""

from __future__ import annotations

from decimal import Decimal

from minted_connect import AsyncMintedConnect, MintedConnect, OutcomeUnknown, PriceChanged, PriceFixExpired, ServerError


class Sold(Exception):
    """The price has changed: the customer must agree to the new one first."""


async def checkout(minted: AsyncMintedConnect, customer: str, sku: str, qty: int) -> tuple[int, Decimal]:
    """Buy, and return the number of the order and the amount paid."""
    basket = await minted.baskets.add_item(customer, sku=sku, qty=qty)
    try:
        bought = await minted.complete.buy(basket, expected_total=basket.paid_total)
    except (PriceChanged, PriceFixExpired):
        raise Sold from None
    except OutcomeUnknown as unknown:
        bought = await minted.complete.reconcile(unknown)
    assert bought.order is not None
    return bought.order.id, bought.order.paid_total


def price_board(minted: MintedConnect) -> str:
    """Return a line for the price board, also while the vendor is down."""
    try:
        rates = minted.rates.current(metals="gold")
    except ServerError:
        return "gold: please ask"
    return f"gold: {rates[0].buy_price} {rates[0].currency_code}"
