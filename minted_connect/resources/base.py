"""What all resources share: the `ApiClient` that sends their requests, and iteration over pages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from minted_connect.core.api_client import ApiClient
from minted_connect.models import Page

__all__ = ["Resource", "items", "pages"]

_T = TypeVar("_T")


class Resource:
    """One menu group of the API."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api


async def pages(fetch: Callable[[int], Awaitable[Page[_T]]], first: int) -> AsyncGenerator[Page[_T], None]:
    """Walk from page `first` to the last, one request a page; the vendor's links are not followed."""
    number = first
    while True:
        page = await fetch(number)
        yield page
        # An empty page ends the walk too: rows may have gone since the first page told the number of pages.
        if not page.has_next or not page.items:
            return
        number += 1


async def items(walk: AsyncGenerator[Page[_T], None]) -> AsyncGenerator[_T, None]:
    """Walk the rows of all pages."""
    try:
        async for page in walk:
            for item in page.items:
                yield item
    finally:
        await walk.aclose()
