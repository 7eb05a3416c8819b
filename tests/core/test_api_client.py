"""Rate limiter, circuit breaker, retry budget and log of a call, through both clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from minted_connect import (
    APIError,
    AsyncMintedConnect,
    BreakerPolicy,
    BudgetExhausted,
    CircuitOpen,
    CompletionPolicy,
    IntegrityError,
    LimiterTimeout,
    NotFound,
    NotSent,
    Options,
    OutcomeUnknown,
    PermissionDenied,
    PoolTimeout,
    PriceFixExpired,
    ProtocolError,
    RateLimit,
    ResponseTooLarge,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    UnexpectedRedirect,
)
from minted_connect.core.throttle import RateLimiter
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD
from tests.support.raw_server import Connection, RawServer

ONCE = RetryPolicy.none()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def sandbox(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, clock=clock) as server:
        yield server


@pytest.fixture
def client(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Any:
    """Return a function that builds a client of the sandbox with these options."""

    def build(retry: RetryPolicy = ONCE, **options: Any) -> Any:
        return connect(
            sandbox.url, sandbox.username, sandbox.password, retry=retry, options=Options(clock=clock, **options)
        )

    return build


async def fails(minted: Any, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ServerError):
            await minted.rates.current()


@pytest.mark.requirement(7)
async def test_rate_limit_spaces_calls(client, clock, sandbox):
    minted = await client(rate_limit=RateLimit(rate=2, burst=2))
    for _ in range(4):
        await minted.rates.current()
    assert clock.sleeps == [0.5, 0.5]
    with pytest.raises(LimiterTimeout):
        await minted.with_options(deadline=0.2).rates.current()
    assert len(sandbox.requests.of("rates.current")) == 4 + 1  # the challenge


@pytest.mark.requirement(7)
async def test_rate_limit_counts_every_attempt(client, clock, sandbox):
    minted = await client(retry=RetryPolicy(), rate_limit=RateLimit(rate=0.1), random=lambda: 0.0)
    sandbox.faults.add("status", status=500)
    await minted.rates.current()
    assert clock.sleeps == [0.0, 10.0]  # the pause before the retry, then the wait for the limiter


async def test_breaker_opens_and_allows_one_probe(client, clock, sandbox):
    minted = await client(breaker=BreakerPolicy(failures=3, cooldown=30))
    fault = sandbox.faults.add("status", status=500, times=None)
    await fails(minted, 3)
    sandbox.requests.clear()
    with pytest.raises(CircuitOpen, match="3 times in a row") as caught:
        await minted.rates.current()
    assert caught.value.safe_to_retry
    assert len(sandbox.requests) == 0
    clock.advance(30)
    await fails(minted, 1)  # the probe
    with pytest.raises(CircuitOpen):
        await minted.rates.current()
    clock.advance(30)
    fault.remove()
    await minted.rates.current()
    await minted.rates.current()


async def test_breaker_ignores_404_responses(client, sandbox):
    minted = await client(breaker=BreakerPolicy(failures=1))
    for _ in range(3):
        with pytest.raises(NotFound):
            await minted.customers.get("nobody")
    sandbox.faults.add("drop_before_read")
    with pytest.raises(TransportError):
        await minted.rates.current()
    with pytest.raises(CircuitOpen):
        await minted.rates.current()


async def test_breaker_during_probe_rejects_other_calls(sandbox, clock):
    options = Options(clock=clock, breaker=BreakerPolicy(failures=1, cooldown=30))
    async with AsyncMintedConnect(
        sandbox.username, sandbox.password, base_url=sandbox.url, retry=ONCE, options=options
    ) as minted:
        sandbox.faults.add("status", status=500)
        await fails(minted, 1)
        clock.advance(30)
        fault = sandbox.faults.add("hang")
        probe = asyncio.create_task(minted.rates.current())
        while not fault.waiting:
            await asyncio.sleep(0)
        with pytest.raises(CircuitOpen):
            await minted.rates.current()
        # A cancelled probe proves nothing about the server, so the next call is the probe.
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert len(await minted.rates.current()) == 2


@pytest.mark.requirement(22)
async def test_reconcile_bypasses_open_breaker(client, sandbox):
    minted = await client(breaker=BreakerPolicy(failures=1, cooldown=3600))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert (await minted.complete.reconcile(caught.value)).reconciled


async def test_unsent_call_without_retry_budget_raises_exhausted(connect, clock):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        minted = await connect(
            f"http://127.0.0.1:{taken.getsockname()[1]}",
            retry=RetryPolicy(budget=4),
            options=Options(clock=clock),
        )
        with pytest.raises(BudgetExhausted, match="no connection to the server") as caught:
            await minted.rates.current()
    assert clock.sleeps == []
    assert caught.value.safe_to_retry


async def test_success_at_first_attempt_refunds_one_token(client, sandbox, clock):
    minted = await client(retry=RetryPolicy(budget=5))
    sandbox.faults.add("status", status=500)
    await minted.rates.current()  # spends all five tokens
    for left in (1, 2, 3, 4):
        sandbox.faults.add("status", status=500)
        await fails(minted, 1)
        await minted.rates.current()
        assert len(clock.sleeps) == 1, left
    await minted.rates.current()
    sandbox.faults.add("status", status=500)
    await minted.rates.current()
    assert len(clock.sleeps) == 2


@pytest.mark.requirement(32)
async def test_log_has_a_line_for_each_attempt(client, sandbox, caplog):
    minted = await client(retry=RetryPolicy(), random=lambda: 0.5)
    await minted.rates.current()
    sandbox.faults.add("drop_before_read")
    sandbox.faults.add("status", status=502)
    caplog.set_level(logging.DEBUG, "minted_connect")
    with pytest.raises(NotFound):
        await minted.customers.get("nobody")
    route = "GET /partner/customer/{}"
    assert [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "minted_connect"
    ] == [
        ("WARNING", f"{route}: attempt 1 failed (TransportError); next in 0.25 s"),
        ("DEBUG", f"{route}: 502 in 0.0 ms, attempt 2"),
        ("WARNING", f"{route}: attempt 2 failed (ServerError); next in 0.50 s"),
        ("DEBUG", f"{route}: 404 in 0.0 ms, attempt 3"),
    ]


async def test_malformed_response_error_names_the_request(client, sandbox):
    minted = await client()
    sandbox.faults.add("drop_field", field="*.buy_price")
    with pytest.raises(ProtocolError, match=r"GET /partner/walletable/rates: .*buy_price") as caught:
        await minted.rates.current()
    error = caught.value
    assert (error.status, error.method, error.path) == (200, "GET", "/partner/walletable/rates")
    assert error.request_id == sandbox.requests[-1].request_id
    assert error.problems == tuple(f"data[{row}].buy_price: required field missing" for row in (0, 1))


FAILURES: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("status", {"status": 403}, PermissionDenied),
    ("status", {"status": 500}, ServerError),
    ("success_false", {}, APIError),
    ("drop_field", {"field": "paid_total"}, ProtocolError),
    ("redirect", {}, UnexpectedRedirect),
    ("wrong_customer", {}, IntegrityError),
    ("too_large", {"size": 20_000}, ResponseTooLarge),
    ("truncate", {}, TransportError),
]


@pytest.mark.requirement(40)
@pytest.mark.parametrize(("kind", "args", "error"), FAILURES, ids=[kind for kind, _, _ in FAILURES])
async def test_error_has_request_id_and_attempts(client, sandbox, kind, args, error):
    minted = await client(retry=RetryPolicy(), random=lambda: 0.0, max_body=16_384)
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("status", method="GET", status=503, times=2)
    sandbox.faults.add(kind, method="GET", **args)
    with pytest.raises(error) as caught:
        await minted.baskets.get_active("customer-1", cart_token=basket.token)
    assert caught.value.attempts == 3
    assert (caught.value.method, caught.value.path) == ("GET", "/partner/walletable/basket")
    # Without a complete response there is no request id.
    known = not isinstance(caught.value, TransportError | ResponseTooLarge)
    assert getattr(caught.value, "request_id", None) == (sandbox.requests[-1].request_id if known else None)


async def test_integrity_error_of_page_has_request_id_and_attempts(client, sandbox):
    minted = await client(retry=RetryPolicy(), random=lambda: 0.0)
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    await minted.complete.buy(basket, expected_total=basket.paid_total)
    sandbox.faults.add("status", method="GET", status=503)
    sandbox.faults.add("wrong_customer", method="GET")
    with pytest.raises(IntegrityError) as caught:
        await minted.orders.page(customer_id="customer-1")
    assert (caught.value.request_id, caught.value.attempts) == (sandbox.requests[-1].request_id, 2)


@pytest.mark.requirement(40)
async def test_response_has_request_id_and_attempts(client, sandbox):
    minted = await client(retry=RetryPolicy(), random=lambda: 0.0)
    sandbox.faults.add("status", method="GET", status=503, times=2)
    response = await minted.request("GET", "/partner/walletable/rates")
    assert (response.request_id, response.attempts) == (sandbox.requests[-1].request_id, 3)
    assert (await minted.request("GET", "/partner/walletable/rates")).attempts == 1


async def test_update_missing_in_read_back_raises(connect, clock):
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            if first.startswith("PATCH"):
                connection.respond(b"<html>", 200)
            else:
                connection.envelope({"external_id": "customer-1"})

    async with RawServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        with pytest.raises(ProtocolError):
            await minted.customers.update("customer-1", email="grace@mail.example")


# A last attempt that was not sent does not prove that the earlier attempts had no effect.


@pytest.mark.parametrize("last", ["refused", "breaker"])
async def test_possibly_executed_update_never_raises_not_sent(connect, clock, last):
    async def once(connection: Connection) -> None:
        await connection.request()  # received, but never responded to
        if last == "refused":
            server._server.close()

    async with RawServer(once) as server:
        minted = await connect(
            server.url,
            options=Options(clock=clock, breaker=BreakerPolicy(failures=1) if last == "breaker" else None),
        )
        with pytest.raises(TransportError) as caught:
            await minted.customers.update("customer-1", firstname="Grace")
        assert not isinstance(caught.value, NotSent)
        assert server.requests[0][0].startswith("PATCH")


@pytest.mark.requirement(19)
async def test_price_fix_expiring_in_limiter_wait_is_not_bought(client, sandbox, clock):
    minted = await client(rate_limit=RateLimit(rate=0.1))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    clock.advance(228)  # the basket can still be read; its price fix expires during the next 10 s
    with pytest.raises(PriceFixExpired):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert sandbox.requests.of("complete.buy") == []


async def test_price_fix_counts_from_start_of_request(client, sandbox, clock):
    minted = await client()
    await minted.customers.create("customer-1")
    await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("delay_after_commit", method="GET", seconds=7)
    basket = await minted.baskets.get_active("customer-1")
    assert basket.price_fix.seconds_left <= basket.price_fix.remaining - 7


async def test_reconcile_uses_no_connection_of_purchases(client, sandbox):
    minted = await client(pool_size=1)
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    hang = sandbox.faults.add("hang", path="*/orders", times=None)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    other = await minted.baskets.add_item("customer-1", sku=GOLD)
    async with anyio.create_task_group() as group:
        group.start_soon(minted.complete.reconcile, caught.value)
        while not hang.waiting:
            await anyio.sleep(0)
        assert (await minted.complete.buy(other, expected_total=other.paid_total)).order
        hang.remove()
        group.cancel_scope.cancel()


@pytest.mark.requirement(21)
async def test_hanging_read_does_not_delay_purchase(client, sandbox):
    minted = await client(pool_size=1, completion=CompletionPolicy(pre_image="require"))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    hang = sandbox.faults.add("hang", path="*/rates")
    async with anyio.create_task_group() as group:
        group.start_soon(minted.rates.current)
        while not hang.waiting:
            await anyio.sleep(0)
        completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert completion.order.token == basket.token
        assert hang.waiting == 1
        hang.remove()


CONDITIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "full pool": ({"pool_size": 1}, PoolTimeout),
    "open breaker": ({"breaker": BreakerPolicy(failures=1, cooldown=3600)}, CircuitOpen),
    "rate limit": ({"rate_limit": RateLimit(rate=0.001, burst=4)}, LimiterTimeout),
    "empty retry budget": ({}, ServerError),
}


@pytest.mark.requirement(21)
@pytest.mark.parametrize("condition", CONDITIONS)
async def test_reconcile_bypasses_pool_limiter_breaker_and_budget(connect, sandbox, clock, condition):
    options, error = CONDITIONS[condition]
    minted = await connect(
        sandbox.url,
        sandbox.username,
        sandbox.password,
        retry=RetryPolicy(budget=0),
        timeouts=Timeouts(pool=0.05),
        options=Options(clock=clock, **options),
    )
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    async with anyio.create_task_group() as group:
        if condition == "full pool":
            hang = sandbox.faults.add("hang", path="*/rates")
            group.start_soon(minted.rates.current)
            while not hang.waiting:
                await anyio.sleep(0)
        if condition == "empty retry budget":
            sandbox.faults.add("status", path="*/rates")
        with pytest.raises(error):  # like every other call
            await minted.rates.current()
        sandbox.faults.add("status", path="*/orders")  # retried although the retry budget is empty
        assert (await minted.complete.reconcile(caught.value)).reconciled
        assert len(sandbox.requests.of("orders.page")) == 3
        sandbox.faults.clear()


@pytest.mark.requirement(22)
@pytest.mark.parametrize("condition", ["open breaker", "rate limit"])
async def test_blocked_purchase_raises_not_sent(client, clock, sandbox, condition):
    options, error = CONDITIONS[condition]
    minted = await client(**{**options, "rate_limit": options.get("rate_limit") and RateLimit(rate=0.001, burst=3)})
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    if condition == "open breaker":
        sandbox.faults.add("status", path="*/rates")
        await fails(minted, 1)
    before = len(sandbox.requests)
    with pytest.raises(error) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert isinstance(caught.value, NotSent)
    # An open breaker refuses the preflight read of the basket, too.
    assert len(sandbox.requests) - before == (0 if condition == "open breaker" else 1)
    assert sandbox.requests.of("complete.buy") == []
    assert await minted.complete.pending() == []
    assert clock.sleeps == []


async def test_cancelled_limiter_wait_returns_its_token():
    clock = ManualClock()
    limiter = RateLimiter(RateLimit(rate=1), clock)
    await limiter.wait(60)
    for _ in range(5):
        task = asyncio.create_task(limiter.wait(60))
        while not clock.sleepers:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    clock.advance(1)
    await limiter.wait(0)
