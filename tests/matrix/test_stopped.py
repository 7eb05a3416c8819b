"""F52. A process is stopped between writing an intent and sending it, and may continue at any time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import anyio.to_thread
import pytest

from minted_connect import NotExecuted, OutcomeUnknown
from minted_connect.models import Intent
from tests.matrix import injections
from tests.matrix.cells import BASKET_ITEMS, BUY, basket_items, cells
from tests.matrix.outcomes import check_executed
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, run_child

SECONDS_LEFT: Final = 4.0
"""Seconds left of the price lock when the process reads the basket, of which 3 are its margin."""
STOP_SECONDS: Final = 1.2
"""Seconds for which the process is stopped, more than are left to send. A test cannot advance its clock."""
FENCE_POLICY: Final = {"fence_proves_not_executed": True, "latest_landing": 1.0}
"""Policy of a client for which an open or cleared basket is a proof."""


async def wait_until_stopped(process: asyncio.subprocess.Process) -> None:
    """Wait until the process is stopped. asyncio can only wait for the end of a process."""
    options = os.WSTOPPED | os.WEXITED | os.WNOWAIT
    found = await anyio.to_thread.run_sync(os.waitid, os.P_PID, process.pid, options)
    assert found is not None
    assert found.si_code == os.CLD_STOPPED


@asynccontextmanager
async def stopped_process(world: MatrixWorld) -> AsyncIterator[asyncio.subprocess.Process]:
    """Let another process write an intent, and stop it before it sends anything."""
    async with run_child(world, BUY, "stop") as process:
        await wait_until_stopped(process)
        assert (world.states(), world.sent(BUY)) == (["prepared"], 0)
        yield process


async def check_price_fix_expired(process: asyncio.subprocess.Process) -> None:
    out, err = await process.communicate()
    assert err == b""
    assert json.loads(out) == {"raised": "PriceFixExpired", "notes": [], "intent": None}


@cells("F52-M-continued")
async def test_process_continued_too_late_sends_nothing(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.set_up(BUY)
    world.clock.advance(240 - SECONDS_LEFT)
    async with stopped_process(world) as process:
        await asyncio.sleep(STOP_SECONDS)
        process.send_signal(signal.SIGCONT)
        await check_price_fix_expired(process)
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (0, ["not_sent"], [])


@cells("F52-M-continued-in-time")
async def test_process_continued_in_time_sends_completion(world_today: MatrixWorld, cell: str) -> None:
    """Control: if it continues in time, the process sends the completion."""
    world = world_today
    await world.set_up(BUY)
    async with stopped_process(world) as process:
        process.send_signal(signal.SIGCONT)
        out, err = await process.communicate()
    assert (json.loads(out)["raised"], err) == (None, b"")
    await check_executed(world, BUY)
    assert world.sent(BUY) == 1


@cells("F52-M-continued-at-the-challenge")
async def test_process_stopped_at_challenge_sends_nothing_more(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.set_up(BUY)
    world.clock.advance(240 - SECONDS_LEFT)
    processes: list[asyncio.subprocess.Process] = []

    async def stop(proxied: ProxiedRequest) -> None:
        [process] = processes
        process.send_signal(signal.SIGSTOP)
        await wait_until_stopped(process)
        await injections.expire_nonces(proxied)
        await asyncio.sleep(STOP_SECONDS)
        process.send_signal(signal.SIGCONT)

    world.proxy.inject(BUY.method, BUY.path, [stop])
    async with run_child(world, BUY) as process:
        processes.append(process)
        await check_price_fix_expired(process)
    # The challenge refused the request before anything was executed, and the client did not reply to it.
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (1, ["not_sent"], [])


async def check_still_prepared(world: MatrixWorld, *, fence: bool) -> Intent:
    """Reconcile from this process, and return the intent, whose outcome stays unknown."""
    [intent] = await world.minted.complete.pending()
    assert intent.state == "prepared"
    with pytest.raises(OutcomeUnknown) as caught:
        await world.minted.complete.reconcile(intent, fence=fence)
    assert caught.value.intent.id == intent.id
    assert world.states() == ["prepared"]
    return intent


def seconds_until_send_before(world: MatrixWorld, intent: Intent) -> float:
    assert intent.send_before is not None
    return (intent.send_before - world.clock.wall()).total_seconds()


@cells("F52-M-polls", "F52-M-fence")
async def test_reconcile_of_stopped_process_waits_for_send_before(build: Any, cell: str) -> None:
    """An open or cleared basket proves nothing before `send_before` and the settle time."""
    fence = cell.endswith("fence")
    world = await build(policy=FENCE_POLICY, start=datetime.now(UTC))
    await world.set_up(BUY)
    async with stopped_process(world):
        # Two minutes of reads, enough for a proof if the process were known to have ended.
        intent = await check_still_prepared(world, fence=fence)
        assert world.clock.monotonic() >= 100
        left = seconds_until_send_before(world, intent)
        assert 60 < left < 240
        assert basket_items(world.sandbox) == ([] if fence else BASKET_ITEMS)
        # The process can no longer send, but an order that it sent at the last moment may not be visible yet.
        world.clock.advance(left)
        world.minted = await world.new_client(options=world.options({**FENCE_POLICY, "reconcile_budget": 1.0}, {}))
        await check_still_prepared(world, fence=fence)
        world.clock.advance(10)
        world.minted = await world.new_client()
        [intent] = await world.minted.complete.pending()
        with pytest.raises(NotExecuted):
            await world.minted.complete.reconcile(intent, fence=fence)
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (0, ["not_executed"], [])


@cells("F52-M-polls-found")
async def test_order_of_stopped_process_is_found_at_once(world_today: MatrixWorld, cell: str) -> None:
    """The process is stopped after the completion was executed and before the process could record it."""
    world = world_today
    await world.set_up(BUY)
    processes: list[asyncio.subprocess.Process] = []

    async def stop(proxied: ProxiedRequest) -> None:
        [process] = processes
        order = await proxied.forward()
        process.send_signal(signal.SIGSTOP)
        await wait_until_stopped(process)
        proxied.send(order.raw)

    world.proxy.inject(BUY.method, BUY.path, [stop])
    async with run_child(world, BUY) as process:
        processes.append(process)
        await wait_until_stopped(process)
        [intent] = await world.minted.complete.pending()
        completion = await world.minted.complete.reconcile(intent)
        assert (BUY.is_in_result(completion), completion.reconciled) == (True, True)
        assert world.states() == ["confirmed"]
        process.send_signal(signal.SIGCONT)
        out, err = await process.communicate()
    assert (json.loads(out)["raised"], err) == (None, b"")
    assert (world.sent(BUY), world.states(), len(world.sandbox.shop.orders)) == (1, ["confirmed"], 1)
