"""F49. The journal's file is lost while it is in use, or a record in it cannot be read."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from minted_connect import JournalError, OutcomeUnknown
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import IntentState
from tests.matrix import injections
from tests.matrix.cells import BEFORE, BUY, cells
from tests.matrix.proxy import Act, ProxiedRequest
from tests.matrix.world import MatrixWorld

pytestmark = pytest.mark.requirement(49)

Lose = Callable[[Path], Awaitable[None]]


async def deleted(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)


async def emptied(path: Path) -> None:
    os.truncate(path, 0)


async def replaced(path: Path) -> None:
    """Replace the journal by that of another program."""
    other = SqliteJournal(path.with_name("other.db"))
    await other.settle("of another program", IntentState.UNKNOWN)
    await other.aclose()
    other.path.replace(path)


async def without_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM intents")


LOSSES: Final[dict[str, Lose]] = {"deleted": deleted, "emptied": emptied, "replaced": replaced}
IN_USE: Final[dict[str, Lose]] = {**LOSSES, "rows": without_rows}


def losing(world: MatrixWorld, lose: Lose, act: Act) -> Act:
    """Lose the journal while the completion is in flight."""

    async def lost(proxied: ProxiedRequest) -> None:
        await proxied.read()
        await lose(world.journal)
        await act(proxied)

    return lost


async def another_basket(world: MatrixWorld) -> Any:
    """Return the basket of another customer, to be bought next."""
    owner = world.sandbox.shop.create_customer(world.sandbox.username, "customer-2", {"firstname": "Ada"})
    for sku, amount in BEFORE:
        world.sandbox.shop.add_item(owner, sku, amount)
    return await world.minted.baskets.get_active("customer-2")


async def nothing_more_is_sent(world: MatrixWorld) -> None:
    """Check that this client prepares no further intent, and that a new client does."""
    basket, sent, orders = await another_basket(world), world.sent(BUY), len(world.sandbox.shop.orders)
    with pytest.raises(JournalError, match="build a new client") as caught:
        await BUY.call(world.minted, basket)
    assert str(world.journal) in str(caught.value)
    assert (world.sent(BUY), len(world.sandbox.shop.orders)) == (sent, orders)
    fresh = await world.another(journal=SqliteJournal(world.journal))
    assert BUY.shown(await BUY.call(fresh, basket))
    assert world.sent(BUY) == sent + 1


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@cells(*(f"F49-M-before-{name}" for name in LOSSES))
async def test_nothing_is_sent_with_a_lost_journal(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    await world.writing.settle("none", IntentState.UNKNOWN)  # so that it is in use
    assert await world.minted.complete.pending() == []
    await LOSSES[cell.rsplit("-", 1)[1]](world.journal)
    there = world.journal.exists()
    with pytest.raises(JournalError, match="Nothing is sent with it any more"):
        await BUY.call(world.minted, world.basket)
    assert (world.sent(BUY), world.sandbox.shop.orders) == (0, [])
    with pytest.raises(JournalError):
        await world.minted.complete.pending()
    assert world.journal.exists() is there  # no empty file is created in its place
    await nothing_more_is_sent(world)


@cells(*(f"F49-M-returned-{name}" for name in IN_USE))
async def test_the_order_is_returned_all_the_same(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready(BUY)
    lose = IN_USE[cell.rsplit("-", 1)[1]]
    world.proxy.inject(BUY.method, BUY.path, [losing(world, lose, injections.pass_on)])
    done = await BUY.call(world.minted, world.basket)
    assert BUY.shown(done)
    assert len(world.sandbox.shop.orders) == 1
    assert [text for text in errors_of(caplog) if "its record is lost" in text and str(world.journal) in text]
    await nothing_more_is_sent(world)
    assert len(world.sandbox.shop.orders) == 2


@cells(*(f"F49-M-unknown-{name}" for name in IN_USE))
async def test_an_unknown_outcome_stays_unknown(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready(BUY)
    lose = IN_USE[cell.rsplit("-", 1)[1]]
    world.proxy.inject(BUY.method, BUY.path, [losing(world, lose, injections.drop(landed=True))])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert [text for text in errors_of(caplog) if "its record is lost" in text and caught.value.intent.id in text]
    assert world.sent(BUY) == 1
    # The intent of the error is sufficient to find the order.
    done = await world.settle(caught.value)
    assert (BUY.shown(done), done.reconciled) == (True, True)
    await nothing_more_is_sent(world)


@cells("F49-M-elsewhere")
async def test_a_record_that_another_process_settles_is_not_lost(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready(BUY)

    async def settle(path: Path) -> None:
        other = SqliteJournal(path)
        [intent] = await other.pending()
        await other.settle(intent.id, IntentState.CONFIRMED, order_id=1)
        await other.aclose()

    world.proxy.inject(BUY.method, BUY.path, [losing(world, settle, injections.pass_on)])
    assert BUY.shown(await BUY.call(world.minted, world.basket))
    assert world.states() == ["confirmed"]
    assert errors_of(caplog) == []
    assert BUY.shown(await BUY.call(world.minted, await another_basket(world)))


@cells("F49-M-row")
async def test_a_record_that_cannot_be_read_hides_no_other(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.ready(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(landed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    basket = await another_basket(world)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop()])
    with pytest.raises(OutcomeUnknown) as damaged:
        await BUY.call(world.minted, basket)
    with closing(sqlite3.connect(world.journal)) as database, database:
        database.execute("UPDATE intents SET items = '{' WHERE id = ?", [damaged.value.intent.id])
    caplog.clear()
    [intent] = await world.minted.complete.pending()
    assert intent.id == caught.value.intent.id
    assert [text for text in errors_of(caplog) if damaged.value.intent.id in text]
    assert (await world.minted.complete.reconcile(intent)).reconciled
    # The record still blocks its basket.
    with pytest.raises(JournalError, match=damaged.value.intent.id):
        await BUY.call(world.minted, basket)
    assert world.sent(BUY) == 2
