"""`minted buy --from` in processes that are killed, interrupted, started twice, or run on a terminal."""

from __future__ import annotations

import csv
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import GOLD, Minted, Terminal
from tests.support.subprocesses import until

COMPLETE = "/partner/walletable/complete/buy"
BASKET = "/partner/walletable/basket"
COUNT = 6
CUSTOMERS = tuple(f"c-{number}" for number in range(1, COUNT + 1))
ONCE = Counter(dict.fromkeys(CUSTOMERS, 1))
"""Number of orders of each customer, if each reference was bought once."""

Shell = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def customers(sandbox: ThreadedSandbox) -> None:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        for customer in CUSTOMERS:
            client.customers.create(customer)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.csv"
    rows = (f"{one},{GOLD},1,r{one[1:]},9999" for one in CUSTOMERS)
    file.write_text("\n".join(("customer,sku,qty,reference,max_total", *rows, "")), "utf-8")
    return file


@pytest.fixture
def command(plan: Path, tmp_path: Path) -> Callable[..., tuple[object, ...]]:
    """Return a function that gives the arguments of a run."""
    journal = tmp_path / "orders.db"

    def arguments(*more: object) -> tuple[object, ...]:
        new = () if journal.exists() and journal.stat().st_size else ("--new-journal",)
        return ("buy", "--from", plan, "--currency", "AED", "--journal", journal, *new, *more)

    return arguments


Command = Callable[..., tuple[object, ...]]


def outcomes(plan: Path) -> list[str]:
    with plan.with_name("plan.result.csv").open(encoding="utf-8", newline="") as file:
        return [row["outcome"] for row in csv.DictReader(file)]


def orders(sandbox: ThreadedSandbox) -> Counter[str]:
    return Counter(order.external_customer_id for order in sandbox.shop.orders)


def expire_claims(journal: Path) -> None:
    """Move the expiry of all claims into the past, as if the time had passed."""
    with sqlite3.connect(journal) as database:
        database.execute(
            "UPDATE claims SET expires_elapsed = expires_elapsed - 600, "
            "expires_at = strftime('%Y-%m-%dT%H:%M:%f+00:00', expires_at, '-600 seconds')"
        )
    database.close()


def test_killed_plan_continues_and_buys_each_reference_once(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE, commit=True, after=2)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    process.kill()
    process.communicate(timeout=20)
    assert outcomes(plan) == ["bought", "bought"]
    hang.remove()
    result = minted(*command("--yes"))
    assert result.code == 75
    assert outcomes(plan) == ["bought", "bought", "unknown", "bought", "bought", "bought"]
    (hint,) = [line for line in result.err.splitlines() if "minted reconcile" in line]
    assert hint.startswith("minted: r-3: unknown: ")
    arguments = hint.partition("minted reconcile ")[2].split()
    assert minted("reconcile", *arguments).code == 0
    assert minted(*command("--yes")).code == 0
    assert outcomes(plan) == ["bought"] * COUNT
    assert orders(sandbox) == ONCE
    assert len([one for one in sandbox.requests if one.path == COMPLETE]) == COUNT


def test_plan_killed_at_random_moments_buys_nothing_twice(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    random = Random(1)
    journal = plan.parent / "orders.db"
    sandbox.faults.add("delay", path=COMPLETE, seconds=0.02, times=None)
    for _ in range(8):
        process = shell(*command("--yes"))
        last = sandbox.requests.total + random.randint(1, 20)
        until(lambda: sandbox.requests.total >= last or process.poll() is not None)  # noqa: B023 - called in the loop
        process.kill()
        process.communicate(timeout=20)
        if journal.exists():
            expire_claims(journal)
    minted("reconcile", "--journal", journal, "--seconds", "1")
    result = minted(*command("--yes"))
    bought = orders(sandbox)
    assert set(bought.values()) == {1}
    assert Counter(outcomes(plan)) == Counter({"bought": len(bought), "unknown": COUNT - len(bought)})
    assert result.code == (0 if len(bought) == COUNT else 75)


def test_reference_killed_before_it_was_sent_is_free_again_later(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", method="POST", path=BASKET, after=2)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    process.kill()
    process.communicate(timeout=20)
    assert outcomes(plan) == ["bought", "bought"]
    hang.remove()
    result = minted(*command("--yes"))
    assert result.code == 75
    assert re.search(r"minted: r-3: unknown: .*: try again, at the latest in [0-9]+ s\n", result.err)
    assert outcomes(plan) == ["bought", "bought", "unknown", "bought", "bought", "bought"]
    expire_claims(plan.parent / "orders.db")
    assert minted(*command("--yes")).code == 0
    assert orders(sandbox) == ONCE


def test_plan_waits_for_the_claim_of_a_killed_run(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", method="POST", path=BASKET)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    process.kill()
    process.communicate(timeout=20)
    hang.remove()
    waiting = shell(*command("--yes", "--wait", "20"))
    sent = sandbox.requests.total
    until(lambda: sandbox.requests.total >= sent + 2)  # the login and the read before the claim
    expire_claims(plan.parent / "orders.db")
    _, err = waiting.communicate(timeout=40)
    assert waiting.returncode == 0, err
    assert orders(sandbox) == ONCE


def test_plan_started_twice_buys_each_reference_once(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    sandbox.faults.add("delay", path=COMPLETE, seconds=0.05, times=None)
    journal = plan.parent / "orders.db"
    processes = [shell(*command("--yes", "--result", plan.with_name("1.csv")))]
    until(lambda: journal.exists() and journal.stat().st_size)
    processes.append(shell(*command("--yes", "--result", plan.with_name("2.csv"))))
    for process in processes:
        _, err = process.communicate(timeout=40)
        assert process.returncode in {0, 75}, err
    assert minted(*command("--yes")).code == 0
    assert outcomes(plan) == ["bought"] * COUNT
    assert orders(sandbox) == ONCE


def test_plan_started_twice_with_one_result_file_is_refused(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE, after=1)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    second = minted(*command("--yes"))
    assert (second.code, "the plan is running already" in second.err) == (2, True)
    hang.remove()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert outcomes(plan) == ["bought"] * COUNT
    assert orders(sandbox) == ONCE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_sending_records_an_unknown_outcome(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command, number: signal.Signals
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE, commit=True, after=1)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 75
    assert outcomes(plan) == ["bought", "unknown", *["not_started"] * (COUNT - 2)]
    path, note, hint = err.splitlines()
    assert path.endswith("plan.result.csv")
    intent = hint.rpartition(" ")[2]
    assert note.startswith(f"minted: intent {intent} may have been executed")
    assert f"intent {intent} may have been executed" in plan.with_name("plan.result.csv").read_text("utf-8")
    hang.remove()
    assert minted("reconcile", *hint.partition("minted reconcile ")[2].split()).code == 0
    assert minted(*command("--yes")).code == 0
    assert orders(sandbox) == ONCE


def test_signal_before_sending_exits_130(
    minted: Minted, shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", method="GET", path=BASKET)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert outcomes(plan) == ["not_sent", *["not_started"] * (COUNT - 1)]
    hang.remove()
    assert minted(*command("--yes")).code == 0
    assert orders(sandbox) == ONCE


def test_signal_after_an_unknown_outcome_exits_75(
    shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    sandbox.faults.add("drop_after_commit", path=COMPLETE)
    process = shell(*command("--yes"))
    until(lambda: plan.with_name("plan.result.csv").exists() and "unknown" in outcomes(plan))
    hang = sandbox.faults.add("hang", path="*", times=None)
    until(lambda: hang.waiting)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 75


def test_plan_asks_once_and_shows_its_progress(
    terminal: Callable[..., Terminal], sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    buying = terminal(*command())
    buying.expect("at most, in AED")
    buying.expect(rf"Buy {COUNT} references for at most 59994 AED at 127\.0\.0\.1:[0-9]+\? \[y/N\] ")
    assert not sandbox.shop.orders
    buying.type("y\n")
    buying.expect(rf"[1-9]/{COUNT}")
    assert buying.end() == 0
    assert "the outcome of each reference is in" in buying.screen
    assert orders(sandbox) == ONCE


@pytest.mark.parametrize(("typed", "code"), [("n\n", 1), ("\x03", 130)])
def test_plan_that_is_not_confirmed_sends_nothing(
    terminal: Callable[..., Terminal],
    sandbox: ThreadedSandbox,
    plan: Path,
    command: Command,
    typed: str,
    code: int,
) -> None:
    sent = sandbox.requests.total
    buying = terminal(*command())
    buying.expect(r"\[y/N\] ")
    buying.type(typed)
    assert buying.end() == code
    assert sandbox.requests.total == sent
    assert sorted(os.listdir(plan.parent)) == ["plan.csv"]


def test_unreachable_server_ends_the_plan(
    minted: Minted, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    result = minted(*command("--yes", "--base-url", "http://127.0.0.1:1"))
    assert result.code == 3
    assert outcomes(plan) == [*["not_sent"] * 3, *["not_started"] * (COUNT - 3)]
    assert "minted: stopped: the server could not be reached for 3 references in a row" in result.err


def test_closed_output_does_not_end_the_plan(
    shell: Shell, sandbox: ThreadedSandbox, plan: Path, command: Command
) -> None:
    hang = sandbox.faults.add("hang", path=COMPLETE)
    process = shell(*command("--yes"))
    until(lambda: hang.waiting)
    assert process.stdout is not None
    process.stdout.close()
    hang.remove()
    assert process.wait(20) == 0
    assert process.stderr is not None
    process.stderr.close()
    assert outcomes(plan) == ["bought"] * COUNT
    assert orders(sandbox) == ONCE
