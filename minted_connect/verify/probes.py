"""The read operations that a verification calls, and other paths to try if an inferred path is wrong.

The other paths are guesses by analogy with the sister families and the vendor's names. They are tried only after a 404,
405 or 410, and only for reads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.models import Order

__all__ = ["ALTERNATIVE_PATHS", "READS", "ProbeInput", "Read"]


@attrs.frozen
class ProbeInput:
    """Customer and order that the probes may read."""

    customer: str | None = None
    order: Order | None = None


@attrs.frozen
class Read:
    """A read operation, and how to call it."""

    operation: str
    call: Callable[[AsyncMintedConnect, ProbeInput], Awaitable[object]]
    needs: str = ""
    """Field of `ProbeInput` that must be set: `customer` or `order`. Empty if the call needs neither."""


async def _history(minted: AsyncMintedConnect, _: ProbeInput) -> object:
    today = datetime.now(UTC).date()
    return await minted.rates.history(metal="gold", start=today - timedelta(days=7), end=today)


def _customer(minted: AsyncMintedConnect, known: ProbeInput) -> Awaitable[object]:
    assert known.customer is not None
    return minted.customers.get(known.customer)


def _balance(minted: AsyncMintedConnect, known: ProbeInput) -> Awaitable[object]:
    assert known.customer is not None
    return minted.wallet.balance(known.customer)


def _basket(minted: AsyncMintedConnect, known: ProbeInput) -> Awaitable[object]:
    assert known.customer is not None
    return minted.baskets.get_active(known.customer)


def _receipt(minted: AsyncMintedConnect, known: ProbeInput) -> Awaitable[object]:
    assert known.order is not None
    return minted.orders.receipt(known.order.id, customer_id=known.order.customer.external_id)


def _invoice(minted: AsyncMintedConnect, known: ProbeInput) -> Awaitable[object]:
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
"""Other paths of an operation, in the order in which they are tried."""
