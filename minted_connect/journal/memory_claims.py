"""The claims of the journal in memory."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from minted_connect.clock import SYSTEM_CLOCK, ElapsedTime
from minted_connect.journal.claims import Claim, StoredClaim, check_claims, find_latest_claim, take_claim
from minted_connect.journal.erasure import restore_claim
from minted_connect.journal.protocol import ReferenceKey
from minted_connect.models import OrderKind

__all__ = ["MemoryClaims"]


@attrs.define
class _Entry:
    claim: Claim
    expires_at: float
    """By `MemoryClaims.elapsed`."""
    holds_customer: bool = True
    intent_id: str | None = None
    """The intent that ends the claim when it is settled."""


class MemoryClaims:
    """The claims of one process, by account and reference."""

    def __init__(self, erased_name: Callable[[str], str]) -> None:
        self._erased_name = erased_name
        self.elapsed: ElapsedTime = ElapsedTime(SYSTEM_CLOCK)
        self.entries: dict[tuple[str, str], _Entry] = {}

    def find(self, key: ReferenceKey) -> Claim | None:
        """Return the latest claim of a reference, held or not, or None."""
        hashed = self._erased_name(key.reference)
        names = {hashed: key.reference}
        found = [
            attrs.evolve(restore_claim(entry.claim, names), seconds=max(entry.expires_at - self.elapsed(), 0.0))
            for account in (key.owner.account, key.unnamed_account)
            for name in (key.reference, hashed)
            if (entry := self.entries.get((account, name))) is not None
        ]
        return find_latest_claim(found, key)

    def find_holding(self, accounts: set[str | None], external_customer_id: str, kind: OrderKind) -> list[StoredClaim]:
        """Return the claims of these accounts that hold a customer and kind."""
        return [
            self._read(entry)
            for (account, _), entry in self.entries.items()
            if account in accounts and _holds(entry, external_customer_id, kind)
        ]

    def cart_tokens(self) -> set[str]:
        """Return the cart tokens of all claims."""
        return {entry.claim.cart_token for entry in self.entries.values() if entry.claim.cart_token is not None}

    def store(self, claim: Claim) -> Claim:
        """Store a claim, or take over an earlier one of its reference, and return it.

        Raises:
            AlreadyInFlight: from `take_claim`.
        """
        selected = self._select(claim)
        names = {self._erased_name(name): name for name in (claim.key.reference, claim.external_customer_id)}
        stored = [self._read(entry) for entry in selected]
        taken = take_claim(claim, [attrs.evolve(one, claim=restore_claim(one.claim, names)) for one in stored])
        for entry in selected:
            entry.holds_customer = False
        account, reference = _place(claim)
        self.entries.pop((account, self._erased_name(reference)), None)
        self.entries[account, reference] = _Entry(taken, self.elapsed() + claim.seconds)
        return taken

    def check(self, claim: Claim) -> None:
        """Check that a claim is still held.

        Raises:
            AlreadyInFlight: if it has expired or was taken over.
        """
        check_claims(claim, [self._read(entry) for entry in self._select(claim)])

    def attach_intent(self, claim: Claim, intent_id: str | None, cart_token: str) -> None:
        """Store the cart token that a claim completes, and the intent that ends the claim when it is settled."""
        entry = self.entries[_place(claim)]
        entry.claim = attrs.evolve(entry.claim, cart_token=cart_token)
        entry.intent_id = intent_id

    def renew(self, claim: Claim) -> None:
        """Extend a claim from now, and replace its stored values.

        Raises:
            AlreadyInFlight: from `check`.
        """
        self.check(claim)
        entry = self.entries[_place(claim)]
        entry.claim = attrs.evolve(
            entry.claim, saw_basket=claim.saw_basket, cart_token=claim.cart_token, grace=claim.grace
        )
        entry.expires_at = self.elapsed() + claim.seconds

    def release(self, claim: Claim, grace: float) -> None:
        """End a claim, unless it was taken over."""
        entry = self.entries.get(_place(claim))
        if entry is not None and (entry.claim.owner, entry.claim.generation) == (claim.owner, claim.generation):
            _end(entry, self.elapsed(), grace)
            entry.claim = attrs.evolve(entry.claim, cart_token=claim.cart_token)
            entry.holds_customer = entry.holds_customer and grace > 0

    def settle(self, intent_id: str) -> None:
        """End the claim of an intent that was settled."""
        for entry in self.entries.values():
            if entry.intent_id == intent_id:
                _end(entry, self.elapsed(), 0.0)
                entry.holds_customer, entry.intent_id = False, None

    def of_customer(self, accounts: set[str | None], external_customer_id: str) -> list[StoredClaim]:
        """Return all claims of these accounts for a customer."""
        found = [entry for (account, _), entry in self.entries.items() if account in accounts]
        return [self._read(entry) for entry in found if entry.claim.external_customer_id == external_customer_id]

    def replace(self, claim: Claim, erased: Claim) -> None:
        """Replace a claim that has ended by the same one with hashes of its names."""
        entry = self.entries.pop(_place(claim))
        entry.claim, entry.holds_customer = erased, False
        self.entries[_place(erased)] = entry

    def _select(self, claim: Claim) -> list[_Entry]:
        accounts = {claim.key.owner.account, claim.key.unnamed_account}
        names = {claim.key.reference, self._erased_name(claim.key.reference)}
        return [
            entry
            for (account, reference), entry in self.entries.items()
            if account in accounts and (reference in names or _holds(entry, claim.external_customer_id, claim.kind))
        ]

    def _read(self, entry: _Entry) -> StoredClaim:
        expires_in = entry.expires_at - self.elapsed()
        return StoredClaim(entry.claim, entry.holds_customer, expires_in, expires_in + entry.claim.grace)


def _place(claim: Claim) -> tuple[str, str]:
    return claim.key.owner.account, claim.key.reference


def _end(entry: _Entry, now: float, grace: float) -> None:
    entry.expires_at, entry.claim = now, attrs.evolve(entry.claim, grace=grace)


def _holds(entry: _Entry, external_customer_id: str, kind: OrderKind) -> bool:
    claim = entry.claim
    return entry.holds_customer and (claim.external_customer_id, claim.kind) == (external_customer_id, kind)
