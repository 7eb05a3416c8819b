"""Thousands of purchases under random faults, checked for double orders, lost orders and refusals confirmed too early.

`python -m tests.completion.chaos --purchases 20000 --seed 1`

Client and sandbox share one clock that skips every wait. A simulation has one shop, its customers and one journal, and
makes 100 purchases. At its end, open intents are reconciled without faults, and journals and orders must agree. The
seed and the number of a purchase determine the purchase: `--only N` repeats its simulation up to purchase N.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tests.completion.chaos.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make purchases under random faults, and check the orders.")
    parser.add_argument("--purchases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat the simulation of this purchase, up to this purchase")
    parser.add_argument(
        "--quirks", choices=("laravel", "none", "random"), default="random", help="JSON shapes of the responses"
    )
    given = parser.parse_args(arguments)
    quirks = None if given.quirks == "none" else given.quirks
    result = asyncio.run(run(given.purchases, given.seed, only=given.only, quirks=quirks))
    sys.stdout.write("\n\n".join([*result.reports, f"{result}\n"]))
    return bool(result.reports)


if __name__ == "__main__":
    sys.exit(main())
