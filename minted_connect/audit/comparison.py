"""Compares intents with orders. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import attrs

from minted_connect.audit.period import Period
from minted_connect.audit.report import Finding, FindingKind
from minted_connect.audit.rows import OrderIndex, OrderRow
from minted_connect.completion.order_match import pieces_by_sku
from minted_connect.journal.protocol import CLOSED
from minted_connect.models import Intent, IntentState, Order

__all__ = ["Comparison"]


@attrs.define
class _Record:
    """An intent, and the orders that are proven to be its order."""

    intent: Intent
    rows: list[OrderRow]

    @property
    def is_confirmed(self) -> bool:
        return self.intent.state == IntentState.CONFIRMED

    @property
    def is_open(self) -> bool:
        return self.intent.state not in CLOSED

    @property
    def order_ids(self) -> tuple[int, ...]:
        return tuple(row.id for row in self.rows if row.id is not None)


class Comparison:
    """Pairs intents with orders, and lists the differences.

    Args:
        period: The days to audit.
        index: The orders.
        accounts: The accounts whose intents are compared; None stands for intents without an account.
        recent_since: Confirmed intents that were created later may have an order that is not listed yet.
    """

    def __init__(
        self, period: Period, index: OrderIndex, accounts: frozenset[str | None], recent_since: datetime
    ) -> None:
        self._period, self._index, self._accounts, self._recent_since = period, index, accounts, recent_since
        self._records: dict[str, _Record] = {}
        self._references: dict[str, dict[str, bool]] = {}
        """For each reference, the ids of its confirmed intents, and whether they belong to the days."""
        self._foreign: dict[tuple[str, str], list[str]] = {}
        """For each order, the ids of its intents that belong to other accounts."""
        self._unchecked: set[str] = set()
        """Ids of intents whose order may exist, because the list of orders could not be read."""
        self._forgotten: dict[str, datetime] = {}
        """For each journal, the time from before which it has forgotten settled intents."""
        self.other_accounts: int = 0

    def add(self, intents: Iterable[Intent]) -> None:
        """Add intents of one journal."""
        for intent in intents:
            is_within = self._period.includes_intent(intent)
            rows = self._index.find(intent)
            if intent.account not in self._accounts:
                self.other_accounts += is_within
                for row in rows:
                    self._foreign.setdefault(row.key, []).append(intent.id)
                continue
            # Other intents are not kept: a journal may contain those of years.
            if is_within or rows:
                known = self._records.get(intent.id)
                if known is None or _certainty(intent) > _certainty(known.intent):
                    self._records[intent.id] = _Record(intent, rows)
            if intent.reference is not None and intent.state == IntentState.CONFIRMED:
                self._references.setdefault(intent.reference, {})[intent.id] = is_within

    def add_forgotten(self, journal: str, before: datetime) -> None:
        """Add that a journal has forgotten settled intents from before a time."""
        self._forgotten[journal] = before

    def forgotten(self) -> dict[str, list[int]]:
        """Return the orders of the days without an intent, if a journal may have forgotten it, by journal."""
        found: dict[str, list[int]] = {}
        for row, known in self._by_order():
            if known or row.key in self._foreign or row.order is None or not self._period.includes(row.order.order_at):
                continue
            if (journal := self._forgotten_in(row.order)) is not None:
                found.setdefault(journal, []).append(row.order.id)
        return found

    def missing(self) -> dict[str, list[Intent]]:
        """Return the open and confirmed intents of the days without an order, except recent ones, by customer."""
        found: dict[str, list[Intent]] = {}
        for record in self._within():
            is_active = record.is_open or record.is_confirmed
            if is_active and not record.rows and not self._is_recent(record.intent):
                if record.intent.erased_at is not None:
                    # The list of a customer who was erased cannot be read.
                    self._unchecked.add(record.intent.id)
                    continue
                found.setdefault(record.intent.external_customer_id, []).append(record.intent)
        return found

    def add_orders(self, index: OrderIndex, intents: Iterable[Intent], *, is_complete: bool) -> None:
        """Search further orders for those of some intents.

        Args:
            index: The orders.
            intents: Intents whose order was not found.
            is_complete: Whether the orders are all that the customer of the intents has.
        """
        for intent in intents:
            self._records[intent.id].rows = index.find(intent)
            if not is_complete:
                self._unchecked.add(intent.id)

    @property
    def orders(self) -> int:
        """Number of orders of the days."""
        return sum(row.order is not None and self._period.includes(row.order.order_at) for row in self._index)

    @property
    def intents(self) -> int:
        """Number of intents of the days."""
        return len(self._within())

    @property
    def matched(self) -> int:
        """Number of confirmed intents of the days whose order was found."""
        return sum(record.is_confirmed and bool(record.rows) for record in self._within())

    @property
    def recent(self) -> int:
        """Number of confirmed intents of the days whose order may not be listed yet."""
        missing = [record.intent for record in self._within() if record.is_confirmed and not record.rows]
        return sum(map(self._is_recent, missing))

    @property
    def customers(self) -> set[str]:
        """The customers of the orders and intents of the days."""
        orders = (row.order for row in self._index)
        found = {one.customer.external_id for one in orders if one and self._period.includes(one.order_at)}
        return found | {one.intent.external_customer_id for one in self._within() if one.intent.erased_at is None}

    @property
    def recent_customers(self) -> set[str]:
        """The customers of purchases whose order may not be listed yet."""
        active = (record.intent for record in self._within() if record.is_open or record.is_confirmed)
        known = (intent for intent in active if intent.erased_at is None)
        return {intent.external_customer_id for intent in known if self._is_recent(intent)}

    def findings(self) -> tuple[Finding, ...]:
        """Return the differences."""
        return (*self._of_orders(), *self._of_intents(), *self._of_references())

    def _within(self) -> list[_Record]:
        return [record for record in self._records.values() if self._period.includes_intent(record.intent)]

    def _is_recent(self, intent: Intent) -> bool:
        return max(intent.created_at, intent.created_by_server) > self._recent_since

    def _by_order(self) -> Iterator[tuple[OrderRow, list[_Record]]]:
        """Yield each order with its intents."""
        records: dict[tuple[str, str], list[_Record]] = {}
        rows = {row.key: row for row in self._index}
        for record in self._records.values():
            for row in record.rows:
                records.setdefault(row.key, []).append(record)
                rows[row.key] = row
        for row in rows.values():
            yield row, records.get(row.key, [])

    def _of_orders(self) -> Iterator[Finding]:
        for row, known in self._by_order():
            if any(self._period.includes_intent(record.intent) for record in known):
                yield from _compare_outcomes(row, known)
            elif not known and row.order is not None and self._period.includes(row.order.order_at):
                foreign = self._foreign.get(row.key, ())
                if foreign or self._forgotten_in(row.order) is None:
                    yield self._without_intent(row.order, foreign)

    def _forgotten_in(self, order: Order) -> str | None:
        """Return a journal that may have forgotten the intent of an order, which is dated by its older basket."""
        found = (journal for journal, before in self._forgotten.items() if order.order_at < before)
        return next(found, None)

    def _without_intent(self, order: Order, foreign: Sequence[str]) -> Finding:
        text = f"order {order.id} ({_describe(order)}) has no intent in the journals"
        if foreign:
            text = (
                f"order {order.id} ({_describe(order)}) has an intent of another account only: use the user name or "
                "the journal_account of that account, or assign the intent with complete.adopt"
            )
        return Finding(
            FindingKind.ORDER_WITHOUT_INTENT, text, tuple(sorted(foreign)), (order.id,), order.customer.external_id
        )

    def _of_intents(self) -> Iterator[Finding]:
        for record in self._within():
            intent = record.intent
            if record.is_open:
                seen = f": order {_join(record.order_ids)} has its keys" if record.rows else ""
                yield _finding(FindingKind.OPEN_INTENT, f"intent {intent.id} is {intent.state}{seen}", record)
            elif not record.is_confirmed:
                continue
            elif record.rows:
                yield from _compare_orders(record)
            elif not self._is_recent(intent) and intent.id not in self._unchecked:
                number = "" if intent.order_id is None else f" as order {intent.order_id}"
                text = f"intent {intent.id} is confirmed{number}, and no such order is listed"
                numbers = () if intent.order_id is None else (intent.order_id,)
                kind = FindingKind.INTENT_WITHOUT_ORDER
                yield Finding(kind, text, (intent.id,), numbers, intent.external_customer_id)

    def _of_references(self) -> Iterator[Finding]:
        for confirmed in self._references.values():
            if len(confirmed) < 2 or not any(confirmed.values()):  # noqa: PLR2004 - two are one too many
                continue
            ids = tuple(sorted(confirmed))
            records = [self._records[one] for one in ids if one in self._records]
            numbers = tuple(sorted({number for record in records for number in record.order_ids}))
            text = f"one reference was confirmed {len(ids)} times: intents {_join(ids)}"
            customers = {record.intent.external_customer_id for record in records}
            customer = customers.pop() if len(customers) == 1 else None
            yield Finding(FindingKind.REFERENCE_REPEATED, text, ids, numbers, customer)


def _compare_outcomes(row: OrderRow, records: Sequence[_Record]) -> Iterator[Finding]:
    """Compare the states of the intents of one order."""
    confirmed = [record for record in records if record.is_confirmed]
    ids = tuple(sorted(record.intent.id for record in confirmed or records))
    numbers = () if row.id is None else (row.id,)
    customer = records[0].intent.external_customer_id
    if len(confirmed) > 1:
        text = f"order {row.id} is the order of {len(ids)} confirmed intents: {_join(ids)}"
        yield Finding(FindingKind.INTENTS_REPEATED, text, ids, numbers, customer)
    if not row.is_failed and not confirmed and not any(record.is_open for record in records):
        states = _join(sorted({str(record.intent.state) for record in records}))
        text = f"intent {_join(ids)} is settled as {states}, but order {row.id} exists"
        yield Finding(FindingKind.OUTCOME_DIFFERS, text, ids, numbers, customer)


def _compare_orders(record: _Record) -> Iterator[Finding]:
    """Compare a confirmed intent with its orders."""
    if len(record.rows) > 1:
        text = f"intent {record.intent.id} has {len(record.rows)} orders: {_join(record.order_ids)}"
        yield _finding(FindingKind.ORDERS_REPEATED, text, record)
    for row in record.rows:
        if row.is_failed:
            text = f"intent {record.intent.id} is confirmed, but order {row.id} is {row.raw.get('status_name')}"
            yield _finding(FindingKind.ORDER_FAILED, text, record)
        if row.order is not None:
            for kind, text in _compare_terms(record.intent, row.order):
                yield _finding(kind, f"order {row.id} of intent {record.intent.id}: {text}", record)


def _compare_terms(intent: Intent, order: Order) -> Iterator[tuple[FindingKind, str]]:
    if order.paid_total != intent.paid_total and intent.forgotten_at is None:
        yield FindingKind.TOTAL_DIFFERS, f"agreed {intent.paid_total}, ordered {order.paid_total}"
    if order.currency_code != intent.currency_code:
        yield FindingKind.CURRENCY_DIFFERS, f"agreed {intent.currency_code}, ordered {order.currency_code}"
    if order.kind not in {intent.kind, None}:
        yield FindingKind.KIND_DIFFERS, f"agreed {intent.kind}, ordered {order.kind}"
    ordered = pieces_by_sku(order)
    agreed: dict[str, int] = {}
    for sku, pieces in intent.items:
        agreed[sku] = agreed.get(sku, 0) + pieces
    differing = [sku for sku in sorted({*agreed, *ordered}) if agreed.get(sku, 0) != ordered[sku]]
    if differing:
        parts = [f"{sku} agreed {agreed.get(sku, 0)}, ordered {ordered[sku]}" for sku in differing]
        yield FindingKind.PIECES_DIFFER, f"pieces: {'; '.join(parts)}"


def _finding(kind: FindingKind, text: str, record: _Record) -> Finding:
    return Finding(kind, text, (record.intent.id,), record.order_ids, record.intent.external_customer_id)


def _certainty(intent: Intent) -> int:
    """Return how certain the outcome of an intent is, to choose one of several records of it."""
    return (intent.state in CLOSED) + (intent.state == IntentState.CONFIRMED)


def _describe(order: Order) -> str:
    return f"{order.kind or order.type}, {order.paid_total} {order.currency_code}, {order.order_at:%Y-%m-%d %H:%M} UTC"


def _join(parts: Iterable[object]) -> str:
    return ", ".join(map(str, parts))
