"""Nothing is sent: no (trusted) connection, full pool, rate limit, open breaker, or cancelled in time."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from minted_connect import (
    BreakerPolicy,
    CircuitOpen,
    ClientClosedError,
    ConnectFailed,
    LimiterTimeout,
    PoolTimeout,
    PriceFixExpired,
    RateLimit,
    RetryPolicy,
    ServerError,
    Timeouts,
    TLSFailed,
)
from tests.matrix import injections
from tests.matrix.cells import BUY, OPERATIONS, MatrixOperation, cells, operation_of
from tests.matrix.outcomes import check_executed, check_not_sent
from tests.matrix.world import MatrixWorld

# F01, F02, F03: no connection, always or until the first pause.


async def fail_dns(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Let DNS fail without a query to a real resolver; return a function that ends the fault."""
    getaddrinfo, is_failing = socket.getaddrinfo, True

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if is_failing and host == "localhost":
            return getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)  # fails: `localhost` is not numeric
        return getaddrinfo(host, *args, **kwargs)

    async def restore_dns() -> None:
        nonlocal is_failing
        is_failing = False

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return restore_dns


async def refuse_connections(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    await world.proxy.stop_listening()
    return world.proxy.listen_again


async def drop_connections(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    await world.proxy.fill_backlog()
    return world.proxy.listen_again


FAULTS = {"F01": fail_dns, "F02": refuse_connections, "F03": drop_connections}
FREQUENCIES = ("once", "always")


async def world_without_connection(build: Any, row: str, operation: MatrixOperation) -> MatrixWorld:
    """Return a world whose client has no connection for this operation, at most one to read baskets."""
    # Connecting takes long on a busy machine, so the timeout is short only where it must expire.
    timeouts = Timeouts(connect=0.4) if row == "F03" else Timeouts()
    world = await build(host="localhost" if row == "F01" else "127.0.0.1", timeouts=timeouts)
    world.proxy.keep_alive = operation.is_money
    await world.set_up(operation)
    world.clock.sleeps.clear()
    if row == "F01" and not operation.is_money:
        # Each pool resolves a name once, so only a new client resolves it again.
        world.minted = await world.new_client()
    return world


@pytest.mark.requirement(11)
@cells(
    *(
        f"{row}-{operation.effect}-{frequency}"
        for row in FAULTS
        for operation in OPERATIONS
        for frequency in FREQUENCIES
    )
)
async def test_failed_connection_is_retried_or_raises(build: Any, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    operation = operation_of(cell)
    world = await world_without_connection(build, cell[:3], operation)
    restore = await FAULTS[cell[:3]](world, monkeypatch)
    if cell.endswith("once"):
        world.clock.during_sleep = restore
        assert operation.is_in_result(await operation.call(world.minted, world.basket))
        await check_executed(world, operation)
        assert [entry.status for entry in world.sandbox.requests.of(operation.name)].count(200) == 1
        assert len(world.clock.sleeps) == 1
        return
    with pytest.raises(ConnectFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is ConnectFailed
    assert caught.value.attempts == operation.max_attempts
    assert len(world.clock.sleeps) == operation.max_attempts - 1
    assert caught.value.safe_to_retry
    await check_not_sent(world, operation)
    await restore()
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    await check_executed(world, operation)


@cells(*(f"{row}-M-fix_over" for row in FAULTS))
async def test_failed_connection_at_end_of_price_fix_raises(
    build: Any, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    world = await world_without_connection(build, cell[:3], BUY)
    world.clock.advance(236.9)  # of 240 s; 3 s must be left, so no time is left for a pause
    restore = await FAULTS[cell[:3]](world, monkeypatch)
    with pytest.raises(ConnectFailed) as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.attempts == 1
    assert world.clock.sleeps == []
    await check_not_sent(world, BUY)
    await restore()
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


@cells(*(f"F{row:02}-M-fix_over-meanwhile" for row in (1, 2, 3)))
async def test_connection_after_the_price_fix_sends_nothing(
    build: Any, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    world = await world_without_connection(build, cell[:3], BUY)
    world.clock.advance(230)
    restore = await FAULTS[cell[:3]](world, monkeypatch)

    async def restore_late() -> None:
        await restore()
        world.clock.advance(10)

    world.clock.during_sleep = restore_late
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    assert len(world.clock.sleeps) == 1
    await check_not_sent(world, BUY)


# F04, F05: no trusted certificate.


def unknown_authority(world: MatrixWorld, authority: Any) -> None:
    type(authority)().issue_cert("127.0.0.1").configure_cert(world.proxy.tls)


def other_host(world: MatrixWorld, authority: Any) -> None:
    authority.issue_cert("elsewhere.example").configure_cert(world.proxy.tls)


def expired_certificate(world: MatrixWorld, authority: Any) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago).configure_cert(world.proxy.tls)


UNTRUSTED = {"authority": unknown_authority, "host": other_host, "expired": expired_certificate}


@cells(*(f"F04-{operation.effect}-{name}" for name in UNTRUSTED for operation in OPERATIONS))
async def test_untrusted_certificate_sends_nothing(build: Any, authority: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.set_up(operation)
    # The certificate was valid when the basket was read.
    UNTRUSTED[cell.rsplit("-", 1)[1]](world, authority)
    await check_not_trusted(world, operation)


@cells(*(f"F05-{operation.effect}" for operation in OPERATIONS))
async def test_tls_below_1_2_sends_nothing(build: Any, authority: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.set_up(operation)
    old_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(old_server)
    with warnings.catch_warnings(action="ignore"):
        old_server.minimum_version, old_server.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old_server.set_ciphers("ALL:@SECLEVEL=0")  # without this, OpenSSL does not serve the protocol
    await world.proxy.handshake_manually(old_server)
    await check_not_trusted(world, operation)
    assert world.proxy.failed_handshakes == ["UNSUPPORTED_PROTOCOL"]
    await check_old_protocol_is_served(world, authority)


async def check_old_protocol_is_served(world: MatrixWorld, authority: Any) -> None:
    """Control: the server accepts this connection, so the client caused the refusal above."""
    old_client = ssl.create_default_context()
    authority.configure_trust(old_client)
    with warnings.catch_warnings(action="ignore"):
        old_client.minimum_version = ssl.TLSVersion.TLSv1
    old_client.set_ciphers("ALL:@SECLEVEL=0")
    host, _, port = world.proxy.url.partition("//")[2].partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=old_client)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
    writer.transport.abort()


async def check_not_trusted(world: MatrixWorld, operation: MatrixOperation) -> None:
    with pytest.raises(TLSFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is TLSFailed
    assert caught.value.attempts == 1
    assert not caught.value.safe_to_retry
    assert world.clock.sleeps == []
    await check_not_sent(world, operation)


# F06, F07, F08: full pool, rate limit, open breaker.


@cells(*(f"F06-{operation.effect}" for operation in OPERATIONS))
async def test_full_pool_sends_nothing(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(options={"pool_size": 1})
    await world.set_up(operation)
    gate = injections.Gate()
    if operation.is_money:
        # Only another completion can fill the completion pool.
        other = world.sandbox.shop.create_customer(world.sandbox.username, "customer-2", {})
        world.sandbox.shop.add_item(other, "MNTBAE0001", 1)
        other_basket = await world.minted.baskets.get_active("customer-2")
        world.proxy.inject("POST", BUY.path, [gate])
        holding_call = asyncio.ensure_future(BUY.call(world.minted, other_basket))
    else:
        world.proxy.inject("GET", "/partner/walletable/rates", [gate])
        holding_call = asyncio.ensure_future(world.minted.rates.current())
    await gate.arrived.wait()
    world.proxy.proxied_requests.clear()
    with pytest.raises(PoolTimeout):
        await operation.call(world.minted.with_options(timeouts=Timeouts(pool=0.05)), world.basket)
    assert (world.sent(operation), world.clock.sleeps) == (0, [])
    gate.proceed.set()
    await holding_call
    if operation.is_money:
        assert world.states() == ["confirmed", "not_sent"]
        assert len(world.sandbox.shop.orders) == 1


@cells(*(f"F07-{operation.effect}" for operation in OPERATIONS))
async def test_rate_limit_beyond_deadline_sends_nothing(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    # `set_up` takes one token of the rate limit, and the preflight read another.
    world = await build(options={"rate_limit": RateLimit(rate=0.001, burst=2 if operation.is_money else 1)})
    await world.set_up(operation)
    with pytest.raises(LimiterTimeout):
        await operation.call(world.minted, world.basket)
    assert world.clock.sleeps == []
    await check_not_sent(world, operation)


async def open_circuit(world: MatrixWorld) -> None:
    world.proxy.inject("GET", "/partner/walletable/rates", [injections.respond(injections.envelope(500))])
    with pytest.raises(ServerError):
        await world.minted.with_options(retry=RetryPolicy.none()).rates.current()


@cells(*(f"F08-{operation.effect}" for operation in OPERATIONS), "F08-M-after-preflight")
async def test_open_circuit_sends_nothing(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(options={"breaker": BreakerPolicy(failures=1, cooldown=30)})
    await world.set_up(operation)
    if cell.endswith("preflight"):
        world.hooked_journal.after_prepare = lambda: open_circuit(world)
    else:
        await open_circuit(world)
    with pytest.raises(CircuitOpen):
        await operation.call(world.minted, world.basket)
    assert world.clock.sleeps == []
    await check_not_sent(world, operation, has_intent=cell.endswith("preflight"))
    world.clock.advance(30)
    assert operation.is_in_result(await operation.call(world.minted, world.basket))


# F09: cancelled during the handshake, before anything was sent.


async def world_in_handshake(build: Any, operation: MatrixOperation) -> tuple[MatrixWorld, asyncio.Event]:
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.set_up(operation)
    return world, await world.proxy.stall_handshakes()


@cells(
    *(f"F09-{operation.effect}-{way}" for operation in OPERATIONS for way in ("cancel", "timeout")),
    flavours=("async",),
)
async def test_cancelled_handshake_sends_nothing(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world, handshake_begun = await world_in_handshake(build, operation)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await handshake_begun.wait()
    if cell.endswith("cancel"):
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
        assert not hasattr(caught.value, "__notes__")
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await call
    await check_not_sent(world, operation, has_intent=True)


@cells(*(f"F09-{operation.effect}-close" for operation in OPERATIONS), flavours=("blocking",))
async def test_close_during_handshake_sends_nothing(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world, handshake_begun = await world_in_handshake(build, operation)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await handshake_begun.wait()
    await world.minted.close()
    with pytest.raises(ClientClosedError, match="closed while the call was in flight") as caught:
        await call
    assert not hasattr(caught.value, "__notes__")
    world.minted = await world.new_client()
    await check_not_sent(world, operation, has_intent=True)
