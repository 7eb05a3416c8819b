"""Pages of a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs

from minted_connect.models.json_keys import NOT_IN_JSON, json_key
from minted_connect.models.json_types import DIGITS, customer_id_of, member_of, whole_number
from minted_connect.response_info import HasResponse

__all__ = ["Page", "UnreadableRow"]

T = TypeVar("T")


@attrs.frozen
class UnreadableRow:
    """A row of a page that does not match its model."""

    path: str
    """Place in the response (`data.data[3]`)."""
    problems: tuple[str, ...]
    """Path and rule of the first mismatches (`data.data[3].sku: required field missing`), without values."""
    raw: Any = attrs.field(default=None, repr=False, eq=False)
    """The row as received: normally a JSON object."""

    @property
    def problem(self) -> str:
        """The problems, separated by `; `."""
        return "; ".join(self.problems)

    @property
    def id(self) -> int | None:
        """The `id` of the row; None if it cannot be read."""
        return whole_number(member_of(self.raw, "id"))

    @property
    def customer_id(self) -> str | None:
        """The `customer.external_id` of the row; None if it cannot be read."""
        return customer_id_of(self.raw)


@attrs.frozen(slots=False, repr=False)
class Page(HasResponse, Generic[T]):
    """One page of a list. Iterating over it yields the rows that can be read.

    Source: the Laravel paginator of E-Commerce Products (api-8209436, 2024-09-05) and Webview Get Orders
    (api-26025311, 2025-12-25); inferred for Walletable. The links of the paginator are in `raw`; this library does not
    follow them.
    """

    items: tuple[T, ...] = attrs.field(metadata=json_key("data"))
    """The rows (`data` in JSON) that can be read."""
    current_page: int = attrs.field(metadata=DIGITS)
    """Page number, from 1."""
    last_page: int = attrs.field(metadata=DIGITS)
    per_page: int = attrs.field(metadata=DIGITS)
    """Maximum number of rows on a page; in requests the vendor calls it `total`."""
    total: int = attrs.field(metadata=DIGITS)
    """Number of rows on all pages, unreadable ones included."""
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)
    """The paginator as received."""
    unreadable: tuple[UnreadableRow, ...] = attrs.field(default=(), metadata=NOT_IN_JSON)
    """The rows that cannot be read. Each one is logged as a warning."""

    @property
    def has_next(self) -> bool:
        """Whether another page follows this one."""
        return self.current_page < self.last_page

    def __repr__(self) -> str:
        unreadable = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        pages = f"page {self.current_page} of {self.last_page}"
        return f"<{type(self).__name__}: {len(self.items)} of {self.total} rows, {pages}{unreadable}>"

    def _repr_html_(self) -> str:
        from minted_connect.html import page_to_html  # noqa: PLC0415

        return page_to_html(self)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
