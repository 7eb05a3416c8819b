"""Purchases killed with SIGKILL at a server that refuses, or whose reads are behind; another machine settles them.

The killed process lives in real time. Server and reconciling client share a clock that their waits move.
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
"""Together less than the settle time of the default policy."""
BUYS = """
import asyncio, sys
from minted_connect import AsyncMintedConnect

class Stops:
    # A journal that says when the intent is written, and lets nothing go on.
    def __init__(self, journal):
        self._journal = journal

    def __getattr__(self, name):
        return getattr(self._journal, name)

    async def prepare(self, intent):
        await self._journal.prepare(intent)
        print("prepared", flush=True)
        await asyncio.Event().wait()

async def main():
    url, username, password, where, stops = sys.argv[1:]
    async with AsyncMintedConnect(username, password, base_url=url, journal=where) as minted:
        if stops == "yes":
            minted.complete._settlement.journal = Stops(minted.complete._settlement.journal)
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


async def until(condition: Callable[[], object], process: Process) -> None:
    while not condition():
        assert process.returncode is None, await process.communicate()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def buying(server: Sandbox, journal_location: str, *, stops: bool = False) -> AsyncIterator[Process]:
    """Fill a basket, start a process that buys it, and kill it in the end."""
    async with client_of(server, "") as clerk:
        await clerk.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
        await clerk.baskets.add_item(CUSTOMER, sku=GOLD)
    await server.clock.sleep(READS_LAG)
    arguments = (server.url, server.username, server.password, journal_location, "yes" if stops else "no")
    process = await create_subprocess_exec(
        sys.executable, "-W", "error", "-c", BUYS, *arguments, stdout=PIPE, stderr=PIPE
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


async def settled(server: Sandbox, journal_location: str, intent: Intent, *, fence: bool = False, **policy: Any) -> Any:
    """Return how `reconcile` of another machine ends; its report is held against the shop."""
    async with client_of(server, journal_location, **policy) as other:
        assert [one.id for one in await other.complete.pending()] == [intent.id]
        try:
            end: Completion | MintedConnectError = await other.complete.reconcile(intent, fence=fence)
        except MintedConnectError as error:
            end = error
    assert not isinstance(end, Completion) or [order.token for order in server.shop.orders] == [intent.cart_token]
    return end


@pytest.mark.parametrize("commit", ["before", "after", "never"])
@pytest.mark.parametrize(("status", "is_envelope"), [(403, False), (409, True)])
async def test_killed_during_the_looks_after_a_refusal(
    server: Sandbox, journal_location: str, commit: str, status: int, is_envelope: bool
) -> None:
    server.faults.add(
        "refusal", path="*/complete/*", status=status, is_envelope=is_envelope, commit=commit, seconds=DELAY
    )
    async with buying(server, journal_location) as process:
        await until(lambda: len(server.requests.of("orders.page")) > 1, process)
    [intent] = await open_journal(journal_location).pending()
    assert intent.state is IntentState.UNKNOWN
    assert intent.refusal is not None
    assert (intent.refusal.status, intent.refusal.is_vendor_response) == (status, is_envelope)
    end = await settled(server, journal_location, intent)
    if commit == "never":
        assert isinstance(end, CompletionRejected)
        assert end.order is None
        await server.clock.sleep(1000)
        assert server.shop.orders == []
    else:
        assert isinstance(end, Completion)
    assert await open_journal(journal_location).pending() == []
    assert len(server.requests.of("complete.buy")) == 1


async def test_killed_between_the_journal_and_the_send(server: Sandbox, journal_location: str) -> None:
    async with buying(server, journal_location, stops=True) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"prepared\n", await process.communicate()
        [intent] = await open_journal(journal_location).pending()
        bounded = {"latest_landing": DELAY, "fence_proves_not_executed": True}
        # Until the price lock is over, the process may go on and send it: nothing is proven, by looks or by fence.
        end = await settled(server, journal_location, intent, **bounded)
        assert isinstance(end, OutcomeUnknown)
        [intent] = await open_journal(journal_location).pending()
        assert (intent.state, intent.refusal) == (IntentState.PREPARED, None)
    await server.clock.sleep(server.settings.lock_seconds)
    end = await settled(server, journal_location, intent, **bounded)
    assert isinstance(end, NotExecuted)
    assert server.requests.of("complete.buy") == []
    assert await open_journal(journal_location).pending() == []


async def test_killed_with_the_order_not_shown_yet(server: Sandbox, journal_location: str) -> None:
    fault = server.faults.add("hang", path="*/complete/*", commit=True)
    async with buying(server, journal_location) as process:
        await until(lambda: fault.waiting, process)
    [intent] = await open_journal(journal_location).pending()
    assert intent.state is IntentState.PREPARED
    fault.remove()
    end = await settled(server, journal_location, intent, latest_landing=0.0)
    assert isinstance(end, Completion)
    assert len(server.requests.of("complete.buy")) == 1
    assert await open_journal(journal_location).pending() == []
