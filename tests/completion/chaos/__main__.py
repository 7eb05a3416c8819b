"""Thousands of purchases with everything going wrong at random, and an oracle: no double, no loss, no false refusal.

`python -m tests.completion.chaos --purchases 20000 --seed 1`

Client and sandbox share one clock that jumps over every wait. A hundred purchases make a day, with a shop, customers
and a journal of its own; what is still open at its end is reconciled without faults, and then everything has to add up.
What happens depends on the seed and the number of a purchase: `--only N` repeats its day up to it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tests.completion.chaos.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Purchases with everything going wrong at random.")
    parser.add_argument("--purchases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="draw the day of this purchase again, up to it")
    given = parser.parse_args(arguments)
    tally = asyncio.run(run(given.purchases, given.seed, only=given.only))
    sys.stdout.write("\n\n".join([*tally.reports, f"{tally}\n"]))
    return bool(tally.reports)


if __name__ == "__main__":
    sys.exit(main())
