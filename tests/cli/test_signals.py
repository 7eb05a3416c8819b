"""Signals that interrupt `minted` and `python -m minted_connect`."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minted_connect.cli.process import Interrupted, run_interruptible
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted, process_environment
from tests.support.subprocesses import until

COMPLETE = "/partner/walletable/complete/buy"
BASKET = "/partner/walletable/basket"
Shell = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def minted_with_basket(minted: Minted) -> Minted:
    """Return `minted` for a customer with an open basket."""
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    return minted


def check_intent_hint(err: str) -> str:
    """Check the messages of a purchase that a signal ended, and return the id of its intent."""
    note, hint = err.splitlines()[-2:]
    intent = hint.rpartition(" ")[2]
    assert note == (f"minted: intent {intent} may have been executed: find it in complete.pending() and reconcile it")
    assert hint.startswith("minted: do not repeat it; find out with: minted reconcile --base-url http://127.0.0.1:")
    assert hint.endswith(f".db --intent {intent}")
    return intent


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_after_sending_exits_75_and_names_intent(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox, number: signal.Signals
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE, commit=True)
    process = shell("buy", CUSTOMER, "--yes", "--json")
    until(lambda: hang.waiting)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (75, "")
    intent = check_intent_hint(err)
    hang.remove()
    found = minted_with_basket("reconcile", "--intent", intent, "--json")
    assert (found.code, json.loads(found.out)["state"]) == (0, "confirmed")
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == 1


@pytest.mark.parametrize(("number", "code"), [*zip(SIGNALS, (130, 143, 129), strict=True)])
def test_signal_before_sending_exits_128_plus_number(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox, number: signal.Signals, code: int
) -> None:
    hang = sandbox.faults.add("hang", path=BASKET)
    process = shell("buy", CUSTOMER, "--yes", "--json")
    until(lambda: hang.waiting)
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == code
    assert not [one for one in sandbox.requests if one.path == COMPLETE]


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,) * 2, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
def test_signals_during_locked_journal_keep_intent(
    minted_with_basket: Minted,
    shell: Shell,
    sandbox: ThreadedSandbox,
    tmp_path: Path,
    numbers: tuple[signal.Signals, ...],
) -> None:
    path = tmp_path / "journal.db"
    hang = sandbox.faults.add("hang", path=COMPLETE, commit=True)
    process = shell("buy", CUSTOMER, "--yes", "--json", "--journal", path)
    until(lambda: hang.waiting)
    journal = sqlite3.connect(path, isolation_level=None)
    try:
        journal.execute("BEGIN EXCLUSIVE")
        for number in numbers:
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
        journal.execute("ROLLBACK")
        _, err = process.communicate(timeout=20)
        assert process.returncode == 75
        assert journal.execute("SELECT id, state FROM intents").fetchall() == [(check_intent_hint(err), "unknown")]
    finally:
        journal.close()


def test_inherited_ignored_sighup_stays_ignored(
    minted_with_basket: Minted, sandbox: ThreadedSandbox, environment: dict[str, str]
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE)
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'minted_connect.cli', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "buy", CUSTOMER, "--yes", "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=process_environment(environment),
    )
    until(lambda: hang.waiting)
    process.send_signal(signal.SIGHUP)
    hang.remove()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["order"]["id"]


def test_signal_after_printed_result_keeps_exit_code(
    minted_with_basket: Minted, shell: Shell, sandbox: ThreadedSandbox
) -> None:
    process = shell("buy", CUSTOMER, "--yes", "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert len(sandbox.shop.orders) == 1


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["minted_connect", "minted_connect.cli"])
def test_interrupted_reconciliation_exits_75(
    minted_with_basket: Minted,
    sandbox: ThreadedSandbox,
    environment: dict[str, str],
    tmp_path: Path,
    module: str,
    number: signal.Signals,
) -> None:
    path = str(tmp_path / "journal.db")
    sandbox.faults.add("drop_after_commit", path=COMPLETE)
    assert minted_with_basket("buy", CUSTOMER, "--yes", "--journal", path).code == 75
    hang = sandbox.faults.add("hang", path=BASKET)
    process = subprocess.Popen(
        [sys.executable, "-m", module, "reconcile", "--journal", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=process_environment(environment),
    )
    until(lambda: hang.waiting)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (75, "")
    name = module.removesuffix(".cli") if module == "minted_connect" else "minted"
    assert err == f"{name}: interrupted: run it again to settle what is still open\n"
    hang.remove()
    assert minted_with_basket("reconcile", "--journal", path).code == 0


def test_interrupted_demo_exits_128_plus_number(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "minted_connect", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=process_environment(environment),
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) in {(143, ""), (0, "")}


# --- run_interruptible, in this process --------------------------------------------------------------------------


def test_run_interruptible_restores_signal_handlers() -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:

        async def get_handlers() -> list[object]:
            return [signal.getsignal(number) for number in SIGNALS]

        during = run_interruptible(get_handlers)
        assert during[1] is handler
        assert during[0] is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_coroutine_that_catches_cancellation_returns_result() -> None:
    async def catch_cancellation() -> int:
        signal.raise_signal(signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 42
        return 0

    assert run_interruptible(catch_cancellation) == 42


def test_interrupted_has_first_signal_and_cause() -> None:
    async def wait() -> None:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    with pytest.raises(Interrupted) as caught:
        run_interruptible(wait)
    assert (caught.value.number, caught.value.exit_code) == (signal.SIGHUP, 129)
    assert caught.value.__cause__ is not None


def test_signal_just_before_the_loop_is_closed_leaves_no_open_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    set_event_loop = asyncio.events.set_event_loop

    def interrupt(loop: asyncio.AbstractEventLoop | None) -> None:
        set_event_loop(loop)
        if loop is None:  # `asyncio.run` does this in the step before it closes the loop
            signal.raise_signal(signal.SIGTERM)

    async def main() -> int:
        loops.append(asyncio.get_running_loop())
        monkeypatch.setattr(asyncio.events, "set_event_loop", interrupt)
        return 42

    with pytest.raises(Interrupted):
        run_interruptible(main)
    assert loops[0].is_closed()
