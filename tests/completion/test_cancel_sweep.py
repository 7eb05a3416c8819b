"""Every operation, cancelled at each of its awaits: no leak, no lost order, and no purchase without a note."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio
import attrs
import pytest

from minted_connect import (
    AsyncMintedConnect,
    CompletionRejected,
    MintedConnectError,
    OutcomeUnknown,
    ReconcilerStatus,
    RequestTimeout,
)
from minted_connect.config import CompletionPolicy
from minted_connect.core.pool import RequestProgress
from minted_connect.journal.protocol import OPEN
from minted_connect.models import Basket, Completion, Intent, IntentState, Order
from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.completion.ledger import HEADER, Entry, FileStore, Machine, MemoryStore, Oracle, Store, result_of, run_loop
from tests.support.operations import GOLD, SILVER, TO_COMPLETED, Person

pytestmark = pytest.mark.anyio

_T = TypeVar("_T")

PERSON: Final = Person()
COMPLETE: Final = "*/complete/*"
MAX_AWAITS: Final = 400
"""More awaits than any of these operations has."""
INTERRUPTIONS: Final = (
    ("waiting", "cold"),
    ("woken", "cold"),
    ("woken", "warm"),
    ("scope", "warm"),
    ("timeout", "cold"),
)
"""Ways to cancel an operation, and states of its client. `waiting` cancels the task at the await, `woken` when the
await completes; `scope` and `timeout` cancel by a cancel scope or a timeout. A `cold` client is new, a `warm` client is
connected and logged in."""


class InterruptedOperation(Generic[_T]):
    """An operation that is cancelled at its await number `at`, counted from 0.

    Args:
        work: The operation.
        at: Number of the await.
        woken: Whether the cancellation comes when the await completes.
        cancel: Cancels the running task.
    """

    def __init__(self, work: Coroutine[Any, Any, _T], at: int, *, woken: bool, cancel: Callable[[], object]) -> None:
        self._work, self._at, self._woken, self._cancel = work, at, woken, cancel
        self.awaits = 0
        self.reached = False
        self.sent_count: int | None = None
        """Number of requests sent before the cancellation; None if the operation ended before it."""

    def __await__(self) -> Generator[Any, Any, _T]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as stop:
                return stop.value
            if self.awaits == self._at:
                if self._woken and awaited is not None:
                    # Called before the callback of the task, so that the task is cancelled when it wakes up.
                    awaited.add_done_callback(self._interrupt)
                else:
                    self._interrupt()
            self.awaits += 1
            error = None
            try:
                yield awaited
            except BaseException as caught:
                error = caught
                if isinstance(error, asyncio.CancelledError) and self.sent_count is None:
                    self.sent_count = len(sent_requests)

    def _interrupt(self, _: object = None) -> None:
        self.reached = True
        self._cancel()


sent_requests: list[None] = []
"""One entry for each sent request of any client."""


@pytest.fixture(autouse=True)
def _record_sent_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_sent = RequestProgress.mark_sent

    def record(progress: RequestProgress) -> None:
        mark_sent(progress)
        sent_requests.append(None)

    monkeypatch.setattr(RequestProgress, "mark_sent", record)
    sent_requests.clear()


# --- setup -------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Environment:
    """A sandbox with a customer, an order, a basket and an intent, and methods that add further ones."""

    server: ThreadedSandbox
    store: Store
    oracle: Oracle
    setup_client: AsyncMintedConnect
    """The client that prepares the operations."""
    order: Order = attrs.field(init=False)
    basket: Basket = attrs.field(init=False)
    intent: Intent = attrs.field(init=False)
    """An executed intent whose outcome was unknown."""
    may_have_executed: bool = False
    """Whether the operation may have been executed at an earlier await; then this holds at every later one."""
    final_states: set[str] = attrs.field(factory=set)
    """The states in which the intents were left."""

    def new_machine(self, **bounds: Any) -> Machine:
        policy = CompletionPolicy(idempotency_header=HEADER, reconcile_budget=3.0, **bounds)
        return Machine(self.server, self.store, policy, pool_size=1)

    async def create_customer(self) -> str:
        name = f"newcomer-{len(self.server.shop.customers)}"
        await self.setup_client.customers.create(name, firstname="Ada", lastname="Lovelace")
        self.oracle.give(name, GOLD, 5)
        return name

    async def fill_basket(self, kind: Any = "buy") -> Basket:
        return await self.setup_client.baskets.add_item(await self.create_customer(), sku=GOLD, qty=2, type=kind)

    async def refill_basket(self) -> Basket:
        await self.setup_client.baskets.clear(self.basket)
        return await self.setup_client.baskets.add_item(self.basket, sku=GOLD)

    async def make_order(self) -> Order:
        basket = await self.fill_basket()
        order = (await self.setup_client.complete.buy(basket, expected_total=basket.paid_total)).order
        assert order is not None
        return order

    async def make_unknown_intent(self, kind: str, **args: Any) -> Intent:
        basket = await self.fill_basket()
        self.add_fault(kind, COMPLETE, **args)
        with pytest.raises(OutcomeUnknown) as caught:
            await self.setup_client.complete.buy(basket, expected_total=basket.paid_total)
        return caught.value.intent

    def check_oracle(self) -> None:
        """Check the invariants of the oracle in the loop of the server."""

        async def check() -> None:
            self.oracle.check()

        assert self.server._loop is not None
        asyncio.run_coroutine_threadsafe(check(), self.server._loop).result()

    def add_fault(self, kind: Any, path: str, **args: Any) -> None:
        self.server.faults.add(kind, path=path, **args)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "journal.db")


@pytest.fixture
async def environment(store: Store, anyio_backend: str) -> AsyncGenerator[Environment, None]:
    asyncio.get_running_loop().set_debug(False)
    # The sandbox runs in another thread, so that all tasks of this loop belong to the client.
    with ThreadedSandbox(seed=1, clock=ManualClock(auto_advance=True), single_shot=False, log_limit=0) as server:
        policy = CompletionPolicy(idempotency_header=HEADER)
        async with Machine(server, store, policy).client as setup_client:
            environment = Environment(server, store, Oracle(server, store), setup_client)
            environment.order = await environment.make_order()
            environment.basket = await environment.fill_basket()
            environment.intent = await environment.make_unknown_intent("drop_after_commit")
            server.clock.advance(TO_COMPLETED)  # type: ignore[attr-defined]
            yield environment


# --- the operations ----------------------------------------------------------------------------------------------


async def read_all(iterator: AsyncGenerator[Any, None]) -> list[Any]:
    async with aclosing(iterator):
        return [row async for row in iterator]


async def read_first_tick(client: AsyncMintedConnect) -> Any:
    async with client.rates.feed(interval=1) as feed, aclosing(feed.subscribe()) as ticks:
        return await anext(ticks)


async def reconcile_in_background(client: AsyncMintedConnect) -> None:
    has_ended = asyncio.Event()

    def on_status(status: ReconcilerStatus) -> None:
        if status.state == "closed":
            has_ended.set()

    async with client.complete.reconciler(on_result=lambda _: has_ended.set(), on_status=on_status):
        await has_ended.wait()


async def fail_rates_twice(environment: Environment) -> None:
    environment.add_fault("status", "*/rates", status=500, times=2)


async def delay_response(environment: Environment) -> str:
    name = await environment.create_customer()
    environment.add_fault("slow_loris", f"*/{name}", interval=0.01)
    return name


async def refuse_completion(environment: Environment) -> Basket:
    basket = await environment.fill_basket()
    environment.add_fault("refusal", COMPLETE, status=403, is_envelope=False, commit="never")
    return basket


async def refuse_executed_completion(environment: Environment) -> Basket:
    basket = await environment.fill_basket()
    environment.add_fault("refusal", COMPLETE, status=409, commit="before")
    return basket


PLENTY: Final = Decimal(10**6)


def reference_of(name: str) -> dict[str, Any]:
    return {"reference": f"plan/{name}", "currency": "AED"}


async def lose_added_item(environment: Environment) -> Basket:
    basket = await environment.refill_basket()
    environment.add_fault("drop_after_commit", "*/basket")
    return basket


def buy(client: AsyncMintedConnect, basket: Basket) -> Any:
    return client.complete.buy(basket, expected_total=basket.paid_total)


async def prepare_nothing(environment: Environment) -> None:
    pass


Prepare = Callable[[Environment], Awaitable[Any]]
Call = Callable[[AsyncMintedConnect, Any, Environment], Coroutine[Any, Any, Any]]

CALLS: Final[dict[str, tuple[Prepare, Call]]] = {
    "customers.create": (prepare_nothing, lambda c, _, m: c.customers.create(f"new-{len(m.server.shop.customers)}")),
    "customers.get": (prepare_nothing, lambda c, _, m: c.customers.get(m.basket.customer.external_id)),
    "customers.update": (
        prepare_nothing,
        lambda c, _, m: c.customers.update(m.basket.customer.external_id, **PERSON.details),
    ),
    "customers.remove": (Environment.create_customer, lambda c, name, _: c.customers.remove(name)),
    "customers.remove, slow response": (delay_response, lambda c, name, _: c.customers.remove(name)),
    "products.page": (prepare_nothing, lambda c, *_: c.products.page()),
    "products.iterate": (prepare_nothing, lambda c, *_: read_all(c.products.iterate(per_page=10))),
    "baskets.get_active": (
        prepare_nothing,
        lambda c, _, m: c.baskets.get_active(m.basket.customer.external_id, cart_token=m.basket.token),
    ),
    "baskets.add_item": (Environment.refill_basket, lambda c, basket, _: c.baskets.add_item(basket, sku=GOLD)),
    "baskets.add_item, new basket": (
        Environment.create_customer,
        lambda c, name, _: c.baskets.add_item(name, sku=GOLD),
    ),
    "baskets.add_item, read back": (lose_added_item, lambda c, basket, _: c.baskets.add_item(basket, sku=GOLD)),
    "baskets.update_item": (
        Environment.refill_basket,
        lambda c, basket, _: c.baskets.update_item(basket, sku=GOLD, qty=3),
    ),
    "baskets.delete_item": (Environment.refill_basket, lambda c, basket, _: c.baskets.delete_item(basket, sku=GOLD)),
    "baskets.clear": (Environment.refill_basket, lambda c, basket, _: c.baskets.clear(basket)),
    "baskets.replace": (
        Environment.refill_basket,
        lambda c, basket, _: c.baskets.replace(basket, {GOLD: 2, "MNTBAE0013": 1}),
    ),
    "orders.page": (prepare_nothing, lambda c, _, m: c.orders.page(customer_id=m.order.customer.external_id)),
    "orders.get": (
        prepare_nothing,
        lambda c, _, m: c.orders.get(m.order.id, customer_id=m.order.customer.external_id),
    ),
    "orders.iterate": (
        prepare_nothing,
        lambda c, _, m: read_all(c.orders.iterate(customer_id=m.order.customer.external_id)),
    ),
    "orders.wait": (Environment.make_order, lambda c, order, _: c.orders.wait(order)),
    "orders.watch": (Environment.make_order, lambda c, order, _: read_all(c.orders.watch(order))),
    "orders.receipt": (
        prepare_nothing,
        lambda c, _, m: c.orders.receipt(m.order.id, customer_id=m.order.customer.external_id),
    ),
    "orders.invoice": (prepare_nothing, lambda c, _, m: c.orders.invoice(m.order.guid)),
    "wallet.balance": (prepare_nothing, lambda c, _, m: c.wallet.balance(m.order.customer.external_id)),
    "rates.current": (prepare_nothing, lambda c, *_: c.rates.current()),
    "rates.current, retried": (fail_rates_twice, lambda c, *_: c.rates.current()),
    "rates.history": (prepare_nothing, lambda c, *_: c.rates.history(metal="gold")),
    "rates.feed": (prepare_nothing, lambda c, *_: read_first_tick(c)),
    "request": (prepare_nothing, lambda c, *_: c.request("GET", "/partner/walletable/rates")),
}

COMPLETIONS: Final[dict[str, tuple[Prepare, Call]]] = {
    "complete.buy": (Environment.fill_basket, lambda c, basket, _: buy(c, basket)),
    "complete.sell": (
        lambda m: m.fill_basket("sell"),
        lambda c, basket, _: c.complete.sell(basket, accept_price="current"),
    ),
    "complete.delivery": (
        lambda m: m.fill_basket("delivery"),
        lambda c, basket, _: c.complete.delivery(basket, shipping=PERSON.shipping, accept_price="current"),
    ),
    "complete.buy, read back": (refuse_completion, lambda c, basket, _: buy(c, basket)),
    "complete.buy, found": (refuse_executed_completion, lambda c, basket, _: buy(c, basket)),
    "complete.buy_items": (
        Environment.create_customer,
        lambda c, name, _: c.complete.buy_items(name, {GOLD: 2, SILVER: 1}, max_total=PLENTY, **reference_of(name)),
    ),
    "complete.sell_items": (
        Environment.create_customer,
        lambda c, name, _: c.complete.sell_items(name, {GOLD: 1}, min_total=Decimal(1), **reference_of(name)),
    ),
    "complete.deliver_items": (
        Environment.create_customer,
        lambda c, name, _: c.complete.deliver_items(
            name, {GOLD: 1}, shipping=PERSON.shipping, max_total=PLENTY, **reference_of(name)
        ),
    ),
    "complete.pending": (prepare_nothing, lambda c, *_: c.complete.pending()),
    "complete.unfinished": (prepare_nothing, lambda c, *_: c.complete.unfinished()),
    "complete.intents_page": (prepare_nothing, lambda c, *_: c.complete.intents_page()),
    "complete.intents": (prepare_nothing, lambda c, *_: read_all(c.complete.intents())),
    "complete.intent": (prepare_nothing, lambda c, *_: c.complete.intent(intent_id="any")),
    "complete.forget": (prepare_nothing, lambda c, *_: c.complete.forget(before=datetime(2020, 1, 1, tzinfo=UTC))),
    "complete.adopt": (
        lambda m: m.make_unknown_intent("drop_before_read"),
        lambda c, intent, _: c.complete.adopt(intent),
    ),
    "complete.decide": (
        lambda m: m.make_unknown_intent("drop_before_read"),
        lambda c, intent, _: c.complete.decide(intent, "not_executed"),
    ),
    "complete.reconcile": (prepare_nothing, lambda c, _, m: c.complete.reconcile(m.intent)),
    "complete.reconcile, fenced": (
        lambda m: m.make_unknown_intent("drop_before_read"),
        lambda c, intent, _: c.complete.reconcile(intent, fence=True),
    ),
    "complete.reconcile_all": (
        lambda m: m.make_unknown_intent("drop_before_read"),
        lambda c, intent, m: c.complete.reconcile_all(intents=[m.intent, intent], fence=True),
    ),
    "complete.reconciler": (
        lambda m: m.make_unknown_intent("drop_after_commit"),
        lambda c, *_: reconcile_in_background(c),
    ),
}

FAILING_OPERATIONS: Final = ("complete.buy, read back", "complete.reconcile, fenced")
"""Operations that fail without a cancellation: the server refuses them, or the outcome stays unknown."""
OPERATIONS: Final = {**CALLS, **COMPLETIONS}

# --- the sweep ---------------------------------------------------------------------------------------------------


def start_operation(
    work: Coroutine[Any, Any, Any], at: int, how: str
) -> tuple[asyncio.Task[Any], InterruptedOperation[Any]]:
    """Start an operation in a task; the task itself, a cancel scope or a timeout cancels it."""
    loop = asyncio.get_running_loop()
    scope, limit = anyio.CancelScope(), asyncio.timeout(None)
    cancels: dict[str, Callable[[], object]] = {
        "scope": scope.cancel,
        "timeout": lambda: limit.reschedule(loop.time()),
    }
    operation = InterruptedOperation(work, at, woken=how == "woken", cancel=cancels.get(how, lambda: task.cancel()))  # noqa: PLW0108 - the task is created below
    caught: list[BaseException] = []

    async def record() -> Any:
        try:
            return await operation
        except BaseException as error:
            caught.append(error)
            raise

    async def run() -> Any:
        if how == "scope":
            with scope:
                return await record()
        elif how == "timeout":
            with suppress(TimeoutError):
                async with limit:
                    return await record()
        else:
            return await record()
        raise caught[0]

    task = loop.create_task(run())
    return task, operation


async def sweep(environment: Environment, name: str, way: str, stop_at: Callable[[int], Awaitable[bool]]) -> None:
    """Interrupt the operation at each await, until it ends before the await is reached."""
    environment.may_have_executed = False
    for at in range(MAX_AWAITS):
        try:
            if await stop_at(at):
                return
        except AssertionError as error:
            error.add_note(f"{name}, interrupted at await {at} ({way})")
            raise
    pytest.fail(f"{name} never ends")


async def cancel(environment: Environment, machine: Machine, name: str, how: str, start: str, at: int) -> bool:
    """Cancel at await number `at`, and compare the result with the journal, the pool and the sandbox.

    Returns whether the operation ended before this await.
    """
    prepare, call = OPERATIONS[name]
    argument = await prepare(environment)
    if start == "warm":
        await machine.client.rates.current()
    else:
        await machine.restart()
    before, tasks = machine.store.entries(), asyncio.all_tasks()
    task, operation = start_operation(call(machine.client, argument, environment), at, how)
    result = await result_of(task)
    environment.server.faults.clear()
    was_cancelled, sent_count = operation.sent_count is not None, len(sent_requests)
    await run_loop(3)
    assert asyncio.all_tasks() == tasks
    await check_nothing_is_held(machine.client)
    if was_cancelled:
        assert isinstance(result, asyncio.CancelledError), result
        assert sent_count == operation.sent_count, "a request was sent after the cancellation"
    else:
        assert not isinstance(result, BaseException) or name in FAILING_OPERATIONS, result
    notes = " ".join(getattr(result, "__notes__", ()))
    for intent, state in check_new_intents(environment, machine, before).items():
        assert (intent in notes) == (state != IntentState.NOT_SENT) or not was_cancelled
    return not operation.reached


async def close(environment: Environment, machine: Machine, name: str, start: str, at: int) -> bool:
    """Close the client at await number `at`, and check that the call ends with the right error.

    Returns whether the operation ended before this await.
    """
    prepare, call = OPERATIONS[name]
    argument = await prepare(environment)
    await machine.restart()
    client, before = machine.client, machine.store.entries()
    if start == "warm":
        await client.rates.current()
    closing: list[asyncio.Task[int]] = []

    async def aclose() -> int:
        await client.aclose()
        return len(sent_requests)

    work = call(client, argument, environment)
    result = await result_of(
        InterruptedOperation(work, at, woken=False, cancel=lambda: closing.append(asyncio.create_task(aclose())))
    )
    environment.server.faults.clear()
    assert not isinstance(result, RequestTimeout), "the call waited for a response that could not arrive"
    assert not isinstance(result, BaseException) or isinstance(result, MintedConnectError), result
    for task in closing:
        assert await task == len(sent_requests), "sent after the client was closed"
    for state in check_new_intents(environment, machine, before).values():
        assert (state in OPEN) == isinstance(result, OutcomeUnknown)
    return not closing


def check_new_intents(environment: Environment, machine: Machine, before: Mapping[str, Entry]) -> dict[str, str]:
    """Check the intents that are not in `before`, and return their states."""
    environment.check_oracle()
    states = {intent: entry.state for intent, entry in machine.store.entries().items() if intent not in before}
    for state in states.values():
        assert state != IntentState.PREPARED
        assert state != IntentState.NOT_SENT or not environment.may_have_executed, (
            "sent at an earlier await, but not at this one"
        )
        environment.may_have_executed = state != IntentState.NOT_SENT
    environment.final_states.update(states.values())
    return states


async def check_nothing_is_held(client: AsyncMintedConnect) -> None:
    """Check that no connection, pool slot or timer is held, and that the client can still log in."""
    transport = client._api.state.transport
    for pool in (transport._pools or {}).values():
        assert not pool.connections.reading
        assert not pool.connections.session.connector._acquired
        assert pool.slots._value == 1
    assert not client._api.clock._timers
    assert await client.rates.current()


async def check_every_order_is_found(environment: Environment, machine: Machine) -> None:
    """Reconcile the pending intents after every sent request was executed."""
    for _ in range(5):
        await machine.client.rates.current()
    for intent in await machine.client.complete.pending():
        await result_of(machine.client.complete.reconcile(intent))
    environment.check_oracle()
    for intent, entry in machine.store.entries().items():
        assert intent not in environment.oracle.made or entry.state not in OPEN


SENDING_OPERATIONS: Final = ("buy", "sell", "delivery", "buy, read back", "buy, found")
FILE_OPERATIONS: Final = ("buy", "pending", "unfinished", "decide", "reconcile")


@pytest.mark.requirement(24)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("name", CALLS)
async def test_operation_cancelled_at_every_await_leaks_nothing(environment: Environment, name: str) -> None:
    machine = environment.new_machine()
    for how, start in INTERRUPTIONS:
        await sweep(environment, name, f"{how}, {start}", partial(cancel, environment, machine, name, how, start))
    await machine.client.aclose()


@pytest.mark.requirement(17)
@pytest.mark.parametrize(
    ("store", "name"),
    [*(("memory", name) for name in COMPLETIONS), *(("file", f"complete.{name}") for name in FILE_OPERATIONS)],
    indirect=["store"],
)
async def test_completion_cancelled_at_every_await_loses_nothing(environment: Environment, name: str) -> None:
    machine = environment.new_machine()
    for how, start in INTERRUPTIONS:
        await sweep(environment, name, f"{how}, {start}", partial(cancel, environment, machine, name, how, start))
    if name.removeprefix("complete.") in SENDING_OPERATIONS:
        assert environment.final_states >= {IntentState.NOT_SENT, IntentState.UNKNOWN}
    await check_every_order_is_found(environment, machine)
    await machine.client.aclose()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_client_closed_at_every_await_ends_the_operation(environment: Environment, name: str) -> None:
    machine = environment.new_machine()
    for start in ("cold", "warm"):
        await sweep(environment, name, f"closed, {start}", partial(close, environment, machine, name, start))
    await machine.restart()
    await check_every_order_is_found(environment, machine)
    await machine.client.aclose()


@pytest.mark.requirement(46)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("way", ["cancelled", "closed"])
@pytest.mark.parametrize(("name", "is_done"), [("complete.buy, read back", False), ("complete.buy, found", True)])
async def test_polling_interrupted_at_every_await_keeps_the_refusal(
    environment: Environment, name: str, is_done: bool, way: str
) -> None:
    """The refusal is stored before the first read-back, and `reconcile` settles the interrupted intents."""
    machine = environment.new_machine()
    how, start = ("woken", "warm") if way == "cancelled" else ("", "warm")
    stored: set[str] = set()

    async def interrupt_at(at: int) -> bool:
        before = machine.store.entries()
        stop = (
            cancel(environment, machine, name, how, start, at) if how else close(environment, machine, name, start, at)
        )
        is_over = await stop
        if not how:
            await machine.restart()
        for intent in await machine.client.complete.pending():
            if intent.id not in before and intent.refusal is not None:
                assert intent.refusal.status == (409 if is_done else 403)
                stored.add(intent.id)
        return is_over

    await sweep(environment, name, way, interrupt_at)
    assert len(stored) > 5
    environment.server.clock.advance(100)  # type: ignore[attr-defined]
    for intent in await machine.client.complete.pending():
        if intent.id in stored:
            result = await result_of(machine.client.complete.reconcile(intent))
            if is_done:
                assert isinstance(result, Completion)
            else:
                assert isinstance(result, CompletionRejected)
                assert (result.order, result.refusal) == (None, intent.refusal)
    environment.check_oracle()
    assert not stored & {intent.id for intent in await machine.client.complete.pending()}
    await machine.client.aclose()


EXCLUDED: Final = {
    "orders.pages",
    "products.pages",
    "complete.assign_reference",
    "complete.erase_customer",
}
"""The pages that `iterate` reads, and operations of the journal, which send no request."""


async def test_sweep_covers_every_operation() -> None:
    async with AsyncMintedConnect("partner", "secret") as minted:
        resources = {name: value for name, value in vars(minted).items() if not name.startswith("_")}
        public = {f"{name}.{one}" for name, value in resources.items() for one in dir(value) if not one.startswith("_")}
    assert public - EXCLUDED == {name.split(",")[0] for name in OPERATIONS} - {"request"}
