"""The write-ahead journal: what a completion is about to do is written down before its first byte is sent.

A record that is still open - prepared or unknown - may have been sent: after a crash it is all that tells a purchase
that happened from one that did not. One basket has at most one open or confirmed record, which keeps a second task,
process or machine from completing it again. A confirmed record also keeps how far its order has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import datetime
from typing import Final, Protocol, TypeVar, runtime_checkable

import anyio
import attrs

from minted_connect.errors import AlreadyInFlight
from minted_connect.models import Intent, IntentState, OrderProgress, Refusal

__all__ = [
    "CLOSED",
    "FREE",
    "HOLDING",
    "OPEN",
    "Journal",
    "JournalAccount",
    "MemoryJournal",
    "already_in_flight",
    "shielded",
]

_T = TypeVar("_T")

OPEN: Final = frozenset({IntentState.PREPARED, IntentState.UNKNOWN})
"""States in which it may have been sent and nobody knows what came of it."""

HOLDING: Final = OPEN | {IntentState.CONFIRMED}
"""States that keep every other completion of the same basket out."""

FREE: Final = frozenset({IntentState.REJECTED, IntentState.NOT_SENT, IntentState.NOT_EXECUTED})
"""States after which the basket may be completed again."""

CLOSED: Final = FREE | {IntentState.CONFIRMED}
"""States whose outcome is known. Any other stored state counts as open."""

_REMEMBERED: Final = 10_000


@attrs.frozen
class JournalAccount:
    """The server and the account that an intent belongs to, as hashes."""

    server: str
    account: str


@runtime_checkable
class Journal(Protocol):
    """A store of intents. An object of your own can take its place if it has these methods.

    One journal may hold the intents of several accounts. An intent without an account was written by an older schema:
    it counts as one of every account until `settle` or `adopt` assigns it.

    A journal may leave records that it cannot read out of its lists. It then offers their ids as the attribute
    `unreadable`, a tuple of strings, so that they are not mistaken for closed ones.
    """

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, durably before returning.

        Raises:
            AlreadyInFlight: if an open or confirmed intent for the same customer and cart token is stored, of the same
                account or without one.
            JournalError: if it could not be made durable, or if this journal has lost a record that it had written.
        """
        ...

    async def settle(
        self,
        intent_id: str,
        state: IntentState,
        *,
        order_id: int | None = None,
        progress: OrderProgress | None = None,
        owner: JournalAccount | None = None,
    ) -> None:
        """Note what became of an intent, and of a confirmed one the order and what was seen of it.

        An intent that is not open any more stays as it is, unless `state` is confirmed: an order that was found
        outweighs every earlier verdict. It does so even if another intent holds the basket by now: that one stays open
        until it is settled itself. An id that is not written down here is ignored (it is another journal's), unless
        this object prepared it: then the journal has lost it, which is logged, and `prepare` raises from then on.

        Args:
            intent_id: The intent.
            state: The new state.
            order_id: Number of the order.
            progress: Last seen state of the order.
            owner: Assigned to the intent if it has no account yet.

        Raises:
            JournalError: it could not be written.
        """
        ...

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store the response that refused an open intent, durably before returning; its state becomes unknown.

        Raises:
            JournalError: if it could not be written.
        """
        ...

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account, whichever account it had.

        Raises:
            JournalError: if it could not be written.
        """
        ...

    async def note(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Note what was last seen of the order that this basket became; without a confirmed intent, nothing.

        Raises:
            JournalError: it could not be written.
        """
        ...

    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id in any state, or None.

        Raises:
            JournalError: if it could not be read.
        """
        ...

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Note that the basket of an open intent is about to be cleared, durably before returning.

        The first time stays. After a crash it is all that tells a basket that was emptied so from one that became an
        order.

        Raises:
            JournalError: it could not be made durable.
        """
        ...

    async def holder(self, external_customer_id: str, cart_token: str, *, account: str | None = None) -> Intent | None:
        """Return the intent that keeps others from completing this basket, a confirmed one before an open one.

        Only intents of this account and those without one count.

        Raises:
            JournalError: it could not be read.
        """
        ...

    async def pending(self) -> list[Intent]:
        """Return the open intents of all accounts, oldest first.

        Raises:
            JournalError: it could not be read.
        """
        ...

    async def unfinished(self) -> list[Intent]:
        """Return the confirmed intents of all accounts whose order was not seen to be final yet, oldest first.

        Raises:
            JournalError: it could not be read.
        """
        ...

    async def aclose(self) -> None:
        """Let go of whatever is held; repeating it does nothing."""
        ...


class MemoryJournal:
    """A journal that ends with the process: it keeps tasks apart, and cannot tell anything after a crash.

    Of closed intents it remembers the latest 10,000, so that a process may run for years. A basket that was completed
    longer ago is refused by the server alone.
    """

    def __init__(self) -> None:
        self._open: dict[str, Intent] = {}
        self._closed: dict[str, Intent] = {}
        self._by_basket: dict[tuple[str, str], list[str]] = {}

    async def prepare(self, intent: Intent) -> None:
        """Keep an intent until the process ends."""
        holder = await self.holder(intent.external_customer_id, intent.cart_token, account=intent.account)
        if holder is not None:
            raise already_in_flight(holder)
        self._open[intent.id] = intent
        self._by_basket.setdefault((intent.external_customer_id, intent.cart_token), []).append(intent.id)

    async def settle(
        self,
        intent_id: str,
        state: IntentState,
        *,
        order_id: int | None = None,
        progress: OrderProgress | None = None,
        owner: JournalAccount | None = None,
    ) -> None:
        """Note what became of an intent."""
        intent = self._open.get(intent_id)
        if intent is None and state is IntentState.CONFIRMED:
            intent = self._closed.get(intent_id)
        if intent is None:
            return
        settled = attrs.evolve(
            _assigned(intent, owner if intent.account is None else None),
            state=state,
            order_id=order_id or intent.order_id,
            progress=progress or intent.progress,
        )
        if state in OPEN:
            self._open[intent_id] = settled
            return
        self._open.pop(intent_id, None)
        self._closed[intent_id] = settled
        if len(self._closed) > _REMEMBERED:
            oldest = self._closed.pop(next(iter(self._closed)))
            basket = (oldest.external_customer_id, oldest.cart_token)
            self._by_basket[basket].remove(oldest.id)
            if not self._by_basket[basket]:
                del self._by_basket[basket]

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store the response that refused an open intent."""
        intent = self._open.get(intent_id)
        if intent is not None:
            self._open[intent_id] = attrs.evolve(intent, state=IntentState.UNKNOWN, refusal=refusal)

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account."""
        for intents in (self._open, self._closed):
            if intent_id in intents:
                intents[intent_id] = _assigned(intents[intent_id], owner)

    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id."""
        return self._open.get(intent_id) or self._closed.get(intent_id)

    async def note(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Note what was last seen of an order."""
        for intent in self._of(external_customer_id, cart_token, account):
            if intent.state == IntentState.CONFIRMED:
                self._closed[intent.id] = attrs.evolve(intent, progress=progress)

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Note that a basket is about to be cleared."""
        intent = self._open.get(intent_id)
        if intent is not None and intent.fenced_at is None:
            self._open[intent_id] = attrs.evolve(intent, fenced_at=at)

    async def holder(self, external_customer_id: str, cart_token: str, *, account: str | None = None) -> Intent | None:
        """Return the intent that holds a basket."""
        mine = self._of(external_customer_id, cart_token, account)
        holding = [intent for intent in mine if intent.state in HOLDING]
        return min(holding, key=lambda intent: intent.state != IntentState.CONFIRMED, default=None)

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first."""
        return list(self._open.values())

    async def unfinished(self) -> list[Intent]:
        """Return the confirmed intents with an order that was not seen to be final, oldest first."""
        confirmed = (intent for intent in self._closed.values() if intent.state == IntentState.CONFIRMED)
        return [intent for intent in confirmed if intent.progress is None or not intent.progress.is_final]

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of."""

    def _of(self, external_customer_id: str, cart_token: str, account: str | None) -> list[Intent]:
        ids = self._by_basket.get((external_customer_id, cart_token), ())
        intents = [self._open.get(one) or self._closed[one] for one in ids]
        return [intent for intent in intents if intent.account in {account, None}]


def _assigned(intent: Intent, owner: JournalAccount | None) -> Intent:
    return intent if owner is None else attrs.evolve(intent, server=owner.server, account=owner.account)


def already_in_flight(holder: Intent) -> AlreadyInFlight:
    """Build the error that names the intent holding a basket, and what to do about it."""
    if holder.state == IntentState.CONFIRMED:
        became = "an order" if holder.order_id is None else f"order {holder.order_id}"
        text = f"this basket was completed already (intent {holder.id}): it is {became}"
    else:
        text = (
            f"this basket is being completed, or its outcome is not known yet (intent {holder.id}): "
            "find it in complete.pending() and reconcile it"
        )
    return AlreadyInFlight(text, holder.id, holder.order_id)


async def shielded(work: Awaitable[_T]) -> _T:
    """Await local work that must not be left half done: a cancellation waits for its end, then goes on.

    So do all further ones: what is written next may not overtake it.

    For the journal only, which answers within its patience; never for a request.
    """
    future = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # seen, so that the loop does not complain that nobody asked
        raise
