"""Current and past metal prices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.json_types import DIGITS
from minted_connect.models.masking import shorten
from minted_connect.models.product import MetalType
from minted_connect.response_info import HasResponse

__all__ = ["Rate", "RatePoint"]


@attrs.frozen(slots=False, repr=False)
class Rate(HasResponse):
    """Current price of one metal account. Inferred from Partner pricefix (api-3826800, 2025-01-17; S26)."""

    currency_id: int = attrs.field(metadata=DIGITS)
    currency_name: str
    """Name of the metal account (`Dirham Gold`)."""
    metal_type: MetalType | str
    spot_price: Decimal
    """Money per gram."""
    buy_price: Decimal
    """Money per gram that a customer pays."""
    sell_price: Decimal
    """Money per gram that a customer receives."""
    currency_code: str
    """Currency of the prices."""
    updated_at: datetime
    product_id: int | None = attrs.field(default=None, metadata=DIGITS)
    """Id of the 1 g product of this account, if it exists."""
    sku: str | None = None
    """Sku of the 1 g product."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""

    def __repr__(self) -> str:
        names = f"{shorten(self.metal_type, 12)} {shorten(self.currency_name, 24)}"
        prices = f"buy {shorten(self.buy_price, 16)}, sell {shorten(self.sell_price, 16)}"
        time = self.updated_at.isoformat(" ", "minutes")
        return f"<Rate {names}: {prices} {shorten(self.currency_code, 8)}/g, {time}>"

    def _repr_html_(self) -> str:
        from minted_connect.html import rows_to_html  # noqa: PLC0415

        return rows_to_html([self])


@attrs.frozen(slots=False)
class RatePoint(HasResponse):
    """Price of one metal account in one past interval. Inferred from `Rate` (S27)."""

    currency_id: int = attrs.field(metadata=DIGITS)
    metal_type: MetalType | str
    currency_code: str
    """Currency of the prices."""
    time: datetime
    """Start of the interval, in UTC."""
    spot_price: Decimal
    """Money per gram."""
    buy_price: Decimal
    """Money per gram."""
    sell_price: Decimal
    """Money per gram."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""
