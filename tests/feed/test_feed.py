"""RateFeed on real asyncio, with a scripted fetch function and clocks that the test advances."""

import asyncio
import gc
import itertools
import logging
import math
import weakref
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import anyio
import attrs
import pytest

from minted_connect.config import BreakerPolicy
from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    ClientClosedError,
    ConfigurationError,
    InvalidInput,
    NotFound,
    PermissionDenied,
    RateLimited,
    RequestTimeout,
    ServerError,
    TransportError,
    ValidationFailed,
)
from minted_connect.feed import LocalSource, Poller, RateFeed, Tick
from minted_connect.feed.tick import Round
from minted_connect.models.rate import Rate, RatePoint
from minted_connect.sandbox import ManualClock

pytestmark = pytest.mark.anyio

GOLD = Rate(
    currency_id=1000013,
    currency_name="Dirham Gold",
    metal_type="gold",
    product_id=3000099,
    sku="MNTBAE0001",
    spot_price=Decimal("586.48"),
    buy_price=Decimal("592.34"),
    sell_price=Decimal("580.62"),
    currency_code="AED",
    updated_at=datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC),
)
SILVER = attrs.evolve(
    GOLD,
    currency_id=1000019,
    currency_name="Dirham Silver",
    metal_type="silver",
    product_id=None,
    sku=None,
    spot_price=Decimal("9.8218"),
    buy_price=Decimal("9.92"),
    sell_price=Decimal("9.72"),
)
DOWN = TransportError("no response")
INTERVAL = 10.0


def gold(spot):
    return attrs.evolve(GOLD, spot_price=Decimal(spot), buy_price=Decimal(spot) + 6, sell_price=Decimal(spot) - 6)


async def settle():
    for _ in range(8):
        await asyncio.sleep(0)


class FakeClock:
    """A clock that stands still until `advance`, which wakes each sleeper at its time."""

    def __init__(self):
        self.now = 1000.0
        self.sleepers = []
        self.slept = []

    def monotonic(self):
        return self.now

    def wall(self):
        return datetime(2026, 2, 20, 12, tzinfo=UTC) + timedelta(seconds=self.now)

    async def sleep(self, seconds):
        self.slept.append(seconds)
        entry = (self.now + seconds, asyncio.get_running_loop().create_future())
        self.sleepers.append(entry)
        try:
            await entry[1]
        finally:
            self.sleepers.remove(entry)

    async def advance(self, seconds):
        until = self.now + seconds
        await settle()
        while due := [entry for entry in self.sleepers if entry[0] <= until]:
            self.now, future = min(due, key=lambda entry: entry[0])
            future.set_result(None)
            await settle()
        self.now = until


class AutoAdvanceClock(FakeClock):
    """A clock whose `sleep` advances the time at once."""

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Fetch:
    """A fetch function that returns or raises the steps of a script in turn; the last step is repeated."""

    def __init__(self, *script):
        self.script = script
        self.calls = 0

    async def __call__(self):
        step = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        await asyncio.sleep(0)
        if isinstance(step, BaseException):
            raise step
        return step


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(autouse=True)
async def no_leaks(anyio_backend):
    before = asyncio.all_tasks()
    yield
    await settle()
    left = asyncio.all_tasks() - before
    assert not [task for task in left if "TestRunner" not in repr(task.get_coro())]


@pytest.fixture
def make(clock):
    def make(*script, **options):
        return feed_of(Fetch(*script), **{"clock": clock, **options})

    return make


def feed_of(fetch, clock, *, history=None, **options):
    options = {"interval": INTERVAL, "random": lambda: 0.5, **options}
    return RateFeed(LocalSource(Poller(fetch, clock=clock, **options), clock=clock), clock=clock, history=history)


async def collect(subscription, into):
    async for tick in subscription:
        into.append(tick)


def requests(feed):
    return feed._source._poller._fetch.calls


def has_no_waiters(feed):
    return not feed._hub._waiters


class TestOnePoller:
    async def test_thousand_subscribers_cost_one_request_per_interval(self, make, clock):
        feed = make(*[(gold(price),) for price in range(600, 606)])
        got = [[] for _ in range(1000)]
        async with feed, asyncio.TaskGroup() as group:
            for into in got:
                group.create_task(collect(feed.subscribe(), into))
            await clock.advance(5 * INTERVAL)
            assert requests(feed) == 6
            await feed.aclose()
        prices = [Decimal(price) for price in range(600, 606)]
        assert all([tick.spot for tick in into] == prices for into in got)
        assert has_no_waiters(feed)

    async def test_late_subscriber_gets_current_ticks_without_request(self, make, clock):
        async with make((GOLD, SILVER)) as feed:
            await clock.advance(INTERVAL / 2)
            ticks = feed.subscribe()
            assert [(await anext(ticks)).rate for _ in "12"] == [GOLD, SILVER]
            assert requests(feed) == 1

    async def test_slow_fetch_is_not_started_twice(self, make, clock):
        running = 0

        async def slow():
            nonlocal running
            running += 1
            assert running == 1
            await clock.sleep(2.5 * INTERVAL)
            running -= 1
            return (GOLD,)

        feed = feed_of(slow, clock, interval=INTERVAL)
        async with feed:
            await clock.advance(10 * INTERVAL)
        assert clock.slept[:4] == [25, 0, 25, 0]

    async def test_interval_includes_duration_of_request(self, make, clock):
        async def three_seconds():
            await clock.sleep(3)
            return (GOLD,)

        async with feed_of(three_seconds, clock, interval=INTERVAL):
            await clock.advance(2 * INTERVAL)
        assert clock.slept[:4] == [3, 7, 3, 7]

    @pytest.mark.parametrize(("drawn", "wait"), [(0.0, 8.0), (0.5, 10.0), (0.75, 11.0)])
    async def test_jitter_changes_each_wait_by_fraction(self, make, clock, drawn, wait):
        async with make((GOLD,), jitter=0.2, random=lambda: drawn):
            await clock.advance(1)
        assert clock.slept == [pytest.approx(wait)]

    async def test_auto_advancing_clock_causes_no_wait(self, make):
        async with make((gold(600),), (gold(601),), (gold(602),), clock=AutoAdvanceClock()) as feed:
            ticks = feed.subscribe()
            assert [(await anext(ticks)).spot for _ in "123"] == [600, 601, 602]


class TestTicks:
    async def test_tick_has_prices_changes_times_and_numbers(self, make, clock):
        async with make((gold("600.10"),), (gold("599.95"),)) as feed:
            ticks = feed.subscribe()
            first, second = await anext(ticks), asyncio.ensure_future(anext(ticks))
            await clock.advance(INTERVAL)
            second = await second
        assert (first.spot, first.buy, first.sell) == (Decimal("600.10"), Decimal("606.10"), Decimal("594.10"))
        assert (first.spread, first.change, second.change) == (12, None, Decimal("-0.15"))
        assert (first.observed_at, second.observed_at) == (1000, 1010)
        assert second.at - first.at == timedelta(seconds=10)
        assert (first.currency, first.weight_unit, first.source_time) == ("AED", "g", GOLD.updated_at)
        assert (first.number, second.number) == (1, 2)
        assert not first.stale

    def test_tick_age_grows_and_is_ignored_by_equality(self, clock):
        tick = Tick(GOLD, 990.0, clock.wall(), clock=clock)
        at = tick.at
        assert tick.age == 10
        clock.now += 5
        assert tick.age == 15
        assert tick == Tick(GOLD, 990.0, at, clock=AutoAdvanceClock())
        assert "clock" not in repr(tick).lower()

    async def test_latest_returns_current_tick_that_matches(self, make, clock):
        feed = make((GOLD, SILVER))
        async with feed:
            assert feed.latest() is None
            await clock.advance(4)
            assert feed.latest().rate == GOLD
            assert feed.latest(metal="silver").rate == SILVER
            with pytest.raises(InvalidInput, match="sku: matches none of the rates; available: MNTBAE0001"):
                feed.latest(sku="no such")
            assert feed.latest(currency_id=GOLD.currency_id).age == 4
        assert feed.latest().rate == GOLD  # also after closing


class TestSubscriptions:
    @pytest.mark.parametrize(
        ("wanted", "rates"),
        [
            ({}, [GOLD, SILVER]),
            ({"currency_id": 1000019}, [SILVER]),
            ({"metal": "gold"}, [GOLD]),
            ({"sku": "MNTBAE0001"}, [GOLD]),
        ],
    )
    @pytest.mark.parametrize("buffer", [None, 8])
    async def test_subscribe_filter_selects_rates(self, make, clock, wanted, rates, buffer):
        got = []
        async with make((GOLD, SILVER)) as feed, asyncio.TaskGroup() as group:
            group.create_task(collect(feed.subscribe(**wanted, buffer=buffer), got))
            await clock.advance(1)
            await feed.aclose()
        assert [tick.rate for tick in got] == rates

    @pytest.mark.parametrize(
        ("wanted", "text"),
        [
            ({"currency_id": 7}, "currency_id: matches none of the rates; available: 1000013, 1000019"),
            ({"metal": "platinum"}, "metal: matches none of the rates; available: gold, silver"),
            ({"metal": "gold", "sku": "no such"}, "sku: matches none of the rates; available: MNTBAE0001"),
            ({"metal": "silver", "sku": "MNTBAE0001"}, "metal: no rate matches all of metal, sku"),
        ],
    )
    @pytest.mark.parametrize("buffer", [None, 8])
    async def test_subscribe_filter_without_match_raises_invalid_input(self, make, clock, wanted, text, buffer):
        async with make(DOWN, (GOLD, SILVER)) as feed:
            early = asyncio.ensure_future(anext(feed.subscribe(**wanted, buffer=buffer)))
            await clock.advance(INTERVAL / 2)
            assert not early.done()  # no rates yet, so the filter cannot be checked
            await clock.advance(2 * INTERVAL)
            for waiting in (early, anext(feed.subscribe(**wanted, buffer=buffer))):
                with pytest.raises(InvalidInput) as caught:
                    await waiting
                assert text in str(caught.value)

    @pytest.mark.parametrize("buffer", [None, 8])
    async def test_changes_only_skips_unchanged_ticks(self, make, clock, buffer):
        later = attrs.evolve(gold(600), updated_at=datetime(2026, 2, 21, tzinfo=UTC))
        script = (gold(600),), (later,), (gold(601),), DOWN, DOWN, (gold(601),), (gold(601),)
        every, changes = [], []
        async with make(*script) as feed, asyncio.TaskGroup() as group:
            group.create_task(collect(feed.subscribe(buffer=buffer), every))
            group.create_task(collect(feed.subscribe(changes_only=True, buffer=buffer), changes))
            await clock.advance(8 * INTERVAL)
            await feed.aclose()
        assert len(every) == requests(feed) == 7
        assert [(tick.spot, tick.stale) for tick in changes] == [(600, False), (601, False), (601, True), (601, False)]

    async def test_slow_subscriber_skips_to_latest_tick(self, make, clock):
        fast = []
        async with make(*[(gold(price),) for price in range(600, 610)]) as feed, asyncio.TaskGroup() as group:
            slow = feed.subscribe()
            group.create_task(collect(feed.subscribe(), fast))
            await clock.advance(1)
            assert (await anext(slow)).spot == 600
            await clock.advance(8 * INTERVAL)
            assert (await anext(slow)).spot == 608
            assert slow.dropped == 0
            await feed.aclose()
        assert [tick.spot for tick in fast] == list(range(600, 609))

    async def test_slow_subscriber_receives_every_currency(self, make, clock):
        async with make(*[(gold(price), SILVER) for price in range(600, 610)]) as feed:
            slow, seen = feed.subscribe(), []
            for _ in range(4):
                await clock.advance(INTERVAL)
                seen.append((await anext(slow)).rate.metal_type)
        assert seen == ["gold", "silver", "gold", "silver"]

    async def test_slow_subscriber_receives_each_tick_once(self, make, clock):
        async with make((gold(600), SILVER), (gold(601), SILVER)) as feed:
            slow = feed.subscribe()
            await clock.advance(1)
            first = await anext(slow)
            await clock.advance(INTERVAL)
            second, third = await anext(slow), await anext(slow)
            assert [tick.observed_at for tick in (first, second, third)] == [1000, 1010, 1010]
            assert [tick.rate.metal_type for tick in (first, second, third)] == ["gold", "silver", "gold"]
            step = asyncio.ensure_future(anext(slow))
            await settle()
            assert not step.done()
            await clock.advance(INTERVAL)
            assert (await step).observed_at == 1020

    async def test_full_buffer_drops_and_counts_oldest_ticks(self, make, clock):
        async with make(*[(gold(price),) for price in range(600, 610)]) as feed:
            ticks = feed.subscribe(buffer=3)
            await clock.advance(4.5 * INTERVAL)
            assert ticks.dropped == 2
            assert [(await anext(ticks)).spot for _ in "123"] == [602, 603, 604]
            await clock.advance(INTERVAL)
            assert (await anext(ticks)).spot == 605
        assert ticks.dropped == 2

    async def test_buffered_ticks_can_be_read_after_feed_closes(self, make, clock):
        async with make((gold(600),), (gold(601),)) as feed:
            ticks = feed.subscribe(buffer=5)
            await clock.advance(INTERVAL)
        assert [tick.spot async for tick in ticks] == [600, 601]

    @pytest.mark.parametrize("buffer", [None, 5])
    async def test_abandoned_subscription_is_garbage_collected(self, make, clock, buffer):
        async with make((GOLD,)) as feed:
            ticks = feed.subscribe(buffer=buffer)
            async for _ in ticks:
                break
            gone = weakref.ref(ticks)
            del ticks
            gc.collect()
            assert gone() is None
            assert has_no_waiters(feed)
            assert not feed._hub.buffered
            await clock.advance(INTERVAL)

    @pytest.mark.parametrize("buffer", [None, 5])
    async def test_cancelled_subscriber_loses_no_tick(self, make, clock, buffer):
        others = []
        async with make((gold(600),), (gold(601),)) as feed, asyncio.TaskGroup() as group:
            group.create_task(collect(feed.subscribe(), others))
            ticks = feed.subscribe(buffer=buffer)
            await anext(ticks)
            await settle()
            for _ in range(2):
                task = asyncio.ensure_future(anext(ticks))
                await settle()
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
            assert len(feed._hub._waiters) == 1
            await clock.advance(INTERVAL)
            assert (await anext(ticks)).spot == 601
            await feed.aclose()
        assert [tick.spot for tick in others] == [600, 601]

    async def test_tick_that_arrives_with_cancellation_is_kept(self, make, clock):
        async with make((gold(600),), (gold(601),)) as feed:
            ticks = feed.subscribe(buffer=5)
            await anext(ticks)
            task = asyncio.ensure_future(anext(ticks))
            await settle()
            feed._hub.publish(Round((gold(602),), 2, clock.wall(), clock.monotonic()))
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            assert (await anext(ticks)).spot == 602

    @pytest.mark.parametrize("buffer", [None, 5])
    async def test_aclose_of_subscription_ends_waiting_task(self, make, buffer):
        async with make((GOLD,)) as feed:
            await feed.subscribe(buffer=buffer).aclose()
            ticks, other = feed.subscribe(buffer=buffer), feed.subscribe()
            waiting = [asyncio.ensure_future(collect(each, [])) for each in (ticks, other)]
            await settle()
            await ticks.aclose()
            await ticks.aclose()
            await settle()
            assert [task.done() for task in waiting] == [True, False]
            assert not feed._hub.buffered
            with pytest.raises(StopAsyncIteration):
                await anext(ticks)
        await asyncio.gather(*waiting)

    async def test_subscription_can_be_read_from_several_tasks(self, make, clock):
        feed = make((gold(600),), (gold(601),), (gold(602),))
        await asyncio.create_task(feed.__aenter__())
        ticks, got = feed.subscribe(), []
        for _ in range(3):
            step = asyncio.ensure_future(anext(ticks))
            await clock.advance(INTERVAL if got else 0)
            got.append((await step).spot)
        await asyncio.create_task(feed.__aexit__(None, None, None))
        assert got == [600, 601, 602]


class TestLifecycle:
    async def test_aclose_ends_subscriptions_and_is_idempotent(self, make, clock):
        got = []
        async with make((GOLD,)) as feed:
            task = asyncio.ensure_future(collect(feed.subscribe(), got))
            unread = feed.subscribe()
            await clock.advance(1)
            await asyncio.gather(feed.aclose(), feed.aclose())
            await feed.aclose()
            await task
        assert len(got) == 1
        for ticks in (unread, feed.subscribe()):
            with pytest.raises(StopAsyncIteration):
                await anext(ticks)
        assert not clock.sleepers

    async def test_aclose_cancels_request_in_flight(self, clock):
        cancelled = []

        async def never_returns():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                cancelled.append(True)
                raise

        async with feed_of(never_returns, clock, interval=1):
            await settle()
        assert cancelled

    async def test_cancelled_poller_task_ends_subscriptions(self, make, clock):
        async with make((GOLD,)) as feed:
            task = asyncio.ensure_future(collect(feed.subscribe(), []))
            await clock.advance(1)
            feed._hub.task.cancel()  # `asyncio.run` cancels all tasks when its main task ends
            await task

    async def test_cancel_scope_does_not_interrupt_aclose(self, clock):
        async def slow_cleanup():
            try:
                await asyncio.Event().wait()
            finally:
                await settle()

        with anyio.CancelScope() as scope:
            async with feed_of(slow_cleanup, clock, interval=1) as feed:
                await settle()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert feed._hub.task.done()

    async def test_feed_opened_twice_raises_client_closed(self, make):
        feed = make((GOLD,))
        async with feed:
            with pytest.raises(ClientClosedError, match="once"):
                await feed.__aenter__()
        with pytest.raises(ClientClosedError, match="once"):
            await feed.__aenter__()

    async def test_unopened_feed_raises_client_closed(self, make):
        feed = make((GOLD,))
        with pytest.raises(ClientClosedError, match="async with"):
            await anext(feed.subscribe())
        with pytest.raises(ClientClosedError, match="async with"):
            await feed.wait_for(bool, timeout=1)
        await feed.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(feed.subscribe())

    async def test_subscription_on_other_loop_raises_client_closed(self, make, clock):
        async with make((GOLD,)) as feed:
            await clock.advance(1)
            ticks = feed.subscribe()
            await anext(ticks)
            with pytest.raises(ClientClosedError, match="another event loop"):
                await asyncio.to_thread(asyncio.run, ticks.__anext__())

    @pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1", None])
    @pytest.mark.parametrize("field", ["interval", "max_backoff"])
    async def test_invalid_number_of_seconds_raises_invalid_input(self, make, field, value):
        with pytest.raises(InvalidInput) as caught:
            make((GOLD,), **{field: value})
        assert caught.value.field == field

    @pytest.mark.parametrize("value", [-0.1, 1, math.nan, True, None])
    async def test_invalid_jitter_raises_invalid_input(self, make, value):
        with pytest.raises(InvalidInput, match="jitter"):
            make((GOLD,), jitter=value)

    @pytest.mark.parametrize("value", [0, -1, 1.5, True, "3", 2**70])
    async def test_invalid_buffer_raises_invalid_input(self, make, value):
        with pytest.raises(InvalidInput, match="buffer"):
            make((GOLD,)).subscribe(buffer=value)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("currency_id", "1"), ("currency_id", True), ("metal", 5), ("metal", ""), ("sku", b"x"), ("sku", "\ud800")],
    )
    async def test_invalid_filter_raises_invalid_input(self, make, field, value):
        feed = make((GOLD,))
        for look in (feed.subscribe, feed.latest):
            with pytest.raises(InvalidInput) as caught:
                look(**{field: value})
            assert caught.value.field == field
        with pytest.raises(InvalidInput, match="changes_only"):
            feed.subscribe(changes_only="no")


class TestOutage:
    async def test_failed_polls_repeat_last_tick_as_stale(self, make, clock, caplog):
        caplog.set_level(logging.INFO, "minted_connect.feed")
        got, ages = [], []

        async def watch():
            async for tick in feed.subscribe():
                got.append(tick)
                ages.append(tick.age)

        feed = make((gold(600),), DOWN, DOWN, (gold(602),), random=lambda: 0.0, jitter=0)
        async with feed, asyncio.TaskGroup() as group:
            group.create_task(watch())
            await clock.advance(2.5 * INTERVAL)
            assert (feed.failures, feed.last_error) == (2, DOWN)
            assert feed.latest().stale
            await clock.advance(INTERVAL)
            assert (feed.failures, feed.last_error) == (2, None)
            await feed.aclose()
        assert [(tick.spot, tick.stale, tick.change) for tick in got] == [
            (600, False, None),
            (600, True, None),
            (600, True, None),
            (602, False, 2),
        ]
        assert ages == [0, 10, 20, 0]
        assert [(record.name, record.levelname) for record in caplog.records] == [
            ("minted_connect.feed", "WARNING"),
            ("minted_connect.feed", "INFO"),
        ]
        assert "TransportError: no response" in caplog.text

    @pytest.mark.parametrize(
        "error", [APIError("", 408), APIError("", 425), RateLimited("", 429), ServerError("", 503), APIError("", 200)]
    )
    async def test_transient_error_does_not_end_feed(self, make, clock, error):
        async with make(error, (GOLD,)) as feed:
            await clock.advance(3 * INTERVAL)
            assert (feed.failures, feed.latest().rate) == (1, GOLD)

    async def test_each_outage_is_logged_once(self, make, clock, caplog):
        async with make(DOWN, DOWN, (GOLD,), DOWN, DOWN):
            await clock.advance(100 * INTERVAL)
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]

    async def test_subscriber_waits_for_first_successful_poll(self, make, clock):
        async with make(DOWN, (GOLD,)) as feed:
            step = asyncio.ensure_future(anext(feed.subscribe()))
            await clock.advance(1)
            assert not step.done()
            await clock.advance(2 * INTERVAL)
            assert (await step).rate == GOLD

    async def test_currency_missing_from_response_becomes_stale(self, make, clock):
        async with make((GOLD, SILVER), (gold(600),)) as feed:
            await clock.advance(INTERVAL)
            silver = feed.latest(metal="silver")
            assert (silver.rate, silver.stale, silver.age) == (SILVER, True, 10)
            assert not feed.latest(metal="gold").stale

    @pytest.mark.parametrize(
        ("drawn", "waits"), [(0.0, [10, 10, 10, 10, 10]), (0.5, [15, 25, 35, 35, 35]), (1.0, [20, 40, 60, 60, 60])]
    )
    async def test_backoff_is_drawn_between_interval_and_doubling_limit(self, make, clock, drawn, waits):
        async with make(DOWN, random=lambda: drawn, jitter=0, breaker=None):
            await clock.advance(sum(waits[:-1]))
        assert clock.slept == waits

    async def test_open_breaker_sends_single_probes_until_success(self, make, clock):
        failing = make(
            *[DOWN] * 4, (GOLD,), DOWN, jitter=0, random=lambda: 0.0, breaker=BreakerPolicy(failures=3, cooldown=45)
        )
        async with failing as feed:
            states = []
            for _ in range(6):
                await settle()
                states.append((feed.is_breaker_open, clock.slept[-1]))
                await clock.advance(clock.slept[-1])
        assert states == [(False, 10), (False, 10), (True, 45), (True, 45), (False, 10), (False, 10)]

    async def test_retry_after_longer_than_cooldown_is_followed(self, make, clock):
        error = RateLimited("slow down", 429, retry_after=77.0)
        async with make(error, random=lambda: 0.0, breaker=BreakerPolicy(failures=1, cooldown=45)):
            await settle()
        assert clock.slept == [77]

    @pytest.mark.parametrize("value", [5, "on", True])
    async def test_invalid_breaker_raises_configuration_error(self, make, value):
        with pytest.raises(ConfigurationError, match="breaker"):
            make((GOLD,), breaker=value)

    async def test_overdue_poll_repeats_tick_as_stale(self):
        clock = ManualClock()
        response = asyncio.Event()
        calls = 0

        async def fetch():
            nonlocal calls
            calls += 1
            if calls == 2:
                await response.wait()
            return (GOLD,)

        feed = feed_of(fetch, clock, interval=INTERVAL, breaker=None)
        got = []
        async with feed, asyncio.TaskGroup() as group:
            group.create_task(collect(feed.subscribe(), got))
            await settle()
            clock.advance(INTERVAL)  # the second poll begins
            await settle()
            assert [tick.stale for tick in got] == [False]
            clock.advance(2 * INTERVAL)
            await settle()
            assert [(tick.stale, tick.age) for tick in got] == [(False, 30), (True, 30)]
            response.set()
            await settle()
            await feed.aclose()
        assert [(tick.stale, tick.number, tick.gap) for tick in got[:3]] == [
            (False, 1, 0),
            (True, 1, 0),
            (False, 2, 30),
        ]
        assert feed.failures == 0

    async def test_first_tick_after_outage_has_gap(self, make, clock):
        script = (GOLD,), DOWN, DOWN, (GOLD,), (GOLD,)
        got = []
        async with make(*script, jitter=0, random=lambda: 0.0) as feed, asyncio.TaskGroup() as group:
            group.create_task(collect(feed.subscribe(buffer=9), got))
            await clock.advance(4 * INTERVAL)
            await feed.aclose()
        assert [(tick.number, tick.stale, tick.gap) for tick in got] == [
            (1, False, 0),
            (1, True, 0),
            (1, True, 0),
            (4, False, 30),
            (5, False, 0),
        ]

    async def test_interval_above_max_backoff_is_kept_in_outage(self, make, clock):
        async with make(DOWN, interval=3600, random=lambda: 0.9):
            await clock.advance(2 * 3600)
        assert clock.slept == [3600] * 3

    async def test_thousand_failed_polls_do_not_end_feed(self, make, clock):
        async with make(DOWN, interval=1, clock=AutoAdvanceClock()) as feed:
            while feed.failures < 1100:
                await asyncio.sleep(0)

    async def test_successful_poll_resets_backoff(self, make, clock):
        async with make(DOWN, DOWN, (GOLD,), DOWN, (GOLD,), random=lambda: 0.5, jitter=0):
            await clock.advance(15 + 25 + 10)
        assert clock.slept == [15, 25, 10, 15]

    @pytest.mark.parametrize(("retry_after", "wait"), [(300.0, 300), (0.5, 15), (None, 15)])
    @pytest.mark.parametrize("kind", [RateLimited, ServerError])
    async def test_retry_after_extends_wait(self, make, clock, kind, retry_after, wait):
        error = kind("slow down", 429, retry_after=retry_after)
        async with make((GOLD,), error, (GOLD,), jitter=0) as feed:
            await clock.advance(INTERVAL + 1)
            assert clock.slept == [INTERVAL, wait]
            assert feed.latest().stale
            await clock.advance(wait)
            assert not feed.latest().stale


class TestFatalError:
    @pytest.mark.parametrize(
        "error",
        [
            KeyError("rates"),
            ClientClosedError("closed"),
            ConfigurationError("no"),
            InvalidInput.of("metals", "must be known"),
            AuthenticationFailed("no", 401),
            PermissionDenied("no", 403),
            NotFound("no", 404),
            ValidationFailed("no", 422),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_fatal_error_is_raised_to_every_subscriber(self, make, clock, error):
        feed = make((GOLD,), error)
        with pytest.raises(type(error)) as caught:
            async with feed:
                waiting = [asyncio.ensure_future(collect(feed.subscribe(), [])) for _ in "123"]
                alert = asyncio.ensure_future(feed.wait_for(lambda tick: False, timeout=1000))
                await clock.advance(INTERVAL)
                assert await asyncio.gather(*waiting, alert, return_exceptions=True) == [error] * 4
                with pytest.raises(type(error)):
                    feed.latest()
                with pytest.raises(type(error)):
                    await anext(feed.subscribe())
        assert caught.value is error
        assert requests(feed) == 2
        assert feed.failures == 0

    async def test_buffered_ticks_are_read_before_fatal_error(self, make, clock):
        with pytest.raises(KeyError):
            async with make((GOLD,), KeyError("rates")) as feed:
                ticks = feed.subscribe(buffer=5)
                await clock.advance(INTERVAL)
                assert (await anext(ticks)).rate == GOLD
                with pytest.raises(KeyError):
                    await anext(ticks)

    async def test_fetch_result_of_wrong_type_raises_type_error(self, make, clock):
        with pytest.raises(TypeError):
            async with make(None):
                await clock.advance(1)

    async def test_error_in_async_with_body_is_not_replaced(self, make, clock):
        with pytest.raises(ZeroDivisionError):
            async with make(KeyError("rates")):
                await clock.advance(1)
                raise ZeroDivisionError

    async def test_fatal_error_is_not_logged_by_event_loop(self, make, clock):
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
        with pytest.raises(ZeroDivisionError):
            async with make(KeyError("rates")):
                await clock.advance(1)
                raise ZeroDivisionError
        gc.collect()
        assert complaints == []

    async def test_fatal_error_raised_again_keeps_traceback_length(self, make, clock):
        feed = make(KeyError("rates"))
        lengths = set()
        with pytest.raises(KeyError):
            async with feed:
                await clock.advance(1)
                for _ in range(5):
                    with pytest.raises(KeyError) as caught:
                        feed.latest()
                    lengths.add(len(caught.traceback))
        assert len(lengths) == 1


class TestWaitFor:
    async def test_wait_for_returns_first_tick_that_matches(self, make, clock):
        async with make(*[(gold(price), SILVER) for price in range(600, 610)]) as feed:
            alert = asyncio.ensure_future(feed.wait_for(lambda tick: tick.spot >= 603, timeout=100))
            await clock.advance(3 * INTERVAL)
            assert (await alert).spot == 603
            assert (await feed.wait_for(lambda tick: tick.spot < 10, timeout=1)).rate == SILVER
            assert has_no_waiters(feed)
            assert len(clock.sleepers) == 1

    @pytest.mark.parametrize("timeout", [3, 10, 25, 30])
    async def test_wait_for_times_out_on_clock_of_feed(self, make, clock, timeout):
        async with make((GOLD,)) as feed:
            alert = asyncio.ensure_future(feed.wait_for(lambda tick: False, timeout=timeout))
            await clock.advance(timeout - 0.5)
            assert not alert.done()
            await clock.advance(0.5)
            with pytest.raises(RequestTimeout, match=f"within {timeout} s") as caught:
                await alert
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.method, caught.value.path) == ("GET", "/partner/walletable/rates")
            assert (caught.value.elapsed, caught.value.safe_to_retry) == (timeout, True)
            assert clock.now == 1000 + timeout
            assert has_no_waiters(feed)
            assert len(clock.sleepers) == 1

    async def test_wait_for_on_auto_advancing_clock_skips_no_poll(self, make):
        clock = AutoAdvanceClock()
        async with make(*[(gold(price),) for price in range(600, 610)], clock=clock) as feed:
            assert (await feed.wait_for(lambda tick: tick.spot == 604, timeout=45)).spot == 604
            with pytest.raises(TimeoutError):
                await feed.wait_for(lambda tick: tick.spot == 610, timeout=45)

    async def test_wait_for_ignores_stale_tick(self, make, clock):
        async with make((gold(600),), DOWN) as feed:
            await clock.advance(INTERVAL)
            with pytest.raises(TimeoutError) as caught:
                alert = asyncio.ensure_future(feed.wait_for(lambda tick: tick.spot == 600, timeout=5))
                await clock.advance(5)
                await alert
        assert caught.value.__cause__ is DOWN

    async def test_wait_for_in_closed_feed_raises_client_closed(self, make, clock):
        async with make((GOLD,)) as feed:
            alerts = [asyncio.ensure_future(feed.wait_for(lambda tick: False, timeout=t)) for t in (5, 500)]
            await clock.advance(1)
        for alert in alerts:
            with pytest.raises(ClientClosedError, match="closed before"):
                await alert

    async def test_cancelled_wait_for_leaves_no_task_or_waiter(self, make, clock):
        async with make((GOLD,)) as feed:
            before = asyncio.all_tasks()
            alert = asyncio.ensure_future(feed.wait_for(lambda tick: False, timeout=5))
            await clock.advance(1)
            alert.cancel()
            await asyncio.wait({alert})
            assert alert.cancelled()
            assert asyncio.all_tasks() == before
            assert has_no_waiters(feed)

    async def test_wait_for_raises_error_of_predicate(self, make, clock):
        async with make((GOLD,)) as feed:
            with pytest.raises(ZeroDivisionError):
                await feed.wait_for(lambda tick: 1 / 0, timeout=5)

    async def test_wait_for_invalid_predicate_raises_invalid_input(self, make):
        async def later(tick):
            return True

        for predicate in (None, "spot > 600", later):
            with pytest.raises(InvalidInput, match="predicate"):
                await make((GOLD,)).wait_for(predicate, timeout=1)

    @pytest.mark.parametrize("timeout", [0, -1, math.inf, True, None, "1", 10**400])
    async def test_wait_for_invalid_timeout_raises_invalid_input(self, make, timeout):
        with pytest.raises(InvalidInput, match="timeout"):
            await make((GOLD,)).wait_for(bool, timeout=timeout)


async def test_other_subscribers_do_not_affect_steady_subscriber(make, clock):
    feed = make(*[(gold(price), SILVER) for price in range(600, 700)])
    steady, tasks = [], []
    async with feed:
        tasks.append(asyncio.ensure_future(collect(feed.subscribe(metal="gold", buffer=100), steady)))
        for number in itertools.count():
            options = {"buffer": number % 3 or None, "changes_only": number % 2 == 0}
            task = asyncio.ensure_future(collect(feed.subscribe(**options), []))
            tasks.append(task)
            await clock.advance(INTERVAL / 4)
            if number % 5 == 0:
                task.cancel()
            if number == 80:
                break
        await feed.aclose()
        await asyncio.wait(tasks)
    assert [tick.spot for tick in steady] == list(range(600, 600 + requests(feed)))
    assert has_no_waiters(feed)
    del task
    tasks.clear()
    gc.collect()
    assert not feed._hub.buffered


def point(spot, hour, of=GOLD):
    """Return the point of Rate History for an hour."""
    return RatePoint(
        currency_id=of.currency_id,
        metal_type=of.metal_type,
        currency_code=of.currency_code,
        time=datetime(2026, 2, 20, hour, tzinfo=UTC),
        spot_price=Decimal(spot),
        buy_price=Decimal(spot) + 6,
        sell_price=Decimal(spot) - 6,
    )


class TestBackfill:
    class History:
        """A `history` function that returns when the test sets `may_return`."""

        def __init__(self, *points):
            self.points = points
            self.requested = []
            self.may_return = asyncio.Event()

        async def __call__(self, rates):
            self.requested.append([rate.currency_id for rate in rates])
            await self.may_return.wait()
            if isinstance(self.points[0], BaseException):
                raise self.points[0]
            return self.points

    async def test_history_ticks_come_first_in_order_of_time(self, make, clock):
        history = self.History(point("590", 11), point("9.5", 11, SILVER), point("580", 10))
        history.may_return.set()
        async with make((GOLD, SILVER), history=history) as feed:
            await clock.advance(1)
            ticks = feed.subscribe(history=True)
            got = [await anext(ticks) for _ in range(5)]
            assert [(tick.rate.metal_type, str(tick.spot), tick.backfilled) for tick in got] == [
                ("gold", "580", True),
                ("gold", "590", True),
                ("silver", "9.5", True),
                ("gold", "586.48", False),
                ("silver", "9.8218", False),
            ]
            assert history.requested == [[1000013, 1000019]]
            first, second, silver, *_ = got
            assert (first.change, second.change, silver.change) == (None, Decimal(10), None)
            assert first.at == first.source_time == datetime(2026, 2, 20, 10, tzinfo=UTC)
            assert (first.number, first.stale, first.gap) == (0, False, 0)
            assert first.age == (clock.wall() - first.at).total_seconds()
            assert first.rate.currency_name == "Dirham Gold"

    async def test_only_subscribers_with_history_wait_for_backfill(self, make, clock):
        history = self.History(point("580", 10))
        async with make((GOLD,), history=history) as feed:
            await clock.advance(1)
            past, present, buffered = [], [], []
            tasks = [
                asyncio.ensure_future(collect(feed.subscribe(**options), into))
                for options, into in (
                    ({"history": True}, past),
                    ({}, present),
                    ({"history": True, "buffer": 10}, buffered),
                )
            ]
            await clock.advance(2 * INTERVAL)
            assert (len(past), len(present), len(buffered)) == (0, 3, 0)
            history.may_return.set()
            await settle()
            assert [tick.backfilled for tick in past] == [True, False]
            # Ticks published during the backfill are in the buffer, in order.
            assert [tick.number for tick in buffered] == [0, 1, 2, 3]
            await feed.aclose()
            await asyncio.gather(*tasks)

    async def test_wait_for_and_latest_ignore_history(self, make, clock):
        history = self.History(point("580", 10))
        history.may_return.set()
        async with make((GOLD,), history=history) as feed:
            await clock.advance(1)
            tick = await feed.wait_for(lambda _: True, timeout=1)
            assert not tick.backfilled
            assert not feed.latest().backfilled

    async def test_history_is_filtered_like_live_ticks(self, make, clock):
        history = self.History(
            *(point("580", hour) for hour in (7, 8)), point("581", 9), point("580", 10), point("9", 10, SILVER)
        )
        history.may_return.set()
        async with make((GOLD, SILVER), history=history) as feed:
            await clock.advance(1)
            ticks = feed.subscribe(metal="gold", changes_only=True, history=True)
            got = [await anext(ticks) for _ in range(4)]
            assert [(tick.at.hour, str(tick.spot)) for tick in got[:3]] == [(7, "580"), (9, "581"), (10, "580")]
            assert not got[3].backfilled

    async def test_failed_backfill_is_logged_and_feed_continues(self, make, clock, caplog):
        history = self.History(DOWN)
        history.may_return.set()
        async with make((GOLD,), history=history) as feed:
            await clock.advance(1)
            tick = await anext(feed.subscribe(history=True))
            assert not tick.backfilled
            assert "the feed starts without its history: TransportError" in caplog.text

    async def test_history_of_unknown_currency_is_left_out(self, make, clock):
        history = self.History(point("580", 10), point("9", 10, SILVER))
        history.may_return.set()
        async with make((GOLD,), history=history) as feed:
            await clock.advance(1)
            ticks = feed.subscribe(history=True)
            assert [(await anext(ticks)).rate.metal_type for _ in "12"] == ["gold", "gold"]

    async def test_history_after_first_poll_is_left_out(self, make, clock):
        hour = clock.wall().hour
        history = self.History(point("580", hour - 1), point("581", hour), point("582", hour + 1))
        async with make((GOLD,), history=history) as feed:
            await clock.advance(3 * 3600)
            history.may_return.set()
            await settle()
            ticks = feed.subscribe(history=True)
            got = [await anext(ticks) for _ in range(3)]
            assert [tick.backfilled for tick in got] == [True, True, False]

    async def test_backfill_starts_after_first_successful_poll(self, make, clock):
        history = self.History(point("580", 10))
        history.may_return.set()
        async with make(DOWN, DOWN, (GOLD,), history=history, max_backoff=INTERVAL) as feed:
            await clock.advance(1)
            assert history.requested == []
            await clock.advance(3 * INTERVAL)
            assert (await anext(feed.subscribe(history=True))).backfilled
            assert len(history.requested) == 1

    async def test_aclose_during_backfill_leaves_no_waiter(self, make, clock):
        history = self.History(point("580", 10))
        async with make((GOLD,), history=history) as feed:
            await clock.advance(1)
            waiting = asyncio.ensure_future(collect(feed.subscribe(history=True), []))
            await settle()
        await waiting
        assert has_no_waiters(feed)

    async def test_aclose_before_first_rates_leaves_no_waiter(self, make, clock):
        async with make(DOWN, history=self.History(point("580", 10))) as feed:
            await clock.advance(1)
        assert has_no_waiters(feed)

    async def test_subscribe_history_without_backfill_raises_invalid_input(self, make):
        async with make((GOLD,)) as feed:
            with pytest.raises(InvalidInput, match="history: needs a feed that was made with backfill") as caught:
                feed.subscribe(history=True)
            assert caught.value.field == "history"
