"""Every fault of the fault matrix that a server, a proxy or a network can cause is a mode of the sandbox.

A mode is a fault (`faults.add`, or `POST /_sandbox/faults` for other programs), an option, or `reset_idle`. With each
mode a purchase has the outcome that the matrix states.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, get_args

import aiohttp
import pytest

from minted_connect import OutcomeUnknown
from minted_connect.sandbox import Sandbox
from minted_connect.sandbox.active_faults import KINDS, FaultKind
from tests.matrix.table import TABLE
from tests.support.fault_modes import CLIENT_SIDE, MODES, OPTIONS, OTHER_PLACES, RESETS, ROWS, Mode, buy, check_outcome

pytestmark = pytest.mark.anyio


@pytest.mark.requirement(53)
def test_each_fault_of_the_matrix_has_a_mode_or_a_reason() -> None:
    caused = {*(mode.row for mode in MODES), *OPTIONS, *RESETS, *OTHER_PLACES}
    assert caused.isdisjoint(CLIENT_SIDE)
    assert caused | {*CLIENT_SIDE} == {*TABLE}


@pytest.mark.requirement(53)
def test_each_kind_of_fault_belongs_to_a_fault_of_the_matrix() -> None:
    used = {mode.kind for mode in MODES} | {*OTHER_PLACES.values()}
    assert used | ROWS == {*KINDS} == {*get_args(FaultKind)}
    assert used.isdisjoint(ROWS)


Arm = Callable[[Sandbox, Mode], Awaitable[None]]


async def arm_by_method(sandbox: Sandbox, mode: Mode) -> None:
    sandbox.faults.add(mode.kind, path=mode.path, **mode.args)


async def arm_over_http(sandbox: Sandbox, mode: Mode) -> None:
    body = {"kind": mode.kind, "path": mode.path, **mode.args}
    async with aiohttp.ClientSession() as session, session.post(f"{sandbox.console_url}/faults", json=body) as response:
        assert response.status == 200, await response.text()


@pytest.mark.requirement(53)
@pytest.mark.parametrize("arm", [arm_by_method, arm_over_http])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
async def test_mode_gives_a_purchase_the_outcome_of_the_matrix(serve: Any, mode: Mode, arm: Arm) -> None:
    sandbox, client = await serve()
    await arm(sandbox, mode)
    found = await buy(client)
    check_outcome(found, mode.outcome, executed=mode.executed, row=mode.row)
    [fault] = sandbox.faults.all()
    assert fault.hits == 1
    if isinstance(found, OutcomeUnknown) and mode.executed:
        assert (await client.complete.reconcile(found)).reconciled
    assert len(sandbox.shop.orders) == mode.executed
