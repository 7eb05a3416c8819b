"""`python -m minted_connect demo`: the walk-through, without any extra installed."""

from __future__ import annotations

import argparse
import asyncio
import sys

from minted_connect import __version__

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m minted_connect", description="Minted Connect SDK")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="buy, hold, sell and receive gold in an embedded sandbox")
    parser.parse_args(arguments)

    from minted_connect import MintedConnectError, demo  # noqa: PLC0415 - `--help` loads no aiohttp

    try:
        asyncio.run(demo.run())
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (MintedConnectError, OSError) as error:
        print(f"minted_connect: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
