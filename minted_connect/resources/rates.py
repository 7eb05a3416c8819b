"""Prices of metals: now, over time, and as a feed."""

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
    from minted_connect.feed import Fleet, FleetMember, Poller, RateFeed

__all__ = ["AsyncRates"]

_INTERVALS: Final = frozenset({"hour", "day", "week", "month"})
_HOURLY: Final = timedelta(days=31)
"""Up to here, a backfill is by the hour: at most 744 points a metal account."""


class AsyncRates(Resource):
    """What a gram of metal costs."""

    async def current(self, *, metals: MetalType | str | Sequence[MetalType | str] | None = None) -> tuple[Rate, ...]:
        """Return the prices of now, a row a metal account: money per gram in its `currency_code`.

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

        `start` and `end` go together and count in.

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
        """Return a feed that asks for the prices every `interval` seconds, however many subscribe to it.

        `async with feed:` starts it; `async for tick in feed.subscribe(...)` listens. A poll is sent once, whatever
        `RetryPolicy` says: the next poll is what follows a failed one.

        Args:
            interval: Seconds between the starts of two polls, on average.
            metals: Only these; all if left out.
            jitter: How far each wait may differ from `interval`, as a fraction of it: 0 to below 1.
            max_backoff: Longest wait in seconds after failed polls, unless the others or the server ask for more.
            breaker: After so many failed polls in a row, single probes at least `cooldown` seconds apart; None: none.
            backfill: How far back Rate History is asked once the first poll has come, a request a metal account, for
                `subscribe(history=True)`: hours, or days if it is more than 31 of them. None: not at all.
            fleet: What this process shares with others over Redis, of which only one polls; None: it polls.

        Raises:
            InvalidInput: a value is out of range.
            ConfigurationError: `breaker` is no `BreakerPolicy`, or `fleet` no `Fleet`.
        """
        # A tenth of what it takes to import the client, and most programs have no feed.
        from minted_connect.feed import Fleet, FleetMember, Poller, RateFeed  # noqa: PLC0415

        check_type("fleet", fleet, Fleet, optional=True)
        if backfill is not None:
            validation.instance("backfill", backfill, timedelta)
            if backfill <= timedelta(0):
                raise InvalidInput.of("backfill", "must be above 0")
        settings = self._api.settings
        # Looked at now, not by the poller; and a collection that can be read only once is read here.
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
        source: Poller | FleetMember = poller
        if fleet is not None:
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
                await source.turn()
                points += await polls.history(
                    currency_id=rate.currency_id, interval=by, start=start.date(), end=now.date()
                )
            return [point for point in points if point.time >= start]

        return RateFeed(source, clock=clock, history=None if backfill is None else history)
