"""Forks of a process that has a client: calls in the child are refused at once, calls in the parent continue."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.support.operations import GOLD
from tests.support.subprocesses import run_script, until

pytestmark = [
    pytest.mark.requirement(25),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX forks, Windows does not"),
    pytest.mark.parametrize("flavour", ["async", "blocking"]),
]


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture
def arguments(sandbox: ThreadedSandbox, tmp_path: Path, flavour: str) -> tuple[str, ...]:
    return (sandbox.url, sandbox.username, sandbox.password, str(tmp_path / "journal.db"), flavour)


def create_baskets(sandbox: ThreadedSandbox, *customers: str) -> None:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        for customer in customers:
            minted.customers.create(customer, firstname="Grace")
            minted.baskets.add_item(customer, sku=GOLD)


PRELUDE = """
import asyncio, os, sys, threading
from minted_connect import AsyncMintedConnect, ClientClosedError, MintedConnect

url, username, password, journal, flavour = sys.argv[1:]
is_async = flavour == "async"

def build():
    return (AsyncMintedConnect if is_async else MintedConnect)(username, password, base_url=url, journal=journal)

def run(call):
    async def awaited():
        async with asyncio.timeout(20):
            return await call()
    return asyncio.run(awaited()) if is_async else call()

def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())

def attempt(name, call):
    try:
        say(name, "done", run(call))
    except ClientClosedError as error:
        say(name, "refused" if "before a fork" in str(error) else error)

def fork(work, *args):
    pid = os.fork()
    if pid == 0:
        try:
            work(*args)
        finally:
            os._exit(0)
    return pid

def reap(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

DURING_PURCHASE = """
minted = build()

def child():
    attempt("buy", lambda: minted.complete.buy(basket, expected_total=basket.paid_total))
    attempt("reconcile", lambda: minted.complete.reconcile(intent))
    attempt("change", lambda: minted.baskets.update_item(basket, sku="MNTBAE0001", qty=9))
    attempt("read", lambda: minted.baskets.get_active("customer-1"))

def fork_when_it_is_sent():
    global intent
    sys.stdin.readline()
    [in_flight] = (minted if is_async else minted._inner).complete._settlement.in_flight.values()
    intent = in_flight.intent
    say("child", reap(fork(child)))

async def awaited():
    global basket
    async with minted:
        basket = await minted.baskets.get_active("customer-1")
        buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
        await asyncio.to_thread(fork_when_it_is_sent)
        say("parent", (await buying).order.id, await minted.complete.pending())

def blocking():
    global basket
    with minted:
        basket = minted.baskets.get_active("customer-1")
        forking = threading.Thread(target=fork_when_it_is_sent)
        forking.start()
        done = minted.complete.buy(basket, expected_total=basket.paid_total)
        forking.join()
        say("parent", done.order.id, minted.complete.pending())

asyncio.run(awaited()) if is_async else blocking()
"""


@pytest.mark.requirement(25)
def test_fork_during_purchase_child_calls_are_refused(sandbox, arguments):
    create_baskets(sandbox, "customer-1")
    fault = sandbox.faults.add("hang", path="*/complete/buy")
    lines: list[str] = []

    def meanwhile(process: subprocess.Popen[str]) -> None:
        until(lambda: fault.waiting or process.poll() is not None)
        process.stdin.write("it is sent\n")
        process.stdin.flush()
        while not "".join(lines[-1:]).startswith("child") and process.poll() is None:
            lines.append(process.stdout.readline().strip())
        fault.remove()

    parent = run_script(PRELUDE + DURING_PURCHASE, *arguments, meanwhile=meanwhile)
    assert lines == ["buy refused", "reconcile refused", "change refused", "read refused", "child 0"]
    [order] = sandbox.shop.orders
    assert parent == [f"parent {order.id} []"]
    assert len(sandbox.requests.of("complete.buy")) == 1


BUILT_BEFORE = """
minted = build()

def child():
    attempt("read", minted.rates.current)
    attempt("raw", lambda: minted.request("GET", "/partner/walletable/rates"))
    attempt("change", lambda: minted.customers.update("customer-1", firstname="Grace"))

say("child", reap(fork(child)))
"""


def test_fork_after_building_child_calls_are_refused(sandbox, arguments):
    lines = run_script(PRELUDE + BUILT_BEFORE, *arguments)
    assert lines == ["read refused", "raw refused", "change refused", "child 0"]
    assert len(sandbox.requests) == 0


PRELOADED = """
minted = build()  # as in a server that loads the application before it forks workers

async def order(customer):
    async with build() as own:
        basket = await own.baskets.get_active(customer)
        return (await own.complete.buy(basket, expected_total=basket.paid_total)).order.id

def order_blocking(customer):
    with build() as own:
        basket = own.baskets.get_active(customer)
        return own.complete.buy(basket, expected_total=basket.paid_total).order.id

def worker(customer):
    attempt(customer, minted.rates.current)
    say(customer, "order", asyncio.run(order(customer)) if is_async else order_blocking(customer))

async def first():
    async with minted:
        await minted.rates.current()
        return [fork(worker, f"customer-{number}") for number in range(4)]

def first_blocking():
    with minted:
        minted.rates.current()
        return [fork(worker, f"customer-{number}") for number in range(4)]

say("workers", *map(reap, asyncio.run(first()) if is_async else first_blocking()))
"""


def test_forked_workers_with_their_own_clients_buy(sandbox, arguments):
    customers = [f"customer-{number}" for number in range(4)]
    create_baskets(sandbox, *customers)
    *lines, last = run_script(PRELUDE + PRELOADED, *arguments)
    assert last == "workers 0 0 0 0"
    assert sorted(line for line in lines if "order" not in line) == [f"{customer} refused" for customer in customers]
    orders = {line.split()[0]: int(line.split()[-1]) for line in lines if "order" in line}
    assert sorted(orders) == customers
    assert sorted(orders.values()) == sorted(order.id for order in sandbox.shop.orders)


RECONCILING = """
def child(reconciler):
    say("child", reconciler.status.state, reconciler.is_active)
    if is_async:
        asyncio.run(reconciler.aclose())
    else:
        reconciler.close()

async def main():
    started = asyncio.Event()
    async with build() as minted, minted.complete.reconciler(on_status=lambda _: started.set()) as reconciler:
        await started.wait()
        code = reap(fork(child, reconciler))
        await reconciler._lease.renew()
        say("parent", code, reconciler.status.state)

def main_blocking():
    started = threading.Event()
    with build() as minted, minted.complete.reconciler(on_status=lambda _: started.set()) as reconciler:
        started.wait()
        code = reap(fork(child, reconciler))
        say("parent", code, reconciler.status.state)

asyncio.run(main()) if is_async else main_blocking()
"""


def test_fork_of_a_reconciling_process_reconciles_nothing(sandbox, arguments):
    lines = run_script(PRELUDE + RECONCILING, *arguments)
    assert lines == ["child closed False", "parent 0 active"]
