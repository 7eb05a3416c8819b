"""Changes a basket, one request after the other, until it has exactly the lines wanted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from minted_connect import validation
from minted_connect.core.api_client import ApiClient
from minted_connect.core.failures import may_have_executed, needs_read_back
from minted_connect.errors import BasketIncomplete, InvalidInput, MintedConnectError
from minted_connect.models import Basket, OrderKind
from minted_connect.resources.basket_changes import pieces_of, read_active, read_active_over_recovery_pool, send_change

__all__ = ["BasketReplacement", "ChangeCheck", "CompletionChecks", "checked_items"]

_MAX_REPEATS: Final = 2
"""Maximum number of times that one change is sent: a second time if a stale read hid lines of the basket."""


class CompletionChecks(Protocol):
    """Knows the completions in flight and the journal; `Settlement` implements it."""

    def check_not_in_flight(self, external_customer_id: str, cart_token: str | None) -> None:
        """Raise `AlreadyInFlight` if this client is completing the basket, or without a token, any of the customer."""
        ...

    async def check_no_active_intent(self, external_customer_id: str, cart_token: str) -> None:
        """Raise `AlreadyInFlight` if the journal has an open or confirmed intent for the basket."""
        ...

    async def check_no_open_intent(self, external_customer_id: str, since: datetime) -> None:
        """Raise `AlreadyInFlight` if the journal has an open intent of the customer that is not older."""
        ...


class ChangeCheck(Protocol):
    """Decides before each change whether it may be sent."""

    async def __call__(self, basket: Basket | None) -> None:
        """Raise an error if the basket must not be changed; `basket` is None if there is no open basket."""
        ...


class BasketReplacement:
    """The replacement of the lines of one basket.

    Args:
        api: Of the holder of the customer's lock.
        completions: Knows whether the basket is being completed or was completed.
        customer_id: The customer.
        kind: Kind of the basket; None = any, for a basket that is open already.
        items: Pieces by sku, as `checked_items` returns them.
        check: Called before each change.
    """

    def __init__(
        self,
        api: ApiClient,
        completions: CompletionChecks,
        customer_id: str,
        kind: OrderKind | None,
        items: Mapping[str, int],
        check: ChangeCheck | None = None,
    ) -> None:
        self._api = api
        self._completions = completions
        self._customer = customer_id
        self._kind = kind
        self._items = items
        self._check = check

    async def run(self, token: str | None) -> Basket:
        """Replace the lines of the basket with this token, else of the open basket or a new one, and return it.

        Raises:
            MintedConnectError: as documented for `AsyncBaskets.replace`.
        """
        kind, wanted = self._kind, self._items
        if token is not None:
            await self._completions.check_no_active_intent(self._customer, token)
        basket = await read_active(self._api, self._customer, token)
        if basket is None and token is not None:
            raise InvalidInput.of("basket", "is no longer open: it was completed, cleared or replaced")
        if basket is not None and not self._is_of_kind(basket):
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
                await self._check_change(basket)
                if sent[change] == _MAX_REPEATS:
                    raise _incomplete_error("the server accepts changes, but does not show them", basket, wanted)
                basket = await self._send_change(basket, *change)
            except BasketIncomplete:
                raise
            except MintedConnectError as error:
                if not (sent or may_have_executed(error) or needs_read_back(error)):
                    raise
                basket = await self._read_after_failure(basket)
                incomplete = _incomplete_error(str(error), basket, wanted)
                incomplete.request, incomplete.attempts = error.request, error.attempts
                incomplete.elapsed = error.elapsed
                raise incomplete from error
            except asyncio.CancelledError as cancelled:
                cancelled.add_note("some of the changes of the basket may have been made: call again")
                raise
            sent[change] += 1
            if not self._is_of_kind(basket):
                raise _incomplete_error(f"the server opened a basket of kind {basket.kind}", basket, wanted)

    def _is_of_kind(self, basket: Basket) -> bool:
        return self._kind is None or basket.kind in {self._kind, None}

    async def _check_change(self, basket: Basket | None) -> None:
        if basket is not None:
            await self._completions.check_no_active_intent(self._customer, basket.token)
        else:
            # A read that is behind may hide a basket that is being completed; the new line would be bought with it.
            lag = timedelta(seconds=self._api.completion_policy.orders_lag)
            await self._completions.check_no_open_intent(self._customer, self._api.server_time() - lag)
        if self._check is not None:
            await self._check(basket)

    async def _send_change(self, basket: Basket | None, name: str, sku: str) -> Basket:
        body: dict[str, Any] = {"external_customer_id": self._customer}
        if basket is not None:
            body["cart_token"] = basket.token
        if name == "add_item" and (kind := self._kind if basket is None else basket.kind) is not None:
            body["type"] = str(kind)
        body["sku"] = sku
        if name == "delete_item":
            return await send_change(self._api, "baskets.delete_item", body, lambda found: not pieces_of(found, sku))
        body["qty"] = qty = self._items[sku]
        # Unlike in `AsyncBaskets.add_item`, a read shows whether a line was added to a new basket: there was none.
        return await send_change(
            self._api, f"baskets.{name}", body, lambda found: self._is_of_kind(found) and pieces_of(found, sku) == qty
        )

    async def _read_after_failure(self, known: Basket | None) -> Basket | None:
        """Read the basket for an error; if it cannot be read, return the basket as known."""
        token = known.token if known is not None else None
        try:
            found = await read_active_over_recovery_pool(self._api, self._customer, token)
        except MintedConnectError:
            return known
        return found if found is None or known or self._is_of_kind(found) else None


def checked_items(items: Mapping[str, int]) -> dict[str, int]:
    """Check the lines wanted, and return them.

    Raises:
        InvalidInput: if `items` is not a mapping from sku to whole numbers from 1, or is empty.
    """
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
