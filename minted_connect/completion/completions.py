"""Completes baskets: buy, sell and delivery, each at most once, and with an explicit unknown outcome.

The API takes no idempotency key. The protection is the order of the steps: read the basket again, write the intent into
the journal, send once on a fresh connection, and classify a failure by the phase that the request reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from minted_connect import validation
from minted_connect.completion.agreed_total import AgreedTotal, validate_agreed_total, validate_limit
from minted_connect.completion.basket_completion import complete_basket
from minted_connect.completion.decision import decide_intent
from minted_connect.completion.intent_arguments import intent_from, intent_id_from
from minted_connect.completion.item_completion import ItemCompletion, make_item_terms
from minted_connect.completion.open_intents import OpenIntents
from minted_connect.completion.preflight import check_basket, serialize_shipping
from minted_connect.completion.reconcile_all import reconcile_all, reconcile_intent
from minted_connect.errors import OutcomeUnknown
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind, ReconcileResult, Shipping

__all__ = ["AsyncCompletions"]


class AsyncCompletions(OpenIntents):
    """Completes baskets at most once, and settles completions with an unknown outcome."""

    async def buy(
        self,
        basket: Basket,
        *,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
        reference: str | None = None,
    ) -> Completion:
        """Buy the contents of the basket at most once, at the agreed price.

        The basket is read again first and must have the same items and currency. An equal call for the same basket
        waits for this one and gets the same result. Until this call ends, other changes of the customer's baskets
        through this client wait.

        The completion is posted once. A response that refuses it proves nothing by itself, unless it rejects the
        digest (401). The call therefore polls for the order until `CompletionPolicy.settle_time` after the response
        before it raises the refusal; one read is enough for a status of `CompletionPolicy.refusals` in the vendor's
        envelope. `CompletionPolicy.inline_looks` and `deadline` (else `Timeouts.complete_total`, from the start of the
        call) may end the polling earlier: the call then raises `OutcomeUnknown`.

        Args:
            basket: The basket as last read. If its items have changed since, nothing is sent (`InvalidInput`).
            expected_total: The agreed `paid_total`, in the basket's currency. If the basket's total is another one,
                nothing is sent (`PriceChanged`).
            accept_price: `"current"` instead of `expected_total` accepts the total at the time of the completion.
            reference: Your own key for this purchase, 1 to 200 printable characters, such as an order number. It is
                completed at most once, also with another basket, by another process or after a restart. If it was
                completed before, no completion is sent, and the earlier one is returned (`replayed`), whose `order` is
                None if it cannot be read. If earlier attempts were settled as having made no order, the orders are
                searched for them first.

        Raises:
            OutcomeUnknown: if the purchase may have happened. Pass the error to `reconcile`; do not buy again before
                the purchase is settled. After every other error, this call has bought nothing.
            ConfigurationError: if the journal cannot store references, or holds those of another user of the server
                (`Options.journal_account`); if `Options.spending` is in another currency; with `Options.read_only`.
            NotSent: if this call sent no completion: `PriceChanged`, `PriceFixExpired`, `LimitExceeded`,
                `AlreadyInFlight`, `JournalError`, `InvalidInput`, no connection, or the basket could not be read.
            APIError: if the server refused the completion and no order was made, or refused the read of the basket
                before it.
            IntegrityError: if the basket that was read is not the caller's; no completion was sent.
            CompletionRejected: if an order was made, but failed or was cancelled.

        Source: Complete Buy (api-27307626, 2026-02-19): partly documented (path and request); the response is inferred.
        """
        return await self._complete(OrderKind.BUY, basket, expected_total, accept_price, reference, {})

    async def sell(
        self,
        basket: Basket,
        *,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
        reference: str | None = None,
    ) -> Completion:
        """Sell the contents of the basket at most once; `expected_total` is the amount that the customer receives.

        Arguments and errors are those of `buy`.

        Source: Complete Sell: inferred (path and body from Complete Buy; S15).
        """
        return await self._complete(OrderKind.SELL, basket, expected_total, accept_price, reference, {})

    async def delivery(
        self,
        basket: Basket,
        *,
        shipping: Shipping,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
        reference: str | None = None,
    ) -> Completion:
        """Ship the contents of the basket at most once; `expected_total` is the cost of the delivery.

        Arguments and errors are those of `buy`; `shipping` is the address.

        Source: Complete Delivery (api-27307650, 2026-04-02): partly documented (path and response); the body is
        inferred from E-Commerce Set Custom Address (api-8209448, 2024-09-17; S16).
        """
        extra = {"shipping": serialize_shipping(shipping)}
        return await self._complete(OrderKind.DELIVERY, basket, expected_total, accept_price, reference, extra)

    async def buy_items(
        self,
        customer_id: str,
        items: Mapping[str, int],
        *,
        reference: str,
        max_total: Decimal,
        currency: str,
        wait: float = 0.0,
        replace: bool = False,
    ) -> Completion:
        """Buy items for a customer at most once for a reference.

        Claims the customer's basket, so that one call with items at a time uses it, in all processes with the same
        journal; fills it as `baskets.replace`; and completes it as `buy`. Safe to call again after any error and after
        a crash, from any machine with the same journal: the reference is bought once, and its completion returned.
        After a crash, the claim must end first: `CompletionPolicy.claim_seconds`, `Timeouts.total` and
        `latest_landing` after it was made or last renewed.

        Args:
            customer_id: Your id of the customer.
            items: Number of pieces of each sku, at least one sku.
            reference: As for `buy`, but required.
            max_total: The highest `paid_total` at which to buy, in `currency`.
            currency: Code of the currency of the basket, such as `AED`.
            wait: Seconds to wait if another call uses the customer's basket or the reference.
            replace: Whether to delete other items from the open basket. If False, such items are an error.

        Raises:
            AlreadyInFlight: if another call uses the customer's basket or the reference after `wait` seconds.
            PriceChanged: if the total is above `max_total`. The basket keeps the items.
            InvalidInput: if an argument is invalid, or if the open basket has other items (`replace`), another currency
                or another kind.
            BasketIncomplete: if the basket could not be filled.
            MintedConnectError: other errors as `buy`. Except after `OutcomeUnknown`, this call has bought nothing.

        Source: `baskets.replace` and `buy`.
        """
        agreed = AgreedTotal(highest=validate_limit("max_total", max_total))
        terms = make_item_terms(
            OrderKind.BUY, customer_id, items, agreed, currency, reference, {}, wait, replace=replace
        )
        return await ItemCompletion(self._api, self._settlement, terms).run()

    async def sell_items(
        self,
        customer_id: str,
        items: Mapping[str, int],
        *,
        reference: str,
        min_total: Decimal,
        currency: str,
        wait: float = 0.0,
        replace: bool = False,
    ) -> Completion:
        """Sell items of a customer at most once for a reference, if the customer receives at least `min_total`.

        Other arguments and errors are those of `buy_items`; `PriceChanged` is raised below `min_total`.

        Source: `baskets.replace` and `sell`.
        """
        agreed = AgreedTotal(lowest=validate_limit("min_total", min_total))
        terms = make_item_terms(
            OrderKind.SELL, customer_id, items, agreed, currency, reference, {}, wait, replace=replace
        )
        return await ItemCompletion(self._api, self._settlement, terms).run()

    async def deliver_items(
        self,
        customer_id: str,
        items: Mapping[str, int],
        *,
        shipping: Shipping,
        reference: str,
        max_total: Decimal,
        currency: str,
        wait: float = 0.0,
        replace: bool = False,
    ) -> Completion:
        """Ship items of a customer to the address `shipping` at most once for a reference, for at most `max_total`.

        Other arguments and errors are those of `buy_items`.

        Source: `baskets.replace` and `delivery`.
        """
        extra = {"shipping": serialize_shipping(shipping)}
        agreed = AgreedTotal(highest=validate_limit("max_total", max_total))
        terms = make_item_terms(
            OrderKind.DELIVERY, customer_id, items, agreed, currency, reference, extra, wait, replace=replace
        )
        return await ItemCompletion(self._api, self._settlement, terms).run()

    async def unfinished(self, *, all_accounts: bool = False) -> list[Intent]:
        """Return the confirmed intents whose order has no final status yet, oldest first.

        After a restart, these are the orders to follow: pass each to `orders.watch` or `orders.wait`.

        Args:
            all_accounts: As for `pending`.

        Raises:
            JournalError: if the journal cannot be read, or was lost while in use.
        """
        validation.boolean("all_accounts", all_accounts)
        intents = await self._settlement.journal.awaiting_completion()
        return intents if all_accounts else self._settlement.filter_own(intents, "unfinished")

    async def adopt(self, intent_or_error: Intent | OutcomeUnknown | str) -> Intent:
        """Assign an intent to this client's account, and return it.

        Use it for intents that were written under another user name or host of the same account. Afterwards this client
        reconciles the intent with its own credentials on its own server. Orders of another account are not listed
        there, so never adopt an intent that belongs to a different account.

        Args:
            intent_or_error: An intent from `pending(all_accounts=True)`, the error that names it, or its id.

        Raises:
            ConfigurationError: with `Options.read_only`.
            InvalidInput: if the journal does not contain the intent.
            JournalError: if the journal cannot be written.
        """
        self._api.check_may_change("complete.adopt")
        intent = await self._settlement.load(intent_id_from(intent_or_error))
        return await self._settlement.adopt(intent)

    async def reconcile(
        self, intent_or_error: Intent | OutcomeUnknown, *, budget: float | None = None, fence: bool = False
    ) -> Completion:
        """Settle an intent with an unknown outcome: poll orders and basket until they prove the outcome.

        Never sends a completion. If this client is completing the same basket, first waits for that call.

        Args:
            intent_or_error: An intent from `pending()`, or the error that names it.
            budget: Seconds for which to poll at most, which also limits each read. None =
                `CompletionPolicy.reconcile_budget` (120 by default).
            fence: If the basket is still open and no order is listed, clear the basket, so that a request that is still
                in flight has nothing to complete. This is written into the journal. Add nothing to that basket
                afterwards: a late request would complete it.

        Returns:
            The completion, if the order was made.

        Raises:
            CompletionRejected: if the order failed or was cancelled, or if the server refused the completion and no
                order was made (`.refusal`).
            NotExecuted: if the completion was provably not executed. Whether to buy again, at another price, is your
                decision.
            OutcomeUnknown: if the outcome is still unknown. The text and `.evidence` list what was seen, how sure that
                is, and the next step.
            ConfigurationError: for `fence` with `Options.read_only`; nothing was read.
            InvalidInput: if the intent belongs to another account (see `adopt`); nothing was read.
            ClientClosedError: if the client is closed, was forked, or runs on another event loop.
        """
        intent = intent_from(intent_or_error)
        validation.boolean("fence", fence)
        seconds = self._budget(budget)
        if fence:
            self._api.check_may_change("complete.reconcile(fence=True)")
        self._api.check_may_complete("complete.reconcile")
        self._api.check_usable()
        return await reconcile_intent(self._api, self._settlement, intent, budget=seconds, fence=fence)

    async def reconcile_all(
        self,
        *,
        intents: Iterable[Intent] | None = None,
        budget: float | None = None,
        concurrency: int = 4,
        fence: bool = False,
        on_result: Callable[[ReconcileResult], object] | None = None,
    ) -> list[ReconcileResult]:
        """Settle the open intents of this account, as `reconcile` does; return a result for each, oldest first.

        One walk over the orders of all customers confirms the intents whose keys it finds. The others are read back by
        themselves, at the same time, so that all take about as long as one. Raises nothing for the outcome of an
        intent: its result has the error. Intents in flight in this client are left out.

        Args:
            intents: The intents to settle. None = those of `pending()`.
            budget: Seconds for all intents together. None = `CompletionPolicy.reconcile_budget` (120 by default).
            concurrency: Number of intents to read at a time, each with one connection.
            fence: As for `reconcile`, but not for a prepared intent of the last two minutes, which another process may
                be sending.
            on_result: Called with each result as soon as it is known, on the thread of the event loop. It must not
                block; an exception that it raises is logged.

        Raises:
            JournalError: if the journal cannot be read, or was lost while in use.
            ClientClosedError: if the client is closed, was forked, or runs on another event loop.
        """
        seconds = self._budget(budget)
        validation.integer("concurrency", concurrency, 1)
        validation.boolean("fence", fence)
        if fence:
            self._api.check_may_change("complete.reconcile(fence=True)")
        self._api.check_may_complete("complete.reconcile_all")
        self._api.check_usable()
        given = await self.pending() if intents is None else [intent_from(intent) for intent in intents]
        in_flight = self._settlement.ids_in_flight()
        selected = {intent.id: intent for intent in given if intent.id not in in_flight}
        return await reconcile_all(
            self._api,
            self._settlement,
            list(selected.values()),
            budget=seconds,
            concurrency=concurrency,
            fence=fence,
            on_result=on_result,
        )

    async def decide(
        self, intent_or_error: Intent | OutcomeUnknown | str, state: IntentState | str, *, order_id: int | None = None
    ) -> None:
        """Settle an intent manually, for example with the vendor's reply, if reading back could not settle it.

        Nothing is read from the server and nothing is sent. After `rejected` or `not_executed`, the basket can be
        completed again; after `confirmed`, it never can.

        Args:
            intent_or_error: An intent from `pending()`, the error that names it, or its id.
            state: `confirmed`, `rejected` or `not_executed`.
            order_id: The number of the order, for `confirmed`.

        Raises:
            ConfigurationError: with `Options.read_only`.
            InvalidInput: if the journal does not contain the intent, if it belongs to another account (see `adopt`), or
                if it has another outcome already and `state` is not `confirmed`.
            JournalError: if the journal cannot be read or written.
        """
        self._api.check_may_change("complete.decide")
        intent_id = intent_id_from(intent_or_error)
        await decide_intent(self._settlement, intent_id, state, order_id, at=self._api.clock.wall())

    def _budget(self, budget: float | None) -> float:
        if budget is None:
            return self._api.completion_policy.reconcile_budget
        return validation.seconds("budget", budget)

    async def _complete(
        self,
        kind: OrderKind,
        basket: Basket,
        expected_total: Decimal | None,
        accept_price: Literal["current"] | None,
        reference: str | None,
        extra: Mapping[str, Any],
    ) -> Completion:
        self._api.check_may_change(f"complete.{kind}")
        self._api.check_may_complete(f"complete.{kind}")
        agreed = validate_agreed_total(expected_total, accept_price)
        check_basket(basket, kind)
        return await complete_basket(self._api, self._settlement, kind, basket, agreed, reference, extra)
