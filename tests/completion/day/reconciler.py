"""The process that settles the open intents of a simulated day: `python -m tests.completion.day.reconciler JOB`.

It runs until it is killed, and sets the mark of its slot to the number of open intents while
it settles them, and the count to the number of those that it has settled.
"""

from __future__ import annotations

import sys

from minted_connect import AsyncMintedConnect
from minted_connect.errors import CompletionRejected, NotExecuted
from minted_connect.models import ReconcileResult
from tests.completion.day.clock import CountingSelector, FollowingClock, SharedTime, run_counting
from tests.completion.day.plan import START, Job

INTERVAL = 240.0
"""Seconds between two rounds."""


async def main(job: Job, selector: CountingSelector) -> None:
    clock = FollowingClock(SharedTime(job.shared_path), START, job.slot)
    journal = job.open_journal(clock)
    async with AsyncMintedConnect(**job.client_settings(clock, journal)) as minted:
        clock.follow(selector, journal)

        def count(result: ReconcileResult) -> None:
            is_settled = result.completion is not None or isinstance(result.error, CompletionRejected | NotExecuted)
            clock.slot.count += is_settled

        while True:
            clock.slot.mark = len(await minted.complete.pending())
            await minted.complete.reconcile_all(fence=True, on_result=count)
            clock.slot.mark = 0
            await clock.sleep(INTERVAL)


if __name__ == "__main__":
    [text] = sys.argv[1:]
    run_counting(lambda selector: main(Job.loads(text), selector))
