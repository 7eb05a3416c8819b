"""Runs the simulations one after the other."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from traceback import format_exc

from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.chaos.plan import Plan, Quirks, draw_plan
from tests.completion.chaos.result import RunResult, Violation
from tests.completion.chaos.simulation import Simulation

PURCHASES_PER_RUN = 100
"""Number of purchases that share a shop, a journal and a client."""
SQLITE_EVERY = 10
"""Each n-th simulation has a journal in a SQLite file; the others have one in memory, which needs no fsync."""


async def run(
    purchases: int,
    seed: int,
    *,
    single_shot: bool | None = None,
    only: int | None = None,
    quirks: Quirks = "random",
) -> RunResult:
    """Make the purchases, or only those of one simulation up to number `only`.

    With `single_shot=None`, the shop refuses a used cart token in simulations with an even number, and makes a second
    order in the others. With `quirks="random"`, half of the simulations have the shapes of Laravel.
    """
    result = RunResult()
    started = time.monotonic()
    numbers = range(purchases) if only is None else range(only - only % PURCHASES_PER_RUN, only + 1)
    for start in range(numbers.start, numbers.stop, PURCHASES_PER_RUN):
        number = start // PURCHASES_PER_RUN
        with tempfile.TemporaryDirectory() as folder:
            journal = MemoryJournal() if number % SQLITE_EVERY else SqliteJournal(Path(folder) / "journal.db")
            single = number % 2 == 0 if single_shot is None else single_shot
            await _simulate(
                Simulation(seed, number, result, journal, single_shot=single, quirks=quirks),
                numbers[start - numbers.start :][:PURCHASES_PER_RUN],
            )
    result.seconds = time.monotonic() - started
    return result


async def _simulate(simulation: Simulation, numbers: range) -> None:
    result = simulation.result
    plan: Plan | None = None
    async with simulation.open():
        try:
            for number in numbers:
                plan = draw_plan(random.Random(f"{simulation.seed}/{number}"), number, simulation.limits)
                await simulation.purchase(plan)
            plan = None
            await simulation.finish()
        except Exception as error:
            violation = error if isinstance(error, Violation) else Violation("error", "", format_exc())
            # A violation that `finish` finds may concern several purchases of one basket.
            plans = [plan] if plan else simulation.plans.get(violation.token, ())
            result.violations[violation.kind] += 1
            result.reports.append(
                "\n".join([f"seed {simulation.seed}: {violation}", *map(str, plans), str(simulation)])
            )
        finally:
            result.orders += len(simulation.server.shop.orders)
            result.simulated_seconds += simulation.clock.monotonic()
