"""F50. Several closers at once, a signal handler that closes, two interrupts: the intent is named and kept."""

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
from tests.matrix.outcomes import reconciled
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, child

pytestmark = pytest.mark.requirement(50)


def close(world: MatrixWorld) -> Any:
    return world.minted.aclose() if world.flavour == "async" else world.minted.close()


def check_notes(notes: list[str], effect: str) -> None:
    """Check the note about the only request, if it may have been executed."""
    if effect in "RS":
        assert notes == []
    else:
        [note] = notes
        assert "may have been executed" in note


@cells(*(f"F50-{operation.effect}-closers" for operation in OPERATIONS))
async def test_several_closers(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    gate = injections.Gate(landed=True)
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
    world.minted = await world.another()
    if operation.is_money:
        named = intent_of(caught.value)
        assert world.states() == ["unknown"]
        [intent] = await world.minted.complete.pending()
        assert named is not None
        assert named.id == intent.id
        world.proxy.behave()
        await reconciled(world, operation, intent, landed=True)
        assert world.sent(operation) == 1


# In a separate process.


async def is_named_and_kept(world: MatrixWorld, said: dict[str, Any]) -> None:
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert said["intent"] == intent.id
    # The OutcomeUnknown of the asyncio client has the intent and needs no note.
    assert said["raised"] == "OutcomeUnknown" or [note for note in said["notes"] if intent.id in note]
    world.proxy.behave()
    await reconciled(world, BUY, intent, landed=True)
    assert world.sent(BUY) == 1


@cells("F50-M-handler")
async def test_a_signal_handler_closes(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    await world.ready(BUY)
    gate = injections.Gate(landed=True)
    world.proxy.inject(BUY.method, BUY.path, [gate])
    async with child(world, BUY, "handler") as process:
        await gate.arrived.wait()
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    said = json.loads(out)
    assert err == b""
    assert said["raised"] == ("OutcomeUnknown" if world.flavour == "async" else "ClientClosedError")
    await is_named_and_kept(world, said)


@cells("F50-M-twice")
async def test_two_interrupts(world_today: MatrixWorld, cell: str) -> None:
    """The second comes while the first waits for the journal, which another process has locked."""
    world = world_today
    await world.ready(BUY)
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def until_it_hangs_up(proxied: ProxiedRequest) -> None:
        await proxied.forward()
        arrived.set()
        await proxied.gone()
        gone.set()

    world.proxy.inject(BUY.method, BUY.path, [until_it_hangs_up])
    async with child(world, BUY) as process:
        await arrived.wait()
        with closing(sqlite3.connect(world.journal, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process.send_signal(signal.SIGINT)
            await gone.wait()
            # Do not interrupt asyncio while it closes the socket, which would stay half closed with a warning. That
            # cannot be observed from another process.
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    said = json.loads(out)
    assert (said["raised"], err) == ("KeyboardInterrupt", b"")
    await is_named_and_kept(world, said)
