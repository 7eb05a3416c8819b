"""Journals on disk whose writer is killed at any point: what it had said is kept."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from minted_connect.journal import open_journal
from tests.completion.processes import child

pytestmark = pytest.mark.anyio

LIVES = 8
WRITER = """
    number = int(sys.argv[2])
    while True:
        await journal.prepare(intent_of(id=str(number), cart_token=str(number)))
        print("prepared", number, flush=True)
        await journal.settle(str(number), "confirmed", order_id=number)
        print("confirmed", number, flush=True)
        number += 1
"""


async def test_what_was_said_is_kept(kept: str) -> None:
    said: dict[str, str] = {}
    rng = random.Random(7)
    for life in range(LIVES):
        process = child(WRITER.strip(), kept, str(life * 1000))
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 12)):
            state, number = process.stdout.readline().split()
            said[number] = state
        # Somewhere in the next step, wherever that happens to be: no event tells, and none shall.
        await asyncio.sleep(rng.random() * 0.004)
        process.kill()
        rest, problems = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, problems
        for line in rest.splitlines():
            state, number = line.split()
            said[number] = state
    journal = open_journal(kept)
    pending = {intent.id for intent in await journal.pending()}
    confirmed = {intent.id: intent.order_id for intent in await journal.awaiting_completion()}
    assert {number for number, state in said.items() if state == "confirmed"} <= confirmed.keys()
    assert {number for number, state in said.items() if state == "prepared"} <= pending | confirmed.keys()
    assert all(order == int(number) for number, order in confirmed.items())
    # Of each life one step at most was under way that nothing had been said of.
    assert len((pending | confirmed.keys()) - said.keys()) <= LIVES
