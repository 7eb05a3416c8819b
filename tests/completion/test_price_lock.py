"""A slow server shortens the time in which a basket can be completed at its price."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import Options, PriceFixExpired
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio


@pytest.mark.requirement(19)
@pytest.mark.parametrize(("left", "is_bought"), [(11, True), (9, False)])
async def test_price_lock_is_not_used_within_response_time(connect: Any, left: int, is_bought: bool) -> None:
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock) as sandbox:
        minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
        await minted.customers.create("customer-1")
        sandbox.faults.add("delay", path="*/rates", seconds=10)
        await minted.rates.current()
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        clock.advance(basket.price_fix.seconds_left - left)
        if is_bought:
            assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None
        else:
            with pytest.raises(PriceFixExpired, match="10 s are required"):
                await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert len(sandbox.shop.orders) == is_bought
