"""The blocking price feed and its subscriptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self, cast

from minted_connect.blocking.lift import END, Facade, blocking, blocking_as, blocking_iter, close_on_exit, direct, step
from minted_connect.errors import ClientClosedError, MintedConnectError
from minted_connect.feed import RateFeed, Subscription, Tick

__all__ = ["BlockingRateFeed", "BlockingSubscription"]


class BlockingSubscription(Facade[Subscription], Iterator[Tick]):
    """Blocking twin of `Subscription`: `for tick in feed.subscribe(): ...`. Only one thread may iterate over it."""

    def __next__(self) -> Tick:
        tick = self._run(step(self._inner))
        if tick is END:
            raise StopIteration
        return cast("Tick", tick)

    ready: Final = blocking_as(Subscription.ready, lambda ticks, _loop_thread: ticks)

    @property
    def dropped(self) -> int:
        """Number of ticks dropped because the buffer was full; 0 without a buffer."""
        return self._inner.dropped

    def close(self) -> None:
        """End this subscription. A thread that waits in it stops iterating. Idempotent; any thread may call it."""
        with contextlib.suppress(ClientClosedError):
            self._run(self._inner.aclose())


class BlockingRateFeed(Facade[RateFeed]):
    """Blocking twin of `RateFeed`: `with minted.rates.feed(interval=1) as feed: ...`.

    The client's background thread polls. Any thread may subscribe to the feed or close it; closing ends every
    subscription.
    """

    subscribe: Final = blocking_as(RateFeed.subscribe, BlockingSubscription)
    record: Final = blocking(RateFeed.record)
    latest: Final = direct(RateFeed.latest)
    wait_for: Final = blocking(RateFeed.wait_for)
    alerts: Final = blocking_iter(RateFeed.alerts)

    @property
    def failures(self) -> int:
        """Number of failed polls since the feed was opened."""
        return self._inner.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """Error of the latest poll; None if it succeeded."""
        return self._inner.last_error

    @property
    def is_breaker_open(self) -> bool:
        """Whether the circuit breaker is open: too many polls failed in a row, and only single probes are sent."""
        return self._inner.is_breaker_open

    def close(self) -> None:
        """Stop polling and end every subscription. Idempotent; any thread may call it."""
        with contextlib.suppress(ClientClosedError):
            self._run(self._inner.aclose())

    def __enter__(self) -> Self:
        """Start polling; does not wait for the first poll. In a fleet, only the leader polls.

        Raises:
            ClientClosedError: if the feed was started or closed before.
        """
        self._run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_on_exit(lambda: self._run(self._inner.__aexit__(kind, error, trace)), error)
