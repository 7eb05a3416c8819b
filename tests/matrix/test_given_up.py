"""The caller cancels after sending, or is killed: nothing more is sent, and the intent stays open in the journal."""

from __future__ import annotations

import asyncio
import json
import signal

import anyio.to_thread
import attrs
import pytest

from minted_connect import (
    AlreadyInFlight,
    AsyncMintedConnect,
    ClientClosedError,
    CompletionRejected,
    InvalidInput,
    Options,
)
from tests.matrix import injections
from tests.matrix.cells import BUY, CUSTOMER, OPERATIONS, MatrixOperation, cells, operation_of
from tests.matrix.outcomes import is_free_again, reconciled
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, child

STAGES = ("lost", "landed")


def names(row: str, *ways: str, operations: tuple[MatrixOperation, ...] = OPERATIONS) -> list[str]:
    return [f"{row}-{operation.effect}-{way}-{stage}" for operation in operations for way in ways for stage in STAGES]


def way_of(cell: str) -> tuple[str, bool]:
    _, _, way, stage = cell.split("-")
    return way, stage == "landed"


async def wait_at_gate(world: MatrixWorld, cell: str) -> injections.Gate:
    """Prepare the world, and hold the next request of this operation before or after its execution."""
    operation = operation_of(cell)
    await world.ready(operation)
    gate = injections.Gate(landed=cell.endswith("landed"))
    world.proxy.inject(operation.method, operation.path, [gate])
    return gate


async def is_left_as_it_was(world: MatrixWorld, operation: MatrixOperation, notes: list[str], *, landed: bool) -> None:
    """Check that one request was sent, that the caller got a note, and that a completion is found again."""
    assert world.sent(operation) == 1
    if operation.effect != "R":
        assert operation.made(world.sandbox) is landed
    if operation.effect in "RS":
        assert notes == []
        return
    [note] = notes
    if operation.effect == "A":
        assert note == f"POST {operation.path} may have been executed: read the state before you repeat it"
        return
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert intent.id in note
    world.proxy.behave()
    await reconciled(world, operation, intent, landed=landed)
    assert world.sent(operation) == 1


@pytest.mark.requirement(17)
@cells(*names("F14", "cancel", "timeout"), flavours=("async",))
async def test_given_up_after_sending(world: MatrixWorld, cell: str) -> None:
    operation, (way, landed) = operation_of(cell), way_of(cell)
    gate = await wait_at_gate(world, cell)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    if way == "cancel":
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
        cancelled: BaseException | None = caught.value
    else:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(0):
                await call
        cancelled = late.value.__cause__
    assert type(cancelled) is asyncio.CancelledError
    await is_left_as_it_was(world, operation, getattr(cancelled, "__notes__", []), landed=landed)


@pytest.mark.requirement(17)
@cells(*names("F14", "shutdown"), flavours=("async",))
async def test_the_loop_comes_to_its_end(world: MatrixWorld, cell: str) -> None:
    operation, (_, landed) = operation_of(cell), way_of(cell)
    gate = await wait_at_gate(world, cell)
    notes: list[str] = []

    async def call() -> None:
        credentials = (world.sandbox.username, world.sandbox.password)
        options = Options(clock=world.clock)
        async with AsyncMintedConnect(
            *credentials, base_url=world.proxy.url, journal=world.journal, options=options
        ) as minted:
            basket = await minted.baskets.get_active(CUSTOMER)  # logs in
            try:
                await operation.call(minted, basket)
            except asyncio.CancelledError as cancelled:
                notes.extend(getattr(cancelled, "__notes__", []))
                raise

    async def main() -> None:
        task = asyncio.ensure_future(call())
        while not gate.arrived.is_set():
            await asyncio.sleep(0.005)  # an event of this loop cannot be awaited in the other one
        assert not task.done()

    await anyio.to_thread.run_sync(asyncio.run, main())
    await is_left_as_it_was(world, operation, notes, landed=landed)


@pytest.mark.requirement(17)
@cells(*names("F14", "close"), flavours=("blocking",))
async def test_closed_under_the_call(world: MatrixWorld, cell: str) -> None:
    operation, (_, landed) = operation_of(cell), way_of(cell)
    gate = await wait_at_gate(world, cell)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    await world.minted.close()
    with pytest.raises(ClientClosedError, match="closed while the call was in flight") as caught:
        await call
    world.minted = await world.another()
    await is_left_as_it_was(world, operation, getattr(caught.value, "__notes__", []), landed=landed)


# In a separate process.


@pytest.mark.requirement(17)
@cells(*names("F14", "sigint"))
async def test_interrupted_from_the_keyboard(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    operation, (_, landed) = operation_of(cell), way_of(cell)
    gate = await wait_at_gate(world, cell)
    async with child(world, operation) as process:
        await gate.arrived.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert err == b""
    said = json.loads(out)
    assert said["raised"] == "KeyboardInterrupt"
    await is_left_as_it_was(world, operation, said["notes"], landed=landed)


@pytest.mark.requirement(17)
@cells("F15-M-killed-lost", "F15-M-killed-landed")
async def test_killed_after_sending(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    landed = cell.endswith("landed")
    gate = await wait_at_gate(world, cell)
    async with child(world, BUY) as process:
        await gate.arrived.wait()
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    assert world.states() == ["prepared"]
    assert BUY.made(world.sandbox) is landed
    restarted = world.minted = await world.another()
    [intent] = await restarted.complete.pending()
    assert (intent.state, intent.cart_token) == ("prepared", world.basket.token)
    world.proxy.behave()
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await BUY.call(restarted, world.basket)
    # Other processes must assume that the process that prepared the intent may still send it.
    await reconciled(world, BUY, intent, landed=landed, state="prepared")
    assert world.sent(BUY) == 1


@pytest.mark.requirement(17)
@cells("F15-M-looking-lost", "F15-M-looking-landed")
async def test_killed_while_it_looks_for_the_order(world_today: MatrixWorld, cell: str) -> None:
    """The refusal is already in the journal, so that the next process can settle it."""
    world, landed = world_today, cell.endswith("landed")
    await world.ready(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [injections.respond(injections.page(403), landed=landed)])

    async def forward_or_wait(proxied: ProxiedRequest) -> None:
        await (gate if world.sent(BUY) else injections.pass_on)(proxied)

    world.proxy.inject("GET", BUY.read_back_path, [forward_or_wait], endless=True)
    async with child(world, BUY) as process:
        await gate.arrived.wait()
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    world.proxy.behave()
    world.minted = await world.another()
    [intent] = await world.minted.complete.pending()
    assert intent.refusal is not None
    assert (intent.state, intent.refusal.status, intent.refusal.is_vendor_response) == ("unknown", 403, False)
    if landed:
        await reconciled(world, BUY, intent, landed=True)
    else:
        # The prepared intent is older than the refusal in the journal.
        older = attrs.evolve(intent, state="prepared", refusal=None)
        with pytest.raises(CompletionRejected) as rejected:
            await world.minted.complete.reconcile(older)
        assert (rejected.value.order, rejected.value.refusal) == (None, intent.refusal)
        assert world.states() == ["rejected"]
        await is_free_again(world, BUY)
    assert world.sent(BUY) == 1 + (not landed)
