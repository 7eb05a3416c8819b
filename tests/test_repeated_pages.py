"""A server, or a cache that ignores queries, which returns the same page for every page number."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from minted_connect import ProtocolError
from minted_connect.core.request import OPERATIONS
from tests.support.raw_server import Connection, RawServer

pytestmark = pytest.mark.anyio

MAX_REQUESTS = 10


class Server:
    """Returns the same page for every page number."""

    def __init__(self, current_page: Any = 1, last_page: Any = 3) -> None:
        self.current_page, self.last_page = current_page, last_page
        self.requests = itertools.count(1)

    async def __call__(self, connection: Connection) -> None:
        while True:
            await connection.request()
            if next(self.requests) > MAX_REQUESTS:
                return
            numbers = {"current_page": self.current_page, "last_page": self.last_page, "per_page": 1, "total": 3}
            connection.envelope({"data": [{"id": 1}], **numbers})


@pytest.mark.parametrize("current_page", [1, "1", 0])
@pytest.mark.parametrize("walk", ["pages", "iterate"])
@pytest.mark.parametrize("resource", ["products", "orders"])
async def test_walk_of_repeated_page_ends_with_an_error(connect, resource, walk, current_page) -> None:
    async with RawServer(Server(current_page)) as server:
        minted = await connect(server.url)
        with pytest.raises(ProtocolError, match="ignores the page number") as caught:
            async for _ in getattr(getattr(minted, resource), walk)():
                pass
    assert len(server.requests) == 2
    assert caught.value.problems[0].startswith("data.current_page: is ")
    assert not caught.value.safe_to_retry


async def test_walk_ends_at_the_last_page_again(connect) -> None:
    """A paginator may return the last page for each number after it."""
    script = Server(1, 2)
    async with RawServer(script) as server:
        minted = await connect(server.url)
        async for _ in minted.orders.pages():
            script.last_page = 1
    assert len(server.requests) == 2
    assert OPERATIONS["orders.page"].path in server.requests[0][0]
