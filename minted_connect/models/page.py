"""Answers that come in pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs

__all__ = ["Page"]

T = TypeVar("T")


@attrs.frozen(slots=False)
class Page(Generic[T]):
    """One page of rows; iterating it gives the rows.

    Source: the Laravel paginator of E-Commerce Products (api-8209436, 2024-09-05) and Webview Get Orders
    (api-26025311, 2025-12-25); inferred for Walletable. Its links are in `raw` and are not to be followed.
    """

    items: tuple[T, ...]
    """The rows (`data` on the wire)."""
    current_page: int
    """From 1."""
    last_page: int
    per_page: int
    """Most rows on a page; requests call this `total`."""
    total: int
    """Rows on all pages."""
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
