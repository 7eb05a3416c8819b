"""The client: one connection pool, one digest state, and the resources that use them."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import warnings
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import unquote

import aiohttp
import attrs

from minted_connect import __version__, validation
from minted_connect.completion.completions import CLOSING, AsyncCompletions
from minted_connect.config import STAGING, Options, RetryPolicy, Timeouts
from minted_connect.core.api_client import ApiClient
from minted_connect.core.exact_json import dumps
from minted_connect.core.logs import setup_logging
from minted_connect.core.request import OPERATIONS, Effect, EvidenceLevel, Operation, Request
from minted_connect.core.response import Response
from minted_connect.core.state import ClientSettings, ClientState, LagSource
from minted_connect.core.transport import Transport
from minted_connect.errors import ClientClosedError, ConfigurationError, InvalidInput
from minted_connect.journal import hide_url, open_journal
from minted_connect.journal.protocol import Journal, shielded
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.customers import AsyncCustomers
from minted_connect.resources.orders import AsyncOrders
from minted_connect.resources.products import AsyncProducts
from minted_connect.resources.rates import AsyncRates
from minted_connect.resources.wallet import AsyncWallet
from minted_connect.secret import Credentials, Secret, as_secret
from minted_connect.validation import check_type

if TYPE_CHECKING:
    from minted_connect.sandbox import Sandbox
    from minted_connect.sandbox.clock import Clock as SandboxClock

__all__ = ["AsyncMintedConnect"]

_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
"""What may stand in a path (RFC 3986 section 3.3)."""


class AsyncMintedConnect:
    """The asyncio client: ``async with AsyncMintedConnect(username, password) as minted: ...``.

    Build one for each event loop and each process, and share it: tasks may use it side by side. Nothing is opened
    before the first call.

    Args:
        username: The partner's user name.
        password: The partner's password.
        base_url: Staging unless said otherwise; production has to be named. Plain http only to this machine.
        client_id: Sent as `x-client-id`.
        language: Sent as `Accept-Language`: the language of names and messages.
        timeouts: Seconds for each part of a call; see `Timeouts`.
        retry: How often and how patiently a call is repeated; see `RetryPolicy`.
        journal: Where intents to buy, sell or ship are kept: the path of a file (SQLite) in a directory that exists, a
            `postgresql://` URL for services on several machines (extra `postgres`), a `Journal`, which is never closed
            here, or None (memory). Intents in it belong to an account: see `Options.journal_account`.
        session: An aiohttp session whose connector is borrowed; it is never closed or changed.
        ssl_context: TLS settings of your own, at least TLS 1.2.
        proxy: URL of an http proxy, with its user name and password if it wants them.
        options: What few callers change; see `Options`.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    customers: AsyncCustomers
    """Create, get, update, remove."""
    products: AsyncProducts
    """The catalogue."""
    baskets: AsyncBaskets
    """Lines under one price lock."""
    complete: AsyncCompletions
    """Buy, sell, have delivered: once."""
    orders: AsyncOrders
    """What was completed, and what became of it."""
    wallet: AsyncWallet
    """What a customer holds."""
    rates: AsyncRates
    """What a gram costs: now, over time, as a feed."""

    def __init__(
        self,
        username: str,
        password: str | Secret,
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
        # Before anything can fail: tracebacks may show local variables.
        password, journal = as_secret(password), hide_url(journal)
        proxy = None if proxy is None else as_secret(proxy)
        setup_logging()
        _check_settings(timeouts, retry, options)
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
            Credentials(username, password),
            settings.options,
            session=session,
            ssl_context=ssl_context,
            proxy=proxy,
        )
        api = ApiClient(ClientState(transport, settings), settings, f"minted-connect/{__version__}")
        self._assemble(api, AsyncCompletions(api, _opened(journal)), None)
        self._owns = True
        self._closing: asyncio.Task[None] | None = None
        # A journal object is lent, as a session is: its owner may go on using it.
        self._owns_journal = journal is None or isinstance(journal, str | Path | Secret)

    def _assemble(self, api: ApiClient, complete: AsyncCompletions, server: Sandbox | None) -> None:
        self._api = api
        self._server = server
        self.customers = AsyncCustomers(api)
        self.products = AsyncProducts(api)
        self.baskets = AsyncBaskets(api)
        self.complete = complete
        self.orders = AsyncOrders(api, complete.note)
        self.wallet = AsyncWallet(api)
        self.rates = AsyncRates(api)

    @classmethod
    def from_env(cls, *, timeouts: Timeouts | None = None, options: Options | None = None) -> Self:
        """Build a client from `MINTED_CONNECT_USERNAME`, `_PASSWORD`, and, where set, `_BASE_URL` and `_JOURNAL`.

        `MINTED_CONNECT_JOURNAL_ACCOUNT` is `Options.journal_account`, unless `options` names one.

        Raises:
            ConfigurationError: user name or password is missing, or a value cannot work.
        """
        return cls(timeouts=timeouts, options=options_from_env(options), **settings_from_env())

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
    ) -> AsyncGenerator[Self, None]:
        """Start an embedded Minted Connect on a free port, and a client for it: `async with` gives the client.

        `CompletionPolicy.orders_lag` and `latest_landing` come from the sandbox at each call, unless they are set to
        something else than their defaults. So a refused purchase is reported at once, unless the sandbox delays reads
        or work.

        Args:
            seed: Makes prices and ids repeatable; None draws one, see `sandbox_server.seed`.
            state: SQLite file that keeps the sandbox's state; None = memory.
            clock: One clock for server and client, such as `sandbox.ManualClock()`.
            timeouts: As for the client.
            retry: As for the client.
            journal: As for the client.
            options: As for the client; its clock is replaced if `clock` is given.
            orders_lag: Seconds before an order shows in Get Orders and Receipt.
            reads_lag: Seconds by which all reads but those of prices are behind.
        """
        # The sandbox is the other side of the wire: loaded only where it is asked for.
        from minted_connect.sandbox import Sandbox  # noqa: PLC0415

        journal = hide_url(journal)
        _check_settings(timeouts, retry, options)
        if clock is not None:
            options = attrs.evolve(options or Options(), clock=clock)
        async with (
            Sandbox(seed=seed, state=state, clock=clock, orders_lag=orders_lag, reads_lag=reads_lag) as server,
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
        """Take the delays that `CompletionPolicy` leaves at their defaults from a server that knows them."""
        self._api.state.lag_source = source

    @property
    def sandbox_server(self) -> Sandbox:
        """The embedded server behind a client made by `sandbox()`.

        Raises:
            ConfigurationError: this client talks to another server.
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
    ) -> Self:
        """Return a sibling with other settings; connections, digest state and retry budget are shared.

        Closing a sibling does nothing: close the client it came from.

        Args:
            timeouts: In place of this client's.
            retry: In place of this client's; the budget stays.
            deadline: Seconds for each request with its retries, in place of `Timeouts.total` and `complete_total`; a
                purchase, or a change that has to be read back, is more than one.
            language: Sent as `Accept-Language`.
            client_id: Sent as `x-client-id`.

        Raises:
            ConfigurationError: an argument that cannot work.
        """
        _check_settings(timeouts, retry, None)
        now = self._api.settings
        settings = attrs.evolve(
            now,
            timeouts=timeouts or now.timeouts,
            retry=retry or now.retry,
            deadline=now.deadline if deadline is None else deadline,
            language=now.language if language is None else language,
            client_id=now.client_id if client_id is None else client_id,
        )
        sibling = object.__new__(type(self))
        api = self._api.with_settings(settings)
        sibling._assemble(api, self.complete.with_api(api), self._server)
        sibling._owns = sibling._owns_journal = False
        sibling._closing = None
        return sibling

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, json: Any = None
    ) -> Response:
        """Send any request, and return status, headers and `data` of the answer; errors are raised as everywhere.

        For what this library does not know. GET is repeated after failures, everything else is sent once. Completions
        are refused here: they go through the journal.

        Args:
            method: GET, POST, PUT, PATCH or DELETE.
            path: Absolute and percent-encoded, without query.
            query: Strings by name, not encoded yet.
            json: The body, of dict, list, str, int, bool, None and Decimal.

        Raises:
            ConfigurationError: the path is one of Complete Buy, Sell or Delivery.
            InvalidInput: an argument that cannot be sent.
        """
        verb = validation.text("method", method).upper()
        if verb not in _METHODS:
            raise InvalidInput.of("method", f"must be one of {', '.join(sorted(_METHODS))}")
        plain = unquote(validation.text("path", path))
        if not _PATH.fullmatch(path) or not plain.isprintable():
            raise InvalidInput.of("path", "must be an absolute, percent-encoded path; give the query as `query`")
        if not set(plain.split("/")[1:-1]).isdisjoint({"", ".", ".."}) or plain.endswith(("/.", "/..")):
            raise InvalidInput.of("path", "must not hold empty or dot segments")
        self._refuse_completion(plain)
        _check_query(query)
        _check_json(json)
        effect = Effect.READ if verb == "GET" else Effect.NON_IDEMPOTENT
        operation = Operation("request", verb, path, effect, EvidenceLevel.INFERRED, "raw request")
        return await self._api.exchange(Request(operation, query=tuple((query or {}).items()), body=json))

    def _refuse_completion(self, path: str) -> None:
        paths = self._api.settings.options.paths
        for operation in OPERATIONS.values():
            known = {operation.path.casefold(), paths.get(operation.name, operation.path).casefold()}
            if operation.effect is Effect.COMPLETE and path.rstrip("/").casefold() in known:
                raise ConfigurationError(f"request: use {operation.name}, which never completes a basket twice")

    async def aclose(self) -> None:
        """Close what this client opened. A sibling's does nothing.

        Any number of tasks may call it at once: each returns when the client is closed. Purchases under way in other
        tasks end, as a rule with `OutcomeUnknown`, and are given up to 10 s to write their outcome into the journal.
        A cancellation of the first call takes effect when the client is closed.
        """
        await self._aclose(CLOSING)

    async def _aclose(self, patience: float) -> None:
        if not self._owns:
            return
        closing = self._closing
        if closing is None:
            closing = self._closing = asyncio.ensure_future(self._close(patience))
            await shielded(closing)
        elif closing.get_loop() is asyncio.get_running_loop():
            # The first call raises what closing raised.
            await asyncio.wait({closing})

    async def _close(self, patience: float) -> None:
        try:
            self._api.check_usable()
        except ClientClosedError:
            patience = 0.0  # purchases of another event loop, or of the process that was forked, do not end here
        try:
            await self._api.state.transport.aclose()
        finally:
            # Without connections, purchases under way come to their end.
            await self.complete.aclose(patience, close_journal=self._owns_journal)

    async def __aenter__(self) -> Self:
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
        # Only said, not mended: closing takes an event loop, and whichever runs now need not be ours.
        if getattr(self, "_owns", False) and self._api.state.transport.is_open:
            warnings.warn(
                f"unclosed {self!r}: use `async with`, or await aclose()", ResourceWarning, stacklevel=2, source=self
            )


def _check_settings(timeouts: object, retry: object, options: object) -> None:
    check_type("timeouts", timeouts, Timeouts, optional=True)
    check_type("retry", retry, RetryPolicy, optional=True)
    check_type("options", options, Options, optional=True)


def _opened(journal: Journal | str | Path | Secret | None) -> Journal:
    opened = open_journal(journal)
    if isinstance(journal, str | Path):
        path = str(journal)
        if not path.isprintable() or path.isspace():
            raise ConfigurationError("journal: must be a printable path")
        # Not `Path.is_dir`, which raises where it may not look.
        if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):  # noqa: PTH112, PTH120
            raise ConfigurationError("journal: must be the path of a file in a directory that exists")
    elif isinstance(journal, type):
        raise ConfigurationError(f"journal: is a class; give an instance, {journal.__name__}(...)")
    return opened


def _check_query(query: object) -> None:
    if query is None:
        return
    if not isinstance(query, Mapping):
        raise InvalidInput.of("query", f"must be a mapping of strings, not {type(query).__name__}")
    for text in chain.from_iterable(cast("Mapping[object, object]", query).items()):
        if not isinstance(text, str):
            raise InvalidInput.of("query", f"must be strings, names and values, not {type(text).__name__}")


def _check_json(json: Any) -> None:
    try:
        dumps(json)
    except (InvalidInput, TypeError, ValueError, RecursionError):
        pass
    else:
        return
    raise InvalidInput.of(
        "json", "must hold dict, list, valid str, int, bool, None and finite Decimal only; use Decimal for a float"
    )


def options_from_env(options: Options | None) -> Options | None:
    """Return options with the `journal_account` of the environment, unless they name one."""
    name = os.environ.get("MINTED_CONNECT_JOURNAL_ACCOUNT")
    check_type("options", options, Options, optional=True)
    if not name or (options is not None and options.journal_account is not None):
        return options
    return attrs.evolve(options or Options(), journal_account=name)


def settings_from_env() -> dict[str, Any]:
    """Return the constructor arguments that the environment gives.

    Raises:
        ConfigurationError: user name or password is missing.
    """
    settings: dict[str, Any] = {}
    for name in ("username", "password", "base_url", "journal"):
        variable = f"MINTED_CONNECT_{name.upper()}"
        value = os.environ.get(variable)
        if value:
            settings[name] = value
        elif name in {"username", "password"}:
            raise ConfigurationError(f"{variable}: is not set")
    return settings
