"""Buying, selling and shipping: a basket is completed once, or the caller is told that it is not known.

The API takes no idempotency key, so the order of things is the protection: look at the basket, write the intent down,
send once on a connection of its own, and tell by how far the request got what its failure means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Literal, Self

import attrs

from minted_connect.completion.classify import Fate, classify
from minted_connect.completion.guard import address, agreed_total, check_basket, look_again, new_intent
from minted_connect.completion.journal import Journal, MemoryJournal, to_the_end
from minted_connect.completion.match import differences, identifiers, is_about, is_failed, is_order, lines, mapping
from minted_connect.completion.reconcile import Finding, ReadBack
from minted_connect.completion.verdict import BasketSeen, Outcome
from minted_connect.config import Limits
from minted_connect.core.caller import Caller
from minted_connect.core.replies import Reply
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.wire import Progress
from minted_connect.errors import (
    AlreadyInFlight,
    IntegrityError,
    InvalidInput,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
    Phase,
    PriceFixExpired,
    ProtocolError,
    Rejected,
    TransportError,
)
from minted_connect.models import Basket, Completion, Intent, IntentState, Kind, Order, OrderProgress, Shipping
from minted_connect.resources.baskets import AsyncBaskets

__all__ = ["AsyncComplete"]

_logger = logging.getLogger("minted_connect.completion")


@attrs.define(eq=False)
class _Flight:
    """One completion under way, and who else waits for it."""

    kind: Kind
    agreed: Decimal | None
    extra: Mapping[str, Any]
    seen: tuple[Mapping[str, int], str]
    """Lines and currency of the basket that the caller agreed to."""
    landed: asyncio.Event = attrs.field(factory=asyncio.Event)
    intent: Intent | None = None
    state: IntentState | None = None
    """What became of the intent, once that is known: before it is written down."""
    result: Completion | None = None
    error: Exception | None = None


@attrs.define(eq=False)
class _Shared:
    """What the siblings of one client have in common."""

    journal: Journal
    flights: dict[tuple[str, str], _Flight] = attrs.field(factory=dict[tuple[str, str], _Flight])
    warned: bool = False


class AsyncComplete:
    """Completes baskets, each exactly once, and finds out what became of those whose outcome is not known."""

    def __init__(self, caller: Caller, journal: Journal) -> None:
        self._caller = caller
        self._baskets = AsyncBaskets(caller)
        self._policy = caller.settings.options.completion
        self._shared = _Shared(journal)

    def with_caller(self, caller: Caller) -> Self:
        """Return the same with another caller; the journal and the completions under way are shared."""
        sibling = type(self)(caller, self._shared.journal)
        sibling._shared = self._shared  # noqa: SLF001 - of its own class
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
        basket while this one runs waits and gets the same result.

        `deadline` and `Timeouts` bound each step, not their sum: the look at the basket, the sending, and the look
        afterwards that a doubtful answer takes.

        Args:
            basket: As last seen. If its lines were changed since, nothing is sent (`InvalidInput`).
            expected_total: The `paid_total` agreed to, money in the basket's currency; another one raises
                `PriceChanged`.
            accept_price: `"current"` in place of `expected_total` buys at whatever the basket costs by then.

        Raises:
            NotSent: nothing reached the server: `PriceChanged`, `PriceFixExpired`, `AlreadyInFlight`,
                `JournalError`, `InvalidInput`, or no connection.
            ApiError: the server refused, and nothing happened.
            Rejected: the server made an order and cancelled it.
            OutcomeUnknown: it may have happened. Reconcile it; never buy again before that.

        Source: Complete Buy (api-27307626, 2026-02-19): partly documented (path and request); the answer is inferred.
        """
        return await self._complete(Kind.BUY, basket, expected_total, accept_price, {})

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
        return await self._complete(Kind.SELL, basket, expected_total, accept_price, {})

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
        limits = self._caller.settings.options.limits or Limits.off()
        extra = {"shipping": address(shipping, limits)}
        return await self._complete(Kind.DELIVERY, basket, expected_total, accept_price, extra)

    async def pending(self) -> list[Intent]:
        """Return the intents whose outcome is not known, oldest first: reconcile each of them.

        After a crash these are the purchases that may have happened. Those this client is completing right now are
        left out; those of other running processes with the same journal are not.

        Raises:
            JournalError: the journal cannot be read.
        """
        flying = {flight.intent.id for flight in self._shared.flights.values() if flight.intent is not None}
        return [intent for intent in await self._shared.journal.pending() if intent.id not in flying]

    async def unfinished(self) -> list[Intent]:
        """Return the confirmed intents whose order was not seen to be final yet, oldest first.

        After a restart these are the orders to follow: give each to `orders.watch` or `orders.wait`.

        Raises:
            JournalError: the journal cannot be read.
        """
        return await self._shared.journal.unfinished()

    async def reconcile(self, intent_or_error: Intent | OutcomeUnknown, *, fence: bool = False) -> Completion:
        """Find out what became of an intent, reading orders and basket for up to two minutes.

        The time is `CompletionPolicy.reconcile_budget`, and bounds every read too. It begins after a call for the same
        basket that is under way here, which is waited for.

        Args:
            intent_or_error: From `pending()`, or the error that told of it.
            fence: Clear the basket, if it is still open and no order shows, so that a request still under way finds
                nothing to complete.

        Raises:
            Rejected: the order was made and cancelled.
            NotExecuted: it provably did not happen; buying again, at another price, is your decision.
            OutcomeUnknown: still not known; `.evidence` says what was seen. Call again later.
        """
        wanted = intent_or_error.intent if isinstance(intent_or_error, OutcomeUnknown) else intent_or_error
        if not isinstance(wanted, Intent):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput.of("intent_or_error", "give the Intent from pending(), or the OutcomeUnknown")
        flight = self._shared.flights.get((wanted.external_customer_id, wanted.cart_token))
        if flight is not None:
            await flight.landed.wait()
        look = self._looking_for(wanted)
        finding = await look.run(budget=self._policy.reconcile_budget, fence=fence)
        match finding.verdict.outcome:
            case Outcome.CONFIRMED:
                return await self._found(wanted, finding)
            case Outcome.REJECTED:
                raise await self._rejected(wanted, finding.order)
            case Outcome.NOT_EXECUTED:
                await self._settle(wanted, IntentState.NOT_EXECUTED)
                raise NotExecuted(f"intent {wanted.id}: {finding.verdict.reason}", wanted)
            case Outcome.UNKNOWN:
                raise await self._doubted(wanted, Phase.SENT, finding.notes)

    async def note(self, external_customer_id: str, cart_token: str, progress: OrderProgress) -> None:
        """Note what was seen of the order that a basket became, if the journal knows of it."""
        await to_the_end(self._shared.journal.note(external_customer_id, cart_token, progress))

    async def aclose(self) -> None:
        """Let go of the journal."""
        await self._shared.journal.aclose()

    async def _complete(
        self,
        kind: Kind,
        basket: Basket,
        expected_total: Decimal | None,
        accept_price: Literal["current"] | None,
        extra: Mapping[str, Any],
    ) -> Completion:
        agreed = agreed_total(expected_total, accept_price)
        check_basket(basket, kind)
        key = (basket.customer.external_id, basket.token)
        seen = (lines(basket), basket.currency_code)
        while (flight := self._shared.flights.get(key)) is not None:
            if (flight.kind, flight.agreed, flight.extra, flight.seen) != (kind, agreed, extra, seen):
                raise AlreadyInFlight("this basket is being completed right now, on other terms")
            await flight.landed.wait()
            if flight.error is not None:
                raise flight.error
            if flight.result is not None:
                return flight.result
            # Given up before anything was sent: the next one in line takes over.
        flight = self._shared.flights[key] = _Flight(kind, agreed, extra, seen)
        try:
            flight.result = await self._fly(flight, basket)
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._shared.flights[key]
            flight.landed.set()
        return flight.result

    async def _fly(self, flight: _Flight, basket: Basket) -> Completion:
        clock = self._caller.clock
        fresh, not_after = await look_again(
            self._baskets, basket, flight.agreed, margin=self._policy.price_fix_margin, clock=clock
        )
        intent = flight.intent = new_intent(fresh, flight.kind, clock)
        body = {
            "external_customer_id": intent.external_customer_id,
            "cart_token": intent.cart_token,
            **flight.extra,
        }
        request = Request(OPERATIONS[f"complete.{flight.kind}"], body=body)
        progress = Progress()
        try:
            await self._prepare(intent, not_after)
            try:
                reply = await self._caller.exchange(request, not_after=not_after, progress=progress)
            except Exception as error:  # noqa: BLE001 - even one nobody thought of must not hide a purchase
                return await self._failed(intent, error, progress.phase)
            return await self._answered(intent, request, reply)
        except asyncio.CancelledError as cancelled:
            # Writing into the journal is all that is done now: no second request behind the canceller's back. What
            # was known already stands, and is written down by now.
            if flight.state is None:
                state, doubt = IntentState.NOT_SENT, None
                if progress.phase is not Phase.NOT_SENT:
                    doubt = self._unknown(intent, progress.phase, ("the call was cancelled",))
                    state = IntentState.UNKNOWN
                # A cancel scope cancels every await anew; the first cancellation is the one that goes on.
                with suppress(asyncio.CancelledError):
                    await self._settle(intent, state, doubt)
            if (note := _became(flight)) is not None:
                cancelled.add_note(f"intent {intent.id} {note}")
            raise

    async def _prepare(self, intent: Intent, not_after: float) -> None:
        forgetful = isinstance(self._shared.journal, MemoryJournal) and not self._caller.is_loopback
        if forgetful and not self._shared.warned:
            self._shared.warned = True
            _logger.warning("money is moved without a journal file: after a crash nobody knows what was under way")
        # To its end, so that a cancelled call leaves no record behind that nobody closes.
        await to_the_end(self._shared.journal.prepare(intent))
        if self._caller.clock.monotonic() > not_after:
            await self._settle(intent, IntentState.NOT_SENT)
            raise PriceFixExpired("the price lock ran out while the intent was written down: read the basket again")

    async def _failed(self, intent: Intent, error: Exception, phase: Phase) -> Completion:
        """Turn the failure of the one sending into what it means, or find that it succeeded after all."""
        match classify(error, phase):
            case Fate.NOT_SENT:
                await self._settle(intent, IntentState.NOT_SENT)
                if isinstance(error, TimeoutError):
                    # A timeout of a completion is either NotSent or OutcomeUnknown, never something in between.
                    raise NotSent(f"nothing was sent: {_said_by(error)}") from error
                raise error
            case Fate.REFUSED:
                await self._settle(intent, IntentState.REJECTED, error)
                raise error
            case Fate.READ_BACK:
                return await self._doubt(intent, error)
            case Fate.UNKNOWN:
                reached = error.phase if isinstance(error, TransportError) else phase
                raise await self._doubted(intent, reached, (_said_by(error),)) from error

    async def _doubt(self, intent: Intent, error: Exception) -> Completion:
        """Look once before believing the server's no."""
        settings = self._caller.settings
        finding = await self._looking_for(intent).once(within=settings.deadline or settings.timeouts.total)
        if finding.verdict.outcome is Outcome.CONFIRMED:
            return await self._found(intent, finding)
        if finding.verdict.outcome is Outcome.REJECTED:
            raise await self._rejected(intent, finding.order) from error
        seen = finding.evidence
        if seen.searched and not seen.likely and seen.basket is BasketSeen.ACTIVE:
            await self._settle(intent, IntentState.REJECTED, error)
            raise error
        raise await self._doubted(intent, Phase.ANSWERED, (_said_by(error), *finding.notes)) from error

    async def _answered(self, intent: Intent, request: Request, reply: Reply) -> Completion:
        """Read the answer of a completion that the server calls a success."""
        raw = mapping(reply.data)
        order: Order | None = None
        problem: ProtocolError | None = None
        try:
            order = self._caller.structure(reply.data, Order, request, reply)
        except ProtocolError as error:
            problem = error
        if not is_about(raw, intent) or ("order_creation_status" in raw and not is_order(raw)):
            if order is not None:
                problem = IntegrityError(
                    f"{request.operation.method} {request.route}: the answer is not about the order of this basket",
                    ("data: is about another customer, another basket, or no order",),
                    reply.status,
                    reply.request_id,
                    request.operation.method,
                    request.route,
                )
            assert problem is not None
            raise await self._doubted(intent, Phase.ANSWERED, (_said_by(problem),)) from problem
        if is_failed(raw):
            raise await self._rejected(intent, order)
        return await self._confirmed(intent, order, raw, reconciled=False)

    def _looking_for(self, intent: Intent) -> ReadBack:
        return ReadBack(self._caller, intent, fence_proves=self._policy.fence_proves_not_executed)

    async def _found(self, intent: Intent, finding: Finding) -> Completion:
        return await self._confirmed(intent, finding.order, finding.raw, reconciled=True, notes=finding.notes)

    async def _confirmed(
        self,
        intent: Intent,
        order: Order | None,
        raw: Mapping[str, Any],
        *,
        reconciled: bool,
        notes: tuple[str, ...] = (),
    ) -> Completion:
        differing = (*(differences(order, intent) if order is not None else ()), *notes)
        for difference in differing:
            _logger.warning("intent %s: %s", intent.id, difference)
        completion = Completion(order, identifiers(raw), raw, reconciled, differing)
        await self._settle(intent, IntentState.CONFIRMED, completion)
        return completion

    async def _rejected(self, intent: Intent, order: Order | None) -> Rejected:
        rejected = Rejected(f"intent {intent.id}: the order was made, and cancelled or refunded", order)
        await self._settle(intent, IntentState.REJECTED, rejected)
        return rejected

    async def _doubted(self, intent: Intent, phase: Phase, evidence: tuple[str, ...]) -> OutcomeUnknown:
        unknown = self._unknown(intent, phase, evidence)
        await self._settle(intent, IntentState.UNKNOWN, unknown)
        return unknown

    async def _settle(self, intent: Intent, state: IntentState, outcome: Completion | Exception | None = None) -> None:
        """Note the outcome. A journal that fails now must not hide it: the record stays open, which is safe.

        Args:
            intent: Whose outcome.
            state: What became of it.
            outcome: What everybody who waits for it gets, also if the call is cancelled over the writing.
        """
        completion = outcome if isinstance(outcome, Completion) else None
        flight = self._shared.flights.get((intent.external_customer_id, intent.cart_token))
        if flight is not None and flight.intent is intent:
            flight.state, flight.result = state, completion
            flight.error = outcome if isinstance(outcome, Exception) else None
        number: object = completion.raw.get("id") if completion is not None else None
        order_id = number if isinstance(number, int) else None
        order = completion.order if completion is not None else None
        progress = OrderProgress.of(order) if order is not None else None
        try:
            await to_the_end(self._shared.journal.settle(intent.id, state, order_id=order_id, progress=progress))
        except Exception:
            _logger.exception("intent %s: the journal could not note that it is %s", intent.id, state)

    def _unknown(self, intent: Intent, phase: Phase, evidence: tuple[str, ...]) -> OutcomeUnknown:
        _logger.error("intent %s: it is not known whether it was carried out (%s)", intent.id, phase)
        error = OutcomeUnknown(
            f"it is not known whether intent {intent.id} was carried out: reconcile it, do not repeat it",
            intent,
            phase,
            evidence,
        )
        error.__dict__["_bound"] = self.reconcile
        return error


def _became(flight: _Flight) -> str | None:
    """Return what whoever cancelled a completion should know, or None if nothing was sent."""
    match flight.state:
        case IntentState.CONFIRMED:
            number = flight.result.keys.get("id") if flight.result is not None else None
            return "was confirmed" if number is None else f"was confirmed as order {number}"
        case IntentState.REJECTED:
            return f"was rejected ({type(flight.error).__name__})"
        case IntentState.UNKNOWN:
            return "may have been carried out: find it in complete.pending() and reconcile it"
        case _:
            return None


def _said_by(error: Exception) -> str:
    # Texts of errors that are not ours may hold anything.
    return f"{type(error).__name__}: {error}" if isinstance(error, MintedConnectError) else type(error).__name__
