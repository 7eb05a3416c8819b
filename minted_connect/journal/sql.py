"""The part that all SQL journals share: the statements, and the detection of lost records."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final, Self

import attrs

from minted_connect.core.logs import log_error
from minted_connect.errors import JournalError
from minted_connect.journal.protocol import CLOSED, INACTIVE, JournalAccount, ReferenceKey
from minted_connect.journal.rows import (
    COLUMNS,
    ROW_ERRORS,
    dump_order_id,
    dump_progress,
    dump_refusal,
    from_row,
    to_row,
)
from minted_connect.models import Intent, IntentState, OrderProgress, Refusal

__all__ = [
    "AWAITS_COMPLETION",
    "IS_ACTIVE",
    "IS_OPEN",
    "SqlJournal",
    "Statements",
    "basket_params",
    "insert_params",
    "missing_reason",
    "reference_params",
    "settle_params",
    "state_literals",
]

_logger = logging.getLogger("minted_connect.completion")

_ID: Final = COLUMNS.index("id")

_CONFIRMED: Final = f"'{IntentState.CONFIRMED}'"


def state_literals(states: Collection[IntentState]) -> str:
    """Return states as a comma-separated list of SQL string literals."""
    return ", ".join(f"'{state}'" for state in sorted(states))


# Negated lists, so that a state that this version does not know counts as open.
IS_OPEN: Final = f"state NOT IN ({state_literals(CLOSED)})"
"""Condition: the outcome is not known."""

IS_ACTIVE: Final = f"state NOT IN ({state_literals(INACTIVE)})"
"""Condition: no other completion of the same basket is allowed."""

AWAITS_COMPLETION: Final = f"state = {_CONFIRMED} AND NOT finished"
"""Condition: the order is not known to be final. A partial index covers exactly these rows."""


@attrs.frozen
class Statements:
    """The SQL statements of a journal, with the placeholders of its database driver."""

    insert: str
    find_active: str
    settle: str
    save_progress: str
    fence: str
    record_refusal: str
    adopt: str
    get: str
    exists: str
    pending: str
    awaiting_completion: str
    find_by_reference: str
    other_references: str
    same_references: str
    record_decision: str

    @classmethod
    def build(cls, *, table: str, sequence: str, placeholder: str = r":\1") -> Self:
        """Build the statements for one database.

        Args:
            table: Name of the table, or a subquery.
            sequence: Column that increases with every inserted row.
            placeholder: Replaces `:name`; a template of `re.sub`.
        """
        columns = ", ".join(COLUMNS)
        is_basket = "external_customer_id = :customer AND cart_token = :token"
        is_own = "(account = :account OR account IS NULL)"
        is_other = "server = :server AND account NOT IN (:account, :unnamed)"
        # Nothing interpolated here is input: names and states are constants, and values are bound.
        statements = {
            "insert": f"INSERT INTO {table} ({columns}) VALUES (:{', :'.join(COLUMNS)})",  # noqa: S608
            "find_active": f"SELECT {columns} FROM {table} WHERE {is_basket} AND {is_own} AND {IS_ACTIVE} "  # noqa: S608
            f"ORDER BY state = {_CONFIRMED} DESC LIMIT 1",
            "settle": f"UPDATE {table} SET state = :state, order_id = coalesce(:order_id, order_id), "  # noqa: S608
            "progress = coalesce(:progress, progress), finished = coalesce(:finished, finished), "
            "server = CASE WHEN account IS NULL THEN coalesce(:server, server) ELSE server END, "
            f"account = coalesce(account, :account) WHERE id = :id AND ({IS_OPEN} OR :state = {_CONFIRMED})",
            "save_progress": f"UPDATE {table} SET progress = :progress, finished = :finished "  # noqa: S608
            f"WHERE {is_basket} AND {is_own} AND state = {_CONFIRMED}",
            "fence": f"UPDATE {table} SET fenced_at = coalesce(fenced_at, :at) WHERE id = :id AND {IS_OPEN}",  # noqa: S608
            "record_refusal": f"UPDATE {table} SET refusal = :refusal, state = '{IntentState.UNKNOWN}' "  # noqa: S608
            f"WHERE id = :id AND {IS_OPEN}",
            "adopt": f"UPDATE {table} SET server = :server, account = :account WHERE id = :id",  # noqa: S608
            "get": f"SELECT {columns} FROM {table} WHERE id = :id",  # noqa: S608
            "exists": f"SELECT 1 FROM {table} WHERE id = :id",  # noqa: S608
            "pending": f"SELECT {columns} FROM {table} WHERE {IS_OPEN} ORDER BY {sequence}",  # noqa: S608
            "awaiting_completion": f"SELECT {columns} FROM {table} WHERE {AWAITS_COMPLETION} "  # noqa: S608
            f"ORDER BY {sequence}",
            "find_by_reference": f"SELECT {columns} FROM {table} WHERE account IN (:account, :unnamed) "  # noqa: S608
            f"AND reference = :reference ORDER BY {sequence}",
            "other_references": f"SELECT id FROM {table} WHERE reference IS NOT NULL AND {is_other} LIMIT 5",  # noqa: S608
            "same_references": f"SELECT id FROM {table} WHERE reference = :reference AND {is_other} LIMIT 5",  # noqa: S608
            "record_decision": f"UPDATE {table} SET decided_at = :at WHERE id = :id",  # noqa: S608
        }
        return cls(**{name: re.sub(r":(\w+)", placeholder, text) for name, text in statements.items()})


def insert_params(intent: Intent) -> Mapping[str, Any]:
    """Return the parameters of `Statements.insert`."""
    return dict(zip(COLUMNS, to_row(intent), strict=True))


def settle_params(
    intent_id: str,
    state: IntentState,
    order_id: int | None = None,
    progress: OrderProgress | None = None,
    owner: JournalAccount | None = None,
) -> Mapping[str, Any]:
    """Return the parameters of `Statements.settle`."""
    return {
        "id": intent_id,
        "state": str(state),
        "order_id": dump_order_id(order_id),
        "progress": dump_progress(progress),
        "finished": None if progress is None else progress.is_final,
        "server": owner.server if owner else None,
        "account": owner.account if owner else None,
    }


def basket_params(external_customer_id: str, cart_token: str, account: str | None) -> Mapping[str, Any]:
    """Return the parameters that select the intents of a basket."""
    return {"customer": external_customer_id, "token": cart_token, "account": account}


def reference_params(key: ReferenceKey) -> Mapping[str, Any]:
    """Return the parameters that select the intents with a reference, own and others'."""
    return {
        "reference": key.reference,
        "server": key.owner.server,
        "account": key.owner.account,
        "unnamed": key.unnamed_account,
    }


def missing_reason(intent_id: str) -> str:
    """Return the reason for `SqlJournal._report_lost` if an intent that was stored is missing."""
    return f"no longer contains intent {intent_id}, which was written here"


class SqlJournal(ABC):
    """Base class of the SQL journals. Every operation opens the database; subclasses implement `prepare`.

    It remembers which intents this object prepared. If one of them is missing, the database was deleted, emptied or
    replaced while in use, and this object prepares nothing more.
    """

    _statements: ClassVar[Statements]
    _location: str
    """The file or database as shown in messages, without secrets."""

    def __init__(self) -> None:
        self._prepared: set[str] = set()
        """Ids of the intents that this object prepared and did not settle with a known outcome."""
        self._last_prepared: str | None = None
        """Id of the last intent that this object prepared, in any state."""
        self._loss: str | None = None
        """Message of the error that `prepare` raises once the database is lost."""
        self._unreadable: dict[str, tuple[str, ...]] = {}

    @property
    def location(self) -> str:
        """The absolute path of the file, or the URL of the database without user name and password."""
        return self._location

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Ids of the records that the last `pending` and `awaiting_completion` left out as unreadable.

        Such a record may be an open purchase. `settle` accepts its id.
        """
        return tuple(dict.fromkeys(intent_id for ids in self._unreadable.values() for intent_id in ids))

    async def settle(
        self,
        intent_id: str,
        state: IntentState,
        *,
        order_id: int | None = None,
        progress: OrderProgress | None = None,
        owner: JournalAccount | None = None,
    ) -> None:
        """Store the outcome of an intent."""
        await self._write(self._statements.settle, settle_params(intent_id, state, order_id, progress, owner))
        if state in CLOSED:
            self._prepared.discard(intent_id)

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store the response that refused an open intent."""
        await self._write(self._statements.record_refusal, {"id": intent_id, "refusal": dump_refusal(refusal)})

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account."""
        await self._write(self._statements.adopt, {"id": intent_id, "server": owner.server, "account": owner.account})

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Store the last known state of an order."""
        seen = {"progress": dump_progress(progress), "finished": progress.is_final}
        basket = basket_params(external_customer_id, cart_token, account)
        await self._write(self._statements.save_progress, {**basket, **seen})

    async def fence(self, intent_id: str, at: datetime) -> None:
        """Store that a basket is about to be cleared."""
        await self._write(self._statements.fence, {"id": intent_id, "at": at.isoformat()})
        if self._loss is not None and intent_id in self._prepared:
            # Without this record, a cleared basket could not be told from one that became an order.
            raise JournalError(self._loss, is_lost=True)

    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id, or None."""
        return self._load_first(await self._read("get", {"id": intent_id}))

    async def find_active(
        self, external_customer_id: str, cart_token: str, *, account: str | None = None
    ) -> Intent | None:
        """Return the open or confirmed intent for a basket, or None."""
        basket = basket_params(external_customer_id, cart_token, account)
        return self._load_first(await self._read("find_active", basket))

    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first, including those that running processes are completing.

        Unreadable records are left out, logged, and listed in `unreadable`.
        """
        return self._load_all("pending", await self._read("pending", {}))

    async def awaiting_completion(self) -> list[Intent]:
        """Return the confirmed intents whose order is not known to be final, oldest first.

        Unreadable records are left out, logged, and listed in `unreadable`.
        """
        return self._load_all("awaiting_completion", await self._read("awaiting_completion", {}))

    async def find_by_reference(self, key: ReferenceKey) -> list[Intent]:
        """Return the intents with a reference, oldest first."""
        return self._load_attempts(await self._read("find_by_reference", reference_params(key)))

    async def find_other_references(self, key: ReferenceKey, *, same: bool = False) -> list[str]:
        """Return the ids of some intents with references that belong to other accounts of the same server."""
        rows = await self._read("same_references" if same else "other_references", reference_params(key))
        return [row[0] for row in rows]

    async def record_decision(self, intent_id: str, at: datetime) -> None:
        """Store that a person has settled an intent."""
        await self._write(self._statements.record_decision, {"id": intent_id, "at": at.isoformat()})

    async def aclose(self) -> None:  # noqa: B027 - a subclass may have nothing to release
        """Do nothing: no connection outlives an operation."""

    @abstractmethod
    async def _write(self, statement: str, params: Mapping[str, Any]) -> None:
        """Execute a statement durably.

        If the statement names an intent that this object prepared, and its record or the whole database is lost, the
        implementation calls `_report_missing` instead of raising, because the outcome must reach the caller.
        """

    @abstractmethod
    async def _read(self, query: str, params: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Return the rows of a query, given as the name of a field of `Statements`."""

    def _raise_if_lost(self) -> None:
        if self._loss is not None:
            raise JournalError(self._loss, is_lost=True)

    def _remember(self, intent: Intent) -> None:
        """Remember an intent that was stored durably."""
        self._prepared.add(intent.id)
        self._last_prepared = intent.id

    def _report_lost(self, reason: str) -> JournalError:
        """Stop preparing intents, and return the error to raise. `reason` completes "the journal PATH ..."."""
        self._loss = (
            f"the journal {self._location} {reason}. Nothing is sent with it any more: restore it, or find out which "
            "orders were made since; then build a new client"
        )
        return JournalError(self._loss, is_lost=True)

    def _report_missing(self, intent_id: str) -> None:
        """Stop preparing intents, and log that the record of an intent that was prepared here is lost."""
        if self._loss is None:
            self._report_lost(missing_reason(intent_id))
        log_error(
            _logger,
            "intent %s: its record is lost, so its outcome cannot be stored: the journal %s was deleted, emptied or "
            "replaced while in use. Nothing more is sent until a new client is built",
            intent_id,
            self._location,
        )

    def _newer_schema(self, version: int, known: int) -> JournalError:
        return JournalError(
            f"the journal {self._location} has schema {version}, this library knows {known}: upgrade the library"
        )

    def _load_first(self, rows: Sequence[Sequence[Any]]) -> Intent | None:
        """Return the intent of the first row, or None without rows.

        Raises:
            JournalError: if the row is unreadable.
        """
        remedy = "Find out the outcome, and settle the intent by its id"
        return next(iter(self._load_each(rows[:1], remedy)), None)

    def _load_attempts(self, rows: Sequence[Sequence[Any]]) -> list[Intent]:
        """Return the intents of one reference.

        Raises:
            JournalError: if a row is unreadable, whatever its state: its terms and keys are not known.
        """
        return self._load_each(rows, "Nothing is sent for its reference: repair the record, or use another reference")

    def _load_each(self, rows: Sequence[Sequence[Any]], remedy: str) -> list[Intent]:
        intents: list[Intent] = []
        for row in rows:
            try:
                intents.append(from_row(row))
            except ROW_ERRORS:
                break
        else:
            return intents
        # Outside `except`: the message of the original error may quote values of the row.
        raise JournalError(
            f"the journal {self._location} contains a record that cannot be read: intent {_id_of(row)}. {remedy}"
        )

    def _load_all(self, query: str, rows: Sequence[Sequence[Any]]) -> list[Intent]:
        intents: list[Intent] = []
        unreadable: list[str] = []
        for row in rows:
            try:
                intents.append(from_row(row))
            except ROW_ERRORS:
                unreadable.append(_id_of(row))
        self._unreadable[query] = tuple(unreadable)
        if unreadable:
            log_error(
                _logger,
                "the journal %s contains records that cannot be read, and %s: intents %s",
                self._location,
                "may be open purchases" if query == "pending" else "are confirmed purchases",
                ", ".join(unreadable),
            )
        return intents


def _id_of(row: Sequence[Any]) -> str:
    intent_id = row[_ID]
    return intent_id if isinstance(intent_id, str) else repr(intent_id)
