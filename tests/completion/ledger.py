"""A test oracle: compares the orders that a sandbox made for each intent with the journals of its clients."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Collection, Iterable
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from minted_connect import AsyncMintedConnect
from minted_connect.config import CompletionPolicy, Options
from minted_connect.errors import JournalError
from minted_connect.journal.claims import Claim
from minted_connect.journal.listing import IntentFilter
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import ACTIVE, OPEN, Journal, JournalAccount, ReferenceKey
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.models import Completion, Intent, IntentPage, IntentState, OrderProgress, Refusal
from minted_connect.sandbox import Sandbox, ThreadedSandbox
from minted_connect.sandbox.entities import FAILING

_T = TypeVar("_T")

HEADER: Final = "Idempotency-Key"
"""Carries the intent's id. The sandbox ignores it; `Oracle` reads it."""
FAILED: Final = frozenset(FAILING)
COMPLETIONS: Final = ("/complete/buy", "/complete/sell", "/complete/delivery")


class Entry(NamedTuple):
    """The record of one intent in a journal."""

    cart_token: str
    state: str
    paid_total: Decimal
    pieces: Counter[str]


def entry(cart_token: str, state: str, paid_total: Decimal | str, items: Iterable[tuple[str, int]]) -> Entry:
    agreed: Counter[str] = Counter()
    for sku, amount in items:
        agreed[sku] += amount
    return Entry(cart_token, str(state), Decimal(paid_total), agreed)


def pieces(lines: Iterable[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in lines:
        found[line.sku] += line.amount
    return found


class MemoryStore(MemoryJournal):
    """A journal in memory whose records can be listed."""

    def entries(self) -> dict[str, Entry]:
        intents = (*self._closed.values(), *self._open.values())
        return {one.id: entry(one.cart_token, one.state, one.paid_total, one.items) for one in intents}


class FileStore(SqliteJournal):
    """A journal in a file whose records can be listed independently of the journal's own queries."""

    def entries(self) -> dict[str, Entry]:
        if not self.path.exists():
            return {}
        with closing(sqlite3.connect(self.path)) as database:
            rows = database.execute("SELECT id, cart_token, state, paid_total, items FROM intents")
            return {name: entry(*rest, json.loads(items)) for name, *rest, items in rows}


Store = MemoryStore | FileStore


class RecordingJournal(Journal):
    """A journal as one process sees it: after `is_killed`, which simulates a kill, nothing more is stored."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._store = machine, machine.store
        self.is_killed = False

    async def prepare(self, intent: Intent, **conditions: Any) -> None:
        if self._writes():
            await self._store.prepare(intent, **conditions)

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        if self._writes():
            await self._store.settle(intent_id, state, **what)

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        if self._writes():
            await self._store.record_refusal(intent_id, refusal)

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        if self._writes():
            await self._store.adopt(intent_id, owner)

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        if self._writes():
            await self._store.save_progress(external_customer_id, cart_token, progress, account=account)

    async def get(self, intent_id: str) -> Intent | None:
        return await self._store.get(intent_id)

    async def fence(self, intent_id: str, at: datetime) -> None:
        if self._writes():
            await self._store.fence(intent_id, at)

    async def find_active(
        self, external_customer_id: str, cart_token: str, *, account: str | None = None
    ) -> Intent | None:
        return await self._store.find_active(external_customer_id, cart_token, account=account)

    async def pending(self) -> list[Intent]:
        return await self._store.pending()

    async def awaiting_completion(self) -> list[Intent]:
        return await self._store.awaiting_completion()

    async def find_by_reference(self, key: ReferenceKey) -> list[Intent]:
        return await self._store.find_by_reference(key)

    async def find_other_references(self, key: ReferenceKey, *, same: bool = False) -> list[str]:
        return await self._store.find_other_references(key, same=same)

    async def record_decision(self, intent_id: str, at: datetime) -> None:
        if self._writes():
            await self._store.record_decision(intent_id, at)

    async def claim(self, claim: Claim, *, known: Collection[str]) -> Claim:
        return await self._store.claim(claim, known=known) if self._writes() else claim

    async def renew_claim(self, claim: Claim) -> None:
        if self._writes():
            await self._store.renew_claim(claim)

    async def release_claim(self, claim: Claim, *, grace: float) -> None:
        if self._writes():
            await self._store.release_claim(claim, grace=grace)

    async def find_claim(self, key: ReferenceKey) -> Claim | None:
        return await self._store.find_claim(key)

    async def find_intents(self, filters: IntentFilter, *, after: int = 0, limit: int) -> IntentPage:
        return await self._store.find_intents(filters, after=after, limit=limit)

    async def forget(self, before: datetime, at: datetime, *, account: str) -> int:
        return await self._store.forget(before, at, account=account) if self._writes() else 0

    async def aclose(self) -> None:
        pass

    def _writes(self) -> bool:
        if self._machine.failing_writes and not self.is_killed:
            self._machine.failing_writes -= 1
            self._machine.failed_writes += 1
            raise JournalError("the disk is full")
        return not self.is_killed


class Machine:
    """A machine of the partner: its client can be restarted, its journal persists."""

    def __init__(self, server: Sandbox, store: Store, policy: CompletionPolicy, **options: Any) -> None:
        self._server, self._policy, self._options = server, policy, options
        self.store = store
        self.known_intents: dict[str, Intent] = {}
        """Intents that were pending at some time, so that they can be reconciled."""
        self.failing_writes = 0
        """Number of the next writes to the journal that fail."""
        self.failed_writes = 0
        """Number of writes that failed."""
        self.start()

    def start(self) -> None:
        self.journal = RecordingJournal(self)
        self.client = AsyncMintedConnect(
            self._server.username,
            self._server.password,
            base_url=self._server.url,
            journal=self.journal,
            options=Options(clock=self._server.clock, completion=self._policy, **self._options),
        )

    async def restart(self) -> None:
        await self.client.aclose()
        self.start()

    async def crash(self, *tasks: asyncio.Task[Any]) -> None:
        """Simulate a kill during the tasks, so that they store nothing more; then start again."""
        self.journal.is_killed = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.restart()


class Oracle:
    """Records the orders that the sandbox makes for each intent, and checks the invariants of journals and orders."""

    def __init__(self, server: Sandbox | ThreadedSandbox, *stores: Store) -> None:
        self.server, self.stores = server, stores
        self.made: dict[str, list[int]] = {}
        self.executed: Counter[str] = Counter()
        """Number of completions of each intent that the server processed, executed or refused."""
        self.given: dict[int, Counter[str]] = {}
        self.closed: dict[str, str] = {}
        dispatcher = server._dispatcher
        assert dispatcher is not None
        dispatch = dispatcher.dispatch

        def record_orders(partner: str, incoming: Any, *accepted: Any) -> Any:
            before = len(server.shop.orders)
            reply = dispatch(partner, incoming, *accepted)
            if incoming.path.endswith(COMPLETIONS):
                self.executed[incoming.headers[HEADER]] += 1
            for order in server.shop.orders[before:]:
                self.made.setdefault(incoming.headers[HEADER], []).append(order.id)
            return reply

        dispatcher.dispatch = record_orders  # type: ignore[method-assign]

    def give(self, customer: str, sku: str, pieces: int) -> None:
        self.server.shop.give(customer, sku, pieces)
        [number] = [one.id for one in self.server.shop.customers if one.external_id == customer]
        self.given.setdefault(number, Counter())[sku] += pieces

    def orders(self, cart_token: str) -> list[Any]:
        return [order for order in self.server.shop.orders if order.token == cart_token]

    def is_failed(self, order: Any) -> bool:
        return self.server.shop.status(order)[1] in FAILED

    def check(self) -> None:
        """Check the invariants that hold at any moment, after any fault."""
        journals = [store.entries() for store in self.stores]
        entries = {name: entry for journal in journals for name, entry in journal.items()}
        ordered = {order.token for order in self.server.shop.orders}
        cancelled = {order.token for order in self.server.shop.orders if self.is_failed(order)}
        assert sum(map(len, self.made.values())) == len(self.server.shop.orders)
        assert max(self.executed.values(), default=1) == 1, "a completion was posted twice"
        for name, orders in self.made.items():
            assert len(orders) == 1, f"intent {name} made the orders {orders}"
            entry = entries[name]
            # If another machine's order for the same basket was cancelled, this intent may be rejected because of it.
            rejected = entry.state == IntentState.REJECTED and entry.cart_token in cancelled
            assert entry.state in ACTIVE or rejected, f"intent {name} is {entry.state}, and made order {orders[0]}"
        for name, entry in entries.items():
            was = self.closed.get(name, entry.state)
            assert entry.state in {was, IntentState.CONFIRMED}, f"intent {name} was {was}, and is {entry.state}"
            confirmed = entry.state == IntentState.CONFIRMED
            assert not confirmed or entry.cart_token in ordered, f"intent {name} is confirmed, and there is no order"
        self.closed = {name: entry.state for name, entry in entries.items() if entry.state not in OPEN}
        for journal in journals:
            bought = Counter(entry.cart_token for name, entry in journal.items() if name in self.made)
            assert all(times == 1 for times in bought.values()), "one journal, one basket, two orders"
        self._check_wallets()

    def _check_wallets(self) -> None:
        held = {one.id: Counter(self.given.get(one.id, {})) for one in self.server.shop.customers}
        for order in self.server.shop.orders:
            for line in order.lines:
                held[order.customer][line.sku] += line.amount if order.kind == "buy" else -line.amount
        for customer in self.server.shop.customers:
            wallet = Counter(customer.holdings)
            assert (+held[customer.id], -held[customer.id]) == (+wallet, -wallet)

    def check_completion(self, done: Completion, entry: Entry) -> None:
        """Check that a reported completion has an order, and that it lists the differences from what was agreed to."""
        orders = self.orders(entry.cart_token)
        assert orders, "a completion was reported without an order"
        assert done.order_id in {None, *(order.id for order in orders)}
        if len(orders) > 1 or done.order is None:
            return
        [order] = orders
        # Delayed reads do not show a recent change of the status yet.
        shows_at_once = self.server.reads_behind == 0
        assert not (shows_at_once and done.reconciled and "status_name" in done.raw and self.is_failed(order))
        ordered, shown = pieces(order.lines), pieces(done.order.items)
        if shown != ordered:
            return  # a modified response
        same = (order.figures.paid_total, ordered) == (entry.paid_total, entry.pieces)
        # The response alone may show the order as failed, which is not a difference from what was agreed to.
        differing = [one for one in done.differences if not one.startswith("status_name: ")]
        assert bool(differing) is not same, f"{done.differences}; agreed: {entry}"


async def run_loop(iterations: int) -> None:
    """Let the event loop run some iterations."""
    for _ in range(iterations):
        await asyncio.sleep(0)


async def result_of(call: Awaitable[_T]) -> _T | BaseException:
    """Return the result of a call, or the exception it raises. `asyncio.gather` loses the notes of a cancellation."""
    try:
        return await call
    except BaseException as error:
        return error
