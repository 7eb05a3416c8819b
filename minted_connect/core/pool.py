"""Connection pools on top of aiohttp, and tracking of how far a request got."""

from __future__ import annotations

import asyncio
import enum
import io
import ssl
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import aiohttp
import attrs

from minted_connect.errors import Phase

if TYPE_CHECKING:
    from types import SimpleNamespace

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.connector import Connection

    from minted_connect.config import Options

__all__ = [
    "ConnectionDropped",
    "Pool",
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

_LARGE_BODY = 2**20


class PoolKind(enum.Enum):
    """Assigns a request to one of three connection pools, each with its own limit of concurrent requests."""

    DEFAULT = "default"
    PREFLIGHT = "preflight"
    """Reads before a completion. They use the default pool, and while it is full the completion pool."""
    COMPLETION = "completion"
    """A new connection for each completion: a stale connection can make the outcome unknown."""
    RECOVERY = "recovery"
    """Reconciliation of a completion, on new connections too."""


@attrs.define
class RequestProgress:
    """The progress of a request, which remains readable after the call was cancelled."""

    phase: Phase = Phase.NOT_SENT
    is_queued: bool = False
    """Whether the request waits for a connection of a connector that the caller lent."""
    is_waiting_for_login: bool = False
    """Whether the request waits for a digest handshake that another call started."""
    elapsed: Callable[[], float] = time.monotonic
    """The client's elapsed clock."""
    is_too_late: Callable[[], bool] | None = None
    """Called right before each sending, including the one that responds to a challenge."""
    sent_at: float | None = None
    """When the request was last sent, on the elapsed clock."""

    def mark_sent(self) -> None:
        """Mark the request as sent.

        Raises:
            SendLimitPassed: if it is too late to send.
        """
        if self.is_too_late is not None and self.is_too_late():
            raise SendLimitPassed
        self.sent_at = self.elapsed()
        self.phase = Phase.SENT


@attrs.frozen
class SendLimit:
    """The latest time at which a completion may be sent, on two clocks; it is too late once either has passed it."""

    elapsed: float
    """On the client's elapsed clock."""
    send_before: datetime
    """On the server's clock."""

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


class SendLimitPassed(aiohttp.ClientError):
    """The price lock expired before the request could be sent."""


class ConnectionDropped(aiohttp.ClientError):
    """The connection broke. aiohttp does not re-send a request after an error of this class."""


class TrackedRequest(aiohttp.ClientRequest):
    """A request that records when it is sent, and that is not sent on a connection with unexpected data.

    A `TraceConfig` could record it too, but costs 20 us per call: with one trace, aiohttp runs every hook it has.
    """

    progress: RequestProgress

    async def send(self, conn: Connection) -> ClientResponse:
        # Data that arrived on an idle connection would be parsed as the response to this request.
        if conn.protocol is None or conn.protocol.should_close:
            raise ConnectionDropped("a response came before the request")
        # Before the first byte is written, so that a request without this mark was not sent.
        self.progress.mark_sent()
        return await super().send(conn)


async def forbid_resend(
    progress: RequestProgress, request: ClientRequest, handler: ClientHandlerType
) -> ClientResponse:
    """Send a request, and keep aiohttp from sending it a second time (a client middleware)."""
    assert isinstance(request, TrackedRequest)
    request.progress = progress
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


class Pool:
    """An aiohttp session with a limit of concurrent requests."""

    def __init__(self, connector: aiohttp.BaseConnector, options: Options, *, owns_connector: bool) -> None:
        traces: list[aiohttp.TraceConfig] = []
        if not owns_connector:
            trace = aiohttp.TraceConfig()
            trace.on_connection_queued_start.append(_on_queued)
            trace.on_connection_queued_end.append(_on_dequeued)
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
        # A semaphore in place of the connector's queue: a request that waits here is provably not sent, and the wait
        # has its own timeout.
        self.slots: asyncio.Semaphore = asyncio.Semaphore(options.pool_size)
        self.reading: set[aiohttp.ClientResponse] = set()
        """Responses whose body is being read."""

    async def aclose(self) -> None:
        """Close the session; if it owns its connector, also end the requests in flight."""
        if self.session.connector_owner:
            # aiohttp does not wake the reader of a body when it closes the connection: it would wait until its timeout.
            for response in self.reading:
                response.close()
        await self.session.close()


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
    default = lent or aiohttp.TCPConnector(limit=0, keepalive_timeout=options.keepalive, ssl=tls)

    def open_unpooled() -> Pool:
        return Pool(aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls), options, owns_connector=True)

    return {
        PoolKind.DEFAULT: Pool(default, options, owns_connector=lent is None),
        PoolKind.COMPLETION: open_unpooled(),
        PoolKind.RECOVERY: open_unpooled(),
    }
