"""Client and sandbox over HTTP: after any failure, an intent has at most one order, and the order is found."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.config import CompletionPolicy, Options, Timeouts
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    AuthenticationFailed,
    CompletionRejected,
    InvalidInput,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    Phase,
    PriceChanged,
    RateLimited,
    RequestTimeout,
    ValidationFailed,
)
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Basket, IntentState, OrderKind, OrderStatus
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import SHIPPING

pytestmark = pytest.mark.anyio

CUSTOMER = "customer-1"
GOLD = "MNTBAE0001"
COMPLETE = "*/complete/*"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(auto_advance=True)


@pytest.fixture
async def server(clock: ManualClock) -> AsyncIterator[Sandbox]:
    async with Sandbox(seed=1, clock=clock) as server:
        yield server


def connect(server: Sandbox, clock: ManualClock, **settings: Any) -> AsyncMintedConnect:
    return AsyncMintedConnect(
        server.username, server.password, base_url=server.url, options=Options(clock=clock), **settings
    )


@pytest.fixture
async def minted(server: Sandbox, clock: ManualClock, tmp_path: Path) -> AsyncIterator[AsyncMintedConnect]:
    timeouts = Timeouts(complete_read=1.0)
    async with connect(server, clock, journal=tmp_path / "journal.db", timeouts=timeouts) as client:
        await client.customers.create(CUSTOMER, firstname="Brant", lastname="Ankunding")
        yield client


async def fill_basket(minted: AsyncMintedConnect, *, qty: int = 3, kind: OrderKind = OrderKind.BUY) -> Basket:
    return await minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=qty, type=kind)


async def test_buy_sell_and_delivery_make_one_order_each(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    bought = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert bought.order is not None
    assert (bought.order.kind, bought.differences) == (OrderKind.BUY, ())
    basket = await fill_basket(minted, qty=1, kind=OrderKind.SELL)
    sold = await minted.complete.sell(basket, expected_total=basket.paid_total)
    assert sold.order is not None
    assert (sold.order.kind, sold.differences) == (OrderKind.SELL, ())
    basket = await fill_basket(minted, qty=1, kind=OrderKind.DELIVERY)
    shipped = await minted.complete.delivery(basket, shipping=SHIPPING, expected_total=basket.paid_total)
    assert shipped.order is not None
    assert (shipped.order.kind, shipped.differences) == (OrderKind.DELIVERY, ())
    assert shipped.order.shippingaddress is not None
    assert server.shop.holdings(CUSTOMER) == {GOLD: 1}
    assert len(server.shop.orders) == 3


async def test_completed_basket_raises_already_in_flight(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    done = await minted.complete.buy(basket, expected_total=basket.paid_total)
    with pytest.raises(AlreadyInFlight, match=f"it is order {done.keys['id']}"):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(server.shop.orders) == 1


async def test_basket_completed_by_another_client_raises_invalid_input(
    minted: AsyncMintedConnect, server: Sandbox, clock: ManualClock
) -> None:
    basket = await fill_basket(minted)
    async with connect(server, clock) as another:
        await another.complete.buy(basket, expected_total=basket.paid_total)
    with pytest.raises(InvalidInput, match="no longer open"):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(server.shop.orders) == 1


async def test_changed_price_raises_price_changed(
    minted: AsyncMintedConnect, server: Sandbox, clock: ManualClock
) -> None:
    basket = await fill_basket(minted)
    clock.advance(3600)
    with pytest.raises(PriceChanged) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert caught.value.expected == basket.paid_total
    assert isinstance(caught.value.actual, Decimal)
    assert server.shop.orders == []
    assert (await minted.complete.buy(basket, expected_total=caught.value.actual)).order is not None


COMMITTED: list[tuple[str, dict[str, Any]]] = [
    ("drop_after_commit", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("truncate", {"chunked": True}),
    ("html", {}),
    ("invalid_json", {}),
    ("duplicate_keys", {}),
    ("nan", {}),
    ("deep", {}),
    ("empty", {}),
    ("too_large", {}),
    ("gzip_bomb", {}),
    ("wrong_customer", {}),
    ("hang", {"commit": True}),
    ("status", {"status": 500, "commit": True}),
    ("status", {"status": 502, "html": True, "commit": True}),
    ("redirect", {"commit": True}),
]


@pytest.mark.parametrize(("kind", "arguments"), COMMITTED, ids=str)
async def test_executed_purchase_with_lost_response_is_reconciled(
    minted: AsyncMintedConnect, server: Sandbox, kind: Any, arguments: dict[str, Any]
) -> None:
    basket = await fill_basket(minted)
    fault = server.faults.add(kind, path=COMPLETE, **arguments)
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert fault.hits == 1
    assert caught.value.phase is not Phase.NOT_SENT
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    server.faults.clear()
    done = await minted.complete.reconcile(caught.value)
    assert done.order is not None
    assert (done.reconciled, done.order.token, done.differences) == (True, basket.token, ())
    assert len(server.shop.orders) == 1
    assert await minted.complete.pending() == []


LOST: list[tuple[str, dict[str, Any]]] = [
    ("drop_before_read", {}),
    ("drop_before_read", {"reset": True}),
    ("hang", {}),
    ("status", {"status": 500}),
    ("status", {"status": 503, "retry_after": 1}),
    ("redirect", {}),
]


@pytest.mark.parametrize(("kind", "arguments"), LOST, ids=str)
async def test_lost_request_stays_unknown_and_pending(
    minted: AsyncMintedConnect, server: Sandbox, kind: Any, arguments: dict[str, Any]
) -> None:
    basket = await fill_basket(minted)
    server.faults.add(kind, path=COMPLETE, **arguments)
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    with pytest.raises(AlreadyInFlight):
        await minted.complete.buy(basket, accept_price="current")
    with pytest.raises(OutcomeUnknown) as still:
        await minted.complete.reconcile(caught.value, fence=True)
    assert still.value.evidence[1] == "probably not executed"
    assert server.shop.orders == []
    assert len(await minted.complete.pending()) == 1


REFUSED: list[tuple[str, dict[str, Any], type[Exception]]] = [
    ("status", {"status": 422}, ValidationFailed),
    ("status", {"status": 422, "envelope": False}, ValidationFailed),
    ("status", {"status": 403}, APIError),
    ("status", {"status": 404}, NotFound),
    ("status", {"status": 409}, APIError),
    ("success_false", {}, APIError),
    ("rate_limit", {"retry_after": 1}, RateLimited),
]


@pytest.mark.parametrize(("kind", "arguments", "error"), REFUSED, ids=str)
async def test_refused_purchase_raises_and_frees_the_basket(
    minted: AsyncMintedConnect, server: Sandbox, kind: Any, arguments: dict[str, Any], error: type[Exception]
) -> None:
    basket = await fill_basket(minted)
    server.faults.add(kind, path=COMPLETE, **arguments)
    with pytest.raises(error):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert await minted.complete.pending() == []
    assert server.shop.orders == []
    # Nothing was executed, so the basket can be completed again.
    await minted.complete.buy(basket, accept_price="current")
    assert len(server.shop.orders) == 1


@pytest.mark.requirement(45)
async def test_throttled_completion_is_posted_once(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    server.faults.add("rate_limit", path=COMPLETE, retry_after=1)
    with pytest.raises(RateLimited) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert not caught.value.safe_to_retry
    assert len(server.requests.of("complete.buy")) == 1
    assert await minted.complete.pending() == []


async def test_refusal_with_long_retry_after_is_settled_by_reconcile(
    minted: AsyncMintedConnect, server: Sandbox
) -> None:
    basket = await fill_basket(minted)
    server.faults.add("rate_limit", path=COMPLETE, retry_after=3600)
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(await minted.complete.pending()) == 1
    with pytest.raises(CompletionRejected) as rejected:
        await minted.complete.reconcile(caught.value)
    assert rejected.value.order is None
    assert await minted.complete.pending() == []


@pytest.mark.parametrize("committed", [False, True])
async def test_refusal_of_an_executed_purchase_is_confirmed(
    minted: AsyncMintedConnect, server: Sandbox, committed: bool
) -> None:
    basket = await fill_basket(minted)
    server.faults.add("status", path=COMPLETE, status=403, commit=committed)
    if committed:
        assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).reconciled
    else:
        with pytest.raises(APIError):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert len(server.shop.orders) == int(committed)


async def test_stale_nonce_is_retried_and_makes_one_order(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    server.faults.add("stale_nonce", path=COMPLETE)
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
    assert len(server.shop.orders) == 1


async def test_response_without_a_field_is_confirmed_by_its_keys(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    server.faults.add("drop_field", path=COMPLETE, field="paid_total")
    done = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert done.order is None
    assert done.keys["id"] == str(server.shop.orders[0].id)


async def test_wrong_password_raises_authentication_failed(
    minted: AsyncMintedConnect, server: Sandbox, clock: ManualClock
) -> None:
    basket = await fill_basket(minted)
    async with AsyncMintedConnect(server.username, "wrong", base_url=server.url, options=Options(clock=clock)) as other:
        with pytest.raises(AuthenticationFailed):
            await other.complete.buy(basket, expected_total=basket.paid_total)
    assert server.shop.orders == []


async def test_cancelled_purchase_is_pending_and_reconciled(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    fault = server.faults.add("hang", path=COMPLETE, commit=True)
    task = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
    while not fault.waiting:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    [intent] = await minted.complete.pending()
    assert intent.id in caught.value.__notes__[0]
    assert (await minted.complete.reconcile(intent)).reconciled
    assert len(server.shop.orders) == 1


async def test_restarted_client_reconciles_the_pending_intent(
    minted: AsyncMintedConnect, server: Sandbox, clock: ManualClock, tmp_path: Path
) -> None:
    basket = await fill_basket(minted)
    server.faults.add("drop_after_commit", path=COMPLETE)
    with pytest.raises(OutcomeUnknown):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    async with connect(server, clock, journal=SqliteJournal(tmp_path / "journal.db")) as restarted:
        with pytest.raises((AlreadyInFlight, InvalidInput)):
            await restarted.complete.buy(basket, expected_total=basket.paid_total)
        [intent] = await restarted.complete.pending()
        assert (await restarted.complete.reconcile(intent)).reconciled
        assert await restarted.complete.pending() == []
    assert len(server.shop.orders) == 1


BUYER = """
import asyncio, sys
from minted_connect import AsyncMintedConnect
async def main():
    url, username, password, journal = sys.argv[1:]
    async with AsyncMintedConnect(username, password, base_url=url, journal=journal) as minted:
        basket = await minted.baskets.get_active("customer-1")
        await minted.complete.buy(basket, expected_total=basket.paid_total)
asyncio.run(main())
"""


@pytest.mark.requirement(13)
@pytest.mark.parametrize("committed", [False, True])
async def test_process_killed_before_the_response_leaves_the_intent(
    minted: AsyncMintedConnect, server: Sandbox, tmp_path: Path, committed: bool
) -> None:
    await fill_basket(minted)
    fault = server.faults.add("hang", path=COMPLETE, commit=committed)
    arguments = (server.url, server.username, server.password, str(tmp_path / "journal.db"))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", BUYER, *arguments, cwd=ROOT)
    while not fault.waiting:
        assert process.returncode is None
        await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    server.faults.clear()
    [intent] = await minted.complete.pending()
    assert intent.state == IntentState.PREPARED
    if committed:
        assert (await minted.complete.reconcile(intent)).reconciled
        assert await minted.complete.pending() == []
    assert len(server.shop.orders) == int(committed)


async def test_two_clients_with_one_journal_make_one_order(
    minted: AsyncMintedConnect, server: Sandbox, clock: ManualClock, tmp_path: Path
) -> None:
    basket = await fill_basket(minted)
    async with connect(server, clock, journal=tmp_path / "journal.db") as other:
        results = await asyncio.gather(
            *(client.complete.buy(basket, expected_total=basket.paid_total) for client in (minted, other)),
            return_exceptions=True,
        )
    assert sum(isinstance(result, AlreadyInFlight | InvalidInput) for result in results) == 1
    assert len(server.shop.orders) == 1


async def test_concurrent_calls_for_one_basket_share_the_result(minted: AsyncMintedConnect, server: Sandbox) -> None:
    basket = await fill_basket(minted)
    results = await asyncio.gather(*(minted.complete.buy(basket, expected_total=basket.paid_total) for _ in range(8)))
    assert len({id(result) for result in results}) == 1
    assert len(server.shop.orders) == 1


async def test_reconcile_waits_for_delayed_orders(clock: ManualClock) -> None:
    async with Sandbox(seed=1, clock=clock, orders_lag=20.0) as server, connect(server, clock) as minted:
        await minted.customers.create(CUSTOMER)
        basket = await fill_basket(minted)
        server.faults.add("drop_after_commit", path=COMPLETE)
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert (await minted.complete.reconcile(caught.value)).reconciled


async def test_fence_waits_until_a_late_request_cannot_execute(server: Sandbox, clock: ManualClock) -> None:
    policy = CompletionPolicy(fence_proves_not_executed=True, latest_landing=60.0)
    options = Options(clock=clock, completion=policy)
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        await minted.customers.create(CUSTOMER)
        basket = await fill_basket(minted)
        fault = server.faults.add("late_commit", path=COMPLETE, seconds=50.0)
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        with pytest.raises(NotExecuted):
            await minted.complete.reconcile(caught.value, fence=True)
        # The next purchase uses the same basket: no request of the previous purchase may still execute it.
        await fill_basket(minted, qty=1)
        clock.advance(60.0)
        for _ in range(20):
            await asyncio.sleep(0)
    assert fault.hits == 1
    assert server.shop.orders == []


@pytest.mark.parametrize("fault_kind", ["drop_after_commit", "hang"])
async def test_interrupted_fence_is_settled_by_another_client(
    server: Sandbox, clock: ManualClock, tmp_path: Path, fault_kind: Any
) -> None:
    def process(budget: float) -> AsyncMintedConnect:
        policy = CompletionPolicy(fence_proves_not_executed=True, reconcile_budget=budget)
        options = Options(clock=clock, completion=policy)
        account = (server.username, server.password)
        return AsyncMintedConnect(*account, base_url=server.url, options=options, journal=tmp_path / "journal.db")

    async with process(2.0) as first:
        await first.customers.create(CUSTOMER)
        basket = await fill_basket(first)
        server.faults.add("drop_before_read", path=COMPLETE)
        with pytest.raises(OutcomeUnknown) as caught:
            await first.complete.buy(basket, expected_total=basket.paid_total)
        fault = server.faults.add(fault_kind, method="DELETE", path="*/basket/empty")
        with pytest.raises(OutcomeUnknown):
            await first.complete.reconcile(caught.value, fence=True)
        assert fault.hits == 1
    async with process(120.0) as second:
        (pending,) = await second.complete.pending()
        assert pending.fenced_at is not None
        if fault_kind == "hang":  # the basket was not cleared, so it can still be cleared
            with pytest.raises(OutcomeUnknown):
                await second.complete.reconcile(pending)
        with pytest.raises(NotExecuted):
            await second.complete.reconcile(pending, fence=fault_kind == "hang")
        assert await second.complete.pending() == []
    assert server.shop.orders == []


@pytest.mark.parametrize("keep_ids", [True, False])
async def test_old_basket_is_reconciled_with_its_order(clock: ManualClock, keep_ids: bool) -> None:
    async with Sandbox(seed=1, clock=clock, keep_ids=keep_ids) as server, connect(server, clock) as minted:
        await minted.customers.create(CUSTOMER)
        await fill_basket(minted)
        clock.advance(7 * 86_400)
        basket = await minted.baskets.get_active(CUSTOMER)
        assert basket is not None
        server.faults.add("drop_after_commit", path=COMPLETE)
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        done = await minted.complete.reconcile(caught.value)
    assert done.order is not None
    assert (clock.wall() - done.order.order_at).days >= 6
    assert (done.order.id == basket.id) is keep_ids


async def test_wait_and_watch_follow_an_order_until_final(minted: AsyncMintedConnect, clock: ManualClock) -> None:
    basket = await fill_basket(minted)
    order = (await minted.complete.buy(basket, expected_total=basket.paid_total)).order
    assert order is not None
    with pytest.raises(RequestTimeout, match="still Pending"):
        await minted.orders.wait(order, timeout=5)
    seen = [change.after.status async for change in minted.orders.watch(order)]
    assert seen[-1] == OrderStatus.COMPLETED
    assert len(seen) == len(set(seen))
    final = await minted.orders.wait(order)
    assert final.is_final
    assert await minted.orders.wait(final, until="Shipped") == final
    assert [one async for one in minted.orders.watch(final)] == []
    receipt = await minted.orders.receipt(order.id, customer_id=CUSTOMER)
    assert receipt.order_id == order.id
    assert (await minted.orders.invoice(order.guid)).guid == order.guid
