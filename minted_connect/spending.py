"""The limits of `Options.spending`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

import attrs

from minted_connect.errors import ConfigurationError

__all__ = ["SpendingLimit"]

_CURRENCY: Final = re.compile("[A-Z]{3}")


def _validate_currency(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not _CURRENCY.fullmatch(value):
        raise ConfigurationError("SpendingLimit.currency: must be a code of three capital letters, such as AED")


def _validate_amount(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    name = f"SpendingLimit.{attribute.name}"
    if not isinstance(value, Decimal):
        raise ConfigurationError(f"{name}: must be a Decimal, not {type(value).__name__}")
    if not value.is_finite() or value < 0:
        raise ConfigurationError(f"{name}: must be a finite amount from 0")


@attrs.frozen(kw_only=True)
class SpendingLimit:
    """Highest amounts to buy for, in one currency; at least one amount is required, and 0 allows no purchase.

    The journal checks the limits of a day in the transaction that stores the intent, so they apply to all processes
    with the same journal, account and limits. A purchase counts while its outcome is open and after it is confirmed,
    for the UTC day on which its intent was created (`Intent.created_at`), whenever it is confirmed. It counts with the
    agreed `paid_total`, or with the last known total of its order if that is higher and in the same currency. Sales and
    deliveries, with their costs, do not count and are not limited.

    The days are those of the clients' clocks: synchronise them. Orders that already exist can exceed a limit: if their
    totals are higher than agreed, if an intent that was settled without an order turns out to have one, or if a process
    without these limits shares the journal. Further purchases are then refused.
    """

    currency: str = attrs.field(validator=_validate_currency)
    """Code of the currency, such as `AED`. Purchases in another currency raise `ConfigurationError`, and so do all
    purchases of a day for which a purchase in another currency counts."""
    per_purchase: Decimal | None = attrs.field(default=None, validator=_validate_amount)
    """The highest `paid_total` of one purchase."""
    per_customer_per_day: Decimal | None = attrs.field(default=None, validator=_validate_amount)
    """The highest sum of the purchases of one customer on one day."""
    per_day: Decimal | None = attrs.field(default=None, validator=_validate_amount)
    """The highest sum of all purchases of the account on one day."""

    def __attrs_post_init__(self) -> None:
        if self.per_purchase is None and self.per_customer_per_day is None and self.per_day is None:
            raise ConfigurationError("SpendingLimit: give at least one of per_purchase, per_customer_per_day, per_day")
