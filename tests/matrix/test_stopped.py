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
from tests.matrix.cells import BEFORE, BUY, cells, lines
from tests.matrix.outcomes import is_done
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, child

LEFT: Final = 4.0
"""Seconds left of the price lock when the process reads the basket, of which 3 are its margin."""
STOPPED: Final = 1.2
"""Seconds for which the process is stopped: more than are left to send. Its clock cannot be moved by a test."""
BOUNDED: Final = {"fence_proves_not_executed": True, "latest_landing": 1.0}
"""Policy of a client for which an open or cleared basket is a proof."""


async def has_stopped(process: asyncio.subprocess.Process) -> None:
    """Wait until the process is stopped; asyncio can only wait for its end."""
    options = os.WSTOPPED | os.WEXITED | os.WNOWAIT
    found = await anyio.to_thread.run_sync(os.waitid, os.P_PID, process.pid, options)
    assert found is not None
    assert found.si_code == os.CLD_STOPPED


@asynccontextmanager
async def stopped(world: MatrixWorld) -> AsyncIterator[asyncio.subprocess.Process]:
    """Let another process write an intent, and stop it before it sends anything."""
    async with child(world, BUY, "stop") as process:
        await has_stopped(process)
        assert (world.states(), world.sent(BUY)) == (["prepared"], 0)
        yield process


async def gave_up(process: asyncio.subprocess.Process) -> None:
    out, err = await process.communicate()
    assert err == b""
    assert json.loads(out) == {"raised": "PriceFixExpired", "notes": [], "intent": None}


@cells("F52-M-wakes")
async def test_a_stopped_process_goes_on_too_late(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.ready(BUY)
    world.clock.advance(240 - LEFT)
    async with stopped(world) as process:
        await asyncio.sleep(STOPPED)
        process.send_signal(signal.SIGCONT)
        await gave_up(process)
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (0, ["not_sent"], [])


@cells("F52-M-wakes-in-time")
async def test_a_stopped_process_goes_on_in_time(world_today: MatrixWorld, cell: str) -> None:
    """Control: if it continues in time, the process sends the completion."""
    world = world_today
    await world.ready(BUY)
    async with stopped(world) as process:
        process.send_signal(signal.SIGCONT)
        out, err = await process.communicate()
    assert (json.loads(out)["raised"], err) == (None, b"")
    await is_done(world, BUY)
    assert world.sent(BUY) == 1


@cells("F52-M-wakes-at-the-challenge")
async def test_it_is_stopped_before_the_reply_to_a_challenge(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.ready(BUY)
    world.clock.advance(240 - LEFT)
    processes: list[asyncio.subprocess.Process] = []

    async def stop(proxied: ProxiedRequest) -> None:
        [process] = processes
        process.send_signal(signal.SIGSTOP)
        await has_stopped(process)
        await injections.outdated(proxied)
        await asyncio.sleep(STOPPED)
        process.send_signal(signal.SIGCONT)

    world.proxy.inject(BUY.method, BUY.path, [stop])
    async with child(world, BUY) as process:
        processes.append(process)
        await gave_up(process)
    # The challenge refused the request before anything was executed, and the client did not reply to it.
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (1, ["not_sent"], [])


async def still_prepared(world: MatrixWorld, *, fence: bool) -> Intent:
    """Reconcile from this process, and return the intent, whose outcome stays unknown."""
    [intent] = await world.minted.complete.pending()
    assert intent.state == "prepared"
    with pytest.raises(OutcomeUnknown) as caught:
        await world.minted.complete.reconcile(intent, fence=fence)
    assert caught.value.intent.id == intent.id
    assert world.states() == ["prepared"]
    return intent


def seconds_until_sendable_no_more(world: MatrixWorld, intent: Intent) -> float:
    assert intent.send_before is not None
    return (intent.send_before - world.clock.wall()).total_seconds()


@cells("F52-M-looks", "F52-M-fence")
async def test_nothing_is_concluded_while_it_may_still_send(build: Any, cell: str) -> None:
    """An open or cleared basket proves nothing before `send_before` and the settle time."""
    fence = cell.endswith("fence")
    world = await build(policy=BOUNDED, start=datetime.now(UTC))
    await world.ready(BUY)
    async with stopped(world):
        # Two minutes of reads, enough for a proof if the process were known to have ended.
        intent = await still_prepared(world, fence=fence)
        assert world.clock.monotonic() >= 100
        left = seconds_until_sendable_no_more(world, intent)
        assert 60 < left < 240
        assert lines(world.sandbox) == ([] if fence else BEFORE)
        world.clock.advance(
            left
        )  # it can no longer send, but an order that it sent at the last moment may not show yet
        world.minted = await world.another(options=world.options({**BOUNDED, "reconcile_budget": 1.0}, {}))
        await still_prepared(world, fence=fence)
        world.clock.advance(10)
        world.minted = await world.another()
        [intent] = await world.minted.complete.pending()
        with pytest.raises(NotExecuted):
            await world.minted.complete.reconcile(intent, fence=fence)
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (0, ["not_executed"], [])


@cells("F52-M-looks-found")
async def test_an_order_that_is_found_settles_at_once(world_today: MatrixWorld, cell: str) -> None:
    """The process is stopped after the completion was executed and before it could write that."""
    world = world_today
    await world.ready(BUY)
    processes: list[asyncio.subprocess.Process] = []

    async def stop(proxied: ProxiedRequest) -> None:
        [process] = processes
        order = await proxied.forward()
        process.send_signal(signal.SIGSTOP)
        await has_stopped(process)
        proxied.send(order.raw)

    world.proxy.inject(BUY.method, BUY.path, [stop])
    async with child(world, BUY) as process:
        processes.append(process)
        await has_stopped(process)
        [intent] = await world.minted.complete.pending()
        done = await world.minted.complete.reconcile(intent)
        assert (BUY.shown(done), done.reconciled) == (True, True)
        assert world.states() == ["confirmed"]
        process.send_signal(signal.SIGCONT)
        out, err = await process.communicate()
    assert (json.loads(out)["raised"], err) == (None, b"")
    assert (world.sent(BUY), world.states(), len(world.sandbox.shop.orders)) == (1, ["confirmed"], 1)
