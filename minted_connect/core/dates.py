"""The dates of HTTP headers."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["http_date"]


def http_date(value: str) -> datetime | None:
    """Return the moment that a header tells (RFC 9110, section 5.6.7), aware; None if it tells none."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, LookupError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
