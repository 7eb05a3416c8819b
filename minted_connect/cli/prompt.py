"""Asks for confirmation on the terminal, with a countdown of the price lock."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress

from minted_connect.cli.output import Output
from minted_connect.errors import ConfigurationError

__all__ = ["confirm"]

_YES = frozenset({"y", "yes"})


async def confirm(out: Output, question: str, seconds_left: Callable[[], float | None] = lambda: None) -> bool | None:
    """Ask a yes-or-no question; return None if `seconds_left` reaches 0 before it is answered.

    If a signal ends the question, a line of its own says that nothing was done.

    Raises:
        ConfigurationError: if standard input or standard error is not a terminal.
    """
    if not out.can_prompt:
        raise ConfigurationError("confirmation needs a terminal: pass --yes to proceed without it")
    try:
        return await _ask(question, seconds_left)
    except asyncio.CancelledError:
        with suppress(OSError, ValueError):  # SIGHUP: the terminal is gone
            sys.stderr.write("\n")
            sys.stderr.flush()
        out.print_message("interrupted before the question was answered: nothing was done")
        raise


async def _ask(question: str, seconds_left: Callable[[], float | None]) -> bool | None:
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not line.done():
            line.set_result(sys.stdin.readline())

    try:
        loop.add_reader(sys.stdin.fileno(), read)
    except (NotImplementedError, OSError):  # Windows has no `add_reader`: no countdown, and Ctrl-C waits for Enter
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        return _is_yes(await loop.run_in_executor(None, sys.stdin.readline))
    try:
        return await _wait_with_countdown(line, question, seconds_left)
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _wait_with_countdown(
    line: asyncio.Future[str], question: str, seconds_left: Callable[[], float | None]
) -> bool | None:
    left = seconds_left()
    if left is not None:
        sys.stderr.write(_format_lock(left) + "\n")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    while True:
        left = seconds_left()
        if left is not None and left <= 0:
            sys.stderr.write("\n")
            return None
        # Wake at each whole second, so that no number is shown twice.
        await asyncio.wait([line], timeout=None if left is None else left % 1 or 1)
        if line.done():
            return _is_yes(line.result())
        if (left := seconds_left()) is not None:
            # Rewrite the line above, and return the cursor to where the person is typing.
            sys.stderr.write(f"\0337\033[1A\r\033[2K{_format_lock(left)}\0338")
            sys.stderr.flush()


def _is_yes(line: str) -> bool:
    if not line.endswith("\n"):  # Ctrl-D leaves the cursor behind the question
        sys.stderr.write("\n")
    return line.strip().lower() in _YES


def _format_lock(seconds: float) -> str:
    return f"the price is locked for {seconds:.0f} s"
