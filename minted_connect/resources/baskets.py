"""Baskets: lines of products under one price lock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, cast

from minted_connect import validation
from minted_connect.core.api_client import ApiClient
from minted_connect.core.failures import may_have_executed, needs_read_back
from minted_connect.core.pool import PoolKind
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import BasketIncomplete, InvalidInput, MintedConnectError, NotFound
from minted_connect.models import Basket, BasketKey, OrderKind
from minted_connect.resources.base import Resource, owner_problems

__all__ = ["AsyncBaskets"]

_KINDS: Final = frozenset(OrderKind)
_MAX_REPEATS: Final = 2
"""Maximum number of times that `replace` sends one change: a second time if a stale read hid lines of the basket."""


class CompletionChecks(Protocol):
    """Knows the completions in flight and the journal; `AsyncCompletions` implements it."""

    def check_not_in_flight(self, external_customer_id: str, cart_token: str | None) -> None:
        """Raise `AlreadyInFlight` if this client is completing the basket, or without a token, any of the customer."""
        ...

    async def check_no_active_intent(self, external_customer_id: str, cart_token: str) -> None:
        """Raise `AlreadyInFlight` if the journal has an open or confirmed intent for the basket."""
        ...


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
        wanted = _checked_items(items)
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
            holder = AsyncBaskets(self._api.with_held_lock(customer), self._completions)
            return await holder._replace(customer, token, kind, wanted)

    async def _replace(
        self, customer: str, token: str | None, kind: OrderKind | None, wanted: dict[str, int]
    ) -> Basket:
        assert self._completions is not None
        if token is not None:
            await self._completions.check_no_active_intent(customer, token)
        basket = await self.get_active(customer, cart_token=token)
        if basket is None and token is not None:
            raise InvalidInput.of("basket", "is no longer open: it was completed, cleared or replaced")
        if basket is not None and kind not in {None, basket.kind or kind}:
            raise InvalidInput.of(
                "type", f"the open basket is of kind {basket.kind}: pass this type, or a Basket of kind {kind}"
            )
        sent = Counter[tuple[str, str]]()
        while True:
            change = ("add_item", next(iter(wanted))) if basket is None else _next_change(basket, wanted)
            if basket is not None and change is None:
                if sent:
                    return basket
                change = ("update_item", next(iter(wanted)))
            assert change is not None
            try:
                if basket is not None:
                    await self._completions.check_no_active_intent(customer, basket.token)
                if sent[change] == _MAX_REPEATS:
                    raise _incomplete_error("the server accepts changes, but does not show them", basket, wanted)
                basket = await self._send_change(basket or customer, *change, wanted, kind)
            except BasketIncomplete:
                raise
            except MintedConnectError as error:
                if not (sent or may_have_executed(error) or needs_read_back(error)):
                    raise
                basket = await self._read_after_failure(customer, basket, kind)
                incomplete = _incomplete_error(str(error), basket, wanted)
                incomplete.request, incomplete.attempts = error.request, error.attempts
                incomplete.elapsed = error.elapsed
                raise incomplete from error
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("baskets.replace: some of the changes may have been made; call it again")
                raise
            sent[change] += 1
            if kind not in {None, basket.kind or kind}:
                raise _incomplete_error(f"the server opened a basket of kind {basket.kind}", basket, wanted)

    async def _send_change(
        self, basket: Basket | str, name: str, sku: str, wanted: Mapping[str, int], kind: OrderKind | None
    ) -> Basket:
        if name == "delete_item":
            return await self.delete_item(cast("Basket", basket), sku=sku)
        if name == "update_item":
            return await self.update_item(cast("Basket", basket), sku=sku, qty=wanted[sku])
        if isinstance(basket, Basket):
            return await self.add_item(basket, sku=sku, qty=wanted[sku])
        # Unlike in `add_item`, a read shows whether the line was added: the customer had no open basket before.
        body = {"external_customer_id": basket, "type": str(kind), "sku": sku, "qty": wanted[sku]}
        return await self._change(
            "baskets.add_item",
            body,
            lambda found: found.kind in {kind, None} and _pieces(found, sku) == wanted[sku],
        )

    async def _read_after_failure(self, customer: str, known: Basket | None, kind: OrderKind | None) -> Basket | None:
        """Read the basket for an error; if it cannot be read, return the basket as known."""
        try:
            found = await self._over_recovery_pool().get_active(customer, cart_token=known.token if known else None)
        except MintedConnectError:
            return known
        return found if found is None or known or found.kind in {kind, None} else None

    async def _change(
        self, operation: str, body: dict[str, Any], is_applied: Callable[[Basket], bool] | None
    ) -> Basket:
        """Send a change. If it may have been executed, read the basket and check it with `is_applied`, if given."""
        customer, token = body["external_customer_id"], body.get("cart_token")

        async def read_back(error: MintedConnectError) -> Basket:
            assert is_applied is not None
            try:
                found = await self._over_recovery_pool().get_active(customer, cart_token=token)
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

    def _over_recovery_pool(self) -> AsyncBaskets:
        # The connections of the default pool may be broken, as the one of the failed change was.
        return AsyncBaskets(self._api.with_pool(PoolKind.RECOVERY))

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


def _checked_items(items: Mapping[str, int]) -> dict[str, int]:
    if not isinstance(items, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("items", f"must be a mapping from sku to number of pieces, not {type(items).__name__}")
    checked = {validation.text("sku", sku): validation.integer("qty", qty, 1) for sku, qty in items.items()}
    if not checked:
        raise InvalidInput.of("items", "must contain at least one sku; use clear to empty a basket")
    return checked


def _next_change(basket: Basket, wanted: Mapping[str, int]) -> tuple[str, str] | None:
    """Return the method and the sku of the next change, or None if the basket has exactly the lines wanted.

    Changes that take pieces away come first, so that a failure never leaves more pieces than needed.
    """
    lines: dict[str, list[int]] = {}
    for item in basket.items:
        lines.setdefault(item.sku, []).append(item.amount)
    for sku in lines:
        if sku not in wanted:
            return "delete_item", sku
    differing = [sku for sku, qty in wanted.items() if lines.get(sku, [qty]) != [qty]]
    if differing:
        return "update_item", min(differing, key=lambda sku: sum(lines[sku]) < wanted[sku])
    return next((("add_item", sku) for sku in wanted if sku not in lines), None)


def _incomplete_error(reason: str, basket: Basket | None, wanted: Mapping[str, int]) -> BasketIncomplete:
    found = Counter[str]()
    for item in basket.items if basket is not None else ():
        found[item.sku] += item.amount
    present = {sku: qty for sku, qty in wanted.items() if found[sku] == qty}
    missing = {sku: qty - found[sku] for sku, qty in wanted.items() if found[sku] < qty}
    surplus = {sku: qty - wanted.get(sku, 0) for sku, qty in found.items() if qty > wanted.get(sku, 0)}
    # Only the skus of the caller: text from the server may contain anything.
    parts = {"present": present, "missing": missing, "surplus": {sku: surplus[sku] for sku in wanted if sku in surplus}}
    shown = [
        f"{name}: {', '.join(f'{qty} x {sku}' for sku, qty in part.items())}" for name, part in parts.items() if part
    ]
    if others := sum(sku not in wanted for sku in surplus):
        shown.append(f"{others} other products")
    text = f"the basket was not replaced completely ({'; '.join(shown)}): {reason}"
    return BasketIncomplete(text, basket, present, missing, surplus)


def _pieces(basket: Basket, sku: str) -> int:
    return sum(item.amount for item in basket.items if item.sku == sku)


def _owner_check(customer_id: str, cart_token: str | None) -> Callable[[Basket], list[str]]:
    def check(basket: Basket) -> list[str]:
        problems = owner_problems(customer_id, {"data.customer": basket.customer})
        if cart_token is not None and basket.token != cart_token:
            problems.append("data.token: is another basket's")
        return problems

    return check
