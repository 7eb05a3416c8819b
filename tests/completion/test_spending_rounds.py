"""Limits under concurrent purchases of three processes, with unknown outcomes and with orders above their agreed total.

In each round, every process buys for 50 different customers at once, and in the next round for those of another
process. So the limits of a day, of a customer and of a purchase add up over processes.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.sandbox import Sandbox
from tests.completion.processes import ROOT
from tests.support.operations import GOLD
from tests.support.postgres import Database, running

PROCESSES, CUSTOMERS, ROUNDS = 3, 50, 3
PER_PURCHASE, PER_CUSTOMER, PER_DAY = Decimal("2.5"), Decimal("3.5"), Decimal("340.5")
"""Limits in single pieces; halves, so that no sum equals a limit by chance."""
HIGHER = 2
"""Number of orders above their agreed total, and pieces that each costs."""
COMPLETE = "*/complete/*"
ACTIVE = {"prepared", "unknown", "confirmed"}

WORKER = """
import asyncio, json, sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from minted_connect import AsyncMintedConnect, CompletionPolicy, Options, SpendingLimit, Timeouts
from minted_connect.clock import SystemClock
from minted_connect.errors import AlreadyInFlight, LimitExceeded, OutcomeUnknown
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.journal.sqlite import SqliteJournal

class Noon(SystemClock):
    "A clock that does not reach midnight."

    def __init__(self):
        self.began = self.monotonic()

    def wall(self):
        return datetime(2026, 3, 2, 12, tzinfo=UTC) + timedelta(seconds=self.monotonic() - self.began)

async def wait_for_others():
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)

async def main(process, url, username, password, location, limits, sku, rounds, customers, processes):
    process, customers, processes = int(process), int(customers), int(processes)
    journal = (PostgresJournal if "://" in location else SqliteJournal)(location, patience=60.0)
    limit = SpendingLimit(currency="AED", **{name: Decimal(amount) for name, amount in json.loads(limits).items()})
    options = Options(
        pool_size=100, clock=Noon(), spending=limit, completion=CompletionPolicy(orders_lag=0.0, inline_looks=0.0)
    )
    timeouts = Timeouts(pool=60.0, connect=60.0, read=60.0, total=90.0, complete_read=90.0, complete_total=90.0)
    outcomes = Counter()
    async with AsyncMintedConnect(
        username, password, base_url=url, journal=journal, options=options, timeouts=timeouts
    ) as minted:
        for turn in range(int(rounds)):
            whose, baskets = (process + turn) % processes, []
            for number in range(customers):
                # 1 or 2 pieces, then 2, then 1 or 3, which is more than one purchase may have.
                pieces = (1 + number % 2, 2, 3 if number % 10 == 0 else 1)[turn]
                try:
                    baskets.append(await minted.baskets.replace(f"{whose}-{number}", items={sku: pieces}))
                except AlreadyInFlight:  # an earlier purchase of this basket has an unknown outcome
                    outcomes["AlreadyInFlight"] += 1
            await wait_for_others()

            async def buy(basket):
                try:
                    await minted.complete.buy(basket, accept_price="current")
                except LimitExceeded as error:
                    assert (error.spent or 0) <= error.maximum < (error.spent or 0) + error.amount, error
                    outcomes[error.limit] += 1
                except (AlreadyInFlight, OutcomeUnknown) as error:
                    outcomes[type(error).__name__] += 1
                else:
                    outcomes["bought"] += 1

            await asyncio.gather(*map(buy, baskets))
            await wait_for_others()
    print(json.dumps(outcomes))

import logging
logging.getLogger("minted_connect").setLevel(logging.CRITICAL)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def large_database() -> Iterator[Database]:
    """A database of a server that accepts a connection for each purchase."""
    with running() as cluster:
        cluster.stop()
        cluster.start(max_connections=str(PROCESSES * CUSTOMERS + 20))
        with cluster.database() as database:
            yield database


def run_rounds(workers: list[subprocess.Popen[str]]) -> Counter[str]:
    """Let all processes begin each round together, and return their outcomes."""
    # Before and after the purchases of a round: they and changes of the same baskets must not overlap.
    for _ in range(2 * ROUNDS):
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n", worker.communicate(timeout=30)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
    outputs = [worker.communicate(timeout=150) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), outputs
    return sum((Counter(json.loads(output.splitlines()[-1])) for output, _ in outputs), Counter[str]())


def start_worker(*arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", WORKER, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def counted(location: str, database: Database | None) -> list[tuple[str, Decimal]]:
    """Return customer and amount of each open or confirmed intent, read from the tables themselves."""
    query = "SELECT external_customer_id, state, paid_total, progress FROM "
    if database is not None:
        rows = database.execute(f"{query} minted_connect_intents")
    else:
        with closing(sqlite3.connect(location)) as file:
            rows = file.execute(f"{query} intents").fetchall()
    found: list[tuple[str, Decimal]] = []
    for customer, state, paid_total, progress in rows:
        total = json.loads(progress or "{}").get("paid_total")
        if state in ACTIVE:
            found.append((customer, max(Decimal(paid_total), Decimal(total or 0))))
    return found


def check(amounts: list[tuple[str, Decimal]], price: Decimal) -> Decimal:
    """Check the limits of all and of each customer; return the sum."""
    by_customer: defaultdict[str, Decimal] = defaultdict(Decimal)
    for customer, amount in amounts:
        by_customer[customer] += amount
    assert max(by_customer.values()) <= price * PER_CUSTOMER
    total = sum(by_customer.values(), Decimal(0))
    assert total <= price * PER_DAY
    return total


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_limits_hold_with_unknown_outcomes(request: Any, sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    database: Database | None = request.getfixturevalue("large_database") if kind == "postgres" else None
    location = str(tmp_path / "j.db") if database is None else database.url
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        names = [f"{process}-{number}" for process in range(PROCESSES) for number in range(CUSTOMERS)]
        for customer in ("price", *names):
            await minted.customers.create(customer, firstname="Ada", lastname="Lovelace")
        price = (await minted.baskets.add_item("price", sku=GOLD)).paid_total
    limits = {"per_purchase": PER_PURCHASE, "per_customer_per_day": PER_CUSTOMER, "per_day": PER_DAY}
    amounts = json.dumps({name: str(price * pieces) for name, pieces in limits.items()})
    login = (sandbox.url, sandbox.username, sandbox.password, location, amounts, GOLD)
    for after in range(10, 150, 8):
        sandbox.faults.add("drop_after_commit", path=COMPLETE, after=after, times=1)
        sandbox.faults.add("drop_before_read", path=COMPLETE, after=after + 4, times=1)
    for number in range(HIGHER):
        value = int(price * HIGHER)
        sandbox.faults.add("extra_field", path=COMPLETE, field="paid_total", value=value, after=number, times=1)
    counts = (str(ROUNDS), str(CUSTOMERS), str(PROCESSES))
    workers = [start_worker(str(number), *login, *counts) for number in range(PROCESSES)]
    try:
        outcomes = await anyio.to_thread.run_sync(run_rounds, workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert outcomes.total() == PROCESSES * CUSTOMERS * ROUNDS
    spent = check(counted(location, database), price)
    ordered = check([(one.external_customer_id, one.figures.paid_total) for one in sandbox.shop.orders], price)
    # Every limit was reached, and that of the day was used as far as possible.
    assert {"per_purchase", "per_customer_per_day", "per_day", "OutcomeUnknown"} <= outcomes.keys()
    assert spent + price * Decimal("1.1") > price * PER_DAY
    # Purchases without an order count while their outcome is unknown, and orders as far as they exceed what was agreed.
    assert spent > ordered + price * HIGHER
