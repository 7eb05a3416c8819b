"""Purchases from several threads at once, and one that is interrupted in one process and settled in the next."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.tour import GOLD

BUY = "*/complete/buy"
PATIENCE = 20.0


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox() as server:
        yield server


@pytest.fixture
def minted(sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        yield client


def until(condition: Callable[[], object]) -> None:
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen")


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
        [flight] = minted._inner.complete._outcomes.flights.values()
        until(lambda: len(flight.landed._waiters) == len(running) - 1)  # the others wait for the one that was sent
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


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


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
        _, err = process.communicate(timeout=PATIENCE)  # promptly: the server still hangs
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
