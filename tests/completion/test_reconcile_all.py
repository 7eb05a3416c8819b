"""`complete.reconcile_all`: many intents in the time of one, and never more than the list of orders proves."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest

from minted_connect import AsyncMintedConnect, CompletionPolicy, ReconcileResult
from minted_connect.core.request import Request
from minted_connect.errors import (
    CompletionRejected,
    InvalidInput,
    JournalError,
    NotExecuted,
    OutcomeUnknown,
    ServerError,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import (
    CUSTOMER,
    TOTAL,
    FakeApiClient,
    basket_json,
    completions_of,
    intent_of,
    order_json,
    order_of,
    page_json,
)
from tests.completion.shops import Shop

pytestmark = pytest.mark.anyio

MANY = 200
PER_PAGE = 30


async def lose_response(shop: Shop, client: Any, customer: str, fault: str = "drop_after_commit") -> Intent:
    """Buy for a customer, lose the response by a fault, and return the intent."""
    basket = await shop.fill(client, customer_id=customer)
    shop.sandbox.faults.add(fault, path="*/complete/*", times=1)  # type: ignore[call-overload]
    with pytest.raises(OutcomeUnknown) as unknown:
        await client.complete.buy(basket, expected_total=basket.paid_total)
    return unknown.value.intent


@pytest.fixture
def memory_shop(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Shop:
    return Shop(connect, sandbox, clock, MemoryJournal())


# --- the sandbox, both clients -----------------------------------------------------------------------------------


async def test_many_intents_settle_with_few_requests(sandbox: Sandbox, clock: ManualClock):
    async with AsyncExitStack() as stack:

        async def connect(url: str, *credentials: str, **settings: Any) -> AsyncMintedConnect:
            return await stack.enter_async_context(AsyncMintedConnect(*credentials, base_url=url, **settings))

        await check_many_intents(Shop(connect, sandbox, clock, MemoryJournal()))


async def check_many_intents(shop: Shop) -> None:
    """Check that the orders of many intents are found in the time and with about as many requests as pages."""
    client = await shop.client()
    intents = [await lose_response(shop, client, f"customer-{number}") for number in range(MANY)]
    began, requests = shop.clock.monotonic(), len(shop.sandbox.requests)
    reported: list[ReconcileResult] = []
    results = await client.complete.reconcile_all(on_result=reported.append)
    assert [result.intent.id for result in results] == [intent.id for intent in intents]
    assert [result.completion.order_id for result in results] == [intent.basket_id for intent in intents]
    assert {result.intent.id for result in reported} == {intent.id for intent in intents}
    assert len(shop.sandbox.requests) - requests <= MANY / PER_PAGE + 1
    assert shop.clock.monotonic() == began
    assert await client.complete.pending() == []
    assert shop.sent() == MANY


async def test_intents_without_order_stay_open(memory_shop: Shop):
    shop = memory_shop
    client = await shop.client()
    ordered = [await lose_response(shop, client, f"customer-{number}") for number in range(8)]
    for number in range(8, 12):
        await lose_response(shop, client, f"customer-{number}", "drop_before_read")
    results = await client.complete.reconcile_all()
    confirmed = [result for result in results if result.completion is not None]
    assert [result.intent.id for result in confirmed] == [intent.id for intent in ordered]
    assert all(isinstance(result.error, OutcomeUnknown) for result in results[8:])
    assert [intent.id for intent in await client.complete.pending()] == [result.intent.id for result in results[8:]]


async def test_fence_clears_open_baskets(shop: Shop):
    client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1, fence_proves_not_executed=True))
    await lose_response(shop, client, "customer-1")
    await lose_response(shop, client, "customer-2", "drop_before_read")
    ordered, cleared = await client.complete.reconcile_all(fence=True)
    assert ordered.completion.order_id == ordered.intent.basket_id
    assert isinstance(cleared.error, NotExecuted)
    assert await client.complete.pending() == []
    assert len(shop.sandbox.requests.of("baskets.clear")) == 1


async def test_wrong_password_is_tried_once(memory_shop: Shop):
    client = await memory_shop.client()
    for number in range(5):
        await lose_response(memory_shop, client, f"customer-{number}")
    memory_shop.sandbox.password = "another"
    other = await memory_shop.client()
    requests = len(memory_shop.sandbox.requests)
    results = await other.complete.reconcile_all()
    assert len(results) == 5
    assert all("AuthenticationFailed" in "".join(result.error.evidence) for result in results)
    sent = [*memory_shop.sandbox.requests][requests:]
    assert [(entry.operation, entry.status) for entry in sent] == [("orders.page", 401)] * 2


async def test_order_of_a_later_intent_is_left_to_that_intent(shop: Shop):
    client = await shop.client(CompletionPolicy(orders_lag=1, latest_landing=1, fence_proves_not_executed=True))
    october = await lose_response(shop, client, "customer-1", "drop_before_read")
    with pytest.raises(NotExecuted):
        await client.complete.reconcile(october, fence=True)
    november = await lose_response(shop, client, "customer-1")
    assert november.cart_token == october.cart_token
    first, second = await client.complete.reconcile_all(intents=[october, november])
    assert (first.completion, second.completion.order_id) == (None, november.basket_id)
    assert f"intent {november.id}" in str(first.error)


async def test_intents_of_another_account_are_left_out(memory_shop: Shop):
    client = await memory_shop.client()
    intent = await lose_response(memory_shop, client, "customer-1")
    journal = memory_shop.location
    foreign = attrs.evolve(intent, id="a" * 32, cart_token="f" * 32, account="0" * 64)
    await journal.prepare(foreign)
    (result,) = await client.complete.reconcile_all()
    assert result.intent.id == intent.id
    (refused,) = await client.complete.reconcile_all(intents=[foreign])
    assert isinstance(refused.error, InvalidInput)


@pytest.mark.parametrize("arguments", [{"budget": 0}, {"concurrency": 0}, {"fence": 1}, {"intents": ["id"]}])
async def test_invalid_argument_is_refused(memory_shop: Shop, arguments: dict[str, Any]):
    client = await memory_shop.client()
    with pytest.raises(InvalidInput):
        await client.complete.reconcile_all(**arguments)


# --- what the walk may prove -------------------------------------------------------------------------------------


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


def is_walk(request: Request) -> bool:
    return request.operation.name == "orders.page" and "customer_external_id" not in dict(request.query)


def second_intent(**changes: Any) -> Intent:
    keys = {"id": "0b9c1f2e-0000-4000-8000-000000000002", "cart_token": "Y" * 32, "guid": "SECOND"}
    return intent_of(**{**keys, "increment_id": "59047701705", "basket_id": 10985, **changes})


async def reconcile_both(api: FakeApiClient, first: Intent, second: Intent, **options: Any) -> list[ReconcileResult]:
    journal = MemoryJournal()
    for intent in (first, second):
        await journal.prepare(intent)
    return await completions_of(api, journal).reconcile_all(intents=[first, second], budget=10, **options)


def respond(api: FakeApiClient, walk: Any, own: Any) -> None:
    """Respond to the walk, and to the searches of a customer's orders, with different orders."""

    def orders(request: Request) -> Any:
        response = walk if is_walk(request) else own
        if isinstance(response, Exception):
            raise response
        return page_json(response)

    api.basket, api.orders = None, orders


@pytest.mark.parametrize(
    "walk",
    [
        [],
        ServerError("down", 500),
        [order_of("customer-2")],
        [order_json(token="", guid="", increment_id="")],
        [order_json(order_creation_status="basket")],
        [{**order_json(), "customer": {}}],
    ],
    ids=["empty", "failed", "of another customer", "without keys", "still a basket", "of no customer"],
)
async def test_walk_without_the_order_proves_nothing(api: FakeApiClient, walk: Any):
    respond(api, walk, [order_json()])
    first, second = await reconcile_both(api, intent_of(), second_intent())
    assert first.completion is not None
    assert isinstance(second.error, OutcomeUnknown)
    own = [request for request in api.sent if request.operation.name == "orders.page" and not is_walk(request)]
    assert own


async def test_walk_confirms_without_reads_of_the_intent(api: FakeApiClient):
    respond(api, [order_json(), order_json(token="Y" * 32, guid="SECOND", increment_id="59047701705", id=10985)], [])
    results = await reconcile_both(api, intent_of(), second_intent())
    assert all(result.completion is not None for result in results)
    assert all(is_walk(request) for request in api.sent)


@pytest.mark.requirement(14)
async def test_failed_order_in_the_walk_is_read_back(api: FakeApiClient):
    respond(api, [order_json(status_name="Cancelled")], [order_json()])
    first, _ = await reconcile_both(api, intent_of(), second_intent())
    assert first.completion is not None
    respond(api, [order_json(status_name="Cancelled")], [order_json(status_name="Cancelled")])
    first, _ = await reconcile_both(api, intent_of(), second_intent())
    assert isinstance(first.error, CompletionRejected)


async def test_second_order_of_a_basket_is_named(api: FakeApiClient):
    rows = [order_json(), order_json(id=10990)]
    respond(api, rows, rows)
    first, _ = await reconcile_both(api, intent_of(), second_intent())
    assert first.completion is not None
    assert "order 10990 has keys of the same basket" in first.completion.differences


@pytest.mark.requirement(14)
@pytest.mark.parametrize("in_walk", [True, False])
async def test_one_order_counts_for_one_intent(api: FakeApiClient, in_walk: bool):
    order = order_json(token="Y" * 32)
    respond(api, [order] if in_walk else [], [order])
    same_guid = second_intent(guid=intent_of().guid)
    first, second = await reconcile_both(api, intent_of(), same_guid)
    assert second.completion is not None
    assert isinstance(first.error, OutcomeUnknown)
    assert f"belongs to intent {same_guid.id}" in str(first.error)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_at_most_concurrency_intents_are_read_at_a_time(api: FakeApiClient, concurrency: int):
    customers: set[str] = set()
    highest = 0

    async def basket(request: Request) -> Any:
        nonlocal highest
        customer = dict(request.query)["external_customer_id"]
        customers.add(customer)
        highest = max(highest, len(customers))
        for _ in range(5):
            await asyncio.sleep(0)
        customers.remove(customer)
        return None

    api.basket = basket
    journal = MemoryJournal()
    intents = [second_intent(id=f"{number}" * 32, external_customer_id=f"customer-{number}") for number in range(9)]
    for intent in intents:
        await journal.prepare(intent)
    completions = completions_of(api, journal)
    results = await completions.reconcile_all(intents=intents, budget=30, concurrency=concurrency)
    assert highest == concurrency
    assert len(results) == 9
    assert all(isinstance(result.error, OutcomeUnknown) for result in results)


async def drive(clock: ManualClock) -> None:
    """Move the clock when every task waits for it."""
    while True:
        for _ in range(200):
            await asyncio.sleep(0)
        if clock.sleepers:
            clock.advance(0.5)


async def test_polls_of_many_intents_take_the_time_of_one(api: FakeApiClient):
    api.basket = None
    journal = MemoryJournal()
    customers = [f"customer-{number}" for number in range(12)]
    intents = [
        second_intent(id=f"{number:032x}", external_customer_id=customer, cart_token=f"{number:032x}")
        for number, customer in enumerate(customers)
    ]
    for intent in intents:
        await journal.prepare(intent)
    completions = completions_of(api, journal)
    assert isinstance(api.clock, ManualClock)
    api.clock.auto_advance = False
    driver = asyncio.create_task(drive(api.clock))
    began = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown):
        await completions.reconcile(intents[0])
    single, polls = api.clock.monotonic() - began, api.count("baskets.get_active")
    began = api.clock.monotonic()
    await completions.reconcile_all(intents=intents, concurrency=2)
    driver.cancel()
    assert api.clock.monotonic() - began == single
    assert api.count("baskets.get_active") == polls * (len(intents) + 1)


@pytest.mark.parametrize("budget", [5, 40])
async def test_budget_limits_the_time_of_the_polls(api: FakeApiClient, budget: float):
    began = api.clock.monotonic()
    journal = MemoryJournal()
    intent = intent_of()
    await journal.prepare(intent)
    with pytest.raises(OutcomeUnknown):
        await completions_of(api, journal).reconcile(intent, budget=budget)
    single = api.clock.monotonic() - began
    assert 0 < single <= budget
    began = api.clock.monotonic()
    await completions_of(api, journal).reconcile_all(intents=[intent, second_intent()], budget=budget)
    assert api.clock.monotonic() - began <= budget


async def test_intent_in_flight_is_left_out(api: FakeApiClient):
    arrived, released = asyncio.Event(), asyncio.Event()

    async def complete(request: Request, progress: Any) -> Any:
        arrived.set()
        await released.wait()
        return api.execute(request)

    def start(request: Request, progress: Any) -> Any:
        return complete(request, progress)

    api.complete = start
    journal = MemoryJournal()
    completions = completions_of(api, journal)
    buying = asyncio.create_task(completions.buy(api.seen_basket(), expected_total=TOTAL))
    await arrived.wait()
    (prepared,) = await journal.pending()
    assert await completions.reconcile_all() == []
    assert await completions.reconcile_all(intents=[prepared]) == []
    released.set()
    assert (await buying).order is not None


async def test_failure_of_one_intent_leaves_the_others(api: FakeApiClient):
    class BrokenJournal(MemoryJournal):
        async def get(self, intent_id: str) -> Intent | None:
            if intent_id == intent_of().id:
                raise OSError("the disk is gone")
            return await super().get(intent_id)

    journal = BrokenJournal()
    intents = [intent_of(), second_intent()]
    for intent in intents:
        await journal.prepare(intent)
    respond(api, [], [order_json(token="Y" * 32, guid="SECOND", increment_id="59047701705", id=10985)])
    first, second = await completions_of(api, journal).reconcile_all(intents=intents, budget=5)
    assert isinstance(first.error, OSError)
    assert second.completion is not None


async def test_unreadable_journal_is_raised(api: FakeApiClient):
    class BrokenJournal(MemoryJournal):
        async def pending(self) -> list[Intent]:
            raise JournalError("the disk is gone")

    with pytest.raises(JournalError):
        await completions_of(api, BrokenJournal()).reconcile_all()


async def test_raising_hook_is_logged(api: FakeApiClient, caplog: pytest.LogCaptureFixture):
    def on_result(result: ReconcileResult) -> None:
        raise ValueError(CUSTOMER)

    api.basket = basket_json()
    first, second = await reconcile_both(api, intent_of(), second_intent(), on_result=on_result)
    assert (first.error is None, second.error is None) == (False, False)
    assert "on_result of reconcile_all raised" in caplog.text


async def test_single_intent_is_found_without_walk(api: FakeApiClient):
    journal = MemoryJournal()
    await journal.prepare(intent_of())
    api.orders = [order_json()]
    (result,) = await completions_of(api, journal).reconcile_all(intents=[intent_of()])
    assert result.completion is not None
    assert not [request for request in api.sent if is_walk(request)]
    stored = await journal.get(intent_of().id)
    assert stored is not None
    assert stored.state == IntentState.CONFIRMED
