"""Clocks jump, machines sleep, price locks restart, and journals cannot be written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from minted_connect import CompletionPolicy, JournalError, Options, OutcomeUnknown, PriceChanged, PriceFixExpired
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from minted_connect.sandbox import ManualClock
from tests.matrix import injections
from tests.matrix.cells import BUY, CUSTOMER, READ, cells, operation_of
from tests.matrix.outcomes import check_executed, check_not_sent, check_reconcile, check_unknown
from tests.matrix.proxy import Handler, ProxiedRequest
from tests.matrix.world import MatrixWorld

# F40.

JUMPS = {"ahead": 3600.0, "back": -3600.0}


def with_clock_jump(seconds: float, handler: Handler) -> Handler:
    """Change the wall clock while the request is in flight."""

    async def jump_and_handle(proxied: ProxiedRequest) -> None:
        proxied.proxy.clock.jump_wall(seconds)
        await handler(proxied)

    return jump_and_handle


@cells(*(f"F40-{effect}-{name}" for effect in "RSAM" for name in JUMPS))
async def test_wall_clock_jump_changes_nothing(world: MatrixWorld, cell: str) -> None:
    operation, seconds = operation_of(cell), JUMPS[cell.split("-")[2]]
    await world.set_up(operation)
    dropped = injections.drop() if operation.effect in "RS" else injections.change_response(injections.cut, close=True)
    world.proxy.inject(
        operation.method,
        operation.path,
        [with_clock_jump(seconds, injections.forward_request if operation.is_money else dropped)],
    )
    world.hooked_journal.after_prepare = lambda: jump_wall_clock(world, seconds)
    left = world.basket.price_fix.seconds_left
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    await check_executed(world, operation)
    assert world.sent(operation) == (2 if operation.effect in "RS" else 1)
    # The jump changes neither pauses nor price locks.
    assert world.clock.sleeps == ([0.25] if operation.effect in "RS" else [])
    assert left - world.basket.price_fix.seconds_left == world.clock.monotonic()


async def jump_wall_clock(world: MatrixWorld, seconds: float) -> None:
    world.clock.jump_wall(seconds)


@cells(*(f"F40-M-{name}-{stage}" for stage in ("after", "before") for name in JUMPS))
async def test_wall_clock_jump_does_not_hide_the_order(world: MatrixWorld, cell: str) -> None:
    _, _, name, stage = cell.split("-")
    await world.set_up(BUY)
    executed = stage == "after"
    world.proxy.inject(BUY.method, BUY.path, [with_clock_jump(JUMPS[name], injections.drop(executed=executed))])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    await check_unknown(world, BUY, caught.value, executed=executed)


@cells(*(f"F40-M-{name}-expired" for name in JUMPS))
async def test_wall_clock_jump_does_not_extend_the_price_fix(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    world.clock.advance(238)  # of 240 s; 3 s must be left
    world.clock.jump_wall(JUMPS[cell.split("-")[2]])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await check_not_sent(world, BUY, has_intent=False)


@cells(*(f"F40-R-{name}-date" for name in JUMPS))
async def test_retry_after_date_despite_clock_jump_is_slept(world: MatrixWorld, cell: str) -> None:
    await world.set_up(READ)
    now = world.clock.wall()
    retry_at = format_datetime(now + timedelta(seconds=5), usegmt=True)
    headers = (("Date", format_datetime(now, usegmt=True)), ("Retry-After", retry_at))
    unavailable = injections.respond(injections.envelope(503, *headers))
    world.proxy.inject(READ.method, READ.path, [with_clock_jump(JUMPS[cell.split("-")[2]], unavailable)])
    assert READ.is_in_result(await READ.call(world.minted, world.basket))
    assert world.clock.sleeps == [5.0]


# F43.


class FullDiskJournal(SqliteJournal):
    """A journal on a full disk: SQLite may not add a page to its file."""

    is_full = True

    def _connect(self, deadline: float | None = None) -> sqlite3.Connection:
        database = super()._connect(deadline)
        if self.is_full:
            database.execute("PRAGMA max_page_count = 1")  # SQLite uses the current number of pages instead
        return database


@asynccontextmanager
async def full_disk(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = FullDiskJournal(path)
    journal.is_full = False
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA max_page_count = 1")
        columns = [name for _, name, *_ in database.execute("PRAGMA table_info(intents)")]
        insert = f"INSERT INTO intents ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        for size in (9000, 100, 0):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                for number in range(1000):
                    values = {"id": f"{size}-{number}", "guid": "x" * size, "state": "rejected", "order_id": None}
                    database.execute(insert, [values.get(name, "") for name in columns])
    journal.is_full = True
    yield journal
    journal.is_full = False
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM intents")


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path, patience=0.05)
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield journal


@asynccontextmanager
async def read_only(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path)
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    create_schema = journal._set_up

    def create_schema_read_only(database: sqlite3.Connection) -> None:
        create_schema(database)
        database.execute("PRAGMA query_only = 1")

    if os.geteuid() == 0:  # root may write read-only files
        journal._set_up = create_schema_read_only  # type: ignore[method-assign]
    path.chmod(0o400)
    yield journal
    journal._set_up = create_schema  # type: ignore[method-assign]
    path.chmod(0o600)


@asynccontextmanager
async def missing_directory(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path.parent / "missing" / path.name)
    yield journal
    journal.path.parent.mkdir()


UNWRITABLE = {
    "full": (full_disk, "the disk is full"),
    "locked": (locked, "locked by another process"),
    "read_only": (read_only, "cannot be written"),
    "missing_directory": (missing_directory, "cannot be opened or created"),
}


@cells(*(f"F43-M-{name}" for name in UNWRITABLE))
async def test_unwritable_journal_sends_nothing(world: MatrixWorld, cell: str) -> None:
    make_unwritable, message = UNWRITABLE[cell.split("-")[2]]
    await world.set_up(BUY)
    async with make_unwritable(world.journal) as journal:
        world.journal = journal.path
        world.minted = await world.new_client(journal=journal)
        with pytest.raises(JournalError, match=message) as caught:
            await BUY.call(world.minted, world.basket)
        assert caught.value.safe_to_retry
        assert (world.sent(BUY), world.sandbox.shop.orders) == (0, [])
    # Once the journal works again, the basket can be bought.
    assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
    assert world.states() == ["confirmed"]
    assert world.sent(BUY) == 1


@cells("F43-M-afterwards")
async def test_journal_failing_after_sending_returns_the_order(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    world.minted = await world.new_client(journal=SqliteJournal(world.journal, patience=0.05))

    async def lock_and_forward(proxied: ProxiedRequest) -> None:
        database.execute("BEGIN IMMEDIATE")
        await injections.forward_request(proxied)

    with closing(sqlite3.connect(world.journal, isolation_level=None)) as database:
        world.proxy.inject(BUY.method, BUY.path, [lock_and_forward])
        assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
    assert world.states() == ["prepared"]  # open, so that it is reconciled
    [intent] = await world.minted.complete.pending()
    await check_reconcile(world, BUY, intent, executed=True)
    assert world.sent(BUY) == 1


# F48.


@cells("F48-M-same")
async def test_restarted_price_lock_at_same_price_is_bought(build: Any, cell: str) -> None:
    world = await build(server={"lock_restart": 5.0})
    await world.set_up(BUY)
    world.clock.advance(238)  # of 240 s: the caller's price lock has less than its margin left
    assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
    await check_executed(world, BUY)
    assert (world.sent(BUY), world.clock.sleeps) == (1, [])


REPRICING = {"lock_restart": 5.0, "lock_restart_reprices": True}


@cells("F48-M-repriced")
async def test_restarted_price_lock_at_other_price_sends_nothing(build: Any, cell: str) -> None:
    world = await build(server=REPRICING)
    await world.set_up(BUY)
    world.clock.advance(60)
    with pytest.raises(PriceChanged) as caught:
        await BUY.call(world.minted, world.basket)
    repriced = await world.minted.baskets.get_active(CUSTOMER)
    assert caught.value.expected == world.basket.paid_total
    assert caught.value.actual == repriced.paid_total != world.basket.paid_total
    await check_not_sent(world, BUY, has_intent=False)
    world.basket = repriced
    assert BUY.is_in_result(await BUY.call(world.minted, repriced))


@cells("F48-M-repriced-current")
async def test_repriced_purchase_at_current_price_is_bought(build: Any, cell: str) -> None:
    world = await build(server=REPRICING)
    await world.set_up(BUY)
    world.clock.advance(60)
    completion = await world.minted.complete.buy(world.basket, accept_price="current")
    [order] = world.sandbox.shop.orders
    assert completion.differences == ()
    assert completion.order.paid_total == order.figures.paid_total != world.basket.paid_total
    assert world.sent(BUY) == 1


@cells("F48-M-repriced-meanwhile")
async def test_price_changed_before_completion_is_a_difference(build: Any, cell: str) -> None:
    """Another client reads the basket right before the completion: the new price is a difference of the completion."""
    world = await build(server=REPRICING)
    await world.set_up(BUY)

    async def read_with_other_client() -> None:
        world.clock.advance(60)
        await (await world.new_client(journal=None)).baskets.get_active(CUSTOMER)

    world.hooked_journal.after_prepare = read_with_other_client
    completion = await BUY.call(world.minted, world.basket)
    assert len(world.sandbox.shop.orders) == 1
    assert completion.order is not None
    assert completion.order.paid_total != world.basket.paid_total
    assert [text for text in completion.differences if text.startswith("paid_total")]
    await check_executed(world, BUY)
    assert world.sent(BUY) == 1


# F51.


class ClockWithoutElapsed:
    """A clock without `elapsed`: a sleep of the machine is visible only as a jump of the wall clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.monotonic, self.wall, self.sleep = clock.monotonic, clock.wall, clock.sleep
        self.call_later = clock.call_later


async def suspend_machine(world: MatrixWorld) -> None:
    world.clock.suspend(300)


@cells("F51-M-slept", "F51-M-ahead", "F51-M-back")
async def test_machine_sleep_after_prepare_expires_the_price_fix(world: MatrixWorld, cell: str) -> None:
    """The machine sleeps between the preflight read and the completion, after the intent was written."""
    variant = cell.rsplit("-", 1)[1]
    await world.set_up(BUY)
    if variant == "slept":
        world.hooked_journal.after_prepare = lambda: suspend_machine(world)
    else:
        options = Options(clock=ClockWithoutElapsed(world.clock), completion=CompletionPolicy(orders_lag=0))
        world.minted = await world.new_client(options=options)
        world.basket = await world.minted.baskets.get_active(CUSTOMER)
        world.hooked_journal.after_prepare = lambda: jump_wall_clock(world, JUMPS[variant])
    if variant == "back":
        assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
        await check_executed(world, BUY)
        return
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await check_not_sent(world, BUY)
    assert (world.clock.monotonic(), world.clock.sleeps) == (0, [])


@cells("F51-M-slept-before")
async def test_machine_sleep_counts_towards_the_price_fix(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    left = world.basket.price_fix.seconds_left
    world.clock.suspend(100)
    assert world.basket.price_fix.seconds_left == left - 100
    world.clock.suspend(138)
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await check_not_sent(world, BUY, has_intent=False)
    world.clock.suspend(3)  # the price lock has expired, so the next read starts a new one
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


@cells("F51-M-slept-at-the-challenge")
async def test_machine_sleep_before_challenge_sends_nothing_more(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)

    async def suspend_and_expire_nonces(proxied: ProxiedRequest) -> None:
        await suspend_machine(world)
        await injections.expire_nonces(proxied)

    world.proxy.inject(BUY.method, BUY.path, [suspend_and_expire_nonces])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (1, ["not_sent"], [])
