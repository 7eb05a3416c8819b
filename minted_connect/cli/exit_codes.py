"""Exit codes of `minted`."""

from __future__ import annotations

import enum

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

__all__ = ["ExitCode", "exit_code_for"]


class ExitCode(enum.IntEnum):
    """The exit codes of `minted`."""

    SUCCESS = 0
    """The command succeeded and printed its result (of a purchase: on standard output or standard error)."""
    FAILED = 1
    """A read timed out, a response is not usable, a file cannot be written, or the user answered no."""
    USAGE = 2
    """Invalid arguments, options or configuration. Nothing was changed."""
    REJECTED = 3
    """The server responded with an error, or the purchase was proven not to have been executed.

    It is also the code of a plan of which a reference was not bought, and of an audit with findings.
    """
    NOT_SENT = 4
    """Nothing was sent: no connection, or the total differs from the expected one.

    It is also the code of an audit that could not read a journal or the orders.
    """
    UNKNOWN = 75
    """The change may have been made, or was made and could not be reported: check before you repeat it.

    This is `EX_TEMPFAIL` of sysexits.h. It is also the code of a purchase that a signal ended after it was sent, and of
    a reference that another call may be buying.
    """
    INTERRUPTED = 130
    """Ctrl-C, and no purchase was sent. SIGTERM exits with 143 and SIGHUP with 129: 128 plus the signal's number."""


def exit_code_for(error: BaseException, *, changes: bool) -> ExitCode:
    """Return the exit code for the error of a command. `changes` says whether the command does more than read."""
    if isinstance(error, ConfigurationError | InvalidInput):
        return ExitCode.USAGE
    if isinstance(error, OutcomeUnknown | OrderUnreadable):
        return ExitCode.UNKNOWN
    if isinstance(error, NotSent):
        return ExitCode.NOT_SENT
    if not isinstance(error, MintedConnectError):
        return ExitCode.UNKNOWN if changes else ExitCode.FAILED  # the result of a change could not be printed
    # `may_have_executed` counts a 409 as ambiguous. For a user it is a refusal: the object exists already.
    if changes and not isinstance(error, Conflict) and may_have_executed(error) and not error.safe_to_retry:
        return ExitCode.UNKNOWN
    if isinstance(error, APIError | CompletionRejected | NotExecuted):
        return ExitCode.REJECTED
    return ExitCode.FAILED
