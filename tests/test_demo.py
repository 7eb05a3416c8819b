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


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def finished(*arguments: str) -> tuple[int, str, str]:
    with started("-m", "minted_connect", *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    # -X dev makes asyncio report steps that took long, on a busy machine.
    return process.returncode, out, "".join(line for line in err.splitlines(True) if not line.startswith("Executing <"))


def test_the_demo_tells_its_story():
    status, out, err = finished("demo")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    titles = [above for above, line in pairwise(lines) if line and line == "-" * len(above)]
    assert titles == SECTIONS
    assert "Ada Demo" in out
    assert "Minted 1 g 999.9 Gold Bar" in out
    assert out.count(" is Pending: ") == 3
    assert lines[-1].endswith(" HTTP requests sent")


def test_the_demo_as_json_lines():
    status, out, err = finished("demo", "--json")
    assert (status, err) == (0, "")
    lines = [json.loads(line, parse_float=lambda text: pytest.fail(f"{text} is no text")) for line in out.splitlines()]
    assert [title for title, _ in groupby(line["section"] for line in lines)] == SECTIONS
    (wallet, *_) = [line["rows"] for line in lines if line["section"] == "Buy" and "rows" in line]
    assert Decimal(wallet[0]["worth"]) > 0


def test_help_says_what_there_is():
    status, out, err = finished("--help")
    assert (status, err) == (0, "")
    assert "demo" in out


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("demo", "--nonsense")])
def test_wrong_usage(arguments):
    status, out, err = finished(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: ")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"


HELD_UP = """
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
def test_ctrl_c_ends_it_quietly():
    with started("-c", HELD_UP) as process:
        for line in process.stdout:
            if line == "half-way\n":
                process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "Traceback" not in err
    assert "ResourceWarning" not in err


def test_what_goes_wrong_is_one_line(capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no port is free")

    monkeypatch.setattr("minted_connect.client.AsyncMintedConnect.sandbox", refuse)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "minted_connect: no port is free\n"
