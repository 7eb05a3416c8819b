"""`minted buy --from` with a journal in PostgreSQL, whose URL contains a password."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import GOLD, Minted
from tests.support.postgres import PASSWORD, Cluster, Database, running
from tests.support.subprocesses import until

if TYPE_CHECKING:
    import subprocess

COMPLETE = "/partner/walletable/complete/buy"
CUSTOMERS = ("c-1", "c-2", "c-3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    with cluster.database() as database:
        yield database


def test_journal_creates_no_tables_in_postgres(minted: Minted, database: Database) -> None:
    shown = minted("journal", "--json", "--journal", database.url)
    assert shown.code == 2
    assert shown.err.replace("\n", "").endswith(" has no journal")
    assert PASSWORD not in shown.out + shown.err
    assert database.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'minted_connect%'") == [(0,)]


def test_killed_plan_in_postgres_continues_after_the_hint(
    minted: Minted,
    shell: Callable[..., subprocess.Popen[str]],
    sandbox: ThreadedSandbox,
    database: Database,
    tmp_path: Path,
) -> None:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        for customer in CUSTOMERS:
            client.customers.create(customer)
    plan = tmp_path / "plan.csv"
    rows = [f"{one},{GOLD},1,r{one[1:]},9999" for one in CUSTOMERS]
    plan.write_text("\n".join(("customer,sku,qty,reference,max_total", *rows, "")), "utf-8")
    command = ("buy", "--from", plan, "--currency", "AED", "--yes", "--journal", database.url)
    hang = sandbox.faults.add("hang", path=COMPLETE, commit=True, after=1)
    assert "there is no journal postgresql://" in minted(*command).err
    process = shell(*command, "--new-journal")
    until(lambda: hang.waiting)
    process.kill()
    process.communicate(timeout=20)
    hang.remove()
    assert "leave --new-journal out" in minted(*command, "--new-journal").err
    result = minted(*command)
    assert result.code == 75
    (hint,) = [line for line in result.err.splitlines() if "minted reconcile " in line]
    assert "canary-p" not in result.err
    words = shlex.split(hint.partition("minted reconcile ")[2])
    assert minted("reconcile", *words, env={"PGPASSWORD": PASSWORD}).code == 0
    assert minted(*command).code == 0
    with plan.with_name("plan.result.csv").open(encoding="utf-8", newline="") as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["bought"] * 3
    assert sorted(order.external_customer_id for order in sandbox.shop.orders) == [*CUSTOMERS]
