"""The common part of the journals in databases: the rules of `Journal`, and noticing that records are lost."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from minted_connect.errors import JournalError
from minted_connect.journal.protocol import CLOSED, JournalAccount
from minted_connect.journal.rows import COLUMNS, UNREADABLE, from_row
from minted_connect.journal.sql import Statements, refusing, settlement, sighting
from minted_connect.models import Intent, IntentState, OrderProgress, Refusal

__all__ = ["StoredJournal"]

_logger = logging.getLogger("minted_connect.completion")

_ID = COLUMNS.index("id")


class StoredJournal(ABC):
    """A journal that opens its database for every operation; `prepare` is up to the subclass.

    It remembers which intents this object prepared. If one of them is found missing, the database was deleted, emptied
    or replaced in the meantime, and this object prepares nothing more.
    """

    _sql: ClassVar[Statements]
    _place: str
    """Name of the file or database, without secrets."""

    def __init__(self) -> None:
        self._prepared: set[str] = set()
        """Open intents that this object wrote."""
        self._latest: str | None = None
        """The intent that this object wrote last, in any state."""
        self._lost: str | None = None
        """The reason why nothing is prepared any more."""
        self._unreadable: dict[str, tuple[str, ...]] = {}

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Ids of the records that the latest `pending` and `unfinished` could not read, and left out.

        Such a record may be an open purchase. `settle` takes its id as that of any other.
        """
        return tuple(dict.fromkeys(one for ids in self._unreadable.values() for one in ids))

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
        await self._write(self._sql.settle, settlement(intent_id, state, order_id, progress, owner))
        if state in CLOSED:
            self._prepared.discard(intent_id)

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store the response that refused an open intent."""
        await self._write(self._sql.refuse, refusing(intent_id, refusal))

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account."""
        await self._write(self._sql.adopt, {"id": intent_id, "server": owner.server, "account": owner.account})

    async def note(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Note what was last seen of an order."""
        await self._write(self._sql.note, sighting(external_customer_id, cart_token, progress, account))

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Note that a basket is about to be cleared."""
        await self._write(self._sql.fence, {"id": intent_id, "at": at.isoformat()})
        if self._lost is not None and intent_id in self._prepared:
            # Without a record, the emptied basket would look like one that became an order.
            raise JournalError(self._lost)

    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id."""
        return self._first(await self._read("get", {"id": intent_id}))

    async def holder(self, external_customer_id: str, cart_token: str, *, account: str | None = None) -> Intent | None:
        """Return the intent that holds a basket."""
        basket = {"customer": external_customer_id, "token": cart_token, "account": account}
        return self._first(await self._read("holder", basket))

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first; those of processes that still run are among them.

        Records that cannot be read are left out, logged, and listed in `unreadable`.
        """
        return self._listed("pending", await self._read("pending", {}))

    async def unfinished(self) -> list[Intent]:
        """Return the confirmed intents with an order that was not seen to be final, oldest first.

        Records that cannot be read are left out, logged, and listed in `unreadable`.
        """
        return self._listed("unfinished", await self._read("unfinished", {}))

    async def aclose(self) -> None:  # noqa: B027 - there may be nothing to release
        """Do nothing: no connection outlives an operation."""

    @abstractmethod
    async def _write(self, statement: str, values: Mapping[str, Any]) -> None:
        """Carry out a statement, durably.

        If it changes no row, and names an intent that was prepared here and does not exist any more, that is reported
        by `_report_missing`. The same goes for a database that is lost; then the statement of such an intent does not
        raise, because the outcome that it carries must reach the caller.
        """

    @abstractmethod
    async def _read(self, query: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Return the rows of a query of `Statements`."""

    def _check_not_lost(self) -> None:
        if self._lost is not None:
            raise JournalError(self._lost)

    def _remember(self, intent: Intent) -> None:
        """Remember an intent that was written."""
        self._prepared.add(intent.id)
        self._latest = intent.id

    def _report_lost(self, how: str) -> JournalError:
        """Prepare nothing from now on, and return the error that says so."""
        self._lost = (
            f"the journal {self._place} {how}. Nothing is sent with it any more: restore it, or find out which orders "
            "were made since; then build a new client"
        )
        return JournalError(self._lost)

    def _report_missing(self, intent_id: str) -> None:
        """Log that the record of an intent that was prepared here is lost."""
        if self._lost is None:
            self._report_lost(f"does not hold intent {intent_id} any more, which was written here")
        _logger.error(
            "intent %s: its record is lost, and its outcome cannot be noted: the journal %s was deleted, emptied or "
            "replaced while in use. Nothing more is sent until a new client is built",
            intent_id,
            self._place,
        )

    def _first(self, rows: Sequence[Sequence[Any]]) -> Intent | None:
        """Return the intent of the only row, if there is one.

        Raises:
            JournalError: if it cannot be read.
        """
        if not rows:
            return None
        try:
            return from_row(rows[0])
        except UNREADABLE:
            pass
        raise JournalError(
            f"the journal {self._place} holds a record that cannot be read: intent {_id_of(rows[0])}. Find out what "
            "became of it, and settle it by its id"
        )

    def _listed(self, query: str, rows: Sequence[Sequence[Any]]) -> list[Intent]:
        intents: list[Intent] = []
        unreadable: list[str] = []
        for row in rows:
            try:
                intents.append(from_row(row))
            except UNREADABLE:
                unreadable.append(_id_of(row))
        self._unreadable[query] = tuple(unreadable)
        if unreadable:
            _logger.error(
                "the journal %s holds records that cannot be read, and %s: intents %s",
                self._place,
                "may be open purchases" if query == "pending" else "are confirmed purchases",
                ", ".join(unreadable),
            )
        return intents


def _id_of(row: Sequence[Any]) -> str:
    intent_id = row[_ID]
    return intent_id if isinstance(intent_id, str) else repr(intent_id)
