"""Clocks jump, machines sleep, price locks restart; the journal cannot be written, and nothing is sent."""

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
from tests.matrix.outcomes import is_done, is_unknown, nothing_was_sent, reconciled
from tests.matrix.proxy import Act, ProxiedRequest
from tests.matrix.world import MatrixWorld

# F40.

JUMPS = {"ahead": 3600.0, "back": -3600.0}


def jumping(seconds: float, act: Act) -> Act:
    """Change the wall clock while the request is in flight."""

    async def jump(proxied: ProxiedRequest) -> None:
        proxied.proxy.clock.jump_wall(seconds)
        await act(proxied)

    return jump


@cells(*(f"F40-{effect}-{name}" for effect in "RSAM" for name in JUMPS))
async def test_the_wall_clock_jumps(world: MatrixWorld, cell: str) -> None:
    operation, jump = operation_of(cell), JUMPS[cell.split("-")[2]]
    await world.ready(operation)
    dropped = injections.drop() if operation.effect in "RS" else injections.spoilt(injections.cut, close=True)
    world.proxy.inject(
        operation.method, operation.path, [jumping(jump, injections.pass_on if operation.is_money else dropped)]
    )
    world.writing.meanwhile = lambda: jumped(world, jump)
    left = world.basket.price_fix.seconds_left
    assert operation.shown(await operation.call(world.minted, world.basket))
    await is_done(world, operation)
    assert world.sent(operation) == (2 if operation.effect in "RS" else 1)
    # Pauses and price locks keep their length.
    assert world.clock.sleeps == ([0.25] if operation.effect in "RS" else [])
    assert left - world.basket.price_fix.seconds_left == world.clock.monotonic()


async def jumped(world: MatrixWorld, seconds: float) -> None:
    world.clock.jump_wall(seconds)


@cells(*(f"F40-M-{name}-dropped" for name in JUMPS), *(f"F40-M-{name}-lost" for name in JUMPS))
async def test_an_order_is_found_however_the_clock_jumps(world: MatrixWorld, cell: str) -> None:
    _, _, name, stage = cell.split("-")
    await world.ready(BUY)
    landed = stage == "dropped"
    world.proxy.inject(BUY.method, BUY.path, [jumping(JUMPS[name], injections.drop(landed=landed))])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    await is_unknown(world, BUY, caught.value, landed=landed)


@cells(*(f"F40-M-{name}-expired" for name in JUMPS))
async def test_a_price_fix_ends_when_it_ends(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    world.clock.advance(238)  # of 240 s; 3 s have to be left
    world.clock.jump_wall(JUMPS[cell.split("-")[2]])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await nothing_was_sent(world, BUY, written=False)


@cells(*(f"F40-R-{name}-date" for name in JUMPS))
async def test_a_date_to_wait_for_is_read_by_the_servers_clock(world: MatrixWorld, cell: str) -> None:
    await world.ready(READ)
    now = world.clock.wall()
    until = format_datetime(now + timedelta(seconds=5), usegmt=True)
    headers = (("Date", format_datetime(now, usegmt=True)), ("Retry-After", until))
    busy = injections.respond(injections.envelope(503, *headers))
    world.proxy.inject(READ.method, READ.path, [jumping(JUMPS[cell.split("-")[2]], busy)])
    assert READ.shown(await READ.call(world.minted, world.basket))
    assert world.clock.sleeps == [5.0]


# F43.


class Full(SqliteJournal):
    """A journal on a full disk: SQLite may not add a page to its file."""

    full = True

    def _connect(self, deadline: float | None = None) -> sqlite3.Connection:
        database = super()._connect(deadline)
        if self.full:
            database.execute("PRAGMA max_page_count = 1")  # no more than exist
        return database


@asynccontextmanager
async def full(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = Full(path)
    journal.full = False
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA max_page_count = 1")
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(intents)")]
        insert = f"INSERT INTO intents ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        for size in (9000, 100, 0):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                for number in range(1000):
                    values = {"id": f"{size}-{number}", "guid": "x" * size, "state": "rejected", "order_id": None}
                    database.execute(insert, [values.get(name, "") for name in names])
    journal.full = True
    yield journal
    journal.full = False
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM intents")


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path, patience=0.05)
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield journal


@asynccontextmanager
async def read_only(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path)
    await journal.settle("none", IntentState.UNKNOWN)  # creates the file
    set_up = journal._set_up

    def refuse(database: sqlite3.Connection) -> None:
        set_up(database)
        database.execute("PRAGMA query_only = 1")

    if os.geteuid() == 0:  # for root no file is read-only
        journal._set_up = refuse  # type: ignore[method-assign]
    path.chmod(0o400)
    yield journal
    journal._set_up = set_up  # type: ignore[method-assign]
    path.chmod(0o600)


@asynccontextmanager
async def nowhere(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path.parent / "elsewhere" / path.name)
    yield journal
    journal.path.parent.mkdir()


BREACHES = {
    "full": (full, "the disk is full"),
    "locked": (locked, "locked by another process"),
    "read_only": (read_only, "cannot be written"),
    "nowhere": (nowhere, "cannot be opened or created"),
}


@cells(*(f"F43-M-{name}" for name in BREACHES))
async def test_nothing_is_sent_unwritten(world: MatrixWorld, cell: str) -> None:
    breach, said = BREACHES[cell.split("-")[2]]
    await world.ready(BUY)
    async with breach(world.journal) as journal:
        world.journal = journal.path
        world.minted = await world.another(journal=journal)
        with pytest.raises(JournalError, match=said) as caught:
            await BUY.call(world.minted, world.basket)
        assert caught.value.safe_to_retry
        assert (world.sent(BUY), world.sandbox.shop.orders) == (0, [])
    # Once the journal works again, the basket is neither blocked nor forgotten.
    assert BUY.shown(await BUY.call(world.minted, world.basket))
    assert world.states() == ["confirmed"]
    assert world.sent(BUY) == 1


@cells("F43-M-afterwards")
async def test_a_journal_that_fails_after_sending_hides_nothing(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    world.minted = await world.another(journal=SqliteJournal(world.journal, patience=0.05))

    async def locking(proxied: ProxiedRequest) -> None:
        other.execute("BEGIN IMMEDIATE")
        await injections.pass_on(proxied)

    with closing(sqlite3.connect(world.journal, isolation_level=None)) as other:
        world.proxy.inject(BUY.method, BUY.path, [locking])
        assert BUY.shown(await BUY.call(world.minted, world.basket))
    assert world.states() == ["prepared"]  # open, which is safe
    [intent] = await world.minted.complete.pending()
    await reconciled(world, BUY, intent, landed=True)
    assert world.sent(BUY) == 1


# F48.


@cells("F48-M-same")
async def test_the_price_lock_restarts(build: Any, cell: str) -> None:
    world = await build(server={"lock_restart": 5.0})
    await world.ready(BUY)
    world.clock.advance(238)  # of 240 s: what is left of the lock that was seen is too little
    assert BUY.shown(await BUY.call(world.minted, world.basket))
    await is_done(world, BUY)
    assert (world.sent(BUY), world.clock.sleeps) == (1, [])


REPRICING = {"lock_restart": 5.0, "lock_restart_reprices": True}


@cells("F48-M-repriced")
async def test_the_price_lock_restarts_at_another_price(build: Any, cell: str) -> None:
    world = await build(server=REPRICING)
    await world.ready(BUY)
    world.clock.advance(60)
    with pytest.raises(PriceChanged) as caught:
        await BUY.call(world.minted, world.basket)
    seen = await world.minted.baskets.get_active(CUSTOMER)
    assert caught.value.expected == world.basket.paid_total
    assert caught.value.actual == seen.paid_total != world.basket.paid_total
    await nothing_was_sent(world, BUY, written=False)
    world.basket = seen
    assert BUY.shown(await BUY.call(world.minted, seen))


@cells("F48-M-repriced-current")
async def test_a_purchase_at_the_current_price_goes_on_when_the_lock_restarts(build: Any, cell: str) -> None:
    world = await build(server=REPRICING)
    await world.ready(BUY)
    world.clock.advance(60)
    done = await world.minted.complete.buy(world.basket, accept_price="current")
    [order] = world.sandbox.shop.orders
    assert done.differences == ()
    assert done.order.paid_total == order.figures.paid_total != world.basket.paid_total
    assert world.sent(BUY) == 1


@cells("F48-M-repriced-meanwhile")
async def test_a_price_that_changes_under_the_completion_is_shown(build: Any, cell: str) -> None:
    """Another client reads the basket right before the completion: the new price is reported as a difference."""
    world = await build(server=REPRICING)
    await world.ready(BUY)

    async def read_elsewhere() -> None:
        world.clock.advance(60)
        await (await world.another(journal=None)).baskets.get_active(CUSTOMER)

    world.writing.meanwhile = read_elsewhere
    done = await BUY.call(world.minted, world.basket)
    assert len(world.sandbox.shop.orders) == 1
    assert done.order is not None
    assert done.order.paid_total != world.basket.paid_total
    assert [text for text in done.differences if text.startswith("paid_total")]
    await is_done(world, BUY)
    assert world.sent(BUY) == 1


# F51.


class Plain:
    """A clock without `elapsed`: a sleep of the machine shows only as a jump of the wall clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.monotonic, self.wall, self.sleep = clock.monotonic, clock.wall, clock.sleep
        self.call_later = clock.call_later


async def asleep(world: MatrixWorld) -> None:
    world.clock.suspend(300)


@cells("F51-M-slept", "F51-M-ahead", "F51-M-back")
async def test_the_machine_sleeps(world: MatrixWorld, cell: str) -> None:
    """Between the preflight read and the completion, just after the intent was written into the journal."""
    way = cell.rsplit("-", 1)[1]
    await world.ready(BUY)
    if way == "slept":
        world.writing.meanwhile = lambda: asleep(world)
    else:
        options = Options(clock=Plain(world.clock), completion=CompletionPolicy(orders_lag=0))
        world.minted = await world.another(options=options)
        world.basket = await world.minted.baskets.get_active(CUSTOMER)
        world.writing.meanwhile = lambda: jumped(world, JUMPS[way])
    if way == "back":
        assert BUY.shown(await BUY.call(world.minted, world.basket))
        await is_done(world, BUY)
        return
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await nothing_was_sent(world, BUY)
    assert (world.clock.monotonic(), world.clock.sleeps) == (0, [])


@cells("F51-M-slept-before")
async def test_a_lock_grows_old_while_the_machine_sleeps(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    left = world.basket.price_fix.seconds_left
    world.clock.suspend(100)
    assert world.basket.price_fix.seconds_left == left - 100
    world.clock.suspend(138)
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    await nothing_was_sent(world, BUY, written=False)
    world.clock.suspend(3)  # past the end of the lock: the next read starts another one
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


@cells("F51-M-slept-at-the-challenge")
async def test_the_machine_sleeps_before_the_reply_to_a_challenge(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)

    async def slow(proxied: ProxiedRequest) -> None:
        await asleep(world)
        await injections.outdated(proxied)

    world.proxy.inject(BUY.method, BUY.path, [slow])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert (world.sent(BUY), world.states(), world.sandbox.shop.orders) == (1, ["not_sent"], [])
