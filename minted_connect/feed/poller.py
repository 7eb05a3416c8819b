"""Polls the server for rates, and decides after each poll when the next one starts.

`source.LocalSource` runs it in a loop; in a fleet, the leader's `fleet.member` does. `hub` sends the rates to all
subscribers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final

import attrs

from minted_connect import validation
from minted_connect.clock import Clock
from minted_connect.config import FEED_BREAKER, BreakerPolicy
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
from minted_connect.models.rate import Rate
from minted_connect.validation import check_type

__all__ = ["PollResult", "Poller"]

_log = logging.getLogger("minted_connect.feed")

_FATAL: Final = (ClientClosedError, ConfigurationError, InvalidInput)
"""Errors that another poll cannot fix: they end the feed, as a programming error does."""

_TRANSIENT_STATUSES: Final = AMBIGUOUS_STATUSES | {HTTPStatus.TOO_MANY_REQUESTS}
"""The 4xx statuses after which the feed polls again; all others, wrong credentials among them, end it."""

_MAX_DOUBLINGS: Final = 32
"""Keeps the wait a finite float, however long the outage lasts."""


@attrs.frozen
class PollResult:
    """The result of one poll."""

    rates: tuple[Rate, ...]
    """Empty if the poll failed."""
    next_poll_at: float
    """Monotonic seconds of the poller's clock when the next poll is due."""


class Poller:
    """Fetches the rates, one poll at a time.

    Args:
        fetch: returns the rates; never called again before it has returned.
        interval: seconds between the starts of two polls, on average.
        clock: source of the time.
        random: source of jitter, in [0, 1).
        jitter: maximum deviation of each wait from `interval`, as a fraction of it from 0 to below 1, so that
            processes that were started together do not poll together.
        max_backoff: longest wait after failed polls in seconds, unless `interval`, the breaker's cooldown or a
            `Retry-After` of the server is longer. After n failures in a row, the wait is random between `interval` and
            `interval` * 2^n.
        breaker: after `breaker.failures` failures in a row, polls are at least `breaker.cooldown` seconds apart. None
            disables it.

    Raises:
        InvalidInput: if `interval`, `jitter` or `max_backoff` is out of range.
        ConfigurationError: if `breaker` is neither a `BreakerPolicy` nor None.
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
        self._consecutive_failures = 0
        self.polls: int = 0
        """Number of polls started."""
        self.failures: int = 0
        """Number of polls failed."""
        self.last_error: MintedConnectError | None = None
        """Error of the latest poll; None if it succeeded."""

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker is open: at least `breaker.failures` polls failed in a row."""
        return self._breaker is not None and self._consecutive_failures >= self._breaker.failures

    async def poll(self) -> PollResult:
        """Poll once. A transient error is logged and counted, and delays the next poll.

        Raises:
            MintedConnectError: if another poll cannot fix the error.
        """
        started = self._clock.monotonic()
        self.polls += 1
        try:
            rates = tuple(await self._fetch())
        except MintedConnectError as error:
            if _is_fatal(error):
                raise
            self._record_failure(error)
            return PollResult((), self._clock.monotonic() + self._backoff(error))
        self._record_success()
        return PollResult(rates, started + self.interval * (1 + self._jitter * (2 * self._random() - 1)))

    def _record_failure(self, error: MintedConnectError) -> None:
        if self.last_error is None:
            _log.warning("rates are stale until a poll succeeds: %s: %s", type(error).__name__, error)
        self.last_error = error
        self.failures += 1
        self._consecutive_failures += 1

    def _backoff(self, error: MintedConnectError) -> float:
        """Return the seconds to wait after a failed poll."""
        doublings = min(self._consecutive_failures, _MAX_DOUBLINGS)
        longest = min(self.interval * 2.0**doublings, self._max_backoff)
        wait = self.interval + self._random() * max(0.0, longest - self.interval)
        if self._breaker is not None and self.is_breaker_open:
            wait = max(wait, self._breaker.cooldown)
        retry_after = error.retry_after if isinstance(error, RateLimited | ServerError) else None
        return max(wait, retry_after or 0.0)

    def _record_success(self) -> None:
        if self.last_error is not None:
            _log.info("rates are fresh again after %d failed polls", self._consecutive_failures)
        self.last_error = None
        self._consecutive_failures = 0


def _is_fatal(error: MintedConnectError) -> bool:
    if isinstance(error, APIError):
        is_client_error = error.status // 100 == 4  # noqa: PLR2004 - the class of statuses
        return is_client_error and error.status not in _TRANSIENT_STATUSES
    return isinstance(error, _FATAL)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
