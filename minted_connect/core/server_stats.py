"""Statistics about the server: response times and clock skew.

Every call records samples, which is cheap; the statistics are computed only when they are read.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

from minted_connect.core.headers import MAX_CLOCK_SKEW, clock_skew, http_date

__all__ = ["ServerStats"]

_MAX_SAMPLES: Final = 128


class ServerStats:
    """Statistics about one server, shared by a client and the clients made by its `with_options`."""

    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=_MAX_SAMPLES)
        self._dated: tuple[str, datetime, float] | None = None
        self._date_error = 0.0

    def record_latency(self, seconds: float) -> None:
        """Record how long one response took."""
        self._latencies.append(seconds)

    def record_date(self, date: str, received: datetime, elapsed: float = 0.0, latency: float = 0.0) -> None:
        """Record the `Date` header of a successful response.

        Not for error responses: a gateway may have written them, whose clock is another one.

        Args:
            date: The header, or an empty string.
            received: Time of the response by the wall clock.
            elapsed: Time of the response by the elapsed clock.
            latency: Seconds that the response took.
        """
        if self._dated is not None and date != self._dated[0] and not _is_usable(date, received):
            return  # an older reading of the server's clock is better than no reading
        self._dated, self._date_error = (date, received, elapsed), latency

    @property
    def has_date(self) -> bool:
        """Whether a usable `Date` was recorded. Without one, `server_time` follows the client's wall clock."""
        return self._dated is not None and _is_usable(*self._dated[:2])

    @property
    def date_error(self) -> timedelta:
        """The most by which `server_time` may be behind, because the response was in transit after its `Date`."""
        return timedelta(seconds=self._date_error)

    @property
    def p99_latency(self) -> float:
        """99th percentile of recent response times in seconds; 0 without samples."""
        ordered = sorted(self._latencies)
        return ordered[-1 - len(ordered) // 100] if ordered else 0.0

    @property
    def clock_skew(self) -> timedelta:
        """By how much the server's clock was ahead at the latest usable `Date`; 0 without one."""
        return timedelta() if self._dated is None else clock_skew(*self._dated[:2], timedelta())

    def server_time(self, wall: datetime, elapsed: float) -> datetime:
        """Return the time by the server's clock, from its latest `Date` header and the seconds since that response.

        A jump of the client's wall clock does not change the result. Before the first response, the result is `wall`.
        Without a usable `Date`, it is the client's wall clock at the first response plus the seconds since then.

        Args:
            wall: Time by the client's wall clock.
            elapsed: Time by the clock whose values `record_date` received.
        """
        if self._dated is None:
            return wall
        date, received, at = self._dated
        return received + clock_skew(date, received, timedelta()) + timedelta(seconds=elapsed - at)

    def latest_server_time(self, wall: datetime, elapsed: float) -> datetime:
        """Return the latest time that the server's clock may show; the arguments are those of `server_time`."""
        return self.server_time(wall, elapsed) + self.date_error


def _is_usable(date: str, now: datetime) -> bool:
    moment = http_date(date)
    return moment is not None and abs(moment - now) <= MAX_CLOCK_SKEW
