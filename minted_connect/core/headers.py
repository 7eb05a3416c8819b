"""Response headers: dates, ages, request ids and `Retry-After`. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["MAX_CLOCK_SKEW", "age_seconds", "clock_skew", "http_date", "request_id", "retry_after"]

MAX_CLOCK_SKEW: Final = timedelta(days=31)
"""A `Date` header that differs more than this from the client's clock is ignored."""

_MAX_AGE_DIGITS: Final = 7
_REQUEST_ID_HEADERS: Final = ("X-Request-Id", "X-Correlation-Id", "Request-Id")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_DELAY_SECONDS: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_MAX_RETRY_AFTER: Final = 365 * 86_400.0


def http_date(value: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110, section 5.6.7) into an aware datetime; return None if it is not a date."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, LookupError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age_seconds(value: str) -> float:
    """Parse an `Age` header (RFC 9111, section 5.1); return 0 if it is missing or not a number of seconds."""
    return float(value) if value.isascii() and value.isdecimal() and len(value) <= _MAX_AGE_DIGITS else 0.0


def clock_skew(date: str, now: datetime, known: timedelta) -> timedelta:
    """Return by how much the server's clock is ahead of `now`, or `known` if the `Date` header is not usable.

    Args:
        date: The `Date` header, or an empty string.
        now: Time of the response by the client's wall clock.
        known: The value to return if `date` is not a date, or more than 31 days from `now`.
    """
    moment = http_date(date)
    return moment - now if moment is not None and abs(moment - now) <= MAX_CLOCK_SKEW else known


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id that the server gave to the request, or None."""
    for name in _REQUEST_ID_HEADERS:
        value = headers.get(name)
        if value is not None and _REQUEST_ID.fullmatch(value):
            return value
    return None


def retry_after(headers: Mapping[str, str], now: Callable[[], datetime]) -> float | None:
    """Return the seconds of a `Retry-After` header, from 0 to one year; None if it is missing or not valid.

    Args:
        headers: Case-insensitive headers of the response.
        now: The client's wall clock, used for a `Retry-After` date in a response without a `Date`.
    """
    value = headers.get("Retry-After", "").strip()
    if _DELAY_SECONDS.fullmatch(value):
        return min(max(0.0, float(value)), _MAX_RETRY_AFTER)
    until = http_date(value)
    if until is None:
        return None
    # Measured on the server's clock if the response has its `Date`: the client's clock may be wrong.
    since = http_date(headers.get("Date", "")) or now()
    return min(max(0.0, (until - since).total_seconds()), _MAX_RETRY_AFTER)
