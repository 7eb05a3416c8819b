"""Runs `minted` against a sandbox: in this process, in a subprocess, or on a pseudo-terminal."""

from __future__ import annotations

import codecs
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from typer.testing import CliRunner

from minted_connect.cli.app import app
from minted_connect.sandbox import ThreadedSandbox

CUSTOMER = "shop-customer-1"
GOLD = "MNTBAE0001"
HOME = {
    "fullname": "Ada Lovelace",
    "phone": "+905550001122",
    "city": "İstanbul",
    "county": "Çekmeköy",
    "district": "Alemdağ",
    "address": "No:1 D:2",
    "tax_number": "12345678910",
}


@attrs.frozen
class Result:
    code: int
    out: str
    err: str


Minted = Callable[..., Result]


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture
def environment(sandbox: ThreadedSandbox, tmp_path: Path) -> dict[str, str]:
    """Environment variables of the command, with a temporary home directory."""
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "MINTED_CONNECT_BASE_URL": sandbox.url,
        "MINTED_CONNECT_USERNAME": sandbox.username,
        "MINTED_CONNECT_PASSWORD": sandbox.password,
        "COLUMNS": "120",
    }


@pytest.fixture
def minted(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Minted:
    for name in os.environ:
        if name.startswith("MINTED_CONNECT_"):
            monkeypatch.delenv(name)

    def run(*arguments: object, stdin: str = "", env: Mapping[str, str | None] | None = None) -> Result:
        result = CliRunner().invoke(
            app, [str(argument) for argument in arguments], input=stdin, env={**environment, **(env or {})}
        )
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


def process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    own = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "PYTHONWARNINGS": "error"}
    return {**coverage, **own, **environment}


@pytest.fixture
def shell(environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts `minted` in a subprocess."""

    def start(*arguments: object, **settings: object) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            [sys.executable, "-m", "minted_connect.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=process_environment(environment),
            **settings,
        )

    return start


_EXEC_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes standard input the controlling terminal of the new session, so that Ctrl-C reaches the process."""


class Terminal:
    """`minted` on a pseudo-terminal; `screen` is everything written to it."""

    def __init__(self, arguments: tuple[object, ...], environment: Mapping[str, str]) -> None:
        self._master, slave = os.openpty()
        try:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _EXEC_ON_TERMINAL,
                    sys.executable,
                    "-m",
                    "minted_connect.cli",
                    *map(str, arguments),
                ],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=process_environment(environment),
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.screen = ""
        self._seen = 0
        # A read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def expect(self, pattern: str, seconds: float = 20.0) -> None:
        """Read until the pattern matches the output that follows the previous match."""
        deadline = time.monotonic() + seconds
        while not (found := re.compile(pattern).search(self.screen, self._seen)):
            assert self._read(deadline), f"{pattern!r} was not found in {self.screen!r}"
        self._seen = found.end()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, seconds: float = 20.0) -> int:
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: EIO after the process has closed the terminal
            return False
        self.screen += self._decoder.decode(data)
        return bool(data)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: object, env: Mapping[str, str] | None = None) -> Terminal:
        opened.append(Terminal(arguments, {**environment, **(env or {})}))
        return opened[-1]

    yield start
    for each in opened:
        each.close()
