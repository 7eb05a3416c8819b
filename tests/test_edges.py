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


def test_package_dir_is_its_all():
    assert dir(minted_connect) == sorted(minted_connect.__all__)
    with pytest.raises(AttributeError, match="'Nonsense'"):
        _ = minted_connect.Nonsense


def test_secret_is_hashable_and_masked():
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert f"{Secret('canary')} {Secret('canary')!r} {[Secret('canary')]}" == "*** *** [***]"


def test_price_fix_expired_is_not_safe_to_retry():
    assert not PriceFixExpired("too late").safe_to_retry


async def test_raw_request_surrogate_in_query_is_refused(minted, sandbox):
    with pytest.raises(InvalidInput) as caught:
        await minted.request("GET", "/partner/x", query={"q": "\ud800"})
    assert caught.value.field == "query"
    assert len(sandbox.requests) == 0


async def test_embedded_sandbox_shares_the_clock():
    clock = ManualClock()
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        assert minted.sandbox_server.clock is clock
        assert minted.with_options(language="en").sandbox_server is minted.sandbox_server
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku=GOLD)
        clock.advance(241)
        assert basket.price_fix.expired
        assert (await minted.baskets.get_active("customer-1")).price_fix.updated


def test_sandbox_server_of_other_client_raises():
    with pytest.raises(ConfigurationError, match="no sandbox"):
        _ = AsyncMintedConnect("user", "password").sandbox_server


def test_demo_prints_completion_without_order():
    out = io.StringIO()
    demo._Printer(out).print_completion(Completion(None, {"id": "10984"}))
    assert "10984" in out.getvalue()


async def test_calls_wait_for_a_connection_of_a_lent_session(sandbox):
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, session=session) as minted,
    ):
        rates = await asyncio.gather(*(minted.rates.current() for _ in range(3)))
    assert rates[0] == rates[1] == rates[2]
    assert len(sandbox.requests) == 4


async def test_aclose_during_a_call_raises_transport_error(sandbox):
    options = Options(random=lambda: 0.0)  # no wait before the second attempt
    minted = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options)
    fault = sandbox.faults.add("hang")
    call = asyncio.create_task(minted.rates.current())
    while not fault.waiting:
        await asyncio.sleep(0)
    await minted.aclose()
    with pytest.raises(TransportError, match="broke"):  # not ClientClosedError: the request was sent
        await call
    assert len(sandbox.requests) == 2  # the challenge, and the call that hangs
