"""Writes the outcome of an intent into the journal, and passes it to the callers that wait for the intent.

`outcomes` and `outcome_unknown` decide which errors are raised. `record_refusal` stores a refused purchase as unknown
until its read-back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

import attrs

from minted_connect.clock import SYSTEM_CLOCK, timeout
from minted_connect.completion.in_flight import InFlight, describe_state
from minted_connect.completion.interruption import attach_intent
from minted_connect.core.cancellation import shielded
from minted_connect.core.logs import log_error
from minted_connect.errors import (
    AlreadyInFlight,
    InvalidInput,
    JournalError,
    MintedConnectError,
    NotSent,
)
from minted_connect.journal.protocol import (
    CLOSED,
    INACTIVE,
    Journal,
    JournalAccount,
    ReferenceJournal,
    ReferenceKey,
    already_in_flight_error,
)
from minted_connect.models import Completion, Intent, IntentState, OrderProgress, Refusal

__all__ = ["CLOSING", "Settlement", "describe_error", "describe_intent"]

_logger = logging.getLogger("minted_connect.completion")


CLOSING: Final = 10.0
"""Seconds for completions in flight to end when the client is closed: twice the timeout of a journal operation."""


@attrs.define(eq=False)
class Settlement:
    """The journal and the completions in flight, shared by the clients that `with_options` derives."""

    journal: Journal
    owner: JournalAccount
    """The account of this client."""
    in_flight: dict[tuple[str, str], InFlight] = attrs.field(factory=dict[tuple[str, str], InFlight])
    """By customer id and cart token."""
    has_warned: bool = False
    """Whether the warning about a journal that does not survive a crash was logged."""
    prepared: set[str] = attrs.field(factory=set[str])
    """Ids of the intents that this client prepared and has not settled."""
    has_checked_references: bool = False
    """Whether the journal was found to store references, and none of another user of the same server."""
    on_close: set[Callable[[], Awaitable[object]]] = attrs.field(factory=set[Callable[[], Awaitable[object]]])
    """Called when the client is closed, before its connections are: each ends one reconciler."""
    _others: dict[str, int] = attrs.field(factory=dict[str, int])
    """Number of intents of other accounts that each kind of list left out most recently."""

    @contextmanager
    def registered(self, key: tuple[str, str], call: InFlight) -> Generator[None]:
        """Make a completion available to equal calls inside the `with` block; they get its error or its result.

        Args:
            key: Customer id and cart token.
            call: The completion.
        """
        self.in_flight[key] = call
        try:
            yield
        except Exception as error:
            call.error = error
            raise
        finally:
            del self.in_flight[key]
            call.done.set()

    def check_not_in_flight(self, external_customer_id: str, cart_token: str | None) -> None:
        """Check that this client is not completing a basket.

        Args:
            external_customer_id: The customer.
            cart_token: Of the basket; None = any basket of the customer.

        Raises:
            AlreadyInFlight: if a completion is in flight.
        """
        for (customer, token), call in self.in_flight.items():
            if customer == external_customer_id and cart_token in {token, None}:
                text = "a basket of this customer is being completed by this client: wait for that call"
                raise AlreadyInFlight(text, call.intent.id if call.intent is not None else None)

    def ids_in_flight(self) -> set[str]:
        """Return the ids of the intents that this client is completing."""
        return {one.intent.id for one in self.in_flight.values() if one.intent is not None}

    async def check_no_active_intent(self, external_customer_id: str, cart_token: str) -> None:
        """Check that the journal has no open and no confirmed intent for a basket.

        Raises:
            AlreadyInFlight: if the journal has one.
            JournalError: if the journal cannot be read.
        """
        account = self.owner.account
        active = await self.journal.find_active(external_customer_id, cart_token, account=account)
        if active is not None:
            raise already_in_flight_error(active)

    async def check_no_open_intent(self, external_customer_id: str, since: datetime) -> None:
        """Check that the journal has no open intent of a customer from after `since`, by the server's clock.

        Raises:
            AlreadyInFlight: if it has one.
            JournalError: if the journal cannot be read.
        """
        for intent in await self.journal.pending():
            is_recent = intent.external_customer_id == external_customer_id and intent.created_by_server > since
            if is_recent and self.is_own(intent):
                raise already_in_flight_error(intent, "a basket of this customer")

    async def settle(self, intent: Intent, state: IntentState, result: Completion | Exception | None = None) -> None:
        """Write the outcome into the journal, and make it available to the callers that wait for it.

        A failure of the journal is only logged, because it must not hide the outcome: the intent stays open, which is
        safe.

        Args:
            intent: The intent.
            state: Its outcome.
            result: Returned to, or raised in, every waiting call, even if this call is cancelled while it writes.
        """
        completion = result if isinstance(result, Completion) else None
        in_flight = self._find_in_flight(intent)
        if in_flight is not None:
            in_flight.state, in_flight.result = state, completion
            in_flight.error = result if isinstance(result, Exception) else None
        if state is not IntentState.UNKNOWN:
            self.prepared.discard(intent.id)
        order = completion.order if completion is not None else None
        try:
            await shielded(
                self.journal.settle(
                    intent.id,
                    state,
                    order_id=completion.order_id if completion is not None else None,
                    progress=OrderProgress.of(order) if order is not None else None,
                    # An order that was found with the credentials of this account belongs to it.
                    owner=self.owner if state is IntentState.CONFIRMED else None,
                )
            )
        except asyncio.CancelledError as cancelled:
            # A completion in flight attaches its intent itself. For a reconciliation this is the last chance: once the
            # journal is updated, the intent is no longer pending.
            if in_flight is None and (note := describe_state(state, result)) is not None:
                attach_intent(cancelled, intent, state, note)
            raise
        except Exception:  # noqa: BLE001 - it is logged
            log_error(
                _logger,
                "%s: the journal could not be updated: the intent is %s, but stays pending. It is safe to reconcile "
                "it again",
                describe_intent(intent),
                state,
                exc_info=True,
            )

    async def record_fence(self, intent: Intent, at: datetime) -> None:
        """Write into the journal that the basket of an intent is about to be cleared.

        Raises:
            JournalError: if the journal cannot be written.
            NotSent: if the intent is settled, so that its basket must not be cleared.
        """
        await shielded(self.journal.fence(intent.id, at))
        stored = await self.journal.get(intent.id)
        if stored is not None and stored.state in CLOSED:
            raise NotSent(f"another process has settled intent {intent.id}: the basket may be in use again")

    async def record_refusal(self, intent: Intent, refusal: Refusal) -> Intent:
        """Write the refusal of a completion into the journal, and return the intent with it.

        This comes before the first read-back, so that a later process can settle the refusal. A failure of the journal
        is only logged: the intent then stays open without its refusal.
        """
        refused = attrs.evolve(intent, state=IntentState.UNKNOWN, refusal=refusal)
        if (in_flight := self._find_in_flight(intent)) is not None:
            in_flight.intent = refused
        try:
            await shielded(self.journal.record_refusal(intent.id, refusal))
        except Exception:  # noqa: BLE001 - it is logged
            text = "%s: the journal could not store the refusal of the server"
            log_error(_logger, text, describe_intent(intent), exc_info=True)
        return refused

    async def refresh(self, intent: Intent) -> Intent:
        """Return an intent with its current record: the copy of the caller may be outdated.

        Without a readable record, the caller's copy is used.

        Raises:
            InvalidInput: if the intent belongs to another account.
        """
        try:
            stored = await self.journal.get(intent.id)
        except JournalError:
            stored = None
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

    async def find_successor(self, intent: Intent) -> Intent | None:
        """Return the intent that has the basket of a settled intent now, or None.

        Another process may have settled the intent without an order, and completed its basket again. Without a readable
        journal, none is found.
        """
        try:
            stored = await self.journal.get(intent.id)
            if stored is None or stored.state not in INACTIVE:
                return None
            active = await self.journal.find_active(
                intent.external_customer_id, intent.cart_token, account=self.owner.account
            )
        except JournalError:
            return None
        return active

    async def load(self, intent_id: str) -> Intent:
        """Return an intent by its id.

        Raises:
            InvalidInput: if the journal does not contain it.
            JournalError: if the journal cannot be read.
        """
        stored = await self.journal.get(intent_id)
        if stored is None:
            raise InvalidInput.of("intent_or_error", f"intent {intent_id} is not in this journal")
        return stored

    async def log_double_reference(self, intent: Intent) -> None:
        """Log at ERROR if another intent with the same reference is confirmed, too. Ignore failures of the journal.

        That happens only if an earlier intent was settled without an order, or belonged to another account, and its
        order was found after another one had been made.
        """
        if intent.reference is None or not isinstance(self.journal, ReferenceJournal):
            return
        key = ReferenceKey(intent.reference, self.owner, intent.account or self.owner.account)
        try:
            same = await self.journal.find_by_reference(key)
        except Exception:
            _logger.exception("%s: the intents with its reference could not be read", describe_intent(intent))
            return
        confirmed = [one.id for one in same if one.state == IntentState.CONFIRMED]
        if len(confirmed) > 1:
            log_error(_logger, "one reference was completed more than once: intents %s", ", ".join(confirmed))

    def _find_in_flight(self, intent: Intent) -> InFlight | None:
        in_flight = self.in_flight.get((intent.external_customer_id, intent.cart_token))
        return in_flight if in_flight is not None and in_flight.intent is intent else None

    def check_owner(self, intent: Intent) -> None:
        """Check that an intent belongs to this account or to no account yet.

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
        """Return whether an intent belongs to this account or to no account yet."""
        return intent.account in {self.owner.account, None}

    def filter_own(self, intents: Sequence[Intent], kind: str) -> list[Intent]:
        """Return the intents of this account; log the number of others when it changes.

        Args:
            intents: Intents of one kind.
            kind: Names the kind in the log: `open` or `unfinished`.
        """
        own = [intent for intent in intents if self.is_own(intent)]
        others = len(intents) - len(own)
        if others and others != self._others.get(kind):
            _logger.warning(
                "%d %s intents of other accounts in this journal are left out (all_accounts=True lists them; "
                "complete.adopt() assigns one to this account)",
                others,
                kind,
            )
        self._others[kind] = others
        return own

    async def settle_manually(self, intent: Intent, state: IntentState, order_id: int | None, at: datetime) -> None:
        """Write the outcome that a person found out into the journal.

        Raises:
            JournalError: if the journal cannot be written.
        """
        await shielded(self.journal.settle(intent.id, state, order_id=order_id, owner=self.owner))
        _logger.warning("%s: settled manually as %s", describe_intent(intent), state)
        if isinstance(self.journal, ReferenceJournal) and intent.reference is not None:
            await shielded(self.journal.record_decision(intent.id, at))
        if state is IntentState.CONFIRMED:
            await self.log_double_reference(intent)

    async def adopt(self, intent: Intent) -> Intent:
        """Assign an intent to this account, and return it.

        Raises:
            JournalError: if the journal cannot be written.
        """
        if intent.account != self.owner.account:
            await shielded(self.journal.adopt(intent.id, self.owner))
            _logger.warning(
                "%s: assigned to this account%s",
                describe_intent(intent),
                "" if intent.server in {self.owner.server, None} else "; it was prepared for another server",
            )
        adopted = attrs.evolve(intent, server=self.owner.server, account=self.owner.account)
        if adopted.state == IntentState.CONFIRMED:
            await self.log_double_reference(adopted)
        return adopted

    async def note(self, external_customer_id: str, cart_token: str, progress: OrderProgress) -> None:
        """Save the progress of an order in the journal, if the journal contains its intent."""
        mine = self.owner.account
        await shielded(self.journal.save_progress(external_customer_id, cart_token, progress, account=mine))

    async def end_reconcilers(self) -> None:
        """End the reconcilers of this client, which need its connections and its journal."""
        while self.on_close:
            await self.on_close.pop()()

    async def aclose(self, patience: float = CLOSING, *, close_journal: bool = True) -> None:
        """Wait until the completions in flight have written their outcome; then close the journal.

        Close the connections first, so that no completion still waits for a response.

        Args:
            patience: Seconds to wait; 0 = do not wait.
            close_journal: Whether this client owns the journal.
        """
        in_flight = self.in_flight.values() if patience else ()
        waiters = [asyncio.ensure_future(one.done.wait()) for one in in_flight]
        try:
            if waiters:
                with suppress(TimeoutError):
                    async with timeout(SYSTEM_CLOCK, patience):
                        await asyncio.wait(waiters)
        finally:
            for waiter in waiters:
                waiter.cancel()
            if close_journal:
                await self.journal.aclose()


def describe_intent(intent: Intent) -> str:
    """Return the name of an intent for logs: no customer id and no cart token."""
    return f"{intent.kind} of basket {intent.basket_id}, intent {intent.id}"


def describe_error(error: Exception) -> str:
    """Return class and text of an error; of foreign errors the class only, as their text may contain anything."""
    return f"{type(error).__name__}: {error}" if isinstance(error, MintedConnectError) else type(error).__name__
