"""The event loop that runs now, and whether the interpreter is exiting."""

from __future__ import annotations

import asyncio
import threading

from minted_connect.errors import ConfigurationError

__all__ = ["EXITING", "check_asyncio", "is_interpreter_exiting"]

EXITING = "the interpreter is exiting and starts no new work: make this call before the main thread ends"


def check_asyncio() -> None:
    """Check that an asyncio event loop is running.

    Raises:
        ConfigurationError: if no asyncio loop runs, for instance under trio.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "this client is asyncio only, and no asyncio event loop is running: with trio or another framework, use "
            "the blocking MintedConnect in a thread"
        ) from None


def is_interpreter_exiting() -> bool:
    """Return whether the main thread has ended: from then on, executors refuse jobs, also in `atexit` functions."""
    # Not `sys.is_finalizing`, which is still false while `atexit` functions and the last threads run.
    return not threading.main_thread().is_alive()
