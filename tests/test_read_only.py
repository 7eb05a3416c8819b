"""`Options.read_only`: every call that changes something is refused, before anything is sent or written."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from minted_connect import CompletionPolicy, Options
from minted_connect.core.request import OPERATIONS, Effect
from minted_connect.errors import ConfigurationError, OutcomeUnknown
from minted_connect.models import IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import CALLS, GOLD, prepare_data

READS = [name for name, operation in OPERATIONS.items() if operation.effect is Effect.READ]
CHANGES = [name for name in OPERATIONS if name not in READS]
REFUSED = r"Options\.read_only: is set, so {} is refused: nothing was sent"


@pytest.fixture
async def reader(connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> Any:
    options = Options(clock=clock, read_only=True)
    return await connect(
        sandbox.url, sandbox.username, sandbox.password, options=options, journal=tmp_path / "journal.db"
    )


@pytest.mark.parametrize("name", CHANGES)
async def test_change_is_refused_before_it_is_sent(
    minted: Any, reader: Any, sandbox: Sandbox, clock: Any, tmp_path: Any, name: str
):
    data = await prepare_data(minted, sandbox, clock)
    before = sandbox.requests.total
    with pytest.raises(ConfigurationError, match=REFUSED.format(name)):
        await CALLS[name](reader, data)
    assert sandbox.requests.total == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", READS)
async def test_read_is_allowed(minted: Any, reader: Any, sandbox: Sandbox, clock: ManualClock, name: str):
    data = await prepare_data(minted, sandbox, clock)
    await CALLS[name](reader, data)


async def test_calls_of_several_requests_are_refused(reader: Any, sandbox: Sandbox, tmp_path: Path):
    complete, terms = reader.complete, {"reference": "r", "currency": "AED"}
    shipping = CALLS["complete.delivery"].__globals__["Person"]().shipping
    calls = {
        "baskets.replace": lambda: reader.baskets.replace("ada", {GOLD: 1}),
        "complete.buy_items": lambda: complete.buy_items("ada", {GOLD: 1}, max_total=Decimal(9), **terms),
        "complete.sell_items": lambda: complete.sell_items("ada", {GOLD: 1}, min_total=Decimal(9), **terms),
        "complete.deliver_items": lambda: complete.deliver_items(
            "ada", {GOLD: 1}, shipping=shipping, max_total=Decimal(9), **terms
        ),
        "complete.adopt": lambda: complete.adopt("intent"),
        "complete.decide": lambda: complete.decide("intent", "rejected"),
        "request": lambda: reader.request("POST", "/partner/customer", json={}),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigurationError, match=REFUSED.format(name)):
            await call()
    assert sandbox.requests.total == 0
    assert list(tmp_path.iterdir()) == []
    await reader.request("GET", "/partner/walletable/products")


async def test_reconcile_is_allowed_without_fence_only(
    connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path
):
    login = (sandbox.url, sandbox.username, sandbox.password)
    journal = tmp_path / "journal.db"
    policy = CompletionPolicy(orders_lag=0.0)
    buyer = await connect(*login, options=Options(clock=clock, completion=policy), journal=journal)
    reader = await connect(*login, options=Options(clock=clock, completion=policy, read_only=True), journal=journal)
    await buyer.customers.create("ada", firstname="Ada", lastname="Lovelace")
    basket = await buyer.baskets.add_item("ada", sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*", times=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await buyer.complete.buy(basket, expected_total=basket.paid_total)
    before = sandbox.requests.total
    with pytest.raises(ConfigurationError, match=r"complete\.reconcile\(fence=True\) is refused"):
        await reader.complete.reconcile(unknown.value, fence=True)
    assert sandbox.requests.total == before
    [pending] = await reader.complete.pending()
    assert pending.state == IntentState.UNKNOWN
    completion = await reader.complete.reconcile(pending)
    assert completion.reconciled
    assert await buyer.complete.pending() == []


async def test_with_options_stays_read_only(reader: Any):
    with pytest.raises(ConfigurationError, match="read_only"):
        await reader.with_options(language="en").customers.remove("ada")


def test_read_only_must_be_bool():
    with pytest.raises(ConfigurationError, match=r"Options\.read_only: must be bool, not int"):
        Options(read_only=1)  # type: ignore[arg-type]
