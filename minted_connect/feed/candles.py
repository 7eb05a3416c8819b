"""Open, high, low and close of prices, interval by interval. Pure: prices in, candles out."""

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
_CALENDAR: Final = ("day", "week", "month")


@attrs.frozen(kw_only=True)
class Candle:
    """The prices of one item currency in one interval: money per gram in `currency`."""

    currency_id: int
    currency: str
    """Currency of the prices (`AED`)."""
    start: datetime
    """First moment of the interval, aware, in the time zone that was asked for."""
    end: datetime
    """First moment after it."""
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    count: int
    """How many prices it is made of; 0 if it fills a gap with the close before."""


def ohlc(
    prices: Iterable[Tick | RatePoint],
    interval: timedelta | Literal["hour", "day", "week", "month"],
    *,
    price: Literal["spot", "buy", "sell"] = "spot",
    by: Literal["observed", "source"] = "observed",
    tz: tzinfo = UTC,
    fill: bool = False,
) -> tuple[Candle, ...]:
    """Resample ticks of a feed, points of Rate History or both into candles, oldest first, each currency by itself.

    Days, weeks (from Monday) and months are those of the calendar in `tz`: a day on which clocks change has 23 or 25
    hours. Shorter intervals are counted from the first moment of each day, and the day's last one ends with it.
    Stale ticks are left out: they are no new prices.

    Args:
        prices: In any order.
        interval: A name, or a timedelta that a day of 24 hours is a multiple of.
        price: Which of the three prices.
        by: Whose time counts for ticks: `observed` (`Tick.at`) or `source` (`Tick.source_time`, assumed, S26).
        tz: Whose days.
        fill: Give an interval without prices, between two that have some, a candle of the last close.

    Raises:
        InvalidInput: an argument that cannot be meant.
    """
    bounds = _bounds(interval, tz)
    name = f"{validation.one_of('price', price, ('spot', 'buy', 'sell'))}_price"
    observed = validation.one_of("by", by, ("observed", "source")) == "observed"
    validation.boolean("fill", fill)
    found: dict[int, list[tuple[datetime, Decimal, str]]] = defaultdict(list)
    for one in prices:
        if isinstance(one, RatePoint):
            found[one.currency_id].append((one.time.astimezone(UTC), getattr(one, name), one.currency_code))
        elif not isinstance(one, Tick):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("prices", f"must be ticks or rate points, not {type(one).__name__}")
        elif not one.stale:
            time = one.at if observed else one.source_time
            found[one.rate.currency_id].append((time.astimezone(UTC), getattr(one.rate, name), one.currency))
    candles = [candle for key, rows in found.items() for candle in _candles(key, rows, bounds, tz, fill=fill)]
    return tuple(sorted(candles, key=lambda candle: (candle.start.astimezone(UTC), candle.currency_id)))


_Bounds = Callable[[datetime], tuple[datetime, datetime]]
"""The interval that a moment lies in; all in UTC."""


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
            raise InvalidInput.of("interval", "must be above 0 and divide 24 hours without rest")
        return lambda moment: _part_of_day(moment, interval, tz)
    unit = validation.one_of("interval", interval, _CALENDAR)
    return lambda moment: _part_of_calendar(moment, unit, tz)


def _part_of_day(moment: datetime, interval: timedelta, tz: tzinfo) -> tuple[datetime, datetime]:
    # In elapsed time: on a day whose clocks go back, an hour comes twice, and is two.
    first, after = _part_of_calendar(moment, "day", tz)
    start = first + (moment - first) // interval * interval
    return start, min(start + interval, after)


def _part_of_calendar(moment: datetime, unit: str, tz: tzinfo) -> tuple[datetime, datetime]:
    day = moment.astimezone(tz).date()
    if unit == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(weeks=1)
    elif unit == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        first, after = day, day + _DAY
    return _begins(first, tz), _begins(after, tz)


def _begins(day: date, tz: tzinfo) -> datetime:
    """Return the first moment of a day in UTC; where clocks skip midnight, that is the moment after the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)
