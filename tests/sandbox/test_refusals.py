"""Refused requests that are executed, late commits, and orders with unexpected statuses."""

import aiohttp
import pytest

from minted_connect.sandbox.entities import FAILING, STATUSES, id_of_status
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

BASKET = "/partner/walletable/basket"
ORDERS = "/partner/walletable/orders"
COMPLETE = "*/complete/*"
CUSTOMER = {"external_customer_id": "cust-1"}


@pytest.fixture
async def basket(api):
    await api.create_customer()
    return (await api.add_item()).data


async def complete_refused(api, sandbox, basket, **args):
    sandbox.faults.add("refusal", path=COMPLETE, **args)
    return await api.complete(basket)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 422, 429, 451, 500])
@pytest.mark.parametrize("is_envelope", [True, False])
@pytest.mark.parametrize("commit", ["before", "after", "never"])
async def test_refusal_executes_before_after_or_never(api, sandbox, clock, basket, status, is_envelope, commit):
    response = await complete_refused(
        api, sandbox, basket, status=status, is_envelope=is_envelope, commit=commit, seconds=5
    )
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
        await wait_until(lambda: clock._timers)
        clock.advance(4.999)
        await api.get("/partner/walletable/rates")
        assert sandbox.shop.orders == []
        clock.advance(0.001)
        await wait_until(lambda: sandbox.shop.orders)
    clock.advance(100)
    await api.get("/partner/walletable/rates")
    assert [order.token for order in sandbox.shop.orders] == ([] if commit == "never" else [basket["token"]])
    entry = next(entry for entry in sandbox.requests if entry.fault)
    assert (entry.status, entry.fault, entry.operation) == (status, "refusal", "complete.buy")


async def test_refusal_sends_retry_after(api, sandbox, basket):
    response = await complete_refused(api, sandbox, basket, status=429, retry_after=7)
    assert (response.status, response.headers["Retry-After"]) == (429, "7")
    date = "Fri, 20 Feb 2026 12:28:57 GMT"
    response = await complete_refused(
        api, sandbox, basket, status=503, retry_after=date, is_envelope=False, commit="never"
    )
    assert response.headers["Retry-After"] == date


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [(None, None), ("basic", "Basic realm="), ("digest_other_realm", 'Digest realm="gateway"')],
)
async def test_refusal_401_sends_configured_challenge(api, sandbox, basket, challenge, expected):
    sandbox.faults.add("refusal", path=COMPLETE, status=401, is_envelope=False, challenge=challenge)
    headers = {"x-client-id": "web"}
    from tests.sandbox.conftest import authorization

    target = "/partner/walletable/complete/buy"
    line = sandbox.digest.challenges()[0]
    headers["Authorization"] = authorization(line, sandbox.username, sandbox.password, "POST", target)
    body = {**CUSTOMER, "cart_token": basket["token"]}
    async with api.session.post(sandbox.url + target, json=body, headers=headers) as response:
        assert response.status == 401
        found = response.headers.getall("WWW-Authenticate", [])
    assert [line.startswith(expected) for line in found] == ([] if expected is None else [True])
    assert sandbox.digest.realm not in str(found)
    assert len(sandbox.shop.orders) == 1


async def test_refusal_applies_to_any_request(api, sandbox, clock, basket):
    sandbox.faults.add("refusal", method="POST", path="*/basket", status=403, commit="after", seconds=1)
    assert (await api.add_item("MNTBAE0013", 2)).status == 403
    assert len((await api.get(BASKET, **CUSTOMER)).data["items"]) == 1
    await wait_until(lambda: clock._timers)
    clock.advance(1)
    await wait_until(lambda: len(sandbox.shop.baskets[0].items) == 2)


async def test_refusal_before_auth_is_not_executed(api, sandbox, clock, basket):
    for commit in ("before", "after"):
        sandbox.faults.add("refusal", path=COMPLETE, before_auth=True, commit=commit, seconds=1)
        key = {**CUSTOMER, "cart_token": basket["token"]}
        async with api.session.post(sandbox.url + "/partner/walletable/complete/buy", json=key) as response:
            assert response.status == 403
    await wait_until(lambda: clock._timers)
    clock.advance(1)
    await wait_until(lambda: sandbox.latest_landing is not None and not clock._timers)
    await api.get("/partner/walletable/rates")
    assert sandbox.shop.orders == []


# --- late commits: the basket that is completed ------------------------------------------------------------------


async def send_late(api, sandbox, clock, basket, kind, reads_basket, **more):
    if kind == "late_commit":
        sandbox.faults.add("late_commit", path=COMPLETE, seconds=10, reads_basket=reads_basket)
        with pytest.raises(aiohttp.ClientError):
            await api.complete(basket, **more)
    else:
        sandbox.faults.add("refusal", path=COMPLETE, seconds=10, commit="after", reads_basket=reads_basket)
        assert (await api.complete(basket, **more)).status == 403
    await wait_until(lambda: clock._timers)


FAULT_KINDS = pytest.mark.parametrize("kind", ["late_commit", "refusal"])
READS_BASKET = pytest.mark.parametrize("reads_basket", ["execution", "acceptance"])


async def execute_deferred(sandbox, clock):
    clock.advance(10)
    await wait_until(lambda: not any(fault.in_flight for fault in sandbox.faults.all()))


@FAULT_KINDS
@READS_BASKET
async def test_late_commit_of_cleared_basket_follows_reads_basket(serving, clock, kind, reads_basket):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item("MNTBAE0001", 2)).data
        await send_late(api, sandbox, clock, basket, kind, reads_basket)
        key = {**CUSTOMER, "cart_token": basket["token"]}
        assert (await api.send("DELETE", BASKET + "/empty", key)).data["items"] == []
        await execute_deferred(sandbox, clock)
        if reads_basket == "execution":
            assert sandbox.shop.orders == []  # an empty basket cannot be completed
            assert (await api.get(BASKET, **CUSTOMER)).data["token"] == basket["token"]
        else:
            (order,) = sandbox.shop.orders
            assert (order.token, order.id, order.guid) == (basket["token"], basket["id"], basket["guid"])
            assert (order.figures.paid_total, order.price_token) == (basket["paid_total"], basket["price_token"])
            assert order.completed - order.ordered == 10_000_000
            assert sandbox.shop.holdings("cust-1") == {"MNTBAE0001": 2}
            assert (await api.get(BASKET, **CUSTOMER)).data is None
            assert (await api.complete(basket)).status == 409


@FAULT_KINDS
@READS_BASKET
async def test_late_commit_of_changed_basket_follows_reads_basket(serving, clock, kind, reads_basket):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item("MNTBAE0001", 2)).data
        await send_late(api, sandbox, clock, basket, kind, reads_basket)
        changed = (await api.add_item("MNTBAE0013", 1)).data
        await execute_deferred(sandbox, clock)
        (order,) = sandbox.shop.orders
        expected = basket if reads_basket == "acceptance" else changed
        assert [line.sku for line in order.lines] == [item["sku"] for item in expected["items"]]
        assert order.figures.paid_total == expected["paid_total"]


async def test_accepted_completion_keeps_price_after_lock(serving, clock):
    async with serving(lock_seconds=5) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        clock.advance(6)
        repriced = (await api.get(BASKET, **CUSTOMER)).data
        assert repriced["price_token"] != basket["price_token"]
        await execute_deferred(sandbox, clock)
        (order,) = sandbox.shop.orders
        assert (order.figures.paid_total, order.price_token) == (basket["paid_total"], basket["price_token"])


@pytest.mark.parametrize(("late_complete", "orders"), [("refuse", 0), ("reprice", 1)])
async def test_completion_accepted_after_lock_follows_late_complete(serving, clock, late_complete, orders):
    async with serving(lock_seconds=5, late_complete=late_complete) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        clock.advance(60)
        accepted = sandbox.shop.quote(sandbox.shop.metals(["gold"])[0]).buy
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        await execute_deferred(sandbox, clock)
        assert [order.lines[0].price for order in sandbox.shop.orders] == [accepted] * orders
        if orders:
            assert accepted != basket["items"][0]["price"]


async def test_accepted_completion_respects_single_shot(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        assert (await api.complete(basket)).status == 200
        await execute_deferred(sandbox, clock)
        assert len(sandbox.shop.orders) == 1
    async with serving(single_shot=False) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        await send_late(api, sandbox, clock, basket, "refusal", "acceptance")
        assert (await api.complete(basket)).status == 200
        await execute_deferred(sandbox, clock)
        assert len(sandbox.shop.orders) == 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**CUSTOMER, "cart_token": 5},
        {**CUSTOMER, "cart_token": "x" * 32},
        {"external_customer_id": "cust-2", "cart_token": "x" * 32},
        [],
    ],
)
async def test_invalid_completion_is_not_accepted(serving, clock, body):
    async with serving() as (sandbox, api):
        await api.create_customer()
        sandbox.faults.add("refusal", path=COMPLETE, commit="after", seconds=10, reads_basket="acceptance")
        assert (await api.send("POST", "/partner/walletable/complete/buy", body)).status == 403
        await wait_until(lambda: clock._timers)
        await execute_deferred(sandbox, clock)
        assert sandbox.shop.orders == []


async def test_accepted_basket_request_is_executed_later(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        late = {"commit": "after", "seconds": 10, "reads_basket": "acceptance"}
        sandbox.faults.add("refusal", method="POST", path="*/basket", **late)
        assert (await api.add_item()).status == 403
        await wait_until(lambda: clock._timers)
        await execute_deferred(sandbox, clock)
        assert len(sandbox.shop.baskets) == 1


# --- statuses ----------------------------------------------------------------------------------------------------


STATUS_NAMES = [*FAILING, "Levitating", "Beklemede"]


async def list_statuses(api):
    return [(row["status_id"], row["status_name"]) for row in (await api.get(ORDERS)).data["data"]]


@pytest.mark.parametrize("name", STATUS_NAMES)
@pytest.mark.parametrize("where", ["response", "list", "both"])
async def test_order_status_changes_response_list_or_both(api, sandbox, clock, basket, name, where):
    sandbox.faults.add("order_status", path=COMPLETE, name=name, where=where)
    order = (await api.complete(basket)).data
    shown, course = (id_of_status(name), name), (2, "Pending")
    assert order["order_creation_status"] == "order"
    assert (order["status_id"], order["status_name"]) == (course if where == "list" else shown)
    assert await list_statuses(api) == [course if where == "response" else shown]
    clock.advance(3_600)
    assert await list_statuses(api) == [(5, "Completed") if where == "response" else shown]
    assert set(order) == set((await api.get(ORDERS)).data["data"][0])


@pytest.mark.parametrize("name", STATUS_NAMES)
async def test_set_status_accepts_any_name(api, sandbox, basket, name):
    order = (await api.complete(basket)).data
    sandbox.shop.set_status(order["id"], name)
    assert await list_statuses(api) == [(id_of_status(name), name)]
    assert (await api.get(ORDERS, status=id_of_status(name))).data["total"] == 1


async def test_order_status_of_list_request_changes_list(api, sandbox, basket):
    await api.complete(basket)
    sandbox.faults.add("order_status", path="*/orders", name="Voided", where="response", times=1)
    assert await list_statuses(api) == [(id_of_status("Voided"), "Voided")]
    assert await list_statuses(api) == [(2, "Pending")]
    sandbox.faults.add("order_status", path="*/orders", name="Voided", where="list")
    assert await list_statuses(api) == [(2, "Pending")]
    assert await list_statuses(api) == [(id_of_status("Voided"), "Voided")]


async def test_order_status_ignores_responses_without_orders(api, sandbox, basket):
    sandbox.faults.add("order_status", times=None)
    assert (await api.get(BASKET, **CUSTOMER)).data == basket
    assert (await api.get("/partner/walletable/products")).data["current_page"] == 1
    assert len((await api.get("/partner/walletable/rates")).data) == 2
    assert (await api.complete({**basket, "token": "x" * 32})).status == 422


def test_id_of_status_returns_documented_ids():
    assert all(id_of_status(name) == number for name, number in STATUSES.items())
    assert id_of_status("Levitating") not in {*STATUSES.values(), *FAILING.values()}
    assert {name for name in FAILING if name in STATUSES} == {"Cancelled", "Refunded"}


@pytest.mark.parametrize("field", ["guid", "increment_id", "token"])
async def test_extra_field_contradicts_order(api, sandbox, basket, field):
    sandbox.faults.add("extra_field", path=COMPLETE, field=field, value="another")
    order = (await api.complete(basket)).data
    assert order[field] == "another"
    assert (await api.get(ORDERS)).data["data"][0][field] == basket[field]
