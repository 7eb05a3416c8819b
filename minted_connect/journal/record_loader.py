"""Converts rows of a database to intents and claims, and reports those that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from minted_connect.core.logs import log_error
from minted_connect.errors import JournalError
from minted_connect.journal.claims import StoredClaim
from minted_connect.journal.protocol import JournalAccount
from minted_connect.journal.rows import COLUMNS, ROW_ERRORS, from_row
from minted_connect.journal.sql_claims import claim_from_row
from minted_connect.journal.steps import Rows
from minted_connect.models import Intent

__all__ = ["RecordLoader"]

_logger = logging.getLogger("minted_connect.completion")

_ID: Final = COLUMNS.index("id")


class RecordLoader:
    """Base class of `SqlJournal`."""

    _location: str
    """The file or database as shown in messages, without secrets."""
    _unreadable: dict[str, tuple[str, ...]]
    """By name of a query, the ids of the records that it left out as unreadable."""

    def _load_first(self, rows: Rows) -> Intent | None:
        """Return the intent of the first row, or None without rows.

        Raises:
            JournalError: if the row is unreadable.
        """
        remedy = "Find out the outcome, and settle the intent by its id"
        return next(iter(self._load_each(rows[:1], remedy)), None)

    def _load_attempts(self, rows: Rows) -> list[Intent]:
        """Return the intents of one reference.

        Raises:
            JournalError: if a row is unreadable, in any state: its terms and keys are not known.
        """
        return self._load_each(rows, "Nothing is sent for its reference: repair the record, or use another reference")

    def _load_claims(self, rows: Rows, owner: JournalAccount, unnamed_account: str) -> list[StoredClaim]:
        with suppress(*ROW_ERRORS):
            return [claim_from_row(row, owner.server, unnamed_account) for row in rows]
        # Outside `except`: the message of the original error may quote values of the row.
        raise JournalError(
            f"the journal {self._location} contains a claim that cannot be read: remove it from the table"
        )

    def _load_each(self, rows: Rows, remedy: str) -> list[Intent]:
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

    def _load_all(self, query: str, rows: Rows) -> list[Intent]:
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
                "are confirmed purchases" if query == "awaiting_completion" else "may be open purchases",
                ", ".join(unreadable),
            )
        return intents


def _id_of(row: Sequence[Any]) -> str:
    intent_id = row[_ID]
    return intent_id if isinstance(intent_id, str) else repr(intent_id)
