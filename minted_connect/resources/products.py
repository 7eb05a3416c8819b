"""Products: the catalogue."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from minted_connect import validation
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.models import Page, Product
from minted_connect.resources import base, paging

__all__ = ["AsyncProducts"]


class AsyncProducts(base.Resource):
    """Bars and coins that can be bought."""

    async def page(self, *, page: int = 1, per_page: int = 10) -> Page[Product]:
        """Return one page of products.

        Args:
            page: Page number, from 1.
            per_page: Rows per page (the E-Commerce page allows 5 to 100).

        Source: Get Products: inferred (path, query and shape from E-Commerce Products, api-8209436, 2024-09-05).
        """
        query = (
            ("page", str(validation.integer("page", page, 1))),
            # In requests `total` is the number of rows per page, in responses that of all rows.
            ("total", str(validation.integer("per_page", per_page, 1))),
        )
        return await self._api.send(Request(OPERATIONS["products.page"], query=query), Page[Product])

    def pages(self, *, page: int = 1, per_page: int = 10) -> AsyncGenerator[Page[Product], None]:
        """Iterate over the pages from `page` on, one request each."""
        return paging.pages(lambda number: self.page(page=number, per_page=per_page), page)

    def iterate(self, *, per_page: int = 10) -> AsyncGenerator[Product, None]:
        """Iterate over all products; pages of `per_page` rows are requested as needed. Each product is yielded once."""
        return paging.items(paging.new_rows(AsyncProducts.pages)(self, per_page=per_page))
