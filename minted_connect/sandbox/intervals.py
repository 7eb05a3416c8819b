"""The intervals of a rate history."""

from datetime import UTC, date, datetime, timedelta

from .errors import invalid

_MAX_POINTS = 2_000  # in one rate history; the vendor's limit is not known (S27)


def interval_starts(now: datetime, interval: str, days: tuple[date, date] | None) -> list[datetime]:
    """Return the starts of the intervals within `days`, or of the last 30 up to now, oldest first."""
    latest = now if days is None else min(now, _midnight(days[1]) + timedelta(days=1, microseconds=-1))
    start = latest.replace(minute=0, second=0, microsecond=0)
    if interval != "hour":
        start = start.replace(hour=0)
    if interval == "week":
        start -= timedelta(days=start.weekday())
    elif interval == "month":
        start = start.replace(day=1)
    found: list[datetime] = []
    earliest = None if days is None else _midnight(days[0])
    while len(found) < 30 if earliest is None else start >= earliest:
        if len(found) == _MAX_POINTS:
            raise invalid("endDate", "too_long", n=_MAX_POINTS)
        found.append(start)
        start = _previous_start(start, interval)
    return found[::-1]


def _previous_start(start: datetime, interval: str) -> datetime:
    if interval == "month":
        return (start - timedelta(days=1)).replace(day=1)
    return start - {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}[interval]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
