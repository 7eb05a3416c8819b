"""Scripts that run in separate Python processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

PATIENCE = 20.0

# In development mode asyncio reports slow callbacks on stderr, which occur on a busy machine.
QUIET = "import logging; logging.getLogger('asyncio').setLevel(logging.ERROR)\n"


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: if it is still false after `PATIENCE` seconds.
    """
    event = threading.Event()
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        event.wait(0.01)
    raise AssertionError(f"the condition is still false after {PATIENCE:g} s")


def python(source: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a script in a Python process."""
    return subprocess.Popen(
        # Some of these scripts fork while threads run.
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


def run_script(
    source: str, *arguments: str, meanwhile: Callable[[subprocess.Popen[str]], None] | None = None
) -> list[str]:
    """Run a script to its end, and return the printed lines, without those that `meanwhile` has read."""
    with python(source, *arguments) as process:
        if meanwhile is not None:
            meanwhile(process)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, ""), f"exit code {process.returncode}: {err}"
    return out.splitlines()
