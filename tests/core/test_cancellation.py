"""Cancelling tasks until they have ended."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from minted_connect.core import cancellation
from minted_connect.core.cancellation import cancel_and_wait

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_cancel_and_wait_repeats_a_lost_cancellation(monkeypatch):
    monkeypatch.setattr(cancellation, "_REPEAT_AFTER", 0.01)
    lost = 0

    async def lose() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(lose())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_and_wait([task]), 20)
    assert task.cancelled()
    assert lost == 3


async def test_cancel_and_wait_accepts_ended_and_failing_tasks():
    async def fail() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ZeroDivisionError

    ended, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fail())
    await ended
    await cancel_and_wait([ended, failing])
    assert ended.exception() is None
    assert isinstance(failing.exception(), ZeroDivisionError)
    await cancel_and_wait([])


class Stubborn:
    """A task that ends only when the test allows it, however often it is cancelled."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.cancellations = 0
        self.task = asyncio.create_task(self._run())
        asyncio.get_running_loop().call_later(10, self.may_end.set)  # a test that fails must not wait for ever

    async def _run(self) -> None:
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancellations += 1


async def test_cancelled_cancel_and_wait_waits_until_tasks_ended():
    stubborn = Stubborn()
    waiting = asyncio.create_task(cancel_and_wait([stubborn.task]))
    for _ in range(3):
        await asyncio.sleep(0.01)
        waiting.cancel()
    await asyncio.wait({waiting}, timeout=0.05)
    assert not waiting.done()
    stubborn.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert stubborn.task.done()


async def test_nested_cancel_and_wait_runs_lines_after_it(monkeypatch):
    monkeypatch.setattr(cancellation, "_REPEAT_AFTER", 0.01)
    stubborn = Stubborn()
    ended: list[bool] = []

    async def own() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await cancel_and_wait([stubborn.task])
            finally:
                ended.append(stubborn.task.done())

    owner = asyncio.create_task(own())
    await asyncio.sleep(0)
    closing = asyncio.create_task(cancel_and_wait([owner]))
    while stubborn.cancellations < 5:
        await asyncio.sleep(0.01)
    assert ended == []
    stubborn.may_end.set()
    await closing
    assert ended == [True]


async def test_cancel_and_wait_in_cancelled_scope_completes():
    stubborn, steps = Stubborn(), []
    asyncio.get_running_loop().call_later(0.05, stubborn.may_end.set)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await cancel_and_wait([stubborn.task])
        steps.append(stubborn.task.done())
    assert steps == [True]


def test_cancel_and_wait_ends_tasks_when_asyncio_run_stops():
    ended: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            ended.append("task")

    async def close(task: asyncio.Task[None]) -> None:
        try:
            await cancel_and_wait([task])
        finally:
            ended.append("closer")

    async def main() -> None:
        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        closer = asyncio.create_task(close(task))
        await asyncio.sleep(0)
        assert not closer.done()

    asyncio.run(main())
    assert ended[-1] == "closer"


async def test_cancel_and_wait_keeps_new_task_from_starting():
    started: list[bool] = []

    async def start() -> None:
        started.append(True)

    task = asyncio.create_task(start())
    await cancel_and_wait([task])
    assert task.cancelled()
    assert started == []
