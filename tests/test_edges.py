"""Edge cases of the client that belong to no other file."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest

import minted_connect
from minted_connect import (
    AsyncMintedConnect,
    Completion,
    ConfigurationError,
    InvalidInput,
    Options,
    PriceFixExpired,
    Secret,
    TransportError,
)
from minted_connect.commands import demo
from minted_connect.sandbox import ManualClock
from tests.support.operations import GOLD


def test_the_package_knows_its_names_and_no_others():
    assert dir(minted_connect) == sorted(minted_connect.__all__)
    with pytest.raises(AttributeError, match="'Nonsense'"):
        _ = minted_connect.Nonsense


def test_a_secret_can_be_compared_and_counted_but_not_seen():
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert f"{Secret('canary')} {Secret('canary')!r} {[Secret('canary')]}" == "*** *** [***]"


def test_an_expired_price_is_not_tried_again_blindly():
    assert not PriceFixExpired("too late").safe_to_retry


async def test_half_a_character_cannot_stand_in_a_query(minted, sandbox):
    with pytest.raises(InvalidInput) as caught:
        await minted.request("GET", "/partner/x", query={"q": "\ud800"})
    assert caught.value.field == "query"
    assert len(sandbox.requests) == 0


async def test_an_embedded_sandbox_shares_the_clock():
    clock = ManualClock()
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        assert minted.sandbox_server.clock is clock
        assert minted.with_options(language="en").sandbox_server is minted.sandbox_server
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        clock.advance(241)
        assert basket.price_fix.expired
        assert (await minted.baskets.get_active("customer-1")).price_fix.updated


def test_a_client_of_another_server_has_no_sandbox():
    with pytest.raises(ConfigurationError, match="no sandbox"):
        _ = AsyncMintedConnect("user", "password").sandbox_server


def test_the_demo_can_tell_of_an_order_it_cannot_read():
    out = io.StringIO()
    demo._Printer(out).print_completion(Completion(None, {"id": "10984"}))
    assert "10984" in out.getvalue()


async def test_a_place_in_a_lent_pool_is_waited_for(sandbox):
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, session=session) as minted,
    ):
        rates = await asyncio.gather(*(minted.rates.current() for _ in range(3)))
    assert rates[0] == rates[1] == rates[2]
    assert len(sandbox.requests) == 4


async def test_closing_under_a_running_call_ends_it(sandbox):
    options = Options(random=lambda: 0.0)  # no wait before the second attempt
    minted = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options)
    fault = sandbox.faults.add("hang")
    running = asyncio.create_task(minted.rates.current())
    while not fault.waiting:
        await asyncio.sleep(0)
    await minted.aclose()
    with pytest.raises(TransportError, match="broke"):  # not ClientClosedError: the request was sent
        await running
    assert len(sandbox.requests) == 2  # the challenge, and the call that hangs
