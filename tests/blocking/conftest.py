"""Fixtures that count threads around every test and run scripts in new interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 40.0
"""Seconds after which an operation counts as hanging."""


def loop_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.endswith(" loop")}


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    before = loop_threads()
    yield
    assert set() == loop_threads() - before


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start Python with a source text, from a file, so that multiprocessing can import it."""

    def start(source: str, *arguments: str, warnings: str = "error") -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(source)
        return subprocess.Popen(
            # Some of these scripts fork a process that has threads.
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
def finished(script: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run Python with a source text; return exit status, stdout and stderr."""

    def run(source: str, *arguments: str, **options: Any) -> tuple[int, str, str]:
        process = script(source, *arguments, **options)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"it hangs; so far it said {out!r} and {err!r}")
        # On a busy machine, the debug mode of asyncio reports slow steps.
        lines = [line for line in err.splitlines(keepends=True) if not line.startswith("Executing <")]
        return process.returncode, out, "".join(lines)

    return run
