"""What a client holds itself back with: retry budget, rate limiter, circuit breaker; all shared by its siblings.

None of them does I/O or locks: every method runs in one step on the client's event loop.
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
    """Tokens for retries: they run out when most calls fail, so that a sick server is not beaten with retries."""

    capacity: int
    tokens: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.capacity

    def take(self, cost: int) -> bool:
        """Take `cost` tokens and return True, or return False and take none."""
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def refund(self) -> None:
        """Put one token back: a call went well at its first attempt."""
        if self.tokens < self.capacity:
            self.tokens += 1


class RateLimiter:
    """Token bucket: `rate` requests a second on average, `burst` at once; callers are served in order of arrival."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self._clock = clock
        self._gap = 1 / limit.rate
        self._slack = self._gap * (limit.burst - 1)
        # When the next request is due if the bucket is empty (GCRA): one number instead of a bucket and a queue.
        self._due = clock.monotonic()

    async def wait(self, left: float) -> None:
        """Wait for this call's turn, at most `left` seconds.

        Raises:
            LimiterTimeout: the turn comes later than that; nothing was waited and no turn was taken.
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
                # Who gives up gives the turn back, or those who come later wait for nobody.
                self._due -= self._gap
                raise


class CircuitBreaker:
    """Refuses calls for a while after too many failures in a row, then lets a single probe through."""

    def __init__(self, settings: BreakerPolicy, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    def enter(self) -> bool:
        """Let an attempt pass, and return whether it is the probe.

        Raises:
            CircuitOpen: the breaker is open, or its one probe is under way.
        """
        if self._open_until is None:
            return False
        left = self._open_until - self._clock.monotonic()
        if left > 0 or self._probing:
            raise CircuitOpen(f"the server failed {self._failures} times in a row; next try in {max(left, 0):.1f} s")
        self._probing = True
        return True

    def leave(self, *, probe: bool, failed: bool | None) -> None:
        """Note how an attempt that was let pass went; `failed=None` (cancelled) says nothing about the server."""
        if probe:
            self._probing = False
        if failed is None:
            return
        if not failed:
            self._failures, self._open_until = 0, None
            return
        self._failures += 1
        if self._failures >= self._settings.failures:
            self._open_until = self._clock.monotonic() + self._settings.cooldown
