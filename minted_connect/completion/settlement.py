"""What became of an intent: said to whoever waits for it, written down, logged, and made into the right error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs

from minted_connect.completion.interruption import attach_intent
from minted_connect.completion.order_match import differences, identifiers
from minted_connect.completion.reconcile import Finding
from minted_connect.completion.verdict import Outcome
from minted_connect.core.cancellation import shielded
from minted_connect.errors import (
    CompletionRejected,
    InvalidInput,
    JournalError,
    MintedConnectError,
    NotExecuted,
    OutcomeUnknown,
    Phase,
)
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.models import Completion, Intent, IntentState, Order, OrderKind, OrderProgress, Refusal

__all__ = ["InFlight", "Settlement", "describe_error", "describe_intent"]

_logger = logging.getLogger("minted_connect.completion")


@attrs.define(eq=False)
class InFlight:
    """One completion under way, and who else waits for it."""

    kind: OrderKind
    agreed: Decimal | None
    extra: Mapping[str, Any]
    seen: tuple[Mapping[str, int], str]
    """Lines and currency of the basket that the caller agreed to."""
    done: asyncio.Event = attrs.field(factory=asyncio.Event)
    intent: Intent | None = None
    state: IntentState | None = None
    """What became of the intent, once that is known: before it is written down."""
    result: Completion | None = None
    error: Exception | None = None

    def describe(self) -> str | None:
        """Return what whoever cancels a completion should know, or None if nothing was sent."""
        return _describe(self.state, self.result or self.error)

    def left_open(self) -> tuple[IntentState, str] | None:
        """Return state and words for an exception that interrupts it now, or None if nothing was sent."""
        state = self.state or IntentState.UNKNOWN
        words = _describe(state, self.result or self.error)
        return None if words is None else (state, words)


@attrs.define(eq=False)
class Settlement:
    """The journal, and the completions under way: what the siblings of one client have in common."""

    journal: Journal
    owner: JournalAccount
    """The account of this client."""
    flights: dict[tuple[str, str], InFlight] = attrs.field(factory=dict[tuple[str, str], InFlight])
    warned: bool = False
    """Whether it was said that nothing survives a crash."""
    prepared: set[str] = attrs.field(factory=set[str])
    """Ids of the intents that were prepared here and are not settled."""
    _others: dict[str, int] = attrs.field(factory=dict[str, int])
    """Number of intents of other accounts that each list left out last."""

    async def settle(self, intent: Intent, state: IntentState, outcome: Completion | Exception | None = None) -> None:
        """Note the outcome. A journal that fails now must not hide it: the record stays open, which is safe.

        Args:
            intent: Whose outcome.
            state: What became of it.
            outcome: What everybody who waits for it gets, also if the call is cancelled over the writing.
        """
        completion = outcome if isinstance(outcome, Completion) else None
        flight = self.flights.get((intent.external_customer_id, intent.cart_token))
        if flight is not None and flight.intent is not intent:
            flight = None
        if flight is not None:
            flight.state, flight.result = state, completion
            flight.error = outcome if isinstance(outcome, Exception) else None
        if state is not IntentState.UNKNOWN:
            self.prepared.discard(intent.id)
        number: object = completion.raw.get("id") if completion is not None else None
        order = completion.order if completion is not None else None
        try:
            await shielded(
                self.journal.settle(
                    intent.id,
                    state,
                    order_id=number if isinstance(number, int) else None,
                    progress=OrderProgress.of(order) if order is not None else None,
                    # An order that was found with the credentials of this account belongs to it.
                    owner=self.owner if state is IntentState.CONFIRMED else None,
                )
            )
        except asyncio.CancelledError as cancelled:
            # Whoever completes is told by the flight. Whoever reconciles is told here or never: what is written down
            # is not pending any more.
            if flight is None and (note := _describe(state, outcome)) is not None:
                attach_intent(cancelled, intent, state, note)
            raise
        except Exception:
            _logger.exception(
                "%s: the journal could not note that it is %s; it stays pending, and reconciling it again is safe",
                describe_intent(intent),
                state,
            )

    async def fence(self, intent: Intent, at: datetime) -> None:
        """Note that the basket is about to be cleared.

        Raises:
            JournalError: it could not be written.
        """
        await shielded(self.journal.fence(intent.id, at))

    async def record_refusal(self, intent: Intent, refusal: Refusal) -> Intent:
        """Store the response that refused a completion before looking for its order; return the intent with it.

        The outcome is not hidden by a journal that fails now: then the intent stays open without its refusal.
        """
        flight = self.flights.get((intent.external_customer_id, intent.cart_token))
        refused = attrs.evolve(intent, state=IntentState.UNKNOWN, refusal=refusal)
        if flight is not None and flight.intent is intent:
            flight.intent = refused
        try:
            await shielded(self.journal.record_refusal(intent.id, refusal))
        except Exception:
            _logger.exception("%s: the journal could not store that it was refused", describe_intent(intent))
        return refused

    async def remembered(self, intent: Intent) -> Intent:
        """Return an intent with what was noted of it since: the caller may have it from before.

        Raises:
            InvalidInput: if it belongs to another account.
        """
        try:
            stored = await self.journal.get(intent.id)
        except JournalError:
            stored = None  # less is known, and nothing wrong
        if stored is not None:
            intent = attrs.evolve(
                intent,
                fenced_at=stored.fenced_at,
                refusal=stored.refusal,
                send_before=stored.send_before,
                server=stored.server,
                account=stored.account,
                state=stored.state,
            )
        self.check_owner(intent)
        return intent

    async def stored(self, intent: Intent) -> Intent:
        """Return an intent as the journal holds it.

        Raises:
            InvalidInput: if the journal does not hold it.
            JournalError: if the journal cannot be read.
        """
        stored = await self.journal.get(intent.id)
        if stored is None:
            raise InvalidInput.of("intent_or_error", f"intent {intent.id} is not in this journal")
        return stored

    def check_owner(self, intent: Intent) -> None:
        """Check that an intent belongs to this account, or to none yet.

        Raises:
            InvalidInput: if it belongs to another account.
        """
        if not self.is_own(intent):
            raise InvalidInput.of(
                "intent_or_error",
                f"intent {intent.id} belongs to another account: use that account's client, or assign it to this one "
                "with complete.adopt(intent)",
            )

    def is_own(self, intent: Intent) -> bool:
        """Return whether an intent belongs to this account, or to none yet."""
        return intent.account in {self.owner.account, None}

    def own(self, intents: Sequence[Intent], what: str) -> list[Intent]:
        """Return the intents of this account, and log how many others are left out when that number changes.

        Args:
            intents: All intents of one kind.
            what: Names that kind in the log: `open` or `unfinished`.
        """
        mine = [intent for intent in intents if self.is_own(intent)]
        others = len(intents) - len(mine)
        if others and others != self._others.get(what):
            _logger.warning(
                "%d %s intents of other accounts in this journal are left out (all_accounts=True lists them; "
                "complete.adopt() assigns one to this account)",
                others,
                what,
            )
        self._others[what] = others
        return mine

    async def resolve(
        self, intent: Intent, finding: Finding, phase: Phase, error: Exception | None = None
    ) -> Completion:
        """Return or raise what reading back showed, once it is noted; `error` is what made it necessary.

        Raises:
            Rejected: the order was made and cancelled.
            NotExecuted: it provably did not happen.
            OutcomeUnknown: still not known.
        """
        raised: MintedConnectError
        match finding.verdict.outcome:
            case Outcome.CONFIRMED:
                return await self.confirmed(intent, finding.order, finding.raw, reconciled=True, notes=finding.notes)
            case Outcome.REJECTED:
                raised = await self.rejected(intent, finding.order, confirmed=finding.confirms_refusal)
            case Outcome.NOT_EXECUTED:
                raised = await self.not_executed(intent, finding.verdict.reason)
            case Outcome.UNKNOWN:
                said = () if error is None else (describe_error(error),)
                raised = await self.mark_unknown(intent, phase, (*said, *finding.notes))
        if error is None:
            raise raised
        raise raised from error

    async def confirmed(
        self,
        intent: Intent,
        order: Order | None,
        raw: Mapping[str, Any],
        *,
        reconciled: bool,
        notes: tuple[str, ...] = (),
    ) -> Completion:
        """Note that the order exists, and return it with what differs from what was agreed to."""
        differing = (*differences(raw, order, intent), *notes)
        completion = Completion(order, identifiers(raw), raw, reconciled, differing)
        for difference in differing:
            _logger.warning("%s: %s", describe_intent(intent), difference)
        if reconciled:
            number = completion.keys.get("id", "without number")
            _logger.warning("%s: settled, it is order %s", describe_intent(intent), number)
        await self.settle(intent, IntentState.CONFIRMED, completion)
        return completion

    async def rejected(self, intent: Intent, order: Order | None, *, confirmed: bool = False) -> CompletionRejected:
        """Note that the order failed, or with `confirmed` that none was made, and return the error that says so."""
        if confirmed and intent.refusal is not None:
            text = f"it was refused with status {intent.refusal.status}, and no order was made"
            rejected = CompletionRejected(f"intent {intent.id}: {text}", None, intent.refusal)
        else:
            text = "the order was made, and cancelled, refused or paid back"
            rejected = CompletionRejected(f"intent {intent.id}: {text}", order)
        _logger.warning("%s: settled, %s", describe_intent(intent), text)
        await self.settle(intent, IntentState.REJECTED, rejected)
        return rejected

    async def not_executed(self, intent: Intent, reason: str) -> NotExecuted:
        """Note that it provably did not happen, and return the error that says so."""
        _logger.warning("%s: settled, it was not carried out: %s", describe_intent(intent), reason)
        error = NotExecuted(f"intent {intent.id}: {reason}", intent)
        await self.settle(intent, IntentState.NOT_EXECUTED, error)
        return error

    async def settle_manually(self, intent: Intent, state: IntentState, order_id: int | None) -> None:
        """Note what a person found out.

        Raises:
            JournalError: it could not be written.
        """
        await shielded(self.journal.settle(intent.id, state, order_id=order_id, owner=self.owner))
        _logger.warning("%s: settled by hand, it is %s", describe_intent(intent), state)

    async def adopt(self, intent: Intent) -> Intent:
        """Assign an intent to this account, and return it.

        Raises:
            JournalError: if it could not be written.
        """
        if intent.account != self.owner.account:
            await shielded(self.journal.adopt(intent.id, self.owner))
            _logger.warning(
                "%s: assigned to this account%s",
                describe_intent(intent),
                "" if intent.server in {self.owner.server, None} else "; it was prepared for another server",
            )
        return attrs.evolve(intent, server=self.owner.server, account=self.owner.account)

    async def mark_unknown(self, intent: Intent, phase: Phase, evidence: tuple[str, ...]) -> OutcomeUnknown:
        """Note that it is not known, and return the error that says so."""
        unknown = OutcomeUnknown(
            f"it is not known whether intent {intent.id} was carried out: reconcile it, do not repeat it",
            intent,
            phase,
            evidence,
        )
        _logger.error(
            "%s: it is not known whether it was carried out (%s; %s). Do not repeat it: reconcile it, with "
            "complete.reconcile() or python -m minted_connect reconcile",
            describe_intent(intent),
            phase,
            "; ".join(evidence),
        )
        # A prepared intent of another process may still be sent: only the client that prepared it knows more.
        if intent.state != IntentState.PREPARED or intent.id in self.prepared:
            await self.settle(intent, IntentState.UNKNOWN, unknown)
        return unknown


def _describe(state: IntentState | None, outcome: Completion | Exception | None) -> str | None:
    """Return in words what became of an intent, or None if nothing was sent."""
    match state:
        case IntentState.CONFIRMED:
            number = outcome.keys.get("id") if isinstance(outcome, Completion) else None
            return "was confirmed" if number is None else f"was confirmed as order {number}"
        case IntentState.REJECTED:
            return f"was rejected ({type(outcome).__name__})"
        case IntentState.NOT_EXECUTED:
            return "was not carried out"
        case IntentState.UNKNOWN:
            return "may have been carried out: find it in complete.pending() and reconcile it"
        case _:
            return None


def describe_intent(intent: Intent) -> str:
    """Return the words that name an intent in the log."""
    # Numbers and ids of ours only: the customer's id and the token stay out of logs.
    return f"{intent.kind} of basket {intent.basket_id}, intent {intent.id}"


def describe_error(error: Exception) -> str:
    """Return what an error says, as far as its text is ours: those of others may hold anything."""
    return f"{type(error).__name__}: {error}" if isinstance(error, MintedConnectError) else type(error).__name__
