"""Reconciles many intents at once.

One walk over the orders of all customers confirms the intents whose keys it finds. It proves nothing about the others:
each of these is read back by itself, as in `complete.reconcile`, and their polls are interleaved.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

import anyio
import attrs

from minted_connect.completion.bounded_reads import MAX_PAGES, PER_PAGE, SEARCH_MARGIN, BoundedReads, ListedOrder
from minted_connect.completion.order_match import Match, last_page, mapping, match_order
from minted_connect.completion.outcome_unknown import mark_unknown
from minted_connect.completion.outcomes import resolve
from minted_connect.completion.reconcile import ReadBack, ReadBackResult, RecordFence
from minted_connect.completion.settlement import Settlement
from minted_connect.completion.unknown_text import Report
from minted_connect.completion.verdict import Evidence, Likelihood, OrderSeen, Outcome, verdict
from minted_connect.core.api_client import ApiClient
from minted_connect.core.model_decoder import as_rows
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import MintedConnectError, Phase
from minted_connect.models import Completion, Intent, IntentState, ReconcileResult
from minted_connect.models.json_types import CustomerMatch, compare_customer

__all__ = ["reconcile_all", "reconcile_intent"]

_logger = logging.getLogger("minted_connect.completion")

_MAY_BE_IN_FLIGHT: Final = timedelta(minutes=2)
"""Another process may still be sending a prepared intent that is younger than this: it is read back, but not fenced."""
_WALK_SHARE: Final = 0.5
"""Share of the budget that the walk may use."""
_KEYS: Final = (("token", "cart_token"), ("guid", "guid"), ("increment_id", "increment_id"))
"""Names of the keys in an order, and in an intent."""


async def reconcile_intent(
    api: ApiClient, settlement: Settlement, intent: Intent, *, budget: float, fence: bool
) -> Completion:
    """Reconcile one intent: return its completion or raise the error.

    Args:
        api: Sends the reads.
        settlement: Of the client.
        intent: The intent.
        budget: Seconds for the reads.
        fence: Whether to clear a basket that is still open.

    Raises:
        MintedConnectError: as `complete.reconcile`.
    """
    in_flight = settlement.in_flight.get((intent.external_customer_id, intent.cart_token))
    if in_flight is not None:
        await in_flight.done.wait()
    intent = await settlement.refresh(intent)
    record_fence = settlement.record_fence if fence else None
    result = await ReadBack(api, intent).poll(budget=budget, record_fence=record_fence)
    return await resolve(settlement, intent, result, Phase.SENT)


async def reconcile_all(
    api: ApiClient,
    settlement: Settlement,
    intents: Sequence[Intent],
    *,
    budget: float,
    concurrency: int,
    fence: bool,
    on_result: Callable[[ReconcileResult], object] | None,
) -> list[ReconcileResult]:
    """Reconcile intents, and return their results in the same order.

    Args:
        api: Sends the reads.
        settlement: Of the client.
        intents: Different intents of this account, none of them in flight in this client.
        budget: Seconds for all reads together.
        concurrency: Number of intents that are read at a time.
        fence: Whether to clear baskets that are still open, except those that another process may be completing.
        on_result: Called with each result as soon as it is known.
    """
    deadline = api.clock.monotonic() + budget
    batch = _Batch(api, settlement, intents, deadline, anyio.CapacityLimiter(concurrency), fence)
    found = await _Walk(api, batch).run(budget * _WALK_SHARE)
    results: dict[str, ReconcileResult] = {}

    async def settle(intent: Intent) -> None:
        try:
            result = ReconcileResult(intent, await batch.reconcile(intent, found.get(intent.id)))
        except Exception as error:  # noqa: BLE001 - one intent must not end the others
            result = ReconcileResult(intent, error=error)
        results[intent.id] = result
        if on_result is not None:
            try:
                on_result(result)
            except Exception:
                _logger.exception("on_result of reconcile_all raised")

    async with anyio.create_task_group() as tasks:
        for intent in intents:
            tasks.start_soon(settle, intent)
    return [results[intent.id] for intent in intents]


@attrs.frozen(eq=False)
class _Batch:
    """The intents that are reconciled together."""

    api: ApiClient
    settlement: Settlement
    intents: Sequence[Intent]
    deadline: float
    """Monotonic time at which the reads must end."""
    limiter: anyio.CapacityLimiter
    fence: bool

    async def reconcile(self, intent: Intent, found: ReadBackResult | None) -> Completion:
        """Reconcile an intent: return its completion or raise the error.

        Args:
            intent: The intent.
            found: The result of the walk, if that decides; else the intent is read back.
        """
        async with self.limiter:
            intent = await self.settlement.refresh(intent)
        if found is None:
            left = max(self.deadline - self.api.clock.monotonic(), 0.0)
            found = await ReadBack(self.api, intent).poll(
                budget=left, record_fence=self._record_fence(intent), limiter=self.limiter
            )
            if found.evidence.order in {OrderSeen.ACCEPTED, OrderSeen.FAILED}:
                owner = self.find_owner(ListedOrder(found.raw, found.order), self.intents)
                if owner is not None and owner.id != intent.id and await self._has_no_successor(intent):
                    raise await self._leave_to(intent, owner)
        return await resolve(self.settlement, intent, found, Phase.SENT)

    def find_owner(self, row: ListedOrder, intents: Sequence[Intent]) -> Intent | None:
        """Return the intent to which an order belongs: one order counts for one intent.

        The strongest key decides; of two intents with the same basket, the later one, which completed the basket again.
        """
        keeps_number = self.api.completion_policy.order_keeps_number
        owner, strongest = None, Match.LIKELY
        for intent in sorted(intents, key=lambda one: one.created_at):
            match = match_order(row.raw, row.order, intent, keeps_number=keeps_number)
            if match > Match.LIKELY and match >= strongest:
                owner, strongest = intent, match
        return owner

    def _record_fence(self, intent: Intent) -> RecordFence | None:
        is_recent = self.api.clock.wall() - intent.created_at < _MAY_BE_IN_FLIGHT
        may_fence = self.fence and not (is_recent and intent.state == IntentState.PREPARED)
        return self.settlement.record_fence if may_fence else None

    async def _has_no_successor(self, intent: Intent) -> bool:
        return await self.settlement.find_successor(intent) is None

    async def _leave_to(self, intent: Intent, owner: Intent) -> MintedConnectError:
        """Leave the order that was found to another intent, and build the error for this one."""
        reason = f"the order that was found belongs to intent {owner.id}"
        report = Report(reason, Likelihood.NONE, "reconcile again when that intent is settled")
        return await mark_unknown(self.settlement, intent, Phase.SENT, (reason, Likelihood.NONE.value), report)


class _Walk:
    """Walks over the newest orders of all customers, and matches them to the intents by their keys."""

    def __init__(self, api: ApiClient, batch: _Batch) -> None:
        self._api = api
        self._batch = batch
        self._reads = BoundedReads(api, has_read=False)
        self._by_key: dict[tuple[str, str], list[Intent]] = {}
        for intent in batch.intents:
            for name, attribute in _KEYS:
                if key := getattr(intent, attribute):
                    self._by_key.setdefault((name, key), []).append(intent)

    async def run(self, seconds: float) -> dict[str, ReadBackResult]:
        """Return the results that are decided, by id of the intent.

        These are confirmed intents only, except if further reads of any intent would fail, too.
        """
        intents = self._batch.intents
        if len(intents) < 2:  # noqa: PLR2004 - one intent is found faster in its customer's list
            return {}
        self._reads.deadline = self._api.clock.monotonic() + seconds
        rows: dict[str, dict[tuple[str, str], ListedOrder]] = {}
        try:
            await self._read(rows)
        except MintedConnectError as error:
            self._reads.record_failure(error)
        if self._reads.has_failed_permanently:
            failed = self._fail(tuple(self._reads.take_failures()))
            return dict.fromkeys((intent.id for intent in intents), failed)
        # Several rows of one basket may be two orders: its own read-back tells which counts, and names the other.
        single = {intent_id: next(iter(found.values())) for intent_id, found in rows.items() if len(found) == 1}
        return {intent_id: _confirm(row) for intent_id, row in single.items() if row.seen is OrderSeen.ACCEPTED}

    async def _read(self, rows: dict[str, dict[tuple[str, str], ListedOrder]]) -> None:
        """Add the orders to `rows`, by id of their intent.

        Reads no more pages than there are intents, because each of them costs several requests by itself.
        """
        created = [time for one in self._batch.intents for time in (one.created_at, one.created_by_server)]
        first, last = min(created) - SEARCH_MARGIN, max(created) + SEARCH_MARGIN
        query = (
            *(("sortBy", "created_at"), ("sortType", "desc")),
            *(("startDate", first.date().isoformat()), ("endDate", last.date().isoformat())),
        )
        for number in range(1, min(MAX_PAGES, len(self._batch.intents)) + 1):
            pages = (("page", str(number)), ("total", str(PER_PAGE)))
            response = await self._reads.send(Request(OPERATIONS["orders.page"], query=(*pages, *query)))
            page = mapping(response.data)
            raws = [mapping(raw) for raw in as_rows(page.get("data")) or ()]
            listed = [self._reads.parse(raw) for raw in raws]
            for row in listed:
                owner = self._batch.find_owner(row, list(self._find_candidates(row)))
                if owner is not None:
                    rows.setdefault(owner.id, {})[row.key] = row
            is_old = all(row.order is not None and row.order.order_at < first for row in listed)
            if is_old or number >= last_page(page, default=MAX_PAGES):
                return

    def _find_candidates(self, row: ListedOrder) -> Iterator[Intent]:
        """Yield the intents that have a key of an order. Keys that are no text are left to the read-back."""
        for name, _ in _KEYS:
            key = row.raw.get(name)
            if not isinstance(key, str):
                continue
            for intent in self._by_key.get((name, key), ()):
                if compare_customer(row.raw, intent.external_customer_id) is CustomerMatch.SAME:
                    yield intent

    @staticmethod
    def _fail(failures: tuple[str, ...]) -> ReadBackResult:
        proven = verdict(Evidence())
        report = Report(
            "orders and baskets could not be read", Likelihood.NONE, "correct the failure of the reads, then reconcile"
        )
        notes = (proven.reason, proven.likelihood.value, *failures)
        return ReadBackResult(proven, Evidence(), notes=notes, report=report)


def _confirm(row: ListedOrder) -> ReadBackResult:
    evidence = Evidence(order=OrderSeen.ACCEPTED)
    proven = verdict(evidence)
    assert proven.outcome is Outcome.CONFIRMED
    return ReadBackResult(proven, evidence, row.order, row.raw)
