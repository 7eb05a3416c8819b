"""The part of the journal in memory that erases a customer."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import TypeVar

import attrs

from minted_connect.journal.claims import claimed_error
from minted_connect.journal.erasure import (
    erase_reference,
    erase_terms,
    hash_name,
    open_intent_error,
    reduce_progress,
)
from minted_connect.journal.memory_claims import MemoryClaims
from minted_connect.models import Intent

__all__ = ["MemoryErasure"]

_Key = TypeVar("_Key")


class MemoryErasure:
    """Base class of `MemoryJournal`: an `ErasableJournal`."""

    _open: dict[str, Intent]
    _closed: dict[str, Intent]
    _ids_by_basket: dict[tuple[str, str], list[str]]
    _ids_by_reference: dict[tuple[str | None, str], list[str]]
    _claims: MemoryClaims

    def __init__(self) -> None:
        self._erasure_key = secrets.token_hex(32)

    def erased_name(self, name: str) -> str:
        """Return the hash of a name."""
        return hash_name(self._erasure_key, name)

    def _known_names(self, *names: str | None) -> dict[str, str]:
        """Return names by their hashes."""
        return {self.erased_name(name): name for name in names if name is not None}

    def _erase(self, customer: str, at: datetime, accounts: set[str | None]) -> int:
        for intent in self._open.values():
            if intent.external_customer_id == customer and intent.account in accounts:
                raise open_intent_error(intent.id)
        claims = self._claims.of_customer(accounts, customer)
        if held := [one for one in claims if one.free_in > 0]:
            last = max(held, key=lambda one: one.free_in)
            raise claimed_error(last.expires_in, last.free_in, "this customer")
        found = [
            intent
            for intent in self._closed.values()
            if intent.external_customer_id == customer and intent.account in accounts
        ]
        for intent in found:
            self._erase_intent(intent, at)
        for one in claims:
            claim, key = one.claim, one.claim.key
            erased = attrs.evolve(
                claim,
                key=attrs.evolve(key, reference=erase_reference(key.reference, customer, self.erased_name)),
                external_customer_id=self.erased_name(customer),
                terms=erase_terms(claim.terms, self.erased_name),
            )
            self._claims.replace(claim, erased)
        return len(found) + len(claims)

    def _erase_intent(self, intent: Intent, at: datetime) -> None:
        customer, reference = intent.external_customer_id, intent.reference
        erased = attrs.evolve(
            intent,
            external_customer_id=self.erased_name(customer),
            reference=None if reference is None else erase_reference(reference, customer, self.erased_name),
            terms=None if intent.terms is None else erase_terms(intent.terms, self.erased_name),
            progress=reduce_progress(intent.progress),
            erased_at=at,
        )
        self._closed[intent.id] = erased
        _move(
            self._ids_by_basket, (customer, intent.cart_token), (erased.external_customer_id, intent.cart_token), intent
        )
        if reference is not None and erased.reference is not None:
            account = intent.account
            _move(self._ids_by_reference, (account, reference), (account, erased.reference), intent)


def _move(ids: dict[_Key, list[str]], old: _Key, new: _Key, intent: Intent) -> None:
    if old != new:
        ids[old].remove(intent.id)
        if not ids[old]:
            del ids[old]
        ids.setdefault(new, []).append(intent.id)
