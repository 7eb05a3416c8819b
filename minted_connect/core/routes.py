"""Opens the pools of a client, and chooses the routes of their requests."""

from __future__ import annotations

import math
import ssl

import aiohttp

from minted_connect.config import Options
from minted_connect.core import direct_route
from minted_connect.core.direct_route import DirectRoute
from minted_connect.core.pool import Connections, Pool, PoolKind
from minted_connect.core.session_route import SessionRoute
from minted_connect.urls import Proxy

__all__ = ["open_pools"]


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
        if options.route == "auto" and proxy is None and direct_route.is_available():
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
