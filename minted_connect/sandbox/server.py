"""The HTTP server of the sandbox: listening socket, request handling and shutdown."""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from types import TracebackType
from typing import Self, Unpack

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .active_faults import Fault, Faults
from .clock import Clock, SystemClock
from .console import LOOPBACK, Console
from .console import PATH as CONSOLE
from .digest_auth import DigestVerifier
from .exchange import FaultContext, make_context, reset_connection
from .fault_injection import FaultInjector
from .json_codec import failure
from .messages import translate
from .quirks import apply_laravel
from .request_log import KEPT_HEADERS, LoggedRequest, RequestLog
from .router import Dispatcher, Match, Response, Router, parse_query
from .settings import Options, Settings
from .shop import Shop
from .state import SECOND

_ACCEPT_ITERATIONS = 3  # of the event loop: the accepting task, `connection_made`, and one to spare
_SHUTDOWN_TIMEOUT = 0.05  # seconds that a request in progress gets when the sandbox closes


def _is_not_client_error(record: logging.LogRecord) -> bool:
    # aiohttp also logs a traceback for malformed requests, such as an overlong URL or a body with a wrong encoding; the
    # 400 response is enough.
    errors = HttpProcessingError, web.RequestPayloadError
    return record.exc_info is None or not isinstance(record.exc_info[1], errors)


_log = logging.getLogger("minted_connect.sandbox")
_log.addFilter(_is_not_client_error)


class BaseSandbox:
    """The server of `Sandbox` and `ThreadedSandbox`, which add only how it is started and stopped."""

    def __init__(self, **options: Unpack[Options]) -> None:
        self.settings: Settings = Settings(**options)
        settings = self.settings
        self.username: str = settings.username
        self.password: str = settings.password or secrets.token_urlsafe(18)
        self.clock: Clock = settings.clock or SystemClock()
        self.faults: Faults = Faults()
        self._injector = FaultInjector(self.faults, self.clock)
        self.requests: RequestLog = RequestLog(settings.log_limit)
        self.digest: DigestVerifier = DigestVerifier(
            self.clock,
            realm=settings.realm,
            algorithms=settings.algorithms,
            qop=settings.qop,
            nonce_lifetime=settings.nonce_lifetime,
            nonce_uses=settings.nonce_uses,
            strict_nc=settings.strict_nc,
            basic_first=settings.basic_first,
        )
        self.digest.add(self.username, self.password)
        self._router = Router(settings.paths)
        self._url: str | None = None
        self._shop: Shop | None = None
        self._dispatcher: Dispatcher | None = None
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        has_console = settings.console if settings.console is not None else settings.host in LOOPBACK
        self._console = Console(self, settings.host) if has_console else None
        self._busy: set[web.RequestHandler] = set()
        self._reset_next: set[web.RequestHandler] = set()
        self._request_count = 0
        self._date = (0, "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._url or 'not started'}>"

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:43210`."""
        if self._url is None:
            raise RuntimeError("the sandbox is not started")
        return self._url

    @property
    def console_url(self) -> str | None:
        """URL of the console; None if the console is off."""
        return f"{self.url}{CONSOLE}" if self._console is not None else None

    @property
    def shop(self) -> Shop:
        """The state: `shop.orders`, `shop.customers`, `shop.holdings(...)`. It can be read after closing, too."""
        if self._shop is None:
            raise RuntimeError("the sandbox is not started")
        return self._shop

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher of authenticated requests."""
        if self._dispatcher is None:
            raise RuntimeError("the sandbox is not started")
        return self._dispatcher

    @property
    def seed(self) -> int:
        """Seed of ids, tokens and prices: the option, else a random one; a state file keeps its own seed."""
        return self.shop.seed

    @property
    def reads_behind(self) -> float:
        """Maximum delay of reads of orders, in seconds: `orders_lag` plus `reads_lag`."""
        return self.settings.orders_lag + self.settings.reads_lag

    @property
    def latest_landing(self) -> float | None:
        """Maximum time in seconds from accepting a request to executing it; None if unbounded, 0.0 without delays.

        The faults `late_commit`, `refusal` with `commit="after"`, `delay`, and `hang` without `commit` delay it, from
        when they are added until they are removed and no request is in flight in them. The value changes with the
        faults. It can be read from any thread.
        """
        return self.faults.latest_landing

    def add_partner(self, username: str, password: str) -> None:
        """Add a partner. Partners do not see each other's customers and orders."""
        self.digest.add(username, password)

    def reset_idle(self) -> int:
        """Reset each connection that is idle now when its next request arrives; return the number of these connections.

        The requests are not executed. New connections work. This is how a client finds its connection pool after a
        failover, after a NAT gateway has lost its table, or in a process that was stopped for a while. It can be called
        from any thread.

        Raises:
            RuntimeError: if the sandbox is not started.
        """
        if self._http is None:
            raise RuntimeError("the sandbox is not started")
        # One assignment of a new set, because requests read it in another thread.
        self._reset_next = idle = set(self._http.connections) - self._busy
        return len(idle)

    async def _start(self) -> None:
        if self._shop is not None:
            raise RuntimeError("a sandbox starts once")
        settings = self.settings
        shop = Shop(self.clock, seed=settings.seed, state=settings.state, rules=settings, products=settings.products)
        http = web.Server(self._handle, access_log=None, logger=_log)
        # The default is 30 s, during which closing would wait for clients that do not complete the TLS shutdown.
        shutdown_timeout = None if settings.ssl_context is None else _SHUTDOWN_TIMEOUT
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                http,
                settings.host,
                settings.port,
                ssl=settings.ssl_context,
                ssl_shutdown_timeout=shutdown_timeout,
                backlog=1024,
                start_serving=False,
            )
        except BaseException:
            shop.close()
            raise
        self._shop, self._http = shop, http
        self._url = _format_url(settings.host, self._listener.sockets[0].getsockname()[1], settings.ssl_context)
        reshape = apply_laravel if settings.quirks == "laravel" else None
        self._dispatcher = Dispatcher(shop, self._router, self._url, reshape=reshape)
        await self._listener.start_serving()

    async def _stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None or self._http is None:
            return
        # A connection that is accepted but has no transport yet would outlive a listener that closes now (CPython 3.11
        # raises in Server._attach and leaks it). So stop accepting, and let accepted connections get their transports.
        with suppress(NotImplementedError):  # the Windows loop has no readers, and accepts in one step
            for sock in listener.sockets:
                asyncio.get_running_loop().remove_reader(sock)
        for _ in range(_ACCEPT_ITERATIONS):
            await asyncio.sleep(0)
        listener.close()
        tasks = self._injector.cancel()
        await self._http.shutdown(_SHUTDOWN_TIMEOUT)
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
        await asyncio.sleep(0)  # a closed transport releases its socket in the next iteration of the loop
        self.shop.close()

    # Requests.

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        """Respond to one request of the API or the console."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            if self._console is not None and request.path.startswith(CONSOLE):
                return await self._console.handle(request)
            return await self._handle_api(request)
        finally:
            self._busy.discard(connection)

    async def _handle_api(self, request: web.BaseRequest) -> web.Response:
        """Respond to one request of the API, also if its body cannot be read."""
        self._request_count += 1
        request_id = f"sbx-{self._request_count:08d}"
        context = make_context(self, request, request_id, self._log_request(request, request_id))
        if request.protocol in self._reset_next:
            return self._reset(context)
        try:
            return await self._process(context)
        except web.HTTPRequestEntityTooLarge:
            return context.respond(Response(413, failure(413, translate("too_large", context.language))))
        except (ConnectionError, web.RequestPayloadError):
            return web.Response(status=400)  # cannot be sent: the client has disconnected

    def _reset(self, context: FaultContext) -> web.Response:
        """Reset a connection that was idle at `reset_idle`. The returned response cannot be sent any more."""
        if context.entry:
            context.entry.fault = "reset_idle"
        self._reset_next.discard(context.request.protocol)
        reset_connection(context.request.transport)
        return web.Response()

    async def _process(self, context: FaultContext) -> web.Response:
        """Authenticate and execute a request, or inject the fault that matches before or after authentication."""
        if (response := await self._injector.inject(context, before_auth=True)) is not None:
            return response
        username = await context.authenticate()
        if isinstance(username, Response):
            return context.respond(username)
        if (response := await self._injector.inject(context, before_auth=False)) is not None:
            return response
        return context.respond(await context.process())

    def run_later(self, seconds: float, work: Callable[[], Awaitable[object]], fault: Fault | None) -> None:
        """Run `work` after some seconds of the shop's time, unless the sandbox closes before."""
        self._injector.run_later(seconds, work, fault)

    def _log_request(self, request: web.BaseRequest, request_id: str) -> LoggedRequest | None:
        """Add the request to the log before it is processed; return its entry, or None if the log is off."""
        self.requests.total += 1
        if self.requests.limit == 0:
            return None
        path, headers = request.raw_path.partition("?")[0], request.headers
        match = self._router.find(request.method, path)
        entry = LoggedRequest(
            method=request.method,
            path=path,
            operation=match.operation if isinstance(match, Match) else "",
            query=parse_query(request.raw_path),
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


class Sandbox(BaseSandbox):
    """An embedded, stateful server of the Minted Connect API for asyncio; a seed and a `ManualClock` fix its responses.

    It shares no code with the client, so that a mistake in one of them cannot hide in the other.

    ```python
    async with Sandbox(seed=7) as sandbox:
        print(sandbox.url, sandbox.username, sandbox.password)
    ```

    Args:
        options: keyword arguments, all optional: those that `ThreadedSandbox` lists.

    Attributes:
        settings: the options.
        username: username of the first partner.
        password: password of the first partner.
        clock: clock of price locks, prices, nonces and order statuses.
        faults: the faults to inject.
        requests: log of the latest `log_limit` requests, those that were refused included, without those of the
            console.
        digest: the verifier of HTTP Digest.
    """

    async def start(self) -> None:
        """Open the state and listen.

        Raises:
            OSError: if the port is in use.
            sqlite3.Error: if the state file cannot be opened, or is not a SQLite database.
            RuntimeError: if the sandbox was started before.
        """
        await self._start()

    async def aclose(self) -> None:
        """Stop listening, close all connections and the state. Idempotent."""
        await self._stop()

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


def _format_url(host: str, port: int, context: ssl.SSLContext | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if context else 'http'}://{shown}:{port}"
