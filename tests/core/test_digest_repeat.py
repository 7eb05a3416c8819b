"""A completion is posted again only after a Digest challenge of the pinned realm, and only once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from minted_connect import AsyncMintedConnect, AuthenticationFailed
from minted_connect.core.request import OPERATIONS, Request
from tests.support.raw_server import Connection, RawServer

pytestmark = [pytest.mark.anyio, pytest.mark.requirement(45)]

POST = Request(OPERATIONS["complete.buy"], body={"external_customer_id": "customer-1", "cart_token": "T" * 32})


def challenge(realm: str, *, stale: bool = False) -> str:
    suffix = ", stale=true" if stale else ""
    return f'WWW-Authenticate: Digest realm="{realm}", nonce="n", qop="auth", algorithm=SHA-256{suffix}\r\n'


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    """Serve reads, with a login unless `needs_no_login`, and refuse every completion with a challenge of `realm`."""

    async def script(connection: Connection) -> None:
        while True:
            first, headers, _ = await connection.request()
            if first.startswith("POST"):
                connection.envelope(None, 401, challenge(server.realm, stale=server.stale))  # type: ignore[attr-defined]
            elif server.needs_no_login or "authorization" in headers:  # type: ignore[attr-defined]
                connection.envelope([])
            else:
                connection.envelope(None, 401, challenge("vendor"))

    async with RawServer(script) as server:
        yield server


async def count_posts(server: RawServer) -> tuple[int, AuthenticationFailed]:
    async with AsyncMintedConnect("user", "password", base_url=server.url) as minted:
        await minted.rates.current()
        with pytest.raises(AuthenticationFailed) as caught:
            await minted._api.exchange(POST)
    return sum(first.startswith("POST") for first, *_ in server.requests), caught.value


async def test_challenge_without_pinned_realm_is_not_answered(server: RawServer) -> None:
    server.needs_no_login, server.realm, server.stale = True, "gateway", False  # type: ignore[attr-defined]
    count, error = await count_posts(server)
    assert count == 1
    assert not error.refused_digest


async def test_challenge_of_another_realm_is_not_answered(server: RawServer) -> None:
    server.needs_no_login, server.realm, server.stale = False, "gateway", False  # type: ignore[attr-defined]
    count, error = await count_posts(server)
    assert count == 1
    assert not error.refused_digest


@pytest.mark.parametrize("stale", [False, True])
async def test_challenge_of_pinned_realm_is_answered_once(server: RawServer, stale: bool) -> None:
    server.needs_no_login, server.realm, server.stale = False, "vendor", stale  # type: ignore[attr-defined]
    count, error = await count_posts(server)
    assert count == 2
    assert error.refused_digest
