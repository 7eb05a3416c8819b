import sqlite3

import pytest

from minted_connect.sandbox import ManualClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def state(tmp_path):
    return tmp_path / "shop.sqlite"


async def read_all(api):
    orders = (await api.get("/partner/walletable/orders", total=30)).data["data"]
    customer = (await api.get("/partner/customer/cust-1")).data
    basket = (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data
    balance = (await api.get("/partner/walletable/balance", external_customer_id="cust-1")).data
    rates = (await api.get("/partner/walletable/rates")).data
    return orders, customer, basket, balance, rates


async def test_restart_restores_shop(serving, clock, state, shipping):
    async with serving(state=state, password="p") as (_, api):
        await api.create_customer(email="a@example.com")
        await api.buy("MNTBAE0001", 3)
        delivery = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
        await api.complete(delivery, "delivery", shipping=shipping)
        sell = (await api.add_item("MNTBAE0001", 1, type="sell")).data
        await api.complete(sell, "sell")
        clock.advance(17)
        await api.add_item("MNTBAE0013", 2)
        await api.add_item("MNTBAE0001", 1)
        before = await read_all(api)
    assert len(before[0]) == 3
    async with serving(state=state, password="p") as (sandbox, api):
        assert [order["id"] for order in before[0]] == [order.id for order in reversed(sandbox.shop.orders)]
        after = await read_all(api)
        order = (await api.complete(after[2])).data
        assert (await api.complete(after[2])).status == 409
    assert after == before
    assert order["paid_total"] == before[2]["paid_total"]
    async with serving(state=state, password="p") as (sandbox, api):
        assert sandbox.shop.orders[-1].token == order["token"]
        assert sandbox.shop.baskets == []
        assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 2, "MNTBAE0013": 2}


async def test_time_passes_while_sandbox_is_stopped(serving, state):
    clock = ManualClock()
    async with serving(state=state, clock=clock) as (_, api):
        await api.create_customer()
        order = await api.buy()
        basket = (await api.add_item()).data
    later = ManualClock()
    later.jump_wall(3600)
    async with serving(state=state, clock=later) as (_, api):
        (row,) = (await api.get("/partner/walletable/orders", orderId=order["id"])).data["data"]
        assert row["status_name"] == "Completed"
        found = (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data
        assert found["pricefix"]["updated"] is True
        assert found["token"] == basket["token"]


async def test_restart_creates_new_tokens(serving, state):
    tokens = set()
    for number in range(3):
        async with serving(state=state) as (_, api):
            await api.create_customer(f"cust-{number}")
            basket = (await api.add_item(customer=f"cust-{number}")).data
            tokens |= {basket["token"], basket["price_token"], basket["guid"]}
            assert basket["id"] == 10984 + number
    assert len(tokens) == 9


async def test_restart_keeps_removed_ids_and_cleared_baskets(serving, state):
    async with serving(state=state) as (_, api):
        await api.create_customer()
        await api.create_customer("gone")
        basket = (await api.add_item()).data
        key = {"external_customer_id": "cust-1", "cart_token": basket["token"]}
        await api.send("DELETE", "/partner/walletable/basket/empty", key)
        await api.send("DELETE", "/partner/customer/gone")
    async with serving(state=state) as (_, api):
        assert (await api.get("/partner/customer/gone")).status == 404
        assert (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data["items"] == []
        assert (await api.create_customer("gone"))["id"] == 3


async def test_restart_keeps_second_orders_and_set_statuses(serving, state):
    async with serving(state=state, single_shot=False) as (sandbox, api):
        await api.create_customer()
        first = await api.buy()
        second = (await api.complete(first)).data
        sandbox.shop.set_status(first["id"], "Refunded")
    async with serving(state=state, single_shot=False) as (sandbox, api):
        rows = (await api.get("/partner/walletable/orders", sortType="asc")).data["data"]
        assert [(row["id"], row["status_name"]) for row in rows] == [
            (first["id"], "Refunded"),
            (second["id"], "Pending"),
        ]
        assert (await api.complete(first)).data["id"] == second["id"] + 1
        assert len(sandbox.shop.orders) == 3


async def test_shop_without_state_file_starts_empty(serving):
    async with serving() as (_, api):
        await api.create_customer()
    async with serving() as (_, api):
        assert (await api.get("/partner/customer/cust-1")).status == 404


async def test_invalid_state_file_raises(serving, state):
    state.write_text("this is not SQLite, and never was, however long one looks at it" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        async with serving(state=state):
            pass
    with pytest.raises(sqlite3.OperationalError):
        async with serving(state=state.parent / "missing" / "shop.sqlite"):
            pass
