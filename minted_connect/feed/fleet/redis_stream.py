"""The Redis side of a fleet: a lease, a stream of rounds, a token bucket; every failure is a `FleetError`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import anyio
import attrs

from minted_connect.config import Clock, RateLimit
from minted_connect.core.converter import Unfit, structure, to_wire
from minted_connect.core.exact_json import Malformed, dumps, loads
from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError, FleetError
from minted_connect.feed.fleet import scripts
from minted_connect.models.rate import Rate
from minted_connect.secret import Secret

__all__ = ["Entry", "RedisStream", "place"]

_log = logging.getLogger("minted_connect.feed")

_T = TypeVar("_T")

_US: Final = 1_000_000

_VERSION: Final = b"1"
"""Of the entries; another one is skipped as what this version cannot read."""

_START: Final = "0-0"
"""Before every id."""

_LONGEST: Final = 1e9
"""Seconds between two polls that are believed."""

_LATEST: Final = 2**53
"""Microseconds that Lua counts exactly: until the year 2255."""

_BATCH: Final = 500
"""Entries read at once: a member far behind must not hold all of them in memory twice."""


@attrs.frozen
class Entry:
    """A round as it stands in the stream."""

    id: str
    number: int
    at: int
    """Microseconds since 1970, by the clock of Redis."""
    gap: float
    every: float
    """Seconds between two polls of whoever published it."""
    next: float
    """Seconds from `at` to the next poll."""
    rates: tuple[Rate, ...]
    """Empty if the poll failed."""


def place(url: Secret) -> str:
    """Return the URL as it may be shown: without user, password and query.

    Raises:
        ConfigurationError: no URL of a Redis server, or redis-py is not installed.
    """
    shown = _shown(url)
    if shown is None:
        raise ConfigurationError(
            "Fleet.url: must be a URL like redis://user:password@host:6379/0, rediss://... or unix:///path/to/socket; "
            "in a password write %40 for @, %2F for /, and so on"
        )
    import_extra("redis.asyncio", "redis", "Fleet: a fleet needs redis-py")
    return shown


def _shown(url: Secret) -> str | None:
    # A function of its own, which raises nothing, because its variables hold the password.
    try:
        parts = urlsplit(url.reveal())
        port = parts.port
    except ValueError:
        return None
    if parts.fragment or not url.reveal().isprintable():
        return None
    if parts.scheme == "unix":
        return f"unix://{parts.path}" if parts.path and not parts.hostname else None
    database = parts.path.removeprefix("/")
    # What is taken for the database may be the rest of a password.
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not (database or "0").isdecimal():
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 6379}/{database or 0}"


class RedisStream:
    """One member's connection to what the fleet shares.

    Args:
        url: of the Redis server, as `place` accepts it.
        name: of the fleet.
        scope: what feeds must have in common to share rounds: server, account, metals.
        account: what requests must have in common to share a rate limit.
        lease: seconds after which a leader that is not heard of is no leader.
        keep: the most entries of the stream.
        limit: of all members together; None for none.
        clock: the feed's, whose time `moment` translates to.
    """

    def __init__(
        self,
        url: Secret,
        *,
        name: str,
        scope: str,
        account: str,
        lease: float,
        keep: int,
        limit: RateLimit | None,
        clock: Clock,
    ) -> None:
        self.place: Final = place(url)
        self._url = url
        # In braces, so that a cluster keeps the keys of one script on one node.
        prefix = f"{{minted_connect:{name}:{_digest(scope)}}}"
        self._keys = [f"{prefix}:lease", f"{prefix}:stream", f"{prefix}:state"]
        self._bucket = f"{{minted_connect:{name}:{_digest(account)}}}:bucket"
        self._token = secrets.token_hex(16)
        self._lease = str(round(lease * 1000))
        self._keep = str(keep)
        self._limit = limit
        self._clock = clock
        self._patience = lease / 3
        self._redis: Any = None  # redis-py's types say too little to be worth having
        self._scripts: dict[str, Any] = {}
        self._ahead = 0.0  # seconds by which the time of Redis is ahead of the feed's clock
        self._term = 0
        self._seen = [0, 0, 0]  # number, time, time of rates: of the newest entry read
        self.after: str = _START
        """The id that was read last; what comes after it is read next."""
        self.corrupt: int = 0
        """Entries that could not be read."""

    async def open(self) -> None:
        """Connect.

        Raises:
            FleetError: nobody answers there, or not as Redis does.
        """
        from redis.asyncio import Redis  # noqa: PLC0415 - an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        # No retries of its own: a round whose answer got lost must not be published twice.
        redis: Any = Redis
        self._redis = redis.from_url(
            self._url.reveal(),
            protocol=2,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._patience,
        )
        self._scripts = {
            source: self._redis.register_script(source) for source in (scripts.BEAT, scripts.PUBLISH, scripts.TAKE)
        }
        try:
            asked = self._clock.monotonic()
            seconds, more = await self._ask(self._redis.time)
            self._ahead = seconds + more / _US - asked
            # The last round with rates is what is read first.
            if (found := await self._ask(lambda: self._redis.hget(self._keys[2], "id"))) is not None:
                term, number = _order(found.decode())
                self.after = f"{term}-{number - 1}"
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Disconnect; may be called again."""
        redis, self._redis = self._redis, None
        if redis is not None:
            with anyio.move_on_after(self._patience):
                await redis.aclose()

    async def beat(self) -> int:
        """Take or keep the lease; return this member's term as the leader, or 0 if another one leads.

        Raises:
            FleetError: Redis gives no answer.
        """
        asked = self._clock.monotonic()
        answer: list[bytes] = await self._run(scripts.BEAT, self._keys, self._token, self._lease, str(self._term))
        term, now, top = (field.decode() for field in answer)
        # By when it was asked: should the answer have been long on its way, ticks look older, not younger.
        self._ahead = int(now) / _US - asked
        if _order(top) < _order(self.after):
            _log.warning("the stream of the fleet begins anew: Redis at %s lost what it had", self.place)
            self.after = _START
        self._term = max(self._term, int(term))
        return int(term)

    async def publish(self, term: int, rates: tuple[Rate, ...], *, every: float, unseen: float, due: float) -> bool:
        """Add a round; return False if this member is not the leader of that term any more.

        Args:
            term: of this leader.
            rates: none if the poll failed.
            every: seconds between two polls.
            unseen: seconds without rates after which prices went unseen.
            due: when the next poll starts, by the feed's clock.

        Raises:
            FleetError: Redis gives no answer; whether it was added shows in the stream.
        """
        payload = dumps(to_wire(rates)) if rates else b""
        left = max(0.0, due - self._clock.monotonic())
        numbers = (*self._seen, round(unseen * _US), repr(every), repr(left))
        return bool(
            await self._run(
                scripts.PUBLISH,
                self._keys,
                self._token,
                self._lease,
                str(term),
                self._keep,
                *map(str, numbers),
                payload,
            )
        )

    async def release(self) -> None:
        """Give the lease back if it is this member's."""
        await self._ask(lambda: self._redis.eval(scripts.RELEASE, 1, self._keys[0], self._token))

    async def read(self) -> list[Entry]:
        """Return the entries after `after`, which moves on; wait for one if there is none, not for ever.

        Raises:
            FleetError: Redis gives no answer.
        """
        wait = max(1, round(self._patience * 500))
        answer: list[Any] | None = await self._ask(
            lambda: self._redis.xread({self._keys[1]: self.after}, count=_BATCH, block=wait)
        )
        entries: list[Entry] = []
        for found, fields in answer[0][1] if answer else ():
            self.after = found.decode()
            entry = _entry(self.after, fields)
            if entry is None:
                self.corrupt += 1
                _log.warning("entry %s of the fleet's stream cannot be read, and is skipped", self.after)
                continue
            entries.append(entry)
            self._seen = [entry.number, entry.at, entry.at if entry.rates else self._seen[2]]
            self._term = max(self._term, _order(entry.id)[0])
        return entries

    def moment(self, at: int) -> float:
        """Return a time of Redis as monotonic seconds of the feed's clock, not later than now."""
        return min(at / _US - self._ahead, self._clock.monotonic())

    def time(self, moment: float) -> float:
        """Return monotonic seconds of the feed's clock as the time of Redis, in seconds since 1970."""
        return moment + self._ahead

    async def turn(self) -> float:
        """Take the next turn under the fleet's rate limit; return the seconds to wait for it.

        Raises:
            FleetError: Redis gives no answer.
        """
        if self._limit is None:
            return 0.0
        gap = _US / self._limit.rate
        slack = gap * (self._limit.burst - 1)
        return int(await self._run(scripts.TAKE, [self._bucket], str(round(gap)), str(round(slack)))) / _US

    async def _run(self, source: str, keys: list[str], *arguments: str | bytes) -> Any:
        return await self._ask(lambda: self._scripts[source](keys=keys, args=arguments))

    async def _ask(self, command: Callable[[], Awaitable[_T]]) -> _T:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            # A limit of the whole command: redis-py's own counts anew with every piece that arrives.
            async with asyncio.timeout(self._patience):
                return await command()
        except TimeoutError as error:
            raise FleetError(f"Redis at {self.place} gave no answer within {self._patience:.3g} s") from error
        except (RedisError, OSError) as error:
            # Its own words may quote what was sent.
            raise FleetError(f"Redis at {self.place} cannot be used: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return what an error says of Redis, without what was asked of it."""
    from redis.exceptions import ConnectionError as Unconnected  # noqa: PLC0415
    from redis.exceptions import ResponseError  # noqa: PLC0415

    if isinstance(error, ResponseError):
        code = str(error).partition(" ")[0]
        return code if code.isupper() else type(error).__name__
    cause = error.__cause__ or error.__context__
    if isinstance(error, Unconnected) and isinstance(cause, OSError) and cause.strerror:
        return f"{type(error).__name__}: {cause.strerror}"
    return type(error).__name__


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _order(found: str) -> tuple[int, int]:
    term, number = found.split("-")
    return int(term), int(number)


def _entry(found: str, fields: dict[bytes, bytes]) -> Entry | None:
    """Read an entry; None if it is none of ours, or damaged."""
    try:
        if fields[b"version"] != _VERSION:
            return None
        payload = fields[b"rates"]
        return Entry(
            id=found,
            number=_order(found)[1],
            at=_whole(fields[b"at"]),
            gap=_whole(fields[b"gap"]) / _US,
            every=_seconds(fields[b"every"]),
            next=_seconds(fields[b"next"]),
            rates=structure(loads(payload), tuple[Rate, ...]) if payload else (),
        )
    except (KeyError, ValueError, Malformed, Unfit):
        return None


def _whole(field: bytes) -> int:
    value = int(field)
    if not 0 <= value < _LATEST:
        raise ValueError
    return value


def _seconds(field: bytes) -> float:
    value = float(field)
    if not 0 <= value < _LONGEST:
        raise ValueError
    return value
