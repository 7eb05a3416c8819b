"""The log of a program: silent by default, every attempt with MINTED_LOG, and lines that name the remedy."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from minted_connect import AsyncMintedConnect, ConfigurationError

SILENT = """
import logging
from minted_connect import MintedConnect, OutcomeUnknown
{setup}
with MintedConnect.sandbox() as minted:
    minted.customers.create("customer-1")
    basket = minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    minted.sandbox_server.faults.add("drop_after_commit", path="*/complete/buy")
    try:
        minted.complete.buy(basket, expected_total=basket.paid_total)
    except OutcomeUnknown as error:
        minted.complete.reconcile(error)
"""


def logged(level: str | None, setup: str = "") -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MINTED_LOG"}
    if level is not None:
        environment["MINTED_LOG"] = level
    done = subprocess.run(
        [sys.executable, "-c", SILENT.format(setup=setup)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return done.stderr.splitlines()


def test_a_program_that_configured_nothing_is_told_nothing():
    assert logged(None) == []
    assert logged("") == []


def test_the_switch_shows_every_attempt():
    lines = logged("debug")
    assert sum("DEBUG minted_connect: POST /partner/customer: 200 in" in line for line in lines) == 1
    assert not any("customer-1" in line for line in lines)


def test_an_unknown_outcome_says_what_to_do_and_its_settling_ends_it():
    [unknown, settled] = logged("WARNING")
    assert " ERROR minted_connect.completion: buy of basket 10984, intent " in unknown
    assert "python -m minted_connect reconcile" in unknown
    assert "ServerDisconnected" in unknown
    assert " WARNING minted_connect.completion: buy of basket 10984, intent " in settled
    assert settled.endswith("settled as confirmed: order 10984")


def test_a_program_with_a_log_of_its_own_sees_each_line_once():
    lines = logged("warning", "logging.basicConfig(format='OWN %(message)s')")
    assert [line[:4] for line in lines] == ["OWN ", "OWN "]


async def test_a_level_that_there_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINTED_LOG", "chatty")
    with pytest.raises(ConfigurationError, match="MINTED_LOG: must be one of debug, info, warning, error"):
        AsyncMintedConnect("partner", "secret")


def test_a_second_client_adds_no_second_handler(monkeypatch: pytest.MonkeyPatch):
    root = logging.getLogger("minted_connect")
    before, level = list(root.handlers), root.level
    monkeypatch.setenv("MINTED_LOG", "error")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    try:
        for _ in range(3):
            AsyncMintedConnect("partner", "secret")
        assert len(root.handlers) == len(before) + 1
    finally:
        root.handlers[:] = before
        root.setLevel(level)
