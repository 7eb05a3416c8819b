"""Baskets and their price locks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs

from minted_connect.models.deal import Deal
from minted_connect.models.masking import masked_except_last

__all__ = ["Basket", "BasketKey", "PriceFix"]


@attrs.frozen
class BasketKey:
    """What names a basket in requests."""

    customer_id: str = attrs.field(repr=masked_except_last)
    cart_token: str = attrs.field(repr=masked_except_last)


@attrs.frozen(slots=False)
class PriceFix:
    """The price lock of a basket (api-26503573, api-26503549; documented examples).

    The time left is counted from the moment the request for it went out, which errs on the safe side, on a clock that
    runs on while the machine sleeps (`Clock.elapsed`). A lock that was built by hand, pickled or deep-copied has no
    such moment: it counts as over.
    """

    remaining: int
    """Seconds until the lock ended when the server answered; may be negative."""
    next_update: datetime
    """End of the lock by the server's clock."""
    updated: bool | None = None
    """Read as "the price was refreshed" (inferred, S4)."""
    token: str | None = attrs.field(default=None, repr=masked_except_last)
    """Equal to the basket's `price_token`, where seen."""
    received_at: float | None = attrs.field(default=None, eq=False, repr=False)
    """Seconds on the elapsed clock when the request for it went out."""
    elapsed: Callable[[], float] | None = attrs.field(default=None, eq=False, repr=False)
    """The clock `received_at` was read from."""

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the lock ends, not below 0; `None` if that moment is not known."""
        if self.elapsed is None or self.received_at is None:
            return None
        return max(0.0, self.remaining - (self.elapsed() - self.received_at))

    @property
    def expired(self) -> bool:
        """Whether the lock is over, or may be because that moment is not known."""
        return not self.seconds_left

    def __reduce__(self) -> tuple[Any, ...]:
        # Monotonic seconds mean nothing in another process or after a reboot.
        return type(self), (self.remaining, self.next_update, self.updated, self.token)


@attrs.frozen(slots=False)
class Basket(Deal):
    """An open basket; every change answers with a new one.

    Source: Update Basket Item (api-26503573, 2026-01-22), documented.
    """

    price_fix: PriceFix | None = None
    """The price lock (`pricefix` on the wire)."""

    @property
    def key(self) -> BasketKey:
        """What names this basket in requests."""
        return BasketKey(self.customer.external_id, self.token)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the price lock ends, not below 0; None if there is no lock or that moment is not known."""
        return None if self.price_fix is None else self.price_fix.seconds_left

    @property
    def is_expired(self) -> bool:
        """Whether the price lock has ended, or may have ended because that moment is not known."""
        return self.price_fix is None or self.price_fix.expired
