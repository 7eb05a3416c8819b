"""One attempt over aiohttp: sign, send, read; every failure with the phase it reached.

aiohttp's own conveniences that could send a purchase twice or leak it are off: redirects, hidden re-sends, cookies,
proxies and credentials from the environment.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from contextlib import AsyncExitStack
from functools import lru_cache, partial
from http import HTTPStatus

import aiohttp
from yarl import URL

from minted_connect.clock import timeout
from minted_connect.config import Options, Timeouts
from minted_connect.core.auth.digest import AuthFlow, ChallengeRefused, DigestAuth
from minted_connect.core.pool import (
    BodyTooLarge,
    ConnectionDropped,
    DeadlinePassed,
    Pool,
    PoolKind,
    PreparedRequest,
    RequestProgress,
    cause_of,
    forbid_resend,
    payload,
)
from minted_connect.core.response import RawResponse
from minted_connect.errors import (
    AuthDowngrade,
    ClientClosedError,
    ConfigurationError,
    ConnectFailed,
    MintedConnectError,
    NotSent,
    Phase,
    PoolTimeout,
    PriceFixExpired,
    ProtocolError,
    RequestTimeout,
    ResponseTooLarge,
    TLSFailed,
    TransportError,
)
from minted_connect.secret import Credentials, Secret
from minted_connect.urls import LOOPBACK, check_base_url, check_proxy_url

__all__ = ["Transport"]

_TLS_FAILURES = (aiohttp.ClientSSLError, ssl.SSLError)
_CONNECT_FAILURES = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)


class Transport:
    """Sends single attempts; shared by a client and its siblings, bound to one event loop and one process."""

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        options: Options,
        *,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Secret | None = None,
    ) -> None:
        self.base_url: str = check_base_url(base_url)
        self.is_loopback: bool = URL(self.base_url).host in LOOPBACK
        self._prefix = URL(self.base_url).raw_path.rstrip("/")
        self.origin: str = str(URL(self.base_url).origin())
        """Scheme, host and port of the server."""
        self._options = options
        self._digest = DigestAuth(credentials.username, credentials.password.reveal, policy=options.digest_policy)
        self.account: str = hashlib.sha256(f"{self.base_url} {credentials.username}".encode()).hexdigest()
        """Tells this server and user from all others, without naming them."""
        self.secrets: tuple[Secret, ...] = (Secret(credentials.username), credentials.password)
        """What no text of the server may bring back into an error."""
        self._lender = session
        # A context that allows less than TLS 1.2 is refused, not changed: it is the caller's.
        if ssl_context is not None and not ssl_context.minimum_version >= ssl.TLSVersion.TLSv1_2:
            raise ConfigurationError("ssl_context: its minimum_version must be TLSv1_2 or later")
        self._ssl = ssl_context
        self._proxy = None if proxy is None else check_proxy_url(proxy)
        self._roads: dict[PoolKind, Pool] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False
        self.ended: asyncio.Event = asyncio.Event()
        """Set by `aclose`."""

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether there is something left to close, here and not in a forked child."""
        return self._roads is not None and self._pid == os.getpid()

    def check_usable(self) -> None:
        """Check that requests can be sent from here.

        Raises:
            ClientClosedError: closed, inherited through a fork, or opened on another event loop.
        """
        if self._closed:
            raise ClientClosedError("this client is closed: build a new one")
        if self._pid != os.getpid():
            raise ClientClosedError("this client was built before a fork: build one in each process")
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise ClientClosedError("this client belongs to another event loop: build one in each loop")

    def _usable_roads(self) -> dict[PoolKind, Pool]:
        """Return the session of each lane, opening them at first use, so that a client can be built outside any loop.

        Raises:
            ClientClosedError: closed, inherited through a fork, or opened on another event loop.
        """
        self.check_usable()
        loop = asyncio.get_running_loop()
        if self._roads is None:
            self._roads = self._open(loop)
            self._loop = loop
        elif self._lender is not None and self._lender.closed:
            raise ClientClosedError("the aiohttp session that this client was built on is closed")
        return self._roads

    def _open(self, loop: asyncio.AbstractEventLoop) -> dict[PoolKind, Pool]:
        options = self._options
        tls: ssl.SSLContext | bool = True
        if self.origin.startswith("https"):
            if self._ssl is None:
                self._ssl = ssl.create_default_context()
                self._ssl.minimum_version = ssl.TLSVersion.TLSv1_2
            tls = self._ssl
        shared: aiohttp.BaseConnector | None = None
        if self._lender is not None:
            shared = self._lender.connector
            if self._lender.closed or shared is None:
                raise ClientClosedError("the aiohttp session that this client was built on is closed")
            # aiohttp has no public word for the loop of a connector.
            if getattr(shared, "_loop", loop) is not loop:
                raise ClientClosedError(
                    "the aiohttp session that this client was built on belongs to another event loop"
                )
        everyday = Pool(
            shared or aiohttp.TCPConnector(limit=0, keepalive_timeout=options.keepalive, ssl=tls),
            owns_connector=shared is None,
            slots=options.pool_size,
        )
        fresh = (aiohttp.TCPConnector(limit=0, force_close=True, ssl=tls) for _ in range(2))
        money, recovery = (Pool(connector, owns_connector=True, slots=options.pool_size) for connector in fresh)
        return {PoolKind.DEFAULT: everyday, PoolKind.COMPLETION: money, PoolKind.RECOVERY: recovery}

    async def aclose(self) -> None:
        """Close what this transport opened; a lent session stays open. Repeating it does nothing."""
        if self._closed:
            return
        self._closed = True
        self.ended.set()
        roads, self._roads = self._roads, None
        if roads is None or self._pid != os.getpid():
            return
        async with AsyncExitStack() as stack:
            for road in roads.values():
                stack.push_async_callback(road.aclose)

    async def attempt(
        self, wire: PreparedRequest, timeouts: Timeouts, left: float, progress: RequestProgress
    ) -> RawResponse:
        """Make one attempt, digest rounds included, within `left` seconds; return whatever the server answered.

        Raises:
            NotSent: PoolTimeout, ConnectFailed, TLSFailed, PriceFixExpired, or no time was left.
            TransportError: sent, but no whole answer came; RequestTimeout when time ran out.
            ProtocolError: the answer is too large or not HTTP.
            AuthDowngrade: the server's challenge is not acceptable.
            ClientClosedError: closed, forked, or on another event loop.
        """
        roads = self._usable_roads()
        road = roads[wire.lane]
        if wire.hurried and road.slots.locked():
            road = roads[PoolKind.COMPLETION]
        if road.slots.locked():
            patience = min(timeouts.pool, left)
            clock = self._options.clock
            started = clock.monotonic()
            try:
                async with timeout(clock, patience):
                    await road.slots.acquire()
            except TimeoutError:
                raise PoolTimeout(
                    f"no connection came free within {patience:g} s; "
                    f"all {self._options.pool_size} are busy (Options.pool_size)"
                ) from None
            left -= clock.monotonic() - started
        else:
            await road.slots.acquire()
        try:
            return await self._within(road, wire, timeouts, left, progress)
        finally:
            road.slots.release()

    async def _within(
        self, road: Pool, wire: PreparedRequest, timeouts: Timeouts, left: float, progress: RequestProgress
    ) -> RawResponse:
        limit = min(timeouts.complete_read if wire.lane is PoolKind.COMPLETION else timeouts.read, left)
        if limit <= 0:
            raise NotSent("the deadline passed before it could be sent")
        failure: MintedConnectError
        try:
            async with timeout(self._options.clock, limit):
                progress.phase, progress.logging_in = Phase.NOT_SENT, True
                async with self._digest.exchange() as exchange:
                    progress.logging_in = False
                    return await self._signed(road, wire, timeouts, exchange, progress)
        except ChallengeRefused as refusal:
            failure = AuthDowngrade(refusal.reason, int(HTTPStatus.UNAUTHORIZED))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            failure = self._explained(error, timeouts, limit, progress)
        except RuntimeError:
            # aiohttp's word for a session or connector that was closed under a running call.
            if not self._closed:
                raise
            failure = ClientClosedError("this client was closed while the call was under way")
        # Raised outside of the except blocks: the foreign error, which holds headers, must not hang on ours.
        raise failure

    async def _signed(
        self, road: Pool, wire: PreparedRequest, timeouts: Timeouts, exchange: AuthFlow, progress: RequestProgress
    ) -> RawResponse:
        target = self._prefix + wire.target
        url = URL(self.origin + target, encoded=True)
        # Our own connectors have it already; a lent one has what its owner gave it.
        context = self._ssl if self._lender is not None and self._ssl is not None else True
        timeout = _connect_timeout(timeouts.connect)
        is_money, rounds = wire.lane is PoolKind.COMPLETION, 0
        while True:
            progress.phase = Phase.NOT_SENT
            # No name is given to what is secret: a cancellation takes this frame along, and some log its variables.
            async with road.session.request(
                wire.method,
                url,
                headers=_signed(wire.headers, exchange.header(wire.method, target, wire.body)),
                data=payload(wire.body),
                allow_redirects=False,
                timeout=timeout,
                trace_request_ctx=progress,
                middlewares=(partial(forbid_resend, progress),),
                proxy=None if self._proxy is None else self._proxy.reveal(),
                ssl=context,
            ) as response:
                progress.phase = Phase.RESPONDED
                body = await self._body(road, response)
                if response.status == HTTPStatus.UNAUTHORIZED:
                    # A challenge is a refusal before execution: sending again is the protocol, not a retry.
                    challenges = response.headers.getall("WWW-Authenticate", ())
                    rounds += 1
                    # A completion is posted again once, and only for a realm that was met before: anything else may be
                    # a gateway that has passed the first one on.
                    may_repeat = not is_money or (exchange.is_pinned and rounds == 1)
                    if exchange.on_challenge(challenges) and may_repeat:
                        continue
                    # The challenge was accepted as one of the pinned realm, so this server refused the signature.
                    return RawResponse(response.status, response.headers, body, bool(challenges) and exchange.is_pinned)
                if (
                    response.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    and response.status != HTTPStatus.TOO_MANY_REQUESTS
                ):
                    # A throttle or a failing server may answer before it looks at the signature.
                    exchange.on_success(response.headers.getall("Authentication-Info", ()))
                return RawResponse(response.status, response.headers, body)

    async def _body(self, road: Pool, response: aiohttp.ClientResponse) -> bytes:
        chunks: list[bytes] = []
        room = self._options.max_body
        road.reading.add(response)
        try:
            # Counted as it is inflated, chunk by chunk: a compressed bomb never stands in memory whole.
            while chunk := await response.content.readany():
                chunks.append(chunk)
                room -= len(chunk)
                if room < 0:
                    response.close()
                    raise BodyTooLarge
        finally:
            road.reading.discard(response)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _explained(
        self, error: BaseException, timeouts: Timeouts, limit: float, progress: RequestProgress
    ) -> MintedConnectError:
        """Turn a failure of aiohttp or the operating system into one of ours, by phase and class."""
        cause = str(error) if isinstance(error, ConnectionDropped) else cause_of(error)
        if progress.phase is Phase.NOT_SENT:
            return _unsent(error, timeouts, limit, progress, cause)
        if isinstance(error, TimeoutError):
            return RequestTimeout(f"no whole answer within {limit:.3g} s", phase=progress.phase)
        if isinstance(error, BodyTooLarge):
            text = f"the answer is larger than {self._options.max_body} bytes (Options.max_body)"
            return ResponseTooLarge(text, (text,))
        if isinstance(error, aiohttp.ClientResponseError):
            text = f"the answer is not HTTP that can be read ({cause})"
            return ProtocolError(text, (text,))
        answered = progress.phase is Phase.RESPONDED
        text = "the answer broke off" if answered else "the connection broke before an answer came"
        return TransportError(f"{text} ({cause})", phase=progress.phase)


@lru_cache(maxsize=64)
def _connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds)


def _signed(headers: dict[str, str], signature: str | None) -> dict[str, str]:
    return headers if signature is None else {**headers, "Authorization": signature}


def _unsent(error: BaseException, timeouts: Timeouts, limit: float, progress: RequestProgress, cause: str) -> NotSent:
    if isinstance(error, DeadlinePassed):
        return PriceFixExpired("the price lock ran out before it could be sent: read the basket again")
    if isinstance(error, _TLS_FAILURES):
        return TLSFailed(f"no TLS connection that can be trusted ({cause})")
    if isinstance(error, TimeoutError):
        patience = min(timeouts.connect, limit)
        if progress.queued:
            return PoolTimeout(f"the lent session's connections were all busy for {patience:g} s")
        if progress.logging_in:
            return ConnectFailed(f"the login that another call had begun was not answered within {limit:.3g} s")
        return ConnectFailed(f"no connection to the server within {patience:g} s")
    broke = not isinstance(error, _CONNECT_FAILURES)
    text = "the connection broke before anything was sent" if broke else "no connection to the server"
    return ConnectFailed(f"{text} ({cause})")
