"""All idle connections break at once, or one of them: what this costs, and which connections are used afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from minted_connect import AsyncMintedConnect, BreakerPolicy, MintedConnectError, Options, RetryPolicy, ServerError
from minted_connect.core.pool import PoolKind
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer
from tests.support.waiting import wait_until

CONNECTIONS = 20
ONE_RETRY = RetryPolicy(budget=5)
CUSTOMER = "customer-1"


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, clock=clock) as server:
        yield server


async def connect_to(connect: Any, sandbox: Sandbox, clock: ManualClock, **settings: Any) -> Any:
    """Build a client of the flavour that follows the sandbox's clock."""
    options = Options(clock=clock)
    return await connect(sandbox.url, sandbox.username, sandbox.password, options=options, **settings)


async def kill_pool(minted: Any, sandbox: Sandbox, size: int = CONNECTIONS) -> None:
    """Fill the pool with idle connections, and reset each at its next request."""
    fault = sandbox.faults.add("hang", path="*/rates", times=size)
    reads = [asyncio.ensure_future(minted.rates.current()) for _ in range(size)]
    await wait_until(lambda: fault.waiting == size)
    fault.remove()
    await asyncio.gather(*reads)
    sandbox.requests.clear()
    await wait_until(lambda: sandbox.reset_idle() == size)


def resets(sandbox: Sandbox) -> int:
    return sum(entry.fault == "reset_idle" for entry in sandbox.requests)


@pytest.mark.requirement(51)
async def test_read_add_and_purchase_succeed_with_dead_pool(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock)
    await minted.customers.create(CUSTOMER)
    await kill_pool(minted, sandbox)
    await minted.rates.current()
    assert [entry.fault for entry in sandbox.requests] == ["reset_idle", None]
    # An addition could not be sent again: it does not use the other connections.
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    assert [entry.fault for entry in sandbox.requests.of("baskets.add_item")] == [None]
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order is not None
    assert len(sandbox.requests.of("complete.buy")) == 1
    # The second broken connection has shown that the pool is dead, so the others are not tried.
    assert resets(sandbox) == 2
    for _ in range(CONNECTIONS):
        await minted.rates.current()
    assert resets(sandbox) == 2


@pytest.mark.requirement(51)
async def test_purchase_alone_succeeds_with_dead_pool(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock)
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    await kill_pool(minted, sandbox)
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order is not None
    assert [entry.fault for entry in sandbox.requests.of("complete.buy")] == [None]
    assert resets(sandbox) == 1


@pytest.mark.requirement(51)
async def test_concurrent_reads_on_dead_pool_are_charged_once(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock, retry=ONE_RETRY)
    await kill_pool(minted, sandbox)
    await asyncio.gather(*(minted.rates.current() for _ in range(CONNECTIONS)))
    assert resets(sandbox) > 1


@pytest.mark.requirement(51)
@pytest.mark.parametrize("flavour", ["async"])
async def test_dead_pool_is_charged_to_the_retry_budget(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock, retry=ONE_RETRY)
    await kill_pool(minted, sandbox)
    await minted.rates.current()
    sandbox.faults.add("status", status=503)
    with pytest.raises(ServerError) as caught:
        await minted.rates.current()
    # The first attempt has met a dead connection, free of charge; the second a failing server.
    assert caught.value.attempts == 2
    assert resets(sandbox) == 2


@pytest.mark.requirement(51)
async def test_dead_pool_counts_once_for_the_breaker(connect, sandbox: Sandbox, clock: ManualClock):
    options = Options(clock=clock, breaker=BreakerPolicy(failures=2))
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=options)
    await kill_pool(minted, sandbox)
    await asyncio.gather(*(minted.rates.current() for _ in range(CONNECTIONS)))
    assert resets(sandbox) > 1


@pytest.mark.requirement(51)
@pytest.mark.parametrize("flavour", ["async"])
async def test_request_in_flight_survives_the_replacement(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock)
    await minted.rates.current()
    fault = sandbox.faults.add("hang", path="*/products")
    page = asyncio.ensure_future(minted.products.page())
    await wait_until(lambda: fault.waiting)
    await kill_pool(minted, sandbox, 5)
    pool = minted._api.state.transport._pools[PoolKind.DEFAULT]
    connections = pool.connections
    for _ in range(2):
        await minted.rates.current()
    assert pool.connections is not connections
    assert pool.replaced == {connections}
    fault.remove()
    assert (await page).items
    assert pool.replaced == set()
    assert connections.connector.closed


@pytest.mark.requirement(51)
@pytest.mark.parametrize("flavour", ["async"])
async def test_close_ends_request_on_replaced_connections(connect, sandbox: Sandbox, clock: ManualClock):
    minted = await connect_to(connect, sandbox, clock)
    await minted.rates.current()
    fault = sandbox.faults.add("hang", path="*/products")
    page = asyncio.ensure_future(minted.products.page())
    await wait_until(lambda: fault.waiting)
    await kill_pool(minted, sandbox, 5)
    connections = minted._api.state.transport._pools[PoolKind.DEFAULT].connections
    for _ in range(2):
        await minted.rates.current()
    await minted.aclose()
    with pytest.raises(MintedConnectError):
        await page
    assert connections.connector.closed


@pytest.mark.requirement(51)
async def test_lent_session_keeps_its_connector(sandbox: Sandbox, clock: ManualClock):
    async with aiohttp.ClientSession() as session:
        connector = session.connector
        async with AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, session=session, options=Options(clock=clock)
        ) as minted:
            await minted.customers.create(CUSTOMER)
            await kill_pool(minted, sandbox)
            for _ in range(3):
                await minted.rates.current()
                await minted.baskets.add_item(CUSTOMER, sku=GOLD)
        assert [entry.fault for entry in sandbox.requests.of("baskets.add_item")] == [None] * 3
        assert resets(sandbox) == 3
        assert session.connector is connector
        assert connector is not None
        assert not connector.closed


@pytest.mark.requirement(51)
async def test_connection_of_another_session_counts_as_reused(sandbox: Sandbox, clock: ManualClock):
    async with aiohttp.ClientSession() as session:
        clients = [
            AsyncMintedConnect(
                sandbox.username, sandbox.password, base_url=sandbox.url, session=session, options=Options(clock=clock)
            )
            for _ in range(2)
        ]
        async with clients[0], clients[1]:
            await kill_pool(clients[0], sandbox)
            await clients[1].rates.current()  # with the login, which the second client does not share
        assert [entry.fault for entry in sandbox.requests][:2] == ["reset_idle", None]


# One broken connection, and other ways to break.

CHALLENGE = 'WWW-Authenticate: Digest realm="x", nonce="n", qop="auth", algorithm=SHA-256\r\n'


class Script:
    """The script of a server whose connections can break, and whose responses can wait for each other."""

    def __init__(self, clock: ManualClock) -> None:
        self.breaks_next = False
        self.silent: set[Connection] = set()
        """Connections on which the network drops everything."""
        self._clock = clock
        self._missing, self._complete = 0, asyncio.Event()

    def hold(self, parties: int) -> None:
        """Hold requests until this many have arrived."""
        self._missing, self._complete = parties, asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        while True:
            _, headers, _ = await connection.request()
            if "authorization" not in headers:
                connection.envelope(None, 401, CHALLENGE)
                continue
            if connection in self.silent:
                self._clock.advance(15)  # `Timeouts.read`
                await connection.reader.read()
                return
            if self.breaks_next:
                self.breaks_next = False
                await connection.reset()
                return
            if self._missing:
                self._missing -= 1
                if not self._missing:
                    self._complete.set()
                await self._complete.wait()
            connection.envelope([])


async def fill_pool(minted: Any, script: Script, size: int) -> None:
    """Make concurrent reads, each over its own connection, after the login."""
    await minted.rates.current()
    script.hold(size)
    await asyncio.gather(*(minted.rates.current() for _ in range(size)))


@pytest.mark.requirement(51)
async def test_keepalive_race_keeps_the_other_connections(connect, clock: ManualClock):
    script = Script(clock)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        await fill_pool(minted, script, 5)
        for _ in range(2):
            script.breaks_next = True
            await minted.rates.current()  # sent again over a new connection, which is not pooled
            await minted.rates.current()  # over the pool, which works
        assert len(server.connections) == 5 + 2
        await fill_pool(minted, script, 3)
        assert len(server.connections) == 5 + 2


@pytest.mark.requirement(51)
async def test_two_broken_connections_replace_the_pool(connect, clock: ManualClock):
    script = Script(clock)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        await fill_pool(minted, script, 5)
        for _ in range(2):
            script.breaks_next = True
            await minted.rates.current()
        assert len(server.connections) == 5 + 2
        await fill_pool(minted, script, 3)
        assert len(server.connections) == 5 + 2 + 3


@pytest.mark.requirement(51)
async def test_timeout_on_reused_connection_needs_a_new_one(connect, clock: ManualClock):
    script = Script(clock)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock), retry=RetryPolicy(read_attempts=2))
        await fill_pool(minted, script, 2)
        script.silent = set(server.connections)
        await minted.rates.current()
        assert len(server.connections) == 2 + 1


@pytest.mark.requirement(51)
async def test_response_before_request_needs_a_new_connection(connect, clock: ManualClock):
    script = Script(clock)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock), retry=RetryPolicy(read_attempts=2))
        await fill_pool(minted, script, 2)
        for connection in server.connections:
            connection.envelope(None, 408)  # some proxies write it before they close an idle connection
        await asyncio.sleep(0.1)
        await minted.rates.current()
        assert len(server.connections) == 2 + 1
