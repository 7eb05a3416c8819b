"""Processes in which the blocking client cannot start work: patched threads, and interpreters that exit."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from minted_connect import ConfigurationError, MintedConnect
from minted_connect.sandbox import ThreadedSandbox
from tests.support.subprocesses import run_script

PATCHED = {
    "gevent": ("gevent.monkey", SimpleNamespace(is_module_patched=lambda name: name == "threading")),
    "gevent without threads": ("gevent.monkey", SimpleNamespace(is_module_patched=lambda name: name == "select")),
    "eventlet": ("eventlet.patcher", SimpleNamespace(is_monkey_patched=lambda name: name == "thread")),
}
UNPATCHED = {
    "gevent": ("gevent.monkey", SimpleNamespace(is_module_patched=lambda _: False)),
    "eventlet": ("eventlet.patcher", SimpleNamespace(is_monkey_patched=lambda _: False)),
}


@pytest.mark.requirement(26)
@pytest.mark.parametrize("name", PATCHED)
def test_call_in_a_patched_process_raises_configuration_error(monkeypatch, name):
    module, fake = PATCHED[name]
    monkeypatch.setitem(sys.modules, module, fake)
    with MintedConnect("u", "p", base_url="http://127.0.0.1:9") as minted:
        for _ in range(2):
            with pytest.raises(
                ConfigurationError, match=f"needs real threads and sockets, and {name.split()[0]} has replaced"
            ):
                minted.products.page()


@pytest.mark.parametrize("name", PATCHED)
def test_call_after_the_process_was_patched_is_refused(monkeypatch, name):
    module, fake = PATCHED[name]
    with (
        ThreadedSandbox() as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
    ):
        assert minted.products.page()
        monkeypatch.setitem(sys.modules, module, fake)
        with pytest.raises(ConfigurationError, match="needs real threads"):
            minted.products.page()
        monkeypatch.undo()
        assert minted.products.page()


@pytest.mark.parametrize("name", PATCHED)
def test_sandbox_in_a_patched_process_is_not_started(monkeypatch, name):
    module, fake = PATCHED[name]
    monkeypatch.setitem(sys.modules, module, fake)
    with pytest.raises(ConfigurationError, match="needs real threads"), MintedConnect.sandbox():
        pytest.fail("the sandbox was started")


@pytest.mark.parametrize("name", UNPATCHED)
def test_imported_but_unused_patcher_changes_nothing(monkeypatch, name):
    module, fake = UNPATCHED[name]
    monkeypatch.setitem(sys.modules, module, fake)
    with (
        ThreadedSandbox() as sandbox,
        MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted,
    ):
        assert minted.products.page()


AT_EXIT = """
import atexit, sys, threading
from minted_connect import AsyncMintedConnect, MintedConnect, MintedConnectError, RetryPolicy
from minted_connect.sandbox import ThreadedSandbox

sandbox = ThreadedSandbox()
sandbox.start()
url = sandbox.url.replace("127.0.0.1", "localhost")

def call():
    try:
        minted.products.page()
        print("a response")
    except MintedConnectError as error:
        print(f"{type(error).__name__}: {error}")
    finally:
        minted.close()

minted = MintedConnect(sandbox.username, sandbox.password, base_url=url, retry=RetryPolicy.none())
"""


@pytest.mark.requirement(39)
@pytest.mark.parametrize(
    "when",
    [
        "atexit.register(call)",
        "threading.Thread(target=lambda: (threading.main_thread().join(), call())).start()",
    ],
    ids=["atexit", "last thread"],
)
def test_first_call_at_interpreter_exit_raises_error_of_the_tree(when):
    (line,) = run_script(f"{AT_EXIT}\n{when}\n")
    assert line.startswith("ClientClosedError: the interpreter is exiting")


PURCHASE = """
minted = MintedConnect(sandbox.username, sandbox.password, base_url=url, retry=RetryPolicy.none(), journal=sys.argv[1])
minted.customers.create("shop-exit-1")
basket = minted.baskets.add_item("shop-exit-1", sku="MNTBAE0001")

def call():
    try:
        print("order", minted.complete.buy(basket, expected_total=basket.paid_total).order_id is not None)
    except MintedConnectError as error:
        print(f"{type(error).__name__}: {error}")
    finally:
        print("open", len(minted.complete.pending()), "orders", len(sandbox.shop.orders))
        minted.close()

atexit.register(call)
"""


def test_purchase_at_interpreter_exit_is_not_sent(tmp_path):
    first, second = run_script(AT_EXIT + "minted.close()\n" + PURCHASE, str(tmp_path / "orders.db"))
    assert first.startswith("ClientClosedError: the interpreter is exiting")
    assert second == "open 0 orders 0"
