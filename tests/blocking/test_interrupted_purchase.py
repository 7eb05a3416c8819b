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

from .test_client import until

LOOK = "*/walletable/basket"
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


ENDS: list[Any] = [
    pytest.param(
        press_ctrl_c,
        KeyboardInterrupt,
        id="ctrl-c",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="a signal to a thread"),
    ),
    pytest.param(MintedConnect.close, ClientClosedError, id="close"),
]


@pytest.mark.parametrize(("end", "error"), ENDS)
@pytest.mark.parametrize(
    ("where", "carried_out", "sent", "bought"),
    [(LOOK, False, False, 0), (BUY, False, True, 0), (BUY, True, True, 1), (ORDERS, False, True, 0)],
    ids=["looking", "before it is carried out", "after it was", "reading back"],
)
def test_what_was_sent_is_named_and_found(
    sandbox: ThreadedSandbox,
    where: str,
    carried_out: bool,
    sent: bool,
    bought: int,
    end: Callable[[MintedConnect], None],
    error: type[BaseException],
) -> None:
    journal = MemoryJournal()
    credentials = (sandbox.username, sandbox.password)
    with (
        MintedConnect(*credentials, base_url=sandbox.url, journal=journal) as minted,
        MintedConnect(*credentials, base_url=sandbox.url, journal=journal) as later,
        ThreadPoolExecutor(1) as other,
    ):
        minted.customers.create("customer-1")
        basket = minted.baskets.add_item("customer-1", sku=GOLD)
        if where == ORDERS:
            sandbox.faults.add("status", path=BUY, status=403)
        fault = sandbox.faults.add("hang", path=where, commit=carried_out)

        def strike() -> None:
            until(lambda: fault.waiting)
            end(minted)

        struck = other.submit(strike)
        with pytest.raises(error) as caught:
            minted.complete.buy(basket, expected_total=basket.paid_total)
        struck.result()
        notes = " ".join(getattr(caught.value, "__notes__", ()))
        pending = later.complete.pending()
        assert [intent.state for intent in pending] == [IntentState.UNKNOWN] * sent
        assert all(intent.id in notes for intent in pending)
        fault.remove()
        until(lambda: len(sandbox.shop.orders) == bought)
        for intent in pending if bought else ():
            assert later.complete.reconcile(intent).reconciled
            assert later.complete.pending() == []
        assert len(sandbox.shop.orders) == bought
        assert error is ClientClosedError or minted.rates.current()
