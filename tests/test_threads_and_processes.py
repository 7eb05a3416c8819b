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


def filled(minted: MintedConnect, customer: str):
    minted.customers.create(customer, firstname="Grace")
    return minted.baskets.add_item(customer, sku=GOLD)


def test_threads_with_baskets_of_their_own(minted, sandbox):
    baskets = [filled(minted, f"customer-{number}") for number in range(4)]
    together = threading.Barrier(len(baskets))

    def buy(basket):
        together.wait(PATIENCE)
        return minted.complete.buy(basket, expected_total=basket.paid_total)

    with ThreadPoolExecutor(len(baskets)) as pool:
        done = list(pool.map(buy, baskets))
    assert [one.order.token for one in done] == [basket.token for basket in baskets]
    assert len(sandbox.shop.orders) == len(baskets)


def test_threads_with_one_basket_make_one_order(minted, sandbox):
    basket = filled(minted, "customer-1")
    fault = sandbox.faults.add("hang", path=BUY)

    def buy(_):
        return minted.complete.buy(basket, expected_total=basket.paid_total)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(buy, number) for number in range(4)]
        until(lambda: fault.waiting)
        [in_flight] = minted._inner.complete._settlement.in_flight.values()
        until(lambda: len(in_flight.done._waiters) == len(running) - 1)  # the others wait for the one that was sent
        fault.remove()
        done = [one.result(PATIENCE) for one in running]
    assert len({one.order.guid for one in done}) == 1
    assert len(sandbox.requests.of("complete.buy")) == len(sandbox.shop.orders) == 1


CUSTOMER_BUYS = """
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
FINDS_OUT = """
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
def test_interrupted_in_one_process_and_found_out_in_the_next(sandbox, minted, tmp_path: Path, flavour):
    filled(minted, "customer-1")
    common = (sandbox.url, sandbox.username, sandbox.password, str(tmp_path / "journal.db"))
    fault = sandbox.faults.add("hang", path=BUY, commit=True)
    with python(CUSTOMER_BUYS, *common, flavour) as process:
        until(lambda: fault.waiting or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)  # at once, although the server still hangs
    assert process.returncode == 130
    assert "Traceback" not in err
    assert fault.hits == 1
    fault.remove()

    with python(FINDS_OUT, *common) as process:
        out, err = process.communicate(timeout=PATIENCE)
    [order] = sandbox.shop.orders
    assert process.returncode == 0, err
    assert json.loads(out) == {"states": ["unknown"], "orders": [[order.id, True, []]], "open": 0}
    assert len(sandbox.requests.of("complete.buy")) == 1


# Faults while many threads, or many loops, buy.

STORM: list[tuple[str, dict[str, Any]]] = [
    ("drop_before_read", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("html", {}),
    ("stale_nonce", {}),
    ("status", {"status": 503, "commit": True}),
    ("status", {"status": 500}),
    ("rate_limit", {"retry_after": 1}),
]


def storm(sandbox: ThreadedSandbox, weather: random.Random, requests: int) -> None:
    """Make one in five of the next requests fail, with different faults."""
    for after in range(0, requests, 5):
        kind, args = weather.choice(STORM)
        sandbox.faults.add(kind, after=after + weather.randrange(5), **args)


class Till:
    """Concurrent purchases and their results."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.settled: list[Completion] = []

    async def ring_up(
        self, buy: Callable[[], Awaitable[Completion]], find_out: Callable[[OutcomeUnknown], Awaitable[Completion]]
    ) -> None:
        """Buy; repeat the purchase if nothing was sent, and reconcile it if its outcome is unknown."""
        while True:
            try:
                self.settled.append(await buy())
                self.ends["bought"] += 1
            except NotSent as error:
                assert error.safe_to_retry or isinstance(error, PriceFixExpired), error
                continue
            except RateLimited as error:
                assert error.is_confirmed  # reads have shown that it was not bought
                continue
            except OutcomeUnknown as unknown:
                self.ends["unknown"] += 1
                try:
                    self.settled.append(await find_out(unknown))
                except CompletionRejected:
                    self.ends["unknown"] -= 1
                    continue
                except OutcomeUnknown:  # the request was lost, which no read can prove
                    self.ends["open"] += 1
            return

    def balance(self, sandbox: ThreadedSandbox, baskets: list[Basket], pending: list[Any]) -> None:
        """Check that every basket was bought once and is confirmed, or is recorded as unknown."""
        bought = [order.token for order in sandbox.shop.orders]
        assert sorted(bought) == sorted(done.order.token for done in self.settled)
        assert len(bought) == len(set(bought))
        assert {intent.cart_token for intent in pending} == {basket.token for basket in baskets} - set(bought)
        assert len(pending) == self.ends["open"]
        assert self.ends["bought"] + self.ends["unknown"] == len(baskets)
        assert self.ends["bought"]
        assert self.ends["unknown"]


def blocking(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends, without an event loop."""
    with pytest.raises(StopIteration):
        work.send(None)


@pytest.mark.requirement(26)
def test_thirty_two_threads_buy_while_a_lot_goes_wrong(tmp_path: Path):
    clock, till = ManualClock(auto_advance=True), Till()
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
        baskets = list(pool.map(lambda number: filled(minted, f"customer-{number}"), range(32)))
        together = threading.Barrier(len(baskets))

        def customer(basket: Basket) -> None:
            async def buy() -> Completion:
                return minted.complete.buy(basket, accept_price="current")

            async def find_out(unknown: OutcomeUnknown) -> Completion:
                return minted.complete.reconcile(unknown)

            together.wait(PATIENCE)
            blocking(till.ring_up(buy, find_out))

        storm(sandbox, random.Random(7), 200)
        list(pool.map(customer, baskets))
        sandbox.faults.clear()
        till.balance(sandbox, baskets, minted.complete.pending())


def test_a_client_for_each_of_eight_loops(tmp_path: Path):
    clock, till = ManualClock(auto_advance=True), Till()
    together = threading.Barrier(8, action=lambda: storm(sandbox, random.Random(8), 150))
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
            mine = []
            for customer in (f"customer-{number}-{one}" for one in range(3)):
                await minted.customers.create(customer)
                mine.append(await minted.baskets.add_item(customer, sku=GOLD))
            baskets.extend(mine)
            together.wait(PATIENCE)

            async def customer(basket: Basket) -> None:
                await till.ring_up(
                    lambda: minted.complete.buy(basket, accept_price="current"), minted.complete.reconcile
                )

            await asyncio.gather(*map(customer, mine))

    async def pending() -> list[Any]:
        async with client() as minted:
            return await minted.complete.pending()

    with ThreadedSandbox(seed=1, clock=clock) as sandbox, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: asyncio.run(shop(number)), range(8)))
        sandbox.faults.clear()
        till.balance(sandbox, baskets, asyncio.run(pending()))


@pytest.mark.requirement(26)
async def test_another_loop_in_the_middle_of_a_purchase(sandbox: ThreadedSandbox):
    """A task that waited for another event loop would never be woken."""

    async def elsewhere() -> list[str]:
        said = []
        for call in (
            lambda: minted.complete.buy(basket, expected_total=basket.paid_total),
            lambda: minted.complete.reconcile(in_flight.intent),
            lambda: minted.baskets.update_item(basket, sku=GOLD, qty=2),
            lambda: minted.baskets.get_active("customer-1"),
        ):
            with pytest.raises(ClientClosedError) as caught:
                await call()
            said.append(str(caught.value))
        return said

    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = sandbox.faults.add("hang", path=BUY)
        purchase = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
        while not fault.waiting:
            await asyncio.sleep(0)
        [in_flight] = minted.complete._settlement.in_flight.values()
        said = await asyncio.to_thread(asyncio.run, elsewhere())
        fault.remove()
        assert (await purchase).order is not None
    assert len(said) == 4
    assert all("another event loop" in text for text in said)
    assert len(sandbox.requests.of("complete.buy")) == len(sandbox.shop.orders) == 1
