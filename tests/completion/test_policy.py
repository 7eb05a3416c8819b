"""The open questions Q1 to Q9 as settings: the effect of each setting, and the safe defaults."""

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
from tests.completion.fakes import (
    CUSTOMER,
    TOTAL,
    FakeApiClient,
    basket_json,
    completions_of,
    intent_of,
    order_json,
    order_of,
)

pytestmark = pytest.mark.anyio

LOST = TransportError("gone", phase=Phase.SENT)


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


def make_completions(api: FakeApiClient, **policy: Any) -> AsyncCompletions:
    return completions_of(api.with_policy(CompletionPolicy(**policy)), MemoryJournal())


async def buy(api: FakeApiClient, complete: AsyncCompletions) -> Completion:
    return await complete.buy(api.seen_basket(), expected_total=TOTAL)


def lose_response(api: FakeApiClient, *, is_executed: bool = False) -> Any:
    """Return a completion whose response is lost, executed or not."""

    def fail(request: Request, progress: RequestProgress) -> Exception:
        progress.phase = Phase.SENT
        if is_executed:
            api.execute(request)
        return LOST

    return fail


# --- Q1: can a token be completed only once? ---------------------------------------------------------------------


async def test_q1_completion_with_lost_response_is_sent_once(api: FakeApiClient) -> None:
    api.complete = lose_response(api)
    with pytest.raises(OutcomeUnknown):
        await buy(api, make_completions(api))
    assert api.count("complete.buy") == 1


# --- Q2 and Q8: which refusals are proof? ------------------------------------------------------------------------


async def test_q2_trusted_refusal_takes_one_read_back(api: FakeApiClient) -> None:
    api.complete = Conflict("used", 409, 409)
    with pytest.raises(Conflict):
        await buy(api, make_completions(api, refusals=frozenset({409, 422})))
    assert api.count("orders.page") == 2  # one search by number, one by time
    assert api.clock.monotonic() == 0


async def test_q2_untrusted_refusal_waits_for_the_settle_time(api: FakeApiClient) -> None:
    api.complete = ValidationFailed("no", 422, 422)
    with pytest.raises(ValidationFailed):
        await buy(api, make_completions(api, refusals=frozenset[int]()))
    assert api.clock.monotonic() == 30


async def test_q2_trusted_refusal_with_failed_read_is_polled_again(api: FakeApiClient) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [] if api.clock.monotonic() > 20 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    with pytest.raises(ValidationFailed):
        await buy(api, make_completions(api))
    assert api.clock.monotonic() == 30


@pytest.mark.parametrize("delay", [5.0, 19.0])
async def test_q2_trusted_refusal_is_read_back_after_latest_landing(api: FakeApiClient, delay: float) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        basket = api.basket
        api.orders = lambda _: [order_json()] if api.clock.monotonic() >= delay else []
        api.basket = lambda _: None if api.clock.monotonic() >= delay else basket
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    assert (await buy(api, make_completions(api, latest_landing=20.0))).reconciled
    assert api.clock.monotonic() == 20


async def test_q8_throttled_purchase_that_was_executed_is_confirmed(api: FakeApiClient) -> None:
    def throttle(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        return RateLimited("slow down", 429, 429)

    api.complete = throttle
    done = await buy(api, make_completions(api))
    assert (done.reconciled, api.count("complete.buy")) == (True, 1)


# --- polling after a refusal -------------------------------------------------------------------------------------

REFUSED: Final = Conflict("used", 409, 409)


def refuse_with(api: FakeApiClient, **error: Any) -> None:
    api.complete = Conflict("used", 409, 409, **error)


@pytest.mark.parametrize(("lag", "landing", "settled"), [(30, None, 30), (30, 10, 40), (0, None, 0), (0, 7, 7)])
@pytest.mark.requirement(46)
async def test_refusal_is_confirmed_at_the_settle_time(
    api: FakeApiClient, lag: float, landing: float | None, settled: float
) -> None:
    refuse_with(api)
    complete = make_completions(api, orders_lag=lag, latest_landing=landing)
    with pytest.raises(Conflict):
        await buy(api, complete)
    assert api.clock.monotonic() == settled
    assert await complete.pending() == []
    assert api.count("orders.page") == 2 * (5 if settled else 1)


@pytest.mark.parametrize("shown", [0.0, 3.0, 3.75, 12.0, 29.999, 30.0])
@pytest.mark.requirement(46)
async def test_order_listed_within_the_settle_time_is_found(api: FakeApiClient, shown: float) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [order_json()] if api.clock.monotonic() >= shown else []
        return REFUSED

    api.complete = refuse
    assert (await buy(api, make_completions(api))).reconciled
    assert api.count("complete.buy") == 1


@pytest.mark.parametrize(("retry_after", "first"), [(None, 0.0), (2.0, 2.0), (20.0, 20.0), (45.0, 45.0)])
async def test_polling_starts_after_retry_after(api: FakeApiClient, retry_after: float | None, first: float) -> None:
    refuse_with(api, retry_after=retry_after)
    polls: list[float] = []
    api.orders = lambda _: polls.append(api.clock.monotonic()) or []
    with pytest.raises(Conflict):
        await buy(api, make_completions(api))
    assert (polls[0], polls[-1]) == (first, max(30.0, first))


async def test_retry_after_longer_than_the_call_leaves_intent_unknown(api: FakeApiClient) -> None:
    refuse_with(api, retry_after=61.0)
    complete = make_completions(api)
    with pytest.raises(OutcomeUnknown):
        await buy(api, complete)
    assert (api.clock.monotonic(), api.count("orders.page")) == (0, 0)
    [intent] = await complete.pending()
    assert intent.refusal is not None
    assert (intent.refusal.status, intent.refusal.is_vendor_response) == (409, True)


@pytest.mark.parametrize(("inline", "polls", "ended"), [(0, 0, 0.0), (5, 2, 3.75), (29, 4, 15.0), (30, 5, 30.0)])
async def test_inline_looks_limit_the_call(api: FakeApiClient, inline: float, polls: int, ended: float) -> None:
    refuse_with(api)
    complete = make_completions(api, inline_looks=inline)
    error = Conflict if inline == 30 else OutcomeUnknown
    with pytest.raises(error):
        await buy(api, complete)
    assert (api.clock.monotonic(), api.count("orders.page")) == (ended, 2 * polls)
    assert len(await complete.pending()) == (error is OutcomeUnknown)


async def test_deadline_of_the_call_limits_its_polling(api: FakeApiClient) -> None:
    refuse_with(api)
    api.settings = attrs.evolve(api.settings, deadline=20.0)
    with pytest.raises(OutcomeUnknown):
        await buy(api, make_completions(api))
    assert api.clock.monotonic() == 15


async def test_wait_for_the_lock_counts_towards_the_deadline(api: FakeApiClient) -> None:
    refuse_with(api)
    api.settings = attrs.evolve(api.settings, deadline=20.0)
    complete = make_completions(api)

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
    # The polls would be at 8, 11.75, 15.5 and 23 s; the last one is beyond the deadline of 20 s.
    assert api.clock.monotonic() == 15.5


@pytest.mark.parametrize("inline", [0, 5])
async def test_reconcile_settles_a_stored_refusal(api: FakeApiClient, inline: float) -> None:
    refuse_with(api)
    complete = make_completions(api, inline_looks=inline)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(CompletionRejected) as rejected:
        await complete.reconcile(caught.value)
    assert rejected.value.order is None
    assert rejected.value.refusal == caught.value.intent.refusal
    # The server's clock is known to the second, so a stored refusal is confirmed one second later.
    assert api.clock.monotonic() > 31
    assert await complete.pending() == []


@pytest.mark.requirement(46)
async def test_reconcile_before_the_settle_time_stays_unknown(api: FakeApiClient) -> None:
    refuse_with(api)
    complete = make_completions(api, inline_looks=0, reconcile_budget=25.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    assert [intent.state for intent in await complete.pending()] == [IntentState.UNKNOWN]


@pytest.mark.requirement(46)
@pytest.mark.parametrize("date", ["", "yesterday", "Fri, 20 Feb 1970 12:27:57 GMT"])
async def test_stored_refusal_without_server_date_stays_unknown(api: FakeApiClient, date: str) -> None:
    """The clock of this machine may be ahead: it does not show that the settle time is over."""
    api.date = date
    refuse_with(api)
    complete = make_completions(api, inline_looks=0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    for _ in range(3):
        with pytest.raises(OutcomeUnknown):
            await complete.reconcile(caught.value)
    assert api.clock.monotonic() > 60
    assert [intent.state for intent in await complete.pending()] == [IntentState.UNKNOWN]


async def test_stored_trusted_refusal_waits_for_the_settle_time(api: FakeApiClient) -> None:
    # The journal does not store that an earlier read failed.
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = lambda _: [] if api.clock.monotonic() > 2 else ServerError("down", 500)
        return ValidationFailed("no", 422, 422)

    api.complete = refuse
    complete = make_completions(api, inline_looks=0, reconcile_budget=20.0)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(caught.value)
    with pytest.raises(CompletionRejected):
        await complete.reconcile(caught.value)
    assert api.clock.monotonic() >= 31


async def test_refusal_is_stored_before_the_first_read_back(api: FakeApiClient) -> None:
    stored: list[Any] = []
    complete = make_completions(api)

    async def list_orders(_: Request) -> Any:
        stored.extend(intent.refusal for intent in await complete._settlement.journal.pending())
        return []

    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.orders = list_orders
        return REFUSED

    api.complete = refuse
    with pytest.raises(Conflict):
        await buy(api, complete)
    assert stored
    assert None not in stored


async def test_refusal_that_cannot_be_stored_is_still_raised(
    api: FakeApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    class FullJournal(MemoryJournal):
        async def record_refusal(self, *_: Any) -> None:
            raise JournalError("the disk is full")

    refuse_with(api)
    with pytest.raises(Conflict):
        await buy(api, completions_of(api.with_policy(CompletionPolicy()), FullJournal()))
    assert "could not store the refusal of the server" in caplog.text


# --- an intent that another process prepared ---------------------------------------------------------------------


@pytest.mark.requirement(46)
@pytest.mark.parametrize("age", [0, 500, 700])
@pytest.mark.parametrize("send_before", [True, False])
async def test_foreign_prepared_intent_is_settled_after_its_send_limit(
    api: FakeApiClient, age: float, send_before: bool
) -> None:
    complete = make_completions(api, latest_landing=10.0)
    created = api.clock.wall() - timedelta(seconds=age)
    limit = created + timedelta(seconds=600) if send_before else None
    intent = intent_of(state=IntentState.PREPARED, created_at=created, send_before=limit)
    await complete._settlement.journal.prepare(intent)
    with pytest.raises(NotExecuted if age == 700 else OutcomeUnknown):
        await complete.reconcile(intent)
    # Only the process that prepared the intent knows whether it was sent.
    assert [intent.state for intent in await complete.pending()] == [IntentState.PREPARED] * (age < 700)


async def test_prepared_intent_with_an_order_is_confirmed_without_wait(api: FakeApiClient) -> None:
    complete = make_completions(api)
    intent = intent_of(state=IntentState.PREPARED, send_before=api.clock.wall() + timedelta(seconds=600))
    await complete._settlement.journal.prepare(intent)
    api.orders, api.basket = [order_json()], None
    assert (await complete.reconcile(intent)).reconciled
    assert api.clock.monotonic() == 0


async def test_intent_stores_its_send_limit(api: FakeApiClient) -> None:
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, make_completions(api))
    # The price lock has 201 s left, 3 s of them are the margin; the server's clock is known to the second.
    assert caught.value.intent.send_before == api.clock.wall() + timedelta(seconds=201 - 3 + 1)


# --- Q3: the price lock ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slow", "left"), [(0.2, 3.0), (7.5, 7.5)])
async def test_q3_slow_server_increases_the_lock_margin(api: FakeApiClient, slow: float, left: float) -> None:
    api.state.server_stats.record_latency(slow)
    await buy(api, make_completions(api))
    assert api.not_after == [201 - left]


async def test_q3_lock_too_short_for_a_slow_server_is_not_used(api: FakeApiClient) -> None:
    api.state.server_stats.record_latency(10.0)
    api.basket = basket_json(pricefix={"remaining": 9, "nextUpdate": "2026-02-20T15:31:57+03:00"})
    with pytest.raises(PriceFixExpired, match="9 s left, 10 s are required"):
        await buy(api, make_completions(api))
    assert api.count("complete.buy") == 0


# --- Q4: does an order keep the number of its basket? ------------------------------------------------------------


@pytest.mark.parametrize(("keeps_number", "expected"), [(True, Match.ID), (False, Match.LIKELY)])
def test_q4_match_by_number_only_depends_on_keeps_number(keeps_number: bool, expected: Match) -> None:
    row = order_json(token="", guid="", increment_id="")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    assert match_order(row, order, intent_of(), keeps_number=keeps_number) is expected


async def test_q4_policy_decides_about_a_match_by_number(api: FakeApiClient) -> None:
    api.basket, api.orders = None, [order_json(token="", guid="", increment_id="")]
    assert (await make_completions(api).reconcile(intent_of())).reconciled
    with pytest.raises(OutcomeUnknown) as caught:
        await make_completions(api, order_keeps_number=False).reconcile(intent_of())
    assert "order 10984 may be the order of this purchase" in caught.value.evidence


# --- Q5, Q6: when is an order listed, and what does a fence prove? -----------------------------------------------


async def test_q5_order_listed_late_after_a_fence_is_found(api: FakeApiClient) -> None:
    def clear(_: Request) -> Any:
        api.basket = basket_json(items=[])
        return api.basket

    api.clear = clear
    api.orders = lambda _: [order_json()] if api.clock.monotonic() > 45 else []
    complete = make_completions(api, fence_proves_not_executed=True, orders_lag=60.0)
    assert (await complete.reconcile(intent_of(), fence=True)).reconciled


@pytest.mark.parametrize(("bound", "error"), [(None, OutcomeUnknown), (50.0, NotExecuted), (110.0, OutcomeUnknown)])
async def test_open_basket_proves_not_executed_only_with_a_bound(
    api: FakeApiClient, bound: float | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await make_completions(api, latest_landing=bound).reconcile(intent_of())
    assert api.count("baskets.clear") == 0


# --- Q9: an idempotency key --------------------------------------------------------------------------------------


async def test_q9_intent_id_is_the_idempotency_key(api: FakeApiClient) -> None:
    await buy(api, make_completions(api))
    assert api.sent[-1].headers is None
    api.basket = basket_json()
    complete = make_completions(api, idempotency_header="Idempotency-Key")
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    assert api.sent[-1].headers == {"Idempotency-Key": caught.value.intent.id}


# --- orders that exist before the purchase -----------------------------------------------------------------------


OTHER_ORDER = {"id": 77, "token": "X" * 32, "guid": "ANOTHER", "increment_id": "1"}


@pytest.mark.parametrize("pre_image", ["off", "try", "require"])
async def test_earlier_order_is_excluded_by_pre_image(api: FakeApiClient, pre_image: str) -> None:
    api.orders = [order_json(**OTHER_ORDER)]
    api.complete = lose_response(api)
    complete = make_completions(api, pre_image=pre_image)
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    assert caught.value.intent.known_orders == (() if pre_image == "off" else (77,))
    with pytest.raises(OutcomeUnknown) as still:
        await complete.reconcile(caught.value)
    assert ("order 77 may be the order of this purchase" in still.value.evidence) == (pre_image == "off")


@pytest.mark.parametrize("failure", [LOST, PermissionDenied("not you", 403, 403), [order_of("customer-2")]], ids=str)
async def test_unreadable_earlier_orders_stop_a_required_pre_image(api: FakeApiClient, failure: Any) -> None:
    api.orders = failure
    with pytest.raises(NotSent, match="latest orders"):
        await buy(api, make_completions(api, pre_image="require"))
    assert api.count("complete.buy") == 0
    api.complete = order_json()
    await buy(api, make_completions(api, pre_image="try"))
    assert api.count("complete.buy") == 1


# --- intents that block a basket ---------------------------------------------------------------------------------


async def test_completed_basket_raises_already_in_flight_with_order(api: FakeApiClient) -> None:
    complete = make_completions(api)
    done = await buy(api, complete)
    with pytest.raises(AlreadyInFlight, match="it is order 10984") as caught:
        await buy(api, complete)
    assert (caught.value.order_id, api.count("complete.buy")) == (10984, 1)
    assert done.order is not None
    # The same error is raised if the basket is still active.
    api.basket = basket_json()
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await buy(api, complete)
    # A basket with an unknown outcome stays blocked if its items have changed.
    api.basket, api.complete = basket_json(token="Y" * 32), LOST
    with pytest.raises(OutcomeUnknown) as unknown:
        await complete.buy(api.seen_basket(token="Y" * 32), expected_total=TOTAL)
    api.basket = basket_json(token="Y" * 32, items=[])
    with pytest.raises(AlreadyInFlight, match="reconcile it") as blocked:
        await complete.buy(api.seen_basket(token="Y" * 32), expected_total=TOTAL)
    assert blocked.value.intent_id == unknown.value.intent.id


async def test_intent_stores_the_offset_of_the_server_clock(api: FakeApiClient) -> None:
    api.state.server_stats.record_date("Fri, 20 Feb 2026 13:27:57 GMT", api.clock.wall())
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, make_completions(api))
    assert caught.value.intent.clock_offset == 3600
    assert caught.value.intent.created_by_server == api.clock.wall() + timedelta(hours=1)


@pytest.mark.parametrize("offset", [0, -3600])
def test_match_order_corrects_the_clock_offset(offset: int) -> None:
    """The client's clock was an hour ahead, so the order seems to be older than the intent."""
    row = order_json(**OTHER_ORDER, order_at="2026-02-20T11:28:00.000000Z")
    order = converter.structure(row, Order, elapsed=lambda: 0.0)
    found = match_order(row, order, intent_of(clock_offset=offset))
    assert found is (Match.LIKELY if offset else Match.NONE)


async def test_refusal_with_cancelled_order_raises_completion_rejected(api: FakeApiClient) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        api.orders = [order_json(status_name="Cancelled")]
        return Conflict("used", 409, 409)

    api.complete = refuse
    with pytest.raises(CompletionRejected) as caught:
        await buy(api, make_completions(api))
    assert caught.value.order is not None


async def test_fence_waits_for_the_lock_within_its_budget(api: FakeApiClient) -> None:
    complete = make_completions(api, fence_proves_not_executed=True, reconcile_budget=5.0)
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


# --- matching a response to the basket ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "is_match"),
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
async def test_response_is_matched_to_the_basket_by_its_keys(
    api: FakeApiClient, changes: dict[str, Any], is_match: bool
) -> None:
    assert refers_to({**order_json(), **changes}, intent_of()) is is_match
    api.complete = {**order_json(), **changes}
    complete = make_completions(api)
    if is_match:
        await buy(api, complete)
    else:
        with pytest.raises(OutcomeUnknown):
            await buy(api, complete)
    assert len(await complete.pending()) == (not is_match)


# --- manual decisions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["confirmed", "rejected", "not_executed"])
async def test_decide_settles_the_intent_without_requests(
    api: FakeApiClient, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    complete = make_completions(api)
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
async def test_invalid_decision_is_rejected(api: FakeApiClient, arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await make_completions(api).decide(*arguments)
    assert caught.value.field == field


async def test_decide_on_closed_intent_accepts_only_confirmed(
    api: FakeApiClient, caplog: pytest.LogCaptureFixture
) -> None:
    complete = make_completions(api)
    api.complete = LOST
    with pytest.raises(OutcomeUnknown) as caught:
        await buy(api, complete)
    await complete.decide(caught.value, "not_executed")
    await complete.decide(caught.value, "not_executed")
    with pytest.raises(InvalidInput, match="has the outcome not_executed: only confirmed can replace it"):
        await complete.decide(caught.value, "rejected")
    assert "settled manually as rejected" not in caplog.text
    await complete.decide(caught.value, "confirmed", order_id=7)
    with pytest.raises(InvalidInput, match="has the outcome confirmed"):
        await complete.decide(caught.value, "rejected")


async def test_decision_that_cannot_be_stored_raises_journal_error(api: FakeApiClient) -> None:
    class BrokenJournal(MemoryJournal):
        async def settle(self, *_: Any, **__: Any) -> None:
            raise JournalError("the disk is full")

    journal = BrokenJournal()
    await journal.prepare(intent_of())
    with pytest.raises(JournalError):
        await completions_of(api, journal).decide(intent_of(), "rejected")
