"""The JSON objects in the responses of the sandbox.

Names and types are those of the evidence guide ("The basket and the order", "Notes on single operations"); parts that
are not documented are working assumptions.
"""

from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from .catalogue import Product
from .entities import Basket, Customer, Order, OrderLine, format_fullname
from .json_codec import Json, Object
from .messages import translate
from .pricing import FeeSchedule, Figures, Metal, OrderKind, Quote, compute_card_commission
from .state import ShopState, to_datetime

_ISTANBUL = timezone(timedelta(hours=3))
_TX_TYPES: dict[OrderKind, str] = {"buy": "oneoffpurchase", "sell": "sell", "delivery": "delivery"}
_PERSON = ("firstname", "middlename", "lastname", "email", "phone", "gender", "identity_number", "birthdate")
_BUY_PARTS = ((6, "Fiziksel Dönüşüm"), (4, "Kargo"), (7, "Mint Ücreti"), (2, "Sigorta"))


def format_utc(moment: int) -> str:
    """Format a moment as UTC with microseconds."""
    return to_datetime(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_zoneless(moment: int) -> str:
    """Format a moment without a zone. Which zone the vendor means is not known; here it is UTC."""
    return to_datetime(moment).strftime("%Y-%m-%d %H:%M:%S")


def serialize_customer(customer: Customer) -> dict[str, Any]:
    """Return the data of Create Customer and Update Customer."""
    return {
        "id": customer.id,
        "external_id": customer.external_id,
        "company_id": 2000000,
        "user_id": None,
        **{key: customer.person.get(key) for key in _PERSON},
        "fullname": customer.fullname,
        "created_at": format_zoneless(customer.created),
        "updated_at": format_zoneless(customer.updated),
    }


def serialize_customer_with_wallets(customer: Customer, shop: ShopState) -> dict[str, Any]:
    """Return the data of Get Customer. Working assumption: one wallet for each metal, in grams."""
    wallets: list[Json] = []
    for position, metal in enumerate(shop.metals(None)):
        held = blocked = Decimal(0)
        for sku, pieces in customer.holdings.items():
            product = shop.by_sku[sku]
            if product.metal is metal:
                held += product.weight * pieces
                blocked += product.weight * min(pieces, shop.blocked(customer, sku))
        wallets.append(
            {
                "id": 1785 + 2 * customer.id + position,
                "customer_external_id": customer.external_id,
                "name": metal.name,
                "currency_id": metal.currency_id,
                "currency_symbol": metal.code,
                "currency_code": metal.code,
                "is_cash": False,
                "balance": held,
                "blocked": blocked,
                "real_balance": held - blocked,
            }
        )
    person = {key: customer.person.get(key) for key in _PERSON}
    return {"external_id": customer.external_id, **person, "fullname": customer.fullname, "wallets": wallets}


def serialize_product(product: Product, shop: ShopState, language: str) -> dict[str, Any]:
    """Return a row of Get Products. Working assumption: both prices are those of a new basket line."""
    price = shop.quote(product.metal).piece("buy", product.weight)
    return {
        "id": product.id,
        "name": product.localized_name(language),
        "text": translate("description", language),
        "barcode": f"MNT{product.sku}",
        "sku": product.sku,
        "stock": product.stock,
        "currency_code": "AED",
        "list_price": price,
        "sale_price": price,
        "product_images": product.images,
        "basecurrency": {
            "id": product.metal.currency_id,
            "name": product.metal.name,
            "metal_type": product.metal.metal_type,
        },
        "category": {"id": product.category, "name": product.localized_category(language)},
    }


def serialize_basket(basket: Basket, owner: Customer, shop: ShopState, language: str) -> dict[str, Any]:
    """Return an open basket."""
    lines = shop.lines(basket)
    figures = shop.figures(basket, lines)
    end = to_datetime(shop.lock_end(basket)).astimezone(_ISTANBUL)
    pricefix: dict[str, Any] = {
        "remaining": shop.remaining(basket),
        "nextUpdate": end.isoformat(timespec="seconds"),
    }
    if basket.refreshed:
        pricefix |= {"updated": True, "token": basket.price_token}
    payment = None
    if basket.kind == "buy" and lines and shop.rules.card_payment:
        payment = _payment(figures.total)
    document = _document(basket, lines, figures, shop, shop.rules.fees, language)
    return {
        "pricefix": pricefix,
        **document,
        "order_creation_status": "basket",
        "type": basket.kind,
        "status_id": 1,
        "status_name": "Created",
        "customer": _buyer(owner.external_id, owner.person, owner.fullname),
        "payment": payment,
        "order_at": format_utc(basket.created),
    }


def serialize_order(order: Order, shop: ShopState, language: str) -> dict[str, Any]:
    """Return a completed order with its present status."""
    status_id, status_name = shop.status(order)
    document = _document(order, order.lines, order.figures, shop, order.fees, language)
    document |= {
        "order_creation_status": "order",
        "type": "walletable_ecommerce",
        "status_id": status_id,
        "status_name": status_name,
        "customer": _buyer(order.external_customer_id, order.person, format_fullname(order.person)),
        "shippingaddress": order.shipping,
        "order_at": format_utc(order.ordered),
    }
    if order.kind == "delivery":
        document["delivery"] = _delivery(order, shop, shipped=status_name in ("Shipped", "Completed"))
    return document


def serialize_receipt(order: Order) -> dict[str, Any]:
    """Return the data of Receipt, a working assumption."""
    url = f"https://files.example.com/receipts/{order.increment_id}.pdf"
    return {
        "order_id": order.id,
        "guid": order.guid,
        "increment_id": order.increment_id,
        "external_id": None,
        "url": url,
    }


def serialize_invoice(order: Order, shop: ShopState, language: str) -> dict[str, Any]:
    """Return the data of Get Order Invoice. Working assumption: a Partner order with a link."""
    status_id, status_name = shop.status(order)
    items: list[Json] = []
    for line in order.lines:
        product = shop.by_sku[line.sku]
        items.append(
            {
                "product_id": product.id,
                "product_name": product.localized_name(language),
                "product_weight": product.weight,
                "spot_price": line.spot,
                "price": line.price,
                "tax_rate": 0,
                "tax": 0,
                "amount": line.amount,
                "total": line.priced().total,
                "currency_id": None,
                "currency_rate": None,
                "currency_total": 0,
            }
        )
    person = {key: order.person.get(key) for key in _PERSON}
    return {
        "guid": order.guid,
        "order_code": order.code,
        "external_id": None,
        "channel": "partner",
        "tx_type": _TX_TYPES[order.kind],
        "price_token": order.price_token,
        "price": order.figures.price,
        "tax": 0,
        "total": order.figures.total,
        "currency_rate": None,
        "currency_total": 0,
        "status_id": status_id,
        "status_name": status_name,
        "items": items,
        "customer": {
            "external_id": order.external_customer_id,
            **person,
            "middlename": person["middlename"] or "",
            "fullname": format_fullname(order.person),
        },
        "invoice_url": f"https://files.example.com/invoices/{order.code}.pdf",
    }


def serialize_holding(owner: Customer, product: Product, pieces: int, shop: ShopState, language: str) -> dict[str, Any]:
    """Return a row of Balance. The keys after `images` are a working assumption."""
    blocked = min(pieces, shop.blocked(owner, product.sku))
    value = shop.quote(product.metal).piece("sell", product.weight)
    return {
        "productName": product.localized_name(language),
        "images": product.images,
        "sku": product.sku,
        "productId": product.id,
        "productWeight": product.weight,
        "metalType": product.metal.metal_type,
        "amount": pieces,
        "deliverableAmount": pieces - blocked if product.deliverable else 0,
        "blockedAmount": blocked,
        "isDeliverable": product.deliverable,
        "unitValue": value,
        "totalValue": value * pieces,
        "currencyCode": "AED",
    }


def serialize_rate(metal: Metal, shop: ShopState) -> dict[str, Any]:
    """Return a row of Currency Rates, a working assumption."""
    now = shop.now()
    gram = next((one for one in shop.products if one.metal is metal and one.weight == 1), None)
    return {
        "currency_id": metal.currency_id,
        "currency_name": metal.name,
        "metal_type": metal.metal_type,
        "product_id": gram.id if gram else None,
        "sku": gram.sku if gram else None,
        **_prices(shop.quote(metal, now)),
        "currency_code": "AED",
        "updated_at": format_utc(shop.walk.tick_start(shop.walk.tick(now))),
    }


def serialize_rate_point(metal: Metal, moment: int, shop: ShopState) -> dict[str, Any]:
    """Return a row of Rate History, a working assumption."""
    return {
        "currency_id": metal.currency_id,
        "metal_type": metal.metal_type,
        "currency_code": "AED",
        "time": format_utc(moment),
        **_prices(shop.quote(metal, moment)),
    }


def serialize_page(rows: list[dict[str, Any]], *, number: int, size: int, total: int, path: str) -> dict[str, Any]:
    """Return the rows of one page in Laravel's length-aware paginator."""
    last = max(1, -(-total // size))

    def url(which: int) -> str | None:
        return f"{path}?page={which}" if 1 <= which <= last else None

    shown = [(number - 1, "&laquo; Previous"), *((which, str(which)) for which in _window(number, last))]
    shown.append((number + 1, "Next &raquo;"))
    links = [{"url": url(which), "label": label, "active": label == str(number)} for which, label in shown]
    return {
        "current_page": number,
        "data": rows,
        "first_page_url": url(1),
        "from": (number - 1) * size + 1 if rows else None,
        "last_page": last,
        "last_page_url": url(last),
        "links": links,
        "next_page_url": url(number + 1),
        "path": path,
        "per_page": size,
        "prev_page_url": url(number - 1),
        "to": (number - 1) * size + len(rows) if rows else None,
        "total": total,
    }


def _window(number: int, last: int) -> range:
    """Return the numbers of the linked pages: at most five on each side of the current page."""
    return range(max(1, number - 5), min(last, number + 5) + 1)


def _prices(quoted: Quote) -> Object:
    return {"spot_price": quoted.spot, "buy_price": quoted.buy, "sell_price": quoted.sell}


def _buyer(external_id: str | None, person: dict[str, str | None], fullname: str) -> Object:
    """Return the 12 keys of `customer` in a basket or order."""
    known: Object = {key: person.get(key) for key in _PERSON}
    return {
        "external_id": external_id,
        **known,
        "middlename": person.get("middlename") or "",
        "fullname": fullname,
        "tax_office": person.get("tax_office"),
        "account_type": person.get("account_type") or "person",
    }


def _payment(total: Decimal) -> Object:
    commission = compute_card_commission(total)
    return {
        "redirect_url": "",
        "token": "",
        "is_3d": False,
        "auth_mode": "",
        "amount": total,
        "state": "new",
        "comission": commission,
        "total": total + commission,
        "details": None,
    }


def _delivery(order: Order, shop: ShopState, *, shipped: bool) -> Object:
    number = f"MNT{order.increment_id}" if shipped else None
    return {
        "cargo_tracking_url": f"https://cargo.example.com/track/{quote(number)}" if number else None,
        "cargo_tracking_number": number,
        "estimated_arrival_date": to_datetime(shop.arrival(order, shipped=shipped)).date().isoformat(),
    }


def _item(line: OrderLine, kind: OrderKind, shop: ShopState, language: str) -> Object:
    product = shop.by_sku[line.sku]
    parts = _BUY_PARTS if kind == "buy" else ((7, "Mint Ücreti"),)
    prices: list[Json] = [
        {"id": number, "name": translate(name, language), "price": line.minting if number == 7 else 0}
        for number, name in parts
    ]
    return {
        "item_currency_id": product.metal.currency_id,
        "item_currency_name": product.metal.name,
        "product_id": product.id,
        "sku": product.sku,
        "product_name": product.localized_name(language),
        "product_weight": product.weight,
        "price": line.price,
        "tax_rate": 0,
        "tax": 0,
        "amount": line.amount,
        "total": line.priced().total,
        "product_images": list(product.images),
        "prices": prices,
    }


def _document(
    deal: Basket | Order, lines: list[OrderLine], figures: Figures, shop: ShopState, fees: FeeSchedule, language: str
) -> dict[str, Any]:
    """Return the keys of baskets and orders in the vendor's order, None where the two differ."""
    currencies = {shop.by_sku[line.sku].metal.name for line in lines}
    return {
        "id": deal.id,
        "guid": deal.guid,
        "order_creation_status": None,
        "external_id": None,
        "increment_id": deal.increment_id,
        "token": deal.token,
        "price_token": deal.price_token,
        "type": None,
        "price": figures.price,
        "tax": 0,
        "total": figures.total,
        "payment_cost": 0,
        "paid_total": figures.paid_total,
        "delivery_cost": figures.delivery_cost,
        "insurance_price": 0,
        "conversion_price": 0,
        "market_commission": 0,
        "minted_markup_price": 0,
        "silver_craftsmanship": 0,
        "charge_fee": figures.charge_fee,
        "charge_fee_rate": fees.charge,
        "minting_fee": figures.minting_fee,
        "storage_fee": figures.storage_fee,
        "storage_fee_rate": fees.storage,
        "charges_vat": figures.charges_vat,
        "vat_rate": fees.vat,
        "currency_code": "AED",
        "status_id": None,
        "status_name": None,
        "customer": None,
        "shippingaddress": None,
        "billingaddress": None,
        "payment": None,
        "delivery": None,
        "order_at": None,
        "items": [_item(line, deal.kind, shop, language) for line in lines],
        "total_amount": sum(line.amount for line in lines),
        "currency": currencies.pop() if len(currencies) == 1 else None,
        "tx_type": _TX_TYPES[deal.kind],
    }
