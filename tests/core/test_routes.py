"""Both routes put the same bytes on the wire; money, lent sessions, proxies and large bodies use aiohttp's session."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp.client_proto import ResponseHandler

from minted_connect import AsyncMintedConnect, ConfigurationError, Options, OutcomeUnknown
from minted_connect.core import routes
from minted_connect.core.auth.digest import DigestAuth
from minted_connect.core.direct_route import DirectRoute
from minted_connect.core.pool import Connections, PoolKind, PreparedRequest, RequestProgress
from minted_connect.core.session_route import SessionRoute
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("direct_route")]


async def send_over(route: str, url: str, requests: list[PreparedRequest]) -> list[Any]:
    """Send requests over one route, without a client."""
    pools = routes.open_pools(None, origin=url, tls=True, options=Options(route=route))
    connections = pools[PoolKind.DEFAULT].connections
    responses = []
    try:
        async with DigestAuth("partner", "secret").auth_flow() as flow:
            for request in requests:
                chosen = connections.choose_route(request)
                responses.append(await chosen.exchange(connections, request, flow, RequestProgress(), 5))
    finally:
        for pool in pools.values():
            await pool.aclose()
    return responses


def prepared(method: str = "GET", target: str = "/rates?a=%20b", body: bytes = b"", **more: Any) -> PreparedRequest:
    headers = {"Accept": "application/json", "User-Agent": "test", "api-version": "3", **more}
    if body:
        headers["Content-Type"] = "application/json"
    return PreparedRequest(method, target, "/rates", headers, body, PoolKind.DEFAULT, is_idempotent=True)


async def test_both_routes_send_the_same_bytes() -> None:
    async def respond(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope({})

    requests = [
        prepared(),
        prepared("POST", "/baskets", b'{"name": "\xc3\x96zer"}'),
        prepared("POST", "/baskets"),
        prepared("DELETE", "/baskets/1"),
        prepared("PATCH", "/baskets/1", b"[" + b"1," * 30_000 + b"1]"),
    ]
    sent = {}
    for route in ("auto", "session"):
        async with RawServer(respond) as server:
            await send_over(route, server.url, requests)
            assert len(server.connections) == 1
            sent[route] = [
                (first, {**headers, "host": "same"}, body) for first, headers, body in server.connections[0].requests
            ]
    assert sent["auto"] == sent["session"]
    assert [first for first, _, _ in sent["auto"]] == [f"{one.method} {one.target} HTTP/1.1" for one in requests]


async def test_request_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []
    write = asyncio.selector_events._SelectorSocketTransport.write  # type: ignore[attr-defined]

    def record(transport: Any, data: bytes) -> None:
        pieces.append(bytes(data))
        write(transport, data)

    async def respond(connection: Connection) -> None:
        await connection.request()
        connection.envelope({})

    async with RawServer(respond) as server:
        monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write", record)  # type: ignore[attr-defined]
        await send_over("auto", server.url, [prepared("POST", "/baskets", b'{"sku": 1}')])
    [piece] = [piece for piece in pieces if piece.startswith(b"POST")]
    assert piece.endswith(b'\r\n\r\n{"sku": 1}')


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/ä", "/a\x7f"])
async def test_target_is_checked_although_unsigned(target: str, sandbox: Sandbox) -> None:
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        transport = minted._api.state.transport
        with pytest.raises(ValueError, match="percent-encoded ASCII"):
            await transport.attempt(prepared(target=target), minted._api.settings.timeouts, 5, RequestProgress())
    assert len(sandbox.requests) == 0


async def test_header_that_ends_its_line_is_refused() -> None:
    async with RawServer(lambda connection: connection.request()) as server:  # type: ignore[arg-type, return-value]
        for route in ("auto", "session"):
            with pytest.raises(ValueError):
                await send_over(route, server.url, [prepared(**{"x-client-id": "web\r\nX: y"})])
        assert server.requests == []


def routes_of(minted: AsyncMintedConnect) -> dict[PoolKind, type]:
    pools = minted._api.state.transport._pools or {}
    return {kind: type(pool.connections.choose_route(prepared())) for kind, pool in pools.items()}


@pytest.mark.requirement(42)
async def test_completions_and_recovery_use_the_session(sandbox: Sandbox) -> None:
    used = []
    exchange = DirectRoute.exchange

    async def record(self: DirectRoute, connections: Connections, request: PreparedRequest, *more: Any) -> Any:
        used.append((request.method, request.route, request.pool))
        return await exchange(self, connections, request, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectRoute, "exchange", record)
        async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
            await minted.customers.create("customer-1")
            basket = await minted.baskets.add_item("customer-1", sku=GOLD)
            sandbox.faults.add("drop_after_commit", path="*/complete/buy")
            with pytest.raises(OutcomeUnknown) as caught:
                await minted.complete.buy(basket, expected_total=basket.paid_total)
            before = len(used)
            assert (await minted.complete.reconcile(caught.value)).order_id
            assert routes_of(minted) == {
                PoolKind.DEFAULT: DirectRoute,
                PoolKind.COMPLETION: SessionRoute,
                PoolKind.RECOVERY: SessionRoute,
            }
    assert len(used) == before >= 3
    assert not any("complete" in route for _, route, _ in used)
    assert {pool for _, _, pool in used} <= {PoolKind.DEFAULT, PoolKind.PREFLIGHT}


async def test_lent_session_proxy_and_option_use_the_session(sandbox: Sandbox) -> None:
    async with aiohttp.ClientSession() as session:
        for settings in ({"session": session}, {"proxy": "http://127.0.0.1:9"}, {"options": Options(route="session")}):
            client = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, **settings)  # type: ignore[arg-type]
            async with client as minted:
                minted._api.state.transport._usable_pools()
                assert set(routes_of(minted).values()) == {SessionRoute}


async def test_large_body_uses_the_session() -> None:
    pools = routes.open_pools(None, origin="http://127.0.0.1", tls=True, options=Options())
    connections = pools[PoolKind.DEFAULT].connections
    for size, route in ((2**20, DirectRoute), (2**20 + 1, SessionRoute)):
        assert type(connections.choose_route(prepared("POST", body=b" " * size))) is route
    for pool in pools.values():
        await pool.aclose()


def incomplete_connect(self: Any, request: Any) -> None: ...


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (aiohttp.BaseConnector, "connect", incomplete_connect),
        (ResponseHandler, "set_response_params", lambda self, *, timer=None: None),
        (ResponseHandler, "data_received", lambda self, data: None),
        (aiohttp.StreamReader, "read_nowait", lambda self, n=-1: b"[]"),
        (aiohttp.ClientRequest, "DEFAULT_HEADERS", {}),
    ],
)
async def test_other_aiohttp_is_served_by_the_session(
    owner: type, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = routes.has_direct_route.__wrapped__
    assert probe()
    monkeypatch.setattr(owner, name, value)
    assert not probe()


async def test_close_ends_the_reading_of_a_body() -> None:
    reading = asyncio.Event()

    async def send_half(connection: Connection) -> None:
        await connection.request()
        connection.respond(b"{", length=100)
        reading.set()
        await connection.reader.read()

    async with RawServer(send_half) as server:
        pools = routes.open_pools(None, origin=server.url, tls=True, options=Options())
        connections = pools[PoolKind.DEFAULT].connections
        async with DigestAuth("partner", "secret").auth_flow() as flow:
            route = connections.choose_route(prepared())
            exchange = asyncio.create_task(route.exchange(connections, prepared(), flow, RequestProgress(), 5))
            await reading.wait()
            while not route._reading:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            for pool in pools.values():
                await pool.aclose()
            with pytest.raises(aiohttp.ClientConnectionError):
                await exchange


async def test_unknown_route_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="route"):
        attrs.evolve(Options(), route="direct")
