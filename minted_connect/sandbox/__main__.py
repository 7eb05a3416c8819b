"""Command line of the sandbox: `python -m minted_connect.sandbox` serves until Ctrl-C or SIGTERM."""

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
        """Print the error on one line and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parse_arguments(arguments: list[str] | None, prog: str) -> argparse.Namespace:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,  # --password must not be accepted as --password-file
        description="Serve a stateful fake of Minted Connect's Walletable E-Commerce API.",
        epilog="The password is read from --password-file or MINTED_CONNECT_PASSWORD, else generated, and printed "
        "unless --quiet is given.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8787, help="port; 0 for any free port (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="seed of ids, tokens and prices (default: random, printed at startup)")
    parser.add_argument("--state", type=Path, help="SQLite file that keeps the state (default: in memory)")
    parser.add_argument("--username", default="sandbox", help="username of the partner (default: %(default)s)")
    parser.add_argument("--password-file", type=Path, help="file whose first line is the password")
    algorithms = " and ".join(Settings().algorithms)
    parser.add_argument(
        "--algorithm",
        action="append",
        choices=ALGORITHMS,
        help=f"digest algorithm to offer; repeat the option for several (default: {algorithms})",
    )
    parser.add_argument(
        "--price-interval",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time from one price to the next, in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--quirks",
        choices=("laravel",),
        help="send the JSON shapes that Laravel and MySQL write, such as ids as strings (default: as documented)",
    )
    parser.add_argument(
        "--console",
        action=argparse.BooleanOptionalAction,
        help="serve the console at /_sandbox, without a password (default: only if --host is a loopback address)",
    )
    parser.add_argument("--json", action="store_true", help="print URL, credentials and seed as one line of JSON")
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    return parser.parse_args(arguments)


def _read_password(file: Path) -> str:
    line = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    if not line:
        raise ValueError(f"the first line of {file} is empty: it must contain the password")
    return line


def _describe(sandbox: Sandbox, *, as_json: bool, show_password: bool) -> str:
    if as_json:
        password = sandbox.password if show_password else None
        values = {
            "url": sandbox.url,
            "username": sandbox.username,
            "password": password,
            "console": sandbox.console_url,
            "seed": sandbox.seed,
        }
        return json.dumps(values)
    password = sandbox.password if show_password else "(as given)"
    console = f"  console: {sandbox.console_url}" if sandbox.console_url else ""
    return f"{sandbox.url}  username: {sandbox.username}  password: {password}{console}  seed: {sandbox.seed}"


async def _serve(sandbox: Sandbox, describe: Callable[[Sandbox], str] | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(signum, stop.set)
        except NotImplementedError:  # on Windows, Ctrl-C raises KeyboardInterrupt
            break
    async with sandbox:
        if describe is not None:
            print(describe(sandbox), flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None, *, prog: str = "python -m minted_connect.sandbox") -> int:
    """Serve until interrupted; return the exit status."""
    given = _parse_arguments(arguments, prog)
    try:
        password = os.environ.get("MINTED_CONNECT_PASSWORD")
        if given.password_file is not None:
            password = _read_password(given.password_file)
        options: Options = {
            "host": given.host,
            "port": given.port,
            "seed": given.seed,
            "state": given.state,
            "username": given.username,
            "password": password,
            "price_interval": given.price_interval,
            "quirks": given.quirks,
            "console": given.console,
            "clock": MovableClock(),
        }
        if given.algorithm:
            options["algorithms"] = given.algorithm
        sandbox = Sandbox(**options)
        describe = functools.partial(_describe, as_json=given.json, show_password=not password)
        asyncio.run(_serve(sandbox, None if given.quiet else describe))
    except KeyboardInterrupt:
        return 0
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
