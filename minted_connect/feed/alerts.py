"""Alerts: the ticks at which a price reaches a limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from decimal import Decimal
from typing import Any, Final, Literal

import attrs

from minted_connect import validation
from minted_connect.errors import InvalidInput
from minted_connect.feed.hub import Subscription
from minted_connect.feed.tick import Tick

__all__ = ["PriceAlert", "PriceName", "check_limits", "find_alerts"]

PriceName = Literal["buy", "sell", "spot"]
_PRICES: Final = ("buy", "sell", "spot")


@attrs.frozen
class PriceAlert:
    """A price that has reached a limit."""

    tick: Tick
    """The first tick at or beyond the limit."""
    price: Decimal
    """The price, money per gram in `tick.currency`."""
    limit: Decimal
    """The limit that it has reached."""
    direction: Literal["above", "below"]
    """Whether the price is at or above the limit, or at or below it."""


def check_limits(
    above: Decimal | int | None, below: Decimal | int | None, price: str
) -> tuple[Decimal | None, Decimal | None]:
    """Return both limits as Decimals.

    Raises:
        InvalidInput: if none is given, one is not a finite amount above 0, `above` is not higher than `below`, or
            `price` is not the name of a price.
    """
    validation.one_of("price", price, _PRICES)
    upper, lower = _to_limit("above", above), _to_limit("below", below)
    if upper is None and lower is None:
        raise InvalidInput.of("above", "must be given, or below")
    if upper is not None and lower is not None and upper <= lower:
        raise InvalidInput.of("above", "must be higher than below")
    return upper, lower


def _to_limit(name: str, value: Any) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidInput.of(name, "must be a Decimal or a whole number; a float is not exact")
    limit = Decimal(value)
    if not limit.is_finite() or limit <= 0:
        raise InvalidInput.of(name, "must be finite and above 0")
    return limit


async def find_alerts(
    ticks: Subscription, *, above: Decimal | None, below: Decimal | None, price: str
) -> AsyncGenerator[PriceAlert, None]:
    """Yield an alert when a price of a currency reaches a limit, and again after it was on the other side.

    Stale ticks are ignored.
    """
    limits: list[tuple[Literal["above", "below"], Decimal]] = []
    if above is not None:
        limits.append(("above", above))
    if below is not None:
        limits.append(("below", below))
    reached: set[tuple[int, str]] = set()
    async with aclosing(ticks):
        async for tick in ticks:
            if tick.stale:
                continue
            value: Decimal = getattr(tick, price)
            for direction, limit in limits:
                key = tick.rate.currency_id, direction
                if (value < limit) if direction == "above" else (value > limit):
                    reached.discard(key)
                elif key not in reached:
                    reached.add(key)
                    yield PriceAlert(tick, value, limit, direction)
