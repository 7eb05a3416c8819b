"""Every operation, cancelled at every await it has: nothing is lost, nothing leaks, and no purchase goes unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import attrs
import pytest

from minted_connect import AsyncMintedConnect, CompletionRejected, MintedConnectError, OutcomeUnknown, RequestTimeout
from minted_connect.config import CompletionPolicy
from minted_connect.core.pool import RequestProgress
from minted_connect.journal.protocol import OPEN
from minted_connect.models import Basket, Completion, Intent, IntentState, Order
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.completion.ledger import HEADER, Entry, FileStore, Machine, MemoryStore, Oracle, Store, result_of, run_loop
from tests.support.operations import GOLD, TO_COMPLETED, Person

pytestmark = pytest.mark.anyio

_T = TypeVar("_T")

PERSON: Final = Person()
COMPLETE: Final = "*/complete/*"
MOST: Final = 400
"""Awaits that no operation here has."""
WAYS: Final = (("waiting", "cold"), ("woken", "cold"), ("woken", "warm"), ("scope", "warm"), ("timeout", "cold"))
"""How it is cancelled: while it waits, or just as it is woken; by its task, a cancel scope, or a timeout. And whether
its client is new, or connected and logged in."""


class Stopped(Generic[_T]):
    """An operation that is cancelled at its await number `at`, counted from 0.

    Args:
        work: The operation.
        at: Where.
        woken: What is awaited has happened by then, and comes together with the cancellation.
        cancel: Cancels the running task.
    """

    def __init__(self, work: Coroutine[Any, Any, _T], at: int, *, woken: bool, cancel: Callable[[], object]) -> None:
        self._work, self._at, self._woken, self._cancel = work, at, woken, cancel
        self.awaits = 0
        self.reached = False
        self.left: int | None = None
        """Requests that had left when the cancellation came; None if the operation ended before."""

    def __await__(self) -> Generator[Any, Any, _T]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as stop:
                return stop.value
            if self.awaits == self._at:
                if self._woken and awaited is not None:
                    # Called before the task's own callback, so that the task is woken as a cancelled one.
                    awaited.add_done_callback(self._strike)
                else:
                    self._strike()
            self.awaits += 1
            error = None
            try:
                yield awaited
            except BaseException as caught:
                error = caught
                if isinstance(error, asyncio.CancelledError) and self.left is None:
                    self.left = len(departures)

    def _strike(self, _: object = None) -> None:
        self.reached = True
        self._cancel()


departures: list[None] = []
"""One for each request that left, whoever sent it."""


@pytest.fixture(autouse=True)
def _departures(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_sent = RequestProgress.mark_sent

    def noted(progress: RequestProgress) -> None:
        mark_sent(progress)
        departures.append(None)

    monkeypatch.setattr(RequestProgress, "mark_sent", noted)
    departures.clear()


# --- the scene ---------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Market:
    """A sandbox with a customer, an order and a basket; newcomers come as they are needed."""

    server: ThreadedSandbox
    store: Store
    books: Oracle
    keeper: AsyncMintedConnect
    """Sets the scene."""
    order: Order = attrs.field(init=False)
    basket: Basket = attrs.field(init=False)
    intent: Intent = attrs.field(init=False)
    """Its outcome was not known, and it was carried out."""
    left: bool = False
    """Whether what is swept may have been executed at an earlier await: then it may have been at every later one."""
    closed: set[str] = attrs.field(factory=set)
    """The states that intents were left in."""

    def shop(self, **answers: Any) -> Machine:
        policy = CompletionPolicy(idempotency_header=HEADER, reconcile_budget=3.0, **answers)
        return Machine(self.server, self.store, policy, pool_size=1)

    async def newcomer(self) -> str:
        name = f"newcomer-{len(self.server.shop.customers)}"
        await self.keeper.customers.create(name, firstname="Ada", lastname="Lovelace")
        self.books.give(name, GOLD, 5)
        return name

    async def filled(self, kind: Any = "buy") -> Basket:
        return await self.keeper.baskets.add_item(await self.newcomer(), sku=GOLD, qty=2, type=kind)

    async def refilled(self) -> Basket:
        await self.keeper.baskets.clear(self.basket)
        return await self.keeper.baskets.add_item(self.basket, sku=GOLD)

    async def ordered(self) -> Order:
        basket = await self.filled()
        order = (await self.keeper.complete.buy(basket, expected_total=basket.paid_total)).order
        assert order is not None
        return order

    async def doubted(self, kind: str, **args: Any) -> Intent:
        basket = await self.filled()
        self.trouble(kind, COMPLETE, **args)
        with pytest.raises(OutcomeUnknown) as caught:
            await self.keeper.complete.buy(basket, expected_total=basket.paid_total)
        return caught.value.intent

    def check_the_books(self) -> None:
        """Assert that the books are right, between two steps of the server."""

        async def check() -> None:
            self.books.check()

        assert self.server._loop is not None
        asyncio.run_coroutine_threadsafe(check(), self.server._loop).result()

    def trouble(self, kind: Any, path: str, **args: Any) -> None:
        self.server.faults.add(kind, path=path, **args)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "journal.db")


@pytest.fixture
async def market(store: Store, anyio_backend: str) -> AsyncGenerator[Market, None]:
    asyncio.get_running_loop().set_debug(False)
    # In a thread of its own, so that all tasks of this loop are the client's.
    with ThreadedSandbox(seed=1, clock=ManualClock(auto_advance=True), single_shot=False, log_limit=0) as server:
        policy = CompletionPolicy(idempotency_header=HEADER)
        async with Machine(server, store, policy).client as keeper:
            market = Market(server, store, Oracle(server, store), keeper)
            market.order = await market.ordered()
            market.basket = await market.filled()
            market.intent = await market.doubted("drop_after_commit")
            server.clock.advance(TO_COMPLETED)  # type: ignore[attr-defined]
            yield market


# --- the operations ----------------------------------------------------------------------------------------------


async def rows(iterator: AsyncGenerator[Any, None]) -> list[Any]:
    async with aclosing(iterator):
        return [row async for row in iterator]


async def first_tick(client: AsyncMintedConnect) -> Any:
    async with client.rates.feed(interval=1) as feed, aclosing(feed.subscribe()) as ticks:
        return await anext(ticks)


async def twice_out_of_order(market: Market) -> None:
    market.trouble("status", "*/rates", status=500, times=2)


async def dripped(market: Market) -> str:
    name = await market.newcomer()
    market.trouble("slow_loris", f"*/{name}", interval=0.01)
    return name


async def refused(market: Market) -> Basket:
    basket = await market.filled()
    market.trouble("refusal", COMPLETE, status=403, is_envelope=False, commit="never")
    return basket


async def refused_but_done(market: Market) -> Basket:
    basket = await market.filled()
    market.trouble("refusal", COMPLETE, status=409, commit="before")
    return basket


async def added_unseen(market: Market) -> Basket:
    basket = await market.refilled()
    market.trouble("drop_after_commit", "*/basket")
    return basket


def bought(client: AsyncMintedConnect, basket: Basket) -> Any:
    return client.complete.buy(basket, expected_total=basket.paid_total)


async def nothing(market: Market) -> None:
    pass


Prepare = Callable[[Market], Awaitable[Any]]
Call = Callable[[AsyncMintedConnect, Any, Market], Coroutine[Any, Any, Any]]

CALLS: Final[dict[str, tuple[Prepare, Call]]] = {
    "customers.create": (nothing, lambda c, _, m: c.customers.create(f"new-{len(m.server.shop.customers)}")),
    "customers.get": (nothing, lambda c, _, m: c.customers.get(m.basket.customer.external_id)),
    "customers.update": (
        nothing,
        lambda c, _, m: c.customers.update(m.basket.customer.external_id, **PERSON.details),
    ),
    "customers.remove": (Market.newcomer, lambda c, name, _: c.customers.remove(name)),
    "customers.remove, in drops": (dripped, lambda c, name, _: c.customers.remove(name)),
    "products.page": (nothing, lambda c, *_: c.products.page()),
    "products.iterate": (nothing, lambda c, *_: rows(c.products.iterate(per_page=10))),
    "baskets.get_active": (
        nothing,
        lambda c, _, m: c.baskets.get_active(m.basket.customer.external_id, cart_token=m.basket.token),
    ),
    "baskets.add_item": (Market.refilled, lambda c, basket, _: c.baskets.add_item(basket, sku=GOLD)),
    "baskets.add_item, opening": (Market.newcomer, lambda c, name, _: c.baskets.add_item(name, sku=GOLD)),
    "baskets.add_item, read back": (added_unseen, lambda c, basket, _: c.baskets.add_item(basket, sku=GOLD)),
    "baskets.update_item": (Market.refilled, lambda c, basket, _: c.baskets.update_item(basket, sku=GOLD, qty=3)),
    "baskets.delete_item": (Market.refilled, lambda c, basket, _: c.baskets.delete_item(basket, sku=GOLD)),
    "baskets.clear": (Market.refilled, lambda c, basket, _: c.baskets.clear(basket)),
    "orders.page": (nothing, lambda c, _, m: c.orders.page(customer_id=m.order.customer.external_id)),
    "orders.get": (
        nothing,
        lambda c, _, m: c.orders.get(m.order.id, customer_id=m.order.customer.external_id),
    ),
    "orders.iterate": (
        nothing,
        lambda c, _, m: rows(c.orders.iterate(customer_id=m.order.customer.external_id)),
    ),
    "orders.wait": (Market.ordered, lambda c, order, _: c.orders.wait(order)),
    "orders.watch": (Market.ordered, lambda c, order, _: rows(c.orders.watch(order))),
    "orders.receipt": (
        nothing,
        lambda c, _, m: c.orders.receipt(m.order.id, customer_id=m.order.customer.external_id),
    ),
    "orders.invoice": (nothing, lambda c, _, m: c.orders.invoice(m.order.guid)),
    "wallet.balance": (nothing, lambda c, _, m: c.wallet.balance(m.order.customer.external_id)),
    "rates.current": (nothing, lambda c, *_: c.rates.current()),
    "rates.current, tried again": (twice_out_of_order, lambda c, *_: c.rates.current()),
    "rates.history": (nothing, lambda c, *_: c.rates.history(metal="gold")),
    "rates.feed": (nothing, lambda c, *_: first_tick(c)),
    "request": (nothing, lambda c, *_: c.request("GET", "/partner/walletable/rates")),
}

COMPLETIONS: Final[dict[str, tuple[Prepare, Call]]] = {
    "complete.buy": (Market.filled, lambda c, basket, _: bought(c, basket)),
    "complete.sell": (
        lambda m: m.filled("sell"),
        lambda c, basket, _: c.complete.sell(basket, accept_price="current"),
    ),
    "complete.delivery": (
        lambda m: m.filled("delivery"),
        lambda c, basket, _: c.complete.delivery(basket, shipping=PERSON.shipping, accept_price="current"),
    ),
    "complete.buy, read back": (refused, lambda c, basket, _: bought(c, basket)),
    "complete.buy, found": (refused_but_done, lambda c, basket, _: bought(c, basket)),
    "complete.pending": (nothing, lambda c, *_: c.complete.pending()),
    "complete.unfinished": (nothing, lambda c, *_: c.complete.unfinished()),
    "complete.adopt": (
        lambda m: m.doubted("drop_before_read"),
        lambda c, intent, _: c.complete.adopt(intent),
    ),
    "complete.decide": (
        lambda m: m.doubted("drop_before_read"),
        lambda c, intent, _: c.complete.decide(intent, "not_executed"),
    ),
    "complete.reconcile": (nothing, lambda c, _, m: c.complete.reconcile(m.intent)),
    "complete.reconcile, fenced": (
        lambda m: m.doubted("drop_before_read"),
        lambda c, intent, _: c.complete.reconcile(intent, fence=True),
    ),
}

ENDS_BADLY: Final = ("complete.buy, read back", "complete.reconcile, fenced")
"""If nobody cancels it: the server refuses it, or it stays unknown."""
OPERATIONS: Final = {**CALLS, **COMPLETIONS}

# --- the sweep ---------------------------------------------------------------------------------------------------


def begun(work: Coroutine[Any, Any, Any], at: int, how: str) -> tuple[asyncio.Task[Any], Stopped[Any]]:
    """Start an operation in a task; the task itself, a cancel scope or a timeout cancels it."""
    loop = asyncio.get_running_loop()
    scope, limit = anyio.CancelScope(), asyncio.timeout(None)
    cancels: dict[str, Callable[[], object]] = {
        "scope": scope.cancel,
        "timeout": lambda: limit.reschedule(loop.time()),
    }
    stopped = Stopped(work, at, woken=how == "woken", cancel=cancels.get(how, lambda: task.cancel()))  # noqa: PLW0108 - it is made below
    caught: list[BaseException] = []

    async def noted() -> Any:
        try:
            return await stopped
        except BaseException as error:
            caught.append(error)
            raise

    async def run() -> Any:
        if how == "scope":
            with scope:
                return await noted()
        elif how == "timeout":
            with suppress(TimeoutError):
                async with limit:
                    return await noted()
        else:
            return await noted()
        raise caught[0]

    task = loop.create_task(run())
    return task, stopped


async def sweep(market: Market, name: str, way: str, stop_at: Callable[[int], Awaitable[bool]]) -> None:
    """Stop it at one await after the other, until it ends before that."""
    market.left = False
    for at in range(MOST):
        try:
            if await stop_at(at):
                return
        except AssertionError as error:
            error.add_note(f"{name}, stopped at await {at} ({way})")
            raise
    pytest.fail(f"{name} never ends")


async def cancel(market: Market, shop: Machine, name: str, how: str, start: str, at: int) -> bool:
    """Cancel at await number `at`, and hold what came out against the journal, the pool and the sandbox.

    Returns whether it ended before.
    """
    prepare, call = OPERATIONS[name]
    argument = await prepare(market)
    if start == "warm":
        await shop.client.rates.current()
    else:
        await shop.restart()
    before, tasks = shop.store.entries(), asyncio.all_tasks()
    task, stopped = begun(call(shop.client, argument, market), at, how)
    end = await result_of(task)
    market.server.faults.clear()
    came, left = stopped.left is not None, len(departures)
    await run_loop(3)
    assert asyncio.all_tasks() == tasks
    await nothing_is_held(shop.client)
    if came:
        assert isinstance(end, asyncio.CancelledError), end
        assert left == stopped.left, "sent behind the back of whoever cancelled it"
    else:
        assert not isinstance(end, BaseException) or name in ENDS_BADLY, end
    notes = " ".join(getattr(end, "__notes__", ()))
    for intent, state in closed(market, shop, before).items():
        assert (intent in notes) == (state != IntentState.NOT_SENT) or not came
    return not stopped.reached


async def close(market: Market, shop: Machine, name: str, start: str, at: int) -> bool:
    """Close the client at await number `at`: the call ends with it, and says the truth.

    Returns whether it ended before.
    """
    prepare, call = OPERATIONS[name]
    argument = await prepare(market)
    await shop.restart()
    client, before = shop.client, shop.store.entries()
    if start == "warm":
        await client.rates.current()
    closing: list[asyncio.Task[int]] = []

    async def aclose() -> int:
        await client.aclose()
        return len(departures)

    work = call(client, argument, market)
    end = await result_of(Stopped(work, at, woken=False, cancel=lambda: closing.append(asyncio.create_task(aclose()))))
    market.server.faults.clear()
    assert not isinstance(end, RequestTimeout), "it waited for what could not come any more"
    assert not isinstance(end, BaseException) or isinstance(end, MintedConnectError), end
    for task in closing:
        assert await task == len(departures), "sent after the client was closed"
    for state in closed(market, shop, before).values():
        assert (state in OPEN) == isinstance(end, OutcomeUnknown)
    return not closing


def closed(market: Market, shop: Machine, before: Mapping[str, Entry]) -> dict[str, str]:
    """Return the states of the intents that came since, which have to be right."""
    market.check_the_books()
    states = {intent: entry.state for intent, entry in shop.store.entries().items() if intent not in before}
    for state in states.values():
        assert state != IntentState.PREPARED
        assert state != IntentState.NOT_SENT or not market.left, "sent at an earlier await, and not at this one?"
        market.left = state != IntentState.NOT_SENT
    market.closed.update(states.values())
    return states


async def nothing_is_held(client: AsyncMintedConnect) -> None:
    """Assert that no connection, no place in a pool and no alarm is kept, and that the login is in order."""
    transport = client._api.state.transport
    for pool in (transport._pools or {}).values():
        assert not pool.reading
        assert not pool.session.connector._acquired
        assert pool.slots._value == 1
    assert not client._api.clock._timers
    assert await client.rates.current()


async def everything_is_found(market: Market, shop: Machine) -> None:
    """Reconcile what is pending, once all that was sent has been carried out."""
    for _ in range(5):
        await shop.client.rates.current()
    for intent in await shop.client.complete.pending():
        await result_of(shop.client.complete.reconcile(intent))
    market.check_the_books()
    for intent, entry in shop.store.entries().items():
        assert intent not in market.books.made or entry.state not in OPEN


SENDING: Final = ("buy", "sell", "delivery", "buy, read back", "buy, found")
DURABLE: Final = ("buy", "pending", "unfinished", "decide", "reconcile")


@pytest.mark.requirement(24)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_every_await(market: Market, name: str) -> None:
    shop = market.shop()
    for how, start in WAYS:
        await sweep(market, name, f"{how}, {start}", partial(cancel, market, shop, name, how, start))
    await shop.client.aclose()


@pytest.mark.requirement(17)
@pytest.mark.parametrize(
    ("store", "name"),
    [*(("memory", name) for name in COMPLETIONS), *(("file", f"complete.{name}") for name in DURABLE)],
    indirect=["store"],
)
async def test_a_completion_cancelled_at_every_await(market: Market, name: str) -> None:
    shop = market.shop()
    for how, start in WAYS:
        await sweep(market, name, f"{how}, {start}", partial(cancel, market, shop, name, how, start))
    if name.removeprefix("complete.") in SENDING:
        assert market.closed >= {IntentState.NOT_SENT, IntentState.UNKNOWN}
    await everything_is_found(market, shop)
    await shop.client.aclose()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_its_client_closed_at_every_await(market: Market, name: str) -> None:
    shop = market.shop()
    for start in ("cold", "warm"):
        await sweep(market, name, f"closed, {start}", partial(close, market, shop, name, start))
    await shop.restart()
    await everything_is_found(market, shop)
    await shop.client.aclose()


@pytest.mark.requirement(46)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("way", ["cancelled", "closed"])
@pytest.mark.parametrize(("name", "is_done"), [("complete.buy, read back", False), ("complete.buy, found", True)])
async def test_the_looks_after_a_refusal_interrupted_at_every_await(
    market: Market, name: str, is_done: bool, way: str
) -> None:
    """The refusal is kept from the first look on, and `reconcile` ends what was interrupted."""
    shop = market.shop()
    how, start = ("woken", "warm") if way == "cancelled" else ("", "warm")
    kept: set[str] = set()

    async def interrupt_at(at: int) -> bool:
        before = shop.store.entries()
        stop = cancel(market, shop, name, how, start, at) if how else close(market, shop, name, start, at)
        is_over = await stop
        if not how:
            await shop.restart()
        for intent in await shop.client.complete.pending():
            if intent.id not in before and intent.refusal is not None:
                assert intent.refusal.status == (409 if is_done else 403)
                kept.add(intent.id)
        return is_over

    await sweep(market, name, way, interrupt_at)
    assert len(kept) > 5
    market.server.clock.advance(100)  # type: ignore[attr-defined]
    for intent in await shop.client.complete.pending():
        if intent.id in kept:
            end = await result_of(shop.client.complete.reconcile(intent))
            if is_done:
                assert isinstance(end, Completion)
            else:
                assert isinstance(end, CompletionRejected)
                assert (end.order, end.refusal) == (None, intent.refusal)
    market.check_the_books()
    assert not kept & {intent.id for intent in await shop.client.complete.pending()}
    await shop.client.aclose()


NOT_SWEPT: Final = {
    "complete.aclose",
    "complete.note",
    "complete.with_api",
    "orders.pages",
    "products.pages",
}
"""Not for callers, or what `iterate` walks along."""


async def test_no_operation_is_left_out() -> None:
    async with AsyncMintedConnect("partner", "secret") as minted:
        resources = {name: value for name, value in vars(minted).items() if not name.startswith("_")}
        public = {f"{name}.{one}" for name, value in resources.items() for one in dir(value) if not one.startswith("_")}
    assert public - NOT_SWEPT == {name.split(",")[0] for name in OPERATIONS} - {"request"}
