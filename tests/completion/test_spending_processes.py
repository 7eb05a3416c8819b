"""Three processes with 50 concurrent purchases each, of different customers: the limit of a day is never exceeded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from minted_connect import AsyncMintedConnect
from minted_connect.sandbox import Sandbox
from tests.completion.processes import ROOT, run_together
from tests.support.operations import GOLD
from tests.support.postgres import Database, running

PROCESSES, PURCHASES = 3, 50
PART = Decimal("40.5")
"""Number of single pieces that the limit allows to buy; a half, so that no sum equals the limit by chance."""

WORKER = """
import asyncio, json, sys
from collections import Counter
from decimal import Decimal
from minted_connect import AsyncMintedConnect, CompletionPolicy, Options, SpendingLimit, Timeouts
from minted_connect.errors import LimitExceeded, NotSent
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.journal.sqlite import SqliteJournal

PATIENCE = 40.0

async def main(name, url, username, password, location, limit, sku, count):
    journal = (PostgresJournal if "://" in location else SqliteJournal)(location, patience=PATIENCE)
    options = Options(
        pool_size=100,
        spending=SpendingLimit(currency="AED", per_day=Decimal(limit)),
        completion=CompletionPolicy(orders_lag=0.0),
    )
    timeouts = Timeouts(pool=60.0, connect=60.0, read=60.0, total=90.0, complete_read=90.0, complete_total=90.0)
    outcomes = Counter()
    async with AsyncMintedConnect(
        username, password, base_url=url, journal=journal, options=options, timeouts=timeouts
    ) as minted:
        baskets = []
        for number in range(int(count)):
            customer = f"{name}-{number}"
            await minted.customers.create(customer, firstname="Ada", lastname="Lovelace")
            baskets.append(await minted.baskets.add_item(customer, sku=sku))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

        async def buy(basket):
            try:
                await minted.complete.buy(basket, accept_price="current")
            except LimitExceeded as error:
                assert error.spent <= error.maximum < error.spent + error.amount, error
                outcomes["exceeded"] += 1
            except NotSent as error:
                outcomes[type(error).__name__] += 1
            else:
                outcomes["bought"] += 1

        await asyncio.gather(*map(buy, baskets))
    print(json.dumps(outcomes))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def large_database() -> Iterator[Database]:
    """A database of a server that accepts a connection for each purchase."""
    with running() as cluster:
        cluster.stop()
        cluster.start(max_connections=str(PROCESSES * PURCHASES + 20))
        with cluster.database() as database:
            yield database


def start_worker(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, name, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_limit_of_a_day_holds_over_processes(request: Any, sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    location = str(tmp_path / "j.db") if kind == "sqlite" else request.getfixturevalue("large_database").url
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        await minted.customers.create("price", firstname="Ada", lastname="Lovelace")
        limit = (await minted.baskets.add_item("price", sku=GOLD)).paid_total * PART
    login = (sandbox.url, sandbox.username, sandbox.password, location, str(limit), GOLD, str(PURCHASES))
    workers = [start_worker(f"worker-{number}", *login) for number in range(PROCESSES)]
    try:
        outputs = await anyio.to_thread.run_sync(run_together, workers, 150.0)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    outcomes = sum((Counter(json.loads(output.splitlines()[-1])) for output in outputs), Counter[str]())
    totals = [order.figures.paid_total for order in sandbox.shop.orders]
    total = sum(totals, Decimal(0))
    assert total <= limit
    assert outcomes == {"bought": len(totals), "exceeded": PROCESSES * PURCHASES - len(totals)}
    # It is used as far as possible: one more purchase would exceed it.
    assert total + max(totals) > limit
