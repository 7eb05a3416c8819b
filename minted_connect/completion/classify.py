"""Classifies the failure of a completion by the error and the phase that the request had reached. No I/O.

For `CONFIRM_ONCE` and `CONFIRM_LATER`, `ReadBack` collects evidence and `verdict` decides. `execution` acts on the
class: for `UNKNOWN` with `outcome_unknown`, which marks the outcome as unknown.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from http import HTTPStatus

from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.errors import APIError, AuthenticationFailed, NotSent, Phase, ProtocolError, TransportError

__all__ = ["FailureClass", "classify"]


class FailureClass(enum.Enum):
    """The class of a failed completion."""

    NOT_SENT = "not sent"
    """Provably nothing reached the server."""
    REFUSED = "refused"
    """The server refused before executing anything: it challenged a request with a correct digest."""
    CONFIRM_ONCE = "confirm once"
    """Refused in the vendor's envelope with a trusted status: one read-back confirms it."""
    CONFIRM_LATER = "confirm later"
    """Refused with any other response, which proves nothing: a read-back after the settle time confirms it."""
    UNKNOWN = "unknown"
    """The completion may have been executed."""


def classify(error: Exception, phase: Phase, refusals: Collection[int]) -> FailureClass:
    """Classify the failure of a completion; UNKNOWN unless something else is certain.

    Args:
        error: The exception that the request raised.
        phase: The phase that the request had reached, for errors without a phase.
        refusals: Statuses that one read-back confirms in the vendor's envelope (`CompletionPolicy.refusals`).

    See the guide money-safety.md, "When a refusal is believed".
    """
    if isinstance(error, NotSent):
        return FailureClass.NOT_SENT
    if isinstance(error, APIError):
        return _classify_response(error, refusals)
    if isinstance(error, TransportError):
        phase = error.phase
    # A protocol error is raised for a response, so the request was sent, even if the phase is NOT_SENT.
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
