"""The call is cancelled or killed after sending: nothing more is sent, and the intent stays open in the journal."""

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
from tests.matrix.outcomes import check_not_blocked, check_reconcile
from tests.matrix.proxy import ProxiedRequest
from tests.matrix.world import MatrixWorld, run_child

STAGES = ("before", "after")
"""Whether the call is interrupted before or after the server executes the request."""


def cell_names(row: str, *interruptions: str, operations: tuple[MatrixOperation, ...] = OPERATIONS) -> list[str]:
    return [
        f"{row}-{operation.effect}-{interruption}-{stage}"
        for operation in operations
        for interruption in interruptions
        for stage in STAGES
    ]


def parse_cell(cell: str) -> tuple[str, bool]:
    _, _, interruption, stage = cell.split("-")
    return interruption, stage == "after"


async def wait_at_gate(world: MatrixWorld, cell: str) -> injections.Gate:
    """Prepare the world, and hold the next request of this operation before or after its execution."""
    operation = operation_of(cell)
    await world.set_up(operation)
    gate = injections.Gate(executed=cell.endswith("after"))
    world.proxy.inject(operation.method, operation.path, [gate])
    return gate


async def check_interrupted(
    world: MatrixWorld, operation: MatrixOperation, notes: list[str], *, executed: bool
) -> None:
    """Check that one request was sent and noted, and that the intent of a completion can be reconciled."""
    assert world.sent(operation) == 1
    if operation.effect != "R":
        assert operation.is_executed(world.sandbox) is executed
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
    world.proxy.clear_faults()
    await check_reconcile(world, operation, intent, executed=executed)
    assert world.sent(operation) == 1


@pytest.mark.requirement(17)
@cells(*cell_names("F14", "cancel", "timeout"), flavours=("async",))
async def test_cancelled_call_after_sending_is_noted(world: MatrixWorld, cell: str) -> None:
    operation, (interruption, executed) = operation_of(cell), parse_cell(cell)
    gate = await wait_at_gate(world, cell)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    if interruption == "cancel":
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
        cancelled: BaseException | None = caught.value
    else:
        with pytest.raises(TimeoutError) as timed_out:
            async with asyncio.timeout(0):
                await call
        cancelled = timed_out.value.__cause__
    assert type(cancelled) is asyncio.CancelledError
    await check_interrupted(world, operation, getattr(cancelled, "__notes__", []), executed=executed)


@pytest.mark.requirement(17)
@cells(*cell_names("F14", "shutdown"), flavours=("async",))
async def test_loop_shutdown_after_sending_is_noted(world: MatrixWorld, cell: str) -> None:
    operation, (_, executed) = operation_of(cell), parse_cell(cell)
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
            await asyncio.sleep(0.005)  # an event of another loop cannot be awaited
        assert not task.done()

    await anyio.to_thread.run_sync(asyncio.run, main())
    await check_interrupted(world, operation, notes, executed=executed)


@pytest.mark.requirement(17)
@cells(*cell_names("F14", "close"), flavours=("blocking",))
async def test_close_after_sending_is_noted(world: MatrixWorld, cell: str) -> None:
    operation, (_, executed) = operation_of(cell), parse_cell(cell)
    gate = await wait_at_gate(world, cell)
    call = asyncio.ensure_future(operation.call(world.minted, world.basket))
    await gate.arrived.wait()
    await world.minted.close()
    with pytest.raises(ClientClosedError, match="closed while the call was in flight") as caught:
        await call
    world.minted = await world.new_client()
    await check_interrupted(world, operation, getattr(caught.value, "__notes__", []), executed=executed)


# In a separate process.


@pytest.mark.requirement(17)
@cells(*cell_names("F14", "sigint"))
async def test_sigint_after_sending_is_noted(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    operation, (_, executed) = operation_of(cell), parse_cell(cell)
    gate = await wait_at_gate(world, cell)
    async with run_child(world, operation) as process:
        await gate.arrived.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert err == b""
    result = json.loads(out)
    assert result["raised"] == "KeyboardInterrupt"
    await check_interrupted(world, operation, result["notes"], executed=executed)


@pytest.mark.requirement(17)
@cells("F15-M-killed-before", "F15-M-killed-after")
async def test_killed_process_leaves_the_intent_pending(world_today: MatrixWorld, cell: str) -> None:
    world = world_today
    executed = cell.endswith("after")
    gate = await wait_at_gate(world, cell)
    async with run_child(world, BUY) as process:
        await gate.arrived.wait()
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    assert world.states() == ["prepared"]
    assert BUY.is_executed(world.sandbox) is executed
    restarted = world.minted = await world.new_client()
    [intent] = await restarted.complete.pending()
    assert (intent.state, intent.cart_token) == ("prepared", world.basket.token)
    world.proxy.clear_faults()
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await BUY.call(restarted, world.basket)
    # Other processes must assume that the process that prepared the intent can still send it.
    await check_reconcile(world, BUY, intent, executed=executed, state="prepared")
    assert world.sent(BUY) == 1


@pytest.mark.requirement(17)
@cells("F15-M-polling-before", "F15-M-polling-after")
async def test_process_killed_during_read_back_leaves_the_refusal(world_today: MatrixWorld, cell: str) -> None:
    """The refusal is already in the journal, so that the next process can settle it."""
    world, executed = world_today, cell.endswith("after")
    await world.set_up(BUY)
    gate = injections.Gate()
    world.proxy.inject(BUY.method, BUY.path, [injections.respond(injections.page(403), executed=executed)])

    async def hold_read_back(proxied: ProxiedRequest) -> None:
        await (gate if world.sent(BUY) else injections.forward_request)(proxied)

    world.proxy.inject("GET", BUY.read_back_path, [hold_read_back], endless=True)
    async with run_child(world, BUY) as process:
        await gate.arrived.wait()
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    world.proxy.clear_faults()
    world.minted = await world.new_client()
    [intent] = await world.minted.complete.pending()
    assert intent.refusal is not None
    assert (intent.state, intent.refusal.status, intent.refusal.is_vendor_response) == ("unknown", 403, False)
    if executed:
        await check_reconcile(world, BUY, intent, executed=True)
    else:
        # The prepared intent is older than the refusal in the journal.
        outdated_intent = attrs.evolve(intent, state="prepared", refusal=None)
        with pytest.raises(CompletionRejected) as rejected:
            await world.minted.complete.reconcile(outdated_intent)
        assert (rejected.value.order, rejected.value.refusal) == (None, intent.refusal)
        assert world.states() == ["rejected"]
        await check_not_blocked(world, BUY)
    assert world.sent(BUY) == 1 + (not executed)
