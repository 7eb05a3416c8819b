"""The open questions Q1 to Q9 as settings: what changes with an answer, and that the default is the safe one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

import attrs
import pytest

from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.order_match import Match, match_order, refers_to
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter
from minted_connect.core.pool import RequestProgress
from minted_connect.core.request import Request
from minted_connect.errors import (
    AlreadyInFlight,
    CompletionRejected,
    Conflict,
    InvalidInput,
    JournalError,
    NotExecuted,
    NotSent,
    OutcomeUnknown,
    PermissionDenied,
    Phase,
    PriceFixExpired,
    RateLimited,
    ServerError,
    TransportError,
    ValidationFailed,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Completion, IntentState, Order
from tests.completion.fakes import CUSTOMER, TOTAL, World, deal_json, intent_of, of, order_json

pytestmark = pytest.mark.anyio

LOST = TransportError("gone", phase=Phase.SENT)


@pytest.fixture
def world() -> World:
    return World()


def following(world: World, **policy: Any) -> AsyncCompletions:
    return AsyncCompletions(world.following(CompletionPolicy(**policy)), MemoryJournal())


async def buy(world: World, complete: AsyncCompletions) -> Completion:
    return await complete.buy(world.seen_basket(), expected_total=TOTAL)


def lost(world: World, *, landed: bool = False) -> Any:
    """Complete on the way, or not, and lose the answer."""

    def fail(request: Request, progress: RequestProgress) -> Exception:
        progress.phase = Phase.SENT
        if landed:
            world.execute(request)
        return LOST

    return fail


def then(*answers: Any) -> Any:
    """One answer after the other."""
    left = list(answers)

    def answer(request: Request, progress: RequestProgress) -> Any:
        one = left.pop(0)
        return one(request, progress) if callable(one) else one

    return answer


# --- Q1: is a token single-shot? ---------------------------------------------------------------------------------


async def test_q1_nothing_is_sent_again_by_default(world: World) -> None:
    world.complete = lost(world)
    with pytest.raises(OutcomeUnknown):
        await buy(world, following(world))
    assert world.count("complete.buy") == 1


# --- Q2 and Q8: which noes are proof? ----------------------------------------------------------------------------


async def test_q2_a_trusted_refusal_takes_one_look(world: World) -> None:
    world.complete = Conflict("used", 409, 409)
    with pytest.raises(Conflict):
        await buy(world, following(world, refusals=frozenset({409, 422})))
    assert world.count("orders.page") == 2  # looked for by number and in the list
    assert world.clock.monotonic() == 0


async def test_q2_no_refusal_is_trusted(world: World) -> None:
    world.complete = ValidationFailed("no", 422, 422)
    with pytest.raises(ValidationFailed):
        await buy(world, following(world, refusals=frozenset[int]()))
    assert world.clock.monotonic() == 30


async def test_q2_a_trusted_refusal_whose_look_shows_something_else_is_looked_at_again(world: World) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        world.orders = lambda _: [] if world.clock.monotonic() > 20 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    world.complete = refuse
    with pytest.raises(ValidationFailed):
        await buy(world, following(world))
    assert world.clock.monotonic() == 30


@pytest.mark.parametrize("delay", [5.0, 19.0])
async def test_q2_a_trusted_refusal_is_looked_at_when_nothing_can_land_any_more(world: World, delay: float) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        basket = world.basket
        world.orders = lambda _: [order_json()] if world.clock.monotonic() >= delay else []
        world.basket = lambda _: None if world.clock.monotonic() >= delay else basket
        return ValidationFailed("no", 422, 422)

    world.complete = refuse
    assert (await buy(world, following(world, latest_landing=20.0))).reconciled
    assert world.clock.monotonic() == 20


async def test_q8_a_throttled_purchase_may_have_been_made(world: World) -> None:
    def throttled(request: Request, progress: RequestProgress) -> Exception:
        world.execute(request)
        return RateLimited("slow down", 429, 429)

    world.complete = throttled
    done = await buy(world, following(world))
    assert (done.reconciled, world.count("complete.buy")) == (True, 1)


# --- the looks after a refusal -----------------------------------------------------------------------------------

REFUSED: Final = Conflict("used", 409, 409)


def refused(world: World, **error: Any) -> None:
    world.complete = Conflict("used", 409, 409, **error)


@pytest.mark.parametrize(("lag", "landing", "settled"), [(30, None, 30), (30, 10, 40), (0, None, 0), (0, 7, 7)])
@pytest.mark.requirement(46)
async def test_a_refusal_is_believed_at_the_settle_time(
    world: World, lag: float, landing: float | None, settled: float
) -> None:
    refused(world)
    complete = following(world, orders_lag=lag, latest_landing=landing)
    with pytest.raises(Conflict):
        await buy(world, complete)
    assert world.clock.monotonic() == settled
    assert await complete.pending() == []
    assert world.count("orders.page") == 2 * (5 if settled else 1)


@pytest.mark.parametrize("shown", [0.0, 3.0, 3.75, 12.0, 29.999, 30.0])
@pytest.mark.requirement(46)
async def test_an_order_that_shows_within_the_settle_time_is_found(world: World, shown: float) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        world.orders = lambda _: [order_json()] if world.clock.monotonic() >= shown else []
        return REFUSED

    world.complete = refuse
    assert (await buy(world, following(world))).reconciled
    assert world.count("complete.buy") == 1


@pytest.mark.parametrize(("asked", "first"), [(None, 0.0), (2.0, 2.0), (20.0, 20.0), (45.0, 45.0)])
async def test_no_look_comes_before_a_retry_after(world: World, asked: float | None, first: float) -> None:
    refused(world, retry_after=asked)
    looks: list[float] = []
    world.orders = lambda _: looks.append(world.clock.monotonic()) or []
    with pytest.raises(Conflict):
        await buy(world, following(world))
    assert (looks[0], looks[-1]) == (first, max(30.0, first))


async def test_a_retry_after_beyond_the_call_leaves_it_unknown(world: World) -> None:
    refused(world, retry_after=61.0)
    complete = following(world)
    with pytest.raises(OutcomeUnknown):
        await buy(world, complete)
    assert (world.clock.monotonic(), world.count("orders.page")) == (0, 0)
    [intent] = await complete.pending()
    assert intent.refusal is not None
    assert (intent.refusal.status, intent.refusal.is_vendor_response) == (409, True)


@pytest.mark.parametrize(("inline", "looks", "ended"), [(0, 0, 0.0), (5, 2, 3.75), (29, 4, 15.0), (30, 5, 30.0)])
async def test_inline_looks_bound_the_call(world: World, inline: float, looks: int, ended: float) -> None:
    refused(world)
    complete = following(world, inline_looks=inline)
    error = Conflict if inline == 30 else OutcomeUnknown
    with pytest.raises(error):
        await buy(world, complete)
    assert (world.clock.monotonic(), world.count("orders.page")) == (ended, 2 * looks)
    assert len(await complete.pending()) == (error is OutcomeUnknown)


async def test_the_deadline_of_the_call_bounds_its_looks(world: World) -> None:
    refused(world)
    world.settings = attrs.evolve(world.settings, deadline=20.0)
    with pytest.raises(OutcomeUnknown):
        await buy(world, following(world))
    assert world.clock.monotonic() == 15


async def test_waiting_for_the_lock_is_part_of_the_deadline(world: World) -> None:
    refused(world)
    world.settings = attrs.evolve(world.settings, deadline=20.0)
    complete = following(world)

    async def hold() -> None:
        async with world.hold_lock(CUSTOMER):
            held.set()
            await released.wait()

    held, released = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold())
    await held.wait()
    buying = asyncio.create_task(buy(world, complete))
    await asyncio.sleep(0)
    world.clock.advance(8)  # type: ignore[attr-defined]
    released.set()
    with pytest.raises(OutcomeUnknown):
        await buying
    await holder
    # The looks would be at 8, 11.75, 15.5 and 23 s; the last one is beyond the deadline of 20 s.
    assert world.clock.monotonic() == 15.5


@pytest.mark.parametrize("inline", [0, 5])
async def test_reconcile_settles_a_refusal_later(world: World, inline: float) -> None:
    refused(world)
    complete = following(world, inline_looks=inline)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    with pytest.raises(CompletionRejected) as rejected:
        await complete.reconcile(caught.value)
    assert rejected.value.order is None
    assert rejected.value.refusal == caught.value.intent.refusal
    # The server's clock is known to the second, so a refusal that was stored is believed a second later.
    assert world.clock.monotonic() > 31
    assert await complete.pending() == []


@pytest.mark.requirement(46)
async def test_reconcile_does_not_believe_a_refusal_before_the_settle_time(world: World) -> None:
    refused(world)
    complete = following(world, inline_looks=0, reconcile_budget=25.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    assert [intent.state for intent in await complete.pending()] == [IntentState.UNKNOWN]


async def test_a_stored_refusal_is_believed_at_the_settle_time_whatever_its_status(world: World) -> None:
    # It may not be known any more that a look has shown something else.
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        world.orders = lambda _: [] if world.clock.monotonic() > 2 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    world.complete = refuse
    complete = following(world, inline_looks=0, reconcile_budget=20.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    with pytest.raises(CompletionRejected):
        await complete.reconcile(caught.value)
    assert world.clock.monotonic() >= 31


async def test_a_refusal_is_stored_before_the_first_look(world: World) -> None:
    stored: list[Any] = []
    complete = following(world)

    async def look(_: Request) -> Any:
        stored.extend(intent.refusal for intent in await complete._settlement.journal.pending())
        return []

    def refuse(request: Request, progress: RequestProgress) -> Exception:
        world.orders = look
        return REFUSED

    world.complete = refuse
    with pytest.raises(Conflict):
        await buy(world, complete)
    assert stored
    assert None not in stored


async def test_a_journal_that_cannot_store_a_refusal_hides_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(MemoryJournal):
        async def record_refusal(self, *_: Any) -> None:
            raise JournalError("the disk is full")

    refused(world)
    with pytest.raises(Conflict):
        await buy(world, AsyncCompletions(world.following(CompletionPolicy()), Full()))
    assert "could not store the refusal of the server" in caplog.text


# --- an intent that another process prepared ---------------------------------------------------------------------


@pytest.mark.requirement(46)
@pytest.mark.parametrize("age", [0, 500, 700])
@pytest.mark.parametrize("send_before", [True, False])
async def test_a_prepared_intent_of_another_process_is_not_executed_only_when_it_is_too_late(
    world: World, age: float, send_before: bool
) -> None:
    complete = following(world, latest_landing=10.0)
    created = world.clock.wall() - timedelta(seconds=age)
    limit = created + timedelta(seconds=600) if send_before else None
    intent = intent_of(state=IntentState.PREPARED, created_at=created, send_before=limit)
    await complete._settlement.journal.prepare(intent)
    with pytest.raises(NotExecuted if age == 700 else OutcomeUnknown):
        await complete.reconcile(intent)
    # Only the process that prepared it knows whether it was sent.
    assert [intent.state for intent in await complete.pending()] == [IntentState.PREPARED] * (age < 700)


async def test_an_order_of_a_prepared_intent_settles_it_at_once(world: World) -> None:
    complete = following(world)
    intent = intent_of(state=IntentState.PREPARED, send_before=world.clock.wall() + timedelta(seconds=600))
    await complete._settlement.journal.prepare(intent)
    world.orders, world.basket = [order_json()], None
    assert (await complete.reconcile(intent)).reconciled
    assert world.clock.monotonic() == 0


async def test_an_intent_says_until_when_it_may_be_sent(world: World) -> None:
    world.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, following(world))
    # 201 s are left of the lock, 3 of them the margin; the server's clock is known to the second.
    assert caught.value.intent.send_before == world.clock.wall() + timedelta(seconds=201 - 3 + 1)


# --- Q3: the price lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "left"), [(0.2, 3.0), (7.5, 7.5)])
async def test_q3_a_slow_server_needs_more_of_the_lock(world: World, slow: float, left: float) -> None:
    world.state.server_stats.record_latency(slow)
    await buy(world, following(world))
    assert world.not_after == [201 - left]


async def test_q3_too_little_is_left_for_a_slow_server(world: World) -> None:
    world.state.server_stats.record_latency(10.0)
    world.basket = deal_json(pricefix={"remaining": 9, "nextUpdate": "2026-02-20T15:31:57+03:00"})
    with pytest.raises(PriceFixExpired, match="9 s left, 10 s are required"):
        await buy(world, following(world))
    assert world.count("complete.buy") == 0


# --- Q4: does an order keep the number of its basket? ------------------------------------------------------------


@pytest.mark.parametrize(("kept", "strength"), [(True, Match.ID), (False, Match.LIKELY)])
def test_q4_an_equal_number_alone(kept: bool, strength: Match) -> None:
    row = order_json(token="", guid="", increment_id="")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    assert match_order(row, order, intent_of(), keeps_number=kept) is strength


async def test_q4_is_asked_of_the_policy(world: World) -> None:
    world.basket, world.orders = None, [order_json(token="", guid="", increment_id="")]
    assert (await following(world).reconcile(intent_of())).reconciled
    with pytest.raises(OutcomeUnknown) as caught:
        await following(world, order_keeps_number=False).reconcile(intent_of())
    assert "order 10984 may be the order of this purchase" in caught.value.evidence


# --- Q5, Q6: how late may it show, and what does a fence prove? --------------------------------------------------


async def test_q5_after_a_fence_an_order_may_take_its_time(world: World) -> None:
    def clear(_: Request) -> Any:
        world.basket = deal_json(items=[])
        return world.basket

    world.clear = clear
    world.orders = lambda _: [order_json()] if world.clock.monotonic() > 45 else []
    complete = following(world, fence_proves_not_executed=True, orders_lag=60.0)
    assert (await complete.reconcile(intent_of(), fence=True)).reconciled


@pytest.mark.parametrize(("bound", "error"), [(None, OutcomeUnknown), (50.0, NotExecuted), (110.0, OutcomeUnknown)])
async def test_a_basket_that_stays_open(world: World, bound: float | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        await following(world, latest_landing=bound).reconcile(intent_of())
    assert world.count("baskets.clear") == 0


# --- Q9: an idempotency key --------------------------------------------------------------------------------------


async def test_q9_the_intent_is_the_key(world: World) -> None:
    await buy(world, following(world))
    assert world.sent[-1].headers is None
    world.basket = deal_json()
    complete = following(world, idempotency_header="Idempotency-Key")
    world.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    assert world.sent[-1].headers == {"Idempotency-Key": caught.value.intent.id}


# --- the orders before -------------------------------------------------------------------------------------------


TWIN = {"id": 77, "token": "X" * 32, "guid": "ANOTHER", "increment_id": "1"}


@pytest.mark.parametrize("wanted", ["off", "try", "require"])
async def test_an_order_that_was_there_before_is_not_the_one(world: World, wanted: str) -> None:
    world.orders = [order_json(**TWIN)]
    world.complete = lost(world)
    complete = following(world, pre_image=wanted)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    assert caught.value.intent.known_orders == (() if wanted == "off" else (77,))
    with pytest.raises(OutcomeUnknown) as still:
        await complete.reconcile(caught.value)
    assert ("order 77 may be the order of this purchase" in still.value.evidence) == (wanted == "off")


@pytest.mark.parametrize("trouble", [LOST, PermissionDenied("not you", 403, 403), [of("somebody else")]], ids=str)
async def test_the_orders_before_cannot_be_read(world: World, trouble: Any) -> None:
    world.orders = trouble
    with pytest.raises(NotSent, match="latest orders"):
        await buy(world, following(world, pre_image="require"))
    assert world.count("complete.buy") == 0
    world.complete = order_json()
    await buy(world, following(world, pre_image="try"))
    assert world.count("complete.buy") == 1


# --- who holds the basket ----------------------------------------------------------------------------------------


async def test_a_basket_that_was_completed_says_as_which_order(world: World) -> None:
    complete = following(world)
    done = await buy(world, complete)
    with pytest.raises(AlreadyInFlight, match="it is order 10984") as caught:
        await buy(world, complete)
    assert (caught.value.order_id, world.count("complete.buy")) == (10984, 1)
    assert done.order is not None
    # It says so also where the basket still shows.
    world.basket = deal_json()
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await buy(world, complete)
    # And where it shows with other lines, and its outcome is not known.
    world.basket, world.complete = deal_json(token="Y" * 32), LOST
    with pytest.raises(OutcomeUnknown) as unknown:
        await complete.buy(world.seen_basket(token="Y" * 32), expected_total=TOTAL)
    world.basket = deal_json(token="Y" * 32, items=[])
    with pytest.raises(AlreadyInFlight, match="reconcile it") as held:
        await complete.buy(world.seen_basket(token="Y" * 32), expected_total=TOTAL)
    assert held.value.intent_id == unknown.value.intent.id


async def test_the_clock_of_the_server_is_written_down(world: World) -> None:
    world.state.server_stats.record_date("Fri, 20 Feb 2026 13:27:57 GMT", world.clock.wall())
    world.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, following(world))
    assert caught.value.intent.clock_offset == 3600
    assert caught.value.intent.created_by_server == world.clock.wall() + timedelta(hours=1)


@pytest.mark.parametrize("offset", [0, -3600])
def test_an_order_made_by_a_clock_that_was_behind(offset: int) -> None:
    """Ours was an hour ahead when it was sent, so the order seems to be from before."""
    row = order_json(**TWIN, order_at="2026-02-20T11:28:00.000000Z")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    found = match_order(row, order, intent_of(clock_offset=offset))
    assert found is (Match.LIKELY if offset else Match.NONE)


async def test_a_cancelled_order_after_a_doubtful_no(world: World) -> None:
    def refused(request: Request, progress: RequestProgress) -> Exception:
        world.execute(request)
        world.orders = [order_json(status_name="Cancelled")]
        return Conflict("used", 409, 409)

    world.complete = refused
    with pytest.raises(CompletionRejected) as caught:
        await buy(world, following(world))
    assert caught.value.order is not None


async def test_a_fence_waits_for_the_lock_no_longer_than_its_budget(world: World) -> None:
    complete = following(world, fence_proves_not_executed=True, reconcile_budget=5.0)
    await complete._settlement.journal.prepare(intent_of())
    world.clear = lambda _: deal_json(items=[])

    async def hold() -> None:
        async with world.hold_lock(CUSTOMER):
            held.set()
            await released.wait()

    held, released = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold())
    await held.wait()
    reconciling = asyncio.create_task(complete.reconcile(intent_of(), fence=True))
    for _ in range(20):
        await asyncio.sleep(0)
    world.clock.advance(6)  # type: ignore[attr-defined]
    with pytest.raises(OutcomeUnknown):
        await reconciling
    released.set()
    await holder
    assert world.count("baskets.clear") == 0
    [intent] = await complete.pending()
    assert intent.fenced_at is None


# --- what an answer is about -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({}, True),
        ({"guid": "ANOTHER", "increment_id": "1"}, True),  # the token decides
        ({"token": "X" * 32}, False),
        ({"token": None}, True),
        ({"token": None, "guid": None}, True),
        ({"token": None, "guid": "ANOTHER"}, False),
        ({"token": "", "guid": "", "increment_id": ""}, False),
        ({"customer": {"external_id": "somebody else"}}, False),
        ({"customer": None}, False),
        ({"token": ["odd"]}, False),
    ],
    ids=str,
)
async def test_an_answer_is_about_the_basket_by_its_keys(world: World, changes: dict[str, Any], about: bool) -> None:
    assert refers_to({**order_json(), **changes}, intent_of()) is about
    world.complete = {**order_json(), **changes}
    complete = following(world)
    if about:
        await buy(world, complete)
    else:
        with pytest.raises(OutcomeUnknown):
            await buy(world, complete)
    assert len(await complete.pending()) == (not about)


# --- what a person found out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["confirmed", "rejected", "not_executed"])
async def test_what_a_person_found_out_ends_it(world: World, state: str, caplog: pytest.LogCaptureFixture) -> None:
    complete = following(world)
    world.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(world, complete)
    sent = len(world.sent)
    await complete.decide(caught.value, state, order_id=7 if state == "confirmed" else None)
    assert len(world.sent) == sent
    assert await complete.pending() == []
    assert f"settled manually as {state}" in caplog.text
    world.complete = world.execute
    if state == "confirmed":
        with pytest.raises(AlreadyInFlight, match="it is order 7"):
            await buy(world, complete)
    else:
        assert (await buy(world, complete)).order is not None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("id", "confirmed"), "intent_or_error"),
        ((intent_of(), "unknown"), "state"),
        ((intent_of(), "prepared"), "state"),
        ((intent_of(), None), "state"),
    ],
)
async def test_decisions_that_are_none(world: World, arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await following(world).decide(*arguments)
    assert caught.value.field == field


async def test_a_decision_that_cannot_be_written_down_is_said(world: World) -> None:
    class Broken(MemoryJournal):
        async def settle(self, *_: Any, **__: Any) -> None:
            raise JournalError("the disk is full")

    broken = Broken()
    await broken.prepare(intent_of())
    with pytest.raises(JournalError):
        await AsyncCompletions(world, broken).decide(intent_of(), "rejected")
