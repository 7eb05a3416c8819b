"""What the journals in databases have in common: all of `Journal` but how a record comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from minted_connect.completion.journals.statements import Statements, settlement, sighting
from minted_connect.models import Intent, IntentState, OrderProgress

__all__ = ["StoredJournal"]


class StoredJournal(ABC):
    """A journal that opens its database for every operation; `prepare` is its own affair."""

    _sql: ClassVar[Statements]

    async def settle(
        self,
        intent_id: str,
        state: IntentState,
        *,
        order_id: int | None = None,
        progress: OrderProgress | None = None,
    ) -> None:
        """Note what became of an intent."""
        await self._write(self._sql.settle, settlement(intent_id, state, order_id, progress))

    async def note(self, external_customer_id: str, cart_token: str, progress: OrderProgress) -> None:
        """Note what was last seen of an order."""
        await self._write(self._sql.note, sighting(external_customer_id, cart_token, progress))

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Note that a basket is about to be cleared."""
        await self._write(self._sql.fence, {"id": intent_id, "at": at.isoformat()})

    async def holder(self, external_customer_id: str, cart_token: str) -> Intent | None:
        """Return the intent that holds a basket."""
        return next(iter(await self._read(self._sql.holder, customer=external_customer_id, token=cart_token)), None)

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first; those of processes that still run are among them."""
        return await self._read(self._sql.pending)

    async def unfinished(self) -> list[Intent]:
        """Return the confirmed intents with an order that was not seen to be final, oldest first."""
        return await self._read(self._sql.unfinished)

    async def aclose(self) -> None:  # noqa: B027 - there is nothing to let go of
        """Do nothing: no connection outlives an operation."""

    @abstractmethod
    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        """Carry out a statement, durably."""

    @abstractmethod
    async def _read(self, query: str, **values: str) -> list[Intent]:
        """Return what a query finds."""
