"""Fixtures that check for leaked threads after every test, and that run scripts in new interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 40.0
"""Timeout in seconds of operations that must not hang."""


def loop_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.endswith(" loop")}


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    before = loop_threads()
    yield
    assert set() == loop_threads() - before


@pytest.fixture
def start_script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts Python with a script in a file, which multiprocessing can import."""

    def start(source: str, *arguments: str, warnings: str = "error") -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(source)
        return subprocess.Popen(
            # Without the warning about forks of a process with threads, which some scripts make.
            [
                sys.executable,
                "-X",
                "dev",
                f"-W{warnings}",
                "-Wignore:This process:DeprecationWarning",
                path,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    return start


@pytest.fixture
def run_script(start_script: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a Python script and returns its exit status, stdout and stderr."""

    def run(source: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        process = start_script(source, *arguments, **options)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"the script hangs; stdout {out!r}, stderr {err!r}")
        # On a busy machine, the debug mode of asyncio reports slow steps.
        lines = [line for line in err.splitlines(keepends=True) if not line.startswith("Executing <")]
        return process.returncode, out, "".join(lines)

    return run
