"""The domain: frozen attrs classes, no I/O, no client inside.

Attributes keep the vendor's names (snake_case where the vendor writes camelCase). Money and weights are
`Decimal`, exactly as the JSON text has them; times are aware. Known enum values are members, unknown ones stay
strings. Every object an answer consists of keeps the JSON it came from in `raw`.
"""

import attrs

from minted_connect.models import introspection
from minted_connect.models.basket import Basket, BasketKey, PriceFix
from minted_connect.models.customer import AccountType, Customer, CustomerWallet, Gender
from minted_connect.models.deal import (
    CreationStatus,
    Deal,
    Delivery,
    LineItem,
    OrderKind,
    OrderStatus,
    Payment,
    PricePart,
    ShippingAddress,
)
from minted_connect.models.intent import Intent, IntentState, Refusal
from minted_connect.models.masking import to_dict
from minted_connect.models.order import (
    Completion,
    Invoice,
    InvoiceItem,
    Order,
    OrderChange,
    OrderProgress,
    Receipt,
    Shipping,
)
from minted_connect.models.page import Page
from minted_connect.models.product import BaseCurrency, Category, MetalType, Product
from minted_connect.models.rate import Rate, RatePoint
from minted_connect.models.wallet import Holding

__all__ = [
    "AccountType",
    "BaseCurrency",
    "Basket",
    "BasketKey",
    "Category",
    "Completion",
    "CreationStatus",
    "Customer",
    "CustomerWallet",
    "Deal",
    "Delivery",
    "Gender",
    "Holding",
    "Intent",
    "IntentState",
    "Invoice",
    "InvoiceItem",
    "LineItem",
    "MetalType",
    "Order",
    "OrderChange",
    "OrderKind",
    "OrderProgress",
    "OrderStatus",
    "Page",
    "Payment",
    "PriceFix",
    "PricePart",
    "Product",
    "Rate",
    "RatePoint",
    "Receipt",
    "Refusal",
    "Shipping",
    "ShippingAddress",
    "to_dict",
]

for _name in __all__:
    if attrs.has(globals()[_name]):
        introspection.make_introspectable(globals()[_name])
