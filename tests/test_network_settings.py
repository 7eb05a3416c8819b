"""Proxy credentials, custom TLS contexts, long header lines, and realms that cannot be sent back."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from base64 import b64decode

import pytest
import trustme

from minted_connect import (
    AsyncMintedConnect,
    AuthDowngrade,
    ConfigurationError,
    ConnectFailed,
    MintedConnect,
    Options,
    ProtocolError,
    RetryPolicy,
    TLSFailed,
)
from minted_connect.sandbox import Sandbox
from tests.support.raw_server import Connection, RawServer

CLIENTS = [AsyncMintedConnect, MintedConnect]
ONCE = RetryPolicy.none()
REMOTE = "https://api.mintedconnect.example"


async def succeed(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


async def refuse_tunnel(connection: Connection) -> None:
    await connection.request()
    connection.respond(b"", 407)


# --- proxy credentials -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user_info", "sent"),
    [
        ("user:canary", "user:canary"),
        ("user:şifreğ", "user:şifreğ"),
        ("user:%C5%9Fifre", "user:şifre"),
        ("kullanıcı:x", "kullanıcı:x"),
        ("user:p%40ss%2Fw:x", "user:p@ss/w:x"),
        ("user:a b", "user:a b"),
        ("user", "user:"),
        (":word", ":word"),
    ],
)
@pytest.mark.parametrize("base_url", ["http://127.0.0.1:9", REMOTE])
async def test_proxy_credentials_are_sent_as_utf_8(connect, user_info, sent, base_url):
    async with RawServer(refuse_tunnel if base_url == REMOTE else succeed) as proxy:
        minted = await connect(base_url, proxy=proxy.url.replace("//", f"//{user_info}@"), retry=ONCE)
        if base_url == REMOTE:
            with pytest.raises(ConnectFailed):
                await minted.rates.current()
        else:
            assert await minted.rates.current() == ()
    [(first, headers, _)] = proxy.requests
    assert first.startswith("CONNECT" if base_url == REMOTE else f"GET {base_url}/")
    scheme, _, value = headers["proxy-authorization"].partition(" ")
    assert (scheme, b64decode(value).decode()) == ("Basic", sent)


async def test_proxy_without_credentials_receives_none(connect):
    async with RawServer(succeed) as proxy:
        minted = await connect("http://127.0.0.1:9", proxy=proxy.url)
        assert await minted.rates.current() == ()
    assert "proxy-authorization" not in proxy.requests[0][1]


async def test_server_behind_tunnel_receives_no_proxy_credentials(connect):
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with RawServer(succeed, ssl=server_context) as server:

        async def tunnel(connection: Connection) -> None:
            first, _, _ = await connection.request()
            host, _, port = first.split()[1].rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(copy_bytes(connection.reader, writer))
                    tasks.create_task(copy_bytes(reader, connection.writer))
            finally:
                writer.close()

        async with RawServer(tunnel) as proxy:
            minted = await connect(
                server.url, proxy=proxy.url.replace("//", "//user:canary@"), ssl_context=context, retry=ONCE
            )
            assert await minted.rates.current() == ()
    assert "proxy-authorization" in proxy.requests[0][1]
    assert "proxy-authorization" not in server.requests[0][1]


async def copy_bytes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.mark.requirement(31)
@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize(
    ("proxy", "rule"),
    [
        ("http://us%3Aer:canary@127.0.0.1:3128", "the user name must contain no colon"),
        ("http://user:canary%FF@127.0.0.1:3128", "must be UTF-8"),
        ("http://user:canary%0D%0AX@127.0.0.1:3128", "must contain no control characters"),
        ("http://canary%00:x@127.0.0.1:3128", "must contain no control characters"),
        ("http://user:canary@127.0.0.1:port", "must be an absolute http or https URL"),
        ("http://user:canary@", "must be an absolute http or https URL"),
    ],
)
def test_unsendable_proxy_credentials_are_refused(cls, proxy, rule):
    with pytest.raises(ConfigurationError, match=rule) as caught:
        cls("u", "p", proxy=proxy)
    assert str(caught.value).startswith("proxy: ")
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


# --- TLS ---------------------------------------------------------------------------------------------------------


def unverified_contexts() -> dict[str, ssl.SSLContext]:
    without_host_name = ssl.create_default_context()
    without_host_name.check_hostname = False
    without_certificate = ssl.create_default_context()
    without_certificate.check_hostname = False
    without_certificate.verify_mode = ssl.CERT_NONE
    contexts = {"check_hostname": without_host_name, "verify_mode": without_certificate}
    for context in contexts.values():
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    return contexts


@pytest.mark.requirement(28)
@pytest.mark.parametrize("cls", CLIENTS)
@pytest.mark.parametrize("name", unverified_contexts())
def test_unverified_ssl_context_is_refused_outside_loopback(cls, name):
    with pytest.raises(ConfigurationError, match="ssl_context: must verify certificates and host names"):
        cls("u", "p", base_url=REMOTE, ssl_context=unverified_contexts()[name])
    cls("u", "p", base_url="https://127.0.0.1:8787", ssl_context=unverified_contexts()[name])


@pytest.mark.requirement(28)
async def test_ssl_context_weakened_later_is_refused_at_first_call(connect):
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    minted = await connect(REMOTE, ssl_context=context, retry=ONCE)
    context.check_hostname = False
    with pytest.raises(ConfigurationError, match="ssl_context"):
        await minted.rates.current()


@pytest.mark.requirement(28)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_tls_1_1_server_that_sends_no_alert_raises_tls_failed(connect):
    authority = trustme.CA()
    old_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(old_context)
    old_context.set_ciphers("ALL:@SECLEVEL=0")
    old_context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old_context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with RawServer(succeed, ssl=old_context) as server:
        minted = await connect(server.url, retry=RetryPolicy(wait_initial=0.01))
        with pytest.raises(TLSFailed) as caught:
            await minted.rates.current()
    # A server that restarts closes connections in the same way.
    assert (caught.value.attempts, server.requests) == (3, [])


async def test_reset_during_the_handshake_is_retried(connect):
    async def reset(connection: Connection) -> None:
        await connection.reader.readexactly(1)
        # Without lingering, closing sends a reset in place of the end of the stream.
        connected = connection.writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await connection.reset()

    async with RawServer(reset) as server:
        minted = await connect(server.url.replace("http", "https"), retry=RetryPolicy(wait_initial=0.01))
        with pytest.raises(ConnectFailed) as caught:
            await minted.rates.current()
    assert type(caught.value) is ConnectFailed
    assert caught.value.attempts == 3


# --- header lines and realms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10_000, 60_000])
async def test_max_header_line_allows_a_long_header(connect, sandbox: Sandbox, size):
    sandbox.faults.add("long_header", times=None, size=size)
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, retry=ONCE)
    with pytest.raises(ProtocolError, match=r"exceeds 8190 bytes \(Options.max_header_line\)"):
        await minted.rates.current()
    minted = await connect(
        sandbox.url, sandbox.username, sandbox.password, options=Options(max_header_line=65536), retry=ONCE
    )
    assert await minted.rates.current()


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'Digest realm="Alt\xfdn", nonce="n", qop="auth"', "the realm of the Digest challenge is not UTF-8"),
        (b'Digest realm="r", nonce="\xff", qop="auth"', "the nonce of the Digest challenge is not UTF-8"),
        (b'Digest realm="a\tb", nonce="n"', "the realm of the Digest challenge contains control characters"),
    ],
)
async def test_challenge_that_cannot_be_sent_back_is_named(connect, header, reason):
    async def challenge(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.send(b"HTTP/1.1 401 No\r\nWWW-Authenticate: " + header + b"\r\nContent-Length: 0\r\n\r\n")

    async with RawServer(challenge) as server:
        minted = await connect(server.url, retry=ONCE)
        with pytest.raises(AuthDowngrade, match=reason):
            await minted.rates.current()
    assert len(server.requests) == 1


async def test_usable_challenge_beside_one_that_is_not_is_taken(connect):
    async def challenge(connection: Connection) -> None:
        await connection.request()
        connection.send(
            b'HTTP/1.1 401 No\r\nWWW-Authenticate: Digest realm="\xfd", nonce="n"\r\n'
            b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\nContent-Length: 0\r\n\r\n'
        )
        await succeed(connection)

    async with RawServer(challenge) as server:
        minted = await connect(server.url, retry=ONCE)
        assert await minted.rates.current() == ()
    assert 'realm="r"' in server.requests[1][1]["authorization"]
