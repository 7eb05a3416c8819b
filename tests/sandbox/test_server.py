import ast
import asyncio
import gc
import inspect
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import suppress

import aiohttp
import attrs
import pytest
import trustme

import minted_connect.sandbox
from minted_connect.sandbox import LoggedRequest, ManualClock, Sandbox, Settings, ThreadedSandbox
from minted_connect.sandbox.router import OPERATIONS
from minted_connect.sandbox.settings import Options

pytestmark = pytest.mark.anyio

RATES = "/partner/walletable/rates"


def test_exports_are_sorted_and_exist():
    names = minted_connect.sandbox.__all__
    assert names == sorted(names)
    assert all(hasattr(minted_connect.sandbox, name) for name in names)


def test_docstring_lists_every_option_with_default():
    shown = inspect.getdoc(ThreadedSandbox)
    for one in attrs.fields(Settings):
        default = re.search(rf"`{one.name}` \((.+?)\)[,:]", shown)
        if one.name not in {"products", "fees"}:
            assert default, one.name
            assert ast.literal_eval(default[1]) == one.default, one.name
    assert {f"`{name}`" for name in Options.__annotations__} <= set(re.findall(r"`\w+`", shown))


def test_operations_has_nineteen_entries():
    assert len(OPERATIONS) == 19


async def test_request_without_credentials_gets_challenge(sandbox):
    async with aiohttp.ClientSession() as session, session.get(sandbox.url + RATES) as response:
        assert response.status == 401
        lines = response.headers.getall("WWW-Authenticate")
        assert [line.split()[0] for line in lines] == ["Digest", "Digest"]
        assert await response.json() == {
            "data": None, "success": False, "code": 401, "message": "Kimlik doğrulanamadı.",
        }  # fmt: skip


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256", "SHA-256-sess"])
async def test_digest_of_aiohttp_is_accepted(serving, algorithm):
    async with serving(algorithms=[algorithm]) as (sandbox, _):
        digest = aiohttp.DigestAuthMiddleware(sandbox.username, sandbox.password)
        async with aiohttp.ClientSession(middlewares=[digest], headers={"x-client-id": "web"}) as session:
            for _ in range(2):
                async with session.get(sandbox.url + RATES, params={"metal_type": "gold"}) as response:
                    assert response.status == 200


@pytest.mark.parametrize("options", [{"qop": "auth-int"}, {"qop": None}, {"algorithms": ["SHA-512-256-sess"]}])
async def test_digest_options_are_accepted(serving, options):
    async with serving(**options) as (_, api):
        await api.create_customer()
        assert (await api.add_item()).status == 200


async def test_wrong_password_gets_401(sandbox, api):
    api.password = "wrong"
    assert (await api.get(RATES)).status == 401
    assert [entry.partner for entry in sandbox.requests] == [None, None]


async def test_digest_for_another_target_gets_400(sandbox, api, digest_header):
    line = sandbox.digest.challenges()[0]
    header = digest_header(line, sandbox.username, sandbox.password, "GET", RATES)
    async with api.session.get(sandbox.url + RATES + "?a=b", headers={"Authorization": header}) as response:
        assert response.status == 400


async def test_expired_or_rotated_nonce_repeats_challenge(sandbox, api, clock):
    await api.get(RATES)
    clock.advance(300)
    assert (await api.get(RATES)).status == 200
    sandbox.digest.rotate_nonces()
    assert (await api.get(RATES)).status == 200
    assert [entry.status for entry in sandbox.requests] == [401, 200, 401, 200, 401, 200]
    assert [entry.nc for entry in sandbox.requests][1::2] == [1, 1, 1]


async def test_partners_are_isolated(sandbox, api):
    sandbox.add_partner("other", "secret")
    other = type(api)(sandbox.url, "other", "secret", api.session)
    await api.create_customer()
    order = await api.buy()
    basket = (await api.add_item()).data
    assert (await other.get("/partner/customer/cust-1")).status == 404
    assert (await other.send("DELETE", "/partner/customer/cust-1")).status == 404
    assert (await other.get("/partner/walletable/orders")).data["total"] == 0
    assert (await other.get("/partner/walletable/balance", external_customer_id="cust-1")).status == 404
    assert (await other.get(f"/partner/order/{order['guid']}/invoice")).status == 404
    assert set((await other.complete(basket)).errors) == {"external_customer_id"}
    await other.create_customer()
    await other.buy("MNTBAE0013", 2)
    assert set((await other.complete(basket)).errors) == {"cart_token"}
    assert sandbox.shop.holdings("cust-1", "sandbox") == {"MNTBAE0001": 1}
    assert sandbox.shop.holdings("cust-1", "other") == {"MNTBAE0013": 2}
    assert {entry.partner for entry in sandbox.requests} == {None, "sandbox", "other"}


async def test_request_log_contains_no_secrets(sandbox, api, clock):
    clock.advance(5)
    await api.create_customer("cust-1", email="a@example.com")
    await api.send("GET", "/partner/walletable/orders", query={"page": "1"}, headers={"api-version": "3"})
    challenge, create, orders = sandbox.requests
    assert isinstance(create, LoggedRequest)
    assert (challenge.status, challenge.partner, challenge.nonce) == (401, None, None)
    assert (create.method, create.path, create.operation) == ("POST", "/partner/customer", "customers.create")
    assert (create.status, create.partner, create.nc, create.at) == (200, "sandbox", 1, 5.0)
    assert create.body["email"] == "a@example.com"
    assert create.nonce in api.challenge
    assert (orders.query, orders.headers["api-version"], orders.body) == ({"page": "1"}, "3", None)
    assert orders.headers["x-client-id"] == "web"
    assert "authorization" not in {name.lower() for name in create.headers}
    await api.get("/partner/customer/cust-1")
    assert not any("cust-1" in repr(entry) or "example.com" in repr(entry) for entry in sandbox.requests)
    assert create.nonce not in repr(create)
    assert sandbox.requests.of("orders.page") == [orders]
    assert sandbox.requests[:2] == [challenge, create]
    assert "4 of at most" in repr(sandbox.requests)
    sandbox.requests.clear()
    assert len(sandbox.requests) == 0


async def test_request_log_is_bounded_and_can_be_disabled(serving):
    async with serving(log_limit=2) as (sandbox, api):
        for _ in range(3):
            await api.get(RATES)
        assert [entry.nc for entry in sandbox.requests] == [2, 3]
        assert sandbox.requests.total == 4
    async with serving(log_limit=0) as (sandbox, api):
        assert (await api.get(RATES)).status == 200
        assert (len(sandbox.requests), sandbox.requests.total) == (0, 2)


async def test_invalid_json_body_is_logged_as_bytes(sandbox, api):
    await api.send("POST", "/partner/customer", data=b"{")
    assert sandbox.requests[-1].body == b"{"


async def test_response_has_date_and_request_id(api):
    first, second = await api.get(RATES), await api.get(RATES)
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Date"] == "Fri, 20 Feb 2026 12:27:57 GMT"
    assert re.fullmatch(r"sbx-\d{8}", first.headers["X-Request-Id"])
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]


async def test_connection_is_kept_alive(sandbox, api, digest_header):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))
    line = sandbox.digest.challenges()[0]
    for nc in (1, 2, 3):
        header = digest_header(line, sandbox.username, sandbox.password, "GET", RATES, nc)
        writer.write(f"GET {RATES} HTTP/1.1\r\nHost: x\r\nx-client-id: w\r\nAuthorization: {header}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", RATES + "/", 404),
        ("GET", "/partner/customer/", 404),
        ("GET", "/partner/order/x", 404),
        ("POST", RATES, 405),
        ("PUT", "/partner/walletable/basket", 405),
        ("POST", "/partner/customer/cust-1", 405),
    ],
)
async def test_unknown_route_or_method_gets_404_or_405(api, method, path, status):
    response = await api.send(method, path, headers={"Accept-Language": "en"})
    assert (response.status, response.json["code"], response.json["success"]) == (status, status, False)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_too_large_body_gets_413(api):
    response = await api.send("POST", "/partner/customer", data=b'"' + b"a" * 2**20 + b'"')
    assert (response.status, response.json["code"]) == (413, 413)


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
async def test_disconnect_during_body_executes_nothing(serving, digest_header, caplog, qop):
    async with serving(qop=qop) as (sandbox, _):
        line, path = sandbox.digest.challenges()[0], "/partner/customer"
        header = digest_header(line, sandbox.username, sandbox.password, "POST", path)
        _, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nx-client-id: w\r\nAuthorization: {header}\r\n"
        writer.write(f'{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"external_id": '.encode())
        while not sandbox.requests:
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        async with aiohttp.ClientSession() as session, session.get(sandbox.url):
            pass  # after this response, the server has processed the end of the other connection
        assert sandbox.requests[0].status is None
        assert sandbox.shop.customers == []
    assert [record for record in caplog.records if record.name != "asyncio"] == []


async def test_paths_option_moves_operations(serving):
    moved = {"rates.current": "/v2/rates", "customers.get": "/v2/people/{external_customer_id}/card"}
    async with serving(paths=moved) as (_, api):
        await api.create_customer()
        assert (await api.get("/v2/rates")).status == 200
        assert (await api.get(RATES)).status == 404
        assert (await api.get("/v2/people/cust-1/card")).data["external_id"] == "cust-1"
        assert (await api.get("/partner/customer/cust-1")).status == 405
    with pytest.raises(ValueError, match="no such operation"):
        Sandbox(paths={"rates.nothing": "/"})


@pytest.mark.parametrize("path", ["/customers", "/customers/{}", "/customers/{external_customer_id}/{x}"])
def test_path_without_its_parameters_raises(path):
    with pytest.raises(ValueError, match=r"^the path of customers\.get must take the parameters of /partner/customer/"):
        Sandbox(paths={"customers.get": path})


async def test_ssl_context_serves_https(serving):
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting_context = ssl.create_default_context()
    authority.configure_trust(trusting_context)
    async with serving(ssl_context=server) as (sandbox, api):
        assert sandbox.url.startswith("https://")
        async with api.session.get(sandbox.url + RATES, ssl=trusting_context) as response:
            assert response.status == 401


async def test_sandbox_starts_once(clock):
    sandbox = Sandbox(clock=clock, username="u", password="p")
    with pytest.raises(RuntimeError, match="not started"):
        _ = sandbox.url
    with pytest.raises(RuntimeError, match="not started"):
        _ = sandbox.shop
    await sandbox.aclose()
    assert "not started" in repr(sandbox)
    async with sandbox:
        assert sandbox.url in repr(sandbox)
        assert (sandbox.username, sandbox.password, sandbox.clock) == ("u", "p", clock)
        assert sandbox.url.startswith("http://127.0.0.1:")
    assert sandbox.shop.orders == []
    with pytest.raises(RuntimeError, match="starts once"):
        await sandbox.start()
    assert Sandbox().password != Sandbox().password


async def test_aclose_closes_all_connections_and_tasks(clock):
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        async with Sandbox(clock=clock) as sandbox:
            async with session.get(sandbox.url) as response:
                assert response.status == 401
            # A second connection, without a request.
            _, writer = await asyncio.open_connection("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))
        assert asyncio.all_tasks() == before
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(sandbox.url)
        writer.close()
    gc.collect()  # an unclosed socket raises ResourceWarning, which is an error in these tests


def test_connection_opened_during_close_is_closed():
    for _ in range(20):
        with ThreadedSandbox() as sandbox:
            address = ("127.0.0.1", int(sandbox.url.rsplit(":", 1)[1]))
            callers = [socket.create_connection(address) for _ in range(5)]
        for caller in callers:
            caller.settimeout(10)
            with caller, suppress(ConnectionResetError):
                assert caller.recv(1) == b""
    gc.collect()  # an unclosed socket raises ResourceWarning, which is an error in these tests


async def test_port_in_use_raises_os_error(sandbox):
    port = int(sandbox.url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        await Sandbox(port=port).start()


def test_threaded_sandbox_serves_blocking_code():
    before = threading.active_count()
    clock = ManualClock()
    with ThreadedSandbox(clock=clock, username="u", password="p") as sandbox:
        assert (sandbox.username, sandbox.password, sandbox.clock) == ("u", "p", clock)
        assert sandbox.url in repr(sandbox)
        handler = urllib.request.HTTPDigestAuthHandler()
        handler.add_password("Minted Connect", sandbox.url, "u", "p")
        opener = urllib.request.build_opener(handler)
        request = urllib.request.Request(sandbox.url + RATES, headers={"x-client-id": "web"})
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.build_opener().open(request)
        error.value.close()
        assert error.value.code == 401
        sandbox.add_partner("other", "secret")
        sandbox.faults.add("status", before_auth=True)
        with pytest.raises(urllib.error.HTTPError) as error:
            opener.open(request)
        error.value.close()
        assert [entry.status for entry in sandbox.requests] == [401, 500]
        assert sandbox.shop.orders == []
        assert sandbox.digest.realm == "Minted Connect"
        with pytest.raises(RuntimeError, match="starts once"):
            sandbox.start()
    sandbox.close()
    assert threading.active_count() == before


def test_threaded_sandbox_raises_start_error():
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        sandbox = ThreadedSandbox(port=occupied.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            sandbox.start()
        sandbox.close()


def test_threaded_sandbox_delay_ends_with_clock_advance():
    clock = ManualClock()
    with ThreadedSandbox(clock=clock, algorithms=["MD5"]) as sandbox:
        sandbox.faults.add("delay", seconds=60, before_auth=True)
        found = []

        def call():
            try:
                urllib.request.urlopen(sandbox.url)
            except urllib.error.HTTPError as error:
                found.append(error.code)
                error.close()

        caller = threading.Thread(target=call)
        caller.start()
        while not clock.sleepers:
            assert caller.is_alive()
        clock.advance(60)
        caller.join(10)
        assert found == [401]


def test_sandbox_imports_no_code_of_client():
    import pathlib

    for source in pathlib.Path(minted_connect.sandbox.__file__).parent.glob("*.py"):
        for line in source.read_text().splitlines():
            if re.match(r"\s*(from|import) ", line):
                assert "minted_connect" not in line
                assert not re.match(r"\s*from \.\.", line)
