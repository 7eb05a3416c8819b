"""The asyncio client: builds the transport and the resources that use it. Pools open with the first request."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import aiohttp
import attrs

from minted_connect._version import __version__
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.settlement import CLOSING, Settlement
from minted_connect.config import STAGING, Options, RetryPolicy, Timeouts
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import shielded
from minted_connect.core.event_loop import check_asyncio
from minted_connect.core.logs import setup_logging
from minted_connect.core.raw_request import changed_customer, make_raw_request
from minted_connect.core.response import Response
from minted_connect.core.state import ClientSettings, ClientState, LagSource, check_settings
from minted_connect.core.transport import Transport
from minted_connect.environment import options_from_env, settings_from_env
from minted_connect.errors import ClientClosedError, ConfigurationError
from minted_connect.journal import hide_url, open_client_journal
from minted_connect.journal.accounts import account_of
from minted_connect.journal.protocol import Journal
from minted_connect.journal.spending import check_spending_journal
from minted_connect.ping import Ping
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.customers import AsyncCustomers
from minted_connect.resources.orders import AsyncOrders
from minted_connect.resources.products import AsyncProducts
from minted_connect.resources.rates import AsyncRates
from minted_connect.resources.wallet import AsyncWallet
from minted_connect.secret import CredentialsFunction, Secret, as_secret, hide_password
from minted_connect.validation import check_type

if TYPE_CHECKING:
    from minted_connect.sandbox import Sandbox
    from minted_connect.sandbox.clock import Clock as SandboxClock

__all__ = ["AsyncMintedConnect"]


class AsyncMintedConnect(Ping):
    """The asyncio client: ``async with AsyncMintedConnect(username, password) as minted: ...``.

    It is asyncio only: under trio, `async with` and every call raise `ConfigurationError`.
    Create one client per event loop and process, and share it: concurrent tasks may use it. No connection is opened
    before the first call.

    Args:
        username: The partner's user name.
        password: The partner's password; or a function that returns it, or `Credentials`: `async`, or plain and then
            called in a worker thread. It is called at the first request, and after the server refused the credentials.
        base_url: Defaults to staging; pass the production URL explicitly. Plain HTTP is allowed for localhost only.
        client_id: Sent as `x-client-id`.
        language: Sent as `Accept-Language`: the language of names and messages.
        timeouts: Time limits of the parts of a call; see `Timeouts`.
        retry: Number of attempts and the waits between them; see `RetryPolicy`.
        journal: Storage of the intents to buy, sell or ship: the path of a SQLite file in a directory that exists, a
            `postgresql://` URL for services on several machines (extra `postgres`), a `Journal`, which the client does
            not close, or None (memory). Intents belong to an account: see `Options.journal_account`.
        session: An aiohttp session whose connector is used; the client never closes or changes the session.
        ssl_context: Custom TLS settings; the minimum version must be TLS 1.2 or later, and, except for localhost,
            certificates and host names must be verified.
        proxy: URL of an HTTP proxy, with user name and password (percent-encoded UTF-8) if the proxy requires them.
        options: Settings that few applications need; see `Options`.

    Raises:
        ConfigurationError: if an argument is not valid.
    """

    customers: AsyncCustomers
    """Create, get, update and remove customers."""
    products: AsyncProducts
    """List the catalogue."""
    baskets: AsyncBaskets
    """Read and change open baskets, whose prices are locked for some minutes."""
    complete: AsyncCompletions
    """Complete a basket (buy, sell, deliver) at most once, and reconcile unknown outcomes."""
    orders: AsyncOrders
    """List and track orders; receipts and invoices."""
    wallet: AsyncWallet
    """Read the holdings of a customer."""
    rates: AsyncRates
    """Read the price of a gram: current, historical, or as a feed."""

    def __init__(
        self,
        username: str,
        password: str | Secret | CredentialsFunction,
        *,
        base_url: str = STAGING,
        client_id: str = "web",
        language: str = "tr",
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        journal: Journal | str | Path | Secret | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | Secret | None = None,
        options: Options | None = None,
    ) -> None:
        # Before the first statement that can fail, because tracebacks may show local variables.
        password, journal = hide_password(password), hide_url(journal)
        proxy = None if proxy is None else as_secret(proxy)
        setup_logging()
        check_settings(timeouts, retry, options)
        check_type("session", session, aiohttp.ClientSession, optional=True)
        check_type("ssl_context", ssl_context, ssl.SSLContext, optional=True)
        settings = ClientSettings(
            timeouts=timeouts or Timeouts(),
            retry=retry or RetryPolicy(),
            client_id=client_id,
            language=language,
            options=options or Options(),
        )
        transport = Transport(
            base_url,
            username,
            password,
            settings.options,
            session=session,
            ssl_context=ssl_context,
            proxy=proxy,
        )
        api = ApiClient(ClientState(transport, settings), settings, f"minted-connect/{__version__}")
        opened = open_client_journal(journal)
        check_spending_journal(settings.options.spending, opened)
        self._assemble(api, Settlement(opened, account_of(api)), None)
        self._owns = True
        self._closing: asyncio.Task[None] | None = None
        # A `Journal` object belongs to the application, as a session does, which may continue to use it.
        self._owns_journal = journal is None or isinstance(journal, str | Path | Secret)

    def _assemble(self, api: ApiClient, settlement: Settlement, server: Sandbox | None) -> None:
        self._api = api
        self._settlement = settlement
        self._server = server
        self.customers = AsyncCustomers(api)
        self.products = AsyncProducts(api)
        self.baskets = AsyncBaskets(api, settlement)
        self.complete = AsyncCompletions(api, settlement)
        self.orders = AsyncOrders(api, settlement.note)
        self.wallet = AsyncWallet(api)
        self.rates = AsyncRates(api)

    @classmethod
    def from_env(
        cls,
        *,
        base_url: str | None = None,
        client_id: str | None = None,
        language: str | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        journal: Journal | str | Path | Secret | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | Secret | None = None,
        options: Options | None = None,
    ) -> Self:
        """Build a client from `MINTED_CONNECT_USERNAME`, `_PASSWORD`, and, if set, `_BASE_URL` and `_JOURNAL`.

        `MINTED_CONNECT_JOURNAL_ACCOUNT` sets `Options.journal_account`, unless `options` already sets it. The arguments
        are those of the client; an argument that is not None replaces the variable or the default.

        Raises:
            ConfigurationError: if user name or password is missing, or a value is not valid.
        """
        journal, proxy = hide_url(journal), None if proxy is None else as_secret(proxy)
        return cls(
            **settings_from_env(
                base_url=base_url,
                client_id=client_id,
                language=language,
                timeouts=timeouts,
                retry=retry,
                journal=journal,
                session=session,
                ssl_context=ssl_context,
                proxy=proxy,
                options=options_from_env(options),
            )
        )

    @classmethod
    @asynccontextmanager
    async def sandbox(
        cls,
        *,
        seed: int | None = None,
        state: str | Path | None = None,
        clock: SandboxClock | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        journal: Journal | str | Path | Secret | None = None,
        options: Options | None = None,
        orders_lag: float = 0.0,
        reads_lag: float = 0.0,
        quirks: Literal["laravel"] | None = None,
    ) -> AsyncGenerator[Self, None]:
        """Start an embedded Minted Connect server on a free port; `async with` returns a client for it.

        At each call, `CompletionPolicy.orders_lag` and `latest_landing` are taken from the sandbox, unless they differ
        from their defaults. So a refused purchase is reported immediately, unless the sandbox delays reads or
        completions.

        Args:
            seed: Makes prices and ids reproducible; None = a random seed, which `sandbox_server.seed` returns.
            state: SQLite file for the state of the sandbox; None = memory.
            clock: One clock for server and client, such as `sandbox.ManualClock()`.
            timeouts: As for the client.
            retry: As for the client.
            journal: As for the client.
            options: As for the client; its clock is replaced if `clock` is given.
            orders_lag: Seconds until a new order is visible in Get Orders and Receipt.
            reads_lag: Seconds by which all reads are stale, except those of prices.
            quirks: "laravel": responses have the JSON shapes that Laravel and MySQL write, such as ids as strings.
        """
        # Imported lazily: the client does not depend on the sandbox.
        from minted_connect.sandbox import Sandbox  # noqa: PLC0415

        journal = hide_url(journal)
        check_asyncio()
        check_settings(timeouts, retry, options)
        if clock is not None:
            options = attrs.evolve(options or Options(), clock=clock)
        async with (
            Sandbox(
                seed=seed, state=state, clock=clock, orders_lag=orders_lag, reads_lag=reads_lag, quirks=quirks
            ) as server,
            cls(
                server.username,
                server.password,
                base_url=server.url,
                timeouts=timeouts,
                retry=retry,
                journal=journal,
                options=options,
            ) as client,
        ):
            client._server = server
            client._use_delays_of(server)
            yield client

    def _use_delays_of(self, source: LagSource) -> None:
        """Take the delays that `CompletionPolicy` leaves at their defaults from a server that reports them."""
        self._api.state.lag_source = source

    @property
    def sandbox_server(self) -> Sandbox:
        """The embedded server of a client that `sandbox()` created.

        Raises:
            ConfigurationError: if `sandbox()` did not create this client.
        """
        if self._server is None:
            raise ConfigurationError("this client has no sandbox: it was not made by sandbox()")
        return self._server

    def with_options(
        self,
        *,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        deadline: float | None = None,
        language: str | None = None,
        client_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a sibling with other settings, which shares connections, digest state and retry budget.

        Closing a sibling does nothing; close the original client.

        Args:
            timeouts: Replaces the timeouts of this client.
            retry: Replaces the retry policy of this client, except its budget.
            deadline: Seconds for each request and its retries; replaces `Timeouts.total` and `complete_total`. A
                purchase, or a change that is read back, takes several requests.
            language: Sent as `Accept-Language`.
            client_id: Sent as `x-client-id`.
            extra_headers: Headers to add to every request; not those that authenticate, or that the library sends.
            extra_query: Query parameters to add likewise, as strings; they are percent-encoded here.
            extra_body: Fields to add to the JSON object of every request; an operation without one is refused.

        Raises:
            ConfigurationError: if an argument is not valid. A client with extra headers, query or body completes and
                reconciles nothing.
        """
        settings = self._api.settings.changed(
            timeouts=timeouts,
            retry=retry,
            deadline=deadline,
            language=language,
            client_id=client_id,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
        )
        sibling = object.__new__(type(self))
        api = self._api.with_settings(settings)
        sibling._assemble(api, self._settlement, self._server)
        sibling._owns = sibling._owns_journal = False
        sibling._closing = None
        return sibling

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, json: Any = None
    ) -> Response:
        """Send any request, and return status, headers and `data` of the response. Errors are those of other calls.

        Use it for operations that this library does not offer. GET is retried; all other methods are sent once, unless
        no connection could be opened. Completions are rejected, because they must be recorded in the journal. A change
        whose query or body has an `external_customer_id` waits for other changes and purchases of that customer.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: Absolute and percent-encoded, without query.
            query: Names and values as strings; they are percent-encoded here.
            json: The body: dict, list, str, int, bool, None and Decimal.

        Raises:
            ConfigurationError: if the path is that of Complete Buy, Sell or Delivery.
            InvalidInput: if an argument cannot be sent.
        """
        request = make_raw_request(method, path, query, json, self._api.settings.options.paths)
        customer = changed_customer(request)
        if customer is None:
            return await self._api.exchange(request)
        async with self._api.hold_lock(customer):
            return await self._api.exchange(request)

    async def aclose(self) -> None:
        """Close what this client opened. Does nothing on a sibling.

        Concurrent calls are allowed; each returns when the client is closed. Reconcilers end first. Purchases in flight
        in other tasks end, usually with `OutcomeUnknown`, and have up to 10 s to write their outcome to the journal. A
        cancellation of the first call takes effect after the client is closed.
        """
        await self._aclose(CLOSING)

    async def _aclose(self, timeout: float) -> None:
        if not self._owns:
            return
        check_asyncio()
        closing = self._closing
        if closing is None:
            closing = self._closing = asyncio.ensure_future(self._close(timeout))
            await shielded(closing)
        elif closing.get_loop() is asyncio.get_running_loop():
            # Only the first call raises the errors of closing.
            await asyncio.wait({closing})

    async def _close(self, timeout: float) -> None:
        try:
            self._api.check_usable()
        except ClientClosedError:
            timeout = 0.0  # purchases of another event loop, or of the parent process, do not end here
        else:
            await self._settlement.end_reconcilers()
        try:
            await self._api.state.transport.aclose()
        finally:
            # Purchases in flight end when their connections are closed.
            await self._settlement.aclose(timeout, close_journal=self._owns_journal)

    async def __aenter__(self) -> Self:
        check_asyncio()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        # A debugger may show a client whose constructor has just failed.
        api: ApiClient | None = getattr(self, "_api", None)
        return f"<{type(self).__name__} {api.state.transport.base_url if api else '(not built)'}>"

    def __del__(self) -> None:
        # Only warn: closing needs the client's event loop, which may not be the one running now.
        if getattr(self, "_owns", False) and self._api.state.transport.is_open:
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await aclose()", ResourceWarning, stacklevel=2, source=self
            )
