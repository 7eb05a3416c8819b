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

from .clock import Clock, SystemClock, passed
from .console import LOOPBACK, Console
from .console import PATH as CONSOLE
from .digest_auth import DigestVerifier
from .exchange import FaultContext, context_of
from .fault_registry import REGISTRY
from .faults import Fault, Faults
from .json_codec import failure
from .messages import translate
from .request_log import KEPT_HEADERS, LoggedRequest, RequestLog
from .router import Dispatcher, Match, Response, Router, query_of
from .settings import Options, Settings
from .shop import Shop
from .state import SECOND

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
        self.doorman: DigestVerifier = DigestVerifier(
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
        self._routes: Dispatcher | None = None
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

    @property
    def routes(self) -> Dispatcher:
        """The operations it serves."""
        if self._routes is None:
            raise RuntimeError("the sandbox is not started")
        return self._routes

    @property
    def seed(self) -> int:
        """The seed of ids, tokens and prices: the one given, drawn, or found in the state file."""
        return self.shop.seed

    @property
    def reads_behind(self) -> float:
        """The most seconds that a read of orders may be behind: `orders_lag` and `reads_lag` together."""
        return self.settings.orders_lag + self.settings.reads_lag

    @property
    def latest_landing(self) -> float | None:
        """The longest time, in seconds, after which an accepted request may still be executed; None if unbounded.

        Faults cause it: `late_commit`, `refusal` with `commit="after"`, `delay` and `hang`, as long as they are in the
        script or a request is in flight in them. 0.0 without any. Read it at each call, from any thread.
        """
        return self.faults.latest_landing

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
        self._routes = Dispatcher(shop, self._router, self._url)
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
        context = context_of(self, request, request_id, self._note(request, request_id))
        try:
            return await self._answer(context)
        except web.HTTPRequestEntityTooLarge:
            return context.respond(Response(413, failure(413, translate("too_large", context.language))))
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)  # for nobody: the client is gone

    async def _answer(self, context: FaultContext) -> web.Response:
        """Look for a fault, check the digest, look for a fault again, respond."""
        if self._match_fault(context, before_auth=True):
            return await self._misbehave(context)
        username = await context.admit()
        if isinstance(username, Response):
            return context.respond(username)
        if self._match_fault(context, before_auth=False):
            return await self._misbehave(context)
        return context.respond(await context.process())

    def _match_fault(self, context: FaultContext, *, before_auth: bool) -> bool:
        """Tell whether a fault hits this request, and note it in the context."""
        if self.faults:
            request = context.request
            path = request.raw_path.partition("?")[0]
            context.fault = self.faults.match(request.method, path, before_auth=before_auth)
        return context.fault is not None

    async def _misbehave(self, context: FaultContext) -> web.Response:
        """Let the fault happen that struck this request."""
        fault = context.fault
        assert fault is not None
        if context.entry:
            context.entry.fault = fault.kind
        # Tasks that wait in a fault are cancelled on closing, they would never end by themselves.
        task = asyncio.ensure_future(_carry_out(fault, context))
        self._misbehaving.add(task)
        try:
            return await task
        finally:
            self._misbehaving.discard(task)
            if not context.is_deferred:
                self.faults.finish(fault)

    def run_later(self, seconds: float, work: Callable[[], Awaitable[object]], fault: Fault | None) -> None:
        """Do work after some seconds of the shop's time, unless the sandbox closes before."""

        async def land() -> None:
            await passed(self.clock, seconds)
            await work()

        def finish(task: asyncio.Task[None]) -> None:
            self._misbehaving.discard(task)
            if fault is not None:
                self.faults.finish(fault)

        task = asyncio.ensure_future(land())
        self._misbehaving.add(task)
        task.add_done_callback(finish)

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

    def http_date(self) -> str:
        """Return the shop's time as an HTTP date; formatted once a second."""
        second = self.shop.now() // SECOND
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]


async def _carry_out(fault: Fault, context: FaultContext) -> web.Response:
    found = REGISTRY[fault.kind]
    if found.is_edit:
        reply: Response = found.function(await context.process(), **fault.args)
        return context.respond(reply)
    response: web.Response = await found.function(context, **fault.args)
    return response


def _url(host: str, port: int, context: ssl.SSLContext | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if context else 'http'}://{shown}:{port}"
