"""Purchases killed with SIGKILL at a server that refuses or has delayed reads; another machine settles them.

The killed process runs in real time. Server and reconciling client share a clock that their waits advance.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    Completion,
    CompletionPolicy,
    CompletionRejected,
    MintedConnectError,
    NotExecuted,
    Options,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(45), pytest.mark.requirement(46)]

CUSTOMER = "customer-1"
READS_LAG, ORDERS_LAG, DELAY = 6.0, 5.0, 12.0
"""Seconds; together less than the settle time of the default policy."""
BUYER = """
import asyncio, sys
from minted_connect import AsyncMintedConnect

class BlockingJournal:
    # A journal that prints when the intent is stored, and then blocks.
    def __init__(self, journal):
        self._journal = journal

    def __getattr__(self, name):
        return getattr(self._journal, name)

    async def prepare(self, intent):
        await self._journal.prepare(intent)
        print("prepared", flush=True)
        await asyncio.Event().wait()

async def main():
    url, username, password, location, blocks = sys.argv[1:]
    async with AsyncMintedConnect(username, password, base_url=url, journal=location) as minted:
        if blocks == "yes":
            minted.complete._settlement.journal = BlockingJournal(minted.complete._settlement.journal)
        basket = await minted.baskets.get_active("customer-1")
        print("buying", flush=True)
        await minted.complete.buy(basket, expected_total=basket.paid_total)

asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[Sandbox]:
    clock = SteppingClock(datetime.now(UTC))
    async with Sandbox(seed=1, clock=clock, single_shot=False, reads_lag=READS_LAG, orders_lag=ORDERS_LAG) as server:
        yield server


async def wait_until(condition: Callable[[], object], process: Process) -> None:
    while not condition():
        assert process.returncode is None, await process.communicate()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def start_buyer(
    server: Sandbox, journal_location: str, *, blocks_after_prepare: bool = False
) -> AsyncIterator[Process]:
    """Fill a basket, start a process that buys it, and kill the process at the end."""
    async with client_of(server, "") as setup_client:
        await setup_client.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
        await setup_client.baskets.add_item(CUSTOMER, sku=GOLD)
    await server.clock.sleep(READS_LAG)
    arguments = (
        server.url,
        server.username,
        server.password,
        journal_location,
        "yes" if blocks_after_prepare else "no",
    )
    process = await create_subprocess_exec(
        sys.executable, "-W", "error", "-c", BUYER, *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"buying\n", await process.communicate()
        yield process
    finally:
        process.kill()
        await process.communicate()
    assert process.returncode == -signal.SIGKILL


def client_of(server: Sandbox, journal_location: str, **policy: Any) -> AsyncMintedConnect:
    options = Options(clock=server.clock, completion=CompletionPolicy(**policy))
    journal = journal_location or None
    return AsyncMintedConnect(server.username, server.password, base_url=server.url, journal=journal, options=options)


async def reconcile(
    server: Sandbox, journal_location: str, intent: Intent, *, fence: bool = False, **policy: Any
) -> Any:
    """Return the result of `reconcile` on another machine, after comparing it with the shop."""
    async with client_of(server, journal_location, **policy) as other:
        assert [one.id for one in await other.complete.pending()] == [intent.id]
        try:
            result: Completion | MintedConnectError = await other.complete.reconcile(intent, fence=fence)
        except MintedConnectError as error:
            result = error
    assert not isinstance(result, Completion) or [order.token for order in server.shop.orders] == [intent.cart_token]
    return result


@pytest.mark.parametrize("commit", ["before", "after", "never"])
@pytest.mark.parametrize(("status", "is_envelope"), [(403, False), (409, True)])
async def test_purchase_killed_during_polling_is_settled_later(
    server: Sandbox, journal_location: str, commit: str, status: int, is_envelope: bool
) -> None:
    server.faults.add(
        "refusal", path="*/complete/*", status=status, is_envelope=is_envelope, commit=commit, seconds=DELAY
    )
    async with start_buyer(server, journal_location) as process:
        await wait_until(lambda: len(server.requests.of("orders.page")) > 1, process)
    [intent] = await open_journal(journal_location).pending()
    assert intent.state is IntentState.UNKNOWN
    assert intent.refusal is not None
    assert (intent.refusal.status, intent.refusal.is_vendor_response) == (status, is_envelope)
    result = await reconcile(server, journal_location, intent)
    if commit == "never":
        assert isinstance(result, CompletionRejected)
        assert result.order is None
        await server.clock.sleep(1000)
        assert server.shop.orders == []
    else:
        assert isinstance(result, Completion)
    assert await open_journal(journal_location).pending() == []
    assert len(server.requests.of("complete.buy")) == 1


async def test_purchase_killed_before_sending_is_not_executed(server: Sandbox, journal_location: str) -> None:
    async with start_buyer(server, journal_location, blocks_after_prepare=True) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"prepared\n", await process.communicate()
        [intent] = await open_journal(journal_location).pending()
        bounded = {"latest_landing": DELAY, "fence_proves_not_executed": True}
        # Until the price lock expires, the process may still send the intent: neither polls nor a fence prove anything.
        result = await reconcile(server, journal_location, intent, **bounded)
        assert isinstance(result, OutcomeUnknown)
        [intent] = await open_journal(journal_location).pending()
        assert (intent.state, intent.refusal) == (IntentState.PREPARED, None)
    await server.clock.sleep(server.settings.lock_seconds)
    result = await reconcile(server, journal_location, intent, **bounded)
    assert isinstance(result, NotExecuted)
    assert server.requests.of("complete.buy") == []
    assert await open_journal(journal_location).pending() == []


async def test_purchase_killed_before_its_order_is_listed_is_found(server: Sandbox, journal_location: str) -> None:
    fault = server.faults.add("hang", path="*/complete/*", commit=True)
    async with start_buyer(server, journal_location) as process:
        await wait_until(lambda: fault.waiting, process)
    [intent] = await open_journal(journal_location).pending()
    assert intent.state is IntentState.PREPARED
    fault.remove()
    result = await reconcile(server, journal_location, intent, latest_landing=0.0)
    assert isinstance(result, Completion)
    assert len(server.requests.of("complete.buy")) == 1
    assert await open_journal(journal_location).pending() == []
