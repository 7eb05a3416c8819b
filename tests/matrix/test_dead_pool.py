"""Every idle connection of the pool is dead, although the server works: each is reset at its next request."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from minted_connect import TransportError
from tests.matrix.cells import ADD, BUY, MatrixOperation, cells, operation_of, pauses_between, poll_times
from tests.matrix.outcomes import check_executed
from tests.matrix.proxy import ProxiedRequest, forward_request
from tests.matrix.world import MatrixWorld

CONNECTIONS: Final = 20
RATES: Final = "/partner/walletable/rates"


class Barrier:
    """A handler that holds requests until `parties` have arrived, so that each has its own connection."""

    def __init__(self, parties: int) -> None:
        self._missing, self._complete = parties, asyncio.Event()

    async def __call__(self, proxied: ProxiedRequest) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()
        await forward_request(proxied)


async def kill_pool(world: MatrixWorld, operation: MatrixOperation) -> None:
    """Set up the operation with a pool of idle connections, all of which are dead."""
    await world.set_up(operation)
    world.proxy.inject("GET", RATES, [Barrier(CONNECTIONS)], endless=True)
    await asyncio.gather(*(world.minted.rates.current() for _ in range(CONNECTIONS)))
    world.proxy.clear_faults()
    world.proxy.proxied_requests.clear()
    assert world.proxy.kill_connections() == CONNECTIONS


def are_reused(world: MatrixWorld, method: str, path: str) -> list[bool]:
    """Return for each request of an operation whether it used a connection of the pool."""
    return [proxied.earlier_requests > 0 for proxied in world.proxy.of(method, path)]


@pytest.mark.requirement(51)
@cells("F47-R", "F47-S")
async def test_dead_pool_is_retried_over_a_new_connection(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await kill_pool(world, operation)
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    await check_executed(world, operation)
    assert are_reused(world, operation.method, operation.path) == [True, False]
    assert world.arrived(operation) == 1
    assert world.clock.sleeps == [0.25]


@pytest.mark.requirement(51)
@cells("F47-A")
async def test_dead_pool_is_read_back_over_new_connections(world: MatrixWorld, cell: str) -> None:
    await kill_pool(world, ADD)
    with pytest.raises(TransportError):
        await ADD.call(world.minted, world.basket)
    assert are_reused(world, ADD.method, ADD.path) == [True]
    assert are_reused(world, "GET", ADD.read_back_path) == [False] * len(poll_times())
    assert world.clock.sleeps == pauses_between(poll_times())
    assert not ADD.is_executed(world.sandbox)
    # Other idle connections may be dead, too, so the next addition does not use them.
    assert ADD.is_in_result(await ADD.call(world.minted, world.basket))
    assert are_reused(world, ADD.method, ADD.path) == [True, False]
    assert world.arrived(ADD) == 1


@pytest.mark.requirement(51)
@cells("F47-M")
async def test_dead_pool_does_not_stop_a_purchase(world: MatrixWorld, cell: str) -> None:
    await kill_pool(world, BUY)
    assert BUY.is_in_result(await BUY.call(world.minted, world.basket))
    await check_executed(world, BUY)
    assert are_reused(world, "GET", BUY.read_back_path) == [True, False]  # the preflight read
    assert are_reused(world, BUY.method, BUY.path) == [False]
    assert world.arrived(BUY) == 1
    assert world.clock.sleeps == [0.25]
