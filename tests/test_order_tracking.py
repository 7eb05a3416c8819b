"""`orders.wait` and `orders.watch` through both clients: changes, retries, restarts, intervals."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sqlite3
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect import (
    AsyncMintedConnect,
    AuthenticationFailed,
    BreakerPolicy,
    ClientClosedError,
    Completion,
    IntegrityError,
    InvalidInput,
    MemoryJournal,
    MintedConnect,
    NotFound,
    Options,
    OrderChange,
    OrderProgress,
    OrderStatus,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    RetryPolicy,
    ServerError,
    ValidationFailed,
)
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.resources.order_tracking import poll_interval
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from tests.support.operations import GOLD, Person

CUSTOMER = "customer-1"
ORDERS = "/partner/walletable/orders"
DELIVERY = [OrderStatus.PREPARING, OrderStatus.PACKED, OrderStatus.SHIPPED, OrderStatus.SHIPPED, OrderStatus.COMPLETED]
"""Statuses of a delivery after `Pending`; `Shipped` occurs twice because the arrival date changes."""
ONCE = RetryPolicy.none()
DAY = 86_400.0


def options(clock: ManualClock, **more: Any) -> Options:
    return Options(clock=clock, random=lambda: 0.5, **more)


@pytest.fixture
async def minted(connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> Any:
    return await client_of(connect, sandbox, clock, tmp_path)


async def client_of(connect: Any, sandbox: Sandbox, clock: ManualClock, directory: Path, **settings: Any) -> Any:
    settings = {"journal": directory / "journal.db", "options": options(clock), "retry": ONCE, **settings}
    return await connect(sandbox.url, sandbox.username, sandbox.password, **settings)


async def bought(minted: Any, customer: str = CUSTOMER) -> Completion:
    await minted.customers.create(customer)
    basket = await minted.baskets.add_item(customer, sku=GOLD)
    return await minted.complete.buy(basket, expected_total=basket.paid_total)


async def sent(minted: Any, sandbox: Sandbox) -> Completion:
    await minted.customers.create(CUSTOMER)
    sandbox.shop.give(CUSTOMER, GOLD, 1)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD, type="delivery")
    return await minted.complete.delivery(basket, shipping=Person().shipping, expected_total=basket.paid_total)


def polls(sandbox: Sandbox) -> list[float]:
    """Return the times of authenticated requests to Get Orders."""
    return [entry.at for entry in sandbox.requests if entry.path == ORDERS and entry.partner is not None]


async def changes(watch: Any, until: OrderStatus | None = None) -> list[OrderChange]:
    seen = []
    async for change in watch:
        seen.append(change)
        if change.after.status == until:
            break
    return seen


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about polls that failed."""
    return [record.getMessage() for record in caplog.records if "polling order" in record.getMessage()]


# Changes.


async def test_watch_purchase_yields_each_change_to_completed(minted, sandbox):
    completion = await bought(minted)
    seen = await changes(minted.orders.watch(completion))
    assert [change.after.status for change in seen] == [OrderStatus.PROCESSING, OrderStatus.COMPLETED]
    assert [change.changed for change in seen] == [{"status"}, {"status"}]
    assert [change.before for change in seen] == [OrderProgress.of(completion.order), seen[0].after]
    assert [change.order.status for change in seen] == [OrderStatus.PROCESSING, OrderStatus.COMPLETED]
    assert (seen[1].order.id, seen[1].after.is_final) == (completion.order.id, True)
    sandbox.requests.clear()
    assert await changes(minted.orders.watch(seen[1].order)) == []
    assert await minted.orders.wait(seen[1].order) == seen[1].order
    assert len(sandbox.requests) == 0


async def test_watch_delivery_yields_tracking_and_arrival_date(minted, sandbox):
    completion = await sent(minted, sandbox)
    assert completion.order.delivery.estimated_arrival_date == date(2026, 2, 24)
    seen = await changes(minted.orders.watch(completion.order))
    assert [change.after.status for change in seen] == DELIVERY
    number = f"MNT{completion.order.increment_id}"
    assert [change.after.cargo_tracking_number for change in seen] == [None, None, number, number, number]
    assert [change.changed for change in seen[2:]] == [
        {"status", "cargo_tracking_number"}, {"estimated_arrival_date"}, {"status"},
    ]  # fmt: skip
    assert [change.after.estimated_arrival_date.day for change in seen] == [24, 24, 24, 25, 25]
    assert seen[2].order.delivery.cargo_tracking_url.endswith(number)
    assert number not in repr(seen)


@pytest.mark.parametrize("end", [OrderStatus.CANCELLED, OrderStatus.REFUNDED])
async def test_watch_cancelled_or_refunded_order_ends(minted, sandbox, end):
    completion = await bought(minted)
    seen = []
    async for change in minted.orders.watch(completion):
        seen.append(change.after.status)
        if change.after.status == OrderStatus.PROCESSING:
            sandbox.shop.set_status(completion.order.id, end)
    assert seen == [OrderStatus.PROCESSING, end]
    order = await minted.orders.wait(completion, until=OrderStatus.SHIPPED)
    assert (order.status, order.is_failed) == (end, True)
    assert await minted.complete.unfinished() == []


@pytest.mark.parametrize(
    "name", [name for name in OrderStatus if name not in {OrderStatus.CREATED, OrderStatus.PENDING}]
)
async def test_wait_until_any_status_returns_the_order(minted, sandbox, name):
    completion = await bought(minted)
    sandbox.shop.set_status(completion.order.id, str(name))
    order = await minted.orders.wait(completion, until=name)
    assert order.status is name
    assert order.is_final is (name in {OrderStatus.COMPLETED, OrderStatus.CANCELLED, OrderStatus.REFUNDED})


async def test_wait_until_several_statuses_returns_at_the_first(minted, sandbox):
    completion = await sent(minted, sandbox)
    shipped = await minted.orders.wait(completion, until="Shipped")
    assert shipped.status is OrderStatus.SHIPPED
    count = len(polls(sandbox))
    assert await minted.orders.wait(shipped, until=(OrderStatus.PACKED, OrderStatus.SHIPPED)) is shipped
    assert await minted.orders.wait(completion, until={"Pending"}) is completion.order
    assert len(polls(sandbox)) == count
    assert (await minted.orders.wait(completion, until=["Created", "Cancelled"])).status is OrderStatus.COMPLETED


async def test_wait_timeout_raises_request_timeout(minted, sandbox, clock):
    completion = await bought(minted)
    began = clock.monotonic()
    with pytest.raises(RequestTimeout, match=r"still Pending after 10 s$") as caught:
        await minted.orders.wait(completion, until="Shipped", timeout=10)
    assert [at - began for at in polls(sandbox)] == [2.0, 6.0, 10.0]
    assert caught.value.__cause__ is None
    assert caught.value.safe_to_retry


async def test_wait_timeout_during_a_hanging_poll_raises(minted, sandbox, clock):
    completion = await bought(minted)
    hang = sandbox.faults.add("hang", path=ORDERS)

    async def advance_when_hanging() -> None:
        while not hang.waiting:
            await asyncio.sleep(0.001)
        clock.advance(8)

    async with anyio.create_task_group() as group:
        group.start_soon(advance_when_hanging)
        with pytest.raises(RequestTimeout, match="was Pending when last seen: polls still fail after 10 s") as caught:
            await minted.orders.wait(completion, timeout=10)
    assert isinstance(caught.value.__cause__, RequestTimeout)
    assert len(polls(sandbox)) == 1


async def test_wait_timeout_names_the_last_error(minted, sandbox):
    completion = await bought(minted)
    sandbox.faults.add("status", path=ORDERS, status=503, times=None)
    with pytest.raises(RequestTimeout, match=r"polls still fail after 10 s \(ServerError\)") as caught:
        await minted.orders.wait(completion, timeout=10)
    assert isinstance(caught.value.__cause__, ServerError)
    assert len(polls(sandbox)) == 3


# Retries.


async def test_purchase_not_listed_yet_is_polled(connect, clock, tmp_path, caplog):
    async with Sandbox(seed=1, clock=clock, orders_lag=100.0) as sandbox:
        minted = await client_of(connect, sandbox, clock, tmp_path)
        seen = await changes(minted.orders.watch(await bought(minted)))
        assert [change.after.status for change in seen] == [OrderStatus.PROCESSING, OrderStatus.COMPLETED]
        assert warnings(caplog) == []


@pytest.mark.parametrize("how", ["wait", "watch"])
async def test_purchase_never_listed_raises_not_found(connect, clock, tmp_path, how):
    async with Sandbox(seed=1, clock=clock, orders_lag=1e6) as sandbox:
        minted = await client_of(connect, sandbox, clock, tmp_path)
        completion = await bought(minted)
        began = clock.monotonic()
        with pytest.raises(NotFound) as caught:
            await (minted.orders.wait(completion) if how == "wait" else changes(minted.orders.watch(completion)))
        assert caught.value.status == 0
        assert [at - began for at in polls(sandbox)] == [2, 6, 14, 29, 59, 89, 119, 149]


@pytest.mark.parametrize(
    ("kind", "args", "name"),
    [
        ("status", {"status": 500}, "ServerError"),
        ("status", {"status": 502, "html": True}, "ServerError"),
        ("status", {"status": 408}, "APIError"),
        ("status", {"status": 404, "html": True}, "NotFound"),
        ("rate_limit", {"retry_after": 3}, "RateLimited"),
        ("drop_before_read", {}, "TransportError"),
        ("truncate", {}, "TransportError"),
        ("html", {}, "ProtocolError"),
        ("invalid_json", {}, "ProtocolError"),
        ("drop_field", {"field": "*.paid_total"}, "ProtocolError"),
        ("redirect", {}, "UnexpectedRedirect"),
    ],
)
async def test_transient_errors_are_retried(minted, sandbox, caplog, kind, args, name):
    completion = await sent(minted, sandbox)
    faults = [sandbox.faults.add(kind, path=ORDERS, after=after, times=2, **args) for after in (2, 12)]
    seen = await changes(minted.orders.watch(completion))
    assert [fault.hits for fault in faults] == [2, 2]
    assert [change.after.status for change in seen] == DELIVERY
    assert warnings(caplog) == [f"GET {ORDERS}: polling order {completion.order.id} failed ({name}); retrying"] * 2


async def test_retry_after_is_honoured(minted, sandbox):
    completion = await bought(minted)
    sandbox.faults.add("rate_limit", path=ORDERS, retry_after=90)
    sandbox.faults.add("status", path=ORDERS, status=503, retry_after=50)
    await minted.orders.wait(completion)
    polled = polls(sandbox)
    assert [later - earlier for earlier, later in itertools.pairwise(polled)][:2] == [90, 50]


@pytest.mark.parametrize("how", ["wait", "watch"])
async def test_retry_after_beyond_the_timeout_raises(minted, sandbox, how):
    completion = await bought(minted)
    sandbox.faults.add("rate_limit", path=ORDERS, retry_after=3_600)
    with pytest.raises((RateLimited, RequestTimeout)) as caught:
        await (minted.orders.wait(completion) if how == "wait" else changes(minted.orders.watch(completion)))
    refused = caught.value if how == "watch" else caught.value.__cause__
    assert refused.retry_after == 3_600
    assert len(polls(sandbox)) == 1


async def test_errors_beyond_patience_are_raised(minted, sandbox):
    completion = await bought(minted)
    sandbox.faults.add("status", path=ORDERS, status=500, after=1, times=None)
    with pytest.raises(ServerError):
        await changes(minted.orders.watch(completion, patience=60))
    polled = polls(sandbox)
    assert polled[-1] - polled[1] >= 60 > polled[-2] - polled[1]


async def test_patience_restarts_after_a_success(minted, sandbox):
    completion = await bought(minted)
    for after in range(0, 40, 4):
        sandbox.faults.add("status", path=ORDERS, status=500, after=after, times=3)
    seen = await changes(minted.orders.watch(completion, patience=90))
    assert seen[-1].after.status is OrderStatus.COMPLETED


async def test_wait_continues_after_the_breaker_closes(connect, sandbox, clock, tmp_path):
    with_breaker = options(clock, breaker=BreakerPolicy(failures=1, cooldown=20))
    minted = await client_of(connect, sandbox, clock, tmp_path, options=with_breaker)
    completion = await bought(minted)
    sandbox.faults.add("status", path=ORDERS, status=500)
    assert (await minted.orders.wait(completion)).status is OrderStatus.COMPLETED
    polled = polls(sandbox)
    assert polled[1] - polled[0] >= 20


@pytest.mark.parametrize(
    ("kind", "args", "error"),
    [
        ("status", {"status": 401}, AuthenticationFailed),
        ("status", {"status": 403}, PermissionDenied),
        ("status", {"status": 422}, ValidationFailed),
        ("wrong_customer", {}, IntegrityError),
    ],
)
@pytest.mark.parametrize("how", ["wait", "watch"])
async def test_permanent_error_ends_polling(minted, sandbox, how, kind, args, error):
    completion = await bought(minted)
    sandbox.faults.add(kind, path=ORDERS, after=2, times=None, **args)
    with pytest.raises(error):
        await (minted.orders.wait(completion) if how == "wait" else changes(minted.orders.watch(completion)))
    assert len(polls(sandbox)) == 3


# Restarts and the journal.


async def test_watch_after_restart_repeats_unhandled_change(connect, sandbox, clock, tmp_path):
    first = await client_of(connect, sandbox, clock, tmp_path)
    completion = await sent(first, sandbox)
    # The program ends before it requests the next change.
    *before, last = await changes(first.orders.watch(completion), until=OrderStatus.SHIPPED)

    second = await client_of(connect, sandbox, clock, tmp_path)
    (intent,) = await second.complete.unfinished()
    assert (intent.order_id, intent.progress) == (completion.order.id, before[-1].after)
    after = await changes(second.orders.watch(intent))
    assert (after[0].before, after[0].after) == (last.before, last.after)
    assert [change.after.status for change in before + after] == DELIVERY
    assert await second.complete.unfinished() == []


async def test_watch_after_crash_repeats_final_change(connect, sandbox, clock, tmp_path):
    first = await client_of(connect, sandbox, clock, tmp_path)
    completion = await bought(first)
    sandbox.shop.set_status(completion.order.id, "Cancelled")
    (yielded,) = await changes(first.orders.watch(completion), until=OrderStatus.CANCELLED)
    second = await client_of(connect, sandbox, clock, tmp_path)
    (intent,) = await second.complete.unfinished()
    assert [change.after for change in await changes(second.orders.watch(intent))] == [yielded.after]
    assert await second.complete.unfinished() == []


async def test_watch_after_downtime_starts_with_one_change(connect, sandbox, clock, tmp_path):
    completion = await sent(await client_of(connect, sandbox, clock, tmp_path), sandbox)
    clock.advance(215)
    minted = await client_of(connect, sandbox, clock, tmp_path)
    (intent,) = await minted.complete.unfinished()
    began = clock.monotonic()
    first, *rest = await changes(minted.orders.watch(intent))
    assert first.changed == {"status", "cargo_tracking_number", "estimated_arrival_date"}
    assert first.before == OrderProgress.of(completion.order)
    assert [change.after.status for change in rest] == [OrderStatus.COMPLETED]
    assert polls(sandbox)[0] - began == 1.0  # not at once: other watches may have started at the same time


async def test_wait_for_stored_intent_saves_progress(connect, sandbox, clock, tmp_path):
    completion = await bought(await client_of(connect, sandbox, clock, tmp_path))
    minted = await client_of(connect, sandbox, clock, tmp_path)
    (intent,) = await minted.complete.unfinished()
    began = clock.monotonic()
    pending = await minted.orders.wait(intent, until="Pending")
    assert (pending.id, polls(sandbox)) == (completion.order.id, [began])
    order = await minted.orders.wait(intent, until="Processing")
    (intent,) = await minted.complete.unfinished()
    assert intent.progress == OrderProgress.of(order)
    sandbox.shop.set_status(order.id, "Cancelled")
    assert (await minted.orders.wait(intent)).is_failed
    assert await minted.complete.unfinished() == []


async def test_watch_intent_without_order_id_finds_the_order(connect, sandbox, clock, tmp_path):
    minted = await client_of(connect, sandbox, clock, tmp_path)
    await bought(minted)
    (intent,) = await minted.complete.unfinished()
    unread = attrs.evolve(intent, order_id=None, progress=None)
    seen = await changes(minted.orders.watch(unread))
    assert [change.after.status for change in seen] == [
        OrderStatus.PENDING,
        OrderStatus.PROCESSING,
        OrderStatus.COMPLETED,
    ]
    assert (seen[0].before, seen[0].changed) == (None, {"status"})
    with pytest.raises(NotFound):  # an order with that number and other keys may be another order (Q4)
        await minted.orders.wait(attrs.evolve(unread, cart_token="T" * 32, guid="", increment_id="1"))


async def test_watch_unreadable_completion_finds_the_order(minted, sandbox):
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("drop_field", path="*/complete/buy", field="paid_total")
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.order is None
    seen = await changes(minted.orders.watch(completion))
    assert [change.after.status for change in seen] == [
        OrderStatus.PENDING,
        OrderStatus.PROCESSING,
        OrderStatus.COMPLETED,
    ]
    assert await minted.complete.unfinished() == []


async def test_order_without_id_is_refused(minted, sandbox):
    completion = await bought(minted)
    (intent,) = await minted.complete.unfinished()
    for wrong, rule in (
        (attrs.evolve(intent, state="unknown"), "reconcile it first"),
        (Completion(None), "does not identify an order"),
        (Completion(None, {"id": "x"}, completion.raw), "does not identify an order"),
        (Completion(None, completion.keys, {"customer": None}), "does not identify an order"),
        (completion.order.id, "not int"),
    ):
        for follow in (minted.orders.wait, lambda order: changes(minted.orders.watch(order))):
            with pytest.raises(InvalidInput, match=rule) as caught:
                await follow(wrong)
            assert caught.value.field == "order"
    assert polls(sandbox) == []


async def test_order_without_intent_is_not_saved(connect, sandbox, clock, tmp_path):
    completion = await bought(await client_of(connect, sandbox, clock, tmp_path))
    other = tmp_path / "other.db"
    minted = await client_of(connect, sandbox, clock, tmp_path, journal=other)
    assert len(await changes(minted.orders.watch(completion.order))) == 2
    assert await minted.complete.unfinished() == []
    with sqlite3.connect(other) as database:
        assert database.execute("SELECT count(*) FROM intents").fetchone() == (0,)
    database.close()


async def test_wait_for_final_order_settles_its_intent(minted, clock):
    completion = await bought(minted)
    clock.advance(1_000)
    order = await minted.orders.get(completion.order.id, customer_id=CUSTOMER)
    assert len(await minted.complete.unfinished()) == 1
    assert await minted.orders.wait(order) is order
    assert await minted.complete.unfinished() == []


class RecordingJournal(MemoryJournal):
    """Records saved progress, or raises an error."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.saved: list[OrderProgress] = []

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        if self.error is not None:
            raise self.error
        self.saved.append(progress)
        await super().save_progress(external_customer_id, cart_token, progress, account=account)


async def test_watch_saves_each_change_after_it_was_handled(connect, sandbox, clock, tmp_path):
    journal = RecordingJournal()
    minted = await client_of(connect, sandbox, clock, tmp_path, journal=journal)
    completion = await sent(minted, sandbox)
    yielded = [OrderProgress.of(completion.order)]
    async for change in minted.orders.watch(completion):
        assert journal.saved == yielded
        yielded.append(change.after)
    assert (len(yielded), journal.saved) == (6, yielded)
    journal.saved.clear()
    await minted.orders.wait(completion)
    assert journal.saved == yielded[-1:]


@pytest.mark.parametrize("error", [OSError("no space left"), ValueError("from a custom journal")])
async def test_failing_journal_is_logged_and_does_not_end_polling(connect, sandbox, clock, tmp_path, caplog, error):
    minted = await client_of(connect, sandbox, clock, tmp_path, journal=RecordingJournal(error))
    completion = await bought(minted)
    seen = await changes(minted.orders.watch(completion))
    assert [change.after.status for change in seen] == [OrderStatus.PROCESSING, OrderStatus.COMPLETED]
    assert (await minted.orders.wait(completion)).is_final
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert {record.name for record in failures} == {"minted_connect"}
    assert [record.getMessage().rsplit(" ", 1)[-1] for record in failures] == [
        "Pending", "Processing", "Completed", "Completed",
    ]  # fmt: skip
    assert len(await minted.complete.unfinished()) == 1


async def test_locked_journal_does_not_end_polling(connect, sandbox, clock, tmp_path, caplog):
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, patience=0.01)
    minted = await client_of(connect, sandbox, clock, tmp_path, journal=journal)
    completion = await bought(minted)
    locked = sqlite3.connect(path, isolation_level=None)
    try:
        locked.execute("BEGIN IMMEDIATE")
        assert (await minted.orders.wait(completion)).status is OrderStatus.COMPLETED
    finally:
        locked.close()
    assert "the journal could not save" in caplog.text
    (intent,) = await minted.complete.unfinished()
    # The change was not saved, so it is yielded again.
    assert [change.after.status for change in await changes(minted.orders.watch(intent))] == [OrderStatus.COMPLETED]


# Cleanup and intervals.


async def test_cancelled_watch_leaves_no_task(sandbox, clock, tmp_path):
    clock.auto_advance = False
    settings = {"options": options(clock), "journal": tmp_path / "journal.db"}
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, **settings) as minted:
        completion = await bought(minted)
        before = asyncio.all_tasks()
        for hanging in (False, True):
            hang = sandbox.faults.add("hang", path=ORDERS) if hanging else None
            watching = asyncio.ensure_future(changes(minted.orders.watch(completion)))
            while not clock.sleepers:
                await asyncio.sleep(0)
            if hang is not None:
                clock.advance(2)
                while not hang.waiting:
                    await asyncio.sleep(0.001)
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
            sandbox.faults.clear()
            assert clock.sleepers == 0
        gc.collect()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() <= before | {asyncio.current_task()} | sandbox_tasks()
        watching = asyncio.ensure_future(changes(minted.orders.watch(completion)))
        while not clock.sleepers:
            await asyncio.sleep(0)
    clock.advance(2)
    with pytest.raises(ClientClosedError):
        await watching


def sandbox_tasks() -> set[asyncio.Task[Any]]:
    """Return the tasks of the server's connections."""
    return {task for task in asyncio.all_tasks() if "aiohttp" in repr(task.get_coro())}


def test_blocking_watch_closed_early_ends(clock):
    with ThreadedSandbox(seed=1, clock=clock) as sandbox:
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options(clock))
        with minted:
            minted.customers.create(CUSTOMER)
            basket = minted.baskets.add_item(CUSTOMER, sku=GOLD)
            completion = minted.complete.buy(basket, expected_total=basket.paid_total)
            watch = minted.orders.watch(completion)
            assert next(watch).after.status is OrderStatus.PROCESSING
            count = len(polls(sandbox))
            watch.close()
            assert list(watch) == []
            unfinished = minted.orders.watch(completion)
            next(unfinished)
        with pytest.raises(ClientClosedError):
            next(unfinished)
        assert len(polls(sandbox)) > count


def test_blocking_close_ends_a_watch_in_another_thread(clock):
    clock.auto_advance = False
    with ThreadedSandbox(seed=1, clock=clock) as sandbox, ThreadPoolExecutor() as pool:
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options(clock))
        with minted:
            minted.customers.create(CUSTOMER)
            basket = minted.baskets.add_item(CUSTOMER, sku=GOLD)
            completion = minted.complete.buy(basket, expected_total=basket.paid_total)
            watching = pool.submit(next, minted.orders.watch(completion))
            while not clock.sleepers:
                time.sleep(0.001)
        assert isinstance(watching.exception(), ClientClosedError)
        assert clock.sleepers == 0


async def test_wait_on_another_event_loop_is_refused(sandbox, clock, tmp_path):
    settings = {"options": options(clock), "journal": tmp_path / "journal.db"}
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, **settings) as minted:
        await bought(minted)
        (intent,) = await minted.complete.unfinished()
        hang = sandbox.faults.add("hang", path=ORDERS)
        waiting = asyncio.ensure_future(minted.orders.wait(intent, until="Pending"))
        while not hang.waiting:
            await asyncio.sleep(0.001)
        with pytest.raises(ClientClosedError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(minted.orders.wait(intent)))
        sandbox.faults.clear()
        assert (await waiting).status is OrderStatus.PENDING


async def test_wait_for_two_days_polls_at_growing_intervals(connect, clock, tmp_path):
    async with Sandbox(seed=1, clock=clock, status_interval=2 * DAY) as sandbox:
        minted = await client_of(connect, sandbox, clock, tmp_path)
        completion = await bought(minted)
        began = clock.monotonic()
        order = await minted.orders.wait(completion, until="Processing", timeout=7 * DAY)
        assert order.status is OrderStatus.PROCESSING
        polled = [at - began for at in polls(sandbox)]
        assert polled[:6] == [2, 6, 14, 29, 59, 89]
        pauses = Counter(later - earlier for earlier, later in itertools.pairwise([0, *polled]))
        assert pauses == {2: 1, 4: 1, 8: 1, 15: 1, 30: 120, 60: 1_380, 300: 288}
        assert polled[-1] < 2 * DAY + 300


async def test_watches_started_together_poll_at_different_times(sandbox, clock, tmp_path):
    clock.auto_advance = False
    settings = {"options": Options(clock=clock), "journal": tmp_path / "journal.db"}
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, **settings) as minted:
        completion = await bought(minted)
        (intent,) = await minted.complete.unfinished()
        for order, least, most in ((completion, 1.8, 2.2), (intent, 0.0, 2.0)):
            clock.sleeps.clear()
            watchers = [asyncio.ensure_future(anext(minted.orders.watch(order))) for _ in range(200)]
            while clock.sleepers < len(watchers):
                await asyncio.sleep(0)
            for watcher in watchers:
                watcher.cancel()
            await asyncio.wait(watchers)
            assert least <= min(clock.sleeps) < max(clock.sleeps) <= most
            assert len(set(clock.sleeps)) == len(watchers)
            assert max(clock.sleeps) - min(clock.sleeps) > (most - least) / 2


@given(
    polls=st.integers(0, 10_000),
    quiet=st.floats(0, 1e9),
    roll=st.floats(0, 1, exclude_max=True),
    more=st.integers(0, 10),
    longer=st.floats(0, 1e6),
)
def test_poll_interval_is_bounded_and_never_shrinks(polls, quiet, roll, more, longer):
    pause = poll_interval(polls, quiet, roll)
    middle = poll_interval(polls, quiet, 0.5)
    assert middle in {2, 4, 8, 15, 30, 60, 300}
    assert 0.9 * middle <= pause <= 1.1 * middle
    assert poll_interval(polls + more, quiet + longer, roll) >= pause
