"""Retries: the decision whether and when to retry, without I/O, and the loop, which tenacity runs.

Reads are retried after transient failures. Idempotent changes are retried if the connection dropped, if the server
throttled or failed, and after `ConnectFailed`, which proves that nothing was sent. All other requests are retried only
after `ConnectFailed`. `TLSFailed` is a `ConnectFailed` that is retried only if the server closed the connection without
a reason. `core.call` may still prevent a retry: the retry budget is used up, or the client is closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState

from minted_connect.config import RetryPolicy
from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.core.request import Effect
from minted_connect.errors import (
    APIError,
    ConnectFailed,
    IntegrityError,
    MintedConnectError,
    NotSent,
    Phase,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseTooLarge,
    ServerError,
    TransportError,
    UnexpectedRedirect,
)

__all__ = ["RETRY_COST", "TIMEOUT_COST", "pause_before_retry", "retry_after"]

_T = TypeVar("_T")

RETRY_COST = 5
TIMEOUT_COST = 10

_TWO_ATTEMPTS = 2


def _max_attempts(effect: Effect, error: MintedConnectError, policy: RetryPolicy) -> int:
    """Return the number of attempts that the effect allows after this error; 1 = no retry."""
    if isinstance(error, NotSent):
        may_retry = isinstance(error, ConnectFailed) and error.safe_to_retry
    elif not effect.is_idempotent:
        # No response proves that nothing was executed: a gateway may have forwarded the request before it wrote a 429.
        may_retry = False
    elif isinstance(error, APIError):
        may_retry = isinstance(error, RateLimited | ServerError) or error.status in AMBIGUOUS_STATUSES
    elif isinstance(error, ProtocolError):
        if effect is Effect.READ and not isinstance(error, ResponseTooLarge | UnexpectedRedirect | IntegrityError):
            return min(policy.read_attempts, _TWO_ATTEMPTS)
        may_retry = False
    elif isinstance(error, TransportError):
        # A change whose response is late or truncated may be in progress: it is read back, not repeated.
        may_retry = effect is Effect.READ or (error.phase is Phase.SENT and not isinstance(error, RequestTimeout))
    else:
        may_retry = False
    if not may_retry:
        return 1
    if effect is Effect.READ:
        return policy.read_attempts
    return min(policy.write_attempts, _TWO_ATTEMPTS) if effect is not Effect.IDEMPOTENT else policy.write_attempts


def pause_before_retry(
    effect: Effect,
    error: MintedConnectError,
    attempt: int,
    policy: RetryPolicy,
    *,
    left: float,
    roll: float,
) -> float | None:
    """Return the seconds to wait before a retry, or None if there must be no retry.

    Args:
        effect: Effect of repeating the request.
        error: The error of the failed attempt.
        attempt: Number of the failed attempt, from 1.
        policy: Maximum attempts and waits; a `Retry-After` may exceed `wait_max`.
        left: Seconds until the call's deadline.
        roll: A random number in [0, 1), for full jitter.
    """
    if attempt >= _max_attempts(effect, error, policy):
        return None
    requested = error.retry_after if isinstance(error, RateLimited | ServerError) else None
    # The exponent is limited only to keep the product finite.
    backoff = roll * min(policy.wait_max, policy.wait_initial * 2 ** min(attempt - 1, 32))
    pause = backoff if requested is None else requested
    return pause if pause < left else None


async def retry_after(
    first: MintedConnectError | None,
    attempt: Callable[[], Awaitable[_T]],
    decide: Callable[[MintedConnectError, int], float | None],
    sleep: Callable[[float], Awaitable[None]],
) -> _T:
    """Call `attempt` again after its first call has failed, until it succeeds or `decide` returns None.

    The first attempt is made without this function: tenacity takes as long as the decoding of a response.

    Args:
        first: The error of the first attempt.
        attempt: Makes one attempt.
        decide: Receives the error of an attempt and its number, and returns the pause before a retry or None.
        sleep: Sleeps for this many seconds.

    Raises:
        MintedConnectError: the error of the last attempt, or an error that `decide` raises.
    """
    assert first is not None
    pause = decide(first, 1)
    if pause is None:
        raise first

    async def attempt_or_raise_first() -> _T:
        nonlocal first
        if first is not None:
            error, first = first, None
            raise error
        return await attempt()

    def has_pause(state: RetryCallState) -> bool:
        nonlocal pause
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, MintedConnectError):
            return False
        if state.attempt_number > 1:
            pause = decide(error, state.attempt_number)
        return pause is not None

    # One controller per call: tasks that share a controller mix up their attempts.
    controller = AsyncRetrying(sleep=sleep, retry=has_pause, wait=lambda _: pause or 0.0)
    return await controller(attempt_or_raise_first)
