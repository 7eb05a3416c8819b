"""Connection pools, and tracking of how far a request got. `routes` opens the pools, `transport` closes them."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import aiohttp
import attrs

from minted_connect.clock import monotonic
from minted_connect.errors import NotSent, Phase, PriceFixExpired

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

    from minted_connect.core.auth.digest import AuthFlow
    from minted_connect.core.response import RawResponse

__all__ = [
    "ConnectionDropped",
    "Connections",
    "Pool",
    "PoolFailure",
    "PoolKind",
    "PreparedRequest",
    "RequestProgress",
    "Route",
    "SendLimit",
    "SendLimitPassed",
    "describe_cause",
    "to_client_timeout",
]

_logger = logging.getLogger("minted_connect")

_NEVER = datetime.max.replace(tzinfo=UTC)
_LARGE_BODY = 2**20
"""Larger bodies are written by aiohttp's session, which waits for the socket."""
_DEAD_POOL = 2
"""Number of broken connections from which the pool counts as broken. A single one can be a keep-alive race."""


class PoolKind(enum.Enum):
    """Assigns a request to one of three connection pools, each with its own limit of concurrent requests."""

    DEFAULT = "default"
    PREFLIGHT = "preflight"
    """Reads before a completion. They use the default pool, and while it is full the completion pool."""
    COMPLETION = "completion"
    """A new connection for each completion: a stale connection can make the outcome unknown."""
    RECOVERY = "recovery"
    """Reconciliation of a completion, and reads after a change with an unknown outcome, on new connections too."""


@attrs.define(eq=False)
class PoolFailure:
    """Reused connections that broke together, as after a failover of the server or of a NAT gateway."""

    started: float
    """On the monotonic clock."""
    broken: int = 0
    """Number of reused connections that broke."""
    is_charged: bool = False
    """Whether a retry was charged to the retry budget. Further retries after the same failure are not charged."""


@attrs.define
class RequestProgress:
    """The progress of a request, which remains readable after the call was cancelled."""

    phase: Phase = Phase.NOT_SENT
    is_queued: bool = False
    """Whether the request waits for a connection of a connector that the caller lent."""
    is_waiting_for_login: bool = False
    """Whether the request waits for a digest handshake that another call started."""
    elapsed: Callable[[], float] = monotonic
    """The client's elapsed clock."""
    limit: SendLimit | None = None
    is_too_late: Callable[[], bool] | None = None
    """Whether `limit` is over; called right before each sending, including the one that responds to a challenge."""
    sent_at: float | None = None
    """When the request was last sent, on the elapsed clock."""
    is_reused: bool = False
    """Whether the connection had been used before."""
    opened_in: int = 0
    """Number of pool failures before the connection was first used."""
    sent_in: int = 0
    """Number of pool failures before the request was sent."""
    needs_new_connection: bool = False
    """Whether a reused connection failed, so that later attempts of the call must not reuse a connection."""
    pool_failure: PoolFailure | None = None
    """The pool failure that ended the latest attempt."""

    def mark_sent(self) -> None:
        """Mark the request as sent.

        Raises:
            SendLimitPassed: if it is too late to send.
        """
        if self.is_too_late is not None and self.is_too_late():
            raise SendLimitPassed
        self.sent_at = self.elapsed()
        self.phase = Phase.SENT


def make_price_fix_error() -> NotSent:
    """Build the error for a completion whose price lock has expired."""
    return PriceFixExpired("the price lock expired before the request could be sent: read the basket again")


@attrs.frozen
class SendLimit:
    """The latest time at which a request may be sent, on two clocks; it is too late once either has passed it."""

    elapsed: float
    """On the client's elapsed clock."""
    send_before: datetime = _NEVER
    """On the server's clock."""
    make_error: Callable[[], NotSent] = make_price_fix_error
    """Builds the error to raise if it is too late."""

    def is_over(self, elapsed: float, server_time: datetime) -> bool:
        """Return whether it is too late to send."""
        return elapsed > self.elapsed or server_time > self.send_before


@attrs.frozen(slots=False)  # faster to make than a frozen class with slots
class PreparedRequest:
    """A request that is ready to be signed and sent."""

    method: str
    target: str = attrs.field(repr=False)
    """Path and query, percent-encoded, with the path of the base URL."""
    route: str
    """The path template: the only part of the URL that errors and logs may show."""
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    pool: PoolKind
    is_idempotent: bool
    """Whether it may be sent again if its connection breaks. Only then may it use a connection that may be broken."""


class SendLimitPassed(aiohttp.ClientError):
    """It was too late to send the request (`SendLimit`)."""


class ConnectionDropped(aiohttp.ClientError):
    """The connection broke. aiohttp does not re-send a request after an error of this class."""


def describe_cause(error: BaseException) -> str:
    """Return the class and errno of a foreign error, without its text, which can hold addresses, headers or bodies."""
    number = getattr(error, "errno", None)
    name = type(error).__name__
    return f"{name}, errno {number}" if isinstance(number, int) else name


@lru_cache(maxsize=64)
def to_client_timeout(connect_timeout: float) -> aiohttp.ClientTimeout:
    """Return aiohttp's form of the seconds to get a connection. Other limits are set by the transport."""
    return aiohttp.ClientTimeout(total=None, connect=connect_timeout)


class Route(Protocol):
    """Sends a request over a connection of one connector, and reads the response."""

    async def exchange(
        self,
        connections: Connections,
        prepared: PreparedRequest,
        flow: AuthFlow,
        progress: RequestProgress,
        connect_timeout: float,
    ) -> RawResponse:
        """Send a request once, and return the response.

        Args:
            connections: Records the connection that is used.
            prepared: The request.
            flow: Signs the request right before it is sent. No signature is bound to a local name, because some tools
                log the variables of a cancelled frame.
            progress: Records how far the request got.
            connect_timeout: Seconds to get a connection.

        Raises:
            SendLimitPassed: if it is too late to send.
            ConnectionDropped: if the connection broke before the headers of a response came.
            aiohttp.ClientError: if no connection was made, or the response is not valid.
            OSError: likewise; TimeoutError if no connection was made in time.
        """
        ...

    async def aclose(self) -> None:
        """End the requests in flight, unless the connector is lent, and close it likewise."""
        ...


class Connections:
    """The connections of one connector, and a record of those that broke when they were reused.

    Args:
        connector: Opens the connections.
        owns_connector: Whether it is not lent by the caller.
        keepalive: Seconds for which it keeps an idle connection.
        session: The route of completions, of recovery, and of large bodies.
        direct: The route of all other requests, if aiohttp has what it needs.
    """

    def __init__(
        self,
        connector: aiohttp.BaseConnector,
        *,
        owns_connector: bool,
        keepalive: float,
        session: Route,
        direct: Route | None = None,
    ) -> None:
        self.connector: aiohttp.BaseConnector = connector
        self.owns_connector: bool = owns_connector
        self.session: Route = session
        self.direct: Route | None = direct
        self.in_flight: int = 0
        """Number of attempts that use the connections."""
        self._keepalive = keepalive
        self._failures = 0
        self._failure: PoolFailure | None = None
        self._opened_in: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()

    def choose_route(self, prepared: PreparedRequest) -> Route:
        """Return the route of a request."""
        direct = self.direct
        return self.session if direct is None or len(prepared.body) > _LARGE_BODY else direct

    @property
    def failure(self) -> PoolFailure | None:
        """The latest pool failure, as long as idle connections that were opened before it may be broken, too.

        It ends when such a connection is reused successfully, or when aiohttp has discarded all that stayed idle.
        A lent connector may keep idle connections for any time.
        """
        if self._failure is not None and monotonic() - self._failure.started > self._keepalive:
            self._failure = None
        return self._failure

    def record_send(self, protocol: ResponseHandler, progress: RequestProgress) -> None:
        """Record which connection a request uses."""
        opened_in = self._opened_in.get(protocol)
        if opened_in is None:
            opened_in = self._opened_in[protocol] = 0 if progress.is_reused else self._failures
        else:
            progress.is_reused = True
        progress.opened_in, progress.sent_in = opened_in, self._failures

    def record_response(self, progress: RequestProgress) -> None:
        """Record that a response came. A connection from before a pool failure that works disproves the failure."""
        if progress.is_reused and progress.opened_in < progress.sent_in == self._failures:
            self._failure = None

    def record_drop(self, progress: RequestProgress) -> PoolFailure:
        """Record that a reused connection broke, and return the pool failure that it belongs to."""
        failure = self.failure
        if failure is None or progress.opened_in == self._failures:
            self._failures += 1
            failure = self._failure = PoolFailure(monotonic())
        failure.broken += 1
        progress.pool_failure = failure
        return failure

    async def aclose(self) -> None:
        """Close the routes; if the connector is not lent, also end the requests in flight."""
        if self.direct is not None:
            await self.direct.aclose()
        await self.session.aclose()


class Pool:
    """A limit of concurrent requests, and the connections that they use.

    Args:
        open_connections: Opens the connections, and replaces them after a pool failure.
        slots: Maximum concurrent requests.
    """

    def __init__(self, open_connections: Callable[[], Connections], *, slots: int) -> None:
        self._open = open_connections
        self.connections: Connections = open_connections()
        # A semaphore in place of the connector's queue: a request that waits here is provably not sent, and the wait
        # has its own timeout.
        self.slots: asyncio.Semaphore = asyncio.Semaphore(slots)
        self.replaced: set[Connections] = set()
        """Connections that only requests in flight still use."""

    def record_drop(self, connections: Connections, progress: RequestProgress) -> None:
        """Record that a reused connection broke; replace all connections if others break with it.

        The connections of a lent connector are not replaced: they belong to the caller.
        """
        failure = connections.record_drop(progress)
        if failure.broken < _DEAD_POOL or connections is not self.connections:
            return
        if connections.owns_connector and not connections.connector.closed:
            _logger.warning("%d reused connections broke: the connection pool is replaced", failure.broken)
            self.replaced.add(connections)
            self.connections = self._open()

    async def close_replaced(self) -> None:
        """Close the connections that were replaced, once no request uses them."""
        for connections in [connections for connections in self.replaced if not connections.in_flight]:
            self.replaced.discard(connections)
            await connections.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        for connections in (self.connections, *self.replaced):
            await connections.aclose()
