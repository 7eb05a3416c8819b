import pytest

pytestmark = pytest.mark.anyio

CREATED = {
    "id", "external_id", "company_id", "user_id", "firstname", "middlename", "lastname", "fullname", "email",
    "phone", "gender", "identity_number", "birthdate", "created_at", "updated_at",
}  # fmt: skip


async def test_create_returns_documented_fields(api):
    found = await api.create_customer("MTD0018232", firstname="Mehmet", middlename=None, lastname="Gülbilge")
    assert set(found) == CREATED
    assert found["fullname"] == "Mehmet Gülbilge"
    assert (found["phone"], found["middlename"], found["user_id"]) == (None, None, None)
    assert found["created_at"] == found["updated_at"] == "2026-02-20 12:27:57"


async def test_create_accepts_every_field(api):
    fields = {
        "firstname": "John",
        "middlename": "Jack",
        "lastname": "Due",
        "email": "john.due@example.com",
        "phone": "+90 532 280 80 35",
        "identity_number": "12345677938",
        "gender": "M",
        "birthdate": "1970-01-31",
        "tax_office": "Kadıköy",
        "account_type": "company",
    }
    found = await api.create_customer("company_1", **fields)
    shown = {name: value for name, value in fields.items() if name in CREATED}
    assert {name: found[name] for name in shown} == shown
    basket = (await api.add_item(customer="company_1")).data
    assert (basket["customer"]["tax_office"], basket["customer"]["account_type"]) == ("Kadıköy", "company")


async def test_duplicate_external_id_gets_422(api):
    await api.create_customer("cust-1")
    again = await api.send("POST", "/partner/customer", {"external_id": "cust-1"}, headers={"Accept-Language": "en"})
    assert again.errors == {"external_id": ["The external_id has already been taken."]}


async def test_get_returns_wallets_in_grams(api, sandbox):
    await api.create_customer("cust-1")
    sandbox.shop.give("cust-1", "MNTBAE0001", 3)
    sandbox.shop.give("cust-1", "MNTCOIN2012", 2)
    await api.add_item("MNTBAE0001", 1, type="sell")
    found = (await api.get("/partner/customer/cust-1")).data
    gold, silver = found["wallets"]
    assert (gold["balance"], gold["blocked"], gold["real_balance"]) == (3, 1, 2)
    assert str(silver["balance"]) == "62.2"
    assert set(gold) == {
        "id", "customer_external_id", "name", "currency_id", "currency_symbol", "currency_code", "is_cash",
        "balance", "blocked", "real_balance",
    }  # fmt: skip


async def test_update_changes_sent_fields_and_clears_null(api, clock):
    await api.create_customer("cust-1", email="a@example.com", phone="1")
    clock.advance(60)
    found = (await api.send("PATCH", "/partner/customer/cust-1", {"lastname": "Due", "email": None})).data
    assert (found["firstname"], found["lastname"], found["fullname"]) == ("Brant", "Due", "Brant Due")
    assert (found["email"], found["phone"]) == (None, "1")
    assert (found["created_at"], found["updated_at"]) == ("2026-02-20 12:27:57", "2026-02-20 12:28:57")
    assert (await api.get("/partner/customer/cust-1")).data["lastname"] == "Due"


async def test_update_cannot_change_external_id(api):
    await api.create_customer("cust-1")
    assert (await api.send("PATCH", "/partner/customer/cust-1", {"external_id": "cust-1"})).status == 200
    changed = await api.send("PATCH", "/partner/customer/cust-1", {"external_id": "cust-2"})
    assert set(changed.errors) == {"external_id"}


async def test_strict_update_requires_documented_fields(serving):
    async with serving(strict_update=True) as (_, api):
        await api.create_customer("cust-1")
        refused = await api.send("PATCH", "/partner/customer/cust-1", {"middlename": "Jack"})
        assert set(refused.errors) == {"firstname", "lastname", "phone", "identity_number"}
        full = {"firstname": "John", "lastname": "Due", "phone": "+905071112233", "identity_number": "123"}
        assert (await api.send("PATCH", "/partner/customer/cust-1", full)).status == 200


async def test_remove_detaches_external_id(api, sandbox):
    await api.create_customer("cust-1")
    await api.buy()
    assert (await api.send("DELETE", "/partner/customer/cust-1")).data is None
    assert (await api.get("/partner/customer/cust-1")).status == 404
    assert (await api.send("DELETE", "/partner/customer/cust-1")).status == 404
    assert set((await api.add_item()).errors) == {"external_customer_id"}
    assert [one.external_id for one in sandbox.shop.customers] == [None]
    await api.create_customer("cust-1")
    assert sandbox.shop.holdings("cust-1") == {}
    with pytest.raises(KeyError):
        sandbox.shop.holdings("nobody")
    with pytest.raises(KeyError):
        sandbox.shop.give("nobody", "MNTBAE0001", 1)


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_unknown_customer_gets_404(api, method):
    found = await api.send(method, "/partner/customer/nobody", headers={"Accept-Language": "en-GB"})
    assert found.status == 404
    assert found.json == {"data": None, "success": False, "code": 404, "message": "Not found."}


async def test_unknown_escaped_external_id_gets_404(api):
    assert (await api.get("/partner/customer/a%20b%2Fc")).status == 404
