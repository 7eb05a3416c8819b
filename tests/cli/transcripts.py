"""`python -m tests.cli.transcripts`: every command at 50, 80 and 200 columns, on a terminal and piped.

It prints what a user sees, to be read by people.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Mapping
from pathlib import Path

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox

CUSTOMER, GOLD = "shop-customer-1", "MNTBAE0001"
WIDTHS = (50, 80, 200)
COMMANDS = (
    "--help",
    "rates",
    "rates watch --count 2 --interval 0.1",
    "rates history --metal gold --interval week",
    "rates history --metal gold --chart",
    "rates alert --above 1 --metal gold --count 1",
    "rates alert",
    "products --limit 3",
    f"customer get {CUSTOMER}",
    f"basket show {CUSTOMER}",
    f"basket add {CUSTOMER} {GOLD}",
    f"buy {CUSTOMER} --dry-run",
    f"buy {CUSTOMER} --yes",
    f"sell {CUSTOMER} --yes",
    "orders",
    "order ORDER",
    "order 999999",
    f"wallet {CUSTOMER}",
    f"receipt ORDER --customer {CUSTOMER}",
    "journal",
    "reconcile --list",
    "audit",
    "doctor",
    "buy nobody --yes",
    "orders --kind gift",
    "orders --start 2026-13-01",
)


def run(arguments: list[str], environment: Mapping[str, str], columns: int | None) -> str:
    """Run `minted`, on a terminal of this width, or piped with None; return everything it prints."""
    command = [sys.executable, "-m", "minted_connect.cli", *arguments]
    if columns is None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return f"{done.stdout}{done.stderr}[exit {done.returncode}]"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    try:
        while data := os.read(master, 65536):
            output += data
    except OSError:  # Linux reports the end of a terminal like this
        pass
    os.close(master)
    return f"{output.decode(errors='replace')}[exit {process.wait()}]"


def main() -> None:
    """Print the transcripts of all commands, or of those that contain a word."""
    parser = argparse.ArgumentParser(prog="python -m tests.cli.transcripts", description=main.__doc__)
    parser.add_argument("word", nargs="?", default="", help="only the commands that contain this word")
    word = parser.parse_args().word
    with ThreadedSandbox(seed=1) as sandbox, tempfile.TemporaryDirectory() as folder:
        with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
            minted.customers.create(CUSTOMER, firstname="Ada")
            basket = minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=2)
            order = minted.complete.buy(basket, expected_total=basket.paid_total).order_id
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "TERM": "xterm",
            "NO_COLOR": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
            "MINTED_CONNECT_BASE_URL": sandbox.url,
            "MINTED_CONNECT_USERNAME": sandbox.username,
            "MINTED_CONNECT_PASSWORD": sandbox.password,
        }
        for command in COMMANDS:
            if word not in command:
                continue
            arguments = command.replace("ORDER", str(order)).split()
            for columns in (*WIDTHS, None):
                how = "piped" if columns is None else f"{columns} columns"
                print(f"$ minted {' '.join(arguments)}   ({how})", flush=True)
                print(run(arguments, environment, columns).replace("\r", ""), flush=True)


if __name__ == "__main__":
    main()
