"""F50. Concurrent closes, a signal handler that closes, two interrupts: the intent is named and stays pending."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from minted_connect import ClientClosedError, OutcomeUnknown, TransportError, intent_of
from tests.matrix import injections
from tests.matrix.cells import BUY, OPERATIONS, cells, operation_of
from tests.matrix.outcomes import check_reconcile
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, run_child

pytestmark = pytest.mark.requirement(50)


def close(world: MatrixWorld) -> Any:
    return world.minted.aclose() if world.flavour == "async" else world.minted.close()


def check_notes(notes: list[str], effect: str) -> None:
    """Check that a request that may have been executed has a note."""
    if effect in "RS":
        assert notes == []
    else:
        [note] = notes
        assert "may have been executed" in note


@cells(*(f"F50-{operation.effect}-closes" for operation in OPERATIONS))
async def test_concurrent_closes_name_the_intent(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    gate = injections.Gate(executed=True)
    world.proxy.inject(operation.method, operation.path, [gate])
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    await asyncio.gather(*(close(world) for _ in range(3)))
    with pytest.raises((ClientClosedError, TransportError, OutcomeUnknown)) as caught:
        await call
    assert world.sent(operation) == 1
    if world.flavour == "blocking":
        assert type(caught.value) is ClientClosedError
        check_notes(getattr(caught.value, "__notes__", []), operation.effect)
    else:
        assert type(caught.value) is (OutcomeUnknown if operation.is_money else TransportError)
    world.minted = await world.new_client()
    if operation.is_money:
        named_intent = intent_of(caught.value)
        assert world.states() == ["unknown"]
        [intent] = await world.minted.complete.pending()
        assert named_intent is not None
        assert named_intent.id == intent.id
        world.proxy.clear_faults()
        await check_reconcile(world, operation, intent, executed=True)
        assert world.sent(operation) == 1


# In a separate process.


async def check_intent_is_named(world: MatrixWorld, result: dict[str, Any]) -> None:
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert result["intent"] == intent.id
    # The OutcomeUnknown of the asyncio client has the intent and needs no note.
    assert result["raised"] == "OutcomeUnknown" or [note for note in result["notes"] if intent.id in note]
    world.proxy.clear_faults()
    await check_reconcile(world, BUY, intent, executed=True)
    assert world.sent(BUY) == 1


@cells("F50-M-handler")
async def test_close_in_signal_handler_names_the_intent(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.set_up(BUY)
    gate = injections.Gate(executed=True)
    world.proxy.inject(BUY.method, BUY.path, [gate])
    async with run_child(world, BUY, "handler") as process:
        await gate.arrived.wait()
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    result = json.loads(out)
    assert err == b""
    assert result["raised"] == ("OutcomeUnknown" if world.flavour == "async" else "ClientClosedError")
    await check_intent_is_named(world, result)


@cells("F50-M-twice")
async def test_second_interrupt_names_the_intent(world_today: MatrixWorld, cell: str) -> None:
    """The second interrupt arrives while the first waits for the journal, which another process has locked."""
    world = world_today
    await world.set_up(BUY)
    arrived, disconnected = asyncio.Event(), asyncio.Event()

    async def forward_without_response(proxied: ProxiedRequest) -> None:
        await proxied.forward()
        arrived.set()
        await proxied.wait_for_disconnect()
        disconnected.set()

    world.proxy.inject(BUY.method, BUY.path, [forward_without_response])
    async with run_child(world, BUY) as process:
        await arrived.wait()
        with closing(sqlite3.connect(world.journal, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            process.send_signal(signal.SIGINT)
            await disconnected.wait()
            # Do not interrupt asyncio while it closes the socket, which would stay half closed with a warning. That
            # cannot be observed from another process.
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    result = json.loads(out)
    assert (result["raised"], err) == ("KeyboardInterrupt", b"")
    await check_intent_is_named(world, result)
