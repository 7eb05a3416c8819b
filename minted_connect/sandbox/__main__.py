"""`python -m minted_connect.sandbox`: serve a sandbox until Ctrl-C or SIGTERM."""

import argparse
import asyncio
import functools
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .clock import MovableClock
from .digest_auth import ALGORITHMS
from .server import Sandbox
from .settings import Options, Settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and exit."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _arguments(words: list[str] | None, prog: str) -> argparse.Namespace:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,  # --password must not be taken for --password-file
        description="Serve a stateful fake of Minted Connect's Walletable E-Commerce API.",
        epilog="The password is taken from MINTED_CONNECT_PASSWORD or --password-file, else made up and shown.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8787, help="0 for any free one (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, help="seed of ids, tokens and prices (default: random, printed at the start)"
    )
    parser.add_argument("--state", type=Path, help="SQLite file to keep everything in (default: memory)")
    parser.add_argument("--username", default="sandbox", help="(default: %(default)s)")
    parser.add_argument("--password-file", type=Path, help="file whose first line is the password")
    offered = Settings().algorithms
    parser.add_argument(
        "--algorithm",
        action="append",
        choices=ALGORITHMS,
        help=f"digest algorithm to offer; repeat it to offer several (default: {' and '.join(offered)})",
    )
    parser.add_argument(
        "--price-interval",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time from one price to the next, in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--console",
        action=argparse.BooleanOptionalAction,
        help="the page at /_sandbox, which asks for no password (default: where only this machine can reach it)",
    )
    parser.add_argument("--json", action="store_true", help="print where it is as a JSON object, on one line")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser.parse_args(words)


def _first_line(file: Path) -> str:
    line = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    if not line:
        raise ValueError(f"the first line of {file} is empty: it has to hold the password")
    return line


def _said(sandbox: Sandbox, *, as_json: bool, show_password: bool) -> str:
    if as_json:
        password = sandbox.password if show_password else None
        shown = {
            "url": sandbox.url,
            "username": sandbox.username,
            "password": password,
            "console": sandbox.console_url,
            "seed": sandbox.seed,
        }
        return json.dumps(shown)
    password = sandbox.password if show_password else "(as given)"
    console = f"  console: {sandbox.console_url}" if sandbox.console_url else ""
    return f"{sandbox.url}  username: {sandbox.username}  password: {password}{console}  seed: {sandbox.seed}"


async def _serve(sandbox: Sandbox, said: Callable[[Sandbox], str] | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows: Ctrl-C arrives as KeyboardInterrupt
            break
    async with sandbox:
        if said is not None:
            print(said(sandbox), flush=True)
        await stop.wait()


def main(words: list[str] | None = None, *, prog: str = "python -m minted_connect.sandbox") -> int:
    """Run until told to stop; return the exit status."""
    given = _arguments(words, prog)
    try:
        password = os.environ.get("MINTED_CONNECT_PASSWORD")
        if given.password_file is not None:
            password = _first_line(given.password_file)
        options: Options = {
            "host": given.host,
            "port": given.port,
            "seed": given.seed,
            "state": given.state,
            "username": given.username,
            "password": password,
            "price_interval": given.price_interval,
            "console": given.console,
            "clock": MovableClock(),
        }
        if given.algorithm:
            options["algorithms"] = given.algorithm
        sandbox = Sandbox(**options)
        said = functools.partial(_said, as_json=given.json, show_password=not password)
        asyncio.run(_serve(sandbox, None if given.quiet else said))
    except KeyboardInterrupt:
        return 0
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
