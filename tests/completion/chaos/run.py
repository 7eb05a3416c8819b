"""Day after day of purchases."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from traceback import format_exc

from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.chaos.plan import Plan, draw_plan
from tests.completion.chaos.result import Tally, Violation
from tests.completion.chaos.simulation import Day

DAY = 100
"""Purchases that share a shop, a journal and a client."""
ON_DISK = 10
"""Every so many days the journal is a SQLite file; on all others it is in memory, which spares the fsyncs."""


async def run(purchases: int, seed: int, *, single_shot: bool | None = None, only: int | None = None) -> Tally:
    """Make so many purchases, or only those of one day up to number `only`.

    With `single_shot=None` the shop turns a used cart token down on even days, and makes a second order on odd ones.
    """
    tally = Tally()
    started = time.monotonic()
    numbers = range(purchases) if only is None else range(only - only % DAY, only + 1)
    for start in range(numbers.start, numbers.stop, DAY):
        number = start // DAY
        with tempfile.TemporaryDirectory() as folder:
            journal = MemoryJournal() if number % ON_DISK else SqliteJournal(Path(folder) / "journal.db")
            single = number % 2 == 0 if single_shot is None else single_shot
            await _spend(Day(seed, number, tally, journal, single_shot=single), numbers[start - numbers.start :][:DAY])
    tally.seconds = time.monotonic() - started
    return tally


async def _spend(day: Day, numbers: range) -> None:
    tally = day.tally
    plan: Plan | None = None
    async with day.open():
        try:
            for number in numbers:
                plan = draw_plan(random.Random(f"{day.seed}/{number}"), number, day.limits)
                await day.purchase(plan)
            plan = None
            await day.evening()
        except Exception as error:
            broken = error if isinstance(error, Violation) else Violation("error", "", format_exc())
            # What shows only in the evening may be about several purchases from one basket.
            plans = [plan] if plan else day.plans.get(broken.token, ())
            tally.violations[broken.what] += 1
            tally.reports.append("\n".join([f"seed {day.seed}: {broken}", *map(str, plans), str(day)]))
        finally:
            tally.orders += len(day.server.shop.orders)
            tally.virtual += day.clock.monotonic()
