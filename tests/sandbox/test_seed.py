"""The seed is random and shown unless it is given; the same seed repeats all responses, byte for byte."""

import inspect
import json

import aiohttp
import pytest

from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.sandbox import ManualClock, Sandbox, Settings, ThreadedSandbox
from minted_connect.sandbox.shop import Shop

pytestmark = pytest.mark.anyio


async def bodies(serving, **options):
    """Buy, sell, read and wait; return the bodies of all responses, without the port."""
    clock = ManualClock()
    async with serving(clock=clock, **options) as (sandbox, api):
        texts = []

        async def record(response):
            texts.append(response.text.replace(sandbox.url, ""))
            return response

        await record(await api.send("POST", "/partner/customer", {"external_id": "cust-1", "firstname": "Ada"}))
        basket = (await record(await api.add_item("MNTBAE0001", 3))).data
        await record(await api.complete(basket))
        clock.advance(333)
        sell = (await record(await api.add_item("MNTBAE0001", 1, type="sell"))).data
        await record(await api.complete(sell, "sell"))
        for path in ("/partner/walletable/rates", "/partner/walletable/orders", "/partner/walletable/products"):
            await record(await api.get(path))
        return sandbox.seed, texts


@pytest.mark.parametrize("seed", [0, 1, 7, -3, 2**40])
async def test_given_seed_repeats_every_byte(serving, seed):
    assert await bodies(serving, seed=seed) == await bodies(serving, seed=seed)
    assert (await bodies(serving, seed=seed))[0] == seed


async def test_default_seed_is_random(serving):
    first, second = await bodies(serving, seed=None), await bodies(serving, seed=None)
    assert first[0] != second[0]
    assert json.loads(first[1][1])["data"]["token"] != json.loads(second[1][1])["data"]["token"]
    assert await bodies(serving, seed=first[0]) == first  # the seed of a sandbox repeats its responses


async def test_state_file_keeps_seed(serving, tmp_path):
    state, seeds = tmp_path / "shop.sqlite", []
    for seed in (None, None, 12345):
        async with serving(state=state, seed=seed, clock=ManualClock()) as (sandbox, api):
            seeds.append((sandbox.seed, sandbox.shop.walk.seed))
            await api.get("/partner/walletable/rates")
    assert len(set(seeds)) == 1
    assert seeds[0][0] == seeds[0][1] != 12345


def test_seed_is_known_after_start():
    for kind in (Sandbox, ThreadedSandbox):
        with pytest.raises(RuntimeError, match="not started"):
            _ = kind(seed=7).seed
    with ThreadedSandbox(seed=7) as sandbox:
        assert sandbox.seed == 7
    with ThreadedSandbox() as sandbox, ThreadedSandbox() as other:
        assert sandbox.seed != other.seed
        assert 0 <= sandbox.seed < 2**32


def test_seed_defaults_to_none():
    assert Settings().seed is None
    for function in (Shop, AsyncMintedConnect.sandbox, MintedConnect.sandbox):
        assert inspect.signature(function).parameters["seed"].default is None


async def test_sandbox_clients_accept_seed():
    async with AsyncMintedConnect.sandbox(seed=7) as minted:
        assert minted.sandbox_server.seed == 7
    with MintedConnect.sandbox(seed=8) as minted:
        assert minted.sandbox_server.seed == 8
    with MintedConnect.sandbox() as minted, MintedConnect.sandbox() as other:
        assert minted.sandbox_server.seed != other.sandbox_server.seed


async def test_console_state_contains_seed():
    async with (
        Sandbox() as sandbox,
        aiohttp.ClientSession() as session,
        session.get(f"{sandbox.console_url}/state") as response,
    ):
        assert (await response.json())["seed"] == sandbox.seed
