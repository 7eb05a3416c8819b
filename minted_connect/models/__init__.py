"""Domain models: frozen attrs classes without I/O and without a reference to the client.

Attributes have the vendor's names, in snake_case where the vendor uses camelCase. Money and weights are `Decimal` with
exactly the digits of the JSON text; weights are in grams; datetimes are timezone-aware. A known value of an enumeration
is an enum member, an unknown one stays a string. The top-level object of a response, and each row of a page, keeps the
JSON object as received in `raw`.
"""

import attrs

from minted_connect.models import introspection, pydantic_schema
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
from minted_connect.models.intent import Intent, IntentPage, IntentState, Refusal
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
from minted_connect.models.page import Page, UnreadableRow
from minted_connect.models.product import BaseCurrency, Category, MetalType, Product
from minted_connect.models.rate import Rate, RatePoint
from minted_connect.models.reconcile_result import ReconcileResult
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
    "IntentPage",
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
    "ReconcileResult",
    "Refusal",
    "Shipping",
    "ShippingAddress",
    "UnreadableRow",
]

for _name in __all__:
    if attrs.has(globals()[_name]):
        introspection.make_introspectable(globals()[_name])
        pydantic_schema.add_pydantic_schema(globals()[_name])
