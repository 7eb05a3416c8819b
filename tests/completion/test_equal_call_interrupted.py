"""An equal call waits for the purchase of another one; if its wait is interrupted, the exception has the intent."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from minted_connect import AsyncMintedConnect, ClientClosedError, MintedConnect, intent_of
from minted_connect.completion import basket_completion
from minted_connect.completion.interruption import watch_purchase
from minted_connect.models import Basket, IntentState
from minted_connect.sandbox import ThreadedSandbox
from tests.support.operations import GOLD

BUY = "*/complete/buy"
TIMEOUT = 20.0


async def time_out_equal_call(minted: AsyncMintedConnect, basket: Basket, fault: Any) -> tuple[Any, TimeoutError]:
    """Buy until the fault stops the call, and let an equal call time out; return the first call and the error."""
    first = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
    with anyio.fail_after(TIMEOUT):
        while not fault.waiting:
            await asyncio.sleep(0.001)
    with pytest.raises(TimeoutError) as timed_out:
        async with asyncio.timeout(0.05):
            await minted.complete.buy(basket, expected_total=basket.paid_total)
    return first, timed_out.value


@pytest.mark.anyio
async def test_timeout_of_waiting_equal_call_has_the_intent() -> None:
    async with AsyncMintedConnect.sandbox() as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = minted.sandbox_server.faults.add("hang", path=BUY, commit=True)
        first, timed_out = await time_out_equal_call(minted, basket, fault)
        intent = intent_of(timed_out)
        assert intent is not None
        assert intent.state is IntentState.UNKNOWN
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert [pending.id for pending in await minted.complete.pending()] == [intent.id]


@pytest.mark.anyio
async def test_timeout_of_waiting_equal_call_before_sending_has_none() -> None:
    async with AsyncMintedConnect.sandbox() as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = minted.sandbox_server.faults.add("hang", path="*/walletable/basket")
        first, timed_out = await time_out_equal_call(minted, basket, fault)
        assert intent_of(timed_out) is None
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


def test_close_during_equal_calls_of_threads_names_the_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Event()

    def watch(purchase: Any) -> None:
        watch_purchase(purchase)
        waiting.set()

    # Called by an equal call only, right before it waits.
    monkeypatch.setattr(basket_completion, "watch_purchase", watch)
    with ThreadedSandbox() as sandbox, ThreadPoolExecutor(2) as threads:
        minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
        minted.customers.create("customer-1")
        basket = minted.baskets.add_item("customer-1", sku=GOLD)
        sandbox.faults.add("delay_after_commit", path=BUY, seconds=TIMEOUT)

        def buy() -> BaseException | None:
            try:
                minted.complete.buy(basket, expected_total=basket.paid_total)
            except ClientClosedError as closed:
                return closed
            return None

        calls = [threads.submit(buy), threads.submit(buy)]
        assert waiting.wait(TIMEOUT)
        while not sandbox.shop.orders:
            time.sleep(0.001)
        minted.close()
        ended = [call.result(TIMEOUT) for call in calls]
    intents = [None if error is None else intent_of(error) for error in ended]
    assert None not in intents
    assert len({intent.id for intent in intents if intent is not None}) == 1
