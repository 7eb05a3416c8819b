"""The one task of a feed that asks the server: when it asks, what a failure means, how long it waits after one."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final

import attrs

from minted_connect import validation
from minted_connect.clock import alarm
from minted_connect.config import FEED_BREAKER, BreakerPolicy, Clock
from minted_connect.core.failures import AMBIGUOUS_STATUSES
from minted_connect.errors import (
    APIError,
    ClientClosedError,
    ConfigurationError,
    InvalidInput,
    MintedConnectError,
    RateLimited,
    ServerError,
)
from minted_connect.feed.hub import Hub
from minted_connect.feed.tick import Round
from minted_connect.models.rate import Rate
from minted_connect.validation import check_type

__all__ = ["UNSEEN", "Polled", "Poller", "gap_of"]

_log = logging.getLogger("minted_connect.feed")

_HOPELESS: Final = (ClientClosedError, ConfigurationError, InvalidInput)
"""Failures that polling again cannot mend: they end the feed, as a programming error does."""

_PASSING: Final = AMBIGUOUS_STATUSES | {HTTPStatus.TOO_MANY_REQUESTS}
"""The refusals that another poll may not meet again; wrong credentials and the other 4xx stay what they are."""

_MOST_DOUBLINGS: Final = 32
"""Keeps 2**n a finite float in an outage of any length."""

UNSEEN: Final = 2
"""Intervals without a good round after which prices went unseen, and a poll under way is overdue."""


@attrs.frozen
class Polled:
    """What one poll brought."""

    rates: tuple[Rate, ...]
    """Empty if it failed."""
    due: float
    """When the next one is to start, in monotonic seconds of the poller's clock."""


class Poller:
    """Asks for the rates, one poll at a time.

    Args:
        fetch: gets the rates once; never called twice at a time.
        interval: seconds between the starts of two polls, on average.
        clock: where time comes from.
        random: source of jitter, in [0, 1).
        jitter: how far each wait may differ from `interval`, as a fraction of it, so that many processes
            started together do not poll together; 0 to below 1.
        max_backoff: longest wait after failures in seconds, unless `interval` or the breaker's cooldown is longer or
            the server asks for more. Waits are drawn evenly from `interval` to `interval` * 2^failures: never sooner
            than without a failure.
        breaker: after so many failures in a row, single probes at least `cooldown` seconds apart; None for none.

    Raises:
        InvalidInput: `interval`, `jitter` or `max_backoff` is out of range.
        ConfigurationError: `breaker` is something else.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Iterable[Rate]]],
        *,
        interval: float,
        clock: Clock,
        random: Callable[[], float],
        jitter: float = 0.1,
        max_backoff: float = 60.0,
        breaker: BreakerPolicy | None = FEED_BREAKER,
    ) -> None:
        if not _is_number(jitter) or not 0 <= jitter < 1:
            raise InvalidInput.of("jitter", "must be a number from 0 to below 1")
        check_type("breaker", breaker, BreakerPolicy, optional=True)
        self._fetch = fetch
        self.interval: float = validation.seconds("interval", interval)
        self._max_backoff = validation.seconds("max_backoff", max_backoff)
        self._jitter = jitter
        self._clock = clock
        self._random = random
        self._breaker = breaker
        self._number = 0
        self._good_at = math.inf  # when the last good round came
        self._outage = 0  # failed polls since then
        self.failures: int = 0
        self.last_error: MintedConnectError | None = None

    @property
    def is_open(self) -> bool:
        """Whether so many polls failed in a row that the breaker holds back all but single probes."""
        return self._breaker is not None and self._outage >= self._breaker.failures

    async def open(self) -> None:
        """Do nothing: there is nothing to share."""

    async def aclose(self) -> None:
        """Do nothing."""

    async def turn(self) -> None:
        """Do nothing: the client's own rate limit holds."""

    async def run(self, hub: Hub) -> None:
        """Poll until cancelled, or until something goes wrong that polling again cannot mend, which is raised."""
        while True:
            overdue = alarm(self._clock, UNSEEN * self.interval, lambda: hub.publish(self._round(())))
            try:
                polled = await self.poll()
            finally:
                overdue.cancel()
            hub.publish(self._round(polled.rates))
            hub.due = polled.due
            await self._clock.sleep(max(0.0, polled.due - self._clock.monotonic()))
            hub.due = -math.inf

    async def poll(self) -> Polled:
        """Poll once.

        Raises:
            MintedConnectError: one that polling again cannot mend; any other is logged, counted and waited for.
        """
        started = self._clock.monotonic()
        self._number += 1
        try:
            rates = tuple(await self._fetch())
        except MintedConnectError as error:
            if _hopeless(error):
                raise
            return Polled((), self._clock.monotonic() + self._fail(error))
        self._recover()
        return Polled(rates, started + self.interval * (1 + self._jitter * (2 * self._random() - 1)))

    def _round(self, rates: tuple[Rate, ...]) -> Round:
        now, gap = self._clock.monotonic(), 0.0
        if rates:
            gap = gap_of(now - self._good_at, self.interval)
            self._good_at = now
        return Round(rates, self._number, self._clock.wall(), now, gap)

    def _fail(self, error: MintedConnectError) -> float:
        """Count a failed poll; return the seconds to wait."""
        if self.last_error is None:
            _log.warning("rates are stale until a poll succeeds again: %s: %s", type(error).__name__, error)
        self.last_error = error
        self.failures += 1
        self._outage += 1
        longest = min(self.interval * 2.0 ** min(self._outage, _MOST_DOUBLINGS), self._max_backoff)
        wait = self.interval + self._random() * max(0.0, longest - self.interval)
        if self._breaker is not None and self.is_open:
            wait = max(wait, self._breaker.cooldown)
        asked = error.retry_after if isinstance(error, RateLimited | ServerError) else None
        return max(wait, asked or 0.0)

    def _recover(self) -> None:
        if self.last_error is not None:
            _log.info("rates are fresh again after %d failed polls", self._outage)
        self.last_error = None
        self._outage = 0


def gap_of(since: float, interval: float) -> float:
    """Return the seconds since the last good round if they are so many that prices went unseen, or 0."""
    return since if since > UNSEEN * interval else 0.0


def _hopeless(error: MintedConnectError) -> bool:
    if isinstance(error, APIError):
        return error.status // 100 == 4 and error.status not in _PASSING  # noqa: PLR2004 - as statuses are spoken of
    return isinstance(error, _HOPELESS)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
