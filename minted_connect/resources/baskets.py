"""Baskets: lines of gold and silver under one price lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from minted_connect import validation
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import InvalidInput, MintedConnectError, NotFound
from minted_connect.models import Basket, BasketKey, OrderKind
from minted_connect.resources.base import Resource

__all__ = ["AsyncBaskets"]

_KINDS: Final = frozenset(OrderKind)


class AsyncBaskets(Resource):
    """The basket of a customer: every change answers with the whole basket, re-priced if its lock had ended."""

    async def get_active(self, customer_id: str, *, cart_token: str | None = None) -> Basket | None:
        """Return the customer's open basket, or None without one. Reading may re-price it.

        A 404 in the vendor's envelope counts as no basket. A wrong `Options.paths` can cause such a 404, too: then
        every customer seems to have no basket, which `minted verify` shows.

        Raises:
            NotFound: if a 404 comes without the vendor's envelope, as a gateway writes it.
            IntegrityError: if the response is about another customer or another basket.

        Source: Get Active Basket (api-26503549): partly documented (the answer); path, query and what is answered
        without a basket are inferred (S21).
        """
        query = [("external_customer_id", validation.customer_id(customer_id))]
        if cart_token is not None:
            query.append(("cart_token", validation.token(cart_token)))
        request = Request(OPERATIONS["baskets.get_active"], query=query)
        try:
            return await self._api.send_optional(request, Basket, check=_is_of(customer_id, cart_token))
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
        """Add `qty` pieces of `sku` as a new line; with a customer's id instead of a basket, open one of `type`.

        Lines of one sku are not merged. The request is sent again only if provably nothing was sent. After any other
        failure that leaves it open whether the line was added, a 429 included, the basket is read back if a `Basket`
        was given, and without proof the error is raised. Then read the basket and set the amount with `update_item`
        rather than adding again.

        The proof is that the basket now has `qty` more pieces of `sku` than the `Basket` that was given. It can be
        trusted only while nobody else changes that basket: a line that another process added meanwhile counts too.

        Args:
            basket: The basket; its key, if that is all there is; or a customer's id, to open one.
            sku: What to add.
            qty: Pieces of it.
            type: For a customer's id: what to open, `buy` unless said otherwise. A `Basket` has its own, which another
                may not contradict. With a `BasketKey` it is sent only if given.

        Raises:
            InvalidInput: among others, a `type` that is not the basket's.
            IntegrityError: the answer is about another customer or another basket.

        Source: Create Basket / Add Basket Item (api-26503559, Feb and Mar 2026): partly documented (the answer); path
        and body are inferred, above all what selects buy, sell or delivery (S23).
        """
        before = basket if isinstance(basket, Basket) else None
        kind = None if type is None else OrderKind(validation.one_of("type", type, _KINDS))
        body: dict[str, Any]
        if isinstance(basket, str):
            body = {"external_customer_id": validation.customer_id(basket)}
            kind = kind or OrderKind.BUY
        else:
            body = self._named(basket, "the customer's id, the Basket or BasketKey")
        if before and before.kind:
            if kind not in {None, before.kind}:
                raise InvalidInput.of("type", f"must be {before.kind}, as the basket is, or left out")
            kind = before.kind
        if kind is not None:
            body["type"] = str(kind)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)
        request = Request(OPERATIONS["baskets.add_item"], body=body)

        async def read_back(error: MintedConnectError) -> Basket:
            assert before is not None
            found = await self._after(error, body)
            if _pieces(found, sku) == _pieces(before, sku) + qty:
                return found
            raise error

        # Only a known "before" tells this line from one that was there already.
        return await self._send(request, body, read_back if before is not None else None)

    async def update_item(self, basket: Basket | BasketKey, *, sku: str, qty: int) -> Basket:
        """Set the amount of `sku` to `qty` pieces (it does not add); several lines of it become one (assumed, S25).

        Raises:
            IntegrityError: the answer is about another customer or another basket.

        Source: Update Basket Item (api-26503573, 2026-01-22): documented.
        """
        body = self._named(basket)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)

        async def read_back(error: MintedConnectError) -> Basket:
            found = await self._after(error, body)
            if _pieces(found, sku) == qty:
                return found
            raise error

        return await self._change("baskets.update_item", body, read_back)

    async def delete_item(self, basket: Basket | BasketKey, *, sku: str) -> Basket:
        """Take every line of `sku` out of the basket (that it takes all of them is assumed, S22).

        Raises:
            IntegrityError: the answer is about another customer or another basket.

        Source: Delete Basket Item (api-26503558, 2026-01-22): partly documented (the request); the answer is inferred.
        """
        body = self._named(basket)
        body["sku"] = validation.text("sku", sku)

        async def read_back(error: MintedConnectError) -> Basket:
            found = await self._after(error, body)
            if not _pieces(found, sku):
                return found
            raise error

        return await self._change("baskets.delete_item", body, read_back)

    async def clear(self, basket: Basket | BasketKey) -> Basket:
        """Take out every line; the basket and its token stay (assumed, S24).

        Raises:
            IntegrityError: the answer is about another customer or another basket.

        Source: Clear Basket: inferred (from E-Commerce Clear Basket, api-8547070, 2024-08-11).
        """
        body = self._named(basket)

        async def read_back(error: MintedConnectError) -> Basket:
            found = await self._after(error, body)
            if not found.items:
                return found
            raise error

        return await self._change("baskets.clear", body, read_back)

    async def _change(
        self, name: str, body: dict[str, Any], read_back: Callable[[MintedConnectError], Awaitable[Basket]]
    ) -> Basket:
        return await self._send(Request(OPERATIONS[name], body=body), body, read_back)

    async def _send(
        self,
        request: Request,
        body: dict[str, Any],
        read_back: Callable[[MintedConnectError], Awaitable[Basket]] | None,
    ) -> Basket:
        is_ours = _is_of(body["external_customer_id"], body.get("cart_token"))
        customer = body["external_customer_id"]
        return await self._api.send(request, Basket, read_back=read_back, lock=customer, check=is_ours)

    async def _after(self, error: MintedConnectError, body: dict[str, Any]) -> Basket:
        """Return the basket as it is after `error`, which stands if there is none to be seen."""
        try:
            found = await self.get_active(body["external_customer_id"], cart_token=body.get("cart_token"))
        except MintedConnectError:
            raise error from None
        if found is None:
            raise error
        return found

    def _named(self, basket: Basket | BasketKey, wanted: str = "the Basket or BasketKey") -> dict[str, Any]:
        key = basket.key if isinstance(basket, Basket) else basket
        if not isinstance(key, BasketKey):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("basket", f"give {wanted}, not {type(basket).__name__}")
        return {
            "external_customer_id": validation.customer_id(key.external_customer_id),
            "cart_token": validation.token(key.cart_token),
        }


def _pieces(basket: Basket, sku: str) -> int:
    return sum(item.amount for item in basket.items if item.sku == sku)


def _is_of(customer_id: str, cart_token: str | None) -> Callable[[Basket], list[str]]:
    """Return what tells why a basket is not the one asked for: a proxy or a cache may mix up answers."""

    def wrong(basket: Basket) -> list[str]:
        said: list[str] = []
        if basket.customer.external_id != customer_id:
            said.append("data.customer.external_id: is another customer's")
        if cart_token is not None and basket.token != cart_token:
            said.append("data.token: is another basket's")
        return said

    return wrong
