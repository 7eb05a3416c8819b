"""Opens the pools of a client, and chooses the routes of their requests."""

from __future__ import annotations

import asyncio
import math
import ssl
from functools import cache
from http import HTTPStatus
from inspect import signature

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError

from minted_connect.config import Options
from minted_connect.core.direct_route import DirectRoute
from minted_connect.core.pool import Connections, Pool, PoolKind
from minted_connect.core.session_route import SessionRoute
from minted_connect.urls import Proxy

__all__ = ["has_direct_route", "open_pools"]


@cache
def has_direct_route() -> bool:
    """Return whether this aiohttp has the names that `direct_route` uses, and whether they behave as expected."""
    names = {
        Connection: ("protocol", "close", "release"),
        ResponseHandler: ("should_close",),
        aiohttp.StreamReader: ("readany", "set_exception"),
        HttpProcessingError: ("code", "message"),
    }
    try:
        signature(aiohttp.BaseConnector.connect).bind(None, None, [], None)
        is_complete = all(hasattr(owner, name) for owner, owned in names.items() for name in owned)
        return is_complete and _is_response_read()
    except Exception:  # noqa: BLE001 - any failure here would be one of a request
        return False


def _is_response_read() -> bool:
    """Let aiohttp parse a response without a connection, and return whether the result is as expected."""
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.set_response_params(read_until_eof=True, max_line_size=100, max_field_size=100)
    protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    reading = protocol.read()
    try:
        reading.send(None)
    except StopIteration as ended:
        message, payload = ended.value
    else:
        reading.close()
        return False
    return bool(
        message.code == HTTPStatus.OK
        and message.headers.getall("Content-Length") == ["2"]
        and payload.is_eof()
        and (payload.total_bytes, payload.read_nowait()) == (2, b"{}")
        and not protocol.should_close
        and aiohttp.ClientRequest.DEFAULT_HEADERS[hdrs.ACCEPT_ENCODING]
    )


def open_pools(
    lent: aiohttp.BaseConnector | None,
    *,
    origin: str,
    tls: ssl.SSLContext | bool,
    options: Options,
    proxy: Proxy | None = None,
) -> dict[PoolKind, Pool]:
    """Open the three pools of a client.

    Args:
        lent: Connector of the caller's session, for the default pool; it is not closed with the pool.
        origin: Scheme, host and port of the server.
        tls: TLS settings; a lent connector may have some that verify less.
        options: Size of each pool, time for which an idle connection is kept, limits of a response, and the route.
        proxy: The proxy of all requests.
    """

    def open_default() -> Connections:
        if lent is not None:
            session = SessionRoute(lent, options, origin=origin, owns_connector=False, context=tls, proxy=proxy)
            return Connections(lent, owns_connector=False, keepalive=math.inf, session=session)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=options.keepalive, ssl=tls)
        session = SessionRoute(connector, options, origin=origin, owns_connector=True, proxy=proxy)
        direct = None
        if options.route == "auto" and proxy is None and has_direct_route():
            direct = DirectRoute(connector, options, origin=origin)
        return Connections(connector, owns_connector=True, keepalive=options.keepalive, session=session, direct=direct)

    def open_unpooled() -> Connections:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls)
        session = SessionRoute(connector, options, origin=origin, owns_connector=True, proxy=proxy)
        return Connections(connector, owns_connector=True, keepalive=0, session=session)

    return {
        PoolKind.DEFAULT: Pool(open_default, slots=options.pool_size),
        PoolKind.COMPLETION: Pool(open_unpooled, slots=options.pool_size),
        PoolKind.RECOVERY: Pool(open_unpooled, slots=options.pool_size),
    }
