"""RedisStream on a real server: leases, terms, rounds, and the rate limit."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import attrs
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect.clock import SystemClock
from minted_connect.config import RateLimit
from minted_connect.core.converter import unstructure
from minted_connect.core.exact_json import dumps
from minted_connect.errors import ConfigurationError, FleetError
from minted_connect.feed.fleet.entries import Entry, parse_entry
from minted_connect.feed.fleet.redis_stream import RedisStream, _digest
from minted_connect.feed.fleet.redis_url import redact_url
from minted_connect.models.rate import Rate
from minted_connect.secret import Secret
from tests.feed.ticks import GOLD
from tests.support.redis_server import PASSWORD, RedisServer, url_of

pytestmark = pytest.mark.anyio

PREFIX = "minted_connect:rates"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


Join = Callable[..., Any]


def member_at(url: str, **options: Any) -> RedisStream:
    defaults = {"name": "rates", "scope": "all", "account": "me", "lease": 60.0, "keep": 1000, "limit": None}
    return RedisStream(Secret(url), **{**defaults, "clock": SystemClock(), **options})


@pytest.fixture
async def join(redis_server: RedisServer) -> AsyncIterator[Join]:
    """Return a function that connects a new member."""
    async with AsyncExitStack() as stack:

        async def join(**options: Any) -> RedisStream:
            member = member_at(redis_server.url, **options)
            await member.open()
            stack.push_async_callback(member.aclose)
            return member

        yield join


@pytest.fixture
def db(redis_server: RedisServer) -> Any:
    with redis_server.client() as client:
        yield client


def key(db: Any, kind: str) -> str:
    (found,) = db.keys(f"*:{kind}")
    return str(found)


def due(stream: RedisStream, seconds: float = 60.0) -> float:
    return stream._clock.monotonic() + seconds


async def publish(
    stream: RedisStream, term: int, rates: tuple[Rate, ...] = (GOLD,), *, gap_after: float = 60.0
) -> bool:
    return await stream.publish(term, rates, interval=1.5, gap_after=gap_after, next_poll_at=due(stream))


class TestLease:
    async def test_lease_is_held_by_one_of_many_members(self, join):
        members = [await join() for _ in range(8)]
        terms = await asyncio.gather(*[member.acquire_lease() for member in members])
        assert sorted(term > 0 for term in terms) == [False] * 7 + [True]
        again = await asyncio.gather(*[member.acquire_lease() for member in members])
        assert again == terms

    async def test_lease_that_is_not_renewed_expires(self, join):
        a, b = await join(lease=1.0), await join(lease=1.0)
        first = await a.acquire_lease()
        while not (second := await b.acquire_lease()):
            pass
        assert second > first > 0
        assert not await a.acquire_lease()

    async def test_released_lease_can_be_acquired(self, join, db):
        a, b = await join(), await join()
        assert await a.acquire_lease()
        await b.release_lease()  # b does not hold it
        assert not await b.acquire_lease()
        await a.release_lease()
        assert await b.acquire_lease()

    async def test_renewal_and_publish_extend_lease(self, join, db):
        member = await join(lease=60.0)
        term = await member.acquire_lease()
        for extend in (member.acquire_lease, lambda: publish(member, term)):
            db.pexpire(key(db, "lease"), 5000)
            await extend()
            assert db.pttl(key(db, "lease")) > 50_000

    async def test_lease_is_separate_for_each_scope_and_name(self, join):
        for options in ({}, {"scope": "gold"}, {"name": "others"}):
            assert await (await join(**options)).acquire_lease()
            assert not await (await join(**options)).acquire_lease()

    async def test_term_increases_after_redis_loses_state(self, join, db):
        a, b = await join(), await join()
        first = await a.acquire_lease()
        await publish(a, first)
        await b.read()
        db.delete(key(db, "lease"), key(db, "state"))  # the term can still be read from the stream
        second = await b.acquire_lease()
        assert second > first
        # The clock of Redis has gone back: the member has seen a term above the current time of Redis.
        future = second + 10**9
        b._highest_term = future
        db.flushall()
        assert await b.acquire_lease() == future + 1

    async def test_term_exceeds_highest_term_read_from_stream(self, join, db):
        a, b = await join(), await join()
        await publish(a, await a.acquire_lease())
        last = 8 * 10**15  # microseconds: in the year 2223
        db.xadd(key(db, "stream"), GOOD, id=f"{last}-7")
        await b.read()
        db.flushall()
        assert await b.acquire_lease() == last + 1

    async def test_lost_term_is_replaced_by_higher_term(self, join, db):
        member = await join()
        first = await member.acquire_lease()
        db.delete(key(db, "state"))
        assert not await publish(member, first)
        assert await member.acquire_lease() > first


class TestFencing:
    async def test_former_leader_cannot_publish(self, join, db):
        a, b = await join(), await join()
        old = await a.acquire_lease()
        db.delete(key(db, "lease"))
        new = await b.acquire_lease()
        assert not await publish(a, old)
        assert await publish(b, new)
        assert [entry.number for entry in await b.read()] == [1]

    async def test_leader_with_expired_lease_cannot_publish(self, join, db):
        a = await join()
        term = await a.acquire_lease()
        db.delete(key(db, "lease"))  # expired, and no other member has acquired it
        assert not await publish(a, term)
        assert not db.keys("*:stream")

    async def test_redis_rejects_entry_of_old_term(self, join, db):
        a, b = await join(), await join()
        old = await a.acquire_lease()
        await publish(a, old)
        db.delete(key(db, "lease"))
        await publish(b, await b.acquire_lease())
        with pytest.raises(redis.ResponseError, match="equal or smaller"):
            db.xadd(key(db, "stream"), {"rates": ""}, id=f"{old}-999")

    async def test_foreign_entry_ends_only_current_term(self, join, db):
        a = await join()
        term = await a.acquire_lease()
        await publish(a, term)
        db.xadd(key(db, "stream"), {"what": "ever"}, id=f"{term + 10**6}-7")
        assert not await publish(a, term)
        higher = await a.acquire_lease()
        assert higher == term + 10**6 + 1
        assert await publish(a, higher)
        assert [entry.number for entry in await a.read()] == [1, 2]
        assert a.corrupt_entries == 1

    async def test_id_above_all_terms_raises_fleet_error(self, join, db):
        a = await join()
        await publish(a, await a.acquire_lease())
        db.xadd(key(db, "stream"), {"what": "ever"}, id=f"{2**60}-0")
        db.delete(key(db, "lease"))
        with pytest.raises(FleetError, match="IDTOOHIGH"):
            await a.acquire_lease()


class TestRounds:
    async def test_all_members_read_same_rounds(self, join):
        a, b, c = await join(), await join(), await join()
        term = await a.acquire_lease()
        odd = attrs.evolve(GOLD, raw={"unknown": [1, Decimal("2.50")]}, spot_price=Decimal("1E+3"))
        assert await publish(a, term)
        assert await publish(a, term, ())
        assert await publish(a, term, (GOLD, odd))
        seen = [await member.read() for member in (a, b, c)]
        assert seen[0] == seen[1] == seen[2]
        first, failed, third = seen[0]
        assert (first.number, failed.number, third.number) == (1, 2, 3)
        assert first.rates == (GOLD,)
        assert str(first.rates[0].spot_price) == "586.480"
        assert failed.rates == ()
        assert third.rates[1].raw["unknown"] == [1, Decimal("2.50")]
        assert first.at < failed.at < third.at
        assert first.interval == 1.5
        assert 59 < first.next_poll_in <= 60

    async def test_late_member_starts_at_last_successful_round(self, join):
        a = await join()
        term = await a.acquire_lease()
        for rates in ((GOLD,), (GOLD,), (), ()):
            await publish(a, term, rates)
        b = await join()
        assert [(entry.number, bool(entry.rates)) for entry in await b.read()] == [(2, True), (3, False), (4, False)]

    async def test_read_waits_for_next_round(self, join):
        a, b = await join(), await join(lease=3.0)
        term = await a.acquire_lease()
        assert await b.read() == []
        reading = asyncio.ensure_future(self._first(b))
        await publish(a, term)
        assert (await reading).number == 1

    async def _first(self, member) -> Entry:
        while True:
            for entry in await member.read():
                return entry

    async def test_member_far_behind_reads_every_round(self, join):
        a, b = await join(), await join()
        term = await a.acquire_lease()
        numbers = []
        for count in (1, 700, 3):  # more than one read returns
            for _ in range(count):
                await publish(a, term)
            published = (numbers or [0])[-1] + count
            while not numbers or numbers[-1] < published:
                numbers += [entry.number for entry in await b.read()]
        assert numbers == list(range(1, 705))

    async def test_stream_keeps_configured_number_of_rounds(self, join, db):
        a, b = await join(keep=3), await join(keep=3)
        term = await a.acquire_lease()
        await publish(a, term)
        assert [entry.number for entry in await b.read()] == [1]
        for _ in range(9):
            await publish(a, term)
        assert db.xlen(key(db, "stream")) == 3
        assert [entry.number for entry in await b.read()] == [8, 9, 10]

    async def test_all_keys_expire(self, join, db):
        a = await join(limit=RateLimit(rate=1))
        await a.reserve_request()
        await publish(a, await a.acquire_lease())
        assert {db.ttl(name) > 0 for name in db.keys("*")} == {True}
        assert len(db.keys("*")) == 4

    async def test_gap_is_time_without_rates(self, join, db):
        a = await join()
        term = await a.acquire_lease()
        await publish(a, term)
        await publish(a, term, gap_after=60.0)
        db.hincrby(key(db, "state"), "good", -100 * 10**6)
        await publish(a, term, (), gap_after=60.0)  # a failed poll does not end the gap
        await publish(a, term, gap_after=60.0)
        await publish(a, term, gap_after=60.0)
        gaps = [entry.gap for entry in await a.read()]
        assert [gaps[0], gaps[1], gaps[2], gaps[4]] == [0, 0, 0, 0]
        assert 100 < gaps[3] < 160

    async def test_round_that_was_not_added_does_not_end_gap(self, join, db):
        a = await join()
        term = await a.acquire_lease()
        await publish(a, term)
        before = db.hgetall(key(db, "state"))
        db.acl_setuser("default", enabled=True, commands=["-xadd"])
        try:
            with pytest.raises(FleetError, match="NOPERM"):
                await publish(a, term)
        finally:
            db.acl_setuser("default", enabled=True, commands=["+@all"])
        after = db.hgetall(key(db, "state"))
        assert {name: after[name] for name in ("good", "id", "number", "at")} == {
            name: before[name] for name in ("good", "id", "number", "at")
        }
        assert await publish(a, term)
        assert [entry.number for entry in await a.read()] == [1, 2]

    async def test_times_of_rounds_never_decrease(self, join, db):
        a = await join()
        term = await a.acquire_lease()
        await publish(a, term)
        (first,) = await a.read()
        db.hincrby(key(db, "state"), "at", 3600 * 10**6)  # as if the clock of Redis had gone back by an hour
        await publish(a, term)
        await publish(a, term)
        second, third = await a.read()
        assert second.at == first.at + 3600 * 10**6 + 1
        assert third.at == second.at + 1
        # A time in the future of Redis is converted to the current time at most.
        assert a.to_monotonic(third.at) <= a._clock.monotonic()

    async def test_times_of_redis_are_converted_to_clock_of_feed(self, join, db):
        class SkewedClock(SystemClock):
            def monotonic(self) -> float:
                return super().monotonic() + 1e6

        member = await join(clock=SkewedClock())
        for refresh in (None, member.acquire_lease):
            if refresh is not None:
                member._clock_offset = 0.0
                await refresh()
            seconds, more = db.time()
            now = member._clock.monotonic()
            assert now - 20 < member.to_monotonic(seconds * 10**6 + more) <= member._clock.monotonic()
            assert abs(now + member._clock_offset - seconds) < 20

    async def test_flushed_redis_continues_numbers_and_times(self, join, db, caplog):
        a, b = await join(), await join()
        term = await a.acquire_lease()
        for _ in range(3):
            await publish(a, term)
        before = await a.read()
        assert await b.read() == before
        db.flushall()
        assert not await publish(a, term)
        term = await a.acquire_lease()
        await publish(a, term)
        (after,) = await b.read()
        assert after.number == before[-1].number + 1
        assert after.at > before[-1].at

    async def test_reset_stream_is_read_from_start(self, join, db, caplog):
        a = await join()
        term = await a.acquire_lease()
        await publish(a, term)
        b = await join()
        assert await a.read() == await b.read()
        db.flushall()
        # State after the clock of Redis has gone back: b has read higher ids than the new leader uses.
        b.last_id = f"{term + 10**12}-5"
        assert not await publish(a, term)
        await publish(a, await a.acquire_lease())
        assert not await b.acquire_lease()
        assert [entry.number for entry in await b.read()] == [2]
        assert "was reset" in caplog.text


GOOD = {
    "version": "1",
    "at": "1771590477000000",
    "gap": "0",
    "every": "1.0",
    "next": "1.0",
    "rates": dumps(unstructure((GOLD,))).decode(),
}


class TestCorruptEntries:
    @pytest.mark.parametrize(
        "corrupt",
        [
            {"version": "2"},
            {"at": "soon"},
            {"at": "-1"},
            {"at": "9" * 30},
            {"gap": "-5"},
            {"gap": "NaN"},
            {"every": "inf"},
            {"next": "-1"},
            {"next": "nan"},
            {"rates": "{"},
            {"rates": "null"},
            {"rates": "[{}]"},
            {"rates": GOOD["rates"].replace("586.480", '"NaN"')},
            {"rates": "\udcff".encode(errors="surrogateescape")},
            *({name: None} for name in GOOD),
        ],
        ids=repr,
    )
    async def test_corrupt_entry_is_skipped_counted_and_logged(self, join, db, caplog, corrupt):
        a, b = await join(), await join()
        term = await a.acquire_lease()
        await publish(a, term)
        fields = {name: value for name, value in {**GOOD, **corrupt}.items() if value is not None}
        db.xadd(key(db, "stream"), fields or {"x": "y"}, id=f"{term}-2")
        db.hset(key(db, "state"), "number", 2)
        await publish(a, term)
        with caplog.at_level(logging.WARNING, "minted_connect.feed"):
            assert [entry.number for entry in await b.read()] == [1, 3]
        assert b.corrupt_entries == 1
        assert f"entry {term}-2 of the fleet's stream cannot be read" in caplog.text

    async def test_valid_entry_is_read(self, join, db):
        a = await join()
        await publish(a, await a.acquire_lease())
        db.xadd(key(db, "stream"), GOOD, id="9000000000000000-9")
        one, other = await a.read()
        assert (a.corrupt_entries, one.rates, other.rates) == (0, (GOLD,), (GOLD,))

    @given(fields=st.dictionaries(st.sampled_from([name.encode() for name in GOOD]), st.binary(max_size=40)))
    @settings(deadline=None)
    def test_parse_entry_never_raises(self, fields):
        good = {name.encode(): value.encode() for name, value in GOOD.items()}
        parse_entry("1-1", {**good, **fields})
        parse_entry("1-1", fields)


class TestRateLimit:
    async def test_account_shares_one_token_bucket(self, join, db):
        limit = RateLimit(rate=0.1, burst=3)
        members = [await join(scope=scope, limit=limit) for scope in ("gold", "silver", "all")]
        waits = [await member.reserve_request() for member in (*members, *members)]
        assert waits[:3] == [0, 0, 0]
        allowance = 5.0  # for a slow machine
        for wait, least in zip(waits[3:], (10, 20, 30), strict=True):
            assert least - allowance < wait <= least
        other = await join(account="another", limit=limit)
        assert await other.reserve_request() == 0

    async def test_unused_requests_allow_one_burst(self, join, db):
        member = await join(limit=RateLimit(rate=0.1, burst=2))
        db.set(f"{{{PREFIX}:{_digest('me')}}}:bucket", 1)  # since 1970
        assert [await member.reserve_request() for _ in range(2)] == [0, 0]
        assert 5 < await member.reserve_request() <= 10

    async def test_reserve_without_limit_does_not_use_redis(self, join, db):
        member = await join()
        await member.aclose()
        assert await member.reserve_request() == 0

    async def test_token_bucket_expires_when_full(self, join, db):
        member = await join(limit=RateLimit(rate=2))
        await member.reserve_request()
        assert 0 < db.pttl(key(db, "bucket")) <= 1500


class TestErrors:
    @pytest.mark.parametrize(
        ("url", "text"),
        [
            (url_of(1), "ConnectionError"),
            ("unix:///nowhere/redis.sock", "unix:///nowhere/redis.sock"),
        ],
    )
    async def test_open_with_unreachable_server_raises_fleet_error(self, url, text):
        stream = member_at(url)
        with pytest.raises(FleetError, match=text) as caught:
            await stream.open()
        assert PASSWORD not in repr(caught.value)
        assert stream.address in str(caught.value)
        assert caught.value.safe_to_retry

    async def test_open_with_wrong_password_raises_fleet_error(self, redis_server):
        stream = member_at(url_of(redis_server.port, "canary-wrong"))
        with pytest.raises(FleetError, match=rf"redis://127.0.0.1:{redis_server.port}/0 cannot be used") as caught:
            await stream.open()
        assert "canary" not in repr(caught.value)

    async def test_open_with_silent_server_times_out(self):
        silent = socket.create_server(("127.0.0.1", 0))
        with silent:
            stream = member_at(url_of(silent.getsockname()[1]), lease=0.3)
            with pytest.raises(FleetError, match=r"did not respond within 0\.1 s"):
                await stream.open()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://u:canary@host:7000/3?socket_timeout=canary", "redis://host:7000/3"),
        ("rediss://:canary@[::1]:1/0", "rediss://[::1]:1/0"),
        ("unix://:canary@/run/redis.sock?db=2", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_redact_url_removes_password_and_query(url, shown):
    assert redact_url(Secret(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost:6379",
        "redis://",
        "redis://:can/ary@host/0",
        "redis://:12/canary@host/0",
        "redis://:can#ary@host/0",
        "redis://:canary@host:port/0",
        "redis://host/zero",
        "redis://host/0\n",
        "unix://host/path",
        "unix://",
    ],
)
def test_invalid_redis_url_raises_configuration_error(url):
    with pytest.raises(ConfigurationError, match=r"Fleet\.url: must be a URL like") as caught:
        redact_url(Secret(url))
    assert "ary@" not in str(caught.value)
