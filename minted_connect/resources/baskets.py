"""Baskets: lines of products under one price lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from minted_connect import validation
from minted_connect.core.pool import PoolKind
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import InvalidInput, MintedConnectError, NotFound
from minted_connect.models import Basket, BasketKey, OrderKind
from minted_connect.resources.base import Resource, owner_problems

__all__ = ["AsyncBaskets"]

_KINDS: Final = frozenset(OrderKind)


class AsyncBaskets(Resource):
    """Baskets of customers. Every change returns the whole basket, with new prices if its price lock had ended."""

    async def get_active(self, customer_id: str, *, cart_token: str | None = None) -> Basket | None:
        """Return the customer's open basket, or None if there is no open basket. A read may update its prices.

        A 404 in the vendor's envelope means that there is no basket. A wrong path in `Options.paths` can cause such a
        404, too: every customer then seems to have no basket. `minted verify` detects this.

        Raises:
            NotFound: if a 404 does not have the vendor's envelope; a gateway may have written it.
            IntegrityError: if the response belongs to another customer or basket.

        Source: Get Active Basket (api-26503549): partly documented (the response); path, query and the response
        without a basket are inferred (S21).
        """
        query = [("external_customer_id", validation.customer_id(customer_id))]
        if cart_token is not None:
            query.append(("cart_token", validation.token(cart_token)))
        request = Request(OPERATIONS["baskets.get_active"], query=query)
        try:
            return await self._api.send_optional(request, Basket, check=_owner_check(customer_id, cart_token))
        except NotFound as error:
            if not error.is_vendor_response:
                raise
            return None

    async def add_item(
        self,
        basket: str | Basket | BasketKey,
        *,
        sku: str,
        qty: int = 1,
        type: OrderKind | Literal["buy", "sell", "delivery"] | None = None,  # noqa: A002 - the vendor's word
    ) -> Basket:
        """Add `qty` pieces of `sku` as a new line of a basket, or of a new basket for a customer.

        Lines of the same sku are not merged. The request is retried only if it provably was not sent. After any other
        failure that leaves open whether the line was added, including a 429, the basket is read if `basket` is a
        `Basket`: the line counts as added if the basket has `qty` more pieces of `sku` than before. Otherwise the
        error is raised. Then read the basket and set the amount with `update_item`; do not add again.

        The read proves this only if no other process changes the basket: a line that another process has added in the
        meantime is counted, too.

        Args:
            basket: The basket or its key; or a customer's id, to open a basket.
            sku: The product to add.
            qty: Number of pieces.
            type: Kind of the basket to open for a customer's id; defaults to `buy`. For a `Basket` it must equal the
                kind of the basket; with a `BasketKey` it is sent only if given.

        Raises:
            InvalidInput: if an argument is invalid, for example a `type` that differs from the kind of the basket.
            IntegrityError: if the response belongs to another customer or basket.

        Source: Create Basket / Add Basket Item (api-26503559, Feb and Mar 2026): partly documented (the response);
        path and body are inferred, in particular the key that selects buy, sell or delivery (S23).
        """
        before = basket if isinstance(basket, Basket) else None
        kind = None if type is None else OrderKind(validation.one_of("type", type, _KINDS))
        body: dict[str, Any]
        if isinstance(basket, str):
            body = {"external_customer_id": validation.customer_id(basket)}
            kind = kind or OrderKind.BUY
        else:
            body = self._key_of(basket, "a customer's id, a Basket or a BasketKey")
        if before and before.kind:
            if kind not in {None, before.kind}:
                raise InvalidInput.of("type", f"must be {before.kind}, like the basket, or be omitted")
            kind = before.kind
        if kind is not None:
            body["type"] = str(kind)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)
        if before is None:
            # Without the number of pieces before, a read cannot tell the new line from an older one.
            return await self._change("baskets.add_item", body, None)
        expected = _pieces(before, sku) + qty
        return await self._change("baskets.add_item", body, lambda found: _pieces(found, sku) == expected)

    async def update_item(self, basket: Basket | BasketKey, *, sku: str, qty: int) -> Basket:
        """Set the amount of `sku` to `qty` pieces. Several lines of `sku` become one (assumed, S25).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Update Basket Item (api-26503573, 2026-01-22): documented.
        """
        body = self._key_of(basket)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)
        return await self._change("baskets.update_item", body, lambda found: _pieces(found, sku) == qty)

    async def delete_item(self, basket: Basket | BasketKey, *, sku: str) -> Basket:
        """Delete all lines of `sku` (that the server deletes all of them is assumed, S22).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Delete Basket Item (api-26503558, 2026-01-22): partly documented (the request); the response is
        inferred.
        """
        body = self._key_of(basket)
        body["sku"] = validation.text("sku", sku)
        return await self._change("baskets.delete_item", body, lambda found: not _pieces(found, sku))

    async def clear(self, basket: Basket | BasketKey) -> Basket:
        """Delete all lines. The basket and its token stay (assumed, S24).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Clear Basket: inferred (from E-Commerce Clear Basket, api-8547070, 2024-08-11).
        """
        return await self._change("baskets.clear", self._key_of(basket), lambda found: not found.items)

    async def _change(
        self, operation: str, body: dict[str, Any], is_applied: Callable[[Basket], bool] | None
    ) -> Basket:
        """Send a change. If it may have been executed, read the basket and check it with `is_applied`, if given."""
        customer, token = body["external_customer_id"], body.get("cart_token")

        async def read_back(error: MintedConnectError) -> Basket:
            assert is_applied is not None
            # Not over the default pool: its connections may be broken, as the one of the change was.
            recovery = AsyncBaskets(self._api.with_pool(PoolKind.RECOVERY))
            try:
                found = await recovery.get_active(customer, cart_token=token)
            except MintedConnectError:
                raise error from None
            if found is None or not is_applied(found):
                raise error
            return found

        return await self._api.send(
            Request(OPERATIONS[operation], body=body),
            Basket,
            read_back=None if is_applied is None else read_back,
            lock=customer,
            check=_owner_check(customer, token),
        )

    def _key_of(self, basket: Basket | BasketKey, expected: str = "a Basket or a BasketKey") -> dict[str, Any]:
        key = basket.key if isinstance(basket, Basket) else basket
        if not isinstance(key, BasketKey):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("basket", f"must be {expected}, not {type(basket).__name__}")
        return {
            "external_customer_id": validation.customer_id(key.customer_id),
            "cart_token": validation.token(key.cart_token),
        }


def _pieces(basket: Basket, sku: str) -> int:
    return sum(item.amount for item in basket.items if item.sku == sku)


def _owner_check(customer_id: str, cart_token: str | None) -> Callable[[Basket], list[str]]:
    def check(basket: Basket) -> list[str]:
        problems = owner_problems(customer_id, {"data.customer": basket.customer})
        if cart_token is not None and basket.token != cart_token:
            problems.append("data.token: is another basket's")
        return problems

    return check
