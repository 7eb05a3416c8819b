"""Deadlines, retries, and the retry budget that all calls share."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect import (
    APIError,
    AsyncMintedConnect,
    ConfigurationError,
    ConnectFailed,
    MintedConnectError,
    Options,
    OutcomeUnknown,
    RateLimited,
    RequestTimeout,
    RetryPolicy,
    ServerError,
    Timeouts,
)
from minted_connect.core.pool import PoolKind
from minted_connect.core.request import Effect
from minted_connect.core.retry import pause_before_retry
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer

CHALLENGE = 'WWW-Authenticate: Digest realm="x", nonce="{}", qop="auth", algorithm=SHA-256, stale=true\r\n'


# Deadline


class RecordingClock(ManualClock):
    """A clock that advances when a task sleeps, and records the end of each sleep."""

    def __init__(self) -> None:
        super().__init__(auto_advance=True)
        self.slept_until: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_until.append(self.monotonic() + seconds)
        await super().sleep(seconds)


steps = st.tuples(
    st.sampled_from(["fine", "challenge", "500", "503", "429", "drop", "cut", "html"]),
    st.floats(0, 12),
    st.integers(0, 30),
)


@pytest.mark.requirement(8)
@settings(deadline=None, max_examples=60)
@given(st.lists(steps, min_size=1, max_size=12), st.floats(5, 40), st.floats(1, 30), st.floats(0, 1, exclude_max=True))
def test_no_attempt_or_pause_begins_after_the_deadline(plan, deadline, read, roll):
    clock = RecordingClock()
    begun: list[float] = []

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            begun.append(clock.monotonic())
            response, seconds, asked = plan[min(len(begun), len(plan)) - 1]
            clock.advance(seconds)
            for _ in range(10):
                await asyncio.sleep(0)  # let the client notice that its timeout expired
            if response == "drop":
                return
            if response == "challenge":
                connection.envelope(None, 401, CHALLENGE.format(len(begun)))
            elif response == "cut":
                connection.respond(b"{", length=100)
                return
            elif response == "html":
                connection.respond(b"<html>")
            elif response == "fine":
                connection.envelope([])
            else:
                connection.envelope(None, int(response), f"Retry-After: {asked}\r\n" if response != "500" else "")

    async def make_call() -> None:
        options = Options(clock=clock, random=lambda: roll)
        async with (
            RawServer(script) as server,
            AsyncMintedConnect(
                "u",
                "p",
                base_url=server.url,
                options=options,
                retry=RetryPolicy(read_attempts=8),
                timeouts=Timeouts(read=read, total=deadline),
            ) as minted,
        ):
            try:
                await minted.rates.current()
            except MintedConnectError as error:
                assert getattr(error, "attempts", 1) <= len(begun)

    asyncio.run(make_call())
    assert all(time < deadline for time in [*begun, *clock.slept_until])


@pytest.mark.requirement(9)
@pytest.mark.parametrize(("read", "total", "begun"), [(15, 100, [0, 15, 30]), (15, 20, [0, 15]), (60, 20, [0])])
async def test_attempt_timeout_is_at_most_the_time_left(connect, read, total, begun):
    clock = ManualClock()
    asked: list[float] = []

    async def script(connection: Connection) -> None:
        await connection.request()
        asked.append(clock.monotonic())
        for _ in range(4):  # in steps, to detect a client that times out too early
            clock.advance(min(read, total - asked[-1]) / 4)
            await asyncio.sleep(0.01)  # the client may run in another thread
        await connection.reader.read()

    async with RawServer(script) as server:
        options = Options(clock=clock, random=lambda: 0.0)
        minted = await connect(server.url, options=options, timeouts=Timeouts(read=read, total=total))
        with pytest.raises(RequestTimeout) as caught:
            await minted.rates.current()
    assert asked == begun
    assert caught.value.attempts == len(begun)
    assert caught.value.elapsed == min(total, read * len(begun))


@pytest.mark.requirement(9)
@pytest.mark.parametrize(("deadline", "ends"), [(None, 45), (10, 10)])
async def test_completion_ends_after_read_timeout_or_deadline(connect, deadline, ends):
    clock = ManualClock()
    async with Sandbox(seed=1, clock=clock) as sandbox:
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = sandbox.faults.add("hang", path="*/complete/*")
        minted = minted if deadline is None else minted.with_options(deadline=deadline)
        buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
        while not fault.waiting:
            await asyncio.sleep(0)
        clock.advance(ends - 0.1)
        await asyncio.wait({buying}, timeout=0.05)
        assert not buying.done()
        clock.advance(0.1)
        with pytest.raises(OutcomeUnknown, match="is unknown") as caught:
            await buying
        assert f"no complete response within {ends} s" in caught.value.evidence[0]


@pytest.mark.requirement(8)
async def test_pool_wait_counts_towards_the_deadline(connect):
    clock = ManualClock()
    waits = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await waits.wait()
        connection.envelope([])
        await connection.request()
        clock.advance(6.1)  # the second request waited 4 of its 10 s for the connection
        await connection.reader.read()

    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock, pool_size=1), retry=RetryPolicy.none())
        first = asyncio.create_task(minted.rates.current())
        while not server.requests:
            await asyncio.sleep(0)
        second = asyncio.create_task(minted.with_options(deadline=10).rates.current())
        client = minted if isinstance(minted, AsyncMintedConnect) else minted._target._inner
        while not client._api.state.transport._pools[PoolKind.DEFAULT].slots._waiters:
            await asyncio.sleep(0)
        clock.advance(4)
        waits.set()
        await first
        with pytest.raises(RequestTimeout, match="within 6 s"):
            await second


@pytest.mark.requirement(11)
async def test_timeout_waiting_for_login_of_other_call_is_not_sent(connect):
    clock = ManualClock()

    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.reader.read()

    async with RawServer(silent) as server:
        minted = await connect(server.url, options=Options(clock=clock), retry=RetryPolicy.none())
        long_client = minted.with_options(timeouts=Timeouts(read=100, total=100))
        first = asyncio.create_task(long_client.rates.current())
        while not server.requests:
            await asyncio.sleep(0)
        second = asyncio.create_task(minted.request("POST", "/partner/x", json={}))
        client = minted if isinstance(minted, AsyncMintedConnect) else minted._target._inner
        while not client._api.state.transport._digest._state.leader._waiters:
            await asyncio.sleep(0)
        clock.advance(15)
        with pytest.raises(ConnectFailed, match="handshake started by another call") as caught:
            await second
        clock.advance(85)
        with pytest.raises(RequestTimeout):  # the first request was sent
            await first
    assert caught.value.safe_to_retry
    assert len(server.requests) == 1


@pytest.mark.requirement(10)
@pytest.mark.parametrize("field", attrs.fields(Timeouts), ids=lambda field: field.name)
def test_default_timeouts_are_finite_and_must_be(field):
    assert 0 < field.default < math.inf
    for endless in (math.inf, math.nan, 0, None):
        with pytest.raises(ConfigurationError, match=field.name):
            Timeouts(**{field.name: endless})


@pytest.mark.requirement(10)
async def test_read_without_configured_timeout_times_out(connect):
    clock = ManualClock()

    async def silent(connection: Connection) -> None:
        await connection.request()
        clock.advance(Timeouts().read)
        await connection.reader.read()

    async with RawServer(silent) as server:
        minted = await connect(server.url, options=Options(clock=clock), retry=RetryPolicy.none())
        with pytest.raises(RequestTimeout, match="within 15 s"):
            await minted.rates.current()


# Attempts and the pauses between them


@pytest.mark.requirement(2)
@given(
    st.integers(1, 30),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.001, 10),
    st.floats(0.001, 100),
)
def test_pause_has_full_jitter(attempt, roll, initial, maximum):
    policy = RetryPolicy(read_attempts=99, wait_initial=initial, wait_max=maximum)
    pause = pause_before_retry(Effect.READ, ServerError("x", 500), attempt, policy, left=1e6, roll=roll)
    assert pause == roll * min(maximum, initial * 2 ** (attempt - 1))


@pytest.mark.requirement(2)
def test_jitter_uses_random_by_default():
    assert Options().random is random.random


@pytest.mark.requirement(5)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 418, 422, 451])
async def test_refused_read_is_not_retried(connect, status):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, status)

    clock = ManualClock(auto_advance=True)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        with pytest.raises(APIError) as caught:
            await minted.rates.current()
    assert (caught.value.status, len(server.requests), clock.sleeps) == (status, 1, [])


@pytest.mark.requirement(4)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["31", "86400", "Fri, 20 Feb 2026 13:00:00 GMT", "99999999999999999999"])
async def test_retry_after_beyond_deadline_fails_at_once(connect, status, asked):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, status, f"Retry-After: {asked}\r\n")

    clock = ManualClock(auto_advance=True)
    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        with pytest.raises((RateLimited, ServerError)) as caught:
            await minted.rates.current()
    assert (len(server.requests), clock.sleeps) == (1, [])
    assert 30 < caught.value.retry_after < 400 * 86_400


@pytest.mark.parametrize(("asked", "error"), [(36, RateLimited), (61, OutcomeUnknown)])
async def test_throttled_purchase_is_sent_once_and_read_back_later(connect, asked, error):
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock) as sandbox:
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        sandbox.faults.add("rate_limit", path="*/complete/*", retry_after=asked)
        reads = len(sandbox.requests.of("orders.page"))
        with pytest.raises(error):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert clock.sleeps == ([asked] if error is RateLimited else [])
        assert len(sandbox.requests.of("complete.buy")) == 1
        assert (len(sandbox.requests.of("orders.page")) > reads) is (error is RateLimited)
        assert sandbox.shop.orders == []
        assert len(await minted.complete.pending()) == (error is OutcomeUnknown)


# Retry budget


@pytest.fixture
async def failing_server() -> AsyncIterator[RawServer]:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            connection.envelope(None, 500)

    async with RawServer(script) as server:
        yield server


DERIVED: list[dict[str, Any]] = [
    {"language": "en"},
    {"deadline": 20},
    {"retry": RetryPolicy(read_attempts=5, budget=1000)},
    {"timeouts": Timeouts(read=20)},
]


@pytest.mark.requirement(6)
async def test_derived_clients_share_one_retry_budget(connect, failing_server):
    options = Options(clock=ManualClock(auto_advance=True))
    minted = await connect(failing_server.url, options=options, retry=RetryPolicy(budget=12))
    clients = [minted, *(minted.with_options(**settings) for settings in DERIVED)]
    for one in [*clients, clients[1].with_options(language="ar")]:
        with pytest.raises(ServerError):
            await one.rates.current()
    assert len(failing_server.requests) == 6 + 2  # two retries at 5 tokens each, for all clients together


@pytest.mark.requirement(6)
async def test_concurrent_calls_share_one_retry_budget(connect, failing_server):
    options = Options(clock=ManualClock(auto_advance=True))
    minted = await connect(failing_server.url, options=options, retry=RetryPolicy(budget=12))

    async def call() -> None:
        with pytest.raises(ServerError):
            await minted.rates.current()

    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(call)
    assert len(failing_server.requests) == 16 + 2
