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
from tests.matrix.cells import BASKET_ITEMS, BUY, cells
from tests.matrix.proxy import Handler, ProxiedRequest
from tests.matrix.world import MatrixWorld

pytestmark = pytest.mark.requirement(49)

LoseJournal = Callable[[Path], Awaitable[None]]


async def delete_file(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


async def truncate_file(path: Path) -> None:
    os.truncate(path, 0)


async def replace_file(path: Path) -> None:
    """Replace the journal with that of another program."""
    other = SqliteJournal(path.with_name("other.db"))
    await other.settle("of another program", IntentState.UNKNOWN)
    await other.aclose()
    other.path.replace(path)


async def delete_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM intents")


LOSSES: Final[dict[str, LoseJournal]] = {"deleted": delete_file, "emptied": truncate_file, "replaced": replace_file}
IN_USE: Final[dict[str, LoseJournal]] = {**LOSSES, "rows": delete_rows}


def with_lost_journal(world: MatrixWorld, lose: LoseJournal, handler: Handler) -> Handler:
    """Lose the journal while the completion is in flight."""

    async def lose_and_handle(proxied: ProxiedRequest) -> None:
        await proxied.read()
        await lose(world.journal)
        await handler(proxied)

    return lose_and_handle


async def another_basket(world: MatrixWorld) -> Any:
    """Return the basket of another customer, for the next purchase."""
    owner = world.sandbox.shop.create_customer(world.sandbox.username, "customer-2", {"firstname": "Ada"})
    for sku, amount in BASKET_ITEMS:
        world.sandbox.shop.add_item(owner, sku, amount)
    return await world.minted.baskets.get_active("customer-2")


async def check_journal_is_refused(world: MatrixWorld) -> None:
    """Check that this client prepares no further intent, and that a new client does."""
    basket, sent, orders = await another_basket(world), world.sent(BUY), len(world.sandbox.shop.orders)
    with pytest.raises(JournalError, match="build a new client") as caught:
        await BUY.call(world.minted, basket)
    assert str(world.journal) in str(caught.value)
    assert (world.sent(BUY), len(world.sandbox.shop.orders)) == (sent, orders)
    new_client = await world.new_client(journal=SqliteJournal(world.journal))
    assert BUY.is_in_result(await BUY.call(new_client, basket))
    assert world.sent(BUY) == sent + 1


def errors_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@cells(*(f"F49-M-before-{name}" for name in LOSSES))
async def test_journal_lost_before_purchase_sends_nothing(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    await world.hooked_journal.settle("none", IntentState.UNKNOWN)  # opens the journal
    assert await world.minted.complete.pending() == []
    await LOSSES[cell.rsplit("-", 1)[1]](world.journal)
    existed = world.journal.exists()
    with pytest.raises(JournalError, match="Nothing is sent with it any more"):
        await BUY.call(world.minted, world.basket)
    assert (world.sent(BUY), world.sandbox.shop.orders) == (0, [])
    with pytest.raises(JournalError):
        await world.minted.complete.pending()
    assert world.journal.exists() is existed  # no empty file is created in its place
    await check_journal_is_refused(world)


@cells(*(f"F49-M-returned-{name}" for name in IN_USE))
async def test_journal_lost_in_flight_returns_the_order(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.set_up(BUY)
    lose = IN_USE[cell.rsplit("-", 1)[1]]
    world.proxy.inject(BUY.method, BUY.path, [with_lost_journal(world, lose, injections.forward_request)])
    completion = await BUY.call(world.minted, world.basket)
    assert BUY.is_in_result(completion)
    assert len(world.sandbox.shop.orders) == 1
    assert [text for text in errors_of(caplog) if "its record is lost" in text and str(world.journal) in text]
    await check_journal_is_refused(world)
    assert len(world.sandbox.shop.orders) == 2


@cells(*(f"F49-M-unknown-{name}" for name in IN_USE))
async def test_journal_lost_in_flight_keeps_outcome_unknown(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.set_up(BUY)
    lose = IN_USE[cell.rsplit("-", 1)[1]]
    world.proxy.inject(BUY.method, BUY.path, [with_lost_journal(world, lose, injections.drop(executed=True))])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert [text for text in errors_of(caplog) if "its record is lost" in text and caught.value.intent.id in text]
    assert world.sent(BUY) == 1
    # The intent of the error is sufficient to find the order.
    completion = await world.settle(caught.value)
    assert (BUY.is_in_result(completion), completion.reconciled) == (True, True)
    await check_journal_is_refused(world)


@cells("F49-M-elsewhere")
async def test_record_settled_by_other_process_is_not_lost(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.set_up(BUY)

    async def settle(path: Path) -> None:
        other = SqliteJournal(path)
        [intent] = await other.pending()
        await other.settle(intent.id, IntentState.CONFIRMED, order_id=1)
        await other.aclose()

    world.proxy.inject(BUY.method, BUY.path, [with_lost_journal(world, settle, injections.forward_request)])
    assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
    assert world.states() == ["confirmed"]
    assert errors_of(caplog) == []
    assert BUY.is_in_result(await BUY.call(world.minted, await another_basket(world)))


@cells("F49-M-row")
async def test_unreadable_record_does_not_hide_others(
    world: MatrixWorld, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    await world.set_up(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.drop(executed=True)])
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
