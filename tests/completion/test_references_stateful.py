"""References under random faults, decisions, kills and restarts: each is bought at most once, and replays its order."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from minted_connect import AsyncMintedConnect, MintedConnectError
from minted_connect.config import CompletionPolicy, Options
from minted_connect.journal import open_journal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import ReferenceJournal
from minted_connect.models import Basket, Completion, Intent, IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fault_strategies import (
    READS,
    VISIBLE,
    FaultSpec,
    broken,
    failed,
    is_false_refusal,
    late,
    lost,
    odd_rows,
    refused,
)
from tests.completion.ledger import HEADER, result_of, run_loop
from tests.completion.process_journal import ProcessJournal
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD

CUSTOMERS: Final = ("customer-1", "customer-2")
REFERENCES: Final = {"october": CUSTOMERS[0], "november": CUSTOMERS[0], "december": CUSTOMERS[1]}
LATEST_EXECUTION: Final = 60.0
OVER: Final = 1000.0
"""Seconds after which no request of a call that has ended is executed any more, and every order is listed."""
LAG: Final = 20.0
READS_LAG: Final = 6.0
COMPLETE: Final = "*/complete/*"

references = st.sampled_from(tuple(REFERENCES))
processes = st.integers(0, 1)
# Not `one_of`, which would choose among all parts of `broken` with equal weights.
faults = st.sampled_from((st.none(), lost, lost, broken, late, refused, refused, failed)).flatmap(lambda chosen: chosen)

outcomes: Counter[str] = Counter()
"""Results of calls with a reference, over all runs."""


class References(RuleBasedStateMachine):
    """Two processes with one journal buy the same three references again and again."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False)
        self.folder = tempfile.TemporaryDirectory()
        self.clients: list[AsyncMintedConnect] = []
        self.views: list[ProcessJournal] = []
        self.made: dict[str, list[int]] = {}
        """Numbers of the orders that the server made, by the intent whose request it executed."""
        self.replies: dict[str, set[int]] = {reference: set() for reference in REFERENCES}
        """Numbers of the orders that completions of a reference have returned."""
        self.wronged: set[str] = set()
        """Customers for one of whose intents a person decided wrongly."""
        self.account: str | None = None

    @initialize(
        lag=st.sampled_from((0.0, LAG)),
        reads_lag=st.sampled_from((0.0, 0.0, READS_LAG)),
        has_bounds=st.booleans(),
        keep_ids=st.booleans(),
        inline_looks=st.sampled_from((None, 0.0)),
        has_visible_faults=st.booleans(),
    )
    def open(
        self,
        lag: float,
        reads_lag: float,
        has_bounds: bool,
        keep_ids: bool,
        inline_looks: float | None,
        has_visible_faults: bool,
    ) -> None:
        """Choose the behaviour of the vendor; with `has_bounds`, the policy has its optional bounds and proofs.

        With `has_visible_faults`, every fault of a read is visible, so that the search for earlier attempts must find
        the orders of those that a refusal or a person wrongly reported as not made.
        """
        self.has_bounds, self.has_visible_faults = has_bounds, has_visible_faults
        self.clock = SteppingClock()
        self.server = Sandbox(
            seed=1,
            clock=self.clock,
            single_shot=has_bounds or has_visible_faults,
            orders_lag=lag,
            reads_lag=reads_lag,
            keep_ids=keep_ids,
            log_limit=0,
        )
        self.policy = CompletionPolicy(
            idempotency_header=HEADER,
            refusals=frozenset() if lag + reads_lag and not has_visible_faults else frozenset({422}),
            inline_looks=inline_looks,
            latest_landing=LATEST_EXECUTION if has_bounds else None,
            fence_proves_not_executed=has_bounds,
            order_keeps_number=keep_ids,
        )
        self.after_refusal = min(self.policy.settle_time - lag - reads_lag - 1.0, LATEST_EXECUTION - 10.0)
        self.journal = open_journal(Path(self.folder.name) / "j.db") if self.durable else MemoryJournal()
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
                self.made.setdefault(incoming.headers[HEADER], []).append(order.id)
            return reply

        dispatcher.dispatch = record_orders  # type: ignore[method-assign]
        for number in (0, 1):
            self._start(number)
        for customer in CUSTOMERS:
            await self.clients[0].customers.create(customer, firstname="Ada", lastname="Lovelace")

    def _start(self, number: int) -> None:
        view: Any = ProcessJournal(self.journal, ReferenceJournal)
        options = Options(clock=self.clock, completion=self.policy, journal_account=self.account)
        server = self.server
        client = AsyncMintedConnect(
            server.username, server.password, base_url=server.url, journal=view, options=options
        )
        self.clients[number : number + 1], self.views[number : number + 1] = [client], [view]

    async def _stop(self, number: int) -> None:
        await self.clients[number].aclose()
        self._start(number)

    async def _fill(self, client: AsyncMintedConnect, customer: str) -> Basket | None:
        """Return an open basket with one piece."""
        with suppress(MintedConnectError):
            basket = await client.baskets.get_active(customer)
            if basket is None or sum(item.amount for item in basket.items) != 1:
                if basket is not None and basket.items:
                    await client.baskets.clear(basket)
                basket = await client.baskets.add_item(customer, sku=GOLD, qty=1, type="buy")
            # Delayed reads must show the basket before it is completed.
            self.clock.advance(READS_LAG)
            return basket
        return None

    def _arm(self, fault: FaultSpec | None, path: str, **where: Any) -> Any:
        if fault is None:
            return None
        kind, args = fault
        if self.has_bounds and args.get("seconds", 0) >= LATEST_EXECUTION:
            args = {**args, "seconds": LATEST_EXECUTION - 10}
        if kind == "refusal":
            args = {**args, "seconds": min(args["seconds"], self.after_refusal)}
        if not self.has_visible_faults and is_false_refusal((kind, args), self.policy.refusals):
            args = {**args, "commit": "never" if kind == "refusal" else False}
        return self.server.faults.add(kind, path=path, **where, **args)  # type: ignore[arg-type]

    @rule(
        reference=references,
        fault=faults,
        callers=st.lists(processes, min_size=1, max_size=3),
        stopped_after=st.none() | st.none() | st.integers(0, 60),
        is_killed=st.booleans(),
        decision=st.sampled_from((None, "right", "mistaken", "mistaken")),
    )
    def buy(self, decision: str | None, **plan: Any) -> None:
        """Buy a reference in some calls at once; the first one, or its process, may be stopped."""
        self.runner.run(self._buy(**plan))
        if decision is not None:
            self.runner.run(self._decide(0, -1, decision))

    @rule(reference=references, number=processes)
    def buy_without_fault(self, reference: str, number: int) -> None:
        self.server.faults.clear()
        self.runner.run(self._buy(reference, None, [number]))

    async def _buy(
        self,
        reference: str,
        fault: FaultSpec | None,
        callers: list[int],
        stopped_after: int | None = None,
        is_killed: bool = False,
    ) -> None:
        basket = await self._fill(self.clients[callers[0]], REFERENCES[reference])
        if basket is None:
            return
        armed = self._arm(fault, COMPLETE, times=1)
        calls = [
            asyncio.ensure_future(
                self.clients[number].complete.buy(basket, accept_price="current", reference=reference)
            )
            for number in callers
        ]
        if stopped_after is not None:
            await run_loop(stopped_after)
            stopped = [call for call, number in zip(calls, callers, strict=True) if is_killed and number == callers[0]]
            self.views[callers[0]].is_killed = is_killed
            for call in stopped or calls[:1]:
                call.cancel()
        for call in calls:
            self._check(reference, await result_of(call), may_be_cancelled=stopped_after is not None)
        if stopped_after is not None and is_killed:
            await self._stop(callers[0])
        if armed is not None and not armed.waiting:
            armed.remove()

    def _check(self, reference: str, result: Completion | BaseException, *, may_be_cancelled: bool) -> None:
        is_replay = isinstance(result, Completion) and result.replayed
        outcomes["replay" if is_replay else type(result).__name__] += 1
        if isinstance(result, Completion):
            if result.order_id is not None:
                self.replies[reference].add(result.order_id)
        elif not isinstance(result, MintedConnectError) and not (
            may_be_cancelled and isinstance(result, asyncio.CancelledError)
        ):
            raise AssertionError(f"a completion ended with {result!r}") from result

    @rule(number=processes, chosen=st.integers(0, 5), fence=st.booleans())
    def reconcile(self, number: int, chosen: int, fence: bool) -> None:
        self.runner.run(self._reconcile(number, chosen, fence))

    async def _reconcile(self, number: int, chosen: int, fence: bool) -> None:
        complete = self.clients[number].complete
        if intent := await self._choose(number, chosen):
            with suppress(MintedConnectError):
                await complete.reconcile(await complete.adopt(intent), fence=fence)

    async def _choose(self, number: int, chosen: int) -> Intent | None:
        pending = await self.clients[number].complete.pending(all_accounts=True)
        return pending[chosen % len(pending)] if pending else None

    @rule(
        number=processes,
        chosen=st.integers(0, 5),
        decision=st.sampled_from(("right", "mistaken", "early")),
    )
    def decide(self, number: int, chosen: int, decision: str) -> None:
        """Decide what is true once nothing is in flight, or that there is no order: mistakenly, or too early."""
        self.runner.run(self._decide(number, chosen, decision))

    async def _decide(self, number: int, chosen: int, decision: str) -> None:
        intent = await self._choose(number, chosen)
        if intent is None:
            return
        complete = self.clients[number].complete
        await complete.adopt(intent)
        if decision != "early":
            await self._wait(OVER)
        if decision == "early" or (decision == "mistaken" and not self.has_visible_faults):
            self.wronged.add(intent.external_customer_id)
        order = next((order for order in self.server.shop.orders if order.token == intent.cart_token), None)
        if order is None or decision != "right":
            await complete.decide(intent, "not_executed")
        else:
            await complete.decide(intent, "confirmed", order_id=order.id)

    @rule(path=st.sampled_from(READS), fault=st.one_of(broken, odd_rows), times=st.integers(1, 4))
    def inject_read_fault(self, path: str, fault: FaultSpec, times: int) -> None:
        if not self.has_visible_faults or fault[0] in VISIBLE:
            self._arm(fault, path, times=times)

    @rule(number=processes)
    def restart(self, number: int) -> None:
        self.runner.run(self._stop(number))

    @rule()
    def name_the_account(self) -> None:
        self.account = "shop"
        for number in (0, 1):
            self.runner.run(self._stop(number))

    @rule(seconds=st.sampled_from((1.0, 30.0, 70.0, 250.0, 700.0, 3 * 86_400.0)))
    def wait(self, seconds: float) -> None:
        self.runner.run(self._wait(seconds))

    async def _wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await run_loop(20)

    @rule(number=st.integers(0, 5), status=st.sampled_from(("Cancelled", "Processing")))
    def change_status(self, number: int, status: str) -> None:
        if orders := self.server.shop.orders:
            self.server.shop.set_status(orders[number % len(orders)].id, status)

    @invariant()
    def each_reference_has_at_most_one_order(self) -> None:
        if self.views:
            self.runner.run(self._check_orders())

    async def _check_orders(self) -> None:
        intents = [intent for name in self.made if (intent := await self.journal.get(name)) is not None]
        assert len(intents) == len(self.made), "an order was made for an intent that is not stored"
        for reference, customer in REFERENCES.items():
            if customer in self.wronged:
                continue
            # An order belongs to the reference whose intent was confirmed with its basket.
            tried = [intent for intent in intents if intent.reference == reference]
            own = [number for one in tried if await self._owner(one) == reference for number in self.made[one.id]]
            assert len(own) <= 1, f"{reference} has the orders {own}"
            assert len(self.replies[reference]) <= 1, f"{reference} returned the orders {self.replies[reference]}"
        orders = [order for order in self.server.shop.orders if self._customer(order) not in self.wronged]
        counts = Counter(self._customer(order) for order in orders)
        for customer, count in counts.items():
            assert count <= [*REFERENCES.values()].count(customer), f"{customer} has {count} orders"

    async def _owner(self, intent: Intent) -> str | None:
        accounts = {client.complete._settlement.owner.account for client in self.clients} | {intent.account}
        for account in accounts:
            found = await self.journal.find_active(intent.external_customer_id, intent.cart_token, account=account)
            if found is not None and found.state == IntentState.CONFIRMED:
                return found.reference
        return intent.reference

    def _customer(self, order: Any) -> str | None:
        return self.server.shop.customers[order.customer - 1].external_id

    def teardown(self) -> None:
        try:
            if self.clients:
                self.runner.run(self._close())
        finally:
            self.runner.close()
            self.folder.cleanup()

    async def _close(self) -> None:
        for client in self.clients:
            await client.aclose()
        await self.journal.aclose()
        await self.server.aclose()


class DurableReferences(References):
    """`References` with a journal in a file."""

    durable = True


EXAMPLES: Final = int(os.environ.get("STATEFUL_EXAMPLES", "0"))


@pytest.mark.requirement(47)
@pytest.mark.timeout(0 if EXAMPLES else 300)
@pytest.mark.parametrize(("machine", "examples"), [(References, 60), (DurableReferences, 40)], ids=["memory", "file"])
def test_random_purchases_make_one_order_per_reference(machine: type[References], examples: int) -> None:
    outcomes.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            stateful_step_count=30,
            max_examples=EXAMPLES or examples,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    sys.stdout.write(f"\n{machine.__name__}: {dict(outcomes.most_common())}\n")
    assert min(outcomes[result] for result in ("Completion", "replay", "OutcomeUnknown")) > examples // 5
