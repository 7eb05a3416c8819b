"""`minted audit --import` and `minted journal --assign`: after a journal was restored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from minted_connect.cli.audit_import import read_references
from minted_connect.cli.result_file import Outcome, ResultFile, ResultRow
from minted_connect.errors import ConfigurationError
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted

ITEMS = ("--max-total", "100000", "--currency", "AED", "--yes")


def buy(minted: Minted, journal: Path, reference: str, qty: int = 1) -> int:
    arguments = ("--items", f"{GOLD}={qty}", *ITEMS, "--reference", reference)
    return minted("buy", CUSTOMER, *arguments, "--journal", journal).code


@pytest.fixture
def restored(minted: Minted, tmp_path: Path) -> Path:
    """A backup without the last two purchases, `second` and `third`."""
    minted("customer", "create", CUSTOMER)
    lost, file = tmp_path / "lost.db", tmp_path / "j.db"
    assert buy(minted, lost, "first") == 0
    assert minted("journal", "--journal", lost, "--backup", file).code == 0
    assert [buy(minted, lost, name, qty) for name, qty in (("second", 2), ("third", 3))] == [0, 0]
    return file


@pytest.mark.requirement(47)
def test_import_and_assignments_end_the_restore(minted: Minted, sandbox: ThreadedSandbox, restored: Path) -> None:
    assert buy(minted, restored, "second", 2) == 4
    shown = minted("audit", "--import", "--journal", restored, "--wait", 0)
    assert shown.code == 0
    assert (
        "2 orders stored, 0 intents confirmed, 1 known, the mark of the backup is removed, 2 orders block" in shown.err
    )
    assert CUSTOMER not in shown.out + shown.err
    numbers = [order.id for order in sandbox.shop.orders]
    rows = [line.split("\t") for line in shown.out.splitlines()[1:]]
    assert [(int(row[0]), row[3]) for row in rows] == [(numbers[1], f"{GOLD}=2"), (numbers[2], f"{GOLD}=3")]
    assert buy(minted, restored, "second", 2) == 4
    assert len(sandbox.shop.orders) == 3
    assert minted("journal", "--journal", restored, "--assign", rows[0][-1], "second").code == 0
    assert minted("journal", "--journal", restored, "--assign", rows[1][-1], "-").code == 0
    assert minted("journal", "--journal", restored, "--assign", rows[0][-1], "other").code == 2
    assert buy(minted, restored, "second", 2) == 0
    assert len(sandbox.shop.orders) == 3
    assert buy(minted, restored, "third", 3) == 0
    assert len(sandbox.shop.orders) == 4
    assert minted("audit", "--journal", restored).code == 0
    assert minted("audit", "--import", "--journal", restored).code == 2


def test_import_assigns_references_of_a_result_file(
    minted: Minted, sandbox: ThreadedSandbox, restored: Path, tmp_path: Path
) -> None:
    numbers = [str(order.id) for order in sandbox.shop.orders]
    with ResultFile.create(tmp_path / "results.csv") as results:
        for name, number in zip(("first", "second", "=third"), numbers, strict=True):
            results.append(ResultRow(name, CUSTOMER, Outcome.BOUGHT, number))
        results.append(ResultRow("fourth", CUSTOMER, Outcome.NOT_SENT))
    options = ("--references", tmp_path / "results.csv", "--wait", 0, "--json")
    shown = minted("audit", "--import", "--journal", restored, *options)
    document = json.loads(shown.out)
    assert (shown.code, document["stored"], document["assigned"], document["problems"]) == (0, 2, 2, [])
    assert (document["unassigned"], document["is_complete"]) == ([], True)
    references = [row["reference"] for row in json.loads(minted("journal", "--journal", restored, "--json").out)]
    assert references == ["first", "second", "=third"]


def test_plan_goes_on_after_a_reference_that_is_not_decided(
    minted: Minted, sandbox: ThreadedSandbox, restored: Path, tmp_path: Path
) -> None:
    assert minted("audit", "--import", "--journal", restored, "--wait", 0).code == 0
    rows = (f"{CUSTOMER},{GOLD},{qty},{name},99999" for name, qty in (("first", 1), ("second", 2), ("new", 7)))
    (tmp_path / "plan.csv").write_text("\n".join(("customer,sku,qty,reference,max_total", *rows, "")))
    shown = minted("buy", "--from", tmp_path / "plan.csv", "--currency", "AED", "--yes", "--journal", restored)
    assert shown.code == 3
    assert f"second: not_sent: order {sandbox.shop.orders[1].id} was taken over" in shown.err.replace("\n", " ")
    with (tmp_path / "plan.result.csv").open(newline="") as file:
        outcomes = [(row["reference"], row["outcome"]) for row in csv.DictReader(file)]
    assert outcomes == [("first", "bought"), ("second", "not_sent"), ("new", "bought")]
    assert len(sandbox.shop.orders) == 4


def test_import_that_cannot_read_exits_4(minted: Minted, restored: Path) -> None:
    wrong = {"MINTED_CONNECT_PASSWORD": "wrong"}
    shown = minted("audit", "--import", "--journal", restored, "--wait", 0, env=wrong)
    assert shown.code == 4
    assert "could not be read: orders" in shown.err
    assert "the journal stays marked" in shown.err
    assert buy(minted, restored, "second", 2) == 4


@pytest.mark.parametrize(
    "options",
    [
        ("--import", "--day", "2026-01-01"),
        ("--import", "--customer", "x"),
        ("--import", "--save", "x.json"),
        ("--import", "--journal", "second.db"),
        ("--import", "--start", "2999-01-01"),
        ("--import", "--wait", "-1"),
        ("--wait", "1"),
        ("--references", "x.csv"),
        ("--import", "--references", "absent.csv"),
    ],
    ids="_".join,
)
def test_options_that_do_not_fit_are_refused(minted: Minted, restored: Path, options: tuple[str, ...]) -> None:
    shown = minted("audit", "--journal", restored, *options)
    assert shown.code == 2, shown
    assert buy(minted, restored, "second", 2) == 4


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "reference,customer,order\nr,c,x\n", "reference,customer\nr,c\n"])
def test_other_files_are_no_result_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ConfigurationError, match=r"line 2 of .* is not one of a result file"):
        read_references(tmp_path / "x.csv")


def test_import_changes_nothing_with_a_read_only_profile(
    minted: Minted, sandbox: ThreadedSandbox, restored: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config" / "minted-connect" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.touch(0o600)
    config.write_text(
        f'[profiles.viewer]\nread_only = true\nbase_url = "{sandbox.url}"\nusername = "{sandbox.username}"\n'
    )
    options = ("--profile", "viewer", "--password-stdin", "--journal", restored)
    shown = minted("audit", "--import", *options, stdin="secret\n")
    assert (shown.code, "read_only" in shown.err) == (2, True), shown
    shown = minted("journal", "--profile", "viewer", "--journal", restored, "--assign", "x", "y")
    assert (shown.code, "read_only" in shown.err) == (2, True)
