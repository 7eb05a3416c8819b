"""One completion from the look at the basket to its outcome: what is done in which order, and what a failure means."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from minted_connect.completion.classify import Fate, classify
from minted_connect.completion.guard import look_again, new_intent, pre_image
from minted_connect.completion.interruption import attach_intent, watch_purchase
from minted_connect.completion.journal import MemoryJournal, already_in_flight, to_the_end
from minted_connect.completion.match import is_about, is_failed, is_order, mapping
from minted_connect.completion.outcomes import Flight, Outcomes, said_by
from minted_connect.completion.reconcile import Finding, ReadBack
from minted_connect.completion.verdict import BasketSeen, Outcome
from minted_connect.core.caller import Caller
from minted_connect.core.replies import Reply
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.core.wire import Progress
from minted_connect.errors import (
    IntegrityError,
    InvalidInput,
    JournalError,
    NotSent,
    Phase,
    PriceFixExpired,
    ProtocolError,
    TransportError,
)
from minted_connect.models import Basket, Completion, Intent, IntentState, Order

__all__ = ["Execution"]

_logger = logging.getLogger("minted_connect.completion")


class Execution:
    """Carries out one completion; its `flight` keeps what became of it."""

    def __init__(self, caller: Caller, outcomes: Outcomes, flight: Flight) -> None:
        self._caller = caller
        self._policy = caller.settings.options.completion
        self._outcomes = outcomes
        self._flight = flight
        self._not_after = 0.0
        self._progress = Progress()

    async def run(self, basket: Basket) -> Completion:
        """Look, write down, send once, and tell what became of it.

        Raises:
            MintedConnectError: what `AsyncComplete.buy` says.
        """
        flight = self._flight
        fresh = await self._look_again(basket)
        known = await pre_image(self._caller, fresh, flight.kind)
        intent = flight.intent = new_intent(fresh, flight.kind, self._caller, known)
        try:
            await self._prepare(intent)
            watch_purchase(flight)
            return await self._send(intent)
        except asyncio.CancelledError as cancelled:
            # Writing into the journal is all that is done now: no second request behind the canceller's back. What
            # was known already stands, and is written down by now.
            if flight.state is None:
                # A cancel scope cancels every await anew; the first cancellation is the one that goes on.
                with suppress(asyncio.CancelledError):
                    if flight.in_doubt or self._progress.phase is not Phase.NOT_SENT:
                        await self._outcomes.doubted(intent, self._progress.phase, ("the call was cancelled",))
                    else:
                        await self._outcomes.settle(intent, IntentState.NOT_SENT)
            if flight.state is not None and (note := flight.became()) is not None:
                attach_intent(cancelled, intent, flight.state, note)
            raise

    async def _look_again(self, basket: Basket) -> Basket:
        try:
            fresh, self._not_after = await look_again(self._caller, basket, self._flight.agreed)
        except InvalidInput:
            # If the journal knows what became of it, that says more than that it is not as it was.
            with suppress(JournalError):
                holder = await self._outcomes.journal.holder(basket.customer.external_id, basket.token)
                if holder is not None:
                    raise already_in_flight(holder) from None
            raise
        return fresh

    async def _prepare(self, intent: Intent) -> None:
        journal = self._outcomes.journal
        if isinstance(journal, MemoryJournal) and not self._caller.is_loopback and not self._outcomes.warned:
            self._outcomes.warned = True
            _logger.warning("money is moved without a journal file: after a crash nobody knows what was under way")
        # To its end, so that a cancelled call leaves no record behind that nobody closes.
        await to_the_end(journal.prepare(intent))
        if self._caller.clock.monotonic() > self._not_after:
            await self._outcomes.settle(intent, IntentState.NOT_SENT)
            raise PriceFixExpired("the price lock ran out while the intent was written down: read the basket again")

    async def _send(self, intent: Intent) -> Completion:
        header = self._policy.idempotency_header
        request = Request(
            OPERATIONS[f"complete.{intent.kind}"],
            body={
                "external_customer_id": intent.external_customer_id,
                "cart_token": intent.cart_token,
                **self._flight.extra,
            },
            headers=None if header is None else {header: intent.id},
        )
        progress = self._progress = Progress()
        try:
            reply = await self._caller.exchange(request, not_after=self._not_after, progress=progress)
        except Exception as error:  # noqa: BLE001 - even one nobody thought of must not hide a purchase
            return await self._failed(intent, error)
        return await self._answered(intent, request, reply)

    async def _failed(self, intent: Intent, error: Exception) -> Completion:
        """Turn the failure of a sending into what it means, or find that it succeeded after all."""
        outcomes, phase = self._outcomes, self._progress.phase
        if isinstance(error, TransportError):
            phase = error.phase
        fate = classify(error, phase, self._policy.refusals)
        if self._flight.in_doubt:
            # A no to the second sending may be the echo of a yes to the first.
            fate = Fate.UNKNOWN
        match fate:
            case Fate.NOT_SENT:
                await outcomes.settle(intent, IntentState.NOT_SENT)
                if isinstance(error, TimeoutError):
                    # A timeout of a completion is either NotSent or OutcomeUnknown, never something in between.
                    raise NotSent(f"nothing was sent: {said_by(error)}") from error
                raise error
            case Fate.REFUSED:
                await outcomes.settle(intent, IntentState.REJECTED, error)
                raise error
            case Fate.READ_BACK:
                finding = await self._look_once(intent)
                if _is_untouched(finding):
                    await outcomes.settle(intent, IntentState.REJECTED, error)
                    raise error
                return await outcomes.weighed(intent, finding, Phase.ANSWERED, error)
            case Fate.UNKNOWN:
                if not self._policy.token_is_single_shot or self._flight.in_doubt:
                    raise await outcomes.doubted(intent, phase, (said_by(error),)) from error
                self._flight.in_doubt = True
                finding = await self._look_once(intent)
                if _is_untouched(finding) and self._caller.clock.monotonic() < self._not_after:
                    return await self._send(intent)
                return await outcomes.weighed(intent, finding, phase, error)

    async def _look_once(self, intent: Intent) -> Finding:
        settings = self._caller.settings
        return await ReadBack(self._caller, intent).once(within=settings.deadline or settings.timeouts.total)

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
            raise await self._outcomes.doubted(intent, Phase.ANSWERED, (said_by(problem),)) from problem
        if is_failed(raw):
            raise await self._outcomes.rejected(intent, order)
        return await self._outcomes.confirmed(intent, order, raw, reconciled=False)


def _is_untouched(finding: Finding) -> bool:
    """Return whether a look showed the whole list of orders without this one, and the basket still open."""
    seen = finding.evidence
    unknown = finding.verdict.outcome is Outcome.UNKNOWN
    return unknown and seen.searched and not seen.likely and seen.basket is BasketSeen.ACTIVE
