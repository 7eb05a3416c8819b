"""`intent_of` finds the intent of an interrupted purchase from any exception that reaches the caller."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from minted_connect import (
    AlreadyInFlight,
    AsyncMintedConnect,
    Attempt,
    ClientClosedError,
    InvalidInput,
    NotExecuted,
    Options,
    OutcomeUnknown,
    intent_of,
)
from minted_connect.completion.interruption import attach_intent, copy_intent
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Completion, Intent, IntentState
from minted_connect.sandbox import Sandbox, ThreadedSandbox
from minted_connect.sandbox.active_faults import Fault
from tests.completion.fakes import intent_of as make_intent
from tests.support.operations import GOLD
from tests.support.subprocesses import run_script

BUY = "*/complete/buy"
GET_BASKET = "*/walletable/basket"
SEND_TIME = 1.0
"""Seconds in which a purchase is sent; `wait_for` cannot be ended by an event."""
TIMEOUT = 20.0

Buy = Callable[[], Awaitable[Completion]]
Interruption = Callable[[Buy, Fault], Awaitable[None]]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def minted(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[AsyncMintedConnect]:
    settings: dict[str, Any] = {"base_url": sandbox.url, "journal": tmp_path / "journal.db"}
    async with AsyncMintedConnect(sandbox.username, sandbox.password, **settings) as minted:
        await minted.customers.create("customer-1")
        yield minted


@pytest.fixture
async def basket(minted: AsyncMintedConnect) -> Basket:
    return await minted.baskets.add_item("customer-1", sku=GOLD)


@pytest.fixture
def buy(minted: AsyncMintedConnect, basket: Basket) -> Buy:
    return lambda: minted.complete.buy(basket, expected_total=basket.paid_total)


async def wait_for_arrival(fault: Fault) -> None:
    """Wait until a fault holds a request."""
    with anyio.fail_after(TIMEOUT):
        while not fault.waiting:
            await asyncio.sleep(0.001)


async def call_at_arrival(fault: Fault, stop: Callable[[], object]) -> None:
    await wait_for_arrival(fault)
    stop()


async def with_asyncio_timeout(buy: Buy, fault: Fault) -> None:
    async with asyncio.timeout(None) as timeout:
        now = asyncio.get_running_loop().time
        stopping = asyncio.ensure_future(call_at_arrival(fault, lambda: timeout.reschedule(now())))
        await buy()
        await stopping


async def with_wait_for(buy: Buy, _: Fault) -> None:
    await asyncio.wait_for(buy(), SEND_TIME)  # type: ignore[arg-type]


async def with_wait_for_a_task(buy: Buy, _: Fault) -> None:
    await asyncio.wait_for(asyncio.ensure_future(buy()), SEND_TIME)


async def with_fail_after(buy: Buy, fault: Fault) -> None:
    with anyio.fail_after(TIMEOUT) as scope:

        def stop() -> None:
            scope.deadline = anyio.current_time()

        stopping = asyncio.ensure_future(call_at_arrival(fault, stop))
        await buy()
        await stopping


async def with_nested_timeouts(buy: Buy, fault: Fault) -> None:
    with anyio.fail_after(TIMEOUT):
        async with asyncio.timeout(TIMEOUT):
            await asyncio.wait_for(with_asyncio_timeout(buy, fault), TIMEOUT)


async def with_handler_that_raises_another_error(buy: Buy, fault: Fault) -> None:
    try:
        await with_asyncio_timeout(buy, fault)
    except TimeoutError:
        raise KeyError("order") from None


@pytest.mark.parametrize(
    "interrupt",
    [
        with_asyncio_timeout,
        with_wait_for,
        with_wait_for_a_task,
        with_fail_after,
        with_nested_timeouts,
        with_handler_that_raises_another_error,
    ],
)
@pytest.mark.parametrize("commit", [True, False])
async def test_intent_of_timeout_after_sending_is_the_pending_intent(
    sandbox: Sandbox,
    minted: AsyncMintedConnect,
    buy: Buy,
    interrupt: Interruption,
    commit: bool,
) -> None:
    hang = sandbox.faults.add("hang", path=BUY, commit=commit)
    with pytest.raises((TimeoutError, KeyError)) as caught:
        await interrupt(buy, hang)
    [pending] = await minted.complete.pending()
    found = intent_of(caught.value)
    assert found is not None
    assert (found.id, found.state) == (pending.id, IntentState.UNKNOWN)
    if commit:
        assert (await minted.complete.reconcile(found)).reconciled


@pytest.mark.parametrize("interrupt", [with_asyncio_timeout, with_wait_for, with_fail_after])
async def test_intent_of_timeout_before_sending_is_none(
    sandbox: Sandbox, minted: AsyncMintedConnect, buy: Buy, interrupt: Interruption
) -> None:
    hang = sandbox.faults.add("hang", path=GET_BASKET)
    with pytest.raises(TimeoutError) as caught:
        await interrupt(buy, hang)
    assert intent_of(caught.value) is None
    assert await minted.complete.pending() == []


class SlowPrepareJournal(MemoryJournal):
    """A journal whose `prepare` waits until `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()
        self.released = asyncio.Event()

    async def prepare(self, intent: Intent) -> None:
        self.writing.set()
        await self.released.wait()
        await super().prepare(intent)


async def test_intent_of_cancellation_during_prepare_is_none(sandbox: Sandbox, basket: Basket) -> None:
    journal = SlowPrepareJournal()
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as minted:
        task = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
        await journal.writing.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(journal.released.set)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert intent_of(caught.value) is None
        assert await minted.complete.pending() == []
    assert not sandbox.shop.orders


async def test_intent_of_timeout_of_shielded_purchase_is_none(sandbox: Sandbox, buy: Buy) -> None:
    hang = sandbox.faults.add("hang", path=BUY)
    purchase = asyncio.ensure_future(buy())
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(TIMEOUT) as timeout:
            await wait_for_arrival(hang)
            timeout.reschedule(0)
            await asyncio.shield(purchase)
    assert intent_of(caught.value) is None
    hang.remove()
    assert (await purchase).order is not None


async def test_intent_of_cancelled_gather_is_the_pending_intent(
    sandbox: Sandbox, minted: AsyncMintedConnect, buy: Buy
) -> None:
    hang = sandbox.faults.add("hang", path=BUY)
    purchase = asyncio.ensure_future(buy())
    await wait_for_arrival(hang)
    purchase.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await asyncio.gather(purchase)
    [pending] = await minted.complete.pending()
    found = intent_of(caught.value)
    assert found is not None
    assert found.id == pending.id
    assert pending.id in caught.value.__notes__[0]


async def test_intent_of_task_group_error_is_the_pending_intent(
    sandbox: Sandbox, minted: AsyncMintedConnect, buy: Buy
) -> None:
    hang = sandbox.faults.add("hang", path=BUY)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(with_asyncio_timeout(buy, hang))
    [pending] = await minted.complete.pending()
    found = intent_of(caught.value)
    assert found is not None
    assert found.id == pending.id


async def test_intent_of_nested_anyio_groups_is_the_pending_intent(
    sandbox: Sandbox, minted: AsyncMintedConnect, buy: Buy
) -> None:
    async def purchase() -> None:
        await buy()

    sandbox.faults.add("drop_after_commit", path=BUY)
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            inner.start_soon(purchase)
            outer.start_soon(anyio.sleep, 0)
    [pending] = await minted.complete.pending()
    found = intent_of(caught.value)
    assert found is not None
    assert found.id == pending.id


async def test_intent_of_cancellation_during_settle_has_the_outcome(sandbox: Sandbox, basket: Basket) -> None:
    writing, released = asyncio.Event(), asyncio.Event()

    class SlowSettleJournal(MemoryJournal):
        async def settle(self, *arguments: Any, **named: Any) -> None:
            writing.set()
            await released.wait()
            await super().settle(*arguments, **named)

    async with AsyncMintedConnect(
        sandbox.username, sandbox.password, base_url=sandbox.url, journal=SlowSettleJournal()
    ) as minted:
        task = asyncio.ensure_future(minted.complete.buy(basket, expected_total=basket.paid_total))
        await writing.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(released.set)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
    found = intent_of(caught.value)
    assert found is not None
    assert found.state == IntentState.CONFIRMED
    assert len(sandbox.shop.orders) == 1


# --- without a server --------------------------------------------------------------------------------------------


def interrupted(intent: Intent) -> asyncio.CancelledError:
    error = asyncio.CancelledError()
    attach_intent(error, intent, IntentState.UNKNOWN, "may have been executed")
    return error


def test_intent_of_typed_errors_is_their_intent() -> None:
    intent = make_intent()
    assert intent_of(OutcomeUnknown("unknown", intent)) is intent
    assert intent_of(NotExecuted("not executed", intent)) is intent
    assert intent_of(NotExecuted("not executed")) is None
    assert intent_of(AlreadyInFlight("taken", intent.id)) is None
    assert intent_of(KeyboardInterrupt()) is None
    assert intent_of(ClientClosedError("closed")) is None


@pytest.mark.parametrize("wrong", [None, "error", KeyError])
def test_intent_of_other_values_raises_invalid_input(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        intent_of(wrong)
    assert caught.value.field == "exception"


def test_intent_of_follows_causes_and_contexts() -> None:
    error = interrupted(make_intent())
    by_cause, by_context, suppressed = TimeoutError(), KeyboardInterrupt(), SystemExit(1)
    by_cause.__cause__ = error
    by_context.__context__ = error
    suppressed.__context__, suppressed.__suppress_context__ = error, True
    for outer in (by_cause, by_context, suppressed):
        found = intent_of(outer)
        assert found is not None
        assert found.state == IntentState.UNKNOWN


def test_intent_of_several_intents_is_the_nearest() -> None:
    near, far = interrupted(make_intent(id="near")), interrupted(make_intent(id="far"))
    near.__context__ = far
    outer = TimeoutError()
    outer.__cause__ = near
    found = intent_of(outer)
    assert found is not None
    assert found.id == "near"


def test_intent_of_cycles_and_long_chains_ends() -> None:
    first, second = KeyError(1), KeyError(2)
    first.__cause__, second.__cause__ = second, first
    first.__context__ = second
    assert intent_of(first) is None
    chain: BaseException = interrupted(make_intent())
    for _ in range(20_000):
        outer = TimeoutError()
        outer.__context__ = chain
        chain = outer
    assert intent_of(chain) is not None
    while chain.__context__ is not None:  # released step by step: the chain is longer than the stack allows
        chain = chain.__context__


def test_intent_of_nested_groups_is_found() -> None:
    timeout = TimeoutError()
    timeout.__cause__ = interrupted(make_intent())
    group = BaseExceptionGroup("outer", [KeyError(1), BaseExceptionGroup("inner", [SystemExit(1), timeout])])
    assert intent_of(group) is not None


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, TimeoutError])
@pytest.mark.parametrize(
    "copy_with",
    [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
    ids=["copy", "deep", "pickle"],
)
def test_copied_exception_keeps_intent_and_note(
    kind: type[BaseException], copy_with: Callable[[Any], BaseException]
) -> None:
    error = kind()
    intent = make_intent()
    attach_intent(error, intent, IntentState.UNKNOWN, "may have been executed")
    copied = copy_with(error)
    found = intent_of(copied)
    assert found is not None
    assert found.id == intent.id
    assert copied.__notes__ == [f"intent {intent.id} may have been executed"]


def test_copy_intent_copies_intent_and_note_once() -> None:
    intent = make_intent()
    first, second = interrupted(intent), KeyboardInterrupt()
    first.add_note("something else")
    copy_intent(first, second)
    copy_intent(first, second)
    found = intent_of(second)
    assert found is not None
    assert found.id == intent.id
    assert second.__notes__ == [f"intent {intent.id} may have been executed"]
    untouched = KeyboardInterrupt()
    copy_intent(KeyError(), untouched)
    assert not hasattr(untouched, "__notes__")


async def test_cancel_with_locked_journal_settles_intent_as_unknown(
    sandbox: Sandbox, minted: AsyncMintedConnect, buy: Buy, tmp_path: Path
) -> None:
    hang = sandbox.faults.add("hang", path=BUY)
    purchase = asyncio.ensure_future(buy())
    await wait_for_arrival(hang)
    lock = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    for _ in range(3):
        purchase.cancel()
        await asyncio.sleep(0)
    unlock = threading.Timer(0.3, lambda: lock.execute("ROLLBACK"))
    unlock.start()
    with pytest.raises(asyncio.CancelledError) as caught:
        await purchase
    unlock.join()
    lock.close()
    [pending] = await minted.complete.pending()
    found = intent_of(caught.value)
    assert found is not None
    assert (found.id, found.state, pending.state) == (pending.id, IntentState.UNKNOWN, IntentState.UNKNOWN)


def run_until_interrupted(journal: str, handler: str) -> str:
    """Return a program whose asyncio purchase gets two signals while its journal is locked."""
    return f"""
import asyncio, signal, sqlite3, sys, threading, time
from minted_connect import AsyncMintedConnect, intent_of
from minted_connect.sandbox import ThreadedSandbox

journal = {journal!r}
main_thread = threading.main_thread().ident
seen = []
{handler}

async def main(sandbox):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as minted:
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        hang = sandbox.faults.add("hang", path="*/complete/buy", commit=True)
        threading.Thread(target=stop, args=(hang, asyncio.current_task())).start()
        await minted.complete.buy(basket, expected_total=basket.paid_total)

with ThreadedSandbox() as sandbox:
    try:
        asyncio.run(main(sandbox))
    except BaseException as error:
        intent = intent_of(error)
        [(stored, state)] = sqlite3.connect(journal).execute("SELECT id, state FROM intents")
        print(type(error).__name__, state, intent.id == stored, any(stored in note for note in error.__notes__))
"""


TWICE = """
def stop(hang, task):
    while not hang.waiting:
        time.sleep(0.001)
    lock = sqlite3.connect(journal, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    signal.pthread_kill(main_thread, signal.SIGINT)
    while not task.cancelling():
        time.sleep(0.001)
    time.sleep(0.3)  # the loop waits for the journal, which no event signals
    signal.pthread_kill(main_thread, signal.SIGINT)
    while task.cancelling() < 2:
        time.sleep(0.001)
    lock.execute("ROLLBACK")
    lock.close()
"""
EXIT = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

def stop(hang, task):
    while not hang.waiting:
        time.sleep(0.001)
    # Not in a task of aiohttp that still writes the request: asyncio would log that its exception was not retrieved.
    task.get_loop().call_soon_threadsafe(signal.raise_signal, signal.SIGTERM)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("handler", "line"),
    [
        pytest.param(TWICE, "KeyboardInterrupt unknown True True", id="two Ctrl-C"),
        pytest.param(EXIT, "SystemExit unknown True True", id="a handler that exits"),
    ],
)
def test_asyncio_run_with_signals_raises_with_the_intent(tmp_path: Path, handler: str, line: str) -> None:
    assert run_script(run_until_interrupted(str(tmp_path / "journal.db"), handler)) == [line]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_exception_in_a_hook_keeps_the_intent_pending(kind: type[BaseException]) -> None:
    journal = MemoryJournal()

    def stop(attempt: Attempt) -> None:
        if attempt.operation == "complete.buy":
            raise kind

    async def main(sandbox: ThreadedSandbox) -> None:
        options = Options(on_attempt=stop)
        async with AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal, options=options
        ) as minted:
            await minted.customers.create("customer-1")
            basket = await minted.baskets.add_item("customer-1", sku=GOLD)
            await minted.complete.buy(basket, expected_total=basket.paid_total)

    with ThreadedSandbox() as sandbox, pytest.raises(kind) as caught:
        asyncio.run(main(sandbox))
    [pending] = asyncio.run(journal.pending())
    found = intent_of(caught.value)
    assert found is not None
    assert (found.id, pending.state) == (pending.id, IntentState.UNKNOWN)
    assert pending.id in caught.value.__notes__[0]
