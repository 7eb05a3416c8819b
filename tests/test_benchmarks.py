"""The benchmarks run. Speed is not tested here."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("processes", ["1", "2"])
def test_benchmark_case_prints_a_table(processes: str):
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "decode", "--processes", processes],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )

    assert process.returncode == 0, process.stderr
    rows = [line for line in process.stdout.splitlines() if line.startswith("| decode one basket |")]
    assert any("SDK, bytes to Basket" in row for row in rows)
