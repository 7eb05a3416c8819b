"""complete.*: checks before sending, the outcome of each failure, and that no purchase is sent twice."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anyio
import attrs
import pytest

from minted_connect.completion.classify import FailureClass, classify
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.config import CompletionPolicy
from minted_connect.core.pool import RequestProgress
from minted_connect.core.request import Request
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    AuthDowngrade,
    AuthenticationFailed,
    BadRequest,
    BudgetExhausted,
    CircuitOpen,
    ClientClosedError,
    CompletionRejected,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    IntegrityError,
    InvalidInput,
    JournalError,
    LimiterTimeout,
    NotFound,
    NotSent,
    OutcomeUnknown,
    PermissionDenied,
    Phase,
    PoolTimeout,
    PriceChanged,
    PriceFixExpired,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ServerError,
    TLSFailed,
    TransportError,
    UnexpectedRedirect,
    ValidationFailed,
)
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent, IntentState, OrderKind
from tests.completion.fakes import (
    CUSTOMER,
    SHIPPING,
    TOKEN,
    TOTAL,
    FakeApiClient,
    basket_json,
    completions_of,
    order_json,
    order_of,
)

pytestmark = pytest.mark.anyio


class InspectableJournal(MemoryJournal):
    """A journal in memory whose states can be listed and whose writes can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare_error: Exception | None = None
        self.settle_error: Exception | None = None

    @property
    def states(self) -> list[str]:
        return [str(intent.state) for intent in (*self._closed.values(), *self._open.values())]

    async def prepare(self, intent: Intent) -> None:
        if self.prepare_error:
            raise self.prepare_error
        await super().prepare(intent)

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        if self.settle_error:
            raise self.settle_error
        await super().settle(intent_id, state, **what)


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


@pytest.fixture
def journal() -> InspectableJournal:
    return InspectableJournal()


@pytest.fixture
def complete(api: FakeApiClient, journal: InspectableJournal) -> AsyncCompletions:
    return completions_of(api, journal)


def fail_in(error: Exception, phase: Phase) -> Callable[[Request, RequestProgress], Exception]:
    def fail(_: Request, progress: RequestProgress) -> Exception:
        progress.phase = phase
        return error

    return fail


# --- successful completions --------------------------------------------------------------------------------------


async def test_purchase_is_sent_once_and_confirmed(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert (done.order.id, done.order.kind, done.order.token) == (10984, OrderKind.BUY, TOKEN)
    assert done.keys == {
        "id": "10984",
        "guid": "2695BF07-6963-40FD-9777-21670640745B",
        "increment_id": "59047701704",
    }
    assert (done.reconciled, done.differences) == (False, ())
    assert [request.operation.name for request in api.sent] == ["baskets.get_active", "complete.buy"]
    assert api.sent[1].body == {"external_customer_id": CUSTOMER, "cart_token": TOKEN}
    assert api.not_after == [201 - 3.0]
    assert journal.states == [IntentState.CONFIRMED]
    assert await complete.pending() == []


async def test_sell_and_delivery_return_their_orders(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = basket_json(type="sell")
    sold = await complete.sell(api.seen_basket(type="sell"), expected_total=TOTAL)
    assert sold.order is not None
    assert sold.differences == ()
    delivery: dict[str, Any] = {"type": "delivery", "tx_type": "delivery", "token": "D" * 32}
    api.basket = basket_json(**delivery)
    api.complete = lambda request, progress: order_json(tx_type="delivery", token="D" * 32)
    shipped = await complete.delivery(api.seen_basket(**delivery), shipping=SHIPPING, expected_total=TOTAL)
    assert shipped.order is not None
    body = api.sent[-1].body
    assert body is not None
    assert body["shipping"]["tax_number"] == "12345678910"
    assert "zipcode" not in body["shipping"]


async def test_current_price_is_paid_only_if_accepted(api: FakeApiClient, complete: AsyncCompletions) -> None:
    seen = api.seen_basket()
    api.basket = basket_json(paid_total=Decimal("2000.00"))
    api.complete = lambda request, progress: order_json(paid_total=Decimal(2000))
    with pytest.raises(PriceChanged) as caught:
        await complete.buy(seen, expected_total=TOTAL)
    assert (caught.value.expected, caught.value.actual) == (TOTAL, 2000)
    assert (await complete.buy(seen, accept_price="current")).differences == ()


async def test_order_that_differs_is_confirmed_with_differences(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    item = {**basket_json()["items"][0], "amount": 2}
    api.complete = lambda request, progress: order_json(
        paid_total=Decimal(1900), currency_code="USD", tx_type="sell", items=[item, {**item, "sku": "OTHER"}]
    )
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert [difference.split(":")[0] for difference in done.differences] == [
        "paid_total",
        "currency_code",
        "kind",
        "pieces of MNTBAE0001",
        "pieces of OTHER",
    ]
    assert journal.states == [IntentState.CONFIRMED]


async def test_unparsable_order_is_confirmed_by_its_keys(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def without_total(request: Request, progress: RequestProgress) -> dict[str, Any]:
        order = order_json()
        del order["paid_total"]
        return order

    api.complete = without_total
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.order is None
    assert done.keys["id"] == "10984"
    assert done.raw["token"] == TOKEN


# --- checks before sending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"expected_total": TOTAL, "accept_price": "current"},
        {"accept_price": "whatever"},
        {"expected_total": 1852.6},
        {"expected_total": 1852},
        {"expected_total": True},
        {"expected_total": "1852.60"},
        {"expected_total": Decimal("NaN")},
        {"expected_total": Decimal("Infinity")},
        {"expected_total": Decimal(-1)},
    ],
)
async def test_invalid_price_arguments_are_rejected(api: FakeApiClient, complete: AsyncCompletions, terms: Any) -> None:
    with pytest.raises(InvalidInput):
        await complete.buy(api.seen_basket(), **terms)
    assert api.sent == []


async def test_basket_that_cannot_be_completed_is_rejected(api: FakeApiClient, complete: AsyncCompletions) -> None:
    with pytest.raises(InvalidInput, match=r"complete\.sell"):
        await complete.buy(api.seen_basket(type="sell"), expected_total=TOTAL)
    with pytest.raises(InvalidInput, match="empty"):
        await complete.buy(api.seen_basket(items=[]), expected_total=TOTAL)
    with pytest.raises(InvalidInput, match="Basket"):
        await complete.buy(api.seen_basket().key, expected_total=TOTAL)  # type: ignore[arg-type]
    assert api.sent == []


@pytest.mark.parametrize("wrong", [{"city": ""}, {"fullname": None}, {"phone": "1\n2"}])
async def test_invalid_shipping_is_rejected(
    api: FakeApiClient, complete: AsyncCompletions, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match=f"shipping.{next(iter(wrong))}"):
        await complete.delivery(
            api.seen_basket(type="delivery"), shipping=attrs.evolve(SHIPPING, **wrong), expected_total=TOTAL
        )
    with pytest.raises(InvalidInput, match="Shipping"):
        await complete.delivery(api.seen_basket(type="delivery"), shipping={}, expected_total=TOTAL)  # type: ignore[arg-type]
    assert api.sent == []


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, InvalidInput),
        (NotFound("none", 404, 404), InvalidInput),
        (NotFound("of a gateway", 404), NotFound),
        (basket_json(items=[]), InvalidInput),
        (basket_json(token="X" * 32), IntegrityError),
        (order_of("customer-2"), IntegrityError),
        (basket_json(type="sell"), IntegrityError),
        (basket_json(order_creation_status="order"), IntegrityError),
        (basket_json(paid_total=Decimal("1852.61")), PriceChanged),
        (basket_json(pricefix={"remaining": 2, "nextUpdate": "2026-02-20T15:31:57+03:00"}), PriceFixExpired),
        (basket_json(pricefix={"remaining": -2, "nextUpdate": "2026-02-20T15:31:57+03:00"}), PriceFixExpired),
        (basket_json(pricefix=None), PriceFixExpired),
        ({"token": TOKEN}, NotSent),
        (ConnectFailed("no way"), ConnectFailed),
        (TransportError("gone"), NotSent),
        (RequestTimeout("slow"), NotSent),
        (ServerError("sick", 503, 503), NotSent),
        (PermissionDenied("not you", 403, 403), PermissionDenied),
    ],
)
async def test_basket_that_differs_from_the_agreed_one_is_not_sent(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, found: Any, error: type[Exception]
) -> None:
    api.basket = found
    with pytest.raises(error) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert not isinstance(caught.value, TimeoutError)
    assert api.count("complete.buy") == 0
    assert journal.states == []


LINE = basket_json()["items"][0]


@pytest.mark.requirement(18)
@pytest.mark.parametrize("terms", [{"expected_total": TOTAL}, {"accept_price": "current"}], ids=str)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"items": [{**LINE, "amount": 7}]}, "items"),
        ({"items": [{**LINE, "sku": "OTHER"}]}, "items"),
        ({"items": [LINE, {**LINE, "sku": "OTHER", "amount": 1}]}, "items"),
        # Changed items are reported before a changed price.
        ({"items": [{**LINE, "amount": 7}], "paid_total": Decimal(4000)}, "items"),
        ({"currency_code": "USD"}, "currency"),
    ],
)
async def test_basket_with_changed_items_is_not_sent(
    api: FakeApiClient,
    journal: InspectableJournal,
    complete: AsyncCompletions,
    terms: Any,
    change: dict[str, Any],
    expected: str,
) -> None:
    api.basket = basket_json(**change)
    with pytest.raises(InvalidInput, match="basket: ") as caught:
        await complete.buy(api.seen_basket(), **terms)
    assert expected in str(caught.value)
    assert "read it again" in str(caught.value)
    assert api.count("complete.buy") == 0
    assert journal.states == []


async def test_basket_with_split_lines_equals_the_agreed_basket(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.basket = basket_json(items=[{**LINE, "amount": 1}, {**LINE, "amount": 2}])
    assert (await complete.buy(api.seen_basket(), accept_price="current")).order is not None


@pytest.mark.requirement(13)
async def test_failing_journal_prevents_sending(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    journal.prepare_error = JournalError("the disk is full")
    with pytest.raises(JournalError):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert api.count("complete.buy") == 0


async def test_price_lock_that_expires_during_prepare_prevents_sending(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(self: MemoryJournal, intent: Intent) -> None:
        api.clock.advance(200)  # type: ignore[attr-defined]
        await MemoryJournal.prepare(self, intent)

    monkeypatch.setattr(InspectableJournal, "prepare", slow)
    with pytest.raises(PriceFixExpired):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert api.count("complete.buy") == 0
    assert journal.states == [IntentState.NOT_SENT]


async def test_basket_with_open_intent_is_not_sent_again(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.complete = fail_in(TransportError("gone"), Phase.SENT)
    with pytest.raises(OutcomeUnknown):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    with pytest.raises(AlreadyInFlight, match="reconcile"):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert api.count("complete.buy") == 1


# --- the outcome of each failure: column M of the fault matrix ---------------------------------------------------

REFUSALS = CompletionPolicy().refusals
NOT_SENT = [
    ConnectFailed("F01-F03"),
    TLSFailed("F04-F05"),
    PoolTimeout("F06"),
    LimiterTimeout("F07"),
    CircuitOpen("F08"),
    BudgetExhausted("no more"),
    InvalidInput("a path that cannot be sent", "id", "must not be empty"),
]
UNKNOWN = [
    TransportError("F10-F12", phase=Phase.SENT),
    RequestTimeout("F13", phase=Phase.SENT),
    TransportError("F16", phase=Phase.RESPONDED),
    ProtocolError("F17-F18, F35-F36"),
    ServerError("F30", 500, 500),
    ServerError("F31", 502),
    ServerError("F32", 503, 503),
    APIError("F33", 408, 408),
    APIError("F33", 425),
    UnexpectedRedirect("F34", (), 302),
    IntegrityError("F37"),
    ValidationFailed("F28 after an unknown attempt", 422, 422, after_unknown=True),
    AuthenticationFailed("F23 after an unknown attempt", 401, 401, after_unknown=True),
    ValueError("unexpected"),
    ClientClosedError("closed in flight"),
]
REFUSED = [
    AuthenticationFailed("F23", 401, 401, refused_digest=True),
    AuthenticationFailed("F23 without envelope", 401, refused_digest=True),
]
CONFIRMED_ONCE = [ValidationFailed("F28", 422, 422)]
CONFIRMED_LATER = [
    AuthenticationFailed("F23 of a gateway", 401, 401),
    AuthenticationFailed("F23 of a gateway without envelope", 401),
    AuthDowngrade("F24", 401),
    RateLimited("F29", 429, 429),
    APIError("F19", 200, 1),
    BadRequest("400", 400, 400),
    PermissionDenied("F25", 403, 403),
    NotFound("F26", 404, 404),
    Conflict("F27", 409, 409),
    ValidationFailed("F28 without envelope", 422),
    RateLimited("F29 without envelope", 429),
    APIError("teapot", 418, 418),
]


def label(value: Any) -> str:
    return f"{type(value).__name__}-{value}" if isinstance(value, Exception) else str(value)


@pytest.mark.parametrize("error", NOT_SENT, ids=label)
async def test_error_before_sending_is_raised_as_not_sent(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: Exception
) -> None:
    api.complete = fail_in(error, Phase.NOT_SENT)
    with pytest.raises(type(error)) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.NOT_SENT]
    # The basket can be completed by another call.
    api.complete = api.execute
    assert (await complete.buy(api.seen_basket(), expected_total=TOTAL)).order is not None


@pytest.mark.parametrize("error", [ClientClosedError("closed"), ConfigurationError("odd"), ValueError("odd")])
async def test_failure_before_the_first_byte_settles_as_not_sent(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: Exception
) -> None:
    api.complete = fail_in(error, Phase.NOT_SENT)
    with pytest.raises(type(error)):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert journal.states == [IntentState.NOT_SENT]


@pytest.mark.parametrize("error", [RequestTimeout("slow", phase=Phase.NOT_SENT), TimeoutError()])
async def test_timeout_before_sending_raises_not_sent(
    api: FakeApiClient, complete: AsyncCompletions, error: Exception
) -> None:
    api.complete = fail_in(error, Phase.NOT_SENT)
    with pytest.raises(NotSent) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is error


@pytest.mark.requirement(15)
@pytest.mark.parametrize("error", UNKNOWN, ids=label)
async def test_ambiguous_error_after_sending_raises_outcome_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: Exception
) -> None:
    api.complete = fail_in(error, Phase.SENT)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert journal.states == [IntentState.UNKNOWN]
    assert caught.value.intent.cart_token == TOKEN
    assert caught.value.phase is (error.phase if isinstance(error, TransportError) else Phase.SENT)
    assert caught.value.__cause__ is error
    assert type(error).__name__ in caught.value.evidence[0]
    assert not caught.value.safe_to_retry
    assert [intent.id for intent in await complete.pending()] == [caught.value.intent.id]
    assert api.count("complete.buy") == 1


@pytest.mark.parametrize("error", REFUSED, ids=label)
async def test_refused_digest_is_rejected_without_read_back(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: Exception
) -> None:
    api.complete = error
    with pytest.raises(type(error)) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.REJECTED]
    assert [request.operation.name for request in api.sent] == ["baskets.get_active", "complete.buy"]


@pytest.mark.parametrize("error", CONFIRMED_ONCE, ids=label)
async def test_trusted_refusal_is_confirmed_by_one_read_back(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: APIError
) -> None:
    api.complete = error = copy.copy(error)
    with pytest.raises(type(error)) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert error.is_confirmed
    assert journal.states == [IntentState.REJECTED]
    assert api.count("complete.buy") == 1
    assert api.count("orders.page") == 2
    assert api.clock.sleeps == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", CONFIRMED_LATER, ids=label)
async def test_other_refusal_is_confirmed_at_the_settle_time(
    api: FakeApiClient,
    journal: InspectableJournal,
    complete: AsyncCompletions,
    error: APIError,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.complete = error = copy.copy(error)
    begun = api.clock.monotonic()
    with pytest.raises(type(error)) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert error.is_confirmed
    assert journal.states == [IntentState.REJECTED]
    assert api.count("complete.buy") == 1
    assert api.clock.monotonic() - begun == CompletionPolicy().settle_time == 30
    assert f"refused with status {error.status}; polling for an order for up to 30 s" in caplog.text
    assert api.count("orders.page") == 2 * 5


@pytest.mark.parametrize("error", [*CONFIRMED_ONCE, *CONFIRMED_LATER], ids=label)
async def test_refusal_of_an_executed_purchase_is_confirmed(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, error: Exception
) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        return error

    api.complete = refuse
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.reconciled
    assert done.order is not None
    assert journal.states == [IntentState.CONFIRMED]


async def test_refusal_with_a_cancelled_order_is_rejected(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    def cancel(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        api.orders[0]["status_name"] = "Cancelled"
        return Conflict("no", 409, 409)

    api.complete = cancel
    with pytest.raises(CompletionRejected) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value.order is not None
    assert journal.states == [IntentState.REJECTED]


async def test_read_back_ends_after_the_budget_of_one_call(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    async def hang(request: Request) -> Exception:
        await api.clock.sleep(api.deadlines[-1] or 0)
        return RequestTimeout("slow")

    def refuse(request: Request, progress: RequestProgress) -> Exception:
        api.basket = api.orders = hang
        return Conflict("no", 409, 409)

    api.complete = refuse
    begun = api.clock.monotonic()
    with pytest.raises(OutcomeUnknown):
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert api.clock.monotonic() - begun == 60
    assert journal.states == [IntentState.UNKNOWN]


async def test_invalid_date_header_does_not_hide_the_refusal(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.date = "Fri, 31 Dec 9999 23:59:59 GMT"
    api.complete = error = Conflict("no", 409, 409)
    with pytest.raises(Conflict) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.REJECTED]


@pytest.mark.parametrize("missing", ["orders", "basket", "gone", "likely"])
async def test_incomplete_read_back_raises_outcome_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, missing: str
) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        if missing == "orders":
            api.orders = RequestTimeout("slow")
        elif missing == "likely":
            api.orders = [order_json(token="X" * 32, guid="G", increment_id="1", id=77)]
        else:
            api.basket = None if missing == "gone" else ServerError("down", 500)
        return NotFound("no", 404, 404)

    api.complete = refuse
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert isinstance(caught.value.__cause__, NotFound)
    assert journal.states == [IntentState.UNKNOWN]


def test_classify_returns_the_class_of_each_failure() -> None:
    for expected_class, errors in (
        (FailureClass.NOT_SENT, NOT_SENT),
        (FailureClass.UNKNOWN, UNKNOWN),
        (FailureClass.REFUSED, REFUSED),
    ):
        assert {classify(error, Phase.SENT, REFUSALS) for error in errors} == {expected_class}
    for expected_class, refused in (
        (FailureClass.CONFIRM_ONCE, CONFIRMED_ONCE),
        (FailureClass.CONFIRM_LATER, CONFIRMED_LATER),
    ):
        assert {classify(error, phase, REFUSALS) for error in refused for phase in Phase} == {expected_class}
    # An error about a response proves that the request was sent, in every phase.
    assert classify(ProtocolError("odd"), Phase.NOT_SENT, REFUSALS) is FailureClass.UNKNOWN


@pytest.mark.parametrize(
    "response",
    [
        order_of("customer-2"),
        order_json(token="X" * 32),
        {**order_json(), "order_creation_status": "basket"},
        {"success": "sure"},
        [],
        None,
        "ok",
    ],
    ids=["F37 customer", "F37 token", "still a basket", "another shape", "array", "null", "string"],
)
async def test_success_with_another_order_raises_outcome_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, response: Any
) -> None:
    api.complete = lambda request, progress: response
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    readable = isinstance(response, dict) and "token" in response
    assert isinstance(caught.value.__cause__, IntegrityError if readable else ProtocolError)
    assert caught.value.phase is Phase.RESPONDED
    assert journal.states == [IntentState.UNKNOWN]


FAILING = [
    *("Cancelled", "Canceled", "Failed", "Rejected", "Declined", "Refused", "Expired", "Voided", "Refunded"),
    *("İptal", "İptal Edildi", "Başarısız", "Reddedildi", "Onaylanmadı", "Süresi Doldu", "İade", "İade Edildi"),
]


def respond_with_statuses(
    api: FakeApiClient, status: str, listed: str | None
) -> Callable[[Request, RequestProgress], Any]:
    """Return a completion whose response and listed order differ in status; without `listed`, no order is listed."""

    def complete(request: Request, progress: RequestProgress) -> Any:
        order = api.execute(request)
        api.orders = [] if listed is None else [{**order, "status_name": listed}]
        return {**order, "status_name": status}

    return complete


@pytest.mark.parametrize("status", [*FAILING, "CANCELLED", "BAŞARISIZ", "iptal edıldi", " i̇ade  edildi"])
async def test_failed_order_in_response_and_list_is_rejected(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, status: str
) -> None:
    api.complete = respond_with_statuses(api, status, status)
    with pytest.raises(CompletionRejected) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert caught.value.order is not None
    assert journal.states == [IntentState.REJECTED]


async def test_failed_order_in_response_only_is_a_difference(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.complete = respond_with_statuses(api, "Failed", "Processing")
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert done.order.status == "Processing"
    assert [difference.split(":")[0] for difference in done.differences] == ["status_name"]
    assert journal.states == [IntentState.CONFIRMED]


async def test_failed_order_that_is_not_listed_is_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.complete = respond_with_statuses(api, "Failed", None)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert "status_name" in "".join(caught.value.evidence)
    assert journal.states == [IntentState.UNKNOWN]


@pytest.mark.parametrize("status", ["Cancel", "Not Cancelled", "Cancelled?", "Tamam", ""])
async def test_unknown_order_status_is_a_difference(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, status: str
) -> None:
    api.complete = respond_with_statuses(api, status, status)
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == ["status_name"]
    assert journal.states == [IntentState.CONFIRMED]


async def test_found_order_with_another_token_is_a_difference(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def lose(request: Request, progress: RequestProgress) -> Exception:
        api.orders = [{**api.execute(request), "token": "X" * 32}]
        return Conflict("no", 409, 409)

    api.complete = lose
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == ["token"]


@pytest.mark.parametrize("name", ["guid", "increment_id"])
async def test_order_with_another_key_than_the_basket_is_a_difference(
    api: FakeApiClient, complete: AsyncCompletions, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    api.complete = lambda request, progress: {**api.execute(request), name: "another"}
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == [name]
    assert name in caplog.text


@pytest.mark.parametrize("failure", [JournalError("the disk is full"), ValueError("a custom journal")])
async def test_journal_failing_at_settle_does_not_hide_the_order(
    api: FakeApiClient,
    journal: InspectableJournal,
    complete: AsyncCompletions,
    failure: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal.settle_error = failure
    done = await complete.buy(api.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert journal.states == [IntentState.PREPARED]
    assert "could not be updated: the intent is confirmed" in caplog.text


# --- concurrent calls and cancellation ---------------------------------------------------------------------------


class PausedCompletion:
    """A completion that waits until `resume` is set."""

    def __init__(self, api: FakeApiClient, phase: Phase = Phase.SENT) -> None:
        self.api, self.phase = api, phase
        self.started, self.resume = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, request: Request, progress: RequestProgress) -> Any:
        progress.phase = self.phase
        self.started.set()
        await self.resume.wait()
        return self.error or self.api.execute(request)


async def test_second_call_returns_the_result_of_the_first(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.complete = paused = PausedCompletion(api)
    first = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await paused.started.wait()
    sibling = AsyncCompletions(api, complete._settlement)
    second = asyncio.create_task(sibling.buy(api.seen_basket(), expected_total=TOTAL))
    with pytest.raises(AlreadyInFlight, match="other arguments"):
        await complete.buy(api.seen_basket(), accept_price="current")
    for change in ({"items": [{**LINE, "amount": 7}]}, {"currency_code": "USD"}):
        with pytest.raises(AlreadyInFlight, match="other arguments"):
            await complete.buy(api.seen_basket(**change), expected_total=TOTAL)
    assert await complete.pending() == []
    paused.resume.set()
    assert await first is await second
    assert api.count("complete.buy") == 1


async def test_second_call_raises_the_error_of_the_first(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.complete = paused = PausedCompletion(api)
    paused.error = TransportError("gone")
    tasks = [asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL)) for _ in range(3)]
    await paused.started.wait()
    paused.resume.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown] * 3
    assert api.count("complete.buy") == 1


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.RESPONDED])
async def test_cancel_after_sending_leaves_intent_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, phase: Phase
) -> None:
    api.complete = paused = PausedCompletion(api, phase)
    first = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await paused.started.wait()
    second = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert journal.states == [IntentState.UNKNOWN]
    intent = (await complete.pending())[0]
    assert intent.id in caught.value.__notes__[0]
    with pytest.raises(OutcomeUnknown):
        await second
    assert api.count("complete.buy") == 1
    assert api.count("orders.page") == 0


async def test_cancel_scope_after_sending_leaves_intent_unknown(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.complete = paused = PausedCompletion(api)
    second: asyncio.Task[Any] | None = None
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            nonlocal second
            await paused.started.wait()
            second = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
            await asyncio.sleep(0)
            scope.cancel()

        canceller = asyncio.create_task(cancel())
        with pytest.raises(asyncio.CancelledError) as caught:
            await complete.buy(api.seen_basket(), expected_total=TOTAL)
        assert "may have been executed" in caught.value.__notes__[0]
        raise caught.value
    await canceller
    assert scope.cancelled_caught
    assert journal.states == [IntentState.UNKNOWN]
    assert second is not None
    with pytest.raises(OutcomeUnknown):
        await second


async def test_cancel_before_sending_leaves_basket_free(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions
) -> None:
    api.complete = paused = PausedCompletion(api, Phase.NOT_SENT)
    first = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await paused.started.wait()
    second = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert not hasattr(caught.value, "__notes__")
    paused.resume.set()
    assert (await second).order is not None
    assert journal.states == [IntentState.NOT_SENT, IntentState.CONFIRMED]


class SlowSettleJournal(InspectableJournal):
    """A journal whose `settle` waits until `resume` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.resume = asyncio.Event(), asyncio.Event()
        self.settled: list[str] = []

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        self.settled.append(state)
        self.started.set()
        await self.resume.wait()
        await super().settle(intent_id, state, **what)


@pytest.mark.parametrize(
    ("response", "state", "note", "raised"),
    [
        (None, IntentState.CONFIRMED, "was confirmed as order 10984", None),
        (lambda *_: {**order_json(), "id": None}, IntentState.CONFIRMED, "was confirmed", None),
        (
            ValidationFailed("no", 422, 422),
            IntentState.REJECTED,
            "was rejected (ValidationFailed)",
            ValidationFailed,
        ),
        (Conflict("no", 409, 409), IntentState.REJECTED, "was rejected (Conflict)", Conflict),
        (ServerError("down", 500), IntentState.UNKNOWN, "may have been executed", OutcomeUnknown),
        (lambda *_: order_of("customer-2"), IntentState.UNKNOWN, "may have been executed", OutcomeUnknown),
    ],
)
@pytest.mark.parametrize("cancelled_by", ["task", "scope"])
async def test_cancel_during_settle_still_stores_the_outcome(
    api: FakeApiClient, response: Any, state: IntentState, note: str, raised: type[Exception] | None, cancelled_by: str
) -> None:
    journal = SlowSettleJournal()
    complete = completions_of(api, journal)
    api.complete = response or api.execute
    scope = anyio.CancelScope()
    notes: list[str] = []

    async def buy() -> None:
        with scope:
            try:
                await complete.buy(api.seen_basket(), expected_total=TOTAL)
            except asyncio.CancelledError as cancelled:
                notes.extend(cancelled.__notes__)
                raise

    first = asyncio.create_task(buy())
    await journal.started.wait()
    second = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    for _ in range(3):
        scope.cancel() if cancelled_by == "scope" else first.cancel()
        await asyncio.sleep(0)
    journal.resume.set()
    await asyncio.wait({first})
    assert first.cancelled() == (cancelled_by == "task")
    assert journal.settled == journal.states == [state]
    [intent] = [*journal._closed.values(), *journal._open.values()]
    assert len(notes) == 1
    assert notes[0].startswith(f"intent {intent.id} {note}")
    if raised is None:
        assert (await second).raw["token"] == TOKEN
    else:
        with pytest.raises(raised):
            await second
    assert api.count("complete.buy") == 1


async def test_cancel_during_settle_as_not_sent_leaves_basket_free(api: FakeApiClient) -> None:
    journal = SlowSettleJournal()
    complete = completions_of(api, journal)
    # The phase is SENT, but the error proves that nothing reached the server.
    api.complete = fail_in(ConnectFailed("no way"), Phase.SENT)
    first = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await journal.started.wait()
    second = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    api.complete = api.execute
    journal.resume.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert not hasattr(caught.value, "__notes__")
    assert (await second).order is not None
    assert journal.states == [IntentState.NOT_SENT, IntentState.CONFIRMED]


async def test_repeated_cancel_during_prepare_sends_nothing(
    api: FakeApiClient, journal: InspectableJournal, complete: AsyncCompletions, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, resume = asyncio.Event(), asyncio.Event()

    async def slow(self: MemoryJournal, intent: Intent) -> None:
        started.set()
        await resume.wait()
        await MemoryJournal.prepare(self, intent)

    monkeypatch.setattr(InspectableJournal, "prepare", slow)
    task = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    resume.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal.states == [IntentState.NOT_SENT]
    assert await complete.pending() == []
    assert api.count("complete.buy") == 0


async def test_cancel_at_every_step_keeps_journal_consistent(api: FakeApiClient) -> None:
    for step in range(100):
        journal = InspectableJournal()
        api = FakeApiClient()
        complete = completions_of(api, journal)
        paused = PausedCompletion(api)
        paused.resume.set()
        api.complete = paused
        task = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
        for _ in range(step):
            await asyncio.sleep(0)
        if task.done():
            assert step > 5
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        executed, sent = len(api.orders), api.count("complete.buy")
        assert executed <= 1
        # An executed purchase is pending or confirmed; an intent that is settled as not sent was not sent.
        if executed:
            assert journal.states in ([IntentState.UNKNOWN], [IntentState.CONFIRMED])
        if not sent:
            assert journal.states in ([], [IntentState.NOT_SENT])
        assert complete._settlement.in_flight == {}
    else:
        pytest.fail("the purchase never ended")


# --- reconciliation and logs -------------------------------------------------------------------------------------


async def test_copied_outcome_unknown_can_be_reconciled(api: FakeApiClient, complete: AsyncCompletions) -> None:
    def drop(request: Request, progress: RequestProgress) -> Exception:
        api.execute(request)
        progress.phase = Phase.SENT
        return TransportError("dropped after commit")

    api.complete = drop
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    for error in (caught.value, copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert error.intent == caught.value.intent
        assert (await complete.reconcile(error)).reconciled
    assert await complete.pending() == []
    assert api.count("complete.buy") == 1


async def test_reconcile_waits_for_the_call_in_flight(api: FakeApiClient, complete: AsyncCompletions) -> None:
    api.complete = paused = PausedCompletion(api)
    first = asyncio.create_task(complete.buy(api.seen_basket(), expected_total=TOTAL))
    await paused.started.wait()
    [intent] = await complete._settlement.journal.pending()
    reconciling = asyncio.create_task(complete.reconcile(intent, fence=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert api.count("baskets.clear") == 0
    paused.resume.set()
    assert (await first).order is not None
    assert (await reconciling).reconciled
    assert api.count("baskets.clear") == 0


async def test_memory_journal_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    api = FakeApiClient(loopback=False)
    complete = completions_of(api, MemoryJournal())
    await complete.buy(api.seen_basket(), expected_total=TOTAL)
    api.basket, api.orders = basket_json(), []
    with pytest.raises(AlreadyInFlight, match="10984"):
        await AsyncCompletions(api, complete._settlement).buy(api.seen_basket(), expected_total=TOTAL)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings if record.name != "asyncio"] == ["minted_connect.completion"]


async def test_memory_journal_on_loopback_is_not_warned_about(
    api: FakeApiClient, complete: AsyncCompletions, caplog: pytest.LogCaptureFixture
) -> None:
    await complete.buy(api.seen_basket(), expected_total=TOTAL)
    # On a busy machine -X dev makes asyncio complain of slow callbacks.
    assert [record for record in caplog.records if record.name.startswith("minted_connect")] == []


async def test_logs_and_errors_contain_no_personal_data(
    api: FakeApiClient, complete: AsyncCompletions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api.complete = ValueError(f"{TOKEN} Brant 12345678910")
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(api.seen_basket(), expected_total=TOTAL)
    api.basket = None
    api.orders = [order_of("customer-2")]
    with pytest.raises(OutcomeUnknown) as again:
        await complete.reconcile(caught.value)
    texts = "".join([caplog.text, *(f"{error!r} {error} {error.evidence}" for error in (caught.value, again.value))])
    for secret in (TOKEN, CUSTOMER, "Brant", "Ankunding", "12345678910", "example.com"):
        assert secret not in texts
    assert caught.value.intent.id in caplog.text


async def test_aclose_is_idempotent(complete: AsyncCompletions) -> None:
    await complete._settlement.aclose()
    await complete._settlement.aclose()
