"""Holdings of a customer."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.json_keys import camel_case_keys
from minted_connect.models.json_types import DIGITS
from minted_connect.models.product import MetalType
from minted_connect.response_info import HasResponse

__all__ = ["Holding"]


@attrs.frozen(slots=False, field_transformer=camel_case_keys)
class Holding(HasResponse):
    """Amount of one product in a customer's wallet. Its JSON keys are in camelCase, unlike those of other models.

    Source: Balance / Wallet (api-27130593, 2026-01-23), partly documented: `productName` and `images`; the other
    keys are assumed (S20).
    """

    product_name: str
    images: tuple[str, ...] = ()
    """URLs."""
    sku: str | None = None
    product_id: int | None = attrs.field(default=None, metadata=DIGITS)
    product_weight: Decimal | None = None
    """Weight of one piece in grams."""
    metal_type: MetalType | str | None = None
    amount: Decimal | None = None
    """Number of pieces (assumed; pieces or grams, S20)."""
    deliverable_amount: Decimal | None = None
    """Number of pieces that can be shipped now."""
    blocked_amount: Decimal | None = None
    """Number of pieces in open orders."""
    is_deliverable: bool | None = None
    unit_value: Decimal | None = None
    """Money for one piece, at the sell price."""
    total_value: Decimal | None = None
    """Money: `unit_value * amount`."""
    currency_code: str | None = None
    """Currency of both values."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""
