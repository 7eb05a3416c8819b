"""The route of reads and basket changes: the connector and parser of aiohttp without its session, to save CPU time.

Undocumented names of aiohttp that it uses (`routes.has_direct_route` checks them), because the public API offers
connections only together with a session:

- `BaseConnector.connect(request, traces, timeout)`: returns a `Connection` from the pool, or opens one.
- `Connection.protocol`, `close`, `release`: as the session uses them.
- `ResponseHandler.transport`, `should_close`, `set_response_params`, `read`: writes bytes, tells whether data came
  before its request, sets the limits of the parser, waits for the head of a response.
- `StreamReader.is_eof`, `total_bytes`, `read_nowait`, `set_exception`: returns a body that has arrived without waiting,
  and wakes its reader.
- `HttpProcessingError`: raised by `read` for a response that is not valid HTTP.
- `ClientRequest.DEFAULT_HEADERS`: the encodings that the installed libraries can decompress.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
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

if TYPE_CHECKING:
    from minted_connect.core.auth.digest import AuthFlow

__all__ = ["DirectRoute"]

_SWITCHING_PROTOCOLS: Final = 101
_FINAL: Final = 200


class DirectRoute:
    """Exchanges over connections of our own connector; each request is written in one piece.

    Args:
        connector: Opens the connections.
        options: Limits of a response.
        origin: Scheme, host and port of the server.
    """

    def __init__(self, connector: aiohttp.BaseConnector, options: Options, *, origin: str) -> None:
        url = URL(origin)
        self._connector = connector
        self._max_body, self._max_line = options.max_body, options.max_header_line
        self._host = url.host_port_subcomponent or ""
        # A connector reads host, port and TLS settings from a request; they are the same for all requests.
        self._request = aiohttp.ClientRequest("GET", url, loop=asyncio.get_running_loop())
        self._reading: set[tuple[Connection, aiohttp.StreamReader]] = set()
        """Bodies that are being read."""

    async def exchange(
        self,
        connections: Connections,
        prepared: PreparedRequest,
        flow: AuthFlow,
        progress: RequestProgress,
        connect_timeout: float,
    ) -> RawResponse:
        """Send a request once, and return the response."""
        connection = await self._connector.connect(self._request, [], to_client_timeout(connect_timeout))
        body: bytes | None = None
        try:
            protocol = self._send(connection, connections, prepared, flow, progress)
            message, payload = await protocol.read()
            while message.code < _FINAL and message.code != _SWITCHING_PROTOCOLS:
                message, payload = await protocol.read()
            progress.phase = Phase.RESPONDED
            connections.record_response(progress)
            body = self._take(payload) if payload.is_eof() else await self._read(connection, payload)
            return RawResponse(message.code, message.headers, body)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise ConnectionDropped(describe_cause(error)) from None
        except HttpProcessingError as error:
            raise aiohttp.ClientResponseError(
                self._request.request_info, (), status=error.code, message=error.message
            ) from error
        finally:
            if body is None:
                connection.close()
            else:
                connection.release()

    def _send(
        self,
        connection: Connection,
        connections: Connections,
        prepared: PreparedRequest,
        flow: AuthFlow,
        progress: RequestProgress,
    ) -> ResponseHandler:
        protocol = connection.protocol
        if protocol is not None:
            connections.record_send(protocol, progress)
        # Data that arrived on an idle connection would be parsed as the response to this request.
        if protocol is None or protocol.should_close or protocol.transport is None:
            raise ConnectionDropped("a response came before the request")
        method, target, body = prepared.method, prepared.target, prepared.body
        protocol.set_response_params(read_until_eof=True, max_line_size=self._max_line, max_field_size=self._max_line)
        fields = _to_fields(self._host, tuple(prepared.headers.items()))
        if body or method != "GET":
            fields = f"{fields}Content-Length: {len(body)}\r\n"
        # Before the first byte is written, so that a request without this mark was not sent.
        progress.mark_sent()
        protocol.transport.write(
            f"{method} {target} HTTP/1.1\r\n{fields}{_to_authorization(flow.header(method, target, body))}\r\n".encode()
            + body
        )
        return protocol

    def _take(self, payload: aiohttp.StreamReader) -> bytes:
        """Return a body that has arrived."""
        if payload.total_bytes > self._max_body:
            raise BodyTooLarge
        return payload.read_nowait()

    async def _read(self, connection: Connection, payload: aiohttp.StreamReader) -> bytes:
        self._reading.add(reading := (connection, payload))
        try:
            return await read_body(payload, self._max_body)
        finally:
            self._reading.discard(reading)

    async def aclose(self) -> None:
        """End the reading of bodies. The session that owns the connector closes the connections."""
        # aiohttp does not wake the reader of a body when it closes the connection: it would wait until its timeout.
        for connection, payload in list(self._reading):
            connection.close()
            payload.set_exception(aiohttp.ClientConnectionError("Connection closed"))


@lru_cache(maxsize=64)
def _to_fields(host: str, headers: tuple[tuple[str, str], ...]) -> str:
    encodings = aiohttp.ClientRequest.DEFAULT_HEADERS[hdrs.ACCEPT_ENCODING]
    fields: dict[str, str] = {"Host": host, "Accept-Encoding": encodings, **dict(headers)}
    if not all(f"{name}{value}".isprintable() for name, value in fields.items()):
        raise ValueError("a header has a character that could end its line")
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items())


def _to_authorization(value: str | None) -> str:
    return "" if value is None else f"Authorization: {value}\r\n"
