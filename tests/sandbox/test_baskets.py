import json
import re
from decimal import Decimal as D

import pytest

from minted_connect.sandbox import FeeSchedule

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
MONEY = ("price", "total", "charge_fee", "minting_fee", "storage_fee", "charges_vat", "paid_total")
KEYS = [
    "pricefix", "id", "guid", "order_creation_status", "external_id", "increment_id", "token", "price_token", "type",
    "price", "tax", "total", "payment_cost", "paid_total", "delivery_cost", "insurance_price", "conversion_price",
    "market_commission", "minted_markup_price", "silver_craftsmanship", "charge_fee", "charge_fee_rate",
    "minting_fee", "storage_fee", "storage_fee_rate", "charges_vat", "vat_rate", "currency_code", "status_id",
    "status_name", "customer", "shippingaddress", "billingaddress", "payment", "delivery", "order_at", "items",
    "total_amount", "currency", "tx_type",
]  # fmt: skip


def key(basket, **more):
    return {"external_customer_id": basket["customer"]["external_id"], "cart_token": basket["token"], **more}


def money(basket):
    return [str(basket[name]) for name in MONEY]


@pytest.fixture
async def basket(api):
    await api.create_customer()
    return (await api.add_item()).data


async def test_basket_equals_documented_example(api, clock, basket):
    assert list(basket) == KEYS
    assert money(basket) == ["592.34", "592.34", "10.37", "11.85", "1.78", "1.2", "617.54"]
    assert basket["pricefix"] == {"remaining": 240, "nextUpdate": "2026-02-20T15:31:57+03:00"}
    clock.advance(39)
    found = (await api.send("PATCH", BASKET, key(basket, sku="MNTBAE0001", qty=3))).data
    assert money(found) == ["1777.02", "1777.02", "31.1", "35.55", "5.33", "3.6", "1852.6"]
    assert found["pricefix"] == {"remaining": 201, "nextUpdate": "2026-02-20T15:31:57+03:00"}
    assert found["payment"] == {
        "redirect_url": "", "token": "", "is_3d": False, "auth_mode": "", "amount": D("1777.02"), "state": "new",
        "comission": D("51.18"), "total": D("1828.2"), "details": None,
    }  # fmt: skip
    (line,) = found["items"]
    assert [(part["id"], str(part["price"])) for part in line["prices"]] == [
        (6, "0"), (4, "0"), (7, "11.85"), (2, "0"),
    ]  # fmt: skip
    assert (line["price"], line["amount"], line["total"], line["product_weight"]) == (D("592.34"), 3, D("1777.02"), 1)
    assert (found["total_amount"], found["currency"], found["tx_type"]) == (3, "Dirham Gold", "oneoffpurchase")
    assert (found["type"], found["status_id"], found["status_name"]) == ("buy", 1, "Created")
    assert found["order_creation_status"] == "basket"
    assert found["order_at"] == "2026-02-20T12:27:57.000000Z"
    assert len(found["customer"]) == 12


async def test_identifiers_have_documented_format(basket):
    assert basket["id"] == 10984
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", basket["guid"])
    assert re.fullmatch(r"[A-Za-z0-9]{32}", basket["token"])
    assert re.fullmatch(r"[A-Za-z0-9]{32}", basket["price_token"])
    assert re.fullmatch(r"[0-9]{11}", basket["increment_id"])


async def test_amounts_are_numbers_without_trailing_zeros(api, clock, basket):
    found = await api.send("PATCH", BASKET, key(basket, sku="MNTBAE0001", qty=3))
    assert '"paid_total":1852.6,' in found.text
    assert '"tax":0,' in found.text
    assert json.loads(found.text, parse_float=str)["data"]["charges_vat"] == "3.6"


async def test_mixed_basket_equals_documented_example(serving):
    async with serving(fees=FeeSchedule.march_2026()) as (_, api):
        await api.create_customer()
        await api.add_item("MNTBAE0013")
        found = (await api.add_item("MNTBAE0013")).data
        assert [(line["price"], line["amount"]) for line in found["items"]] == [(496, 1), (496, 1)]
        assert found["items"][0]["prices"][2]["price"] == D("24.8")
        found = (await api.add_item("MNTBAE0001")).data
        assert found["currency"] is None
        assert found["total_amount"] == 3
        assert money(found)[1:] == ["1584.34", "158.43", "79.22", "316.87", "27.73", "2166.59"]


async def test_same_seed_creates_same_basket(serving):
    baskets = []
    for seed in (5, 5, 6):
        async with serving(seed=seed) as (_, api):
            await api.create_customer()
            baskets.append((await api.add_item()).data)
    assert baskets[0] == baskets[1]
    assert baskets[0]["token"] != baskets[2]["token"]


async def test_patch_merges_lines_of_sku(api, basket):
    await api.add_item("MNTBAE0013", 2)
    found = (await api.add_item("MNTBAE0001", 4)).data
    assert [(i["sku"], i["amount"]) for i in found["items"]] == [
        ("MNTBAE0001", 1), ("MNTBAE0013", 2), ("MNTBAE0001", 4),
    ]  # fmt: skip
    found = (await api.send("PATCH", BASKET, key(basket, sku="MNTBAE0001", qty=2))).data
    assert [(i["sku"], i["amount"]) for i in found["items"]] == [("MNTBAE0001", 2), ("MNTBAE0013", 2)]


async def test_delete_removes_every_line_of_sku(api, basket):
    await api.add_item("MNTBAE0013")
    await api.add_item("MNTBAE0001")
    found = (await api.send("DELETE", BASKET, key(basket, sku="MNTBAE0001"))).data
    assert [line["sku"] for line in found["items"]] == ["MNTBAE0013"]
    assert set((await api.send("DELETE", BASKET, key(basket, sku="MNTBAE0001"))).errors) == {"sku"}
    assert set((await api.send("PATCH", BASKET, key(basket, sku="MNTBAE0001", qty=1))).errors) == {"sku"}


async def test_clear_keeps_token_and_lock(api, clock, basket):
    clock.advance(242)
    found = (await api.send("DELETE", BASKET + "/empty", key(basket))).data
    assert found["items"] == []
    assert all(found[name] == 0 for name in (*MONEY, "delivery_cost", "total_amount"))
    assert (found["payment"], found["currency"]) == (None, None)
    assert found["pricefix"] == {"remaining": -2, "nextUpdate": "2026-02-20T15:31:57+03:00"}
    assert (found["token"], found["price_token"]) == (basket["token"], basket["price_token"])
    refused = await api.complete(found)
    assert set(refused.errors) == {"cart_token"}


async def test_read_within_lock_changes_nothing(api, clock, basket):
    clock.advance(239.5)
    found = (await api.get(BASKET, external_customer_id="cust-1")).data
    assert found == {**basket, "pricefix": {**basket["pricefix"], "remaining": 0}}


async def test_read_after_lock_reprices(api, clock, basket):
    clock.advance(240)
    found = (await api.get(BASKET, external_customer_id="cust-1")).data
    assert found["pricefix"] == {
        "remaining": 240, "nextUpdate": "2026-02-20T15:35:57+03:00", "updated": True, "token": found["price_token"],
    }  # fmt: skip
    assert found["price_token"] != basket["price_token"]
    assert found["token"] == basket["token"]
    assert found["price"] != basket["price"]
    again = (await api.get(BASKET, external_customer_id="cust-1")).data
    assert again == {**found, "pricefix": {"remaining": 240, "nextUpdate": "2026-02-20T15:35:57+03:00"}}


@pytest.mark.parametrize("change", ["add", "update", "delete"])
async def test_change_after_lock_reprices(api, clock, basket, change):
    await api.add_item("MNTBAE0013")
    clock.advance(300)
    body = {
        "add": key(basket, sku="MNTBAE0013", qty=1),
        "update": key(basket, sku="MNTBAE0001", qty=2),
        "delete": key(basket, sku="MNTBAE0013"),
    }[change]
    found = (await api.send({"add": "POST", "update": "PATCH", "delete": "DELETE"}[change], BASKET, body)).data
    assert found["pricefix"]["updated"] is True
    assert found["pricefix"]["remaining"] == 240


async def test_lock_applies_to_price_of_new_lines(api, clock, sandbox, basket):
    clock.advance(200)
    rate = (await api.get("/partner/walletable/rates")).data[0]
    assert rate["buy_price"] != D("592.34")
    found = (await api.add_item("MNTBAE0001")).data
    assert {line["price"] for line in found["items"]} == {D("592.34")}
    assert found["pricefix"]["remaining"] == 40


async def test_lock_ignores_jump_of_wall_clock(api, clock, basket):
    clock.jump_wall(3600)
    found = (await api.get(BASKET, external_customer_id="cust-1")).data
    assert found == basket


async def test_missing_basket_is_null(api):
    await api.create_customer()
    assert (await api.get(BASKET, external_customer_id="cust-1")).data is None


async def test_basket_used_last_is_active(api, sandbox, clock, basket):
    sandbox.shop.give("cust-1", "MNTBAE0001", 2)
    clock.advance(1)
    sell = (await api.add_item("MNTBAE0001", 1, type="sell")).data
    assert (await api.get(BASKET, external_customer_id="cust-1")).data["id"] == sell["id"] == 10985
    found = (await api.get(BASKET, external_customer_id="cust-1", cart_token=basket["token"])).data
    assert found["id"] == basket["id"]
    assert (await api.get(BASKET, external_customer_id="cust-1", cart_token="x" * 32)).data is None


async def test_type_is_ignored_for_existing_basket(api, basket):
    found = (await api.add_item("MNTBAE0001", 1, type="sell", cart_token=basket["token"])).data
    assert (found["type"], found["total_amount"]) == ("buy", 2)


async def test_sell_and_delivery_baskets_block_pieces(api, sandbox):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 5)
    sell = (await api.add_item("MNTBAE0001", 2, type="sell")).data
    assert (sell["items"][0]["price"], sell["payment"], sell["tx_type"]) == (D("580.62"), None, "sell")
    assert sell["items"][0]["prices"] == [{"id": 7, "name": "Mint Ücreti", "price": 0}]
    delivery = (await api.add_item("MNTBAE0001", 1, type="delivery")).data
    assert (delivery["price"], delivery["total"], delivery["delivery_cost"]) == (0, 3, 3)
    assert str(delivery["paid_total"]) == "3.15"
    rows = (await api.get("/partner/walletable/balance", external_customer_id="cust-1")).data
    assert (rows[0]["amount"], rows[0]["blockedAmount"], rows[0]["deliverableAmount"]) == (5, 3, 2)


async def test_sell_and_delivery_without_pieces_get_422(api, sandbox):
    await api.create_customer()
    sandbox.shop.give("cust-1", "MNTBAE0001", 2)
    sandbox.shop.give("cust-1", "MNTCOIN2012", 2)
    assert set((await api.add_item("MNTBAE0001", 3, type="sell")).errors) == {"qty"}
    sell = (await api.add_item("MNTBAE0001", 1, type="sell")).data
    assert set((await api.add_item("MNTBAE0001", 2, type="sell")).errors) == {"qty"}
    patched = await api.send("PATCH", BASKET, key(sell, sku="MNTBAE0001", qty=3))
    assert set(patched.errors) == {"qty"}
    assert set((await api.add_item("MNTBAE0013", 1, type="delivery")).errors) == {"qty"}
    assert set((await api.add_item("MNTCOIN2012", 1, type="delivery")).errors) == {"sku"}
    assert len(sandbox.shop.baskets) == 1


async def test_quantity_above_stock_gets_422(api):
    await api.create_customer()
    assert set((await api.add_item("MNTBAE0016", 1)).errors) == {"qty"}
    assert (await api.add_item("MNTBAE0001", 20)).status == 200
    assert set((await api.add_item("MNTBAE0001", 1)).errors) == {"qty"}


async def test_storage_free_waives_fee_below_limit(serving):
    async with serving(storage_free=True) as (sandbox, api):
        await api.create_customer()
        found = (await api.add_item()).data
        assert (found["storage_fee"], str(found["storage_fee_rate"])) == (0, "0.3")
        sandbox.shop.give("cust-1", "MNTBAE0016", 50)
        found = (await api.add_item()).data
        assert found["storage_fee"] > 0


async def test_card_payment_false_omits_payment(serving):
    async with serving(card_payment=False) as (_, api):
        await api.create_customer()
        assert (await api.add_item()).data["payment"] is None


async def test_names_follow_accept_language(api, basket):
    found = await api.send("GET", BASKET, query={"external_customer_id": "cust-1"}, headers={"Accept-Language": "en"})
    assert [part["name"] for part in found.data["items"][0]["prices"]][2] == "Minting Fee"
    assert [part["name"] for part in basket["items"][0]["prices"]] == [
        "Fiziksel Dönüşüm", "Kargo", "Mint Ücreti", "Sigorta",
    ]  # fmt: skip
