"""Several tasks, processes, forks and event loops use one client or one journal."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import AlreadyInFlight, ClientClosedError, Conflict
from minted_connect.sandbox import ThreadedSandbox
from tests.matrix import injections
from tests.matrix.cells import BUY, OPERATIONS, READ, SET, cells, operation_of
from tests.matrix.outcomes import check_executed
from tests.matrix.world import ROOT, MatrixWorld, run_child
from tests.support.operations import GOLD, SILVER

# F38: two tasks.


async def let_calls_proceed(world: MatrixWorld) -> None:
    """Let all started calls proceed until they send or wait."""
    for _ in range(3):
        await world.minted.rates.current()


@cells("F38-R")
async def test_two_reads_run_concurrently(world: MatrixWorld, cell: str) -> None:
    await world.set_up(READ)
    gate = injections.Gate()
    world.proxy.inject(READ.method, READ.path, [gate])
    first = asyncio.ensure_future(READ.call(world.minted, world.basket))
    await gate.arrived.wait()
    assert READ.is_in_result(await READ.call(world.minted, world.basket))  # while the first call waits
    assert not first.done()
    gate.proceed.set()
    assert READ.is_in_result(await first)
    assert world.sent(READ) == 2


@cells("F38-S", "F38-A")
async def test_two_changes_run_one_after_the_other(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    gate = injections.Gate()
    world.proxy.inject(operation.method, operation.path, [gate])
    first = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    second = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await let_calls_proceed(world)
    assert world.sent(operation) == 1
    gate.proceed.set()
    first_basket, second_basket = await asyncio.gather(first, second)
    assert operation.is_in_result(first_basket)
    assert world.sent(operation) == world.arrived(operation) == 2
    pieces = {GOLD: 3, SILVER: 1} if operation is SET else {GOLD: 1, SILVER: 5}
    for sku, wanted in pieces.items():
        assert sum(item.amount for item in second_basket.items if item.sku == sku) == wanted


@cells("F38-S-dropped", "F38-A-dropped")
async def test_read_back_does_not_confirm_the_other_change(world: MatrixWorld, cell: str) -> None:
    """Both changes are read back: without the lock, each could take the other's change for its own."""
    operation = operation_of(cell)
    await world.set_up(operation)
    gate = injections.Gate(executed=True)
    cut = injections.change_response(injections.cut, executed=False, close=True)

    async def hold_and_truncate(proxied: Any) -> None:
        await proxied.read()
        gate.arrived.set()
        await gate.proceed.wait()
        await cut(proxied)

    world.proxy.inject(
        operation.method, operation.path, [hold_and_truncate, injections.change_response(injections.cut, close=True)]
    )
    first = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    second = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await let_calls_proceed(world)
    gate.proceed.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(outcomes[0], Exception)
    assert operation.is_in_result(outcomes[1])
    assert operation.is_executed(world.sandbox)


@cells("F38-S-during-completion", "F38-A-during-completion")
async def test_change_waits_for_completion_in_flight(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [gate])
    bought = asyncio.ensure_future(BUY.call(world.minted, world.basket))
    await gate.arrived.wait()
    change = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await let_calls_proceed(world)
    assert world.sent(operation) == 0
    gate.proceed.set()
    assert BUY.is_in_result(await bought)
    with pytest.raises(Conflict):  # the basket no longer exists
        await change
    await check_executed(world, BUY)


@cells("F38-M")
async def test_second_completion_returns_result_of_the_first(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [gate])
    first = asyncio.ensure_future(BUY.call(world.minted, world.basket))
    await gate.arrived.wait()
    second = asyncio.ensure_future(BUY.call(world.minted, world.basket))
    await let_calls_proceed(world)
    gate.proceed.set()
    completion, second_result = await asyncio.gather(first, second)
    assert completion is second_result
    assert BUY.is_in_result(completion)
    await check_executed(world, BUY)
    assert world.sent(BUY) == world.arrived(BUY) == 1
    assert world.states() == ["confirmed"]


# F39: two processes with one journal.


@cells("F39-M")
async def test_completion_in_other_process_is_refused(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.set_up(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [gate])
    async with run_child(world, BUY) as process:
        await gate.arrived.wait()
        with pytest.raises(AlreadyInFlight) as caught:
            await BUY.call(world.minted, world.basket)
        assert world.sent(BUY) == 1
        gate.proceed.set()
        out, err = await process.communicate()
    assert (json.loads(out)["raised"], err) == (None, b"")
    [intent] = [intent for intent in world.states()]
    assert intent == "confirmed"
    assert caught.value.safe_to_retry is False
    assert len(world.sandbox.shop.orders) == 1
    # A later call is refused, too.
    with pytest.raises(Exception) as refusal:
        await BUY.call(world.minted, world.basket)
    assert world.sent(BUY) == 1
    assert refusal.value.safe_to_retry is False  # type: ignore[attr-defined]


# F41: a fork.

FORKING = """
import asyncio, json, os, sys, threading, time
from minted_connect import AsyncMintedConnect, ClientClosedError, MintedConnect
from tests.matrix.child import CALLS, CUSTOMER

url, username, password, journal, flavour = sys.argv[1:]
settings = {"base_url": url, "journal": journal}


def reap(pid):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"


def send(result):
    print(json.dumps(result), flush=True)


def error_of(call):
    try:
        call()
    except ClientClosedError as error:
        return str(error)
    except BaseException as error:
        return repr(error)
    return "no error"


async def asynchronous():
    async with AsyncMintedConnect(username, password, **settings) as minted:
        basket = await minted.baskets.get_active(CUSTOMER)
        buying = asyncio.ensure_future(CALLS["M"](minted, basket))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)  # the request has reached the server
        pid = os.fork()
        if pid == 0:
            for effect, call in CALLS.items():
                send([effect, error_of(lambda: asyncio.run(call(minted, basket)))])
            os._exit(0)
        send(["child", reap(pid)])
        send(["parent", (await buying).order.status])


def blocking():
    with MintedConnect(username, password, **settings) as minted:
        basket = minted.baskets.get_active(CUSTOMER)
        done = []
        buying = threading.Thread(target=lambda: done.append(CALLS["M"](minted, basket)))
        buying.start()
        sys.stdin.readline()
        pid = os.fork()
        if pid == 0:
            for effect, call in CALLS.items():
                send([effect, error_of(lambda: call(minted, basket))])
            os._exit(0)
        send(["child", reap(pid)])
        buying.join()
        send(["parent", done[0].order.status])


asyncio.run(asynchronous()) if flavour == "async" else blocking()
"""


@pytest.fixture(scope="module")
def fork_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the results of the parent and its forked child for a flavour; each flavour forks once for all cells."""
    results: dict[str, dict[str, Any]] = {}

    def run(flavour: str) -> dict[str, Any]:
        journal = tmp_path_factory.mktemp("forked") / "journal.db"
        with ThreadedSandbox(seed=1) as sandbox:
            customer = sandbox.shop.create_customer(sandbox.username, "customer-1", {"firstname": "Grace"})
            sandbox.shop.add_item(customer, GOLD, 1)
            fault = sandbox.faults.add("hang", path="*/complete/buy")
            arguments = (sandbox.url, sandbox.username, sandbox.password, str(journal), flavour)
            # This test forks a process with threads on purpose.
            flags = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")
            command = (sys.executable, *flags, "-c", FORKING, *arguments)
            pipe = subprocess.PIPE
            with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
                while not fault.waiting and process.poll() is None:
                    threading.Event().wait(0.01)
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                found: dict[str, Any] = {}
                assert process.stdout is not None
                for line in process.stdout:
                    key, value = json.loads(line)
                    found[key] = value
                    if key == "child":
                        found["requests"] = [entry.operation for entry in sandbox.requests]
                        fault.remove()
                assert process.stderr is not None
                found["err"] = process.stderr.read()
            found["orders"] = len(sandbox.shop.orders)
            return found

    def run_once(flavour: str) -> dict[str, Any]:
        if flavour not in results:
            results[flavour] = run(flavour)
        return results[flavour]

    yield run_once


@cells(*(f"F41-{operation.effect}" for operation in OPERATIONS))
def test_client_in_forked_child_is_refused(fork_results: Any, cell: str, flavour: str) -> None:
    results = fork_results(flavour)
    assert results["err"] == "", results
    assert "before a fork" in results[cell[4]]
    assert results["child"] == 0
    assert results["requests"].count("complete.buy") == 1
    # The child does not affect the purchase of the parent.
    assert (results["parent"], results["orders"]) == ("Pending", 1)


# F42: another event loop.


@cells(*(f"F42-{operation.effect}" for operation in OPERATIONS), flavours=("async",))
async def test_client_in_other_event_loop_is_refused(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)

    async def call() -> None:
        await operation.call(world.minted, world.basket)

    with pytest.raises(ClientClosedError, match="another event loop"):
        await anyio.to_thread.run_sync(asyncio.run, call())
    assert (world.sent(operation), world.states()) == (0, [])
    assert operation.is_in_result(await operation.call(world.minted, world.basket))


@cells(*(f"F42-{operation.effect}-meanwhile" for operation in OPERATIONS), "F42-M-reconcile", flavours=("async",))
async def test_other_event_loop_during_completion_is_refused(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [gate])
    bought = asyncio.ensure_future(BUY.call(world.minted, world.basket))
    await gate.arrived.wait()
    [in_flight] = world.minted.complete._settlement.in_flight.values()

    async def call() -> None:
        if cell.endswith("reconcile"):
            await world.minted.complete.reconcile(in_flight.intent)
        await operation_of(cell).call(world.minted, world.basket)

    with pytest.raises(ClientClosedError, match="another event loop"):
        await anyio.to_thread.run_sync(asyncio.run, call())
    gate.proceed.set()
    assert BUY.is_in_result(await bought)
    assert world.sent(BUY) == 1


@cells(*(f"F42-{operation.effect}-blocking" for operation in OPERATIONS), flavours=("blocking",))
async def test_blocking_client_works_in_any_event_loop(world: MatrixWorld, cell: str) -> None:
    """The blocking client has its own event loop, so a running loop of the caller does not matter."""
    operation = operation_of(cell)
    await world.set_up(operation)

    async def call() -> Any:
        asyncio.get_running_loop()
        return operation.call(world.minted._target, world.basket)

    assert operation.is_in_result(await anyio.to_thread.run_sync(asyncio.run, call()))
    assert (world.sent(operation), world.arrived(operation)) == (1, 1)
