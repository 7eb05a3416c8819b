"""Metal prices: current, past, and as a feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final, Literal

import attrs

from minted_connect import validation
from minted_connect.config import FEED_BREAKER, BreakerPolicy
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import InvalidInput
from minted_connect.models import MetalType, Rate, RatePoint
from minted_connect.resources.base import Resource
from minted_connect.validation import check_type

if TYPE_CHECKING:
    from minted_connect.feed import Fleet, RateFeed, Source

__all__ = ["AsyncRates"]

_INTERVALS: Final = frozenset({"hour", "day", "week", "month"})
_HOURLY: Final = timedelta(days=31)
"""Longest backfill with hourly points, at most 744 for each metal account; a longer one has daily points."""


class AsyncRates(Resource):
    """Prices of metals, in money per gram."""

    async def current(self, *, metals: MetalType | str | Sequence[MetalType | str] | None = None) -> tuple[Rate, ...]:
        """Return the current prices, one row for each metal account: money per gram, in its `currency_code`.

        Source: Currency Rates: inferred (rows modelled on Partner pricefix, api-3826800, 2025-01-17; S26).
        """
        query = () if metals is None else (("metal_type", validation.comma_separated("metals", metals)),)
        return await self._api.send(Request(OPERATIONS["rates.current"], query=query), tuple[Rate, ...])

    async def history(
        self,
        *,
        metal: MetalType | str | None = None,
        currency_id: int | None = None,
        interval: Literal["hour", "day", "week", "month"] = "day",
        start: date | None = None,
        end: date | None = None,
    ) -> tuple[RatePoint, ...]:
        """Return past prices of one metal or one metal account, oldest first: money per gram, times in UTC.

        Args:
            metal: The metal; exclusive with `currency_id`.
            currency_id: Id of the metal account (`Rate.currency_id`).
            interval: Length of the interval that each point stands for.
            start: First day, inclusive; requires `end`.
            end: Last day, inclusive; requires `start`.

        Raises:
            InvalidInput: if both or none of `metal` and `currency_id` are given, or only one of `start` and `end`.

        Source: Rate History: inferred (S27).
        """
        if (metal is None) == (currency_id is None):
            raise InvalidInput.of("metal", "give either metal or currency_id")
        query = [
            ("currency_id", str(validation.integer("currency_id", currency_id, 1)))
            if metal is None
            else ("metal_type", validation.text("metal", metal)),
            ("interval", validation.one_of("interval", interval, _INTERVALS)),
            *validation.date_range(start, end),
        ]
        return await self._api.send(Request(OPERATIONS["rates.history"], query=query), tuple[RatePoint, ...])

    def feed(
        self,
        *,
        interval: float,
        metals: MetalType | str | Sequence[MetalType | str] | None = None,
        jitter: float = 0.1,
        max_backoff: float = 60.0,
        breaker: BreakerPolicy | None = FEED_BREAKER,
        backfill: timedelta | None = None,
        fleet: Fleet | None = None,
    ) -> RateFeed:
        """Return a feed that polls the current prices every `interval` seconds for any number of subscribers.

        `async with feed:` starts polling; `async for tick in feed.subscribe(...)` receives the prices. A failed poll
        is not retried, also if the `RetryPolicy` allows it: the next poll replaces it.

        Args:
            interval: Average number of seconds between the starts of two polls.
            metals: Only prices of these metals; None: all.
            jitter: Maximum random deviation of a wait from `interval`, as a fraction of it: 0 to below 1.
            max_backoff: Longest wait in seconds after failed polls, unless `interval`, `breaker` or the server's
                Retry-After is longer.
            breaker: After `breaker.failures` failed polls in a row, only single probes are sent, at least
                `breaker.cooldown` seconds apart; None: no circuit breaker.
            backfill: Period of past prices for `subscribe(history=True)`. After the first poll they are requested from
                Rate History, one request for each metal account: hourly points, or daily ones if the period is longer
                than 31 days. None: no past prices.
            fleet: Shares the polling with other processes over Redis: only one of them polls. None: this process
                polls.

        Raises:
            InvalidInput: if a value is out of range.
            ConfigurationError: if `breaker` is not a `BreakerPolicy`, or `fleet` not a `Fleet`.
        """
        # Most programs have no feed, and importing it takes a tenth of the import time of the client.
        from minted_connect.feed import Fleet, FleetMember, LocalSource, Poller, RateFeed  # noqa: PLC0415

        check_type("fleet", fleet, Fleet, optional=True)
        if backfill is not None:
            validation.instance("backfill", backfill, timedelta)
            if backfill <= timedelta(0):
                raise InvalidInput.of("backfill", "must be above 0")
        settings = self._api.settings
        # Validate `metals` now instead of in the first poll, and read an iterator once instead of at each poll.
        wanted = None if metals is None else validation.comma_separated("metals", metals).split(",")
        polls = AsyncRates(
            self._api.with_settings(attrs.evolve(settings, retry=attrs.evolve(settings.retry, read_attempts=1)))
        )
        clock = settings.options.clock

        poller = Poller(
            lambda: polls.current(metals=wanted),
            interval=interval,
            clock=clock,
            random=settings.options.random,
            jitter=jitter,
            max_backoff=max_backoff,
            breaker=breaker,
        )
        source: Source
        if fleet is None:
            source = LocalSource(poller, clock=clock)
        else:
            account = self._api.account
            source = FleetMember(
                poller,
                fleet,
                scope=f"{account} {wanted}",
                account=account,
                clock=clock,
                random=settings.options.random,
            )

        async def history(rates: Iterable[Rate]) -> list[RatePoint]:
            assert backfill is not None
            now = clock.wall()
            start = now - backfill
            by: Literal["hour", "day"] = "hour" if backfill <= _HOURLY else "day"
            points: list[RatePoint] = []
            for rate in rates:
                await source.acquire()
                points += await polls.history(
                    currency_id=rate.currency_id, interval=by, start=start.date(), end=now.date()
                )
            return [point for point in points if point.time >= start]

        return RateFeed(source, clock=clock, history=None if backfill is None else history)
