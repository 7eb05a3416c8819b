"""Access to the Redis keys of a fleet: a lease, a stream of rounds and a rate limit. Failures raise `FleetError`."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from minted_connect.clock import Clock
from minted_connect.config import RateLimit
from minted_connect.core.converter import unstructure
from minted_connect.core.exact_json import dumps
from minted_connect.errors import FleetError
from minted_connect.feed.fleet import scripts
from minted_connect.feed.fleet.connection import RedisConnection, refused_command
from minted_connect.feed.fleet.entries import US, Entry, parse_entry, parse_id
from minted_connect.models.rate import Rate
from minted_connect.secret import Secret

__all__ = ["RedisStream"]

_log = logging.getLogger("minted_connect.feed")

_STREAM_START: Final = "0-0"
"""An id lower than that of every entry."""

_READ_COUNT: Final = 500
"""Maximum number of entries per read, so that a member far behind does not load the whole stream at once."""

_SCRIPTS: Final = (
    scripts.ACQUIRE_LEASE,
    scripts.CHECK_BUCKET,
    scripts.CHECK_PERMISSIONS,
    scripts.PUBLISH,
    scripts.RELEASE_LEASE,
    scripts.RESERVE_REQUEST,
)


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
        self._timeout = lease / 3
        self._connection = RedisConnection(url, _SCRIPTS, timeout=self._timeout)
        self.address: Final = self._connection.address
        # The braces make a cluster store all keys of a script on one node.
        prefix = f"{{minted_connect:{name}:{_digest(scope)}}}"
        self._key_pattern = f"{{minted_connect:{name}:*"
        self._keys = [f"{prefix}:lease", f"{prefix}:stream", f"{prefix}:state"]
        self._bucket = f"{{minted_connect:{name}:{_digest(account)}}}:bucket"
        self._token = secrets.token_hex(16)
        self._lease = str(round(lease * 1000))
        self._keep = str(keep)
        self._limit = limit
        self._clock = clock
        self._clock_offset = 0.0  # seconds by which the clock of Redis is ahead of the feed's clock
        self._highest_term = 0  # of all terms seen
        self._highest = [0, 0, 0]  # number and time of the entries read, and time of those with rates
        self._epoch = ""  # of the entry with the highest number
        self.last_id: str = _STREAM_START
        """Id of the last entry read; `read` continues after it."""
        self.corrupt_entries: int = 0
        """Number of entries skipped because they could not be read."""

    async def open(self) -> None:
        """Connect. The first `read` begins with the latest round that has rates.

        Raises:
            FleetError: if Redis cannot be used, rejects writes, or does not permit a command that the fleet needs.
        """
        self._connection.open()
        try:
            await self._check_permissions()
            sent_at = self._clock.monotonic()
            seconds, microseconds = await self._connection.execute(lambda redis: redis.time())
            self._clock_offset = seconds + microseconds / US - sent_at
            last_good = await self._connection.execute(lambda redis: redis.hget(self._keys[2], "id"))
            if last_good is not None:
                term, number = parse_id(last_good.decode())
                self.last_id = f"{term}-{number - 1}"
        except BaseException:
            await self.aclose()
            raise

    async def _check_permissions(self) -> None:
        """Try every command that the fleet uses, so that a missing permission is found when the feed is opened."""
        missing: set[str] = set()
        is_permitted = True
        lease, stream, state = self._keys
        checks: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("time", lambda: self._connection.execute(lambda redis: redis.time())),
            ("hget", lambda: self._connection.execute(lambda redis: redis.hget(state, "id"))),
            ("xread", lambda: self._connection.execute(lambda redis: redis.xread({stream: "$"}, count=1))),
            ("xrange", lambda: self._connection.execute(lambda redis: redis.xrange(stream, count=1))),
            ("xrevrange", lambda: self._connection.execute(lambda redis: redis.xrevrange(stream, count=1))),
            ("script", lambda: self._connection.run_script(scripts.CHECK_PERMISSIONS, [lease, stream, state])),
        ]
        if self._limit is not None:
            checks.append(("script", lambda: self._connection.run_script(scripts.CHECK_BUCKET, [self._bucket])))
        for name, check in checks:
            try:
                found = await check()
            except FleetError as error:
                refused = refused_command(error)
                if refused is None:
                    raise
                is_permitted = False
                missing |= {refused} - {""}
            else:
                if name == "script":
                    missing.update(command.decode() for command in found)
        if missing or not is_permitted:
            permissions = " ".join([f"+{command}" for command in sorted(missing)]) or "to read and write"
            raise FleetError(
                f"Redis at {self.address} cannot be used: NOPERM: its user needs the permissions {permissions} "
                f"for the keys ~{self._key_pattern}"
            )

    async def aclose(self) -> None:
        """Disconnect. Idempotent."""
        await self._connection.aclose()

    async def acquire_lease(self) -> int:
        """Acquire or renew the lease; return this member's term as the leader, or 0 if another member holds it.

        Each call writes, also one of a member that does not hold the lease.

        Raises:
            FleetError: if Redis cannot be used.
        """
        sent_at = self._clock.monotonic()
        seen = (self._highest_term, *self._highest[:2], self._epoch)
        reply: list[bytes] = await self._connection.run_script(
            scripts.ACQUIRE_LEASE, self._keys, self._token, self._lease, *map(str, seen)
        )
        term, now, top = (field.decode() for field in reply)
        # Measured from the sending: if the reply was slow, ticks appear older than they are, never younger.
        self._clock_offset = int(now) / US - sent_at
        if parse_id(top) < parse_id(self.last_id):
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
        numbers = (*self._highest, round(gap_after * US), repr(interval), repr(next_poll_in))
        return bool(
            await self._connection.run_script(
                scripts.PUBLISH,
                self._keys,
                self._token,
                self._lease,
                str(term),
                self._keep,
                *map(str, numbers),
                payload,
                self._epoch,
            )
        )

    async def release_lease(self) -> None:
        """Release the lease if this member holds it.

        Raises:
            FleetError: if Redis cannot be used.
        """
        await self._connection.run_script(scripts.RELEASE_LEASE, self._keys[:1], self._token)

    async def read(self) -> list[Entry]:
        """Return the entries after `last_id`, and advance it. Without one, wait up to a sixth of the lease.

        Raises:
            FleetError: if Redis cannot be used.
        """
        block = max(1, round(self._timeout * 500))  # milliseconds
        reply: list[Any] | None = await self._connection.execute(
            lambda redis: redis.xread({self._keys[1]: self.last_id}, count=_READ_COUNT, block=block)
        )
        entries: list[Entry] = []
        for id_, fields in reply[0][1] if reply else ():
            self.last_id = id_.decode()
            entry = parse_entry(self.last_id, fields)
            if entry is None:
                self.corrupt_entries += 1
                _log.warning("entry %s of the fleet's stream cannot be read, and is skipped", self.last_id)
                continue
            entries.append(entry)
            if entry.number > self._highest[0]:
                self._epoch = entry.epoch
            seen = (entry.number, entry.at, entry.at if entry.rates else 0)
            self._highest = [*map(max, self._highest, seen)]
            self._highest_term = max(self._highest_term, parse_id(entry.id)[0])
        return entries

    async def find_last(self, at: int) -> Entry | None:
        """Return the newest entry that is not later than `at`; None if the stream has no such entry.

        Raises:
            FleetError: if Redis cannot be used.
        """
        upper = "+"
        while True:
            reply = await self._read_up_to(upper)
            for id_, fields in reply:
                entry = parse_entry(id_.decode(), fields)
                if entry is not None and entry.at <= at:
                    return entry
            if len(reply) < _READ_COUNT:
                return None
            upper = f"({reply[-1][0].decode()}"

    async def _read_up_to(self, upper: str) -> list[Any]:
        return await self._connection.execute(
            lambda redis: redis.xrevrange(self._keys[1], max=upper, count=_READ_COUNT)
        )

    async def read_after(self, id_: str | None) -> tuple[list[Entry], str | None]:
        """Return the first entries after an id (None: of the stream), and the id to continue after (None: the end).

        Raises:
            FleetError: if Redis cannot be used.
        """
        lower = "-" if id_ is None else f"({id_}"
        reply: list[Any] = await self._connection.execute(
            lambda redis: redis.xrange(self._keys[1], min=lower, count=_READ_COUNT)
        )
        found = [parse_entry(each.decode(), fields) for each, fields in reply]
        last = reply[-1][0].decode() if len(reply) == _READ_COUNT else None
        return [entry for entry in found if entry is not None], last

    def to_monotonic(self, at: int) -> float:
        """Convert a time of Redis in microseconds to monotonic seconds of the feed's clock, not later than now."""
        return min(at / US - self._clock_offset, self._clock.monotonic())

    async def reserve_request(self) -> float:
        """Reserve a request under the fleet's rate limit; return the seconds to wait before sending it.

        Raises:
            FleetError: if Redis cannot be used.
        """
        if self._limit is None:
            return 0.0
        spacing = US / self._limit.rate
        tolerance = spacing * (self._limit.burst - 1)
        arguments = (str(round(spacing)), str(round(tolerance)))
        return int(await self._connection.run_script(scripts.RESERVE_REQUEST, [self._bucket], *arguments)) / US


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
