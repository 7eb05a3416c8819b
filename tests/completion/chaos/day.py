"""One shop, its customers and its clients for a hundred purchases; and the oracle, which looks into the shop itself."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from minted_connect import AsyncMintedConnect
from minted_connect.completion.journal import Journal
from minted_connect.config import Breaker, CompletionPolicy, Options, RetryPolicy
from minted_connect.errors import (
    AlreadyInFlight,
    ApiError,
    MintedConnectError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
    Rejected,
)
from minted_connect.models import Basket, Completion, Kind
from minted_connect.sandbox import Fault, LoggedRequest, ManualClock, Sandbox
from tests.completion.chaos.plan import IN_TIME, LATEST, Plan
from tests.completion.chaos.stopping import Outcome, Pen, interrupted, outcome_of, quiet
from tests.completion.chaos.tally import Tally, Violation
from tests.completion.fakes import SHIPPING

MANY = 10
"""Pieces in a basket that nobody bought, after which its customer stays away."""
SETTLED = 1000.0
"""Seconds after which nothing is under way any more, and every order is listed."""


class Day:
    """One shop, its customers, one journal, and the clients that come and go."""

    def __init__(self, seed: int, number: int, tally: Tally, journal: Journal, *, single_shot: bool) -> None:
        draw = random.Random(f"{seed}/day {number}")
        self.seed, self.tally, self.journal = seed, tally, journal
        self.clock = ManualClock(auto_advance=True)
        keep_ids = draw.random() < 0.5
        # What the client takes for proven has to be true: then no request is later than it waits for.
        self.in_time = draw.random() < 0.4
        self.latest = IN_TIME if self.in_time else LATEST
        self.policy = CompletionPolicy(
            refusals=draw.choice((frozenset({422, 429}), frozenset({422, 429}), frozenset[int]())),
            order_keeps_number=keep_ids,
            token_is_single_shot=single_shot and draw.random() < 0.4,
            latest_landing=draw.choice((None, IN_TIME)) if self.in_time else None,
            fence_proves_not_executed=self.in_time,
            idempotency_header=draw.choice((None, "Idempotency-Key")),
            pre_image=draw.choice(("off", "off", "try", "require")),
        )
        breaker = draw.choice((None, None, Breaker(failures=3)))
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
            orders_lag=draw.choice((0.0, 0.0, 5.0, 20.0)),
            nonce_uses=draw.choice((None, None, 3)),
        )
        self.customers: list[str] = []
        self.people = 0
        self.pens: list[Pen] = []
        self.known: set[str] = set()
        """Tokens of which somebody was told that there is an order."""
        self.plans: dict[str, list[Plan]] = {}

    def __str__(self) -> str:
        rules = self.server.settings
        options = ("single_shot", "late_complete", "keep_ids", "orders_lag", "nonce_uses")
        said = ", ".join(f"{name}={getattr(rules, name)!r}" for name in options)
        return f"Day({said}, retry_budget={self.retry.budget}, breaker={self.options.breaker}, {self.policy})"

    # Clients and customers.

    def connect(self, **settings: Any) -> AsyncMintedConnect:
        self.pens.append(Pen(self.journal))
        settings = {"journal": self.pens[-1], "options": self.options, "retry": self.retry, **settings}
        return AsyncMintedConnect(self.server.username, self.server.password, base_url=self.server.url, **settings)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        # Who sets the scene is not troubled by what the others went through.
        plain = Options(clock=self.clock)
        async with self.server, self.connect(options=plain) as self.clerk, self.connect() as self.rival:
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
        await self.clerk.customers.create(customer, firstname="Brant", lastname="Ankunding")
        self.customers.append(customer)

    # One purchase.

    async def purchase(self, plan: Plan) -> None:
        self.tally.purchases += 1
        customer = self.customers[plan.number % len(self.customers)]
        basket = await self.fill(plan, customer)
        self.plans.setdefault(basket.token, []).append(plan)
        self.clock.advance(plan.pause)
        self.clock.jump_wall(plan.jumps[0])
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
            self.clock.jump_wall(plan.jumps[1])
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

    async def fill(self, plan: Plan, customer: str) -> Basket:
        """Put something into the basket, which may be one that was not completed before."""
        if plan.kind is not Kind.BUY:
            self.server.shop.give(customer, plan.sku, 2 * plan.qty)
        return await self.clerk.baskets.add_item(customer, sku=plan.sku, qty=plan.qty, type=plan.kind)

    async def let_time_pass(self, hang: Fault) -> None:
        """Let those who wait in vain wait long enough: nobody else moves the clock then."""
        for hit in range(1, sys.maxsize):
            while hang.hits < hit:
                await asyncio.sleep(0.001)
            self.clock.advance(46 if hang.method == "POST" else 16)

    async def buy(self, plan: Plan, basket: Basket) -> None:
        """Complete the basket, alone or in company."""
        bystanders = [asyncio.ensure_future(self.look_around(basket)) for _ in range(plan.bystanders)]
        calls = [self.call(plan, self.client, basket, stop=plan.stop)]
        if plan.company == "meddler":
            calls.append(self.meddle(plan, basket.token))
        elif plan.company != "nobody":
            sibling = self.client.with_options(deadline=10)
            other = {"twin": self.client, "sibling": sibling, "rival": self.rival}[plan.company]
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
            await self.client.orders.page(customer_external_id=basket.customer.external_id)

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
            if plan.insists:
                written = self.written()
                await self.counted(basket, self.call(plan, self.client, basket))
                if self.written() > written:
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
        if plan.kind is Kind.DELIVERY:
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
        return self.told(basket.token, outcome)

    async def reconcile(self, token: str, client: AsyncMintedConnect, *, fence: bool, step: int = 0) -> None:
        for intent in await client.complete.pending():
            if intent.cart_token == token:
                work = client.complete.reconcile(intent, fence=fence)
                outcome = await outcome_of(interrupted(work, step, lambda: None))
                label = self.told(token, outcome)
                if label not in {"unknown", "cancelled"}:
                    self.tally.later[label] += 1

    def told(self, token: str, outcome: Outcome) -> str:
        """Take note of what a caller is told, and return it in a word or two."""
        match outcome:
            case Completion():
                self.known.add(token)
                numbers = {str(order.id) for order in self.orders(token)}
                if not numbers or outcome.keys.get("id") not in {None, *numbers}:
                    raise Violation("phantom", token, f"confirmed as {outcome.keys}, ordered {numbers}")
                return "found" if outcome.reconciled else "confirmed"
            case Rejected():
                self.known.add(token)
                return "found cancelled"
            case OutcomeUnknown():
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
                if "was confirmed" in note or "(Rejected)" in note:
                    self.known.add(token)
                    return "cancelled, and told of the order"
                return "cancelled"
            case ApiError(method="POST"):
                return "refused"
            case MintedConnectError():
                return "not begun: the basket could not be read"
        raise outcome

    # The oracle.

    def orders(self, token: str) -> list[Any]:
        return [order for order in self.server.shop.orders if order.token == token]

    async def open_tokens(self) -> set[str]:
        return {intent.cart_token for intent in await self.journal.pending()}

    def posts(self) -> list[LoggedRequest]:
        """Return the completions that the shop may have carried out."""
        asked = [entry for entry in self.server.requests if entry.operation.startswith("complete.")]
        # A login that is asked for, and the vendor's own «too many», come before anything is done.
        return [entry for entry in asked if entry.status != 401 and entry.fault != "rate_limit"]

    def written(self) -> int:
        """Return how many intents were written down today."""
        return sum(pen.prepared for pen in self.pens)

    async def counted(self, basket: Basket, *calls: Coroutine[Any, Any, str]) -> list[str]:
        """Await calls for one basket, and see that each intent was sent at most once."""
        self.server.requests.clear()
        before = self.written()
        labels = await asyncio.gather(*calls)
        await quiet()
        if len(self.orders(basket.token)) > 1:
            raise Violation("double", basket.token, "the basket was ordered again")
        sent, written = len(self.posts()), self.written() - before
        if sent > written * (2 if self.policy.token_is_single_shot else 1):
            raise Violation("sent again", basket.token, f"{sent} completions were sent for {written} intents")
        return labels

    async def check(self, token: str) -> None:
        """See that there is at most one order, and that it is known, or known to be unknown."""
        orders = self.orders(token)
        if len(orders) > 1:
            raise Violation("double", token, f"{len(orders)} orders of one basket")
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
            await self.reconcile(token, self.client, fence=self.in_time)
        left = await self.open_tokens()
        for token in left & {order.token for order in self.server.shop.orders}:
            raise Violation("lost", token, "bought, and still not known at the end")
        self.tally.later["unknown for good, never executed"] += len(left)
        for token in self.plans:
            await self.check(token)
