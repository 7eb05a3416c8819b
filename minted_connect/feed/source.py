"""The source of a feed's rounds: the interface, and the one that polls in this process."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Protocol

from minted_connect.clock import Clock
from minted_connect.errors import MintedConnectError
from minted_connect.feed.hub import Hub
from minted_connect.feed.poller import Poller
from minted_connect.feed.tick import OVERDUE_INTERVALS, Round
from minted_connect.models.rate import Rate

__all__ = ["LocalSource", "Source"]


class Source(Protocol):
    """Publishes rounds to a feed's hub. A source runs at most once."""

    @property
    def failures(self) -> int:
        """Number of polls failed since the feed was opened."""
        ...

    @property
    def last_error(self) -> MintedConnectError | None:
        """Error of the latest poll; None if it succeeded."""
        ...

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker is open."""
        ...

    async def open(self) -> None:
        """Acquire the resources that `run` needs.

        Raises:
            MintedConnectError: if they are not available.
        """
        ...

    async def aclose(self) -> None:
        """Release resources, also if `run` was never called. Idempotent."""
        ...

    async def acquire(self) -> None:
        """Wait until the rate limit that the source shares with others permits a request."""
        ...

    def replay(self, number: int, at: datetime, /) -> AsyncGenerator[list[Round], None]:
        """Yield the rounds after the one with this number and time, if the source stores them, in batches.

        Raises:
            MintedConnectError: if the feed was closed before the last batch.
        """
        ...

    async def run(self, hub: Hub) -> None:
        """Publish rounds until cancelled.

        Raises:
            MintedConnectError: if another poll cannot fix the error.
        """
        ...


class LocalSource:
    """Polls in this process, and publishes what each poll returned.

    Args:
        poller: polls the server.
        clock: source of the time.
    """

    def __init__(self, poller: Poller, *, clock: Clock) -> None:
        self._poller = poller
        self._clock = clock
        self._last_good_at = math.inf  # monotonic seconds of the last successful poll

    @property
    def failures(self) -> int:
        """Number of polls failed since the feed was opened."""
        return self._poller.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """Error of the latest poll; None if it succeeded."""
        return self._poller.last_error

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker is open."""
        return self._poller.is_breaker_open

    async def open(self) -> None:
        """Do nothing: the poller needs no resources."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def acquire(self) -> None:
        """Do nothing: the client applies its rate limit itself."""

    async def replay(self, _number: int, _at: datetime, /) -> AsyncGenerator[list[Round], None]:
        """Yield nothing: no earlier round is stored."""
        return
        yield

    async def run(self, hub: Hub) -> None:
        """Poll and publish until cancelled.

        Raises:
            MintedConnectError: if another poll cannot fix the error.
        """
        while True:
            hub.set_overdue_alarm(self._clock.monotonic(), self._poller.interval)
            result = await self._poller.poll()
            hub.publish(self._round(result.rates))
            hub.next_poll_at = result.next_poll_at
            await self._clock.sleep(max(0.0, result.next_poll_at - self._clock.monotonic()))
            hub.next_poll_at = -math.inf

    def _round(self, rates: tuple[Rate, ...]) -> Round:
        now, gap = self._clock.monotonic(), 0.0
        if rates:
            elapsed = now - self._last_good_at
            gap = elapsed if elapsed > OVERDUE_INTERVALS * self._poller.interval else 0.0
            self._last_good_at = now
        return Round(rates, self._poller.polls, self._clock.wall(), now, gap)
