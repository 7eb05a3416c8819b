"""Cancelling tasks until they have ended."""

from __future__ import annotations

import asyncio

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
