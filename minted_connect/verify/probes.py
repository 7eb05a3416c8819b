"""What is asked of a server, by the methods of the SDK itself, and where else an inferred path may be.

The other places are guesses by analogy with the sister families and with the vendor's own names; they are tried only
when the first place answers 404, and only to read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.models import Order

__all__ = ["ALTERNATIVE_PATHS", "READS", "Known", "Read"]


@attrs.frozen
class Known:
    """Whose data may be asked for."""

    customer: str | None = None
    order: Order | None = None


@attrs.frozen
class Read:
    """One operation that changes nothing."""

    operation: str
    call: Callable[[AsyncMintedConnect, Known], Awaitable[object]]
    needs: str = ""
    """What has to be known: `customer`, `order`."""


async def _history(minted: AsyncMintedConnect, _: Known) -> object:
    today = datetime.now(UTC).date()
    return await minted.rates.history(metal="gold", start=today - timedelta(days=7), end=today)


def _customer(minted: AsyncMintedConnect, known: Known) -> Awaitable[object]:
    assert known.customer is not None
    return minted.customers.get(known.customer)


def _balance(minted: AsyncMintedConnect, known: Known) -> Awaitable[object]:
    assert known.customer is not None
    return minted.wallet.balance(known.customer)


def _basket(minted: AsyncMintedConnect, known: Known) -> Awaitable[object]:
    assert known.customer is not None
    return minted.baskets.get_active(known.customer)


def _receipt(minted: AsyncMintedConnect, known: Known) -> Awaitable[object]:
    assert known.order is not None
    return minted.orders.receipt(known.order.id, customer_id=known.order.customer.external_id)


def _invoice(minted: AsyncMintedConnect, known: Known) -> Awaitable[object]:
    assert known.order is not None
    return minted.orders.invoice(known.order.guid)


READS: Final = (
    Read("rates.current", lambda minted, _: minted.rates.current()),
    Read("rates.history", _history),
    Read("products.page", lambda minted, _: minted.products.page()),
    Read("customers.get", _customer, "customer"),
    Read("wallet.balance", _balance, "customer"),
    Read("baskets.get_active", _basket, "customer"),
    Read("orders.page", lambda minted, _: minted.orders.page()),
    Read("orders.receipt", _receipt, "order"),
    Read("orders.invoice", _invoice, "order"),
)

ALTERNATIVE_PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "customers.get": ("/partner/customers/{}", "/partner/walletable/customer/{}"),
    "products.page": ("/partner/walletable/product", "/partner/products", "/partner/ecommerce/products"),
    "baskets.get_active": ("/partner/walletable/basket/active", "/partner/walletable/active-basket"),
    "orders.page": ("/partner/walletable/order", "/partner/orders"),
    "orders.invoice": ("/partner/walletable/order/{}/invoice", "/partner/walletable/orders/{}/invoice"),
    "orders.receipt": ("/partner/walletable/order/receipt", "/partner/walletable/orders/receipt", "/partner/receipt"),
    "wallet.balance": ("/partner/walletable/wallet", "/partner/walletable/wallet/balance", "/partner/balance"),
    "rates.current": (
        "/partner/walletable/currency-rates",
        "/partner/walletable/currency/rates",
        "/partner/walletable/rate",
        "/partner/rates",
    ),
    "rates.history": (
        "/partner/walletable/rate-history",
        "/partner/walletable/currency-rates/history",
        "/partner/walletable/rate/history",
        "/partner/rates/history",
    ),
}
"""Guesses for each, in the order in which they are tried."""
