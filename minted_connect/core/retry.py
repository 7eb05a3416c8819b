"""Whether to try again, and when: one pure decision, carried out by tenacity only once something failed.

The decision follows the fault matrix: reads are repeated; a call whose repetition changes nothing is repeated when
the connection dropped or the server said it failed; everything else is repeated only when provably nothing happened.
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
    TLSFailed,
    TransportError,
    UnexpectedRedirect,
)

__all__ = ["RETRY_COST", "TIMEOUT_COST", "pause_before_retry", "with_retries"]

_T = TypeVar("_T")

RETRY_COST = 5
TIMEOUT_COST = 10

_ONCE_MORE = 2


def _attempts(effect: Effect, error: MintedConnectError, policy: RetryPolicy) -> int:
    """Return how many attempts this effect allows after this error; 1 = none but the first."""
    if isinstance(error, NotSent):
        again = isinstance(error, ConnectFailed) and not isinstance(error, TLSFailed)
    elif effect in {Effect.NON_IDEMPOTENT, Effect.COMPLETE}:
        # No response proves that nothing was done: a gateway may have passed the request on before it wrote a 429.
        again = False
    elif isinstance(error, APIError):
        again = isinstance(error, RateLimited | ServerError) or error.status in AMBIGUOUS_STATUSES
    elif isinstance(error, ProtocolError):
        if effect is Effect.READ and not isinstance(error, ResponseTooLarge | UnexpectedRedirect | IntegrityError):
            return min(policy.read_attempts, _ONCE_MORE)
        again = False
    elif isinstance(error, TransportError):
        # A change whose answer is late or cut short may be under way: it is read back, not repeated.
        again = effect is Effect.READ or (error.phase is Phase.SENT and not isinstance(error, RequestTimeout))
    else:
        again = False
    if not again:
        return 1
    if effect is Effect.READ:
        return policy.read_attempts
    return min(policy.write_attempts, _ONCE_MORE) if effect is not Effect.IDEMPOTENT else policy.write_attempts


def pause_before_retry(
    effect: Effect,
    error: MintedConnectError,
    attempt: int,
    policy: RetryPolicy,
    *,
    left: float,
    roll: float,
) -> float | None:
    """Decide on another attempt: the seconds to wait before it, or None for no more.

    Args:
        effect: What repeating the request does.
        error: How attempt number `attempt` (from 1) failed.
        attempt: Number of the attempt that failed.
        policy: How often and how patiently.
        left: Seconds until the call's deadline.
        roll: A random number in [0, 1), for full jitter.
    """
    if attempt >= _attempts(effect, error, policy):
        return None
    asked = error.retry_after if isinstance(error, RateLimited | ServerError) else None
    # The exponent is capped only to keep the float finite; `maximum` is reached long before.
    pause = roll * min(policy.wait_max, policy.wait_initial * 2 ** min(attempt - 1, 32)) if asked is None else asked
    return pause if pause < left else None


async def with_retries(
    attempt: Callable[[], Awaitable[_T]],
    decide: Callable[[MintedConnectError, int], float | None],
    sleep: Callable[[float], Awaitable[None]],
) -> _T:
    """Return what `attempt` returns; after a failure, as long as `decide` gives a pause, pause and try again."""
    # Bare first attempt: tenacity's machinery costs as much as decoding the answer.
    try:
        return await attempt()
    except MintedConnectError as error:
        first: MintedConnectError | None = error
        pause = decide(error, 1)
        if pause is None:
            raise

    async def again() -> _T:
        nonlocal first
        if first is not None:
            error, first = first, None
            raise error
        return await attempt()

    def wanted(state: RetryCallState) -> bool:
        nonlocal pause
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, MintedConnectError):
            return False
        if state.attempt_number > 1:
            pause = decide(error, state.attempt_number)
        return pause is not None

    # A fresh controller each time: sharing one between tasks mixes up their attempts.
    controller = AsyncRetrying(sleep=sleep, retry=wanted, wait=lambda _: pause or 0.0)
    return await controller(again)
