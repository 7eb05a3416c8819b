"""Type checks of the API of the blocking client by mypy and pyright, including lifted methods. Never run."""

# Both checkers report an expected error that no longer occurs.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import assert_type

from minted_connect import (
    Basket,
    BasketKey,
    BlockingRateFeed,
    BlockingReconciler,
    Completion,
    Credentials,
    Customer,
    Holding,
    Intent,
    IntentPage,
    IntentState,
    Invoice,
    MemoryJournal,
    MintedConnect,
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
    RatePoint,
    Receipt,
    ReconcileResult,
    ReconcilerStatus,
    Response,
    ResponseInfo,
    RetryPolicy,
    Shipping,
    Tick,
    Timeouts,
)
from minted_connect.blocking import BlockingSubscription
from minted_connect.sandbox import ManualClock, ThreadedSandbox


class Subclass(MintedConnect):
    """A subclass keeps its own type."""


async def fetch_password() -> Credentials:
    return Credentials("user", "password")


def construction() -> None:
    assert_type(MintedConnect("user", "password"), MintedConnect)
    MintedConnect(
        "user",
        "password",
        base_url="https://api.example.com",
        timeouts=Timeouts(read=5),
        retry=RetryPolicy.none(),
        journal=MemoryJournal(),
        options=Options(pool_size=5),
    )
    MintedConnect("user", "password", journal=Path("journal.db"))
    MintedConnect("user", "password", "url")  # type: ignore[call-arg]
    MintedConnect("user", "password", session=None)  # type: ignore[call-arg]

    assert_type(Subclass.from_env(language="en", journal="journal.db", retry=RetryPolicy.none()), Subclass)
    MintedConnect("user", lambda: "password")
    MintedConnect("user", fetch_password)
    MintedConnect("user", lambda: 5)  # type: ignore[arg-type, return-value]
    with Subclass.sandbox(seed=7, clock=ManualClock(), quirks="laravel") as minted:
        assert_type(minted, Subclass)
        assert_type(minted.sandbox_server, ThreadedSandbox)
        assert_type(minted.with_options(deadline=5, language="en"), Subclass)
    with MintedConnect("user", "password") as entered:
        assert_type(entered, MintedConnect)
        assert_type(entered.request("GET", "/anything", query={"a": "b"}), Response)
        assert_type(entered.ping(), PingResult)
        assert_type((entered.products.page()).response, ResponseInfo | None)
        assert_type(entered.with_options(extra_headers={"X-A": "1"}, extra_body={"a": 1}), MintedConnect)
        entered.with_options(extra_query={"a": 1})  # type: ignore[dict-item]
        entered.close()


def customers(minted: MintedConnect) -> None:
    assert_type(minted.customers.create("id", firstname="Ada"), Customer)
    assert_type(minted.customers.get("id"), Customer)
    assert_type(minted.customers.update("id", email=None), Customer)
    assert_type(minted.customers.remove("id"), None)
    minted.customers.get()  # type: ignore[call-arg]
    minted.customers.get(5)  # type: ignore[arg-type]
    minted.customers.update("id", colour="red")  # type: ignore[call-arg]


def walks(minted: MintedConnect, order: Order) -> None:
    assert_type(minted.products.page(per_page=5), Page[Product])
    assert_type(minted.products.pages(), Generator[Page[Product], None, None])
    for page in minted.products.pages(page=2, per_page=5):
        assert_type(page, Page[Product])
        assert_type(page.items, tuple[Product, ...])
        assert_type(next(iter(page)), Product)
    for product in minted.products.iterate():
        assert_type(product, Product)
    assert_type(minted.orders.page(tx_type=OrderKind.BUY, start=date(2026, 1, 1), end=date(2026, 2, 1)), Page[Order])
    for one in minted.orders.iterate(customer_id="id", status=[1, 2]):
        assert_type(one, Order)
    for orders in minted.orders.pages(page=2, sort_by="total"):
        assert_type(orders, Page[Order])
    for change in minted.orders.watch(order, patience=60):
        assert_type(change, OrderChange)
        assert_type(change.order, Order)
        assert_type(change.before, OrderProgress | None)
        assert_type(change.after.status, OrderStatus | str)
        assert_type(change.changed, frozenset[str])
    minted.orders.watch("id")  # type: ignore[arg-type]
    minted.orders.iterate(page=2)  # type: ignore[call-arg]
    minted.orders.pages(sort_by="colour")  # type: ignore[arg-type]


def baskets(minted: MintedConnect, key: BasketKey) -> None:
    assert_type(minted.baskets.get_active("id"), Basket | None)
    basket = minted.baskets.add_item("id", sku="MNTBAE0001", type="sell")
    assert_type(basket, Basket)
    assert_type(basket.paid_total, Decimal)
    assert_type(minted.baskets.add_item(key, sku="MNTBAE0001", qty=2), Basket)
    assert_type(minted.baskets.update_item(basket, sku="MNTBAE0001", qty=3), Basket)
    assert_type(minted.baskets.delete_item(key, sku="MNTBAE0001"), Basket)
    assert_type(minted.baskets.clear(basket), Basket)
    assert_type(minted.baskets.replace("id", {"MNTBAE0001": 3}, type="sell"), Basket)
    assert_type(minted.baskets.replace(key, {"MNTBAE0001": 3}), Basket)
    minted.baskets.replace(basket, {"MNTBAE0001": "3"})  # type: ignore[dict-item]
    minted.baskets.update_item("id", sku="MNTBAE0001", qty=3)  # type: ignore[arg-type]


def completion(minted: MintedConnect, basket: Basket, shipping: Shipping) -> None:
    done = minted.complete.buy(basket, expected_total=basket.paid_total)
    assert_type(done, Completion)
    assert_type(done.order, Order | None)
    assert_type(done.order_id, int | None)
    assert_type(done.require_order(), Order)
    assert_type(basket.seconds_left, float | None)
    assert_type(basket.is_expired, bool)
    assert_type(minted.complete.sell(basket, accept_price="current"), Completion)
    assert_type(minted.complete.delivery(basket, shipping=shipping, expected_total=Decimal(1)), Completion)
    assert_type(minted.complete.pending(), list[Intent])
    for intent in minted.complete.pending():
        minted.complete.decide(intent, "not_executed")
    for intent in minted.complete.pending(all_accounts=True):
        assert_type(minted.complete.adopt(intent), Intent)
    assert_type(minted.complete.intents(state="confirmed", since=datetime.now(UTC)), Generator[Intent, None, None])
    page = minted.complete.intents_page(state=[IntentState.UNKNOWN], per_page=10)
    assert_type(page, IntentPage)
    assert_type(page.next_after, int | None)
    assert_type(minted.complete.intent(reference="order-7"), Intent | None)
    assert_type(minted.complete.forget(before=datetime.now(UTC)), int)
    assert_type(minted.complete.assign_reference("id", "order-7"), Intent)
    assert_type(minted.complete.assign_reference("id", None), Intent)
    assert_type(minted.complete.erase_customer("customer-1"), int)
    assert_type(minted.complete.reconcile_all(budget=60.0, concurrency=8), list[ReconcileResult])
    with minted.complete.reconciler(interval=30, on_result=lambda result: result.completion) as reconciler:
        assert_type(reconciler, BlockingReconciler)
        assert_type(reconciler.is_active, bool)
        assert_type(reconciler.status, ReconcilerStatus)
        reconciler.close()
    for intent in minted.complete.unfinished():
        assert_type(minted.orders.watch(intent), Generator[OrderChange, None, None])
        assert_type(minted.orders.wait(intent), Order)
    assert_type(minted.orders.wait(done), Order)
    minted.complete.buy(basket, expected_total=1.5)  # type: ignore[arg-type]
    try:
        minted.complete.buy(basket, expected_total=basket.paid_total)
    except OutcomeUnknown as unknown:
        assert_type(unknown.intent, Intent)
        assert_type(minted.complete.reconcile(unknown, fence=True), Completion)


def orders_and_wallet(minted: MintedConnect, order: Order) -> None:
    assert_type(minted.orders.get(1, customer_id="id"), Order)
    assert_type(minted.orders.wait(order, until=OrderStatus.SHIPPED, timeout=5), Order)
    assert_type(minted.orders.receipt(1, customer_id="id"), Receipt)
    assert_type(minted.orders.invoice("id"), Invoice)
    assert_type(minted.wallet.balance("id", metals=["gold", "silver"]), tuple[Holding, ...])


def rates(minted: MintedConnect) -> None:
    assert_type(minted.rates.current(metals="gold"), tuple[Rate, ...])
    assert_type(minted.rates.history(metal="gold", interval="hour"), tuple[RatePoint, ...])
    minted.rates.history(metal="gold", interval="year")  # type: ignore[arg-type]

    feed = minted.rates.feed(interval=1)
    assert_type(feed, BlockingRateFeed)
    with feed as entered:
        assert_type(entered, BlockingRateFeed)
        assert_type(feed.subscribe(metal="gold", buffer=10), BlockingSubscription)
        for tick in feed.subscribe():
            assert_type(tick, Tick)
            assert_type(tick.buy, Decimal)
        assert_type(feed.latest(), Tick | None)
        assert_type(feed.wait_for(lambda tick: tick.buy < 500, timeout=60), Tick)
        for alert in feed.alerts(above=600, metal="gold"):
            assert_type(alert, PriceAlert)
        assert_type(feed.last_error, MintedConnectError | None)
        feed.close()
