"""Price locks that restart before they expire, as in the vendor's example of 258 seconds."""

import pytest

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
CUSTOMER = {"external_customer_id": "cust-1"}


def money(basket):
    return [(item["sku"], item["price"]) for item in basket["items"]], basket["paid_total"]


async def read_basket(api):
    return (await api.get(BASKET, **CUSTOMER)).data


async def add_silver(api):
    return (await api.add_item("MNTBAE0013")).data


@pytest.mark.parametrize("action", [read_basket, add_silver])
async def test_read_or_add_restarts_lock(serving, clock, action):
    async with serving(lock_restart=18) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(17.999)
        found = await action(api)
        assert (found["pricefix"]["remaining"], found["price_token"]) == (222, basket["price_token"])
        clock.advance(0.001)
        found = await action(api)
        assert found["pricefix"]["remaining"] == 240
        assert found["price_token"] != basket["price_token"]
        assert "updated" not in found["pricefix"]
        assert money(found)[0][0] == money(basket)[0][0]  # the price is unchanged
        assert found["token"] == basket["token"]
        clock.advance(33)
        assert (await api.complete(found)).data["paid_total"] == found["paid_total"]


async def test_lock_lasts_documented_258_seconds(serving, clock):
    async with serving(lock_restart=18) as (_, api):
        await api.create_customer()
        await api.add_item()
        clock.advance(18)
        found = await add_silver(api)
        clock.advance(33)
        assert (
            await api.send("PATCH", BASKET, {**CUSTOMER, "cart_token": found["token"], "sku": "MNTBAE0013", "qty": 2})
        ).data["pricefix"]["remaining"] == 207
        clock.advance(206)
        assert (await api.complete(found)).status == 200


async def test_update_and_delete_do_not_restart_lock(serving, clock):
    async with serving(lock_restart=10) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(50)
        key = {**CUSTOMER, "cart_token": basket["token"], "sku": "MNTBAE0001"}
        found = (await api.send("PATCH", BASKET, {**key, "qty": 3})).data
        assert (found["pricefix"]["remaining"], found["price_token"]) == (190, basket["price_token"])
        found = (await api.send("DELETE", BASKET, key)).data
        assert (found["pricefix"]["remaining"], found["price_token"]) == (190, basket["price_token"])


async def test_lock_restart_reprices_if_configured(serving, clock):
    async with serving(lock_restart=30, lock_restart_reprices=True) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(29)
        assert money(await read_basket(api)) == money(basket)
        clock.advance(31)
        found = await read_basket(api)
        assert found["pricefix"]["updated"] is True
        assert found["pricefix"]["token"] == found["price_token"] != basket["price_token"]
        gold = sandbox.shop.metals(["gold"])[0]
        assert found["items"][0]["price"] == sandbox.shop.quote(gold).buy != basket["items"][0]["price"]


async def test_restarted_lock_expires(serving, clock):
    async with serving(lock_restart=100) as (_, api):
        await api.create_customer()
        await api.add_item()
        clock.advance(100)
        found = await read_basket(api)
        clock.advance(240)
        assert set((await api.complete(found)).errors) == {"cart_token"}
        again = await read_basket(api)
        assert (again["pricefix"]["remaining"], again["pricefix"]["updated"]) == (240, True)


async def test_restarted_lock_is_kept_in_state_file(serving, clock, tmp_path):
    options = {"state": tmp_path / "shop.sqlite", "lock_restart": 100, "password": "p"}
    async with serving(**options) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(100)
        await read_basket(api)
    clock.advance(50)
    async with serving(**options) as (_, api):
        found = await read_basket(api)
        assert (found["pricefix"]["remaining"], money(found)) == (190, money(basket))


async def test_lock_does_not_restart_by_default(api, clock):
    await api.create_customer()
    await api.add_item()
    clock.advance(239)
    assert (await read_basket(api))["pricefix"]["remaining"] == 1
