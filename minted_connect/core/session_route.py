"""The route of completions: `aiohttp.ClientSession`, by its public API.

Features of aiohttp that could send a request twice or leak it are disabled: redirects, automatic re-sends, cookies, and
proxies and credentials from the environment.
"""

from __future__ import annotations

import io
import ssl
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from minted_connect.config import Options
from minted_connect.core.pool import (
    ConnectionDropped,
    Connections,
    PreparedRequest,
    RequestProgress,
    describe_cause,
    to_client_timeout,
)
from minted_connect.core.response import BodyTooLarge, RawResponse, read_body
from minted_connect.errors import Phase
from minted_connect.secret import Secret
from minted_connect.urls import Proxy

if TYPE_CHECKING:
    from types import SimpleNamespace

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.connector import Connection

    from minted_connect.core.auth.digest import AuthFlow

__all__ = ["SessionRoute"]

_LARGE_BODY = 2**20
"""aiohttp warns about bodies of this size that are given as bytes."""


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


async def _on_queued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_queued = True


async def _on_dequeued(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_queued = False


async def _on_reused(_session: object, context: SimpleNamespace, _params: object) -> None:
    # A lent connector also has connections that only other sessions have used.
    context.trace_request_ctx.is_reused = True


class SessionRoute:
    """Exchanges over a session of aiohttp.

    Args:
        connector: Opens the connections.
        options: Limits of a response.
        origin: Scheme, host and port of the server.
        owns_connector: Whether the connector is closed with the session.
        context: For a lent connector: the TLS context in place of its own, which may verify less.
        proxy: The proxy of the client.
    """

    def __init__(
        self,
        connector: aiohttp.BaseConnector,
        options: Options,
        *,
        origin: str,
        owns_connector: bool,
        context: ssl.SSLContext | bool = True,
        proxy: Proxy | None = None,
    ) -> None:
        traces: list[aiohttp.TraceConfig] = []
        if not owns_connector:
            trace = aiohttp.TraceConfig()
            trace.on_connection_queued_start.append(_on_queued)
            trace.on_connection_queued_end.append(_on_dequeued)
            trace.on_connection_reuseconn.append(_on_reused)
            traces.append(trace)
        self._session = aiohttp.ClientSession(
            connector=connector,
            connector_owner=owns_connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            trace_configs=traces,
            request_class=TrackedRequest,
            max_line_size=options.max_header_line,
            max_field_size=options.max_header_line,
        )
        self._max_body = options.max_body
        self._origin = origin
        self._context = context
        self._proxy = proxy
        # For https, a proxy opens a tunnel and gets its own headers; for http it forwards the request with all headers.
        self._is_tunnel = origin.startswith("https")
        self._reading: set[aiohttp.ClientResponse] = set()
        """Responses whose body is being read."""

    async def exchange(
        self,
        connections: Connections,
        prepared: PreparedRequest,
        flow: AuthFlow,
        progress: RequestProgress,
        connect_timeout: float,
    ) -> RawResponse:
        """Send a request once, and return the response."""
        async with self._session.request(
            prepared.method,
            URL(self._origin + prepared.target, encoded=True),
            headers=_with_authorization(
                prepared.headers,
                flow.header(prepared.method, prepared.target, prepared.body),
                None if self._proxy is None or self._is_tunnel else self._proxy.authorization,
            ),
            # Without a body, there is no content whose type could be named.
            skip_auto_headers=("Content-Type",),
            data=_to_payload(prepared.body),
            allow_redirects=False,
            timeout=to_client_timeout(connect_timeout),
            trace_request_ctx=progress,
            middlewares=(partial(forbid_resend, connections, progress),),
            proxy=None if self._proxy is None else self._proxy.url,
            proxy_headers=_with_authorization({}, None, self._proxy.authorization) if self._proxy else None,
            ssl=self._context,
        ) as response:
            progress.phase = Phase.RESPONDED
            connections.record_response(progress)
            self._reading.add(response)
            try:
                body = await read_body(response.content, self._max_body)
            except BodyTooLarge:
                response.close()
                raise
            finally:
                self._reading.discard(response)
            return RawResponse(response.status, response.headers, body)

    async def aclose(self) -> None:
        """Close the session; if it owns its connector, also end the requests in flight."""
        if self._session.connector_owner:
            # aiohttp does not wake the reader of a body when it closes the connection: it would wait until its timeout.
            for response in self._reading:
                response.close()
        await self._session.close()


def _to_payload(body: bytes) -> bytes | io.BytesIO | None:
    return (body if len(body) < _LARGE_BODY else io.BytesIO(body)) if body else None


def _with_authorization(headers: dict[str, str], value: str | None, proxy: Secret | None) -> dict[str, str]:
    headers = headers if value is None else {**headers, "Authorization": value}
    return headers if proxy is None else {**headers, "Proxy-Authorization": proxy.reveal()}
