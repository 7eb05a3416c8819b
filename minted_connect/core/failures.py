"""The meaning of a failure: may the request have been executed, and can the same request succeed later? No I/O."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from minted_connect.errors import (
    AMBIGUOUS_STATUSES,
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

__all__ = ["AMBIGUOUS_STATUSES", "attach_request", "is_transient", "may_have_executed", "needs_read_back"]

_E = TypeVar("_E", bound=MintedConnectError)


def attach_request(error: _E, request: RequestInfo, *, attempts: int = 1, elapsed: float = 0.0) -> _E:
    """Attach the failed request to an error, put its method and route in front of the text, and return the error."""
    if error.request is None:
        error.request = request
        error.reason = f"{request.method} {request.route}: {error.reason}"
    error.attempts, error.elapsed = attempts, elapsed
    return error


def may_have_executed(error: MintedConnectError) -> bool:
    """Return whether the server may have executed the request that failed with `error`.

    A response is no proof that nothing happened: the balancer or gateway that wrote it may have passed the request on.
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
    """Return whether the state must be read before a change that failed with `error` is given up."""
    if isinstance(error, IntegrityError):
        return False  # the caller must see the alarm; a read would hide it
    if not isinstance(error, APIError):
        return may_have_executed(error)
    if error.after_unknown:
        # A refusal of the second attempt can mean that the first one did the work.
        return not isinstance(error, AuthenticationFailed | PermissionDenied | RateLimited)
    if may_have_executed(error):
        return True
    is_addition = error.request is not None and error.request.effect is Effect.NON_IDEMPOTENT
    is_client_error = error.status // 100 == 4  # noqa: PLR2004 - the class of statuses
    return is_addition and is_client_error and not isinstance(error, AuthenticationFailed | NotFound | ValidationFailed)


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
