"""Scripts in interpreters of their own, for what only a process can show."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

PATIENCE = 20.0

# In development mode asyncio tells stderr of every callback that took long, which on a busy machine is no fault.
QUIET = "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"


def until(condition: Callable[[], object]) -> None:
    waiting = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen")


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # Forking with threads around is what some of these scripts are about.
        [
            sys.executable,
            "-X",
            "dev",
            "-Werror",
            "-Wignore:This process:DeprecationWarning",
            "-c",
            QUIET + source,
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def spoken(source: str, *arguments: str, meanwhile: Callable[[subprocess.Popen[str]], None] | None = None) -> list[str]:
    """Run a script to its end, and return the lines it printed (without those that `meanwhile` has read)."""
    with python(source, *arguments) as process:
        if meanwhile is not None:
            meanwhile(process)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, ""), f"exit code {process.returncode}: {err}"
    return out.splitlines()
