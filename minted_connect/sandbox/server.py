"""The sandbox on the wire: one listening socket, a handler, and a clean stop."""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self, Unpack

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from .clock import Clock, SystemClock, passed
from .console import LOOPBACK, Console
from .console import PATH as CONSOLE
from .doorman import Doorman
from .faults import Fault, Faults
from .log import KEPT_HEADERS, LoggedRequest, RequestLog
from .misbehave import Exchange, misbehave
from .options import Options, Settings
from .routes import Incoming, Match, Reply, Router, Routes, language_of, query_of
from .shop import SECOND, Shop
from .texts import say
from .wire import decode, failure

_TURNS_TO_ACCEPT = 3  # turns of the loop: the accepting task, `connection_made`, and one to spare
_PATIENCE = 0.05  # seconds a request in progress gets when the sandbox closes


def _is_our_fault(record: logging.LogRecord) -> bool:
    # aiohttp logs a traceback also for what a client did wrong, such as an overlong URL; the 400 is all it needs.
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_log = logging.getLogger("minted_connect.sandbox")
_log.addFilter(_is_our_fault)


class Sandbox:
    """An embedded Minted Connect: stateful, deterministic, and on nobody's bill.

    It shares no code with the client, so that a mistake on one side of the wire cannot hide on the other.

    ```python
    async with Sandbox(seed=7) as sandbox:
        print(sandbox.url, sandbox.username, sandbox.password)
    ```

    Args:
        options: keyword arguments, all optional: those that `ThreadedSandbox` lists.

    Attributes:
        username: of the first partner.
        password: of the first partner.
        clock: the time that locks, prices, nonces and statuses run on.
        faults: script of what goes wrong.
        requests: log of every request, also of those that were refused.
        doorman: the Digest verifier.
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        self.settings: Settings = Settings(**options)
        settings = self.settings
        self.username: str = settings.username
        self.password: str = settings.password or secrets.token_urlsafe(18)
        self.clock: Clock = settings.clock or SystemClock()
        self.faults: Faults = Faults()
        self.requests: RequestLog = RequestLog(settings.log_limit)
        self.doorman: Doorman = Doorman(
            self.clock,
            realm=settings.realm,
            algorithms=settings.algorithms,
            qop=settings.qop,
            nonce_lifetime=settings.nonce_lifetime,
            nonce_uses=settings.nonce_uses,
            strict_nc=settings.strict_nc,
            basic_first=settings.basic_first,
        )
        self.doorman.add(self.username, self.password)
        self._router = Router(settings.paths)
        self._url: str | None = None
        self._shop: Shop | None = None
        self._routes: Routes | None = None
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._misbehaving: set[asyncio.Task[Any]] = set()
        shown = settings.console if settings.console is not None else settings.host in LOOPBACK
        self._console = Console(self, settings.host) if shown else None
        self._served = 0
        self._date = (0, "")

    def __repr__(self) -> str:
        return f"<Sandbox: {self._url or 'not started'}>"

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:43210`."""
        if self._url is None:
            raise RuntimeError("the sandbox is not started")
        return self._url

    @property
    def console_url(self) -> str | None:
        """The page that shows what goes on in it; None where it has none."""
        return f"{self.url}{CONSOLE}" if self._console is not None else None

    @property
    def shop(self) -> Shop:
        """The state: `shop.orders`, `shop.customers`, `shop.holdings(...)`; readable after closing, too."""
        if self._shop is None:
            raise RuntimeError("the sandbox is not started")
        return self._shop

    def add_partner(self, username: str, password: str) -> None:
        """Let another partner in, who sees nothing of the others."""
        self.doorman.add(username, password)

    async def start(self) -> None:
        """Open the state and listen.

        Raises:
            OSError: the port is in use.
            sqlite3.Error: the state file cannot be opened, or is no database.
        """
        if self._shop is not None:
            raise RuntimeError("a sandbox starts once")
        settings = self.settings
        shop = Shop(self.clock, seed=settings.seed, state=settings.state, rules=settings, products=settings.products)
        http = web.Server(self._handle, access_log=None, logger=_log)
        # Without this, a TLS close waits 30 s for a client that may not answer.
        patience = None if settings.ssl_context is None else _PATIENCE
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                http,
                settings.host,
                settings.port,
                ssl=settings.ssl_context,
                ssl_shutdown_timeout=patience,
                backlog=1024,
                start_serving=False,
            )
        except BaseException:
            shop.close()
            raise
        self._shop, self._http = shop, http
        self._url = _url(settings.host, self._listener.sockets[0].getsockname()[1], settings.ssl_context)
        self._routes = Routes(shop, self._router, self._url)
        await self._listener.start_serving()

    async def aclose(self) -> None:
        """Stop listening, cut every connection, close the state. Harmless when called again."""
        listener, self._listener = self._listener, None
        if listener is None or self._http is None:
            return
        # A connection that was accepted and has no transport yet would outlive a listener that closes now (CPython 3.11
        # raises in Server._attach and forgets it): take no more, and let those that came get theirs.
        with suppress(NotImplementedError):  # Windows' loop has no readers, and accepts in one step
            for sock in listener.sockets:
                asyncio.get_running_loop().remove_reader(sock)
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        listener.close()
        misbehaving = list(self._misbehaving)
        for task in misbehaving:
            task.cancel()
        await self._http.shutdown(_PATIENCE)
        await asyncio.gather(*misbehaving, return_exceptions=True)
        await listener.wait_closed()
        await asyncio.sleep(0)  # transports close one turn of the loop after they are told to
        self.shop.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # One request.

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request, also one that breaks off."""
        if self._console is not None and request.path.startswith(CONSOLE):
            return await self._console.answer(request)
        self._served += 1
        request_id = f"sbx-{self._served:08d}"
        entry = self._note(request, request_id)
        try:
            return await self._answer(request, entry, request_id)
        except web.HTTPRequestEntityTooLarge:
            message = say("too_large", language_of(request.headers.get("Accept-Language")))
            return self._respond(Reply(413, failure(413, message)), request_id, entry)
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)  # for nobody: the client is gone

    async def _answer(self, request: web.BaseRequest, entry: LoggedRequest | None, request_id: str) -> web.Response:
        """Look for a fault, check the digest, look for a fault again, answer."""
        method, path = request.method, request.raw_path.partition("?")[0]
        if self.faults and (fault := self.faults.strike(method, path, before_auth=True)):
            return await self._misbehave(fault, request, entry, request_id, None)
        username = await self._admit(request, entry)
        if isinstance(username, Reply):
            return self._respond(username, request_id, entry)
        if self.faults and (fault := self.faults.strike(method, path, before_auth=False)):
            return await self._misbehave(fault, request, entry, request_id, username)
        return self._respond(await self._process(request, entry, username), request_id, entry)

    async def _admit(self, request: web.BaseRequest, entry: LoggedRequest | None) -> str | Reply:
        """Return the partner's username, or the refusal."""
        authorization = request.headers.get("Authorization")
        body = await request.read() if self.doorman.wants_body(authorization) else b""
        verdict = self.doorman.check(request.method, request.raw_path, authorization, body)
        if entry:
            entry.partner, entry.nonce, entry.nc = verdict.username, verdict.nonce, verdict.nc
        if verdict.username is not None:
            return verdict.username
        language = language_of(request.headers.get("Accept-Language"))
        if verdict.status == 400:
            return Reply(400, failure(400, say("wrong_uri", language)))
        return self._challenge(language, stale=verdict.stale)

    def _challenge(self, language: str, *, stale: bool) -> Reply:
        lines = tuple(("WWW-Authenticate", line) for line in self.doorman.challenges(stale=stale))
        return Reply(401, failure(401, say("unauthenticated", language)), lines)

    async def _process(self, request: web.BaseRequest, entry: LoggedRequest | None, partner: str) -> Reply:
        """Read the body and do what is asked."""
        body = await request.read() if request.body_exists else b""
        if entry and body:
            try:
                entry.body = decode(body)
            except ValueError:
                entry.body = body
        assert self._routes is not None
        return self._routes.answer(partner, Incoming(request.method, request.raw_path, request.headers, body))

    async def _misbehave(
        self,
        fault: Fault,
        request: web.BaseRequest,
        entry: LoggedRequest | None,
        request_id: str,
        username: str | None,
    ) -> web.Response:
        """Let a fault happen; `username` is None when it comes before the digest check."""
        language = language_of(request.headers.get("Accept-Language"))

        async def process() -> Reply:
            partner = username if username is not None else await self._admit(request, entry)
            return partner if isinstance(partner, Reply) else await self._process(request, entry, partner)

        exchange = Exchange(
            request=request,
            entry=entry,
            language=language,
            process=process,
            respond=lambda reply: self._respond(reply, request_id, entry),
            headers=lambda reply: self._headers(reply, request_id, len(reply.payload())),
            challenge=lambda: self._challenge(language, stale=True),
            later=lambda seconds: self._do_later(seconds, process),
            clock=self.clock,
        )
        # Tasks that wait in a fault are cancelled on closing, they would never end by themselves.
        task = asyncio.ensure_future(misbehave(fault, exchange))
        self._misbehaving.add(task)
        try:
            return await task
        finally:
            self._misbehaving.discard(task)

    def _do_later(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do work so many seconds of the shop's time later, unless it closes before."""

        async def land() -> None:
            await passed(self.clock, seconds)
            await work()

        task = asyncio.ensure_future(land())
        self._misbehaving.add(task)
        task.add_done_callback(self._misbehaving.discard)

    def _note(self, request: web.BaseRequest, request_id: str) -> LoggedRequest | None:
        """Write the request into the log before anything can go wrong with it."""
        self.requests.total += 1
        if self.requests.limit == 0:
            return None
        path, headers = request.raw_path.partition("?")[0], request.headers
        match = self._router.find(request.method, path)
        entry = LoggedRequest(
            method=request.method,
            path=path,
            operation=match.operation if isinstance(match, Match) else "",
            query=query_of(request.raw_path),
            headers={name: headers[name] for name in KEPT_HEADERS if name in headers},
            at=self.clock.monotonic(),
            request_id=request_id,
        )
        self.requests.append(entry)
        return entry

    def _respond(self, reply: Reply, request_id: str, entry: LoggedRequest | None) -> web.Response:
        if entry:
            entry.status = reply.status
        payload = reply.payload()
        headers = CIMultiDict(self._headers(reply, request_id, len(payload)))
        return web.Response(body=payload, status=reply.status, headers=headers)

    def _headers(self, reply: Reply, request_id: str, length: int) -> list[tuple[str, str]]:
        """Return all header lines of an answer."""
        headers = [
            ("Date", self._today()),
            ("Server", "minted-connect-sandbox"),
            ("X-Request-Id", request_id),
            ("Content-Length", str(length)),
            *reply.headers,
        ]
        if all(name.lower() != "content-type" for name, _ in reply.headers):
            headers.append(("Content-Type", "application/json"))
        return headers

    def _today(self) -> str:
        """Return the shop's time as an HTTP date; formatted once a second."""
        second = self.shop.now() // SECOND
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


def _url(host: str, port: int, context: ssl.SSLContext | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if context else 'http'}://{shown}:{port}"
