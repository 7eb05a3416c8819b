"""The context variables of a feed's tasks."""

from __future__ import annotations

from contextvars import ContextVar

import pytest

from minted_connect import AsyncMintedConnect, MintedConnect, Options
from minted_connect.feed import LocalSource, Poller, RateFeed
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.feed.test_fleet import fleet_at, gold
from tests.feed.ticks import GOLD

pytestmark = pytest.mark.anyio

span: ContextVar[str] = ContextVar("span", default="")


async def test_polls_do_not_see_context_of_opener():
    seen = []

    async def fetch():
        seen.append(span.get())
        return (GOLD,)

    clock = ManualClock(auto_advance=True)
    poller = Poller(fetch, interval=1, clock=clock, random=lambda: 0.5)
    token = span.set("request")
    async with RateFeed(LocalSource(poller, clock=clock), clock=clock) as feed:
        assert (await anext(feed.subscribe())).number == 1
        assert span.get() == "request"
        await feed.wait_for(lambda _: span.get() == "request", timeout=60)  # the caller's function has its context
    span.reset(token)
    assert set(seen) == {""}


async def test_polls_of_fleet_do_not_see_context_of_opener(redis_server, sandbox):
    seen = []
    options = Options(on_attempt=lambda _: seen.append(span.get()))
    token = span.set("request")
    async with (
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options) as minted,
        minted.rates.feed(interval=0.05, fleet=fleet_at(redis_server.url)) as feed,
    ):
        await anext(gold(feed))
    span.reset(token)
    assert set(seen) == {""}


def test_polls_of_blocking_feed_do_not_see_context_of_opener():
    seen = []
    options = Options(on_attempt=lambda _: seen.append(span.get()))
    token = span.set("request")
    with (
        ThreadedSandbox(seed=1) as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options) as minted,
        minted.rates.feed(interval=0.05) as feed,
    ):
        next(feed.subscribe())
    span.reset(token)
    assert set(seen) == {""}
