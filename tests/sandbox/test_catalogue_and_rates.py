from datetime import datetime, timedelta
from decimal import Decimal as D

import pytest

pytestmark = pytest.mark.anyio

PRODUCTS, RATES, HISTORY = (f"/partner/walletable/{name}" for name in ("products", "rates", "rates/history"))


async def test_products_equal_documented_example(api):
    page = (await api.get(PRODUCTS, total=100)).data
    rows = {row["sku"]: row for row in page["data"]}
    assert len(rows) == page["total"] >= 14
    gold, silver = rows["MNTBAE0001"], rows["MNTBAE0013"]
    assert len(gold) == 12
    assert (gold["id"], gold["sale_price"], gold["list_price"]) == (3000099, D("592.34"), D("592.34"))
    assert gold["basecurrency"] == {"id": 1000013, "name": "Dirham Gold", "metal_type": "gold"}
    assert gold["text"] == "Ürün açıklaması"
    assert (silver["id"], silver["sale_price"], silver["product_images"]) == (3000100, 496, [])
    assert any(row["stock"] == 0 for row in rows.values())
    assert rows["MNTCOIN2012"]["id"] == 3000120
    assert len({row["id"] for row in rows.values()}) == len(rows)


async def test_products_follow_accept_language(api):
    found = await api.send("GET", PRODUCTS, query={"total": "100"}, headers={"Accept-Language": "en-US,en;q=0.9"})
    rows = {row["sku"]: row for row in found.data["data"]}
    assert rows["MNTCOIN2012"]["name"] == "2012 United Kingdom Collector Coin"
    assert rows["MNTBAE0001"]["category"] == {"id": 1, "name": "Gold Bars"}
    assert rows["MNTBAE0001"]["text"] == "Product description"


async def test_pages_of_products_contain_whole_catalogue(api):
    seen, number = [], 1
    while True:
        page = (await api.get(PRODUCTS, total=5, page=number)).data
        seen += [row["id"] for row in page["data"]]
        if page["next_page_url"] is None:
            break
        number += 1
    assert len(seen) == len(set(seen)) == page["total"]
    assert number == page["last_page"] > 2


async def test_price_of_product_equals_price_of_line(api, clock):
    await api.create_customer()
    clock.advance(12_345)
    rows = (await api.get(PRODUCTS, total=100)).data["data"]
    prices = {row["sku"]: row["sale_price"] for row in rows}
    for sku in ("MNTBAE0002", "MNTBAE0013", "MNTCOIN2012"):
        basket = (await api.add_item(sku)).data
        assert basket["items"][-1]["price"] == prices[sku]


async def test_rates_equal_documented_example(api):
    gold, silver = (await api.get(RATES)).data
    assert gold == {
        "currency_id": 1000013, "currency_name": "Dirham Gold", "metal_type": "gold", "product_id": 3000099,
        "sku": "MNTBAE0001", "spot_price": D("586.48"), "buy_price": D("592.34"), "sell_price": D("580.62"),
        "currency_code": "AED", "updated_at": "2026-02-20T12:27:57.000000Z",
    }  # fmt: skip
    assert (silver["product_id"], silver["sku"]) == (None, None)
    assert (silver["spot_price"], silver["buy_price"], silver["sell_price"]) == (D("9.8218"), D("9.92"), D("9.72"))
    assert [row["metal_type"] for row in (await api.get(RATES, metal_type="silver")).data] == ["silver"]
    assert len((await api.get(RATES, metal_type="gold,silver")).data) == 2


async def test_rates_change_with_clock(serving, clock):
    async with serving(price_interval=0.5) as (_, api):
        seen = []
        for _ in range(40):
            seen.append((await api.get(RATES, metal_type="gold")).data[0])
            clock.advance(0.25)
        assert seen[0]["spot_price"] == seen[1]["spot_price"]
        assert seen[1]["updated_at"] == "2026-02-20T12:27:57.000000Z"
        assert seen[2]["updated_at"] == "2026-02-20T12:27:57.500000Z"
        assert len({row["spot_price"] for row in seen}) > 10


@pytest.mark.parametrize("interval", ["hour", "day", "week", "month"])
async def test_history_defaults_to_last_thirty_points(api, interval):
    rows = (await api.get(HISTORY, metal_type="gold", interval=interval)).data
    times = [datetime.fromisoformat(row["time"]) for row in rows]
    assert len(times) == 30
    assert times == sorted(set(times))
    assert times[-1] <= datetime.fromisoformat("2026-02-20T12:27:57+00:00")
    starts = {
        "hour": lambda t: t.minute == 0,
        "day": lambda t: t.hour == 0,
        "week": lambda t: t.weekday() == 0 and t.hour == 0,
        "month": lambda t: t.day == 1 and t.hour == 0,
    }
    assert all(starts[interval](time) for time in times)
    assert set(rows[0]) == {
        "currency_id", "metal_type", "currency_code", "time", "spot_price", "buy_price", "sell_price",
    }  # fmt: skip


async def test_history_equals_rates_of_same_time(api, clock):
    expected = {}
    clock.advance(32 * 60 + 3)  # 13:00:00
    for _ in range(5):
        row = (await api.get(RATES, metal_type="gold")).data[0]
        expected[clock.wall().strftime("%Y-%m-%dT%H:00:00.000000Z")] = row["spot_price"], row["buy_price"]
        clock.advance(3600)
    rows = (await api.get(HISTORY, currency_id=1000013, interval="hour")).data
    found = {row["time"]: (row["spot_price"], row["buy_price"]) for row in rows}
    assert {time: found[time] for time in expected} == expected
    assert len(set(expected.values())) > 1


async def test_history_between_dates_is_inclusive(api):
    query = {"metal_type": "gold", "startDate": "2026-02-18", "endDate": "2026-02-20"}
    rows = (await api.get(HISTORY, **query)).data
    assert [row["time"][:10] for row in rows] == ["2026-02-18", "2026-02-19", "2026-02-20"]
    hours = (await api.get(HISTORY, **query, interval="hour")).data
    assert len(hours) == 24 + 24 + 13  # no points in the future
    assert {row["time"]: row["spot_price"] for row in hours if "T00:" in row["time"]} == {
        row["time"]: row["spot_price"] for row in rows
    }
    assert (await api.get(HISTORY, metal_type="gold", startDate="2030-01-01", endDate="2030-01-02")).data == []


async def test_history_of_both_metals_is_sorted_by_time(api):
    rows = (await api.get(HISTORY, metal_type="gold,silver", startDate="2026-02-19", endDate="2026-02-20")).data
    assert [(row["time"][:10], row["metal_type"]) for row in rows] == [
        ("2026-02-19", "gold"), ("2026-02-19", "silver"), ("2026-02-20", "gold"), ("2026-02-20", "silver"),
    ]  # fmt: skip


async def test_history_with_too_long_range_gets_422(api):
    response = await api.get(HISTORY, metal_type="gold", interval="hour", startDate="1900-01-01", endDate="2026-01-01")
    assert set(response.errors) == {"endDate"}


async def test_balance_is_filtered_and_documented(api, sandbox):
    await api.create_customer()
    for sku, pieces in {"MNTBAE0001": 3, "MNTCOIN2012": 2, "MNTBAE0013": 1}.items():
        sandbox.shop.give("cust-1", sku, pieces)

    async def skus(**query):
        rows = (await api.get("/partner/walletable/balance", external_customer_id="cust-1", **query)).data
        return {row["sku"] for row in rows}

    rows = (await api.get("/partner/walletable/balance", external_customer_id="cust-1")).data
    coin = next(row for row in rows if row["sku"] == "MNTCOIN2012")
    assert coin == {
        "productName": "2012 Birleşik Krallık Madeni Koleksiyon Para",
        "images": ["https://files.example.com/products/coin-2012.png"], "sku": "MNTCOIN2012", "productId": 3000120,
        "productWeight": D("31.1"), "metalType": "silver", "amount": 2, "deliverableAmount": 0, "blockedAmount": 0,
        "isDeliverable": False, "unitValue": D("302.29"), "totalValue": D("604.58"), "currencyCode": "AED",
    }  # fmt: skip
    assert await skus() == {"MNTBAE0001", "MNTCOIN2012", "MNTBAE0013"}
    assert await skus(metal_type="silver") == {"MNTCOIN2012", "MNTBAE0013"}
    assert await skus(metal_type="gold,silver", is_deliverable="false") == await skus()
    assert await skus(is_deliverable="true") == {"MNTBAE0001", "MNTBAE0013"}
    assert (await api.get("/partner/walletable/balance", external_customer_id="nobody")).status == 404


async def test_date_header_is_time_of_shop(api, clock):
    clock.advance(3)
    clock.jump_wall(7200)
    response = await api.get(RATES)
    assert response.headers["Date"] == "Fri, 20 Feb 2026 12:28:00 GMT"
    assert clock.wall() - timedelta(hours=2) == datetime.fromisoformat("2026-02-20T12:28:00+00:00")
