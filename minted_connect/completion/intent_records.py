"""The records of a journal as the client shows them: `complete.intents`, `intent`, `forget` and others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any

from minted_connect import validation
from minted_connect.completion.assignment import assign_reference
from minted_connect.completion.intent_list import (
    erase_customer,
    find_by_reference,
    forget_intents,
    list_page,
    make_filter,
)
from minted_connect.completion.settlement import Settlement
from minted_connect.core.api_client import ApiClient
from minted_connect.errors import InvalidInput
from minted_connect.models import Intent, IntentPage, IntentState
from minted_connect.resources import paging

__all__ = ["IntentRecords", "intent_lists"]


class IntentRecords:
    """Base class of `AsyncCompletions`: lists and forgets intents. Sends no request."""

    def __init__(self, api: ApiClient, settlement: Settlement) -> None:
        self._api = api
        self._settlement = settlement

    async def intents_page(
        self,
        *,
        state: IntentState | str | Sequence[IntentState | str] | None = None,
        customer_id: str | None = None,
        reference: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        all_accounts: bool = False,
        after: int = 0,
        per_page: int = 100,
    ) -> IntentPage:
        """Return one page of the intents in the journal, in any state, oldest first.

        Args:
            state: Only intents with this state, or one of these.
            customer_id: Only intents of this customer.
            reference: Only intents with this reference.
            since: Only intents created at this time or later, timezone-aware.
            until: Only intents created before this time, timezone-aware.
            all_accounts: Include the intents of other accounts in the same journal.
            after: The `next_after` of the page before; 0 for the first page.
            per_page: Maximum number of records on the page, 1 to 1000. Unreadable ones count.

        Raises:
            ConfigurationError: if the journal cannot list its intents (`ListableJournal`).
            JournalError: if the journal cannot be read, or was lost while in use.
        """
        filters = make_filter(
            self._settlement.owner, state, customer_id, reference, since, until, all_accounts=all_accounts
        )
        return await list_page(self._settlement.journal, filters, after=after, per_page=per_page)

    def intents(
        self,
        *,
        state: IntentState | str | Sequence[IntentState | str] | None = None,
        customer_id: str | None = None,
        reference: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        all_accounts: bool = False,
        per_page: int = 100,
    ) -> AsyncGenerator[Intent, None]:
        """Iterate over the intents in the journal, in any state, oldest first; pages are read as needed.

        Each intent is yielded once, with its state when its page is read. Intents that are stored meanwhile may be left
        out. Unreadable records are left out, and logged at ERROR with their ids. Arguments and errors are those of
        `intents_page`.
        """
        return paging.items(
            intent_lists(
                self,
                state=state,
                customer_id=customer_id,
                reference=reference,
                since=since,
                until=until,
                all_accounts=all_accounts,
                per_page=per_page,
            )
        )

    async def intent(
        self, *, reference: str | None = None, intent_id: str | None = None, all_accounts: bool = False
    ) -> Intent | None:
        """Return one intent in the journal, in any state; None if the journal does not contain it.

        Args:
            reference: Reference of the intent. Of several attempts, return the confirmed one, else the open one, else
                the latest.
            intent_id: Id of the intent, instead of a reference.
            all_accounts: Return an intent with this id of another account, too.

        Raises:
            ConfigurationError: if `reference` is given and the journal cannot store references.
            JournalError: if the journal or the record cannot be read.
        """
        validation.boolean("all_accounts", all_accounts)
        if (reference is None) == (intent_id is None):
            raise InvalidInput.of("intent_id", "give either reference or intent_id")
        if reference is not None:
            return await find_by_reference(self._settlement, self._api.account, reference)
        stored = await self._settlement.journal.get(validation.text("intent_id", intent_id))
        return stored if stored is not None and (all_accounts or self._settlement.is_own(stored)) else None

    async def forget(self, *, before: datetime) -> int:
        """Forget the settled intents of this account that were created before a time, and return their number.

        Intents with an unknown outcome stay. An intent without a reference is removed: `unfinished` does not list it
        any more, and only the server can refuse a second completion of its basket. An intent with a reference that was
        bought keeps what prevents a second purchase: reference, account, customer, terms, keys, state and order number;
        the rest of it is deleted (`Intent.forgotten_at`). Failed attempts of a reference that was not bought stay
        whole, because the next attempt searches for their orders; so do intents of a basket that a reference used, too.

        Args:
            before: A timezone-aware time, at least 48 hours ago: later intents may still be needed by other processes.

        Raises:
            ConfigurationError: if the journal cannot forget intents (`ListableJournal`).
            JournalError: if the journal cannot be written.
        """
        return await forget_intents(self._settlement, before, self._api.clock.wall())

    async def assign_reference(self, intent_id: str, reference: str | None) -> Intent:
        """Assign an intent that `minted audit --import` has stored for an order, and return it.

        An order has no reference. Until it is assigned, the intent blocks every reference with the same customer, kind,
        pieces and currency (`JournalError.intent_id`), because it may be the one of that reference. Sends no request.

        Args:
            intent_id: Id of the intent.
            reference: The reference that the order was made for: it is replayed from now on, with any address if it is
                a delivery. None = the order was made without a reference: it blocks no reference any more, so a wrong
                None can buy twice. A reference can still be assigned afterwards.

        Raises:
            ConfigurationError: if the journal cannot contain imported intents (`RestorableJournal`); with
                `Options.read_only`.
            InvalidInput: if the intent was not imported, belongs to another account, or is assigned to another
                reference already; or if another intent with this reference was completed, or has other terms.
            JournalError: if the journal cannot be read or written.
        """
        self._api.check_may_change("complete.assign_reference")
        return await assign_reference(
            self._settlement.journal,
            intent_id,
            reference,
            owner=self._settlement.owner,
            unnamed_account=self._api.account,
            at=self._api.clock.wall(),
        )

    async def erase_customer(self, customer_id: str) -> int:
        """Erase a customer from the journal, and return the number of records.

        In all records of this account, the customer id becomes a keyed hash, and so do references that contain it; the
        tracking number and the arrival date of orders are removed, and `unfinished` lists these orders no more. What
        prevents a second purchase, and limits, work as before: a basket, a reference or a customer id that is given
        matches its hash. The customer is removed at the vendor with `customers.remove`, not by this method. Sends no
        request.

        Backups that were made before contain the customer: erase the customer again after one is restored. A database
        keeps earlier content until it is vacuumed, and in its write-ahead log.

        Args:
            customer_id: Your id of the customer.

        Raises:
            AlreadyInFlight: if a purchase of the customer is in flight or has an unknown outcome, or if a call with
                items has a claim: nothing was erased.
            ConfigurationError: if the journal cannot erase customers (`ErasableJournal`); with `Options.read_only`.
            InvalidInput: if the id is invalid.
            JournalError: if the journal cannot be written; or if the records are erased, but earlier content of the
                file could not be removed. Call it again then.
        """
        self._api.check_may_change("complete.erase_customer")
        customer_id = validation.customer_id(customer_id)
        self._settlement.check_not_in_flight(customer_id, None)
        owner, unnamed = self._settlement.owner.account, self._api.account
        return await erase_customer(
            self._settlement.journal, customer_id, self._api.clock.wall(), account=owner, unnamed_account=unnamed
        )


async def intent_lists(records: IntentRecords, /, **arguments: Any) -> AsyncGenerator[list[Intent], None]:
    """Iterate over the intents of all pages, in one list for each page; the arguments are those of `intents`."""
    after: int | None = 0
    while after is not None:
        page = await records.intents_page(**arguments, after=after)
        yield [*page.items]
        after = page.next_after
