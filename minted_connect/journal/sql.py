"""The part that all SQL journals share: the transactions, and the detection of lost records."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import attrs

from minted_connect.core.logs import log_error
from minted_connect.errors import JournalError
from minted_connect.journal.claims import (
    Claim,
    StoredClaim,
    check_claims,
    check_no_claim,
    find_latest_claim,
    take_claim,
)
from minted_connect.journal.erasure import restore_claim
from minted_connect.journal.list_statements import list_params
from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.protocol import (
    CLOSED,
    JournalAccount,
    ReferenceKey,
    already_in_flight_error,
    check_reference,
)
from minted_connect.journal.rows import dump_progress, dump_refusal, dump_time
from minted_connect.journal.spending import SpendingCheck, check_spending, load_purchases, spending_params
from minted_connect.journal.sql_claims import claim_params, customer_params, key_params
from minted_connect.journal.sql_forgetting import SqlForgetting
from minted_connect.journal.statements import (
    basket_params,
    insert_params,
    reference_params,
    settle_params,
)
from minted_connect.journal.steps import Steps
from minted_connect.models import Intent, IntentPage, IntentState, OrderProgress, Refusal

__all__ = ["SqlJournal", "Steps"]

_logger = logging.getLogger("minted_connect.completion")


class SqlJournal(SqlForgetting):
    """Base class of the SQL journals. Every operation opens the database; subclasses implement `prepare`.

    It remembers which intents this object prepared. If one of them is missing, the database was deleted, emptied or
    replaced while in use, and this object prepares nothing more.
    """

    def __init__(self) -> None:
        self._prepared: dict[str, str] = {}
        """Ids and times of the intents that this object prepared and did not settle with a known outcome."""
        self._last_prepared: dict[str, str] = {}
        """The last intent that this object prepared, in any state."""
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
        params = settle_params(intent_id, state, order_id, progress, owner)
        await self._write(self._statements.settle, params, also=self._statements.claims.settle)
        if state in CLOSED:
            self._prepared.pop(intent_id, None)

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

    async def find_intents(self, filters: IntentFilter, *, after: int = 0, limit: int) -> IntentPage:
        """Return the intents that match, oldest first. Unreadable records are listed in the page, and logged."""
        rows = await self._read("find_intents", list_params(filters, after, limit))
        page, more = rows[:limit], rows[limit:]
        intents = self._load_all("find_intents", [row[:-1] for row in page])
        unreadable = self._unreadable.pop("find_intents")
        return IntentPage(tuple(intents), unreadable, page[-1][-1] if more else None)

    async def aclose(self) -> None:
        """Do nothing: no connection outlives an operation."""

    async def claim(self, claim: Claim, *, known: Collection[str]) -> Claim:
        """Store a claim durably, or take over an earlier one of the same reference, and return it."""
        self._raise_if_lost()
        return await self._transact(self._claim_steps(claim, known), claim)

    async def renew_claim(self, claim: Claim) -> None:
        """Extend a claim from now."""
        self._raise_if_lost()
        await self._transact(self._renew_steps(claim), claim)

    async def release_claim(self, claim: Claim, *, grace: float) -> None:
        """End a claim."""
        await self._transact(self._release_steps(claim, grace), claim)

    async def find_claim(self, key: ReferenceKey) -> Claim | None:
        """Return the claim of a reference, held or not, or None."""
        stored = self._load_claims(await self._read("find_claims", key_params(key)), key.owner, key.unnamed_account)
        names = self._known_names(key.reference)
        return find_latest_claim((restore_claim(one.claim, names) for one in stored), key)

    def _prepare_steps(
        self,
        intent: Intent,
        key: ReferenceKey | None,
        known: Collection[str],
        claim: Claim | None,
        frees_customer: bool,
        spending: SpendingCheck | None,
    ) -> Steps[None]:
        yield from self._check_last_prepared()
        basket = basket_params(intent.external_customer_id, intent.cart_token, intent.account)
        if (active := self._load_first((yield self._statements.find_active, basket))) is not None:
            raise already_in_flight_error(active)
        if key is not None or spending is not None:
            yield from self._check_not_restored(intent.account)
        if key is not None:
            yield from self._check_imported(intent.terms, intent.external_customer_id, key)
            yield from self._check_reference(key, known)
        if claim is None:
            params = customer_params(intent, key)
            owner = JournalAccount(intent.server or "", intent.account or "")
            rows = yield self._statements.claims.find, params
            check_no_claim(self._load_claims(rows, owner, owner.account))
        else:
            check_claims(claim, (yield from self._find_claims(claim)))
        if spending is not None:
            rows = yield self._statements.find_purchases, spending_params(spending, intent)
            check_spending(spending, intent, load_purchases(rows, intent, self._location, self._hash))
        yield from self._store_steps(intent, claim)
        if claim is not None:
            changes = {"cart_token": intent.cart_token, "intent_id": intent.id if frees_customer else None}
            yield self._statements.claims.attach_intent, {**claim_params(claim), **changes}

    def _store_steps(self, intent: Intent, claim: Claim | None = None) -> Steps[None]:
        yield self._statements.insert, insert_params(intent, claim)

    def _settle_steps(self, intent: Intent, order: Intent, owner: JournalAccount) -> Steps[None]:
        params = settle_params(intent.id, IntentState.CONFIRMED, order.order_id, order.progress, owner)
        yield self._statements.claims.settle, params
        yield self._statements.settle, params

    def _claim_steps(self, claim: Claim, known: Collection[str]) -> Steps[Claim]:
        yield from self._check_last_prepared()
        # A claim without terms completes nothing: it is the lease of a reconciler.
        if claim.terms:
            yield from self._check_not_restored(claim.key.owner.account)
            yield from self._check_imported(claim.terms, claim.external_customer_id, claim.key)
        yield from self._check_reference(claim.key, known)
        taken = take_claim(claim, (yield from self._find_claims(claim)))
        params = claim_params(taken)
        yield self._statements.claims.end_holds, params
        yield self._statements.claims.forget_erased, params
        yield self._statements.claims.store, params
        return taken

    def _renew_steps(self, claim: Claim) -> Steps[None]:
        check_claims(claim, (yield from self._find_claims(claim)))
        yield self._statements.claims.renew, claim_params(claim)

    def _release_steps(self, claim: Claim, grace: float) -> Steps[None]:
        changes = {"seconds": 0.0, "grace": float(grace), "has_grace": grace > 0}
        yield self._statements.claims.release, {**claim_params(claim), **changes}

    def _check_last_prepared(self) -> Steps[None]:
        """Check that the last prepared intent still exists: the content may have been restored from an older copy."""
        for last in self._last_prepared:
            if not (yield self._statements.exists, self._exists_params(last)):
                raise self._report_lost(_missing_reason(last))

    def _check_reference(self, key: ReferenceKey, known: Collection[str]) -> Steps[None]:
        found = yield from self._find_attempts(key)
        others = yield self._statements.same_references, reference_params(key)
        check_reference(key, found, known, [row[0] for row in others])

    def _find_attempts(self, key: ReferenceKey) -> Steps[list[Intent]]:
        return self._load_attempts((yield self._statements.find_by_reference, reference_params(key)))

    def _find_claims(self, claim: Claim) -> Steps[list[StoredClaim]]:
        rows = yield self._statements.claims.find, claim_params(claim)
        names = self._known_names(claim.key.reference, claim.external_customer_id)
        stored = self._load_claims(rows, claim.key.owner, claim.key.unnamed_account)
        return [attrs.evolve(one, claim=restore_claim(one.claim, names)) for one in stored]

    @abstractmethod
    async def _write(self, statement: str, params: Mapping[str, Any], *, also: str | None = None) -> None:
        """Execute a statement durably, and `also` another one in the same transaction.

        If the statement names an intent that this object prepared, and its record or the whole database is lost, the
        implementation calls `_report_missing` instead of raising, because the outcome must reach the caller.
        """

    def _raise_if_lost(self) -> None:
        if self._loss is not None:
            raise JournalError(self._loss, is_lost=True)

    def _remember(self, intent: Intent) -> None:
        """Remember an intent that was stored durably."""
        self._last_prepared = {intent.id: dump_time(intent.created_at)}
        self._prepared.update(self._last_prepared)

    def _exists_params(self, intent_id: str) -> Mapping[str, str]:
        """Return the parameters of `Statements.exists` for an intent that this object prepared."""
        return {"id": intent_id, "created_at": {**self._last_prepared, **self._prepared}[intent_id]}

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
            self._report_lost(_missing_reason(intent_id))
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


def _missing_reason(intent_id: str) -> str:
    return f"no longer contains intent {intent_id}, which was written here"
