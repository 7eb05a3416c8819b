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
from tests.completion.fakes import CUSTOMER, TOTAL, FakeApiClient, basket_json, intent_of, order_json, order_of

pytestmark = pytest.mark.anyio

LOST = TransportError("gone", phase=Phase.SENT)


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


def following(api: FakeApiClient, **policy: Any) -> AsyncCompletions:
    return AsyncCompletions(api.with_policy(CompletionPolicy(**policy)), MemoryJournal())


async def buy(api: FakeApiClient, complete: AsyncCompletions) -> Completion:
    return await complete.buy(api.seen_basket(), expected_total=TOTAL)


def lost(api: FakeApiClient, *, landed: bool = False) -> Any:
    """Complete on the way, or not, and lose the answer."""

    def fail(request: Request, progress: RequestProgress) -> Exception:
        progress.phase = Phase.SENT
        if landed:
            api.execute(request)
        return LOST

    return fail


# --- Q1: is a token single-shot? ---------------------------------------------------------------------------------


async def test_q1_nothing_is_sent_again_by_default(api: FakeApiClient) -> None:
    api.complete = lost(api)
    with pytest.raises(OutcomeUnknown):
        await buy(api, following(api))
    assert api.count("complete.buy") == 1


# --- Q2 and Q8: which noes are proof? ----------------------------------------------------------------------------


async def test_q2_a_trusted_refusal_takes_one_look(api: FakeApiClient) -> None:
    api.complete = Conflict("used", 409, 409)
    with pytest.raises(Conflict):
        await buy(api, following(api, refusals=frozenset({409, 422})))
    assert api.count("orders.page") == 2  # looked for by number and in the list
    assert api.clock.monotonic() == 0


async def test_q2_no_refusal_is_trusted(api: FakeApiClient) -> None:
    api.complete = ValidationFailed("no", 422, 422)
    with pytest.raises(ValidationFailed):
        await buy(api, following(api, refusals=frozenset[int]()))
    assert api.clock.monotonic() == 30


async def test_q2_a_trusted_refusal_whose_look_shows_something_else_is_looked_at_again(api: FakeApiClient) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [] if api.clock.monotonic() > 20 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    with pytest.raises(ValidationFailed):
        await buy(api, following(api))
    assert api.clock.monotonic() == 30


@pytest.mark.parametrize("delay", [5.0, 19.0])
async def test_q2_a_trusted_refusal_is_looked_at_when_nothing_can_land_any_more(
    api: FakeApiClient, delay: float
) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        basket = api.basket
        api.orders = lambda _: [order_json()] if api.clock.monotonic() >= delay else []
        api.basket = lambda _: None if api.clock.monotonic() >= delay else basket
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    assert (await buy(api, following(api, latest_landing=20.0))).reconciled
    assert api.clock.monotonic() == 20


async def test_q8_a_throttled_purchase_may_have_been_made(api: FakeApiClient) -> None:
    def throttled(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        return RateLimited("slow down", 429, 429)

    api.complete = throttled
    done = await buy(api, following(api))
    assert (done.reconciled, api.count("complete.buy")) == (True, 1)


# --- the looks after a refusal -----------------------------------------------------------------------------------

REFUSED: Final = Conflict("used", 409, 409)


def refused(api: FakeApiClient, **error: Any) -> None:
    api.complete = Conflict("used", 409, 409, **error)


@pytest.mark.parametrize(("lag", "landing", "settled"), [(30, None, 30), (30, 10, 40), (0, None, 0), (0, 7, 7)])
@pytest.mark.requirement(46)
async def test_a_refusal_is_believed_at_the_settle_time(
    api: FakeApiClient, lag: float, landing: float | None, settled: float
) -> None:
    refused(api)
    complete = following(api, orders_lag=lag, latest_landing=landing)
    with pytest.raises(Conflict):
        await buy(api, complete)
    assert api.clock.monotonic() == settled
    assert await complete.pending() == []
    assert api.count("orders.page") == 2 * (5 if settled else 1)


@pytest.mark.parametrize("shown", [0.0, 3.0, 3.75, 12.0, 29.999, 30.0])
@pytest.mark.requirement(46)
async def test_an_order_that_shows_within_the_settle_time_is_found(api: FakeApiClient, shown: float) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [order_json()] if api.clock.monotonic() >= shown else []
        return REFUSED

    api.complete = refuse
    assert (await buy(api, following(api))).reconciled
    assert api.count("complete.buy") == 1


@pytest.mark.parametrize(("asked", "first"), [(None, 0.0), (2.0, 2.0), (20.0, 20.0), (45.0, 45.0)])
async def test_no_look_comes_before_a_retry_after(api: FakeApiClient, asked: float | None, first: float) -> None:
    refused(api, retry_after=asked)
    looks: list[float] = []
    api.orders = lambda _: looks.append(api.clock.monotonic()) or []
    with pytest.raises(Conflict):
        await buy(api, following(api))
    assert (looks[0], looks[-1]) == (first, max(30.0, first))


async def test_a_retry_after_beyond_the_call_leaves_it_unknown(api: FakeApiClient) -> None:
    refused(api, retry_after=61.0)
    complete = following(api)
    with pytest.raises(OutcomeUnknown):
        await buy(api, complete)
    assert (api.clock.monotonic(), api.count("orders.page")) == (0, 0)
    [intent] = await complete.pending()
    assert intent.refusal is not None
    assert (intent.refusal.status, intent.refusal.is_vendor_response) == (409, True)


@pytest.mark.parametrize(("inline", "looks", "ended"), [(0, 0, 0.0), (5, 2, 3.75), (29, 4, 15.0), (30, 5, 30.0)])
async def test_inline_looks_bound_the_call(api: FakeApiClient, inline: float, looks: int, ended: float) -> None:
    refused(api)
    complete = following(api, inline_looks=inline)
    error = Conflict if inline == 30 else OutcomeUnknown
    with pytest.raises(error):
        await buy(api, complete)
    assert (api.clock.monotonic(), api.count("orders.page")) == (ended, 2 * looks)
    assert len(await complete.pending()) == (error is OutcomeUnknown)


async def test_the_deadline_of_the_call_bounds_its_looks(api: FakeApiClient) -> None:
    refused(api)
    api.settings = attrs.evolve(api.settings, deadline=20.0)
    with pytest.raises(OutcomeUnknown):
        await buy(api, following(api))
    assert api.clock.monotonic() == 15


async def test_waiting_for_the_lock_is_part_of_the_deadline(api: FakeApiClient) -> None:
    refused(api)
    api.settings = attrs.evolve(api.settings, deadline=20.0)
    complete = following(api)

    async def hold() -> None:
        async with api.hold_lock(CUSTOMER):
            held.set()
            await released.wait()

    held, released = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold())
    await held.wait()
    buying = asyncio.create_task(buy(api, complete))
    await asyncio.sleep(0)
    api.clock.advance(8)  # type: ignore[attr-defined]
    released.set()
    with pytest.raises(OutcomeUnknown):
        await buying
    await holder
    # The looks would be at 8, 11.75, 15.5 and 23 s; the last one is beyond the deadline of 20 s.
    assert api.clock.monotonic() == 15.5


@pytest.mark.parametrize("inline", [0, 5])
async def test_reconcile_settles_a_refusal_later(api: FakeApiClient, inline: float) -> None:
    refused(api)
    complete = following(api, inline_looks=inline)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(CompletionRejected) as rejected:
        await complete.reconcile(caught.value)
    assert rejected.value.order is None
    assert rejected.value.refusal == caught.value.intent.refusal
    # The server's clock is known to the second, so a refusal that was stored is believed a second later.
    assert api.clock.monotonic() > 31
    assert await complete.pending() == []


@pytest.mark.requirement(46)
async def test_reconcile_does_not_believe_a_refusal_before_the_settle_time(api: FakeApiClient) -> None:
    refused(api)
    complete = following(api, inline_looks=0, reconcile_budget=25.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    assert [intent.state for intent in await complete.pending()] == [IntentState.UNKNOWN]


async def test_a_stored_refusal_is_believed_at_the_settle_time_whatever_its_status(api: FakeApiClient) -> None:
    # It may not be known any more that a look has shown something else.
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [] if api.clock.monotonic() > 2 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    complete = following(api, inline_looks=0, reconcile_budget=20.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    with pytest.raises(CompletionRejected):
        await complete.reconcile(caught.value)
    assert api.clock.monotonic() >= 31


async def test_a_refusal_is_stored_before_the_first_look(api: FakeApiClient) -> None:
    stored: list[Any] = []
    complete = following(api)

    async def look(_: Request) -> Any:
        stored.extend(intent.refusal for intent in await complete._settlement.journal.pending())
        return []

    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = look
        return REFUSED

    api.complete = refuse
    with pytest.raises(Conflict):
        await buy(api, complete)
    assert stored
    assert None not in stored


async def test_a_journal_that_cannot_store_a_refusal_hides_nothing(
    api: FakeApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(MemoryJournal):
        async def record_refusal(self, *_: Any) -> None:
            raise JournalError("the disk is full")

    refused(api)
    with pytest.raises(Conflict):
        await buy(api, AsyncCompletions(api.with_policy(CompletionPolicy()), Full()))
    assert "could not store the refusal of the server" in caplog.text


# --- an intent that another process prepared ---------------------------------------------------------------------


@pytest.mark.parametrize("age", [0, 500, 700])
@pytest.mark.parametrize("send_before", [True, False])
async def test_a_prepared_intent_of_another_process_is_not_executed_only_when_it_is_too_late(
    api: FakeApiClient, age: float, send_before: bool
) -> None:
    complete = following(api, latest_landing=10.0)
    created = api.clock.wall() - timedelta(seconds=age)
    limit = created + timedelta(seconds=600) if send_before else None
    intent = intent_of(state=IntentState.PREPARED, created_at=created, send_before=limit)
    await complete._settlement.journal.prepare(intent)
    with pytest.raises(NotExecuted if age == 700 else OutcomeUnknown):
        await complete.reconcile(intent)
    # Only the process that prepared it knows whether it was sent.
    assert [intent.state for intent in await complete.pending()] == [IntentState.PREPARED] * (age < 700)


async def test_an_order_of_a_prepared_intent_settles_it_at_once(api: FakeApiClient) -> None:
    complete = following(api)
    intent = intent_of(state=IntentState.PREPARED, send_before=api.clock.wall() + timedelta(seconds=600))
    await complete._settlement.journal.prepare(intent)
    api.orders, api.basket = [order_json()], None
    assert (await complete.reconcile(intent)).reconciled
    assert api.clock.monotonic() == 0


async def test_an_intent_says_until_when_it_may_be_sent(api: FakeApiClient) -> None:
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, following(api))
    # 201 s are left of the lock, 3 of them the margin; the server's clock is known to the second.
    assert caught.value.intent.send_before == api.clock.wall() + timedelta(seconds=201 - 3 + 1)


# --- Q3: the price lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "left"), [(0.2, 3.0), (7.5, 7.5)])
async def test_q3_a_slow_server_needs_more_of_the_lock(api: FakeApiClient, slow: float, left: float) -> None:
    api.state.server_stats.record_latency(slow)
    await buy(api, following(api))
    assert api.not_after == [201 - left]


async def test_q3_too_little_is_left_for_a_slow_server(api: FakeApiClient) -> None:
    api.state.server_stats.record_latency(10.0)
    api.basket = basket_json(pricefix={"remaining": 9, "nextUpdate": "2026-02-20T15:31:57+03:00"})
    with pytest.raises(PriceFixExpired, match="9 s left, 10 s are required"):
        await buy(api, following(api))
    assert api.count("complete.buy") == 0


# --- Q4: does an order keep the number of its basket? ------------------------------------------------------------


@pytest.mark.parametrize(("kept", "strength"), [(True, Match.ID), (False, Match.LIKELY)])
def test_q4_an_equal_number_alone(kept: bool, strength: Match) -> None:
    row = order_json(token="", guid="", increment_id="")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    assert match_order(row, order, intent_of(), keeps_number=kept) is strength


async def test_q4_is_asked_of_the_policy(api: FakeApiClient) -> None:
    api.basket, api.orders = None, [order_json(token="", guid="", increment_id="")]
    assert (await following(api).reconcile(intent_of())).reconciled
    with pytest.raises(OutcomeUnknown) as caught:
        await following(api, order_keeps_number=False).reconcile(intent_of())
    assert "order 10984 may be the order of this purchase" in caught.value.evidence


# --- Q5, Q6: how late may it show, and what does a fence prove? --------------------------------------------------


async def test_q5_after_a_fence_an_order_may_take_its_time(api: FakeApiClient) -> None:
    def clear(_: Request) -> Any:
        api.basket = basket_json(items=[])
        return api.basket

    api.clear = clear
    api.orders = lambda _: [order_json()] if api.clock.monotonic() > 45 else []
    complete = following(api, fence_proves_not_executed=True, orders_lag=60.0)
    assert (await complete.reconcile(intent_of(), fence=True)).reconciled


@pytest.mark.parametrize(("bound", "error"), [(None, OutcomeUnknown), (50.0, NotExecuted), (110.0, OutcomeUnknown)])
async def test_a_basket_that_stays_open(api: FakeApiClient, bound: float | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        await following(api, latest_landing=bound).reconcile(intent_of())
    assert api.count("baskets.clear") == 0


# --- Q9: an idempotency key --------------------------------------------------------------------------------------


async def test_q9_the_intent_is_the_key(api: FakeApiClient) -> None:
    await buy(api, following(api))
    assert api.sent[-1].headers is None
    api.basket = basket_json()
    complete = following(api, idempotency_header="Idempotency-Key")
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    assert api.sent[-1].headers == {"Idempotency-Key": caught.value.intent.id}


# --- the orders before -------------------------------------------------------------------------------------------


TWIN = {"id": 77, "token": "X" * 32, "guid": "ANOTHER", "increment_id": "1"}


@pytest.mark.parametrize("wanted", ["off", "try", "require"])
async def test_an_order_that_was_there_before_is_not_the_one(api: FakeApiClient, wanted: str) -> None:
    api.orders = [order_json(**TWIN)]
    api.complete = lost(api)
    complete = following(api, pre_image=wanted)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    assert caught.value.intent.known_orders == (() if wanted == "off" else (77,))
    with pytest.raises(OutcomeUnknown) as still:
        await complete.reconcile(caught.value)
    assert ("order 77 may be the order of this purchase" in still.value.evidence) == (wanted == "off")


@pytest.mark.parametrize("trouble", [LOST, PermissionDenied("not you", 403, 403), [order_of("customer-2")]], ids=str)
async def test_the_orders_before_cannot_be_read(api: FakeApiClient, trouble: Any) -> None:
    api.orders = trouble
    with pytest.raises(NotSent, match="latest orders"):
        await buy(api, following(api, pre_image="require"))
    assert api.count("complete.buy") == 0
    api.complete = order_json()
    await buy(api, following(api, pre_image="try"))
    assert api.count("complete.buy") == 1


# --- who holds the basket ----------------------------------------------------------------------------------------


async def test_a_basket_that_was_completed_says_as_which_order(api: FakeApiClient) -> None:
    complete = following(api)
    done = await buy(api, complete)
    with pytest.raises(AlreadyInFlight, match="it is order 10984") as caught:
        await buy(api, complete)
    assert (caught.value.order_id, api.count("complete.buy")) == (10984, 1)
    assert done.order is not None
    # It says so also where the basket still shows.
    api.basket = basket_json()
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await buy(api, complete)
    # And where it shows with other lines, and its outcome is not known.
    api.basket, api.complete = basket_json(token="Y" * 32), LOST
    with pytest.raises(OutcomeUnknown) as unknown:
        await complete.buy(api.seen_basket(token="Y" * 32), expected_total=TOTAL)
    api.basket = basket_json(token="Y" * 32, items=[])
    with pytest.raises(AlreadyInFlight, match="reconcile it") as held:
        await complete.buy(api.seen_basket(token="Y" * 32), expected_total=TOTAL)
    assert held.value.intent_id == unknown.value.intent.id


async def test_the_clock_of_the_server_is_written_down(api: FakeApiClient) -> None:
    api.state.server_stats.record_date("Fri, 20 Feb 2026 13:27:57 GMT", api.clock.wall())
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, following(api))
    assert caught.value.intent.clock_offset == 3600
    assert caught.value.intent.created_by_server == api.clock.wall() + timedelta(hours=1)


@pytest.mark.parametrize("offset", [0, -3600])
def test_an_order_made_by_a_clock_that_was_behind(offset: int) -> None:
    """Ours was an hour ahead when it was sent, so the order seems to be from before."""
    row = order_json(**TWIN, order_at="2026-02-20T11:28:00.000000Z")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    found = match_order(row, order, intent_of(clock_offset=offset))
    assert found is (Match.LIKELY if offset else Match.NONE)


async def test_a_cancelled_order_after_a_doubtful_no(api: FakeApiClient) -> None:
    def refused(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        api.orders = [order_json(status_name="Cancelled")]
        return Conflict("used", 409, 409)

    api.complete = refused
    with pytest.raises(CompletionRejected) as caught:
        await buy(api, following(api))
    assert caught.value.order is not None


async def test_a_fence_waits_for_the_lock_no_longer_than_its_budget(api: FakeApiClient) -> None:
    complete = following(api, fence_proves_not_executed=True, reconcile_budget=5.0)
    await complete._settlement.journal.prepare(intent_of())
    api.clear = lambda _: basket_json(items=[])

    async def hold() -> None:
        async with api.hold_lock(CUSTOMER):
            held.set()
            await released.wait()

    held, released = asyncio.Event(), asyncio.Event()
    holder = asyncio.create_task(hold())
    await held.wait()
    reconciling = asyncio.create_task(complete.reconcile(intent_of(), fence=True))
    for _ in range(20):
        await asyncio.sleep(0)
    api.clock.advance(6)  # type: ignore[attr-defined]
    with pytest.raises(OutcomeUnknown):
        await reconciling
    released.set()
    await holder
    assert api.count("baskets.clear") == 0
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
        ({"customer": {"external_id": "customer-2"}}, False),
        ({"customer": None}, False),
        ({"token": ["odd"]}, False),
    ],
    ids=str,
)
async def test_an_answer_is_about_the_basket_by_its_keys(
    api: FakeApiClient, changes: dict[str, Any], about: bool
) -> None:
    assert refers_to({**order_json(), **changes}, intent_of()) is about
    api.complete = {**order_json(), **changes}
    complete = following(api)
    if about:
        await buy(api, complete)
    else:
        with pytest.raises(OutcomeUnknown):
            await buy(api, complete)
    assert len(await complete.pending()) == (not about)


# --- what a person found out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["confirmed", "rejected", "not_executed"])
async def test_what_a_person_found_out_ends_it(
    api: FakeApiClient, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    complete = following(api)
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    sent = len(api.sent)
    await complete.decide(caught.value, state, order_id=7 if state == "confirmed" else None)
    assert len(api.sent) == sent
    assert await complete.pending() == []
    assert f"settled manually as {state}" in caplog.text
    api.complete = api.execute
    if state == "confirmed":
        with pytest.raises(AlreadyInFlight, match="it is order 7"):
            await buy(api, complete)
    else:
        assert (await buy(api, complete)).order is not None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("id", "confirmed"), "intent_or_error"),
        ((intent_of(), "unknown"), "state"),
        ((intent_of(), "prepared"), "state"),
        ((intent_of(), None), "state"),
    ],
)
async def test_decisions_that_are_none(api: FakeApiClient, arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await following(api).decide(*arguments)
    assert caught.value.field == field


async def test_a_decision_that_cannot_be_written_down_is_said(api: FakeApiClient) -> None:
    class Broken(MemoryJournal):
        async def settle(self, *_: Any, **__: Any) -> None:
            raise JournalError("the disk is full")

    broken = Broken()
    await broken.prepare(intent_of())
    with pytest.raises(JournalError):
        await AsyncCompletions(api, broken).decide(intent_of(), "rejected")
