"""`complete.reconciler`: settles open intents in the background, in one process per journal."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import anyio.to_thread
import attrs
import pytest

from minted_connect import AsyncMintedConnect, CompletionPolicy, MintedConnect, Options
from minted_connect.completion.read_schedule import MAX_WAIT, PREPARED_WAIT, ReadSchedule
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.errors import (
    AuthenticationFailed,
    ClientClosedError,
    ConfigurationError,
    InvalidInput,
    JournalError,
    NotExecuted,
    OutcomeUnknown,
    ServerError,
)
from minted_connect.journal import open_journal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, ReferenceJournal
from minted_connect.models import Intent, IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.fakes import intent_of
from tests.completion.reconcilers import Events, find_lease, lose_response, reconciling
from tests.completion.shops import Shop
from tests.conftest import Awaitably
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

INTERVAL = 60.0
READS_LAG = 90.0
LEASE = 6.0
"""Seconds; long enough for a busy machine."""
NO_JITTER = {"random": lambda: 0.0}


@pytest.fixture
def memory_shop(connect: Any, sandbox: Sandbox, clock: ManualClock) -> Shop:
    """A shop whose clock moves only when the test moves it."""
    clock.auto_advance = False
    return Shop(connect, sandbox, clock, MemoryJournal())


async def advance(shop: Shop, seconds: float = INTERVAL) -> None:
    """Move the clock once the reconciler sleeps."""
    await wait_until(lambda: shop.clock.sleepers)
    shop.clock.advance(seconds)


def journal_of(shop: Shop) -> Any:
    return shop.location if isinstance(shop.location, MemoryJournal) else open_journal(shop.location)


# --- rounds ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement(14)
@pytest.mark.requirement(45)
async def test_open_intents_are_settled_at_once(shop: Shop):
    client, events = await shop.client(), Events()
    intents = [await lose_response(shop, client, f"customer-{number}") for number in range(3)]
    shop.clock.auto_advance = False
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.rounds)
        assert reconciler.is_active
        assert {result.intent.id for result in events.results} == {intent.id for intent in intents}
        assert {result.completion.order_id for result in events.results} == {one.basket_id for one in intents}
        status = reconciler.status
        assert (status.open_intents, status.settled, status.failures, status.last_error) == (0, 3, 0, None)
        assert status.last_round_at == shop.clock.wall()
    assert await client.complete.pending() == []
    assert events.states == ["active", "closed"]
    assert not reconciler.is_active
    assert events.errors == []
    assert shop.sent() == 3


async def test_rounds_follow_the_clock_of_the_client(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(), Events()
    async with reconciling(client, events, interval=INTERVAL) as reconciler:
        await wait_until(lambda: reconciler.status.rounds == 1)
        await lose_response(shop, client, "customer-1")
        await advance(shop, INTERVAL - 1)
        await wait_until(lambda: shop.clock.sleepers)
        assert reconciler.status.rounds == 1
        await advance(shop, 1)
        await wait_until(lambda: reconciler.status.rounds == 2)
        assert len(events.results) == 1


async def test_order_behind_stale_reads_is_found_by_a_later_round(connect: Any, clock: ManualClock):
    clock.auto_advance = False
    async with Sandbox(seed=1, clock=clock, reads_lag=READS_LAG) as sandbox:
        shop, events = Shop(connect, sandbox, clock, MemoryJournal()), Events()
        client = await shop.client(options=Options(clock=clock, **NO_JITTER))
        basket = await shop.fill(client)
        clock.advance(READS_LAG + 1)
        sandbox.faults.add("drop_after_commit", path="*/complete/*")
        with pytest.raises(OutcomeUnknown):
            await client.complete.buy(basket, expected_total=basket.paid_total)
        async with reconciling(client, events, budget=1.0) as reconciler:
            await wait_until(lambda: reconciler.status.rounds == 1)
            assert (events.results, reconciler.status.open_intents) == ([], 1)
            await advance(shop)
            await wait_until(lambda: reconciler.status.rounds == 2)
            assert (events.results, reconciler.status.open_intents) == ([], 1)
            for _ in range(2):
                await advance(shop)
            await wait_until(lambda: events.results)
        assert [result.completion.order_id for result in events.results] == [basket.id]
        assert shop.sent() == 1


async def test_order_that_is_made_late_is_found_by_a_later_round(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(options=Options(clock=shop.clock, **NO_JITTER)), Events()
    intent = await lose_response(shop, client, "customer-1", "late_commit", seconds=30.0)
    async with reconciling(client, events, budget=1.0) as reconciler:
        await wait_until(lambda: reconciler.status.rounds == 1)
        assert events.results == []
        await advance(shop)
        await wait_until(lambda: events.results)
        assert events.results[0].completion.order_id == intent.basket_id
    assert shop.sent() == 1


async def test_open_intent_is_read_less_often(memory_shop: Shop):
    shop = memory_shop
    client = await shop.client(options=Options(clock=shop.clock, **NO_JITTER))
    await lose_response(shop, client, "customer-1", "drop_before_read")
    reads: list[float] = []
    async with reconciling(client, interval=INTERVAL, budget=1.0) as reconciler:
        seen = 0
        for number in range(16):
            await wait_until(lambda number=number: reconciler.status.rounds == number + 1)
            if (count := len(shop.sandbox.requests.of("orders.page"))) > seen:
                reads.append(shop.clock.monotonic())
                seen = count
            await advance(shop)
    assert reads == [0, INTERVAL, 3 * INTERVAL, 7 * INTERVAL, 15 * INTERVAL]


def test_waits_of_an_open_intent_double_up_to_an_hour():
    schedule, intent = ReadSchedule(INTERVAL, lambda: 0.5), attrs.evolve(intent_of(), state=IntentState.UNKNOWN)
    now, waits = 0.0, []
    for _ in range(10):
        wall = intent.created_at
        assert schedule.select([intent], now, wall) == [intent]
        schedule.postpone(intent.id, now)
        later = now
        while not schedule.select([intent], later, wall):
            later += 7.5
        waits.append(later - now)
        now = later
    assert waits == [*(1.125 * INTERVAL * 2**number for number in range(6)), *[1.125 * MAX_WAIT] * 4]


def test_prepared_intent_waits_for_its_call():
    schedule, intent = ReadSchedule(INTERVAL, lambda: 0.0), attrs.evolve(intent_of(), state=IntentState.PREPARED)
    assert schedule.select([intent], 0.0, intent.created_at) == []
    assert schedule.select([intent], PREPARED_WAIT, intent.created_at) == [intent]
    unknown = attrs.evolve(intent, state=IntentState.UNKNOWN)
    schedule = ReadSchedule(INTERVAL, lambda: 0.0)
    assert schedule.select([intent], 0.0, intent.created_at) == []
    assert schedule.select([unknown], 1.0, intent.created_at) == [unknown]


async def test_intent_in_flight_is_left_to_its_call(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(), Events()
    basket = await shop.fill(client)
    hang = shop.sandbox.faults.add("hang", path="*/complete/*", commit=True)
    buying = asyncio.ensure_future(client.complete.buy(basket, expected_total=basket.paid_total))
    await wait_until(lambda: hang.waiting)
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.rounds)
        assert reconciler.status.open_intents == 0
        hang.remove()
        assert (await buying).order_id == basket.id
    assert events.results == []


# --- failures ----------------------------------------------------------------------------------------------------


async def test_wrong_password_is_reported_once(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(options=Options(clock=shop.clock, **NO_JITTER)), Events()
    await lose_response(shop, client, "customer-1")
    shop.sandbox.password = "another"  # of the next client
    other = await shop.client(options=Options(clock=shop.clock, **NO_JITTER))
    began, tries = len(shop.sandbox.requests), []  # before: the reconciler may send its first request at once
    async with reconciling(other, events, interval=INTERVAL) as reconciler:
        for number in range(1, 5):
            await wait_until(lambda number=number: reconciler.status.failures == number)
            tries.append(len(shop.sandbox.requests) - began)
            await advance(shop, INTERVAL * 2 ** (number - 1))
        await wait_until(lambda: reconciler.status.failures == 5)
        assert isinstance(events.errors[0], AuthenticationFailed)
        assert len(events.errors) == 1
        assert tries == [2, 3, 4, 5]  # the first one needs the challenge
        assert reconciler.status.state == "backing_off"
        assert isinstance(reconciler.status.last_error, AuthenticationFailed)
        # Another process may have the right password: the lease is free.
        lease = await find_lease(other, shop.location)
        assert lease is not None
        assert lease.seconds == 0
        shop.sandbox.add_partner(shop.sandbox.username, "another")  # changes the password
        await advance(shop, 16 * INTERVAL)
        await wait_until(lambda: events.results)
        await wait_until(lambda: reconciler.status.failures == 0)
        assert reconciler.status.last_error is None
    assert shop.sent() == 1


async def test_waits_after_failed_rounds_end_at_an_hour(memory_shop: Shop):
    shop = memory_shop
    client = await shop.client(options=Options(clock=shop.clock, **NO_JITTER))
    await lose_response(shop, client, "customer-1")
    shop.sandbox.password = "another"
    other = await shop.client(options=Options(clock=shop.clock, **NO_JITTER))
    waits = []
    async with reconciling(other, interval=INTERVAL) as reconciler:
        for number in range(1, 10):
            await wait_until(lambda number=number: reconciler.status.failures == number)
            wait = (reconciler.status.next_round_at - shop.clock.wall()).total_seconds()
            waits.append(wait)
            await advance(shop, wait)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


async def test_failure_of_the_server_ends_nothing(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(options=Options(clock=shop.clock, **NO_JITTER)), Events()
    await lose_response(shop, client, "customer-1")
    shop.clock.auto_advance = True
    shop.sandbox.faults.add("status", path="*/orders*", status=500, times=None)
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.failures > 2)
        shop.sandbox.faults.clear()
        await wait_until(lambda: events.results)
    assert [type(error) for error in events.errors] == [ServerError]
    assert shop.sent() == 1


async def test_retry_after_of_the_server_is_waited_for(memory_shop: Shop):
    shop = memory_shop
    client, events = await shop.client(options=Options(clock=shop.clock, **NO_JITTER)), Events()
    await lose_response(shop, client, "customer-1")
    shop.sandbox.faults.add("rate_limit", path="*/orders*", retry_after=600)
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.failures)
        assert (reconciler.status.next_round_at - shop.clock.wall()).total_seconds() == 600
        await advance(shop, 600)
        await wait_until(lambda: events.results)


class FailingJournal(MemoryJournal):
    """A journal that cannot be read, or cannot store leases, while a test says so."""

    fails = ""

    async def pending(self) -> list[Intent]:
        if self.fails == "pending":
            raise JournalError("the journal cannot be read")
        return await super().pending()

    async def claim(self, claim: Any, *, known: Any) -> Any:
        if self.fails == "claim":
            raise JournalError("the journal cannot be written")
        return await super().claim(claim, known=known)

    async def release_claim(self, claim: Any, *, grace: float) -> None:
        if self.fails == "release":
            raise JournalError("the journal cannot be written")
        await super().release_claim(claim, grace=grace)


@pytest.mark.parametrize("method", ["pending", "claim"])
async def test_failure_of_the_journal_ends_nothing(memory_shop: Shop, method: str):
    shop = memory_shop
    journal = shop.location = FailingJournal()
    client, events = await shop.client(options=Options(clock=shop.clock, **NO_JITTER)), Events()
    await lose_response(shop, client, "customer-1")
    journal.fails = method
    async with reconciling(client, events) as reconciler:
        for number in (1, 2):
            await wait_until(lambda number=number: reconciler.status.failures == number)
            await advance(shop, INTERVAL * number)
        await wait_until(lambda: reconciler.status.failures == 3)
        assert [type(error) for error in events.errors] == [JournalError]
        journal.fails = ""
        await advance(shop, 4 * INTERVAL)
        await wait_until(lambda: events.results)


async def test_lease_that_cannot_be_released_expires(memory_shop: Shop, caplog: pytest.LogCaptureFixture):
    journal = memory_shop.location = FailingJournal()
    client = await memory_shop.client()
    async with reconciling(client, lease=1.0) as reconciler:
        await wait_until(lambda: reconciler.is_active)
        journal.fails = "release"
    assert "the lease of the reconciler could not be released" in caplog.text
    async with reconciling(client, lease=1.0) as reconciler:
        await wait_until(lambda: reconciler.is_active)


@pytest.mark.parametrize("hook", ["on_result", "on_error", "on_status"])
@pytest.mark.parametrize("error", [ValueError("canary"), asyncio.CancelledError()], ids=["error", "cancelled"])
async def test_exception_of_a_hook_is_logged(
    memory_shop: Shop, hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
):
    shop = memory_shop
    client = await shop.client(options=Options(clock=shop.clock, **NO_JITTER))
    for number in range(2):
        await lose_response(shop, client, f"customer-{number}")
    if hook == "on_error":
        shop.sandbox.faults.add("status", path="*/orders*", status=404, times=1)

    def fail(_: object) -> None:
        raise error

    async with reconciling(client, **{hook: fail}) as reconciler:
        if hook == "on_error":
            await wait_until(lambda: reconciler.status.failures)
            await advance(shop)
        await wait_until(lambda: reconciler.status.settled == 2)
        await wait_until(lambda: reconciler.status.rounds)
        assert reconciler.is_active
    assert f"{hook} of complete.reconciler raised" in caplog.text


# --- the lease ---------------------------------------------------------------------------------------------------


async def wait_for_renewal(client: Any, shop: Shop) -> None:
    """Wait until the lease has more seconds left than before."""
    journal, left = journal_of(shop), math.inf
    async with asyncio.timeout(20):
        while (lease := await find_lease(client, journal)) is not None and lease.seconds <= left:
            left = lease.seconds
            await asyncio.sleep(0.05)
    assert lease is not None
    await journal.aclose()


@pytest.mark.requirement(16)
async def test_one_of_two_is_active(shop: Shop):
    first, second = await shop.client(), await shop.client()
    shop.clock.auto_advance = False
    events, standby = Events(), Events()
    async with reconciling(first, events, lease=LEASE) as active:
        await wait_until(lambda: active.status.rounds)
        async with reconciling(second, standby, lease=LEASE) as waiting:
            await wait_until(lambda: waiting.status.state == "standing_by")
            assert (active.is_active, waiting.is_active) == (True, False)
            assert await lose_response(shop, first, "customer-1")
            await wait_for_renewal(first, shop)
            assert (active.is_active, waiting.is_active) == (True, False)
            await (anyio.to_thread.run_sync(active.close) if isinstance(first, Awaitably) else active.aclose())
            await wait_until(lambda: standby.results)
            assert waiting.is_active
        assert standby.states == ["standing_by", "active", "closed"]
    assert events.states == ["active", "closed"]
    assert events.results == []
    assert shop.sent() == 1


@pytest.mark.requirement(16)
async def test_closing_the_client_releases_the_lease(shop: Shop):
    client, journal = await shop.client(), journal_of(shop)
    shop.clock.auto_advance = False
    events = Events()
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.rounds)
        lease = await find_lease(client, journal)
        assert lease is not None
        assert lease.seconds > 30
        await (client.close() if isinstance(client, Awaitably) else client.aclose())
        assert reconciler.status.state == "closed"
        lease = await find_lease(client, journal)
        assert lease is not None
        assert lease.seconds == 0
    assert events.states == ["active", "closed"]
    await journal.aclose()


def expire(journal: MemoryJournal) -> None:
    """Let all claims of a journal expire, as if the process had been stopped meanwhile."""
    elapsed = journal._claims.elapsed
    journal._claims.elapsed = lambda: elapsed() + 3600  # type: ignore[assignment]


@pytest.mark.requirement(16)
async def test_lost_lease_ends_the_round(memory_shop: Shop):
    shop = memory_shop
    first, second = await shop.client(), await shop.client()
    await lose_response(shop, first, "customer-1")
    events, other = Events(), Events()
    hang = shop.sandbox.faults.add("hang", path="*/orders*")
    async with reconciling(first, events, lease=1.0) as active:
        await wait_until(lambda: hang.waiting)
        expire(shop.location)
        async with reconciling(second, other, lease=60.0) as taker:
            # Which of both is first does not matter: the round of the first one has ended.
            await wait_until(lambda: active.status.state == "standing_by" or taker.status.state == "standing_by")
            hang.remove()
            await wait_until(lambda: events.results or other.results)
            assert [active.is_active, taker.is_active].count(True) == 1
    assert shop.sent() == 1


@pytest.mark.requirement(45)
async def test_purchase_settled_by_two_is_settled_once(shop: Shop):
    first, second = await shop.client(), await shop.client()
    intent = await lose_response(shop, first, "customer-1")
    shop.clock.auto_advance = False
    events = Events()
    hang = shop.sandbox.faults.add("hang", path="*/orders*", times=1)
    async with reconciling(first, events) as reconciler:
        await wait_until(lambda: hang.waiting)
        (result,) = await second.complete.reconcile_all()
        assert result.completion.order_id == intent.basket_id
        stored = await second.complete.intent(intent_id=intent.id)
        hang.remove()
        await wait_until(lambda: reconciler.status.rounds)
    assert [result.completion.order_id for result in events.results] == [intent.basket_id]
    assert await second.complete.intent(intent_id=intent.id) == stored
    assert stored.state == IntentState.CONFIRMED
    assert shop.sent() == 1
    assert len(shop.sandbox.shop.orders) == 1


async def test_each_account_of_a_journal_has_its_own_lease(shop: Shop):
    first = await shop.client()
    second = await shop.client(options=Options(clock=shop.clock, journal_account="another"))
    shop.clock.auto_advance = False
    intents = [await lose_response(shop, one, f"customer-{number}") for number, one in enumerate((first, second))]
    events, others = Events(), Events()
    async with reconciling(first, events) as one, reconciling(second, others) as other:
        await wait_until(lambda: one.status.rounds and other.status.rounds)
        assert (one.is_active, other.is_active) == (True, True)
    assert [result.intent.id for result in events.results + others.results] == [intent.id for intent in intents]
    assert (len(events.results), shop.sent()) == (1, 2)


async def test_purchase_of_a_reserved_reference_is_refused(memory_shop: Shop):
    client = await memory_shop.client()
    basket = await memory_shop.fill(client)
    with pytest.raises(InvalidInput, match="reference: must be printable"):
        await client.complete.buy(basket, expected_total=basket.paid_total, reference="\x1freconciler")


async def test_lease_holds_no_customer_and_no_purchase(shop: Shop):
    client = await shop.client()
    shop.clock.auto_advance = False
    async with reconciling(client) as reconciler:
        await wait_until(lambda: reconciler.is_active)
        assert (await shop.buy(client)).order_id
        assert (await shop.buy(client, reference="another")).order_id
    assert shop.sent() == 2


# --- what it may send --------------------------------------------------------------------------------------------


@pytest.mark.requirement(45)
@pytest.mark.parametrize("operation", ["complete.buy", "complete.sell", "complete.delivery", "baskets.clear"])
async def test_reconciler_cannot_send_a_change(sandbox: Sandbox, operation: str):
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        api = client.complete.reconciler()._api
        with pytest.raises(ConfigurationError, match=f"{operation} is refused: nothing was sent"):
            await api.exchange(Request(OPERATIONS[operation], body={}))
    assert len(sandbox.requests) == 0


@pytest.mark.requirement(14)
async def test_open_basket_is_cleared_only_if_asked(memory_shop: Shop):
    shop = memory_shop
    shop.clock.auto_advance = True
    policy = CompletionPolicy(orders_lag=1, fence_proves_not_executed=True)
    client, events = await shop.client(policy), Events()
    await lose_response(shop, client, "customer-1", "drop_before_read")
    async with reconciling(client, events) as reconciler:
        await wait_until(lambda: reconciler.status.rounds > 2)
    assert shop.sandbox.requests.of("baskets.clear") == []
    assert [intent.fenced_at for intent in await client.complete.pending()] == [None]
    async with reconciling(client, events, fence=True):
        await wait_until(lambda: events.results)
    assert isinstance(events.results[0].error, NotExecuted)
    assert len(shop.sandbox.requests.of("baskets.clear")) == 1
    assert shop.sent() == 1


# --- life of the task --------------------------------------------------------------------------------------------


def reconciler_tasks() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("minted_connect.reconciler")]


@pytest.mark.parametrize("at", ["standing_by", "active", "round", "backing_off"])
async def test_cancelled_service_leaves_nothing(sandbox: Sandbox, clock: ManualClock, at: str):
    clock.auto_advance = False
    journal, events = MemoryJournal(), Events()
    settings: dict[str, Any] = {"base_url": sandbox.url, "journal": journal, "options": Options(clock=clock)}
    async with AsyncMintedConnect(sandbox.username, sandbox.password, **settings) as client:

        async def connect(*_: Any, **__: Any) -> AsyncMintedConnect:
            return client

        shop = Shop(connect, sandbox, clock, journal)
        if at != "active":
            await lose_response(shop, client, "customer-1")
        hang = None
        if at == "round":
            hang = sandbox.faults.add("hang", path="*/orders*")
        elif at == "backing_off":
            sandbox.faults.add("status", path="*/orders*", status=404, times=None)
        async with AsyncMintedConnect(sandbox.username, sandbox.password, **settings) as other:

            async def serve() -> None:
                async with client.complete.reconciler(**events.hooks):
                    await asyncio.Event().wait()

            async def run() -> None:
                if at != "standing_by":
                    await serve()
                async with other.complete.reconciler() as first:
                    await wait_until(lambda: first.is_active)
                    await serve()

            service = asyncio.create_task(run())
            state = "active" if at == "round" else at
            await wait_until(lambda: state in events.states and (hang is None or hang.waiting))
            service.cancel()
            with pytest.raises(asyncio.CancelledError):
                await service
        assert reconciler_tasks() == []
        assert events.states[-1] == "closed"
        lease = await find_lease(client, journal)
        assert lease is not None
        assert lease.seconds == 0
        sandbox.faults.clear()


@pytest.mark.parametrize("flavour", ["async"])
async def test_reconciler_closed_at_every_step_releases_its_lease(connect: Any, sandbox: Sandbox, clock: ManualClock):
    clock.auto_advance = False
    shop = Shop(connect, sandbox, clock, MemoryJournal())
    client, settled, steps = await shop.client(), 0, 0
    await shop.create_customer(client)
    while settled < 5:
        if not await client.complete.pending():
            await lose_response(shop, client, "customer-1")
        before, events = shop.sent(), Events()
        async with client.complete.reconciler(**events.hooks):
            for _ in range(steps):
                await asyncio.sleep(0)
        assert reconciler_tasks() == []
        lease = await find_lease(client, shop.location)
        assert lease is None or lease.seconds == 0
        assert events.states[-1] == "closed"
        assert shop.sent() == before
        settled += len(events.results)
        steps += 1
    assert steps > 20
    assert len(sandbox.shop.orders) == shop.sent()


async def test_reconciler_is_opened_once(memory_shop: Shop):
    client = await memory_shop.client()
    async with reconciling(client) as reconciler:
        with pytest.raises(ClientClosedError, match="can be opened only once"):
            if isinstance(client, Awaitably):
                await anyio.to_thread.run_sync(reconciler.__enter__)
            else:
                await reconciler.__aenter__()
        await wait_until(lambda: reconciler.is_active)


async def test_reconciler_of_a_closed_client_is_refused(sandbox: Sandbox):
    client = AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url)
    reconciler = client.complete.reconciler()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await reconciler.__aenter__()
    assert reconciler_tasks() == []


def test_another_event_loop_is_refused():
    async def use(client: AsyncMintedConnect) -> Any:
        await client.rates.current()
        return client.complete.reconciler()

    async def open_it(reconciler: Any) -> None:
        with pytest.raises(ClientClosedError):
            await reconciler.__aenter__()
        await reconciler.aclose()

    async def main() -> Any:
        async with Sandbox(seed=1) as server:
            client = AsyncMintedConnect(server.username, server.password, base_url=server.url)
            reconciler = await use(client)
            await anyio.to_thread.run_sync(lambda: asyncio.run(open_it(reconciler)))
            await client.aclose()

    asyncio.run(main())


def test_blocking_hooks_run_on_the_thread_of_the_client(tmp_path: Any):
    import threading

    names: list[str] = []
    entered = threading.Event()

    def on_status(_: object) -> None:
        names.append(threading.current_thread().name)
        entered.set()

    with MintedConnect.sandbox(journal=tmp_path / "j.db") as minted:
        with minted.complete.reconciler(on_status=on_status) as reconciler:
            assert entered.wait(20)
            assert reconciler.is_active
        assert reconciler.status.state == "closed"
    assert names == ["MintedConnect loop"] * 2


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"interval": 0},
        {"interval": float("inf")},
        {"budget": 0},
        {"lease": 0.5},
        {"fence": 1},
        {"on_result": 1},
        {"on_error": asyncio.sleep},
        {"on_status": asyncio.sleep},
    ],
)
async def test_invalid_argument_is_refused(memory_shop: Shop, arguments: dict[str, Any]):
    client = await memory_shop.client()
    with pytest.raises(InvalidInput, match=f"^{next(iter(arguments))}: must be"):
        await client.complete.reconciler(**arguments) if isinstance(client, Awaitably) else client.complete.reconciler(
            **arguments
        )


async def test_fence_of_a_read_only_client_is_refused(memory_shop: Shop):
    client = await memory_shop.client(options=Options(clock=memory_shop.clock, read_only=True))
    with pytest.raises(ConfigurationError, match=r"complete\.reconciler\(fence=True\) is refused"):
        await client.complete.reconciler(fence=True) if isinstance(client, Awaitably) else client.complete.reconciler(
            fence=True
        )
    async with reconciling(client) as reconciler:
        await wait_until(lambda: reconciler.status.rounds)


class PlainJournal:
    """A journal of the application without the methods for claims."""

    def __init__(self) -> None:
        journal = MemoryJournal()
        for name in {**vars(Journal), **vars(ReferenceJournal)}:
            if not name.startswith("_"):
                setattr(self, name, getattr(journal, name))


def test_journal_without_claims_is_refused():
    client = AsyncMintedConnect("partner", "secret", journal=PlainJournal())
    text = r"complete\.reconciler: the journal PlainJournal lacks .*renew_claim.* of ClaimJournal"
    with pytest.raises(ConfigurationError, match=text):
        client.complete.reconciler()
