"""A simulated day of purchases under faults and spending limits, with an audit at its end.

`python -m tests.completion.day --journal postgres --purchases 2000 --seed 1`

Several processes buy over one journal on one movable clock, a reconciler settles what is open and is killed and
replaced, and the audit must find nothing. Then five discrepancies are planted, and the audit must name these only.
Prints the figures on one line, and the violations; the exit status is 1 if there are violations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.completion.day.clock import run_counting
from tests.completion.day.plan import Settings
from tests.completion.day.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Run a simulated day of purchases, and audit it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--journal", choices=("sqlite", "postgres"), default="sqlite", help="kind of the journal")
    parser.add_argument("--purchases", type=int, default=2000, help="number of purchases")
    parser.add_argument("--processes", type=int, default=3, help="number of client processes")
    parser.add_argument("--kills", type=int, default=4, help="number of times that the reconciler is killed")
    parser.add_argument("--seed", type=int, default=1, help="seed of the purchases, the faults and the kills")
    settings = Settings(**vars(parser.parse_args(arguments)))
    result = run_counting(lambda selector: run(settings, selector))
    sys.stdout.write("\n".join([*result.violations, f"{result}\n"]))
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
