"""Purchases under random faults, cancellations, crashes and restarts: money is neither spent twice nor unawares.

With `STATEFUL_STEPS=100000` in the environment (`nox -s stateful`) that many random steps are taken, in place of the
few of the normal suite, which are the same each time.
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
from tests.completion.fault_strategies import Trouble, broken, failed, is_lie, late, refused
from tests.completion.ledger import HEADER, Entry, FileStore, Machine, MemoryStore, Oracle, result_of, run_loop
from tests.support.clocks import SteppingClock
from tests.support.operations import GOLD, SILVER

_T = TypeVar("_T")

CUSTOMERS: Final = ("customer-1", "customer-2", "customer-3")
LANDING: Final = 60.0
"""Seconds within which everything is carried out, where the client is told so."""
LAG: Final = 20.0
READS_LAG: Final = 6.0
COMPLETE: Final = "*/complete/*"
READS: Final = (("GET", "*/basket"), ("GET", "*/orders"), ("DELETE", "*/basket/empty"), (None, "*"))

numbers = st.integers(0, 15)
kinds = st.sampled_from(("buy", "sell", "delivery"))
skus = st.sampled_from((GOLD, SILVER))
turns_of_a_purchase = st.integers(0, 60)
"""Turns of the event loop: a purchase that goes well takes some 40."""

taken: Counter[str] = Counter()
"""Steps by rule, over all runs."""
came_to: Counter[str] = Counter()
"""What completing and reconciling came to, over all runs."""


class Wish(NamedTuple):
    """What somebody wants completed, and what goes wrong then."""

    number: int
    kind: str
    outdated: bool
    """A basket as it once was."""
    price: Literal["right", "old", "current"]
    trouble: Trouble | None


wishes = st.builds(
    Wish,
    number=numbers,
    kind=kinds,
    outdated=st.sampled_from((False, False, False, True)),
    price=st.sampled_from(("right", "right", "old", "current")),
    trouble=st.one_of(st.none(), broken, broken, late, refused, refused, failed),
)

Terms = dict[str, Any]
"""What a completion is told about the price."""


class Purchases(RuleBasedStateMachine):
    """Two machines of one partner, each with its own journal, at a sandbox that makes a second order if asked twice."""

    durable = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False)
        self.folder = tempfile.TemporaryDirectory()
        self.tills: list[Machine] = []
        self.seen: list[Basket] = []
        self.failed = False

    # --- the scene -----------------------------------------------------------------------------------------------

    @initialize(
        reprice=st.booleans(),
        lag=st.sampled_from((0.0, LAG)),
        reads_lag=st.sampled_from((0.0, 0.0, READS_LAG)),
        restarts=st.sampled_from((None, 90.0)),
        inline_looks=st.sampled_from((None, None, 0.0, 10.0)),
        answered=st.booleans(),
        pre_image=st.sampled_from(("off", "try", "require")),
    )
    def open(
        self,
        reprice: bool,
        lag: float,
        reads_lag: float,
        restarts: float | None,
        inline_looks: float | None,
        answered: bool,
        pre_image: Any,
    ) -> None:
        """Choose how the vendor behaves; `answered`: the open questions are, and for the better."""
        self.answered = answered
        self.clock = SteppingClock()
        self.server = Sandbox(
            seed=1,  # hypothesis repeats what it found
            clock=self.clock,
            single_shot=answered,
            late_complete="reprice" if reprice else "refuse",
            orders_lag=lag,
            reads_lag=reads_lag,
            lock_restart=restarts,
            log_limit=0,
        )
        staleness = lag + reads_lag
        policy = CompletionPolicy(
            idempotency_header=HEADER,
            pre_image=pre_image,
            # One look must show what was made before: no status is trusted where reads are behind.
            refusals=frozenset() if staleness else frozenset({422}),
            inline_looks=inline_looks,
            latest_landing=LANDING if answered else None,
            fence_proves_not_executed=answered,
        )
        self.trusted = policy.refusals
        # What the client takes for proven has to be true: a refused completion is executed, and shows, in time.
        self.after_refusal = min(policy.settle_time - staleness - 1.0, LANDING - 10.0)
        self.do(self._open(policy))

    async def _open(self, policy: CompletionPolicy) -> None:
        await self.server.start()
        self.tills = [Machine(self.server, self._store(place), policy) for place in ("here", "there")]
        self.books = Oracle(self.server, *(till.store for till in self.tills))
        await self._create_customer(CUSTOMERS[0])

    def _store(self, place: str) -> MemoryStore | FileStore:
        return FileStore(Path(self.folder.name) / f"{place}.db") if self.durable else MemoryStore()

    def do(self, work: Coroutine[Any, Any, _T], name: Any = None) -> _T:
        """Take one step."""
        taken[(name or work).__name__.strip("_")] += 1
        for till in self.tills:
            till.missed = 0
        return self._noting_failure(lambda: self.runner.run(work))

    def _noting_failure(self, work: Callable[[], _T]) -> _T:
        # What failed first is to be reported, not what came of it at the end.
        try:
            return work()
        except BaseException:
            self.failed = True
            raise

    @property
    def here(self) -> Machine:
        return self.tills[0]

    # --- shopping ------------------------------------------------------------------------------------------------

    @rule(number=numbers)
    def create_customer(self, number: int) -> None:
        self.do(self._create_customer(CUSTOMERS[number % len(CUSTOMERS)]))

    async def _create_customer(self, customer: str) -> None:
        with suppress(MintedConnectError):
            await self.here.client.customers.create(customer, firstname="Ada", lastname="Lovelace")
            for sku in (GOLD, SILVER):
                self.books.give(customer, sku, 9)

    @rule(number=numbers, kind=kinds, sku=skus, qty=st.integers(1, 2))
    def open_basket(self, number: int, kind: str, sku: str, qty: int) -> None:
        self.do(self._open_basket(self._customer(number), kind, sku, qty))

    async def _open_basket(self, customer: str, kind: Any, sku: str, qty: int) -> None:
        with suppress(MintedConnectError):
            self.seen.append(await self.here.client.baskets.add_item(customer, sku=sku, qty=qty, type=kind))

    @rule(
        number=numbers,
        change=st.sampled_from(("read", "add_item", "update_item", "delete_item", "clear")),
        sku=skus,
        qty=st.integers(1, 3),
    )
    def change_basket(self, number: int, change: str, sku: str, qty: int) -> None:
        self.do(self._change_basket(number, change, sku, qty))

    async def _change_basket(self, number: int, change: str, sku: str, qty: int) -> None:
        if not self.seen:
            return
        basket, baskets = self._once_seen(number), self.here.client.baskets
        what = {"clear": {}, "delete_item": {"sku": sku}}.get(change, {"sku": sku, "qty": qty})
        with suppress(MintedConnectError):
            if change == "read":
                found = await baskets.get_active(basket.customer.external_id, cart_token=basket.token)
            else:
                found = await getattr(baskets, change)(basket, **what)
            if found is not None:
                self.seen.append(found)

    # --- completing ----------------------------------------------------------------------------------------------

    def want(self, wish: Wish, act: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Take one step with a basket, in which completing meets the trouble of the wish."""
        self.do(self._want(wish, act, *args), act)

    async def _want(self, wish: Wish, act: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        basket = self._once_seen(wish.number) if wish.outdated and self.seen else await self._opened(wish)
        if basket is None:
            return
        # A basket that reads do not show yet is not bought.
        self.clock.advance(self.server.settings.reads_lag)
        terms: Terms = {"expected_total": basket.paid_total}
        if wish.price == "old":
            terms = {"expected_total": next(one.paid_total for one in self.seen if one.token == basket.token)}
        elif wish.price == "current":
            terms = {"accept_price": "current"}
        self.trouble = self._arm(wish.trouble, COMPLETE) if wish.trouble else None
        await act(basket, terms, *args)
        if self.trouble is not None and not self.trouble.waiting:
            self.trouble.remove()

    @rule(wish=wishes, deadline=st.sampled_from((None, None, 30.0)))
    def complete(self, wish: Wish, deadline: float | None) -> None:
        self.want(wish, self._complete, deadline)

    async def _complete(self, basket: Basket, terms: Terms, deadline: float | None) -> None:
        before = self.here.store.entries()
        client = self.here.client if deadline is None else self.here.client.with_options(deadline=deadline)
        self._judge(self.here, basket, terms, before, await result_of(self._call(client, basket, terms)))

    @rule(wish=wishes)
    def complete_twice(self, wish: Wish) -> None:
        self.want(wish, self._complete_twice)

    async def _complete_twice(self, basket: Basket, terms: Terms) -> None:
        before = self.here.store.entries()
        calls = [result_of(self._call(self.here.client, basket, terms)) for _ in range(2)]
        for end in await asyncio.gather(*calls):
            self._judge(self.here, basket, terms, before, end)

    @rule(wish=wishes, here_too=st.booleans())
    def complete_there(self, wish: Wish, here_too: bool) -> None:
        self.want(wish, self._complete_there, here_too)

    async def _complete_there(self, basket: Basket, terms: Terms, here_too: bool) -> None:
        tills = self.tills if here_too else self.tills[1:]
        before = [till.store.entries() for till in tills]
        ends = await asyncio.gather(*(result_of(self._call(till.client, basket, terms)) for till in tills))
        for till, entries, end in zip(tills, before, ends, strict=True):
            self._judge(till, basket, terms, entries, end)

    @rule(wish=wishes, turns=turns_of_a_purchase, qty=st.integers(1, 3))
    def complete_what_changes(self, wish: Wish, turns: int, qty: int) -> None:
        self.want(wish, self._complete_what_changes, turns, qty)

    async def _complete_what_changes(self, basket: Basket, terms: Terms, turns: int, qty: int) -> None:
        before = self.here.store.entries()
        call = asyncio.ensure_future(self._call(self.here.client, basket, terms))
        await run_loop(turns)
        with suppress(MintedConnectError):
            await self.tills[1].client.baskets.update_item(basket, sku=GOLD, qty=qty)
        self._judge(self.here, basket, terms, before, await result_of(call))

    @rule(wish=wishes, turns=turns_of_a_purchase, tasks=st.integers(1, 2))
    def complete_and_cancel(self, wish: Wish, turns: int, tasks: int) -> None:
        self.want(wish, self._complete_and_cancel, turns, tasks)

    async def _complete_and_cancel(self, basket: Basket, terms: Terms, turns: int, tasks: int) -> None:
        before = self.here.store.entries()
        calls = [asyncio.ensure_future(self._call(self.here.client, basket, terms)) for _ in range(tasks)]
        await run_loop(turns)
        calls[0].cancel()
        for end in await asyncio.gather(*map(result_of, calls)):
            self._judge(self.here, basket, terms, before, end, cancelled=True, alone=tasks == 1)

    @rule(wish=wishes, commit=st.booleans(), crash=st.booleans(), at_once=st.booleans())
    def complete_and_give_up(self, wish: Wish, commit: bool, crash: bool, at_once: bool) -> None:
        hanging: Trouble = ("hang", {"commit": commit})
        self.want(wish._replace(trouble=hanging), self._complete_and_give_up, crash, at_once or self.answered)

    async def _complete_and_give_up(self, basket: Basket, terms: Terms, crash: bool, at_once: bool) -> None:
        """Stop while the server works on it; it goes on with that, at once or some time later."""
        before = self.here.store.entries()
        fault = self.trouble
        call = asyncio.ensure_future(self._call(self.here.client, basket, terms))
        while not (fault.waiting or call.done()):
            await run_loop(1)
        if crash:
            await self.here.crash(call)
        else:
            call.cancel()
            self._judge(self.here, basket, terms, before, await result_of(call), cancelled=True)
        if at_once:
            fault.remove()
            await run_loop(10)

    @rule(wish=wishes, turns=turns_of_a_purchase)
    def complete_and_crash(self, wish: Wish, turns: int) -> None:
        self.want(wish, self._complete_and_crash, turns)

    async def _complete_and_crash(self, basket: Basket, terms: Terms, turns: int) -> None:
        call = asyncio.ensure_future(self._call(self.here.client, basket, terms))
        await run_loop(turns)
        await self.here.crash(call)

    @rule(wish=wishes, turns=turns_of_a_purchase)
    def complete_and_close(self, wish: Wish, turns: int) -> None:
        self.want(wish, self._complete_and_close, turns)

    async def _complete_and_close(self, basket: Basket, terms: Terms, turns: int) -> None:
        before = self.here.store.entries()
        call = asyncio.ensure_future(self._call(self.here.client, basket, terms))
        await run_loop(turns)
        await self.here.restart()
        self._judge(self.here, basket, terms, before, await result_of(call), closed=True)

    @rule(
        number=numbers,
        fences=st.lists(st.booleans(), min_size=1, max_size=2),
        there=st.booleans(),
        patience=st.none() | st.none() | st.integers(0, 120),
    )
    def reconcile(self, number: int, fences: list[bool], there: bool, patience: int | None) -> None:
        self.do(self._reconcile(self.tills[there], number, fences, patience))

    async def _reconcile(self, till: Machine, number: int, fences: list[bool], patience: int | None) -> None:
        """Ask for one that is pending, or was: whoever holds the error may ask again."""
        till.asked.update({intent.id: intent for intent in await till.client.complete.pending()})
        if not till.asked:
            return
        intent = [*till.asked.values()][-1 - number % len(till.asked)]
        alone = len(fences) == 1 and till.store.entries()[intent.id].state in OPEN
        calls = [asyncio.ensure_future(till.client.complete.reconcile(intent, fence=fence)) for fence in fences]
        if patience is not None:
            await run_loop(patience)
            calls[0].cancel()
        for end in await asyncio.gather(*map(result_of, calls)):
            if not isinstance(end, asyncio.CancelledError) or patience is None:
                self._judge_reconciled(till, intent.id, end, alone=alone)
            if isinstance(end, NotExecuted) and number % 2:
                await self._open_basket(intent.external_customer_id, intent.kind, GOLD, 1)

    # --- what goes on --------------------------------------------------------------------------------------------

    @rule(where=st.sampled_from(READS), trouble=broken, times=st.integers(1, 4), after=st.integers(0, 2))
    def trouble_reading(self, where: Any, trouble: Trouble, times: int, after: int) -> None:
        self.do(self._trouble_reading(*where, trouble, times, after))

    async def _trouble_reading(self, method: str | None, path: str, trouble: Trouble, times: int, after: int) -> None:
        self._arm(trouble, path, method=method, times=times, after=after)

    @rule(writes=st.integers(1, 2))
    def trouble_writing_down(self, writes: int) -> None:
        self.do(self._trouble_writing_down(writes))

    async def _trouble_writing_down(self, writes: int) -> None:
        self.here.failing = writes

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        self.do(self.here.crash() if crash else self.here.restart())

    @rule(seconds=st.sampled_from((1.0, 30.0, 70.0, 250.0, 3600.0, 3 * 86_400.0)), jump=st.sampled_from((0, 0, -48, 1)))
    def wait(self, seconds: float, jump: int) -> None:
        self.do(self._wait(seconds, jump))

    async def _wait(self, seconds: float, jump: int = 0) -> None:
        """Let time pass, and have the wall clock corrected by some hours."""
        self.clock.jump_wall(3600.0 * jump)
        self.clock.advance(seconds)
        await run_loop(20)

    @rule(number=numbers, status=st.sampled_from(("Cancelled", "Refunded", "Processing", "Completed")))
    def change_status(self, number: int, status: str) -> None:
        self.do(self._change_status(number, status))

    async def _change_status(self, number: int, status: str) -> None:
        orders = self.server.shop.orders
        # What was cancelled stays so.
        if orders and not self.books.is_failed(order := orders[number % len(orders)]):
            self.server.shop.set_status(order.id, status)

    # --- helpers -------------------------------------------------------------------------------------------------

    def _arm(self, trouble: Trouble, path: str, **where: Any) -> Any:
        kind, args = trouble
        if self.answered and args.get("seconds", 0) >= LANDING:
            args = {**args, "seconds": LANDING - 10}
        if kind == "refusal":
            args = {**args, "seconds": min(args["seconds"], self.after_refusal)}
        if is_lie((kind, args), self.trusted):
            args = {**args, "commit": "never" if kind == "refusal" else False}
        return self.server.faults.add(kind, path=path, **where, **args)  # type: ignore[arg-type]

    def _customer(self, number: int) -> str:
        known = [customer.external_id or "" for customer in self.server.shop.customers]
        return known[number % len(known)] if known else CUSTOMERS[0]

    def _once_seen(self, number: int) -> Basket:
        """Return a basket as it once was, lately seen ones first."""
        return self.seen[-1 - number % len(self.seen)]

    async def _opened(self, wish: Wish) -> Basket | None:
        """Return the customer's open basket of that kind."""
        customer, shop, baskets = self._customer(wish.number), self.server.shop, self.here.client.baskets
        tokens = [
            one.token
            for one in shop.baskets
            if (shop.customers[one.customer - 1].external_id, one.kind) == (customer, wish.kind) and one.items
        ]
        with suppress(MintedConnectError):
            if tokens:
                found = await baskets.get_active(customer, cart_token=tokens[0])
            else:
                found = await baskets.add_item(customer, sku=GOLD, qty=1 + wish.number % 2, type=wish.kind)  # type: ignore[arg-type]
            if found is not None:
                self.seen.append(found)
            return found
        return None

    def _call(self, client: AsyncMintedConnect, basket: Basket, terms: Terms) -> Awaitable[Completion]:
        shipping = {"shipping": SHIPPING} if basket.kind == "delivery" else {}
        return getattr(client.complete, str(basket.kind))(basket, **terms, **shipping)

    def _judge(
        self,
        till: Machine,
        basket: Basket,
        terms: Terms,
        before: dict[str, Entry],
        end: Completion | BaseException,
        *,
        cancelled: bool = False,
        closed: bool = False,
        alone: bool = True,
    ) -> None:
        """Assert that a call came to an end that it may come to, and that the journal agrees with it."""
        came_to[type(end).__name__] += 1
        entries = till.store.entries()
        mine = {name: entries[name] for name in entries.keys() - before.keys()}
        for entry in mine.values():
            assert entry.cart_token == basket.token
            assert terms.get("expected_total", entry.paid_total) == entry.paid_total
            assert entry.state != IntentState.PREPARED or till.missed, "nobody knows that it is not known"
        if till.missed:
            # What could not be written down stays open: what it came to is left to the books.
            assert not isinstance(end, Completion) or self.books.orders(basket.token)
            return
        states = {entry.state for entry in mine.values()}
        match end:
            case Completion():
                [entry] = [one for one in mine.values() if one.state == IntentState.CONFIRMED]
                self.books.check_completion(end, entry)
            case OutcomeUnknown():
                assert mine[end.intent.id].state == IntentState.UNKNOWN
            case CompletionRejected():
                assert IntentState.REJECTED in states
                assert end.order is not None, "a refusal that the call believes is the APIError"
                assert any(map(self.books.is_failed, self.books.orders(basket.token)))
            case AlreadyInFlight() if cancelled or closed or not mine:
                pass
            case NotSent() | APIError() | IntegrityError():
                assert states <= {IntentState.NOT_SENT, IntentState.REJECTED}
            case ClientClosedError() if closed:
                assert states <= {IntentState.NOT_SENT}
            case asyncio.CancelledError() if cancelled:
                # Of two, the one that goes on takes over what was not sent yet.
                notes = " ".join(getattr(end, "__notes__", ()))
                for name, entry in mine.items():
                    assert entry.state == IntentState.NOT_SENT or name in notes or not alone
            case BaseException():
                raise AssertionError(f"a completion ended with {end!r}") from end

    def _judge_reconciled(
        self, till: Machine, intent: str, end: Completion | BaseException, *, alone: bool = True
    ) -> None:
        came_to[f"reconcile: {type(end).__name__}"] += 1
        entry = till.store.entries()[intent]
        if till.missed:
            assert not isinstance(end, Completion) or self.books.orders(entry.cart_token)
            return
        match end:
            case Completion():
                assert entry.state == IntentState.CONFIRMED
                self.books.check_completion(end, entry)
            case OutcomeUnknown():
                # The other of two may have found out, or an earlier one. What another process prepared stays prepared.
                assert entry.state in OPEN or not alone
            case CompletionRejected(order=None):
                assert entry.state == IntentState.REJECTED or not alone
                assert intent not in self.books.made, "believed too early"
            case CompletionRejected():
                assert entry.state == IntentState.REJECTED or not alone
                assert any(map(self.books.is_failed, self.books.orders(entry.cart_token)))
            case NotExecuted():
                assert self.answered, "with the open questions open, nothing proves that"
                assert entry.state == IntentState.NOT_EXECUTED or not alone
            case BaseException():
                raise AssertionError(f"reconciling ended with {end!r}") from end

    # --- what holds ----------------------------------------------------------------------------------------------

    @invariant()
    def the_books_are_right(self) -> None:
        self._noting_failure(self.books.check)

    def teardown(self) -> None:
        try:
            if self.tills:
                self.runner.run(self._close_the_books())
        finally:
            self.runner.close()
            self.folder.cleanup()

    async def _close_the_books(self) -> None:
        """Let everything land that was under way, and find every order that was made."""
        try:
            if not self.failed:
                self.server.faults.clear()
                for _ in range(3):
                    await self._wait(1000.0)
                self.books.check()
                for till in self.tills:
                    await self._settle(till)
        finally:
            for till in self.tills:
                await till.client.aclose()
            await self.server.aclose()

    async def _settle(self, till: Machine) -> None:
        till.failing = till.missed = 0
        for intent in await till.store.pending():
            self._judge_reconciled(till, intent.id, await result_of(till.client.complete.reconcile(intent)))
        self.books.check()
        for name, entry in till.store.entries().items():
            assert name not in self.books.made or entry.state not in OPEN, "an order that was made was not found"


class DurablePurchases(Purchases):
    """The same with journals in files."""

    durable = True


WANTED: Final = int(os.environ.get("STATEFUL_STEPS", "0"))
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
@pytest.mark.timeout(300)
@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@pytest.mark.parametrize(
    ("machine", "examples", "share"), [(Purchases, 40, 0.8), (DurablePurchases, 10, 0.2)], ids=["memory", "file"]
)
def test_money_is_spent_once_and_knowingly(machine: type[Purchases], examples: int, share: float) -> None:
    taken.clear()
    came_to.clear()
    if not WANTED:
        run_state_machine_as_test(machine, settings=settings(SHORT, max_examples=examples))
    while taken.total() < WANTED * share:
        run_state_machine_as_test(machine, settings=LONG)
    for counts in (taken, came_to):
        sys.stdout.write(f"\n{machine.__name__}: {counts.total()} = {dict(counts.most_common())}\n")
    # A machine that buys nothing, or whose faults do not strike, would prove nothing.
    assert min(came_to[end] for end in ("Completion", "OutcomeUnknown", "reconcile: Completion")) > examples // 2
