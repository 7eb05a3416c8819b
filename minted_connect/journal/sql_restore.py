"""The part of SQL journals that marks them as restored from a backup, and takes over the orders since then."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import attrs

from minted_connect.clock import SYSTEM_CLOCK
from minted_connect.errors import InvalidInput, JournalError
from minted_connect.journal.claims import Claim
from minted_connect.journal.erasure import restore_intent
from minted_connect.journal.protocol import JournalAccount, ReferenceKey
from minted_connect.journal.record_loader import RecordLoader
from minted_connect.journal.restoring import (
    ImportCount,
    OrderImport,
    check_assignment,
    check_imported,
    check_mark,
    find_unsettled,
    restored_error,
)
from minted_connect.journal.rows import ROW_ERRORS, dump_time
from minted_connect.journal.steps import Rows, Steps
from minted_connect.models import Intent, IntentState

if TYPE_CHECKING:
    from minted_connect.journal.statements import Statements

__all__ = ["SqlRestoration"]

_T = TypeVar("_T")


class SqlRestoration(RecordLoader, ABC):
    """Base class of `SqlJournal`: a `RestorableJournal`."""

    _statements: ClassVar[Statements]

    async def restored_from(self, account: str | None = None) -> datetime | None:
        """Return the time of the backup that this journal was restored from, or None; see `RestorableJournal`."""
        return self._load_mark(await self._read("find_mark", {}), account)

    async def mark_restored(self, at: datetime) -> datetime:
        """Store that the journal was restored from a backup made at a time; see `RestorableJournal`."""
        check_mark(at, SYSTEM_CLOCK.wall())
        identity = secrets.token_hex(16)
        marked = await self._transact(self._mark_steps(at, identity), None)
        self._accept_identity(identity)
        return marked

    async def import_orders(
        self, orders: Sequence[OrderImport], *, owner: JournalAccount, unnamed_account: str
    ) -> ImportCount:
        """Take over orders, all or none of them; see `RestorableJournal`."""
        steps = self._import_steps(orders, owner, unnamed_account)
        return await self._transact(steps, None, accounts={owner.account, unnamed_account})

    async def end_import(self, mark: datetime, *, account: str, unnamed_account: str) -> bool:
        """Remove the mark for an account; see `RestorableJournal`."""
        steps = self._end_steps(mark, account, unnamed_account)
        return await self._transact(steps, None, accounts={account, unnamed_account})

    async def assign_reference(
        self, intent_id: str, key: ReferenceKey | None, terms: str | None, at: datetime
    ) -> Intent:
        """Assign an imported intent to a reference, or to none; see `RestorableJournal`."""
        stored = await self.get(intent_id)
        names = None if stored is None else (None if key is None else key.reference, stored.external_customer_id)
        result = await self._transact(self._assign_steps(intent_id, key, terms, at), None, names=names)
        if isinstance(result, InvalidInput):
            raise result
        return result

    def _mark_steps(self, at: datetime, identity: str) -> Steps[datetime]:
        yield self._statements.mark, {"at": dump_time(at), "identity": identity}
        marked = self._load_mark((yield self._statements.find_mark, {}))
        assert marked is not None
        return marked

    def _check_not_restored(self, account: str | None) -> Steps[None]:
        """Check that the journal has no mark for an account. Before the records that rest on it are read."""
        marked = self._load_mark((yield self._statements.find_mark, {}), account)
        if marked is not None:
            raise restored_error(self._location, marked)

    def _check_imported(self, terms: str | None, external_customer_id: str, key: ReferenceKey) -> Steps[None]:
        """Check that no imported intent may be the one of a reference.

        Before the intents of the reference are read: the intent may be assigned to it in between.
        """
        rows = yield self._statements.find_imported, _customer_params(external_customer_id, key.owner, key)
        check_imported(terms, self._load_attempts(rows))

    def _import_steps(
        self, orders: Sequence[OrderImport], owner: JournalAccount, unnamed_account: str
    ) -> Steps[ImportCount]:
        count = ImportCount()
        for order in orders:
            intent = attrs.evolve(order.intent, server=owner.server, account=owner.account)
            key = ReferenceKey("", owner, unnamed_account)
            params = _customer_params(intent.external_customer_id, owner, key)
            rows = yield self._statements.find_of_customer, params
            names = self._known_names(intent.external_customer_id)
            found = [restore_intent(one, names) for one in self._load_attempts(rows)]
            is_known, unsettled = find_unsettled(order, found)
            if unsettled is not None:
                yield from self._settle_steps(unsettled, intent, owner)
                count += ImportCount(settled=1)
            elif is_known:
                count += ImportCount(known=1)
            else:
                yield from self._store_steps(intent)
                if intent.state == IntentState.CONFIRMED:
                    # Also stores whether the order is final.
                    yield from self._settle_steps(intent, intent, owner)
                count += ImportCount(stored=1)
        return count

    def _end_steps(self, mark: datetime, account: str, unnamed_account: str) -> Steps[bool]:
        rows = yield self._statements.find_mark, {}
        if self._load_mark(rows) != mark:
            return False
        [(text, imported)] = rows
        done = {account, unnamed_account, *(imported or "").split()}
        params = {"account": account, "unnamed": unnamed_account}
        others = {row[0] for row in (yield self._statements.find_other_accounts, params)}
        is_last = others <= done
        accounts = None if is_last else " ".join(sorted(done))
        yield self._statements.end_import, {"accounts": accounts, "is_last": is_last, "mark": text}
        return self._load_mark((yield self._statements.find_mark, {}), account) is None

    def _assign_steps(
        self, intent_id: str, key: ReferenceKey | None, terms: str | None, at: datetime
    ) -> Steps[Intent | InvalidInput]:
        rows = yield self._statements.get, {"id": intent_id}
        intent = next(iter(self._load_attempts(rows)), None)
        found = [] if key is None else (yield from self._find_attempts(key))
        if intent is not None:
            names = self._known_names(intent.external_customer_id)
            found = [restore_intent(one, names) for one in found]
        try:
            is_new = check_assignment(intent, key, terms, found)
        except InvalidInput as error:
            # Not raised here: as a ValueError, it would count as a record that cannot be read.
            return error
        assert intent is not None
        if not is_new:
            return intent
        reference = None if key is None else key.reference
        yield self._statements.assign, {"id": intent_id, "reference": reference, "terms": terms, "at": at.isoformat()}
        [intent] = self._load_attempts((yield self._statements.get, {"id": intent_id}))
        return intent

    def _load_mark(self, rows: Rows, account: str | None = None) -> datetime | None:
        # A file that does not exist yet has no row.
        for text, imported in rows[:1]:
            if text is None or (account is not None and account in (imported or "").split()):
                return None
            try:
                return datetime.fromisoformat(text).astimezone(UTC)
            except ROW_ERRORS:
                break
        else:
            return None
        raise JournalError(f"the journal {self._location} has a mark (restored_from) that cannot be read: repair it")

    @abstractmethod
    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id, or None."""

    @abstractmethod
    async def _transact(
        self,
        steps: Steps[_T],
        claim: Claim | None,
        *,
        accounts: Collection[str] = (),
        names: tuple[str | None, str] | None = None,
    ) -> _T:
        """Run a transaction that excludes others.

        Args:
            steps: The transaction.
            claim: Excludes those for its reference and its customer.
            accounts: Excludes those for these accounts: imports, and purchases under limits.
            names: Without a claim, excludes those for a reference, if there is one, and a customer.
        """

    @abstractmethod
    async def _read(self, query: str, params: Mapping[str, Any]) -> Rows:
        """Return the rows of a query, given as the name of a field of `Statements`."""

    @abstractmethod
    def _accept_identity(self, identity: str) -> None:
        """Use the journal further, although its random id is another one now."""

    @abstractmethod
    def _known_names(self, *names: str) -> dict[str, str]:
        """Return names by their hashes."""

    @abstractmethod
    def _find_attempts(self, key: ReferenceKey) -> Steps[list[Intent]]:
        """Return the intents with a reference."""

    @abstractmethod
    def _store_steps(self, intent: Intent) -> Steps[None]:
        """Store an intent in any state."""

    @abstractmethod
    def _settle_steps(self, intent: Intent, order: Intent, owner: JournalAccount) -> Steps[None]:
        """Settle an intent as confirmed by an order, given as its imported intent."""


def _customer_params(external_customer_id: str, owner: JournalAccount, key: ReferenceKey) -> Mapping[str, Any]:
    return {"customer": external_customer_id, "account": owner.account, "unnamed": key.unnamed_account}
