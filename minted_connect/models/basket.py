"""Baskets and price locks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs

from minted_connect.models.deal import Deal
from minted_connect.models.json_keys import json_key
from minted_connect.models.masking import masked_except_last

__all__ = ["Basket", "BasketKey", "PriceFix"]


@attrs.frozen
class BasketKey:
    """Identifies a basket in requests."""

    customer_id: str = attrs.field(repr=masked_except_last)
    cart_token: str = attrs.field(repr=masked_except_last)


@attrs.frozen(slots=False)
class PriceFix:
    """The price lock of a basket (api-26503573, api-26503549; documented examples).

    The remaining time is counted from the moment the request was sent, which is the safe side, on a clock that also
    counts the time in which the machine sleeps (`Clock.elapsed`). A lock that was built by hand, copied or
    unpickled has no such moment and counts as expired.
    """

    remaining: int
    """Seconds until the lock ends, at the time of the response; may be negative."""
    next_update: datetime = attrs.field(metadata=json_key("nextUpdate"))
    """End of the lock, by the server's clock."""
    updated: bool | None = None
    """Whether the server has refreshed the price (inferred, S4)."""
    token: str | None = attrs.field(default=None, repr=masked_except_last)
    """Equal to the `price_token` of the basket in every example."""
    sent_at: float | None = attrs.field(default=None, eq=False, repr=False)
    """Time on the `elapsed` clock, in seconds, at which the request was sent."""
    elapsed: Callable[[], float] | None = attrs.field(default=None, eq=False, repr=False)
    """The clock of `sent_at`."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the lock ends, at least 0; None if `sent_at` or `elapsed` is missing."""
        if self.elapsed is None or self.sent_at is None:
            return None
        return max(0.0, self.remaining - (self.elapsed() - self.sent_at))

    @property
    def expired(self) -> bool:
        """Whether the lock has ended, or may have ended because `seconds_left` is not known."""
        return not self.seconds_left

    def __reduce__(self) -> tuple[Any, ...]:
        # The elapsed clock of another process or after a reboot has another start.
        return type(self), (self.remaining, self.next_update, self.updated, self.token)


@attrs.frozen(slots=False, repr=False)
class Basket(Deal):
    """An open basket. Every change returns a new `Basket`.

    Source: Update Basket Item (api-26503573, 2026-01-22), documented.
    """

    price_fix: PriceFix | None = attrs.field(default=None, metadata=json_key("pricefix"))
    """The price lock (`pricefix` in JSON)."""

    def _record_receipt(self, sent_at: float, elapsed: Callable[[], float]) -> None:
        """Set from when the price lock counts; called once, by the converter, before anyone else has the basket.

        Args:
            sent_at: When the request was sent, in seconds of the clock.
            elapsed: The client's elapsed clock.
        """
        if self.price_fix is not None:
            # Set in place although the class is frozen: `attrs.evolve` would build both objects a second time.
            object.__setattr__(self.price_fix, "sent_at", sent_at)
            object.__setattr__(self.price_fix, "elapsed", elapsed)

    @property
    def key(self) -> BasketKey:
        """Identifies this basket in requests."""
        return BasketKey(self.customer.external_id, self.token)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the price lock ends, at least 0; None if there is no lock or its end is not known."""
        return None if self.price_fix is None else self.price_fix.seconds_left

    @property
    def is_expired(self) -> bool:
        """Whether the price lock has ended, or may have ended because its end is not known."""
        return self.price_fix is None or self.price_fix.expired
