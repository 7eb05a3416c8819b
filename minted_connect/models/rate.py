"""Prices of metals, now and over time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.product import MetalType

__all__ = ["Rate", "RatePoint"]


@attrs.frozen(slots=False)
class Rate:
    """The price of one metal account now. Inferred from Partner pricefix (api-3826800, 2025-01-17; S26)."""

    currency_id: int
    currency_name: str
    """The metal account (`Dirham Gold`)."""
    metal_type: MetalType | str
    spot_price: Decimal
    """Money per gram."""
    buy_price: Decimal
    """Money per gram: what the customer pays."""
    sell_price: Decimal
    """Money per gram: what the customer receives."""
    currency_code: str
    """Currency of the prices."""
    updated_at: datetime
    product_id: int | None = None
    """The 1 g product of this account, if there is one."""
    sku: str | None = None
    """Sku of that product."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""


@attrs.frozen(slots=False)
class RatePoint:
    """The price of one metal account in one interval of the past. Inferred from `Rate` (S27)."""

    currency_id: int
    metal_type: MetalType | str
    currency_code: str
    """Currency of the prices."""
    time: datetime
    """Start of the interval, UTC."""
    spot_price: Decimal
    """Money per gram."""
    buy_price: Decimal
    """Money per gram."""
    sell_price: Decimal
    """Money per gram."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""
