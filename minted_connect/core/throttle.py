"""Client-side throttling: retry budget, rate limiter and circuit breaker.

A client shares them with the clients made by its `with_options`. They need no locks: all calls run on the event loop of
the client, and each update of the state is complete before the next await.
"""

from __future__ import annotations

import asyncio

import attrs

from minted_connect.clock import Clock
from minted_connect.config import BreakerPolicy, RateLimit
from minted_connect.errors import CircuitOpen, LimiterTimeout

__all__ = ["CircuitBreaker", "RateLimiter", "RetryBudget"]


@attrs.define
class RetryBudget:
    """Tokens for retries: they run out when most calls fail, so that retries do not overload a failing server."""

    capacity: int
    tokens: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.capacity

    def take(self, cost: int) -> bool:
        """Take `cost` tokens and return True; return False and take nothing if fewer are left."""
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def refund(self) -> None:
        """Put one token back, after a call that succeeded at its first attempt."""
        if self.tokens < self.capacity:
            self.tokens += 1


class RateLimiter:
    """Token bucket: `rate` requests per second on average, bursts of `burst`, in order of arrival."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self._clock = clock
        self._gap = 1 / limit.rate
        self._slack = self._gap * (limit.burst - 1)
        # Theoretical arrival time of the next request (GCRA): one number in place of a bucket and a queue.
        self._due = clock.monotonic()

    async def wait(self, left: float) -> None:
        """Wait until the rate limit allows a request, at most `left` seconds.

        Raises:
            LimiterTimeout: at once, if the wait would be longer; the call then takes no token.
        """
        now = self._clock.monotonic()
        due = max(self._due, now)
        pause = due - self._slack - now
        if pause > left:
            raise LimiterTimeout(f"the rate limit allows this call in {pause:.1f} s, after its deadline")
        self._due = due + self._gap
        if pause > 0:
            try:
                await self._clock.sleep(pause)
            except asyncio.CancelledError:
                # A cancelled call returns its token, so that later calls do not wait for it.
                self._due -= self._gap
                raise


class CircuitBreaker:
    """Refuses calls for a while after too many failures in a row, then lets a single probe through."""

    def __init__(self, policy: BreakerPolicy, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    def enter(self) -> bool:
        """Let an attempt pass, and return whether it is the probe.

        Raises:
            CircuitOpen: if the breaker is open, or its probe is in flight.
        """
        if self._open_until is None:
            return False
        left = self._open_until - self._clock.monotonic()
        if left > 0 or self._is_probing:
            raise CircuitOpen(f"the server failed {self._failures} times in a row; next try in {max(left, 0):.1f} s")
        self._is_probing = True
        return True

    def leave(self, *, probe: bool, failed: bool | None) -> None:
        """Record the result of an attempt that `enter` let pass.

        Args:
            probe: Whether the attempt was the probe.
            failed: Whether the server failed. None counts neither for nor against the server, as after a cancellation.
        """
        if probe:
            self._is_probing = False
        if failed is None:
            return
        if not failed:
            self._failures, self._open_until = 0, None
            return
        self._failures += 1
        if self._failures >= self._policy.failures:
            self._open_until = self._clock.monotonic() + self._policy.cooldown
