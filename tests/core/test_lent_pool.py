"""`Options.keepalive` does not apply to a lent connector, which keeps idle connections as long as its owner chose."""

from __future__ import annotations

import aiohttp
import pytest

from minted_connect.config import Options
from minted_connect.core.pool import Connections, PoolKind, RequestProgress
from minted_connect.core.routes import open_pools

pytestmark = pytest.mark.anyio

DAY = 86_400.0


async def failure_after_a_day(lent: aiohttp.BaseConnector | None) -> tuple[bool, bool]:
    """Let a reused connection break; return whether that counts a day later, and after an older one has worked."""
    pools = open_pools(lent, origin="http://127.0.0.1", tls=True, options=Options(keepalive=15.0))
    try:
        connections: Connections = pools[PoolKind.DEFAULT].connections
        connections.record_drop(RequestProgress(is_reused=True)).started -= DAY
        counts = connections.failure is not None
        connections.record_response(RequestProgress(is_reused=True, opened_in=0, sent_in=1))
        return counts, connections.failure is not None
    finally:
        for pool in pools.values():
            await pool.aclose()


@pytest.mark.requirement(51)
async def test_failure_of_a_lent_connector_lasts_until_one_works() -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=2 * DAY)) as session:
        assert await failure_after_a_day(session.connector) == (True, False)
        assert not session.closed


@pytest.mark.requirement(51)
async def test_failure_of_own_connections_ends_with_their_keepalive() -> None:
    assert await failure_after_a_day(None) == (False, False)
