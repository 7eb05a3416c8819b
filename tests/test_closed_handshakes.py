"""A server closes connections during the TLS handshake, as a balancer does that has no backend or restarts."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack

import pytest
import trustme
from yarl import URL

from minted_connect import ConnectFailed, RetryPolicy, TLSFailed
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer

CUSTOMER = "customer-1"
QUICK = RetryPolicy(wait_initial=0.01)


class Balancer:
    """Forwards TLS connections to a server; closes the next `closing` of them after it has read the ClientHello."""

    def __init__(self) -> None:
        self.closing = 0
        self.closed = 0
        self.port = 0

    async def serve(self, connection: Connection) -> None:
        first = await connection.reader.read(65536)
        if self.closed < self.closing:
            self.closed += 1
            return
        async with AsyncExitStack() as stack:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            stack.callback(writer.close)
            writer.write(first)
            copy = asyncio.create_task(forward(reader, connection.writer))
            stack.callback(copy.cancel)
            await forward(connection.reader, writer)


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context


@pytest.fixture
async def sandbox(authority: trustme.CA):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with Sandbox(seed=1, ssl_context=context) as server:
        yield server


@pytest.fixture
async def balancer(sandbox: Sandbox):
    """Return the balancer and its URL."""
    balancer = Balancer()
    balancer.port = URL(sandbox.url).port or 0
    async with RawServer(balancer.serve) as front:
        yield balancer, front.url.replace("http", "https")


async def test_read_is_retried_after_closed_handshakes(connect, sandbox, balancer, trusting):
    server, url = balancer
    minted = await connect(url, sandbox.username, sandbox.password, ssl_context=trusting, retry=QUICK)
    server.closing = 2
    assert await minted.rates.current()
    assert server.closed == 2


async def test_purchase_is_retried_after_a_closed_handshake(connect, sandbox, balancer, trusting):
    server, url = balancer
    minted = await connect(url, sandbox.username, sandbox.password, ssl_context=trusting, retry=QUICK)
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    server.closing = 1  # the preflight reads use the open connection
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order is not None
    assert (server.closed, len(sandbox.requests.of("complete.buy"))) == (1, 1)


async def test_handshakes_closed_in_all_attempts_stay_safe_to_retry(connect, sandbox, balancer, trusting):
    server, url = balancer
    minted = await connect(url, sandbox.username, sandbox.password, ssl_context=trusting, retry=QUICK)
    server.closing = 3
    with pytest.raises(ConnectFailed, match=r"it may be restarting, or may not support TLS 1\.2") as caught:
        await minted.rates.current()
    error = caught.value
    assert isinstance(error, TLSFailed)
    assert (error.attempts, error.safe_to_retry, error.is_closed_by_server) == (3, True, True)
    assert await minted.rates.current()
