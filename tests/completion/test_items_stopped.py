"""A process that calls `buy_items` is stopped at any step, and continues after its claim has expired.

Meanwhile another process calls `buy_items` with the same journal, or reconciles.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, Final

import anyio.to_thread
import attrs
import psycopg
import pytest

from minted_connect import AsyncMintedConnect, Completion, CompletionPolicy, Options
from minted_connect.errors import AlreadyInFlight, NotExecuted, OutcomeUnknown
from minted_connect.models import IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.ledger import pieces, result_of
from tests.completion.processes import ROOT
from tests.completion.stopped_items import POLICY
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD, SILVER

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(47), pytest.mark.timeout(240)]

BOUGHT, OTHER = {GOLD: 2, SILVER: 1}, {SILVER: 4}
SLEPT: Final = 170.0
"""Seconds: longer than a claim and its grace, shorter than a price lock."""
HALF: Final = 70.0
"""Seconds: more than half of a claim, which is then renewed."""
PAST_LOCK: Final = 300.0
"""Seconds: longer than a price lock and the settle time."""
SETTLE_TIME: Final = CompletionPolicy(**POLICY).settle_time
TYPED: Final = {"AlreadyInFlight", "BasketIncomplete"}
"""Errors of a call that has lost its claim."""
STEPS: Final = {
    "before claim",
    "after claim",
    "after baskets.get_active",
    "after baskets.add_item",
    "before prepare",
    "after prepare",
    "after complete.buy",
    "before settle",
    "after settle",
}
"""Steps that every call has."""


@pytest.fixture
async def server() -> AsyncIterator[Sandbox]:
    clock = SteppingClock(datetime.now(UTC))
    # A second completion of one basket would make a second order.
    async with Sandbox(seed=1, clock=clock, single_shot=False) as server:
        yield server


@attrs.define
class Stopped:
    """A process that calls `buy_items`, and stops itself at some steps."""

    process: Process
    step: str | None = None
    """The step at which it is stopped; None if it has ended."""
    result: dict[str, Any] | None = None

    async def wait(self) -> None:
        """Wait until the process is stopped, or has printed its result."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, await self.process.communicate()
        printed = json.loads(line)
        self.step = printed.get("stopped")
        if self.step is None:
            self.result = printed
            return
        # asyncio can only wait for the end of a process.
        found = await anyio.to_thread.run_sync(os.waitid, os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert found is not None

    async def resume(self) -> dict[str, Any]:
        """Continue the process, and return its result, or an empty one if it is stopped at another step."""
        self.process.send_signal(signal.SIGCONT)
        await self.wait()
        return self.result or {}


def terms(customer: str, reference: str, items: dict[str, int]) -> dict[str, Any]:
    named = {"customer_id": customer, "reference": f"{reference}/{customer}", "items": items}
    return {**named, "max_total": "1000000", "currency": "AED", "replace": True}


async def buy(minted: AsyncMintedConnect, terms: dict[str, Any]) -> Completion | BaseException:
    call = {**terms, "max_total": Decimal(terms["max_total"])}
    return await result_of(minted.complete.buy_items(call.pop("customer_id"), call.pop("items"), **call))


@asynccontextmanager
async def client_of(server: Sandbox, journal: str, **policy: Any) -> AsyncGenerator[AsyncMintedConnect]:
    options = Options(clock=server.clock, completion=CompletionPolicy(**{**POLICY, **policy}))
    async with AsyncMintedConnect(
        server.username, server.password, base_url=server.url, journal=journal, options=options
    ) as client:
        yield client


@asynccontextmanager
async def stopped_call(
    server: Sandbox, journal: str, call: dict[str, Any], stops: dict[str, float]
) -> AsyncGenerator[Stopped]:
    """Start a process that makes a call, and wait until it is stopped at a step.

    Args:
        server: The sandbox.
        journal: Path or URL of the journal.
        call: Arguments of `buy_items`.
        stops: Seconds by which the clocks of the process are ahead after each stop, by name or number of the step.
    """
    settings = {
        "credentials": [server.username, server.password],
        "base_url": server.url,
        "journal": journal,
        "stops": stops,
        "call": call,
    }
    command = (sys.executable, "-W", "error", "-m", "tests.completion.stopped_items", json.dumps(settings))
    process = await create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        stopped = Stopped(process)
        await stopped.wait()
        yield stopped
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def pass_time(server: Sandbox, journal: str, seconds: float = SLEPT) -> None:
    """Let the time pass for which a process is stopped: claims expire by the clock of their database."""
    if "://" in journal:
        with psycopg.connect(journal) as connection:
            connection.execute(
                "UPDATE minted_connect_claims SET expires_at = expires_at - make_interval(secs => %s)", (seconds,)
            )
    else:
        with closing(sqlite3.connect(journal)) as database, database:
            database.execute(
                "UPDATE claims SET expires_elapsed = expires_elapsed - ?, "
                "expires_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', expires_at, ?)",
                (seconds, f"-{seconds} seconds"),
            )
    server.clock.advance(seconds)


def orders_of(server: Sandbox, customer: str) -> list[dict[str, int]]:
    [number] = [one.id for one in server.shop.customers if one.external_id == customer]
    return [dict(pieces(order.lines)) for order in server.shop.orders if order.customer == number]


def number_of(result: Completion | BaseException) -> int | None:
    assert isinstance(result, Completion), result
    return result.order_id


async def test_stopped_call_and_another_process_make_one_order(server: Sandbox, journal_location: str) -> None:
    steps: set[str] = set()
    async with client_of(server, journal_location) as other:
        for stop_at in count(1):
            call = terms(f"customer-{stop_at}", "october", BOUGHT)
            await other.customers.create(call["customer_id"], firstname="Ada", lastname="Lovelace")
            async with stopped_call(server, journal_location, call, {str(stop_at): SLEPT}) as stopped:
                if stopped.step is None:
                    break
                steps.add(stopped.step)
                at_once = await buy(other, call)
                pass_time(server, journal_location)
                later = await buy(other, call)
                result = await stopped.resume()
            number = number_of(await buy(other, call))
            assert orders_of(server, call["customer_id"]) == [BOUGHT], stopped.step
            for seen in (at_once, later):
                assert isinstance(seen, AlreadyInFlight) or number_of(seen) == number
            assert result.get("order") == number or result.get("error") in TYPED, (stopped.step, result)
    assert steps >= STEPS


async def test_stopped_call_and_another_reference_make_both_orders(server: Sandbox, journal_location: str) -> None:
    steps: set[str] = set()
    async with client_of(server, journal_location) as other:
        for stop_at in count(1):
            call, next_call = (
                terms(f"customer-{stop_at}", reference, items)
                for reference, items in (("october", BOUGHT), ("november", OTHER))
            )
            await other.customers.create(call["customer_id"], firstname="Ada", lastname="Lovelace")
            async with stopped_call(server, journal_location, call, {str(stop_at): SLEPT}) as stopped:
                if stopped.step is None:
                    break
                steps.add(stopped.step)
                at_once = await buy(other, next_call)
                pass_time(server, journal_location)
                later = await buy(other, next_call)
                result = await stopped.resume()
            number, next_number = [number_of(await buy(other, one)) for one in (call, next_call)]
            assert number != next_number
            ordered = orders_of(server, call["customer_id"])
            assert sorted(ordered, key=len) == sorted([BOUGHT, OTHER], key=len), (stopped.step, ordered)
            for seen in (at_once, later):
                assert isinstance(seen, AlreadyInFlight) or number_of(seen) == next_number
            assert result.get("order") == number or result.get("error") in TYPED, (stopped.step, result)
    assert steps >= STEPS


@pytest.mark.parametrize("step", ["before renew_claim", "after renew_claim"])
async def test_call_stopped_while_it_renews_its_claim_changes_nothing(
    server: Sandbox, journal_location: str, step: str
) -> None:
    call = terms("customer-1", "october", BOUGHT)
    async with client_of(server, journal_location) as other:
        await other.customers.create("customer-1", firstname="Ada", lastname="Lovelace")
        async with stopped_call(server, journal_location, call, {"after claim": HALF, step: SLEPT}) as stopped:
            pass_time(server, journal_location, HALF)
            assert isinstance(await buy(other, call), AlreadyInFlight)
            assert await stopped.resume() == {}
            assert stopped.step == step
            assert isinstance(await buy(other, call), AlreadyInFlight)
            pass_time(server, journal_location)
            bought = await buy(other, call)
            changes = len(server.requests.of("baskets.add_item"))
            result = await stopped.resume()
    assert result["error"] == "AlreadyInFlight"
    assert number_of(bought) is not None
    assert orders_of(server, "customer-1") == [BOUGHT]
    assert len(server.requests.of("baskets.add_item")) == changes


async def test_call_stopped_for_half_of_its_claim_renews_it(server: Sandbox, journal_location: str) -> None:
    call = terms("customer-1", "october", BOUGHT)
    async with client_of(server, journal_location) as other:
        await other.customers.create("customer-1", firstname="Ada", lastname="Lovelace")
        stops = {"after claim": HALF, "before prepare": HALF}
        async with stopped_call(server, journal_location, call, stops) as stopped:
            for _ in stops:
                pass_time(server, journal_location, HALF)
                assert isinstance(await buy(other, call), AlreadyInFlight)
                result = await stopped.resume()
        assert result == {"order": number_of(await buy(other, call)), "replayed": False}
    assert orders_of(server, "customer-1") == [BOUGHT]


@pytest.mark.parametrize("fence", [False, True])
async def test_reconcile_twice_of_stopped_call_proves_nothing(
    server: Sandbox, journal_location: str, fence: bool
) -> None:
    call = terms("customer-1", "october", BOUGHT)
    brief = {"reconcile_budget": 30.0}
    async with (
        client_of(server, journal_location, **brief) as one,
        client_of(server, journal_location, **brief) as two,
    ):
        await one.customers.create("customer-1", firstname="Ada", lastname="Lovelace")
        async with stopped_call(server, journal_location, call, {"after prepare": SLEPT}) as stopped:
            [intent] = await one.complete.pending()
            assert intent.state == IntentState.PREPARED
            calls = (result_of(client.complete.reconcile(intent, fence=fence)) for client in (one, two))
            results = await asyncio.gather(*calls)
            results.append(await result_of(one.complete.reconcile(intent, fence=fence)))
            assert intent.send_before is not None
            assert server.clock.wall() < intent.send_before
            assert [type(result) for result in results] == [OutcomeUnknown] * 3
            result = await stopped.resume()
        ordered = orders_of(server, "customer-1")
        if fence:  # the basket is empty
            assert ordered == []
            assert "error" in result
        else:
            assert ordered == [BOUGHT]
            assert result["order"] == number_of(await buy(one, call))
    assert len(server.requests.of("complete.buy")) == 1


async def test_stopped_call_sends_nothing_after_reconcile_proved_it(server: Sandbox, journal_location: str) -> None:
    call = terms("customer-1", "october", BOUGHT)
    async with client_of(server, journal_location, reconcile_budget=30.0) as other:
        await other.customers.create("customer-1", firstname="Ada", lastname="Lovelace")
        async with stopped_call(server, journal_location, call, {"after prepare": PAST_LOCK}) as stopped:
            [intent] = await other.complete.pending()
            assert intent.send_before is not None
            until_sent = (intent.send_before - server.clock.wall()).total_seconds()
            # The first one ends 15.5 s later: an order that was sent at the last moment would not show yet.
            pass_time(server, journal_location, until_sent - 14.0)
            assert isinstance(await result_of(other.complete.reconcile(intent, fence=True)), OutcomeUnknown)
            assert isinstance(await result_of(other.complete.reconcile(intent, fence=True)), NotExecuted)
            assert server.clock.wall() >= intent.send_before + timedelta(seconds=SETTLE_TIME)
            server.clock.advance(10)
            bought = await buy(other, call)
            result = await stopped.resume()
    assert number_of(bought) is not None
    assert result["error"] == "PriceFixExpired"
    assert orders_of(server, "customer-1") == [BOUGHT]
    assert len(server.requests.of("complete.buy")) == 1
