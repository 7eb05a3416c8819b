"""Classification of failures, without I/O.

Decides whether the request may have been executed, whether and when to read the state back, and whether the failure is
transient.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, TypeVar

from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    Effect,
    IntegrityError,
    MintedConnectError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestInfo,
    ServerError,
    TransportError,
    ValidationFailed,
)
from minted_connect.request_info import AMBIGUOUS_STATUSES

__all__ = [
    "AMBIGUOUS_STATUSES",
    "attach_request",
    "is_transient",
    "may_have_executed",
    "needs_read_back",
    "read_back_offsets",
]

_E = TypeVar("_E", bound=MintedConnectError)

_READ_BACK_FRACTIONS: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Fractions of the settle time at which to read. Only the last read can confirm a refusal; the earlier ones find an
order sooner."""


def attach_request(error: _E, request: RequestInfo, *, attempts: int = 1, elapsed: float = 0.0) -> _E:
    """Attach the failed request to an error, prefix the text with its method and route, and return the error.

    An error that has a request already keeps its request and text; `attempts` and `elapsed` are set in any case.
    """
    if error.request is None:
        error.request = request
        error.reason = f"{request}: {error.reason}"
    error.attempts, error.elapsed = attempts, elapsed
    return error


def may_have_executed(error: MintedConnectError) -> bool:
    """Return whether the request that failed with `error` counts as possibly executed.

    Any response to a completion counts, except a rejected digest: a gateway may have forwarded the request before it
    wrote the response. For other changes `needs_read_back` is stricter.
    """
    effect = error.request.effect if error.request else None
    if effect is Effect.READ:
        return False
    if not isinstance(error, APIError):
        return isinstance(error, TransportError | ProtocolError)
    if effect is Effect.COMPLETE:
        return not (error.is_confirmed or (isinstance(error, AuthenticationFailed) and error.refused_digest))
    if isinstance(error, ServerError) or error.status in AMBIGUOUS_STATUSES | {HTTPStatus.CONFLICT}:
        return True
    return effect is Effect.NON_IDEMPOTENT and isinstance(error, RateLimited)


def needs_read_back(error: MintedConnectError) -> bool:
    """Return whether the state must be read back before a change that failed with `error` counts as failed."""
    if isinstance(error, IntegrityError):
        return False  # the caller must see this error; a successful read would hide it
    if not isinstance(error, APIError):
        return may_have_executed(error)
    if error.after_unknown:
        # A refusal of a later attempt can mean that an earlier attempt was executed.
        return not isinstance(error, AuthenticationFailed | PermissionDenied | RateLimited)
    if may_have_executed(error):
        return True
    if error.request is None or error.request.effect is not Effect.NON_IDEMPOTENT:
        return False
    is_4xx = error.status // 100 == 4  # noqa: PLR2004
    return is_4xx and not isinstance(error, AuthenticationFailed | NotFound | ValidationFailed)


def is_transient(error: MintedConnectError) -> bool:
    """Return whether a read that failed with `error` may succeed when it is repeated later."""
    if isinstance(error, IntegrityError):
        return False
    if isinstance(error, NotFound):
        # A 404 without the vendor's envelope may come from a gateway and says nothing about the object.
        return error.status == HTTPStatus.NOT_FOUND and not error.is_vendor_response
    if isinstance(error, APIError) and error.status in AMBIGUOUS_STATUSES:
        return True
    return error.safe_to_retry or isinstance(error, RateLimited | ServerError | TransportError | ProtocolError)


def read_back_offsets(settle_time: float, not_before: float = 0.0) -> tuple[float, ...]:
    """Return the seconds after a response at which to read: at most five, the last at or after the settle time.

    Args:
        settle_time: Seconds within which a change that the response did not report is executed and visible to reads.
        not_before: Seconds that the server asked to wait (`Retry-After`).
    """
    return tuple(sorted({max(not_before, fraction * settle_time) for fraction in _READ_BACK_FRACTIONS}))
