"""Attributes that baskets and orders share: the vendor describes both as one object."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.customer import Customer
from minted_connect.models.json_types import DIGITS
from minted_connect.models.masking import masked, masked_except_last, masked_except_last_two, shorten
from minted_connect.response_info import HasResponse

__all__ = [
    "CreationStatus",
    "Deal",
    "Delivery",
    "LineItem",
    "OrderKind",
    "OrderStatus",
    "Payment",
    "PricePart",
    "ShippingAddress",
]


class OrderKind(enum.StrEnum):
    """Kind of a basket or order: buy from the vendor, sell to it, or ship pieces of the wallet."""

    BUY = "buy"
    SELL = "sell"
    DELIVERY = "delivery"


class CreationStatus(enum.StrEnum):
    """Known values of `order_creation_status`; others stay plain strings."""

    BASKET = "basket"
    ORDER = "order"


class OrderStatus(enum.StrEnum):
    """Known values of `status_name` (api-3652432, 2024-06-26); others stay plain strings."""

    CREATED = "Created"
    PENDING = "Pending"
    PROCESSING = "Processing"
    CANCELLED = "Cancelled"
    COMPLETED = "Completed"
    PREPARING = "Preparing"
    PACKED = "Packed"
    SHIPPED = "Shipped"
    TRANSFERRING = "Transferring"
    REFUNDING = "Refunding"
    REFUNDED = "Refunded"
    PAYMENT_CONFIRMED = "Payment Confirmed"


@attrs.frozen(slots=False)
class PricePart:
    """One part of the price of one piece. Identify it by `id`: names vary with the language and over time.

    Ids in the examples: 2 insurance, 4 shipping, 6 physical conversion, 7 minting (api-26503573, api-27307650).
    """

    id: int = attrs.field(metadata=DIGITS)
    name: str
    price: Decimal
    """Money per piece."""


@attrs.frozen(slots=False)
class LineItem:
    """One line of a basket or order. Two lines may have the same sku (api-26503559, documented example)."""

    item_currency_id: int = attrs.field(metadata=DIGITS)
    item_currency_name: str
    """Name of the metal account (`Dirham Gold`)."""
    product_id: int = attrs.field(metadata=DIGITS)
    sku: str
    product_name: str
    product_weight: Decimal
    """Weight of one piece in grams."""
    price: Decimal
    """Money for one piece; 0 on a delivery."""
    tax_rate: Decimal
    """Percent."""
    tax: Decimal
    """Money."""
    amount: int
    """Number of pieces: a 50 g bar is one piece."""
    total: Decimal
    """Money: `price * amount`."""
    product_images: tuple[str, ...] = ()
    """URLs."""
    prices: tuple[PricePart, ...] = ()
    """Parts of `price`."""


@attrs.frozen(slots=False)
class Payment:
    """A card payment. Its amounts are not part of `paid_total` (api-26503573, documented example)."""

    redirect_url: str = attrs.field(repr=masked)
    token: str = attrs.field(repr=masked)
    is_3d: bool
    auth_mode: str
    state: str
    amount: Decimal
    """Money: the `total` of the basket."""
    comission: Decimal
    """Money: the card commission, in the vendor's spelling."""
    total: Decimal
    """Money: `amount + comission`."""
    details: Mapping[str, Any] | None = attrs.field(default=None, repr=masked, hash=False)
    """The card as received; its keys are not documented."""


@attrs.frozen(slots=False)
class ShippingAddress:
    """Shipping address of an order (api-27307650, 2026-04-02, documented example)."""

    id: int = attrs.field(metadata=DIGITS)
    external_id: str | None = attrs.field(default=None, repr=masked)
    tax_number: str | None = attrs.field(default=None, repr=masked_except_last_two)
    fullname: str | None = attrs.field(default=None, repr=masked)
    phone: str | None = attrs.field(default=None, repr=masked)
    email: str | None = attrs.field(default=None, repr=masked)
    city: str | None = attrs.field(default=None, repr=masked)
    county: str | None = attrs.field(default=None, repr=masked)
    district: str | None = attrs.field(default=None, repr=masked)
    street: str | None = attrs.field(default=None, repr=masked)
    zipcode: str | None = attrs.field(default=None, repr=masked)
    address: str | None = attrs.field(default=None, repr=masked)


@attrs.frozen(slots=False)
class Delivery:
    """The shipment of a delivery order (api-27307650, 2026-04-02, documented example)."""

    cargo_tracking_url: str | None = attrs.field(default=None, repr=masked)
    cargo_tracking_number: str | None = attrs.field(default=None, repr=masked)
    estimated_arrival_date: date | None = None


@attrs.frozen(slots=False, repr=False)
class Deal(HasResponse):
    """Base class of `Basket` and `Order`.

    All money is in `currency_code`, with the digits as received. An optional attribute is None if its key is missing.

    Source: section 3 of the reference; names and types from Update Basket Item (api-26503573, 2026-01-22) and
    Complete Delivery (api-27307650, 2026-04-02), documented; meanings partly inferred from the figures.
    """

    id: int = attrs.field(metadata=DIGITS)
    guid: str
    """UUID in upper case."""
    order_creation_status: CreationStatus | str
    """`basket` or `order` (documented)."""
    increment_id: str
    """The order number shown to customers: 11 digits, to be treated as an opaque string."""
    token: str = attrs.field(repr=masked_except_last)
    """The cart token, `cart_token` in requests."""
    price_token: str = attrs.field(repr=masked_except_last)
    """Identifies the price lock."""
    type: OrderKind | str
    """`buy` on baskets, `walletable_ecommerce` on a completed order. Use `kind` instead."""
    price: Decimal
    """Money: sum of the lines; 0 on a delivery."""
    tax: Decimal
    """Money."""
    total: Decimal
    """Money: the price before fees; on a delivery the base price (documented)."""
    payment_cost: Decimal
    """Money: transaction cost (documented)."""
    paid_total: Decimal
    """Money: the final amount that the customer pays; on a sell, the amount received (documented)."""
    delivery_cost: Decimal
    """Money: shipping (documented)."""
    insurance_price: Decimal
    """Money; 0 in every example."""
    conversion_price: Decimal
    """Money; 0 in every example."""
    market_commission: Decimal
    """Money; 0 in every example."""
    minted_markup_price: Decimal
    """Money; 0 in every example."""
    silver_craftsmanship: Decimal
    """Money; 0 in every example."""
    charge_fee: Decimal
    """Money: service fee (documented)."""
    charge_fee_rate: Decimal
    """Percent."""
    minting_fee: Decimal
    """Money: minting (documented)."""
    storage_fee: Decimal
    """Money: storage, 0 under the storage limit (documented)."""
    storage_fee_rate: Decimal
    """Percent; present even if the fee is 0."""
    charges_vat: Decimal
    """Money: VAT on the fees (documented)."""
    vat_rate: Decimal
    """Percent."""
    currency_code: str
    """Currency of all money in this object (`AED`)."""
    status_id: int = attrs.field(metadata=DIGITS)
    status_name: OrderStatus | str
    customer: Customer
    order_at: datetime
    """Time of the basket or order, UTC."""
    items: tuple[LineItem, ...]
    total_amount: Decimal
    """Sum of the line amounts: pieces or grams, the examples fit both (S5)."""
    tx_type: str
    """`oneoffpurchase` on a buy basket. Use `kind` instead."""
    external_id: str | None = None
    """The partner's own order id; null in every Walletable example."""
    shippingaddress: ShippingAddress | None = None
    billingaddress: Mapping[str, Any] | None = attrs.field(default=None, repr=masked, hash=False)
    """As received; null in every example, so its keys are not known."""
    payment: Payment | None = None
    delivery: Delivery | None = None
    """Present on delivery orders."""
    currency: str | None = None
    """Item currency (`Dirham Gold`)."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""

    def __repr__(self) -> str:
        number = len(self.items)
        parts = (self.kind or self.type, self.status, f"{number} line{'' if number == 1 else 's'}", self.paid_total)
        kind, status, lines, total = (shorten(part, 24) for part in parts)
        currency, time = shorten(self.currency_code, 8), self.order_at.isoformat(" ", "minutes")
        return f"<{type(self).__name__} {shorten(self.id, 20)} {kind}: {status}, {lines}, {total} {currency}, {time}>"

    def _repr_html_(self) -> str:
        from minted_connect.html import deal_to_html  # noqa: PLC0415

        return deal_to_html(self)

    @property
    def status(self) -> OrderStatus | str:
        """The status by name, because a `status_id` above 2 is not documented."""
        return self.status_name

    @property
    def kind(self) -> OrderKind | None:
        """Buy, sell or delivery, derived from `type`, `tx_type` and `delivery`; None if unknown (assumed, S5)."""
        for value in (self.type, "buy" if self.tx_type == "oneoffpurchase" else self.tx_type):
            if value in _KINDS:
                return OrderKind(value)
        return OrderKind.DELIVERY if self.delivery is not None else None


_KINDS = frozenset(OrderKind)
