"""Redis servers that respond but reject commands, and the permissions and URL parameters that a fleet needs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest
import redis
from redis.asyncio import Redis

from minted_connect import ConfigurationError, Fleet, FleetError, JsonLinesSink, RateLimit
from minted_connect.feed.fleet import member as member_module
from tests.feed.test_fleet import LEASE, fleet_at, gold, polls, take
from tests.support.redis_server import RedisServer, TcpProxy, running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

FAILED = "cannot be used: "
RECOVERED = "can be used again"


def reject_writes(db: redis.Redis, kind: str) -> None:
    if kind == "READONLY":
        db.replicaof("127.0.0.1", "1")
    elif kind == "OOM":
        db.config_set("maxmemory", "1")
    elif kind == "NOREPLICAS":
        db.config_set("min-replicas-to-write", "1")
    elif kind == "MISCONF":
        db.config_set("dir", "/proc")
        db.config_set("save", "3600 1")
        db.bgsave()
        while db.info("persistence")["rdb_last_bgsave_status"] != "err":
            time.sleep(0.01)
    else:
        db.acl_setuser("default", enabled=True, commands=["-xadd"])


def accept_writes(db: redis.Redis, kind: str) -> None:
    if kind == "READONLY":
        db.replicaof("NO", "ONE")
    elif kind == "OOM":
        db.config_set("maxmemory", "0")
    elif kind == "NOREPLICAS":
        db.config_set("min-replicas-to-write", "0")
    elif kind == "MISCONF":
        db.config_set("save", "")
        db.config_set("stop-writes-on-bgsave-error", "no")
    else:
        db.acl_setuser("default", enabled=True, commands=["+@all"])


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with running("--enable-protected-configs", "yes") as server:
        yield server


@pytest.mark.parametrize("kind", ["READONLY", "OOM", "MISCONF", "NOREPLICAS", "NOPERM"])
async def test_rejected_writes_are_one_outage_with_one_log_line(kind, member, own_redis, sandbox, caplog):
    caplog.set_level(logging.INFO, "minted_connect.feed")
    leader = await member(fleet_at(own_redis.url))
    await take(gold(leader), lambda tick: tick.number >= 3)
    follower = await member(fleet_at(own_redis.url))
    # A follower publishes nothing: only a permission that its own writes need concerns it.
    concerned = [leader] if kind == "NOPERM" else [leader, follower]
    streams = [gold(feed) for feed in (leader, follower)]
    for ticks in streams:
        await anext(ticks)
    with own_redis.client() as db:
        reject_writes(db, kind)
        for ticks in streams:
            await take(ticks, lambda tick: tick.stale)
        await wait_until(lambda: all(feed.last_error for feed in concerned))
        until = time.monotonic() + 2.5 * LEASE
        while time.monotonic() < until:
            assert [type(feed.last_error) for feed in concerned] == [FleetError] * len(concerned)
            await asyncio.sleep(0.01)
        assert all(kind in str(feed.last_error) for feed in concerned)
        assert [caplog.text.count(FAILED), caplog.text.count(RECOVERED)] == [len(concerned), 0]
        accept_writes(db, kind)
    for ticks in streams:
        await take(ticks, lambda tick: not tick.stale)
    await wait_until(lambda: not any(feed.last_error for feed in concerned))
    await asyncio.sleep(LEASE)
    assert [caplog.text.count(FAILED), caplog.text.count(RECOVERED)] == [len(concerned)] * 2


async def test_member_does_not_poll_while_writes_are_rejected(member, own_redis, sandbox):
    feed = await member(fleet_at(own_redis.url))
    ticks = gold(feed)
    await anext(ticks)
    with own_redis.client() as db:
        reject_writes(db, "OOM")
        await take(ticks, lambda tick: tick.stale)
        await wait_until(lambda: not feed._source._is_leader())
        await asyncio.sleep(LEASE / 2)
        polls_before = polls(sandbox)
        await asyncio.sleep(LEASE)
        assert polls(sandbox) == polls_before


async def test_read_only_server_is_left_for_new_primary(member, own_redis, stoppable_redis, sandbox):
    # The connections to the old primary stay open: only new ones reach the new primary.
    async with TcpProxy(own_redis.port) as proxy:
        feed = await member(fleet_at(proxy.url))
        ticks = gold(feed)
        seen = await take(ticks, lambda tick: tick.number >= 3)
        proxy.reconnect(stoppable_redis.port)
        with own_redis.client() as db:
            reject_writes(db, "READONLY")
        seen += await take(ticks, lambda tick: tick.number > seen[-1].number + 3)
        numbers = [tick.number for tick in seen if not tick.stale]
        assert numbers == sorted(set(numbers))
        with stoppable_redis.client() as db:
            assert db.keys("*:stream")


async def test_open_with_server_that_rejects_writes_raises(member, own_redis, sandbox):
    with own_redis.client() as db:
        for kind in ("OOM", "NOREPLICAS"):
            reject_writes(db, kind)
            with pytest.raises(FleetError, match=rf"cannot be used: {kind}"):
                await member(fleet_at(own_redis.url))
            accept_writes(db, kind)
    await anext(gold(await member(fleet_at(own_redis.url))))


COMMANDS = [
    "evalsha",
    "expire",
    "get",
    "hget",
    "hset",
    "pexpire",
    "script|load",
    "set",
    "time",
    "xadd",
    "xrange",
    "xread",
    "xrevrange",
]


def url_of_user(server: RedisServer, commands: list[str], keys: str = "{minted_connect:rates:*") -> str:
    """Return the URL of a user with these permissions only."""
    with server.client() as db:
        db.execute_command(
            "ACL", "SETUSER", "fleet", "reset", "on", ">canary-pw", f"~{keys}", *[f"+{one}" for one in commands]
        )
        db.script_flush()  # otherwise `script load` is not needed
    return f"redis://fleet:canary-pw@127.0.0.1:{server.port}/0"


async def test_user_with_listed_permissions_can_use_fleet(member, own_redis, sandbox, caplog):
    fleet = fleet_at(url_of_user(own_redis, COMMANDS), rate_limit=RateLimit(rate=100))
    feed = await member(fleet)
    await take(gold(feed), lambda tick: tick.number >= 3)
    await feed.aclose()
    assert "cannot be used" not in caplog.text
    with own_redis.client() as db:
        assert not db.keys("*:lease")  # it was released


@pytest.mark.parametrize("command", COMMANDS)
async def test_open_without_permission_names_it(command, member, own_redis, sandbox):
    url = url_of_user(own_redis, [one for one in COMMANDS if one != command])
    with pytest.raises(FleetError, match=rf"NOPERM.*\+{re.escape(command)} .*~{{minted_connect:rates:\*") as caught:
        await member(fleet_at(url))
    assert "canary" not in str(caught.value)
    assert len(sandbox.requests) == 0


async def test_open_without_access_to_keys_names_pattern(member, own_redis, sandbox):
    url = url_of_user(own_redis, COMMANDS, keys="other:*")
    with pytest.raises(FleetError, match=r"NOPERM.* permissions to read and write for .*~{minted_connect:rates:\*"):
        await member(fleet_at(url))


async def test_open_without_permission_for_rate_limit_names_it(member, own_redis, sandbox):
    url = url_of_user(own_redis, COMMANDS)
    feed = await member(fleet_at(url))
    prefix = feed._source._stream._keys[0].removesuffix(":lease")
    await feed.aclose()
    url = url_of_user(own_redis, COMMANDS, keys=f"{prefix}:*")
    await (await member(fleet_at(url))).aclose()
    with pytest.raises(FleetError, match=r"NOPERM.* permissions to read and write for "):
        await member(fleet_at(url, rate_limit=RateLimit(rate=1)))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://host/0?socket_timeout=0.1", "unsupported parameters: socket_timeout;"),
        ("redis://host/0?nonsense=1&decode_responses=yes", "unsupported parameters: decode_responses, nonsense;"),
        ("redis://host/0?retry_on_timeout=1", "unsupported parameters: retry_on_timeout;"),
        ("redis://host/0?protocol=3", "unsupported parameters: protocol;"),
        ("redis://host/0?ssl_cert_reqs=none", "unsupported parameters: ssl_cert_reqs;"),
        ("redis://host/0?max_connections=", "unsupported parameters: max_connections;"),
        ("rediss://host/0?ssl_cert_reqs=maybe", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://host/0?ssl_min_version=TLSv1", "the parameter ssl_min_version has an invalid value"),
        ("redis://host?db=canary", "the parameter db has an invalid value"),
        ("redis://host?db=", "the parameter db has no value"),
        ("redis://host?ca%20nary=1", "unsupported parameters: ...;"),
        ("unix:///run/redis.sock?socket_keepalive=yes", "unsupported parameters: socket_keepalive;"),
        ("rediss://host?ssl_keyfile=/canary.pem", "ssl_keyfile needs the parameter ssl_certfile"),
        ("rediss://host?ssl_min_version=5", "the parameter ssl_min_version has an invalid value"),
        ("rediss://host?ssl_ca_certs=%00canary", "the parameter ssl_ca_certs has an invalid value"),
        ("rediss://host?ssl_ca_data=%C3%A4canary", "the parameter ssl_ca_data has an invalid value"),
        ("redis://host?db=canary&db=1", "the parameter db is repeated"),
    ],
)
def test_url_with_unsupported_parameter_raises(url, text):
    with pytest.raises(ConfigurationError, match=re.escape(text)) as caught:
        Fleet(url)
    assert str(caught.value).startswith("Fleet.url: ")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host/0?client_name=prices&socket_keepalive=yes",
        "rediss://host/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem&ssl_check_hostname=no",
        "rediss://host/0?ssl_min_version=771&ssl_certfile=/cert.pem&ssl_keyfile=/key.pem",
        "unix:///run/redis.sock?db=2&password=canary",
    ],
)
def test_url_with_supported_parameters_is_accepted(url):
    assert "?" not in Fleet(url).place


PARAMETERS = {
    "client_name": "prices",
    "db": "2",
    "password": "canary",
    "socket_keepalive": "yes",
    "ssl_ca_certs": "/ca.pem",
    "ssl_ca_data": "canary",
    "ssl_ca_path": "/ca",
    "ssl_cert_reqs": "none",
    "ssl_certfile": "/cert.pem",
    "ssl_check_hostname": "no",
    "ssl_ciphers": "ECDHE+AESGCM",
    "ssl_keyfile": "/key.pem&ssl_certfile=/cert.pem",
    "ssl_min_version": "771",
    "username": "user",
}


@pytest.mark.parametrize("base", ["redis://host/0", "rediss://host/0", "unix:///run/redis.sock"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_url_parameter_is_refused_or_usable(base, name):
    url = f"{base}?{name}={PARAMETERS[name]}"
    try:
        Fleet(url)
    except ConfigurationError:
        assert not base.startswith("rediss")
        assert name.startswith("ssl_") or (base.startswith("unix") and name == "socket_keepalive")
        return
    made = Redis.from_url(url).connection_pool.make_connection()
    if base.startswith("rediss"):
        try:
            made.ssl_context.get()
        except OSError:
            assert "/" in PARAMETERS[name] or name == "ssl_ca_data"  # a file that does not exist, or no certificate


async def test_supported_parameters_reach_the_server(member, own_redis, sandbox):
    feed = await member(fleet_at(f"{own_redis.url}?client_name=prices&socket_keepalive=yes"))
    await anext(gold(feed))
    with own_redis.client() as db:
        assert "prices" in {client["name"] for client in db.client_list()}


async def test_close_ends_although_a_cancellation_is_lost(member, redis_server, sandbox, monkeypatch):
    # With this timeout of redis-py, a cancellation can arrive together with the end of a wait.
    monkeypatch.setattr(member_module, "check_parameters", lambda _: None)
    for _ in range(5):
        feed = await member(Fleet(f"{redis_server.url}?socket_timeout=0.1", lease=LEASE))
        await anext(gold(feed))
        async with asyncio.timeout(10):
            await feed.aclose()
    with redis_server.client() as db:
        assert not db.keys("*:lease")


async def test_close_ends_while_server_is_silent(member, stoppable_redis, sandbox):
    feed = await member(Fleet(stoppable_redis.url, lease=3600))
    await anext(gold(feed))
    os.kill(stoppable_redis.process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(20):
            await feed.aclose()
    finally:
        os.kill(stoppable_redis.process.pid, signal.SIGCONT)


async def test_error_of_cancelled_recording_ends_with_outage(member, stoppable_redis, sandbox, tmp_path, caplog):
    caplog.set_level(logging.INFO, "minted_connect.feed")
    sink_path = tmp_path / "gold.jsonl"
    feed = await member(fleet_at(stoppable_redis.url))
    recording = asyncio.ensure_future(feed.record(JsonLinesSink(sink_path)))
    await wait_until(lambda: sink_path.exists() and sink_path.stat().st_size)
    recording.cancel()
    await asyncio.wait({recording})
    for outages in (1, 2):
        os.kill(stoppable_redis.process.pid, signal.SIGSTOP)
        recording = asyncio.ensure_future(feed.record(JsonLinesSink(sink_path)))
        try:
            await wait_until(lambda: "replay" in feed._source._redis_errors)
            recording.cancel()
            await asyncio.wait({recording})
        finally:
            os.kill(stoppable_redis.process.pid, signal.SIGCONT)
        await wait_until(lambda: feed.last_error is None)
        # The outage of this round, and its end, are logged once.
        assert [caplog.text.count("did not respond"), caplog.text.count(RECOVERED)] == [outages] * 2
