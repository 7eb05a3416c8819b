"""Candles: special days of calendars, properties of every candle, and the history of the sandbox."""

import itertools
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect import AsyncMintedConnect, Candle, RatePoint, Tick, ohlc
from minted_connect.errors import InvalidInput
from minted_connect.models import Rate
from minted_connect.sandbox import ManualClock

pytestmark = pytest.mark.anyio

BERLIN, HAVANA, LORD_HOWE = ZoneInfo("Europe/Berlin"), ZoneInfo("America/Havana"), ZoneInfo("Australia/Lord_Howe")
APIA, CAIRO, KOLKATA = ZoneInfo("Pacific/Apia"), ZoneInfo("Africa/Cairo"), ZoneInfo("Asia/Kolkata")
ZONES = [UTC, BERLIN, HAVANA, LORD_HOWE, APIA, CAIRO, KOLKATA, timezone(timedelta(hours=-3, minutes=-30))]


def point(time, spot, currency_id=1000013):
    spot = Decimal(spot)
    return RatePoint(
        currency_id=currency_id,
        metal_type="gold",
        currency_code="AED",
        time=time,
        spot_price=spot,
        buy_price=spot + 6,
        sell_price=spot - 6,
    )


def tick(at, spot, **options):
    rate = Rate(1000013, "Dirham Gold", "gold", Decimal(spot), Decimal(spot) + 6, Decimal(spot) - 6, "AED", at)
    return Tick(rate, 0.0, at, clock=ManualClock(), **options)


def figures(candle):
    return candle.open, candle.high, candle.low, candle.close, candle.count


def half_hourly_prices(start, end, step=timedelta(minutes=30)):
    """Return a price every half hour (or `step`); the spot prices are 0, 1, 2, ..."""
    found = []
    while start < end:
        found.append(point(start, len(found)))
        start += step
    return found


class TestCandleValues:
    def test_prices_are_sorted_by_time(self):
        hour = datetime(2026, 2, 20, 12, tzinfo=UTC)
        rows = [
            point(hour + timedelta(minutes=m), spot) for m, spot in ((30, "7"), (0, "5.10"), (59, "6"), (15, "4.9"))
        ]
        (candle,) = ohlc(rows, "hour")
        assert figures(candle) == (Decimal("5.10"), 7, Decimal("4.9"), 6, 4)
        assert str(candle.open) == "5.10"
        assert (candle.start, candle.end) == (hour, hour + timedelta(hours=1))
        assert (candle.currency, candle.currency_id) == ("AED", 1000013)

    @pytest.mark.parametrize(("price", "value"), [("spot", 600), ("buy", 606), ("sell", 594)])
    def test_price_selects_spot_buy_or_sell(self, price, value):
        (candle,) = ohlc([point(datetime(2026, 1, 1, tzinfo=UTC), 600)], "day", price=price)
        assert candle.close == value

    def test_stale_ticks_are_ignored(self):
        noon = datetime(2026, 2, 20, 12, tzinfo=UTC)
        rows = [point(noon, 1), tick(noon + timedelta(minutes=1), 3), tick(noon + timedelta(minutes=2), 9, stale=True)]
        assert [figures(candle) for candle in ohlc(rows, timedelta(minutes=5))] == [(1, 3, 1, 3, 2)]

    def test_by_selects_time_of_tick(self):
        noon = datetime(2026, 2, 20, 12, tzinfo=UTC)
        seen_late = attrs.evolve(tick(noon, 3), at=noon + timedelta(hours=2), clock=ManualClock())
        assert [candle.start for candle in ohlc([seen_late], "hour")] == [noon + timedelta(hours=2)]
        assert [candle.start for candle in ohlc([seen_late], "hour", by="source")] == [noon]

    def test_each_currency_has_own_candles(self):
        noon = datetime(2026, 2, 20, 12, tzinfo=UTC)
        rows = [point(noon + timedelta(hours=h), 10 * key + h, key) for key in (2, 1) for h in (0, 1)]
        assert [(candle.currency_id, candle.close) for candle in ohlc(rows, "hour")] == [
            (1, 10),
            (2, 20),
            (1, 11),
            (2, 21),
        ]

    def test_no_prices_return_no_candles(self):
        assert ohlc([], "day") == ()


class TestGaps:
    rows = (point(datetime(2026, 3, 27, 9, tzinfo=UTC), 5), point(datetime(2026, 3, 30, 9, tzinfo=UTC), 7))

    def test_day_without_prices_has_no_candle(self):
        assert [candle.start.day for candle in ohlc(self.rows, "day")] == [27, 30]

    def test_fill_adds_candles_with_last_close(self):
        candles = ohlc(self.rows, "day", tz=BERLIN, fill=True)
        assert [figures(candle) for candle in candles] == [
            (5, 5, 5, 5, 1),
            (5, 5, 5, 5, 0),
            (5, 5, 5, 5, 0),
            (7, 7, 7, 7, 1),
        ]
        assert [candle.end for candle in candles[:-1]] == [candle.start for candle in candles[1:]]


class TestCalendar:
    @pytest.mark.parametrize(
        ("zone", "day", "hours"),
        [
            (UTC, date(2026, 3, 29), 24),
            (BERLIN, date(2026, 3, 28), 24),
            (BERLIN, date(2026, 3, 29), 23),
            (BERLIN, date(2026, 10, 25), 25),
            (HAVANA, date(2026, 3, 8), 23),  # daylight saving time starts at midnight
            (HAVANA, date(2026, 11, 1), 25),  # midnight occurs twice
            (LORD_HOWE, date(2026, 4, 5), 24.5),
            (APIA, date(2011, 12, 31), 24),  # 30 December was skipped
        ],
    )
    def test_day_candle_follows_time_zone(self, zone, day, hours):
        noon = datetime(day.year, day.month, day.day, 12, tzinfo=zone).astimezone(UTC)
        rows = half_hourly_prices(noon - timedelta(hours=40), noon + timedelta(hours=40))
        (candle,) = (candle for candle in ohlc(rows, "day", tz=zone) if candle.start.date() == day)
        assert candle.end.astimezone(UTC) - candle.start.astimezone(UTC) == timedelta(hours=hours)
        assert candle.count == 2 * hours
        assert candle.close - candle.open == 2 * hours - 1
        inside = [one for one in ohlc(rows, "hour", tz=zone) if one.start.date() == day]
        assert len(inside) == -(-hours // 1)
        assert sum(one.count for one in inside) == candle.count

    def test_skipped_calendar_day_has_no_candle(self):
        rows = half_hourly_prices(datetime(2011, 12, 29, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC))
        candles = ohlc(rows, "day", tz=APIA, fill=True)
        assert date(2011, 12, 30) not in {candle.start.date() for candle in candles}
        assert all(candle.count for candle in candles)

    def test_week_starts_monday_and_month_on_first_day(self):
        rows = [point(datetime(2026, 3, day, 23, 30, tzinfo=UTC), day) for day in range(1, 32)]
        weeks, months = ohlc(rows, "week", tz=BERLIN), ohlc(rows, "month", tz=BERLIN)
        assert {candle.start.weekday() for candle in weeks} == {0}
        assert {candle.start.time().isoformat() for candle in weeks} == {"00:00:00"}
        assert [(candle.start.date(), candle.count) for candle in months] == [
            (date(2026, 3, 1), 30),
            (date(2026, 4, 1), 1),  # 1 April in Berlin
        ]

    def test_last_interval_of_short_day_ends_at_midnight(self):
        rows = half_hourly_prices(datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))
        candles = ohlc(rows, timedelta(hours=4), tz=BERLIN)
        assert [candle.count for candle in candles] == [8, 8, 8, 8, 8, 6]
        assert candles[-1].end == datetime(2026, 3, 30, tzinfo=BERLIN)


@given(
    times=st.lists(
        st.datetimes(datetime(2011, 12, 25), datetime(2012, 1, 5))
        | st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 9)),
        min_size=1,
        max_size=30,
    ),
    zone=st.sampled_from(ZONES),
    interval=st.sampled_from(
        ["hour", "day", "week", "month", *(timedelta(minutes=minutes) for minutes in (1, 45, 240, 1440))]
    ),
    data=st.data(),
)
def test_every_price_is_in_exactly_one_candle(times, zone, interval, data):
    rows = [point(time.replace(tzinfo=UTC), data.draw(st.decimals(1, 999, places=4))) for time in times]
    candles = ohlc(rows, interval, tz=zone)
    inside = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.time):
        (candle_of_row,) = [
            candle for candle in candles if candle.start.astimezone(UTC) <= row.time < candle.end.astimezone(UTC)
        ]
        inside[candle_of_row].append(row.spot_price)
    for candle in candles:
        values = inside[candle]
        assert figures(candle)[1:3] == (max(values), min(values))
        assert (candle.open, candle.close, candle.count) == (values[0], values[-1], len(values))
    filled = ohlc(rows, interval, tz=zone, fill=True) if interval in ("day", "week", "month") else candles
    assert [candle for candle in filled if candle.count] == list(candles)
    for before, after in itertools.pairwise(filled):
        assert before.end.astimezone(UTC) <= after.start.astimezone(UTC)
        if not after.count:
            assert (after.open, after.start) == (before.close, before.end)


class TestInvalidInput:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("interval", value) for value in ("year", "", None, 60, 1.5, timedelta(0), timedelta(hours=-1))),
            *(("interval", value) for value in (timedelta(hours=5), timedelta(days=2), timedelta(minutes=7))),
            *(("price", value) for value in ("mid", None, 1)),
            *(("by", value) for value in ("wall", None)),
            *(("tz", value) for value in ("UTC", None, 3)),
            *(("fill", value) for value in (1, None)),
            *(("prices", value) for value in (["600"], [None], [(1, 2)])),
        ],
    )
    def test_invalid_argument_raises_invalid_input(self, field, value):
        arguments = {"prices": [point(datetime(2026, 1, 1, tzinfo=UTC), 1)], "interval": "day", field: value}
        with pytest.raises(InvalidInput) as caught:
            ohlc(arguments.pop("prices"), arguments.pop("interval"), **arguments)
        assert caught.value.field == field


async def test_candles_of_feed_and_history_agree():
    clock = ManualClock(start=datetime(2026, 2, 20, tzinfo=UTC), auto_advance=True)
    ticks = []
    async with AsyncMintedConnect.sandbox(clock=clock) as minted:
        async with minted.rates.feed(interval=3600, metals="gold", jitter=0) as feed:
            async for one in feed.subscribe(buffer=1000):
                ticks.append(one)
                if len(ticks) == 50:
                    break
        days = {"start": date(2026, 2, 20), "end": date(2026, 2, 21)}
        hours = await minted.rates.history(metal="gold", interval="hour", **days)
        daily = await minted.rates.history(metal="gold", interval="day", **days)

    assert [one.gap for one in ticks] == [0] * 50
    assert [(one.at, one.spot, one.buy, one.sell) for one in ticks[:48]] == [
        (row.time, row.spot_price, row.buy_price, row.sell_price) for row in hours
    ]
    assert len({one.spot for one in ticks}) > 40
    candles = ohlc(ticks[:48], "day")
    assert candles == ohlc(hours, "day")
    assert [(candle.start, candle.open) for candle in candles] == [(row.time, row.spot_price) for row in daily]
    assert ohlc(ticks[:48], "hour", by="source") == ohlc(hours, "hour")
    assert all(isinstance(candle, Candle) and candle.count == 24 for candle in candles)
