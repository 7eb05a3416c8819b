"""`aclose` of the asyncio client, called by several tasks, during purchases, cancelled, and in a fork."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from minted_connect import AsyncMintedConnect, ClientClosedError, OutcomeUnknown, SqliteJournal, intent_of
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Intent, IntentState
from minted_connect.sandbox import Sandbox
from minted_connect.sandbox.active_faults import Fault
from tests.support.operations import GOLD
from tests.support.subprocesses import spoken

BUY = "*/complete/buy"
PATIENCE = 20.0


class HeldJournal(MemoryJournal):
    """A journal that writes an outcome down only when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.settling = asyncio.Event()
        self.released = asyncio.Event()
        self.events: list[str] = []

    async def settle(self, intent_id: str, state: IntentState, **named: Any) -> None:
        self.settling.set()
        await self.released.wait()
        await super().settle(intent_id, state, **named)
        self.events.append(f"settled {state}")

    async def aclose(self) -> None:
        self.events.append("closed")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def basket(sandbox: Sandbox) -> Basket:
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create("customer-1")
        return await minted.baskets.add_item("customer-1", sku=GOLD)


def client(sandbox: Sandbox, journal: Any) -> AsyncMintedConnect:
    return AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal)


async def arrival(fault: Fault) -> None:
    with anyio.fail_after(PATIENCE):
        while not fault.waiting:
            await asyncio.sleep(0.001)


async def pending(path: Path) -> list[Intent]:
    return await SqliteJournal(path).pending()


@pytest.mark.requirement(50)
@pytest.mark.parametrize("closers", [1, 2, 8])
async def test_closing_during_a_purchase_leaves_it_unknown(
    sandbox: Sandbox, basket: Basket, tmp_path: Path, closers: int
) -> None:
    minted = client(sandbox, tmp_path / "journal.db")
    hang = sandbox.faults.add("hang", path=BUY, commit=True)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await arrival(hang)
    await asyncio.gather(*(minted.aclose() for _ in range(closers)))
    assert purchase.done()
    with pytest.raises(OutcomeUnknown) as caught:
        await purchase
    [left] = await pending(tmp_path / "journal.db")
    found = intent_of(caught.value)
    assert found is not None
    assert (found.id, left.state) == (left.id, IntentState.UNKNOWN)
    await minted.aclose()


@pytest.mark.requirement(50)
async def test_every_closer_waits_until_the_outcome_is_written(sandbox: Sandbox, basket: Basket) -> None:
    journal = HeldJournal()
    minted = client(sandbox, journal)
    minted._owns_journal = True
    hang = sandbox.faults.add("hang", path=BUY, commit=True)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await arrival(hang)
    closers = [asyncio.ensure_future(minted.aclose()) for _ in range(3)]
    await journal.settling.wait()
    # A closer that is not the first may leave; the first stays until the client is closed.
    closers[2].cancel()
    closers[0].cancel()
    await asyncio.wait({closers[2]})
    assert not closers[0].done()
    assert not closers[1].done()
    journal.released.set()
    ended = await asyncio.gather(purchase, *closers, return_exceptions=True)
    assert [type(one) for one in ended] == [OutcomeUnknown, asyncio.CancelledError, type(None), asyncio.CancelledError]
    assert journal.events == ["settled unknown", "closed"]


async def test_closing_ends_the_looks_after_a_refusal(sandbox: Sandbox, basket: Basket, tmp_path: Path) -> None:
    sandbox.faults.add("status", path=BUY, status=403, envelope=False)
    minted = client(sandbox, tmp_path / "journal.db")  # by default, the next look comes after 3.75 s
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    with anyio.fail_after(PATIENCE):
        while not sandbox.requests.of("orders.page"):
            await asyncio.sleep(0.001)
    with anyio.fail_after(3):
        await minted.aclose()
    assert purchase.done()
    with pytest.raises(OutcomeUnknown):
        await purchase
    [left] = await pending(tmp_path / "journal.db")
    assert left.refusal is not None
    assert left.refusal.status == 403


async def test_a_purchase_that_does_not_end_is_not_waited_for_without_bound(
    sandbox: Sandbox, basket: Basket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minted_connect.client.CLOSING", 0.05)
    journal = HeldJournal()
    minted = client(sandbox, journal)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await journal.settling.wait()
    await minted.aclose()
    assert not purchase.done()
    journal.released.set()
    assert (await purchase).order is not None


async def test_closing_in_a_cancelled_scope_closes_everything(sandbox: Sandbox, basket: Basket) -> None:
    minted = client(sandbox, None)
    await minted.rates.current()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await minted.aclose()
    assert scope.cancelled_caught
    assert not minted._api.state.transport.is_open
    with pytest.raises(ClientClosedError):
        await minted.rates.current()


async def test_a_failure_of_closing_is_raised_to_the_first_closer_only(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = client(sandbox, None)
    await minted.rates.current()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("journal")

    monkeypatch.setattr(minted.complete._settlement.journal, "aclose", fail)
    ended = await asyncio.gather(*(minted.aclose() for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in ended] == [KeyError, type(None), type(None)]
    await minted.aclose()


async def test_closing_a_sibling_touches_no_purchase(sandbox: Sandbox, basket: Basket) -> None:
    async with client(sandbox, None) as minted:
        sibling = minted.with_options(language="en")
        hang = sandbox.faults.add("hang", path=BUY)
        purchase = asyncio.ensure_future(sibling.complete.buy(basket, expected_total=basket.paid_total))
        await arrival(hang)
        await sibling.aclose()
        hang.remove()
        assert (await purchase).order is not None


def test_a_client_closed_on_another_loop_does_not_wait() -> None:
    minted = AsyncMintedConnect("user", "password", base_url="http://127.0.0.1:1")
    asyncio.run(minted.aclose())
    asyncio.run(minted.aclose())


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")
def test_a_fork_waits_for_no_purchase_of_its_parent() -> None:
    source = """
import asyncio, os, time
from minted_connect import AsyncMintedConnect

async def main():
    async with AsyncMintedConnect.sandbox() as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        hang = minted.sandbox_server.faults.add("hang", path="*/complete/buy")
        purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
        while not hang.waiting:
            await asyncio.sleep(0.001)
        child = os.fork()
        if not child:
            started = time.monotonic()
            asyncio._set_running_loop(None)
            asyncio.run(minted.aclose())
            os._exit(time.monotonic() - started > 5)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        print(os.waitstatus_to_exitcode(status))
        hang.remove()
        print((await purchase).order is not None)

asyncio.run(main())
"""
    assert spoken(source) == ["0", "True"]
