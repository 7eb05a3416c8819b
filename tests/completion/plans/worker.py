"""One process of a run: `python -m tests.completion.plans.worker SETTINGS NAME URL USERNAME PASSWORD JOURNAL`.

Prints a line of JSON, waits for a line on stdin, then buys the whole plan until every reference has an outcome, or
until nothing changes any more. It may be killed at any moment. At its end it prints the outcome of each reference: the
number of the order, or the last failure.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time

from minted_connect import AsyncMintedConnect
from minted_connect.errors import AlreadyInFlight, MintedConnectError, OutcomeUnknown
from tests.completion.plans.plan import CURRENCY, MAX_TOTAL, PATIENCE, TIMEOUTS, Purchase, Settings, write_line

CONCURRENT = 2
"""Number of purchases that a worker makes at a time."""
PAUSE = 0.5
"""Seconds between two passes through the plan."""
OPEN = "open"
CONTRADICTIONS = ("but its order exists", "was completed more than once")
"""Parts of log messages about an attempt that was settled wrongly, and about two confirmed intents of a reference."""


class Worker:
    """Buys the references of the plan that have no order yet, in random order."""

    def __init__(self, minted: AsyncMintedConnect, settings: Settings, draw: random.Random) -> None:
        self._minted = minted
        self._draw = draw
        self._settings = settings
        self._left = settings.purchases()
        self._seen: set[str] = set()
        """Ids of intents that were in flight in an earlier pass, too."""
        self.outcomes: dict[str, int | str | None] = {}

    async def run(self) -> None:
        changed, passes_without_change = time.monotonic(), 0
        slots = asyncio.Semaphore(CONCURRENT)
        while self._left:
            self._draw.shuffle(self._left)
            before = len(self._left)
            await asyncio.gather(*(self._buy_in_turn(slots, purchase) for purchase in self._left))
            self._left = [one for one in self._left if not isinstance(self.outcomes[one.reference], int)]
            if len(self._left) < before:
                changed, passes_without_change = time.monotonic(), 0
            else:
                passes_without_change += 1
            are_open = all(self.outcomes[one.reference] == OPEN for one in self._left)
            may_stay_open = not self._settings.fences and are_open and passes_without_change >= 3
            if may_stay_open or time.monotonic() - changed > PATIENCE[self._settings.policy]:
                return
            await asyncio.sleep(PAUSE)

    async def _buy_in_turn(self, slots: asyncio.Semaphore, purchase: Purchase) -> None:
        async with slots:
            try:
                self.outcomes[purchase.reference] = await self._buy(purchase)
            except AlreadyInFlight as error:
                self.outcomes[purchase.reference] = "claimed" if error.intent_id is None else OPEN
            except OutcomeUnknown:
                self.outcomes[purchase.reference] = OPEN
            except MintedConnectError as error:
                self.outcomes[purchase.reference] = type(error).__name__

    async def _buy(self, purchase: Purchase) -> int | None:
        complete = self._minted.complete
        try:
            completion = await complete.buy_items(
                purchase.customer,
                purchase.items,
                reference=purchase.reference,
                max_total=MAX_TOTAL,
                currency=CURRENCY,
                replace=True,
            )
        except OutcomeUnknown as unknown:
            completion = await complete.reconcile(unknown, fence=self._settings.fences)
        except AlreadyInFlight as error:
            # The first time, another process is probably alive and completes it.
            intents = [one for one in await complete.pending() if one.id == error.intent_id and one.id in self._seen]
            if not intents:
                self._seen.add(error.intent_id or "")
                raise
            completion = await complete.reconcile(intents[0], fence=self._settings.fences)
        return completion.order_id


class Reporter(logging.Handler):
    """Prints the log messages about contradictions."""

    def emit(self, record: logging.LogRecord) -> None:
        if any(part in record.getMessage() for part in CONTRADICTIONS):
            write_line({"logged": record.getMessage()})


async def main(settings: Settings, name: str, url: str, username: str, password: str, journal: str) -> None:
    logging.getLogger("minted_connect").addHandler(Reporter(logging.ERROR))
    async with AsyncMintedConnect(
        username, password, base_url=url, journal=journal, options=settings.options(), timeouts=TIMEOUTS
    ) as minted:
        write_line("ready")
        await asyncio.to_thread(sys.stdin.readline)
        worker = Worker(minted, settings, settings.random(name))
        await worker.run()
    write_line({"outcomes": worker.outcomes})


if __name__ == "__main__":
    asyncio.run(main(Settings.loads(sys.argv[1]), *sys.argv[2:]))
