"""One shop, its customers and its clients for a hundred purchases; and the oracle, which looks into the shop itself."""

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
from tests.completion.chaos.plan import IN_TIME, LATEST, Limits, Plan
from tests.completion.chaos.result import Tally, Violation
from tests.completion.chaos.stopping import Outcome, Pen, interrupted, outcome_of, quiet
from tests.completion.chaos.witness import HEADER, Witness
from tests.completion.fakes import SHIPPING
from tests.support.clocks import SteppingClock

MANY = 10
"""Pieces in a basket that nobody bought, after which its customer stays away."""
FARTHEST = 20 * 86_400.0
"""Seconds that the time of day may be wrong."""
MARGIN = 1.0
"""Seconds by which delay and staleness are less than the settle time."""
REFUSED = frozenset({"refused", "refused, as found later", "proven not executed"})
"""What a caller is told who may buy again."""
SETTLED = 1000.0
"""Seconds after which nothing is under way any more, and every order is listed."""


class Day:
    """One shop, its customers, one journal, and the clients that come and go."""

    def __init__(self, seed: int, number: int, tally: Tally, journal: Journal, *, single_shot: bool) -> None:
        draw = random.Random(f"{seed}/day {number}")
        self.seed, self.tally, self.journal = seed, tally, journal
        self.clock = SteppingClock()
        keep_ids = draw.random() < 0.5
        reads_lag, orders_lag = draw.choice((0.0, 0.0, 2.0, 8.0)), draw.choice((0.0, 0.0, 5.0, 20.0))
        staleness = reads_lag + orders_lag
        # What the client takes for proven has to be true: then no request is later than it waits for.
        self.in_time = draw.random() < 0.4
        landing = draw.choice((None, IN_TIME)) if self.in_time else None
        self.policy = CompletionPolicy(
            # One look must show what was made before: no status is trusted where reads are behind.
            refusals=frozenset[int]() if staleness else draw.choice((frozenset({422}), frozenset({422, 409}))),
            order_keeps_number=keep_ids,
            # Without `latest_landing`, a fence lasts until the basket is filled again: what is late has landed by then.
            orders_lag=draw.choice((30.0, 30.0 if self.in_time and landing is None else staleness + MARGIN, 45.0)),
            inline_looks=draw.choice((None, None, None, 0.0, 5.0, 20.0)),
            latest_landing=landing,
            fence_proves_not_executed=self.in_time,
            idempotency_header=HEADER,
            pre_image=draw.choice(("off", "off", "try", "require")),
        )
        self.limits = Limits(
            latest=IN_TIME if self.in_time else LATEST,
            after_refusal=min(self.policy.settle_time - staleness - MARGIN, landing or LATEST),
            trusted=self.policy.refusals,
            keeps_accepted=landing is not None or not self.in_time,
        )
        breaker = draw.choice((None, None, BreakerPolicy(failures=3)))
        self.options = Options(clock=self.clock, random=draw.random, breaker=breaker, completion=self.policy)
        self.retry = RetryPolicy(budget=draw.choice((100, 100_000)))
        self.regulars = draw.choice((1, 3))
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
        )
        self.jumped = 0.0
        self.customers: list[str] = []
        self.people = 0
        self.pens: list[Pen] = []
        self.held: dict[AsyncMintedConnect, Pen] = {}
        """Which pen each client writes with."""
        self.elsewhere = MemoryJournal()
        """The journal of another machine, which knows nothing of this one's."""
        self.known: set[str] = set()
        """Tokens of which somebody was told that there is an order."""
        self.ambiguous: set[str] = set()
        """Tokens of which a person has to decide which of several orders is theirs."""
        self.plans: dict[str, list[Plan]] = {}

    def __str__(self) -> str:
        rules = self.server.settings
        options = ("single_shot", "late_complete", "keep_ids", "orders_lag", "reads_lag", "lock_restart", "nonce_uses")
        said = ", ".join(f"{name}={getattr(rules, name)!r}" for name in options)
        return f"Day({said}, retry_budget={self.retry.budget}, breaker={self.options.breaker}, {self.policy})"

    # Clients and customers.

    def connect(self, journal: Journal | None = None, **settings: Any) -> AsyncMintedConnect:
        self.pens.append(Pen(journal or self.journal))
        settings = {"journal": self.pens[-1], "options": self.options, "retry": self.retry, **settings}
        client = AsyncMintedConnect(self.server.username, self.server.password, base_url=self.server.url, **settings)
        self.held[client] = self.pens[-1]
        return client

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Who sets the scene is not troubled by what the others went through.
        plain = Options(clock=self.clock)
        async with (
            self.server,
            self.connect(options=plain) as self.clerk,
            self.connect() as self.rival,
            self.connect(self.elsewhere) as self.stranger,
        ):
            self.witness = Witness(self.server)
            self.client = self.connect()
            try:
                for _ in range(self.regulars):
                    await self.welcome()
                yield
            finally:
                await self.client.aclose()

    async def restart(self) -> None:
        await self.client.aclose()
        self.client = self.connect()

    async def welcome(self) -> None:
        self.people += 1
        customer = f"customer-{self.people}"
        # The server may still execute the previous purchase, which can move the clock by more than a request may take.
        for _ in range(9):
            with suppress(RequestTimeout):
                await self.clerk.customers.create(customer, firstname="Brant", lastname="Ankunding")
                self.customers.append(customer)
                return
        raise Violation("error", "", "the customer could not be created")

    # One purchase.

    async def purchase(self, plan: Plan) -> None:
        self.tally.purchases += 1
        customer = self.customers[plan.number % len(self.customers)]
        basket = await self.fill(plan, customer)
        self.plans.setdefault(basket.token, []).append(plan)
        # A basket that reads do not show yet is not bought.
        await self.clock.sleep(max(plan.pause, self.server.settings.reads_lag))
        self.jump(plan.jumps[0])
        script = self.server.faults
        faults = [
            script.add(
                one.kind, method=one.method, path=one.path, times=one.times, before_auth=one.before_auth, **one.args
            )
            for one in plan.faults
        ]
        clockwork = [asyncio.ensure_future(self.let_time_pass(fault)) for fault in faults if fault.kind == "hang"]
        try:
            self.pens[-1].state = plan.journal
            await self.buy(plan, basket)
            self.pens[-1].state = "works"
            self.jump(plan.jumps[1])
            await self.afterwards(plan, basket)
        finally:
            for task in clockwork:
                task.cancel()
            script.clear()
            self.tally.faults.update({fault.kind: fault.hits for fault in faults})
        if basket.token in await self.open_tokens() or basket.total_amount > MANY:
            self.customers.remove(customer)
            await self.welcome()
        await self.check(basket.token)

    def jump(self, seconds: float) -> None:
        """Set the time of day forward or back; a clock that is a month wrong is no clock any more."""
        seconds = -seconds if abs(self.jumped + seconds) > FARTHEST else seconds
        self.jumped += seconds
        self.clock.jump_wall(seconds)

    async def fill(self, plan: Plan, customer: str) -> Basket:
        """Put something into the basket, which may be one that was not completed before."""
        if plan.kind is not OrderKind.BUY:
            self.server.shop.give(customer, plan.sku, 10 * plan.qty)
        # The server may still execute the previous purchase, which can move the clock by more than a request may take.
        for _ in range(9):
            with suppress(RequestTimeout):
                return await self.clerk.baskets.add_item(customer, sku=plan.sku, qty=plan.qty, type=plan.kind)
        raise Violation("error", "", "the basket could not be filled")

    async def let_time_pass(self, hang: Fault) -> None:
        """Let those who wait in vain wait long enough: nobody else moves the clock then."""
        for hit in range(1, sys.maxsize):
            while hang.hits < hit:
                await asyncio.sleep(0.001)
            await self.clock.sleep(46 if hang.method == "POST" else 16)

    async def buy(self, plan: Plan, basket: Basket) -> None:
        """Complete the basket, alone or in company."""
        bystanders = [asyncio.ensure_future(self.look_around(basket)) for _ in range(plan.bystanders)]
        calls = [self.call(plan, self.client, basket, stop=plan.stop)]
        if plan.company == "meddler":
            calls.append(self.meddle(plan, basket.token))
        elif plan.company != "nobody":
            sibling = self.client.with_options(deadline=10)
            self.held[sibling] = self.held[self.client]
            other = {"twin": self.client, "sibling": sibling, "rival": self.rival, "stranger": self.stranger}[
                plan.company if self.server.settings.single_shot or plan.company != "stranger" else "rival"
            ]
            calls.append(self.call(plan, other, basket))
        first, *_ = await self.counted(basket, *calls)
        await asyncio.gather(*bystanders)
        if self.pens[-1].dead:
            first = "crashed"
            await self.restart()
        self.tally.first[first] += 1

    async def look_around(self, basket: Basket) -> None:
        """Ask for this and that over the same client, which takes turns at the login."""
        with suppress(MintedConnectError):
            await self.client.rates.current()
            await self.client.baskets.get_active(basket.customer.external_id)
            await self.client.orders.page(customer_id=basket.customer.external_id)

    async def meddle(self, plan: Plan, token: str) -> str:
        """Reconcile, from elsewhere, what is only just under way."""
        for _ in range(50):
            if token in await self.open_tokens():
                await self.reconcile(token, self.rival, fence=plan.fence)
                return "meddled"
            await asyncio.sleep(0)
        return "came too early"

    async def afterwards(self, plan: Plan, basket: Basket) -> None:
        """Do what a caller does who was not told «confirmed»."""
        script, token = self.server.faults, basket.token
        if token in await self.open_tokens():
            if plan.insists and token in {intent.cart_token for intent in await self.journal.pending()}:
                written = self.written(self.journal)
                await self.counted(basket, self.call(plan, self.client, basket))
                if self.written(self.journal) > written:
                    raise Violation("sent again", token, "the outcome was not known yet")
            if plan.revoked:
                for order in self.orders(token):
                    self.server.shop.set_status(order.id, "Cancelled")
            if plan.impatient:
                await self.reconcile(token, self.client, fence=plan.fence, step=plan.hesitates)
            script.clear()
            if not plan.later:
                await self.reconcile(token, self.client, fence=plan.fence)
        elif token not in self.known and plan.stop == "crash":
            # Nobody is left to be told, so the caller asks anew.
            script.clear()
            await self.counted(basket, self.call(plan, self.client, basket))
        elif token not in self.known and plan.again:
            with suppress(MintedConnectError):
                fresh = await self.client.baskets.get_active(basket.customer.external_id, cart_token=token)
                if fresh is not None and fresh.items:
                    await self.counted(fresh, self.call(plan, self.client, fresh))

    async def call(self, plan: Plan, client: AsyncMintedConnect, basket: Basket, stop: str = "nothing") -> str:
        terms: dict[str, Any] = {"accept_price": "current"} if plan.any_price else {"expected_total": basket.paid_total}
        if plan.kind is OrderKind.DELIVERY:
            terms["shipping"] = SHIPPING
        work = getattr(client.complete, plan.kind)(basket, **terms)
        if stop != "nothing":
            pen = self.pens[-1]
            work = interrupted(work, plan.step, lambda: setattr(pen, "dead", stop == "crash"))
        outcome = await outcome_of(work)
        if isinstance(outcome, Completion) and outcome.order is not None and not plan.any_price:
            dearer = outcome.order.paid_total != basket.paid_total
            if dearer and not outcome.differences:
                raise Violation("another price", basket.token, "and nothing said of it")
        written = [intent.id for intent in self.held[client].prepared if intent.cart_token == basket.token]
        return self.told(basket.token, outcome, written[-1] if written else None)

    async def reconcile(self, token: str, client: AsyncMintedConnect, *, fence: bool, step: int = 0) -> None:
        for intent in await client.complete.pending():
            if intent.cart_token == token:
                work = client.complete.reconcile(intent, fence=fence)
                outcome = await outcome_of(interrupted(work, step, lambda: None))
                label = self.told(token, outcome, intent.id)
                if label not in {"unknown", "cancelled"}:
                    self.tally.later[label] += 1

    def told(self, token: str, outcome: Outcome, intent: str | None) -> str:
        """Take note of what a caller is told of an intent, and return it in a word or two."""
        label = self.label(token, outcome)
        if label in REFUSED:
            assert intent is not None
            self.witness.refused[intent] = label
        return label

    def label(self, token: str, outcome: Outcome) -> str:
        match outcome:
            case Completion():
                self.known.add(token)
                numbers = {str(order.id) for order in self.orders(token)}
                if not numbers or outcome.keys.get("id") not in {None, *numbers}:
                    raise Violation("phantom", token, f"confirmed as {outcome.keys}, ordered {numbers}")
                return "found" if outcome.reconciled else "confirmed"
            case CompletionRejected() if outcome.refusal is not None:
                return "refused, as found later"
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
                    return "told that it was bought already"
                return "told that it is under way"
            case NotSent():
                return "not sent"
            case asyncio.CancelledError():
                note = "".join(getattr(outcome, "__notes__", ()))
                if "was confirmed" in note or "(CompletionRejected)" in note:
                    self.known.add(token)
                    return "cancelled, and told of the order"
                return "cancelled"
            case APIError(method="POST"):
                return "refused"
            case MintedConnectError():
                return "not begun: the basket could not be read"
        raise outcome

    # The oracle.

    def orders(self, token: str) -> list[Any]:
        return [order for order in self.server.shop.orders if order.token == token]

    async def open_tokens(self) -> set[str]:
        """Return the tokens that a journal holds as open, whichever machine it is on."""
        pending = [*await self.journal.pending(), *await self.elsewhere.pending()]
        return {intent.cart_token for intent in pending}

    def written(self, journal: Journal) -> int:
        """Return how many intents were written into a journal today."""
        return sum(len(pen.prepared) for pen in self.pens if pen.journal is journal)

    async def counted(self, basket: Basket, *calls: Coroutine[Any, Any, str]) -> list[str]:
        """Await calls for one basket, and see that each intent was posted at most once."""
        labels = await asyncio.gather(*calls)
        await quiet()
        self.watch(basket.token)
        return labels

    def watch(self, token: str) -> None:
        """See what must hold at any moment."""
        if len(self.orders(token)) > 1:
            raise Violation("double", token, "the basket was ordered again")
        for intent in self.witness.posted_twice():
            raise Violation("posted twice", token, f"intent {intent}: {self.witness.posts(intent)} completions")
        for intent, told in self.witness.believed_too_early().items():
            raise Violation("believed too early", token, f"intent {intent}: a caller was told «{told}», and it landed")

    async def check(self, token: str) -> None:
        """See that there is at most one order, and that it is known, or known to be unknown."""
        orders = self.orders(token)
        self.watch(token)
        if orders and token not in self.known and token not in await self.open_tokens():
            raise Violation("lost", token, f"order {orders[0].id} exists, and nobody was told")
        if not orders and token in self.known:
            raise Violation("phantom", token, "somebody was told of an order that does not exist")

    async def evening(self) -> None:
        """Let everything land, find out about all that is open, and add up."""
        self.clock.advance(SETTLED)
        await quiet()
        await self.restart()
        for token in sorted(await self.open_tokens()):
            await self.reconcile(token, self.client, fence=False)
            await self.reconcile(token, self.stranger, fence=False)
        await self.see_that_refusals_are_settled()
        for token in sorted(await self.open_tokens()):
            await self.reconcile(token, self.client, fence=self.in_time)
        left = await self.open_tokens()
        for token in left & {order.token for order in self.server.shop.orders}:
            raise Violation("lost", token, "bought, and still not known at the end")
        self.tally.later["unknown for good, never executed"] += len(left)
        for token in self.plans:
            await self.check(token)

    async def see_that_refusals_are_settled(self) -> None:
        """See that a refusal that was written down needs no person, if its basket is still as it was."""
        filled = {basket.token for basket in self.server.shop.baskets if basket.items}
        for intent in [*await self.journal.pending(), *await self.elsewhere.pending()]:
            if intent.refusal is not None and intent.cart_token in filled - self.ambiguous:
                raise Violation(
                    "not settled", intent.cart_token, f"refused with {intent.refusal.status}, and left open"
                )
