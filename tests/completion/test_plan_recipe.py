"""The program of the guide "Plans and batches": killed at any step, or started twice, it buys each reference once."""

from __future__ import annotations

import csv
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.snippets import RECIPES
from tests.support.operations import GOLD, SILVER
from tests.support.subprocesses import until

CUSTOMERS = ("customer-1", "customer-2", "customer-3")
MAX_LINES = 25
STEPS = {
    "first read": ("GET", "*/basket", False),
    "fill": ("POST", "*/basket", False),
    "filled": ("POST", "*/basket", True),
    "completed": ("POST", "*/complete/*", True),
}
"""A request of the second purchase, and whether the server executes it before the kill."""


class Plan:
    """A folder with a plan and a journal, and a sandbox of another thread."""

    def __init__(self, folder: Path, server: ThreadedSandbox) -> None:
        self.folder, self.server = folder, server
        with MintedConnect(server.username, server.password, base_url=server.url) as minted:
            for customer in CUSTOMERS:
                minted.customers.create(customer, firstname="Brant", lastname="Ankunding")
        with (folder / "plan.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("customer", "sku", "qty", "reference", "max_total"))
            rows.writerows((one, GOLD, 1, f"2026-11/{one}", "1500.00") for one in CUSTOMERS)

    def start(self) -> subprocess.Popen[str]:
        env = {
            **os.environ,
            "MINTED_CONNECT_USERNAME": self.server.username,
            "MINTED_CONNECT_PASSWORD": self.server.password,
            "MINTED_CONNECT_BASE_URL": self.server.url,
            "MINTED_CONNECT_JOURNAL": "plan.db",
        }
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", dict(RECIPES)["plan"]]
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=subprocess.PIPE, text=True)

    def end_claims(self) -> None:
        """Let the time of all claims pass."""
        with closing(sqlite3.connect(self.folder / "plan.db")) as database, database:
            database.execute("UPDATE claims SET expires_elapsed = expires_elapsed - 1000, expires_at = '2026-01-01'")

    def orders(self) -> Counter[str]:
        """Return the number of orders of each customer."""
        return Counter(order.external_customer_id for order in self.server.shop.orders)


@pytest.fixture
def plan(tmp_path: Path):
    with ThreadedSandbox(seed=1) as server:
        yield Plan(tmp_path, server)


def test_program_is_short():
    assert len([line for line in dict(RECIPES)["plan"].splitlines() if line]) <= MAX_LINES


@pytest.mark.requirement(47)
@pytest.mark.parametrize("step", STEPS)
def test_killed_program_buys_each_reference_once(plan: Plan, step: str):
    method, path, commit = STEPS[step]
    # The first purchase passes; the second one is killed while its request hangs.
    skipped = 2 if method == "GET" else 1
    fault = plan.server.faults.add("hang", method=method, path=path, after=skipped, commit=commit)
    with plan.start() as program:
        until(lambda: fault.waiting)
        program.kill()
    fault.remove()
    plan.end_claims()
    with plan.start() as program:
        out, _ = program.communicate(timeout=50)
    assert (program.returncode, out.count(": order ")) == (0, 3), out
    assert plan.orders() == dict.fromkeys(CUSTOMERS, 1)


@pytest.mark.requirement(47)
def test_program_started_three_times_at_once_buys_each_reference_once(plan: Plan):
    programs = [plan.start() for _ in range(3)]
    outputs = [program.communicate(timeout=50)[0] for program in programs]
    assert plan.orders() == dict.fromkeys(CUSTOMERS, 1)
    for program, out in zip(programs, outputs, strict=True):
        assert (program.returncode, out.count(": order ")) == (0, 3), out
    assert len({tuple(sorted(out.splitlines())) for out in outputs}) == 1


@pytest.mark.requirement(47)
def test_changed_plan_is_not_bought_again(plan: Plan):
    with plan.start() as program:
        assert program.communicate(timeout=50)[0].count(": order ") == 3
    file = plan.folder / "plan.csv"
    file.write_text(file.read_text().replace(GOLD, SILVER))
    with plan.start() as program:
        out, _ = program.communicate(timeout=50)
    assert out.count("was used before with other terms") == 3, out
    assert plan.orders() == dict.fromkeys(CUSTOMERS, 1)
