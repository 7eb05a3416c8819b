"""The worker thread of an SQLite journal: start, end, forks, and independence of the default executor."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.errors import JournalError
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.journal.worker import WorkerThread
from minted_connect.models import IntentState
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import intent_of
from tests.support.operations import GOLD

pytestmark = pytest.mark.anyio


earlier_threads: set[threading.Thread] = set()
"""Threads of journals that earlier tests of the same process have not closed."""


def journal_threads() -> list[threading.Thread]:
    threads = [thread for thread in threading.enumerate() if thread.name == "minted-journal"]
    return [thread for thread in threads if thread not in earlier_threads]


async def wait_until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def journal(tmp_path: Path) -> SqliteJournal:
    return SqliteJournal(tmp_path / "journal.db")


@pytest.fixture(autouse=True)
def check_no_thread_is_left() -> Iterator[None]:
    earlier_threads.clear()
    gc.collect()
    earlier_threads.update(journal_threads())
    yield
    join_threads()


def join_threads() -> None:
    gc.collect()
    for thread in journal_threads():
        thread.join(10)
    assert journal_threads() == []


async def test_thread_starts_at_first_operation_and_ends_at_close(journal: SqliteJournal) -> None:
    assert journal_threads() == []
    await asyncio.gather(*(journal.prepare(intent_of(id=str(n), cart_token=str(n))) for n in range(20)))
    assert len(journal_threads()) == 1
    await journal.aclose()
    assert journal_threads() == []
    await journal.aclose()
    assert len(await journal.pending()) == 20  # a journal can be used after aclose
    assert len(journal_threads()) == 1
    await journal.aclose()


async def test_thread_ends_with_its_garbage_collected_journal(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.prepare(intent_of())
    reference = weakref.ref(journal)
    del journal
    await wait_until(lambda: reference() is None)
    await wait_until(lambda: not journal_threads())


async def test_closed_client_leaves_no_thread(tmp_path: Path) -> None:
    async with (
        Sandbox() as sandbox,
        AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, journal=tmp_path / "j.db"
        ) as minted,
    ):
        assert await minted.complete.pending() == []
        assert len(journal_threads()) == 1
    assert journal_threads() == []


async def test_aclose_waits_for_running_operations(journal: SqliteJournal) -> None:
    await journal.settle("none", IntentState.UNKNOWN)
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        preparing = asyncio.create_task(journal.prepare(intent_of()))
        await asyncio.sleep(0)
        ending = asyncio.create_task(journal.aclose())
        await asyncio.sleep(0.05)
        assert not ending.done()
        other.execute("ROLLBACK")
    await asyncio.gather(preparing, ending)
    assert await journal.pending() == [intent_of()]
    await journal.aclose()


async def test_exhausted_executor_does_not_block_the_journal(tmp_path: Path) -> None:
    """Every thread of the default executor waits for a purchase, like views of a synchronous framework."""
    loop = asyncio.get_running_loop()
    number = min(32, (os.cpu_count() or 1) + 4)
    async with (
        Sandbox() as sandbox,
        AsyncMintedConnect(
            sandbox.username, sandbox.password, base_url=sandbox.url, journal=tmp_path / "j.db"
        ) as minted,
    ):
        baskets = []
        for customer in (f"customer-{n}" for n in range(number)):
            await minted.customers.create(customer)
            baskets.append(await minted.baskets.add_item(customer, sku=GOLD))

        def view(basket: Any) -> Any:
            work = minted.complete.buy(basket, expected_total=basket.paid_total)
            return asyncio.run_coroutine_threadsafe(work, loop).result(30)

        done = await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(view, one) for one in baskets)), 30)
        assert len(done) == len(sandbox.shop.orders) == number


async def test_journal_works_without_the_default_executor(journal: SqliteJournal) -> None:
    await asyncio.get_running_loop().shutdown_default_executor()
    await journal.prepare(intent_of())
    await journal.aclose()


def test_loops_and_threads_share_one_worker_thread(journal: SqliteJournal) -> None:
    def work(name: str) -> None:
        for number in range(5):
            asyncio.run(journal.prepare(intent_of(id=f"{name}{number}", cart_token=f"{name}{number}")))

    users = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(journal_threads()) == 1
    assert len(asyncio.run(journal.pending())) == 15
    asyncio.run(journal.aclose())


async def test_failed_thread_start_raises_and_queues_nothing(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(JournalError, match="no thread"):
            await journal.prepare(intent_of())
    assert await journal.pending() == []
    await journal.aclose()


def test_loop_closed_before_the_result_is_harmless(journal: SqliteJournal) -> None:
    release = threading.Event()

    async def leave() -> None:
        journal._thread.submit(release.wait)

    asyncio.run(leave())
    release.set()
    asyncio.run(journal.prepare(intent_of()))
    assert asyncio.run(journal.pending()) == [intent_of()]
    asyncio.run(journal.aclose())


async def test_submit_returns_results_and_raises_errors() -> None:
    thread = WorkerThread("minted-journal")

    def fail() -> None:
        raise ZeroDivisionError

    assert await thread.submit(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await thread.submit(fail)
    cancelled = thread.submit(lambda: 6)
    cancelled.cancel()
    assert await thread.submit(lambda: 7) == 7
    await thread.stop()


async def test_queued_operations_share_the_patience(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", patience=0.3)
    await journal.settle("none", IntentState.UNKNOWN)
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        calls = [journal.prepare(intent_of(id=str(n), cart_token=str(n))) for n in range(10)]
        started = asyncio.get_running_loop().time()
        results = await asyncio.gather(*calls, return_exceptions=True)
        elapsed = asyncio.get_running_loop().time() - started
    assert {type(result) for result in results} == {JournalError}
    assert elapsed < 10 * 0.3
    await journal.prepare(intent_of())
    await journal.aclose()


FORKS = """
import asyncio, os, sys, threading
sys.path.insert(0, {root!r})
from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.fakes import intent_of
journal = SqliteJournal(sys.argv[1])
asyncio.run(journal.prepare(intent_of(id="parent", cart_token="parent")))
pid = os.fork()
name = "parent again" if pid else "child"
asyncio.run(journal.prepare(intent_of(id=name, cart_token=name)))
if not pid:
    assert len([one for one in threading.enumerate() if one.name == "minted-journal"]) == 1
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
print(sorted(one.id for one in asyncio.run(journal.pending())))
"""
AT_EXIT = """
import asyncio, atexit, sys
sys.path.insert(0, {root!r})
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.errors import JournalError
from tests.completion.fakes import intent_of
journal = SqliteJournal(sys.argv[1])
asyncio.run(journal.prepare(intent_of()))
def late():
    try:
        print(len(asyncio.run(journal.pending())))
    except JournalError as error:
        print(type(error).__name__)
atexit.register(late)
"""


def run(source: str, path: Path) -> str:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", source.format(root=root), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_starts_another_thread(tmp_path: Path) -> None:
    assert run(FORKS, tmp_path / "journal.db") == "['child', 'parent', 'parent again']\n"


def test_interpreter_exits_with_an_open_journal(tmp_path: Path) -> None:
    assert run(AT_EXIT, tmp_path / "journal.db") in {"1\n", "JournalError\n"}


def test_fork_while_the_lock_is_held_does_not_deadlock(tmp_path: Path) -> None:
    source = """
import asyncio, os, sys, threading
sys.path.insert(0, {root!r})
from minted_connect.journal import worker
from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.fakes import intent_of
with worker._lock:
    pid = os.fork()
if not pid:
    asyncio.run(SqliteJournal(sys.argv[1]).prepare(intent_of()))
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run(source, tmp_path / "journal.db") == "0\n"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_worker_thread_does_not_delay_the_process_exit(tmp_path: Path, signal_number: signal.Signals) -> None:
    source = FORKS.split("pid = os.fork()", 1)[0].format(root=str(Path(__file__).parents[2]))
    process = subprocess.Popen(
        [sys.executable, "-c", f"{source}\nprint('ready', flush=True); sys.stdin.read()", str(tmp_path / "j.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    assert process.returncode == -signal_number
