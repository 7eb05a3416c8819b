"""Access to the Redis keys of a fleet: a lease, a stream of rounds and a rate limit. Failures raise `FleetError`."""

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

from minted_connect.clock import Clock
from minted_connect.config import RateLimit
from minted_connect.core.converter import StructureError, structure, unstructure
from minted_connect.core.exact_json import Malformed, dumps, loads
from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError, FleetError
from minted_connect.feed.fleet import scripts
from minted_connect.models.rate import Rate
from minted_connect.secret import Secret

__all__ = ["Entry", "RedisStream", "redact_url"]

_log = logging.getLogger("minted_connect.feed")

_T = TypeVar("_T")

_US: Final = 1_000_000
"""Microseconds per second."""

_VERSION: Final = b"1"
"""Format of the stream entries; entries of another version are skipped."""

_STREAM_START: Final = "0-0"
"""An id lower than that of every entry."""

_MAX_SECONDS: Final = 1e9
"""Upper bound of the durations that an entry may state."""

_MAX_MICROSECONDS: Final = 2**53
"""Upper bound of the times that Lua's floats represent exactly: the year 2255."""

_READ_COUNT: Final = 500
"""Maximum number of entries per read, so that a member far behind does not load the whole stream at once."""


@attrs.frozen
class Entry:
    """A round as it is stored in the stream."""

    id: str
    number: int
    at: int
    """Microseconds since 1970, by the clock of Redis."""
    gap: float
    interval: float
    """Seconds between two polls of the member that published the round."""
    next_poll_in: float
    """Seconds from `at` to the next poll."""
    rates: tuple[Rate, ...]
    """Empty if the poll failed."""


def redact_url(url: Secret) -> str:
    """Return a Redis URL without user, password and query, for logs and errors.

    Raises:
        ConfigurationError: if `url` is not the URL of a Redis server, or redis-py is not installed.
    """
    redacted = _redact_url(url)
    if redacted is None:
        raise ConfigurationError(
            "Fleet.url: must be a URL like redis://user:password@host:6379/0, rediss://... or unix:///path/to/socket; "
            "in a password write %40 for @, %2F for /, and so on"
        )
    import_extra("redis.asyncio", "redis", "Fleet: a fleet needs redis-py")
    return redacted


def _redact_url(url: Secret) -> str | None:
    # This function must not raise: its local variables contain the password, and a traceback could show them.
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
    # A path that is not a number may be part of a password that contains a slash.
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not (database or "0").isdecimal():
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or 6379}/{database or 0}"


class RedisStream:
    """One member's connection to the Redis keys that its fleet shares.

    Args:
        url: of the Redis server, as `redact_url` accepts it.
        name: name of the fleet.
        scope: identifies the feeds that share rounds: server, account and metals.
        account: identifies the requests that share the rate limit: server and account.
        lease: seconds after which a lease that is not renewed expires.
        keep: maximum number of entries in the stream.
        limit: rate limit of all members together; None for no limit.
        clock: the feed's clock, whose time `to_monotonic` returns.
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
        self.address: Final = redact_url(url)
        self._url = url
        # The braces make a cluster store all keys of a script on one node.
        prefix = f"{{minted_connect:{name}:{_digest(scope)}}}"
        self._keys = [f"{prefix}:lease", f"{prefix}:stream", f"{prefix}:state"]
        self._bucket = f"{{minted_connect:{name}:{_digest(account)}}}:bucket"
        self._token = secrets.token_hex(16)
        self._lease = str(round(lease * 1000))
        self._keep = str(keep)
        self._limit = limit
        self._clock = clock
        self._timeout = lease / 3
        self._redis: Any = None  # the annotations of redis-py are too loose to help
        self._scripts: dict[str, Any] = {}
        self._clock_offset = 0.0  # seconds by which the clock of Redis is ahead of the feed's clock
        self._highest_term = 0  # of all terms seen
        self._last_read = [0, 0, 0]  # number and time of the last entry, and time of the last entry with rates
        self.last_id: str = _STREAM_START
        """Id of the last entry read; `read` continues after it."""
        self.corrupt_entries: int = 0
        """Number of entries skipped because they could not be read."""

    async def open(self) -> None:
        """Connect. The first `read` begins with the latest round that has rates.

        Raises:
            FleetError: if Redis cannot be used.
        """
        from redis.asyncio import Redis  # noqa: PLC0415 - an extra
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        # redis-py must not retry: a round whose response was lost would be published twice.
        redis: Any = Redis
        self._redis = redis.from_url(
            self._url.reveal(),
            protocol=2,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
        )
        self._scripts = {
            source: self._redis.register_script(source)
            for source in (scripts.ACQUIRE_LEASE, scripts.PUBLISH, scripts.RESERVE_REQUEST)
        }
        try:
            sent_at = self._clock.monotonic()
            seconds, microseconds = await self._execute(self._redis.time)
            self._clock_offset = seconds + microseconds / _US - sent_at
            if (last_good := await self._execute(lambda: self._redis.hget(self._keys[2], "id"))) is not None:
                term, number = _parse_id(last_good.decode())
                self.last_id = f"{term}-{number - 1}"
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Disconnect. Idempotent."""
        redis, self._redis = self._redis, None
        if redis is not None:
            with anyio.move_on_after(self._timeout):
                await redis.aclose()

    async def acquire_lease(self) -> int:
        """Acquire or renew the lease; return this member's term as the leader, or 0 if another member holds it.

        Raises:
            FleetError: if Redis cannot be used.
        """
        sent_at = self._clock.monotonic()
        reply: list[bytes] = await self._run_script(
            scripts.ACQUIRE_LEASE, self._keys, self._token, self._lease, str(self._highest_term)
        )
        term, now, top = (field.decode() for field in reply)
        # Measured from the sending: if the reply was slow, ticks appear older than they are, never younger.
        self._clock_offset = int(now) / _US - sent_at
        if _parse_id(top) < _parse_id(self.last_id):
            _log.warning("the stream of the fleet was reset: Redis at %s has lost entries", self.address)
            self.last_id = _STREAM_START
        self._highest_term = max(self._highest_term, int(term))
        return int(term)

    async def publish(
        self, term: int, rates: tuple[Rate, ...], *, interval: float, gap_after: float, next_poll_at: float
    ) -> bool:
        """Add a round to the stream; return False if this member no longer holds the lease for `term`.

        Args:
            term: term of this member as the leader.
            rates: empty if the poll failed.
            interval: seconds between two polls.
            gap_after: seconds without rates after which the round states the gap.
            next_poll_at: monotonic seconds of the feed's clock when the next poll starts.

        Raises:
            FleetError: if Redis cannot be used. The round may have been added nevertheless: read the stream.
        """
        payload = dumps(unstructure(rates)) if rates else b""
        next_poll_in = max(0.0, next_poll_at - self._clock.monotonic())
        numbers = (*self._last_read, round(gap_after * _US), repr(interval), repr(next_poll_in))
        return bool(
            await self._run_script(
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

    async def release_lease(self) -> None:
        """Release the lease if this member holds it.

        Raises:
            FleetError: if Redis cannot be used.
        """
        await self._execute(lambda: self._redis.eval(scripts.RELEASE_LEASE, 1, self._keys[0], self._token))

    async def read(self) -> list[Entry]:
        """Return the entries after `last_id`, and advance it. If there are none yet, wait up to a sixth of the lease.

        Raises:
            FleetError: if Redis cannot be used.
        """
        block = max(1, round(self._timeout * 500))  # milliseconds
        reply: list[Any] | None = await self._execute(
            lambda: self._redis.xread({self._keys[1]: self.last_id}, count=_READ_COUNT, block=block)
        )
        entries: list[Entry] = []
        for id_, fields in reply[0][1] if reply else ():
            self.last_id = id_.decode()
            entry = _parse_entry(self.last_id, fields)
            if entry is None:
                self.corrupt_entries += 1
                _log.warning("entry %s of the fleet's stream cannot be read, and is skipped", self.last_id)
                continue
            entries.append(entry)
            self._last_read = [entry.number, entry.at, entry.at if entry.rates else self._last_read[2]]
            self._highest_term = max(self._highest_term, _parse_id(entry.id)[0])
        return entries

    def to_monotonic(self, at: int) -> float:
        """Convert a time of Redis in microseconds to monotonic seconds of the feed's clock, not later than now."""
        return min(at / _US - self._clock_offset, self._clock.monotonic())

    async def reserve_request(self) -> float:
        """Reserve a request under the fleet's rate limit; return the seconds to wait before sending it.

        Raises:
            FleetError: if Redis cannot be used.
        """
        if self._limit is None:
            return 0.0
        spacing = _US / self._limit.rate
        tolerance = spacing * (self._limit.burst - 1)
        arguments = (str(round(spacing)), str(round(tolerance)))
        return int(await self._run_script(scripts.RESERVE_REQUEST, [self._bucket], *arguments)) / _US

    async def _run_script(self, source: str, keys: list[str], *arguments: str | bytes) -> Any:
        return await self._execute(lambda: self._scripts[source](keys=keys, args=arguments))

    async def _execute(self, command: Callable[[], Awaitable[_T]]) -> _T:
        from redis.exceptions import RedisError  # noqa: PLC0415 - an extra

        try:
            # Limits the whole command: the timeout of redis-py starts again with each piece that it receives.
            async with asyncio.timeout(self._timeout):
                return await command()
        except TimeoutError as error:
            raise FleetError(f"Redis at {self.address} did not respond within {self._timeout:.3g} s") from error
        except (RedisError, OSError) as error:
            # Not `str(error)`, which may quote the command.
            raise FleetError(f"Redis at {self.address} cannot be used: {_describe_error(error)}") from error


def _describe_error(error: Exception) -> str:
    """Describe an error without the parts of its message that may quote the command."""
    from redis.exceptions import ConnectionError as RedisConnectionError  # noqa: PLC0415
    from redis.exceptions import ResponseError  # noqa: PLC0415

    if isinstance(error, ResponseError):
        code = str(error).partition(" ")[0]
        return code if code.isupper() else type(error).__name__
    cause = error.__cause__ or error.__context__
    if isinstance(error, RedisConnectionError) and isinstance(cause, OSError) and cause.strerror:
        return f"{type(error).__name__}: {cause.strerror}"
    return type(error).__name__


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse_id(id_: str) -> tuple[int, int]:
    """Return term and number, which order ids as Redis does."""
    term, number = id_.split("-")
    return int(term), int(number)


def _parse_entry(id_: str, fields: dict[bytes, bytes]) -> Entry | None:
    """Parse an entry; return None if it is corrupt or of another version."""
    try:
        if fields[b"version"] != _VERSION:
            return None
        payload = fields[b"rates"]
        return Entry(
            id=id_,
            number=_parse_id(id_)[1],
            at=_parse_microseconds(fields[b"at"]),
            gap=_parse_microseconds(fields[b"gap"]) / _US,
            interval=_parse_seconds(fields[b"every"]),
            next_poll_in=_parse_seconds(fields[b"next"]),
            rates=structure(loads(payload), tuple[Rate, ...]) if payload else (),
        )
    except (KeyError, ValueError, Malformed, StructureError):
        return None


def _parse_microseconds(field: bytes) -> int:
    value = int(field)
    if not 0 <= value < _MAX_MICROSECONDS:
        raise ValueError
    return value


def _parse_seconds(field: bytes) -> float:
    value = float(field)
    if not 0 <= value < _MAX_SECONDS:
        raise ValueError
    return value
