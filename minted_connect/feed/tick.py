"""Ticks, the rounds that they come from, and the filter of a subscription."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Final

import attrs

from minted_connect import validation
from minted_connect.clock import Clock
from minted_connect.errors import InvalidInput
from minted_connect.models.rate import Rate

__all__ = ["OVERDUE_INTERVALS", "WEIGHT_UNIT", "Filter", "Round", "Tick"]

WEIGHT_UNIT: Final = "g"
"""Unit that all prices are quoted for: one gram (assumed, S26)."""

OVERDUE_INTERVALS: Final = 2
"""Number of intervals after which a round is overdue: the ticks become stale, and the next good one states the gap."""


@attrs.frozen
class Tick:
    """One price of one item currency at one time: money per gram in `currency`."""

    rate: Rate
    observed_at: float
    """Monotonic seconds of the feed's clock when `rate` arrived; a stale tick keeps those of the last good value."""
    at: datetime
    """Time of day when `rate` arrived, aware; a stale tick keeps that of the last good value."""
    change: Decimal | None = None
    """Spot price minus the previous spot price, money per gram; None on the first value and on a stale tick."""
    stale: bool = False
    """Whether the latest poll failed, is overdue or left out this currency, so that `rate` is the last good value."""
    number: int = 0
    """Number of the poll that returned `rate`, from 1; in a fleet, all its polls are counted. 0 if `backfilled`."""
    gap: float = 0.0
    """Seconds since the previous good poll; 0 unless they exceed two intervals, so that prices were missed."""
    missed: int = 0
    """Rounds of the fleet just before this one that this process could not read, or skipped after a loss of data."""
    backfilled: bool = False
    """Whether it comes from Rate History; then `at` is the start of its interval (assumed, S27)."""
    _clock: Clock = attrs.field(alias="clock", kw_only=True, eq=False, repr=False)

    @property
    def buy(self) -> Decimal:
        """Price that the customer pays, money per gram."""
        return self.rate.buy_price

    @property
    def sell(self) -> Decimal:
        """Price that the customer receives, money per gram."""
        return self.rate.sell_price

    @property
    def spot(self) -> Decimal:
        """Market price, money per gram."""
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
        """Unit of weight that the prices are for: `g` (assumed, S26)."""
        return WEIGHT_UNIT

    @property
    def source_time(self) -> datetime:
        """Time of the price according to the server, aware."""
        return self.rate.updated_at

    @property
    def age(self) -> float:
        """Seconds from `observed_at` to now; computed at each access."""
        return self._clock.monotonic() - self.observed_at


@attrs.frozen
class Round:
    """The result of one poll, as it is published to subscribers."""

    rates: tuple[Rate, ...]
    """Empty if the poll failed."""
    number: int
    at: datetime
    observed_at: float
    gap: float = 0.0
    missed: int = 0


class Filter:
    """Selects the currencies that match all given values.

    Raises:
        InvalidInput: if a value is one that no currency can have.
    """

    def __init__(self, currency_id: int | None, metal: str | None, sku: str | None) -> None:
        self._currency_id = None if currency_id is None else validation.integer("currency_id", currency_id, 1)
        self._metal = None if metal is None else validation.text("metal", metal)
        self._sku = None if sku is None else validation.text("sku", sku)

    def __call__(self, rate: Rate) -> bool:
        """Return whether `rate` matches."""
        # Written out, not a loop over the given values: every subscriber calls this for every tick.
        return (
            (self._currency_id is None or rate.currency_id == self._currency_id)
            and (self._metal is None or rate.metal_type == self._metal)
            and (self._sku is None or rate.sku == self._sku)
        )

    def selects(self, currency_id: int, metal: str, sku: str | None) -> bool:
        """Return whether a rate with these values matches."""
        return (
            self._currency_id in {None, currency_id}
            and self._metal in {None, metal}
            and (self._sku is None or self._sku == sku)
        )

    def check_matches(self, rates: list[Rate]) -> None:
        """Check that at least one rate matches, so that no subscriber waits for a tick that never comes.

        Raises:
            InvalidInput: if none of `rates`, which are all known rates, matches.
        """
        if any(map(self, rates)):
            return
        given = {"currency_id": self._currency_id, "metal": self._metal, "sku": self._sku}
        given = {name: value for name, value in given.items() if value is not None}
        for name, value in given.items():
            available = {_value(rate, name) for rate in rates}
            if value not in available:
                listed = ", ".join(sorted(str(one) for one in available if one is not None))
                raise InvalidInput.of(name, f"matches none of the rates; available: {listed}")
        raise InvalidInput.of(next(iter(given)), f"no rate matches all of {', '.join(given)}")


def _value(rate: Rate, name: str) -> object:
    return rate.metal_type if name == "metal" else getattr(rate, name)
