"""Clients made by `sandbox()` read the lag of their sandbox: without delays, refusals are confirmed at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import APIError, AsyncMintedConnect, CompletionPolicy, MintedConnect, Options
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from tests.conftest import Awaitably
from tests.support.operations import GOLD

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(46)]

COMPLETE = "*/complete/*"
REFUSALS = [(403, False), (404, True), (409, True), (429, False), (422, True), (200, True)]
by_refusal = pytest.mark.parametrize(("status", "is_envelope"), REFUSALS)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def buyer(flavour: str, clock: ManualClock) -> AsyncIterator[tuple[Any, Any]]:
    """Return a client made by `sandbox()`, and its sandbox."""
    async with AsyncExitStack() as stack:
        if flavour == "async":
            client = await stack.enter_async_context(AsyncMintedConnect.sandbox(seed=1, clock=clock))
            yield client, client.sandbox_server
        else:
            opened = MintedConnect.sandbox(seed=1, clock=clock)
            blocking = await anyio.to_thread.run_sync(opened.__enter__)
            stack.push_async_callback(anyio.to_thread.run_sync, opened.__exit__, None, None, None)
            yield Awaitably(blocking), blocking.sandbox_server


async def fill_basket(client: Any, customer: str = "customer-1") -> Any:
    await client.customers.create(customer, firstname="Ada", lastname="Lovelace")
    return await client.baskets.add_item(customer, sku=GOLD, qty=1)


@by_refusal
async def test_refusal_without_delays_is_confirmed_at_once(
    buyer: tuple[Any, Any], clock: ManualClock, status: int, is_envelope: bool
) -> None:
    client, server = buyer
    basket = await fill_basket(client)
    server.faults.add("refusal", path=COMPLETE, status=status, is_envelope=is_envelope, commit="never")
    with pytest.raises(APIError) as refused:
        await client.complete.buy(basket, expected_total=basket.paid_total)
    assert (refused.value.status, refused.value.is_confirmed) == (status, True)
    assert clock.monotonic() == 0
    assert server.shop.orders == []
    assert await client.complete.pending() == []


@by_refusal
@pytest.mark.parametrize("commit", ["before", "after"])
async def test_order_of_a_refused_purchase_is_found(
    buyer: tuple[Any, Any], clock: ManualClock, status: int, is_envelope: bool, commit: str
) -> None:
    client, server = buyer
    basket = await fill_basket(client)
    server.faults.add("refusal", path=COMPLETE, status=status, is_envelope=is_envelope, commit=commit, seconds=20)
    done = await client.complete.buy(basket, expected_total=basket.paid_total)
    assert [order.id for order in server.shop.orders] == [done.order.id]
    assert done.reconciled
    assert clock.monotonic() == (20 if commit == "after" else 0)


async def test_pending_late_commit_delays_the_confirmation(buyer: tuple[Any, Any], clock: ManualClock) -> None:
    client, server = buyer
    basket = await fill_basket(client)
    server.faults.add("late_commit", path="*/basket", times=1, seconds=12)
    server.faults.add("refusal", path=COMPLETE, status=403, commit="never")
    with pytest.raises(APIError):
        await client.complete.buy(basket, expected_total=basket.paid_total)
    # The late commit could also have applied to this completion.
    assert clock.monotonic() >= 12


@asynccontextmanager
async def open_delayed(flavour: str, clock: ManualClock, **modes: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Open a client that reads the lag of a sandbox with these modes, as `sandbox()` does."""
    options = Options(clock=clock)
    async with AsyncExitStack() as stack:
        if flavour == "async":
            server = await stack.enter_async_context(Sandbox(seed=1, clock=clock, **modes))
            client = AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options)
            await stack.enter_async_context(client)
            client._api.state.lag_source = server
            yield client, server
        else:
            threaded = ThreadedSandbox(seed=1, clock=clock, **modes)
            await anyio.to_thread.run_sync(threaded.__enter__)
            stack.push_async_callback(anyio.to_thread.run_sync, threaded.__exit__, None, None, None)
            login = threaded.username, threaded.password
            blocking = MintedConnect(*login, base_url=threaded.url, options=options)
            stack.push_async_callback(anyio.to_thread.run_sync, blocking.close)
            blocking._inner._api.state.lag_source = threaded
            yield Awaitably(blocking), threaded


@by_refusal
@pytest.mark.parametrize("commit", ["before", "after", "never"])
async def test_delayed_reads_delay_the_confirmation(
    flavour: str, clock: ManualClock, status: int, is_envelope: bool, commit: str
) -> None:
    modes = {"reads_lag": 6.0, "orders_lag": 4.0}
    async with open_delayed(flavour, clock, **modes) as (client, server):
        basket = await fill_basket(client)
        clock.advance(modes["reads_lag"])
        server.faults.add("refusal", path=COMPLETE, status=status, is_envelope=is_envelope, commit=commit, seconds=10)
        started = clock.monotonic()
        policy = CompletionPolicy()
        if status in policy.refusals and is_envelope and commit != "never":
            # The table of refusals excludes this case: a trusted refusal of an executed completion.
            return
        if commit == "never":
            with pytest.raises(APIError):
                await client.complete.buy(basket, expected_total=basket.paid_total)
            if status not in policy.refusals:
                assert clock.monotonic() - started == pytest.approx(10)
            assert server.shop.orders == []
        else:
            done = await client.complete.buy(basket, expected_total=basket.paid_total)
            assert [order.id for order in server.shop.orders] == [done.order.id]
            assert clock.monotonic() - started <= 20
