import asyncio
import json

import aiohttp
import pytest

from minted_connect.sandbox import ManualClock
from minted_connect.sandbox.active_faults import ARGUMENTS, KINDS, Faults
from minted_connect.sandbox.fault_registry import REGISTRY
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

RATES = "/partner/walletable/rates"


@pytest.fixture
async def basket(api):
    await api.create_customer()
    return (await api.add_item()).data


@pytest.fixture
def raw_get(sandbox, digest_header):
    """Send one authenticated GET on a new connection, and return all bytes until the server closes it."""

    async def raw_get(target=RATES):
        challenge = sandbox.digest.challenges()[0]
        header = digest_header(challenge, sandbox.username, sandbox.password, "GET", target)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))
        lines = [f"GET {target} HTTP/1.1", "Host: x", "x-client-id: web", f"Authorization: {header}", "", ""]
        writer.write("\r\n".join(lines).encode())
        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    return raw_get


def test_kinds_registry_and_arguments_agree():
    assert set(KINDS) == set(REGISTRY) == set(ARGUMENTS)
    assert list(KINDS) == sorted(KINDS)


def test_unknown_kind_or_argument_raises():
    with pytest.raises(ValueError, match="no such fault"):
        Faults().add("explode")
    with pytest.raises(TypeError, match="retry_after"):
        Faults().add("delay", retry_after=1)


async def test_fault_applies_times_requests_after_skipping(api, sandbox):
    fault = sandbox.faults.add("status", times=2, after=1, path="*/rates")
    assert [(await api.get(RATES)).status for _ in range(4)] == [200, 500, 500, 200]
    assert fault.hits == 2


async def test_fault_matches_method_and_path(api, sandbox):
    await api.create_customer()
    fault = sandbox.faults.add("status", method="post", path="*/basket", times=None)
    assert (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).status == 200
    assert (await api.get(RATES)).status == 200
    assert [(await api.add_item()).status for _ in range(3)] == [500, 500, 500]
    fault.remove()
    fault.remove()
    assert (await api.add_item()).status == 200
    assert fault.hits == 3


async def test_first_matching_fault_applies_and_others_count(api, sandbox):
    first = sandbox.faults.add("status", status=503)
    second = sandbox.faults.add("status", status=502, after=1)
    assert [(await api.get(RATES)).status for _ in range(3)] == [503, 502, 200]
    assert (first.hits, second.hits, len(sandbox.faults)) == (1, 1, 2)
    sandbox.faults.clear()
    assert len(sandbox.faults) == 0


async def test_fault_applies_after_authentication_by_default(api, sandbox):
    late = sandbox.faults.add("status", status=500)
    await api.get(RATES)
    assert [entry.status for entry in sandbox.requests] == [401, 500]
    assert late.hits == 1
    sandbox.faults.add("status", status=502, before_auth=True)
    response = await api.send("GET", RATES)
    assert response.status == 502
    assert sandbox.requests[-1].partner is None
    sandbox.faults.add("drop_after_commit", before_auth=True)
    with pytest.raises(aiohttp.ClientError):
        await api.create_customer()
    assert len(sandbox.shop.customers) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_drop_before_read_executes_nothing(api, sandbox, basket, reset):
    sandbox.faults.add("drop_before_read", path="*/complete/*", reset=reset)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await api.complete(basket)
    assert sandbox.shop.orders == []
    entry = sandbox.requests[-1]
    assert (entry.operation, entry.status, entry.body, entry.fault) == ("complete.buy", None, None, "drop_before_read")
    assert (await api.complete(basket)).status == 200


@pytest.mark.parametrize("reset", [False, True])
async def test_drop_after_commit_executes_request(api, sandbox, basket, reset):
    sandbox.faults.add("drop_after_commit", path="*/complete/*", reset=reset)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await api.complete(basket)
    assert [order.token for order in sandbox.shop.orders] == [basket["token"]]
    assert sandbox.requests[-1].status is None
    assert sandbox.requests[-1].body["cart_token"] == basket["token"]
    assert (await api.complete(basket)).status == 409


@pytest.mark.parametrize(("kind", "orders"), [("delay", 0), ("delay_after_commit", 1)])
async def test_delay_waits_on_clock_of_sandbox(api, sandbox, clock, basket, kind, orders):
    sandbox.faults.add(kind, path="*/complete/*", seconds=30)
    call = asyncio.ensure_future(api.complete(basket))
    await wait_until(lambda: clock.sleepers)
    assert len(sandbox.shop.orders) == orders
    clock.advance(30)
    assert (await call).status == 200
    assert clock.sleeps == [30]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("auto_advance", [False, True])
async def test_late_commit_executes_after_connection_closes(api, sandbox, clock, basket, reset, auto_advance):
    clock.auto_advance = auto_advance
    sandbox.faults.add("late_commit", path="*/complete/*", reset=reset)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await api.complete(basket)
    entry = sandbox.requests[-1]
    assert (entry.operation, entry.status, entry.body, entry.fault) == ("complete.buy", None, None, "late_commit")
    await wait_until(lambda: clock._timers)
    clock.advance(29)
    await api.get(RATES)
    assert (sandbox.shop.orders, entry.body) == ([], None)
    clock.advance(1)
    await wait_until(lambda: sandbox.shop.orders)
    assert [order.token for order in sandbox.shop.orders] == [basket["token"]]
    assert sandbox.shop.orders[0].completed - sandbox.shop.orders[0].ordered == 30_000_000
    assert entry.body["cart_token"] == basket["token"]
    assert clock.sleeps == []


async def test_late_commit_on_clock_without_timers_uses_sleep(serving):
    class ClockWithoutTimers:
        def __init__(self):
            self.inner = ManualClock()
            self.monotonic, self.wall, self.sleep = self.inner.monotonic, self.inner.wall, self.inner.sleep

    clock = ClockWithoutTimers()
    async with serving(clock=clock) as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        sandbox.faults.add("late_commit", path="*/complete/*", seconds=5)
        with pytest.raises(aiohttp.ClientError):
            await api.complete(basket)
        await wait_until(lambda: clock.inner.sleepers)
        clock.inner.advance(5)
        await wait_until(lambda: sandbox.shop.orders)
        assert clock.inner.sleeps == [5]


async def test_deferred_request_is_not_executed_after_aclose(serving, clock):
    async with serving() as (sandbox, api):
        await api.create_customer()
        basket = (await api.add_item()).data
        sandbox.faults.add("late_commit", path="*/complete/*")
        with pytest.raises(aiohttp.ClientError):
            await api.complete(basket)
    clock.advance(60)
    await asyncio.sleep(0)
    assert sandbox.shop.orders == []
    assert clock._timers == {}


@pytest.mark.parametrize(("commit", "orders"), [(False, 0), (True, 1)])
async def test_hang_ends_when_fault_is_removed(api, sandbox, basket, commit, orders):
    fault = sandbox.faults.add("hang", path="*/complete/*", commit=commit)
    call = asyncio.ensure_future(api.complete(basket))
    await wait_until(lambda: fault.waiting)
    assert len(sandbox.shop.orders) == orders
    sandbox.faults.clear()
    assert (await call).status == 200
    assert fault.waiting == 0
    await asyncio.wait_for(fault.wait_removed(), 1)


async def test_status_executes_request_only_with_commit(api, sandbox, basket):
    sandbox.faults.add("status", path="*/complete/*", status=503, retry_after=7, headers={"X-Cache": "miss"})
    response = await api.complete(basket)
    assert (response.status, response.headers["Retry-After"], response.headers["X-Cache"]) == (503, "7", "miss")
    assert response.json["code"] == 503
    assert sandbox.shop.orders == []
    sandbox.faults.add("status", path="*/complete/*", status=504, commit=True, html=True)
    response = await api.complete(basket)
    assert (response.status, response.headers["Content-Type"]) == (504, "text/html; charset=UTF-8")
    assert response.text.startswith("<!DOCTYPE")
    assert len(sandbox.shop.orders) == 1


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"body": "plain"}, "plain"),
        ({"body": b"bytes"}, "bytes"),
        ({"body": {"a": [1]}}, '{"a":[1]}'),
        ({"envelope": False}, ""),
        ({"body": ""}, ""),
    ],
)
async def test_status_sends_configured_body(api, sandbox, args, text):
    sandbox.faults.add("status", status=422, **args)
    response = await api.get(RATES)
    assert (response.status, response.text) == (422, text)


async def test_rate_limit_sends_429_without_execution(api, sandbox, basket):
    sandbox.faults.add("rate_limit", retry_after=3, path="*/complete/*")
    response = await api.complete(basket)
    assert (response.status, response.headers["Retry-After"], response.json["success"]) == (429, "3", False)
    assert sandbox.shop.orders == []
    sandbox.faults.add("rate_limit", retry_after=None)
    assert "Retry-After" not in (await api.get(RATES)).headers


async def test_redirect_and_html_replace_response(api, sandbox):
    sandbox.faults.add("redirect", location="https://example.com/", status=307)
    response = await api.get(RATES)
    assert (response.status, response.headers["Location"]) == (307, "https://example.com/")
    sandbox.faults.add("html")
    response = await api.get(RATES)
    assert (response.status, response.headers["Content-Type"]) == (200, "text/html; charset=UTF-8")


async def test_success_false_sends_failed_envelope(api, sandbox, basket):
    sandbox.faults.add("success_false", code=17, message="no", path="*/complete/*")
    response = await api.complete(basket)
    assert (response.status, response.json) == (200, {"data": None, "success": False, "code": 17, "message": "no"})
    assert sandbox.shop.orders == []
    sandbox.faults.add("success_false", commit=True)
    assert (await api.complete(basket)).json["success"] is False
    assert len(sandbox.shop.orders) == 1


async def test_stale_nonce_repeats_challenge(api, sandbox):
    await api.get(RATES)
    fault = sandbox.faults.add("stale_nonce")
    assert (await api.get(RATES)).status == 200  # the client authenticated again with the new nonce
    assert fault.hits == 1
    assert [entry.status for entry in sandbox.requests] == [401, 200, 401, 200]
    assert sandbox.requests[1].nonce != sandbox.requests[3].nonce


@pytest.mark.parametrize("chunked", [False, True])
async def test_truncate_drops_connection_after_commit(api, sandbox, basket, chunked):
    sandbox.faults.add("truncate", path="*/complete/*", chunked=chunked)
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await api.complete(basket)
    assert len(sandbox.shop.orders) == 1
    assert sandbox.requests[-1].status == 200


async def test_truncate_keeps_share_of_body(sandbox, raw_get):
    sandbox.faults.add("truncate", keep=0.25)
    head, _, body = (await raw_get()).partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(body) == length // 4


@pytest.mark.parametrize("where", ["head", "body"])
async def test_slow_loris_waits_on_clock_of_sandbox(serving, clock, where):
    clock.auto_advance = True
    async with serving() as (sandbox, api):
        sandbox.faults.add("slow_loris", interval=2, where=where)
        response = await api.get(RATES)
        assert response.status == 200
        head = 0 if where == "body" else 100
        assert len(clock.sleeps) >= len(response.text) + head
        assert set(clock.sleeps) == {2}


async def test_interim_and_header_faults_are_sent(sandbox, raw_get):
    sandbox.faults.add("interim", count=3)
    found = await raw_get()
    assert found.count(b"HTTP/1.1 103 Early Hints") == 3
    assert found.endswith(b"}")
    sandbox.faults.add("many_headers", count=200)
    assert (await raw_get()).count(b"X-Filler-") == 200
    sandbox.faults.add("long_header", size=9000)
    assert b"X-Filler: " + b"x" * 9000 in await raw_get()
    sandbox.faults.add("two_answers")
    assert (await raw_get()).count(b"HTTP/1.1 200 ") == 2


async def test_body_faults_are_sent(api, sandbox):
    sandbox.faults.add("empty")
    assert (await api.get(RATES)).text == ""
    sandbox.faults.add("invalid_json")
    with pytest.raises(ValueError):
        json.loads((await api.get(RATES)).text)
    sandbox.faults.add("nan")
    assert (await api.get(RATES)).text.count(":NaN") == 1
    sandbox.faults.add("duplicate_keys")
    pairs = json.loads((await api.get(RATES)).text, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    assert pairs == ["data", "success", "data", "success", "code", "message"]
    sandbox.faults.add("deep", depth=500)
    assert "[" * 500 + "]" * 500 in (await api.get(RATES)).text


async def test_too_large_and_gzip_bomb_exceed_limit(sandbox, api):
    sandbox.faults.add("too_large")
    assert len((await api.get(RATES)).text) > 9 * 1024 * 1024
    sandbox.faults.add("gzip_bomb", times=None, size=9 * 1024 * 1024)
    response = await api.get(RATES)
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Content-Length"]) < 20_000
    assert len(response.text) > 9 * 1024 * 1024


async def test_wrong_customer_replaces_external_id(api, sandbox, basket):
    sandbox.faults.add("wrong_customer", times=None, external_id="other")
    found = (await api.get("/partner/walletable/basket", external_customer_id="cust-1")).data
    assert found == {**basket, "customer": {**basket["customer"], "external_id": "other"}}
    assert (await api.get("/partner/customer/cust-1")).data["external_id"] == "other"
    await api.complete(basket)
    rows = (await api.get("/partner/walletable/orders")).data["data"]
    assert [row["customer"]["external_id"] for row in rows] == ["other"]
    wallets = (await api.get("/partner/customer/cust-1")).data["wallets"]
    assert {row["customer_external_id"] for row in wallets} == {"other"}


async def test_drop_field_and_extra_field_edit_paths(api, sandbox, basket):
    path = {"external_customer_id": "cust-1"}
    sandbox.faults.add("drop_field", field="pricefix.remaining")
    assert "remaining" not in (await api.get("/partner/walletable/basket", **path)).data["pricefix"]
    sandbox.faults.add("drop_field", field="items.0.prices.*.name")
    found = (await api.get("/partner/walletable/basket", **path)).data
    assert [set(part) for part in found["items"][0]["prices"]] == [{"id", "price"}] * 4
    sandbox.faults.add("extra_field", field="items.*.gift", value={"wrapped": True})
    found = (await api.get("/partner/walletable/basket", **path)).data
    assert found["items"][0]["gift"] == {"wrapped": True}
    for field in ("not.there", "total.there", "items.9.sku", "items.sku.x"):
        sandbox.faults.add("drop_field", field=field)
        assert (await api.get("/partner/walletable/basket", **path)).data == basket
    sandbox.faults.add("drop_field", field="items.0")
    assert (await api.get("/partner/walletable/basket", **path)).data["items"] == []
    sandbox.faults.add("extra_field", field="items.0", value=7)
    assert (await api.get("/partner/walletable/basket", **path)).data["items"] == [7]


@pytest.mark.parametrize("field", ["sell_price", "*.sell_price"])
async def test_drop_field_removes_field_from_every_row_of_list(api, sandbox, field):
    sandbox.faults.add("drop_field", field=field)
    rows = (await api.get(RATES)).data
    assert len(rows) == 2
    assert all("buy_price" in row and "sell_price" not in row for row in rows)


@pytest.mark.parametrize("field", ["sku", "*.sku", "data.sku", "data.*.sku"])
async def test_drop_field_removes_field_from_every_row_of_page(api, sandbox, field):
    sandbox.faults.add("drop_field", field=field)
    found = (await api.get("/partner/walletable/products")).data
    assert found["current_page"] == 1
    assert len(found["data"]) == 10
    assert all("name" in row and "sku" not in row for row in found["data"])


async def test_drop_field_removes_all_rows_or_key_of_page(api, sandbox):
    sandbox.faults.add("drop_field", field="*")
    assert (await api.get(RATES)).data == []
    sandbox.faults.add("drop_field", field="last_page")
    assert "last_page" not in (await api.get("/partner/walletable/products")).data


@pytest.mark.parametrize("args", [{}, {"field": ""}, {"field": "items..sku"}, {"field": 7}, {"field": None}])
def test_drop_field_with_invalid_path_raises(args):
    faults = Faults()
    with pytest.raises(ValueError, match="drop_field needs field="):
        faults.add("drop_field", **args)
    assert len(faults) == 0


async def test_aclose_does_not_wait_for_hanging_requests(serving):
    async with serving() as (sandbox, api):
        await api.get(RATES)  # authenticate first: two concurrent first calls would use the same nonce and count
        hang = sandbox.faults.add("hang", path=RATES)
        delay = sandbox.faults.add("delay", path="*/products")
        calls = [asyncio.ensure_future(api.get(path)) for path in (RATES, "/partner/walletable/products")]
        await wait_until(lambda: hang.waiting and delay.hits)
        async with asyncio.timeout(5):
            await sandbox.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, aiohttp.ClientError) for result in results)
        await sandbox.aclose()
