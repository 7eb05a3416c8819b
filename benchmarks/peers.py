"""The same GET through the SDK and through its peers; each is a context manager that gives one call."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp

from benchmarks.server import OPEN, SAMPLE, Served
from minted_connect import AsyncMintedConnect, Basket, MintedConnect, Options
from minted_connect.core.codec import loads, structure

__all__ = [
    "CUSTOMER",
    "HAS_REQUESTS",
    "WIDTH",
    "Driver",
    "digest_middleware",
    "in_sandbox",
    "plain",
    "requests_typed",
    "threads",
    "typed",
    "typed_blocking",
]

_T = TypeVar("_T")
Get = Callable[[], Awaitable[object]]
Peer = Callable[[Served], AbstractAsyncContextManager[Get]]

HAS_REQUESTS: Final = importlib.util.find_spec("requests") is not None
WIDTH: Final = 64
"""Connections that every async peer may open."""
CUSTOMER: Final[str] = json.loads(SAMPLE)["data"]["customer"]["external_id"]
_PATH: Final = f"/partner/walletable/basket?external_customer_id={CUSTOMER}"


@asynccontextmanager
async def typed(server: Served) -> AsyncGenerator[Get, None]:
    """Give the SDK: signed, retried if need be, exact, typed."""
    options = Options(pool_size=WIDTH)
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        yield lambda: minted.baskets.get_active(CUSTOMER)


@asynccontextmanager
async def in_sandbox(server: Served) -> AsyncGenerator[Get, None]:
    """Give the SDK in the sandbox, reading a basket that it has filled."""
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url) as minted:
        await minted.customers.create(CUSTOMER)
        await minted.baskets.add_item(CUSTOMER, sku="MNTBAE0001")
        yield lambda: minted.baskets.get_active(CUSTOMER)


@asynccontextmanager
async def plain(server: Served) -> AsyncGenerator[Get, None]:
    """Give the floor: aiohttp, no authentication, floats and dicts."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WIDTH)) as session:
        yield lambda: _json(session, server.url + OPEN + _PATH)


@asynccontextmanager
async def digest_middleware(server: Served) -> AsyncGenerator[Get, None]:
    """Give aiohttp with its own Digest authentication."""
    auth = aiohttp.DigestAuthMiddleware(server.username, server.password)
    connector = aiohttp.TCPConnector(limit=WIDTH)
    async with aiohttp.ClientSession(connector=connector, middlewares=(auth,)) as session:
        yield lambda: _json(session, server.url + _PATH)


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return json.loads(await response.read())


@contextmanager
def typed_blocking(server: Served) -> Generator[Callable[[], object], None, None]:
    """Give the SDK's blocking twin."""
    with MintedConnect(server.username, server.password, base_url=server.url) as minted:
        yield lambda: minted.baskets.get_active(CUSTOMER)


@contextmanager
def requests_typed(server: Served) -> Generator[Callable[[], object], None, None]:
    """Give `requests` with its Digest authentication and the SDK's decoding; the environment is not consulted."""
    import requests  # noqa: PLC0415 - not everybody has it
    from requests.auth import HTTPDigestAuth  # noqa: PLC0415

    with requests.Session() as session:
        session.trust_env = False
        session.auth = HTTPDigestAuth(server.username, server.password)
        url = server.url + _PATH

        def get() -> Basket:
            return structure(loads(session.get(url, timeout=15).content)["data"], Basket)

        yield get


@contextmanager
def threads(number: int) -> Generator[Callable[[Callable[[], object]], Callable[[int], None]], None, None]:
    """Give what spreads a number of calls over threads, which stay the same: peers keep a nonce for each."""
    with ThreadPoolExecutor(number) as pool:

        def spread(get: Callable[[], object]) -> Callable[[int], None]:
            def some(calls: int) -> None:
                for _ in range(calls):
                    get()

            def run(calls: int) -> None:
                list(pool.map(some, [calls // number] * number))

            return some if number == 1 else run

        yield spread


class Driver:
    """An event loop that plain code drives, so that blocking and async contenders can take turns."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def open(self, context: AbstractAsyncContextManager[_T]) -> _T:
        """Enter a context on the loop; it is left when the driver ends."""
        return self._runner.run(self._stack.enter_async_context(context))

    def repeat(self, get: Get, at_once: int = 1) -> Callable[[int], None]:
        """Return what makes a number of calls, some of them at a time."""
        return lambda calls: self._runner.run(_spread(get, calls, at_once))

    def burst(
        self, peer: Callable[[Served], AbstractAsyncContextManager[Get]], server: Served
    ) -> Callable[[int], None]:
        """Return what makes bursts: a fresh client each, and `WIDTH` calls at once."""

        async def burst(times: int) -> None:
            for _ in range(times):
                async with peer(server) as get:
                    await _spread(get, WIDTH, WIDTH)

        return lambda times: self._runner.run(burst(times))


async def _spread(get: Get, calls: int, at_once: int) -> None:
    async def some() -> None:
        for _ in range(calls // at_once):
            await get()

    if at_once == 1:
        await some()
    else:
        await asyncio.gather(*[some() for _ in range(at_once)])
