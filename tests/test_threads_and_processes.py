"""Purchases in several threads, loops and processes: no call hangs, no basket is bought twice, none is lost."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    ClientClosedError,
    CompletionRejected,
    MintedConnect,
    NotSent,
    Options,
    OutcomeUnknown,
    PriceFixExpired,
    RateLimited,
)
from minted_connect.models import Basket, Completion
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.support.operations import GOLD
from tests.support.subprocesses import PATIENCE, python, until

BUY = "*/complete/buy"


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture
def minted(sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        yield client


def create_basket(minted: MintedConnect, customer: str):
    minted.customers.create(customer, firstname="Grace")
    return minted.baskets.add_item(customer, sku=GOLD)


def test_threads_with_own_baskets_make_one_order_each(minted, sandbox):
    baskets = [create_basket(minted, f"customer-{number}") for number in range(4)]
    barrier = threading.Barrier(len(baskets))

    def buy(basket):
        barrier.wait(PATIENCE)
        return minted.complete.buy(basket, expected_total=basket.paid_total)

    with ThreadPoolExecutor(len(baskets)) as pool:
        done = list(pool.map(buy, baskets))
    assert [purchase.order.token for purchase in done] == [basket.token for basket in baskets]
    assert len(sandbox.shop.orders) == len(baskets)


def test_threads_with_one_basket_make_one_order(minted, sandbox):
    basket = create_basket(minted, "customer-1")
    fault = sandbox.faults.add("hang", path=BUY)

    def buy(_):
        return minted.complete.buy(basket, expected_total=basket.paid_total)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(buy, number) for number in range(4)]
        until(lambda: fault.waiting)
        [in_flight] = minted._inner.complete._settlement.in_flight.values()
        # The other calls wait for the result of the sent one.
        until(lambda: len(in_flight.done._waiters) == len(futures) - 1)
        fault.remove()
        done = [purchase.result(PATIENCE) for purchase in futures]
    assert len({purchase.order.guid for purchase in done}) == 1
    assert len(sandbox.requests.of("complete.buy")) == len(sandbox.shop.orders) == 1


BUY_IN_PROCESS = """
import asyncio, sys
from minted_connect import AsyncMintedConnect, MintedConnect

url, username, password, journal, flavour = sys.argv[1:]
settings = {"base_url": url, "journal": journal}

async def awaited():
    async with AsyncMintedConnect(username, password, **settings) as minted:
        basket = await minted.baskets.get_active("customer-1")
        await minted.complete.buy(basket, expected_total=basket.paid_total)

def blocking():
    with MintedConnect(username, password, **settings) as minted:
        basket = minted.baskets.get_active("customer-1")
        minted.complete.buy(basket, expected_total=basket.paid_total)

try:
    asyncio.run(awaited()) if flavour == "async" else blocking()
except KeyboardInterrupt:
    sys.exit(130)
"""
RECONCILE = """
import json, sys
from minted_connect import MintedConnect

url, username, password, journal = sys.argv[1:]
with MintedConnect(username, password, base_url=url, journal=journal) as minted:
    states = [intent.state for intent in minted.complete.pending()]
    done = [minted.complete.reconcile(intent) for intent in minted.complete.pending()]
    orders = [[one.order.id, one.reconciled, one.differences] for one in done]
    print(json.dumps({"states": states, "orders": orders, "open": len(minted.complete.pending())}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("flavour", ["async", "blocking"])
def test_interrupted_purchase_is_reconciled_in_next_process(sandbox, minted, tmp_path: Path, flavour):
    create_basket(minted, "customer-1")
    common = (sandbox.url, sandbox.username, sandbox.password, str(tmp_path / "journal.db"))
    fault = sandbox.faults.add("hang", path=BUY, commit=True)
    with python(BUY_IN_PROCESS, *common, flavour) as process:
        until(lambda: fault.waiting or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)  # at once, although the server still hangs
    assert process.returncode == 130
    assert "Traceback" not in err
    assert fault.hits == 1
    fault.remove()

    with python(RECONCILE, *common) as process:
        out, err = process.communicate(timeout=PATIENCE)
    [order] = sandbox.shop.orders
    assert process.returncode == 0, err
    assert json.loads(out) == {"states": ["unknown"], "orders": [[order.id, True, []]], "open": 0}
    assert len(sandbox.requests.of("complete.buy")) == 1


# Faults during purchases by many threads or event loops.

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("drop_before_read", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("html", {}),
    ("stale_nonce", {}),
    ("status", {"status": 503, "commit": True}),
    ("status", {"status": 500}),
    ("rate_limit", {"retry_after": 1}),
]


def add_random_faults(sandbox: ThreadedSandbox, rng: random.Random, requests: int) -> None:
    """Make one in five of the next requests fail, with different faults."""
    for after in range(0, requests, 5):
        kind, args = rng.choice(FAULTS)
        sandbox.faults.add(kind, after=after + rng.randrange(5), **args)


class Purchases:
    """Concurrent purchases and their results."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.settled: list[Completion] = []

    async def make_purchase(
        self, buy: Callable[[], Awaitable[Completion]], reconcile: Callable[[OutcomeUnknown], Awaitable[Completion]]
    ) -> None:
        """Buy; repeat the purchase if nothing was sent, and reconcile it if its outcome is unknown."""
        while True:
            try:
                self.settled.append(await buy())
                self.outcomes["bought"] += 1
            except NotSent as error:
                assert error.safe_to_retry or isinstance(error, PriceFixExpired), error
                continue
            except RateLimited as error:
                assert error.is_confirmed  # reads have shown that the purchase was not executed
                continue
            except OutcomeUnknown as unknown:
                self.outcomes["unknown"] += 1
                try:
                    self.settled.append(await reconcile(unknown))
                except CompletionRejected:
                    self.outcomes["unknown"] -= 1
                    continue
                except OutcomeUnknown:  # the request was lost, which no read can prove
                    self.outcomes["open"] += 1
            return

    def check(self, sandbox: ThreadedSandbox, baskets: list[Basket], pending: list[Any]) -> None:
        """Check that every basket was bought once and is confirmed, or is recorded as unknown."""
        bought = [order.token for order in sandbox.shop.orders]
        assert sorted(bought) == sorted(done.order.token for done in self.settled)
        assert len(bought) == len(set(bought))
        assert {intent.cart_token for intent in pending} == {basket.token for basket in baskets} - set(bought)
        assert len(pending) == self.outcomes["open"]
        assert self.outcomes["bought"] + self.outcomes["unknown"] == len(baskets)
        assert self.outcomes["bought"]
        assert self.outcomes["unknown"]


def blocking(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends, without an event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.mark.requirement(26)
def test_32_threads_under_faults_buy_every_basket_once(tmp_path: Path):
    clock, purchases = ManualClock(auto_advance=True), Purchases()
    with (
        ThreadedSandbox(seed=1, clock=clock) as sandbox,
        MintedConnect(
            sandbox.username,
            sandbox.password,
            base_url=sandbox.url,
            journal=tmp_path / "journal.db",
            options=Options(clock=clock),
        ) as minted,
        ThreadPoolExecutor(32) as pool,
    ):
        baskets = list(pool.map(lambda number: create_basket(minted, f"customer-{number}"), range(32)))
        barrier = threading.Barrier(len(baskets))

        def customer(basket: Basket) -> None:
            async def buy() -> Completion:
                return minted.complete.buy(basket, accept_price="current")

            async def reconcile(unknown: OutcomeUnknown) -> Completion:
                return minted.complete.reconcile(unknown)

            barrier.wait(PATIENCE)
            blocking(purchases.make_purchase(buy, reconcile))

        add_random_faults(sandbox, random.Random(7), 200)
        list(pool.map(customer, baskets))
        sandbox.faults.clear()
        purchases.check(sandbox, baskets, minted.complete.pending())


def test_8_event_loops_under_faults_buy_every_basket_once(tmp_path: Path):
    clock, purchases = ManualClock(auto_advance=True), Purchases()
    barrier = threading.Barrier(8, action=lambda: add_random_faults(sandbox, random.Random(8), 150))
    baskets: list[Basket] = []

    def client() -> AsyncMintedConnect:
        return AsyncMintedConnect(
            sandbox.username,
            sandbox.password,
            base_url=sandbox.url,
            journal=tmp_path / "journal.db",
            options=Options(clock=clock),
        )

    async def shop(number: int) -> None:
        async with client() as minted:
            own = []
            for customer in (f"customer-{number}-{index}" for index in range(3)):
                await minted.customers.create(customer)
                own.append(await minted.baskets.add_item(customer, sku=GOLD))
            baskets.extend(own)
            barrier.wait(PATIENCE)

            async def customer(basket: Basket) -> None:
                await purchases.make_purchase(
                    lambda: minted.complete.buy(basket, accept_price="current"), minted.complete.reconcile
                )

            await asyncio.gather(*map(customer, own))

    async def pending() -> list[Any]:
        async with client() as minted:
            return await minted.complete.pending()

    with ThreadedSandbox(seed=1, clock=clock) as sandbox, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: asyncio.run(shop(number)), range(8)))
        sandbox.faults.clear()
        purchases.check(sandbox, baskets, asyncio.run(pending()))


@pytest.mark.requirement(26)
async def test_other_event_loop_during_purchase_is_refused(sandbox: ThreadedSandbox):
    """Check that calls do not wait for a task of another event loop, which could not wake them."""

    async def call_all() -> list[str]:
        messages = []
        for call in (
            lambda: minted.complete.buy(basket, expected_total=basket.paid_total),
            lambda: minted.complete.reconcile(in_flight.intent),
            lambda: minted.baskets.update_item(basket, sku=GOLD, qty=2),
            lambda: minted.baskets.get_active("customer-1"),
        ):
            with pytest.raises(ClientClosedError) as caught:
                await call()
            messages.append(str(caught.value))
        return messages

    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = sandbox.faults.add("hang", path=BUY)
        purchase = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
        while not fault.waiting:
            await asyncio.sleep(0)
        [in_flight] = minted.complete._settlement.in_flight.values()
        messages = await asyncio.to_thread(asyncio.run, call_all())
        fault.remove()
        assert (await purchase).order is not None
    assert len(messages) == 4
    assert all("another event loop" in text for text in messages)
    assert len(sandbox.requests.of("complete.buy")) == len(sandbox.shop.orders) == 1
