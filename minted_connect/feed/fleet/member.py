"""One feed in many processes: one of them polls, all of them see the same rounds.

Every member reads the rounds from the stream, also the one that publishes them. A member polls while it is sure of the
lease; a round it brings too late, because it was paused or cut off, is refused by Redis.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import anyio
import attrs

from minted_connect.clock import Alarm, alarm
from minted_connect.config import Clock, RateLimit
from minted_connect.errors import ConfigurationError, FleetError, MintedConnectError
from minted_connect.feed.fleet.redis_stream import Entry, RedisStream, place
from minted_connect.feed.hub import Hub
from minted_connect.feed.poller import UNSEEN, Polled, Poller, gap_of
from minted_connect.feed.tick import Round
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import check_type, is_seconds

__all__ = ["Fleet", "FleetMember"]

_log = logging.getLogger("minted_connect.feed")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHORTEST_LEASE: Final = 0.5
_LONGEST_LEASE: Final = 3600.0
_MOST: Final = 10_000_000
"""Entries of a stream: a year of a poll every three seconds."""
_FIRST_RETRY: Final = 0.1
"""Seconds after which Redis is asked again; then twice as many each time, up to a third of the lease."""


@attrs.frozen(kw_only=True)
class Fleet:
    """What the processes of a fleet share: `rates.feed(interval=1, fleet=Fleet("redis://host:6379/0"))`.

    Feeds with the same server, account, metals and `name` share their rounds. Whoever leads polls at its own interval.

    Raises:
        ConfigurationError: a value that cannot be, or redis-py is missing (`pip install "minted-connect[redis]"`).
    """

    url: Secret = attrs.field(repr=False, converter=as_secret, kw_only=False)
    """Of a Redis or Valkey server from version 6.2: `redis://user:password@host:6379/0`, `rediss://...`, `unix://...`."""
    name: str = "rates"
    lease: float = 10.0
    """Seconds after which a leader that is not heard of is followed by another."""
    on_outage: Literal["hold", "poll"] = "hold"
    """While Redis cannot be used: `hold` keeps the last values, which go stale, and `poll` has every process poll for
    itself once that has lasted longer than a lease."""
    keep: int = 10_000
    """The most rounds that the stream holds: who falls further behind than that misses some (`Tick.missed`). A stream
    to which nothing was added for a week is gone."""
    rate_limit: RateLimit | None = None
    """Of all feeds with the same server, account and `name` together, whatever their metals; None: none."""
    place: str = attrs.field(init=False)
    """The URL as it may be shown."""

    def __attrs_post_init__(self) -> None:
        check_type("Fleet.url", self.url, Secret)
        object.__setattr__(self, "place", place(self.url))
        check_type("Fleet.name", self.name, str)
        if not self.name.isprintable() or not self.name or set(self.name) & set("{}"):
            raise ConfigurationError("Fleet.name: must be a printable string without braces")
        if not is_seconds(self.lease) or not _SHORTEST_LEASE <= self.lease <= _LONGEST_LEASE:
            raise ConfigurationError(f"Fleet.lease: must be seconds from {_SHORTEST_LEASE} to {_LONGEST_LEASE:.0f}")
        if self.on_outage not in ("hold", "poll"):
            raise ConfigurationError("Fleet.on_outage: must be 'hold' or 'poll'")
        keep: Any = self.keep
        if not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= _MOST:
            raise ConfigurationError(f"Fleet.keep: must be a whole number from 1 to {_MOST}")
        check_type("Fleet.rate_limit", self.rate_limit, RateLimit, optional=True)


class FleetMember:
    """The source of a feed that is part of a fleet.

    Args:
        poller: asks the server, while this member leads.
        fleet: what the members share.
        scope: what feeds must have in common to share rounds.
        account: what they must have in common to share the rate limit.
        clock: the feed's.
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
        self._term = 0  # of this member as the leader
        # The lease runs on the time of Redis, which passes whatever the feed's clock says: these two are the loop's.
        self._until = -math.inf  # to when the lease is surely this member's
        self._cut_at = math.inf  # since when Redis cannot be used
        self._charged = asyncio.Event()
        self._due = -math.inf  # when the next poll of the fleet starts
        self._number: int | None = None  # of the round read last
        self._at: datetime = _EPOCH  # of the round posted last
        self._good_at = math.inf  # of the last one with rates, by the feed's clock
        self._overdue: Alarm | None = None
        self._failures = 0
        self._trouble: FleetError | None = None

    @property
    def failures(self) -> int:
        """How many polls of the fleet have failed since this feed was opened."""
        return self._failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """What is wrong with Redis, or what the latest poll of this process failed with."""
        return self._trouble or self._poller.last_error

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker of this process is open."""
        return self._poller.is_open

    async def open(self) -> None:
        """Connect to Redis.

        Raises:
            FleetError: it cannot be used.
        """
        await self._stream.open()

    async def run(self, hub: Hub) -> None:
        """Follow the stream, and lead while the lease is held; raise what polling again cannot mend."""
        hub.due = math.inf  # nobody here knows what a test's clock would skip
        tasks = [
            asyncio.create_task(work, name=f"minted_connect.feed.{name}")
            for name, work in (("lease", self._renew_lease()), ("read", self._follow(hub)), ("lead", self._lead(hub)))
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if self._overdue is not None:
                self._overdue.cancel()
            for task in tasks:
                task.cancel()
            # To the end, whoever loses patience: nobody would close the connections.
            with anyio.CancelScope(shield=True):
                await asyncio.wait(tasks)
            await self.aclose()

    async def aclose(self) -> None:
        """Give the lease back and disconnect; may be called again."""
        with anyio.CancelScope(shield=True):
            if self._term:
                self._term = 0
                with suppress(FleetError):
                    await self._stream.release()
            await self._stream.aclose()

    async def turn(self) -> None:
        """Wait for a turn under the fleet's rate limit; without Redis, there is none to keep."""
        try:
            wait = await self._stream.turn()
        except FleetError as error:
            self._redis_failed(error)
        else:
            if wait > 0:
                await self._clock.sleep(wait)

    async def _renew_lease(self) -> None:
        """Take and keep the lease, for ever."""
        retry = _FIRST_RETRY
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            try:
                term = await self._stream.beat()
            except FleetError as error:
                self._redis_failed(error)
                pause = retry = min(2 * retry, self._fleet.lease / 3)
            else:
                self._redis_recovered()
                retry, pause = _FIRST_RETRY, self._fleet.lease / 3
                if term != self._term:
                    self._on_term_change(term)
                self._until = asked + self._fleet.lease
            if self._in_charge():
                self._charged.set()
            # Apart from each other, or all followers of a leader that died would ask at once.
            await asyncio.sleep(pause * (0.75 + 0.25 * self._random()))

    def _on_term_change(self, term: int) -> None:
        if term:
            _log.info("this process polls for the fleet at %s", self._stream.place)
        elif self._term:
            _log.warning("another process polls for the fleet at %s now", self._stream.place)
        self._term = term

    def _in_charge(self) -> bool:
        """Tell whether this process is to poll: as the leader, or because everybody polls without Redis."""
        if self._fleet.on_outage == "poll" and self._alone():
            return True
        return self._leads()

    def _leads(self) -> bool:
        return self._term > 0 and asyncio.get_running_loop().time() < self._until

    def _alone(self) -> bool:
        return asyncio.get_running_loop().time() - self._cut_at >= self._fleet.lease

    async def _lead(self, hub: Hub) -> None:
        """Poll whenever this process is in charge and a poll is due, for ever."""
        while True:
            if not self._in_charge():
                self._charged.clear()
                await self._charged.wait()
            elif (left := self._due - self._clock.monotonic()) > 0:
                await self._clock.sleep(left)
            else:
                if not self._alone():
                    await self.turn()
                if self._in_charge():
                    await self._poll(hub)

    async def _poll(self, hub: Hub) -> None:
        alone, term = not self._leads(), self._term
        polled = await self._poller.poll()
        self._due = polled.due
        if alone:
            self._post_alone(hub, polled)
            return
        every = self._poller.interval
        try:
            kept = await self._stream.publish(term, polled.rates, every=every, unseen=UNSEEN * every, due=polled.due)
        except FleetError as error:
            # Whether it was added shows in the stream.
            self._redis_failed(error)
        else:
            if not kept:
                _log.warning("a poll came too late for the fleet at %s: its rates are dropped", self._stream.place)
                self._term = 0

    async def _follow(self, hub: Hub) -> None:
        """Read rounds and post them, for ever."""
        retry = _FIRST_RETRY
        while True:
            try:
                entries = await self._stream.read()
            except FleetError as error:
                self._redis_failed(error)
                await asyncio.sleep(retry)
                retry = min(2 * retry, self._fleet.lease / 3)
                continue
            self._redis_recovered()
            retry = _FIRST_RETRY
            for entry in entries:
                self._read(hub, entry)

    def _read(self, hub: Hub, entry: Entry) -> None:
        missed = 0 if self._number is None else max(0, entry.number - self._number - 1)
        if missed:
            _log.warning("%d rounds of the fleet were gone before this process could read them", missed)
        self._number = entry.number
        came = self._stream.moment(entry.at)
        self._due = max(self._due, came + entry.next)
        at = _EPOCH + timedelta(microseconds=entry.at)
        # While this process polled for itself, the others may have gone on: what it has seen since is newer.
        if at <= self._at:
            return
        self._failures += not entry.rates
        if entry.rates:
            self._good_at = came
        self._post(hub, Round(entry.rates, entry.number, at, came, entry.gap, missed), self._due, entry.every)

    def _post_alone(self, hub: Hub, polled: Polled) -> None:
        now, gap = self._clock.monotonic(), 0.0
        if polled.rates:
            gap = gap_of(now - self._good_at, self._poller.interval)
            self._good_at = now
        self._failures += not polled.rates
        # By the time of Redis, as far as it is known, so that its rounds and these come in order.
        at = max(_EPOCH + timedelta(seconds=self._stream.time(now)), self._at + timedelta(microseconds=1))
        self._post(hub, Round(polled.rates, 0, at, now, gap), polled.due, self._poller.interval)

    def _post(self, hub: Hub, posted: Round, due: float, every: float) -> None:
        self._at = posted.at
        hub.publish(posted)
        if self._overdue is not None:
            self._overdue.cancel()
        patience = max(0.0, due - self._clock.monotonic()) + UNSEEN * every
        self._overdue = alarm(self._clock, patience, lambda: hub.publish(attrs.evolve(posted, rates=())))

    def _redis_failed(self, error: FleetError) -> None:
        if self._trouble is None:
            _log.warning("%s", error)
            self._cut_at = asyncio.get_running_loop().time()
        self._trouble = error

    def _redis_recovered(self) -> None:
        if self._trouble is not None:
            _log.info("Redis at %s can be used again", self._stream.place)
        self._trouble = None
        self._cut_at = math.inf
