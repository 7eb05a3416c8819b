"""The total that the caller of a completion agreed to: an exact one, a range, or any."""

from __future__ import annotations

from decimal import Decimal

import attrs

from minted_connect.errors import InvalidInput, PriceChanged

__all__ = ["AgreedTotal", "validate_agreed_total", "validate_limit"]


@attrs.frozen
class AgreedTotal:
    """The lowest and the highest `paid_total` that the caller agreed to; None = no limit."""

    lowest: Decimal | None = None
    highest: Decimal | None = None

    def check(self, total: Decimal, currency: str) -> None:
        """Check the total of a basket.

        Raises:
            PriceChanged: if the caller did not agree to it.
        """
        lowest, highest = self.lowest, self.highest
        if lowest is not None and lowest == highest:
            if total != lowest:
                text = f"the basket now costs {total} {currency}; the agreed total is {lowest}"
                raise PriceChanged(text, lowest, total)
        elif highest is not None and total > highest:
            raise PriceChanged(f"the basket costs {total} {currency}, more than max_total {highest}", highest, total)
        elif lowest is not None and total < lowest:
            raise PriceChanged(f"the basket sells for {total} {currency}, less than min_total {lowest}", lowest, total)


def validate_agreed_total(expected_total: Decimal | None, accept_price: str | None) -> AgreedTotal:
    """Return the total that the caller agreed to.

    Raises:
        InvalidInput: if both or neither are given, or if the total is not a finite Decimal from 0.
    """
    if accept_price is not None and accept_price != "current":
        raise InvalidInput.of("accept_price", "must be 'current' or left out")
    if (expected_total is None) == (accept_price is None):
        raise InvalidInput.of("expected_total", "give either expected_total or accept_price='current'")
    if expected_total is None:
        return AgreedTotal()
    total = validate_limit("expected_total", expected_total)
    return AgreedTotal(total, total)


def validate_limit(name: str, total: Decimal) -> Decimal:
    """Return an amount of money that the caller gave.

    Raises:
        InvalidInput: if it is not a finite Decimal from 0.
    """
    if not isinstance(total, Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of(name, f"must be a Decimal, not {type(total).__name__}")
    if not total.is_finite() or total < 0:
        raise InvalidInput.of(name, "must be a finite amount from 0")
    return total
