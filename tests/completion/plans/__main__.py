"""A plan of purchases, made by several processes that are killed again and again, checked for double and lost orders.

`python -m tests.completion.plans --journal postgres --starts 30 --customers 200 --seed 1`

Each start runs the same plan in several processes at once, under random faults with delayed reads and late orders, and
kills each process at a random moment. The last start runs to its end. Prints the figures on one line, and the
violations; the exit status is 1 if there are violations.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from tests.completion.plans.plan import Settings
from tests.completion.plans.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run a plan of purchases in processes that are killed, and check the orders.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--journal", choices=("sqlite", "postgres"), default="sqlite", help="kind of the journal")
    parser.add_argument("--starts", type=int, default=30, help="number of starts of the plan")
    parser.add_argument("--customers", type=int, default=200, help="number of customers")
    parser.add_argument("--references", type=int, default=1, help="number of purchases of each customer")
    parser.add_argument("--processes", type=int, default=4, help="number of processes of each start")
    parser.add_argument(
        "--policy",
        choices=("known", "default"),
        default="known",
        help="known: bounds of the server are given, and unknown outcomes are fenced",
    )
    parser.add_argument(
        "--reads-basket",
        choices=("arrival", "execution"),
        default="execution",
        help="when a completion that is executed late reads the basket",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the plan, the faults and the kills")
    result = asyncio.run(run(Settings(**vars(parser.parse_args(arguments)))))
    sys.stdout.write("\n".join([*result.violations, f"{result}\n"]))
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
