"""Closing and interrupting a blocking client during a purchase, repeatedly and in any order."""

from __future__ import annotations

import asyncio
import gc
import signal
import sqlite3
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from minted_connect import ClientClosedError, MintedConnect, intent_of
from minted_connect.blocking import loop_thread
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Basket, Completion, Intent
from minted_connect.sandbox import ThreadedSandbox
from minted_connect.sandbox.active_faults import Fault
from tests.support.operations import GOLD

from .conftest import TIMEOUT
from .test_client import wait_until

BUY = "*/complete/buy"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox() as sandbox:
        yield sandbox


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def minted(sandbox: ThreadedSandbox, journal: Path) -> Iterator[MintedConnect]:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal) as minted:
        minted.customers.create("customer-1")
        yield minted


@pytest.fixture
def basket(minted: MintedConnect) -> Basket:
    return minted.baskets.add_item("customer-1", sku=GOLD)


@pytest.fixture
def hang(sandbox: ThreadedSandbox) -> Fault:
    return sandbox.faults.add("hang", path=BUY, commit=True)


@pytest.fixture
def buying(minted: MintedConnect, basket: Basket, hang: Fault) -> Iterator[Future[Completion]]:
    """Start a purchase in another thread, and wait until the server has received its request."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(minted.complete.buy, basket, expected_total=basket.paid_total)
        wait_until(lambda: hang.waiting)
        yield future


def intent_states(journal: Path) -> list[tuple[str, str]]:
    database = sqlite3.connect(journal)
    try:
        return database.execute("SELECT id, state FROM intents").fetchall()
    finally:
        database.close()


def check_intent_note(error: BaseException, journal: Path, state: str = "unknown") -> None:
    """Check that an exception names the only intent of the journal, which has this state."""
    [(intent, found)] = intent_states(journal)
    assert found == state
    named = intent_of(error)
    assert named is not None
    assert named.id == intent
    assert [note for note in error.__notes__ if intent in note] == [
        f"intent {intent} may have been executed: find it in complete.pending() and reconcile it"
    ]


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.requirement(50)
def test_concurrent_closes_return_when_the_client_is_closed(
    minted: MintedConnect, buying: Future[Completion], journal: Path, threads: int
) -> None:
    gate = threading.Barrier(threads)

    def close(_: int) -> bool:
        gate.wait(TIMEOUT)
        minted.close()
        return minted._loop_thread._worker.is_alive()  # type: ignore[union-attr]

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(close, range(threads))) == [False] * threads
    error = buying.exception(TIMEOUT)
    assert isinstance(error, ClientClosedError)
    check_intent_note(error, journal)
    assert not minted._inner._api.state.transport.is_open


@pytest.mark.requirement(50)
def test_close_during_another_close_waits_for_its_end(
    minted: MintedConnect, buying: Future[Completion], journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, proceed = threading.Event(), threading.Event()
    worker = minted._loop_thread._worker
    assert worker is not None
    shutdown = worker._shutdown

    async def slow_shutdown() -> None:
        closing.set()
        proceed.wait(TIMEOUT)
        await shutdown()

    monkeypatch.setattr(worker, "_shutdown", slow_shutdown)
    with ThreadPoolExecutor(4) as pool:
        closing_calls = [pool.submit(minted.close)]
        assert closing.wait(TIMEOUT)
        closing_calls += [pool.submit(minted.close) for _ in range(3)]
        assert not any(closing_call.done() for closing_call in closing_calls)
        proceed.set()
        for closing_call in closing_calls:
            closing_call.result(TIMEOUT)
    error = buying.exception(TIMEOUT)
    assert error is not None
    check_intent_note(error, journal)


def test_concurrent_closes_leave_no_resource_open(minted: MintedConnect, buying: Future[Completion]) -> None:
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(3) as pool:
        warnings.simplefilter("always")
        for closing_call in [pool.submit(minted.close) for _ in range(3)]:
            closing_call.result(TIMEOUT)
        assert buying.exception(TIMEOUT) is not None
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_close_during_preflight_read_sends_no_purchase(
    sandbox: ThreadedSandbox, minted: MintedConnect, basket: Basket, journal: Path
) -> None:
    hang = sandbox.faults.add("hang", path="*/walletable/basket")
    with ThreadPoolExecutor(3) as pool:
        buying = pool.submit(minted.complete.buy, basket, expected_total=basket.paid_total)
        wait_until(lambda: hang.waiting)
        for closing_call in [pool.submit(minted.close) for _ in range(2)]:
            closing_call.result(TIMEOUT)
        error = buying.exception(TIMEOUT)
    assert isinstance(error, ClientClosedError)
    assert intent_of(error) is None
    assert not journal.exists() or intent_states(journal) == []


def test_close_with_locked_journal_writes_it_after_the_lock(
    minted: MintedConnect, buying: Future[Completion], journal: Path
) -> None:
    lock = sqlite3.connect(journal, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with ThreadPoolExecutor(2) as pool:
        closing_calls = [pool.submit(minted.close) for _ in range(2)]
        wait_until(lambda: minted._loop_thread._worker.closing)  # type: ignore[union-attr]
        lock.execute("ROLLBACK")
        lock.close()
        for closing_call in closing_calls:
            closing_call.result(TIMEOUT)
    error = buying.exception(TIMEOUT)
    assert error is not None
    check_intent_note(error, journal)


def test_call_that_exceeds_cancel_timeout_names_its_intent(
    minted: MintedConnect, buying: Future[Completion], journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_thread, "CANCEL_TIMEOUT", 0.2)
    lock = sqlite3.connect(journal, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with suppress(TimeoutError):  # the journal may take longer to close than this timeout
        minted.close()
    error = buying.exception(TIMEOUT)
    lock.execute("ROLLBACK")
    lock.close()
    assert isinstance(error, ClientClosedError)
    # The loop ends before the lock is released, so the record may stay `prepared`, which is pending.
    [(intent, state)] = intent_states(journal)
    named = intent_of(error)
    assert named is not None
    assert (named.id, state in {"prepared", "unknown"}) == (intent, True)


def test_close_in_a_finalizer_names_the_intent(
    minted: MintedConnect, buying: Future[Completion], journal: Path
) -> None:
    class Owner:
        pass

    owner = Owner()
    weakref.finalize(owner, minted.close)
    del owner
    gc.collect()
    error = buying.exception(TIMEOUT)
    assert error is not None
    check_intent_note(error, journal)


def test_close_of_derived_client_ends_no_call(minted: MintedConnect, buying: Future[Completion], hang: Fault) -> None:
    minted.with_options(language="en").close()
    hang.remove()
    assert buying.result(TIMEOUT).order is not None


@posix
@pytest.mark.parametrize("signals", [1, 2, 3])
def test_close_in_signal_handlers_names_the_intent(
    minted: MintedConnect, basket: Basket, hang: Fault, journal: Path, signals: int
) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def send_signals() -> None:
        wait_until(lambda: hang.waiting)
        for _ in range(signals):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: minted.close())
    try:
        with ThreadPoolExecutor(1) as pool:
            signalled = pool.submit(send_signals)
            with pytest.raises(ClientClosedError) as caught:
                minted.complete.buy(basket, expected_total=basket.paid_total)
            signalled.result(TIMEOUT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    check_intent_note(caught.value, journal)


@posix
@pytest.mark.parametrize("presses", [1, 2, 3])
@pytest.mark.requirement(50)
def test_last_of_several_ctrl_c_names_the_intent(
    sandbox: ThreadedSandbox, basket: Basket, hang: Fault, journal: Path, presses: int
) -> None:
    """The first cancels the purchase, the second the wait for its end, the third the closing of the client."""
    main = threading.main_thread().ident
    assert main is not None
    minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal)
    lock = sqlite3.connect(journal, isolation_level=None, check_same_thread=False)

    def cancelled() -> bool:
        worker = minted._loop_thread._worker
        assert worker is not None
        return any(call.task is not None and call.task.cancelling() for call in [*worker.calls])

    conditions: list[Callable[[], object]] = [lambda: hang.waiting, cancelled, lambda: minted._loop_thread._closed]

    def press_ctrl_c() -> None:
        for count, condition in enumerate(conditions[:presses]):
            wait_until(condition)
            if not count and presses > 1:
                lock.execute("BEGIN EXCLUSIVE")
            signal.pthread_kill(main, signal.SIGINT)
        if presses == 2:
            wait_until(conditions[2])
        if lock.in_transaction:
            lock.execute("ROLLBACK")

    with ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt) as caught, minted:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        pressed.result(TIMEOUT)
    lock.close()
    minted.close()
    check_intent_note(caught.value, journal)


@posix
def test_ctrl_c_before_the_intent_is_sent_names_no_intent(
    sandbox: ThreadedSandbox, basket: Basket, journal: Path
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    writing, proceed = threading.Event(), threading.Event()

    class SlowJournal(MemoryJournal):
        async def prepare(self, intent: Intent) -> None:
            writing.set()
            await asyncio.to_thread(proceed.wait, TIMEOUT)
            await super().prepare(intent)

    minted = MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=SlowJournal())

    def press_ctrl_c() -> None:
        assert writing.wait(TIMEOUT)
        for _ in range(2):
            signal.pthread_kill(main, signal.SIGINT)
            wait_until(lambda: [call for call in minted._loop_thread._worker.calls if call.task.cancelling()])  # type: ignore[union-attr]
        wait_until(lambda: minted._loop_thread._closed)
        proceed.set()

    with ThreadPoolExecutor(1) as pool:
        pressed = pool.submit(press_ctrl_c)
        with pytest.raises(KeyboardInterrupt) as caught, minted:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        pressed.result(TIMEOUT)
    assert intent_of(caught.value) is None
    assert not sandbox.shop.orders


@posix
def test_close_in_nested_signal_handlers_during_exit(
    minted: MintedConnect, buying: Future[Completion], journal: Path
) -> None:
    main = threading.main_thread().ident
    assert main is not None
    handled: list[int] = []
    lock = sqlite3.connect(journal, isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")

    def handle(number: int, _: object) -> None:
        handled.append(number)
        if number == signal.SIGUSR1:
            signal.raise_signal(signal.SIGUSR2)  # a handler that interrupts a handler
        minted.close()

    def send_signals() -> None:
        wait_until(lambda: minted._loop_thread._closed)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait_until(lambda: len(handled) == 2)
        lock.execute("ROLLBACK")

    before = [(number, signal.signal(number, handle)) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    try:
        with ThreadPoolExecutor(1) as pool:
            signalled = pool.submit(send_signals)
            with minted:
                pass
            signalled.result(TIMEOUT)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    lock.close()
    assert sorted(handled) == [signal.SIGUSR1, signal.SIGUSR2]
    assert not minted._loop_thread._worker.is_alive()  # type: ignore[union-attr]
    error = buying.exception(TIMEOUT)
    assert error is not None
    check_intent_note(error, journal)


@posix
def test_sys_exit_in_sigterm_handler_names_the_intent(
    minted: MintedConnect, basket: Basket, hang: Fault, journal: Path
) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def send_signals() -> None:
        wait_until(lambda: hang.waiting)
        signal.pthread_kill(main, signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with ThreadPoolExecutor(1) as pool:
            signalled = pool.submit(send_signals)
            with pytest.raises(SystemExit) as caught:
                minted.complete.buy(basket, expected_total=basket.paid_total)
            signalled.result(TIMEOUT)
    finally:
        signal.signal(signal.SIGTERM, before)
    check_intent_note(caught.value, journal)


def test_close_of_unused_client_at_interpreter_exit(run_script: Callable[..., tuple[int, str, str]]) -> None:
    source = """
import atexit
from minted_connect import MintedConnect

minted = MintedConnect("user", "password", base_url="http://127.0.0.1:1")

class Owner:
    def __del__(self):
        minted.close()
        print("closed", flush=True)

owner = Owner()
atexit.register(minted.close)
"""
    assert run_script(source) == (0, "closed\n", "")


@posix
def test_close_in_forked_child_leaves_the_parent_open(run_script: Callable[..., tuple[int, str, str]]) -> None:
    source = """
import os, threading
from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox

with ThreadedSandbox() as sandbox, MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
    minted.customers.create("customer-1")
    basket = minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    hang = sandbox.faults.add("hang", path="*/complete/buy")
    done = []
    buying = threading.Thread(
        target=lambda: done.append(minted.complete.buy(basket, expected_total=basket.paid_total))
    )
    buying.start()
    while not hang.waiting:
        pass
    child = os.fork()
    if not child:
        minted.close()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    hang.remove()
    buying.join()
    print(done[0].order is not None)
"""
    assert run_script(source) == (0, "0\nTrue\n", "")
