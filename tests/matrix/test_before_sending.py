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
from tests.matrix.outcomes import is_done, nothing_was_sent
from tests.matrix.world import MatrixWorld

# F01, F02, F03: no connection, for good or until the first pause.


async def unresolvable(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Use a host name that cannot be resolved, without a slow query to a real resolver."""
    known, lost = socket.getaddrinfo, True

    def lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        if lost and host == "localhost":
            return known(host, None, flags=socket.AI_NUMERICHOST)  # which it is not
        return known(host, *args, **kwargs)

    async def found() -> None:
        nonlocal lost
        lost = False

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return found


async def refused(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    await world.proxy.refuse()
    return world.proxy.accept


async def unanswered(world: MatrixWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    await world.proxy.fill()
    return world.proxy.accept


FAULTS = {"F01": unresolvable, "F02": refused, "F03": unanswered}
WAYS = ("once", "always")


async def cut_off(build: Any, row: str, operation: MatrixOperation) -> MatrixWorld:
    """Return a world whose client has at most a connection to read baskets, and none for this operation."""
    # A name is resolved once for each pool: only a new client resolves it again.
    # Connecting takes long on a busy machine: use a short timeout only where it must expire.
    timeouts = Timeouts(connect=0.4) if row == "F03" else Timeouts()
    world = await build(host="localhost" if row == "F01" else "127.0.0.1", timeouts=timeouts)
    world.proxy.keep_alive = operation.is_money
    await world.ready(operation)
    world.clock.sleeps.clear()
    if row == "F01" and not operation.is_money:
        world.minted = await world.another()
    return world


@pytest.mark.requirement(11)
@cells(*(f"{row}-{operation.effect}-{way}" for row in FAULTS for operation in OPERATIONS for way in WAYS))
async def test_no_connection(build: Any, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    operation = operation_of(cell)
    world = await cut_off(build, cell[:3], operation)
    fix = await FAULTS[cell[:3]](world, monkeypatch)
    if cell.endswith("once"):
        world.clock.meanwhile = fix
        assert operation.shown(await operation.call(world.minted, world.basket))
        await is_done(world, operation)
        assert [entry.status for entry in world.sandbox.requests.of(operation.name)].count(200) == 1
        assert len(world.clock.sleeps) == 1
        return
    with pytest.raises(ConnectFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is ConnectFailed
    assert caught.value.attempts == operation.most
    assert len(world.clock.sleeps) == operation.most - 1
    assert caught.value.safe_to_retry
    await nothing_was_sent(world, operation)
    await fix()
    assert operation.shown(await operation.call(world.minted, world.basket))
    await is_done(world, operation)


@cells(*(f"{row}-M-fix_over" for row in FAULTS))
async def test_no_connection_until_the_price_fix_is_over(
    build: Any, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    world = await cut_off(build, cell[:3], BUY)
    world.clock.advance(236.9)  # of 240 s; 3 s must be left, so there is no time for a pause
    fix = await FAULTS[cell[:3]](world, monkeypatch)
    with pytest.raises(ConnectFailed) as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.attempts == 1
    assert world.clock.sleeps == []
    await nothing_was_sent(world, BUY)
    await fix()
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


@cells(*(f"F{row:02}-M-fix_over-meanwhile" for row in (1, 2, 3)))
async def test_a_connection_that_comes_after_the_price_fix(
    build: Any, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    world = await cut_off(build, cell[:3], BUY)
    world.clock.advance(230)
    fix = await FAULTS[cell[:3]](world, monkeypatch)

    async def late() -> None:
        await fix()
        world.clock.advance(10)

    world.clock.meanwhile = late
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    assert len(world.clock.sleeps) == 1
    await nothing_was_sent(world, BUY)


# F04, F05: no trusted certificate.


def unknown_authority(world: MatrixWorld, authority: Any) -> None:
    type(authority)().issue_cert("127.0.0.1").configure_cert(world.proxy.tls)


def other_host(world: MatrixWorld, authority: Any) -> None:
    authority.issue_cert("elsewhere.example").configure_cert(world.proxy.tls)


def expired(world: MatrixWorld, authority: Any) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago).configure_cert(world.proxy.tls)


UNTRUSTED = {"authority": unknown_authority, "host": other_host, "expired": expired}


@cells(*(f"F04-{operation.effect}-{name}" for name in UNTRUSTED for operation in OPERATIONS))
async def test_nobody_to_be_trusted(build: Any, authority: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.ready(operation)
    # The certificate was right when the basket was read.
    UNTRUSTED[cell.rsplit("-", 1)[1]](world, authority)
    await distrusted(world, operation)


@cells(*(f"F05-{operation.effect}" for operation in OPERATIONS))
async def test_a_protocol_of_the_past(build: Any, authority: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.ready(operation)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(old)
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL itself would not serve it otherwise
    await world.proxy.shake_hands(old)
    await distrusted(world, operation)
    assert world.proxy.refused == ["UNSUPPORTED_PROTOCOL"]
    await served_to_who_wants_it(world, authority)


async def served_to_who_wants_it(world: MatrixWorld, authority: Any) -> None:
    """Control: the server accepts this connection, so the refusal above is the client's."""
    lax = ssl.create_default_context()
    authority.configure_trust(lax)
    with warnings.catch_warnings(action="ignore"):
        lax.minimum_version = ssl.TLSVersion.TLSv1
    lax.set_ciphers("ALL:@SECLEVEL=0")
    host, _, port = world.proxy.url.partition("//")[2].partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=lax)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
    writer.transport.abort()


async def distrusted(world: MatrixWorld, operation: MatrixOperation) -> None:
    with pytest.raises(TLSFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is TLSFailed
    assert caught.value.attempts == 1
    assert not caught.value.safe_to_retry
    assert world.clock.sleeps == []
    await nothing_was_sent(world, operation)


# F06, F07, F08: full pool, rate limit, open breaker.


@cells(*(f"F06-{operation.effect}" for operation in OPERATIONS))
async def test_no_place_comes_free(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(options={"pool_size": 1})
    await world.ready(operation)
    gate = injections.Gate()
    if operation.is_money:
        # Completions have a pool of their own, which only another completion can fill.
        other = world.sandbox.shop.create_customer(world.sandbox.username, "customer-2", {})
        world.sandbox.shop.add_item(other, "MNTBAE0001", 1)
        theirs = await world.minted.baskets.get_active("customer-2")
        world.proxy.inject("POST", BUY.path, [gate])
        occupied = asyncio.ensure_future(BUY.call(world.minted, theirs))
    else:
        world.proxy.inject("GET", "/partner/walletable/rates", [gate])
        occupied = asyncio.ensure_future(world.minted.rates.current())
    await gate.arrived.wait()
    world.proxy.proxied_requests.clear()
    with pytest.raises(PoolTimeout):
        await operation.call(world.minted.with_options(timeouts=Timeouts(pool=0.05)), world.basket)
    assert (world.sent(operation), world.clock.sleeps) == (0, [])
    gate.go_on.set()
    await occupied
    if operation.is_money:
        assert world.states() == ["confirmed", "not_sent"]
        assert len(world.sandbox.shop.orders) == 1


@cells(*(f"F07-{operation.effect}" for operation in OPERATIONS))
async def test_no_turn_before_the_deadline(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    # The preparation takes one token of the rate limit, and the preflight read another.
    world = await build(options={"rate_limit": RateLimit(rate=0.001, burst=2 if operation.is_money else 1)})
    await world.ready(operation)
    with pytest.raises(LimiterTimeout):
        await operation.call(world.minted, world.basket)
    assert world.clock.sleeps == []
    await nothing_was_sent(world, operation)


async def open_the_circuit(world: MatrixWorld) -> None:
    world.proxy.inject("GET", "/partner/walletable/rates", [injections.respond(injections.envelope(500))])
    with pytest.raises(ServerError):
        await world.minted.with_options(retry=RetryPolicy.none()).rates.current()


@cells(*(f"F08-{operation.effect}" for operation in OPERATIONS), "F08-M-after-the-look")
async def test_the_circuit_is_open(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world = await build(options={"breaker": BreakerPolicy(failures=1, cooldown=30)})
    await world.ready(operation)
    if cell.endswith("look"):
        world.writing.meanwhile = lambda: open_the_circuit(world)
    else:
        await open_the_circuit(world)
    with pytest.raises(CircuitOpen):
        await operation.call(world.minted, world.basket)
    assert world.clock.sleeps == []
    await nothing_was_sent(world, operation, written=cell.endswith("look"))
    world.clock.advance(30)
    assert operation.shown(await operation.call(world.minted, world.basket))


# F09: cancelled before anything was sent, during a handshake.


async def in_the_handshake(build: Any, operation: MatrixOperation) -> tuple[MatrixWorld, asyncio.Event]:
    world = await build(tls=True)
    world.proxy.keep_alive = operation.is_money
    await world.ready(operation)
    return world, await world.proxy.stall()


@cells(
    *(f"F09-{operation.effect}-{way}" for operation in OPERATIONS for way in ("cancel", "timeout")), flavours=("async",)
)
async def test_given_up_before_sending(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world, heard = await in_the_handshake(build, operation)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await heard.wait()
    if cell.endswith("cancel"):
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
        assert not hasattr(caught.value, "__notes__")
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await call
    await nothing_was_sent(world, operation, written=True)


@cells(*(f"F09-{operation.effect}-close" for operation in OPERATIONS), flavours=("blocking",))
async def test_closed_before_sending(build: Any, cell: str) -> None:
    operation = operation_of(cell)
    world, heard = await in_the_handshake(build, operation)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await heard.wait()
    await world.minted.close()
    with pytest.raises(ClientClosedError, match="closed while the call was in flight") as caught:
        await call
    assert not hasattr(caught.value, "__notes__")
    world.minted = await world.another()
    await nothing_was_sent(world, operation, written=True)
