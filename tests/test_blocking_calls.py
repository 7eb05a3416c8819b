"""No call blocks the event loop with a file, a lock or a sleep; the journal runs in a thread."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from minted_connect import AsyncMintedConnect, MintedConnect, Options, OutcomeUnknown
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.conftest import Awaitably
from tests.support.operations import CALLS, GOLD, prepare_data


async def make_every_call(minted: Any, sandbox: Any, clock: ManualClock) -> None:
    prepared = await prepare_data(minted, sandbox, clock)
    for name, call in CALLS.items():
        if name not in {"customers.remove", "baskets.clear", "baskets.delete_item", "complete.buy"}:
            await call(minted, prepared)
    basket = await minted.baskets.get_active(prepared.person.customer, cart_token=prepared.buying.token)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown) as caught:
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    sandbox.faults.add("status", path="*/orders")
    sandbox.faults.add("truncate", path="*/basket")
    completion = await minted.complete.reconcile(caught.value)
    assert [change.after.is_final async for change in minted.orders.watch(completion)][-1]
    assert (await minted.orders.wait(completion)).is_final
    assert await minted.complete.pending() == []
    assert completion.order.id not in [intent.order_id for intent in await minted.complete.unfinished()]
    basket = await minted.baskets.add_item(prepared.person.customer, sku=GOLD)
    for name in ("baskets.delete_item", "baskets.clear"):
        await CALLS[name](minted, prepared.__class__(prepared.person, prepared.bought, basket, basket, basket))
    await CALLS["customers.remove"](minted, prepared)


@pytest.mark.parametrize("flavour", ["async", "blocking"])
def test_no_call_blocks_the_event_loop(flavour, tmp_path: Path):
    clock = ManualClock(auto_advance=True)
    with ThreadedSandbox(seed=1, clock=clock) as sandbox:
        cls = AsyncMintedConnect if flavour == "async" else MintedConnect
        # The constructor checks once whether the directory of the journal exists.
        client = cls(
            sandbox.username,
            sandbox.password,
            base_url=sandbox.url,
            journal=tmp_path / "journal.db",
            options=Options(clock=clock),
        )

        async def run_calls() -> None:
            with pytest.raises(BlockingError):
                time.sleep(0)  # blockbuster is active
            if isinstance(client, MintedConnect):
                await make_every_call(Awaitably(client), sandbox, clock)
            else:
                async with client:
                    await make_every_call(client, sandbox, clock)
                    async with client.rates.feed(interval=0.01) as feed:
                        await anext(feed.subscribe())

        with blockbuster_ctx():
            asyncio.run(run_calls())
        if isinstance(client, MintedConnect):
            client.close()
    assert (tmp_path / "journal.db").stat().st_size > 0
