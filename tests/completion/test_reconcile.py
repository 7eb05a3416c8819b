"""Reading back: which order is the intent's, when it is enough, and that a failed read proves nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect.completion.completions import AsyncCompletions
from minted_connect.completion.order_match import Match, match_order
from minted_connect.config import CompletionPolicy
from minted_connect.core import converter
from minted_connect.core.headers import clock_skew
from minted_connect.core.request import Request
from minted_connect.errors import (
    BadRequest,
    ClientClosedError,
    CompletionRejected,
    Conflict,
    JournalError,
    MintedConnectError,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ServerError,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import IntentState, Order
from tests.completion.fakes import (
    CUSTOMER,
    TOKEN,
    FakeApiClient,
    basket_json,
    intent_of,
    order_json,
    order_of,
    page_json,
)

pytestmark = pytest.mark.anyio

STRANGE = {"token": "X" * 32, "guid": "ANOTHER", "increment_id": "1", "id": 77}
KEYLESS = {"token": "", "guid": "", "increment_id": "", "id": 77}
PROVING = CompletionPolicy(fence_proves_not_executed=True)


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


@pytest.fixture
async def journal() -> MemoryJournal:
    journal = MemoryJournal()
    await journal.prepare(intent_of())
    return journal


@pytest.fixture
def complete(api: FakeApiClient, journal: MemoryJournal) -> AsyncCompletions:
    return AsyncCompletions(api, journal)


def waits(api: FakeApiClient) -> list[float]:
    return api.clock.sleeps  # type: ignore[attr-defined]


def state(journal: MemoryJournal) -> str:
    [intent] = [*journal._closed.values(), *journal._open.values()]
    return intent.state


def cleared(api: FakeApiClient, **changes: Any) -> Any:
    """A server that clears the basket; the answer differs by `changes`."""

    def clear(request: Request) -> dict[str, Any]:
        assert request.body == {"external_customer_id": CUSTOMER, "cart_token": TOKEN}
        api.basket = basket_json(items=[], paid_total=0)
        return {**api.basket, **changes}

    return clear


# --- recognising -------------------------------------------------------------------------------------------------


def strength(raw: dict[str, Any], **intent: Any) -> Match:
    try:
        order = converter.structure(raw, Order, elapsed=float)
    except converter.StructureError:
        order = None
    return match_order(raw, order, intent_of(**intent))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (order_json(), Match.TOKEN),
        (order_json(**{**STRANGE, "token": TOKEN}), Match.TOKEN),
        (order_json(**{**STRANGE, "guid": intent_of().guid}), Match.GUID),
        (order_json(**{**STRANGE, "increment_id": intent_of().increment_id}), Match.INCREMENT_ID),
        (order_json(**{**KEYLESS, "id": 10984}), Match.ID),
        (order_json(**{**KEYLESS, "id": 10984, "paid_total": 1}), Match.ID),
        (order_json(**{**KEYLESS, "id": 10984, "customer": {}}), Match.LIKELY),
        # One key that names another basket: a person has to look, whatever else is equal.
        (order_json(**{**STRANGE, "id": 10984}), Match.LIKELY),
        (order_json(**{**STRANGE, "id": 10984, "paid_total": 1, "order_at": "2020-01-01T00:00:00Z"}), Match.LIKELY),
        (order_json(**{**KEYLESS, "id": 10984, "token": "X" * 32}), Match.LIKELY),
        (order_json(**{**KEYLESS, "id": 10984, "guid": "ANOTHER"}), Match.LIKELY),
        # Orders may be numbered apart from baskets: the same number with other lines is another purchase.
        (order_json(**{**STRANGE, "id": 10984, "items": []}), Match.NONE),
        (order_json(**STRANGE), Match.LIKELY),
        (order_json(**STRANGE, paid_total=Decimal("1852.61")), Match.NONE),
        (order_json(**STRANGE, tx_type="sell"), Match.NONE),
        (order_json(**STRANGE, tx_type="never seen"), Match.LIKELY),
        (order_json(**STRANGE, order_at="2026-02-20T12:18:29Z"), Match.NONE),
        (order_json(**STRANGE, order_at="2026-02-20T12:18:30Z"), Match.LIKELY),
        (order_json(**STRANGE, order_creation_status="basket"), Match.NONE),
        (order_of("customer-2"), Match.NONE),
        # What cannot be read is told apart by its keys, and is a doubt without them.
        ({"customer": {"external_id": CUSTOMER}, "token": TOKEN}, Match.TOKEN),
        ({"customer": {"external_id": CUSTOMER}, "token": "X"}, Match.NONE),
        ({"customer": {"external_id": CUSTOMER}}, Match.LIKELY),
        ({"token": TOKEN}, Match.LIKELY),
        ({"customer": {"external_id": ["odd"]}, "token": TOKEN}, Match.NONE),
    ],
)
def test_how_surely_an_order_is_ours(row: dict[str, Any], expected: Match) -> None:
    assert strength(row) is expected


@pytest.mark.parametrize("name", ["cart_token", "guid", "increment_id"])
def test_empty_keys_have_nothing_in_common(name: str) -> None:
    key = name.removeprefix("cart_")
    row = order_json(**{**STRANGE, key: "", "paid_total": 1})
    assert strength(row, **{name: ""}) is Match.NONE
    del row["paid_total"]
    assert strength(row, **{name: ""}) is Match.NONE


def test_what_cannot_be_read_and_has_no_key_to_compare_is_a_doubt() -> None:
    row = {"customer": {"external_id": CUSTOMER}, "guid": "ANOTHER"}
    assert strength(row, guid="") is Match.LIKELY
    assert strength(row, guid="OURS") is Match.NONE


async def test_the_same_number_under_other_keys_is_never_confirmed(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.basket, api.orders = None, [order_json(**{**STRANGE, "id": 10984})]
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert "order 10984 may be the order of this purchase" in caught.value.evidence
    assert state(journal) == IntentState.UNKNOWN


def test_lines_are_compared_by_their_sum() -> None:
    line = basket_json()["items"][0]
    split = [{**line, "amount": 1}, {**line, "amount": 2}]
    assert strength(order_json(**STRANGE, items=split)) is Match.LIKELY


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(order_json(), st.none() | st.text() | st.integers())))
def test_an_order_of_somebody_else_is_never_ours(changes: dict[str, Any]) -> None:
    raw = {**order_json(), **changes, "customer": {"external_id": "customer-2"}}
    assert strength(raw) is Match.NONE


# --- looking until it is known -----------------------------------------------------------------------------------


@pytest.mark.requirement(14)
async def test_an_order_is_found_at_once(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.basket, api.orders = None, [order_of("customer-2", token=TOKEN), order_json()]
    done = await complete.reconcile(intent_of())
    assert done.order is not None
    assert done.order.customer.external_id == CUSTOMER
    assert (done.reconciled, done.differences) == (True, ())
    assert state(journal) == IntentState.CONFIRMED
    assert waits(api) == []


async def test_it_is_looked_for_the_way_the_vendor_documents(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [order_json()]
    await complete.reconcile(intent_of())
    by_number, by_time = (dict(request.query) for request in api.sent if request.operation.name == "orders.page")
    assert by_number == {"page": "1", "total": "30", "customer_external_id": CUSTOMER, "orderId": "10984"}
    assert by_time == {
        "page": "1",
        "total": "30",
        "customer_external_id": CUSTOMER,
        "sortBy": "created_at",
        "sortType": "desc",
        "startDate": "2026-02-19",
        "endDate": "2026-02-21",
    }


@pytest.mark.parametrize("days", [-3, 0, 3])
async def test_the_window_covers_both_clocks(api: FakeApiClient, complete: AsyncCompletions, days: int) -> None:
    api.clock.jump_wall(days * 86_400)  # type: ignore[attr-defined]
    api.orders = [order_json()]
    await complete.reconcile(intent_of(created_at=api.clock.wall()))
    query = dict(api.sent[-1].query)
    assert query["startDate"] <= "2026-02-19"
    assert query["endDate"] >= "2026-02-21"


@pytest.mark.parametrize(
    "date",
    [
        "",
        "yesterday",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2024 00:00:00 -0000",
        "Mon, 99999999999999999999999 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 2024 99999999999999999999:00:00 GMT",
    ],
)
async def test_a_date_that_is_none_is_ignored(api: FakeApiClient, complete: AsyncCompletions, date: str) -> None:
    api.date = date
    api.orders = [order_json()]
    assert (await complete.reconcile(intent_of())).reconciled
    query = dict(api.sent[-1].query)
    assert (query["startDate"], query["endDate"]) == ("2026-02-19", "2026-02-21")


@given(st.text(), st.datetimes(timezones=st.just(UTC)))
def test_no_date_header_breaks_anything(date: str, moment: datetime) -> None:
    now = datetime(2026, 2, 20, tzinfo=UTC)
    for header in (date, format_datetime(moment), f"{format_datetime(moment)[:-5]}{date}"):
        assert abs(clock_skew(header, now, timedelta())) <= timedelta(days=31)


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([order_json()], "was confirmed as order 10984"),
        ([order_json(status_name="Refunded")], "was rejected (CompletionRejected)"),
        ([], "was not carried out"),
    ],
)
async def test_cancelled_while_it_is_written_down_what_was_found(
    api: FakeApiClient, rows: list[Any], note: str
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryJournal):
        async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
            started.set()
            await go_on.wait()
            await super().settle(intent_id, state, **what)

    journal = Slow()
    await journal.prepare(intent_of())
    api.orders, api.clear = rows, cleared(api)
    complete = AsyncCompletions(api.following(PROVING), journal)
    task = asyncio.create_task(complete.reconcile(intent_of(), fence=True))
    await started.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    # It is not pending any more, so this is the only one who can be told.
    assert await complete.pending() == []
    assert caught.value.__notes__ == [f"intent {intent_of().id} {note}"]


async def test_an_order_that_shows_late(api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions) -> None:
    def lagging(request: Request) -> list[Any]:
        return [order_json()] if api.clock.monotonic() > 30 else []

    api.basket, api.orders = None, lagging
    assert (await complete.reconcile(intent_of())).reconciled
    assert waits(api) == [0.5, 1, 2, 4, 8, 15]


async def test_an_order_on_a_later_page_among_other_peoples(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def pages(request: Request) -> dict[str, Any]:
        query = dict(request.query)
        if "orderId" in query:
            return page_json([])
        number = int(query["page"])
        rows = [order_json()] if number == 3 else [order_of("customer-2", id=number)]
        return page_json(rows, number=number, last=9)

    api.orders = pages
    assert (await complete.reconcile(intent_of())).order is not None


async def test_the_search_ends_at_orders_older_than_the_intent(api: FakeApiClient, complete: AsyncCompletions) -> None:
    old = order_json(**STRANGE, order_at="2026-02-18T00:00:00Z")
    api.orders = lambda request: page_json([old], number=int(dict(request.query)["page"]), last=99)
    with pytest.raises(OutcomeUnknown):
        await AsyncCompletions(api.following(CompletionPolicy(reconcile_budget=0.001)), MemoryJournal()).reconcile(
            intent_of()
        )
    assert api.count("orders.page") == 2


async def test_a_search_that_never_ends_proves_nothing(api: FakeApiClient) -> None:
    api.orders = lambda request: page_json([order_of("customer-2")], number=1, last=10**6)
    api.clear = cleared(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), MemoryJournal()).reconcile(intent_of(), fence=True)
    assert any("there are more" in line for line in caught.value.evidence)
    assert api.count("baskets.clear") == 0


async def test_half_a_search_proves_nothing(api: FakeApiClient) -> None:
    def pages(request: Request) -> dict[str, Any]:
        return page_json([order_of("customer-2")], last=10**6 if "orderId" in dict(request.query) else 1)

    api.orders, api.clear = pages, cleared(api)
    with pytest.raises(OutcomeUnknown):
        await AsyncCompletions(api.following(PROVING), MemoryJournal()).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0


async def test_a_basket_that_was_away_meanwhile_is_not_stable(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = lambda request: None if 60 < api.clock.monotonic() < 70 else basket_json()
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.evidence[1] == "undecided"


async def test_an_order_that_was_cancelled(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.orders = [order_json(status_name="Refunded")]
    with pytest.raises(CompletionRejected) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.order is not None
    assert state(journal) == IntentState.REJECTED


async def test_two_orders_with_our_keys_are_both_told(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [
        order_json(**{**STRANGE, "increment_id": intent_of().increment_id}),
        order_json(id=5, status_name="Cancelled"),
        order_json(),
    ]
    done = await complete.reconcile(intent_of())
    assert done.keys["id"] == "10984"
    assert [line for line in done.differences if "same basket" in line] == [
        "order 77 has keys of the same basket",
        "order 5 has keys of the same basket",
    ]


async def test_an_order_that_cannot_be_read_is_found_by_its_keys(
    api: FakeApiClient, complete: AsyncCompletions
) -> None:
    api.orders = [{**order_json(), "paid_total": "a lot"}]
    done = await complete.reconcile(intent_of())
    assert done.order is None
    assert done.keys["id"] == "10984"


async def test_a_row_that_is_still_a_basket_is_no_order(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [{**basket_json(), "status_name": "Created"}]
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(intent_of())


async def test_a_likely_order_is_for_a_person_to_decide(api: FakeApiClient, journal: MemoryJournal) -> None:
    api.orders, api.clear = [order_json(**STRANGE)], cleared(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert "order 77 may be the order of this purchase" in caught.value.evidence
    assert api.count("baskets.clear") == 0
    assert state(journal) == IntentState.UNKNOWN


@pytest.mark.parametrize(
    ("basket", "leaning"),
    [
        (None, "probably executed"),
        (NotFound("none", 404, 404), "probably executed"),
        (NotFound("of a gateway", 404), "undecided"),
        (basket_json(token="X" * 32), "probably executed"),
        (basket_json(items=[]), "probably executed"),
        (basket_json(order_creation_status="order"), "probably executed"),
        (basket_json(), "probably not executed"),
        (order_of("customer-2"), "undecided"),
        (ServerError("down", 500), "undecided"),
        ("odd", "undecided"),
    ],
)
async def test_without_an_order_it_stays_unknown(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions, basket: Any, leaning: str
) -> None:
    api.basket = basket
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.evidence[1] == leaning
    assert waits(api) == [0.5, 1, 2, 4, 8, *[15] * 6]
    assert state(journal) == IntentState.UNKNOWN
    assert len(await complete.pending()) == 1


# --- the fence ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(14)
async def test_a_fence_proves_only_what_staging_has_shown(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.clear = cleared(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably not executed"
    (fenced,) = await complete.pending()
    assert fenced.fenced_at is not None
    api.basket = basket_json()
    with pytest.raises(NotExecuted) as proven:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert proven.value.intent == intent_of(fenced_at=fenced.fenced_at)
    assert not proven.value.safe_to_retry
    assert state(journal) == IntentState.NOT_EXECUTED


async def test_a_fence_waits_for_a_late_order(api: FakeApiClient, journal: MemoryJournal) -> None:
    api.clear = cleared(api)
    api.orders = lambda request: [order_json()] if api.clock.monotonic() > 25 else []
    done = await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert done.reconciled
    assert api.count("baskets.clear") == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"token": "X" * 32},
        {"items": basket_json()["items"]},
        {"order_creation_status": "order"},
        {"customer": {"external_id": "customer-2"}},
        {"order_creation_status": None},
    ],
)
async def test_a_fence_that_is_not_seen_to_hold_proves_nothing(
    api: FakeApiClient, journal: MemoryJournal, answer: dict[str, Any]
) -> None:
    def claim(request: Request) -> dict[str, Any]:
        api.basket = None
        return basket_json(**{"items": [], **answer})

    api.clear = claim
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably executed"


@pytest.mark.parametrize("answer", [Conflict("completed", 409, 409), NotFound("none", 404), BadRequest("no", 400)])
async def test_a_refused_fence_leans_to_executed(api: FakeApiClient, journal: MemoryJournal, answer: Exception) -> None:
    api.clear = answer
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably executed"
    assert api.count("baskets.clear") == 1


@pytest.mark.parametrize(
    "trouble", [ServerError("down", 500), RequestTimeout("slow"), RateLimited("slower", 429), ProtocolError("odd")]
)
async def test_a_fence_that_failed_is_tried_again(
    api: FakeApiClient, journal: MemoryJournal, trouble: Exception
) -> None:
    def flaky(request: Request) -> Any:
        return trouble if api.count("baskets.clear") == 1 else cleared(api)(request)

    api.clear = flaky
    with pytest.raises(NotExecuted):
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 2


async def test_a_fence_whose_answer_was_lost_is_seen_afterwards(api: FakeApiClient, journal: MemoryJournal) -> None:
    def lost(request: Request) -> Exception:
        cleared(api)(request)
        return RequestTimeout("slow")

    api.clear = lost
    with pytest.raises(NotExecuted):
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 1


HASTY = CompletionPolicy(fence_proves_not_executed=True, reconcile_budget=3)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("kept", ["error", "intent", "pending"])
async def test_a_fence_is_remembered_by_whoever_comes_later(
    api: FakeApiClient, journal: MemoryJournal, answered: bool, kept: str
) -> None:
    def clear(request: Request) -> Any:
        answer = cleared(api)(request)
        return answer if answered else RequestTimeout("slow")

    api.clear = clear
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(HASTY), journal).reconcile(intent_of(), fence=True)
    later = AsyncCompletions(api.following(PROVING), journal)
    (pending,) = await later.pending()
    assert pending.fenced_at is not None
    began = api.clock.monotonic()
    with pytest.raises(NotExecuted):
        await later.reconcile({"error": caught.value, "intent": intent_of(), "pending": pending}[kept])
    # Counted anew: how long ago the basket was emptied, nobody saw.
    assert api.clock.monotonic() - began >= PROVING.orders_lag
    assert api.count("baskets.clear") == 1


async def test_an_order_outweighs_a_fence_of_long_ago(api: FakeApiClient, journal: MemoryJournal) -> None:
    await journal.fence(intent_of().id, intent_of().created_at)
    api.basket, api.orders = basket_json(items=[]), [order_json()]
    assert (await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of())).reconciled


async def test_a_fence_of_long_ago_proves_nothing_of_a_basket_that_is_full_or_gone(
    api: FakeApiClient, journal: MemoryJournal
) -> None:
    await journal.fence(intent_of().id, intent_of().created_at)
    for basket, leaning in ((basket_json(), "probably not executed"), (None, "probably executed")):
        api.basket = basket
        with pytest.raises(OutcomeUnknown) as caught:
            await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of())
        assert caught.value.evidence[1] == leaning


async def test_nothing_is_cleared_that_could_not_be_noted(api: FakeApiClient) -> None:
    class Full(MemoryJournal):
        async def fence(self, intent_id: str, at: datetime) -> None:
            raise JournalError("the disk is full")

    journal = Full()
    await journal.prepare(intent_of())
    api.clear = cleared(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0
    assert "JournalError: the disk is full" in caught.value.evidence


async def test_a_journal_that_cannot_be_read_hides_no_order(api: FakeApiClient) -> None:
    class Mute(MemoryJournal):
        async def get(self, intent_id: str) -> None:
            raise JournalError("locked")

    api.orders = [order_json()]
    assert (await AsyncCompletions(api, Mute()).reconcile(intent_of())).reconciled


@pytest.mark.parametrize("basket", [None, basket_json(items=[])])
async def test_a_basket_that_is_gone_is_not_fenced(api: FakeApiClient, journal: MemoryJournal, basket: Any) -> None:
    api.basket, api.clear = basket, cleared(api)
    with pytest.raises(OutcomeUnknown):
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0


# --- reads that fail (F44) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        ServerError("down", 500),
        RequestTimeout("slow"),
        ProtocolError("odd"),
        NotFound("no orders", 404),
        "odd",
        None,
        {"data": "odd"},
    ],
)
async def test_a_failed_search_never_becomes_a_verdict(
    api: FakeApiClient, journal: MemoryJournal, trouble: Any
) -> None:
    api.orders, api.clear = (lambda request: trouble), cleared(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "undecided"
    assert api.count("baskets.clear") == 0


async def test_one_failed_search_of_two_is_a_failed_search(api: FakeApiClient, journal: MemoryJournal) -> None:
    def half(request: Request) -> Any:
        return [] if "orderId" in dict(request.query) else MintedConnectError("odd")

    api.orders, api.clear = half, cleared(api)
    with pytest.raises(OutcomeUnknown):
        await AsyncCompletions(api.following(PROVING), journal).reconcile(intent_of(), fence=True)


async def test_no_read_outlasts_the_budget(api: FakeApiClient, journal: MemoryJournal) -> None:
    async def hang(request: Request) -> Exception:
        await api.clock.sleep(api.deadlines[-1] or 0)
        return RequestTimeout("slow")

    api.basket = api.orders = hang
    begun = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown):
        await AsyncCompletions(api.following(CompletionPolicy(reconcile_budget=40)), journal).reconcile(intent_of())
    assert api.clock.monotonic() - begun == 40
    # The third read of the look is not begun: there is no time left for it.
    assert api.deadlines == [30, 10]


async def test_a_short_deadline_bounds_each_read(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.settings = attrs.evolve(api.settings, deadline=0.5)
    api.orders = [order_json()]
    await complete.reconcile(intent_of())
    assert api.deadlines == [0.5] * 3


async def test_a_search_of_many_pages_ends_with_the_budget(api: FakeApiClient, journal: MemoryJournal) -> None:
    async def slow(request: Request) -> dict[str, Any]:
        await api.clock.sleep(5)
        return page_json([order_of("customer-2")], last=10**6)

    api.orders = slow
    begun = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        await AsyncCompletions(api.following(CompletionPolicy(reconcile_budget=12)), journal).reconcile(intent_of())
    assert api.clock.monotonic() - begun <= 15
    assert any("is over" in line for line in caught.value.evidence)


async def test_a_closed_client_does_not_go_on_waiting(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = ClientClosedError("closed")
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(intent_of())
    assert waits(api) == []


async def test_reads_that_recover(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def flaky(request: Request) -> Any:
        return [order_json()] if api.clock.monotonic() > 5 else ServerError("down", 500)

    api.orders = flaky
    assert (await complete.reconcile(intent_of())).reconciled
