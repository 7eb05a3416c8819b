"""Completes items: claims the customer's basket, fills it, and completes it once for a reference.

The claim (`journal.claims`) excludes other calls with items, in all processes that share the journal. The basket is
changed only while the claim has time (`claimed_basket`), and the intent is stored only if the claim is still held.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Final

import attrs

from minted_connect import validation
from minted_connect.completion.agreed_total import AgreedTotal
from minted_connect.completion.claimed_basket import ClaimedBasket, check_items
from minted_connect.completion.execution import Execution
from minted_connect.completion.in_flight import InFlight, Reference
from minted_connect.completion.reference import (
    Attempts,
    check_attempts,
    check_open_attempts,
    find_attempts,
    make_reference,
    replay_confirmed,
)
from minted_connect.completion.settlement import Settlement
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import shielded
from minted_connect.errors import AlreadyInFlight, InvalidInput, OutcomeUnknown, PriceFixExpired
from minted_connect.journal.claims import Claim, ClaimJournal, as_claim_journal, claimed_error
from minted_connect.journal.spending import check_currency
from minted_connect.models import Basket, Completion, OrderKind
from minted_connect.resources.basket_changes import read_active
from minted_connect.resources.basket_replace import checked_items

__all__ = ["ItemCompletion", "make_item_terms"]

_PAUSES: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds between two tries to claim or to complete; the last value repeats."""


@attrs.frozen
class ItemTerms:
    """The arguments of a call with items."""

    kind: OrderKind
    customer_id: str = attrs.field(repr=False)
    items: Mapping[str, int]
    """Pieces by sku."""
    currency: str
    agreed_total: AgreedTotal
    reference: Reference
    extra: Mapping[str, Any] = attrs.field(repr=False)
    """Further fields of the completion's body."""
    wait: float
    """Seconds to wait for the claim of another call."""
    replace: bool
    """Whether other items in the open basket are deleted."""


def make_item_terms(
    kind: OrderKind,
    customer_id: str,
    items: Mapping[str, int],
    agreed_total: AgreedTotal,
    currency: str,
    reference: str,
    extra: Mapping[str, Any],
    wait: float,
    *,
    replace: bool,
) -> ItemTerms:
    """Check the arguments of a call with items, and return them.

    Raises:
        InvalidInput: if an argument is invalid.
    """
    customer_id, items = validation.customer_id(customer_id), checked_items(items)
    validation.currency("currency", currency)
    validation.seconds_or_zero("wait", wait)
    validation.boolean("replace", replace)
    named = make_reference(reference, kind, customer_id, items, currency, extra)
    return ItemTerms(kind, customer_id, items, currency, agreed_total, named, extra, wait, replace)


class ItemCompletion:
    """One call with items.

    Args:
        api: Sends the requests.
        settlement: The journal and the completions in flight.
        terms: The arguments.
    """

    def __init__(self, api: ApiClient, settlement: Settlement, terms: ItemTerms) -> None:
        self._api = api
        self._settlement = settlement
        self._terms = terms

    async def run(self) -> Completion:
        """Complete the items once, and return the completion, or that of an earlier call with the reference.

        Raises:
            MintedConnectError: as documented for `AsyncCompletions.buy_items`.
        """
        journal = as_claim_journal("reference", self._settlement.journal)
        kind = self._terms.kind
        operation = f"complete.{'deliver' if kind is OrderKind.DELIVERY else kind}_items"
        self._api.check_may_change(operation)
        self._api.check_may_complete(operation)
        self._api.check_usable()
        spending = self._api.settings.options.spending if kind is OrderKind.BUY else None
        until = self._api.clock.monotonic() + self._terms.wait
        tries = 0
        while True:
            attempts = await find_attempts(self._api, self._settlement, self._terms.reference)
            if (replayed := await replay_confirmed(self._api, attempts, end=self._end())) is not None:
                return replayed
            try:
                if spending is not None:
                    # Before the basket is filled.
                    check_currency(spending, self._terms.currency)
                check_open_attempts(attempts)
                if tries:
                    await self._check_claim(journal, attempts)
                claimed = await self._claim(journal, attempts)
            except (AlreadyInFlight, OutcomeUnknown):
                # Another process may be reading back a completion whose outcome is not known yet.
                if self._api.clock.monotonic() >= until:
                    raise
            else:
                return await self._run_claimed(claimed, attempts)
            await self._pause(tries, until)
            tries += 1

    async def _pause(self, tries: int, until: float) -> None:
        """Sleep between two tries, at most until a monotonic time."""
        seconds = _PAUSES[min(tries, len(_PAUSES) - 1)]
        await self._api.sleep_until(min(self._api.clock.monotonic() + seconds, until))

    def _end(self) -> float:
        """Return the monotonic time at which a step that begins now must end."""
        return self._api.clock.monotonic() + (self._api.settings.deadline or self._api.settings.timeouts.complete_total)

    async def _check_claim(self, journal: ClaimJournal, attempts: Attempts) -> None:
        """Check that the reference is not claimed, without a request to the server."""
        claim = await journal.find_claim(attempts.key)
        if claim is not None and claim.seconds > 0:
            raise claimed_error(claim.seconds, claim.seconds + claim.grace, "this reference")

    async def _claim(self, journal: ClaimJournal, attempts: Attempts) -> ClaimedBasket:
        """Read the open basket, and store the claim.

        Raises:
            AlreadyInFlight: if another call has a claim, or completes the reference or a basket of the customer.
        """
        api, terms = self._api, self._terms
        self._settlement.check_not_in_flight(terms.customer_id, None)
        basket = await read_active(api, terms.customer_id, None)
        policy, claimed_at = api.completion_policy, api.elapsed()
        claim = Claim(
            attempts.key,
            terms.customer_id,
            terms.kind,
            terms.reference.terms,
            owner=str(uuid.uuid4()),
            seconds=policy.claim_seconds,
            # A short deadline ends only the wait for the response, not the execution of the change.
            grace=max(api.settings.deadline or 0.0, api.settings.timeouts.total) + (policy.latest_landing or 0.0),
            saw_basket=basket is not None,
            cart_token=basket.token if basket is not None and self._may_use(basket) else None,
            created_at=api.clock.wall(),
        )
        claimed: ClaimedBasket | None = None

        async def store() -> ClaimedBasket:
            nonlocal claimed
            claimed = ClaimedBasket(
                api,
                journal,
                self._settlement,
                terms.items,
                terms.currency,
                replace=terms.replace,
                claim=await journal.claim(claim, known=attempts.ids),
                claimed_at=claimed_at,
            )
            return claimed

        try:
            return await shielded(store())
        except asyncio.CancelledError:
            if claimed is not None:
                await claimed.release()
            raise

    def _may_use(self, basket: Basket) -> bool:
        if basket.kind not in {self._terms.kind, None}:
            return False
        try:
            check_items(basket, self._terms.items)
        except InvalidInput:
            return self._terms.replace
        return True

    async def _run_claimed(self, claimed: ClaimedBasket, attempts: Attempts) -> Completion:
        call: InFlight | None = None
        try:
            async with self._api.hold_lock(self._terms.customer_id):
                found = await self._check_earlier_calls(claimed, attempts)
                if found is not None:
                    return found
                basket = await claimed.fill()
                self._terms.agreed_total.check(basket.paid_total, basket.currency_code)
                await self._await_price_lock(basket)
                until, tries = self._api.clock.monotonic() + self._reads_lag(), 0
                while True:
                    await claimed.keep()
                    call = self._make_call(basket)
                    try:
                        return await self._complete(claimed, call, basket, attempts)
                    except (InvalidInput, PriceFixExpired):
                        # Reads may not show the latest change yet. Nothing is stored or sent without an intent.
                        if call.intent is not None or self._api.clock.monotonic() >= until:
                            raise
                    await self._pause(tries, until)
                    tries += 1
        finally:
            # An intent that was stored releases the claim with its outcome, unless a change may still be executed.
            if call is None or not call.may_be_sent or claimed.is_uncertain:
                await claimed.release()

    async def _check_earlier_calls(self, claimed: ClaimedBasket, attempts: Attempts) -> Completion | None:
        """Return the completion of an earlier call, if its order is found; else make sure that it made none."""
        is_gone = await claimed.is_gone()
        claim = claimed.claim if is_gone else None
        found = await check_attempts(self._api, self._settlement, attempts, claim, end=self._end())
        if found is None and is_gone:
            await claimed.forget_basket()
        return found

    def _reads_lag(self) -> float:
        """Return the seconds to wait until reads show the changes of this call."""
        policy = self._api.completion_policy
        return policy.orders_lag if policy.inline_looks is None else min(policy.orders_lag, policy.inline_looks)

    async def _await_price_lock(self, basket: Basket) -> None:
        """If the price lock ends before the basket could be completed, wait for its end: the next read renews it."""
        api, left = self._api, basket.seconds_left
        margin = max(api.completion_policy.price_fix_margin, api.state.server_stats.p99_latency)
        if left is not None and left < margin:
            await api.sleep_until(api.clock.monotonic() + max(left, 0.0))

    def _make_call(self, basket: Basket) -> InFlight:
        terms = self._terms
        agreed_basket = (terms.items, basket.currency_code)
        return InFlight(terms.kind, terms.agreed_total, terms.extra, agreed_basket, terms.reference)

    async def _complete(self, claimed: ClaimedBasket, call: InFlight, basket: Basket, attempts: Attempts) -> Completion:
        """Complete the basket, which has exactly the items wanted."""
        key = (self._terms.customer_id, basket.token)
        if key in self._settlement.in_flight:
            raise AlreadyInFlight("this basket is being completed by another call of this client: wait for that call")
        execution = Execution(
            self._api,
            self._settlement,
            call,
            attempts=attempts,
            end=self._end(),
            claim=claimed.claim,
            frees_customer=not claimed.is_uncertain,
        )
        with self._settlement.registered(key, call):
            try:
                call.result = await execution.run(basket)
            except AlreadyInFlight:
                # Another process may have completed the reference by `complete.buy` since it was checked.
                attempts = await find_attempts(self._api, self._settlement, self._terms.reference)
                call.result = await replay_confirmed(self._api, attempts, end=self._end())
                if call.result is None:
                    raise
            return call.result
