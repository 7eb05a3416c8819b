"""Writers that are killed at a random point lose no record that they had reported as stored."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from minted_connect.journal import open_journal
from tests.completion.processes import start_child

pytestmark = pytest.mark.anyio

RUNS = 8
WRITER = """
    number = int(sys.argv[2])
    while True:
        await journal.prepare(intent_of(id=str(number), cart_token=str(number)))
        print("prepared", number, flush=True)
        await journal.settle(str(number), "confirmed", order_id=number)
        print("confirmed", number, flush=True)
        number += 1
"""


@pytest.mark.requirement(16)
async def test_killed_writer_loses_no_reported_record(journal_location: str) -> None:
    reported: dict[str, str] = {}
    rng = random.Random(7)
    for run in range(RUNS):
        process = start_child(WRITER.strip(), journal_location, str(run * 1000))
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 12)):
            state, number = process.stdout.readline().split()
            reported[number] = state
        # A random delay, so that the kill hits any point of the next step.
        await asyncio.sleep(rng.random() * 0.004)
        process.kill()
        rest, problems = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, problems
        for line in rest.splitlines():
            state, number = line.split()
            reported[number] = state
    journal = open_journal(journal_location)
    pending = {intent.id for intent in await journal.pending()}
    confirmed = {intent.id: intent.order_id for intent in await journal.awaiting_completion()}
    assert {number for number, state in reported.items() if state == "confirmed"} <= confirmed.keys()
    assert {number for number, state in reported.items() if state == "prepared"} <= pending | confirmed.keys()
    assert all(order == int(number) for number, order in confirmed.items())
    # Each run was killed during at most one step that it had not reported yet.
    assert len((pending | confirmed.keys()) - reported.keys()) <= RUNS
