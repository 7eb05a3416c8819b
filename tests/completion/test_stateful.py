"""Purchases under random faults, cancellations, crashes and restarts: no basket is bought twice, no order is lost.

With `STATEFUL_STEPS=100000` in the environment (`nox -s stateful`), the test takes 100,000 random steps. Without the
variable, it takes a few steps that are the same in every run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from minted_connect import (
    AlreadyInFlight,
    APIError,
    AsyncMintedConnect,
    ClientClosedError,
    CompletionRejected,
    IntegrityError,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
)
from minted_connect.config import CompletionPolicy
from minted_connect.journal.protocol import OPEN
from minted_connect.models import Basket, Completion, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import SHIPPING
from tests.completion.fault_strategies import FaultSpec, broken, failed, is_false_refusal, late, odd_rows, refused
from tests.completion.ledger import HEADER, Entry, FileStore, Machine, MemoryStore, Oracle, result_of, run_loop
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD, SILVER

_T = TypeVar("_T")

CUSTOMERS: Final = ("customer-1", "customer-2", "customer-3")
LATEST_EXECUTION: Final = 60.0
"""Seconds within which every request is executed, if the policy has this bound."""
LAG: Final = 20.0
READS_LAG: Final = 6.0
COMPLETE: Final = "*/complete/*"
READS: Final = (("GET", "*/basket"), ("GET", "*/orders"), ("DELETE", "*/basket/empty"), (None, "*"))

numbers = st.integers(0, 15)
kinds = st.sampled_from(("buy", "sell", "delivery"))
skus = st.sampled_from((GOLD, SILVER))
loop_iterations = st.integers(0, 60)
"""Iterations of the event loop: a successful purchase takes about 40."""

steps: Counter[str] = Counter()
"""Steps by rule, over all runs."""
outcomes: Counter[str] = Counter()
"""Outcomes of completions and reconciliations, over all runs."""


class CompletionPlan(NamedTuple):
    """Parameters of one completion, and the fault that it meets."""

    number: int
    kind: str
    outdated: bool
    """Whether an earlier copy of a basket is completed."""
    price: Literal["right", "old", "current"]
    fault: FaultSpec | None


plans = st.builds(
    CompletionPlan,
    number=numbers,
    kind=kinds,
    outdated=st.sampled_from((False, False, False, True)),
    price=st.sampled_from(("right", "right", "old", "current")),
    fault=st.one_of(st.none(), broken, broken, late, refused, refused, failed),
)

Terms = dict[str, Any]
"""Price arguments of a completion."""


class Purchases(RuleBasedStateMachine):
    """Two machines of one partner, each with its own journal; the sandbox may execute a completion twice."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False)
        self.folder = tempfile.TemporaryDirectory()
        self.machines: list[Machine] = []
        self.seen: list[Basket] = []
        self.failed = False

    # --- setup ---------------------------------------------------------------------------------------------------

    @initialize(
        reprice=st.booleans(),
        lag=st.sampled_from((0.0, LAG)),
        reads_lag=st.sampled_from((0.0, 0.0, READS_LAG)),
        restarts=st.sampled_from((None, 90.0)),
        inline_looks=st.sampled_from((None, None, 0.0, 10.0)),
        has_bounds=st.booleans(),
        quirks=st.sampled_from((None, "laravel")),
        pre_image=st.sampled_from(("off", "try", "require")),
    )
    def open(
        self,
        reprice: bool,
        lag: float,
        reads_lag: float,
        restarts: float | None,
        inline_looks: float | None,
        has_bounds: bool,
        quirks: Any,
        pre_image: Any,
    ) -> None:
        """Choose the behaviour of the vendor; with `has_bounds`, the policy has its optional bounds and proofs."""
        self.has_bounds = has_bounds
        self.clock = SteppingClock()
        self.server = Sandbox(
            seed=1,  # hypothesis repeats what it found
            clock=self.clock,
            single_shot=has_bounds,
            late_complete="reprice" if reprice else "refuse",
            orders_lag=lag,
            reads_lag=reads_lag,
            lock_restart=restarts,
            quirks=quirks,
            log_limit=0,
        )
        staleness = lag + reads_lag
        policy = CompletionPolicy(
            idempotency_header=HEADER,
            pre_image=pre_image,
            # A trusted refusal takes one read-back; delayed reads would miss an earlier order, so no status is trusted.
            refusals=frozenset() if staleness else frozenset({422}),
            inline_looks=inline_looks,
            latest_landing=LATEST_EXECUTION if has_bounds else None,
            fence_proves_not_executed=has_bounds,
        )
        self.trusted = policy.refusals
        # The policy must be true: a refused completion is executed and listed within the settle time.
        self.after_refusal = min(policy.settle_time - staleness - 1.0, LATEST_EXECUTION - 10.0)
        self.run_step(self._open(policy))

    async def _open(self, policy: CompletionPolicy) -> None:
        await self.server.start()
        self.machines = [Machine(self.server, self._store(place), policy) for place in ("first", "second")]
        self.oracle = Oracle(self.server, *(machine.store for machine in self.machines))
        await self._create_customer(CUSTOMERS[0])

    def _store(self, place: str) -> MemoryStore | FileStore:
        return FileStore(Path(self.folder.name) / f"{place}.db") if self.durable else MemoryStore()

    def run_step(self, work: Coroutine[Any, Any, _T], name: Any = None) -> _T:
        """Run one step."""
        steps[(name or work).__name__.strip("_")] += 1
        for machine in self.machines:
            machine.failed_writes = 0
        return self._record_failure(lambda: self.runner.run(work))

    def _record_failure(self, work: Callable[[], _T]) -> _T:
        # The first failure is reported, so `teardown` must not add another.
        try:
            return work()
        except BaseException:
            self.failed = True
            raise

    @property
    def main_machine(self) -> Machine:
        return self.machines[0]

    # --- customers and baskets -----------------------------------------------------------------------------------

    @rule(number=numbers)
    def create_customer(self, number: int) -> None:
        self.run_step(self._create_customer(CUSTOMERS[number % len(CUSTOMERS)]))

    async def _create_customer(self, customer: str) -> None:
        with suppress(MintedConnectError):
            await self.main_machine.client.customers.create(customer, firstname="Ada", lastname="Lovelace")
            for sku in (GOLD, SILVER):
                self.oracle.give(customer, sku, 9)

    @rule(number=numbers, kind=kinds, sku=skus, qty=st.integers(1, 2))
    def open_basket(self, number: int, kind: str, sku: str, qty: int) -> None:
        self.run_step(self._open_basket(self._customer(number), kind, sku, qty))

    async def _open_basket(self, customer: str, kind: Any, sku: str, qty: int) -> None:
        with suppress(MintedConnectError):
            self.seen.append(await self.main_machine.client.baskets.add_item(customer, sku=sku, qty=qty, type=kind))

    @rule(
        number=numbers,
        change=st.sampled_from(("read", "add_item", "update_item", "delete_item", "clear")),
        sku=skus,
        qty=st.integers(1, 3),
    )
    def change_basket(self, number: int, change: str, sku: str, qty: int) -> None:
        self.run_step(self._change_basket(number, change, sku, qty))

    async def _change_basket(self, number: int, change: str, sku: str, qty: int) -> None:
        if not self.seen:
            return
        basket, baskets = self._earlier_basket(number), self.main_machine.client.baskets
        what = {"clear": {}, "delete_item": {"sku": sku}}.get(change, {"sku": sku, "qty": qty})
        with suppress(MintedConnectError):
            if change == "read":
                found = await baskets.get_active(basket.customer.external_id, cart_token=basket.token)
            else:
                found = await getattr(baskets, change)(basket, **what)
            if found is not None:
                self.seen.append(found)

    # --- completions ---------------------------------------------------------------------------------------------

    def run_completion(self, plan: CompletionPlan, act: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run one step with a basket, in which the completion meets the fault of the plan."""
        self.run_step(self._run_completion(plan, act, *args), act)

    async def _run_completion(
        self, plan: CompletionPlan, act: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        basket = self._earlier_basket(plan.number) if plan.outdated and self.seen else await self._open_basket_of(plan)
        if basket is None:
            return
        # Delayed reads must show the basket before it is completed.
        self.clock.advance(self.server.settings.reads_lag)
        terms: Terms = {"expected_total": basket.paid_total}
        if plan.price == "old":
            terms = {"expected_total": next(one.paid_total for one in self.seen if one.token == basket.token)}
        elif plan.price == "current":
            terms = {"accept_price": "current"}
        self.fault = self._arm(plan.fault, COMPLETE) if plan.fault else None
        await act(basket, terms, *args)
        if self.fault is not None and not self.fault.waiting:
            self.fault.remove()

    @rule(plan=plans, deadline=st.sampled_from((None, None, 30.0)))
    def complete(self, plan: CompletionPlan, deadline: float | None) -> None:
        self.run_completion(plan, self._complete, deadline)

    async def _complete(self, basket: Basket, terms: Terms, deadline: float | None) -> None:
        before = self.main_machine.store.entries()
        client = (
            self.main_machine.client if deadline is None else self.main_machine.client.with_options(deadline=deadline)
        )
        self._check_completion(
            self.main_machine, basket, terms, before, await result_of(self._call(client, basket, terms))
        )

    @rule(plan=plans)
    def complete_twice(self, plan: CompletionPlan) -> None:
        self.run_completion(plan, self._complete_twice)

    async def _complete_twice(self, basket: Basket, terms: Terms) -> None:
        before = self.main_machine.store.entries()
        calls = [result_of(self._call(self.main_machine.client, basket, terms)) for _ in range(2)]
        for result in await asyncio.gather(*calls):
            self._check_completion(self.main_machine, basket, terms, before, result)

    @rule(plan=plans, on_both=st.booleans())
    def complete_on_second_machine(self, plan: CompletionPlan, on_both: bool) -> None:
        self.run_completion(plan, self._complete_on_second_machine, on_both)

    async def _complete_on_second_machine(self, basket: Basket, terms: Terms, on_both: bool) -> None:
        machines = self.machines if on_both else self.machines[1:]
        before = [machine.store.entries() for machine in machines]
        results = await asyncio.gather(*(result_of(self._call(machine.client, basket, terms)) for machine in machines))
        for machine, entries, result in zip(machines, before, results, strict=True):
            self._check_completion(machine, basket, terms, entries, result)

    @rule(plan=plans, iterations=loop_iterations, qty=st.integers(1, 3))
    def complete_while_changing(self, plan: CompletionPlan, iterations: int, qty: int) -> None:
        self.run_completion(plan, self._complete_while_changing, iterations, qty)

    async def _complete_while_changing(self, basket: Basket, terms: Terms, iterations: int, qty: int) -> None:
        before = self.main_machine.store.entries()
        call = asyncio.ensure_future(self._call(self.main_machine.client, basket, terms))
        await run_loop(iterations)
        with suppress(MintedConnectError):
            await self.machines[1].client.baskets.update_item(basket, sku=GOLD, qty=qty)
        self._check_completion(self.main_machine, basket, terms, before, await result_of(call))

    @rule(plan=plans, iterations=loop_iterations, tasks=st.integers(1, 2))
    def complete_and_cancel(self, plan: CompletionPlan, iterations: int, tasks: int) -> None:
        self.run_completion(plan, self._complete_and_cancel, iterations, tasks)

    async def _complete_and_cancel(self, basket: Basket, terms: Terms, iterations: int, tasks: int) -> None:
        before = self.main_machine.store.entries()
        calls = [asyncio.ensure_future(self._call(self.main_machine.client, basket, terms)) for _ in range(tasks)]
        await run_loop(iterations)
        calls[0].cancel()
        for result in await asyncio.gather(*map(result_of, calls)):
            self._check_completion(
                self.main_machine, basket, terms, before, result, cancelled=True, is_single=tasks == 1
            )

    @rule(plan=plans, commit=st.booleans(), crash=st.booleans(), at_once=st.booleans())
    def complete_and_stop_in_flight(self, plan: CompletionPlan, commit: bool, crash: bool, at_once: bool) -> None:
        hanging: FaultSpec = ("hang", {"commit": commit})
        self.run_completion(
            plan._replace(fault=hanging), self._complete_and_stop_in_flight, crash, at_once or self.has_bounds
        )

    async def _complete_and_stop_in_flight(self, basket: Basket, terms: Terms, crash: bool, at_once: bool) -> None:
        """Stop while the server executes the completion, which ends at once or later."""
        before = self.main_machine.store.entries()
        fault = self.fault
        call = asyncio.ensure_future(self._call(self.main_machine.client, basket, terms))
        while not (fault.waiting or call.done()):
            await run_loop(1)
        if crash:
            await self.main_machine.crash(call)
        else:
            call.cancel()
            self._check_completion(self.main_machine, basket, terms, before, await result_of(call), cancelled=True)
        if at_once:
            fault.remove()
            await run_loop(10)

    @rule(plan=plans, iterations=loop_iterations)
    def complete_and_crash(self, plan: CompletionPlan, iterations: int) -> None:
        self.run_completion(plan, self._complete_and_crash, iterations)

    async def _complete_and_crash(self, basket: Basket, terms: Terms, iterations: int) -> None:
        call = asyncio.ensure_future(self._call(self.main_machine.client, basket, terms))
        await run_loop(iterations)
        await self.main_machine.crash(call)

    @rule(plan=plans, iterations=loop_iterations)
    def complete_and_close(self, plan: CompletionPlan, iterations: int) -> None:
        self.run_completion(plan, self._complete_and_close, iterations)

    async def _complete_and_close(self, basket: Basket, terms: Terms, iterations: int) -> None:
        before = self.main_machine.store.entries()
        call = asyncio.ensure_future(self._call(self.main_machine.client, basket, terms))
        await run_loop(iterations)
        await self.main_machine.restart()
        self._check_completion(self.main_machine, basket, terms, before, await result_of(call), closed=True)

    @rule(
        number=numbers,
        fences=st.lists(st.booleans(), min_size=1, max_size=2),
        on_second=st.booleans(),
        patience=st.none() | st.none() | st.integers(0, 120),
    )
    def reconcile(self, number: int, fences: list[bool], on_second: bool, patience: int | None) -> None:
        self.run_step(self._reconcile(self.machines[on_second], number, fences, patience))

    async def _reconcile(self, machine: Machine, number: int, fences: list[bool], patience: int | None) -> None:
        """Reconcile an intent that is or was pending: a caller may pass an error again."""
        machine.known_intents.update({intent.id: intent for intent in await machine.client.complete.pending()})
        if not machine.known_intents:
            return
        intent = [*machine.known_intents.values()][-1 - number % len(machine.known_intents)]
        is_single = len(fences) == 1 and machine.store.entries()[intent.id].state in OPEN
        calls = [asyncio.ensure_future(machine.client.complete.reconcile(intent, fence=fence)) for fence in fences]
        if patience is not None:
            await run_loop(patience)
            calls[0].cancel()
        for result in await asyncio.gather(*map(result_of, calls)):
            if not isinstance(result, asyncio.CancelledError) or patience is None:
                self._check_reconciliation(machine, intent.id, result, is_single=is_single)
            if isinstance(result, NotExecuted) and number % 2:
                await self._open_basket(intent.external_customer_id, intent.kind, GOLD, 1)

    # --- events --------------------------------------------------------------------------------------------------

    @rule(
        where=st.sampled_from(READS),
        fault=st.one_of(broken, broken, odd_rows),
        times=st.integers(1, 4),
        after=st.integers(0, 2),
    )
    def inject_read_fault(self, where: Any, fault: FaultSpec, times: int, after: int) -> None:
        self.run_step(self._inject_read_fault(*where, fault, times, after))

    async def _inject_read_fault(self, method: str | None, path: str, fault: FaultSpec, times: int, after: int) -> None:
        self._arm(fault, path, method=method, times=times, after=after)

    @rule(writes=st.integers(1, 2))
    def fail_journal_writes(self, writes: int) -> None:
        self.run_step(self._fail_journal_writes(writes))

    async def _fail_journal_writes(self, writes: int) -> None:
        self.main_machine.failing_writes = writes

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self.run_step(self.main_machine.crash() if crash else self.main_machine.restart())

    @rule(seconds=st.sampled_from((1.0, 30.0, 70.0, 250.0, 3600.0, 3 * 86_400.0)), jump=st.sampled_from((0, 0, -48, 1)))
    def wait(self, seconds: float, jump: int) -> None:
        self.run_step(self._wait(seconds, jump))

    async def _wait(self, seconds: float, jump: int = 0) -> None:
        """Advance the clock, and move the wall clock by some hours."""
        self.clock.jump_wall(3600.0 * jump)
        self.clock.advance(seconds)
        await run_loop(20)

    @rule(number=numbers, status=st.sampled_from(("Cancelled", "Refunded", "Processing", "Completed")))
    def change_status(self, number: int, status: str) -> None:
        self.run_step(self._change_status(number, status))

    async def _change_status(self, number: int, status: str) -> None:
        orders = self.server.shop.orders
        # A cancelled order stays cancelled.
        if orders and not self.oracle.is_failed(order := orders[number % len(orders)]):
            self.server.shop.set_status(order.id, status)

    # --- helpers -------------------------------------------------------------------------------------------------

    def _arm(self, fault: FaultSpec, path: str, **where: Any) -> Any:
        kind, args = fault
        if self.has_bounds and args.get("seconds", 0) >= LATEST_EXECUTION:
            args = {**args, "seconds": LATEST_EXECUTION - 10}
        if kind == "refusal":
            args = {**args, "seconds": min(args["seconds"], self.after_refusal)}
        if is_false_refusal((kind, args), self.trusted):
            args = {**args, "commit": "never" if kind == "refusal" else False}
        return self.server.faults.add(kind, path=path, **where, **args)  # type: ignore[arg-type]

    def _customer(self, number: int) -> str:
        known = [customer.external_id or "" for customer in self.server.shop.customers]
        return known[number % len(known)] if known else CUSTOMERS[0]

    def _earlier_basket(self, number: int) -> Basket:
        """Return an earlier copy of a basket, the latest first."""
        return self.seen[-1 - number % len(self.seen)]

    async def _open_basket_of(self, plan: CompletionPlan) -> Basket | None:
        """Return the customer's open basket of the wanted kind; open one if necessary."""
        customer, shop, baskets = self._customer(plan.number), self.server.shop, self.main_machine.client.baskets
        tokens = [
            one.token
            for one in shop.baskets
            if (shop.customers[one.customer - 1].external_id, one.kind) == (customer, plan.kind) and one.items
        ]
        with suppress(MintedConnectError):
            if tokens:
                found = await baskets.get_active(customer, cart_token=tokens[0])
            else:
                found = await baskets.add_item(customer, sku=GOLD, qty=1 + plan.number % 2, type=plan.kind)  # type: ignore[arg-type]
            if found is not None:
                self.seen.append(found)
            return found
        return None

    def _call(self, client: AsyncMintedConnect, basket: Basket, terms: Terms) -> Awaitable[Completion]:
        shipping = {"shipping": SHIPPING} if basket.kind == "delivery" else {}
        return getattr(client.complete, str(basket.kind))(basket, **terms, **shipping)

    def _check_completion(
        self,
        machine: Machine,
        basket: Basket,
        terms: Terms,
        before: dict[str, Entry],
        result: Completion | BaseException,
        *,
        cancelled: bool = False,
        closed: bool = False,
        is_single: bool = True,
    ) -> None:
        """Check that the result of a call is allowed, and that the journal agrees."""
        outcomes[type(result).__name__] += 1
        entries = machine.store.entries()
        own = {name: entries[name] for name in entries.keys() - before.keys()}
        for entry in own.values():
            assert entry.cart_token == basket.token
            assert terms.get("expected_total", entry.paid_total) == entry.paid_total
            assert entry.state != IntentState.PREPARED or machine.failed_writes, (
                "the intent stays prepared, although its outcome is unknown"
            )
        if machine.failed_writes:
            # An outcome that could not be stored leaves the intent open: `Oracle.check` covers it.
            assert not isinstance(result, Completion) or self.oracle.orders(basket.token)
            return
        states = {entry.state for entry in own.values()}
        match result:
            case Completion():
                [entry] = [one for one in own.values() if one.state == IntentState.CONFIRMED]
                self.oracle.check_completion(result, entry)
            case OutcomeUnknown():
                assert own[result.intent.id].state == IntentState.UNKNOWN
            case CompletionRejected():
                assert IntentState.REJECTED in states
                assert result.order is not None, "a confirmed refusal must be raised as APIError"
                assert any(map(self.oracle.is_failed, self.oracle.orders(basket.token)))
            case AlreadyInFlight() if cancelled or closed or not own:
                pass
            case NotSent() | APIError() | IntegrityError():
                assert states <= {IntentState.NOT_SENT, IntentState.REJECTED}
            case ClientClosedError() if closed:
                assert states <= {IntentState.NOT_SENT}
            case asyncio.CancelledError() if cancelled:
                # Of two calls, the one that is not cancelled takes over an unsent intent.
                notes = " ".join(getattr(result, "__notes__", ()))
                for name, entry in own.items():
                    assert entry.state == IntentState.NOT_SENT or name in notes or not is_single
            case BaseException():
                raise AssertionError(f"a completion ended with {result!r}") from result

    def _check_reconciliation(
        self, machine: Machine, intent: str, result: Completion | BaseException, *, is_single: bool = True
    ) -> None:
        outcomes[f"reconcile: {type(result).__name__}"] += 1
        entry = machine.store.entries()[intent]
        if machine.failed_writes:
            assert not isinstance(result, Completion) or self.oracle.orders(entry.cart_token)
            return
        match result:
            case Completion():
                assert entry.state == IntentState.CONFIRMED
                self.oracle.check_completion(result, entry)
            case OutcomeUnknown():
                # Another call may have settled the intent. An intent that another process prepared stays prepared.
                assert entry.state in OPEN or not is_single
            case CompletionRejected(order=None):
                assert entry.state == IntentState.REJECTED or not is_single
                assert intent not in self.oracle.made, "confirmed too early"
            case CompletionRejected():
                assert entry.state == IntentState.REJECTED or not is_single
                assert any(map(self.oracle.is_failed, self.oracle.orders(entry.cart_token)))
            case NotExecuted():
                assert self.has_bounds, "without bounds, nothing proves that"
                assert entry.state == IntentState.NOT_EXECUTED or not is_single
            case BaseException():
                raise AssertionError(f"reconciling ended with {result!r}") from result

    # --- invariants ----------------------------------------------------------------------------------------------

    @invariant()
    def orders_match_the_journals(self) -> None:
        self._record_failure(self.oracle.check)

    def teardown(self) -> None:
        try:
            if self.machines:
                self.runner.run(self._reconcile_and_close())
        finally:
            self.runner.close()
            self.folder.cleanup()

    async def _reconcile_and_close(self) -> None:
        """Wait until no request is in flight, and find every order that was made."""
        try:
            if not self.failed:
                self.server.faults.clear()
                for _ in range(3):
                    await self._wait(1000.0)
                self.oracle.check()
                for machine in self.machines:
                    await self._settle(machine)
        finally:
            for machine in self.machines:
                await machine.client.aclose()
            await self.server.aclose()

    async def _settle(self, machine: Machine) -> None:
        machine.failing_writes = machine.failed_writes = 0
        for intent in await machine.store.pending():
            self._check_reconciliation(machine, intent.id, await result_of(machine.client.complete.reconcile(intent)))
        self.oracle.check()
        for name, entry in machine.store.entries().items():
            assert name not in self.oracle.made or entry.state not in OPEN, "an existing order was not found"


class DurablePurchases(Purchases):
    """`Purchases` with journals in files."""

    durable = True


TOTAL_STEPS: Final = int(os.environ.get("STATEFUL_STEPS", "0"))
SHORT: Final = settings(
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
LONG: Final = settings(SHORT, stateful_step_count=50, max_examples=100, derandomize=False)


@pytest.mark.requirement(13)
@pytest.mark.requirement(43)
@pytest.mark.timeout(0 if TOTAL_STEPS else 300)  # the mark overrides --timeout
@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize(
    ("machine", "examples", "share"), [(Purchases, 40, 0.8), (DurablePurchases, 10, 0.2)], ids=["memory", "file"]
)
def test_random_purchases_match_orders_and_journals(machine: type[Purchases], examples: int, share: float) -> None:
    steps.clear()
    outcomes.clear()
    if not TOTAL_STEPS:
        run_state_machine_as_test(machine, settings=settings(SHORT, max_examples=examples))
    while steps.total() < TOTAL_STEPS * share:
        run_state_machine_as_test(machine, settings=LONG)
    for counts in (steps, outcomes):
        sys.stdout.write(f"\n{machine.__name__}: {counts.total()} = {dict(counts.most_common())}\n")
    # A run without purchases or without faults would prove nothing.
    assert min(outcomes[result] for result in ("Completion", "OutcomeUnknown", "reconcile: Completion")) > examples // 2
