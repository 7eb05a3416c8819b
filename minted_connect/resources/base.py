"""Base class of the resources, the check of the owner of a response, and iteration over pages.

To add an operation, follow the guide `guides/adding-an-operation.md`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeVar

from minted_connect.core.api_client import ApiClient
from minted_connect.models import Customer, Page

__all__ = ["Resource", "items", "owner_problems", "pages"]

_T = TypeVar("_T")


class Resource:
    """One group of operations."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api


def owner_problems(customer_id: str, found: Mapping[str, Customer]) -> list[str]:
    """Return the problems of a response that is about other customers than the requested one.

    A proxy or cache may mix up responses, and a server that misreads a filter returns the rows of all customers.

    Args:
        customer_id: The requested customer.
        found: The customers in the response, by their path.
    """
    return [
        f"{path}.external_id: is another customer's"
        for path, customer in found.items()
        if customer.external_id != customer_id
    ]


async def pages(fetch: Callable[[int], Awaitable[Page[_T]]], first: int) -> AsyncGenerator[Page[_T], None]:
    """Iterate over the pages from `first` to the last, one request each. The vendor's links are not used."""
    number = first
    while True:
        page = await fetch(number)
        yield page
        # Stop at an empty page, too: the number of pages may have shrunk since it was reported.
        if not page.has_next or not (page.items or page.unreadable):
            return
        number += 1


async def items(pages: AsyncGenerator[Page[_T], None]) -> AsyncGenerator[_T, None]:
    """Iterate over the rows of all pages."""
    try:
        async for page in pages:
            for item in page.items:
                yield item
    finally:
        await pages.aclose()
