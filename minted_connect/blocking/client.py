"""The blocking client: one line for each operation; signatures and docstrings come from the asynchronous client."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import attrs

from minted_connect.blocking.feed import BlockingRateFeed
from minted_connect.blocking.lift import Facade, blocking, blocking_as, blocking_items, blocking_iter, close_on_exit
from minted_connect.blocking.loop_thread import LoopThread, check_threads_are_real
from minted_connect.blocking.reconciler import BlockingReconciler
from minted_connect.client import AsyncMintedConnect
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.intent_records import intent_lists
from minted_connect.config import STAGING, Options, RetryPolicy, Timeouts
from minted_connect.core.state import LagSource
from minted_connect.environment import options_from_env, settings_from_env
from minted_connect.errors import ConfigurationError
from minted_connect.journal import hide_url
from minted_connect.journal.protocol import Journal
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.customers import AsyncCustomers
from minted_connect.resources.orders import AsyncOrders
from minted_connect.resources.paging import new_rows
from minted_connect.resources.products import AsyncProducts
from minted_connect.resources.rates import AsyncRates
from minted_connect.resources.wallet import AsyncWallet
from minted_connect.secret import CredentialsFunction, Secret, as_secret, hide_password
from minted_connect.validation import check_type

if TYPE_CHECKING:
    from minted_connect.sandbox import ThreadedSandbox
    from minted_connect.sandbox.clock import Clock as SandboxClock

__all__ = ["Baskets", "Completions", "Customers", "MintedConnect", "Orders", "Products", "Rates", "Wallet"]


class Customers(Facade[AsyncCustomers]):
    """Blocking twin of `AsyncCustomers`."""

    create: Final = blocking(AsyncCustomers.create)
    get: Final = blocking(AsyncCustomers.get)
    update: Final = blocking(AsyncCustomers.update)
    remove: Final = blocking(AsyncCustomers.remove)


class Products(Facade[AsyncProducts]):
    """Blocking twin of `AsyncProducts`."""

    page: Final = blocking(AsyncProducts.page)
    pages: Final = blocking_iter(AsyncProducts.pages)
    iterate: Final = blocking_items(AsyncProducts.iterate, new_rows(AsyncProducts.pages))


class Baskets(Facade[AsyncBaskets]):
    """Blocking twin of `AsyncBaskets`."""

    get_active: Final = blocking(AsyncBaskets.get_active)
    add_item: Final = blocking(AsyncBaskets.add_item)
    update_item: Final = blocking(AsyncBaskets.update_item)
    delete_item: Final = blocking(AsyncBaskets.delete_item)
    clear: Final = blocking(AsyncBaskets.clear)
    replace: Final = blocking(AsyncBaskets.replace)


class Completions(Facade[AsyncCompletions]):
    """Blocking twin of `AsyncCompletions`.

    Ctrl-C and `close()` from another thread cancel a completion in flight. If it may have been sent, the exception has
    a note that names the intent, and `intent_of(exception)` returns it; `pending()` lists it until it is settled. The
    same holds for a second Ctrl-C, which ends the wait for the cancelled call (at most 5 s).
    """

    buy: Final = blocking(AsyncCompletions.buy)
    sell: Final = blocking(AsyncCompletions.sell)
    delivery: Final = blocking(AsyncCompletions.delivery)
    buy_items: Final = blocking(AsyncCompletions.buy_items)
    sell_items: Final = blocking(AsyncCompletions.sell_items)
    deliver_items: Final = blocking(AsyncCompletions.deliver_items)
    pending: Final = blocking(AsyncCompletions.pending)
    unfinished: Final = blocking(AsyncCompletions.unfinished)
    intents_page: Final = blocking(AsyncCompletions.intents_page)
    intents: Final = blocking_items(AsyncCompletions.intents, intent_lists)
    intent: Final = blocking(AsyncCompletions.intent)
    forget: Final = blocking(AsyncCompletions.forget)
    erase_customer: Final = blocking(AsyncCompletions.erase_customer)
    assign_reference: Final = blocking(AsyncCompletions.assign_reference)
    adopt: Final = blocking(AsyncCompletions.adopt)
    reconcile: Final = blocking(AsyncCompletions.reconcile)
    reconcile_all: Final = blocking(AsyncCompletions.reconcile_all)
    decide: Final = blocking(AsyncCompletions.decide)
    reconciler: Final = blocking_as(AsyncCompletions.reconciler, BlockingReconciler)


class Orders(Facade[AsyncOrders]):
    """Blocking twin of `AsyncOrders`."""

    page: Final = blocking(AsyncOrders.page)
    pages: Final = blocking_iter(AsyncOrders.pages)
    iterate: Final = blocking_items(AsyncOrders.iterate, new_rows(AsyncOrders.pages))
    get: Final = blocking(AsyncOrders.get)
    wait: Final = blocking(AsyncOrders.wait)
    watch: Final = blocking_iter(AsyncOrders.watch)
    receipt: Final = blocking(AsyncOrders.receipt)
    invoice: Final = blocking(AsyncOrders.invoice)


class Wallet(Facade[AsyncWallet]):
    """Blocking twin of `AsyncWallet`."""

    balance: Final = blocking(AsyncWallet.balance)


class Rates(Facade[AsyncRates]):
    """Blocking twin of `AsyncRates`."""

    current: Final = blocking(AsyncRates.current)
    history: Final = blocking(AsyncRates.history)
    feed: Final = blocking_as(AsyncRates.feed, BlockingRateFeed)


class MintedConnect(Facade[AsyncMintedConnect]):
    """The blocking client: ``with MintedConnect(username, password) as minted: ...``.

    The methods are those of `AsyncMintedConnect`, called without `await`. They run on an event loop in a background
    thread, which starts with the first call. Any number of threads may share one client, and it works in notebooks.
    After a fork, build a new one in the child process. Ctrl-C cancels the call in flight.

    Args:
        username: The partner's user name.
        password: The partner's password; or a function that returns it, or `Credentials`: `async`, or plain and then
            called in a worker thread. It is called at the first request, and after the server refused the credentials.
        base_url: Defaults to staging; pass the production URL explicitly. Plain HTTP is allowed for localhost only.
        client_id: Sent as `x-client-id`.
        language: Sent as `Accept-Language`: the language of product names and messages.
        timeouts: Seconds for each part of a call; see `Timeouts`.
        retry: Number of attempts and pauses between them; see `RetryPolicy`.
        journal: Stores the intents to buy, sell or ship. The path of an SQLite file in an existing directory; a
            `postgresql://` URL, for services on several machines (extra `postgres`); a `Journal`, which the client does
            not close; or None: in memory.
        ssl_context: TLS settings; at least TLS 1.2, and certificates and host names verified except for localhost.
        proxy: URL of an HTTP proxy, with user name and password (percent-encoded UTF-8) if the proxy requires them.
        options: Less common settings; see `Options`.

    Raises:
        ConfigurationError: if an argument is invalid.
    """

    customers: Customers
    products: Products
    baskets: Baskets
    complete: Completions
    orders: Orders
    wallet: Wallet
    rates: Rates

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
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | Secret | None = None,
        options: Options | None = None,
    ) -> None:
        # Wrap secrets before anything can fail: tracebacks may show local variables.
        password, journal = hide_password(password), hide_url(journal)
        proxy = None if proxy is None else as_secret(proxy)
        inner = AsyncMintedConnect(
            username,
            password,
            base_url=base_url,
            client_id=client_id,
            language=language,
            timeouts=timeouts,
            retry=retry,
            journal=journal,
            ssl_context=ssl_context,
            proxy=proxy,
            options=options,
        )
        # No time for calls in flight: the loop thread has waited for them before it runs this.
        on_stop = partial(inner._aclose, 0.0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._assemble(inner, LoopThread(type(self).__name__, on_stop), None)
        self._owns_thread = True

    def _assemble(self, inner: AsyncMintedConnect, loop_thread: LoopThread, server: ThreadedSandbox | None) -> None:
        super().__init__(inner, loop_thread)
        self._server = server
        self.customers = Customers(inner.customers, loop_thread)
        self.products = Products(inner.products, loop_thread)
        self.baskets = Baskets(inner.baskets, loop_thread)
        self.complete = Completions(inner.complete, loop_thread)
        self.orders = Orders(inner.orders, loop_thread)
        self.wallet = Wallet(inner.wallet, loop_thread)
        self.rates = Rates(inner.rates, loop_thread)

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
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | Secret | None = None,
        options: Options | None = None,
    ) -> Self:
        """Build a client from `MINTED_CONNECT_USERNAME`, `_PASSWORD`, and, if set, `_BASE_URL` and `_JOURNAL`.

        `_JOURNAL_ACCOUNT` sets `Options.journal_account`, unless `options` sets it. The arguments are those of the
        client; an argument that is not None replaces the variable or the default.

        Raises:
            ConfigurationError: if user name or password is missing, or a value is invalid.
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
                ssl_context=ssl_context,
                proxy=proxy,
                options=options_from_env(options),
            )
        )

    @classmethod
    @contextlib.contextmanager
    def sandbox(
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
    ) -> Generator[Self, None, None]:
        """Start an embedded server on a free port and yield a client that is connected to it.

        `CompletionPolicy.orders_lag` and `latest_landing` are taken from the sandbox at each call unless they differ
        from their defaults: a refused purchase is reported at once unless the sandbox delays reads or execution.

        Args:
            seed: Makes prices and ids reproducible; None: a random seed, see `sandbox_server.seed`.
            state: SQLite file for the state of the sandbox; None: memory.
            clock: Clock for both server and client, such as `sandbox.ManualClock()`.
            timeouts: As for the client.
            retry: As for the client.
            journal: As for the client.
            options: As for the client; `clock` replaces its clock.
            orders_lag: Seconds until a new order appears in Get Orders, Receipt and Invoice.
            reads_lag: Seconds by which all reads except prices return an older state.
            quirks: "laravel": responses have the JSON shapes that Laravel and MySQL write, such as ids as strings.
        """
        # Only tests need the sandbox: do not import it with the client.
        from minted_connect.sandbox import ThreadedSandbox  # noqa: PLC0415

        journal = hide_url(journal)
        check_threads_are_real(cls.__name__)
        check_type("options", options, Options, optional=True)
        if clock is not None:
            options = attrs.evolve(options or Options(), clock=clock)
        with (
            ThreadedSandbox(
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
        self._inner._use_delays_of(source)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    @property
    def sandbox_server(self) -> ThreadedSandbox:
        """The embedded server of a client from `sandbox()`.

        Raises:
            ConfigurationError: if the client was not built by `sandbox()`.
        """
        if self._server is None:
            raise ConfigurationError("this client has no sandbox: it was not built by sandbox()")
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
        """Return a client with other settings that shares thread, connections, digest state and retry budget.

        Closing the returned client does nothing: close the original.

        Args:
            timeouts: Replaces the timeouts of this client.
            retry: Replaces the retry policy of this client; the budget stays.
            deadline: Seconds for each request with its retries; replaces `Timeouts.total` and `complete_total`. A
                purchase sends several requests, and so does a change that is read back.
            language: Sent as `Accept-Language`.
            client_id: Sent as `x-client-id`.
            extra_headers: Headers to add to every request; not those that authenticate, or that the library sends.
            extra_query: Query parameters to add likewise, as strings; they are percent-encoded here.
            extra_body: Fields to add to the JSON object of every request; an operation without one is refused.

        Raises:
            ConfigurationError: if an argument is invalid. A client with extra headers, query or body completes and
                reconciles nothing.
        """
        inner = self._inner.with_options(
            timeouts=timeouts,
            retry=retry,
            deadline=deadline,
            language=language,
            client_id=client_id,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
        )
        client = object.__new__(type(self))
        client._assemble(inner, self._loop_thread, self._server)
        client._owns_thread = False
        return client

    request: Final = blocking(AsyncMintedConnect.request)
    ping: Final = blocking(AsyncMintedConnect.ping)

    def close(self) -> None:
        """Close all connections and stop the thread. Calls in flight in other threads raise `ClientClosedError`.

        Idempotent. Threads and signal handlers may call it at the same time: each returns when the client is closed, at
        the latest after 25 s. A purchase in flight writes its state to the journal first. In a forked process, and on a
        client that `with_options` returned, it does nothing.

        Raises:
            ConfigurationError: if it is called on the client's own loop thread (in a hook).
        """
        if self._owns_thread:
            self._loop_thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_on_exit(self.close, error)

    def __repr__(self) -> str:
        # A debugger may show a client whose constructor has failed.
        inner: AsyncMintedConnect | None = getattr(self, "_inner", None)
        return f"<{type(self).__name__} {'(not built)' if inner is None else f'of {inner!r}'}>"
