"""Simulates 100 purchases of one shop with its customers and clients, and checks the orders in the shop."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from minted_connect import AsyncMintedConnect
from minted_connect.config import BreakerPolicy, CompletionPolicy, Options, RetryPolicy
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    CompletionRejected,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import Basket, Completion, OrderKind
from minted_connect.sandbox import Fault, Sandbox
from tests.completion.chaos.plan import BOUNDED_DELAY, UNBOUNDED_DELAY, Limits, Plan, Quirks
from tests.completion.chaos.result import RunResult, Violation
from tests.completion.chaos.stopping import FaultyJournal, Outcome, cancel_at_step, outcome_of, wait_for_arrivals
from tests.completion.chaos.witness import HEADER, RequestObserver
from tests.completion.fakes import SHIPPING
from tests.support.clocks import SteppingClock

MAX_PIECES = 10
"""Maximum number of pieces in an open basket; a customer with more is replaced."""
MAX_CLOCK_ERROR = 20 * 86_400.0
"""Maximum error of the wall clock in seconds."""
MARGIN = 1.0
"""Seconds by which delay and staleness together are shorter than the settle time."""
NOT_EXECUTED_LABELS = frozenset({"refused", "refused, found later", "proven not executed"})
"""Labels of outcomes after which the caller may buy again."""
FINAL_WAIT = 1000.0
"""Seconds after which no request is in flight, and every order is listed."""


class Simulation:
    """One shop with its customers, one journal, and clients that are restarted."""

    def __init__(
        self, seed: int, number: int, result: RunResult, journal: Journal, *, single_shot: bool, quirks: Quirks
    ) -> None:
        draw = random.Random(f"{seed}/day {number}")
        self.seed, self.result, self.journal = seed, result, journal
        self.clock = SteppingClock()
        keep_ids = draw.random() < 0.5
        reads_lag, orders_lag = draw.choice((0.0, 0.0, 2.0, 8.0)), draw.choice((0.0, 0.0, 5.0, 20.0))
        staleness = reads_lag + orders_lag
        # The policy must be true: if it has a bound, no request is delayed longer.
        self.has_bounded_delay = draw.random() < 0.4
        landing = draw.choice((None, BOUNDED_DELAY)) if self.has_bounded_delay else None
        self.policy = CompletionPolicy(
            # A trusted refusal takes one read-back; delayed reads would miss an earlier order, so no status is trusted.
            refusals=frozenset[int]() if staleness else draw.choice((frozenset({422}), frozenset({422, 409}))),
            order_keeps_number=keep_ids,
            # Without `latest_landing`, a fence lasts until the basket is filled again, when no late request is left.
            orders_lag=draw.choice(
                (30.0, 30.0 if self.has_bounded_delay and landing is None else staleness + MARGIN, 45.0)
            ),
            inline_looks=draw.choice((None, None, None, 0.0, 5.0, 20.0)),
            latest_landing=landing,
            fence_proves_not_executed=self.has_bounded_delay,
            idempotency_header=HEADER,
            pre_image=draw.choice(("off", "off", "try", "require")),
        )
        self.limits = Limits(
            latest=BOUNDED_DELAY if self.has_bounded_delay else UNBOUNDED_DELAY,
            after_refusal=min(self.policy.settle_time - staleness - MARGIN, landing or UNBOUNDED_DELAY),
            trusted=self.policy.refusals,
            keeps_accepted=landing is not None or not self.has_bounded_delay,
        )
        breaker = draw.choice((None, None, BreakerPolicy(failures=3)))
        self.options = Options(clock=self.clock, random=draw.random, breaker=breaker, completion=self.policy)
        self.retry = RetryPolicy(budget=draw.choice((100, 100_000)))
        self.initial_customers = draw.choice((1, 3))
        self.server = Sandbox(
            clock=self.clock,
            seed=draw.randrange(10**6),
            password="secret",
            single_shot=single_shot,
            late_complete=draw.choice(("refuse", "reprice")),
            keep_ids=keep_ids,
            orders_lag=orders_lag,
            reads_lag=reads_lag,
            lock_restart=draw.choice((None, None, 90.0, 235.0)),
            lock_restart_reprices=draw.random() < 0.5,
            nonce_uses=draw.choice((None, None, 3)),
            # Drawn apart, so that a simulation is otherwise the same with and without quirks.
            quirks=random.Random(f"{seed}/quirks {number}").choice((None, "laravel")) if quirks == "random" else quirks,
        )
        self.jumped = 0.0
        self.customers: list[str] = []
        self.customer_count = 0
        self.faulty_journals: list[FaultyJournal] = []
        self.journal_of: dict[AsyncMintedConnect, FaultyJournal] = {}
        """The journal of each client."""
        self.other_journal = MemoryJournal()
        """The journal of another machine."""
        self.known: set[str] = set()
        """Tokens of baskets whose order a caller was told of."""
        self.ambiguous: set[str] = set()
        """Tokens of baskets for which a person must decide between several orders."""
        self.plans: dict[str, list[Plan]] = {}

    def __str__(self) -> str:
        rules = self.server.settings
        names = (
            "single_shot",
            "late_complete",
            "keep_ids",
            "orders_lag",
            "reads_lag",
            "lock_restart",
            "nonce_uses",
            "quirks",
        )
        shop = ", ".join(f"{name}={getattr(rules, name)!r}" for name in names)
        return f"Simulation({shop}, retry_budget={self.retry.budget}, breaker={self.options.breaker}, {self.policy})"

    # --- clients and customers ---------------------------------------------------------------------------------------

    def connect(self, journal: Journal | None = None, **settings: Any) -> AsyncMintedConnect:
        self.faulty_journals.append(FaultyJournal(journal or self.journal))
        settings = {"journal": self.faulty_journals[-1], "options": self.options, "retry": self.retry, **settings}
        client = AsyncMintedConnect(self.server.username, self.server.password, base_url=self.server.url, **settings)
        self.journal_of[client] = self.faulty_journals[-1]
        return client

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # The client that fills baskets has no breaker, so earlier faults do not affect it.
        plain = Options(clock=self.clock)
        async with (
            self.server,
            self.connect(options=plain) as self.setup_client,
            self.connect() as self.other_process,
            self.connect(self.other_journal) as self.other_machine,
        ):
            self.observer = RequestObserver(self.server)
            self.client = self.connect()
            try:
                for _ in range(self.initial_customers):
                    await self.add_customer()
                yield
            finally:
                await self.client.aclose()

    async def restart(self) -> None:
        await self.client.aclose()
        self.client = self.connect()

    async def add_customer(self) -> None:
        self.customer_count += 1
        customer = f"customer-{self.customer_count}"
        # The server may still execute the previous purchase, which can move the clock by more than a request may take.
        for _ in range(9):
            with suppress(RequestTimeout):
                await self.setup_client.customers.create(customer, firstname="Brant", lastname="Ankunding")
                self.customers.append(customer)
                return
        raise Violation("error", "", "the customer could not be created")

    # --- one purchase ------------------------------------------------------------------------------------------------

    async def purchase(self, plan: Plan) -> None:
        self.result.purchases += 1
        customer = self.customers[plan.number % len(self.customers)]
        basket = await self.fill_basket(plan, customer)
        self.plans.setdefault(basket.token, []).append(plan)
        # Delayed reads must show the basket before it is completed.
        await self.clock.sleep(max(plan.pause, self.server.settings.reads_lag))
        self.jump_wall_clock(plan.wall_jumps[0])
        faults = [
            self.server.faults.add(
                one.kind, method=one.method, path=one.path, times=one.times, before_auth=one.before_auth, **one.args
            )
            for one in plan.faults
        ]
        timers = [asyncio.ensure_future(self.advance_past_timeout(fault)) for fault in faults if fault.kind == "hang"]
        try:
            self.faulty_journals[-1].state = plan.journal
            await self.buy(plan, basket)
            self.faulty_journals[-1].state = "works"
            self.jump_wall_clock(plan.wall_jumps[1])
            await self.follow_up(plan, basket)
        finally:
            for task in timers:
                task.cancel()
            self.clear_faults()
            self.result.faults.update({fault.kind: fault.hits for fault in faults})
        if basket.token in await self.open_tokens() or basket.total_amount > MAX_PIECES:
            self.customers.remove(customer)
            await self.add_customer()
        await self.check(basket.token)

    def clear_faults(self) -> None:
        """Remove all faults, and list the orders that `page_drift` has hidden."""
        self.server.faults.clear()
        self.server.shop.unlisted.clear()

    def jump_wall_clock(self, seconds: float) -> None:
        """Move the wall clock forward or back, within the maximum error."""
        seconds = -seconds if abs(self.jumped + seconds) > MAX_CLOCK_ERROR else seconds
        self.jumped += seconds
        self.clock.jump_wall(seconds)

    async def fill_basket(self, plan: Plan, customer: str) -> Basket:
        """Add an item to the customer's basket, which may still contain items of an earlier purchase."""
        if plan.kind is not OrderKind.BUY:
            self.server.shop.give(customer, plan.sku, 10 * plan.qty)
        # The server may still execute the previous purchase, which can move the clock by more than a request may take.
        for _ in range(9):
            with suppress(RequestTimeout):
                return await self.setup_client.baskets.add_item(customer, sku=plan.sku, qty=plan.qty, type=plan.kind)
        raise Violation("error", "", "the basket could not be filled")

    async def advance_past_timeout(self, hang: Fault) -> None:
        """Advance the clock past the timeout of requests that hang: no other task advances it then."""
        for hit in range(1, sys.maxsize):
            while hang.hits < hit:
                await asyncio.sleep(0.001)
            await self.clock.sleep(46 if hang.method == "POST" else 16)

    async def buy(self, plan: Plan, basket: Basket) -> None:
        """Complete the basket, alone or concurrently with another call."""
        concurrent_reads = [asyncio.ensure_future(self.read_concurrently(basket)) for _ in range(plan.concurrent_reads)]
        calls = [self.call(plan, self.client, basket, stop=plan.stop)]
        if plan.concurrent_call == "reconciler":
            calls.append(self.reconcile_concurrently(plan, basket.token))
        elif plan.concurrent_call != "none":
            derived = self.client.with_options(deadline=10)
            self.journal_of[derived] = self.journal_of[self.client]
            other = {
                "same_client": self.client,
                "derived_client": derived,
                "other_process": self.other_process,
                "other_machine": self.other_machine,
            }[
                plan.concurrent_call
                if self.server.settings.single_shot or plan.concurrent_call != "other_machine"
                else "other_process"
            ]
            calls.append(self.call(plan, other, basket))
        first, *_ = await self.run_calls(basket, *calls)
        await asyncio.gather(*concurrent_reads)
        if self.faulty_journals[-1].is_killed:
            first = "crashed"
            await self.restart()
        self.result.first_outcomes[first] += 1

    async def read_concurrently(self, basket: Basket) -> None:
        """Read with the same client, so that requests of several tasks share the digest handshake."""
        with suppress(MintedConnectError):
            await self.client.rates.current()
            await self.client.baskets.get_active(basket.customer.external_id)
            await self.client.orders.page(customer_id=basket.customer.external_id)

    async def reconcile_concurrently(self, plan: Plan, token: str) -> str:
        """Reconcile the completion in flight from another process."""
        for _ in range(50):
            if token in await self.open_tokens():
                await self.reconcile(token, self.other_process, fence=plan.fence)
                return "reconciled"
            await asyncio.sleep(0)
        return "found no intent"

    async def follow_up(self, plan: Plan, basket: Basket) -> None:
        """Act as a caller whose call did not return a completion."""
        token = basket.token
        if token in await self.open_tokens():
            if plan.repeats_unknown and token in {intent.cart_token for intent in await self.journal.pending()}:
                written = self.prepared_count(self.journal)
                await self.run_calls(basket, self.call(plan, self.client, basket))
                if self.prepared_count(self.journal) > written:
                    raise Violation("sent again", token, "the outcome was still unknown")
            if plan.is_cancelled_by_vendor:
                for order in self.orders(token):
                    self.server.shop.set_status(order.id, "Cancelled")
            if plan.reconciles_under_faults:
                await self.reconcile(token, self.client, fence=plan.fence, stop_at=plan.cancel_reconcile_at)
            self.clear_faults()
            if not plan.reconciles_at_end:
                await self.reconcile(token, self.client, fence=plan.fence)
        elif token not in self.known and plan.stop == "crash":
            # The crashed caller received no outcome, so the caller completes the basket again.
            self.clear_faults()
            await self.run_calls(basket, self.call(plan, self.client, basket))
        elif token not in self.known and plan.repeats_refused:
            with suppress(MintedConnectError):
                fresh = await self.client.baskets.get_active(basket.customer.external_id, cart_token=token)
                if fresh is not None and fresh.items:
                    await self.run_calls(fresh, self.call(plan, self.client, fresh))

    async def call(self, plan: Plan, client: AsyncMintedConnect, basket: Basket, stop: str = "nothing") -> str:
        terms: dict[str, Any] = (
            {"accept_price": "current"} if plan.accepts_any_price else {"expected_total": basket.paid_total}
        )
        if plan.kind is OrderKind.DELIVERY:
            terms["shipping"] = SHIPPING
        work = getattr(client.complete, plan.kind)(basket, **terms)
        if stop != "nothing":
            faulty_journal = self.faulty_journals[-1]
            work = cancel_at_step(work, plan.stop_at, lambda: setattr(faulty_journal, "is_killed", stop == "crash"))
        outcome = await outcome_of(work)
        if isinstance(outcome, Completion) and outcome.order is not None and not plan.accepts_any_price:
            has_other_price = outcome.order.paid_total != basket.paid_total
            if has_other_price and not outcome.differences:
                raise Violation("another price", basket.token, "without a difference")
        written = [intent.id for intent in self.journal_of[client].prepared if intent.cart_token == basket.token]
        return self.record_outcome(basket.token, outcome, written[-1] if written else None)

    async def reconcile(self, token: str, client: AsyncMintedConnect, *, fence: bool, stop_at: int = 0) -> None:
        for intent in await client.complete.pending():
            if intent.cart_token == token:
                work = client.complete.reconcile(intent, fence=fence)
                outcome = await outcome_of(cancel_at_step(work, stop_at, lambda: None))
                label = self.record_outcome(token, outcome, intent.id)
                if label not in {"unknown", "cancelled"}:
                    self.result.later_outcomes[label] += 1

    def record_outcome(self, token: str, outcome: Outcome, intent: str | None) -> str:
        """Record the outcome that a caller receives, and return its label."""
        label = self.label_of(token, outcome)
        if label in NOT_EXECUTED_LABELS:
            assert intent is not None
            self.observer.reported_failures[intent] = label
        return label

    def label_of(self, token: str, outcome: Outcome) -> str:
        match outcome:
            case Completion():
                self.known.add(token)
                numbers = {order.id for order in self.orders(token)}
                if not numbers or outcome.order_id not in {None, *numbers}:
                    raise Violation("phantom", token, f"confirmed as {outcome.keys}, ordered {numbers}")
                return "found" if outcome.reconciled else "confirmed"
            case CompletionRejected() if outcome.refusal is not None:
                return "refused, found later"
            case CompletionRejected():
                # Its order is None if a field of it cannot be read.
                self.known.add(token)
                return "found cancelled"
            case OutcomeUnknown():
                if any("may be the order of this purchase" in note for note in outcome.evidence):
                    self.ambiguous.add(token)
                return "unknown"
            case NotExecuted():
                return "proven not executed"
            case AlreadyInFlight():
                if "completed already" in str(outcome):
                    self.known.add(token)
                    return "already completed"
                return "already in flight"
            case NotSent():
                return "not sent"
            case asyncio.CancelledError():
                note = "".join(getattr(outcome, "__notes__", ()))
                if "was confirmed" in note or "(CompletionRejected)" in note:
                    self.known.add(token)
                    return "cancelled with a note about the order"
                return "cancelled"
            case APIError(method="POST"):
                return "refused"
            case MintedConnectError():
                return "not started: the basket could not be read"
        raise outcome

    # --- checks ------------------------------------------------------------------------------------------------------

    def orders(self, token: str) -> list[Any]:
        return [order for order in self.server.shop.orders if order.token == token]

    async def open_tokens(self) -> set[str]:
        """Return the tokens of the pending intents in both journals."""
        pending = [*await self.journal.pending(), *await self.other_journal.pending()]
        return {intent.cart_token for intent in pending}

    def prepared_count(self, journal: Journal) -> int:
        """Return the number of intents that were prepared in a journal."""
        return sum(
            len(faulty_journal.prepared) for faulty_journal in self.faulty_journals if faulty_journal.journal is journal
        )

    async def run_calls(self, basket: Basket, *calls: Coroutine[Any, Any, str]) -> list[str]:
        """Await calls for one basket, and check that each intent was posted at most once."""
        labels = await asyncio.gather(*calls)
        await wait_for_arrivals()
        self.check_invariants(basket.token)
        return labels

    def check_invariants(self, token: str) -> None:
        """Check the invariants that hold at any moment."""
        if len(self.orders(token)) > 1:
            raise Violation("double", token, "the basket was ordered again")
        for intent in self.observer.posted_twice():
            raise Violation("posted twice", token, f"intent {intent}: {self.observer.posts(intent)} completions")
        for intent, label in self.observer.confirmed_too_early().items():
            raise Violation(
                "confirmed too early", token, f"intent {intent}: a caller was told {label!r}, and it was executed"
            )

    async def check(self, token: str) -> None:
        """Check that there is at most one order, and that it is known to a caller or pending."""
        orders = self.orders(token)
        self.check_invariants(token)
        if orders and token not in self.known and token not in await self.open_tokens():
            raise Violation("lost", token, f"order {orders[0].id} exists, and no caller was told")
        if not orders and token in self.known:
            raise Violation("phantom", token, "a caller was told of an order that does not exist")

    async def finish(self) -> None:
        """Wait until no request is in flight, reconcile every open intent, and check the counts."""
        self.clock.advance(FINAL_WAIT)
        await wait_for_arrivals()
        await self.restart()
        for token in sorted(await self.open_tokens()):
            await self.reconcile(token, self.client, fence=False)
            await self.reconcile(token, self.other_machine, fence=False)
        await self.check_that_refusals_are_settled()
        for token in sorted(await self.open_tokens()):
            await self.reconcile(token, self.client, fence=self.has_bounded_delay)
        left = await self.open_tokens()
        for token in left & {order.token for order in self.server.shop.orders}:
            raise Violation("lost", token, "executed, and still unknown at the end")
        self.result.later_outcomes["still unknown, never executed"] += len(left)
        for token in self.plans:
            await self.check(token)

    async def check_that_refusals_are_settled(self) -> None:
        """Check that a stored refusal was settled without a person, if its basket still has its items."""
        filled = {basket.token for basket in self.server.shop.baskets if basket.items}
        for intent in [*await self.journal.pending(), *await self.other_journal.pending()]:
            if intent.refusal is not None and intent.cart_token in filled - self.ambiguous:
                raise Violation(
                    "not settled", intent.cart_token, f"refused with {intent.refusal.status}, and left open"
                )
