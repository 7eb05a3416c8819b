"""The 19 operations: request in, `data` out. One function each, named as in walletable.md section 2."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar, cast

from attrs import frozen

from . import serializers
from .entities import AcceptedBasket, Customer, Order
from .errors import ShopError, invalid
from .json_codec import Object
from .pricing import METALS, Kind
from .shop import Shop
from .state import SECOND, at
from .validation import Validator

_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_-]+")
_KINDS = ("buy", "sell", "delivery")
_METAL_TYPES = tuple(metal.metal_type for metal in METALS)
_MOST_POINTS = 2_000  # of one rate history; the vendor's limit is not known (S27)
_INVOICED = "Completed"
_Row = TypeVar("_Row")


@frozen
class Call:
    """One authenticated request, taken apart.

    `path` is the address of the resource without its query, as the paginator shows it; `accepted` the basket that a
    completion completes, None for the one that is found.
    """

    shop: Shop
    partner: str
    language: str
    path: str
    params: dict[str, str]
    query: dict[str, str]
    body: Object
    accepted: AcceptedBasket | None = None


# Customers.


def create_customer(call: Call) -> object:
    """Create Customer (6.1)."""
    check = Validator(call.body)
    external_id = check.text("external_id", required=True, shortest=3, longest=40, pattern=_EXTERNAL_ID)
    person = _person(check)
    person["tax_office"] = check.text("tax_office", shortest=3, longest=40)
    person["account_type"] = check.choice("account_type", ("person", "company"))
    check.done()
    return serializers.customer(call.shop.create_customer(call.partner, external_id or "", person))


def update_customer(call: Call) -> object:
    """Update Customer (6.2)."""
    customer = _named(call)
    check = Validator(call.body)
    person = _person(check)
    if call.shop.rules.strict_update:
        for field in ("firstname", "lastname", "phone", "identity_number"):
            check.text(field, required=True)
    check.text("identity_number", shortest=3)
    if check.text("external_id") not in (None, customer.external_id):
        check.complain("external_id", "fixed")
    check.done()
    call.shop.update_customer(customer, {key: person[key] for key in person if check.has(key)})
    return serializers.customer(customer)


def remove_customer(call: Call) -> object:
    """Remove Customer Id (6.3)."""
    call.shop.remove_customer(_named(call))
    return None


def get_customer(call: Call) -> object:
    """Get Customer (6.4)."""
    reads = call.shop.reads()
    return serializers.customer_with_wallets(reads.customer(call.partner, call.params["external_customer_id"]), reads)


# Products.


def products(call: Call) -> object:
    """Get Products (6.5). Working assumption: `page` and `total` may be left out."""
    check = Validator(call.query, query=True)
    number, size = check.integer("page", least=1), check.integer("total", least=5, most=100, default=10)
    check.done()
    return _page(call, call.shop.products, number, size, lambda one: serializers.product(one, call.shop, call.language))


# Baskets.


def get_basket(call: Call) -> object:
    """Get Active Basket (6.13)."""
    check = Validator(call.query, query=True)
    customer = _wanted(check)
    token = check.text("cart_token", shortest=32, longest=32)
    check.done()
    reads = call.shop.reads()
    if reads is not call.shop and (primary := call.shop.find_customer(call.partner, customer)) is not None:
        call.shop.active_basket(primary, token)  # re-prices there, as a read does; the replica follows
    owner = reads.customer(call.partner, customer)
    basket = reads.active_basket(owner, token)
    return None if basket is None else serializers.basket(basket, owner, reads, call.language)


def add_item(call: Call) -> object:
    """Create Basket / Add Basket Item (6.15)."""
    check = Validator(call.body)
    customer, sku = _wanted(check), check.need("sku")
    qty = check.integer("qty", least=1, required=True)
    token = check.text("cart_token", shortest=32, longest=32)
    kind = cast("Kind", check.choice("type", _KINDS) or "buy")
    check.done()
    owner = _buyer(call, customer)
    return serializers.basket(
        call.shop.add_item(owner, sku, qty, kind=kind, token=token), owner, call.shop, call.language
    )


def update_item(call: Call) -> object:
    """Update Basket Item (6.17)."""
    check = Validator(call.body)
    customer, token, sku = _wanted(check), _token(check), check.need("sku")
    qty = check.integer("qty", least=1, required=True)
    check.done()
    owner = _buyer(call, customer)
    return serializers.basket(call.shop.update_item(owner, token, sku, qty), owner, call.shop, call.language)


def delete_item(call: Call) -> object:
    """Delete Basket Item (6.14)."""
    check = Validator(call.body)
    customer, token, sku = _wanted(check), _token(check), check.need("sku")
    check.done()
    owner = _buyer(call, customer)
    return serializers.basket(call.shop.delete_item(owner, token, sku), owner, call.shop, call.language)


def clear_basket(call: Call) -> object:
    """Clear Basket (6.16)."""
    check = Validator(call.body)
    customer, token = _wanted(check), _token(check)
    check.done()
    owner = _buyer(call, customer)
    return serializers.basket(call.shop.clear(owner, token), owner, call.shop, call.language)


# Completions.


def complete_buy(call: Call) -> object:
    """Complete Buy (6.6)."""
    return _complete(call, "buy")


def complete_sell(call: Call) -> object:
    """Complete Sell (6.7)."""
    return _complete(call, "sell")


def complete_delivery(call: Call) -> object:
    """Complete Delivery (6.8)."""
    return _complete(call, "delivery")


def _complete(call: Call, kind: Kind) -> object:
    check = Validator(call.body)
    customer, token = _wanted(check), _token(check)
    shipping = _shipping(check) if kind == "delivery" else None
    check.done()
    order = call.shop.complete(kind, _buyer(call, customer), token, shipping, call.accepted)
    return serializers.order(order, call.shop, call.language)


def accept(call: Call) -> AcceptedBasket | None:
    """Return the basket that a completion is for, as it is now; None if it is not open or the body is not valid."""
    customer, token = call.body.get("external_customer_id"), call.body.get("cart_token")
    if not isinstance(customer, str) or not isinstance(token, str):
        return None
    owner = call.shop.find_customer(call.partner, customer)
    return None if owner is None else call.shop.accept(owner, token)


def _shipping(check: Validator) -> Object:
    """Read the address, by the limits of E-Commerce Set Custom Address (api-8209448, 2024-09-17)."""
    inside = check.inside("shipping")
    address: Object = {
        "tax_number": inside.need("tax_number"),
        "external_id": inside.text("external_id", shortest=1, longest=110),
        "fullname": inside.need("fullname"),
        "phone": inside.need("phone"),
        "email": inside.email("email"),
        "city": inside.need("city"),
        "county": inside.need("county"),
        "district": inside.need("district"),
        "street": inside.text("street"),
        "zipcode": inside.text("zipcode", longest=5),
        "address": inside.need("address"),
    }
    check.merge(inside)
    return address


# Orders.


def orders(call: Call) -> object:
    """Get Orders (6.9). Dates are inclusive UTC days of `order_at`; unknown filters are ignored."""
    check = Validator(call.query, query=True)
    number, size = check.integer("page", least=1), check.integer("total", least=5, most=30, default=10)
    sort_by = check.choice("sortBy", ("type", "total", "customer_external_id", "created_at")) or "created_at"
    descending = check.choice("sortType", ("asc", "desc")) != "asc"
    statuses, kinds = check.numbers("status"), check.words("tx_type", _KINDS)
    days = check.days("startDate", "endDate")
    customer = check.text("customer_external_id", longest=110)
    order_id = check.integer("orderId", least=1, default=0)
    check.done()
    shop = call.shop.reads()
    found = [
        order
        for order in shop.orders_of(call.partner)
        if (customer is None or order.external_customer_id == customer)
        and (not order_id or order.id == order_id)
        and (kinds is None or order.kind in kinds)
        and (statuses is None or shop.status(order)[0] in statuses)
        and (days is None or days[0] <= at(order.ordered).date() <= days[1])
    ]
    found.sort(key=lambda order: _sort_key(order, sort_by), reverse=descending)
    return _page(call, found, number, size, lambda order: serializers.order(order, shop, call.language))


def _sort_key(order: Order, by: str) -> tuple[Any, int]:
    keys = {
        "type": order.kind,
        "total": order.figures.total,
        "customer_external_id": order.external_customer_id,
        "created_at": order.ordered,
    }
    return keys[by], order.id


def invoice(call: Call) -> object:
    """Get Order Invoice (6.10). Working assumption (S18): any id of the order will do; 404 until it is completed."""
    wanted = call.params["external_order_id"]
    reads = call.shop.reads()
    for order in reads.orders_of(call.partner):
        if wanted in (order.guid, order.increment_id, str(order.id)) and reads.status(order)[1] == _INVOICED:
            return serializers.invoice(order, reads, call.language)
    raise ShopError(404, "not_found")


def receipt(call: Call) -> object:
    """Receipt (6.11)."""
    check = Validator(call.query, query=True)
    customer, order_id = _wanted(check), check.integer("orderId", least=1, required=True)
    check.done()
    reads = call.shop.reads()
    owner = reads.customer(call.partner, customer)
    for order in reads.orders_of(call.partner):
        if order.id == order_id and order.customer == owner.id:
            return serializers.receipt(order)
    raise ShopError(404, "not_found")


# Wallet and rates.


def balance(call: Call) -> object:
    """Balance / Wallet (6.12). Working assumption (S20): the customer is required."""
    check = Validator(call.query, query=True)
    customer, metals = _wanted(check), check.words("metal_type", _METAL_TYPES)
    deliverable = check.boolean("is_deliverable")
    check.done()
    reads = call.shop.reads()
    owner = reads.customer(call.partner, customer)
    rows = [
        serializers.holding(owner, product, owner.holdings[product.sku], reads, call.language)
        for product in call.shop.products
        if owner.holdings.get(product.sku) and (metals is None or product.metal.metal_type in metals)
    ]
    return [row for row in rows if not deliverable or row["deliverableAmount"] > 0]


def rates(call: Call) -> object:
    """Currency Rates (6.18)."""
    check = Validator(call.query, query=True)
    metals = check.words("metal_type", _METAL_TYPES)
    check.done()
    return [serializers.rate(metal, call.shop) for metal in call.shop.metals(metals)]


def rate_history(call: Call) -> object:
    """Rate History (6.19): the walk at the start of each interval; the last 30 intervals without dates."""
    check = Validator(call.query, query=True)
    currency, types = check.integer("currency_id", least=1, default=0), check.words("metal_type", _METAL_TYPES)
    interval = check.choice("interval", ("hour", "day", "week", "month")) or "day"
    days = check.days("startDate", "endDate")
    if not currency and types is None and not check.complaints:
        check.complain("currency_id", "without", other="metal_type")
    if currency and currency not in {metal.currency_id for metal in METALS}:
        check.complain("currency_id", "choice")
    check.done()
    metals = [one for one in call.shop.metals(types) if currency in (0, one.currency_id)]
    starts = _starts(at(call.shop.now()), interval, days)
    moments = [round(start.timestamp()) * SECOND for start in starts]
    return [serializers.rate_point(metal, moment, call.shop) for moment in moments for metal in metals]


def _starts(now: datetime, interval: str, days: tuple[date, date] | None) -> list[datetime]:
    """Return the starts of intervals, oldest first: those within `days`, or the last 30; none in the future."""
    latest = now if days is None else min(now, _midnight(days[1]) + timedelta(days=1, microseconds=-1))
    start = latest.replace(minute=0, second=0, microsecond=0)
    if interval != "hour":
        start = start.replace(hour=0)
    if interval == "week":
        start -= timedelta(days=start.weekday())
    elif interval == "month":
        start = start.replace(day=1)
    found: list[datetime] = []
    earliest = None if days is None else _midnight(days[0])
    while len(found) < 30 if earliest is None else start >= earliest:
        if len(found) == _MOST_POINTS:
            raise invalid("endDate", "too_long", n=_MOST_POINTS)
        found.append(start)
        start = _previous(start, interval)
    return found[::-1]


def _previous(start: datetime, interval: str) -> datetime:
    if interval == "month":
        return (start - timedelta(days=1)).replace(day=1)
    return start - {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}[interval]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


# Shared.


def _wanted(check: Validator) -> str:
    """Read `external_customer_id`: 1 to 110 characters."""
    return check.need("external_customer_id", shortest=1, longest=110)


def _token(check: Validator) -> str:
    """Read `cart_token`: exactly 32 characters."""
    return check.need("cart_token", shortest=32, longest=32)


def _named(call: Call) -> Customer:
    """Return the customer of the path, or raise a 404."""
    return call.shop.customer(call.partner, call.params["external_customer_id"])


def _buyer(call: Call, external_id: str) -> Customer:
    """Return the customer of a body; an unknown one is a 422 here, not a 404."""
    try:
        return call.shop.customer(call.partner, external_id)
    except ShopError:
        raise invalid("external_customer_id", "choice", field="external_customer_id") from None


def _person(check: Validator) -> dict[str, str | None]:
    """Read the personal fields that Create and Update Customer share."""
    birthdate = check.day("birthdate")
    person = {name: check.text(name, shortest=3, longest=40) for name in ("firstname", "lastname")}
    middle = check.text("middlename", longest=40)  # 3..40, yet "" in the documented example
    if middle and len(middle) < 3:
        check.complain("middlename", "min_length", n=3)
    return {
        **person,
        "middlename": middle,
        "email": check.email("email"),
        "phone": check.text("phone"),
        "gender": check.choice("gender", ("M", "F")),
        "identity_number": check.text("identity_number"),
        "birthdate": birthdate.isoformat() if birthdate else None,
    }


def _page(
    call: Call, found: Sequence[_Row], number: int, size: int, view: Callable[[_Row], dict[str, Any]]
) -> dict[str, Any]:
    begin = (number - 1) * size
    rows = [view(one) for one in found[begin : begin + size]]
    return serializers.page(rows, number=number, size=size, total=len(found), path=call.path)
