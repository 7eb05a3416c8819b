"""How a command ended: its exit code, and one line that says why."""

from __future__ import annotations

import enum

from minted_connect.core.failures import may_have_executed
from minted_connect.errors import (
    ApiError,
    ConfigurationError,
    Conflict,
    InvalidInput,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
    Rejected,
)

__all__ = ["Exit", "exit_of", "told"]


class Exit(enum.IntEnum):
    """The exit codes of `minted`."""

    DONE = 0
    FAILED = 1
    """No connection to read over, an answer that cannot be trusted, a file that cannot be written."""
    USAGE = 2
    """Wrong arguments, options or configuration; nothing was sent."""
    REJECTED = 3
    """The server said no, or the purchase provably did not happen."""
    NOT_SENT = 4
    """Nothing was sent: no connection, another price than agreed."""
    UNKNOWN = 75
    """It may have happened, or has and could not be shown: look before repeating it (`EX_TEMPFAIL` of sysexits.h)."""
    INTERRUPTED = 130


def exit_of(error: BaseException, *, changes: bool) -> Exit:
    """Return the exit code for an error of a command; `changes` = it does more than read."""
    if isinstance(error, ConfigurationError | InvalidInput):
        return Exit.USAGE
    if isinstance(error, OutcomeUnknown):
        return Exit.UNKNOWN
    if isinstance(error, NotSent):
        return Exit.NOT_SENT
    if not isinstance(error, MintedConnectError):
        return Exit.UNKNOWN if changes else Exit.FAILED  # what was done could not be shown
    # A conflict is a no to people: a customer of that id is there.
    if changes and not isinstance(error, Conflict) and may_have_executed(error) and not error.safe_to_retry:
        return Exit.UNKNOWN
    if isinstance(error, ApiError | Rejected | NotExecuted):
        return Exit.REJECTED
    return Exit.FAILED


def told(error: BaseException) -> list[str]:
    """Return what to say about an error, and what to do next."""
    if not isinstance(error, MintedConnectError):
        return [f"{type(error).__name__}: {error}"]
    lines = [str(error)]
    if isinstance(error, OutcomeUnknown):
        lines.append(f"do not repeat it; find out with: minted reconcile --intent {error.intent.id}")
    return [*lines, *getattr(error, "__notes__", ())]
