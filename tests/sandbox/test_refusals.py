"""Refused requests that are executed, late commits, and orders with unexpected statuses."""

import asyncio

import aiohttp
import pytest

from minted_connect.sandbox.entities import FAILING, STATUSES, id_of_status

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
ORDERS = "/partner/walletable/orders"
COMPLETE = "*/complete/*"
ME = {"external_customer_id": "cust-1"}


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def basket(api):
    await api.create_customer()
    return (await api.add_item()).data


async def refused(api, sandbox, basket, **args):
    sandbox.faults.add("refusal", path=COMPLETE, **args)
    return await api.complete(basket)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 422, 429, 451, 500])
@pytest.mark.parametrize("is_envelope", [True, False])
@pytest.mark.parametrize("commit", ["before", "after", "never"])
async def test_every_status_enveloped_or_bare_before_after_or_never(
    api, sandbox, clock, basket, status, is_envelope, commit
):
    response = await refused(api, sandbox, basket, status=status, is_envelope=is_envelope, commit=commit, seconds=5)
    assert response.status == status
    if is_envelope:
        assert (response.json["success"], response.json["code"], response.json["data"]) == (False, status, None)
    else:
        assert response.headers["Content-Type"] == "text/html; charset=UTF-8"
        assert response.text.startswith("<!DOCTYPE")
    assert "Retry-After" not in response.headers
    assert "WWW-Authenticate" not in response.headers
    assert len(sandbox.shop.orders) == (commit == "before")
    assert sandbox.latest_landing == (5 if commit == "after" else 0)
    if commit == "after":
        await until(lambda: clock._timers)
        clock.advance(4.999)
        await api.get("/partner/walletable/rates")
        assert sandbox.shop.orders == []
        clock.advance(0.001)
        await until(lambda: sandbox.shop.orders)
    clock.advance(100)
    await api.get("/partner/walletable/rates")
    assert [order.token for order in sandbox.shop.orders] == ([] if commit == "never" else [basket["token"]])
    entry = next(entry for entry in sandbox.requests if entry.fault)
    assert (entry.status, entry.fault, entry.operation) == (status, "refusal", "complete.buy")


async def test_refusals_with_retry_after(api, sandbox, basket):
    response = await refused(api, sandbox, basket, status=429, retry_after=7)
    assert (response.status, response.headers["Retry-After"]) == (429, "7")
    date = "Fri, 20 Feb 2026 12:28:57 GMT"
    response = await refused(api, sandbox, basket, status=503, retry_after=date, is_envelope=False, commit="never")
    assert response.headers["Retry-After"] == date


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [(None, None), ("basic", "Basic realm="), ("digest_other_realm", 'Digest realm="gateway"')],
)
async def test_a_401_without_a_challenge_or_with_one_of_another(api, sandbox, basket, challenge, expected):
    sandbox.faults.add("refusal", path=COMPLETE, status=401, is_envelope=False, challenge=challenge)
    headers = {"x-client-id": "web"}
    from tests.sandbox.conftest import authorization

    target = "/partner/walletable/complete/buy"
    line = sandbox.digest.challenges()[0]
    headers["Authorization"] = authorization(line, sandbox.username, sandbox.password, "POST", target)
    body = {**ME, "cart_token": basket["token"]}
    async with api.session.post(sandbox.url + target, json=body, headers=headers) as response:
        assert response.status == 401
        found = response.headers.getall("WWW-Authenticate", [])
    assert [line.startswith(expected) for line in found] == ([] if expected is None else [True])
    assert sandbox.digest.realm not in str(found)
    assert len(sandbox.shop.orders) == 1


async def test_a_refusal_may_hit_any_request(api, sandbox, clock, basket):
    sandbox.faults.add("refusal", method="POST", path="*/basket", status=403, commit="after", seconds=1)
    assert (await api.add_item("MNTBAE0013", 2)).status == 403
    assert len((await api.get(BASKET, **ME)).data["items"]) == 1
    await until(lambda: clock._timers)
    clock.advance(1)
    await until(lambda: len(sandbox.shop.baskets[0].items) == 2)


async def test_what_was_refused_before_the_login_is_not_executed(api, sandbox, clock, basket):
    for commit in ("before", "after"):
        sandbox.faults.add("refusal", path=COMPLETE, before_auth=True, commit=commit, seconds=1)
        key = {**ME, "cart_token": basket["token"]}
        async with api.session.post(sandbox.url + "/partner/walletable/complete/buy", json=key) as response:
            assert response.status == 403
    await until(lambda: clock._timers)
    clock.advance(1)
    await until(lambda: sandbox.latest_landing is not None and not clock._timers)
    await api.get("/partner/walletable/rates")
    assert sandbox.shop.orders == []


# --- late commits: which basket ----------------------------------------------------------------------------------


async def send_late(api, sandbox, clock, basket, how, reads_basket, **more):
    if how == "late_commit":
        sandbox.faults.add("late_commit", path=COMPLETE, seconds=10, reads_basket=reads_basket)
        with pytest.raises(aiohttp.ClientError):
            await api.complete(basket, **more)
    else:
        sandbox.faults.add("refusal", path=COMPLETE, seconds=10, commit="after", reads_basket=reads_basket)
        assert (await api.complete(basket, **more)).status == 403
    await until(lambda: clock._timers)


HOW = pytest.mark.parametrize("how", ["late_commit", "refusal"])
READS = pytest.mark.parametrize("reads_basket", ["execution", "acceptance"])


async def land(sandbox, clock):
    clock.advance(10)
    await until(lambda: not any(fault.in_flight for fault in sandbox.faults.all()))


@HOW
@READS
async def test_a_late_commit_of_a_basket_that_was_cleared(serving, clock, how, reads_basket):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item("MNTBAE0001", 2)).data
        await send_late(api, sandbox, clock, basket, how, reads_basket)
        key = {**ME, "cart_token": basket["token"]}
        assert (await api.send("DELETE", BASKET + "/empty", key)).data["items"] == []
        await land(sandbox, clock)
        if reads_basket == "execution":
            assert sandbox.shop.orders == []  # an empty basket is not completed
            assert (await api.get(BASKET, **ME)).data["token"] == basket["token"]
        else:
            (order,) = sandbox.shop.orders
            assert (order.token, order.id, order.guid) == (basket["token"], basket["id"], basket["guid"])
            assert (order.figures.paid_total, order.price_token) == (basket["paid_total"], basket["price_token"])
            assert order.completed - order.ordered == 10_000_000
            assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 2}
            assert (await api.get(BASKET, **ME)).data is None
            assert (await api.complete(basket)).status == 409


@HOW
@READS
async def test_a_late_commit_of_a_basket_that_was_changed(serving, clock, how, reads_basket):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item("MNTBAE0001", 2)).data
        await send_late(api, sandbox, clock, basket, how, reads_basket)
        changed = (await api.add_item("MNTBAE0013", 1)).data
        await land(sandbox, clock)
        (order,) = sandbox.shop.orders
        expected = basket if reads_basket == "acceptance" else changed
        assert [line.sku for line in order.lines] == [item["sku"] for item in expected["items"]]
        assert order.figures.paid_total == expected["paid_total"]


async def test_what_was_accepted_keeps_its_price_when_the_lock_is_over(serving, clock):
    async with serving(lock_seconds=5) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        clock.advance(6)
        repriced = (await api.get(BASKET, **ME)).data
        assert repriced["price_token"] != basket["price_token"]
        await land(sandbox, clock)
        (order,) = sandbox.shop.orders
        assert (order.figures.paid_total, order.price_token) == (basket["paid_total"], basket["price_token"])


@pytest.mark.parametrize(("late_complete", "orders"), [("refuse", 0), ("reprice", 1)])
async def test_what_is_accepted_after_its_lock(serving, clock, late_complete, orders):
    async with serving(lock_seconds=5, late_complete=late_complete) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(60)
        accepted = sandbox.shop.quote(sandbox.shop.metals(["gold"])[0]).buy
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        await land(sandbox, clock)
        assert [order.lines[0].price for order in sandbox.shop.orders] == [accepted] * orders
        if orders:
            assert accepted != basket["items"][0]["price"]


async def test_what_was_accepted_is_not_completed_twice(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        assert (await api.complete(basket)).status == 200
        await land(sandbox, clock)
        assert len(sandbox.shop.orders) == 1
    async with serving(single_shot=False) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        assert (await api.complete(basket)).status == 200
        await land(sandbox, clock)
        assert len(sandbox.shop.orders) == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**ME, "cart_token": 5},
        {**ME, "cart_token": "x" * 32},
        {"external_customer_id": "cust-2", "cart_token": "x" * 32},
        [],
    ],
)
async def test_what_could_not_be_accepted_is_not_executed(serving, clock, body):
    async with serving() as (sandbox, api):
        await api.create_customer()
        sandbox.faults.add("refusal", path=COMPLETE, commit="after", seconds=10, reads_basket="acceptance")
        assert (await api.send("POST", "/partner/walletable/complete/buy", body)).status == 403
        await until(lambda: clock._timers)
        await land(sandbox, clock)
        assert sandbox.shop.orders == []


async def test_other_requests_are_executed_as_they_are_found(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        late = {"commit": "after", "seconds": 10, "reads_basket": "acceptance"}
        sandbox.faults.add("refusal", method="POST", path="*/basket", **late)
        assert (await api.add_item()).status == 403
        await until(lambda: clock._timers)
        await land(sandbox, clock)
        assert len(sandbox.shop.baskets) == 1


# --- statuses ----------------------------------------------------------------------------------------------------


WORDS = [*FAILING, "Levitating", "Beklemede"]


async def listed(api):
    return [(row["status_id"], row["status_name"]) for row in (await api.get(ORDERS)).data["data"]]


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("where", ["response", "list", "both"])
async def test_an_order_may_fail_in_other_words(api, sandbox, clock, basket, name, where):
    sandbox.faults.add("order_status", path=COMPLETE, name=name, where=where)
    order = (await api.complete(basket)).data
    shown, course = (id_of_status(name), name), (2, "Pending")
    assert order["order_creation_status"] == "order"
    assert (order["status_id"], order["status_name"]) == (course if where == "list" else shown)
    assert await listed(api) == [course if where == "response" else shown]
    clock.advance(3_600)
    assert await listed(api) == [(5, "Completed") if where == "response" else shown]
    assert set(order) == set((await api.get(ORDERS)).data["data"][0])


@pytest.mark.parametrize("name", WORDS)
async def test_a_status_is_any_word(api, sandbox, basket, name):
    order = (await api.complete(basket)).data
    sandbox.shop.set_status(order["id"], name)
    assert await listed(api) == [(id_of_status(name), name)]
    assert (await api.get(ORDERS, status=id_of_status(name))).data["total"] == 1


async def test_the_list_may_be_edited_by_itself(api, sandbox, basket):
    await api.complete(basket)
    sandbox.faults.add("order_status", path="*/orders", name="Voided", where="response", times=1)
    assert await listed(api) == [(id_of_status("Voided"), "Voided")]
    assert await listed(api) == [(2, "Pending")]
    sandbox.faults.add("order_status", path="*/orders", name="Voided", where="list")
    assert await listed(api) == [(2, "Pending")]
    assert await listed(api) == [(id_of_status("Voided"), "Voided")]


async def test_a_response_without_orders_stays_as_it_is(api, sandbox, basket):
    sandbox.faults.add("order_status", times=None)
    assert (await api.get(BASKET, **ME)).data == basket
    assert (await api.get("/partner/walletable/products")).data["current_page"] == 1
    assert len((await api.get("/partner/walletable/rates")).data) == 2
    assert (await api.complete({**basket, "token": "x" * 32})).status == 422


def test_ids_of_statuses():
    assert all(id_of_status(name) == number for name, number in STATUSES.items())
    assert id_of_status("Levitating") not in {*STATUSES.values(), *FAILING.values()}
    assert {name for name in FAILING if name in STATUSES} == {"Cancelled", "Refunded"}


@pytest.mark.parametrize("field", ["guid", "increment_id", "token"])
async def test_a_response_may_contradict_the_order(api, sandbox, basket, field):
    sandbox.faults.add("extra_field", path=COMPLETE, field=field, value="another")
    order = (await api.complete(basket)).data
    assert order[field] == "another"
    assert (await api.get(ORDERS)).data["data"][0][field] == basket[field]
