"""The dates of HTTP headers."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["age_seconds", "http_date"]

_MOST_DIGITS: Final = 7


def http_date(value: str) -> datetime | None:
    """Return the moment that a header tells (RFC 9110, section 5.6.7), aware; None if it tells none."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, LookupError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age_seconds(value: str) -> float:
    """Return the seconds of an `Age` header (RFC 9111, section 5.1); 0 if it is missing or cannot be read."""
    return float(value) if value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS else 0.0
