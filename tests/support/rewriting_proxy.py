"""A reverse proxy that rewrites the responses of completions, and serves stale reads.

It acts like a gateway, a WAF or a read replica between a client and a server. It shares no code with either, so that
assertions do not depend on the faults of the sandbox.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Any, Final, Literal, Self

import aiohttp
import attrs
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from minted_connect.sandbox import ManualClock

__all__ = ["Made", "Rewrite", "RewritingProxy"]

Made = Literal["before", "after", "never"]
"""When the completion is executed: before the response, some seconds after it, or never."""

_HOP_BY_HOP: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "content-encoding"})


@attrs.frozen(kw_only=True)
class Rewrite:
    """The treatment of the completion of one basket, and of later reads."""

    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes = b""
    made: Made = "before"
    delay: float = 0.0
    """Seconds after the response at which the completion is executed, with `made="after"`."""
    staleness: float = 0.0
    """Seconds after the execution in which reads still show the time before it."""
    clock_error: float = 0.0
    """Seconds that the clock of the gateway is ahead of the server's: its `Date` headers show it."""


@attrs.frozen
class _Incoming:
    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


@attrs.frozen
class _Response:
    status: int
    headers: CIMultiDict[str]
    body: bytes


class RewritingProxy:
    """Forwards to `target`; completions of the baskets in `rewrites` get the response that is configured there.

    Args:
        target: Base URL of the server.
        clock: The clock that server and client share.

    Attributes:
        rewrites: The treatment of completions, by cart token.
        completions: Number of completions received, by cart token. A request without credentials is not counted: it
            is challenged, and not executed.
        reads: Number of reads received since the completion, by cart token of the completion.
        on_read: Called with that number before each such read is served.
    """

    def __init__(self, target: str, clock: ManualClock) -> None:
        self._target, self._clock = target, clock
        self.rewrites: dict[str, Rewrite] = {}
        self.completions: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.on_read: Callable[[int], object] | None = None
        self._delayed: list[tuple[float, str, _Incoming]] = []
        self._executed: dict[str, float] = {}
        self._baskets: dict[str, _Response] = {}
        self._latest: str | None = None
        self._lock = asyncio.Lock()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def execute_due(self) -> None:
        """Forward the delayed completions that are due."""
        async with self._lock:
            due = [delayed for delayed in self._delayed if delayed[0] <= self._clock.monotonic()]
            for delayed in sorted(due, key=lambda delayed: delayed[0]):
                self._delayed.remove(delayed)
                await self._execute(delayed[2], delayed[1], delayed[0])

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        await self.execute_due()
        headers = CIMultiDict((name, value) for name, value in request.headers.items() if not _is_hop(name))
        incoming = _Incoming(request.method, request.raw_path, headers, await request.read())
        if incoming.method == "POST" and "/complete/" in incoming.target:
            response = await self._complete(incoming)
        else:
            response = await self._read(incoming, request.query)
        return web.Response(status=response.status, headers=response.headers, body=response.body)

    async def _complete(self, incoming: _Incoming) -> _Response:
        if "Authorization" not in incoming.headers:
            return await self._forward(incoming)
        token = json.loads(incoming.body)["cart_token"]
        self.completions[token] += 1
        rewrite = self.rewrites.get(token)
        if rewrite is None:
            return await self._forward(incoming)
        self._latest = token
        now = self._clock.monotonic()
        if rewrite.made == "before":
            await self._execute(incoming, token, now)
        elif rewrite.made == "after":
            self._delayed.append((now + rewrite.delay, token, incoming))
        date = self._clock.wall() + timedelta(seconds=rewrite.clock_error)
        headers: CIMultiDict[str] = CIMultiDict({**rewrite.headers, "Date": format_datetime(date, usegmt=True)})
        return _Response(rewrite.status, headers, rewrite.body)

    async def _execute(self, incoming: _Incoming, token: str, moment: float) -> None:
        response = await self._forward(incoming)
        assert response.status == 200, response.body
        self._executed[token] = moment

    async def _read(self, incoming: _Incoming, query: Mapping[str, str]) -> _Response:
        if self._latest is not None:
            self.reads[self._latest] += 1
            if self.on_read is not None:
                self.on_read(self.reads[self._latest])
        response = await self._forward(incoming)
        if incoming.method != "GET" or response.status == 401:
            return response
        path = incoming.target.partition("?")[0]
        token = query.get("cart_token")
        if path.endswith("/basket") and token is not None:
            if self._is_hidden(token):
                return self._baskets[token]
            if response.status == 200:
                self._baskets[token] = response
        elif path.endswith("/orders") and response.status == 200:
            return self._without_hidden(response)
        return response

    def _is_hidden(self, token: str) -> bool:
        """Return whether reads do not show the execution of this basket's completion yet."""
        executed = self._executed.get(token)
        return executed is not None and self._clock.monotonic() < executed + self.rewrites[token].staleness

    def _without_hidden(self, response: _Response) -> _Response:
        page = json.loads(response.body)
        rows: list[dict[str, Any]] = page["data"]["data"]
        shown = [row for row in rows if not self._is_hidden(row["token"])]
        page["data"]["data"] = shown
        page["data"]["total"] -= len(rows) - len(shown)
        return attrs.evolve(response, body=json.dumps(page).encode())

    async def _forward(self, incoming: _Incoming) -> _Response:
        url = URL(self._target + incoming.target, encoded=True)
        async with self._session.request(
            incoming.method, url, headers=incoming.headers, data=incoming.body or None, allow_redirects=False
        ) as response:
            headers = CIMultiDict((name, value) for name, value in response.headers.items() if not _is_hop(name))
            return _Response(response.status, headers, await response.read())


def _is_hop(name: str) -> bool:
    return name.lower() in _HOP_BY_HOP
