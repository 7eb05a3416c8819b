"""Iteration over the pages of a list, also while rows move to other pages."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Concatenate, Generic, ParamSpec, TypeVar

from minted_connect.errors import ProtocolError
from minted_connect.models import Page, UnreadableRow
from minted_connect.models.json_types import member_of

__all__ = ["NewRows", "items", "new_rows", "pages"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_P = ParamSpec("_P")

_logger = logging.getLogger("minted_connect")


async def pages(fetch: Callable[[int], Awaitable[Page[_T]]], first: int) -> AsyncGenerator[Page[_T], None]:
    """Iterate over the pages from `first` to the last, one request each. The vendor's links are not used.

    Raises:
        ProtocolError: if the next page has the number of the page before: the iteration would never end.
    """
    number, previous = first, None
    while True:
        page = await fetch(number)
        if page.has_next and page.current_page == previous:
            problem = f"data.current_page: is {previous} again, although page {number} was requested"
            raise ProtocolError(f"the server or a cache ignores the page number: {problem}", (problem,))
        yield page
        # Stop at an empty page, too: the number of pages may have shrunk since it was reported.
        if not page.has_next or not (page.items or page.unreadable):
            return
        number, previous = number + 1, page.current_page


class NewRows(Generic[_T]):
    """Iterates over all pages of a list, and yields the rows that no earlier page had, in one list for each page.

    Rows move to other pages if rows are added or leave the list in the meantime. A row that moved to a later page is
    left out there. A row that moved to an earlier page is missed. So if fewer rows than `total` were read at the end,
    or if `total` has shrunk, the first page and those from where rows began to move are requested once more.

    Args:
        pages: Returns the pages from a page number on.

    Attributes:
        total: Number of rows that the latest page reported.
        unreadable: The rows that cannot be read.
        is_complete: Whether `total` shows that no row is missing; known at the end.
    """

    def __init__(self, pages: Callable[[int], AsyncGenerator[Page[_T], None]]) -> None:
        self._pages = pages
        self._seen: set[tuple[str, str]] = set()
        self._moved_at: int | None = None
        self._has_shrunk = False
        self._lost = 0
        self.total: int | None = None
        self.unreadable: list[UnreadableRow] = []
        self.is_complete: bool = True

    async def lists(self) -> AsyncGenerator[list[_T], None]:
        """Iterate over the lists of new rows."""
        last = per_page = 0
        async with aclosing(self._pages(1)) as pages:
            async for page in pages:
                last, per_page = last + 1, page.per_page
                yield self._take(page, last)
        if self._agrees():
            return
        has_shrunk, self._has_shrunk = self._has_shrunk, False
        # A missed row is now on the page before the one where rows began to move, or earlier if many left the list.
        tail = max(1, (self._moved_at or last) - 1 - self._lost // max(1, per_page))
        for start in sorted({1, tail}):
            number = start
            async with aclosing(self._pages(start)) as pages:
                async for page in pages:
                    rows = self._take(page, number)
                    yield rows
                    if not has_shrunk and self._agrees():
                        return
                    # In the usual order, new rows are the first ones, and the pages after them are known.
                    if not rows and start < tail:
                        break
                    number += 1
        self.is_complete = self._agrees()
        if not self.is_complete:
            text = "rows moved to other pages between the requests: %d were read, the list has %s, some may be missing"
            _logger.warning(text, len(self._seen), self.total)

    def _agrees(self) -> bool:
        return not self._has_shrunk and len(self._seen) >= (self.total or 0)

    def _take(self, page: Page[_T], number: int) -> list[_T]:
        """Return the rows of a page that are new, and note whether rows have moved since the page before."""
        before, self.total = self.total, page.total
        new = [row for row in page.items if self._add(getattr(row, "id", None), getattr(row, "guid", None), row)]
        found = [row for row in page.unreadable if self._add(row.id, member_of(row.raw, "guid"), row.raw)]
        self.unreadable += found
        if before is None:
            return new
        self._lost += max(0, before - page.total)
        self._has_shrunk = self._has_shrunk or before > page.total
        is_repeated = len(new) + len(found) < len(page.items) + len(page.unreadable)
        if self._moved_at is None and (is_repeated or page.total != before):
            self._moved_at = number
        return new

    def _add(self, number: object, guid: object, row: object) -> bool:
        key = (str(number), str(guid)) if number is not None or guid is not None else ("", str(row))
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def new_rows(
    method: Callable[Concatenate[_R, _P], AsyncGenerator[Page[_T], None]],
) -> Callable[Concatenate[_R, _P], AsyncGenerator[list[_T], None]]:
    """Make a method that yields lists of new rows from a method `pages`, with its arguments other than `page`."""

    @functools.wraps(method)
    def lists(resource: _R, /, *args: _P.args, **kwargs: _P.kwargs) -> AsyncGenerator[list[_T], None]:
        start: Callable[..., AsyncGenerator[Page[_T], None]] = functools.partial(method, resource, *args, **kwargs)
        return NewRows(lambda number: start(page=number)).lists()

    return lists


async def items(lists: AsyncGenerator[list[_T], None]) -> AsyncGenerator[_T, None]:
    """Iterate over the rows of all lists."""
    async with aclosing(lists):
        async for rows in lists:
            for item in rows:
                yield item
