"""Classifies the failure of a completion: one pure function of the error and the phase the request had reached."""

from __future__ import annotations

import enum
from collections.abc import Collection
from http import HTTPStatus

from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.errors import APIError, AuthenticationFailed, NotSent, Phase, ProtocolError, TransportError

__all__ = ["FailureClass", "classify"]


class FailureClass(enum.Enum):
    """The meaning of a failure for the purchase."""

    NOT_SENT = "not sent"
    """Provably nothing reached the server."""
    REFUSED = "refused"
    """The server refused it before doing anything: its own Digest challenge to a correct signature."""
    CONFIRM_ONCE = "confirm once"
    """Refused in the vendor's envelope with a status that is trusted: one look confirms it."""
    CONFIRM_LATER = "confirm later"
    """Refused with any other response, which proves nothing: confirmed by looks that last for the settle time."""
    UNKNOWN = "unknown"
    """It may have happened."""


def classify(error: Exception, phase: Phase, refusals: Collection[int]) -> FailureClass:
    """Return the meaning of the failure of the one sending; UNKNOWN unless something else is certain.

    Args:
        error: The exception that the sending raised.
        phase: How far the request got, for errors that do not say it.
        refusals: Statuses that one look confirms, in the vendor's envelope (`CompletionPolicy.refusals`).

    See the guide money-safety.md, "When a refusal is believed".
    """
    if isinstance(error, NotSent):
        return FailureClass.NOT_SENT
    if isinstance(error, APIError):
        return _classify_response(error, refusals)
    if isinstance(error, TransportError):
        phase = error.phase
    # A protocol error is about a response, so something was sent, also if the phase says otherwise.
    return (
        FailureClass.NOT_SENT
        if phase is Phase.NOT_SENT and not isinstance(error, ProtocolError)
        else FailureClass.UNKNOWN
    )


def _classify_response(error: APIError, refusals: Collection[int]) -> FailureClass:
    if error.after_unknown or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status in AMBIGUOUS_STATUSES:
        return FailureClass.UNKNOWN
    if isinstance(error, AuthenticationFailed) and error.refused_digest:
        return FailureClass.REFUSED
    if error.status in refusals and error.is_vendor_response:
        return FailureClass.CONFIRM_ONCE
    return FailureClass.CONFIRM_LATER
