"""The process that settles the open intents of a simulated day: `python -m tests.completion.day.reconciler JOB`.

It runs until it is killed. The mark of its slot is the number of its requests, the count that of the intents that it
has settled.
"""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

import attrs

from minted_connect import AsyncMintedConnect
from minted_connect.completion import lease, reconciler
from minted_connect.hooks import Attempt
from minted_connect.models import ReconcileResult
from tests.completion.day.clock import CountingSelector, FollowingClock, SharedTime, run_counting
from tests.completion.day.plan import START, Job

INTERVAL = 600.0
"""Seconds between two rounds."""
LEASE = 1200.0
"""Seconds after which the reconciler that replaces a killed one begins."""


async def main(job: Job, selector: CountingSelector) -> NoReturn:
    clock = FollowingClock(SharedTime(job.shared_path), START, job.slot)
    journal = job.open_journal(clock)
    for module in (lease, reconciler):
        # The lease expires by the clock of the database, which is simulated, too.
        module.__dict__["SYSTEM_CLOCK"] = clock

    def count_request(_: Attempt) -> None:
        clock.slot.mark += 1

    def count_settled(_: ReconcileResult) -> None:
        clock.slot.count += 1

    settings = job.client_settings(clock, journal)
    settings["options"] = attrs.evolve(settings["options"], on_attempt=count_request)
    async with AsyncMintedConnect(**settings) as minted:
        clock.follow(selector, journal)
        async with minted.complete.reconciler(interval=INTERVAL, lease=LEASE, fence=True, on_result=count_settled):
            while True:
                await asyncio.Event().wait()


if __name__ == "__main__":
    [text] = sys.argv[1:]
    run_counting(lambda selector: main(Job.loads(text), selector))
