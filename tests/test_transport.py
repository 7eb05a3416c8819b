"""Faults of the connection and of the response, on real sockets: each raises one typed error."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

import aiohttp
import anyio
import attrs
import pytest
import trustme
from multidict import CIMultiDict, CIMultiDictProxy

from minted_connect import (
    APIError,
    AsyncMintedConnect,
    AuthDowngrade,
    AuthenticationFailed,
    ClientClosedError,
    ConfigurationError,
    ConnectFailed,
    NotSent,
    Options,
    Phase,
    PoolTimeout,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseTooLarge,
    RetryPolicy,
    ServerError,
    Timeouts,
    TLSFailed,
    TransportError,
    UnexpectedRedirect,
)
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.raw_server import Connection, RawServer

ONCE = {"retry": RetryPolicy.none()}
RATES: list[Any] = []


def without_waits() -> Options:
    """Return options with a clock that advances at once instead of waiting."""
    return Options(clock=ManualClock(auto_advance=True))


def scripted(*steps: Any):
    """Return a script that responds to request n with step n, and to later requests with the last step."""
    served = 0

    async def script(connection: Connection) -> None:
        nonlocal served
        while True:
            await connection.request()
            step = steps[min(served, len(steps) - 1)]
            served += 1
            if await step(connection) == "close":
                return

    return script


async def succeed(connection: Connection) -> None:
    connection.envelope(RATES)


async def drop(connection: Connection) -> str:
    return "close"


async def reset(connection: Connection) -> str:
    await connection.reset()
    return "close"


def status(code: int, headers: str = "", body: bytes | None = None):
    async def step(connection: Connection) -> None:
        if body is None:
            connection.envelope(None, code, headers, message="no")
        else:
            connection.respond(body, code, headers)

    return step


def raw(data: bytes, *, then: str = "close"):
    async def step(connection: Connection) -> str:
        connection.send(data)
        await connection.writer.drain()
        return then

    return step


async def test_connection_refused_is_retried_and_raises_not_sent(connect):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        clock = ManualClock(auto_advance=True)
        minted = await connect(url, options=Options(clock=clock, random=lambda: 0.5))
        with pytest.raises(ConnectFailed) as caught:
            await minted.rates.current()
    assert caught.value.attempts == 3
    assert clock.sleeps == [0.25, 0.5]
    assert caught.value.safe_to_retry
    assert "GET /partner/walletable/rates" in str(caught.value)
    assert isinstance(caught.value, NotSent)


async def test_unresolvable_host_raises_connect_failed(connect):
    # A resolver may repeat its query after five seconds.
    minted = await connect("https://no-such-host.invalid", timeouts=Timeouts(connect=15), **ONCE)
    with pytest.raises(ConnectFailed, match="ClientConnectorDNSError"):
        await minted.rates.current()


async def test_connect_timeout_raises_connect_failed(connect):
    # A full backlog: the kernel drops the handshake, so connecting hangs as it does behind a silent firewall.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        try:
            minted = await connect(url, timeouts=Timeouts(connect=0.2), **ONCE)
            with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
                await minted.rates.current()
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("fault", [drop, reset], ids=["closed", "reset"])
async def test_read_is_retried_after_dropped_connections(connect, fault):
    async with RawServer(scripted(fault, fault, succeed)) as server:
        minted = await connect(server.url, options=without_waits())
        assert await minted.rates.current() == ()
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [drop, reset], ids=["closed", "reset"])
async def test_dropped_connection_without_retries_sends_once(connect, fault):
    async with RawServer(scripted(fault)) as server:
        minted = await connect(server.url, **ONCE)
        with pytest.raises(TransportError) as caught:
            await minted.rates.current()
        with pytest.raises(TransportError):
            await minted.request("DELETE", "/partner/x")
    assert len(server.requests) == 2
    assert Phase.SENT is caught.value.phase
    assert caught.value.safe_to_retry


async def test_dropped_keepalive_without_retries_sends_once(connect):
    async def one_then_close(connection: Connection) -> None:
        await connection.request()
        connection.envelope(RATES)
        await connection.request()  # the second request arrives, and gets no response

    async with RawServer(one_then_close) as server:
        minted = await connect(server.url, **ONCE)
        await minted.rates.current()
        with pytest.raises(TransportError):
            await minted.rates.current()
    assert len(server.requests) == 2


async def test_silent_server_raises_at_the_read_timeout(connect):
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with RawServer(silent) as server:
        minted = await connect(server.url, timeouts=Timeouts(read=0.1), **ONCE)
        with pytest.raises(RequestTimeout) as caught:
            await minted.rates.current()
    assert isinstance(caught.value, TimeoutError)
    assert Phase.SENT is caught.value.phase
    assert str(caught.value) != ""
    assert len(server.requests) == 1


async def test_slow_body_raises_at_the_read_timeout(connect):
    async def drip(connection: Connection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            connection.send(b" ")
            await connection.writer.drain()
            await asyncio.sleep(0.01)  # the slow pace is the fault under test

    async with RawServer(drip) as server:
        minted = await connect(server.url, timeouts=Timeouts(read=0.5), **ONCE)
        with pytest.raises(RequestTimeout) as caught:
            await minted.rates.current()
    assert Phase.RESPONDED is caught.value.phase


@pytest.mark.requirement(8)
async def test_deadline_covers_all_attempts(connect):
    clock = ManualClock(auto_advance=True)

    async def slow_failure(connection: Connection) -> None:
        clock.advance(10)
        connection.envelope(None, 500)

    async with RawServer(scripted(slow_failure)) as server:
        options = Options(clock=clock, random=lambda: 0.0)
        minted = await connect(server.url, options=options, retry=RetryPolicy(read_attempts=10))
        with pytest.raises(RequestTimeout) as caught:
            await minted.with_options(deadline=25).rates.current()
    assert caught.value.attempts == 3  # begun at 0, 10 and 20 s; the last attempt has 5 s left and takes 10


async def test_attempt_timeout_is_the_rest_of_the_deadline(connect):
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with RawServer(silent) as server:
        minted = await connect(server.url, timeouts=Timeouts(read=50, total=0.2))
        with pytest.raises(RequestTimeout) as caught:
            await minted.rates.current()
    assert caught.value.attempts == 1
    assert 0.2 <= caught.value.elapsed < 50


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("short body", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        ("cut chunk", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
    ],
)
async def test_truncated_response_raises_transport_error(connect, name, response):
    async with RawServer(scripted(raw(response))) as server:
        minted = await connect(server.url, **ONCE)
        with pytest.raises(TransportError) as caught:
            await minted.rates.current()
    assert Phase.RESPONDED is caught.value.phase


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"",
        b"null",
        b"[]",
        b'{"data": NaN, "success": true, "code": 0, "message": ""}',
        b'{"data": [], "data": [1], "success": true, "code": 0, "message": ""}',
        b'{"data": ' + b"[" * 200 + b"]" * 200 + b', "success": true, "code": 0, "message": ""}',
        b'{"data": [], "success": "yes", "code": 0, "message": ""}',
        b'{"data": []}',
        b"\xff\xfe",
        b'{"data": [',
    ],
    ids=["html", "empty", "null", "list", "nan", "twice", "deep", "odd success", "no success", "not utf-8", "cut"],
)
async def test_malformed_200_is_retried_once_and_raises_protocol_error(connect, body):
    async with RawServer(scripted(status(200, body=body))) as server:
        minted = await connect(server.url, options=without_waits())
        with pytest.raises(ProtocolError) as caught:
            await minted.rates.current()
    assert len(server.requests) == 2  # a malformed response is retried once
    assert caught.value.problems
    assert "Welcome" not in str(caught.value)


async def test_gzip_bomb_raises_response_too_large(connect):
    bomb = gzip.compress(b" " * 50_000_000)
    async with RawServer(scripted(status(200, "Content-Encoding: gzip\r\n", bomb))) as server:
        minted = await connect(server.url, options=without_waits())
        with pytest.raises(ResponseTooLarge, match="8388608 bytes"):
            await minted.rates.current()
    assert len(server.requests) == 1


@pytest.mark.requirement(36)
@pytest.mark.parametrize("code", [200, 401, 404, 500])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_decompression_bomb_is_never_whole_in_memory(connect, code, encoding):
    size = 100_000_000
    squeeze = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join(squeeze.compress(b" " * 1_000_000) for _ in range(size // 1_000_000)) + squeeze.flush()
    async with RawServer(scripted(status(code, f"Content-Encoding: {encoding}\r\n", bomb))) as server:
        minted = await connect(server.url, options=Options(max_body=1_000_000), **ONCE)
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge):
                await minted.rates.current()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < size / 10
    assert len(server.requests) == 1


async def test_gzip_response_is_decompressed(connect):
    body = gzip.compress(json.dumps({"data": [], "success": True, "code": 0, "message": ""}).encode())
    async with RawServer(scripted(status(200, "Content-Encoding: gzip\r\n", body))) as server:
        minted = await connect(server.url, **ONCE)
        assert await minted.rates.current() == ()


async def test_invalid_gzip_raises_typed_error(connect):
    async with RawServer(scripted(status(200, "Content-Encoding: gzip\r\n", b"not gzip at all"))) as server:
        minted = await connect(server.url, **ONCE)
        with pytest.raises((TransportError, ProtocolError)):
            await minted.rates.current()


@pytest.mark.requirement(27)
@pytest.mark.parametrize("route", ["auto", "session"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(connect, code, route):
    async with (
        RawServer(scripted(succeed)) as elsewhere,
        RawServer(scripted(status(code, f"Location: {elsewhere.url}/\r\n", b""))) as server,
    ):
        minted = await connect(server.url, options=attrs.evolve(without_waits(), route=route))
        with pytest.raises(UnexpectedRedirect):
            await minted.rates.current()
    assert len(server.requests) == 1
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: x\r\n" % n for n in range(300)) + b"\r\n",
    ],
    ids=["not http", "long header", "many headers"],
)
async def test_response_that_is_not_http_raises_typed_error(connect, response):
    async with RawServer(scripted(raw(response))) as server:
        minted = await connect(server.url, **ONCE)
        with pytest.raises((ProtocolError, TransportError)) as caught:
            await minted.rates.current()
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize(("header", "pause"), [("2", 2.0), ("", None), ("soon", None)])
async def test_retry_after_in_seconds_replaces_the_backoff(connect, header, pause):
    headers = f"Retry-After: {header}\r\n" if header else ""
    async with RawServer(scripted(status(429, headers), succeed)) as server:
        clock = ManualClock(auto_advance=True)
        minted = await connect(server.url, options=Options(clock=clock, random=lambda: 0.25))
        assert await minted.rates.current() == ()
    assert [0.125 if pause is None else pause] == clock.sleeps


@pytest.mark.requirement(3)
async def test_retry_after_as_a_date_replaces_the_backoff(connect):
    headers = "Date: Mon, 23 Nov 2026 10:00:00 GMT\r\nRetry-After: Mon, 23 Nov 2026 10:00:03 GMT\r\n"
    async with RawServer(scripted(status(503, headers), succeed)) as server:
        clock = ManualClock(start=datetime(2026, 11, 23, 10, tzinfo=UTC), auto_advance=True)
        minted = await connect(server.url, options=Options(clock=clock))
        assert await minted.rates.current() == ()
    assert clock.sleeps == [3.0]


async def test_retry_after_beyond_the_deadline_is_not_retried(connect):
    async with RawServer(scripted(status(429, "Retry-After: 3600\r\n"))) as server:
        minted = await connect(server.url, options=without_waits())
        with pytest.raises(RateLimited) as caught:
            await minted.rates.current()
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


async def test_exhausted_retry_budget_ends_retries(connect):
    async with RawServer(scripted(status(500))) as server:
        minted = await connect(server.url, options=without_waits(), retry=RetryPolicy(budget=12))
        for _ in range(4):
            with pytest.raises(ServerError):
                await minted.rates.current()
    assert len(server.requests) == 4 + 2  # two retries for 5 tokens each


async def test_burst_of_64_calls_is_challenged_once(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(pool_size=64))
    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(minted.rates.current)
    assert len(sandbox.requests) == 65
    assert [entry.status for entry in sandbox.requests if entry.status != 200] == [401]
    counts = [entry.nc for entry in sandbox.requests if entry.nc is not None]
    assert len(counts) == len(set(counts)) == 64


async def test_burst_through_a_small_pool_is_challenged_once(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(pool_size=3))
    async with anyio.create_task_group() as group:
        for _ in range(64):
            group.start_soon(minted.rates.current)
    assert len(sandbox.requests) == 65


@pytest.mark.requirement(30)
async def test_wrong_password_sends_one_request_per_call(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, "wrong-canary")
    for _ in range(10):
        with pytest.raises(AuthenticationFailed) as caught:
            await minted.rates.current()
    assert len(sandbox.requests) == 11
    assert caught.value.status == 401
    assert "wrong-canary" not in f"{caught.value!r}{caught.value}"


async def test_stale_nonce_is_renewed_once(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password)
    await minted.rates.current()
    sandbox.digest.rotate_nonces()
    await minted.rates.current()
    assert [entry.status for entry in sandbox.requests] == [401, 200, 401, 200]


async def test_basic_challenge_raises_auth_downgrade(connect):
    challenge = 'WWW-Authenticate: Basic realm="x"\r\n'
    async with RawServer(scripted(status(401, challenge))) as server:
        minted = await connect(server.url, password="canary-password")
        with pytest.raises(AuthDowngrade):
            await minted.rates.current()
    assert len(server.requests) == 1
    assert "authorization" not in server.requests[0][1]


@pytest.mark.requirement(23)
async def test_full_pool_raises_pool_timeout_before_sending(connect):
    received = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await connection.request()
        received.set()
        await connection.reader.read()

    async with RawServer(silent) as server:
        minted = await connect(server.url, options=Options(pool_size=1), timeouts=Timeouts(pool=0.05), **ONCE)
        async with anyio.create_task_group() as group:

            async def first() -> None:
                with pytest.raises(TransportError):
                    await minted.with_options(timeouts=Timeouts(read=0.5)).rates.current()

            group.start_soon(first)
            await received.wait()
            with pytest.raises(PoolTimeout) as caught:
                await minted.rates.current()
    assert caught.value.safe_to_retry
    assert len(server.requests) == 1


async def test_cookies_are_not_kept(connect):
    async with RawServer(
        scripted(status(200, "Set-Cookie: session=tracked\r\n", b'{"data":[],"success":true}'))
    ) as server:
        minted = await connect(server.url)
        await minted.rates.current()
        await minted.rates.current()
    assert all("cookie" not in headers for _, headers, _ in server.requests)


async def test_every_request_has_language_client_and_version_headers(connect):
    async with RawServer(scripted(succeed)) as server:
        minted = await connect(server.url, language="en", client_id="till-7")
        await minted.rates.current()
        await minted.with_options(language="tr").rates.current()
    (_, first, _), (_, second, _) = server.requests
    assert (first["accept-language"], first["x-client-id"], first["api-version"]) == ("en", "till-7", "3")
    assert second["accept-language"] == "tr"
    assert first["user-agent"].startswith("minted-connect/")
    assert "content-type" not in first


async def test_base_url_path_is_prefixed_to_every_request(connect):
    async with RawServer(scripted(succeed)) as server:
        minted = await connect(server.url + "/gateway/")
        await minted.rates.current()
    assert server.requests[0][0] == "GET /gateway/partner/walletable/rates HTTP/1.1"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "ftp://127.0.0.1",
        "api.example.com",
        "https://user:canary@api.example.com",
        "https://api.example.com/?q=1",
        "https://api.example.com/#x",
        "https://exa mple.com",
        "https://api.example.com:port",
        "",
    ],
)
def test_invalid_base_url_raises_configuration_error(url):
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        AsyncMintedConnect("u", "p", base_url=url)
    assert "canary" not in str(caught.value)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_server(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls_with_trusted_authority_succeeds(connect, authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with RawServer(scripted(succeed), ssl=tls_server(authority, "127.0.0.1")) as server:
        minted = await connect(server.url, ssl_context=context)
        assert await minted.rates.current() == ()


async def test_tls_with_unknown_authority_raises_tls_failed(connect, authority):
    async with RawServer(scripted(succeed), ssl=tls_server(authority, "127.0.0.1")) as server:
        minted = await connect(server.url)
        with pytest.raises(TLSFailed, match="CertificateError") as caught:
            await minted.rates.current()
    assert not caught.value.safe_to_retry
    assert server.requests == []


async def test_tls_certificate_of_another_host_raises_tls_failed(connect, authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with RawServer(scripted(succeed), ssl=tls_server(authority, "elsewhere.example")) as server:
        minted = await connect(server.url, ssl_context=context)
        with pytest.raises(TLSFailed):
            await minted.rates.current()
    assert server.requests == []


@pytest.mark.requirement(28)
def test_ssl_context_below_tls_1_2_raises_configuration_error():
    weak = ssl.create_default_context()
    weak.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.raises(ConfigurationError, match="TLSv1_2"):
        AsyncMintedConnect("u", "p", ssl_context=weak)


async def test_lent_session_stays_open_and_unchanged(sandbox: Sandbox):
    async with aiohttp.ClientSession(headers={"X-Mine": "yes"}, auth=None) as session:
        before = session.connector
        async with AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, session=session
        ) as minted:
            await minted.rates.current()
        assert not session.closed
        assert before is session.connector
        assert not before.closed
    with pytest.raises(ClientClosedError, match="session"):
        async with AsyncMintedConnect("u", "p", base_url=sandbox.url, session=session) as minted:
            await minted.rates.current()


async def test_busy_lent_session_raises_pool_timeout():
    received = asyncio.Event()

    async def silent(connection: Connection) -> None:
        await connection.request()
        received.set()
        await connection.reader.read()

    async with (
        RawServer(silent) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        AsyncMintedConnect(
            "u", "p", base_url=server.url, session=session, timeouts=Timeouts(connect=0.05), **ONCE
        ) as minted,
        anyio.create_task_group() as group,
    ):
        group.start_soon(session.get, server.url)
        await received.wait()
        with pytest.raises(PoolTimeout, match="lent session"):
            await minted.rates.current()
        group.cancel_scope.cancel()
    assert len(server.requests) == 1


async def test_call_on_another_event_loop_raises_client_closed(sandbox: Sandbox):
    minted = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
    await minted.rates.current()

    def elsewhere() -> str:
        async def use() -> str:
            with pytest.raises(ClientClosedError) as caught:
                await minted.rates.current()
            return str(caught.value)

        return asyncio.run(use())

    assert "another event loop" in await anyio.to_thread.run_sync(elsewhere)
    await minted.rates.current()
    await minted.aclose()


async def test_call_of_closed_client_raises_client_closed(connect, sandbox: Sandbox):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password)
    await minted.rates.current()
    await (minted.aclose() if isinstance(minted, AsyncMintedConnect) else minted.close())
    with pytest.raises(ClientClosedError, match="closed"):
        await minted.rates.current()


async def test_aclose_is_idempotent_and_leaves_the_parent_open(sandbox: Sandbox):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        sibling = minted.with_options(deadline=5)
        await sibling.rates.current()
        await sibling.aclose()
        await minted.rates.current()
        assert len(sandbox.requests) == 3  # one challenge serves both
    await minted.aclose()


async def test_aclose_ends_a_running_call_at_any_point():
    async def half(connection: Connection) -> None:
        await connection.request()
        connection.respond(b"{", length=100)
        await connection.reader.read()

    errors: set[str] = set()
    async with RawServer(half) as server:
        for turns in range(40):
            minted = AsyncMintedConnect("u", "p", base_url=server.url, timeouts=Timeouts(read=1))
            call = asyncio.ensure_future(minted.rates.current())
            for _ in range(turns):
                await asyncio.sleep(0)
            await minted.aclose()
            with pytest.raises((ClientClosedError, ConnectFailed, TransportError)) as caught:
                await call
            assert not isinstance(caught.value, RequestTimeout)
            errors.add(type(caught.value).__name__)
            if "the response was truncated" in str(caught.value):
                return
    pytest.fail(f"no response was truncated: {errors}")


async def test_unclosed_client_emits_resource_warning(sandbox: Sandbox):
    import gc

    minted = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
    await minted.rates.current()
    pools = minted._api.state.transport._pools or {}
    with pytest.warns(ResourceWarning, match="unclosed"):
        del minted
        gc.collect()
    for pool in pools.values():
        await pool.connections.aclose()


async def test_cancelled_call_frees_its_connection(sandbox: Sandbox):
    sandbox.faults.add("hang")
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        with anyio.move_on_after(0.1) as scope:
            await minted.rates.current()
        assert scope.cancelled_caught
        sandbox.faults.clear()
        await minted.rates.current()


@pytest.mark.requirement(39)
async def test_error_keeps_no_aiohttp_exception(connect):
    async with RawServer(scripted(drop)) as server:
        minted = await connect(server.url, **ONCE)
        with pytest.raises(TransportError) as caught:
            await minted.rates.current()
    seen: BaseException | None = caught.value
    while seen is not None:
        assert not isinstance(seen, aiohttp.ClientError)
        seen = seen.__cause__ or seen.__context__


async def test_keep_error_bodies_keeps_the_body_of_an_error(connect):
    async with RawServer(scripted(status(400, body=b"<h1>canary</h1>"))) as server:
        plain = await connect(server.url)
        with pytest.raises(APIError) as caught:
            await plain.rates.current()
        assert caught.value.body is None
        keeping = await connect(server.url, options=Options(keep_error_bodies=True))
        with pytest.raises(APIError) as caught:
            await keeping.rates.current()
        assert caught.value.body == b"<h1>canary</h1>"
        assert "canary" not in repr(caught.value)


def reachable_from(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield every value reachable from an error."""
    if id(value) in seen or isinstance(value, type | ModuleType | FunctionType | FrameType | TracebackType):
        return
    seen.add(id(value))
    yield value
    inside: list[Any] = []
    if isinstance(value, BaseException):
        inside = [value.args, value.__dict__, value.__cause__, value.__context__]
    elif isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inside = list(value)
    elif hasattr(value, "__dict__"):
        inside = [vars(value)]
    for each in inside:
        yield from reachable_from(each, seen)


CANARY = b'{"data": {"canary": 1}, "success": false, "code": 7, "message": "No.", "canary": ["canary"]}'
FAILING_RESPONSES: dict[str, tuple[int, str, bytes]] = {
    **{str(code): (code, "X-Canary: canary\r\n", CANARY) for code in (400, 401, 403, 404, 409, 422, 429, 500, 302)},
    "refusal with 200": (200, "X-Canary: canary\r\n", CANARY),
    "not json": (200, "X-Canary: canary\r\n", b"<canary>"),
    "no envelope": (200, "X-Canary: canary\r\n", b'{"canary": "canary"}'),
    "other shape": (200, "X-Canary: canary\r\n", b'{"success": true, "data": {"canary": "canary"}}'),
}


@pytest.mark.requirement(34)
@pytest.mark.parametrize("name", FAILING_RESPONSES)
@pytest.mark.parametrize("kept", [False, True])
async def test_error_keeps_no_body_and_headers_by_default(connect, name, kept):
    code, headers, body = FAILING_RESPONSES[name]
    async with RawServer(scripted(status(code, headers, body))) as server:
        minted = await connect(server.url, options=Options(keep_error_bodies=kept), **ONCE)
        with pytest.raises((APIError, ProtocolError)) as caught:
            await minted.rates.current()
    values = list(reachable_from(caught.value, set()))
    bodies = [value for value in values if isinstance(value, bytes)]
    # The shape of the data is checked after the body was dropped.
    assert bodies == ([body] if kept and name != "other shape" else [])
    assert not any(isinstance(value, aiohttp.ClientResponse | CIMultiDictProxy | CIMultiDict) for value in values)
    assert "canary" not in "".join(value for value in values if isinstance(value, str))


async def test_proxy_receives_request_and_its_credentials(connect):
    async with RawServer(scripted(succeed)) as proxy:
        minted = await connect("http://127.0.0.1:9", proxy=proxy.url.replace("//", "//user:canary@"))
        assert await minted.rates.current() == ()
    first, headers, _ = proxy.requests[0]
    assert first == "GET http://127.0.0.1:9/partner/walletable/rates HTTP/1.1"
    assert headers["proxy-authorization"].startswith("Basic ")


async def test_unreachable_proxy_raises_connect_failed(connect):
    minted = await connect("https://api.example.com", proxy="http://user:canary@127.0.0.1:9", **ONCE)
    with pytest.raises(ConnectFailed) as caught:
        await minted.rates.current()
    assert "canary" not in repr(caught.value)


async def test_proxy_that_refuses_the_tunnel_raises_connect_failed(connect):
    async with RawServer(scripted(status(403, body=b"no"))) as proxy:
        minted = await connect("https://api.example.com", proxy=proxy.url, **ONCE)
        with pytest.raises(ConnectFailed):
            await minted.rates.current()
    assert proxy.requests[0][0].startswith("CONNECT api.example.com:443")


@pytest.mark.requirement(28)
async def test_netrc_and_proxy_variables_are_ignored(connect, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\n")
    netrc.chmod(0o600)
    for name, value in {
        "NETRC": str(netrc),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    async with RawServer(scripted(succeed)) as server:
        minted = await connect(server.url)
        assert await minted.rates.current() == ()
    assert "authorization" not in server.requests[0][1]
