"""`aclose` of the asyncio client: by several tasks, during purchases, when cancelled, and in a fork."""

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
from tests.support.subprocesses import run_script

BUY = "*/complete/buy"
PATIENCE = 20.0


class BlockingJournal(MemoryJournal):
    """A journal whose `settle` blocks until `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.settling = asyncio.Event()
        self.released = asyncio.Event()
        self.events: list[str] = []

    async def settle(self, intent_id: str, state: IntentState, **details: Any) -> None:
        self.settling.set()
        await self.released.wait()
        await super().settle(intent_id, state, **details)
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


async def wait_until_hanging(fault: Fault) -> None:
    with anyio.fail_after(PATIENCE):
        while not fault.waiting:
            await asyncio.sleep(0.001)


async def pending(path: Path) -> list[Intent]:
    return await SqliteJournal(path).pending()


@pytest.mark.requirement(50)
@pytest.mark.parametrize("closers", [1, 2, 8])
async def test_aclose_during_purchase_leaves_outcome_unknown(
    sandbox: Sandbox, basket: Basket, tmp_path: Path, closers: int
) -> None:
    minted = client(sandbox, tmp_path / "journal.db")
    hang = sandbox.faults.add("hang", path=BUY, commit=True)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await wait_until_hanging(hang)
    await asyncio.gather(*(minted.aclose() for _ in range(closers)))
    assert purchase.done()
    with pytest.raises(OutcomeUnknown) as caught:
        await purchase
    [stored] = await pending(tmp_path / "journal.db")
    intent = intent_of(caught.value)
    assert intent is not None
    assert (intent.id, stored.state) == (stored.id, IntentState.UNKNOWN)
    await minted.aclose()


@pytest.mark.requirement(50)
async def test_every_aclose_waits_until_the_outcome_is_stored(sandbox: Sandbox, basket: Basket) -> None:
    journal = BlockingJournal()
    minted = client(sandbox, journal)
    minted._owns_journal = True
    hang = sandbox.faults.add("hang", path=BUY, commit=True)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await wait_until_hanging(hang)
    closers = [asyncio.ensure_future(minted.aclose()) for _ in range(3)]
    await journal.settling.wait()
    # A cancelled call of `aclose` ends at once, except the first, which closes the client.
    closers[2].cancel()
    closers[0].cancel()
    await asyncio.wait({closers[2]})
    assert not closers[0].done()
    assert not closers[1].done()
    journal.released.set()
    results = await asyncio.gather(purchase, *closers, return_exceptions=True)
    assert [type(result) for result in results] == [
        OutcomeUnknown,
        asyncio.CancelledError,
        type(None),
        asyncio.CancelledError,
    ]
    assert journal.events == ["settled unknown", "closed"]


async def test_aclose_ends_the_polls_after_a_refusal(sandbox: Sandbox, basket: Basket, tmp_path: Path) -> None:
    sandbox.faults.add("status", path=BUY, status=403, envelope=False)
    minted = client(sandbox, tmp_path / "journal.db")  # by default, the second poll comes after 3.75 s
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    with anyio.fail_after(PATIENCE):
        while not sandbox.requests.of("orders.page"):
            await asyncio.sleep(0.001)
    with anyio.fail_after(3):
        await minted.aclose()
    assert purchase.done()
    with pytest.raises(OutcomeUnknown):
        await purchase
    [stored] = await pending(tmp_path / "journal.db")
    assert stored.refusal is not None
    assert stored.refusal.status == 403


async def test_aclose_wait_for_a_purchase_times_out(
    sandbox: Sandbox, basket: Basket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minted_connect.client.CLOSING", 0.05)
    journal = BlockingJournal()
    minted = client(sandbox, journal)
    purchase = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    await journal.settling.wait()
    await minted.aclose()
    assert not purchase.done()
    journal.released.set()
    assert (await purchase).order is not None


async def test_aclose_in_cancelled_scope_closes_everything(sandbox: Sandbox, basket: Basket) -> None:
    minted = client(sandbox, None)
    await minted.rates.current()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await minted.aclose()
    assert scope.cancelled_caught
    assert not minted._api.state.transport.is_open
    with pytest.raises(ClientClosedError):
        await minted.rates.current()


async def test_aclose_failure_is_raised_in_the_first_call_only(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = client(sandbox, None)
    await minted.rates.current()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("journal")

    monkeypatch.setattr(minted.complete._settlement.journal, "aclose", fail)
    results = await asyncio.gather(*(minted.aclose() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [KeyError, type(None), type(None)]
    await minted.aclose()


async def test_aclose_of_derived_client_keeps_purchases(sandbox: Sandbox, basket: Basket) -> None:
    async with client(sandbox, None) as minted:
        derived = minted.with_options(language="en")
        hang = sandbox.faults.add("hang", path=BUY)
        purchase = asyncio.ensure_future(derived.complete.buy(basket, expected_total=basket.paid_total))
        await wait_until_hanging(hang)
        await derived.aclose()
        hang.remove()
        assert (await purchase).order is not None


def test_aclose_on_a_second_loop_returns() -> None:
    minted = AsyncMintedConnect("user", "password", base_url="http://127.0.0.1:1")
    asyncio.run(minted.aclose())
    asyncio.run(minted.aclose())


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks")
def test_aclose_in_fork_does_not_wait_for_the_parent() -> None:
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
    assert run_script(source) == ["0", "True"]
