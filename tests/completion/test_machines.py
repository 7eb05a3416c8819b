"""Processes that act as separate machines: they share only the server and the journal."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.journal import open_journal
from minted_connect.models import IntentState
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD
from tests.support.postgres import Database

pytestmark = pytest.mark.anyio

BUY = "*/complete/buy"
BASKETS = 20


@pytest.fixture
async def minted(sandbox: Sandbox) -> AsyncIterator[AsyncMintedConnect]:
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        yield client


Start = Callable[[str, str], Awaitable[Process]]


@pytest.fixture
async def machine(sandbox: Sandbox) -> AsyncIterator[Start]:
    """Return a function that starts a process from its source and the location of its journal."""
    started: list[Process] = []

    async def start(source: str, journal: str) -> Process:
        arguments = ("-W", "error", "-c", source, sandbox.url, sandbox.username, sandbox.password, journal)
        started.append(await create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def send_line(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n".encode())
    await process.stdin.drain()


async def read_line(process: Process) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    line = await process.stdout.readline()
    assert line, (await process.stderr.read()).decode()
    return line.decode().strip()


# One client is asynchronous and one blocking: only the journal can prevent a second purchase.
ASYNC_BUYER = """
import asyncio, sys
from minted_connect import AlreadyInFlight, AsyncMintedConnect

async def main():
    url, username, password, journal = sys.argv[1:]
    async with AsyncMintedConnect(username, password, base_url=url, journal=journal) as minted:
        for line in sys.stdin:
            basket = await minted.baskets.get_active(line.strip())
            print("seen", flush=True)
            sys.stdin.readline()
            try:
                done = await minted.complete.buy(basket, expected_total=basket.paid_total)
            except AlreadyInFlight as error:
                print(type(error).__name__, flush=True)
            else:
                print(done.order.token, flush=True)

asyncio.run(main())
"""
BLOCKING_BUYER = """
import sys
from minted_connect import AlreadyInFlight, MintedConnect

url, username, password, journal = sys.argv[1:]
with MintedConnect(username, password, base_url=url, journal=journal) as minted:
    for line in sys.stdin:
        basket = minted.baskets.get_active(line.strip())
        print("seen", flush=True)
        sys.stdin.readline()
        try:
            done = minted.complete.buy(basket, expected_total=basket.paid_total)
        except AlreadyInFlight as error:
            print(type(error).__name__, flush=True)
        else:
            print(done.order.token, flush=True)
"""


async def test_one_of_two_machines_completes_each_basket(
    minted: AsyncMintedConnect, sandbox: Sandbox, database: Database, machine: Start
) -> None:
    machines = [await machine(source, database.url) for source in (ASYNC_BUYER, BLOCKING_BUYER)]
    tokens: list[str] = []
    for number in range(BASKETS):
        customer = f"customer-{number}"
        await minted.customers.create(customer)
        tokens.append((await minted.baskets.add_item(customer, sku=GOLD)).token)
        for process in machines:
            await send_line(process, customer)
        assert [await read_line(process) for process in machines] == ["seen", "seen"]
        # The basket stays open while the first request hangs, so that only the journal can stop the second process.
        fault = sandbox.faults.add("hang", path=BUY, times=None)
        for process in machines:
            await send_line(process, "go")
        lines = {asyncio.create_task(read_line(process)) for process in machines}
        [first], [second] = await asyncio.wait(lines, return_when=asyncio.FIRST_COMPLETED)
        assert first.result() == "AlreadyInFlight"
        while not fault.waiting:
            await asyncio.sleep(0.01)
        fault.remove()
        assert await second == tokens[-1]
        assert fault.hits == 1
    for process in machines:
        _, problems = await process.communicate(b"")
        assert (process.returncode, problems) == (0, b"")
    assert [order.token for order in sandbox.shop.orders] == tokens
    journal = open_journal(database.url)
    assert await journal.pending() == []
    assert [intent.cart_token for intent in await journal.awaiting_completion()] == tokens


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
RECONCILER = """
import asyncio, json, sys
from minted_connect import AlreadyInFlight, AsyncMintedConnect, CompletionPolicy, Options, OutcomeUnknown

async def main():
    url, username, password, journal = sys.argv[1:]
    options = Options(completion=CompletionPolicy(reconcile_budget=1.0))
    async with AsyncMintedConnect(username, password, base_url=url, journal=journal, options=options) as minted:
        [intent] = await minted.complete.pending()
        result = {"before": intent.state}
        if basket := await minted.baskets.get_active("customer-1"):
            try:
                await minted.complete.buy(basket, expected_total=basket.paid_total)
            except AlreadyInFlight as error:
                result["again"] = error.intent_id == intent.id
        try:
            done = await minted.complete.reconcile(intent)
        except OutcomeUnknown as error:
            result["unknown"] = error.evidence
        else:
            result["order"] = [done.order.id, done.reconciled, done.differences]
        result["after"] = [one.state for one in await minted.complete.pending()]
        print(json.dumps(result))

asyncio.run(main())
"""


@pytest.mark.requirement(16)
@pytest.mark.parametrize("committed", [True, False], ids=["executed", "not executed"])
async def test_purchase_of_killed_process_is_found_by_another(
    minted: AsyncMintedConnect, sandbox: Sandbox, journal_location: str, machine: Start, committed: bool
) -> None:
    await minted.customers.create("customer-1")
    await minted.baskets.add_item("customer-1", sku=GOLD)
    fault = sandbox.faults.add("hang", path=BUY, commit=committed)
    buyer = await machine(BUYER, journal_location)
    while not fault.waiting:
        assert buyer.returncode is None, await buyer.communicate()
        await asyncio.sleep(0.01)
    buyer.kill()
    await buyer.wait()
    [intent] = await open_journal(journal_location).pending()
    assert intent.state is IntentState.PREPARED

    output, problems = await (await machine(RECONCILER, journal_location)).communicate()
    result = json.loads(output or problems)
    if committed:
        [order] = sandbox.shop.orders
        assert result == {"before": "prepared", "order": [order.id, True, []], "after": []}
    else:
        assert result.pop("unknown")
        # Only the process that prepared the intent knows whether it was sent, so its state does not change.
        assert result == {"before": "prepared", "again": True, "after": ["prepared"]}
        assert sandbox.shop.orders == []
    assert len(sandbox.requests.of("complete.buy")) == 1
