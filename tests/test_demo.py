"""`python -m minted_connect demo` in a subprocess."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from itertools import groupby, pairwise

import pytest

from minted_connect import __version__
from minted_connect.__main__ import main

PATIENCE = 60.0
SECTIONS = [
    "Sandbox",
    "Customer",
    "Prices per gram",
    "Basket",
    "Buy",
    "Sell one gold bar",
    "Deliver one gold bar",
    "Orders",
    "Receipt of the latest order",
    "Done",
]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def run(*arguments: str) -> tuple[int, str, str]:
    with start("-m", "minted_connect", *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    # -X dev makes asyncio report slow steps, which occur on a busy machine.
    return process.returncode, out, "".join(line for line in err.splitlines(True) if not line.startswith("Executing <"))


def test_demo_prints_every_section():
    status, out, err = run("demo")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    titles = [title for title, line in pairwise(lines) if line and line == "-" * len(title)]
    assert titles == SECTIONS
    assert "Ada Demo" in out
    assert "Minted 1 g 999.9 Gold Bar" in out
    assert out.count(" is Pending: ") == 3
    assert lines[-1].endswith(" HTTP requests sent")


def test_demo_json_prints_every_section():
    status, out, err = run("demo", "--json")
    assert (status, err) == (0, "")
    lines = [
        json.loads(line, parse_float=lambda text: pytest.fail(f"{text} is not a string")) for line in out.splitlines()
    ]
    assert [title for title, _ in groupby(line["section"] for line in lines)] == SECTIONS
    (wallet, *_) = [line["rows"] for line in lines if line["section"] == "Buy" and "rows" in line]
    assert Decimal(wallet[0]["worth"]) > 0


def test_help_lists_the_demo():
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert "demo" in out


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("demo", "--nonsense")])
def test_wrong_arguments_print_usage_and_exit_with_2(arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: ")


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"


BLOCKED_DEMO = """
import asyncio, sys
from minted_connect.commands import demo
from minted_connect.__main__ import main

async def print_wallet(minted, printer):
    printer.print_line("half-way")
    await asyncio.Event().wait()

demo._print_wallet = print_wallet
sys.exit(main(["demo"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_sigint_ends_the_demo_without_traceback():
    with start("-c", BLOCKED_DEMO) as process:
        for line in process.stdout:
            if line == "half-way\n":
                process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "Traceback" not in err
    assert "ResourceWarning" not in err


def test_error_is_printed_in_one_line(capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no port is free")

    monkeypatch.setattr("minted_connect.client.AsyncMintedConnect.sandbox", refuse)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "minted_connect: no port is free\n"
