"""Alerts of a feed: once for each time a price reaches a limit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect import AsyncMintedConnect, InvalidInput, MintedConnect, PriceAlert, Tick
from minted_connect.feed.alerts import find_alerts
from minted_connect.sandbox import Sandbox
from tests.feed.ticks import GOLD, SILVER, tick

pytestmark = pytest.mark.anyio


def ticks_of(*prices: Any, rate: Any = GOLD) -> list[Tick]:
    """Return ticks with these spot prices; None is a stale one, of a price that reaches every limit."""
    return [
        tick(number, attrs.evolve(rate, spot_price=Decimal(10**6 if price is None else price)), stale=price is None)
        for number, price in enumerate(prices, 1)
    ]


async def publish(ticks: list[Tick]) -> AsyncGenerator[Tick, None]:
    for each in ticks:
        yield each


async def alerts_of(ticks: list[Tick], above: Any = None, below: Any = None) -> list[tuple[str, Decimal]]:
    limits = {"above": above if above is None else Decimal(above), "below": below if below is None else Decimal(below)}
    source: Any = publish(ticks)
    return [(found.direction, found.price) async for found in find_alerts(source, **limits, price="spot")]


async def test_alert_comes_once_for_each_crossing() -> None:
    found = await alerts_of(ticks_of(99, 100, 101, 99, 98, 100, 100), above=100)
    assert found == [("above", 100), ("above", 100)]


async def test_first_price_counts() -> None:
    assert await alerts_of(ticks_of(120, 121), above=100) == [("above", 120)]
    assert await alerts_of(ticks_of(80, 81), below=100) == [("below", 80)]


async def test_both_limits_alert_separately() -> None:
    found = await alerts_of(ticks_of(95, 101, 95, 90, 89, 95, 90), above=100, below=90)
    assert found == [("above", 101), ("below", 90), ("below", 90)]


async def test_stale_ticks_neither_alert_nor_rearm() -> None:
    assert await alerts_of(ticks_of(99, None, 101, None, 102), above=100) == [("above", 101)]


async def test_currencies_alert_separately() -> None:
    mixed = [*ticks_of(101), *ticks_of(101, rate=SILVER), *ticks_of(102)]
    assert await alerts_of(mixed, above=100) == [("above", 101), ("above", 101)]


@given(st.lists(st.integers(1, 6), max_size=30), st.integers(2, 6), st.integers(1, 5))
def test_alerts_equal_the_crossings(prices: list[int], above: int, below: int) -> None:
    found = anyio.run(alerts_of, ticks_of(*prices), above, below if below < above else None)
    crossings: list[tuple[str, int]] = []
    for before, price in itertools.pairwise([None, *prices]):
        if price >= above and (before is None or before < above):
            crossings.append(("above", price))
        if below < above and price <= below and (before is None or before > below):
            crossings.append(("below", price))
    assert found == crossings


async def first_alert(sandbox: Sandbox, flavour: str, **arguments: Any) -> PriceAlert:
    """Return the first alert of a feed of either client."""
    settings = (sandbox.username, sandbox.password)
    if flavour == "async":
        async with (
            AsyncMintedConnect(*settings, base_url=sandbox.url) as minted,
            minted.rates.feed(interval=0.05) as feed,
        ):
            return await anext(feed.alerts(**arguments))

    def wait() -> PriceAlert:
        with MintedConnect(*settings, base_url=sandbox.url) as minted, minted.rates.feed(interval=0.05) as feed:
            return next(iter(feed.alerts(**arguments)))

    return await asyncio.to_thread(wait)


async def test_feed_yields_an_alert_of_the_price_asked_for(sandbox: Sandbox, flavour: str) -> None:
    alert = await first_alert(sandbox, flavour, below=Decimal(600), price="buy", metal="gold")
    assert (alert.price, alert.limit, alert.direction) == (alert.tick.buy, 600, "below")
    assert alert.tick.rate.metal_type == "gold"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "^above: must be given, or below$"),
        ({"above": 1.5}, "^above: must be a Decimal or a whole number"),
        ({"above": "600"}, "^above: must be a Decimal"),
        ({"above": True}, "^above: must be a Decimal"),
        ({"below": Decimal("NaN")}, "^below: must be finite and above 0"),
        ({"below": 0}, "^below: must be finite and above 0"),
        ({"above": 5, "below": 5}, "^above: must be higher than below"),
        ({"above": 5, "price": "ask"}, "^price: must be one of"),
        ({"above": 5, "metal": ""}, "^metal: "),
    ],
)
async def test_wrong_arguments_are_refused(sandbox: Sandbox, flavour: str, arguments: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        await first_alert(sandbox, flavour, **arguments)
