"""Products."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.models.json_types import DIGITS
from minted_connect.response_info import HasResponse

__all__ = ["BaseCurrency", "Category", "MetalType", "Product"]


class MetalType(enum.StrEnum):
    """Known values of `metal_type`; others stay plain strings."""

    GOLD = "gold"
    SILVER = "silver"
    PLATINUM = "platinum"
    PALLADIUM = "palladium"


@attrs.frozen(slots=False)
class BaseCurrency:
    """Metal account of a product (`Dirham Gold`). Inferred; the keys are assumed (S13)."""

    id: int = attrs.field(metadata=DIGITS)
    name: str | None = None
    metal_type: MetalType | str | None = None


@attrs.frozen(slots=False)
class Category:
    """Category of a product. Inferred; the keys are assumed (S13)."""

    id: int = attrs.field(metadata=DIGITS)
    name: str | None = None


@attrs.frozen(slots=False)
class Product(HasResponse):
    """A bar or coin that can be bought.

    Source: E-Commerce Products (api-8209436, 2024-09-05); inferred for Walletable (S12, S13).
    """

    id: int = attrs.field(metadata=DIGITS)
    name: str
    sku: str
    text: str | None = None
    barcode: str | None = None
    stock: int | None = None
    """Number of pieces."""
    currency_code: str | None = None
    """Currency of both prices."""
    list_price: Decimal | None = None
    """Price of one piece, in `currency_code`."""
    sale_price: Decimal | None = None
    """Current price of one piece, in `currency_code`."""
    product_images: tuple[str, ...] = ()
    """URLs."""
    basecurrency: BaseCurrency | None = None
    category: Category | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The JSON object as received, unknown keys included."""
