"""The same GET with the SDK and with other libraries; each context manager yields a function for one call."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import json
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from benchmarks import mirrors
from benchmarks.server import OPEN, SAMPLE, SLOW, Served
from minted_connect import AsyncMintedConnect, Basket, BasketKey, MintedConnect, Options
from minted_connect.core.converter import structure
from minted_connect.core.exact_json import loads

__all__ = [
    "CUSTOMER",
    "HAS_HTTPX",
    "HAS_HTTPX2",
    "HAS_REQUESTS",
    "HAS_TYPER",
    "WIDTH",
    "Driver",
    "Peer",
    "digest_middleware",
    "httpx_typed",
    "in_sandbox",
    "plain",
    "plain_patch",
    "requests_typed",
    "sizes",
    "streams",
    "threads",
    "typed",
    "typed_blocking",
    "typed_patch",
]

_T = TypeVar("_T")
Get = Callable[[], Awaitable[object]]
Peer = Callable[[Served], AbstractAsyncContextManager[Get]]

HAS_TYPER: Final = importlib.util.find_spec("typer") is not None
HAS_REQUESTS: Final = importlib.util.find_spec("requests") is not None
HAS_HTTPX: Final = importlib.util.find_spec("httpx") is not None and importlib.util.find_spec("pydantic") is not None
HAS_HTTPX2: Final = HAS_HTTPX and importlib.util.find_spec("httpx2") is not None
WIDTH: Final = 64
"""Maximum number of connections of each async peer."""
CUSTOMER: Final[str] = json.loads(SAMPLE)["data"]["customer"]["external_id"]
_KEY: Final = BasketKey(CUSTOMER, json.loads(SAMPLE)["data"]["token"])
_SKU: Final = "MNTBAE0001"
_CHANGE: Final = {
    "external_customer_id": _KEY.customer_id,
    "cart_token": _KEY.cart_token,
    "sku": _SKU,
    "qty": 1,
}
_ITEM: Final = "/partner/walletable/basket/item"
_PATH: Final = f"/partner/walletable/basket?external_customer_id={CUSTOMER}"


@asynccontextmanager
async def typed(server: Served) -> AsyncGenerator[Get, None]:
    """Yield a GET of the SDK: signed, with retries, exact and typed."""
    options = Options(pool_size=WIDTH)
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        yield lambda: minted.baskets.get_active(CUSTOMER)


@asynccontextmanager
async def typed_patch(server: Served) -> AsyncGenerator[Get, None]:
    """Yield a PATCH of the SDK."""
    options = Options(pool_size=WIDTH)
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        yield lambda: minted.baskets.update_item(_KEY, sku=_SKU, qty=1)


@asynccontextmanager
async def plain_patch(server: Served) -> AsyncGenerator[Get, None]:
    """Yield a PATCH of aiohttp without authentication, with floats and dicts."""

    async def patch() -> Any:
        async with session.patch(server.url + OPEN + _ITEM, json=_CHANGE) as response:
            return json.loads(await response.read())

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WIDTH)) as session:
        yield patch


@asynccontextmanager
async def streams(server: Served) -> AsyncGenerator[Get, None]:
    """Yield the fastest GET in pure Python: pre-signed bytes over an asyncio stream, and `json.loads`."""
    parts = urlsplit(server.url)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    head = f"GET {_PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Digest x\r\n\r\n".encode()

    async def get() -> Any:
        reader, writer = free.pop() if free else await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head)
        fields = await reader.readuntil(b"\r\n\r\n")
        length = int(fields.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        free.append((reader, writer))
        return json.loads(body)

    try:
        yield get
    finally:
        for _, writer in free:
            writer.close()
            await writer.wait_closed()


def httpx_typed(name: str) -> Peer:
    """Return the peer for httpx or its fork httpx2, with its own Digest authentication and pydantic models."""

    @asynccontextmanager
    async def peer(server: Served) -> AsyncGenerator[Get, None]:
        library: Any = importlib.import_module(name)
        model = mirrors.pydantic_of(Basket)
        # The speed of concurrent requests depends on the pool size: use the same as for the SDK.
        limits = library.Limits(max_connections=WIDTH, max_keepalive_connections=WIDTH)
        auth = library.DigestAuth(server.username, server.password)
        url = server.url + _PATH
        async with library.AsyncClient(limits=limits, auth=auth, trust_env=False) as client:

            async def get() -> object:
                response = await client.get(url)
                return model.model_validate(json.loads(response.content, parse_float=Decimal)["data"])

            yield get

    peer.__name__ = name
    return peer


@asynccontextmanager
async def in_sandbox(server: Served) -> AsyncGenerator[Get, None]:
    """Yield a GET of the SDK to the sandbox, for a basket with one item."""
    async with AsyncMintedConnect(server.username, server.password, base_url=server.url) as minted:
        await minted.customers.create(CUSTOMER)
        await minted.baskets.add_item(CUSTOMER, sku="MNTBAE0001")
        yield lambda: minted.baskets.get_active(CUSTOMER)


@asynccontextmanager
async def plain(server: Served) -> AsyncGenerator[Get, None]:
    """Yield the baseline: a GET of aiohttp without authentication, with floats and dicts."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WIDTH)) as session:
        yield lambda: _json(session, server.url + OPEN + _PATH)


@asynccontextmanager
async def digest_middleware(server: Served) -> AsyncGenerator[Get, None]:
    """Yield a GET of aiohttp with its own Digest authentication."""
    auth = aiohttp.DigestAuthMiddleware(server.username, server.password)
    connector = aiohttp.TCPConnector(limit=WIDTH)
    async with aiohttp.ClientSession(connector=connector, middlewares=(auth,)) as session:
        yield lambda: _json(session, server.url + _PATH)


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return json.loads(await response.read())


@contextmanager
def typed_blocking(server: Served) -> Generator[Callable[[], object], None, None]:
    """Yield a GET of the blocking SDK."""
    options = Options(pool_size=WIDTH)
    with MintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
        yield lambda: minted.baskets.get_active(CUSTOMER)


@contextmanager
def requests_typed(server: Served, *, trust_env: bool = False) -> Generator[Callable[[], object], None, None]:
    """Yield a GET of `requests` with its Digest authentication and the SDK's decoding."""
    import requests  # noqa: PLC0415 - optional
    from requests.auth import HTTPDigestAuth  # noqa: PLC0415

    with requests.Session() as session:
        adapter = requests.adapters.HTTPAdapter(pool_connections=WIDTH, pool_maxsize=WIDTH)
        session.mount("http://", adapter)
        session.trust_env = trust_env
        session.auth = HTTPDigestAuth(server.username, server.password)
        url = server.url + _PATH

        def get() -> Basket:
            return structure(loads(session.get(url, timeout=15).content)["data"], Basket)

        yield get


@contextmanager
def threads(number: int) -> Generator[Callable[[Callable[[], object]], Callable[[int], None]], None, None]:
    """Yield a function that spreads calls over reused threads, because `requests` keeps a nonce per thread."""
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
    """Runs coroutines from synchronous code, so that blocking and async contenders can run in turn."""

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
        """Enter a context on the event loop; it is exited with the driver."""
        return self._runner.run(self._stack.enter_async_context(context))

    def repeat(self, get: Get, at_once: int = 1, seconds: list[float] | None = None) -> Callable[[int], None]:
        """Return a function that makes a number of calls, `at_once` of them concurrently.

        It appends the seconds of each call to `seconds`, if given.
        """
        return lambda calls: self._runner.run(_spread(get, calls, at_once, seconds))

    def first(
        self, peer: Callable[[Served], AbstractAsyncContextManager[Get]], server: Served
    ) -> Callable[[int], None]:
        """Return a function that creates clients, each for one call to a server with latency."""
        far = server.at(SLOW)

        async def first(times: int) -> None:
            for _ in range(times):
                async with peer(far) as get:
                    await get()

        return lambda times: self._runner.run(first(times))

    def burst(
        self, peer: Callable[[Served], AbstractAsyncContextManager[Get]], server: Served
    ) -> Callable[[int], None]:
        """Return a function that makes bursts: each with a new client, and `WIDTH` calls at once."""

        async def burst(times: int) -> None:
            for _ in range(times):
                async with peer(server) as get:
                    await _spread(get, WIDTH, WIDTH)

        return lambda times: self._runner.run(burst(times))


async def sizes(server: Served) -> dict[str, float]:
    """Return the bytes that an idle client and a call in flight occupy in Python's heap."""
    clients, calls = 20, 500

    async def used() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with AsyncExitStack() as stack:
        for _ in range(2):  # allocate the objects that all clients share
            await (await stack.enter_async_context(typed(server)))()
        tracemalloc.start()
        try:
            before = await used()
            for _ in range(clients):
                await (await stack.enter_async_context(typed(server)))()
            idle = (await used() - before) / clients
            far = await stack.enter_async_context(typed(server.at(SLOW)))
            await far()
            before = await used()
            tasks = [asyncio.ensure_future(far()) for _ in range(calls)]
            for _ in range(3):
                await asyncio.sleep(0)
            pending = (await used() - before) / calls
            await asyncio.gather(*tasks)
        finally:
            tracemalloc.stop()
    return {"an idle client that is logged in": idle, "a call in flight": pending}


async def _spread(get: Get, calls: int, at_once: int, seconds: list[float] | None = None) -> None:
    async def some() -> None:
        for _ in range(calls // at_once):
            started = time.perf_counter()
            await get()
            if seconds is not None:
                seconds.append(time.perf_counter() - started)

    if at_once == 1:
        await some()
    else:
        await asyncio.gather(*[some() for _ in range(at_once)])
