"""Each operation through both clients: the request it sends, and the typed result it returns."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from minted_connect import (
    Basket,
    BasketKey,
    Completion,
    CreationStatus,
    Customer,
    Gender,
    Holding,
    IntegrityError,
    InvalidInput,
    Invoice,
    MetalType,
    NotFound,
    Options,
    Order,
    OrderKind,
    OrderStatus,
    Page,
    Product,
    Rate,
    RatePoint,
    Receipt,
    ServerError,
    ValidationFailed,
)
from minted_connect.core.request import OPERATIONS
from minted_connect.sandbox import ManualClock, Sandbox
from minted_connect.sandbox.router import OPERATIONS as SERVED
from tests.support.operations import CALLS, GOLD, SILVER, TO_COMPLETED, Person, PreparedData, prepare_data

CUSTOMER = "customer-1"
BASKET = "/partner/walletable/basket"
ORDERS = "/partner/walletable/orders"
SHIPPING = Person().shipping


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Any:
    return await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))


@pytest.fixture
async def customer_id(minted: Any) -> str:
    """Return the id of a customer that exists."""
    customer = await minted.customers.create(CUSTOMER, firstname="Brant", lastname="Ankunding")
    return customer.external_id


def sent(sandbox: Sandbox) -> tuple[str, str, dict[str, str], Any]:
    """Return method, path, query and body of the latest request."""
    entry = sandbox.requests[-1]
    return entry.method, entry.path, entry.query, entry.body


def basket_body(basket: Basket, **more: Any) -> dict[str, Any]:
    return {"external_customer_id": basket.customer.external_id, "cart_token": basket.token, **more}


def skus_and_amounts(basket: Any) -> list[tuple[str, int]]:
    return [(item.sku, item.amount) for item in basket.items]


def assert_exact(*amounts: Any) -> None:
    assert {Decimal} == {type(amount) for amount in amounts}


# Customers.


async def test_customers_create_sends_and_returns_every_field(minted, sandbox):
    customer = await minted.customers.create(
        CUSTOMER,
        firstname="Gülin",
        middlename="",
        lastname="Hopper",
        email="gulin@mail.example",
        phone="+90 532 280 80 35",
        gender=Gender.FEMALE,
        identity_number="12345678910",
        birthdate=date(1970, 1, 31),
        tax_office="Beyoğlu",
        account_type="company",
    )
    body = {
        "external_id": CUSTOMER,
        "firstname": "Gülin",
        "middlename": "",
        "lastname": "Hopper",
        "email": "gulin@mail.example",
        "phone": "+90 532 280 80 35",
        "gender": "F",
        "identity_number": "12345678910",
        "birthdate": "1970-01-31",
        "tax_office": "Beyoğlu",
        "account_type": "company",
    }
    assert sent(sandbox) == ("POST", "/partner/customer", {}, body)
    headers = sandbox.requests[-1].headers
    assert (headers["content-type"], headers["x-client-id"], headers["api-version"]) == ("application/json", "web", "3")
    assert isinstance(customer, Customer)
    assert (customer.external_id, customer.fullname) == (CUSTOMER, "Gülin Hopper")
    assert (customer.gender, customer.birthdate) == (Gender.FEMALE, date(1970, 1, 31))
    assert (customer.phone, customer.identity_number) == ("+90 532 280 80 35", "12345678910")
    assert customer.created_at == datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
    assert customer.raw["company_id"] == customer.company_id == 2000000


async def test_customers_create_omitted_fields_are_not_sent(minted, sandbox):
    customer = await minted.customers.create(CUSTOMER)
    assert sent(sandbox)[3] == {"external_id": CUSTOMER}
    assert (customer.firstname, customer.birthdate, customer.wallets) == (None, None, ())


async def test_customers_get_returns_customer_with_wallets(minted, sandbox, customer_id):
    sandbox.shop.give(customer_id, "MNTBAE0002", 3)  # 2.5 g each
    customer = await minted.customers.get(customer_id)
    assert sent(sandbox) == ("GET", f"/partner/customer/{CUSTOMER}", {}, None)
    assert "content-type" not in sandbox.requests[-1].headers
    assert customer.fullname == "Brant Ankunding"
    gold, silver = customer.wallets
    assert (gold.name, gold.balance, gold.real_balance) == ("Dirham Gold", Decimal("7.5"), Decimal("7.5"))
    assert_exact(gold.balance, gold.blocked, gold.real_balance, silver.balance)
    assert gold.is_cash is False


async def test_customer_id_is_quoted_as_one_path_segment(minted, sandbox):
    for awkward in ("ça va/../x?y#z", "100%", "a%2Fb", "a b+c"):
        with pytest.raises(NotFound):
            await minted.customers.get(awkward)
        entry = sandbox.requests[-1]
        assert entry.operation == "customers.get"
        assert re.fullmatch(r"/partner/customer/[A-Za-z0-9._~%-]+", entry.path)


async def test_customers_update_sends_given_fields_and_none_as_null(minted, sandbox, customer_id):
    customer = await minted.customers.update(customer_id, lastname="Schmidt", phone=None, birthdate=date(1980, 2, 29))
    body = {"lastname": "Schmidt", "phone": None, "birthdate": "1980-02-29"}
    assert sent(sandbox) == ("PATCH", f"/partner/customer/{CUSTOMER}", {}, body)
    assert (customer.firstname, customer.lastname, customer.phone) == ("Brant", "Schmidt", None)
    assert (await minted.customers.get(customer_id)).birthdate == date(1980, 2, 29)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.customers.create("customer-2"),
        lambda m: m.customers.get(CUSTOMER),
        lambda m: m.customers.update(CUSTOMER, lastname="Changed"),
    ],
    ids=["create", "get", "update"],
)
async def test_response_of_another_customer_raises_integrity_error(minted, sandbox, customer_id, call):
    sandbox.faults.add("wrong_customer")
    with pytest.raises(IntegrityError, match="another customer's") as caught:
        await call(minted)
    assert "somebody-else" not in str(caught.value)
    assert len(sandbox.requests) == 3  # login, customer, and the failed call, which is not retried


async def test_customers_remove_frees_the_id(minted, sandbox, customer_id):
    assert await minted.customers.remove(customer_id) is None
    assert sent(sandbox) == ("DELETE", f"/partner/customer/{CUSTOMER}", {}, None)
    with pytest.raises(NotFound):
        await minted.customers.get(customer_id)
    assert (await minted.customers.create(customer_id)).external_id == customer_id


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.customers.get("nobody"),
        lambda m: m.customers.update("nobody", firstname="Ada"),
        lambda m: m.customers.remove("nobody"),
        lambda m: m.wallet.balance("nobody"),
        lambda m: m.orders.receipt(1, customer_id="nobody"),
        lambda m: m.orders.invoice("no-such-order"),
    ],
    ids=["get", "update", "remove", "balance", "receipt", "invoice"],
)
async def test_missing_object_raises_not_found(minted, sandbox, call):
    with pytest.raises(NotFound) as caught:
        await call(minted)
    entry = sandbox.requests[-1]
    assert (caught.value.status, caught.value.code, caught.value.attempts) == (404, 404, 1)
    assert caught.value.request_id == entry.request_id
    assert caught.value.message
    assert len(sandbox.requests) == 2  # the challenge and one attempt
    assert not caught.value.safe_to_retry


async def test_customers_create_taken_id_raises_validation_failed(minted, sandbox, customer_id):
    with pytest.raises(ValidationFailed) as caught:
        await minted.customers.create(customer_id)
    assert set(caught.value.fields) == {"external_id"}
    assert (caught.value.status, caught.value.code) == (422, 422)
    assert len(sandbox.shop.customers) == 1


# Products.


async def test_products_page_returns_first_page(minted, sandbox):
    page = await minted.products.page()
    assert sent(sandbox) == ("GET", "/partner/walletable/products", {"page": "1", "total": "10"}, None)
    assert isinstance(page, Page)
    assert (page.current_page, page.last_page, page.per_page, page.total) == (1, 2, 10, 16)
    assert (page.has_next, len(page)) == (True, 10)
    gold = page.items[0]
    assert isinstance(gold, Product)
    assert (gold.sku, gold.sale_price, gold.stock) == (GOLD, Decimal("592.34"), 20)
    assert_exact(gold.sale_price, gold.list_price)
    assert gold.basecurrency.metal_type is MetalType.GOLD
    assert gold.category.id == 1


async def test_products_pages_requests_each_page_once(minted, sandbox):
    pages = [page async for page in minted.products.pages(per_page=5)]
    assert [(page.current_page, len(page)) for page in pages] == [(1, 5), (2, 5), (3, 5), (4, 1)]
    requested = [entry.query for entry in sandbox.requests.of("products.page") if entry.status == 200]
    assert requested == [{"page": str(number), "total": "5"} for number in (1, 2, 3, 4)]
    assert [page.current_page async for page in minted.products.pages(page=3, per_page=5)] == [3, 4]


async def test_products_iterate_requests_pages_on_demand(minted, sandbox):
    skus = [product.sku async for product in minted.products.iterate(per_page=5)]
    assert skus == [product.sku for product in sandbox.shop.products]
    sandbox.requests.clear()
    walk = minted.products.iterate(per_page=5)
    assert [await anext(walk) for _ in range(5)][4].sku == skus[4]
    await walk.aclose()
    assert len(sandbox.requests) == 1


async def test_products_page_beyond_the_last_is_empty(minted):
    page = await minted.products.page(page=99)
    assert (len(page), page.has_next, page.total) == (0, False, 16)
    assert [page async for page in minted.products.pages(page=99)] == [page]


# Baskets.


async def test_add_item_for_customer_opens_a_basket(minted, sandbox, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    body = {"external_customer_id": CUSTOMER, "type": "buy", "sku": GOLD, "qty": 1}
    assert sent(sandbox) == ("POST", BASKET, {}, body)
    assert isinstance(basket, Basket)
    # The documented example, api-26503559 of Feb 2026.
    assert (basket.total, basket.charge_fee, basket.minting_fee) == (
        Decimal("592.34"),
        Decimal("10.37"),
        Decimal("11.85"),
    )
    assert (basket.storage_fee, basket.charges_vat, basket.paid_total) == (
        Decimal("1.78"),
        Decimal("1.2"),
        Decimal("617.54"),
    )
    assert (basket.payment.comission, basket.payment.total) == (Decimal("17.06"), Decimal("609.4"))
    assert_exact(basket.price, basket.tax, basket.paid_total, basket.charge_fee_rate, basket.delivery_cost)
    assert (basket.kind, basket.order_creation_status, basket.status) == (
        OrderKind.BUY,
        CreationStatus.BASKET,
        OrderStatus.CREATED,
    )
    [item] = basket.items
    assert (item.sku, item.amount, item.price, item.product_weight) == (GOLD, 1, Decimal("592.34"), Decimal(1))
    assert {part.id: part.price for part in item.prices} == {2: 0, 4: 0, 6: 0, 7: Decimal("11.85")}
    assert basket.key == BasketKey(CUSTOMER, basket.token)
    assert len(basket.token) == 32
    assert basket.customer.fullname == "Brant Ankunding"


@pytest.mark.parametrize("by", [lambda basket: basket, lambda basket: basket.key], ids=["basket", "key"])
async def test_add_item_twice_keeps_two_lines(minted, sandbox, customer_id, by):
    basket = await minted.baskets.add_item(customer_id, sku=SILVER)
    basket = await minted.baskets.add_item(by(basket), sku=SILVER)
    assert skus_and_amounts(basket) == [(SILVER, 1), (SILVER, 1)]
    assert basket.total == 2 * Decimal(496)
    assert basket.total_amount == 2


async def test_add_item_to_basket_sends_the_kind_of_the_basket(minted, sandbox, customer_id):
    sandbox.shop.give(customer_id, GOLD, 4)
    basket = await minted.baskets.add_item(customer_id, sku=GOLD, type=OrderKind.SELL)
    basket = await minted.baskets.add_item(basket, sku=GOLD)
    assert sent(sandbox) == ("POST", BASKET, {}, basket_body(basket, type="sell", sku=GOLD, qty=1))
    assert basket.kind is OrderKind.SELL
    with pytest.raises(InvalidInput, match=r"type: must be sell, like the basket, or be omitted"):
        await minted.baskets.add_item(basket, sku=GOLD, type="buy")
    basket = await minted.baskets.add_item(basket.key, sku=GOLD)
    assert sent(sandbox) == ("POST", BASKET, {}, basket_body(basket, sku=GOLD, qty=1))
    basket = await minted.baskets.add_item(basket.key, sku=GOLD, type="sell", qty=1)
    assert sent(sandbox)[3]["type"] == "sell"
    assert skus_and_amounts(basket) == [(GOLD, 1)] * 4


async def test_update_item_sets_the_amount_and_merges_lines(minted, sandbox, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    basket = await minted.baskets.add_item(basket, sku=GOLD)
    changed = await minted.baskets.update_item(basket, sku=GOLD, qty=3)
    assert sent(sandbox) == ("PATCH", BASKET, {}, basket_body(basket, sku=GOLD, qty=3))
    assert skus_and_amounts(changed) == [(GOLD, 3)]
    assert changed.paid_total == Decimal("1852.6")  # the documented example, api-26503573
    assert (changed.id, changed.token) == (basket.id, basket.token)
    assert skus_and_amounts(basket) == [(GOLD, 1), (GOLD, 1)]  # the older object does not change


async def test_delete_item_removes_every_line_of_the_sku(minted, sandbox, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    basket = await minted.baskets.add_item(basket, sku=SILVER)
    basket = await minted.baskets.add_item(basket, sku=GOLD)
    changed = await minted.baskets.delete_item(basket.key, sku=GOLD)
    assert sent(sandbox) == ("DELETE", BASKET, {}, basket_body(basket, sku=GOLD))
    assert sandbox.requests[-1].headers["content-type"] == "application/json"
    assert int(sandbox.requests[-1].headers["content-length"]) > 0
    assert skus_and_amounts(changed) == [(SILVER, 1)]


async def test_clear_empties_the_basket_and_keeps_its_token(minted, sandbox, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    empty = await minted.baskets.clear(basket)
    assert sent(sandbox) == ("DELETE", f"{BASKET}/empty", {}, basket_body(basket))
    assert (empty.items, empty.paid_total, empty.token) == ((), Decimal(0), basket.token)
    assert empty.currency is None
    assert_exact(empty.paid_total)


async def test_get_active_returns_basket_or_none(minted, sandbox, customer_id):
    assert await minted.baskets.get_active(customer_id) is None
    assert sent(sandbox) == ("GET", BASKET, {"external_customer_id": CUSTOMER}, None)
    assert await minted.baskets.get_active("nobody") is None
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    assert await minted.baskets.get_active(customer_id) == basket
    assert await minted.baskets.get_active(customer_id, cart_token=basket.token) == basket
    assert sent(sandbox)[2] == {"external_customer_id": CUSTOMER, "cart_token": basket.token}
    assert await minted.baskets.get_active(customer_id, cart_token="T" * 32) is None


@pytest.mark.parametrize("fault", [{"html": True}, {"envelope": False}], ids=["page", "json"])
async def test_get_active_404_without_envelope_raises_not_found(minted, sandbox, customer_id, fault):
    sandbox.faults.add("status", status=404, **fault)
    with pytest.raises(NotFound) as caught:
        await minted.baskets.get_active(customer_id)
    assert caught.value.code is None
    sandbox.faults.add("status", status=404)
    assert await minted.baskets.get_active(customer_id) is None


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("sku", lambda m, b: m.baskets.add_item(b, sku="NO-SUCH-SKU")),
        ("sku", lambda m, b: m.baskets.update_item(b, sku=SILVER, qty=1)),
        ("sku", lambda m, b: m.baskets.delete_item(b, sku=SILVER)),
        ("qty", lambda m, b: m.baskets.update_item(b, sku=GOLD, qty=21)),
        ("qty", lambda m, b: m.baskets.add_item(CUSTOMER, sku=GOLD, type="sell")),
        ("cart_token", lambda m, b: m.baskets.clear(BasketKey(CUSTOMER, "T" * 32))),
        ("external_customer_id", lambda m, b: m.baskets.add_item("nobody", sku=GOLD)),
    ],
    ids=[
        "unknown sku",
        "update missing line",
        "delete missing line",
        "stock",
        "not held",
        "unknown token",
        "unknown customer",
    ],
)
async def test_basket_change_refused_by_server_names_the_field(minted, sandbox, customer_id, field, call):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    with pytest.raises(ValidationFailed) as caught:
        await call(minted, basket)
    assert set(caught.value.fields) == {field}
    assert all(caught.value.fields[field])
    assert await minted.baskets.get_active(customer_id) == basket


@pytest.mark.requirement(19)
async def test_price_fix_expires_by_the_monotonic_clock(minted, sandbox, clock, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    assert (basket.price_fix.remaining, basket.price_fix.seconds_left) == (240, 240.0)
    assert basket.price_fix.next_update == datetime(2026, 2, 20, 12, 31, 57, tzinfo=UTC)
    clock.jump_wall(3600)
    assert basket.price_fix.seconds_left == 240.0
    clock.advance(100)
    changed = await minted.baskets.update_item(basket, sku=GOLD, qty=2)  # does not restart the lock
    assert changed.price_fix.seconds_left == basket.price_fix.seconds_left == 140.0
    assert changed.price_token == basket.price_token
    clock.advance(139.5)
    assert not basket.price_fix.expired
    clock.advance(0.5)
    assert basket.price_fix.expired
    assert basket.price_fix.seconds_left == 0.0


async def test_get_active_expired_basket_returns_new_prices(minted, clock, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    clock.advance(241)
    updated = await minted.baskets.get_active(customer_id)
    assert (updated.price_fix.updated, updated.price_fix.seconds_left) == (True, 240.0)
    assert updated.price_fix.token == updated.price_token != basket.price_token
    [gold] = await minted.rates.current(metals="gold")
    assert updated.items[0].price == gold.buy_price.quantize(Decimal("0.01")) != basket.items[0].price
    assert updated.order_at == basket.order_at


# Completions.


async def test_buy_returns_the_order(minted, sandbox, customer_id):
    basket = await minted.baskets.add_item(customer_id, sku=GOLD, qty=3)
    completion = await minted.complete.buy(basket, expected_total=Decimal("1852.60"))
    assert sent(sandbox) == ("POST", "/partner/walletable/complete/buy", {}, basket_body(basket))
    assert [entry.method for entry in sandbox.requests[-2:]] == ["GET", "POST"]  # one read, then one completion
    assert isinstance(completion, Completion)
    assert (completion.reconciled, completion.differences) == (False, ())
    order = completion.order
    assert isinstance(order, Order)
    assert (order.id, order.guid, order.increment_id, order.token) == (
        basket.id,
        basket.guid,
        basket.increment_id,
        basket.token,
    )
    assert (order.kind, order.order_creation_status, order.status, order.status_id) == (
        OrderKind.BUY,
        CreationStatus.ORDER,
        OrderStatus.PENDING,
        2,
    )
    assert order.paid_total == Decimal("1852.6")
    assert_exact(order.paid_total, order.charges_vat, order.items[0].price)
    assert not hasattr(order, "price_fix")
    assert sandbox.shop.holdings(customer_id) == {GOLD: 3}
    assert await minted.complete.pending() == []


async def test_sell_returns_the_order(minted, sandbox, customer_id):
    sandbox.shop.give(customer_id, GOLD, 2)
    basket = await minted.baskets.add_item(customer_id, sku=GOLD, qty=2, type="sell")
    sold = await minted.complete.sell(basket, expected_total=basket.paid_total)
    assert sent(sandbox) == ("POST", "/partner/walletable/complete/sell", {}, basket_body(basket))
    assert (sold.order.kind, sold.order.total, sold.order.minting_fee) == (
        OrderKind.SELL,
        Decimal("1161.24"),
        Decimal(0),
    )
    # total - charge_fee - charges_vat: 1161.24 - 20.32 - 1.02
    assert sold.order.paid_total == Decimal("1139.9")
    assert sandbox.shop.holdings(customer_id) == {}


async def test_delivery_returns_the_order_with_its_address(minted, sandbox, customer_id):
    sandbox.shop.give(customer_id, GOLD, 2)
    basket = await minted.baskets.add_item(customer_id, sku=GOLD, type="delivery")
    completion = await minted.complete.delivery(basket, shipping=SHIPPING, expected_total=Decimal("3.15"))
    address = {
        "fullname": "Ahmet Özer",
        "phone": "+905550001122",
        "city": "İstanbul",
        "county": "Çekmeköy",
        "district": "Alemdağ",
        "address": "No:1 D:2",
        "tax_number": "12345678910",
    }
    assert sent(sandbox) == ("POST", "/partner/walletable/complete/delivery", {}, basket_body(basket, shipping=address))
    order = completion.order
    assert (order.kind, order.price, order.total, order.paid_total) == (
        OrderKind.DELIVERY,
        Decimal(0),
        Decimal(3),
        Decimal("3.15"),
    )
    assert (order.shippingaddress.city, order.shippingaddress.tax_number) == ("İstanbul", "12345678910")
    assert order.delivery.estimated_arrival_date == date(2026, 2, 24)
    assert order.payment is None
    assert sandbox.shop.holdings(customer_id) == {GOLD: 1}


# Orders.


@pytest.fixture
async def order_ids(minted: Any, sandbox: Sandbox, clock: ManualClock) -> list[int]:
    """Return order ids, oldest first: seven purchases by two alternating customers, one an hour, then a sale."""
    customers = ["customer-1", "customer-2"]
    for customer in customers:
        await minted.customers.create(customer)
    ids = []
    for number in range(7):
        basket = await minted.baskets.add_item(customers[number % 2], sku=GOLD)
        ids.append((await minted.complete.buy(basket, expected_total=basket.paid_total)).order.id)
        clock.advance(3600)
    basket = await minted.baskets.add_item("customer-1", sku=GOLD, type="sell")
    ids.append((await minted.complete.sell(basket, expected_total=basket.paid_total)).order.id)
    return ids


async def test_orders_page_returns_newest_first(minted, sandbox, order_ids):
    page = await minted.orders.page()
    assert sent(sandbox) == (
        "GET",
        ORDERS,
        {"page": "1", "total": "10", "sortBy": "created_at", "sortType": "desc"},
        None,
    )
    assert [order.id for order in page] == order_ids[::-1]
    assert all(isinstance(order, Order) for order in page)


ALL = {
    "customer_id": "customer-1",
    "status": [2, 5],
    "tx_type": ["buy", OrderKind.SELL],
    "start": date(2026, 2, 20),
    "end": date(2026, 2, 21),
    "sort_by": "total",
    "sort_type": "asc",
    "per_page": 5,
}


async def test_orders_page_sends_every_filter(minted, sandbox, order_ids):
    page = await minted.orders.page(page=1, order_id=order_ids[0], **ALL)
    assert sent(sandbox)[2] == {
        "page": "1",
        "total": "5",
        "sortBy": "total",
        "sortType": "asc",
        "status": "2,5",
        "startDate": "2026-02-20",
        "endDate": "2026-02-21",
        "tx_type": "buy,sell",
        "customer_external_id": "customer-1",
        "orderId": str(order_ids[0]),
    }
    assert [order.id for order in page] == [order_ids[0]]


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"customer_id": "customer-2"}, [5, 3, 1]),
    ({"tx_type": "sell"}, [7]),
    ({"tx_type": ["delivery"]}, []),
    ({"status": 2}, [7]),
    ({"status": [5]}, [6, 5, 4, 3, 2, 1, 0]),
    ({"start": date(2026, 2, 20), "end": date(2026, 2, 20)}, [7, 6, 5, 4, 3, 2, 1, 0]),
    ({"start": date(2026, 2, 21), "end": date(2026, 2, 21)}, []),
    ({"sort_type": "asc"}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"customer_id": "customer-1", "tx_type": "buy", "per_page": 5}, [6, 4, 2, 0]),
]


async def test_orders_iterate_with_filter_returns_matching_orders(minted, order_ids):
    for filters, expected in FILTERS:
        orders = [order.id async for order in minted.orders.iterate(**filters)]
        assert orders == [order_ids[number] for number in expected], filters


async def test_orders_pages_requests_each_page_once(minted, sandbox, order_ids):
    sandbox.requests.clear()
    pages = [page async for page in minted.orders.pages(per_page=5)]
    assert [[order.id for order in page] for page in pages] == [order_ids[:2:-1], order_ids[2::-1]]
    assert [entry.query["page"] for entry in sandbox.requests] == ["1", "2"]
    assert [page.current_page async for page in minted.orders.pages(page=2, per_page=5)] == [2]


async def test_orders_get_returns_order_or_raises_not_found(minted, sandbox, order_ids):
    order = await minted.orders.get(order_ids[0], customer_id="customer-1")
    assert sent(sandbox)[2] == {"customer_external_id": "customer-1", "orderId": str(order_ids[0])}
    assert (order.id, order.status) == (order_ids[0], OrderStatus.COMPLETED)
    for number, customer in ((order_ids[1], "customer-1"), (999_999, "customer-1")):
        with pytest.raises(NotFound) as caught:
            await minted.orders.get(number, customer_id=customer)
        assert caught.value.status == 0  # the server did not send this error


async def bought(minted: Any) -> Order:
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    return (await minted.complete.buy(basket, expected_total=basket.paid_total)).order


async def test_orders_receipt_and_invoice_return_documents(minted, sandbox, clock, customer_id):
    order = await bought(minted)
    receipt = await minted.orders.receipt(order.id, customer_id=customer_id)
    assert sent(sandbox) == (
        "GET",
        "/partner/walletable/receipt",
        {"external_customer_id": CUSTOMER, "orderId": str(order.id)},
        None,
    )
    assert isinstance(receipt, Receipt)
    assert (receipt.order_id, receipt.guid) == (order.id, order.guid)
    assert receipt.url.startswith("https://")
    with pytest.raises(NotFound):
        await minted.orders.invoice(order.guid)
    clock.advance(TO_COMPLETED)
    invoice = await minted.orders.invoice(order.guid)
    assert sent(sandbox) == ("GET", f"/partner/order/{order.guid}/invoice", {}, None)
    assert isinstance(invoice, Invoice)
    assert (invoice.guid, invoice.total, invoice.status_name) == (order.guid, Decimal("592.34"), OrderStatus.COMPLETED)
    assert invoice.items[0].spot_price == Decimal("586.48")
    assert_exact(invoice.total, invoice.items[0].price, invoice.items[0].total)
    assert invoice.customer.fullname == "Brant Ankunding"


# Wallet and rates.


async def test_wallet_balance_returns_exact_holdings(minted, sandbox, customer_id):
    sandbox.shop.give(customer_id, GOLD, 3)
    sandbox.shop.give(customer_id, "MNTCOIN2012", 2)
    await minted.baskets.add_item(customer_id, sku=GOLD, type="delivery")
    holdings = await minted.wallet.balance(customer_id)
    assert sent(sandbox) == ("GET", "/partner/walletable/balance", {"external_customer_id": CUSTOMER}, None)
    gold, coin = holdings
    assert isinstance(gold, Holding)
    assert (gold.sku, gold.amount, gold.blocked_amount, gold.deliverable_amount) == (GOLD, 3, 1, 2)
    assert (gold.unit_value, gold.total_value) == (Decimal("580.62"), Decimal("1741.86"))
    assert_exact(gold.amount, gold.unit_value, coin.product_weight)
    assert (coin.product_weight, coin.metal_type, coin.is_deliverable) == (Decimal("31.1"), MetalType.SILVER, False)


@pytest.mark.parametrize(
    ("filters", "query", "skus"),
    [
        ({"metals": "gold"}, {"metal_type": "gold"}, [GOLD]),
        ({"metals": ["gold", MetalType.SILVER]}, {"metal_type": "gold,silver"}, [GOLD, "MNTCOIN2012"]),
        ({"deliverable": True}, {"is_deliverable": "true"}, [GOLD]),
        ({"deliverable": False}, {"is_deliverable": "false"}, [GOLD, "MNTCOIN2012"]),
    ],
    ids=str,
)
async def test_wallet_balance_sends_every_filter(minted, sandbox, customer_id, filters, query, skus):
    sandbox.shop.give(customer_id, GOLD, 3)
    sandbox.shop.give(customer_id, "MNTCOIN2012", 2)
    holdings = await minted.wallet.balance(customer_id, **filters)
    assert sent(sandbox)[2] == {"external_customer_id": CUSTOMER, **query}
    assert [holding.sku for holding in holdings] == skus


async def test_rates_current_returns_exact_prices(minted, sandbox):
    gold, silver = await minted.rates.current()
    assert sent(sandbox) == ("GET", "/partner/walletable/rates", {}, None)
    assert isinstance(gold, Rate)
    assert (gold.metal_type, gold.spot_price, gold.buy_price, gold.sell_price) == (
        MetalType.GOLD,
        Decimal("586.48"),
        Decimal("592.34"),
        Decimal("580.62"),
    )
    assert_exact(gold.spot_price, silver.buy_price, silver.sell_price)
    assert gold.updated_at.utcoffset() == timedelta(0)
    assert [rate.metal_type for rate in await minted.rates.current(metals=MetalType.SILVER)] == ["silver"]
    assert sent(sandbox)[2] == {"metal_type": "silver"}
    await minted.rates.current(metals=["gold", "silver"])
    assert sent(sandbox)[2] == {"metal_type": "gold,silver"}


async def test_rates_history_sends_range_and_returns_points(minted, sandbox):
    points = await minted.rates.history(metal="gold", start=date(2026, 2, 18), end=date(2026, 2, 20))
    assert sent(sandbox) == (
        "GET",
        "/partner/walletable/rates/history",
        {"metal_type": "gold", "interval": "day", "startDate": "2026-02-18", "endDate": "2026-02-20"},
        None,
    )
    assert all(isinstance(point, RatePoint) for point in points)
    assert [point.time for point in points] == [datetime(2026, 2, day, tzinfo=UTC) for day in (18, 19, 20)]
    assert_exact(*(point.buy_price for point in points))
    await minted.rates.history(currency_id=1000019, interval="hour")
    assert sent(sandbox)[2] == {"currency_id": "1000019", "interval": "hour"}


# Raw requests.


async def test_raw_request_returns_status_headers_and_data(minted, sandbox, customer_id):
    response = await minted.request("get", "/partner/walletable/orders", query={"page": "1", "total": "5"})
    assert sent(sandbox) == ("GET", ORDERS, {"page": "1", "total": "5"}, None)
    assert (response.status, response.data["total"], response.headers["content-type"]) == (200, 0, "application/json")
    assert response.request_id == sandbox.requests[-1].request_id
    response = await minted.request("PATCH", f"/partner/customer/{CUSTOMER}", json={"firstname": "Grace"})
    assert sent(sandbox) == ("PATCH", f"/partner/customer/{CUSTOMER}", {}, {"firstname": "Grace"})
    assert response.data["firstname"] == "Grace"
    with pytest.raises(NotFound, match=r"GET \(raw\)"):
        await minted.request("GET", "/partner/nothing/here")


async def test_raw_request_sends_decimals_and_refuses_floats(minted, sandbox):
    with pytest.raises(NotFound):
        await minted.request("POST", "/partner/pay", json={"amount": Decimal("0.10"), "of": [Decimal("1e-7")]})
    with pytest.raises(InvalidInput, match=r"json: .*use Decimal"):
        await minted.request("POST", "/partner/pay", json={"amount": 0.1})


async def test_raw_request_retries_get_only(minted, sandbox):
    sandbox.faults.add("status", status=500, times=None)
    for verb, times in (("GET", 3), ("POST", 1), ("PUT", 1), ("PATCH", 1), ("DELETE", 1)):
        sandbox.requests.clear()
        with pytest.raises(ServerError):
            await minted.request(verb, "/partner/whatever")
        assert len([entry for entry in sandbox.requests if entry.status == 500]) == times


async def test_language_selects_the_texts_of_the_server(minted, sandbox, connect, clock, customer_id):
    english = await connect(
        sandbox.url, sandbox.username, sandbox.password, language="en-GB", options=Options(clock=clock)
    )
    turkish = minted
    seen = []
    for client in (turkish, english, english.with_options(language="tr")):
        with pytest.raises(ValidationFailed) as caught:
            await client.baskets.add_item(customer_id, sku="NO-SUCH-SKU")
        seen.append((sandbox.requests[-1].headers["accept-language"], caught.value.fields["sku"]))
    assert [language for language, _ in seen] == ["tr", "en-GB", "tr"]
    assert seen[0][1] == seen[2][1] != seen[1][1] == ("The selected sku is invalid.",)


async def test_with_options_changes_headers_and_shares_the_login(minted, sandbox, customer_id):
    challenges = sum(entry.status == 401 for entry in sandbox.requests)
    sibling = minted.with_options(client_id="till-7", language="en", deadline=5)
    basket = await sibling.baskets.add_item(customer_id, sku=GOLD)
    completion = await sibling.complete.buy(basket, expected_total=basket.paid_total)
    headers = sandbox.requests[-1].headers
    assert (headers["x-client-id"], headers["accept-language"]) == ("till-7", "en")
    await minted.orders.get(completion.order.id, customer_id=customer_id)
    headers = sandbox.requests[-1].headers
    assert (headers["x-client-id"], headers["accept-language"]) == ("web", "tr")
    assert sum(entry.status == 401 for entry in sandbox.requests) == challenges == 1


async def test_partners_do_not_see_each_others_customers(minted, sandbox, connect, clock, customer_id):
    sandbox.add_partner("other", "other-secret")
    other = await connect(sandbox.url, "other", "other-secret", options=Options(clock=clock))
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    order = (await minted.complete.buy(basket, expected_total=basket.paid_total)).order
    basket = await minted.baskets.add_item(customer_id, sku=GOLD)
    clock.advance(TO_COMPLETED)
    assert await other.baskets.get_active(customer_id) is None
    assert len(await other.orders.page()) == 0
    for call in (
        lambda: other.customers.get(customer_id),
        lambda: other.customers.remove(customer_id),
        lambda: other.wallet.balance(customer_id),
        lambda: other.orders.get(order.id, customer_id=customer_id),
        lambda: other.orders.receipt(order.id, customer_id=customer_id),
        lambda: other.orders.invoice(order.guid),
    ):
        with pytest.raises(NotFound):
            await call()
    with pytest.raises(ValidationFailed):
        await other.baskets.clear(basket)
    assert (await other.customers.create(customer_id, firstname="Somebody")).firstname == "Somebody"
    assert (await minted.customers.get(customer_id)).firstname == "Brant"


async def test_raw_request_query_is_validated_by_the_server_only(minted):
    with pytest.raises(ValidationFailed) as caught:
        await minted.request("GET", ORDERS, query={"page": "0"})
    assert set(caught.value.fields) == {"page"}


# All operations.


def test_calls_contain_every_operation():
    assert list(CALLS) == list(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
async def test_option_paths_corrects_the_path_of_an_operation(connect, clock, name):
    corrected = f"/v9{OPERATIONS[name].path}/there"
    server = f"/v9{SERVED[name][1]}/there"
    async with Sandbox(seed=1, clock=clock, paths={name: server}) as sandbox:
        options = Options(clock=clock, paths={name: corrected})
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
        prepared: PreparedData = await prepare_data(minted, sandbox, clock)
        await CALLS[name](minted, prepared)
        entry = sandbox.requests[-1]
        assert (entry.operation, entry.status) == (name, 200)
        assert re.fullmatch(corrected.replace("{}", "[^/]+"), entry.path)
