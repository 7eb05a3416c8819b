"""Effects, output and exit code of each command."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, HOME, Minted, Result


def parsed(result: Result) -> object:
    assert result.code == 0, result
    return json.loads(result.out, parse_float=lambda text: pytest.fail(f"{text} is not text"))


def fill_basket(minted: Minted, *, qty: int = 1, kind: str = "buy") -> None:
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "add", CUSTOMER, GOLD, "--qty", qty, "--type", kind).code == 0


@pytest.fixture
def minted_with_bars(minted: Minted) -> Minted:
    """Return `minted` for a customer who owns three bars."""
    fill_basket(minted, qty=3)
    assert minted("buy", CUSTOMER, "--yes").code == 0
    return minted


def test_rates_print_one_line_each_and_exact_json(minted: Minted) -> None:
    lines = minted("rates").out.splitlines()
    assert lines[0].split("\t") == ["account", "metal", "buy at", "sell at", "spot", "currency", "updated"]
    assert [line.split("\t")[1] for line in lines[1:]] == ["gold", "silver"]
    rows = parsed(minted("rates", "--metal", "gold", "--json"))
    assert isinstance(rows, list)
    assert [row["metal_type"] for row in rows] == ["gold"]
    assert Decimal(rows[0]["buy_price"]) > Decimal(rows[0]["sell_price"])


def test_watch_prints_one_line_per_price(minted: Minted) -> None:
    header, *lines = minted("rates", "watch", "--interval", "0.05", "--count", "4").out.splitlines()
    assert header.split("\t")[:4] == ["time", "account", "buy at", "sell at"]
    assert [line.count("\t") for line in lines] == [header.count("\t")] * 4
    assert all(datetime.fromisoformat(line.partition("\t")[0]).tzinfo for line in lines)
    ticks = [
        json.loads(line)
        for line in minted("rates", "watch", "--interval", "0.05", "--count", "4", "--json").out.splitlines()
    ]
    assert [tick["number"] for tick in ticks] == [1, 1, 2, 2]
    assert all(isinstance(tick["buy"], str) and tick["stale"] is False for tick in ticks)


def test_history_is_shown_as_table_chart_and_saved_to_files(minted: Minted, tmp_path: Path) -> None:
    arguments = ("rates", "history", "--metal", "gold", "--start", "2026-03-01", "--end", "2026-03-10")
    rows = parsed(minted(*arguments, "--json"))
    assert isinstance(rows, list)
    assert len(rows) == 10
    assert len(minted(*arguments).out.splitlines()) == 11
    chart = minted(*arguments, "--chart").out
    assert "gold AED" in chart
    assert "2026-03-10" in chart
    assert "\x1b" not in chart
    for ending, begins in {
        "csv": b"time,",
        "svg": b"<?xml",
        "png": b"\x89PNG",
        "html": b"<!doctype",
        "parquet": b"PAR1",
    }.items():
        file = tmp_path / f"prices.{ending}"
        assert minted(*arguments, "--save", file).code == 0
        assert file.read_bytes().startswith(begins)
    with (tmp_path / "prices.csv").open(encoding="utf-8") as text:
        saved = list(csv.DictReader(text))
    assert [row["spot"] for row in saved] == [row["spot_price"] for row in rows]
    assert [file.name for file in tmp_path.glob(".*part")] == []


def test_history_without_end_lasts_until_today(minted: Minted) -> None:
    rows = parsed(
        minted("rates", "history", "--metal", "gold", "--start", "2026-03-01", "--interval", "week", "--json")
    )
    assert isinstance(rows, list)
    assert len(rows) > 5


def test_products_lists_products(minted: Minted) -> None:
    rows = parsed(minted("products", "--json"))
    assert isinstance(rows, list)
    assert GOLD in [row["sku"] for row in rows]
    assert len(minted("products", "--limit", "2").out.splitlines()) == 3


def test_customer_commands_create_show_update_and_remove(minted: Minted) -> None:
    created = minted("customer", "create", CUSTOMER, "--firstname", "Ada", "--birthdate", "1990-12-10")
    assert created.code == 0
    assert "first name\tAda" in created.out.splitlines()
    assert minted("customer", "update", CUSTOMER, "--lastname", "Lovelace", "--clear", "firstname").code == 0
    shown = parsed(minted("customer", "get", CUSTOMER, "--json"))
    assert isinstance(shown, dict)
    assert (shown["firstname"], shown["lastname"], shown["birthdate"]) == (None, "Lovelace", "1990-12-10")
    assert minted("customer", "remove", CUSTOMER, "--yes").err == f"{CUSTOMER} is removed\n"
    assert minted("customer", "get", CUSTOMER).code == 3


def test_business_customer_is_created_with_tax_fields(minted: Minted, sandbox: ThreadedSandbox) -> None:
    sent = ("--tax-office", "Beyoğlu", "--account-type", "company")
    assert minted("customer", "create", CUSTOMER, *sent).code == 0
    sent_body = {"external_id": CUSTOMER, "tax_office": "Beyoğlu", "account_type": "company"}
    assert sandbox.requests[-1].body == sent_body
    assert minted("customer", "update", CUSTOMER, "--tax-office", "Şişli").code == 2


def test_clear_of_field_with_value_exits_2(minted: Minted, sandbox: ThreadedSandbox) -> None:
    result = minted("customer", "update", CUSTOMER, "--lastname", "L", "--clear", "lastname")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("minted: clear: must be one of")
    assert not sandbox.requests


def test_basket_commands_add_set_remove_and_clear(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    assert minted("basket", "show", CUSTOMER).err == "there is no open basket\n"
    assert minted("basket", "show", CUSTOMER, "--json").out == "null\n"
    added = minted("basket", "add", CUSTOMER, GOLD, "--qty", "2")
    assert added.code == 0
    assert "the price is locked for" in added.err
    assert minted("basket", "set", CUSTOMER, GOLD, "5").code == 0
    shown = parsed(minted("basket", "show", CUSTOMER, "--json"))
    assert isinstance(shown, dict)
    assert [(item["sku"], item["amount"]) for item in shown["items"]] == [(GOLD, 5)]
    assert minted("basket", "add", CUSTOMER, "MNTBAE0013").code == 0
    assert minted("basket", "rm", CUSTOMER, GOLD).code == 0
    lines = minted("basket", "show", CUSTOMER).out.splitlines()
    assert lines[1].startswith("MNTBAE0013\t")
    assert minted("basket", "clear", CUSTOMER).code == 0


def test_basket_rm_without_basket_exits_2(minted: Minted) -> None:
    minted("customer", "create", CUSTOMER)
    result = minted("basket", "rm", CUSTOMER, GOLD)
    assert (result.code, result.err) == (
        2,
        "minted: customer: has no open basket; open one with: minted basket add\n",
    )


def test_dry_run_shows_fees_and_places_no_order(minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    fill_basket(minted)
    result = minted("buy", CUSTOMER, "--dry-run")
    assert result.code == 0
    assert "charge fee\t" in result.out
    assert "total paid\t" in result.out
    assert result.err.splitlines()[-1] == "dry run: no order was placed"
    assert not [one for one in sandbox.requests if "complete" in one.path]
    assert not list(tmp_path.rglob("*.journal.db"))


def test_sell_and_deliver_appear_in_orders_and_receipt(minted_with_bars: Minted, tmp_path: Path) -> None:
    held = parsed(minted_with_bars("wallet", CUSTOMER, "--json"))
    assert isinstance(held, list)
    assert [(row["sku"], row["amount"]) for row in held] == [(GOLD, "3")]
    minted_with_bars("basket", "add", CUSTOMER, GOLD, "--type", "sell")
    sold = minted_with_bars("sell", CUSTOMER, "--yes")
    assert "total received\t" in sold.out
    minted_with_bars("basket", "add", CUSTOMER, GOLD, "--type", "delivery")
    address = tmp_path / "home.json"
    address.write_text(json.dumps(HOME), "utf-8")
    sent = parsed(minted_with_bars("deliver", CUSTOMER, "--address", address, "--yes", "--json"))
    assert isinstance(sent, dict)
    number = sent["order"]["id"]
    found = parsed(minted_with_bars("orders", "--customer", CUSTOMER, "--json"))
    assert isinstance(found, list)
    assert [row["kind"] for row in found] == ["delivery", "sell", "buy"]
    assert found[0]["id"] == number
    only = minted_with_bars("orders", "--customer", CUSTOMER, "--kind", "sell")
    assert [line.split("\t")[1] for line in only.out.splitlines()[1:]] == ["sell"]
    assert len(minted_with_bars("orders", "--limit", "2").out.splitlines()) == 3
    receipt = parsed(minted_with_bars("receipt", number, "--customer", CUSTOMER, "--json"))
    assert isinstance(receipt, dict)
    assert receipt["order_id"] == number


def test_orders_save_exports_exact_amounts(minted_with_bars: Minted, tmp_path: Path) -> None:
    shown = parsed(minted_with_bars("orders", "--json"))
    assert isinstance(shown, list)
    file = tmp_path / "orders.csv"
    assert minted_with_bars("orders", "--save", file).err == f"1 orders written to {file}\n"
    with file.open(encoding="utf-8") as text:
        assert [row["paid_total"] for row in csv.DictReader(text)] == [row["paid_total"] for row in shown]
    file = tmp_path / "orders.json"
    assert minted_with_bars("orders", "--save", file, "--with-tokens").code == 0
    assert json.loads(file.read_text("utf-8")) == shown
    assert minted_with_bars("orders", "--save", tmp_path / "orders.xls").code == 2


def test_invoice_of_completed_order_is_shown(minted_with_bars: Minted, sandbox: ThreadedSandbox) -> None:
    found = parsed(minted_with_bars("orders", "--json"))
    assert isinstance(found, list)
    assert minted_with_bars("invoice", found[0]["guid"]).code == 3  # the order is not completed yet
    sandbox.shop.set_status(found[0]["id"], "Completed")
    assert minted_with_bars("invoice", found[0]["guid"]).out.splitlines()[0] == f"guid\t{found[0]['guid']}"


def test_purchase_uses_journal_named_after_server(minted_with_bars: Minted, tmp_path: Path) -> None:
    (journal,) = tmp_path.rglob("*.journal.db")
    assert journal.name.startswith("127.0.0.1-")
    assert minted_with_bars("reconcile", "--list").out == f"0 settled, nothing is open in {journal}\n"


def test_reconcile_without_journal_exits_0(minted: Minted, tmp_path: Path) -> None:
    result = minted("reconcile")
    assert (result.code, result.out) == (0, "")
    (directory,) = tmp_path.rglob("minted-connect")
    assert result.err.startswith(f"nothing to reconcile: the journal {directory}/127.0.0.1-")
    assert result.err.endswith(".journal.db does not exist yet\n")


def test_expect_total_is_compared_exactly(minted: Minted, sandbox: ThreadedSandbox) -> None:
    fill_basket(minted)
    shown = parsed(minted("basket", "show", CUSTOMER, "--json"))
    assert isinstance(shown, dict)
    result = minted("buy", CUSTOMER, "--yes", "--expect-total", "1")
    assert (result.code, result.err.splitlines()[-1]) == (
        4,
        f"minted: the total is {shown['paid_total']} AED, not 1",
    )
    assert not [one for one in sandbox.requests if "complete" in one.path]
    assert minted("buy", CUSTOMER, "--yes", "--expect-total", shown["paid_total"]).code == 0


def test_doctor_reports_each_check(minted: Minted) -> None:
    assert minted("doctor").code == 0
    rows = parsed(minted("doctor", "--json"))
    assert isinstance(rows, list)
    assert {row["check"]: row["ok"] for row in rows}["login and rates"] is True
    refused = minted("doctor", env={"MINTED_CONNECT_PASSWORD": "other"})
    assert refused.code == 1
    assert "FAIL\tlogin and rates\tAuthenticationFailed: " in refused.out
    without = minted("doctor", env={"MINTED_CONNECT_USERNAME": None})
    assert without.code == 1
    assert "FAIL\taccount\tusername: give --username" in without.out


def test_demo_prints_every_section(minted: Minted) -> None:
    result = minted("demo")
    assert result.code == 0
    assert "Deliver one gold bar" in result.out
    assert all(json.loads(line)["section"] for line in minted("demo", "--json").out.splitlines())


def test_version_prints_package_version(minted: Minted) -> None:
    from minted_connect import __version__

    assert minted("--version").out == f"{__version__}\n"
