"""`python -m benchmarks`: run the cases and print one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from benchmarks.cases import CASES, Effort
from benchmarks.report import Row, combine, machine, table

FULL = Effort(repetitions=25, calls=320, steps=4000, intervals=20)
QUICK = Effort(repetitions=7, calls=160, steps=1000, intervals=4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare the cost of the SDK with that of its peers."
    )
    parser.add_argument("--quick", action="store_true", help="fewer calls: less than two minutes, with more noise")
    parser.add_argument("--only", action="append", choices=[*CASES], help="run this case only (may be repeated)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file as JSON")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="run all cases in N processes, and print medians"
    )
    arguments = parser.parse_args()

    # The cases that start interpreters would compile the package each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rows: list[Row] = []
    if arguments.processes > 1:
        rows = combine([_run_process(arguments) for _ in range(arguments.processes)])
    else:
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


def _run_process(arguments: argparse.Namespace) -> list[Row]:
    options = ["--quick"] if arguments.quick else []
    options += [f"--only={name}" for name in arguments.only or ()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", *options, "--json", str(file)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["rows"]
    for row in rows:
        row["spread"] = tuple(row["spread"])
    return [Row(**row) for row in rows]


if __name__ == "__main__":
    main()
