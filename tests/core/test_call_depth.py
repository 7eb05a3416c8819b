"""The number of coroutines between a method of a resource and the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import minted_connect
from minted_connect import AsyncMintedConnect
from minted_connect.sandbox import Sandbox
from tests.support.operations import GOLD

PACKAGE = Path(minted_connect.__file__).parent
MAX_FRAMES = 8


def awaited_code(coroutine: Any) -> Iterator[CodeType]:
    """Yield the code of a suspended coroutine, and of each coroutine that it awaits."""
    while coroutine is not None:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        if code is not None:
            yield code
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)


@pytest.mark.usefixtures("direct_route")
async def test_basket_update_awaits_at_most_eight_frames(sandbox: Sandbox) -> None:
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        fault = sandbox.faults.add("hang")
        update = asyncio.create_task(minted.baskets.update_item(basket, sku=GOLD, qty=2))
        while not fault.waiting:
            await asyncio.sleep(0)
        frames = [
            code.co_qualname for code in awaited_code(update.get_coro()) if PACKAGE in Path(code.co_filename).parents
        ]
        update.cancel()
        await asyncio.wait([update])
        assert frames[0] == "AsyncBaskets.update_item"
        assert frames[-1] == "DirectRoute.exchange"
        assert len(frames) <= MAX_FRAMES, frames
