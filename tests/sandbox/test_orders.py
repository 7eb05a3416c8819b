import asyncio
from decimal import Decimal as D

import pytest

pytestmark = pytest.mark.anyio

ORDERS = "/partner/walletable/orders"


async def test_completed_buy_equals_basket_without_lock(api, clock, sandbox):
    await api.create_customer()
    basket = (await api.add_item("MNTBAE0001", 3)).data
    clock.advance(39)
    order = (await api.complete(basket)).data
    expected = {
        **{name: value for name, value in basket.items() if name != "pricefix"},
        "order_creation_status": "order",
        "type": "walletable_ecommerce",
        "status_id": 2,
        "status_name": "Pending",
        "payment": None,
    }
    assert order == expected
    assert list(order) == [name for name in basket if name != "pricefix"]
    assert str(order["paid_total"]) == "1852.6"
    assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 3}
    assert (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data is None


async def test_completed_sell_pays_out_and_takes_pieces(api, sandbox):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 5)
    order = (await api.complete((await api.add_item("MNTBAE0001", 2, type="sell")).data, "sell")).data
    assert (order["tx_type"], order["type"]) == ("sell", "walletable_ecommerce")
    assert (order["price"], order["charge_fee"], order["charges_vat"]) == (D("1161.24"), D("20.32"), D("1.02"))
    assert order["paid_total"] == D("1139.9")
    assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 3}


async def test_completed_delivery_has_shipping_and_takes_pieces(api, sandbox, shipping):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 1)
    basket = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    order = (await api.complete(basket, "delivery", shipping=shipping)).data
    assert (order["price"], order["total"], order["delivery_cost"]) == (0, 3, 3)
    assert (order["charges_vat"], order["paid_total"]) == (D("0.15"), D("3.15"))
    assert order["shippingaddress"] == {"id": 1931, **shipping}
    assert order["delivery"] == {
        "cargo_tracking_url": None,
        "cargo_tracking_number": None,
        "estimated_arrival_date": "2026-02-24",
    }
    assert order["items"][0]["prices"] == [{"id": 7, "name": "Mint Ücreti", "price": 0}]
    assert sandbox.shop.holdings("cust-1") == {}


async def test_token_completes_once(api, sandbox):
    await api.create_customer()
    basket = (await api.add_item()).data
    responses = [await api.complete(basket) for _ in range(3)]
    assert [response.status for response in responses] == [200, 409, 409]
    assert responses[1].json["code"] == 409
    assert len(sandbox.shop.orders) == 1
    assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 1}
    key = {"external_customer_id": "cust-1", "cart_token": basket["token"]}
    assert (await api.send("DELETE", "/partner/walletable/basket/empty", key)).status == 409
    assert (await api.add_item(cart_token=basket["token"])).status == 409


async def test_concurrent_completions_create_one_order(serving):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        hang = sandbox.faults.add("hang", path="*/complete/*", times=None)
        calls = [asyncio.ensure_future(api.complete(basket)) for _ in range(8)]
        while hang.waiting < 8:
            await asyncio.sleep(0)
        hang.remove()
        statuses = sorted(response.status for response in await asyncio.gather(*calls))
        assert statuses == [200] + [409] * 7
        assert len(sandbox.shop.orders) == 1


async def test_single_shot_false_creates_order_each_time(serving):
    async with serving(single_shot=False) as (sandbox, api):
        await api.create_customer()
        sandbox.shop.give("cust-1", "MNTBAE0001", 1)
        other = (await api.add_item("MNTBAE0001", type="sell")).data
        first = await api.buy("MNTBAE0013", 2)
        second, third = [(await api.complete(first)).data for _ in range(2)]
        assert len({first["id"], second["id"], third["id"], other["id"]}) == 4
        assert second == {**first, "id": second["id"]}
        assert [order.token for order in sandbox.shop.orders] == [first["token"]] * 3
        assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 1, "MNTBAE0013": 6}
        rows = (await api.get(ORDERS, sortType="asc")).data["data"]
        assert [row["id"] for row in rows] == [first["id"], second["id"], third["id"]]
        assert (await api.complete(first, "sell")).status == 409
        key = {"external_customer_id": "cust-1", "cart_token": first["token"]}
        assert (await api.send("DELETE", "/partner/walletable/basket/empty", key)).status == 409


async def test_keep_ids_false_numbers_orders_separately(serving):
    async with serving(keep_ids=False) as (_, api):
        await api.create_customer()
        baskets, orders = [], []
        for _ in range(2):
            baskets.append((await api.add_item()).data)
            orders.append((await api.complete(baskets[-1])).data)
        numbers = [one["id"] for one in (*baskets, *orders)]
        assert len(set(numbers)) == 4
        for basket, order in zip(baskets, orders, strict=True):
            assert (order["token"], order["guid"]) == (basket["token"], basket["guid"])
            (row,) = (await api.get(ORDERS, orderId=order["id"])).data["data"]
            assert row == order
            assert (await api.get(ORDERS, orderId=basket["id"])).data["data"] == []


async def test_repeated_sell_without_pieces_gets_422(serving):
    async with serving(single_shot=False) as (sandbox, api):
        await api.create_customer()
        sandbox.shop.give("cust-1", "MNTBAE0001", 3)
        basket = (await api.add_item("MNTBAE0001", 2, type="sell")).data
        assert (await api.complete(basket, "sell")).status == 200
        assert set((await api.complete(basket, "sell")).errors) == {"qty"}
        assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 1}


async def test_set_status_fixes_status_of_order(api, sandbox, clock):
    await api.create_customer()
    order = await api.buy()

    async def status():
        (row,) = (await api.get(ORDERS, orderId=order["id"])).data["data"]
        return row["status_id"], row["status_name"]

    sandbox.shop.set_status(order["id"], "Cancelled")
    assert await status() == (4, "Cancelled")
    clock.advance(3600)
    assert await status() == (4, "Cancelled")
    assert (await api.get(ORDERS, status=4)).data["total"] == 1
    sandbox.shop.set_status(order["id"], None)
    assert await status() == (5, "Completed")
    with pytest.raises(ValueError, match="name must be the name of a status"):
        sandbox.shop.set_status(order["id"], " ")
    with pytest.raises(KeyError):
        sandbox.shop.set_status(0, "Cancelled")


async def test_completion_after_lock_gets_422(api, clock, sandbox):
    await api.create_customer()
    basket = (await api.add_item()).data
    clock.advance(239.999)
    await api.add_item()
    clock.advance(0.001)
    assert set((await api.complete(basket)).errors) == {"cart_token"}
    assert sandbox.shop.orders == []
    fresh = (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data
    assert fresh["token"] == basket["token"]
    assert (await api.complete(fresh)).data["paid_total"] == fresh["paid_total"]


async def test_late_complete_reprice_uses_new_price(serving, clock):
    async with serving(late_complete="reprice") as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(1000)
        order = (await api.complete(basket)).data
        assert order["price"] != basket["price"]
        assert order["price_token"] != basket["price_token"]


async def test_completion_of_unsuitable_basket_gets_422(api, sandbox, shipping):
    await api.create_customer()
    await api.create_customer("cust-2")
    sandbox.shop.give("cust-1", "MNTBAE0001", 2)
    buy = (await api.add_item()).data
    assert set((await api.complete(buy, "sell")).errors) == {"cart_token"}
    stolen = {**buy, "customer": {"external_id": "cust-2"}}
    assert set((await api.complete(stolen)).errors) == {"cart_token"}
    sell = (await api.add_item("MNTBAE0001", 2, type="sell")).data
    delivery = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    assert (await api.complete(delivery, "delivery", shipping=shipping)).status == 200
    assert set((await api.complete(sell, "sell")).errors) == {"qty"}
    assert len(sandbox.shop.orders) == 1


async def statuses(api, clock, order, steps, seconds):
    found = []
    for _ in range(steps):
        (row,) = (await api.get(ORDERS, orderId=order["id"])).data["data"]
        found.append((row["status_id"], row["status_name"], (row["delivery"] or {}).get("cargo_tracking_number")))
        clock.advance(seconds)
    return found


async def test_buy_proceeds_to_completed(api, clock):
    await api.create_customer()
    order = await api.buy()
    found = await statuses(api, clock, order, 4, 60)
    assert [status[:2] for status in found] == [
        (2, "Pending"), (3, "Processing"), (5, "Completed"), (5, "Completed"),
    ]  # fmt: skip


async def test_delivery_proceeds_with_tracking_number(serving, clock, shipping):
    async with serving(status_interval=5) as (sandbox, api):
        await api.create_customer()
        sandbox.shop.give("cust-1", "MNTBAE0001", 1)
        basket = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
        order = (await api.complete(basket, "delivery", shipping=shipping)).data
        found = await statuses(api, clock, order, 6, 5)
        number = "MNT" + order["increment_id"]
        assert found == [
            (2, "Pending", None), (6, "Preparing", None), (7, "Packed", None), (8, "Shipped", number),
            (5, "Completed", number), (5, "Completed", number),
        ]  # fmt: skip


async def test_shipped_delivery_is_postponed_by_one_day(api, clock, sandbox, shipping):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 1)
    basket = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    order = (await api.complete(basket, "delivery", shipping=shipping)).data

    async def arrival():
        (row,) = (await api.get(ORDERS, orderId=order["id"])).data["data"]
        return row["delivery"]["estimated_arrival_date"]

    clock.advance(209.999)
    assert await arrival() == "2026-02-24"
    clock.advance(0.001)
    assert await arrival() == "2026-02-25"
    clock.advance(86_400)
    assert await arrival() == "2026-02-25"
    sandbox.shop.set_status(order["id"], "Packed")  # not shipped yet
    assert await arrival() == "2026-02-24"


@pytest.fixture
async def history(api, sandbox, clock, shipping):
    """Place eight orders over two days; return them without the buy of cust-2: five buys, one sell and one delivery."""
    await api.create_customer()
    await api.create_customer("cust-2")
    orders = []
    for qty in (3, 1, 2, 5, 4):
        orders.append(await api.buy("MNTBAE0001", qty))
        clock.advance(6 * 3600)
    await api.buy("MNTBAE0013", 2, "cust-2")
    sell = (await api.add_item("MNTBAE0013", 1, "cust-2", type="sell")).data
    orders.append((await api.complete(sell, "sell")).data)
    ship = (await api.add_item("MNTBAE0013", 1, "cust-2", type="delivery")).data
    orders.append((await api.complete(ship, "delivery", shipping=shipping)).data)
    return orders


async def ids(api, **query):
    page = (await api.get(ORDERS, total=30, **query)).data
    assert page["total"] == len(page["data"])
    return [row["id"] for row in page["data"]]


async def test_orders_are_sorted_newest_first(api, history):
    found = await ids(api)
    assert found == sorted(found, reverse=True)
    assert len(found) == 8


async def test_order_filters_select_orders(api, history):
    buys = [order["id"] for order in history[:5]]
    sell, delivery = history[5]["id"], history[6]["id"]
    assert await ids(api, customer_external_id="cust-1", sortType="asc") == buys
    assert await ids(api, customer_external_id="nobody") == []
    assert await ids(api, external_customer_id="nobody") != []  # unknown parameters are ignored
    assert await ids(api, tx_type="sell,delivery") == [delivery, sell]
    assert await ids(api, orderId=sell) == [sell]
    assert await ids(api, orderId=1) == []
    assert await ids(api, status="2", tx_type="sell") == [sell]
    assert await ids(api, status="5,2", tx_type="buy", customer_external_id="cust-1", sortType="asc") == buys
    assert await ids(api, status="3") == []
    assert await ids(api, startDate="2026-02-20", endDate="2026-02-20") == [buys[1], buys[0]]
    assert await ids(api, startDate="2026-02-21", endDate="2026-02-21", customer_external_id="cust-1") == buys[:1:-1]
    assert await ids(api, startDate="2026-01-01", endDate="2026-02-19") == []


async def test_sort_by_sorts_orders(api, history):
    rows = (await api.get(ORDERS, sortBy="total", sortType="desc", total=30)).data["data"]
    totals = [row["total"] for row in rows]
    assert totals == sorted(totals, reverse=True)
    rows = (await api.get(ORDERS, sortBy="customer_external_id", sortType="asc", total=30)).data["data"]
    assert [row["customer"]["external_id"] for row in rows] == ["cust-1"] * 5 + ["cust-2"] * 3
    rows = (await api.get(ORDERS, sortBy="type", sortType="asc", total=30)).data["data"]
    assert [row["tx_type"] for row in rows] == ["oneoffpurchase"] * 6 + ["delivery", "sell"]


async def test_pages_of_orders_have_documented_links(api, sandbox, history):
    url = sandbox.url + ORDERS
    first = (await api.get(ORDERS, total=5)).data
    second = (await api.get(ORDERS, total=5, page=2)).data
    third = (await api.get(ORDERS, total=5, page=3)).data
    assert (len(first["data"]), len(second["data"]), len(third["data"])) == (5, 3, 0)
    assert {key: value for key, value in second.items() if key != "data"} == {
        "current_page": 2, "first_page_url": url + "?page=1", "from": 6, "last_page": 2,
        "last_page_url": url + "?page=2", "next_page_url": None, "path": url, "per_page": 5,
        "prev_page_url": url + "?page=1", "to": 8, "total": 8,
        "links": [
            {"url": url + "?page=1", "label": "&laquo; Previous", "active": False},
            {"url": url + "?page=1", "label": "1", "active": False},
            {"url": url + "?page=2", "label": "2", "active": True},
            {"url": None, "label": "Next &raquo;", "active": False},
        ],
    }  # fmt: skip
    assert (first["next_page_url"], first["prev_page_url"]) == (url + "?page=2", None)
    assert (third["from"], third["to"], third["total"]) == (None, None, 8)


async def test_order_list_without_orders_is_empty_page(api):
    page = (await api.get(ORDERS)).data
    assert (page["data"], page["from"], page["to"], page["last_page"], page["per_page"]) == ([], None, None, 1, 10)


async def test_orders_lag_delays_new_order(serving, clock):
    async with serving(orders_lag=10) as (sandbox, api):
        await api.create_customer()
        order = await api.buy()
        assert await ids(api) == []
        assert sandbox.shop.orders[0].id == order["id"]
        clock.advance(10)
        assert await ids(api) == [order["id"]]


async def test_receipt_of_order_is_documented_or_404(api):
    await api.create_customer()
    await api.create_customer("cust-2")
    order = await api.buy()
    path = "/partner/walletable/receipt"
    found = (await api.get(path, external_customer_id="cust-1", orderId=order["id"])).data
    assert found == {
        "order_id": order["id"], "guid": order["guid"], "increment_id": order["increment_id"], "external_id": None,
        "url": f"https://files.example.com/receipts/{order['increment_id']}.pdf",
    }  # fmt: skip
    assert (await api.get(path, external_customer_id="cust-2", orderId=order["id"])).status == 404
    assert (await api.get(path, external_customer_id="cust-1", orderId=1)).status == 404
    assert (await api.get(path, external_customer_id="nobody", orderId=order["id"])).status == 404


async def test_invoice_exists_after_order_is_completed(api, clock):
    await api.create_customer()
    order = await api.buy("MNTBAE0001", 2)
    path = "/partner/order/{}/invoice"
    assert (await api.get(path.format(order["guid"]))).status == 404
    clock.advance(120)
    found = [(await api.get(path.format(order[name]))).data for name in ("guid", "increment_id", "id")]
    assert found[0] == found[1] == found[2]
    invoice = found[0]
    assert invoice["invoice_url"] == f"https://files.example.com/invoices/{invoice['order_code']}.pdf"
    assert (invoice["status_name"], invoice["tx_type"]) == ("Completed", "oneoffpurchase")
    assert invoice["items"][0] == {
        "product_id": 3000099, "product_name": "Minted 1 g 999.9 Gold Bar", "product_weight": 1,
        "spot_price": D("586.48"), "price": D("592.34"), "tax_rate": 0, "tax": 0, "amount": 2, "total": D("1184.68"),
        "currency_id": None, "currency_rate": None, "currency_total": 0,
    }  # fmt: skip
    assert invoice["customer"]["fullname"] == "Brant Ankunding"
    assert (await api.get(path.format("nothing"))).status == 404


async def test_order_keeps_customer_data_of_completion(api):
    await api.create_customer()
    await api.buy()
    await api.send("PATCH", "/partner/customer/cust-1", {"lastname": "Changed"})
    (row,) = (await api.get(ORDERS)).data["data"]
    assert row["customer"]["lastname"] == "Ankunding"
