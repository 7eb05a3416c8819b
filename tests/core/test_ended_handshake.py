"""A server that closes the connection during the TLS handshake may accept the next one: the call is retried."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme

from minted_connect import ConnectFailed, RetryPolicy
from tests.support.raw_server import Connection, RawServer, ignore_handshake_errors

pytestmark = pytest.mark.anyio

RETRIES = RetryPolicy(wait_initial=0.001)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def serving(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def close_after_hello(connection: Connection) -> None:
    await connection.reader.read(1024)


def https(server: RawServer) -> str:
    return server.url.replace("http:", "https:")


@pytest.mark.requirement(28)
async def test_handshake_that_ends_once_costs_one_attempt(connect: Any, trusting: Any, serving: Any) -> None:
    async def serve(connection: Connection) -> None:
        if connection.number == 0:
            return await close_after_hello(connection)
        await connection.writer.start_tls(serving)
        await connection.request()
        connection.envelope(None)
        return None

    async with RawServer(serve) as server:
        minted = await connect(https(server), ssl_context=trusting, retry=RETRIES)
        assert await minted.baskets.get_active("customer-1") is None
    assert [len(connection.requests) for connection in server.connections] == [0, 1]


@pytest.mark.requirement(28)
async def test_handshake_that_always_ends_raises_connect_failed(connect: Any, trusting: Any) -> None:
    async with RawServer(close_after_hello) as server:
        minted = await connect(https(server), ssl_context=trusting, retry=RETRIES)
        with pytest.raises(ConnectFailed, match=r"support only TLS versions below 1\.2") as caught:
            await minted.rates.current()
    assert type(caught.value) is ConnectFailed
    assert (caught.value.attempts, caught.value.safe_to_retry) == (RETRIES.read_attempts, True)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_asyncio_server_below_1_2_raises_connect_failed(connect: Any, trusting: Any, serving: Any) -> None:
    """Such a server sends no alert, so it cannot be told from one that is starting."""
    serving.set_ciphers("ALL:@SECLEVEL=0")
    serving.minimum_version, serving.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    ignore_handshake_errors()
    async with RawServer(close_after_hello, ssl=serving) as server:
        minted = await connect(server.url, ssl_context=trusting, retry=RetryPolicy.none())
        with pytest.raises(ConnectFailed, match=r"support only TLS versions below 1\.2"):
            await minted.rates.current()
