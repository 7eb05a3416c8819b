"""What goes over the wire, how far it got, and over which connections: the lowest layer of ours above aiohttp."""

from __future__ import annotations

import asyncio
import enum
import io
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

__all__ = [
    "BodyTooLarge",
    "ConnectionDropped",
    "DeadlinePassed",
    "Pool",
    "PoolKind",
    "PreparedRequest",
    "RequestProgress",
    "SendLimit",
    "cause_of",
    "forbid_resend",
    "payload",
]

_LARGE = 2**20


class PoolKind(enum.Enum):
    """Which connections a request uses; each lane has places of its own, so that none can starve another."""

    DEFAULT = "default"
    COMPLETION = "completion"
    """A fresh connection for each completion: a stale one manufactures unknown outcomes."""
    RECOVERY = "recovery"
    """Finding out what became of a completion, also over fresh connections."""


@attrs.define
class RequestProgress:
    """How far a request got, for whoever has to tell after a cancellation."""

    phase: Phase = Phase.NOT_SENT
    queued: bool = False
    """Waiting for a connection of a connector that is not ours."""
    logging_in: bool = False
    """Waiting for the login that another call has begun."""
    elapsed: Callable[[], float] = time.monotonic
    """A clock that runs on while the machine sleeps."""
    is_too_late: Callable[[], bool] | None = None
    """Asked right before each sending, the reply to a challenge included."""
    sent_at: float | None = None
    """On the elapsed clock: when the request last went out."""

    def leave(self) -> None:
        """Mark the request as sent, if it is not too late for that."""
        if self.is_too_late is not None and self.is_too_late():
            raise DeadlinePassed
        self.sent_at = self.elapsed()
        self.phase = Phase.SENT


@attrs.frozen
class SendLimit:
    """The end of the time in which a completion may be sent, on two clocks: past either, nothing is sent."""

    elapsed: float
    """On the client's clock that runs on while the machine sleeps."""
    send_before: datetime
    """By the server's clock."""

    def is_over(self, elapsed: float, server_time: datetime) -> bool:
        """Return whether it is too late to send."""
        return elapsed > self.elapsed or server_time > self.send_before


@attrs.frozen
class PreparedRequest:
    """One request as it goes out: everything but the signature."""

    method: str
    target: str = attrs.field(repr=False)
    route: str
    """The path template: the only part of the URL that errors and logs may show."""
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    lane: PoolKind
    hurried: bool = False
    """Whether it takes a place of the completions where its own lane has none left."""


class DeadlinePassed(aiohttp.ClientError):
    """The price fix ran out before the request could leave."""


class BodyTooLarge(aiohttp.ClientError):
    """The body is larger than the cap."""


class ConnectionDropped(aiohttp.ClientError):
    """The connection broke; of a class that aiohttp does not re-send on."""


class TrackedRequest(aiohttp.ClientRequest):
    """A request that notes when it leaves, and leaves only over a connection that has nothing to say by itself.

    A `TraceConfig` would note the former too, at 20 us a call: one trace makes aiohttp run every hook it has.
    """

    progress: RequestProgress

    async def send(self, conn: Connection) -> ClientResponse:
        # What arrived on an idle connection would be taken for the answer to this request.
        if conn.protocol is None or conn.protocol.should_close:
            raise ConnectionDropped("an answer came before the request")
        # Before the first byte is written: without this mark, nothing was sent.
        self.progress.leave()
        return await super().send(conn)


async def forbid_resend(
    progress: RequestProgress, request: ClientRequest, handler: ClientHandlerType
) -> ClientResponse:
    """Let a request go, and keep aiohttp from sending it again (a client middleware)."""
    assert isinstance(request, TrackedRequest)
    request.progress = progress
    # aiohttp re-sends GET, PUT and DELETE by itself when it sees ClientOSError or ServerDisconnectedError.
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionDropped(cause_of(error)) from None


def cause_of(error: BaseException) -> str:
    """Return the class and error number of a foreign error; its text may hold addresses, headers or bodies."""
    number = getattr(error, "errno", None)
    name = type(error).__name__
    return f"{name}, errno {number}" if isinstance(number, int) else name


async def _note_queued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.queued = True


async def _note_unqueued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.queued = False


class Pool:
    """The session of a lane, and the number of requests that may use it at once."""

    def __init__(self, connector: aiohttp.BaseConnector, *, owns_connector: bool, slots: int) -> None:
        traces: list[aiohttp.TraceConfig] = []
        if not owns_connector:
            trace = aiohttp.TraceConfig()
            trace.on_connection_queued_start.append(_note_queued)
            trace.on_connection_queued_end.append(_note_unqueued)
            traces.append(trace)
        self.session: aiohttp.ClientSession = aiohttp.ClientSession(
            connector=connector,
            connector_owner=owns_connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=traces,
            request_class=TrackedRequest,
        )
        # Our own queue instead of the connector's: waiting in it is provably not sent, and has its own timeout.
        self.slots: asyncio.Semaphore = asyncio.Semaphore(slots)
        self.reading: set[aiohttp.ClientResponse] = set()
        """Answers whose body is still coming in."""

    async def aclose(self) -> None:
        """Close the session, and end the calls on connections of ours."""
        if self.session.connector_owner:
            # aiohttp forgets whoever reads a body when it closes a connection: they would wait until their timeout.
            for response in self.reading:
                response.close()
        await self.session.close()


def payload(body: bytes) -> bytes | io.BytesIO | None:
    """Return a body as aiohttp takes it."""
    # aiohttp warns of large bodies given as bytes.
    return (body if len(body) < _LARGE else io.BytesIO(body)) if body else None
