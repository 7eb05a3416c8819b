"""Baskets: lines of products under one price lock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from minted_connect import validation
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import InvalidInput
from minted_connect.models import Basket, BasketKey, OrderKind
from minted_connect.resources.base import Resource
from minted_connect.resources.basket_changes import pieces_of, read_active, send_change
from minted_connect.resources.basket_replace import BasketReplacement, CompletionChecks, checked_items

__all__ = ["AsyncBaskets"]

_KINDS: Final = frozenset(OrderKind)


class AsyncBaskets(Resource):
    """Baskets of customers. Every change returns the whole basket, with new prices if its price lock had ended."""

    def __init__(self, api: ApiClient, completions: CompletionChecks | None = None) -> None:
        super().__init__(api)
        self._completions = completions

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
        checked = validation.customer_id(customer_id)
        return await read_active(self._api, checked, None if cart_token is None else validation.token(cart_token))

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
        kind = _checked_kind(type)
        body: dict[str, Any]
        if isinstance(basket, str):
            body = {"external_customer_id": validation.customer_id(basket)}
            kind = kind or OrderKind.BUY
        else:
            body = self._key_of(basket, "a customer's id, a Basket or a BasketKey")
        kind = _common_kind(kind, before)
        if kind is not None:
            body["type"] = str(kind)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)
        if before is None:
            # Without the number of pieces before, a read cannot tell the new line from an older one.
            return await send_change(self._api, "baskets.add_item", body, None)
        expected = pieces_of(before, sku) + qty
        return await send_change(self._api, "baskets.add_item", body, lambda found: pieces_of(found, sku) == expected)

    async def update_item(self, basket: Basket | BasketKey, *, sku: str, qty: int) -> Basket:
        """Set the amount of `sku` to `qty` pieces. Several lines of `sku` become one (assumed, S25).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Update Basket Item (api-26503573, 2026-01-22): documented.
        """
        body = self._key_of(basket)
        body["sku"] = validation.text("sku", sku)
        body["qty"] = validation.integer("qty", qty, 1)
        return await send_change(self._api, "baskets.update_item", body, lambda found: pieces_of(found, sku) == qty)

    async def delete_item(self, basket: Basket | BasketKey, *, sku: str) -> Basket:
        """Delete all lines of `sku` (that the server deletes all of them is assumed, S22).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Delete Basket Item (api-26503558, 2026-01-22): partly documented (the request); the response is
        inferred.
        """
        body = self._key_of(basket)
        body["sku"] = validation.text("sku", sku)
        return await send_change(self._api, "baskets.delete_item", body, lambda found: not pieces_of(found, sku))

    async def clear(self, basket: Basket | BasketKey) -> Basket:
        """Delete all lines. The basket and its token stay (assumed, S24).

        Raises:
            IntegrityError: if the response belongs to another customer or basket.

        Source: Clear Basket: inferred (from E-Commerce Clear Basket, api-8547070, 2024-08-11).
        """
        return await send_change(self._api, "baskets.clear", self._key_of(basket), lambda found: not found.items)

    async def replace(
        self,
        basket: str | Basket | BasketKey,
        items: Mapping[str, int],
        *,
        type: OrderKind | Literal["buy", "sell", "delivery"] | None = None,  # noqa: A002 - the vendor's word
    ) -> Basket:
        """Change a basket so that it has exactly these lines, one for each sku, and return it.

        Not atomic: the API has no such operation. The basket is read, other lines are deleted, amounts are reduced,
        then raised, then missing lines are added, one request for each change; each response, or a read-back after a
        failure, must show the change. No change adds pieces beyond those requested. If a change fails, the basket
        keeps the changes before it (`BasketIncomplete`). Call again with the same items to continue.

        If the basket read has these lines already, one amount is set once more, because a read may be stale and the
        response to a change is not. Until this call ends, other changes and purchases of the customer's baskets
        through this client wait. Another process is not kept from changing or completing the basket in between.

        Args:
            basket: The basket or its key; or a customer's id, for the open basket of the customer, or a new one.
            items: Number of pieces of each sku, at least one sku.
            type: Kind of the basket. For a customer's id it defaults to `buy`, and an open basket must be of that kind.
                For a `Basket` or `BasketKey` it may be omitted.

        Raises:
            InvalidInput: if an argument is invalid, if the basket is no longer open, or if it is of another kind.
                Nothing was changed.
            AlreadyInFlight: if the basket is being completed, was completed or has an unknown outcome, by the journal
                of this client. Nothing was changed.
            BasketIncomplete: if a change failed, and this or an earlier change was or may have been made.
            MintedConnectError: any other error, if nothing was changed.

        Source: the operations that it consists of. One line for each sku rests on assumptions (S22, S25).
        """
        self._api.check_may_change("baskets.replace")
        wanted = checked_items(items)
        kind, token = _checked_kind(type), None
        if isinstance(basket, str):
            customer, kind = validation.customer_id(basket), kind or OrderKind.BUY
        else:
            key = self._key_of(basket, "a customer's id, a Basket or a BasketKey")
            customer, token = key["external_customer_id"], key["cart_token"]
            kind = _common_kind(kind, basket if isinstance(basket, Basket) else None)
        assert self._completions is not None, "only the client calls replace"
        # Not under the lock: a purchase that waits for the lock has sent nothing, and finds the basket changed.
        self._completions.check_not_in_flight(customer, token)
        async with self._api.hold_lock(customer):
            holder = self._api.with_held_lock(customer)
            return await BasketReplacement(holder, self._completions, customer, kind, wanted).run(token)

    def _key_of(self, basket: Basket | BasketKey, expected: str = "a Basket or a BasketKey") -> dict[str, Any]:
        key = basket.key if isinstance(basket, Basket) else basket
        if not isinstance(key, BasketKey):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("basket", f"must be {expected}, not {type(basket).__name__}")
        return {
            "external_customer_id": validation.customer_id(key.customer_id),
            "cart_token": validation.token(key.cart_token),
        }


def _checked_kind(kind: str | None) -> OrderKind | None:
    return None if kind is None else OrderKind(validation.one_of("type", kind, _KINDS))


def _common_kind(kind: OrderKind | None, basket: Basket | None) -> OrderKind | None:
    """Return the kind of a basket, else `kind`; raise InvalidInput if they differ."""
    if basket is None or basket.kind is None:
        return kind
    if kind not in {None, basket.kind}:
        raise InvalidInput.of("type", f"must be {basket.kind}, like the basket, or be omitted")
    return basket.kind
