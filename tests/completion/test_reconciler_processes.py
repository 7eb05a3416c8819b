"""`reconcile --watch` in several processes of one journal: one is active, and another replaces one that is killed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from minted_connect import MintedConnect, OutcomeUnknown
from minted_connect.journal import open_journal
from minted_connect.models import IntentState
from minted_connect.sandbox import ThreadedSandbox
from tests.completion.reconcilers import find_lease
from tests.completion.watchers import Watcher, start_watcher
from tests.support.operations import GOLD
from tests.support.subprocesses import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]

QUICK = ("--lease", "4", "--interval", "0.2")
Start = Callable[..., Watcher]


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture
def buyer(sandbox: ThreadedSandbox, journal_location: str) -> Iterator[MintedConnect]:
    """A client of the journal, which has created it."""
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=journal_location) as minted:
        lose_response(minted, sandbox, "customer-0")
        yield minted


@pytest.fixture
def start(sandbox: ThreadedSandbox, journal_location: str) -> Iterator[Start]:
    watchers: list[Watcher] = []

    def run(*options: str, **environment: str) -> Watcher:
        watchers.append(start_watcher(sandbox, journal_location, *(options or QUICK), **environment))
        return watchers[-1]

    yield run
    for watcher in watchers:
        if watcher.process.stdout is not None and not watcher.process.stdout.closed:
            watcher.end(signal.SIGKILL)


def lose_response(minted: MintedConnect, sandbox: ThreadedSandbox, customer: str) -> str:
    """Buy for a customer, lose the response, and return the id of the intent."""
    minted.customers.create(customer)
    basket = minted.baskets.add_item(customer, sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*", times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        minted.complete.buy(basket, expected_total=basket.paid_total)
    return unknown.value.intent.id


def sent(sandbox: ThreadedSandbox) -> int:
    return len([one for one in sandbox.requests if "/complete/" in one.path])


async def lease_of(minted: MintedConnect, location: str) -> float:
    """Return the seconds that are left of the lease."""
    journal = open_journal(location)
    lease = await find_lease(minted._inner, journal)
    await journal.aclose()
    assert lease is not None
    return lease.seconds


@pytest.mark.requirement(16)
async def test_killed_process_is_replaced(
    sandbox: ThreadedSandbox, buyer: MintedConnect, start: Start, journal_location: str
):
    active = start()
    active.wait_for_state("active")
    active.wait_for(lambda line: line.get("state") == "confirmed")
    waiting = start()
    waiting.wait_for_state("standing_by")
    active.wait_for_intent(lose_response(buyer, sandbox, "customer-1"))
    active.process.kill()
    assert active.process.wait(20) == -signal.SIGKILL
    intent = lose_response(buyer, sandbox, "customer-2")
    waiting.wait_for_state("active")
    assert waiting.wait_for_intent(intent)["state"] == "confirmed"
    assert [line["reconciler"] for line in waiting.lines if "reconciler" in line] == ["standing_by", "active"]
    assert buyer.complete.pending() == []
    assert waiting.end() == (0, "")
    assert await lease_of(buyer, journal_location) == 0
    # The lease was released: the next process need not wait.
    start("--lease", "3600").wait_for_state("active")
    assert sent(sandbox) == len(sandbox.shop.orders) == 3


@pytest.mark.requirement(16)
async def test_stopped_process_notices_the_loss_of_its_lease(
    sandbox: ThreadedSandbox, buyer: MintedConnect, start: Start
):
    active = start()
    active.wait_for(lambda line: line.get("state") == "confirmed")
    waiting = start()
    waiting.wait_for_state("standing_by")
    hang = sandbox.faults.add("hang", path="*/orders*", times=1)
    intent = lose_response(buyer, sandbox, "customer-1")
    until(lambda: hang.waiting)
    active.process.send_signal(signal.SIGSTOP)
    waiting.wait_for_state("active")
    assert waiting.wait_for_intent(intent)["state"] == "confirmed"
    stored = buyer.complete.intent(intent_id=intent)
    hang.remove()
    active.process.send_signal(signal.SIGCONT)
    active.wait_for_state("standing_by")
    assert buyer.complete.intent(intent_id=intent) == stored
    assert stored is not None
    assert stored.state == IntentState.CONFIRMED
    later = lose_response(buyer, sandbox, "customer-2")
    assert waiting.wait_for_intent(later)["state"] == "confirmed"
    for watcher in (active, waiting):
        code, err = watcher.end()
        assert (code, "Traceback" in err) == (0, False)
    assert sent(sandbox) == len(sandbox.shop.orders) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", ["active", "standing_by", "backing_off", "round"])
async def test_signal_ends_it_with_0_and_releases_the_lease(
    sandbox: ThreadedSandbox, buyer: MintedConnect, start: Start, journal_location: str, at: str, number: signal.Signals
):
    environment, hang = {}, None
    if at == "standing_by":
        other = start()
        other.wait_for_state("active")
    elif at == "backing_off":
        environment = {"MINTED_CONNECT_PASSWORD": "another"}
    elif at == "round":
        hang = sandbox.faults.add("hang", path="*/orders*", times=1)
    watcher = start(*QUICK, **environment)
    line = watcher.wait_for_state("active" if at == "round" else at)
    assert ("AuthenticationFailed" in str(line["error"])) == (at == "backing_off")
    if hang is not None:
        until(lambda: hang.waiting)
    code, err = watcher.end(number)
    assert code == 0
    assert "Traceback" not in err
    if at == "standing_by":
        assert other.process.poll() is None
    else:
        assert await lease_of(buyer, journal_location) == 0
    assert sent(sandbox) == 1


def test_lines_contain_no_customer(sandbox: ThreadedSandbox, buyer: MintedConnect, start: Start):
    watcher = start()
    line = watcher.wait_for(lambda one: one.get("state") == "confirmed")
    assert "customer-0" not in str(line)
    assert watcher.lines[0] == {"reconciler": "active", "error": None, "next_round_at": None}


def options_of(name: str, location: str) -> tuple[list[str], str]:
    cases: dict[str, tuple[list[str], str]] = {
        "no file": (["--journal", f"{location}-missing"], "journal: there is no file"),
        "no user": ([], "MINTED_CONNECT_USERNAME"),
        "interval": (["--interval", "-1"], "interval"),
        "lease": (["--lease", "0.2"], "lease"),
        "list": (["--list"], "watch: takes no --intent"),
    }
    return cases[name]


@pytest.mark.parametrize("name", ["no file", "no user", "interval", "lease", "list"])
@pytest.mark.parametrize("module", ["minted_connect", "minted_connect.cli"])
def test_error_at_the_start_is_exit_code_2(sandbox: ThreadedSandbox, tmp_path: Any, module: str, name: str):
    location = str(tmp_path / "journal.db")
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, journal=location) as minted:
        lose_response(minted, sandbox, "customer-1")
    options, text = options_of(name, location)
    environment = {"MINTED_CONNECT_USERNAME": ""} if name == "no user" else {}
    watcher = start_watcher(sandbox, location, *options, module=module, HOME=str(tmp_path), **environment)
    code, err = watcher.wait()
    assert (code, watcher.rest()) == (2, [])
    assert text in err or (name == "no user" and "username" in err)
    assert len([one for one in sandbox.requests if "/orders" in one.path]) == 0
