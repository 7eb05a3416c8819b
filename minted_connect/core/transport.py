"""Single attempts: sign, send, read the response, and map failures to errors with the phase reached."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import cast

import aiohttp
from yarl import URL

from minted_connect.clock import follows_event_loop, timeout
from minted_connect.config import Options, Timeouts
from minted_connect.core.auth.challenge import ChallengeRefused
from minted_connect.core.auth.digest import DigestAuth, is_valid_target
from minted_connect.core.auth.login import Login
from minted_connect.core.deadlines import Deadlines
from minted_connect.core.event_loop import EXITING, check_asyncio, is_interpreter_exiting
from minted_connect.core.pool import (
    ConnectionDropped,
    Connections,
    Pool,
    PoolKind,
    PreparedRequest,
    RequestProgress,
)
from minted_connect.core.response import RawResponse
from minted_connect.core.routes import open_pools
from minted_connect.core.transport_failures import map_failure
from minted_connect.errors import (
    AuthDowngrade,
    ClientClosedError,
    ConfigurationError,
    MintedConnectError,
    NotSent,
    Phase,
    PoolTimeout,
)
from minted_connect.secret import Credentials, CredentialsFunction, Secret, check_username
from minted_connect.urls import LOOPBACK, check_base_url, parse_proxy_url

__all__ = ["Transport"]


class Transport:
    """Sends single attempts. Bound to one event loop and one process.

    Shared by a client and the clients made by its `with_options`.
    """

    def __init__(
        self,
        base_url: str,
        username: str,
        password: Secret | CredentialsFunction,
        options: Options,
        *,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Secret | None = None,
    ) -> None:
        self.base_url: str = check_base_url(base_url)
        self.is_loopback: bool = URL(self.base_url).host in LOOPBACK
        self.prefix: str = URL(self.base_url).raw_path.rstrip("/")
        """Path of the base URL, with which the target of each request begins."""
        self.origin: str = str(URL(self.base_url).origin())
        """Scheme, host and port of the server."""
        self._options = options
        self._digest: DigestAuth | None = None
        self._login: Login | None = None
        self._secrets: tuple[Secret, ...] = ()
        # A class is callable, too, but never meant.
        if callable(password) and not isinstance(password, type):
            check_username(username)
            may_rename = options.journal_account is not None
            self._login = Login(username, password, policy=options.digest_policy, may_rename=may_rename)
        else:
            credentials = Credentials(username, cast("Secret", password))
            self._digest = DigestAuth(username, credentials.password.reveal, policy=options.digest_policy)
            self._secrets = (Secret(username), credentials.password)
        self.account: str = hashlib.sha256(f"{self.base_url} {username}".encode()).hexdigest()
        """Identifies the server and the user without naming them."""
        self._lent_session = session
        self._ssl = ssl_context
        self._check_ssl_context()
        self._proxy = None if proxy is None else parse_proxy_url(proxy)
        self._pools: dict[PoolKind, Pool] | None = None
        self._deadlines = Deadlines()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False
        self.ended: asyncio.Event = asyncio.Event()
        """Set by `aclose`."""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """Masked in texts of the server before they become part of an error or a warning."""
        return self._secrets if self._login is None else self._login.secrets

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether this process has opened pools and not closed them; False in a forked child."""
        return self._pools is not None and self._pid == os.getpid()

    def check_usable(self) -> None:
        """Check that this process and event loop can send requests.

        Raises:
            ClientClosedError: if the client is closed, was built before a fork, or was first used on another loop.
            ConfigurationError: if no asyncio event loop is running.
        """
        if self._closed:
            raise ClientClosedError("this client is closed: build a new one")
        if self._pid != os.getpid():
            raise ClientClosedError("this client was built before a fork: build one in each process")
        check_asyncio()
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise ClientClosedError("this client belongs to another event loop: build one in each loop")

    def _check_ssl_context(self) -> None:
        """Reject a context that verifies too little. It is not changed, because it belongs to the caller."""
        context = self._ssl
        if context is None:
            return
        if not context.minimum_version >= ssl.TLSVersion.TLSv1_2:
            raise ConfigurationError("ssl_context: its minimum_version must be TLSv1_2 or later")
        if self.is_loopback:
            return
        if context.verify_mode is ssl.CERT_NONE or not context.check_hostname:
            raise ConfigurationError(
                "ssl_context: must verify certificates and host names (verify_mode CERT_REQUIRED, check_hostname True) "
                "except for localhost; to trust a private authority, call its load_verify_locations"
            )

    def _usable_pools(self) -> dict[PoolKind, Pool]:
        """Return the pools. They open at the first use, so that a client can be built outside of an event loop.

        Raises:
            ClientClosedError: as `check_usable`, or if the lent session is closed.
        """
        self.check_usable()
        loop = asyncio.get_running_loop()
        if self._pools is None:
            self._pools = self._open(loop)
            self._loop = loop
        elif self._lent_session is not None and self._lent_session.closed:
            raise ClientClosedError("the aiohttp session that this client was built on is closed")
        return self._pools

    def _open(self, loop: asyncio.AbstractEventLoop) -> dict[PoolKind, Pool]:
        options = self._options
        self._check_ssl_context()  # it may have been changed since
        tls: ssl.SSLContext | bool = True
        if self.origin.startswith("https"):
            if self._ssl is None:
                self._ssl = ssl.create_default_context()
                self._ssl.minimum_version = ssl.TLSVersion.TLSv1_2
            tls = self._ssl
        lent: aiohttp.BaseConnector | None = None
        if self._lent_session is not None:
            lent = self._lent_session.connector
            if self._lent_session.closed or lent is None:
                raise ClientClosedError("the aiohttp session that this client was built on is closed")
            # aiohttp has no public attribute for the loop of a connector.
            if getattr(lent, "_loop", loop) is not loop:
                raise ClientClosedError(
                    "the aiohttp session that this client was built on belongs to another event loop"
                )
        return open_pools(lent, origin=self.origin, tls=tls, options=options, proxy=self._proxy)

    async def aclose(self) -> None:
        """Close the pools; a lent session stays open. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.ended.set()
        pools, self._pools = self._pools, None
        if pools is None or self._pid != os.getpid():
            return
        self._deadlines.close()
        async with AsyncExitStack() as stack:
            for pool in pools.values():
                stack.push_async_callback(pool.aclose)

    async def attempt(
        self, prepared: PreparedRequest, timeouts: Timeouts, left: float, progress: RequestProgress
    ) -> RawResponse:
        """Make one attempt within `left` seconds, digest challenges included, and return the response.

        Raises:
            NotSent: nothing was sent: PoolTimeout, ConnectFailed, TLSFailed, or it is too late (deadline, `SendLimit`).
            TransportError: the request was sent, and no complete response came; RequestTimeout after a timeout.
            ProtocolError: the response is too large or not valid HTTP.
            AuthDowngrade: the server's challenge is not acceptable.
            ClientClosedError: as `check_usable`, or if the client is closed during the attempt, or if a connection is
                needed while the interpreter exits.
            ConfigurationError: as `check_usable`.
        """
        pools = self._usable_pools()
        progress.pool_failure = None
        kind = prepared.pool
        if kind is PoolKind.PREFLIGHT:
            kind = PoolKind.COMPLETION if pools[PoolKind.DEFAULT].slots.locked() else PoolKind.DEFAULT
        pool = pools[kind]
        if pool.slots.locked():
            left -= await self._wait_for_slot(pool, min(timeouts.pool, left))
        else:
            await pool.slots.acquire()
        connections = pool.connections
        # While other idle connections may be broken, only a request that can be sent again may reuse one of them.
        if progress.needs_new_connection or (connections.failure is not None and not prepared.is_idempotent):
            connections = pools[PoolKind.RECOVERY].connections
        limit = min(timeouts.complete_read if prepared.pool is PoolKind.COMPLETION else timeouts.read, left)
        failure: MintedConnectError
        connections.in_flight += 1
        try:
            if limit <= 0:
                raise NotSent("the deadline passed before the request could be sent")
            progress.phase, progress.is_waiting_for_login = Phase.NOT_SENT, True
            if follows_event_loop(self._options.clock):
                with self._deadlines.timeout(limit):
                    return await self._send_signed(connections, prepared, timeouts, progress)
            async with timeout(self._options.clock, limit):
                return await self._send_signed(connections, prepared, timeouts, progress)
        except ChallengeRefused as refusal:
            failure = AuthDowngrade(refusal.reason, int(HTTPStatus.UNAUTHORIZED))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if progress.is_reused and progress.phase is not Phase.RESPONDED:
                progress.needs_new_connection = True
                if isinstance(error, ConnectionDropped):
                    pool.record_drop(connections, progress)
            failure = map_failure(error, self._options, timeouts, limit, progress)
        except RuntimeError:
            # aiohttp raises RuntimeError if a session or connector is closed during a request, and asyncio if a host
            # name must be resolved while the interpreter exits.
            if self._closed:
                failure = ClientClosedError("this client was closed while the call was under way")
            elif progress.phase is Phase.NOT_SENT and is_interpreter_exiting():
                failure = ClientClosedError(EXITING)
            else:
                raise
        finally:
            connections.in_flight -= 1
            pool.slots.release()
            if pool.replaced:
                await pool.close_replaced()
        # Raised outside of the except blocks: the foreign error holds headers and must not become the context of this
        # error.
        raise failure

    async def _wait_for_slot(self, pool: Pool, pool_timeout: float) -> float:
        """Wait until a request may use the pool, and return the seconds that took."""
        clock = self._options.clock
        started = clock.monotonic()
        try:
            async with timeout(clock, pool_timeout):
                await pool.slots.acquire()
        except TimeoutError:
            raise PoolTimeout(
                f"no connection became free within {pool_timeout:g} s; "
                f"all {self._options.pool_size} are busy (Options.pool_size)"
            ) from None
        return clock.monotonic() - started

    async def _send_signed(
        self,
        connections: Connections,
        prepared: PreparedRequest,
        timeouts: Timeouts,
        progress: RequestProgress,
        renewed: DigestAuth | None = None,
    ) -> RawResponse:
        if not is_valid_target(prepared.target):
            raise ValueError("the request target must be percent-encoded ASCII")
        route = connections.choose_route(prepared)
        is_completion, challenged = prepared.pool is PoolKind.COMPLETION, 0
        digest, may_renew = renewed or self._digest, False
        if digest is None:
            assert self._login is not None
            digest, is_new = await self._login.open()
            # A read is sent again with new credentials; of any other request, the next one uses them.
            may_renew = not is_new and prepared.method == "GET"
        async with digest.auth_flow() as flow:
            progress.is_waiting_for_login = False
            while True:
                progress.phase = Phase.NOT_SENT
                progress.is_reused = False
                response = await route.exchange(connections, prepared, flow, progress, timeouts.connect)
                if response.status == HTTPStatus.UNAUTHORIZED:
                    # A challenge rejects the request before execution: sending it again is part of the protocol, and
                    # no retry.
                    challenges = response.headers.getall("WWW-Authenticate", ())
                    challenged += 1
                    # A completion is sent again once, and only for a realm that has authenticated a request before:
                    # any other challenge may come from a gateway that forwarded the first one.
                    may_repeat = not is_completion or (flow.is_pinned and challenged == 1)
                    if flow.on_challenge(challenges) and may_repeat:
                        continue
                    # `on_challenge` raises for another realm than the pinned one, so this server rejected the digest.
                    is_rejected = bool(challenges) and flow.is_pinned
                    refused = RawResponse(response.status, response.headers, response.body, is_rejected)
                    break
                if (
                    response.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    and response.status != HTTPStatus.TOO_MANY_REQUESTS
                ):
                    # A 429 or 5xx may be written before the signature is verified.
                    flow.on_success(response.headers.getall("Authentication-Info", ()))
                return response
        if self._login is None:
            return refused
        if may_renew and (other := await self._login.renew(digest)) is not None:
            return await self._send_signed(connections, prepared, timeouts, progress, other)
        self._login.mark_refused(digest)
        return refused
