"""The log of a program: silent by default, every attempt with MINTED_LOG, and lines that name the remedy."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from minted_connect import AsyncMintedConnect, ConfigurationError

PROGRAM = """
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


def log_lines(level: str | None, setup: str = "") -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MINTED_LOG"}
    if level is not None:
        environment["MINTED_LOG"] = level
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(setup=setup)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return process.stderr.splitlines()


def test_log_without_configuration_is_empty():
    assert log_lines(None) == []
    assert log_lines("") == []


def test_minted_log_debug_shows_every_attempt():
    lines = log_lines("debug")
    assert sum("DEBUG minted_connect: POST /partner/customer: 200 in" in line for line in lines) == 1
    assert not any("customer-1" in line for line in lines)


def test_unknown_outcome_is_logged_and_then_settled():
    [unknown, settled] = log_lines("WARNING")
    assert " ERROR minted_connect.completion: buy of basket 10984, intent " in unknown
    assert "python -m minted_connect reconcile" in unknown
    assert "ServerDisconnected" in unknown
    assert " WARNING minted_connect.completion: buy of basket 10984, intent " in settled
    assert settled.endswith("settled as confirmed: order 10984")


def test_program_with_logging_gets_each_line_once():
    lines = log_lines("warning", "logging.basicConfig(format='OWN %(message)s')")
    assert [line[:4] for line in lines] == ["OWN ", "OWN "]


async def test_minted_log_invalid_level_raises_configuration_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINTED_LOG", "chatty")
    with pytest.raises(ConfigurationError, match="MINTED_LOG: must be one of debug, info, warning, error"):
        AsyncMintedConnect("partner", "secret")


def test_second_client_adds_no_handler(monkeypatch: pytest.MonkeyPatch):
    logger = logging.getLogger("minted_connect")
    before, level = list(logger.handlers), logger.level
    monkeypatch.setenv("MINTED_LOG", "error")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    try:
        for _ in range(3):
            AsyncMintedConnect("partner", "secret")
        assert len(logger.handlers) == len(before) + 1
    finally:
        logger.handlers[:] = before
        logger.setLevel(level)
