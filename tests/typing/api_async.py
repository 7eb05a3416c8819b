"""Type checks of the API of the asyncio client by mypy and pyright. Never run."""

# Both checkers report an expected error that no longer occurs.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import assert_type

from minted_connect import (
    AsyncMintedConnect,
    Basket,
    BasketKey,
    Completion,
    Credentials,
    Customer,
    Holding,
    Intent,
    IntentPage,
    IntentState,
    Invoice,
    MemoryJournal,
    MintedConnectError,
    Options,
    Order,
    OrderChange,
    OrderKind,
    OrderProgress,
    OrderStatus,
    OutcomeUnknown,
    Page,
    PingResult,
    PriceAlert,
    Product,
    Rate,
    RateFeed,
    RatePoint,
    Receipt,
    Reconciler,
    ReconcileResult,
    ReconcilerStatus,
    Response,
    ResponseInfo,
    RetryPolicy,
    Shipping,
    Tick,
    Timeouts,
    ValidationFailed,
)
from minted_connect.feed import Subscription
from minted_connect.sandbox import ManualClock, Sandbox


class Subclass(AsyncMintedConnect):
    """A subclass keeps its own type."""


async def fetch_password() -> Credentials:
    return Credentials("user", "password")


async def construction() -> None:
    assert_type(AsyncMintedConnect("user", "password"), AsyncMintedConnect)
    AsyncMintedConnect(
        "user",
        "password",
        base_url="https://api.example.com",
        timeouts=Timeouts(read=5),
        retry=RetryPolicy.none(),
        journal=MemoryJournal(),
        options=Options(pool_size=5),
    )
    AsyncMintedConnect("user", "password", journal=Path("journal.db"))
    AsyncMintedConnect("user", "password", "url")  # type: ignore[call-arg]
    AsyncMintedConnect("user", 1)  # type: ignore[arg-type]

    assert_type(Subclass.from_env(language="en", journal="journal.db", retry=RetryPolicy.none()), Subclass)
    AsyncMintedConnect("user", lambda: "password")
    AsyncMintedConnect("user", fetch_password)
    AsyncMintedConnect("user", lambda: 5)  # type: ignore[arg-type, return-value]
    async with Subclass.sandbox(seed=7, clock=ManualClock(), quirks="laravel") as minted:
        assert_type(minted, Subclass)
        assert_type(minted.sandbox_server, Sandbox)
        assert_type(minted.with_options(deadline=5, language="en"), Subclass)
    async with AsyncMintedConnect("user", "password") as entered:
        assert_type(entered, AsyncMintedConnect)
        assert_type(await entered.request("GET", "/anything", query={"a": "b"}), Response)
        assert_type(await entered.ping(), PingResult)
        assert_type((await entered.products.page()).response, ResponseInfo | None)
        assert_type(entered.with_options(extra_headers={"X-A": "1"}, extra_body={"a": 1}), AsyncMintedConnect)
        entered.with_options(extra_query={"a": 1})  # type: ignore[dict-item]


async def customers(minted: AsyncMintedConnect) -> None:
    assert_type(await minted.customers.create("id", firstname="Ada"), Customer)
    assert_type(await minted.customers.get("id"), Customer)
    assert_type(await minted.customers.update("id", email=None), Customer)
    assert_type(await minted.customers.remove("id"), None)
    await minted.customers.get()  # type: ignore[call-arg]
    await minted.customers.get(5)  # type: ignore[arg-type]


async def walks(minted: AsyncMintedConnect, order: Order) -> None:
    assert_type(await minted.products.page(per_page=5), Page[Product])
    assert_type(minted.products.pages(), AsyncGenerator[Page[Product], None])
    async for page in minted.products.pages(page=2, per_page=5):
        assert_type(page, Page[Product])
        assert_type(page.items, tuple[Product, ...])
        assert_type(next(iter(page)), Product)
    async for product in minted.products.iterate():
        assert_type(product, Product)
    assert_type(
        await minted.orders.page(tx_type=OrderKind.BUY, start=date(2026, 1, 1), end=date(2026, 2, 1)), Page[Order]
    )
    async for one in minted.orders.iterate(customer_id="id", status=[1, 2]):
        assert_type(one, Order)
    async for orders in minted.orders.pages(page=2, sort_by="total"):
        assert_type(orders, Page[Order])
    async for change in minted.orders.watch(order, patience=60):
        assert_type(change, OrderChange)
        assert_type(change.order, Order)
        assert_type(change.before, OrderProgress | None)
        assert_type(change.after.status, OrderStatus | str)
        assert_type(change.changed, frozenset[str])
    minted.orders.watch("id")  # type: ignore[arg-type]
    minted.orders.iterate(page=2)  # type: ignore[call-arg]
    minted.orders.pages(sort_by="colour")  # type: ignore[arg-type]


async def baskets(minted: AsyncMintedConnect, key: BasketKey) -> None:
    assert_type(await minted.baskets.get_active("id"), Basket | None)
    basket = await minted.baskets.add_item("id", sku="MNTBAE0001", type="sell")
    assert_type(basket, Basket)
    assert_type(basket.paid_total, Decimal)
    assert_type(await minted.baskets.add_item(key, sku="MNTBAE0001", qty=2), Basket)
    assert_type(await minted.baskets.update_item(basket, sku="MNTBAE0001", qty=3), Basket)
    assert_type(await minted.baskets.delete_item(key, sku="MNTBAE0001"), Basket)
    assert_type(await minted.baskets.clear(basket), Basket)
    assert_type(await minted.baskets.replace("id", {"MNTBAE0001": 3}, type="sell"), Basket)
    assert_type(await minted.baskets.replace(key, {"MNTBAE0001": 3}), Basket)
    await minted.baskets.replace(basket, {"MNTBAE0001": "3"})  # type: ignore[dict-item]
    await minted.baskets.update_item("id", sku="MNTBAE0001", qty=3)  # type: ignore[arg-type]


async def completion(minted: AsyncMintedConnect, basket: Basket, shipping: Shipping) -> None:
    done = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert_type(done, Completion)
    assert_type(done.order, Order | None)
    assert_type(done.order_id, int | None)
    assert_type(done.require_order(), Order)
    assert_type(basket.seconds_left, float | None)
    assert_type(basket.is_expired, bool)
    assert_type(await minted.complete.sell(basket, accept_price="current"), Completion)
    assert_type(await minted.complete.delivery(basket, shipping=shipping, expected_total=Decimal(1)), Completion)
    assert_type(await minted.complete.pending(), list[Intent])
    for intent in await minted.complete.pending():
        await minted.complete.decide(intent, "not_executed")
    for intent in await minted.complete.pending(all_accounts=True):
        assert_type(await minted.complete.adopt(intent), Intent)
    assert_type(minted.complete.intents(state="confirmed", since=datetime.now(UTC)), AsyncGenerator[Intent, None])
    page = await minted.complete.intents_page(state=[IntentState.UNKNOWN], per_page=10)
    assert_type(page, IntentPage)
    assert_type(page.next_after, int | None)
    assert_type(await minted.complete.intent(reference="order-7"), Intent | None)
    assert_type(await minted.complete.forget(before=datetime.now(UTC)), int)
    assert_type(await minted.complete.assign_reference("id", "order-7"), Intent)
    assert_type(await minted.complete.assign_reference("id", None), Intent)
    assert_type(await minted.complete.erase_customer("customer-1"), int)
    assert_type(await minted.complete.reconcile_all(budget=60.0, concurrency=8), list[ReconcileResult])
    async with minted.complete.reconciler(interval=30, on_result=lambda result: result.completion) as reconciler:
        assert_type(reconciler, Reconciler)
        assert_type(reconciler.is_active, bool)
        assert_type(reconciler.status, ReconcilerStatus)
        assert_type(reconciler.status.open_intents, int | None)
    for intent in await minted.complete.unfinished():
        assert_type(minted.orders.watch(intent), AsyncGenerator[OrderChange, None])
        assert_type(await minted.orders.wait(intent), Order)
    assert_type(await minted.orders.wait(done), Order)
    await minted.complete.buy(basket, expected_total=1.5)  # type: ignore[arg-type]
    try:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    except OutcomeUnknown as unknown:
        assert_type(unknown.intent, Intent)
        assert_type(await minted.complete.reconcile(unknown, fence=True), Completion)
    except ValidationFailed as refused:
        assert_type(refused.fields["sku"], tuple[str, ...])
    except MintedConnectError as error:
        assert_type(error.safe_to_retry, bool)


async def orders_and_wallet(minted: AsyncMintedConnect, order: Order) -> None:
    assert_type(await minted.orders.get(1, customer_id="id"), Order)
    assert_type(await minted.orders.wait(order, until=OrderStatus.SHIPPED, timeout=5), Order)
    assert_type(await minted.orders.receipt(1, customer_id="id"), Receipt)
    assert_type(await minted.orders.invoice("id"), Invoice)
    assert_type(await minted.wallet.balance("id", metals=["gold", "silver"]), tuple[Holding, ...])


async def rates(minted: AsyncMintedConnect) -> None:
    assert_type(await minted.rates.current(metals="gold"), tuple[Rate, ...])
    assert_type(await minted.rates.history(metal="gold", interval="hour"), tuple[RatePoint, ...])
    await minted.rates.history(metal="gold", interval="year")  # type: ignore[arg-type]

    feed = minted.rates.feed(interval=1)
    assert_type(feed, RateFeed)
    async with feed as entered:
        assert_type(entered, RateFeed)
        assert_type(feed.subscribe(metal="gold", buffer=10), Subscription)
        async for tick in feed.subscribe():
            assert_type(tick, Tick)
            assert_type(tick.buy, Decimal)
        assert_type(feed.latest(), Tick | None)
        assert_type(await feed.wait_for(lambda tick: tick.buy < 500, timeout=60), Tick)
        async for alert in feed.alerts(above=600, metal="gold"):
            assert_type(alert, PriceAlert)
        assert_type(feed.last_error, MintedConnectError | None)
