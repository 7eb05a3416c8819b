"""How a command ended: its exit code, and one line that says why."""

from __future__ import annotations

import enum

from minted_connect.completion.interruption import intent_of
from minted_connect.core.failures import may_have_executed
from minted_connect.errors import (
    APIError,
    CompletionRejected,
    ConfigurationError,
    Conflict,
    InvalidInput,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OrderUnreadable,
    OutcomeUnknown,
)
from minted_connect.journal.protocol import OPEN
from minted_connect.models import Intent

__all__ = ["Exit", "describe_interruption", "exit_of", "told"]


class Exit(enum.IntEnum):
    """The exit codes of `minted`."""

    DONE = 0
    """It was carried out, and standard output has the result. A purchase ends so too if only standard error has it."""
    FAILED = 1
    """No connection to read over, an answer that cannot be trusted, a file that cannot be written."""
    USAGE = 2
    """Wrong arguments, options or configuration; nothing was sent."""
    REJECTED = 3
    """The server said no, or the purchase provably did not happen."""
    NOT_SENT = 4
    """Nothing was sent: no connection, another price than agreed."""
    UNKNOWN = 75
    """It may have happened, or has and could not be shown: look before repeating it (`EX_TEMPFAIL` of sysexits.h).

    A signal that ends a purchase after it was sent ends so too.
    """
    INTERRUPTED = 130
    """Ctrl-C; no purchase was sent. SIGTERM ends with 143 and SIGHUP with 129: 128 and the number of the signal."""


def exit_of(error: BaseException, *, changes: bool) -> Exit:
    """Return the exit code for an error of a command; `changes` = it does more than read."""
    if isinstance(error, ConfigurationError | InvalidInput):
        return Exit.USAGE
    if isinstance(error, OutcomeUnknown | OrderUnreadable):
        return Exit.UNKNOWN
    if isinstance(error, NotSent):
        return Exit.NOT_SENT
    if not isinstance(error, MintedConnectError):
        return Exit.UNKNOWN if changes else Exit.FAILED  # what was done could not be shown
    # A conflict is a no to people: a customer of that id is there.
    if changes and not isinstance(error, Conflict) and may_have_executed(error) and not error.safe_to_retry:
        return Exit.UNKNOWN
    if isinstance(error, APIError | CompletionRejected | NotExecuted):
        return Exit.REJECTED
    return Exit.FAILED


def told(error: BaseException) -> list[str]:
    """Return what to say about an error, and what to do next."""
    if not isinstance(error, MintedConnectError):
        return [f"{type(error).__name__}: {error}"]
    lines = [str(error)]
    if isinstance(error, OutcomeUnknown):
        lines.append(_next_step(error.intent))
    return [*lines, *getattr(error, "__notes__", ())]


def describe_interruption(error: BaseException | None) -> list[str]:
    """Return the lines about the purchase that a signal interrupted, and the next step; empty if nothing was sent."""
    intent = None if error is None else intent_of(error)
    if intent is None:
        return []
    lines = [note for note in getattr(error, "__notes__", ()) if intent.id in note]
    if intent.state in OPEN:
        lines = [*(lines or [f"intent {intent.id} may have been carried out"]), _next_step(intent)]
    return lines


def _next_step(intent: Intent) -> str:
    return f"do not repeat it; find out with: minted reconcile --intent {intent.id}"
