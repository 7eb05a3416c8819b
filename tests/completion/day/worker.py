"""A client process of a simulated day: `python -m tests.completion.day.worker JOB`.

Makes each of its purchases at its time, and repeats a purchase with the same reference until it has an outcome: an
order, or a limit that it would exceed. Then it prints the outcomes as one line of JSON.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from typing import Any

from minted_connect import AsyncMintedConnect
from minted_connect.errors import LimitExceeded, MintedConnectError
from tests.completion.day.clock import CountingSelector, FollowingClock, SharedTime, run_counting
from tests.completion.day.plan import CURRENCY, MAX_TOTAL, START, Job, Purchase
from tests.completion.plans.plan import write_line

_MAX_TRIES = 60
_PAUSE = (120.0, 900.0)
"""Range of the seconds between two tries."""
_WAIT = 20.0
"""Seconds for which a purchase waits for the basket of its customer."""


class Buyer:
    """Makes the purchases of one process."""

    def __init__(self, minted: AsyncMintedConnect, clock: FollowingClock, draw: random.Random) -> None:
        self._minted, self._clock, self._draw = minted, clock, draw
        self.outcomes: dict[str, int | str | None] = {}
        """Order number, name of a limit, or last error, by reference."""
        self.errors: Counter[str] = Counter()

    async def buy(self, purchase: Purchase) -> None:
        """Buy at the time of the purchase, and again until there is an outcome."""
        await self._clock.sleep(max(purchase.at - self._clock.monotonic(), 0.0))
        for _ in range(_MAX_TRIES):
            try:
                completion = await self._minted.complete.buy_items(
                    purchase.customer,
                    purchase.items,
                    reference=purchase.reference,
                    max_total=MAX_TOTAL,
                    currency=CURRENCY,
                    wait=_WAIT,
                    replace=True,
                )
            except LimitExceeded as error:
                assert error.maximum is not None
                assert error.amount is not None
                assert (error.spent or 0) <= error.maximum < (error.spent or 0) + error.amount, error
                self.outcomes[purchase.reference] = error.limit
                return
            except MintedConnectError as error:
                self.errors[type(error).__name__] += 1
                self.outcomes[purchase.reference] = f"{type(error).__name__}: {error}"
            else:
                self.errors["replayed"] += completion.replayed
                self.outcomes[purchase.reference] = completion.order_id
                return
            await self._clock.sleep(self._draw.uniform(*_PAUSE))


async def main(job: Job, selector: CountingSelector) -> dict[str, Any]:
    clock = FollowingClock(SharedTime(job.shared_path), START, job.slot)
    journal = job.open_journal(clock)
    async with AsyncMintedConnect(**job.client_settings(clock, journal)) as minted:
        clock.follow(selector, journal)
        buyer = Buyer(minted, clock, job.settings.random(job.name))
        await asyncio.gather(*map(buyer.buy, job.settings.parts()[job.part]))
    return {"outcomes": buyer.outcomes, "errors": buyer.errors}


if __name__ == "__main__":
    [text] = sys.argv[1:]
    write_line(run_counting(lambda selector: main(Job.loads(text), selector)))
