"""Reads from a delayed replica: `reads_lag`, with `orders_lag` on top."""

import contextlib
import sqlite3

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.sandbox import ManualClock, Rules, Sandbox, ThreadedSandbox
from minted_connect.sandbox.errors import ShopError
from minted_connect.sandbox.shop import Shop
from minted_connect.sandbox.state import SECOND

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
ORDERS = "/partner/walletable/orders"
RATES = "/partner/walletable/rates"
CUSTOMER = {"external_customer_id": "cust-1"}


@pytest.fixture
async def lagging(serving):
    async with serving(reads_lag=2) as pair:
        yield pair


async def basket_lines(api):
    found = await api.get(BASKET, **CUSTOMER)
    return None if found.data is None else [(item["sku"], item["amount"]) for item in found.data["items"]]


async def order_ids(api):
    return [row["id"] for row in (await api.get(ORDERS)).data["data"]]


async def test_completion_appears_in_basket_and_orders_late(lagging, clock):
    sandbox, api = lagging
    await api.create_customer()
    basket = (await api.add_item()).data
    clock.advance(2)
    order = (await api.complete(basket)).data  # the primary responds to changes
    assert order["order_creation_status"] == "order"
    for seconds in (0, 1, 0.999):
        clock.advance(seconds)
        found = (await api.get(BASKET, **CUSTOMER)).data
        assert (found["token"], len(found["items"]), found["order_creation_status"]) == (basket["token"], 1, "basket")
        assert await order_ids(api) == []
        assert (await api.get("/partner/walletable/balance", **CUSTOMER)).data == []
    clock.advance(0.001)
    assert (await api.get(BASKET, **CUSTOMER)).data is None
    assert await order_ids(api) == [order["id"]]
    assert [row["amount"] for row in (await api.get("/partner/walletable/balance", **CUSTOMER)).data] == [1]
    assert (await api.complete(basket)).status == 409
    assert len(sandbox.shop.orders) == 1


async def test_changes_of_basket_appear_late_and_in_order(lagging, clock):
    _, api = lagging
    await api.create_customer()
    clock.advance(2)
    basket = (await api.add_item("MNTBAE0001", 1)).data
    assert await basket_lines(api) is None
    clock.advance(1)
    key = {**CUSTOMER, "cart_token": basket["token"]}
    changed = (await api.send("PATCH", BASKET, {**key, "sku": "MNTBAE0001", "qty": 5})).data
    assert [item["amount"] for item in changed["items"]] == [5]
    assert await basket_lines(api) is None
    clock.advance(1)
    assert await basket_lines(api) == [("MNTBAE0001", 1)]
    assert (await api.send("DELETE", BASKET + "/empty", key)).data["items"] == []
    clock.advance(1)
    assert await basket_lines(api) == [("MNTBAE0001", 5)]
    clock.advance(1)
    assert await basket_lines(api) == []


async def test_customers_receipts_and_invoices_appear_late(lagging, clock):
    sandbox, api = lagging
    await api.create_customer()
    assert (await api.get("/partner/customer/cust-1")).status == 404
    assert (await api.get(BASKET, **CUSTOMER)).status == 404
    clock.advance(2)
    order = await api.buy()
    assert (await api.send("PATCH", "/partner/customer/cust-1", {"lastname": "Changed"})).data["lastname"] == "Changed"
    receipt = {**CUSTOMER, "orderId": order["id"]}
    assert (await api.get("/partner/customer/cust-1")).data["lastname"] == "Ankunding"
    assert (await api.get("/partner/walletable/receipt", **receipt)).status == 404
    clock.advance(2)
    assert (await api.get("/partner/customer/cust-1")).data["lastname"] == "Changed"
    assert (await api.get("/partner/walletable/receipt", **receipt)).status == 200
    sandbox.shop.set_status(order["id"], "Completed")
    assert (await api.get(f"/partner/order/{order['guid']}/invoice")).status == 404
    clock.advance(2)
    assert (await api.get(f"/partner/order/{order['guid']}/invoice")).status == 200
    assert (await api.send("DELETE", "/partner/customer/cust-1")).status == 200
    assert (await api.get("/partner/customer/cust-1")).status == 200
    clock.advance(2)
    assert (await api.get("/partner/customer/cust-1")).status == 404


async def test_reused_external_id_is_new_customer(lagging, clock):
    _, api = lagging
    await api.create_customer(email="old@example.com")
    await api.send("DELETE", "/partner/customer/cust-1")
    await api.create_customer(email="new@example.com")
    clock.advance(2)
    assert (await api.get("/partner/customer/cust-1")).data["email"] == "new@example.com"


async def test_status_of_order_appears_late(serving, clock):
    async with serving(reads_lag=2, status_interval=10) as (_, api):
        await api.create_customer()
        await api.buy()

        async def status():
            return [row["status_name"] for row in (await api.get(ORDERS)).data["data"]]

        clock.advance(11.999)
        assert await status() == ["Pending"]
        clock.advance(0.001)
        assert await status() == ["Processing"]


async def test_orders_lag_adds_to_reads_lag(serving, clock):
    async with serving(reads_lag=2, orders_lag=3) as (sandbox, api):
        assert sandbox.reads_behind == 5
        await api.create_customer()
        basket = (await api.add_item()).data
        order = (await api.complete(basket)).data
        clock.advance(2)
        assert (await api.get(BASKET, **CUSTOMER)).data is None
        clock.advance(2.999)
        assert await order_ids(api) == []
        clock.advance(0.001)
        assert await order_ids(api) == [order["id"]]


async def test_rates_are_current(lagging, clock):
    sandbox, api = lagging
    clock.advance(50)
    gold = (await api.get(RATES, metal_type="gold")).data[0]
    assert gold["buy_price"] == sandbox.shop.quote(sandbox.shop.metals(["gold"])[0]).buy


async def test_read_reprices_primary_and_shows_it_late(lagging, clock):
    sandbox, api = lagging
    await api.create_customer()
    basket = (await api.add_item()).data
    clock.advance(241)
    found = (await api.get(BASKET, **CUSTOMER)).data
    assert (found["price_token"], found["pricefix"]["remaining"]) == (basket["price_token"], -1)
    primary = sandbox.shop.baskets[0]
    assert primary.price_token != basket["price_token"]
    assert sandbox.shop.remaining(primary) == 240
    for _ in range(3):  # stale reads do not restart the current lock
        assert (await api.get(BASKET, **CUSTOMER)).data["price_token"] == basket["price_token"]
    assert sandbox.shop.baskets[0].price_token == primary.price_token
    clock.advance(2)
    found = (await api.get(BASKET, **CUSTOMER)).data
    assert (found["price_token"], found["pricefix"]["remaining"]) == (primary.price_token, 238)
    assert (await api.complete(found)).data["price_token"] == primary.price_token


async def test_stale_read_does_not_reopen_completed_basket(lagging, clock):
    sandbox, api = lagging
    await api.create_customer()
    basket = (await api.add_item()).data
    clock.advance(239)
    await api.complete(basket)
    clock.advance(1.5)  # the replica still shows the basket as open, with an expired lock
    assert (await api.get(BASKET, **CUSTOMER)).data["pricefix"]["remaining"] == -1
    assert sandbox.shop.baskets == []
    assert (await api.add_item()).data["token"] != basket["token"]


async def test_replica_after_restart_is_current(serving, clock, tmp_path):
    options = {"state": tmp_path / "shop.sqlite", "reads_lag": 2, "password": "p"}
    async with serving(**options) as (_, api):
        await api.create_customer()
        order = await api.buy()
        basket = (await api.add_item("MNTBAE0013", 2)).data
    async with serving(**options) as (_, api):
        assert await order_ids(api) == [order["id"]]
        assert (await api.get(BASKET, **CUSTOMER)).data["token"] == basket["token"]
        await api.complete(basket)
        assert await basket_lines(api) == [("MNTBAE0013", 2)]
    rows = sqlite3.connect(options["state"])
    assert rows.execute("SELECT count(*) FROM entity WHERE kind = 'order'").fetchone() == (2,)
    rows.close()


async def test_state_file_without_locked_is_read(serving, clock, tmp_path):
    file = tmp_path / "shop.sqlite"
    async with serving(state=file, password="p") as (_, api):
        await api.create_customer()
        await api.add_item()
    rows = sqlite3.connect(file)
    rows.execute("UPDATE entity SET body = json_remove(body, '$.locked')")
    rows.commit()
    rows.close()
    async with serving(state=file, password="p") as (_, api):
        assert (await api.get(BASKET, **CUSTOMER)).data["pricefix"]["remaining"] == 240


async def test_reads_without_lag_use_primary(serving):
    async with serving() as (sandbox, _):
        assert sandbox.shop.reads() is sandbox.shop
        assert sandbox.reads_behind == 0


async def test_threaded_sandbox_has_reads_lag(digest_header):
    clock = ManualClock()
    with ThreadedSandbox(clock=clock, reads_lag=2, orders_lag=1.5) as sandbox:
        assert sandbox.reads_behind == 3.5
        async with aiohttp.ClientSession() as session:
            from tests.sandbox.conftest import Api

            api = Api(sandbox.url, sandbox.username, sandbox.password, session)
            await api.create_customer()
            assert (await api.get("/partner/customer/cust-1")).status == 404
            clock.advance(2)
            assert (await api.get("/partner/customer/cust-1")).status == 200


SKUS = ("MNTBAE0001", "MNTBAE0013")
STEPS = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.5, 1, 2, 3, 100, 240])),
    st.tuples(st.just("add"), st.sampled_from(SKUS)),
    st.tuples(st.just("update"), st.sampled_from(SKUS)),
    st.tuples(st.just("delete"), st.sampled_from(SKUS)),
    st.tuples(st.sampled_from(["clear", "complete", "read", "give", "rename", "status", "replace"]), st.none()),
)


def snapshot(state):
    return (
        [(one.id, one.external_id, dict(one.person), dict(one.holdings)) for one in state.customers],
        [(one.token, one.price_token, one.priced, one.locked) for one in state.baskets],
        [[(item.sku, item.amount) for item in one.items] for one in state.baskets],
        [(one.id, one.token, one.status) for one in state.orders],
    )  # fmt: skip


def run_step(shop, step, value):
    """Run one step; a step that raises `ShopError` changes nothing."""
    me = shop.customer("p", "cust-1")
    token = shop.baskets[-1].token if shop.baskets else ""
    if step == "add":
        shop.add_item(me, value, 1)
    elif step == "update":
        shop.update_item(me, token, value, 3)
    elif step == "delete":
        shop.delete_item(me, token, value)
    elif step == "clear":
        shop.clear(me, token)
    elif step == "complete":
        shop.complete("buy", me, token)
    elif step == "read":
        shop.active_basket(me)
    elif step == "give":
        shop.give("cust-1", SKUS[0], 1)
    elif step == "rename":
        shop.update_customer(me, {"lastname": str(shop.now())})
    elif step == "status" and shop.orders:
        shop.set_status(shop.orders[-1].id, "Canceled")
    elif step == "replace":
        shop.remove_customer(me)
        shop.create_customer("p", "cust-1", {})


@given(st.sampled_from([1, 2, 5.5]), st.lists(STEPS, max_size=30))
def test_replica_equals_shop_before_lag(lag, steps):
    clock = ManualClock()
    shop = Shop(clock, seed=1, rules=Rules(reads_lag=lag, lock_restart=50, late_complete="reprice"))
    past = [(shop.now() - 10**12, snapshot(shop))]
    shop.create_customer("p", "cust-1", {})
    for step, value in steps:
        if step == "advance":
            past.append((shop.now(), snapshot(shop)))
            clock.advance(value)
        else:
            with contextlib.suppress(ShopError):
                run_step(shop, step, value)
            past.append((shop.now(), snapshot(shop)))
        seen = [shown for moment, shown in past if moment <= shop.now() - round(lag * SECOND)]
        assert snapshot(shop.reads()) == seen[-1]


@pytest.mark.parametrize("name", ["reads_lag", "orders_lag", "lock_restart"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "2", True])
def test_invalid_option_in_seconds_raises(name, value):
    with pytest.raises((TypeError, ValueError), match=f"{name} must be a "):
        Rules(**{name: value})
    with pytest.raises((TypeError, ValueError), match=f"{name} must be a "):
        Sandbox(**{name: value})


def test_lock_restart_of_zero_raises():
    with pytest.raises(ValueError, match="lock_restart must be more than 0 seconds"):
        Rules(lock_restart=0)
