"""The write-ahead journal: what a completion is about to do is written down before its first byte is sent.

A record that is still open - prepared or unknown - may have been sent: after a crash it is all that tells a purchase
that happened from one that did not. One basket has at most one open or confirmed record, which keeps a second task,
process or worker from completing it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, Protocol, TypeVar, runtime_checkable

import anyio
import attrs

from minted_connect.errors import AlreadyInFlight
from minted_connect.models import Intent, IntentState

__all__ = ["HOLDING", "OPEN", "Journal", "MemoryJournal", "already_in_flight", "to_the_end"]

_T = TypeVar("_T")

OPEN: Final = frozenset({IntentState.PREPARED, IntentState.UNKNOWN})
"""States in which it may have been sent and nobody knows what came of it."""

HOLDING: Final = OPEN | {IntentState.CONFIRMED}
"""States that keep every other completion of the same basket out."""


@runtime_checkable
class Journal(Protocol):
    """Where intents are written down. Bring your own by offering these four methods."""

    async def prepare(self, intent: Intent) -> None:
        """Write an intent down, durably before returning.

        Raises:
            AlreadyInFlight: an open or confirmed intent for the same customer and cart token is written down.
            JournalError: it could not be made durable.
        """
        ...

    async def settle(self, intent_id: str, state: IntentState, *, order_id: int | None = None) -> None:
        """Note what became of an intent.

        An intent that is not open any more stays as it is, unless `state` is confirmed: an order that was found
        outweighs every earlier verdict. It does so even if another intent holds the basket by now: that one stays open
        until it is settled itself. An id that is not written down here is ignored (it is another journal's).

        Raises:
            JournalError: it could not be written.
        """
        ...

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first: after a crash, those whose outcome has to be found out.

        Raises:
            JournalError: it could not be read.
        """
        ...

    async def aclose(self) -> None:
        """Let go of whatever is held; repeating it does nothing."""
        ...


class MemoryJournal:
    """A journal that ends with the process: it keeps tasks apart, and cannot tell anything after a crash."""

    def __init__(self) -> None:
        self._intents: dict[str, Intent] = {}
        self._orders: dict[str, int | None] = {}
        self._holders: dict[tuple[str, str], str] = {}

    async def prepare(self, intent: Intent) -> None:
        """Keep an intent until the process ends."""
        key = (intent.external_customer_id, intent.cart_token)
        holder = self._intents.get(self._holders.get(key, ""))
        if holder is not None and holder.state in HOLDING:
            raise already_in_flight(holder.id, holder.state, self._orders.get(holder.id))
        self._intents[intent.id] = intent
        self._holders[key] = intent.id

    async def settle(self, intent_id: str, state: IntentState, *, order_id: int | None = None) -> None:
        """Note what became of an intent."""
        intent = self._intents.get(intent_id)
        if intent is not None and (intent.state in OPEN or state is IntentState.CONFIRMED):
            self._intents[intent_id] = attrs.evolve(intent, state=state)
            self._orders[intent_id] = order_id
            if state is IntentState.CONFIRMED:
                self._holders[intent.external_customer_id, intent.cart_token] = intent_id

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first."""
        return [intent for intent in self._intents.values() if intent.state in OPEN]

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of."""


def already_in_flight(intent_id: str, state: str, order_id: int | None) -> AlreadyInFlight:
    """Build the error that names the intent holding a basket, and what to do about it."""
    if state == IntentState.CONFIRMED:
        became = "an order" if order_id is None else f"order {order_id}"
        return AlreadyInFlight(f"this basket was completed already (intent {intent_id}): it is {became}")
    return AlreadyInFlight(
        f"this basket is being completed, or its outcome is not known yet (intent {intent_id}): "
        "find it in complete.pending() and reconcile it"
    )


async def to_the_end(work: Awaitable[_T]) -> _T:
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
