"""Processes that run `reconcile --watch`, and the JSON lines that they print."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

PATIENCE = 30.0


@attrs.define(eq=False)
class Watcher:
    """One process."""

    process: subprocess.Popen[str]
    lines: list[dict[str, Any]] = attrs.field(factory=list)
    _queue: queue.Queue[str | None] = attrs.field(factory=queue.Queue)
    _reader: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, matches: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the next line that matches."""
        while True:
            text = self._queue.get(timeout=PATIENCE)
            assert text is not None, self.process.communicate()
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if matches(line):
                return line

    def wait_for_state(self, state: str) -> dict[str, Any]:
        return self.wait_for(lambda line: line.get("reconciler") == state)

    def wait_for_intent(self, intent_id: str) -> dict[str, Any]:
        return self.wait_for(lambda line: line.get("intent") == intent_id)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, and return the exit code and standard error."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        """Return the exit code and standard error."""
        code = self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        err = self.process.stderr.read()
        self._reader.join(PATIENCE)
        self.process.stderr.close()
        self.process.stdout.close()
        return code, err

    def rest(self) -> list[str]:
        """Return the lines that were not waited for, once the process has ended."""
        return [*iter(lambda: self._queue.get(timeout=PATIENCE) or "", "")]


def start_watcher(
    sandbox: Any, location: str, *options: str, module: str = "minted_connect", **environment: str
) -> Watcher:
    """Start `reconcile --watch` for a sandbox and a journal."""
    own: Mapping[str, str] = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "error",
        "MINTED_CONNECT_BASE_URL": sandbox.url,
        "MINTED_CONNECT_USERNAME": sandbox.username,
        "MINTED_CONNECT_PASSWORD": sandbox.password,
        **environment,
    }
    words = [sys.executable, "-m", module, "reconcile", "--watch", "--json", "--journal", location, *options]
    return Watcher(
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**own, **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}},
        )
    )
