"""Resamples prices into candles (open, high, low, close). No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final, Literal

import attrs

from minted_connect import validation
from minted_connect.errors import InvalidInput
from minted_connect.feed.tick import Tick
from minted_connect.models.rate import RatePoint

__all__ = ["Candle", "ohlc"]

_DAY: Final = timedelta(days=1)
_CALENDAR_UNITS: Final = ("day", "week", "month")


@attrs.frozen(kw_only=True)
class Candle:
    """The prices of one item currency in one interval: money per gram in `currency`."""

    currency_id: int
    currency: str
    """Currency of the prices (`AED`)."""
    start: datetime
    """Start of the interval, aware, in the time zone given as `tz`."""
    end: datetime
    """End of the interval, exclusive; aware, in the same time zone."""
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    count: int
    """Number of prices in the interval; 0 if the candle repeats the previous close (`fill`)."""


def ohlc(
    prices: Iterable[Tick | RatePoint],
    interval: timedelta | Literal["hour", "day", "week", "month"],
    *,
    price: Literal["spot", "buy", "sell"] = "spot",
    by: Literal["observed", "source"] = "observed",
    tz: tzinfo = UTC,
    fill: bool = False,
) -> tuple[Candle, ...]:
    """Resample ticks and points of Rate History into the candles of each currency, sorted by start, then currency.

    Days, weeks (from Monday) and months follow the calendar of `tz`: a day on which the clocks change has 23 or 25
    hours. Shorter intervals are counted from the start of each day, in elapsed time, and the last one of a day ends
    with the day. Stale ticks are left out, because they repeat an old price.

    Args:
        prices: ticks and points, in any order.
        interval: a name, or a timedelta that divides 24 hours without remainder.
        price: the price to resample.
        by: which time of a tick to use: `observed` is `Tick.at`, `source` is `Tick.source_time` (assumed, S26).
        tz: time zone of the calendar.
        fill: between two candles, add candles of the last close for intervals without prices.

    Raises:
        InvalidInput: if an argument is invalid.
    """
    bounds = _bounds(interval, tz)
    name = f"{validation.one_of('price', price, ('spot', 'buy', 'sell'))}_price"
    observed = validation.one_of("by", by, ("observed", "source")) == "observed"
    validation.boolean("fill", fill)
    by_currency: dict[int, list[tuple[datetime, Decimal, str]]] = defaultdict(list)
    for each in prices:
        if isinstance(each, RatePoint):
            by_currency[each.currency_id].append((each.time.astimezone(UTC), getattr(each, name), each.currency_code))
        elif not isinstance(each, Tick):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("prices", f"must be ticks or rate points, not {type(each).__name__}")
        elif not each.stale:
            time = each.at if observed else each.source_time
            by_currency[each.rate.currency_id].append((time.astimezone(UTC), getattr(each.rate, name), each.currency))
    candles = [candle for key, rows in by_currency.items() for candle in _candles(key, rows, bounds, tz, fill=fill)]
    return tuple(sorted(candles, key=lambda candle: (candle.start.astimezone(UTC), candle.currency_id)))


_Bounds = Callable[[datetime], tuple[datetime, datetime]]
"""Returns start and end of the interval that contains a time; all in UTC."""


def _candles(
    currency_id: int, rows: list[tuple[datetime, Decimal, str]], bounds: _Bounds, tz: tzinfo, *, fill: bool
) -> Iterator[Candle]:
    by_interval: dict[tuple[datetime, datetime], list[tuple[Decimal, str]]] = defaultdict(list)
    for time, value, currency in sorted(rows, key=lambda row: row[0]):
        by_interval[bounds(time)].append((value, currency))
    last: Candle | None = None
    for (start, end), inside in by_interval.items():
        while fill and last is not None and last.end.astimezone(UTC) < start:
            last = _candle(currency_id, last.currency, bounds(last.end.astimezone(UTC)), tz, [last.close], 0)
            yield last
        values = [value for value, _ in inside]
        last = _candle(currency_id, inside[-1][1], (start, end), tz, values, len(values))
        yield last


def _candle(
    currency_id: int, currency: str, bounds: tuple[datetime, datetime], tz: tzinfo, values: list[Decimal], count: int
) -> Candle:
    start, end = bounds
    return Candle(
        currency_id=currency_id,
        currency=currency,
        start=start.astimezone(tz),
        end=end.astimezone(tz),
        open=values[0],
        high=max(values),
        low=min(values),
        close=values[-1],
        count=count,
    )


def _bounds(interval: object, tz: object) -> _Bounds:
    if not isinstance(tz, tzinfo):
        raise InvalidInput.of("tz", f"must be a time zone (datetime.tzinfo), not {type(tz).__name__}")
    if interval == "hour":
        interval = timedelta(hours=1)
    elif interval == _DAY:
        interval = "day"
    if isinstance(interval, timedelta):
        if interval <= timedelta(0) or _DAY % interval:
            raise InvalidInput.of("interval", "must be above 0 and divide 24 hours without remainder")
        return lambda time: _interval_of_day(time, interval, tz)
    unit = validation.one_of("interval", interval, _CALENDAR_UNITS)
    return lambda time: _calendar_interval(time, unit, tz)


def _interval_of_day(time: datetime, interval: timedelta, tz: tzinfo) -> tuple[datetime, datetime]:
    # In UTC, and so in elapsed time: an hour that the clocks repeat is two intervals.
    first, after = _calendar_interval(time, "day", tz)
    start = first + (time - first) // interval * interval
    return start, min(start + interval, after)


def _calendar_interval(time: datetime, unit: str, tz: tzinfo) -> tuple[datetime, datetime]:
    day = time.astimezone(tz).date()
    if unit == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(weeks=1)
    elif unit == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        first, after = day, day + _DAY
    return _start_of_day(first, tz), _start_of_day(after, tz)


def _start_of_day(day: date, tz: tzinfo) -> datetime:
    """Return the start of a day in UTC: midnight, or the end of the jump if the clocks skip midnight."""
    return datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)
