"""`python -m benchmarks`: run the cases and print one table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import attrs

from benchmarks.cases import CASES, Effort
from benchmarks.report import Row, machine, table

FULL = Effort(repetitions=25, calls=320, steps=4000, intervals=20)
QUICK = Effort(repetitions=7, calls=160, steps=1000, intervals=4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare the cost of the SDK with that of its peers."
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls: less than two minutes, with more noise")
    parser.add_argument("--only", action="append", choices=[*CASES], help="run this case only (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file as JSON")
    arguments = parser.parse_args()

    rows: list[Row] = []
    for name in arguments.only or CASES:
        print(f"{name} ...", file=sys.stderr)
        rows += CASES[name](QUICK if arguments.quick else FULL)
    about = machine()
    versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    print(f"{about['python']}, {about['system']}, {about['cpus']} CPUs; {versions}\n")
    print(table(rows))
    if arguments.json:
        data = {"machine": about, "rows": [attrs.asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
