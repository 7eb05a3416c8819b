"""Other processes that use the same journal."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

CHILD = """
import asyncio, os, signal, sys
sys.path.insert(0, {root!r})
from minted_connect.journal import open_journal
from minted_connect.errors import AlreadyInFlight
from tests.completion.fakes import intent_of
async def main():
    journal = open_journal(sys.argv[1])
    {body}
asyncio.run(main())
"""


def start_child(body: str, where: str | Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process that runs `body` with the `journal` at `where`."""
    source = CHILD.format(root=str(ROOT), body=body)
    return subprocess.Popen(
        [sys.executable, "-c", source, str(where), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_together(processes: Sequence[subprocess.Popen[str]], timeout: float = 30) -> list[str]:
    """Wait until all processes have printed "ready", let them continue together, and return their output."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=30)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=timeout) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [output for output, _ in outputs]
