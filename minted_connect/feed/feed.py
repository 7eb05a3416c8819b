"""One poller and any number of subscribers, in one process."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

import anyio

from minted_connect.config import Breaker, Clock
from minted_connect.core.request import OPERATIONS
from minted_connect.errors import (
    ClientClosedError,
    InvalidInput,
    MintedConnectError,
    Phase,
    RequestTimeout,
)
from minted_connect.feed.board import Board, Buffered, Latest, Subscription
from minted_connect.feed.poller import Poller
from minted_connect.feed.tick import Filter, Tick
from minted_connect.models.rate import Rate
from minted_connect.resources import checks

__all__ = ["RateFeed"]

BREAKER: Final = Breaker()
"""The default of a feed: five failed polls in a row, then a probe every half minute."""


class RateFeed:
    """Polls the rates while it is open and hands them to any number of subscribers: `async with feed: ...`.

    A failed poll does not end it: subscribers get the last good values again, marked stale, and the next poll
    waits longer each time. An error that polling again cannot mend (one that is not of this library, a closed
    client, a bad option, wrong credentials, a request the server refuses) does end it, and is raised to the
    subscribers and on leaving the `async with`.

    Args:
        fetch: gets the rates once; called by one task, never twice at a time.
        interval: seconds between the starts of two polls, on average.
        clock: where time comes from.
        random: source of jitter, in [0, 1).
        jitter: how far each wait may differ from `interval`, as a fraction of it, so that many processes
            started together do not poll together; 0 to below 1.
        max_backoff: longest wait after failures in seconds, unless `interval` or the breaker's cooldown is longer or
            the server asks for more. Waits are drawn evenly from `interval` to `interval` * 2^failures: never sooner
            than without a failure.
        breaker: after so many failures in a row, single probes at least `cooldown` seconds apart; None for none.

    Raises:
        InvalidInput: `interval`, `jitter` or `max_backoff` is out of range.
        ConfigurationError: `breaker` is something else.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Iterable[Rate]]],
        *,
        interval: float,
        clock: Clock,
        random: Callable[[], float],
        jitter: float = 0.1,
        max_backoff: float = 60.0,
        breaker: Breaker | None = BREAKER,
    ) -> None:
        self._poller = Poller(
            fetch,
            interval=interval,
            clock=clock,
            random=random,
            jitter=jitter,
            max_backoff=max_backoff,
            breaker=breaker,
        )
        self._clock = clock
        self._board = Board(clock)

    @property
    def failures(self) -> int:
        """How many polls have failed since the feed was opened."""
        return self._poller.failures

    @property
    def last_error(self) -> MintedConnectError | None:
        """What the latest poll failed with; None while polls succeed."""
        return self._poller.last_error

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open: so many polls failed in a row that only single probes are sent."""
        return self._poller.is_open

    async def __aenter__(self) -> Self:
        """Start the poller; the first poll begins at once and is not waited for.

        Raises:
            ClientClosedError: the feed was started or closed before.
        """
        if self._board.closed or self._board.poller is not None:
            raise ClientClosedError("a feed is opened once: make another one")
        # Not a task group: its cancel scope would have to be left by the task that entered it, and the blocking
        # twin enters and leaves in two tasks.
        self._board.poller = asyncio.create_task(self._poller.run(self._board), name="minted_connect.feed")
        self._board.poller.add_done_callback(self._board.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None:
            self._board.over()

    async def aclose(self) -> None:
        """Stop the poller and end every subscription; may be called again."""
        self._board.end()
        poller = self._board.poller
        if poller is not None and not poller.done():
            poller.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait({poller})

    def subscribe(
        self,
        *,
        currency_id: int | None = None,
        metal: str | None = None,
        sku: str | None = None,
        changes_only: bool = False,
        buffer: int | None = None,
    ) -> Subscription:
        """Iterate over ticks: first what is known already, then each poll's.

        A subscriber that is slower than the poller skips to the latest value of each currency, unless it asks
        for a buffer.

        Args:
            currency_id: only this item currency.
            metal: only this metal (`gold`).
            sku: only the currency whose 1 g product this is.
            changes_only: leave out ticks with the prices and the staleness of the one before.
            buffer: ticks to keep for this subscriber; when it is full, the oldest goes and is counted in
                `Subscription.dropped`.

        Raises:
            InvalidInput: `buffer` is not a whole number from 1, or a filter cannot fit anything.
        """
        wanted = Filter(currency_id, metal, sku)
        checks.flag("changes_only", changes_only)
        if buffer is None:
            return Latest(self._board, wanted, changes_only=changes_only)
        size = checks.whole("buffer", buffer, 1, sys.maxsize)
        return Buffered(self._board, wanted, changes_only=changes_only, size=size)

    def latest(
        self, *, currency_id: int | None = None, metal: str | None = None, sku: str | None = None
    ) -> Tick | None:
        """Return the last good value of the first currency that fits, or None if there is none yet.

        `Tick.age` says how old it is, `Tick.stale` whether the latest poll renewed it. Raises what ended the
        feed if that was an error; after a close it keeps answering.

        Raises:
            InvalidInput: a filter cannot fit anything, or the rates are known and it fits none of them.
        """
        wanted = Filter(currency_id, metal, sku)
        self._board.over()
        ticks = self._board.ticks
        if ticks:
            wanted.check([tick.rate for tick in ticks.values()])
        return next((tick for tick in ticks.values() if wanted(tick.rate)), None)

    async def wait_for(self, predicate: Callable[[Tick], bool], *, timeout: float) -> Tick:
        """Return the first tick that satisfies the predicate, what is known already included.

        Stale ticks do not count: an alert must not go off on an old price.

        Args:
            predicate: called with each fresh tick.
            timeout: seconds on the feed's clock. A poll under way is let finish first.

        Raises:
            RequestTimeout: no tick did in time (also a TimeoutError); its cause is what the latest poll failed with,
                if it failed.
            ClientClosedError: the feed was closed meanwhile, or is not running.
            InvalidInput: `timeout` is not finite or not above 0, or `predicate` is not a plain function.
        """
        if not callable(predicate) or inspect.iscoroutinefunction(predicate):
            raise InvalidInput.of("predicate", "must be a plain function of a tick")
        timeout = checks.seconds("timeout", timeout)
        search = asyncio.ensure_future(self._first(predicate))
        timer = asyncio.ensure_future(self._pass(self._clock.monotonic() + timeout))
        try:
            await asyncio.wait({search, timer}, return_when=asyncio.FIRST_COMPLETED)
            if search.done():
                return search.result()
            timer.result()
            operation = OPERATIONS["rates.current"]
            raise RequestTimeout(
                f"no tick satisfied the condition within {timeout:g} s",
                operation.method,
                operation.path,
                elapsed=timeout,
                phase=Phase.ANSWERED,
                idempotent=True,
            ) from self._poller.last_error
        finally:
            search.cancel()
            timer.cancel()
            await asyncio.gather(search, timer, return_exceptions=True)

    async def _first(self, predicate: Callable[[Tick], bool]) -> Tick:
        async for tick in self.subscribe():
            if not tick.stale and predicate(tick):
                return tick
        raise ClientClosedError("the feed was closed before a tick satisfied the condition")

    async def _pass(self, deadline: float) -> None:
        """Wait until the deadline is past."""
        while (left := deadline - self._clock.monotonic()) > 0:
            # Polls due before the deadline come first: on a clock whose sleep moves the time at once, sleeping
            # here would skip them.
            if self._board.due > deadline:
                await self._clock.sleep(left)
            else:
                await self._board.wait(self._board.waiter())
