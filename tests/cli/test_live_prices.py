"""`minted order`, `minted rates record` and `alert`, tables on narrow terminals, and completion of profiles."""

from __future__ import annotations

import json
import os
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from minted_connect import MintedConnect
from minted_connect.cli.output import Output
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, Minted


@pytest.fixture
def order_id(sandbox: ThreadedSandbox) -> str:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        minted.customers.create(CUSTOMER, firstname="canary-name")
        basket = minted.baskets.add_item(CUSTOMER, sku=GOLD)
        return str(minted.complete.buy(basket, expected_total=basket.paid_total).order_id)


@pytest.mark.parametrize("options", [(), ("--customer", CUSTOMER)])
def test_order_shows_lines_fees_and_total(minted: Minted, order_id: str, options: tuple[str, ...]) -> None:
    result = minted("order", order_id, *options)
    assert (result.code, result.err) == (0, "")
    for text in (order_id, CUSTOMER, GOLD, "charge fee", "VAT on fees", "total paid"):
        assert text in result.out
    assert "canary" not in result.out
    shown = json.loads(minted("order", order_id, *options, "--json").out)
    assert (shown["id"], shown["items"][0]["sku"]) == (int(order_id), GOLD)


def test_order_that_does_not_exist_is_one_error(minted: Minted, order_id: str) -> None:
    result = minted("order", "999999")
    assert (result.code, result.out) == (2, "")
    assert result.err == "minted: order: there is no order 999999: minted orders lists them\n"
    assert minted("order", order_id, "--customer", "another-one").code == 3


@pytest.mark.parametrize("name", ["prices.csv", "prices.jsonl", "prices.db"])
def test_record_writes_prices_to_a_file(minted: Minted, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    result = minted("rates", "record", str(file), "--seconds", "0.5", "--interval", "0.1", "--metal", "gold")
    assert result.code == 0
    number = int(result.err.split()[0])
    assert result.err == f"{number} prices written to {file}\n"
    if name.endswith(".db"):
        with sqlite3.connect(file) as database:
            [(rows,)] = database.execute("SELECT count(*) FROM ticks")
        database.close()
    else:
        rows = len(file.read_text("utf-8").splitlines()) - name.endswith(".csv")
    assert rows == number >= 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("record", "prices.txt"), 2, "file: must end in one of .csv, .jsonl, .db, .sqlite"),
        (("record", "/no/such/directory/p.csv"), 2, "file: the directory /no/such/directory does not exist"),
        (("alert",), 2, "--above: must be given, or --below"),
        (("alert", "--above", "x"), 2, "--above: must be a number, such as 592.50"),
        (("alert", "--above", "-5"), 2, "--above: must be finite and above 0"),
        (("alert", "--above", "5", "--exec", "no-such-program"), 2, "--exec: must begin with a program that exists"),
        (("alert", "--above", "5", "--exec", "'"), 2, "--exec: has a quotation mark without its end"),
        (("alert", "--above", "5", "--exec", ""), 2, "--exec: must begin with a program that exists"),
    ],
)
def test_wrong_arguments_are_one_error(minted: Minted, arguments: Any, code: int, message: str) -> None:
    result = minted("rates", *arguments)
    assert (result.code, result.out, result.err) == (code, "", f"minted: {message}\n")


def test_alert_prints_a_line_and_runs_a_program(minted: Minted, tmp_path: Path) -> None:
    script = tmp_path / "script"
    output = tmp_path / "environment"
    script.write_text(f'#!/bin/sh\nenv > "{output}"; test "$MINTED_DIRECTION" = below\n', "utf-8")
    script.chmod(0o700)
    limits = ("--below", "1000.5", "--price", "buy", "--metal", "gold", "--count", "1", "--interval", "0.1")
    result = minted("rates", "alert", *limits, "--exec", str(script))
    assert (result.code, result.err) == (0, "")
    time, *fields = result.out.rstrip("\n").split("\t")
    assert fields == ["gold", "592.34", "AED", "below", "1000.5"]
    environment = dict(line.partition("=")[::2] for line in output.read_text("utf-8").splitlines())
    names = ("METAL", "PRICE", "CURRENCY", "DIRECTION", "LIMIT", "TIME")
    assert [environment[f"MINTED_{name}"] for name in names] == [*fields, time]
    assert not [name for name in environment if name.startswith("MINTED_CONNECT_")]
    document = json.loads(minted("rates", "alert", *limits, "--json").out)
    assert (document["price"], document["direction"]) == ("592.34", "below")


LIVE = [("record", "p.csv", "--seconds", "2"), ("alert", "--above", "1", "--count", "1")]


def test_alert_reports_a_program_that_fails(minted: Minted) -> None:
    result = minted("rates", "alert", "--above", "1", "--metal", "gold", "--count", "1", "--exec", "false")
    assert (result.code, result.err) == (0, "minted: false failed with exit code 1\n")


@pytest.mark.parametrize(
    "arguments", [("record", "p.csv", "--seconds", "1"), ("alert", "--above", "1", "--count", "1")]
)
def test_unreachable_server_is_reported(
    minted: Minted, sandbox: ThreadedSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    # The first polls fail, with all their retries.
    sandbox.faults.add("status", status=503, path="*/rates", times=3)
    result = minted("rates", *arguments, "--interval", "0.1")
    assert result.code == 0
    assert "503" in result.err.splitlines()[0]
    assert result.err.splitlines()[0].endswith("; retrying")


def table(width: int, rows: list[list[object]]) -> str:
    out = Output(as_json=False)
    out.console = Console(width=width, force_terminal=True, color_system=None)
    with out.console.capture() as capture:
        out.print_table(["order", "placed at", "number"], rows)
    return capture.get()


def test_narrow_terminal_shows_a_line_for_each_column() -> None:
    row: list[object] = ["10984", "2026-12-01 02:21:09+00:00", "96167465522"]
    wide, narrow = table(80, [row]), table(36, [row, row])
    assert [line for line in wide.splitlines() if "10984" in line and "96167465522" in line]
    assert narrow.count("placed at") == 2
    assert "02:21:09+00:00" in narrow
    for width in range(48, 90):
        assert "02:21:09+00:00" in table(width, [row]), width


@pytest.mark.parametrize("width", [12, 20, 40, 60, 100])
def test_amount_is_never_cut_off(width: int) -> None:
    amount = Decimal("12345678901234567890.123456")
    shown = table(width, [["a name with words", amount, "more text"]])
    digits = "".join(char for char in shown if char.isdigit() or char == ".")
    assert str(amount) in digits


def test_profile_names_are_completed(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from minted_connect.cli.command import _complete_profile

    folder = Path(environment["XDG_CONFIG_HOME"]) / "minted-connect"
    folder.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", environment["XDG_CONFIG_HOME"])
    assert _complete_profile("") == []
    file = folder / "config.toml"
    file.write_text("[profiles.production]\n[profiles.staging]\n[profiles.stage-two]\n", "utf-8")
    os.chmod(file, 0o600)
    assert _complete_profile("") == ["production", "stage-two", "staging"]
    assert _complete_profile("sta") == ["stage-two", "staging"]
    file.write_text("not TOML", "utf-8")
    assert _complete_profile("") == []
