"""Asking a person, while the price lock runs down before their eyes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from minted_connect.cli.output import Output
from minted_connect.errors import ConfigurationError

__all__ = ["agreed"]

_YES = frozenset({"y", "yes"})


async def agreed(out: Output, question: str, seconds_left: Callable[[], float | None] = lambda: None) -> bool | None:
    """Ask; return the answer, or None when `seconds_left` came to 0 before there was one.

    Raises:
        ConfigurationError: there is no terminal to ask on.
    """
    if not out.is_attended:
        raise ConfigurationError("there is no terminal to ask on: say --yes, or --dry-run to only look")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not answer.done():
            answer.set_result(sys.stdin.readline())

    try:
        loop.add_reader(sys.stdin.fileno(), read)
    except (NotImplementedError, OSError):  # Windows has no readers: no countdown then, and Ctrl-C waits for Enter
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return (await loop.run_in_executor(None, sys.stdin.readline)).strip().lower() in _YES
    try:
        return await _counted_down(answer, question, seconds_left)
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _counted_down(
    answer: asyncio.Future[str], question: str, seconds_left: Callable[[], float | None]
) -> bool | None:
    left = seconds_left()
    if left is not None:
        sys.stderr.write(_holds(left) + "\n")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    while True:
        left = seconds_left()
        if left is not None and left <= 0:
            sys.stderr.write("\n")
            return None
        # To the next whole second, so that none is shown twice.
        await asyncio.wait([answer], timeout=None if left is None else left % 1 or 1)
        if answer.done():
            return answer.result().strip().lower() in _YES
        if (left := seconds_left()) is not None:
            # The line above, and back to where the answer is being typed.
            sys.stderr.write(f"\0337\033[1A\r\033[2K{_holds(left)}\0338")
            sys.stderr.flush()


def _holds(seconds: float) -> str:
    return f"this price holds for {seconds:.0f} s"
