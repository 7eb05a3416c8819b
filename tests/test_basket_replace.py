"""`baskets.replace`: the lines of a basket, under faults of each change and beside purchases."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minted_connect import (
    AlreadyInFlight,
    AsyncMintedConnect,
    BasketIncomplete,
    CompletionPolicy,
    InvalidInput,
    MemoryJournal,
    MintedConnectError,
    Options,
    RateLimited,
    ValidationFailed,
)
from minted_connect.models import Basket, IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import intent_of
from tests.support.operations import GOLD, SILVER

CUSTOMER = "customer-1"
SILVER_BAR, COIN, PLATE = SILVER, "MNTCOIN2012", "MNTCOIN7216"
START = ((GOLD, 1), (SILVER_BAR, 4), (COIN, 1))
TARGET = {GOLD: 2, SILVER_BAR: 3, PLATE: 1}
"""Takes one change of each kind: delete the coin, reduce the silver bars, raise the gold bars, add a line."""

Lines = Sequence[tuple[str, int]]


def lines_of(basket: Basket) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    for item in basket.items:
        lines.setdefault(item.sku, []).append(item.amount)
    return lines


def stored_lines(sandbox: Sandbox, customer: str = CUSTOMER) -> list[tuple[str, int]]:
    [owner] = [stored.id for stored in sandbox.shop.customers if stored.external_id == customer]
    baskets = [basket for basket in sandbox.shop.baskets if basket.customer == owner]
    return [(item.sku, item.amount) for basket in baskets for item in basket.items]


def assert_replaced(sandbox: Sandbox, basket: Basket, target: dict[str, int]) -> None:
    assert sorted(stored_lines(sandbox, basket.customer.external_id)) == sorted(target.items())
    assert lines_of(basket) == {sku: [qty] for sku, qty in target.items()}


def assert_error_is_true(
    sandbox: Sandbox, error: BasketIncomplete, target: dict[str, int], customer: str = CUSTOMER
) -> None:
    pieces: Counter[str] = Counter()
    for sku, amount in stored_lines(sandbox, customer):
        pieces[sku] += amount
    assert error.missing == {sku: qty - pieces[sku] for sku, qty in target.items() if pieces[sku] < qty}
    assert error.present == {sku: qty for sku, qty in target.items() if pieces[sku] == qty}
    assert error.surplus == {sku: n - target.get(sku, 0) for sku, n in pieces.items() if n > target.get(sku, 0)}
    assert isinstance(error.__cause__, MintedConnectError)
    assert not error.safe_to_retry


async def fill(minted: Any, sandbox: Sandbox, lines: Lines = START, customer: str = CUSTOMER) -> Basket | None:
    owner = sandbox.shop.create_customer(sandbox.username, customer, {"lastname": "Before"})
    for sku, amount in lines:
        sandbox.shop.add_item(owner, sku, amount)
    basket = await minted.baskets.get_active(customer)
    sandbox.requests.clear()
    return basket


def sent_changes(sandbox: Sandbox) -> list[str]:
    return [entry.method for entry in sandbox.requests if entry.method != "GET" and entry.status != 401]


async def wait_for_hang(fault: Any) -> None:
    while not fault.waiting:
        await asyncio.sleep(0.001)


async def test_replace_takes_pieces_away_before_it_adds(minted, sandbox, clock):
    basket = await fill(minted, sandbox)
    assert_replaced(sandbox, await minted.baskets.replace(basket, TARGET), TARGET)
    assert sent_changes(sandbox) == ["DELETE", "PATCH", "PATCH", "POST"]
    amounts = [entry.body["qty"] for entry in sandbox.requests if entry.method == "PATCH"]
    assert amounts == [3, 2]


@pytest.mark.parametrize("given_as", ["customer id", "basket", "key"])
async def test_replace_twice_changes_nothing_more(minted, sandbox, clock, given_as):
    basket = await fill(minted, sandbox)
    subject = {"customer id": CUSTOMER, "basket": basket, "key": basket.key}[given_as]
    await minted.baskets.replace(subject, TARGET)
    sandbox.requests.clear()
    assert_replaced(sandbox, await minted.baskets.replace(subject, TARGET), TARGET)
    assert [entry.method for entry in sandbox.requests] == ["GET", "PATCH"]


@pytest.mark.parametrize("kind", [None, "buy", "sell", "delivery"])
async def test_replace_without_basket_opens_one_of_the_kind(minted, sandbox, clock, kind):
    await fill(minted, sandbox, ())
    [owner] = sandbox.shop.customers
    sandbox.shop.give(owner.external_id, GOLD, 5)
    basket = await minted.baskets.replace(CUSTOMER, {GOLD: 2}, **({} if kind is None else {"type": kind}))
    assert_replaced(sandbox, basket, {GOLD: 2})
    assert basket.kind == (kind or "buy")


async def test_replace_merges_lines_of_one_sku(minted, sandbox, clock):
    basket = await fill(minted, sandbox, ((GOLD, 1), (GOLD, 1), (SILVER, 1), (SILVER, 2)))
    assert_replaced(sandbox, await minted.baskets.replace(basket, {GOLD: 2, SILVER: 2}), {GOLD: 2, SILVER: 2})


async def test_replace_of_all_lines_keeps_the_basket(minted, sandbox, clock):
    basket = await fill(minted, sandbox)
    replaced = await minted.baskets.replace(basket.key, {PLATE: 1})
    assert_replaced(sandbox, replaced, {PLATE: 1})
    assert replaced.token == basket.token


async def test_replace_with_another_kind_changes_nothing(minted, sandbox, clock):
    basket = await fill(minted, sandbox, ((GOLD, 1),))
    for subject in (CUSTOMER, basket, basket.key):
        with pytest.raises(InvalidInput) as caught:
            await minted.baskets.replace(subject, TARGET, type="delivery")
        assert caught.value.field == "type"
    assert sent_changes(sandbox) == []


async def test_replace_of_a_closed_basket_changes_nothing(minted, sandbox, clock):
    basket = await fill(minted, sandbox, ((GOLD, 1),))
    sandbox.shop.complete("buy", sandbox.shop.customers[0], basket.token)
    with pytest.raises(InvalidInput, match="basket: is no longer open"):
        await minted.baskets.replace(basket, TARGET)
    assert sent_changes(sandbox) == []


async def test_replace_refused_at_first_raises_the_refusal(minted, sandbox, clock):
    await fill(minted, sandbox, ())
    with pytest.raises(ValidationFailed) as caught:
        await minted.baskets.replace(CUSTOMER, {"NO-SUCH-SKU": 1})
    assert "sku" in caught.value.fields
    assert stored_lines(sandbox) == []


async def test_replace_refused_later_says_what_is_missing(minted, sandbox, clock):
    basket = await fill(minted, sandbox)
    with pytest.raises(BasketIncomplete, match=r"present: 1 x .*; missing: 1 x NO-SUCH-SKU") as caught:
        await minted.baskets.replace(basket, {GOLD: 1, "NO-SUCH-SKU": 1})
    error = caught.value
    assert isinstance(error.__cause__, ValidationFailed)
    assert (error.present, error.missing, error.surplus) == ({GOLD: 1}, {"NO-SUCH-SKU": 1}, {})
    assert lines_of(error.basket) == {GOLD: [1]}
    assert (error.method, error.path) == ("POST", "/partner/walletable/basket")


async def test_incomplete_error_is_pickled_without_personal_data(minted, sandbox, clock):
    basket = await fill(minted, sandbox)
    with pytest.raises(BasketIncomplete) as caught:
        await minted.baskets.replace(basket, {GOLD: 1, "NO-SUCH-SKU": 1})
    error = caught.value
    restored = pickle.loads(pickle.dumps(error))
    assert (str(restored), restored.missing, restored.method) == (str(error), error.missing, "POST")
    assert restored.basket.token == "***"
    assert copy.copy(error).basket == copy.deepcopy(error).basket == error.basket
    assert CUSTOMER.encode() not in pickle.dumps(error)


FAULTS = [
    ("drop_before_read", {}),
    ("drop_after_commit", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("html", {"commit": True}),
    ("html", {"commit": False}),
    ("redirect", {"commit": True}),
    ("status", {"status": 500, "commit": True}),
    ("status", {"status": 500, "commit": False}),
    ("status", {"status": 503, "retry_after": 2}),
    ("status", {"status": 409, "commit": True}),
    ("status", {"status": 404}),
    ("rate_limit", {"retry_after": 1}),
    ("rate_limit", {"retry_after": 3600}),
    ("rate_limit", {"retry_after": 3600, "commit": True}),
    ("wrong_customer", {}),
]


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize(("method", "after"), [("DELETE", 0), ("PATCH", 0), ("PATCH", 1), ("POST", 0)], ids=str)
async def test_replace_under_every_fault_ends_or_names_the_missing(minted, sandbox, clock, method, after, times):
    for number, (kind, args) in enumerate(FAULTS):
        customer = f"customer-{number}"
        basket = await fill(minted, sandbox, customer=customer)
        fault = sandbox.faults.add(kind, method=method, after=after, times=times, **args)
        try:
            replaced = await minted.baskets.replace(basket, TARGET)
        except BasketIncomplete as error:
            assert_error_is_true(sandbox, error, TARGET, customer)
        except MintedConnectError as error:
            # The first change was not made.
            assert method == "DELETE", (kind, args, error)
            assert sorted(stored_lines(sandbox, customer)) in (sorted(START), sorted(START[:2])), (kind, args)
        else:
            assert_replaced(sandbox, replaced, TARGET)
        pieces = Counter(dict(stored_lines(sandbox, customer)))
        assert all(pieces[sku] <= max(dict(START).get(sku, 0), TARGET.get(sku, 0)) for sku in pieces), (kind, args)
        fault.remove()
        assert_replaced(sandbox, await minted.baskets.replace(basket, TARGET), TARGET)


@pytest.mark.parametrize(("kind", "args"), FAULTS, ids=[f"{kind}-{args}" for kind, args in FAULTS])
async def test_replace_that_opens_a_basket_never_adds_a_line_twice(minted, sandbox, clock, kind, args):
    await fill(minted, sandbox, ())
    sandbox.faults.add(kind, method="POST", **args)
    try:
        await minted.baskets.replace(CUSTOMER, {GOLD: 2, SILVER: 1})
    except BasketIncomplete as error:
        assert_error_is_true(sandbox, error, {GOLD: 2, SILVER: 1})
    except MintedConnectError:
        pass
    assert Counter(dict(stored_lines(sandbox))) <= Counter({GOLD: 2, SILVER: 1})
    target = {GOLD: 2, SILVER: 1}
    assert_replaced(sandbox, await minted.baskets.replace(CUSTOMER, target), target)


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "POST"])
async def test_replace_with_stale_reads_waits_until_a_change_shows(connect, method):
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock, reads_lag=8) as server:
        options = Options(clock=clock, completion=CompletionPolicy(orders_lag=10))
        minted = await connect(server.url, server.username, server.password, options=options)
        await fill(minted, server)
        clock.advance(8)
        basket = await minted.baskets.get_active(CUSTOMER)
        server.requests.clear()
        server.faults.add("redirect", method=method, commit=True)
        assert_replaced(server, await minted.baskets.replace(basket, TARGET), TARGET)
        assert sorted(sent_changes(server)) == ["DELETE", "PATCH", "PATCH", "POST"]


async def test_replace_does_not_believe_a_stale_read(connect):
    clock = ManualClock(auto_advance=True)
    async with Sandbox(seed=1, clock=clock, reads_lag=8) as server:
        minted = await connect(server.url, server.username, server.password, options=Options(clock=clock))
        await fill(minted, server, ((GOLD, 1),))
        clock.advance(8)
        basket = await minted.baskets.get_active(CUSTOMER)
        await minted.baskets.add_item(basket, sku=GOLD, qty=5)
        await minted.baskets.add_item(basket, sku=COIN)
        assert_replaced(server, await minted.baskets.replace(basket, {GOLD: 1}), {GOLD: 1})


@pytest.mark.parametrize("commit", ["acceptance", "never"])
async def test_throttled_addition_is_not_sent_again(minted, sandbox, clock, commit):
    basket = await fill(minted, sandbox, ((GOLD, 1),))
    sandbox.faults.add("rate_limit", method="POST", retry_after=1, commit=commit == "acceptance")
    if commit == "acceptance":
        replaced = await minted.baskets.replace(basket, {GOLD: 1, SILVER: 2})
        assert_replaced(sandbox, replaced, {GOLD: 1, SILVER: 2})
    else:
        with pytest.raises(BasketIncomplete) as caught:
            await minted.baskets.replace(basket, {GOLD: 1, SILVER: 2})
        assert isinstance(caught.value.__cause__, RateLimited)
        assert caught.value.missing == {SILVER: 2}
    assert sent_changes(sandbox) == ["POST"]


# Purchases.


@pytest.mark.parametrize("state", [IntentState.UNKNOWN, IntentState.PREPARED, IntentState.CONFIRMED])
async def test_replace_of_a_basket_with_active_intent_is_refused(connect, sandbox, clock, state):
    journal = MemoryJournal()
    minted = await connect(
        sandbox.url, sandbox.username, sandbox.password, journal=journal, options=Options(clock=clock)
    )
    basket = await fill(minted, sandbox)
    intent = intent_of(external_customer_id=CUSTOMER, cart_token=basket.token, state=IntentState.PREPARED)
    await journal.prepare(intent)
    await journal.settle(intent.id, state)
    for subject in (CUSTOMER, basket, basket.key):
        with pytest.raises(AlreadyInFlight) as caught:
            await minted.baskets.replace(subject, TARGET)
        assert caught.value.intent_id == intent.id
    assert sent_changes(sandbox) == []
    assert stored_lines(sandbox) == [*START]
    if state is not IntentState.CONFIRMED:
        await journal.settle(intent.id, IntentState.NOT_EXECUTED)
        assert_replaced(sandbox, await minted.baskets.replace(basket, TARGET), TARGET)


async def test_replace_during_a_purchase_is_refused(minted, sandbox):
    basket = await fill(minted, sandbox)
    fault = sandbox.faults.add("hang", method="POST", path="*/complete/buy", commit=True)
    buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
    await wait_for_hang(fault)
    for subject in (CUSTOMER, basket):
        with pytest.raises(AlreadyInFlight, match="is being completed"):
            await minted.baskets.replace(subject, TARGET)
    fault.remove()
    completion = await buying
    assert [(item.sku, item.amount) for item in completion.require_order().items] == [*START]
    with pytest.raises(AlreadyInFlight) as caught:
        await minted.baskets.replace(basket, TARGET)
    assert caught.value.order_id == completion.order_id


async def test_purchase_during_replace_waits_and_is_not_sent(minted, sandbox):
    basket = await fill(minted, sandbox)
    fault = sandbox.faults.add("hang", method="PATCH", commit=True)
    replacing = asyncio.create_task(minted.baskets.replace(basket, TARGET))
    await wait_for_hang(fault)
    buying = asyncio.create_task(minted.complete.buy(basket, expected_total=basket.paid_total))
    await asyncio.sleep(0.05)
    assert not sandbox.requests.of("complete.buy")
    fault.remove()
    assert_replaced(sandbox, await replacing, TARGET)
    with pytest.raises(InvalidInput, match="was changed since it was read"):
        await buying
    assert not sandbox.requests.of("complete.buy")


async def test_concurrent_replaces_do_not_mix(minted, sandbox):
    basket = await fill(minted, sandbox)
    targets = [TARGET, {GOLD: 1}, {COIN: 2, GOLD: 3}]
    baskets = await asyncio.gather(*(minted.baskets.replace(basket, target) for target in targets))
    assert [lines_of(one) for one in baskets] == [{sku: [qty] for sku, qty in t.items()} for t in targets]
    assert dict(stored_lines(sandbox)) in targets


async def test_intent_of_another_process_stops_replace(connect, sandbox, clock):
    journal = MemoryJournal()
    minted = await connect(
        sandbox.url, sandbox.username, sandbox.password, journal=journal, options=Options(clock=ManualClock())
    )
    basket = await fill(minted, sandbox)
    fault = sandbox.faults.add("hang", method="DELETE", commit=True)
    replacing = asyncio.create_task(minted.baskets.replace(basket, TARGET))
    await wait_for_hang(fault)
    await journal.prepare(intent_of(external_customer_id=CUSTOMER, cart_token=basket.token, state=IntentState.PREPARED))
    fault.remove()
    with pytest.raises(BasketIncomplete) as caught:
        await replacing
    assert isinstance(caught.value.__cause__, AlreadyInFlight)
    assert stored_lines(sandbox) == [*START[:2]]


async def test_cancelled_replace_has_a_note(sandbox):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as minted:
        basket = await fill(minted, sandbox)
        fault = sandbox.faults.add("hang", method="PATCH")
        replacing = asyncio.create_task(minted.baskets.replace(basket, TARGET))
        await wait_for_hang(fault)
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await replacing
        assert "call again" in " ".join(caught.value.__notes__)
        fault.remove()
        assert_replaced(sandbox, await minted.baskets.replace(basket, TARGET), TARGET)


SKUS = (GOLD, SILVER, COIN, PLATE)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    start=st.lists(st.tuples(st.sampled_from(SKUS), st.integers(1, 3)), max_size=5),
    target=st.dictionaries(st.sampled_from(SKUS), st.integers(1, 9), min_size=1),
    fault=st.none() | st.tuples(st.sampled_from(FAULTS), st.sampled_from(["DELETE", "PATCH", "POST"])),
    after=st.integers(0, 3),
)
def test_replace_of_any_basket_reaches_any_target(start, target, fault, after):
    async def check() -> None:
        clock = ManualClock(auto_advance=True)
        policy = CompletionPolicy(orders_lag=0.0)
        async with Sandbox(seed=1, clock=clock) as server:
            options = Options(clock=clock, completion=policy)
            async with AsyncMintedConnect(
                server.username, server.password, base_url=server.url, options=options
            ) as minted:
                basket = await fill(minted, server, start) or CUSTOMER
                if fault is not None:
                    (kind, args), method = fault
                    server.faults.add(kind, method=method, after=after, **args)
                before = Counter()
                for sku, amount in start:
                    before[sku] += amount
                try:
                    assert_replaced(server, await minted.baskets.replace(basket, target), target)
                except BasketIncomplete as error:
                    assert_error_is_true(server, error, target)
                except MintedConnectError:
                    assert fault is not None
                pieces = Counter()
                for sku, amount in stored_lines(server):
                    pieces[sku] += amount
                assert all(pieces[sku] <= max(before[sku], target.get(sku, 0)) for sku in pieces)
                server.faults.clear()
                assert_replaced(server, await minted.baskets.replace(basket, target), target)

    asyncio.run(check())
