"""Buying, selling and shipping: a basket is completed once, or the caller is told that it is not known.

The API takes no idempotency key, so the order of things is the protection: look at the basket, write the intent down,
send once on a connection of its own, and tell by how far the request got what its failure means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, Self

from minted_connect import validation
from minted_connect.completion.execution import Execution
from minted_connect.completion.order_match import lines
from minted_connect.completion.preflight import address, agreed_total, check_basket
from minted_connect.completion.reconcile import ReadBack
from minted_connect.completion.settlement import InFlight, Settlement
from minted_connect.core.api_client import ApiClient
from minted_connect.core.cancellation import shielded
from minted_connect.errors import AlreadyInFlight, InvalidInput, OutcomeUnknown, Phase
from minted_connect.journal.accounts import account_of
from minted_connect.journal.protocol import Journal
from minted_connect.models import Basket, Completion, Intent, IntentState, OrderKind, OrderProgress, Shipping

__all__ = ["CLOSING", "AsyncCompletions"]

CLOSING: Final = 10.0
"""Seconds that completions under way are given to end when the client is closed: twice the patience of a journal."""

_DECISIONS: Final = frozenset({IntentState.CONFIRMED, IntentState.REJECTED, IntentState.NOT_EXECUTED})


class AsyncCompletions:
    """Completes baskets, each exactly once, and finds out what became of those whose outcome is not known."""

    def __init__(self, api: ApiClient, journal: Journal) -> None:
        self._api = api
        self._settlement = Settlement(journal, account_of(api))

    def with_api(self, api: ApiClient) -> Self:
        """Return the same with another caller; the journal and the completions under way are shared."""
        sibling = type(self)(api, self._settlement.journal)
        sibling._settlement = self._settlement  # noqa: SLF001 - of its own class
        return sibling

    async def buy(
        self,
        basket: Basket,
        *,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
    ) -> Completion:
        """Buy what is in the basket, once, at the price that was agreed to.

        The basket is read again first, and has to hold the same lines in the same currency. A second call for the same
        basket while this one runs waits and gets the same result. Until the outcome is known, other changes of the
        customer's baskets through this client wait.

        The completion is posted once. A response that refuses it proves nothing by itself: the call looks for the
        order until `CompletionPolicy.settle_time` after the response before it raises the refusal. `inline_looks` and
        the `deadline` (else `Timeouts.complete_total`, both from the start of the call) bound that. A refusal with a
        status of `CompletionPolicy.refusals` in the vendor's envelope takes one look.

        Args:
            basket: As last seen. If its lines were changed since, nothing is sent (`InvalidInput`).
            expected_total: The `paid_total` agreed to, money in the basket's currency; another one raises
                `PriceChanged`.
            accept_price: `"current"` in place of `expected_total` buys at whatever the basket costs by then.

        Raises:
            OutcomeUnknown: if it may have happened. Reconcile it; never buy again before that. After every other error
                nothing was bought:
            NotSent: if nothing was sent: `PriceChanged`, `PriceFixExpired`, `AlreadyInFlight`, `JournalError`,
                `InvalidInput`, no connection, or the basket could not be read.
            APIError: if the server refused it and no order was made.
            IntegrityError: if the basket that was read is not the caller's; nothing was sent.
            Rejected: if the server made an order that failed or was cancelled.

        Source: Complete Buy (api-27307626, 2026-02-19): partly documented (path and request); the answer is inferred.
        """
        return await self._complete(OrderKind.BUY, basket, expected_total, accept_price, {})

    async def sell(
        self,
        basket: Basket,
        *,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
    ) -> Completion:
        """Sell what is in the basket, once; `expected_total` is the money the customer receives.

        Arguments and errors are those of `buy`.

        Source: Complete Sell: inferred (path and body from Complete Buy; S15).
        """
        return await self._complete(OrderKind.SELL, basket, expected_total, accept_price, {})

    async def delivery(
        self,
        basket: Basket,
        *,
        shipping: Shipping,
        expected_total: Decimal | None = None,
        accept_price: Literal["current"] | None = None,
    ) -> Completion:
        """Have what is in the basket shipped, once; `expected_total` is what the shipping costs.

        Arguments and errors are those of `buy`.

        Source: Complete Delivery (api-27307650, 2026-04-02): partly documented (path and answer); the body is inferred
        from E-Commerce Set Custom Address (api-8209448, 2024-09-17; S16).
        """
        extra = {"shipping": address(shipping)}
        return await self._complete(OrderKind.DELIVERY, basket, expected_total, accept_price, extra)

    async def pending(self, *, all_accounts: bool = False) -> list[Intent]:
        """Return the intents whose outcome is not known, oldest first: reconcile each of them.

        After a crash these are the purchases that may have happened. Those this client is completing right now are
        left out; those of other running processes with the same journal are not. Records that cannot be read are left
        out too, and logged at ERROR with their ids.

        Args:
            all_accounts: Include the intents of other accounts in the same journal, which this client does not
                reconcile before `adopt`. Otherwise a warning gives their number.

        Raises:
            JournalError: if the journal cannot be read, or was lost while in use.
        """
        validation.boolean("all_accounts", all_accounts)
        flying = {flight.intent.id for flight in self._settlement.flights.values() if flight.intent is not None}
        intents = await self._settlement.journal.pending()
        mine = intents if all_accounts else self._settlement.own(intents, "open")
        return [intent for intent in mine if intent.id not in flying]

    async def unfinished(self, *, all_accounts: bool = False) -> list[Intent]:
        """Return the confirmed intents whose order was not seen to be final yet, oldest first.

        After a restart these are the orders to follow: give each to `orders.watch` or `orders.wait`.

        Args:
            all_accounts: As for `pending`.

        Raises:
            JournalError: if the journal cannot be read, or was lost while in use.
        """
        validation.boolean("all_accounts", all_accounts)
        intents = await self._settlement.journal.awaiting_completion()
        return intents if all_accounts else self._settlement.own(intents, "unfinished")

    async def adopt(self, intent_or_error: Intent | OutcomeUnknown) -> Intent:
        """Assign an intent to this client's account, and return it.

        For intents that were written under another user name or host of the same account. From then on this client
        reconciles it, reading with its own credentials from its own server: what another account did is not found
        there, so never adopt an intent whose account is a different one.

        Args:
            intent_or_error: From `pending(all_accounts=True)`, or the error that names it.

        Raises:
            InvalidInput: if the journal does not hold it.
            JournalError: if it could not be written.
        """
        wanted = await self._settlement.stored(_intent_of(intent_or_error))
        return await self._settlement.adopt(wanted)

    async def reconcile(self, intent_or_error: Intent | OutcomeUnknown, *, fence: bool = False) -> Completion:
        """Find out what became of an intent, reading orders and basket for up to two minutes.

        The time is `CompletionPolicy.reconcile_budget`, and bounds every read too. It begins after a call for the same
        basket that is under way here, which is waited for.

        Args:
            intent_or_error: From `pending()`, or the error that told of it.
            fence: Clear the basket, if it is still open and no order shows, so that a request still under way finds
                nothing to complete; the journal remembers that. Put nothing into that basket afterwards: it would be
                completed.

        Raises:
            Rejected: if the order failed or was cancelled, or if the completion was refused and no order was made
                (`.refusal`).
            NotExecuted: if it provably did not happen; buying again, at another price, is your decision.
            OutcomeUnknown: if it is still not known; `.evidence` says what was seen. Call again later.
            InvalidInput: if it belongs to another account (see `adopt`); nothing was read.
            ClientClosedError: if the client is closed, forked, or on another event loop.
        """
        wanted = _intent_of(intent_or_error)
        validation.boolean("fence", fence)
        self._api.check_usable()
        flight = self._settlement.flights.get((wanted.external_customer_id, wanted.cart_token))
        if flight is not None:
            await flight.done.wait()
        wanted = await self._settlement.remembered(wanted)
        look = ReadBack(self._api, wanted)
        budget = self._api.completion_policy.reconcile_budget
        finding = await look.run(budget=budget, fence=self._settlement.fence if fence else None)
        return await self._settlement.resolve(wanted, finding, Phase.SENT)

    async def decide(
        self, intent_or_error: Intent | OutcomeUnknown, state: IntentState | str, *, order_id: int | None = None
    ) -> None:
        """Write down what a person found out about an intent that reading back could not settle.

        For when the vendor has told: nothing is looked up here, and nothing sent. Not executed or rejected, the basket
        is free to be completed again; confirmed, it never is.

        Args:
            intent_or_error: From `pending()`, or the error that told of it.
            state: `confirmed`, `rejected` or `not_executed`.
            order_id: Number of the order, of a confirmed one.

        Raises:
            InvalidInput: if the journal does not hold it, or if it belongs to another account (see `adopt`).
            JournalError: if the journal cannot be read or written.
        """
        wanted = _intent_of(intent_or_error)
        decided = IntentState(validation.one_of("state", state, _DECISIONS))
        if order_id is not None:
            validation.integer("order_id", order_id, 1)
        self._settlement.check_owner(await self._settlement.stored(wanted))
        await self._settlement.settle_manually(wanted, decided, order_id)

    async def note(self, external_customer_id: str, cart_token: str, progress: OrderProgress) -> None:
        """Note what was seen of the order that a basket became, if the journal knows of it."""
        mine = self._settlement.owner.account
        await shielded(self._settlement.journal.save_progress(external_customer_id, cart_token, progress, account=mine))

    async def aclose(self, patience: float = CLOSING, *, close_journal: bool = True) -> None:
        """Wait until the completions under way have written their outcome down; then close the journal.

        The connections must be closed by then, so that no completion waits for a response any more.

        Args:
            patience: Seconds to wait; 0 = do not wait.
            close_journal: Whether the journal belongs to this client.
        """
        flights = self._settlement.flights.values() if patience else ()
        writing = [asyncio.ensure_future(flight.done.wait()) for flight in flights]
        try:
            if writing:
                await asyncio.wait(writing, timeout=patience)
        finally:
            for waiter in writing:
                waiter.cancel()
            if close_journal:
                await self._settlement.journal.aclose()

    async def _complete(
        self,
        kind: OrderKind,
        basket: Basket,
        expected_total: Decimal | None,
        accept_price: Literal["current"] | None,
        extra: Mapping[str, Any],
    ) -> Completion:
        agreed = agreed_total(expected_total, accept_price)
        check_basket(basket, kind)
        key = (basket.customer.external_id, basket.token)
        seen = (lines(basket), basket.currency_code)
        # Counted from here: waiting for the lock is part of the call.
        patience = self._patience()
        end = self._api.clock.monotonic() + patience
        # A flight of the parent process, or of another event loop, lands there only.
        self._api.check_usable()
        flights = self._settlement.flights
        while (flight := flights.get(key)) is not None:
            if (flight.kind, flight.agreed, flight.extra, flight.seen) != (kind, agreed, extra, seen):
                holder = flight.intent.id if flight.intent is not None else None
                raise AlreadyInFlight("this basket is being completed right now, on other terms", holder)
            await flight.done.wait()
            if flight.error is not None:
                raise flight.error
            if flight.result is not None:
                return flight.result
            # Given up before anything was sent: the next one in line takes over.
        flight = flights[key] = InFlight(kind, agreed, extra, seen)
        try:
            # Until the outcome is known, this client changes none of the customer's baskets: an item that is added
            # between the look at the basket and its completion would be bought at a price that was not agreed to.
            async with self._api.hold_lock(basket.customer.external_id, patience):
                flight.result = await Execution(self._api, self._settlement, flight, end=end).run(basket)
        except Exception as error:
            flight.error = error
            raise
        finally:
            del flights[key]
            flight.done.set()
        return flight.result

    def _patience(self) -> float:
        settings = self._api.settings
        return settings.deadline or settings.timeouts.complete_total


def _intent_of(intent_or_error: Intent | OutcomeUnknown) -> Intent:
    wanted = intent_or_error.intent if isinstance(intent_or_error, OutcomeUnknown) else intent_or_error
    if not isinstance(wanted, Intent):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("intent_or_error", "give the Intent from pending(), or the OutcomeUnknown")
    return wanted
