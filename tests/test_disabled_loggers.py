"""Loggers that `logging.config` has disabled: errors about money are logged all the same."""

from __future__ import annotations

import logging
import logging.config
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from minted_connect import OutcomeUnknown
from minted_connect.core.logs import log_error

NAME = "minted_connect.completion"
CONFIG = {"version": 1, "root": {"level": "INFO", "handlers": []}}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of its own that is disabled, as after `dictConfig`."""
    logger = logging.getLogger(f"{NAME}.test")
    logger.disabled = True
    yield logger
    logger.disabled = False
    logger.setLevel(logging.NOTSET)
    logger.filters.clear()


def test_error_of_disabled_logger_is_logged(logger: logging.Logger, caplog: pytest.LogCaptureFixture):
    try:
        raise ValueError("the cause")
    except ValueError:
        log_error(logger, "intent %s", "i-1", exc_info=True)
    logger.error("not logged")
    [record] = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == (logger.name, "ERROR", "intent i-1")
    assert (record.filename, record.funcName) == (os.path.basename(__file__), "test_error_of_disabled_logger_is_logged")
    assert "the cause" in caplog.text


def test_error_of_enabled_logger_is_logged_once(logger: logging.Logger, caplog: pytest.LogCaptureFixture):
    logger.disabled = False
    log_error(logger, "intent %s", "i-1")
    [record] = caplog.records
    assert (record.getMessage(), record.exc_info) == ("intent i-1", None)
    assert record.filename == os.path.basename(__file__)


def test_error_below_level_is_not_logged(logger: logging.Logger, caplog: pytest.LogCaptureFixture):
    logger.setLevel(logging.CRITICAL)
    log_error(logger, "intent")
    logger.setLevel(logging.ERROR)
    logging.disable(logging.ERROR)
    try:
        log_error(logger, "intent")
    finally:
        logging.disable(logging.NOTSET)
    logger.addFilter(lambda record: False)
    log_error(logger, "intent")
    assert caplog.records == []


@pytest.fixture
def disabled_loggers() -> Iterator[None]:
    """Disable the existing loggers with `dictConfig`, and restore the configuration afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    was_disabled = {
        logger: logger.disabled for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)
    }
    logging.config.dictConfig(CONFIG)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for logger, is_disabled in was_disabled.items():
            logger.disabled = is_disabled


async def test_unknown_purchase_with_disabled_loggers_is_logged(
    minted, sandbox, disabled_loggers, caplog: pytest.LogCaptureFixture
):
    assert logging.getLogger(NAME).disabled
    await minted.customers.create("customer-1")
    basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    sandbox.faults.add("drop_after_commit", path="*/complete/buy")
    with pytest.raises(OutcomeUnknown):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    [record] = [record for record in caplog.records if record.name.startswith("minted_connect")]
    assert (record.levelname, record.name) == ("ERROR", NAME)
    assert "the outcome is unknown" in record.getMessage()


PROGRAM = """
import logging.config
from minted_connect import MintedConnect
import minted_connect.client
logging.config.dictConfig({"version": 1})
with MintedConnect.sandbox() as minted:
    minted.rates.current()
"""


def test_minted_log_enables_disabled_loggers():
    environment = os.environ | {"MINTED_LOG": "debug"}
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=50, check=True)
    assert "DEBUG minted_connect: GET /partner/walletable/rates: 200" in process.stderr
