"""The basket of a customer while a call with items has its claim: filled, and changed only while the claim has time."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final

import attrs

from minted_connect.completion.order_match import pieces_by_sku
from minted_connect.core.api_client import ApiClient, ChangeLimit
from minted_connect.core.cancellation import shielded
from minted_connect.core.logs import log_error
from minted_connect.core.pool import SendLimit
from minted_connect.errors import AlreadyInFlight, BasketIncomplete, InvalidInput, JournalError
from minted_connect.journal.claims import Claim, ClaimJournal, claim_lost_error
from minted_connect.models import Basket
from minted_connect.resources.basket_changes import read_active
from minted_connect.resources.basket_replace import BasketReplacement, CompletionChecks

__all__ = ["ClaimedBasket", "check_items"]

_logger = logging.getLogger("minted_connect.completion")

_PLAIN_SKU: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")


class ClaimedBasket:
    """The claim of one call, and the basket that it may change.

    Args:
        api: Sends the requests.
        journal: Stores the claim.
        checks: Knows whether a basket is being completed or was completed.
        items: The items wanted: pieces by sku.
        currency: Of the basket.
        replace: Whether other items are deleted.
        claim: The claim as the journal has stored it.
        claimed_at: Before it was stored, on the client's elapsed clock.
    """

    def __init__(
        self,
        api: ApiClient,
        journal: ClaimJournal,
        checks: CompletionChecks,
        items: Mapping[str, int],
        currency: str,
        *,
        replace: bool,
        claim: Claim,
        claimed_at: float,
    ) -> None:
        self._journal = journal
        self._checks = checks
        self._items = items
        self._currency = currency
        self._replace = replace
        self.claim: Claim = claim
        self._changes = ChangeLimit(self._limit(claimed_at))
        self._api = api.with_held_lock(claim.external_customer_id, self._changes)

    @property
    def is_uncertain(self) -> bool:
        """Whether a change of the basket may still be executed."""
        return self._changes.is_uncertain

    async def is_gone(self) -> bool:
        """Return whether the basket of an earlier call is no longer open."""
        claim = self.claim
        if claim.generation == 1 or claim.cart_token is None:
            return False
        return await read_active(self._api, claim.external_customer_id, claim.cart_token) is None

    async def forget_basket(self) -> None:
        """Store that the basket of an earlier call is gone and made no order, so that another one is used."""
        await self._renew(attrs.evolve(self.claim, cart_token=None))

    async def fill(self) -> Basket:
        """Change the basket so that it has exactly the items wanted, and return it.

        Raises:
            InvalidInput: if the basket has other items, another currency or another kind.
            AlreadyInFlight: if the claim has expired, or if the basket is being completed or was completed.
            BasketIncomplete: as `AsyncBaskets.replace`.
        """
        claim = self.claim
        replacement = BasketReplacement(
            self._api, self._checks, claim.external_customer_id, claim.kind, self._items, self._check_change
        )
        try:
            # A basket that was only seen by this call may have been completed by another one in the meantime.
            basket = await replacement.run(claim.cart_token if claim.generation > 1 else None)
        except BasketIncomplete as incomplete:
            # If the claim was lost halfway, another call may complete the reference.
            if isinstance(incomplete.__cause__, AlreadyInFlight):
                raise incomplete.__cause__ from None
            raise
        self._check_basket(basket)
        self.claim = attrs.evolve(self.claim, cart_token=basket.token)
        return basket

    async def keep(self) -> None:
        """Renew the claim if less than half of its time is left.

        Raises:
            AlreadyInFlight: if the claim has expired.
            JournalError: if the claim cannot be stored.
        """
        if self._changes.send_limit.elapsed - self._api.elapsed() < self.claim.seconds / 2:
            await self._renew(self.claim)

    async def release(self) -> None:
        """End the claim; other calls wait until the changes that were sent can no longer be executed."""
        try:
            await shielded(
                self._journal.release_claim(self.claim, grace=self.claim.grace if self.is_uncertain else 0.0)
            )
        except JournalError:
            text = "the claim on the basket of a customer could not be released: other calls wait until it expires"
            log_error(_logger, text, exc_info=True)

    async def _renew(self, claim: Claim) -> None:
        started = self._api.elapsed()
        await shielded(self._journal.renew_claim(claim))
        self.claim = claim
        self._changes.send_limit = self._limit(started)

    def _limit(self, started: float) -> SendLimit:
        return SendLimit(started + self.claim.seconds, make_error=claim_lost_error)

    async def _check_change(self, basket: Basket | None) -> None:
        await self.keep()
        if basket is None:
            return
        self._check_basket(basket)
        if basket.token != self.claim.cart_token:
            claim = attrs.evolve(self.claim, cart_token=basket.token)
            if self.claim.cart_token is not None:
                await self._renew(claim)
            self.claim = claim

    def _check_basket(self, basket: Basket) -> None:
        if basket.currency_code != self._currency:
            raise InvalidInput.of("currency", f"the basket is in {basket.currency_code}")
        if not self._replace:
            check_items(basket, self._items)


def check_items(basket: Basket, items: Mapping[str, int]) -> None:
    """Check that a basket has only the items wanted, or some of them.

    Raises:
        InvalidInput: if it has other items, or more pieces; the text lists them.
    """
    surplus = {sku: qty - items.get(sku, 0) for sku, qty in pieces_by_sku(basket).items() if qty > items.get(sku, 0)}
    if surplus:
        shown = (f"{qty} x {sku if _PLAIN_SKU.fullmatch(sku) else 'another product'}" for sku, qty in surplus.items())
        text = f"the open basket has other items ({', '.join(shown)}): pass replace=True to delete them"
        raise InvalidInput.of("items", text)
