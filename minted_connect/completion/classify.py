"""What a failed completion means for the money: one pure function over the error and the phase it struck in."""

from __future__ import annotations

import enum
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from minted_connect.errors import (
    ApiError,
    AuthenticationFailed,
    NotSent,
    Phase,
    ProtocolError,
    TransportError,
)

__all__ = ["Fate", "classify"]

_MAY_HAVE_RUN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})


class Fate(enum.Enum):
    """What a failure says about the purchase."""

    NOT_SENT = "not sent"
    """Provably nothing reached the server."""
    REFUSED = "refused"
    """The server said no before doing anything."""
    READ_BACK = "read back"
    """The server said no in words that do not prove it: look once before believing it."""
    UNKNOWN = "unknown"
    """It may have happened."""


def classify(error: Exception, phase: Phase, refusals: Collection[int]) -> Fate:
    """Return what the failure of the one sending says; UNKNOWN unless it proves something.

    Args:
        error: What the sending raised.
        phase: How far the request got, for errors that do not tell by themselves.
        refusals: Statuses that prove, in the vendor's envelope, that nothing happened (`CompletionPolicy.refusals`).
    """
    if isinstance(error, NotSent):
        return Fate.NOT_SENT
    if isinstance(error, ApiError):
        return _answered(error, refusals)
    if isinstance(error, TransportError):
        phase = error.phase
    # A protocol error is about an answer, so something was sent whatever the phase says.
    return Fate.NOT_SENT if phase is Phase.NOT_SENT and not isinstance(error, ProtocolError) else Fate.UNKNOWN


def _answered(error: ApiError, refusals: Collection[int]) -> Fate:
    if error.after_unknown:
        # A no to the second try may be the echo of a yes to the first.
        return Fate.UNKNOWN
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status in _MAY_HAVE_RUN:
        return Fate.UNKNOWN
    if isinstance(error, AuthenticationFailed):
        return Fate.REFUSED
    # Only the vendor's own envelope proves that it was not a proxy speaking.
    if error.status in refusals and error.code is not None:
        return Fate.REFUSED
    return Fate.READ_BACK
