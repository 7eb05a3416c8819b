"""One feed in several processes: one of them polls, and all of them publish the same rounds.

Every member, the leader included, reads the rounds from a Redis stream. A member polls while it is certain to hold the
lease. Redis rejects a round that a former leader publishes too late, because it was paused or disconnected. The lease
itself is taken by `RedisStream.acquire_lease`, with the script `ACQUIRE_LEASE`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import attrs

from minted_connect.clock import Clock
from minted_connect.config import RateLimit
from minted_connect.core.cancellation import cancel_and_wait
from minted_connect.errors import ConfigurationError, FleetError, MintedConnectError
from minted_connect.feed.fleet.connection import is_proved_by_write
from minted_connect.feed.fleet.entries import US, Entry
from minted_connect.feed.fleet.numbering import Numbering
from minted_connect.feed.fleet.redis_stream import RedisStream
from minted_connect.feed.fleet.redis_url import check_parameters, redact_url
from minted_connect.feed.hub import Hub
from minted_connect.feed.poller import Poller
from minted_connect.feed.tick import OVERDUE_INTERVALS, Round
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import check_type, is_seconds

__all__ = ["Fleet", "FleetMember"]

_log = logging.getLogger("minted_connect.feed")

_T = TypeVar("_T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RELEASE_TIMEOUT: Final = 3.0
"""Maximum seconds that releasing the lease takes on closing, however long the lease is."""
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
    `rediss://...` or `unix://...`. Query parameters: `client_name`, `db`, `password`, `username`; except for `unix`
    `socket_keepalive`; for `rediss` also most `ssl_...` of redis-py. Timeouts follow from `lease`."""
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
        check_parameters(self.url)
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
        self._renew_now = asyncio.Event()
        self._next_poll_at = -math.inf  # of the fleet, by the feed's clock
        self._numbering = Numbering()
        self._last_at: datetime = _EPOCH  # of the round published last
        self._failures = 0
        # By operation: `lease`, `read`, `replay`, `publish`, `reserve`. Redis can be used if no operation has an error.
        self._redis_errors: dict[str, FleetError] = {}
        self._is_closed = False

    @property
    def failures(self) -> int:
        """Number of failed polls among the rounds that were read since the feed was opened."""
        return self._failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """The Redis error while Redis cannot be used; otherwise the error of this process's latest poll, or None."""
        return next(iter(self._redis_errors.values()), self._poller.last_error)

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker of this process is open."""
        return self._poller.is_breaker_open

    async def open(self) -> None:
        """Connect to Redis.

        Raises:
            FleetError: if Redis cannot be used, rejects writes, or does not permit a command that the fleet needs.
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
            try:
                await cancel_and_wait(tasks)
            finally:
                await self.aclose()

    async def aclose(self) -> None:
        """Release the lease and disconnect. Idempotent; if it was cancelled, another call completes it."""
        self._is_closed = True
        # Shielded, or a second cancellation would leave the lease held and the connections open.
        with anyio.CancelScope(shield=True):
            if self._term:
                with anyio.move_on_after(_RELEASE_TIMEOUT), suppress(FleetError):
                    await self._stream.release_lease()
                self._term = 0
            await self._stream.aclose()

    async def acquire(self) -> None:
        """Wait until the rate limit of the fleet, if it has one, permits a request; without Redis it permits none."""
        wait = await self._repeat("reserve", self._stream.reserve_request)
        if wait > 0:
            await self._clock.sleep(wait)

    async def replay(self, number: int, at: datetime, /) -> AsyncGenerator[list[Round], None]:
        """Yield the rounds of the stream after the round with this number and time, oldest first, in batches.

        The first of them states what the stream no longer holds: the number of missed rounds if the numbers were
        continued, and the gap.

        Raises:
            FleetError: if the feed was closed.
        """
        since = (at - _EPOCH) // timedelta(microseconds=1)
        last = await self._repeat("replay", lambda: self._stream.find_last(since))
        position = None if last is None else last.id
        # Time of the last round before a gap that no entry states, as the entry of that round is gone.
        gap_since = since if last is None or (last.number, last.at) != (number, since) else None
        numbering: Numbering | None = None
        while True:
            entries, position = await self._repeat("replay", partial(self._stream.read_after, position))
            rounds: list[Round] = []
            for entry in entries:
                if numbering is None:
                    is_known = (last is None or last.number <= number) and number < entry.number
                    numbering = Numbering(number if is_known else None)
                if numbering.is_restarted(entry):
                    numbering.skip()
                    continue
                gap = entry.gap
                if gap_since is not None and entry.rates:
                    elapsed, gap_since = (entry.at - gap_since) / US, None
                    gap = max(gap, elapsed if elapsed > OVERDUE_INTERVALS * entry.interval else 0.0)
                missed = numbering.advance(entry)
                observed_at, when = self._stream.to_monotonic(entry.at), _EPOCH + timedelta(microseconds=entry.at)
                rounds.append(Round(entry.rates, entry.number, when, observed_at, gap, missed))
            yield rounds
            if position is None:
                return

    async def _repeat(self, operation: str, command: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a command until Redis can be used.

        Raises:
            FleetError: if the feed was closed.
        """
        retry_wait = _RETRY_INITIAL
        try:
            while True:
                try:
                    return await command()
                except FleetError as error:
                    if self._is_closed:
                        raise
                    self._record_error(operation, error)
                    await asyncio.sleep(retry_wait)
                    retry_wait = min(2 * retry_wait, self._fleet.lease / 3)
        finally:
            # Also after a cancellation: this command may be the last of its operation, as that of a recording is.
            self._clear_error(operation)

    async def _renew_lease(self) -> None:
        """Acquire and renew the lease until cancelled. Only these writes show that an outage of Redis has ended."""
        retry_wait = _RETRY_INITIAL
        loop = asyncio.get_running_loop()
        while True:
            sent_at = loop.time()
            try:
                term = await self._stream.acquire_lease()
            except FleetError as error:
                self._record_error("lease", error)
                wait = retry_wait = min(2 * retry_wait, self._fleet.lease / 3)
            else:
                self._clear_error("lease")
                self._on_write_succeeded()
                retry_wait, wait = _RETRY_INITIAL, self._fleet.lease / 3
                if term != self._term:
                    self._on_term_change(term)
                # Counted from the sending: Redis cannot let it expire earlier.
                self._lease_expires_at = sent_at + self._fleet.lease
            if self._is_leader():
                self._lease_acquired.set()
            # With jitter, or all members would send their commands at the same moment.
            with anyio.move_on_after(wait * (0.75 + 0.25 * self._random())):
                await self._renew_now.wait()
            self._renew_now.clear()

    def _on_term_change(self, term: int) -> None:
        if term:
            _log.info("this process polls for the fleet at %s", self._stream.address)
        elif self._term:
            _log.warning("another process now polls for the fleet at %s", self._stream.address)
        self._term = term
        if not term:
            self._clear_error("publish")  # the new leader publishes now

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
            self._record_error("publish", error)
        else:
            self._clear_error("publish")
            if not is_added:
                _log.warning(
                    "a round was rejected by the fleet at %s: this process no longer holds the lease",
                    self._stream.address,
                )
                self._term = 0

    async def _read_rounds(self, hub: Hub) -> None:
        """Read rounds from the stream and publish them, until cancelled."""
        while True:
            for entry in await self._repeat("read", self._stream.read):
                self._publish_entry(hub, entry)

    def _publish_entry(self, hub: Hub, entry: Entry) -> None:
        observed_at = self._stream.to_monotonic(entry.at)
        self._next_poll_at = max(self._next_poll_at, observed_at + entry.next_poll_in)
        at = _EPOCH + timedelta(microseconds=entry.at)
        # A stream that was reset, by a failover to a replica that lagged, is read again from its start.
        if at <= self._last_at:
            return
        if self._numbering.is_restarted(entry):
            if self._numbering.skip():
                _log.warning(
                    "Redis at %s lost the numbers of the fleet; rounds are skipped until their numbers exceed %s",
                    self._stream.address,
                    self._numbering.last,
                )
            self._renew_now.set()  # raises the number of the next round
            return
        if missed := self._numbering.advance(entry):
            _log.warning(
                "%d rounds of the fleet were skipped, or were deleted before this process could read them", missed
            )
        self._last_at = at
        self._failures += not entry.rates
        hub.publish(Round(entry.rates, entry.number, at, observed_at, entry.gap, missed))
        hub.set_overdue_alarm(self._next_poll_at, entry.interval)

    def _record_error(self, operation: str, error: FleetError) -> None:
        """Remember that an operation failed; log the first failure of an outage.

        The outage lasts at least until the lease can be written: a server that rejects writes may still be read.
        """
        if not self._redis_errors:
            _log.warning("%s", error)
        if operation != "lease" and "lease" not in self._redis_errors:
            self._redis_errors["lease"] = error
            self._renew_now.set()
        self._redis_errors[operation] = error

    def _clear_error(self, operation: str) -> None:
        """Forget the failure of an operation; log the end of an outage."""
        if self._redis_errors.pop(operation, None) is not None and not self._redis_errors:
            _log.info("Redis at %s can be used again", self._stream.address)

    def _on_write_succeeded(self) -> None:
        """End the failure of the last publication if it is certain that the next one does not fail in the same way."""
        error = self._redis_errors.get("publish")
        if error is not None and is_proved_by_write(error):
            self._clear_error("publish")
