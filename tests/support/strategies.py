"""Hypothesis strategies for valid JSON objects with the fields of the API reference."""

from __future__ import annotations

from datetime import timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from minted_connect.models import (
    Basket,
    Customer,
    Holding,
    Invoice,
    Order,
    Page,
    Product,
    Rate,
    RatePoint,
    Receipt,
    Shipping,
)

SAMPLES = Path(__file__).parents[1] / "samples"

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integer = st.integers(-(10**12), 10**12)
money = st.one_of(
    st.integers(0, 10**9), st.decimals(-(10**9), 10**9, places=2), st.decimals(0, 10**16, places=9), st.just(0)
)
flag = st.booleans()
day = st.dates().map(lambda value: value.isoformat())
utc = st.datetimes().map(lambda value: value.isoformat(timespec="microseconds") + "Z")
offset = st.datetimes(timezones=st.just(timezone(timedelta(hours=3)))).map(lambda value: value.isoformat())
naive = st.datetimes().map(lambda value: value.isoformat(sep=" ", timespec="seconds"))


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def json_object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for objects with all required keys, some optional keys, and sometimes an unknown key."""
    unknown = {"x_unknown": st.one_of(text, integer, st.lists(text, max_size=2))}
    return st.fixed_dictionaries(required, optional={**(optional or {}), **unknown})


customers = json_object(
    {"external_id": text},
    {
        **dict.fromkeys(
            ("firstname", "middlename", "lastname", "fullname", "email", "phone", "identity_number", "tax_office"),
            nullable(text),
        ),
        "gender": nullable(st.sampled_from(["M", "F", "X"])),
        "birthdate": nullable(day),
        "account_type": nullable(st.sampled_from(["person", "company", "trust"])),
        **dict.fromkeys(("id", "company_id", "user_id"), nullable(integer)),
        **dict.fromkeys(("created_at", "updated_at"), nullable(naive)),
        "wallets": st.lists(
            json_object(
                {"id": integer}, {"name": nullable(text), "is_cash": nullable(flag), "balance": nullable(money)}
            ),
            max_size=2,
        ),
    },
)

items = json_object(
    {
        **dict.fromkeys(("item_currency_id", "product_id", "amount"), integer),
        **dict.fromkeys(("item_currency_name", "sku", "product_name"), text),
        **dict.fromkeys(("product_weight", "price", "tax_rate", "tax", "total"), money),
    },
    {
        "product_images": st.lists(text, max_size=2),
        "prices": st.lists(json_object({"id": integer, "name": text, "price": money}), max_size=3),
    },
)

_BASKET_OR_ORDER: dict[str, Any] = {
    **dict.fromkeys(("id", "status_id"), integer),
    **dict.fromkeys(("guid", "increment_id", "token", "price_token", "currency_code"), text),
    "order_creation_status": st.sampled_from(["basket", "order", "draft"]),
    "type": st.sampled_from(["buy", "sell", "delivery", "walletable_ecommerce"]),
    "tx_type": st.sampled_from(["oneoffpurchase", "buy", "sell", "delivery", "gift"]),
    **dict.fromkeys(
        (
            *("price", "tax", "total", "payment_cost", "paid_total", "delivery_cost", "insurance_price"),
            *("conversion_price", "market_commission", "minted_markup_price", "silver_craftsmanship"),
            *("charge_fee", "charge_fee_rate", "minting_fee", "storage_fee", "storage_fee_rate"),
            *("charges_vat", "vat_rate", "total_amount"),
        ),
        money,
    ),
    "status_name": st.sampled_from(["Created", "Pending", "Payment Confirmed", "Lost at sea"]),
    "customer": customers,
    "order_at": utc,
    "items": st.lists(items, max_size=2),
}
_BASKET_OR_ORDER_OPTIONAL: dict[str, Any] = {
    **dict.fromkeys(("external_id", "currency"), nullable(text)),
    "shippingaddress": nullable(
        json_object({"id": integer}, dict.fromkeys(("external_id", "tax_number", "fullname", "street"), nullable(text)))
    ),
    "billingaddress": nullable(st.dictionaries(text, text, max_size=2)),
    "payment": nullable(
        json_object(
            {
                **dict.fromkeys(("redirect_url", "token", "auth_mode", "state"), text),
                "is_3d": flag,
                **dict.fromkeys(("amount", "comission", "total"), money),
            },
            {"details": nullable(st.dictionaries(text, text, max_size=2))},
        )
    ),
    "delivery": nullable(
        json_object(
            {},
            {
                **dict.fromkeys(("cargo_tracking_url", "cargo_tracking_number"), nullable(text)),
                "estimated_arrival_date": nullable(day),
            },
        )
    ),
}

price_fixes = json_object(
    {"remaining": integer, "nextUpdate": offset}, {"updated": nullable(flag), "token": nullable(text)}
)
baskets = json_object(_BASKET_OR_ORDER, {**_BASKET_OR_ORDER_OPTIONAL, "pricefix": nullable(price_fixes)})
orders = json_object(_BASKET_OR_ORDER, _BASKET_OR_ORDER_OPTIONAL)
products = json_object(
    {"id": integer, "name": text, "sku": text},
    {
        **dict.fromkeys(("text", "barcode", "currency_code"), nullable(text)),
        "stock": nullable(integer),
        **dict.fromkeys(("list_price", "sale_price"), nullable(money)),
        "product_images": st.lists(text, max_size=2),
        "basecurrency": nullable(
            json_object({"id": integer}, {"name": text, "metal_type": st.sampled_from(["gold", "tin"])})
        ),
        "category": nullable(json_object({"id": integer}, {"name": text})),
    },
)
holdings = json_object(
    {"productName": text},
    {
        "images": st.lists(text, max_size=2),
        **dict.fromkeys(("sku", "metalType", "currencyCode"), nullable(text)),
        "productId": nullable(integer),
        "isDeliverable": nullable(flag),
        **dict.fromkeys(
            ("productWeight", "amount", "deliverableAmount", "blockedAmount", "unitValue", "totalValue"),
            nullable(money),
        ),
    },
)
_PRICES = dict.fromkeys(("spot_price", "buy_price", "sell_price"), money)
rates = json_object(
    {
        "currency_id": integer,
        **dict.fromkeys(("currency_name", "metal_type", "currency_code"), text),
        **_PRICES,
        "updated_at": utc,
    },
    {"product_id": nullable(integer), "sku": nullable(text)},
)
rate_points = json_object({"currency_id": integer, "metal_type": text, "currency_code": text, "time": utc, **_PRICES})
receipts = json_object(
    {"order_id": nullable(integer)}, {**dict.fromkeys(("guid", "increment_id", "external_id", "url"), nullable(text))}
)
invoices = json_object(
    {"guid": text},
    {
        **dict.fromkeys(("order_code", "external_id", "channel", "tx_type", "status_name"), nullable(text)),
        **dict.fromkeys(("price", "tax", "total", "currency_rate", "currency_total"), nullable(money)),
        "status_id": nullable(integer),
        "items": st.lists(json_object({}, {"product_id": nullable(integer), "amount": nullable(money)}), max_size=2),
        "customer": nullable(customers),
        "invoice_url": nullable(text),
    },
)
shippings = st.fixed_dictionaries(
    {
        **dict.fromkeys(("fullname", "phone", "city", "county", "district", "address", "tax_number"), text),
        **dict.fromkeys(("external_id", "street", "zipcode", "email"), nullable(text)),
    }
)


def pages(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    numbers = dict.fromkeys(("current_page", "last_page", "per_page", "total"), st.integers(0, 9))
    return json_object(
        {"data": st.lists(rows, max_size=2), **numbers}, {"from": nullable(integer), "to": nullable(integer)}
    )


MODELS: dict[Any, st.SearchStrategy[Any]] = {
    Basket: baskets,
    Customer: customers,
    Holding: holdings,
    Invoice: invoices,
    Order: orders,
    Product: products,
    Rate: rates,
    RatePoint: rate_points,
    Receipt: receipts,
    Shipping: shippings,
    Page[Order]: pages(orders),
    Page[Product]: pages(products),
    tuple[Holding, ...]: st.lists(holdings, max_size=3),
    tuple[Rate, ...]: st.lists(rates, max_size=3),
}
"""Every type that a response can be parsed into, with a strategy for its JSON."""

odd_values = st.one_of(
    st.none(),
    flag,
    integer,
    st.just(10**400),
    st.just(Decimal("1.9")),
    st.just(Decimal("1E+99")),
    text,
    st.sampled_from(["NaN", "false", "1e5", "", "\u0000", "İ" * 9, "2026-02-30", "0000-00-00 00:00:00"]),
    st.lists(integer, max_size=2),
    st.dictionaries(text, integer, max_size=2),
)


@st.composite
def corrupted(draw: st.DrawFn, objects: st.SearchStrategy[Any]) -> Any:
    """Draw objects with a few members dropped, renamed or replaced by other values, at any depth."""
    data = draw(objects)
    for _ in range(draw(st.integers(1, 4))):
        node = data
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if isinstance(node[key], dict | list) and node[key] and draw(flag):
                node = node[key]
                continue
            match draw(st.sampled_from(["drop", "rename", "replace"])):
                case "drop":
                    del node[key]
                case "rename" if isinstance(node, dict):
                    node[draw(text)] = node.pop(key)
                case _:
                    node[key] = draw(odd_values)
            break
    return data
