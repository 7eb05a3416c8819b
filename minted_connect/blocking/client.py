"""The blocking client: one line an operation, everything it says about itself comes from the async side."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast

import attrs

from minted_connect.blocking.lift import (
    END,
    Facade,
    blocking,
    blocking_as,
    blocking_items,
    blocking_iter,
    direct,
    step,
)
from minted_connect.blocking.loop_thread import LoopThread
from minted_connect.client import AsyncMintedConnect
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.interruption import copy_intent
from minted_connect.config import STAGING, Options, RetryPolicy, Timeouts
from minted_connect.core.state import LagSource
from minted_connect.environment import options_from_env, settings_from_env
from minted_connect.errors import ClientClosedError, ConfigurationError, MintedConnectError
from minted_connect.feed import RateFeed, Subscription, Tick
from minted_connect.journal import hide_url
from minted_connect.journal.protocol import Journal
from minted_connect.resources.baskets import AsyncBaskets
from minted_connect.resources.customers import AsyncCustomers
from minted_connect.resources.orders import AsyncOrders
from minted_connect.resources.products import AsyncProducts
from minted_connect.resources.rates import AsyncRates
from minted_connect.resources.wallet import AsyncWallet
from minted_connect.secret import Secret, as_secret
from minted_connect.validation import check_type

if TYPE_CHECKING:
    from minted_connect.sandbox import ThreadedSandbox
    from minted_connect.sandbox.clock import Clock as SandboxClock

__all__ = [
    "Baskets",
    "BlockingRateFeed",
    "BlockingSubscription",
    "Completions",
    "Customers",
    "MintedConnect",
    "Orders",
    "Products",
    "Rates",
    "Wallet",
]


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
    iterate: Final = blocking_items(AsyncProducts.iterate, AsyncProducts.pages)


class Baskets(Facade[AsyncBaskets]):
    """Blocking twin of `AsyncBaskets`."""

    get_active: Final = blocking(AsyncBaskets.get_active)
    add_item: Final = blocking(AsyncBaskets.add_item)
    update_item: Final = blocking(AsyncBaskets.update_item)
    delete_item: Final = blocking(AsyncBaskets.delete_item)
    clear: Final = blocking(AsyncBaskets.clear)


class Completions(Facade[AsyncCompletions]):
    """Blocking twin of `AsyncCompletions`.

    Ctrl-C and `close()` from another thread cancel a completion under way; the exception then has a note that names
    the intent, `intent_of(exception)` returns it, and `pending()` lists it. So does a second Ctrl-C, which ends the
    wait for the cancelled call (at most 5 s) at once.
    """

    buy: Final = blocking(AsyncCompletions.buy)
    sell: Final = blocking(AsyncCompletions.sell)
    delivery: Final = blocking(AsyncCompletions.delivery)
    pending: Final = blocking(AsyncCompletions.pending)
    unfinished: Final = blocking(AsyncCompletions.unfinished)
    adopt: Final = blocking(AsyncCompletions.adopt)
    reconcile: Final = blocking(AsyncCompletions.reconcile)
    decide: Final = blocking(AsyncCompletions.decide)


class Orders(Facade[AsyncOrders]):
    """Blocking twin of `AsyncOrders`."""

    page: Final = blocking(AsyncOrders.page)
    pages: Final = blocking_iter(AsyncOrders.pages)
    iterate: Final = blocking_items(AsyncOrders.iterate, AsyncOrders.pages)
    get: Final = blocking(AsyncOrders.get)
    wait: Final = blocking(AsyncOrders.wait)
    watch: Final = blocking_iter(AsyncOrders.watch)
    receipt: Final = blocking(AsyncOrders.receipt)
    invoice: Final = blocking(AsyncOrders.invoice)


class Wallet(Facade[AsyncWallet]):
    """Blocking twin of `AsyncWallet`."""

    balance: Final = blocking(AsyncWallet.balance)


class BlockingSubscription(Facade[Subscription], Iterator[Tick]):
    """Blocking twin of `Subscription`: `for tick in feed.subscribe(): ...`; one thread at a time."""

    def __next__(self) -> Tick:
        tick = self._run(step(self._inner))
        if tick is END:
            raise StopIteration
        return cast("Tick", tick)

    ready: Final = blocking_as(Subscription.ready, lambda ticks, _loop_thread: ticks)

    @property
    def dropped(self) -> int:
        """Ticks lost because the buffer was full; always 0 without a buffer."""
        return self._inner.dropped

    def close(self) -> None:
        """End this subscription, also for a thread that waits in it; may be called again, from any thread."""
        with contextlib.suppress(ClientClosedError):
            self._run(self._inner.aclose())


class BlockingRateFeed(Facade[RateFeed]):
    """Blocking twin of `RateFeed`: `with minted.rates.feed(interval=1) as feed: ...`.

    It is polled on the client's own thread. Any thread may subscribe or close it; closing ends every iteration.
    """

    subscribe: Final = blocking_as(RateFeed.subscribe, BlockingSubscription)
    record: Final = blocking(RateFeed.record)
    latest: Final = direct(RateFeed.latest)
    wait_for: Final = blocking(RateFeed.wait_for)

    @property
    def failures(self) -> int:
        """How many polls have failed since the feed was opened."""
        return self._inner.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """What the latest poll failed with; None while polls succeed."""
        return self._inner.last_error

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open: so many polls failed in a row that only single probes are sent."""
        return self._inner.is_open

    def close(self) -> None:
        """Stop the poller and end every subscription; may be called again, from any thread."""
        with contextlib.suppress(ClientClosedError):
            self._run(self._inner.aclose())

    def __enter__(self) -> Self:
        """Start the poller; the first poll begins at once and is not waited for.

        Raises:
            ClientClosedError: the feed was started or closed before.
        """
        self._run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _leave(lambda: self._run(self._inner.__aexit__(kind, error, trace)), error)


class Rates(Facade[AsyncRates]):
    """Blocking twin of `AsyncRates`."""

    current: Final = blocking(AsyncRates.current)
    history: Final = blocking(AsyncRates.history)
    feed: Final = blocking_as(AsyncRates.feed, BlockingRateFeed)


class MintedConnect(Facade[AsyncMintedConnect]):
    """The blocking client: ``with MintedConnect(username, password) as minted: ...``.

    The same as `AsyncMintedConnect` without `await`, on a thread of its own that starts with the first call. Share one
    between threads as you like; it works in notebooks too. After a fork, build a new one in the child. Ctrl-C cancels
    the call under way.

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
            here, or None (memory).
        ssl_context: TLS settings of your own, at least TLS 1.2.
        proxy: URL of an http proxy, with its user name and password if it wants them.
        options: What few callers change; see `Options`.

    Raises:
        ConfigurationError: an argument that cannot work.
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
        password: str | Secret,
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
        # Before anything can fail: tracebacks may show local variables.
        password, journal = as_secret(password), hide_url(journal)
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
        # The loop thread itself waits for the calls under way, before it runs this.
        last = partial(inner._aclose, 0.0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._assemble(inner, LoopThread(type(self).__name__, last), None)
        self._owns = True

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
    def from_env(cls, *, timeouts: Timeouts | None = None, options: Options | None = None) -> Self:
        """Build a client from `MINTED_CONNECT_USERNAME`, `_PASSWORD`, and, where set, `_BASE_URL` and `_JOURNAL`.

        Raises:
            ConfigurationError: user name or password is missing, or a value cannot work.
        """
        return cls(timeouts=timeouts, options=options_from_env(options), **settings_from_env())

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
    ) -> Generator[Self, None, None]:
        """Start an embedded Minted Connect on a free port, and a client for it: `with` gives the client.

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
        from minted_connect.sandbox import ThreadedSandbox  # noqa: PLC0415

        journal = hide_url(journal)
        check_type("options", options, Options, optional=True)
        if clock is not None:
            options = attrs.evolve(options or Options(), clock=clock)
        with (
            ThreadedSandbox(seed=seed, state=state, clock=clock, orders_lag=orders_lag, reads_lag=reads_lag) as server,
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
        """Return a sibling with other settings; thread, connections, digest state and retry budget are shared.

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
        inner = self._inner.with_options(
            timeouts=timeouts, retry=retry, deadline=deadline, language=language, client_id=client_id
        )
        sibling = object.__new__(type(self))
        sibling._assemble(inner, self._loop_thread, self._server)
        sibling._owns = False
        return sibling

    request: Final = blocking(AsyncMintedConnect.request)

    def close(self) -> None:
        """Close connections and thread; calls under way in other threads end with ClientClosedError.

        Any number of threads and signal handlers may call it at once: each returns when the client is closed. A
        purchase under way writes its outcome into the journal first. In a forked process, and for a sibling, it does
        nothing.

        Raises:
            ConfigurationError: if it is called on the client's own loop thread (in a hook).
        """
        if self._owns:
            self._loop_thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _leave(self.close, error)

    def __repr__(self) -> str:
        # A debugger may show a client whose constructor has just failed.
        inner: AsyncMintedConnect | None = getattr(self, "_inner", None)
        return f"<{type(self).__name__} {'(not built)' if inner is None else f'of {inner!r}'}>"


def _leave(close: Callable[[], object], error: BaseException | None) -> None:
    """Close at the end of a `with` body; what the body raised is not to be replaced by what closing raises."""
    try:
        close()
    except Exception as failure:
        if error is None:
            raise
        error.add_note(f"Closing failed too: {failure!r}")
    except BaseException as interruption:
        # A second Ctrl-C takes the place of the first, which names the purchase that it interrupted.
        if error is not None:
            copy_intent(error, interruption)
        raise
