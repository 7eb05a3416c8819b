"""Fleets on a real Redis server: shared rounds, failed polls, and outages of Redis."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from minted_connect import (
    AsyncMintedConnect,
    AuthenticationFailed,
    ConfigurationError,
    Fleet,
    FleetError,
    MintedConnect,
    RateFeed,
    RateLimit,
    Tick,
)
from minted_connect.clock import SystemClock
from minted_connect.sandbox import ThreadedSandbox
from tests.feed.conftest import INTERVAL
from tests.support.redis_server import PASSWORD, TcpProxy, running, url_of

pytestmark = pytest.mark.anyio

LEASE = 1.0
RATES = "*/rates"


def polls(sandbox: Any) -> int:
    return len([request for request in sandbox.requests.of("rates.current") if request.status != 401])


def fleet_at(url: str, **options: Any) -> Fleet:
    return Fleet(url, **{"lease": LEASE, **options})


def gold(feed: RateFeed, **options: Any) -> Any:
    return feed.subscribe(metal="gold", **{"buffer": 10_000, **options})


async def take(ticks: Any, until: Callable[[Tick], bool]) -> list[Tick]:
    """Return the ticks up to and including the first that satisfies the condition."""
    taken: list[Tick] = []
    async with asyncio.timeout(20):
        async for tick in ticks:
            taken.append(tick)
            if until(tick):
                return taken
    raise AssertionError("the feed ended")


def find_leader(*feeds: RateFeed) -> RateFeed:
    (found,) = [feed for feed in feeds if feed._source._is_leader()]
    return found


def is_in_order(ticks: list[Tick]) -> bool:
    """Return whether the numbers and times of the ticks that are not stale increase strictly."""
    fresh = [tick for tick in ticks if not tick.stale]
    numbers = [tick.number for tick in fresh]
    times = [tick.at for tick in fresh]
    return numbers == sorted(set(numbers)) and times == sorted(set(times))


class TestSharedRounds:
    async def test_one_member_polls_and_all_receive_same_ticks(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url)
        feeds = [await member(fleet) for _ in range(4)]
        streams = [gold(feed) for feed in feeds]
        seen = [await take(ticks, lambda tick: tick.number >= 20) for ticks in streams]
        last = [{tick.number: (tick.rate, tick.at) for tick in ticks} for ticks in seen]
        common = set.intersection(*[set(ticks) for ticks in last])
        assert len(common) >= 15
        assert all(one[number] == last[0][number] for one in last for number in common)
        for ticks in seen:
            numbers = [tick.number for tick in ticks]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
        leading = find_leader(*feeds)
        published = max(feed._hub.round for feed in feeds)
        assert published <= polls(sandbox) <= leading._source._poller.polls
        assert [feed._source._poller.polls for feed in feeds if feed is not leading] == [0, 0, 0]

    async def test_late_member_receives_last_round_without_poll(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url, lease=30)
        first = await member(fleet, interval=3600)
        known = await anext(gold(first))
        late = await member(fleet, interval=3600)
        tick = await anext(gold(late))
        assert (tick.number, tick.rate, tick.at, tick.stale) == (1, known.rate, known.at, False)
        assert tick.age >= known.age - 1
        assert polls(sandbox) == 1

    async def test_successor_of_closed_leader_keeps_interval(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url)
        first = await member(fleet, interval=1, jitter=0)
        await anext(gold(first))
        second = await member(fleet, interval=1, jitter=0)
        ticks = gold(second)
        one = await anext(ticks)
        await first.aclose()
        two = await anext(ticks)
        assert (one.number, two.number, two.stale, two.gap) == (1, 2, False, 0)
        # The second leader polled when the next poll of the first leader was due.
        assert two.at - one.at > timedelta(seconds=0.9)

    async def test_feeds_with_different_metals_are_separate_fleets(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url)
        gold_only, silver_only = await member(fleet, metals="gold"), await member(fleet, metals=["silver"])
        assert (await anext(gold_only.subscribe())).rate.metal_type == "gold"
        assert (await anext(silver_only.subscribe())).rate.metal_type == "silver"
        assert gold_only._source._is_leader() and silver_only._source._is_leader()

    def test_blocking_clients_share_rounds(self, redis_server):
        fleet = fleet_at(redis_server.url)
        with (
            ThreadedSandbox(seed=1) as sandbox,
            MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as one,
            MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as other,
            one.rates.feed(interval=INTERVAL, fleet=fleet) as first,
            other.rates.feed(interval=INTERVAL, fleet=fleet) as second,
        ):
            a, b = first.subscribe(buffer=100, metal="gold"), second.subscribe(buffer=100, metal="gold")
            mine, theirs = [next(a) for _ in range(5)], [next(b) for _ in range(5)]
            assert {tick.number: tick.at for tick in mine}.items() & {tick.number: tick.at for tick in theirs}.items()
            assert len({tick.at for tick in mine} | {tick.at for tick in theirs}) <= polls(sandbox)


class TestFailedPolls:
    async def test_failed_polls_are_stale_for_all_members(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url)
        feeds = [await member(fleet, max_backoff=INTERVAL, breaker=None) for _ in range(2)]
        streams = [gold(feed) for feed in feeds]
        for ticks in streams:
            await anext(ticks)
        sandbox.faults.add("status", path=RATES, times=3, status=503)
        for ticks in streams:
            await take(ticks, lambda tick: tick.stale)
            (*_, fresh) = await take(ticks, lambda tick: not tick.stale)
            assert fresh.number > 3
        assert [feed.failures for feed in feeds] == [3, 3]

    async def test_retry_after_delays_successor(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url)
        sandbox.faults.add("status", path=RATES, times=1, status=429, headers={"Retry-After": "3600"})
        first = await member(fleet)
        second = await member(fleet)
        while not second.failures:
            await asyncio.sleep(0.01)
        polls_before = polls(sandbox)
        await first.aclose()
        while not second._source._is_leader():
            await asyncio.sleep(0.01)
        for _ in range(10):
            await asyncio.sleep(0.01)  # several intervals without a poll
        assert polls(sandbox) == polls_before == 1
        assert second._source._next_poll_at - SystemClock().monotonic() > 3500

    async def test_leader_with_wrong_credentials_releases_lease(self, member, redis_server, sandbox):
        async with AsyncMintedConnect(sandbox.username, "wrong", base_url=sandbox.url) as minted:
            feed = minted.rates.feed(interval=INTERVAL, fleet=fleet_at(redis_server.url, lease=60))
            with pytest.raises(AuthenticationFailed):
                async with feed:
                    try:
                        await anext(feed.subscribe())
                    finally:
                        with redis_server.client() as db:  # although the feed is not closed yet
                            assert not db.keys("*:lease")
        right = await member(fleet_at(redis_server.url, lease=60))
        assert not (await anext(gold(right))).stale


class TestRedisOutage:
    async def test_open_without_redis_raises_fleet_error(self, sandbox):
        fleet = Fleet(url_of(1), lease=LEASE)
        login = {"username": sandbox.username, "password": sandbox.password, "base_url": sandbox.url}
        async with AsyncMintedConnect(**login) as minted:
            with pytest.raises(FleetError, match=r"redis://127\.0\.0\.1:1/0") as caught:
                async with minted.rates.feed(interval=1, fleet=fleet):
                    pass
        with (
            MintedConnect(**login) as blocking,
            pytest.raises(FleetError, match=r"redis://127\.0\.0\.1:1/0") as again,
            blocking.rates.feed(interval=1, fleet=fleet),
        ):
            pass
        assert "canary" not in f"{caught.value!r}{again.value!r}{fleet!r}"
        assert len(sandbox.requests) == 0

    async def test_rounds_stay_in_order_after_redis_restart(self, member, stoppable_redis, sandbox, caplog):
        fleet = fleet_at(stoppable_redis.url)
        feeds = [await member(fleet) for _ in range(3)]
        streams = [gold(feed) for feed in feeds]
        seen = [await take(ticks, lambda tick: tick.number >= 5) for ticks in streams]
        stoppable_redis.stop()
        for ticks, before in zip(streams, seen, strict=True):
            before.extend(await take(ticks, lambda tick: tick.stale))
            assert before[-1].age > 0
        assert all(isinstance(feed.last_error, FleetError) for feed in feeds)
        polls_before = polls(sandbox)
        await asyncio.to_thread(stoppable_redis.start)
        for ticks, before in zip(streams, seen, strict=True):
            before.extend(await take(ticks, lambda tick: not tick.stale))
            before.extend(await take(ticks, lambda tick: not tick.stale))
            assert is_in_order(before)
            assert [tick.gap > 0 for tick in before[-2:]] == [True, False]
        assert polls(sandbox) - polls_before < 50  # one process polls again
        assert PASSWORD not in caplog.text
        find_leader(*feeds)

    async def test_members_do_not_poll_while_redis_is_down(self, member, stoppable_redis, sandbox):
        feeds = [await member(fleet_at(stoppable_redis.url)) for _ in range(2)]
        streams = [gold(feed) for feed in feeds]
        for ticks in streams:
            await anext(ticks)
        stoppable_redis.stop()
        for ticks in streams:
            await take(ticks, lambda tick: tick.stale)
        while any(feed._source._is_leader() for feed in feeds):
            await asyncio.sleep(0.01)
        await asyncio.sleep(LEASE)  # a poll that began before the lease expired may still be in flight
        polls_before = polls(sandbox)
        await asyncio.sleep(LEASE)
        assert not any(feed._source._is_leader() for feed in feeds)
        assert polls(sandbox) == polls_before

    async def test_leader_with_rate_limit_waits_for_redis(self, member, stoppable_redis, sandbox):
        fleet = fleet_at(stoppable_redis.url, lease=60, rate_limit=RateLimit(rate=100))
        feed = await member(fleet)
        ticks = gold(feed)
        await take(ticks, lambda tick: tick.number >= 3)
        stoppable_redis.stop()
        await take(ticks, lambda tick: tick.stale)
        await asyncio.sleep(4 * INTERVAL)  # a poll that was permitted before may still be in flight
        polls_before = polls(sandbox)
        await asyncio.sleep(10 * INTERVAL)
        assert feed._source._is_leader()
        assert polls(sandbox) == polls_before
        await asyncio.to_thread(stoppable_redis.start)
        await take(ticks, lambda tick: not tick.stale)

    async def test_stream_read_again_repeats_no_tick(self, member, redis_server, sandbox, monkeypatch):
        feed = await member(fleet_at(redis_server.url))
        ticks = gold(feed)
        seen = await take(ticks, lambda tick: tick.number >= 3)
        stream = feed._source._stream
        read, rereads = stream.read, 0

        async def read_all():
            nonlocal rereads
            rereads += 1
            stream.last_id = "0-0"  # as after a failover to a delayed replica
            return await read()

        monkeypatch.setattr(stream, "read", read_all)
        seen += await take(ticks, lambda tick: tick.number >= seen[-1].number + 5)
        assert rereads > 1
        assert is_in_order(seen)
        assert {tick.missed for tick in seen} == {0}

    async def test_leader_that_loses_lease_in_acquire_does_not_poll(self, member, redis_server, sandbox):
        waiting, go = asyncio.Event(), asyncio.Event()

        class HeldClock(SystemClock):
            async def sleep(self, seconds):
                if seconds < 10:
                    return await super().sleep(seconds)
                waiting.set()
                return await go.wait()

        fleet = fleet_at(redis_server.url, rate_limit=RateLimit(rate=0.01))
        feed = await member(fleet, clock=HeldClock())
        await anext(gold(feed))
        await waiting.wait()
        with redis_server.client() as db:
            (lease,) = db.keys("*:lease")
            db.set(lease, "another member", px=60_000)
        while feed._source._is_leader():
            await asyncio.sleep(0.01)
        go.set()
        while feed._source._lease_acquired.is_set():
            await asyncio.sleep(0.01)
        assert polls(sandbox) == 1

    async def test_rejected_round_ends_leadership(self, member, redis_server, sandbox, caplog):
        feed = await member(fleet_at(redis_server.url, lease=60))
        await anext(gold(feed))
        with redis_server.client() as db:
            (lease,) = db.keys("*:lease")
            db.set(lease, "another member", px=60_000)
        while "was rejected by the fleet" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not feed._source._is_leader()

    async def test_disconnected_follower_continues_without_loss(self, member, redis_server, sandbox, caplog):
        async with TcpProxy(redis_server.port) as proxy:
            first = await member(fleet_at(redis_server.url))
            await anext(gold(first))
            second = await member(fleet_at(proxy.url))
            mine, theirs = gold(first), gold(second)
            before = await take(theirs, lambda tick: tick.number >= 5)
            proxy.disconnect()
            leader_ticks = await take(mine, lambda tick: tick.number >= before[-1].number + 20)
            proxy.reconnect()
            after = await take(theirs, lambda tick: tick.number >= leader_ticks[-1].number)
            fresh = [tick.number for tick in [*before, *after] if not tick.stale]
            assert fresh == list(range(fresh[0], fresh[-1] + 1))
            assert {tick.missed for tick in after} == {0}

    async def test_follower_behind_stream_reports_missed_rounds(self, member, redis_server, sandbox, caplog):
        async with TcpProxy(redis_server.port) as proxy:
            first = await member(fleet_at(redis_server.url, keep=5))
            await anext(gold(first))
            second = await member(fleet_at(proxy.url, keep=5))
            mine, theirs = gold(first), gold(second)
            before = await take(theirs, lambda tick: tick.number >= 3)
            proxy.disconnect()
            await take(mine, lambda tick: tick.number >= before[-1].number + 20)
            proxy.reconnect()
            after = await take(theirs, lambda tick: tick.missed > 0)
            assert (
                after[-1].number
                == [tick.number for tick in [*before, *after] if not tick.stale][-2] + after[-1].missed + 1
            )
            assert "were deleted before this process could read them" in caplog.text

    async def test_disconnected_leader_is_replaced(self, member, redis_server, sandbox):
        async with TcpProxy(redis_server.port) as proxy:
            first = await member(fleet_at(proxy.url))
            await anext(gold(first))
            second = await member(fleet_at(redis_server.url))
            ticks = gold(second)
            seen = [await anext(ticks)]
            assert find_leader(first, second) is first
            proxy.disconnect()
            seen += await take(ticks, lambda tick: tick.gap > 0)
            assert find_leader(first, second) is second
            assert seen[-1].gap < 2 * LEASE
            assert is_in_order(seen)
            proxy.reconnect()
            # The first member is a follower now.
            await take(gold(first), lambda tick: tick.number > seen[-1].number)
            assert find_leader(first, second) is second

    async def test_failover_to_replica_keeps_order_of_rounds(self, member, stoppable_redis, sandbox):
        with running("--replicaof", f"127.0.0.1 {stoppable_redis.port}") as replica:
            async with TcpProxy(stoppable_redis.port) as proxy:
                fleet = fleet_at(proxy.url)
                feeds = [await member(fleet) for _ in range(2)]
                streams = [gold(feed) for feed in feeds]
                seen = [await take(ticks, lambda tick: tick.number >= 5) for ticks in streams]
                with replica.client() as db:
                    while not db.keys("*:stream"):
                        await asyncio.sleep(0.01)
                    stoppable_redis.stop()
                    proxy.disconnect()
                    proxy.reconnect(replica.port)
                    # The replica rejects writes until it is promoted.
                    for ticks, before in zip(streams, seen, strict=True):
                        before.extend(await take(ticks, lambda tick: tick.stale))
                    db.replicaof("NO", "ONE")
                for ticks, before in zip(streams, seen, strict=True):
                    before.extend(await take(ticks, lambda tick: not tick.stale))
                    before.extend(await take(ticks, lambda tick: not tick.stale))
                    assert is_in_order(before)
                find_leader(*feeds)

    async def test_corrupt_entry_is_skipped_and_logged(self, member, redis_server, sandbox, caplog):
        feeds = [await member(fleet_at(redis_server.url)) for _ in range(2)]
        streams = [gold(feed) for feed in feeds]
        for ticks in streams:
            await take(ticks, lambda tick: tick.number >= 2)
        with redis_server.client() as db:
            (stream,) = db.keys("*:stream")
            ((top, _),) = db.xrevrange(stream, count=1)
            term, number = top.split("-")
            added = None
            while added is None:
                number = int(number) + 1
                with suppress(Exception):
                    added = db.xadd(stream, {"rates": "[{"}, id=f"{term}-{number + 1000}")
        for feed, ticks in zip(feeds, streams, strict=True):
            while not feed._source._stream.corrupt_entries:
                await anext(ticks)
            before = feed.latest(metal="gold").number
            await take(ticks, lambda tick, before=before: tick.number > before and not tick.stale)
            assert feed._source._stream.corrupt_entries == 1
        assert caplog.text.count(f"entry {added} of the fleet's stream cannot be read") == 2


class TestClocks:
    async def test_members_with_different_clocks_agree_on_time(self, member, redis_server, sandbox):
        class SkewedClock(SystemClock):
            def monotonic(self):
                return super().monotonic() + 12345

            def wall(self):
                return super().wall() - timedelta(hours=5)

        first = await member(fleet_at(redis_server.url), clock=SkewedClock())
        await anext(gold(first))
        second = await member(fleet_at(redis_server.url))
        mine, theirs = gold(first), gold(second)
        a = {tick.number: tick for tick in await take(mine, lambda tick: tick.number >= 6)}
        b = {tick.number: tick for tick in await take(theirs, lambda tick: tick.number >= 6)}
        for number in a.keys() & b.keys():
            assert a[number].at == b[number].at
            assert abs(a[number].age - b[number].age) < 5
        assert a.keys() & b.keys()


class TestRateLimit:
    async def test_feeds_of_account_share_rate_limit(self, member, redis_server, sandbox):
        fleet = fleet_at(redis_server.url, rate_limit=RateLimit(rate=10))
        feeds = [
            await member(fleet, metals=metal, interval=0.001) for metal in ("gold", "silver", None, ["gold", "silver"])
        ]
        started = asyncio.get_running_loop().time()
        before = polls(sandbox)
        for feed in feeds:
            await take(feed.subscribe(buffer=1000), lambda tick: tick.number >= 3)
        elapsed = asyncio.get_running_loop().time() - started
        assert polls(sandbox) - before <= 10 * elapsed + 2


class TestClose:
    async def test_aclose_right_after_open_leaves_no_lease(self, sandbox, redis_server):
        async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
            feed = minted.rates.feed(interval=1, fleet=fleet_at(redis_server.url))
            await feed.__aenter__()
            await feed.aclose()
            await feed.aclose()
        with redis_server.client() as db:
            assert not db.keys("*:lease")

    async def test_aclose_ends_subscription(self, member, redis_server):
        feed = await member(fleet_at(redis_server.url))
        ticks = gold(feed)
        await anext(ticks)
        waiting = asyncio.ensure_future(take(ticks, lambda _: False))
        await feed.aclose()
        with pytest.raises(AssertionError, match="the feed ended"):
            await waiting


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"url": 5}, "Fleet.url"),
        ({"url": "http://x"}, "Fleet.url"),
        ({"name": ""}, "Fleet.name"),
        ({"name": "a{b}"}, "Fleet.name"),
        ({"name": "a\nb"}, "Fleet.name"),
        ({"name": None}, "Fleet.name"),
        *(
            ({"lease": lease}, "Fleet.lease")
            for lease in (0, -1, 0.1, 3601, float("nan"), float("inf"), "1", None, True)
        ),
        *(({"keep": keep}, "Fleet.keep") for keep in (0, -1, 1.5, "5", True, 10**9)),
        ({"rate_limit": 5}, "Fleet.rate_limit"),
    ],
)
def test_invalid_fleet_option_raises_configuration_error(options, field):
    with pytest.raises(ConfigurationError, match=re.escape(field)):
        Fleet(**{"url": "redis://localhost", **options})


def test_fleet_without_redis_py_names_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r'pip install "minted-connect\[redis\]"'):
        Fleet("redis://localhost")


def test_repr_of_fleet_hides_password():
    fleet = Fleet("redis://someone:canary@localhost/1")
    assert "canary" not in f"{fleet!r}{fleet}"
    assert fleet.place == "redis://localhost:6379/1"


def test_redis_is_not_imported_without_fleet():
    from tests.support.subprocesses import run_script

    assert run_script("import sys, minted_connect.feed; print('redis' in sys.modules)") == ["False"]
