"""Calls with items under random faults, kills and takeovers: one order per reference, with exactly its items."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from minted_connect import AsyncMintedConnect, MintedConnectError
from minted_connect.config import CompletionPolicy, Options
from minted_connect.errors import AlreadyInFlight, PriceChanged
from minted_connect.journal.claims import ClaimJournal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Completion, Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fault_strategies import READS, VISIBLE, FaultSpec, broken, late, lost, refused
from tests.completion.ledger import HEADER, result_of, run_loop
from tests.completion.process_journal import ProcessJournal
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD, SILVER

CUSTOMERS: Final = ("customer-1", "customer-2")
TERMS: Final = {
    "october": (CUSTOMERS[0], {GOLD: 1}),
    "november": (CUSTOMERS[0], {GOLD: 2, SILVER: 1}),
    "december": (CUSTOMERS[1], {SILVER: 2}),
}
LATEST_EXECUTION: Final = 60.0
TOTAL: Final = 30.0
"""Seconds: `Timeouts.total`."""
OVER: Final = 1000.0
"""Seconds after which no claim is held, no request of a call that has ended is executed, and every order is listed."""
LAG: Final = 20.0
READS_LAG: Final = 6.0
PLENTY: Final = Decimal(1_000_000)
COMPLETE: Final = "*/complete/*"
BASKET: Final = "*/basket"

references = st.sampled_from(tuple(TERMS))
processes = st.integers(0, 1)
# Not `one_of`, which would choose among all parts of `broken` with equal weights.
completion_faults = st.sampled_from((st.none(), st.none(), lost, broken, late, refused)).flatmap(lambda chosen: chosen)
change_faults = st.sampled_from((st.none(), st.none(), lost, late, late, broken)).flatmap(lambda chosen: chosen)

outcomes: Counter[str] = Counter()
"""Results of calls with items, over all runs."""


class Items(RuleBasedStateMachine):
    """Two processes with one journal buy the items of the same three references again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False)
        self.clients: list[AsyncMintedConnect] = []
        self.views: list[ProcessJournal] = []
        self.made: dict[str, list[Any]] = {}
        """Orders that the server made, by the intent whose request it executed."""
        self.limits = dict.fromkeys(TERMS, Decimal(0))
        """The highest `max_total` of each reference."""
        self.replies: dict[str, set[int]] = {reference: set() for reference in TERMS}
        """Numbers of the orders that completions of a reference have returned."""

    @initialize(
        lag=st.sampled_from((0.0, LAG)),
        reads_lag=st.sampled_from((0.0, 0.0, READS_LAG)),
        has_bounds=st.booleans(),
        inline_looks=st.sampled_from((None, 0.0)),
        claim_seconds=st.sampled_from((20.0, 120.0)),
    )
    def open(
        self, lag: float, reads_lag: float, has_bounds: bool, inline_looks: float | None, claim_seconds: float
    ) -> None:
        """Choose the behaviour of the vendor; with `has_bounds`, the policy has its optional bounds and proofs."""
        self.has_bounds = has_bounds
        self.latest_change = TOTAL + LATEST_EXECUTION - 5 if has_bounds else TOTAL - 5
        self.clock = SteppingClock()
        self.server = Sandbox(
            seed=1, clock=self.clock, single_shot=True, orders_lag=lag, reads_lag=reads_lag, keep_ids=True, log_limit=0
        )
        self.policy = CompletionPolicy(
            idempotency_header=HEADER,
            refusals=frozenset() if lag + reads_lag else frozenset({422}),
            inline_looks=inline_looks,
            latest_landing=LATEST_EXECUTION if has_bounds else None,
            fence_proves_not_executed=has_bounds,
            claim_seconds=claim_seconds,
        )
        self.after_refusal = min(self.policy.settle_time - lag - reads_lag - 1.0, LATEST_EXECUTION - 10.0)
        self.journal = MemoryJournal()
        self.journal._claims.elapsed = self.clock.elapsed  # type: ignore[assignment]
        self.runner.run(self._open())

    async def _open(self) -> None:
        await self.server.start()
        dispatcher = self.server._dispatcher
        assert dispatcher is not None
        dispatch = dispatcher.dispatch

        def record_orders(partner: str, incoming: Any, *accepted: Any) -> Any:
            before = len(self.server.shop.orders)
            reply = dispatch(partner, incoming, *accepted)
            for order in self.server.shop.orders[before:]:
                self.made.setdefault(incoming.headers[HEADER], []).append(order)
            return reply

        dispatcher.dispatch = record_orders  # type: ignore[method-assign]
        for number in (0, 1):
            self._start(number)
        for customer in CUSTOMERS:
            await self.clients[0].customers.create(customer, firstname="Ada", lastname="Lovelace")

    def _start(self, number: int) -> None:
        view: Any = ProcessJournal(self.journal, ClaimJournal)
        server, options = self.server, Options(clock=self.clock, completion=self.policy)
        client = AsyncMintedConnect(
            server.username, server.password, base_url=server.url, journal=view, options=options
        )
        self.clients[number : number + 1], self.views[number : number + 1] = [client], [view]

    async def _stop(self, number: int) -> None:
        await self.clients[number].aclose()
        self._start(number)

    def _arm(self, fault: FaultSpec | None, path: str, latest: float, **where: Any) -> Any:
        """Inject a fault that delays the execution of a request by less than `latest` seconds."""
        if fault is None:
            return None
        kind, args = fault
        if args.get("seconds", 0) >= latest:
            args = {**args, "seconds": latest}
        if args.get("commit") and kind in {"status", "refusal"}:
            # Only a client that trusts the vendor's refusals can be misled by a false one.
            is_trusted = args["status"] in self.policy.refusals
            args = {**args, "commit": args["commit"] if not is_trusted else "never" if kind == "refusal" else False}
        return self.server.faults.add(kind, path=path, **where, **args)  # type: ignore[arg-type]

    @rule(
        reference=references,
        completion_fault=completion_faults,
        change_fault=change_faults,
        method=st.sampled_from(("POST", "PUT", "DELETE", "POST")),
        callers=st.lists(processes, min_size=1, max_size=3),
        others=st.lists(st.tuples(processes, references), max_size=2),
        beside=st.sampled_from((None, None, "buy", "add_item")),
        stopped_after=st.none() | st.integers(0, 150),
        is_killed=st.booleans(),
        limit=st.sampled_from((PLENTY, PLENTY, PLENTY, Decimal(1))),
        replace=st.booleans(),
        wait=st.sampled_from((0.0, 0.0, 10.0, 400.0)),
    )
    def buy_items(self, **plan: Any) -> None:
        """Buy a reference in some calls at once; the first one, or its process, may be stopped."""
        self.runner.run(self._buy_items(**plan))

    @rule(
        first=references,
        second=references,
        stopped_after=st.integers(0, 150),
        method=st.sampled_from(("POST", "PUT")),
        change_seconds=st.sampled_from((5.0, 15.0, 24.0)),
        wait=st.sampled_from((1.0, 12.0, 21.0, 35.0)),
        completion_seconds=st.sampled_from((None, 1.0, 10.0, 30.0)),
        ending=st.sampled_from(("kill", "cancel", "error")),
        is_claimed=st.booleans(),
    )
    def take_over(self, **plan: Any) -> None:
        """Stop a call whose change is executed late, and buy from another process before, while or after it is."""
        self.server.faults.clear()
        self.runner.run(self._take_over(**plan))

    async def _take_over(
        self,
        first: str,
        second: str,
        stopped_after: int,
        method: str,
        change_seconds: float,
        wait: float,
        completion_seconds: float | None,
        ending: str,
        is_claimed: bool,
    ) -> None:
        change = self.server.faults.add(
            "late_commit", path=BASKET, method=method, seconds=change_seconds, times=None if ending == "error" else 1
        )
        call = asyncio.ensure_future(self._call(0, first, PLENTY, replace=True))
        await run_loop(stopped_after)
        if ending != "error":
            self.views[0].is_killed = ending == "kill"
            call.cancel()
        self._check(first, await result_of(call), may_be_cancelled=ending != "error")
        if ending == "kill":
            await self._stop(0)
        change.remove()
        await self._wait(wait)
        completion = None
        if completion_seconds is not None:
            completion = self.server.faults.add("late_commit", path=COMPLETE, seconds=completion_seconds, times=1)
        if is_claimed:
            self._check(second, await result_of(self._call(1, second, PLENTY, replace=True)), may_be_cancelled=False)
        elif basket := await self._read(self.clients[1], TERMS[second][0]):
            await result_of(self._buy_basket(self.clients[1], basket, second))
        if completion is not None and not completion.waiting:
            completion.remove()

    @rule(reference=references, number=processes)
    def buy_without_fault(self, reference: str, number: int) -> None:
        self.server.faults.clear()
        self.runner.run(self._buy_items(reference, [number], replace=True))

    async def _buy_items(
        self,
        reference: str,
        callers: list[int],
        completion_fault: FaultSpec | None = None,
        change_fault: FaultSpec | None = None,
        method: str = "POST",
        others: list[tuple[int, str]] | None = None,
        beside: str | None = None,
        stopped_after: int | None = None,
        is_killed: bool = False,
        limit: Decimal = PLENTY,
        replace: bool = False,
        wait: float = 0.0,
    ) -> None:
        latest = LATEST_EXECUTION - 10.0 if self.has_bounds else OVER
        if completion_fault is not None and completion_fault[0] == "refusal":
            latest = self.after_refusal
        faults = [
            self._arm(completion_fault, COMPLETE, latest, times=1),
            self._arm(change_fault, BASKET, self.latest_change, times=1, method=method),
        ]
        customer = TERMS[reference][0]
        planned = [*((number, reference) for number in callers), *(others or ())]
        basket = await self._read(self.clients[callers[0]], customer) if beside == "buy" else None
        calls = [
            asyncio.ensure_future(self._call(number, name, limit, replace=replace, wait=wait))
            for number, name in planned
        ]
        # A change without the journal is kept out only by the lock of the same client, and not if it is executed late.
        is_alone = {number for number, _ in planned} == {callers[0]} and stopped_after is None
        if beside == "add_item" and is_alone and change_fault is None:
            client = self.clients[callers[0]]
            change: Any = asyncio.ensure_future(client.baskets.add_item(customer, sku=SILVER, qty=1, type="buy"))
            planned.append((callers[0], ""))
            calls.append(change)
        if basket is not None and basket.items:
            client = self.clients[1 - callers[0]]
            planned.append((1 - callers[0], ""))
            calls.append(asyncio.ensure_future(self._buy_basket(client, basket, reference)))
        if stopped_after is not None:
            await run_loop(stopped_after)
            stopped = [call for call, (number, _) in zip(calls, planned, strict=True) if number == callers[0]]
            self.views[callers[0]].is_killed = is_killed
            for call in stopped if is_killed else calls[:1]:
                call.cancel()
        for call, (_, name) in zip(calls, planned, strict=True):
            self._check(name, await result_of(call), may_be_cancelled=stopped_after is not None)
        if stopped_after is not None and is_killed:
            await self._stop(callers[0])
        for armed in faults:
            if armed is not None and not armed.waiting:
                armed.remove()

    def _call(self, number: int, reference: str, limit: Decimal, **options: Any) -> Any:
        self.limits[reference] = max(self.limits[reference], limit)
        customer, items = TERMS[reference]
        return self.clients[number].complete.buy_items(
            customer, items, reference=reference, max_total=limit, currency="AED", **options
        )

    async def _read(self, client: AsyncMintedConnect, customer: str) -> Basket | None:
        with suppress(MintedConnectError):
            return await client.baskets.get_active(customer)
        return None

    async def _buy_basket(self, client: AsyncMintedConnect, basket: Basket, reference: str) -> Completion:
        """Complete an open basket for the reference whose items it has."""
        counted = Counter[str]()
        for item in basket.items:
            counted[item.sku] += item.amount
        if counted != TERMS[reference][1]:
            raise AlreadyInFlight("the basket has other items")
        self.limits[reference] = PLENTY
        return await client.complete.buy(basket, accept_price="current", reference=reference)

    def _check(self, reference: str, result: Any, *, may_be_cancelled: bool) -> None:
        if reference:
            is_replay = isinstance(result, Completion) and result.replayed
            outcomes["replay" if is_replay else type(result).__name__] += 1
        if isinstance(result, Completion):
            if reference and result.order_id is not None:
                self.replies[reference].add(result.order_id)
        elif not isinstance(result, MintedConnectError | Basket) and not (
            may_be_cancelled and isinstance(result, asyncio.CancelledError)
        ):
            raise AssertionError(f"a call ended with {result!r}") from result
        if isinstance(result, PriceChanged) and reference:
            assert result.expected is not None

    @rule(number=processes, chosen=st.integers(0, 5), fence=st.booleans())
    def reconcile(self, number: int, chosen: int, fence: bool) -> None:
        self.runner.run(self._reconcile(number, chosen, fence))

    async def _reconcile(self, number: int, chosen: int, fence: bool) -> None:
        complete = self.clients[number].complete
        if intent := await self._choose(number, chosen):
            with suppress(MintedConnectError):
                await complete.reconcile(intent, fence=fence)

    async def _choose(self, number: int, chosen: int) -> Intent | None:
        pending = await self.clients[number].complete.pending()
        return pending[chosen % len(pending)] if pending else None

    @rule(number=processes, chosen=st.integers(0, 5))
    def decide(self, number: int, chosen: int) -> None:
        self.runner.run(self._decide(number, chosen))

    async def _decide(self, number: int, chosen: int) -> None:
        """Settle an intent with what is true once nothing is in flight any more."""
        if intent := await self._choose(number, chosen):
            await self._wait(OVER)
            order = next((order for order in self.server.shop.orders if order.token == intent.cart_token), None)
            complete = self.clients[number].complete
            if order is None:
                await complete.decide(intent, "not_executed")
            else:
                await complete.decide(intent, "confirmed", order_id=order.id)

    @rule(number=processes, customer=st.sampled_from(CUSTOMERS), sku=st.sampled_from((GOLD, SILVER)))
    def add_item(self, number: int, customer: str, sku: str) -> None:
        """Change a basket without the journal."""
        self.runner.run(self._add_item(number, customer, sku))

    async def _add_item(self, number: int, customer: str, sku: str) -> None:
        # Without a token, a line is added to any open basket, also to one that may still be completed.
        pending = await self.clients[number].complete.pending()
        if customer not in {intent.external_customer_id for intent in pending}:
            with suppress(MintedConnectError):
                await self.clients[number].baskets.add_item(customer, sku=sku, qty=1, type="buy")

    @rule(path=st.sampled_from(READS), fault=broken, times=st.integers(1, 4))
    def inject_read_fault(self, path: str, fault: FaultSpec, times: int) -> None:
        if fault[0] in VISIBLE:
            self._arm(fault, path, OVER, times=times, method="GET")

    @rule(number=processes)
    def restart(self, number: int) -> None:
        self.runner.run(self._stop(number))

    @rule(seconds=st.sampled_from((1.0, 10.0, 30.0, 70.0, 160.0, 250.0, 3 * 86_400.0)))
    def wait(self, seconds: float) -> None:
        self.runner.run(self._wait(seconds))

    async def _wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await run_loop(20)

    @invariant()
    def each_reference_has_at_most_one_order_with_its_items(self) -> None:
        if self.views:
            self.runner.run(self._check_orders())

    async def _check_orders(self) -> None:
        orders: dict[str, list[Any]] = {reference: [] for reference in TERMS}
        for name, made in self.made.items():
            intent = await self.journal.get(name)
            assert intent is not None, "an order was made for an intent that is not stored"
            assert intent.reference is not None
            orders[intent.reference] += made
        for reference, made in orders.items():
            customer, items = TERMS[reference]
            assert len(made) <= 1, f"{reference} has {len(made)} orders"
            assert len(self.replies[reference]) <= 1, f"{reference} returned the orders {self.replies[reference]}"
            for order in made:
                assert self.server.shop.customers[order.customer - 1].external_id == customer
                assert {line.sku: line.amount for line in order.lines} == items, f"{reference} bought other items"
                assert order.figures.paid_total <= self.limits[reference]
                assert not self.replies[reference] - {order.id}
            assert made or not self.replies[reference], f"{reference} has no order, but returned one"
        for intent in [*self.journal._closed.values()]:
            if intent.state == IntentState.CONFIRMED:
                tokens = {order.token for order in self.server.shop.orders}
                assert intent.cart_token in tokens, f"intent {intent.id} is confirmed, and has no order"

    def teardown(self) -> None:
        try:
            if self.clients:
                self.runner.run(self._close())
        finally:
            self.runner.close()

    async def _close(self) -> None:
        try:
            if sys.exc_info()[1] is None:
                await self._finish()
        finally:
            for client in self.clients:
                await client.aclose()
            await self.server.aclose()

    async def _finish(self) -> None:
        """Check that no reference and no customer stays blocked: each gets its order once the faults are over."""
        self.server.faults.clear()
        await self._wait(OVER)
        while (intent := await self._choose(0, 0)) is not None:
            await self._decide(0, 0)
            assert intent.id not in self.journal._open
        for reference in TERMS:
            result = await result_of(self._call(0, reference, PLENTY, replace=True))
            for _ in range(4):
                # A read that was behind, an order that could still show, or a change that may still be executed.
                if isinstance(result, Completion):
                    break
                outcomes[f"repeated after {type(result).__name__}"] += 1
                await self._wait(100.0)
                result = await result_of(self._call(0, reference, PLENTY, replace=True))
            await self._wait(OVER)
            outcomes[f"finally {type(result).__name__}"] += 1
            self._check(reference, result, may_be_cancelled=False)
            assert isinstance(result, Completion), f"{reference} stays blocked: {result!r}"
        await self._check_orders()
        assert len(self.server.shop.orders) == len(TERMS)


EXAMPLES: Final = int(os.environ.get("STATEFUL_EXAMPLES", "0"))


@pytest.mark.requirement(47)
@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_random_calls_with_items_make_one_order_each() -> None:
    outcomes.clear()
    examples = EXAMPLES or 45
    run_state_machine_as_test(
        Items,
        settings=settings(
            stateful_step_count=20,
            max_examples=examples,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    sys.stdout.write(f"\n{Items.__name__}: {dict(outcomes.most_common())}\n")
    assert min(outcomes[result] for result in ("Completion", "replay", "OutcomeUnknown")) > examples // 5
