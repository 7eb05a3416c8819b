"""The journal in memory, which ends with the process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from datetime import datetime
from decimal import Decimal
from functools import wraps
from itertools import islice
from typing import Any, Final, TypeVar, cast

import attrs

from minted_connect.journal.claims import Claim, check_no_claim
from minted_connect.journal.erasure import restore_intent
from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.memory_claims import MemoryClaims
from minted_connect.journal.memory_erasure import MemoryErasure
from minted_connect.journal.protocol import (
    ACTIVE,
    OPEN,
    JournalAccount,
    ReferenceKey,
    already_in_flight_error,
    check_reference,
)
from minted_connect.models import Intent, IntentPage, IntentState, OrderProgress, Refusal

__all__ = ["MemoryJournal"]

_logger = logging.getLogger("minted_connect.completion")

_MAX_CLOSED: Final = 10_000

_Method = TypeVar("_Method", bound=Callable[..., Any])


def _locked(method: _Method) -> _Method:
    """Run a method of the journal under its lock, which no method holds while it waits."""

    @wraps(method)
    async def run(self: MemoryJournal, *args: Any, **kwargs: Any) -> Any:
        with self._lock:  # pyright: ignore[reportPrivateUsage]
            return await method(self, *args, **kwargs)

    return cast("_Method", run)


class MemoryJournal(MemoryErasure):
    """A journal in memory. It separates the tasks and threads of one process, and is lost when the process ends.

    Only the latest 10,000 closed intents without a reference are kept, so that memory stays bounded. For a basket that
    was completed earlier, only the server can refuse a second completion. Intents with a reference are all kept.
    """

    def __init__(self) -> None:
        super().__init__()
        # Blocking clients that share the journal run on event loops in different threads.
        self._lock = threading.RLock()
        self._open: dict[str, Intent] = {}
        self._closed: dict[str, Intent] = {}
        self._numbers: dict[str, int] = {}
        """Number of each intent, oldest first."""
        self._last_number = 0
        self._forgettable: dict[str, None] = {}
        """Ids of the closed intents without a reference, oldest first."""
        self._ids_by_basket: dict[tuple[str, str], list[str]] = {}
        self._ids_by_reference: dict[tuple[str | None, str], list[str]] = {}
        self._claims = MemoryClaims(self.erased_name)
        self._forgotten_before: datetime | None = None
        self._has_warned = False

    @_locked
    async def prepare(
        self,
        intent: Intent,
        *,
        key: ReferenceKey | None = None,
        known: Collection[str] = (),
        claim: Claim | None = None,
        frees_customer: bool = False,
    ) -> None:
        """Store an intent until the process ends."""
        active = await self.find_active(intent.external_customer_id, intent.cart_token, account=intent.account)
        if active is not None:
            raise already_in_flight_error(active)
        if key is not None:
            await self._check_reference(key, known)
        if claim is not None:
            self._claims.check(claim)
            self._claims.attach_intent(claim, intent.id if frees_customer else None, intent.cart_token)
        else:
            accounts = {intent.account, intent.account if key is None else key.unnamed_account}
            check_no_claim(self._claims.find_holding(accounts, intent.external_customer_id, intent.kind))
        if key is not None:
            self._ids_by_reference.setdefault((intent.account, key.reference), []).append(intent.id)
        self._open[intent.id] = intent
        self._last_number += 1
        self._numbers[intent.id] = self._last_number
        self._ids_by_basket.setdefault((intent.external_customer_id, intent.cart_token), []).append(intent.id)

    @_locked
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
        self._claims.settle(intent_id)
        intent = self._open.get(intent_id)
        if intent is None and state is IntentState.CONFIRMED:
            intent = self._closed.get(intent_id)
        if intent is None:
            return
        settled = attrs.evolve(
            intent if intent.account is not None or owner is None else _assign(intent, owner),
            state=state,
            order_id=order_id or intent.order_id,
            progress=intent.progress if intent.erased_at is not None else progress or intent.progress,
        )
        if state in OPEN:
            self._open[intent_id] = settled
            return
        self._open.pop(intent_id, None)
        self._closed[intent_id] = settled
        if settled.reference is not None:
            self._warn_beyond_limit()
            return
        self._forgettable[intent_id] = None
        if len(self._forgettable) > _MAX_CLOSED:
            self._forget(next(iter(self._forgettable)))

    @_locked
    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        """Store the response that refused an open intent."""
        intent = self._open.get(intent_id)
        if intent is not None:
            self._open[intent_id] = attrs.evolve(intent, state=IntentState.UNKNOWN, refusal=refusal)

    @_locked
    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        """Assign an intent to an account."""
        for intents in (self._open, self._closed):
            if intent_id in intents:
                intent, adopted = intents[intent_id], _assign(intents[intent_id], owner)
                intents[intent_id] = adopted
                if intent.reference is not None:
                    self._ids_by_reference[intent.account, intent.reference].remove(intent_id)
                    self._ids_by_reference.setdefault((owner.account, intent.reference), []).append(intent_id)

    @_locked
    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        """Store the last known state of an order."""
        for intent in self._find(external_customer_id, cart_token, account):
            is_whole = intent.forgotten_at is None and intent.erased_at is None
            if intent.state == IntentState.CONFIRMED and is_whole:
                self._closed[intent.id] = attrs.evolve(intent, progress=progress)

    @_locked
    async def get(self, intent_id: str) -> Intent | None:
        """Return the intent with this id, or None."""
        return self._open.get(intent_id) or self._closed.get(intent_id)

    @_locked
    async def fence(self, intent_id: str, at: datetime) -> None:
        """Store that a basket is about to be cleared."""
        intent = self._open.get(intent_id)
        if intent is not None and intent.fenced_at is None:
            self._open[intent_id] = attrs.evolve(intent, fenced_at=at)

    @_locked
    async def find_active(
        self, external_customer_id: str, cart_token: str, *, account: str | None = None
    ) -> Intent | None:
        """Return the open or confirmed intent for a basket, or None."""
        found = self._find(external_customer_id, cart_token, account)
        active = [intent for intent in found if intent.state in ACTIVE]
        return min(active, key=lambda intent: intent.state != IntentState.CONFIRMED, default=None)

    @_locked
    async def pending(self) -> list[Intent]:
        """Return the open intents, oldest first."""
        return list(self._open.values())

    @_locked
    async def awaiting_completion(self) -> list[Intent]:
        """Return the confirmed intents whose order is not known to be final, oldest first."""
        confirmed = (intent for intent in self._closed.values() if intent.state == IntentState.CONFIRMED)
        known = (intent for intent in confirmed if intent.forgotten_at is None and intent.erased_at is None)
        return [intent for intent in known if intent.progress is None or not intent.progress.is_final]

    @_locked
    async def find_by_reference(self, key: ReferenceKey) -> list[Intent]:
        """Return the intents with a reference, oldest first."""
        accounts = dict.fromkeys((key.unnamed_account, key.owner.account))
        names = (key.reference, self.erased_name(key.reference))
        ids = (self._ids_by_reference.get((account, name), ()) for account in accounts for name in names)
        return [self._get(intent_id) for some in ids for intent_id in some]

    @_locked
    async def find_intents(self, filters: IntentFilter, *, after: int = 0, limit: int) -> IntentPage:
        """Return the intents that match, oldest first."""
        numbers = ((number, self._get(intent_id)) for intent_id, number in self._numbers.items() if number > after)
        names = self._known_names(filters.external_customer_id, filters.reference)
        found = (pair for pair in numbers if filters.matches(restore_intent(pair[1], names)))
        page = list(islice(found, limit))
        is_last = next(found, None) is None
        return IntentPage(tuple(intent for _, intent in page), (), None if is_last else page[-1][0])

    @_locked
    async def find_forgotten(self) -> datetime | None:
        """Return the time from before which settled intents were forgotten, None if none was."""
        return self._forgotten_before

    @_locked
    async def forget(self, before: datetime, at: datetime, *, account: str) -> int:
        """Remove or reduce the settled intents from before a time."""
        self._forgotten_before = max(before, self._forgotten_before or before)
        old = IntentFilter(account=account, until=before)
        found = [one for one in self._closed.values() if one.forgotten_at is None and old.matches(one)]
        referenced = (self._get(intent_id) for ids in self._ids_by_reference.values() for intent_id in ids)
        # An order of a basket that a reference used, too, would otherwise count as the order of the reference.
        needed = {intent.cart_token for intent in referenced} | self._claims.cart_tokens()
        count = 0
        for intent in found:
            if intent.reference is None and intent.cart_token in needed:
                continue
            if intent.reference is None:
                self._forget(intent.id)
            elif self._is_confirmed(intent.account, intent.reference):
                self._closed[intent.id] = _reduce(intent, at)
            else:
                continue
            count += 1
        return count

    @_locked
    async def erase_customer(
        self, external_customer_id: str, at: datetime, *, account: str, unnamed_account: str
    ) -> int:
        """Erase a customer from the records of an account; see `ErasableJournal`."""
        return self._erase(external_customer_id, at, {account, unnamed_account, None})

    @_locked
    async def record_decision(self, intent_id: str, at: datetime) -> None:
        """Store that a person has settled an intent."""
        for intents in (self._open, self._closed):
            if intent_id in intents:
                intents[intent_id] = attrs.evolve(intents[intent_id], decided_at=at)

    @_locked
    async def find_other_references(self, key: ReferenceKey, *, same: bool = False) -> list[str]:
        """Return the ids of some intents with references that belong to other accounts of the same server."""
        found = [
            intent_id
            for (account, reference), ids in self._ids_by_reference.items()
            if account not in {key.owner.account, key.unnamed_account}
            and (not same or reference in {key.reference, self.erased_name(key.reference)})
            for intent_id in ids
            if self._get(intent_id).server == key.owner.server
        ]
        return found[:5]

    @_locked
    async def claim(self, claim: Claim, *, known: Collection[str]) -> Claim:
        """Store a claim, or take over an earlier one of the same reference, and return it."""
        await self._check_reference(claim.key, known)
        return self._claims.store(claim)

    @_locked
    async def renew_claim(self, claim: Claim) -> None:
        """Extend a claim from now."""
        self._claims.renew(claim)

    @_locked
    async def release_claim(self, claim: Claim, *, grace: float) -> None:
        """End a claim."""
        self._claims.release(claim, grace)

    @_locked
    async def find_claim(self, key: ReferenceKey) -> Claim | None:
        """Return the claim of a reference, held or not, or None."""
        return self._claims.find(key)

    async def aclose(self) -> None:
        """Do nothing: a journal in memory holds no resources."""

    async def _check_reference(self, key: ReferenceKey, known: Collection[str]) -> None:
        others = await self.find_other_references(key, same=True)
        check_reference(key, await self.find_by_reference(key), known, others)

    def _get(self, intent_id: str) -> Intent:
        return self._open.get(intent_id) or self._closed[intent_id]

    def _is_confirmed(self, account: str | None, reference: str) -> bool:
        ids = self._ids_by_reference.get((account, reference), ())
        return any(self._get(intent_id).state == IntentState.CONFIRMED for intent_id in ids)

    def _warn_beyond_limit(self) -> None:
        """Warn once if more closed intents are kept than the limit allows."""
        if not self._has_warned and len(self._closed) - len(self._forgettable) > _MAX_CLOSED:
            self._has_warned = True
            _logger.warning(
                "the journal in memory keeps all references, by now more than %d: it grows with each further one. Use "
                "a journal in a file or a database",
                _MAX_CLOSED,
            )

    def _find(self, external_customer_id: str, cart_token: str, account: str | None) -> list[Intent]:
        names = (external_customer_id, self.erased_name(external_customer_id))
        ids = (self._ids_by_basket.get((name, cart_token), ()) for name in names)
        intents = [self._get(intent_id) for some in ids for intent_id in some]
        return [intent for intent in intents if intent.account in {account, None}]

    def _forget(self, intent_id: str) -> None:
        intent = self._closed.pop(intent_id)
        del self._forgettable[intent_id]
        del self._numbers[intent_id]
        basket = (intent.external_customer_id, intent.cart_token)
        self._ids_by_basket[basket].remove(intent.id)
        if not self._ids_by_basket[basket]:
            del self._ids_by_basket[basket]


def _assign(intent: Intent, owner: JournalAccount) -> Intent:
    return attrs.evolve(intent, server=owner.server, account=owner.account)


def _reduce(intent: Intent, at: datetime) -> Intent:
    """Return an intent without what its confirmed reference does not need."""
    return attrs.evolve(
        intent,
        price_token="",
        paid_total=Decimal(0),
        clock_offset=0,
        known_orders=(),
        progress=None,
        fenced_at=None,
        send_before=None,
        refusal=None,
        decided_at=None,
        forgotten_at=at,
    )
