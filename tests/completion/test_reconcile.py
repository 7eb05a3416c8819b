"""Read-back: which order matches an intent, what proves an outcome, and that a failed read proves nothing."""

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
    completions_of,
    intent_of,
    order_json,
    order_of,
    page_json,
)

pytestmark = pytest.mark.anyio

OTHER_KEYS = {"token": "X" * 32, "guid": "ANOTHER", "increment_id": "1", "id": 77}
NO_KEYS = {"token": "", "guid": "", "increment_id": "", "id": 77}
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
    return completions_of(api, journal)


def waits(api: FakeApiClient) -> list[float]:
    return api.clock.sleeps  # type: ignore[attr-defined]


def state(journal: MemoryJournal) -> str:
    [intent] = [*journal._closed.values(), *journal._open.values()]
    return intent.state


def clear_with(api: FakeApiClient, **changes: Any) -> Any:
    """Return a server that clears the basket; its response differs by `changes`."""

    def clear(request: Request) -> dict[str, Any]:
        assert request.body == {"external_customer_id": CUSTOMER, "cart_token": TOKEN}
        api.basket = basket_json(items=[], paid_total=0)
        return {**api.basket, **changes}

    return clear


# --- matching orders ---------------------------------------------------------------------------------------------


def match_of(raw: dict[str, Any], **intent: Any) -> Match:
    try:
        order = converter.structure(raw, Order, elapsed=float)
    except converter.StructureError:
        order = None
    return match_order(raw, order, intent_of(**intent))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (order_json(), Match.TOKEN),
        (order_json(**{**OTHER_KEYS, "token": TOKEN}), Match.TOKEN),
        (order_json(**{**OTHER_KEYS, "guid": intent_of().guid}), Match.GUID),
        (order_json(**{**OTHER_KEYS, "increment_id": intent_of().increment_id}), Match.INCREMENT_ID),
        (order_json(**{**NO_KEYS, "id": 10984}), Match.ID),
        (order_json(**{**NO_KEYS, "id": 10984, "paid_total": 1}), Match.ID),
        (order_json(**{**NO_KEYS, "id": 10984, "customer": {}}), Match.LIKELY),
        # One key of another basket: a person must decide, even if everything else is equal.
        (order_json(**{**OTHER_KEYS, "id": 10984}), Match.LIKELY),
        (order_json(**{**OTHER_KEYS, "id": 10984, "paid_total": 1, "order_at": "2020-01-01T00:00:00Z"}), Match.LIKELY),
        (order_json(**{**NO_KEYS, "id": 10984, "token": "X" * 32}), Match.LIKELY),
        (order_json(**{**NO_KEYS, "id": 10984, "guid": "ANOTHER"}), Match.LIKELY),
        # Orders may have numbers of their own: the basket's number with other items is another purchase.
        (order_json(**{**OTHER_KEYS, "id": 10984, "items": []}), Match.NONE),
        (order_json(**OTHER_KEYS), Match.LIKELY),
        (order_json(**OTHER_KEYS, paid_total=Decimal("1852.61")), Match.NONE),
        (order_json(**OTHER_KEYS, tx_type="sell"), Match.NONE),
        (order_json(**OTHER_KEYS, tx_type="never seen"), Match.LIKELY),
        (order_json(**OTHER_KEYS, order_at="2026-02-20T12:18:29Z"), Match.NONE),
        (order_json(**OTHER_KEYS, order_at="2026-02-20T12:18:30Z"), Match.LIKELY),
        (order_json(**OTHER_KEYS, order_creation_status="basket"), Match.NONE),
        (order_of("customer-2"), Match.NONE),
        # A row that cannot be parsed is matched by its keys; without keys it may be the order.
        ({"customer": {"external_id": CUSTOMER}, "token": TOKEN}, Match.TOKEN),
        ({"customer": {"external_id": CUSTOMER}, "token": "X"}, Match.NONE),
        ({"customer": {"external_id": CUSTOMER}}, Match.LIKELY),
        ({"token": TOKEN}, Match.LIKELY),
        # An unreadable customer is not another customer.
        ({"customer": {"external_id": ["odd"]}, "token": TOKEN}, Match.LIKELY),
    ],
)
def test_match_order_returns_how_an_order_matches(row: dict[str, Any], expected: Match) -> None:
    assert match_of(row) is expected


@pytest.mark.parametrize("name", ["cart_token", "guid", "increment_id"])
def test_match_order_ignores_empty_keys(name: str) -> None:
    key = name.removeprefix("cart_")
    row = order_json(**{**OTHER_KEYS, key: "", "paid_total": 1})
    assert match_of(row, **{name: ""}) is Match.NONE
    del row["paid_total"]
    assert match_of(row, **{name: ""}) is Match.NONE


def test_match_order_of_unparsable_row_without_keys_is_likely() -> None:
    row = {"customer": {"external_id": CUSTOMER}, "guid": "ANOTHER"}
    assert match_of(row, guid="") is Match.LIKELY
    assert match_of(row, guid="OURS") is Match.NONE


async def test_order_with_equal_number_and_other_keys_is_unknown(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.basket, api.orders = None, [order_json(**{**OTHER_KEYS, "id": 10984})]
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert "order 10984 may be the order of this purchase" in caught.value.evidence
    assert state(journal) == IntentState.UNKNOWN


def test_match_order_compares_pieces_by_their_sum() -> None:
    line = basket_json()["items"][0]
    split = [{**line, "amount": 1}, {**line, "amount": 2}]
    assert match_of(order_json(**OTHER_KEYS, items=split)) is Match.LIKELY


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(order_json(), st.none() | st.text() | st.integers())))
def test_match_order_rejects_orders_of_other_customers(changes: dict[str, Any]) -> None:
    raw = {**order_json(), **changes, "customer": {"external_id": "customer-2"}}
    assert match_of(raw) is Match.NONE


# --- polling -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(14)
async def test_reconcile_finds_listed_order_without_waiting(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.basket, api.orders = None, [order_of("customer-2", token=TOKEN), order_json()]
    done = await complete.reconcile(intent_of())
    assert done.order is not None
    assert done.order.customer.external_id == CUSTOMER
    assert (done.reconciled, done.differences) == (True, ())
    assert state(journal) == IntentState.CONFIRMED
    assert waits(api) == []


async def test_reconcile_sends_the_documented_queries(api: FakeApiClient, complete: AsyncCompletions) -> None:
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
async def test_search_window_covers_both_clocks(api: FakeApiClient, complete: AsyncCompletions, days: int) -> None:
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
async def test_invalid_date_header_is_ignored(api: FakeApiClient, complete: AsyncCompletions, date: str) -> None:
    api.date = date
    api.orders = [order_json()]
    assert (await complete.reconcile(intent_of())).reconciled
    query = dict(api.sent[-1].query)
    assert (query["startDate"], query["endDate"]) == ("2026-02-19", "2026-02-21")


@given(st.text(), st.datetimes(timezones=st.just(UTC)))
def test_clock_skew_is_bounded_for_every_date_header(date: str, moment: datetime) -> None:
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
async def test_cancel_during_settle_adds_a_note_to_the_exception(
    api: FakeApiClient, rows: list[Any], note: str
) -> None:
    started, resume = asyncio.Event(), asyncio.Event()

    class SlowSettleJournal(MemoryJournal):
        async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
            started.set()
            await resume.wait()
            await super().settle(intent_id, state, **what)

    journal = SlowSettleJournal()
    await journal.prepare(intent_of())
    api.orders, api.clear = rows, clear_with(api)
    complete = completions_of(api.with_policy(PROVING), journal)
    task = asyncio.create_task(complete.reconcile(intent_of(), fence=True))
    await started.wait()
    task.cancel()
    resume.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    # The intent is no longer pending, so only the exception carries the outcome.
    assert await complete.pending() == []
    assert caught.value.__notes__ == [f"intent {intent_of().id} {note}"]


async def test_reconcile_polls_until_the_order_is_listed(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    def lagging(request: Request) -> list[Any]:
        return [order_json()] if api.clock.monotonic() > 30 else []

    api.basket, api.orders = None, lagging
    assert (await complete.reconcile(intent_of())).reconciled
    assert waits(api) == [0.5, 1, 2, 4, 8, 15]


async def test_order_on_a_later_page_is_found(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def pages(request: Request) -> dict[str, Any]:
        query = dict(request.query)
        if "orderId" in query:
            return page_json([])
        number = int(query["page"])
        rows = [order_json()] if number == 3 else [order_of("customer-2", id=number)]
        return page_json(rows, number=number, last=9)

    api.orders = pages
    assert (await complete.reconcile(intent_of())).order is not None


async def test_search_ends_at_orders_older_than_the_intent(api: FakeApiClient, complete: AsyncCompletions) -> None:
    old = order_json(**OTHER_KEYS, order_at="2026-02-18T00:00:00Z")
    api.orders = lambda request: page_json([old], number=int(dict(request.query)["page"]), last=99)
    with pytest.raises(OutcomeUnknown):
        await completions_of(api.with_policy(CompletionPolicy(reconcile_budget=0.001)), MemoryJournal()).reconcile(
            intent_of()
        )
    assert api.count("orders.page") == 2


async def test_search_without_a_last_page_proves_nothing(api: FakeApiClient) -> None:
    api.orders = lambda request: page_json(
        [order_of("customer-2")], number=int(dict(request.query)["page"]), last=10**6
    )
    api.clear = clear_with(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent_of(), fence=True)
    assert any("there are more" in line for line in caught.value.evidence)
    assert api.count("baskets.clear") == 0


async def test_incomplete_search_by_number_proves_nothing(api: FakeApiClient) -> None:
    def pages(request: Request) -> dict[str, Any]:
        return page_json([order_of("customer-2")], last=10**6 if "orderId" in dict(request.query) else 1)

    api.orders, api.clear = pages, clear_with(api)
    with pytest.raises(OutcomeUnknown):
        await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0


async def test_basket_missing_in_one_read_is_undecided(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = lambda request: None if 60 < api.clock.monotonic() < 70 else basket_json()
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.evidence[1] == "undecided"


async def test_refunded_order_raises_completion_rejected(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.orders = [order_json(status_name="Refunded")]
    with pytest.raises(CompletionRejected) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.order is not None
    assert state(journal) == IntentState.REJECTED


async def test_further_orders_with_equal_keys_are_differences(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [
        order_json(**{**OTHER_KEYS, "increment_id": intent_of().increment_id}),
        order_json(id=5, status_name="Cancelled"),
        order_json(),
    ]
    done = await complete.reconcile(intent_of())
    assert done.keys["id"] == "10984"
    assert [line for line in done.differences if "same basket" in line] == [
        "order 77 has keys of the same basket",
        "order 5 has keys of the same basket",
    ]


async def test_unparsable_order_is_found_by_its_keys(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [{**order_json(), "paid_total": "a lot"}]
    done = await complete.reconcile(intent_of())
    assert done.order is None
    assert done.keys["id"] == "10984"


async def test_listed_basket_does_not_count_as_order(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.orders = [{**basket_json(), "status_name": "Created"}]
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(intent_of())


async def test_likely_order_leaves_intent_unknown(api: FakeApiClient, journal: MemoryJournal) -> None:
    api.orders, api.clear = [order_json(**OTHER_KEYS)], clear_with(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert "order 77 may be the order of this purchase" in caught.value.evidence
    assert api.count("baskets.clear") == 0
    assert state(journal) == IntentState.UNKNOWN


@pytest.mark.parametrize(
    ("basket", "likelihood"),
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
async def test_reconcile_without_order_reports_the_likelihood(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions, basket: Any, likelihood: str
) -> None:
    api.basket = basket
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of())
    assert caught.value.evidence[1] == likelihood
    assert waits(api) == [0.5, 1, 2, 4, 8, *[15] * 6]
    assert state(journal) == IntentState.UNKNOWN
    assert len(await complete.pending()) == 1


# --- the fence ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(14)
async def test_fence_proves_not_executed_only_by_policy(
    api: FakeApiClient, journal: MemoryJournal, complete: AsyncCompletions
) -> None:
    api.clear = clear_with(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably not executed"
    (fenced,) = await complete.pending()
    assert fenced.fenced_at is not None
    api.basket = basket_json()
    with pytest.raises(NotExecuted) as proven:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert proven.value.intent == intent_of(fenced_at=fenced.fenced_at)
    assert not proven.value.safe_to_retry
    assert state(journal) == IntentState.NOT_EXECUTED


async def test_fenced_intent_is_confirmed_by_a_late_order(api: FakeApiClient, journal: MemoryJournal) -> None:
    api.clear = clear_with(api)
    api.orders = lambda request: [order_json()] if api.clock.monotonic() > 25 else []
    done = await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert done.reconciled
    assert api.count("baskets.clear") == 1


@pytest.mark.parametrize(
    "response",
    [
        {"token": "X" * 32},
        {"items": basket_json()["items"]},
        {"order_creation_status": "order"},
        {"customer": {"external_id": "customer-2"}},
        {"order_creation_status": None},
    ],
)
async def test_fence_with_unexpected_response_proves_nothing(
    api: FakeApiClient, journal: MemoryJournal, response: dict[str, Any]
) -> None:
    def claim(request: Request) -> dict[str, Any]:
        api.basket = None
        return basket_json(**{"items": [], **response})

    api.clear = claim
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably executed"


@pytest.mark.parametrize("response", [Conflict("completed", 409, 409), NotFound("none", 404), BadRequest("no", 400)])
async def test_refused_fence_is_probably_executed(
    api: FakeApiClient, journal: MemoryJournal, response: Exception
) -> None:
    api.clear = response
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "probably executed"
    assert api.count("baskets.clear") == 1


@pytest.mark.parametrize(
    "failure", [ServerError("down", 500), RequestTimeout("slow"), RateLimited("slower", 429), ProtocolError("odd")]
)
async def test_failed_fence_is_retried(api: FakeApiClient, journal: MemoryJournal, failure: Exception) -> None:
    def flaky(request: Request) -> Any:
        return failure if api.count("baskets.clear") == 1 else clear_with(api)(request)

    api.clear = flaky
    with pytest.raises(NotExecuted):
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 2


async def test_fence_with_lost_response_is_read_back(api: FakeApiClient, journal: MemoryJournal) -> None:
    def lost(request: Request) -> Exception:
        clear_with(api)(request)
        return RequestTimeout("slow")

    api.clear = lost
    with pytest.raises(NotExecuted):
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 1


SHORT_BUDGET = CompletionPolicy(fence_proves_not_executed=True, reconcile_budget=3)


@pytest.mark.parametrize("has_response", [True, False])
@pytest.mark.parametrize("argument", ["error", "intent", "pending"])
async def test_later_reconcile_uses_the_stored_fence(
    api: FakeApiClient, journal: MemoryJournal, has_response: bool, argument: str
) -> None:
    def clear(request: Request) -> Any:
        response = clear_with(api)(request)
        return response if has_response else RequestTimeout("slow")

    api.clear = clear
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(SHORT_BUDGET), journal).reconcile(intent_of(), fence=True)
    later = completions_of(api.with_policy(PROVING), journal)
    (pending,) = await later.pending()
    assert pending.fenced_at is not None
    began = api.clock.monotonic()
    with pytest.raises(NotExecuted):
        await later.reconcile({"error": caught.value, "intent": intent_of(), "pending": pending}[argument])
    # The wait starts again, because the time at which the basket was cleared is not known.
    assert api.clock.monotonic() - began >= PROVING.orders_lag
    assert api.count("baskets.clear") == 1


async def test_order_overrides_an_old_fence(api: FakeApiClient, journal: MemoryJournal) -> None:
    await journal.fence(intent_of().id, intent_of().created_at)
    api.basket, api.orders = basket_json(items=[]), [order_json()]
    assert (await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of())).reconciled


async def test_old_fence_of_full_or_missing_basket_proves_nothing(api: FakeApiClient, journal: MemoryJournal) -> None:
    await journal.fence(intent_of().id, intent_of().created_at)
    for basket, likelihood in ((basket_json(), "probably not executed"), (None, "probably executed")):
        api.basket = basket
        with pytest.raises(OutcomeUnknown) as caught:
            await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of())
        assert caught.value.evidence[1] == likelihood


async def test_fence_that_cannot_be_stored_clears_nothing(api: FakeApiClient) -> None:
    class FullJournal(MemoryJournal):
        async def fence(self, intent_id: str, at: datetime) -> None:
            raise JournalError("the disk is full")

    journal = FullJournal()
    await journal.prepare(intent_of())
    api.clear = clear_with(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0
    assert "JournalError: the disk is full" in caught.value.evidence


async def test_unreadable_journal_does_not_hide_the_order(api: FakeApiClient) -> None:
    class UnreadableJournal(MemoryJournal):
        async def get(self, intent_id: str) -> None:
            raise JournalError("locked")

    api.orders = [order_json()]
    assert (await completions_of(api, UnreadableJournal()).reconcile(intent_of())).reconciled


@pytest.mark.parametrize("basket", [None, basket_json(items=[])])
async def test_missing_or_empty_basket_is_not_cleared(api: FakeApiClient, journal: MemoryJournal, basket: Any) -> None:
    api.basket, api.clear = basket, clear_with(api)
    with pytest.raises(OutcomeUnknown):
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert api.count("baskets.clear") == 0


# --- reads that fail (F44) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
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
async def test_failed_search_proves_nothing(api: FakeApiClient, journal: MemoryJournal, failure: Any) -> None:
    api.orders, api.clear = (lambda request: failure), clear_with(api)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)
    assert caught.value.evidence[1] == "undecided"
    assert api.count("baskets.clear") == 0


async def test_one_failed_search_of_two_proves_nothing(api: FakeApiClient, journal: MemoryJournal) -> None:
    def fail_listing(request: Request) -> Any:
        return [] if "orderId" in dict(request.query) else MintedConnectError("odd")

    api.orders, api.clear = fail_listing, clear_with(api)
    with pytest.raises(OutcomeUnknown):
        await completions_of(api.with_policy(PROVING), journal).reconcile(intent_of(), fence=True)


async def test_reads_end_with_the_reconcile_budget(api: FakeApiClient, journal: MemoryJournal) -> None:
    async def hang(request: Request) -> Exception:
        await api.clock.sleep(api.deadlines[-1] or 0)
        return RequestTimeout("slow")

    api.basket = api.orders = hang
    begun = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown):
        await completions_of(api.with_policy(CompletionPolicy(reconcile_budget=40)), journal).reconcile(intent_of())
    assert api.clock.monotonic() - begun == 40
    # The third read of this poll does not start: no time is left.
    assert api.deadlines == [30, 10]


async def test_short_deadline_limits_each_read(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.settings = attrs.evolve(api.settings, deadline=0.5)
    api.orders = [order_json()]
    await complete.reconcile(intent_of())
    assert api.deadlines == [0.5] * 3


async def test_search_of_many_pages_ends_with_the_budget(api: FakeApiClient, journal: MemoryJournal) -> None:
    async def slow(request: Request) -> dict[str, Any]:
        await api.clock.sleep(5)
        return page_json([order_of("customer-2")], last=10**6)

    api.orders = slow
    begun = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(CompletionPolicy(reconcile_budget=12)), journal).reconcile(intent_of())
    assert api.clock.monotonic() - begun <= 15
    assert any("is over" in line for line in caught.value.evidence)


async def test_closed_client_ends_reconcile(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = ClientClosedError("closed")
    with pytest.raises(OutcomeUnknown):
        await complete.reconcile(intent_of())
    assert waits(api) == []


async def test_recovered_reads_confirm_the_order(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def flaky(request: Request) -> Any:
        return [order_json()] if api.clock.monotonic() > 5 else ServerError("down", 500)

    api.orders = flaky
    assert (await complete.reconcile(intent_of())).reconciled
