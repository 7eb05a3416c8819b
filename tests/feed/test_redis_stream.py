"""What a fleet does in Redis, step by step, on a real server: leases, terms, rounds, turns."""

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

from minted_connect.config import RateLimit, SystemClock
from minted_connect.core.converter import to_wire
from minted_connect.core.exact_json import dumps
from minted_connect.errors import ConfigurationError, FleetError
from minted_connect.feed.fleet.redis_stream import Entry, RedisStream, _digest, _entry, place
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
    usual = {"name": "rates", "scope": "all", "account": "me", "lease": 60.0, "keep": 1000, "limit": None}
    return RedisStream(Secret(url), **{**usual, "clock": SystemClock(), **options})


@pytest.fixture
async def join(redis_server: RedisServer) -> AsyncIterator[Join]:
    """A function that connects another member."""
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


async def publish(stream: RedisStream, term: int, rates: tuple[Rate, ...] = (GOLD,), *, unseen: float = 60.0) -> bool:
    return await stream.publish(term, rates, every=1.5, unseen=unseen, due=due(stream))


class TestLease:
    async def test_one_of_many_holds_it(self, join):
        members = [await join() for _ in range(8)]
        terms = await asyncio.gather(*[member.beat() for member in members])
        assert sorted(term > 0 for term in terms) == [False] * 7 + [True]
        again = await asyncio.gather(*[member.beat() for member in members])
        assert again == terms

    async def test_it_ends_if_nothing_is_heard_of_its_holder(self, join):
        a, b = await join(lease=1.0), await join(lease=1.0)
        first = await a.beat()
        while not (second := await b.beat()):
            pass
        assert second > first > 0
        assert not await a.beat()

    async def test_it_can_be_given_back(self, join, db):
        a, b = await join(), await join()
        assert await a.beat()
        await b.release()  # not b's to give
        assert not await b.beat()
        await a.release()
        assert await b.beat()

    async def test_beats_and_rounds_prolong_it(self, join, db):
        member = await join(lease=60.0)
        term = await member.beat()
        for prolong in (member.beat, lambda: publish(member, term)):
            db.pexpire(key(db, "lease"), 5000)
            await prolong()
            assert db.pttl(key(db, "lease")) > 50_000

    async def test_metals_and_accounts_are_apart(self, join):
        for options in ({}, {"scope": "gold"}, {"name": "others"}):
            assert await (await join(**options)).beat()
            assert not await (await join(**options)).beat()

    async def test_the_term_rises_whatever_redis_forgets(self, join, db):
        a, b = await join(), await join()
        first = await a.beat()
        await publish(a, first)
        await b.read()
        db.delete(key(db, "lease"), key(db, "state"))  # the stream knows
        second = await b.beat()
        assert second > first
        # Only the member knows: it has seen a term that Redis, its clock gone back, does not come up with by itself.
        future = second + 10**9
        b._term = future
        db.flushall()
        assert await b.beat() == future + 1

    async def test_the_term_of_a_leader_that_only_readers_remember(self, join, db):
        a, b = await join(), await join()
        await publish(a, await a.beat())
        last = 8 * 10**15  # microseconds: in the year 2223
        db.xadd(key(db, "stream"), GOOD, id=f"{last}-7")
        await b.read()
        db.flushall()
        assert await b.beat() == last + 1

    async def test_a_term_that_the_state_lost_is_made_anew(self, join, db):
        member = await join()
        first = await member.beat()
        db.delete(key(db, "state"))
        assert not await publish(member, first)
        assert await member.beat() > first


class TestFencing:
    async def test_a_deposed_leader_cannot_publish(self, join, db):
        a, b = await join(), await join()
        old = await a.beat()
        db.delete(key(db, "lease"))
        new = await b.beat()
        assert not await publish(a, old)
        assert await publish(b, new)
        assert [entry.number for entry in await b.read()] == [1]

    async def test_nor_before_the_new_one_has(self, join, db):
        a = await join()
        term = await a.beat()
        db.delete(key(db, "lease"))  # run out, and nobody has come yet
        assert not await publish(a, term)
        assert not db.keys("*:stream")

    async def test_redis_itself_refuses_an_old_term(self, join, db):
        a, b = await join(), await join()
        old = await a.beat()
        await publish(a, old)
        db.delete(key(db, "lease"))
        await publish(b, await b.beat())
        with pytest.raises(redis.ResponseError, match="equal or smaller"):
            db.xadd(key(db, "stream"), {"rates": ""}, id=f"{old}-999")

    async def test_a_foreign_entry_costs_the_leader_its_term_not_the_fleet(self, join, db):
        a = await join()
        term = await a.beat()
        await publish(a, term)
        db.xadd(key(db, "stream"), {"what": "ever"}, id=f"{term + 10**6}-7")
        assert not await publish(a, term)
        higher = await a.beat()
        assert higher == term + 10**6 + 1
        assert await publish(a, higher)
        assert [entry.number for entry in await a.read()] == [1, 2]
        assert a.corrupt == 1

    async def test_an_id_beyond_all_terms_is_said(self, join, db):
        a = await join()
        await publish(a, await a.beat())
        db.xadd(key(db, "stream"), {"what": "ever"}, id=f"{2**60}-0")
        db.delete(key(db, "lease"))
        with pytest.raises(FleetError, match="IDTOOHIGH"):
            await a.beat()


class TestRounds:
    async def test_all_read_the_same(self, join):
        a, b, c = await join(), await join(), await join()
        term = await a.beat()
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
        assert first.every == 1.5
        assert 59 < first.next <= 60

    async def test_who_comes_late_begins_with_the_last_good_one(self, join):
        a = await join()
        term = await a.beat()
        for rates in ((GOLD,), (GOLD,), (), ()):
            await publish(a, term, rates)
        b = await join()
        assert [(entry.number, bool(entry.rates)) for entry in await b.read()] == [(2, True), (3, False), (4, False)]

    async def test_reading_waits_for_the_next_and_not_for_ever(self, join):
        a, b = await join(), await join(lease=3.0)
        term = await a.beat()
        assert await b.read() == []
        reading = asyncio.ensure_future(self._first(b))
        await publish(a, term)
        assert (await reading).number == 1

    async def _first(self, member) -> Entry:
        while True:
            for entry in await member.read():
                return entry

    async def test_who_was_away_goes_on_where_it_was(self, join):
        a, b = await join(), await join()
        term = await a.beat()
        numbers = []
        for count in (1, 700, 3):  # more than are read at once
            for _ in range(count):
                await publish(a, term)
            published = (numbers or [0])[-1] + count
            while not numbers or numbers[-1] < published:
                numbers += [entry.number for entry in await b.read()]
        assert numbers == list(range(1, 705))

    async def test_the_stream_is_capped(self, join, db):
        a, b = await join(keep=3), await join(keep=3)
        term = await a.beat()
        await publish(a, term)
        assert [entry.number for entry in await b.read()] == [1]
        for _ in range(9):
            await publish(a, term)
        assert db.xlen(key(db, "stream")) == 3
        assert [entry.number for entry in await b.read()] == [8, 9, 10]

    async def test_a_fleet_that_has_ended_leaves_nothing_for_good(self, join, db):
        a = await join(limit=RateLimit(rate=1))
        await a.turn()
        await publish(a, await a.beat())
        assert {db.ttl(name) > 0 for name in db.keys("*")} == {True}
        assert len(db.keys("*")) == 4

    async def test_the_gap_is_the_time_without_rates(self, join, db):
        a = await join()
        term = await a.beat()
        await publish(a, term)
        await publish(a, term, unseen=60.0)
        db.hincrby(key(db, "state"), "good", -100 * 10**6)
        await publish(a, term, (), unseen=60.0)  # a failed poll ends no gap
        await publish(a, term, unseen=60.0)
        await publish(a, term, unseen=60.0)
        gaps = [entry.gap for entry in await a.read()]
        assert [gaps[0], gaps[1], gaps[2], gaps[4]] == [0, 0, 0, 0]
        assert 100 < gaps[3] < 160

    async def test_the_time_never_goes_back(self, join, db):
        a = await join()
        term = await a.beat()
        await publish(a, term)
        (first,) = await a.read()
        db.hincrby(key(db, "state"), "at", 3600 * 10**6)  # as if the clock of Redis had gone back by an hour
        await publish(a, term)
        await publish(a, term)
        second, third = await a.read()
        assert second.at == first.at + 3600 * 10**6 + 1
        assert third.at == second.at + 1
        # What was measured by a clock that is ahead is not from the future.
        assert a.moment(third.at) <= a._clock.monotonic()

    async def test_times_of_redis_are_told_by_the_feeds_clock(self, join, db):
        class Skewed(SystemClock):
            def monotonic(self) -> float:
                return super().monotonic() + 1e6

        member = await join(clock=Skewed())
        for refresh in (None, member.beat):
            if refresh is not None:
                member._ahead = 0.0
                await refresh()
            seconds, more = db.time()
            now = member._clock.monotonic()
            assert now - 20 < member.moment(seconds * 10**6 + more) <= member._clock.monotonic()
            assert abs(member.time(now) - seconds) < 20

    async def test_redis_may_forget_everything(self, join, db, caplog):
        a, b = await join(), await join()
        term = await a.beat()
        for _ in range(3):
            await publish(a, term)
        before = await a.read()
        assert await b.read() == before
        db.flushall()
        assert not await publish(a, term)
        term = await a.beat()
        await publish(a, term)
        (after,) = await b.read()
        assert after.number == before[-1].number + 1
        assert after.at > before[-1].at

    async def test_a_stream_that_begins_anew_is_followed_from_its_beginning(self, join, db, caplog):
        a = await join()
        term = await a.beat()
        await publish(a, term)
        b = await join()
        assert await a.read() == await b.read()
        db.flushall()
        # Ids that this member never saw were higher: somebody else leads, who knows less, on a clock gone back.
        b.after = f"{term + 10**12}-5"
        assert not await publish(a, term)
        await publish(a, await a.beat())
        assert not await b.beat()
        assert [entry.number for entry in await b.read()] == [2]
        assert "begins anew" in caplog.text


GOOD = {
    "version": "1",
    "at": "1771590477000000",
    "gap": "0",
    "every": "1.0",
    "next": "1.0",
    "rates": dumps(to_wire((GOLD,))).decode(),
}


class TestCorruptEntries:
    @pytest.mark.parametrize(
        "spoilt",
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
    async def test_are_skipped_counted_and_logged(self, join, db, caplog, spoilt):
        a, b = await join(), await join()
        term = await a.beat()
        await publish(a, term)
        fields = {name: value for name, value in {**GOOD, **spoilt}.items() if value is not None}
        db.xadd(key(db, "stream"), fields or {"x": "y"}, id=f"{term}-2")
        db.hset(key(db, "state"), "number", 2)
        await publish(a, term)
        with caplog.at_level(logging.WARNING, "minted_connect.feed"):
            assert [entry.number for entry in await b.read()] == [1, 3]
        assert b.corrupt == 1
        assert f"entry {term}-2 of the fleet's stream cannot be read" in caplog.text

    async def test_this_is_how_a_good_one_looks(self, join, db):
        a = await join()
        await publish(a, await a.beat())
        db.xadd(key(db, "stream"), GOOD, id="9000000000000000-9")
        one, other = await a.read()
        assert (a.corrupt, one.rates, other.rates) == (0, (GOLD,), (GOLD,))

    @given(fields=st.dictionaries(st.sampled_from([name.encode() for name in GOOD]), st.binary(max_size=40)))
    @settings(deadline=None)
    def test_no_entry_is_fatal(self, fields):
        good = {name.encode(): value.encode() for name, value in GOOD.items()}
        _entry("1-1", {**good, **fields})
        _entry("1-1", fields)


class TestTurns:
    async def test_one_bucket_for_all(self, join, db):
        limit = RateLimit(rate=0.1, burst=3)
        members = [await join(scope=scope, limit=limit) for scope in ("gold", "silver", "all")]
        waits = [await member.turn() for member in (*members, *members)]
        assert waits[:3] == [0, 0, 0]
        passed = 5.0  # what a slow machine may take
        for wait, least in zip(waits[3:], (10, 20, 30), strict=True):
            assert least - passed < wait <= least
        other = await join(account="another", limit=limit)
        assert await other.turn() == 0

    async def test_turns_that_nobody_took_come_to_a_burst_and_no_more(self, join, db):
        member = await join(limit=RateLimit(rate=0.1, burst=2))
        db.set(f"{{{PREFIX}:{_digest('me')}}}:bucket", 1)  # since 1970
        assert [await member.turn() for _ in range(2)] == [0, 0]
        assert 5 < await member.turn() <= 10

    async def test_without_a_limit_redis_is_not_asked(self, join, db):
        member = await join()
        await member.aclose()
        assert await member.turn() == 0

    async def test_the_bucket_is_forgotten_when_it_is_full(self, join, db):
        member = await join(limit=RateLimit(rate=2))
        await member.turn()
        assert 0 < db.pttl(key(db, "bucket")) <= 1500


class TestTrouble:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            (url_of(1), "ConnectionError"),
            ("unix:///nowhere/redis.sock", "unix:///nowhere/redis.sock"),
        ],
    )
    async def test_nobody_there(self, url, said):
        stream = member_at(url)
        with pytest.raises(FleetError, match=said) as caught:
            await stream.open()
        assert PASSWORD not in repr(caught.value)
        assert stream.place in str(caught.value)
        assert caught.value.safe_to_retry

    async def test_a_wrong_password(self, redis_server):
        stream = member_at(url_of(redis_server.port, "canary-wrong"))
        with pytest.raises(FleetError, match=rf"redis://127.0.0.1:{redis_server.port}/0 cannot be used") as caught:
            await stream.open()
        assert "canary" not in repr(caught.value)

    async def test_who_does_not_answer(self):
        silent = socket.create_server(("127.0.0.1", 0))
        with silent:
            stream = member_at(url_of(silent.getsockname()[1]), lease=0.3)
            with pytest.raises(FleetError, match=r"gave no answer within 0\.1 s"):
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
def test_urls_show_no_password(url, shown):
    assert place(Secret(url)) == shown


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
def test_what_is_no_url_of_redis_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"Fleet\.url: must be a URL like") as caught:
        place(Secret(url))
    assert "ary@" not in str(caught.value)
