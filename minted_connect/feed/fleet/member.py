"""One feed in several processes: one of them polls, and all of them publish the same rounds.

Every member, the leader included, reads the rounds from a Redis stream. A member polls while it is certain to hold the
lease. Redis rejects a round that a former leader publishes too late, because it was paused or disconnected. The lease
itself is taken by `RedisStream.acquire_lease`, with the script `ACQUIRE_LEASE`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import attrs

from minted_connect.clock import Clock
from minted_connect.config import RateLimit
from minted_connect.errors import ConfigurationError, FleetError, MintedConnectError
from minted_connect.feed.fleet.redis_stream import Entry, RedisStream, redact_url
from minted_connect.feed.hub import Hub
from minted_connect.feed.poller import Poller
from minted_connect.feed.tick import OVERDUE_INTERVALS, Round
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import check_type, is_seconds

__all__ = ["Fleet", "FleetMember"]

_log = logging.getLogger("minted_connect.feed")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_LEASE: Final = 0.5
_MAX_LEASE: Final = 3600.0
_MAX_KEEP: Final = 10_000_000
"""Number of rounds in a year with a poll every three seconds."""
_RETRY_INITIAL: Final = 0.1
"""Initial wait in seconds after a failed Redis command; doubled after each failure, up to a third of the lease."""


@attrs.frozen(kw_only=True)
class Fleet:
    """Configuration of a fleet: `rates.feed(interval=1, fleet=Fleet("redis://host:6379/0"))`.

    Feeds with the same server, account, metals and `name` share their rounds. One process polls, at its own interval.

    Raises:
        ConfigurationError: if a value is invalid, or redis-py is not installed (`pip install "minted-connect[redis]"`).
    """

    url: Secret = attrs.field(repr=False, converter=as_secret, kw_only=False)
    """URL of a Redis server from version 6.2, or of a Valkey server: `redis://user:password@host:6379/0`,
    `rediss://...` or `unix://...`."""
    name: str = "rates"
    lease: float = 10.0
    """Lease duration in seconds, 0.5 to 3600. If the leader does not renew it, another process takes over."""
    keep: int = 10_000
    """Maximum number of rounds in the stream. A process that falls further behind misses some (`Tick.missed`). A stream
    to which no round was added for a week expires."""
    rate_limit: RateLimit | None = None
    """Limit of all feeds with the same server, account and `name` together, for all metals; None for no limit."""
    place: str = attrs.field(init=False)
    """The URL without user, password and query."""

    def __attrs_post_init__(self) -> None:
        check_type("Fleet.url", self.url, Secret)
        object.__setattr__(self, "place", redact_url(self.url))
        check_type("Fleet.name", self.name, str)
        if not self.name.isprintable() or not self.name or set(self.name) & set("{}"):
            raise ConfigurationError("Fleet.name: must be a printable string without braces")
        if not is_seconds(self.lease) or not _MIN_LEASE <= self.lease <= _MAX_LEASE:
            raise ConfigurationError(f"Fleet.lease: must be seconds from {_MIN_LEASE} to {_MAX_LEASE:.0f}")
        keep: Any = self.keep
        if not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= _MAX_KEEP:
            raise ConfigurationError(f"Fleet.keep: must be a whole number from 1 to {_MAX_KEEP}")
        check_type("Fleet.rate_limit", self.rate_limit, RateLimit, optional=True)


class FleetMember:
    """The source of a feed that belongs to a fleet.

    Args:
        poller: polls the server while this member is the leader.
        fleet: configuration of the fleet.
        scope: identifies the feeds that share rounds.
        account: identifies the feeds that share the rate limit.
        clock: the feed's clock.
        random: source of jitter, in [0, 1).
    """

    def __init__(
        self, poller: Poller, fleet: Fleet, *, scope: str, account: str, clock: Clock, random: Callable[[], float]
    ) -> None:
        self._poller = poller
        self._fleet = fleet
        self._clock = clock
        self._random = random
        self._stream = RedisStream(
            fleet.url,
            name=fleet.name,
            scope=scope,
            account=account,
            lease=fleet.lease,
            keep=fleet.keep,
            limit=fleet.rate_limit,
            clock=clock,
        )
        self._term = 0  # of this member as the leader; 0 if it is not
        # Seconds of the event loop, not of the feed's clock: the lease expires in real time, also in a test.
        self._lease_expires_at = -math.inf
        self._lease_acquired = asyncio.Event()
        self._next_poll_at = -math.inf  # of the fleet, by the feed's clock
        self._last_number: int | None = None  # of the round read last
        self._last_at: datetime = _EPOCH  # of the round published last
        self._failures = 0
        self._redis_error: FleetError | None = None

    @property
    def failures(self) -> int:
        """Number of failed polls among the rounds that were read since the feed was opened."""
        return self._failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """The Redis error while Redis cannot be used; otherwise the error of this process's latest poll, or None."""
        return self._redis_error or self._poller.last_error

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker of this process is open."""
        return self._poller.is_breaker_open

    async def open(self) -> None:
        """Connect to Redis.

        Raises:
            FleetError: if Redis cannot be used.
        """
        await self._stream.open()

    async def run(self, hub: Hub) -> None:
        """Publish the rounds of the stream, and poll while this member holds the lease, until cancelled.

        Raises:
            MintedConnectError: if another poll cannot fix the error.
        """
        hub.next_poll_at = math.inf  # unknown: another member may poll
        tasks = [
            asyncio.create_task(work, name=f"minted_connect.feed.{name}")
            for name, work in (
                ("lease", self._renew_lease()),
                ("read", self._read_rounds(hub)),
                ("poll", self._poll_while_leader()),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            # Shielded, or a second cancellation would leave the lease held and the connections open.
            with anyio.CancelScope(shield=True):
                await asyncio.wait(tasks)
            await self.aclose()

    async def aclose(self) -> None:
        """Release the lease and disconnect. Idempotent."""
        with anyio.CancelScope(shield=True):
            if self._term:
                self._term = 0
                with suppress(FleetError):
                    await self._stream.release_lease()
            await self._stream.aclose()

    async def acquire(self) -> None:
        """Wait until the rate limit of the fleet, if it has one, permits a request; without Redis it permits none."""
        retry_wait = _RETRY_INITIAL
        while True:
            try:
                wait = await self._stream.reserve_request()
            except FleetError as error:
                self._redis_failed(error)
                await asyncio.sleep(retry_wait)
                retry_wait = min(2 * retry_wait, self._fleet.lease / 3)
            else:
                if wait > 0:
                    await self._clock.sleep(wait)
                return

    async def _renew_lease(self) -> None:
        """Acquire and renew the lease until cancelled."""
        retry_wait = _RETRY_INITIAL
        loop = asyncio.get_running_loop()
        while True:
            sent_at = loop.time()
            try:
                term = await self._stream.acquire_lease()
            except FleetError as error:
                self._redis_failed(error)
                wait = retry_wait = min(2 * retry_wait, self._fleet.lease / 3)
            else:
                self._redis_recovered()
                retry_wait, wait = _RETRY_INITIAL, self._fleet.lease / 3
                if term != self._term:
                    self._on_term_change(term)
                # Counted from the sending: Redis cannot let it expire earlier.
                self._lease_expires_at = sent_at + self._fleet.lease
            if self._is_leader():
                self._lease_acquired.set()
            # With jitter, or all members would send their commands at the same moment.
            await asyncio.sleep(wait * (0.75 + 0.25 * self._random()))

    def _on_term_change(self, term: int) -> None:
        if term:
            _log.info("this process polls for the fleet at %s", self._stream.address)
        elif self._term:
            _log.warning("another process now polls for the fleet at %s", self._stream.address)
        self._term = term

    def _is_leader(self) -> bool:
        return self._term > 0 and asyncio.get_running_loop().time() < self._lease_expires_at

    async def _poll_while_leader(self) -> None:
        """Poll whenever this member holds the lease and a poll is due, until cancelled."""
        while True:
            if not self._is_leader():
                self._lease_acquired.clear()
                await self._lease_acquired.wait()
            elif (wait := self._next_poll_at - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)
            else:
                await self.acquire()
                if self._is_leader():  # the lease may have expired while it waited
                    await self._poll()

    async def _poll(self) -> None:
        """Poll once, and add the round to the stream."""
        term, interval = self._term, self._poller.interval
        result = await self._poller.poll()
        self._next_poll_at = result.next_poll_at
        try:
            is_added = await self._stream.publish(
                term,
                result.rates,
                interval=interval,
                gap_after=OVERDUE_INTERVALS * interval,
                next_poll_at=result.next_poll_at,
            )
        except FleetError as error:
            # The round may have been added nevertheless; then it is read from the stream like any other.
            self._redis_failed(error)
        else:
            if not is_added:
                _log.warning(
                    "a round was rejected by the fleet at %s: this process no longer holds the lease",
                    self._stream.address,
                )
                self._term = 0

    async def _read_rounds(self, hub: Hub) -> None:
        """Read rounds from the stream and publish them, until cancelled."""
        retry_wait = _RETRY_INITIAL
        while True:
            try:
                entries = await self._stream.read()
            except FleetError as error:
                self._redis_failed(error)
                await asyncio.sleep(retry_wait)
                retry_wait = min(2 * retry_wait, self._fleet.lease / 3)
                continue
            self._redis_recovered()
            retry_wait = _RETRY_INITIAL
            for entry in entries:
                self._publish_entry(hub, entry)

    def _publish_entry(self, hub: Hub, entry: Entry) -> None:
        missed = 0 if self._last_number is None else max(0, entry.number - self._last_number - 1)
        if missed:
            _log.warning("%d rounds of the fleet were deleted before this process could read them", missed)
        self._last_number = entry.number
        observed_at = self._stream.to_monotonic(entry.at)
        self._next_poll_at = max(self._next_poll_at, observed_at + entry.next_poll_in)
        at = _EPOCH + timedelta(microseconds=entry.at)
        # A stream that was reset, by a failover to a replica that lagged, is read again from its start.
        if at <= self._last_at:
            return
        self._last_at = at
        self._failures += not entry.rates
        hub.publish(Round(entry.rates, entry.number, at, observed_at, entry.gap, missed))
        hub.set_overdue_alarm(self._next_poll_at, entry.interval)

    def _redis_failed(self, error: FleetError) -> None:
        """Remember that Redis cannot be used; log it once per outage."""
        if self._redis_error is None:
            _log.warning("%s", error)
        self._redis_error = error

    def _redis_recovered(self) -> None:
        """Remember that Redis can be used; log the end of an outage."""
        if self._redis_error is not None:
            _log.info("Redis at %s can be used again", self._stream.address)
        self._redis_error = None
