"""Connection pools on top of aiohttp, and tracking of how far a request got. `transport` opens and closes the pools."""

from __future__ import annotations

import asyncio
import enum
import io
import logging
import math
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import aiohttp
import attrs

from minted_connect.clock import monotonic
from minted_connect.errors import NotSent, Phase, PriceFixExpired

if TYPE_CHECKING:
    from types import SimpleNamespace

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    from minted_connect.config import Options

__all__ = [
    "ConnectionDropped",
    "Connections",
    "Pool",
    "PoolFailure",
    "PoolKind",
    "PreparedRequest",
    "RequestProgress",
    "SendLimit",
    "SendLimitPassed",
    "describe_cause",
    "forbid_resend",
    "open_pools",
    "to_payload",
]

_logger = logging.getLogger("minted_connect")

_NEVER = datetime.max.replace(tzinfo=UTC)
_LARGE_BODY = 2**20
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


@attrs.frozen
class PreparedRequest:
    """A request that is ready to be signed and sent."""

    method: str
    target: str = attrs.field(repr=False)
    """Path and query, percent-encoded."""
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


class TrackedRequest(aiohttp.ClientRequest):
    """A request that records when it is sent, and that is not sent on a connection with unexpected data.

    A `TraceConfig` could record it too, but costs 20 us per call: with one trace, aiohttp runs every hook it has.
    """

    progress: RequestProgress
    connections: Connections

    async def send(self, conn: Connection) -> ClientResponse:
        if conn.protocol is not None:
            self.connections.record_send(conn.protocol, self.progress)
        # Data that arrived on an idle connection would be parsed as the response to this request.
        if conn.protocol is None or conn.protocol.should_close:
            raise ConnectionDropped("a response came before the request")
        # Before the first byte is written, so that a request without this mark was not sent.
        self.progress.mark_sent()
        return await super().send(conn)


async def forbid_resend(
    connections: Connections, progress: RequestProgress, request: ClientRequest, handler: ClientHandlerType
) -> ClientResponse:
    """Send a request, and keep aiohttp from sending it a second time (a client middleware)."""
    assert isinstance(request, TrackedRequest)
    request.connections, request.progress = connections, progress
    # aiohttp re-sends GET, PUT and DELETE by itself after ClientOSError or ServerDisconnectedError.
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionDropped(describe_cause(error)) from None


def describe_cause(error: BaseException) -> str:
    """Return the class and errno of a foreign error, without its text, which can hold addresses, headers or bodies."""
    number = getattr(error, "errno", None)
    name = type(error).__name__
    return f"{name}, errno {number}" if isinstance(number, int) else name


async def _on_queued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_queued = True


async def _on_dequeued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_queued = False


async def _on_reused(_session: object, context: SimpleNamespace, _params: object) -> None:
    # A lent connector also has connections that only other sessions have used.
    context.trace_request_ctx.is_reused = True


class Connections:
    """An aiohttp session, and a record of the connections that broke when they were reused."""

    def __init__(
        self, connector: aiohttp.BaseConnector, options: Options, *, owns_connector: bool, keepalive: float
    ) -> None:
        traces: list[aiohttp.TraceConfig] = []
        if not owns_connector:
            trace = aiohttp.TraceConfig()
            trace.on_connection_queued_start.append(_on_queued)
            trace.on_connection_queued_end.append(_on_dequeued)
            trace.on_connection_reuseconn.append(_on_reused)
            traces.append(trace)
        self.session: aiohttp.ClientSession = aiohttp.ClientSession(
            connector=connector,
            connector_owner=owns_connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=traces,
            request_class=TrackedRequest,
            max_line_size=options.max_header_line,
            max_field_size=options.max_header_line,
        )
        self.reading: set[aiohttp.ClientResponse] = set()
        """Responses whose body is being read."""
        self.in_flight: int = 0
        """Number of attempts that use the session."""
        self._keepalive = keepalive
        self._failures = 0
        self._failure: PoolFailure | None = None
        self._opened_in: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()

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
        """Close the session; if it owns its connector, also end the requests in flight."""
        if self.session.connector_owner:
            # aiohttp does not wake the reader of a body when it closes the connection: it would wait until its timeout.
            for response in self.reading:
                response.close()
        await self.session.close()


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

        The connections of a lent session are not replaced: they belong to the caller.
        """
        failure = connections.record_drop(progress)
        session = connections.session
        if failure.broken < _DEAD_POOL or connections is not self.connections:
            return
        if session.connector_owner and not session.closed:
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


def to_payload(body: bytes) -> bytes | io.BytesIO | None:
    """Convert a body to the type that aiohttp expects."""
    # aiohttp warns about large bodies given as bytes.
    return (body if len(body) < _LARGE_BODY else io.BytesIO(body)) if body else None


def open_pools(
    lent: aiohttp.BaseConnector | None, *, tls: ssl.SSLContext | bool, options: Options
) -> dict[PoolKind, Pool]:
    """Open the three pools of a client.

    Args:
        lent: Connector of the caller's session, for the default pool; it is not closed with the pool.
        tls: TLS settings of the connectors of our own.
        options: Size of each pool, time for which an idle connection is kept, and size of a header line.
    """

    def open_default() -> Connections:
        if lent is not None:
            return Connections(lent, options, owns_connector=False, keepalive=math.inf)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=options.keepalive, ssl=tls)
        return Connections(connector, options, owns_connector=True, keepalive=options.keepalive)

    def open_unpooled() -> Connections:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls)
        return Connections(connector, options, owns_connector=True, keepalive=0)

    return {
        PoolKind.DEFAULT: Pool(open_default, slots=options.pool_size),
        PoolKind.COMPLETION: Pool(open_unpooled, slots=options.pool_size),
        PoolKind.RECOVERY: Pool(open_unpooled, slots=options.pool_size),
    }
