"""The console over HTTP: its state, its actions, and the requests that it refuses."""

from __future__ import annotations

import json

import aiohttp
import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.sandbox import ManualClock, MovableClock, Sandbox
from minted_connect.sandbox.active_faults import KINDS

CUSTOMER = "shop-customer-1"
GOLD = "MNTBAE0001"


class ConsoleClient:
    def __init__(self, sandbox, session):
        self.sandbox, self._session = sandbox, session

    async def request(self, method="GET", path="/state", body=None, **headers):
        sent_headers = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else json.dumps(body)
        if data is not None:
            sent_headers.setdefault("Content-Type", "application/json")
        async with self._session.request(
            method, f"{self.sandbox.url}/_sandbox{path}", data=data, headers=sent_headers
        ) as response:
            return response.status, await response.text(), response.headers

    async def state(self):
        status, text, _ = await self.request()
        assert status == 200
        return json.loads(text)

    async def post(self, path, /, **body):
        status, text, _ = await self.request("POST", path, body)
        return status, json.loads(text)


@pytest.fixture
async def console():
    async with Sandbox(clock=ManualClock(auto_advance=True)) as sandbox, aiohttp.ClientSession() as session:
        yield ConsoleClient(sandbox, session)


async def fill_shop(sandbox):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create(CUSTOMER, firstname="Ada")
        basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=3)
        bought = await minted.complete.buy(basket, expected_total=basket.paid_total)
        again = await minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=2)
    return bought.order, again


async def test_page_loads_no_external_resource(console):
    status, text, headers = await console.request(path="")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    for outside in ("http://", "https://", "//cdn", "@import", "src="):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert (await console.request(path="/"))[0] == 200


async def test_state_lists_content_of_shop(console):
    order, basket = await fill_shop(console.sandbox)
    state = await console.state()
    assert state["baskets"] == [
        {
            "id": basket.id,
            "customer": CUSTOMER,
            "kind": "buy",
            "lines": f"2 x {GOLD}",
            "total": format(basket.paid_total, "f"),
            "remaining": 240,
        }
    ]
    (shown,) = state["orders"]
    assert (shown["id"], shown["status"], shown["total"]) == (order.id, order.status, format(order.paid_total, "f"))
    assert state["wallets"] == [{"customer": CUSTOMER, "sku": GOLD, "pieces": 3}]
    gold = state["prices"][0]
    assert (gold["metal"], gold["spot"], len(gold["points"])) == ("gold", "586.48", 120)
    assert gold["points"][-1][1] == gold["spot"]
    assert state["kinds"] == list(KINDS)
    assert state["seed"] == console.sandbox.seed
    last = state["requests"]["last"]
    assert (last[0]["operation"], last[0]["status"]) == ("baskets.add_item", 200)
    # The request log contains only requests to the API, not those to the console.
    assert (await console.state())["requests"]["total"] == state["requests"]["total"] == console.sandbox.requests.total


async def test_clock_action_advances_clock(console):
    await fill_shop(console.sandbox)
    status, state = await console.post("/clock", seconds=241)
    assert status == 200
    assert state["baskets"][0]["remaining"] == -1
    assert state["movable"]


@pytest.mark.parametrize("seconds", [-1, "1", None, True, 1e12, [], float("nan")])
async def test_clock_action_with_invalid_seconds_gets_400(console, seconds):
    before = console.sandbox.clock.monotonic()
    status, result = await console.post("/clock", seconds=seconds)
    assert status == 400
    assert result["error"].startswith("seconds: a number") or result["error"] == "the body must be JSON"
    assert console.sandbox.clock.monotonic() == before


async def test_clock_action_on_system_clock_gets_409():
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        console = ConsoleClient(sandbox, session)
        assert not (await console.state())["movable"]
        assert (await console.post("/clock", seconds=1))[0] == 409


def test_movable_clock_advances_wall_and_monotonic():
    clock = MovableClock()
    wall, monotonic = clock.wall(), clock.monotonic()
    clock.advance(3600)
    assert 3600 <= (clock.wall() - wall).total_seconds() < 3700
    assert 3600 <= clock.monotonic() - monotonic < 3700
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)


async def test_console_adds_and_removes_faults(console):
    status, state = await console.post("/faults", kind="status", path="*/rates", times=2, status=503)
    assert status == 200
    (fault,) = state["faults"]
    assert (fault["kind"], fault["path"], fault["times"], fault["hits"]) == ("status", "*/rates", 2, 0)
    async with AsyncMintedConnect(
        console.sandbox.username, console.sandbox.password, base_url=console.sandbox.url
    ) as minted:
        await minted.rates.current()
    assert (await console.state())["faults"][0]["hits"] == 2
    assert {entry["fault"] for entry in (await console.state())["requests"]["last"]} == {"status", None}
    status, state = await console.post("/faults/remove", id=fault["id"])
    assert (status, state["faults"]) == (200, [])
    assert (await console.post("/faults/remove", id=fault["id"]))[0] == 404


@pytest.mark.parametrize(
    "arguments", [{}, {"kind": "nonsense"}, {"kind": "status", "colour": "red"}, {"kind": "drop_field"}, {"kind": []}]
)
async def test_invalid_fault_gets_422(console, arguments):
    status, result = await console.post("/faults", **arguments)
    assert status == 422
    assert result["error"]
    assert not console.sandbox.faults


# --- refused requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example.com"},
        {"Host": "127.0.0.1.evil.example.com"},
        {"Host": ""},
        {"Host": "[::1"},
    ],
)
async def test_request_of_other_site_gets_403(console, headers):
    for method, path, body in (("GET", "/state", None), ("GET", "", None), ("POST", "/clock", {"seconds": 1})):
        status, text, received = await console.request(method, path, body, **headers)
        assert status == 403
        assert "Access-Control-Allow-Origin" not in received
        assert GOLD not in text
    assert console.sandbox.clock.monotonic() == 0


async def test_request_of_console_page_is_accepted(console):
    origin = console.sandbox.url
    assert (await console.request("POST", "/clock", {"seconds": 1}, Origin=origin, Sec_Fetch_Site="same-origin"))[
        0
    ] == 200
    port = origin.rpartition(":")[2]
    assert (await console.request(Host=f"localhost:{port}", Sec_Fetch_Site="none"))[0] == 200


async def test_form_content_type_gets_415(console):
    # Browsers send these content types across sites without a CORS preflight.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        status, _, _ = await console.request("POST", "/clock", {"seconds": 1}, Content_Type=kind)
        assert status == 415
    assert (await console.request("OPTIONS", "/clock"))[0] == 405


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("PUT", "/clock", 405), ("GET", "/clock", 405)]
)
async def test_unknown_path_or_method_gets_404_or_405(console, method, path, status):
    assert (await console.request(method, path))[0] == status


async def test_body_that_is_no_object_gets_400(console):
    assert (await console.request("POST", "/clock", [1]))[0] == 400


async def test_console_is_off_by_default_on_other_addresses():
    async with Sandbox(host="0.0.0.0") as sandbox, aiohttp.ClientSession() as session:
        assert sandbox.console_url is None
        async with session.get(f"{sandbox.url.replace('0.0.0.0', '127.0.0.1')}/_sandbox/state") as response:
            assert response.status == 401
    async with (
        Sandbox(host="0.0.0.0", console=True) as sandbox,
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox.url.replace('0.0.0.0', '127.0.0.1')}/_sandbox/state") as response,
    ):
        assert response.status == 200
    async with Sandbox(console=False) as sandbox:
        assert sandbox.console_url is None
