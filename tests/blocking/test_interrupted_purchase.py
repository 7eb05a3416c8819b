"""A blocking purchase that Ctrl-C or another thread interrupts while the server hangs, at each of its requests."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from minted_connect import ClientClosedError, MintedConnect
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import IntentState
from minted_connect.sandbox import ThreadedSandbox
from tests.support.operations import GOLD

from .test_client import wait_until

PREFLIGHT = "*/walletable/basket"
BUY = "*/complete/buy"
ORDERS = "*/orders"


@pytest.fixture
def sandbox():
    with ThreadedSandbox(seed=1, single_shot=False) as sandbox:
        yield sandbox


def press_ctrl_c(_: MintedConnect) -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


INTERRUPTIONS: list[Any] = [
    pytest.param(
        press_ctrl_c,
        KeyboardInterrupt,
        id="ctrl-c",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    ),
    pytest.param(MintedConnect.close, ClientClosedError, id="close"),
]


@pytest.mark.parametrize(("interrupt", "error"), INTERRUPTIONS)
@pytest.mark.parametrize(
    ("hanging_path", "executed", "sent", "orders"),
    [(PREFLIGHT, False, False, 0), (BUY, False, True, 0), (BUY, True, True, 1), (ORDERS, False, True, 0)],
    ids=["preflight read", "before execution", "after execution", "read-back"],
)
def test_interrupted_purchase_if_sent_is_named_and_pending(
    sandbox: ThreadedSandbox,
    hanging_path: str,
    executed: bool,
    sent: bool,
    orders: int,
    interrupt: Callable[[MintedConnect], None],
    error: type[BaseException],
) -> None:
    journal = MemoryJournal()
    credentials = (sandbox.username, sandbox.password)
    with (
        MintedConnect(*credentials, base_url=sandbox.url, journal=journal) as minted,
        MintedConnect(*credentials, base_url=sandbox.url, journal=journal) as second_client,
        ThreadPoolExecutor(1) as pool,
    ):
        minted.customers.create("customer-1")
        basket = minted.baskets.add_item("customer-1", sku=GOLD)
        if hanging_path == ORDERS:
            sandbox.faults.add("status", path=BUY, status=403)
        fault = sandbox.faults.add("hang", path=hanging_path, commit=executed)

        def interrupt_when_hanging() -> None:
            wait_until(lambda: fault.waiting)
            interrupt(minted)

        interrupted = pool.submit(interrupt_when_hanging)
        with pytest.raises(error) as caught:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        interrupted.result()
        notes = " ".join(getattr(caught.value, "__notes__", ()))
        pending = second_client.complete.pending()
        assert [intent.state for intent in pending] == [IntentState.UNKNOWN] * sent
        assert all(intent.id in notes for intent in pending)
        fault.remove()
        wait_until(lambda: len(sandbox.shop.orders) == orders)
        for intent in pending if orders else ():
            assert second_client.complete.reconcile(intent).reconciled
            assert second_client.complete.pending() == []
        assert len(sandbox.shop.orders) == orders
        assert error is ClientClosedError or minted.rates.current()
