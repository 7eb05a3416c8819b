"""The handlers of the 19 operations: each takes a request and returns the `data` of its response.

Working assumptions are marked; S numbers are the questions of the evidence guide.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from attrs import frozen

from . import serializers
from .entities import AcceptedBasket, Basket, Customer, Order
from .errors import ShopError, invalid
from .intervals import interval_starts
from .json_codec import Object
from .pricing import METALS, OrderKind
from .shop import Shop
from .state import SECOND, to_datetime
from .validation import Validator

_EXTERNAL_ID = re.compile(r"[A-Za-z0-9_-]+")
_KINDS = ("buy", "sell", "delivery")
_METAL_TYPES = tuple(metal.metal_type for metal in METALS)
_INVOICED = "Completed"
_Row = TypeVar("_Row")


@frozen
class OperationRequest:
    """One authenticated request, parsed.

    Attributes:
        shop: the state.
        partner: username of the partner.
        language: `tr` or `en`.
        path: URL of the resource without its query, for the links of a page.
        params: parameters in the path.
        query: parameters in the query.
        body: the JSON object in the body.
        accepted: for a completion, the basket as it was on acceptance; None: look the basket up on execution.
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


def create_customer(request: OperationRequest) -> object:
    """Create Customer."""
    fields = Validator(request.body)
    external_id = fields.text("external_id", required=True, min_length=3, max_length=40, pattern=_EXTERNAL_ID)
    person = _read_person(fields)
    person["tax_office"] = fields.text("tax_office", min_length=3, max_length=40)
    person["account_type"] = fields.choice("account_type", ("person", "company"))
    fields.raise_if_invalid()
    return serializers.serialize_customer(request.shop.create_customer(request.partner, external_id or "", person))


def update_customer(request: OperationRequest) -> object:
    """Update Customer."""
    customer = _customer_in_path(request)
    fields = Validator(request.body)
    person = _read_person(fields)
    if request.shop.rules.strict_update:
        for field in ("firstname", "lastname", "phone", "identity_number"):
            fields.text(field, required=True)
    fields.text("identity_number", min_length=3)
    if fields.text("external_id") not in (None, customer.external_id):
        fields.add_error("external_id", "fixed")
    fields.raise_if_invalid()
    request.shop.update_customer(customer, {key: person[key] for key in person if fields.has(key)})
    return serializers.serialize_customer(customer)


def remove_customer(request: OperationRequest) -> object:
    """Remove Customer Id."""
    request.shop.remove_customer(_customer_in_path(request))
    return None


def get_customer(request: OperationRequest) -> object:
    """Get Customer."""
    reads = request.shop.reads()
    customer = reads.customer(request.partner, request.params["external_customer_id"])
    return serializers.serialize_customer_with_wallets(customer, reads)


# Products.


def get_products(request: OperationRequest) -> object:
    """Get Products. Working assumption: `page` and `total` are optional."""
    fields = Validator(request.query, query=True)
    number, size = fields.integer("page", low=1), fields.integer("total", low=5, high=100, default=10)
    fields.raise_if_invalid()
    shop, language = request.shop, request.language
    return _make_page(
        request, shop.products, number, size, lambda one: serializers.serialize_product(one, shop, language)
    )


# Baskets.


def get_basket(request: OperationRequest) -> object:
    """Get Active Basket."""
    fields = Validator(request.query, query=True)
    customer = _customer_id(fields)
    token = fields.text("cart_token", min_length=32, max_length=32)
    fields.raise_if_invalid()
    reads = request.shop.reads()
    if reads is not request.shop and (primary := request.shop.find_customer(request.partner, customer)) is not None:
        request.shop.active_basket(primary, token)  # re-prices on the primary, as a read does; the replica follows
    owner = reads.customer(request.partner, customer)
    basket = reads.active_basket(owner, token)
    return None if basket is None else serializers.serialize_basket(basket, owner, reads, request.language)


def add_item(request: OperationRequest) -> object:
    """Create Basket / Add Basket Item."""
    fields = Validator(request.body)
    customer, sku = _customer_id(fields), fields.required_text("sku")
    qty = fields.integer("qty", low=1, required=True)
    token = fields.text("cart_token", min_length=32, max_length=32)
    kind = cast("OrderKind", fields.choice("type", _KINDS) or "buy")
    fields.raise_if_invalid()
    owner = _customer_in_body(request, customer)
    return _serialize_basket(request, request.shop.add_item(owner, sku, qty, kind=kind, token=token), owner)


def update_item(request: OperationRequest) -> object:
    """Update Basket Item."""
    fields = Validator(request.body)
    customer, token, sku = _customer_id(fields), _cart_token(fields), fields.required_text("sku")
    qty = fields.integer("qty", low=1, required=True)
    fields.raise_if_invalid()
    owner = _customer_in_body(request, customer)
    return _serialize_basket(request, request.shop.update_item(owner, token, sku, qty), owner)


def delete_item(request: OperationRequest) -> object:
    """Delete Basket Item."""
    fields = Validator(request.body)
    customer, token, sku = _customer_id(fields), _cart_token(fields), fields.required_text("sku")
    fields.raise_if_invalid()
    owner = _customer_in_body(request, customer)
    return _serialize_basket(request, request.shop.delete_item(owner, token, sku), owner)


def clear_basket(request: OperationRequest) -> object:
    """Clear Basket."""
    fields = Validator(request.body)
    customer, token = _customer_id(fields), _cart_token(fields)
    fields.raise_if_invalid()
    owner = _customer_in_body(request, customer)
    return _serialize_basket(request, request.shop.clear(owner, token), owner)


def _serialize_basket(request: OperationRequest, basket: Basket, owner: Customer) -> object:
    return serializers.serialize_basket(basket, owner, request.shop, request.language)


# Completions.


def complete_buy(request: OperationRequest) -> object:
    """Complete Buy."""
    return _complete(request, "buy")


def complete_sell(request: OperationRequest) -> object:
    """Complete Sell."""
    return _complete(request, "sell")


def complete_delivery(request: OperationRequest) -> object:
    """Complete Delivery."""
    return _complete(request, "delivery")


def _complete(request: OperationRequest, kind: OrderKind) -> object:
    fields = Validator(request.body)
    customer, token = _customer_id(fields), _cart_token(fields)
    shipping = _read_shipping(fields) if kind == "delivery" else None
    fields.raise_if_invalid()
    order = request.shop.complete(kind, _customer_in_body(request, customer), token, shipping, request.accepted)
    return serializers.serialize_order(order, request.shop, request.language)


def accept(request: OperationRequest) -> AcceptedBasket | None:
    """Return the present basket of a completion; None if it is not open or the body is not valid."""
    customer, token = request.body.get("external_customer_id"), request.body.get("cart_token")
    if not isinstance(customer, str) or not isinstance(token, str):
        return None
    owner = request.shop.find_customer(request.partner, customer)
    return None if owner is None else request.shop.accept(owner, token)


def _read_shipping(fields: Validator) -> Object:
    """Read the address, with the limits of E-Commerce Set Custom Address (api-8209448, 2024-09-17)."""
    shipping = fields.nested("shipping")
    address: Object = {
        "tax_number": shipping.required_text("tax_number"),
        "external_id": shipping.text("external_id", min_length=1, max_length=110),
        "fullname": shipping.required_text("fullname"),
        "phone": shipping.required_text("phone"),
        "email": shipping.email("email"),
        "city": shipping.required_text("city"),
        "county": shipping.required_text("county"),
        "district": shipping.required_text("district"),
        "street": shipping.text("street"),
        "zipcode": shipping.text("zipcode", max_length=5),
        "address": shipping.required_text("address"),
    }
    fields.merge(shipping)
    return address


# Orders.


def get_orders(request: OperationRequest) -> object:
    """Get Orders. Dates are inclusive UTC days of `order_at`; unknown filters are ignored."""
    fields = Validator(request.query, query=True)
    number, size = fields.integer("page", low=1), fields.integer("total", low=5, high=30, default=10)
    sort_by = fields.choice("sortBy", ("type", "total", "customer_external_id", "created_at")) or "created_at"
    descending = fields.choice("sortType", ("asc", "desc")) != "asc"
    statuses, kinds = fields.integers("status"), fields.choices("tx_type", _KINDS)
    days = fields.date_range("startDate", "endDate")
    customer = fields.text("customer_external_id", max_length=110)
    order_id = fields.integer("orderId", low=1, default=0)
    fields.raise_if_invalid()
    shop = request.shop.reads()
    found = [
        order
        for order in shop.orders_of(request.partner)
        if (customer is None or order.external_customer_id == customer)
        and (not order_id or order.id == order_id)
        and order.id not in request.shop.unlisted
        and (kinds is None or order.kind in kinds)
        and (statuses is None or shop.status(order)[0] in statuses)
        and (days is None or days[0] <= to_datetime(order.ordered).date() <= days[1])
    ]
    found.sort(key=lambda order: _sort_key(order, sort_by), reverse=descending)
    language = request.language
    return _make_page(request, found, number, size, lambda one: serializers.serialize_order(one, shop, language))


def _sort_key(order: Order, by: str) -> tuple[Any, int]:
    keys = {
        "type": order.kind,
        "total": order.figures.total,
        "customer_external_id": order.external_customer_id,
        "created_at": order.ordered,
    }
    return keys[by], order.id


def get_invoice(request: OperationRequest) -> object:
    """Get Order Invoice. Working assumption (S18): any id of the order is accepted; 404 until it is completed."""
    wanted = request.params["external_order_id"]
    reads = request.shop.reads()
    for order in reads.orders_of(request.partner):
        if wanted in (order.guid, order.increment_id, str(order.id)) and reads.status(order)[1] == _INVOICED:
            return serializers.serialize_invoice(order, reads, request.language)
    raise ShopError(404, "not_found")


def get_receipt(request: OperationRequest) -> object:
    """Receipt."""
    fields = Validator(request.query, query=True)
    customer, order_id = _customer_id(fields), fields.integer("orderId", low=1, required=True)
    fields.raise_if_invalid()
    reads = request.shop.reads()
    owner = reads.customer(request.partner, customer)
    for order in reads.orders_of(request.partner):
        if order.id == order_id and order.customer == owner.id:
            return serializers.serialize_receipt(order)
    raise ShopError(404, "not_found")


# Wallet and rates.


def get_balance(request: OperationRequest) -> object:
    """Balance / Wallet. Working assumption (S20): the customer is required."""
    fields = Validator(request.query, query=True)
    customer, metals = _customer_id(fields), fields.choices("metal_type", _METAL_TYPES)
    deliverable = fields.boolean("is_deliverable")
    fields.raise_if_invalid()
    reads = request.shop.reads()
    owner = reads.customer(request.partner, customer)
    rows = [
        serializers.serialize_holding(owner, product, owner.holdings[product.sku], reads, request.language)
        for product in request.shop.products
        if owner.holdings.get(product.sku) and (metals is None or product.metal.metal_type in metals)
    ]
    return [row for row in rows if not deliverable or row["deliverableAmount"] > 0]


def get_rates(request: OperationRequest) -> object:
    """Currency Rates."""
    fields = Validator(request.query, query=True)
    metals = fields.choices("metal_type", _METAL_TYPES)
    fields.raise_if_invalid()
    return [serializers.serialize_rate(metal, request.shop) for metal in request.shop.metals(metals)]


def get_rate_history(request: OperationRequest) -> object:
    """Rate History: the prices at the start of each interval; without dates of the last 30 intervals."""
    fields = Validator(request.query, query=True)
    currency, types = fields.integer("currency_id", low=1, default=0), fields.choices("metal_type", _METAL_TYPES)
    interval = fields.choice("interval", ("hour", "day", "week", "month")) or "day"
    days = fields.date_range("startDate", "endDate")
    if not currency and types is None and not fields.errors:
        fields.add_error("currency_id", "without", other="metal_type")
    if currency and currency not in {metal.currency_id for metal in METALS}:
        fields.add_error("currency_id", "choice")
    fields.raise_if_invalid()
    metals = [one for one in request.shop.metals(types) if currency in (0, one.currency_id)]
    starts = interval_starts(to_datetime(request.shop.now()), interval, days)
    moments = [round(start.timestamp()) * SECOND for start in starts]
    return [serializers.serialize_rate_point(metal, moment, request.shop) for moment in moments for metal in metals]


# Shared.


def _customer_id(fields: Validator) -> str:
    """Read `external_customer_id`, 1 to 110 characters."""
    return fields.required_text("external_customer_id", min_length=1, max_length=110)


def _cart_token(fields: Validator) -> str:
    """Read `cart_token`, exactly 32 characters."""
    return fields.required_text("cart_token", min_length=32, max_length=32)


def _customer_in_path(request: OperationRequest) -> Customer:
    """Return the customer in the path.

    Raises:
        ShopError: 404 if there is no such customer.
    """
    return request.shop.customer(request.partner, request.params["external_customer_id"])


def _customer_in_body(request: OperationRequest, external_id: str) -> Customer:
    """Return the customer in the body.

    Raises:
        ShopError: 422 if there is no such customer.
    """
    try:
        return request.shop.customer(request.partner, external_id)
    except ShopError:
        raise invalid("external_customer_id", "choice", field="external_customer_id") from None


def _read_person(fields: Validator) -> dict[str, str | None]:
    """Read the personal fields of Create Customer and Update Customer."""
    birthdate = fields.iso_date("birthdate")
    person = {name: fields.text(name, min_length=3, max_length=40) for name in ("firstname", "lastname")}
    middle = fields.text("middlename", max_length=40)  # 3 to 40, but "" in the documented example
    if middle and len(middle) < 3:
        fields.add_error("middlename", "min_length", n=3)
    return {
        **person,
        "middlename": middle,
        "email": fields.email("email"),
        "phone": fields.text("phone"),
        "gender": fields.choice("gender", ("M", "F")),
        "identity_number": fields.text("identity_number"),
        "birthdate": birthdate.isoformat() if birthdate else None,
    }


def _make_page(
    request: OperationRequest,
    found: Sequence[_Row],
    number: int,
    size: int,
    serialize: Callable[[_Row], dict[str, Any]],
) -> dict[str, Any]:
    begin = (number - 1) * size
    rows = [serialize(one) for one in found[begin : begin + size]]
    return serializers.serialize_page(rows, number=number, size=size, total=len(found), path=request.path)
