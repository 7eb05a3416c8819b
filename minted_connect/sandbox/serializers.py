"""How things look on the wire: the JSON objects of walletable.md sections 3 and 6."""

from datetime import timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from .catalogue import Product
from .entities import Basket, Customer, Order, OrderLine
from .json_codec import Json, Object
from .messages import translate
from .pricing import FeeSchedule, Figures, Kind, Metal, Quote, card_commission
from .state import ShopState, at

_ISTANBUL = timezone(timedelta(hours=3))
_TX_TYPES: dict[Kind, str] = {"buy": "oneoffpurchase", "sell": "sell", "delivery": "delivery"}
_PERSON = ("firstname", "middlename", "lastname", "email", "phone", "gender", "identity_number", "birthdate")
_BUY_PARTS = ((6, "Fiziksel Dönüşüm"), (4, "Kargo"), (7, "Mint Ücreti"), (2, "Sigorta"))


def stamp(moment: int) -> str:
    """Write a moment as UTC with microseconds."""
    return at(moment).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def zoneless(moment: int) -> str:
    """Write a moment without a zone. The vendor's is not known; it is UTC here."""
    return at(moment).strftime("%Y-%m-%d %H:%M:%S")


def customer(one: Customer) -> dict[str, Any]:
    """Create Customer and Update Customer (6.1)."""
    return {
        "id": one.id,
        "external_id": one.external_id,
        "company_id": 2000000,
        "user_id": None,
        **{key: one.person.get(key) for key in _PERSON},
        "fullname": one.fullname,
        "created_at": zoneless(one.created),
        "updated_at": zoneless(one.updated),
    }


def customer_with_wallets(one: Customer, shop: ShopState) -> dict[str, Any]:
    """Get Customer (6.4). Working assumption (unverified): wallets are counted in grams, one per metal."""
    wallets: list[Json] = []
    for position, metal in enumerate(shop.metals(None)):
        held = blocked = Decimal(0)
        for sku, pieces in one.holdings.items():
            product = shop.by_sku[sku]
            if product.metal is metal:
                held += product.weight * pieces
                blocked += product.weight * min(pieces, shop.blocked(one, sku))
        wallets.append(
            {
                "id": 1785 + 2 * one.id + position,
                "customer_external_id": one.external_id,
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
    person = {key: one.person.get(key) for key in _PERSON}
    return {"external_id": one.external_id, **person, "fullname": one.fullname, "wallets": wallets}


def product(one: Product, shop: ShopState, language: str) -> dict[str, Any]:
    """Build a row of Get Products (6.5). Working assumption: both prices are what a basket line charges now."""
    price = shop.quote(one.metal).piece("buy", one.weight)
    return {
        "id": one.id,
        "name": one.named(language),
        "text": translate("description", language),
        "barcode": f"MNT{one.sku}",
        "sku": one.sku,
        "stock": one.stock,
        "currency_code": "AED",
        "list_price": price,
        "sale_price": price,
        "product_images": one.images,
        "basecurrency": {
            "id": one.metal.currency_id,
            "name": one.metal.name,
            "metal_type": one.metal.metal_type,
        },
        "category": {"id": one.category, "name": one.category_named(language)},
    }


def basket(one: Basket, owner: Customer, shop: ShopState, language: str) -> dict[str, Any]:
    """Build an open basket (section 3)."""
    lines = shop.lines(one)
    figures = shop.figures(one, lines)
    end = at(shop.lock_end(one)).astimezone(_ISTANBUL)
    pricefix: dict[str, Any] = {
        "remaining": shop.remaining(one),
        "nextUpdate": end.isoformat(timespec="seconds"),
    }
    if one.refreshed:
        pricefix |= {"updated": True, "token": one.price_token}
    payment = None
    if one.kind == "buy" and lines and shop.rules.card_payment:
        payment = _payment(figures.total)
    document = _document(one, lines, figures, shop, shop.rules.rates, language)
    return {
        "pricefix": pricefix,
        **document,
        "order_creation_status": "basket",
        "type": one.kind,
        "status_id": 1,
        "status_name": "Created",
        "customer": _buyer(owner.external_id, owner.person, owner.fullname),
        "payment": payment,
        "order_at": stamp(one.created),
    }


def order(one: Order, shop: ShopState, language: str) -> dict[str, Any]:
    """Build a completed order (section 3), in the status it has reached by now."""
    status_id, status_name = shop.status(one)
    document = _document(one, one.lines, one.figures, shop, one.rates, language)
    document |= {
        "order_creation_status": "order",
        "type": "walletable_ecommerce",
        "status_id": status_id,
        "status_name": status_name,
        "customer": _buyer(one.external_customer_id, one.person, _fullname(one.person)),
        "shippingaddress": one.shipping,
        "order_at": stamp(one.ordered),
    }
    if one.kind == "delivery":
        document["delivery"] = _delivery(one, shop, shipped=status_name in ("Shipped", "Completed"))
    return document


def receipt(one: Order) -> dict[str, Any]:
    """Build the answer of Receipt (6.11), working assumption (unverified)."""
    url = f"https://files.example.com/receipts/{one.increment_id}.pdf"
    return {
        "order_id": one.id,
        "guid": one.guid,
        "increment_id": one.increment_id,
        "external_id": None,
        "url": url,
    }


def invoice(one: Order, shop: ShopState, language: str) -> dict[str, Any]:
    """Build the answer of Get Order Invoice (6.10), working assumption (unverified): the Partner order and a link."""
    status_id, status_name = shop.status(one)
    items: list[Json] = []
    for line in one.lines:
        what = shop.by_sku[line.sku]
        items.append(
            {
                "product_id": what.id,
                "product_name": what.named(language),
                "product_weight": what.weight,
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
    person = {key: one.person.get(key) for key in _PERSON}
    return {
        "guid": one.guid,
        "order_code": one.code,
        "external_id": None,
        "channel": "partner",
        "tx_type": _TX_TYPES[one.kind],
        "price_token": one.price_token,
        "price": one.figures.price,
        "tax": 0,
        "total": one.figures.total,
        "currency_rate": None,
        "currency_total": 0,
        "status_id": status_id,
        "status_name": status_name,
        "items": items,
        "customer": {
            "external_id": one.external_customer_id,
            **person,
            "middlename": person["middlename"] or "",
            "fullname": _fullname(one.person),
        },
        "invoice_url": f"https://files.example.com/invoices/{one.code}.pdf",
    }


def holding(owner: Customer, what: Product, pieces: int, shop: ShopState, language: str) -> dict[str, Any]:
    """Build a row of Balance (6.12), working assumption (unverified) after `images`."""
    blocked = min(pieces, shop.blocked(owner, what.sku))
    value = shop.quote(what.metal).piece("sell", what.weight)
    return {
        "productName": what.named(language),
        "images": what.images,
        "sku": what.sku,
        "productId": what.id,
        "productWeight": what.weight,
        "metalType": what.metal.metal_type,
        "amount": pieces,
        "deliverableAmount": pieces - blocked if what.deliverable else 0,
        "blockedAmount": blocked,
        "isDeliverable": what.deliverable,
        "unitValue": value,
        "totalValue": value * pieces,
        "currencyCode": "AED",
    }


def rate(metal: Metal, shop: ShopState) -> dict[str, Any]:
    """Build a row of Currency Rates (6.18), working assumption (unverified)."""
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
        "updated_at": stamp(shop.walk.started(shop.walk.tick(now))),
    }


def rate_point(metal: Metal, moment: int, shop: ShopState) -> dict[str, Any]:
    """Build a row of Rate History (6.19), working assumption (unverified)."""
    return {
        "currency_id": metal.currency_id,
        "metal_type": metal.metal_type,
        "currency_code": "AED",
        "time": stamp(moment),
        **_prices(shop.quote(metal, moment)),
    }


def page(rows: list[dict[str, Any]], *, number: int, size: int, total: int, path: str) -> dict[str, Any]:
    """Build Laravel's length-aware paginator (1.6) around the rows of one page."""
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
    """Return the pages that get a link: a few around the current one, so that huge lists stay small."""
    return range(max(1, number - 5), min(last, number + 5) + 1)


def _prices(quoted: Quote) -> Object:
    return {"spot_price": quoted.spot, "buy_price": quoted.buy, "sell_price": quoted.sell}


def _fullname(person: dict[str, str | None]) -> str:
    return " ".join(filter(None, (person.get(part) for part in ("firstname", "middlename", "lastname"))))


def _buyer(external_id: str | None, person: dict[str, str | None], fullname: str) -> Object:
    """Build `customer` of a basket or order: all 12 keys."""
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
    commission = card_commission(total)
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


def _delivery(one: Order, shop: ShopState, *, shipped: bool) -> Object:
    number = f"MNT{one.increment_id}" if shipped else None
    return {
        "cargo_tracking_url": f"https://cargo.example.com/track/{quote(number)}" if number else None,
        "cargo_tracking_number": number,
        "estimated_arrival_date": at(shop.arrival(one, shipped=shipped)).date().isoformat(),
    }


def _item(line: OrderLine, kind: Kind, shop: ShopState, language: str) -> Object:
    what = shop.by_sku[line.sku]
    parts = _BUY_PARTS if kind == "buy" else ((7, "Mint Ücreti"),)
    prices: list[Json] = [
        {"id": number, "name": translate(name, language), "price": line.minting if number == 7 else 0}
        for number, name in parts
    ]
    return {
        "item_currency_id": what.metal.currency_id,
        "item_currency_name": what.metal.name,
        "product_id": what.id,
        "sku": what.sku,
        "product_name": what.named(language),
        "product_weight": what.weight,
        "price": line.price,
        "tax_rate": 0,
        "tax": 0,
        "amount": line.amount,
        "total": line.priced().total,
        "product_images": list(what.images),
        "prices": prices,
    }


def _document(
    one: Basket | Order, lines: list[OrderLine], figures: Figures, shop: ShopState, rates: FeeSchedule, language: str
) -> dict[str, Any]:
    """Build what baskets and orders share, in the vendor's order of keys; the callers fill in the rest."""
    currencies = {shop.by_sku[line.sku].metal.name for line in lines}
    return {
        "id": one.id,
        "guid": one.guid,
        "order_creation_status": None,
        "external_id": None,
        "increment_id": one.increment_id,
        "token": one.token,
        "price_token": one.price_token,
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
        "charge_fee_rate": rates.charge,
        "minting_fee": figures.minting_fee,
        "storage_fee": figures.storage_fee,
        "storage_fee_rate": rates.storage,
        "charges_vat": figures.charges_vat,
        "vat_rate": rates.vat,
        "currency_code": "AED",
        "status_id": None,
        "status_name": None,
        "customer": None,
        "shippingaddress": None,
        "billingaddress": None,
        "payment": None,
        "delivery": None,
        "order_at": None,
        "items": [_item(line, one.kind, shop, language) for line in lines],
        "total_amount": sum(line.amount for line in lines),
        "currency": currencies.pop() if len(currencies) == 1 else None,
        "tx_type": _TX_TYPES[one.kind],
    }
