"""Price locks that restart before they expire, as in the vendor's example of 258 seconds."""

import pytest

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
ME = {"external_customer_id": "cust-1"}


def money(basket):
    return [(item["sku"], item["price"]) for item in basket["items"]], basket["paid_total"]


async def read(api):
    return (await api.get(BASKET, **ME)).data


async def add(api):
    return (await api.add_item("MNTBAE0013")).data


@pytest.mark.parametrize("how", [read, add])
async def test_a_read_or_an_add_restarts_the_lock(serving, clock, how):
    async with serving(lock_restart=18) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(17.999)
        found = await how(api)
        assert (found["pricefix"]["remaining"], found["price_token"]) == (222, basket["price_token"])
        clock.advance(0.001)
        found = await how(api)
        assert found["pricefix"]["remaining"] == 240
        assert found["price_token"] != basket["price_token"]
        assert "updated" not in found["pricefix"]
        assert money(found)[0][0] == money(basket)[0][0]  # the price stays
        assert found["token"] == basket["token"]
        clock.advance(33)
        assert (await api.complete(found)).data["paid_total"] == found["paid_total"]


async def test_the_documented_258_seconds(serving, clock):
    async with serving(lock_restart=18) as (_, api):
        await api.create_customer()
        await api.add_item()
        clock.advance(18)
        found = await add(api)
        clock.advance(33)
        assert (
            await api.send("PATCH", BASKET, {**ME, "cart_token": found["token"], "sku": "MNTBAE0013", "qty": 2})
        ).data["pricefix"]["remaining"] == 207
        clock.advance(206)
        assert (await api.complete(found)).status == 200


async def test_updating_and_deleting_lines_does_not_restart_it(serving, clock):
    async with serving(lock_restart=10) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(50)
        key = {**ME, "cart_token": basket["token"], "sku": "MNTBAE0001"}
        found = (await api.send("PATCH", BASKET, {**key, "qty": 3})).data
        assert (found["pricefix"]["remaining"], found["price_token"]) == (190, basket["price_token"])
        found = (await api.send("DELETE", BASKET, key)).data
        assert (found["pricefix"]["remaining"], found["price_token"]) == (190, basket["price_token"])


async def test_a_restart_may_reprice(serving, clock):
    async with serving(lock_restart=30, lock_restart_reprices=True) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(29)
        assert money(await read(api)) == money(basket)
        clock.advance(31)
        found = await read(api)
        assert found["pricefix"]["updated"] is True
        assert found["pricefix"]["token"] == found["price_token"] != basket["price_token"]
        gold = sandbox.shop.metals(["gold"])[0]
        assert found["items"][0]["price"] == sandbox.shop.quote(gold).buy != basket["items"][0]["price"]


async def test_a_restarted_lock_runs_out_as_any_other(serving, clock):
    async with serving(lock_restart=100) as (_, api):
        await api.create_customer()
        await api.add_item()
        clock.advance(100)
        found = await read(api)
        clock.advance(240)
        assert set((await api.complete(found)).errors) == {"cart_token"}
        again = await read(api)
        assert (again["pricefix"]["remaining"], again["pricefix"]["updated"]) == (240, True)


async def test_a_restart_survives_the_process(serving, clock, tmp_path):
    options = {"state": tmp_path / "shop.sqlite", "lock_restart": 100, "password": "p"}
    async with serving(**options) as (_, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(100)
        await read(api)
    clock.advance(50)
    async with serving(**options) as (_, api):
        found = await read(api)
        assert (found["pricefix"]["remaining"], money(found)) == (190, money(basket))


async def test_without_the_option_no_lock_restarts(api, clock):
    await api.create_customer()
    await api.add_item()
    clock.advance(239)
    assert (await read(api))["pricefix"]["remaining"] == 1
