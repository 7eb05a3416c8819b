"""Limiter, breaker, retry budget and log of a call, through both clients."""

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
from tests.support.raw_server import Connection, WireServer

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
    """Build a client of the sandbox with these options."""

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
async def test_the_rate_limit_spaces_calls(client, clock, sandbox):
    minted = await client(rate_limit=RateLimit(rate=2, burst=2))
    for _ in range(4):
        await minted.rates.current()
    assert clock.sleeps == [0.5, 0.5]
    with pytest.raises(LimiterTimeout):
        await minted.with_options(deadline=0.2).rates.current()
    assert len(sandbox.requests.of("rates.current")) == 4 + 1  # the challenge


@pytest.mark.requirement(7)
async def test_the_rate_limit_counts_every_attempt(client, clock, sandbox):
    minted = await client(retry=RetryPolicy(), rate_limit=RateLimit(rate=0.1), random=lambda: 0.0)
    sandbox.faults.add("status", status=500)
    await minted.rates.current()
    assert clock.sleeps == [0.0, 10.0]  # the retry's own pause, then the limiter's


async def test_the_breaker_opens_and_lets_one_probe_through(client, clock, sandbox):
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


async def test_a_no_of_the_server_does_not_open_the_breaker(client, sandbox):
    minted = await client(breaker=BreakerPolicy(failures=1))
    for _ in range(3):
        with pytest.raises(NotFound):
            await minted.customers.get("nobody")
    sandbox.faults.add("drop_before_read")
    with pytest.raises(TransportError):
        await minted.rates.current()
    with pytest.raises(CircuitOpen):
        await minted.rates.current()


async def test_while_the_probe_runs_nothing_else_does(sandbox, clock):
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
        # A cancelled probe says nothing about the server: the next call is the probe.
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert len(await minted.rates.current()) == 2


@pytest.mark.requirement(22)
async def test_reconciling_does_not_mind_an_open_breaker(client, sandbox):
    minted = await client(breaker=BreakerPolicy(failures=1, cooldown=3600))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert (await minted.complete.reconcile(caught.value)).reconciled


async def test_what_was_not_sent_says_that_the_budget_is_spent(connect, clock):
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


async def test_a_clean_success_gives_a_token_back(client, sandbox, clock):
    minted = await client(retry=RetryPolicy(budget=5))
    sandbox.faults.add("status", status=500)
    await minted.rates.current()  # takes all five
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
async def test_the_log_is_a_line_an_attempt(client, sandbox, caplog):
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


async def test_an_answer_of_another_shape_names_the_request(client, sandbox):
    minted = await client()
    sandbox.faults.add("drop_field", field="*.buy_price")
    with pytest.raises(ProtocolError, match=r"GET /partner/walletable/rates: .*buy_price") as caught:
        await minted.rates.current()
    error = caught.value
    assert (error.status, error.method, error.path) == (200, "GET", "/partner/walletable/rates")
    assert error.request_id == sandbox.requests[-1].request_id
    assert error.problems == tuple(f"data[{row}].buy_price: required field missing" for row in (0, 1))


THIRD: list[tuple[str, dict[str, Any], type[Exception]]] = [
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
@pytest.mark.parametrize(("kind", "args", "error"), THIRD, ids=[kind for kind, _, _ in THIRD])
async def test_what_fails_says_which_exchange_it_was_and_at_which_attempt(client, sandbox, kind, args, error):
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


async def test_rows_of_others_say_which_exchange_it_was(client, sandbox):
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
async def test_a_result_says_which_exchange_it_was_and_at_which_attempt(client, sandbox):
    minted = await client(retry=RetryPolicy(), random=lambda: 0.0)
    sandbox.faults.add("status", method="GET", status=503, times=2)
    reply = await minted.request("GET", "/partner/walletable/rates")
    assert (reply.request_id, reply.attempts) == (sandbox.requests[-1].request_id, 3)
    assert (await minted.request("GET", "/partner/walletable/rates")).attempts == 1


async def test_a_change_that_cannot_be_seen_is_not_confirmed(connect, clock):
    async def script(connection: Connection) -> None:
        while True:
            first, _, _ = await connection.request()
            if first.startswith("PATCH"):
                connection.answer(b"<html>", 200)
            else:
                connection.envelope({"external_id": "customer-1"})

    async with WireServer(script) as server:
        minted = await connect(server.url, options=Options(clock=clock))
        with pytest.raises(ProtocolError):
            await minted.customers.update("customer-1", email="grace@mail.example")


# A refusal of the last attempt is not a refusal of the call.


@pytest.mark.parametrize("last", ["refused", "breaker"])
async def test_what_may_have_landed_is_never_called_not_sent(connect, clock, last):
    async def once(connection: Connection) -> None:
        await connection.request()  # received, without a response
        if last == "refused":
            server._server.close()

    async with WireServer(once) as server:
        minted = await connect(
            server.url,
            options=Options(clock=clock, breaker=BreakerPolicy(failures=1) if last == "breaker" else None),
        )
        with pytest.raises(TransportError) as caught:
            await minted.customers.update("customer-1", firstname="Grace")
        assert not isinstance(caught.value, NotSent)
        assert server.requests[0][0].startswith("PATCH")


@pytest.mark.requirement(19)
async def test_a_price_that_runs_out_while_waiting_for_the_limiter_is_not_bought(client, sandbox, clock):
    minted = await client(rate_limit=RateLimit(rate=0.1))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    clock.advance(228)  # the basket can still be read, and 10 s later its lock is over
    with pytest.raises(PriceFixExpired):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert sandbox.requests.of("complete.buy") == []


async def test_the_lock_counts_from_when_it_was_asked_for(client, sandbox, clock):
    minted = await client()
    await minted.customers.create("customer-1")
    await minted.baskets.add_item("customer-1", sku=GOLD)
    sandbox.faults.add("delay_after_commit", method="GET", seconds=7)
    basket = await minted.baskets.get_active("customer-1")
    assert basket.price_fix.seconds_left <= basket.price_fix.remaining - 7


async def test_reconciling_leaves_the_places_of_purchases_alone(client, sandbox):
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
async def test_everyday_calls_do_not_hold_purchases_up(client, sandbox):
    minted = await client(pool_size=1, completion=CompletionPolicy(pre_image="require"))
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    hang = sandbox.faults.add("hang", path="*/rates")
    async with anyio.create_task_group() as group:
        group.start_soon(minted.rates.current)
        while not hang.waiting:
            await anyio.sleep(0)
        done = await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert done.order.token == basket.token
        assert hang.waiting == 1
        hang.remove()


TROUBLES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "no place in the pool": ({"pool_size": 1}, PoolTimeout),
    "an open breaker": ({"breaker": BreakerPolicy(failures=1, cooldown=3600)}, CircuitOpen),
    "a rate limit": ({"rate_limit": RateLimit(rate=0.001, burst=4)}, LimiterTimeout),
    "a spent budget": ({}, ServerError),
}


@pytest.mark.requirement(21)
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_nothing_holds_reconciling_up(connect, sandbox, clock, trouble):
    options, refusal = TROUBLES[trouble]
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
        if trouble == "no place in the pool":
            hang = sandbox.faults.add("hang", path="*/rates")
            group.start_soon(minted.rates.current)
            while not hang.waiting:
                await anyio.sleep(0)
        if trouble == "a spent budget":
            sandbox.faults.add("status", path="*/rates")
        with pytest.raises(refusal):  # every other call
            await minted.rates.current()
        sandbox.faults.add("status", path="*/orders")  # retried without a token
        assert (await minted.complete.reconcile(caught.value)).reconciled
        assert len(sandbox.requests.of("orders.page")) == 3
        sandbox.faults.clear()


@pytest.mark.requirement(22)
@pytest.mark.parametrize("trouble", ["an open breaker", "a rate limit"])
async def test_a_purchase_that_is_held_back_was_not_sent(client, clock, sandbox, trouble):
    options, refusal = TROUBLES[trouble]
    minted = await client(**{**options, "rate_limit": options.get("rate_limit") and RateLimit(rate=0.001, burst=3)})
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku=GOLD)
    if trouble == "an open breaker":
        sandbox.faults.add("status", path="*/rates")
        await fails(minted, 1)
    before = len(sandbox.requests)
    with pytest.raises(refusal) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert isinstance(caught.value, NotSent)
    assert len(sandbox.requests) - before == (0 if trouble == "an open breaker" else 1)  # the read of the basket
    assert sandbox.requests.of("complete.buy") == []
    assert await minted.complete.pending() == []
    assert clock.sleeps == []


async def test_who_gives_up_gives_the_turn_back():
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
