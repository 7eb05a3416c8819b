"""The part of SQL journals that erases a customer, and finds the records of a customer who was erased."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from minted_connect.errors import JournalError
from minted_connect.journal.claims import claimed_error
from minted_connect.journal.erasure import (
    erase_reference,
    erase_terms,
    hash_name,
    open_intent_error,
    reduce_progress,
)
from minted_connect.journal.protocol import CLOSED, JournalAccount
from minted_connect.journal.rows import ROW_ERRORS, dump_progress, load_progress
from minted_connect.journal.sql_restore import SqlRestoration
from minted_connect.journal.steps import Steps

__all__ = ["SqlErasure"]

_HASHED: Final = ("customer", "reference", "external_customer_id")
"""Parameters that statements also compare with their hashes, which are bound as `<name>_hash`."""


class SqlErasure(SqlRestoration):
    """Base class of `SqlJournal`: an `ErasableJournal`."""

    _erasure_key: str | None = None
    """Stored in the journal when its tables are created or upgraded; it never changes."""

    def erased_name(self, name: str) -> str | None:
        """Return the hash of a name; None before the journal was used, or with an older schema."""
        return None if self._erasure_key is None else hash_name(self._erasure_key, name)

    async def erase_customer(
        self, external_customer_id: str, at: datetime, *, account: str, unnamed_account: str
    ) -> int:
        """Erase a customer from the records of an account; see `ErasableJournal`."""
        steps = self._erase_steps(external_customer_id, at, account, unnamed_account)
        count = await self._transact(steps, None, names=(None, external_customer_id))
        await self._purge()
        return count

    async def _purge(self) -> None:
        """Remove what changes have left behind in the storage, if that is possible."""

    def _bind(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters of a statement with the hashes of names. Call it while the journal is open."""
        hashes: dict[str, Any] = {}
        for name in _HASHED:
            value = params.get(name)
            hashes[f"{name}_hash"] = self.erased_name(value) if isinstance(value, str) else None
        return {**params, **hashes}

    def _known_names(self, *names: str) -> dict[str, str]:
        """Return names by their hashes."""
        return {hashed: name for name in names if (hashed := self.erased_name(name)) is not None}

    def _hash(self, name: str) -> str:
        hashed = self.erased_name(name)
        assert hashed is not None  # the journal is open for writing, so it has a key
        return hashed

    def _erase_steps(self, customer: str, at: datetime, account: str, unnamed_account: str) -> Steps[int]:
        params = {"customer": customer, "account": account, "unnamed": unnamed_account}
        rows = yield self._statements.find_erasable, params
        for intent_id, state, *_ in rows:
            if state not in CLOSED:
                raise open_intent_error(str(intent_id))
        found = yield self._statements.claims.of_customer, {**params, "external_customer_id": customer}
        claims = self._load_claims(found, JournalAccount("", account), unnamed_account)
        if held := [one for one in claims if one.free_in > 0]:
            last = max(held, key=lambda one: one.free_in)
            raise claimed_error(last.expires_in, last.free_in, "this customer")
        for row in rows:
            yield self._statements.erase, {**self._erase_row(row, customer), "at": at.isoformat()}
        for one in claims:
            key = one.claim.key
            yield (
                self._statements.claims.erase,
                {
                    "account": key.owner.account,
                    "reference": key.reference,
                    "erased": self._hash(customer),
                    "new_reference": erase_reference(key.reference, customer, self._hash),
                    "terms": erase_terms(one.claim.terms, self._hash),
                },
            )
        return len(rows) + len(claims)

    def _erase_row(self, row: Sequence[Any], customer: str) -> Mapping[str, Any]:
        intent_id, _, reference, terms, progress = row
        try:
            return {
                "id": intent_id,
                "erased": self._hash(customer),
                "new_reference": None if reference is None else erase_reference(reference, customer, self._hash),
                "terms": None if terms is None else erase_terms(terms, self._hash),
                "progress": dump_progress(reduce_progress(load_progress(progress))),
            }
        except (*ROW_ERRORS, json.JSONDecodeError):
            pass
        # Outside `except`: the message of the original error may quote values of the row.
        raise JournalError(
            f"the journal {self._location} contains a record that cannot be read: intent {intent_id}. The customer was "
            "not erased: repair the record"
        )
