"""Pages of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs

from minted_connect.models.json_keys import json_key
from minted_connect.models.json_types import DIGITS

__all__ = ["Page"]

T = TypeVar("T")


@attrs.frozen(slots=False)
class Page(Generic[T]):
    """One page of a list. Iterating over it yields the rows.

    Source: the Laravel paginator of E-Commerce Products (api-8209436, 2024-09-05) and Webview Get Orders
    (api-26025311, 2025-12-25); inferred for Walletable. The links of the paginator are in `raw`; this library does not
    follow them.
    """

    items: tuple[T, ...] = attrs.field(metadata=json_key("data"))
    """The rows (`data` in JSON)."""
    current_page: int = attrs.field(metadata=DIGITS)
    """Page number, from 1."""
    last_page: int = attrs.field(metadata=DIGITS)
    per_page: int = attrs.field(metadata=DIGITS)
    """Maximum number of rows on a page; in requests the vendor calls it `total`."""
    total: int = attrs.field(metadata=DIGITS)
    """Number of rows on all pages."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The paginator as received."""

    @property
    def has_next(self) -> bool:
        """Whether another page follows this one."""
        return self.current_page < self.last_page

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
