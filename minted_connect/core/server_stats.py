"""What a client observes of its server: how long answers take lately, and how far the server's clock is ahead.

Noting costs next to nothing, because every call does it; the working out is left to the few that ask.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta
from typing import Final

from minted_connect.core.headers import http_date

__all__ = ["ServerStats", "clock_offset"]

_KEPT: Final = 128
_FARTHEST: Final = timedelta(days=31)
"""How far two clocks may differ; a date beyond that is no reading of a clock."""


class ServerStats:
    """Filled by every answered attempt, shared by the siblings of a client."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=_KEPT)
        self._dated: tuple[str, datetime, float] | None = None
        self._date_took = 0.0

    def note(self, took: float) -> None:
        """Note the seconds that one response took."""
        self._took.append(took)

    def note_date(self, date: str, received: datetime, elapsed: float = 0.0, took: float = 0.0) -> None:
        """Note the `Date` header of a response that the server itself wrote.

        Never that of a refusal: a gateway may have written it, whose clock is another one.

        Args:
            date: The header.
            received: Time of the response by the wall clock.
            elapsed: The same by the elapsed clock.
            took: Seconds that the response took.
        """
        if self._dated is not None and date != self._dated[0] and not _is_usable(date, received):
            return  # an older reading of the server's clock is better than none
        self._dated, self._date_took = (date, received, elapsed), took

    @property
    def has_date(self) -> bool:
        """Whether a response of the server was seen, so that `server_time` does not rest on the wall clock alone."""
        return self._dated is not None

    @property
    def date_error(self) -> timedelta:
        """The most by which `server_time` may be behind: the `Date` was written while the response was under way."""
        return timedelta(seconds=self._date_took)

    @property
    def p99_latency(self) -> float:
        """Seconds within which 99 of 100 answers came lately; 0 before the first."""
        ordered = sorted(self._took)
        return ordered[-1 - len(ordered) // 100] if ordered else 0.0

    @property
    def clock_skew(self) -> timedelta:
        """How far the server's clock was ahead at the latest answer; nothing if it did not tell."""
        return timedelta() if self._dated is None else clock_offset(*self._dated[:2], timedelta())

    def server_time(self, wall: datetime, elapsed: float) -> datetime:
        """Return the time by the server's clock, from its latest `Date` header and the seconds since that response.

        A jump of the client's wall clock does not change the result. Without a usable `Date` it is the wall clock.

        Args:
            wall: The time by the client's wall clock.
            elapsed: The time on the clock that `note_date` was given.
        """
        if self._dated is None:
            return wall
        date, received, at = self._dated
        return received + clock_offset(date, received, timedelta()) + timedelta(seconds=elapsed - at)


def _is_usable(date: str, now: datetime) -> bool:
    told = http_date(date)
    return told is not None and abs(told - now) <= _FARTHEST


def clock_offset(date: str, now: datetime, known: timedelta) -> timedelta:
    """Return how far the server's clock is ahead by its `Date` header, or `known` if that does not tell."""
    told = http_date(date)
    return told - now if told is not None and abs(told - now) <= _FARTHEST else known
