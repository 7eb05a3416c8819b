"""One price at one moment, and the round of a poll that brought it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

import attrs

from minted_connect import validation
from minted_connect.clock import Clock
from minted_connect.errors import InvalidInput
from minted_connect.models.rate import Rate

__all__ = ["WEIGHT_UNIT", "Filter", "Round", "Tick"]

WEIGHT_UNIT: Final = "g"
"""What all prices are for: one gram (assumed, S26)."""


@attrs.frozen
class Tick:
    """One price of one item currency, as a poll saw it: money per gram in `currency`."""

    rate: Rate
    observed_at: float
    """Monotonic seconds of the feed's clock when `rate` arrived; a stale tick keeps those of the last good value."""
    at: datetime
    """Time of day when `rate` arrived, aware; a stale tick keeps that of the last good value."""
    change: Decimal | None = None
    """Spot price minus that of the value before, money per gram; None on the first value and on a stale tick."""
    stale: bool = False
    """Whether the latest poll failed, is overdue or left this currency out, so that `rate` is the last good value."""
    number: int = 0
    """Number of the poll that brought it, from 1; in a fleet, of all its polls, and 0 for one outside of it."""
    gap: float = 0.0
    """Seconds since the last good poll if those are more than two intervals, so that prices went unseen; or 0."""
    missed: int = 0
    """Polls of the fleet before this one that this process was too far behind to see."""
    backfilled: bool = False
    """Whether it comes from Rate History: `at` is the start of its interval (assumed, S27), `number` is 0."""
    _clock: Clock = attrs.field(alias="clock", kw_only=True, eq=False, repr=False)

    @property
    def buy(self) -> Decimal:
        """What the customer pays, money per gram."""
        return self.rate.buy_price

    @property
    def sell(self) -> Decimal:
        """What the customer gets, money per gram."""
        return self.rate.sell_price

    @property
    def spot(self) -> Decimal:
        """The market price, money per gram."""
        return self.rate.spot_price

    @property
    def spread(self) -> Decimal:
        """`buy` minus `sell`, money per gram."""
        return self.buy - self.sell

    @property
    def currency(self) -> str:
        """Currency of the prices (`AED`)."""
        return self.rate.currency_code

    @property
    def weight_unit(self) -> str:
        """What the prices are for one of: `g` (assumed, S26)."""
        return WEIGHT_UNIT

    @property
    def source_time(self) -> datetime:
        """When the server says that the price was made, aware."""
        return self.rate.updated_at

    @property
    def age(self) -> float:
        """Seconds since `observed_at`, now: it grows while the tick is kept."""
        return self._clock.monotonic() - self.observed_at


@attrs.frozen
class Round:
    """What one poll brought: rates, or none if it failed."""

    rates: tuple[Rate, ...]
    number: int
    at: datetime
    observed_at: float
    gap: float = 0.0
    missed: int = 0


class Filter:
    """Which currencies a subscriber wants: all that fit everything that is given.

    Raises:
        InvalidInput: a value that no currency can have.
    """

    def __init__(self, currency_id: int | None, metal: str | None, sku: str | None) -> None:
        # None is wanted by all: each is compared by itself, since every subscriber asks this of every tick.
        self._currency_id = None if currency_id is None else validation.integer("currency_id", currency_id, 1)
        self._metal = None if metal is None else validation.text("metal", metal)
        self._sku = None if sku is None else validation.text("sku", sku)

    def __call__(self, rate: Rate) -> bool:
        """Tell whether this rate is wanted."""
        return (
            (self._currency_id is None or rate.currency_id == self._currency_id)
            and (self._metal is None or rate.metal_type == self._metal)
            and (self._sku is None or rate.sku == self._sku)
        )

    def check(self, known: list[Rate]) -> None:
        """Refuse to wait for what never comes.

        Raises:
            InvalidInput: none of these rates, which are all there are, fits.
        """
        if any(map(self, known)):
            return
        asked = {"currency_id": self._currency_id, "metal": self._metal, "sku": self._sku}
        asked = {name: value for name, value in asked.items() if value is not None}
        for name, value in asked.items():
            there = {_value(rate, name) for rate in known}
            if value not in there:
                shown = ", ".join(sorted(str(one) for one in there if one is not None))
                raise InvalidInput.of(name, f"fits none of the rates; there are {shown}")
        raise InvalidInput.of(next(iter(asked)), f"no rate fits all of {', '.join(asked)}")


def _value(rate: Rate, name: str) -> object:
    return rate.metal_type if name == "metal" else getattr(rate, name)
