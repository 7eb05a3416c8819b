"""complete.*: what is checked before, what one failed sending means, and what is never done twice."""

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
from tests.completion.fakes import CUSTOMER, SHIPPING, TOKEN, TOTAL, World, deal_json, of, order_json

pytestmark = pytest.mark.anyio


class Watched(MemoryJournal):
    """A journal whose last word on every intent can be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: Exception | None = None
        self.settling_broken: Exception | None = None

    @property
    def states(self) -> list[str]:
        return [str(intent.state) for intent in (*self._closed.values(), *self._open.values())]

    async def prepare(self, intent: Intent) -> None:
        if self.broken:
            raise self.broken
        await super().prepare(intent)

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        if self.settling_broken:
            raise self.settling_broken
        await super().settle(intent_id, state, **what)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def journal() -> Watched:
    return Watched()


@pytest.fixture
def complete(world: World, journal: Watched) -> AsyncCompletions:
    return AsyncCompletions(world, journal)


def sending(error: Exception, phase: Phase) -> Callable[[Request, RequestProgress], Exception]:
    def fail(_: Request, progress: RequestProgress) -> Exception:
        progress.phase = phase
        return error

    return fail


# --- the good way ------------------------------------------------------------------------------------------------


async def test_a_purchase(world: World, journal: Watched, complete: AsyncCompletions) -> None:
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert (done.order.id, done.order.kind, done.order.token) == (10984, OrderKind.BUY, TOKEN)
    assert done.keys == {
        "id": "10984",
        "guid": "2695BF07-6963-40FD-9777-21670640745B",
        "increment_id": "59047701704",
    }
    assert (done.reconciled, done.differences) == (False, ())
    assert [request.operation.name for request in world.sent] == ["baskets.get_active", "complete.buy"]
    assert world.sent[1].body == {"external_customer_id": CUSTOMER, "cart_token": TOKEN}
    assert world.not_after == [201 - 3.0]
    assert journal.states == [IntentState.CONFIRMED]
    assert await complete.pending() == []


async def test_a_sale_and_a_delivery(world: World, complete: AsyncCompletions) -> None:
    world.basket = deal_json(type="sell")
    sold = await complete.sell(world.seen_basket(type="sell"), expected_total=TOTAL)
    assert sold.order is not None
    assert sold.differences == ()
    delivery: dict[str, Any] = {"type": "delivery", "tx_type": "delivery", "token": "D" * 32}
    world.basket = deal_json(**delivery)
    world.complete = lambda request, progress: order_json(tx_type="delivery", token="D" * 32)
    shipped = await complete.delivery(world.seen_basket(**delivery), shipping=SHIPPING, expected_total=TOTAL)
    assert shipped.order is not None
    body = world.sent[-1].body
    assert body is not None
    assert body["shipping"]["tax_number"] == "12345678910"
    assert "zipcode" not in body["shipping"]


async def test_whatever_it_costs_has_to_be_said_aloud(world: World, complete: AsyncCompletions) -> None:
    seen = world.seen_basket()
    world.basket = deal_json(paid_total=Decimal("2000.00"))
    world.complete = lambda request, progress: order_json(paid_total=Decimal(2000))
    with pytest.raises(PriceChanged) as caught:
        await complete.buy(seen, expected_total=TOTAL)
    assert (caught.value.expected, caught.value.actual) == (TOTAL, 2000)
    assert (await complete.buy(seen, accept_price="current")).differences == ()


async def test_a_differing_order_is_shown_not_hidden(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    item = {**deal_json()["items"][0], "amount": 2}
    world.complete = lambda request, progress: order_json(
        paid_total=Decimal(1900), currency_code="USD", tx_type="sell", items=[item, {**item, "sku": "OTHER"}]
    )
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert [difference.split(":")[0] for difference in done.differences] == [
        "paid_total",
        "currency_code",
        "kind",
        "pieces of MNTBAE0001",
        "pieces of OTHER",
    ]
    assert journal.states == [IntentState.CONFIRMED]


async def test_an_order_that_cannot_be_read_is_confirmed_by_its_keys(world: World, complete: AsyncCompletions) -> None:
    def without_total(request: Request, progress: RequestProgress) -> dict[str, Any]:
        order = order_json()
        del order["paid_total"]
        return order

    world.complete = without_total
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.order is None
    assert done.keys["id"] == "10984"
    assert done.raw["token"] == TOKEN


# --- before anything is sent -------------------------------------------------------------------------------------


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
async def test_terms_that_are_none(world: World, complete: AsyncCompletions, terms: Any) -> None:
    with pytest.raises(InvalidInput):
        await complete.buy(world.seen_basket(), **terms)
    assert world.sent == []


async def test_baskets_that_cannot_be_completed(world: World, complete: AsyncCompletions) -> None:
    with pytest.raises(InvalidInput, match=r"complete\.sell"):
        await complete.buy(world.seen_basket(type="sell"), expected_total=TOTAL)
    with pytest.raises(InvalidInput, match="empty"):
        await complete.buy(world.seen_basket(items=[]), expected_total=TOTAL)
    with pytest.raises(InvalidInput, match="Basket"):
        await complete.buy(world.seen_basket().key, expected_total=TOTAL)  # type: ignore[arg-type]
    assert world.sent == []


@pytest.mark.parametrize("wrong", [{"city": ""}, {"fullname": None}, {"phone": "1\n2"}])
async def test_addresses_that_cannot_be_sent(world: World, complete: AsyncCompletions, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=f"shipping.{next(iter(wrong))}"):
        await complete.delivery(
            world.seen_basket(type="delivery"), shipping=attrs.evolve(SHIPPING, **wrong), expected_total=TOTAL
        )
    with pytest.raises(InvalidInput, match="Shipping"):
        await complete.delivery(world.seen_basket(type="delivery"), shipping={}, expected_total=TOTAL)  # type: ignore[arg-type]
    assert world.sent == []


@pytest.mark.parametrize(
    ("found", "error"),
    [
        (None, InvalidInput),
        (NotFound("none", 404, 404), InvalidInput),
        (NotFound("of a gateway", 404), NotFound),
        (deal_json(items=[]), InvalidInput),
        (deal_json(token="X" * 32), IntegrityError),
        (of("somebody else"), IntegrityError),
        (deal_json(type="sell"), IntegrityError),
        (deal_json(order_creation_status="order"), IntegrityError),
        (deal_json(paid_total=Decimal("1852.61")), PriceChanged),
        (deal_json(pricefix={"remaining": 2, "nextUpdate": "2026-02-20T15:31:57+03:00"}), PriceFixExpired),
        (deal_json(pricefix={"remaining": -2, "nextUpdate": "2026-02-20T15:31:57+03:00"}), PriceFixExpired),
        (deal_json(pricefix=None), PriceFixExpired),
        ({"token": TOKEN}, NotSent),
        (ConnectFailed("no way"), ConnectFailed),
        (TransportError("gone"), NotSent),
        (RequestTimeout("slow"), NotSent),
        (ServerError("sick", 503, 503), NotSent),
        (PermissionDenied("not you", 403, 403), PermissionDenied),
    ],
)
async def test_a_basket_that_is_not_as_agreed(
    world: World, journal: Watched, complete: AsyncCompletions, found: Any, error: type[Exception]
) -> None:
    world.basket = found
    with pytest.raises(error) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert not isinstance(caught.value, TimeoutError)
    assert world.count("complete.buy") == 0
    assert journal.states == []


LINE = deal_json()["items"][0]


@pytest.mark.requirement(18)
@pytest.mark.parametrize("terms", [{"expected_total": TOTAL}, {"accept_price": "current"}], ids=str)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"items": [{**LINE, "amount": 7}]}, "items"),
        ({"items": [{**LINE, "sku": "OTHER"}]}, "items"),
        ({"items": [LINE, {**LINE, "sku": "OTHER", "amount": 1}]}, "items"),
        # What is in the basket matters more than that it also costs something else.
        ({"items": [{**LINE, "amount": 7}], "paid_total": Decimal(4000)}, "items"),
        ({"currency_code": "USD"}, "currency"),
    ],
)
async def test_a_basket_that_was_changed_behind_the_caller(
    world: World, journal: Watched, complete: AsyncCompletions, terms: Any, change: dict[str, Any], said: str
) -> None:
    world.basket = deal_json(**change)
    with pytest.raises(InvalidInput, match="basket: ") as caught:
        await complete.buy(world.seen_basket(), **terms)
    assert said in str(caught.value)
    assert "read it again" in str(caught.value)
    assert world.count("complete.buy") == 0
    assert journal.states == []


async def test_lines_that_are_only_split_otherwise_are_the_same(world: World, complete: AsyncCompletions) -> None:
    world.basket = deal_json(items=[{**LINE, "amount": 1}, {**LINE, "amount": 2}])
    assert (await complete.buy(world.seen_basket(), accept_price="current")).order is not None


@pytest.mark.requirement(13)
async def test_nothing_is_sent_without_the_journal(world: World, journal: Watched, complete: AsyncCompletions) -> None:
    journal.broken = JournalError("the disk is full")
    with pytest.raises(JournalError):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert world.count("complete.buy") == 0


async def test_a_lock_that_ran_out_while_writing(
    world: World, journal: Watched, complete: AsyncCompletions, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(self: MemoryJournal, intent: Intent) -> None:
        world.clock.advance(200)  # type: ignore[attr-defined]
        await MemoryJournal.prepare(self, intent)

    monkeypatch.setattr(Watched, "prepare", slow)
    with pytest.raises(PriceFixExpired):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert world.count("complete.buy") == 0
    assert journal.states == [IntentState.NOT_SENT]


async def test_a_basket_that_is_held_elsewhere(world: World, journal: Watched, complete: AsyncCompletions) -> None:
    world.complete = sending(TransportError("gone"), Phase.SENT)
    with pytest.raises(OutcomeUnknown):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    with pytest.raises(AlreadyInFlight, match="reconcile"):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert world.count("complete.buy") == 1


# --- what a failure means: column M of the fault matrix ----------------------------------------------------------

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
    ValueError("one that nobody thought of"),
    ClientClosedError("closed under way"),
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
async def test_not_sent(world: World, journal: Watched, complete: AsyncCompletions, error: Exception) -> None:
    world.complete = sending(error, Phase.NOT_SENT)
    with pytest.raises(type(error)) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.NOT_SENT]
    # And the basket is free for another try.
    world.complete = world.execute
    assert (await complete.buy(world.seen_basket(), expected_total=TOTAL)).order is not None


@pytest.mark.parametrize("error", [ClientClosedError("closed"), ConfigurationError("odd"), ValueError("odd")])
async def test_failures_before_the_first_byte(
    world: World, journal: Watched, complete: AsyncCompletions, error: Exception
) -> None:
    world.complete = sending(error, Phase.NOT_SENT)
    with pytest.raises(type(error)):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert journal.states == [IntentState.NOT_SENT]


@pytest.mark.parametrize("error", [RequestTimeout("slow", phase=Phase.NOT_SENT), TimeoutError()])
async def test_a_timeout_is_not_sent_or_unknown_never_in_between(
    world: World, complete: AsyncCompletions, error: Exception
) -> None:
    world.complete = sending(error, Phase.NOT_SENT)
    with pytest.raises(NotSent) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert not isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is error


@pytest.mark.requirement(15)
@pytest.mark.parametrize("error", UNKNOWN, ids=label)
async def test_unknown(world: World, journal: Watched, complete: AsyncCompletions, error: Exception) -> None:
    world.complete = sending(error, Phase.SENT)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert journal.states == [IntentState.UNKNOWN]
    assert caught.value.intent.cart_token == TOKEN
    assert caught.value.phase is (error.phase if isinstance(error, TransportError) else Phase.SENT)
    assert caught.value.__cause__ is error
    assert type(error).__name__ in caught.value.evidence[0]
    assert not caught.value.safe_to_retry
    assert [intent.id for intent in await complete.pending()] == [caught.value.intent.id]
    assert world.count("complete.buy") == 1


@pytest.mark.parametrize("error", REFUSED, ids=label)
async def test_refused(world: World, journal: Watched, complete: AsyncCompletions, error: Exception) -> None:
    world.complete = error
    with pytest.raises(type(error)) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.REJECTED]
    assert [request.operation.name for request in world.sent] == ["baskets.get_active", "complete.buy"]


@pytest.mark.parametrize("error", CONFIRMED_ONCE, ids=label)
async def test_a_trusted_refusal_is_confirmed_by_one_look(
    world: World, journal: Watched, complete: AsyncCompletions, error: APIError
) -> None:
    world.complete = error = copy.copy(error)
    with pytest.raises(type(error)) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert error.is_confirmed
    assert journal.states == [IntentState.REJECTED]
    assert world.count("complete.buy") == 1
    assert world.count("orders.page") == 2
    assert world.clock.sleeps == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", CONFIRMED_LATER, ids=label)
async def test_another_refusal_is_confirmed_at_the_settle_time(
    world: World, journal: Watched, complete: AsyncCompletions, error: APIError, caplog: pytest.LogCaptureFixture
) -> None:
    world.complete = error = copy.copy(error)
    begun = world.clock.monotonic()
    with pytest.raises(type(error)) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert error.is_confirmed
    assert journal.states == [IntentState.REJECTED]
    assert world.count("complete.buy") == 1
    assert world.clock.monotonic() - begun == CompletionPolicy().settle_time == 30
    assert f"refused with status {error.status}; polling for an order for up to 30 s" in caplog.text
    assert world.count("orders.page") == 2 * 5


@pytest.mark.parametrize("error", [*CONFIRMED_ONCE, *CONFIRMED_LATER], ids=label)
async def test_read_back_and_find_that_it_happened(
    world: World, journal: Watched, complete: AsyncCompletions, error: Exception
) -> None:
    def lie(request: Request, progress: RequestProgress) -> Exception:
        world.execute(request)
        return error

    world.complete = lie
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.reconciled
    assert done.order is not None
    assert journal.states == [IntentState.CONFIRMED]


async def test_read_back_and_find_it_cancelled(world: World, journal: Watched, complete: AsyncCompletions) -> None:
    def cancel(request: Request, progress: RequestProgress) -> Exception:
        world.execute(request)
        world.orders[0]["status_name"] = "Cancelled"
        return Conflict("no", 409, 409)

    world.complete = cancel
    with pytest.raises(CompletionRejected) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value.order is not None
    assert journal.states == [IntentState.REJECTED]


async def test_reading_back_takes_no_longer_than_one_call(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    async def hang(request: Request) -> Exception:
        await world.clock.sleep(world.deadlines[-1] or 0)
        return RequestTimeout("slow")

    def refuse(request: Request, progress: RequestProgress) -> Exception:
        world.basket = world.orders = hang
        return Conflict("no", 409, 409)

    world.complete = refuse
    begun = world.clock.monotonic()
    with pytest.raises(OutcomeUnknown):
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert world.clock.monotonic() - begun == 60
    assert journal.states == [IntentState.UNKNOWN]


async def test_an_odd_date_does_not_hide_what_became_of_it(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    world.date = "Fri, 31 Dec 9999 23:59:59 GMT"
    world.complete = error = Conflict("no", 409, 409)
    with pytest.raises(Conflict) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value is error
    assert journal.states == [IntentState.REJECTED]


@pytest.mark.parametrize("blind", ["orders", "basket", "gone", "likely"])
async def test_read_back_and_see_too_little(
    world: World, journal: Watched, complete: AsyncCompletions, blind: str
) -> None:
    def refuse(request: Request, progress: RequestProgress) -> Exception:
        if blind == "orders":
            world.orders = RequestTimeout("slow")
        elif blind == "likely":
            world.orders = [order_json(token="X" * 32, guid="G", increment_id="1", id=77)]
        else:
            world.basket = None if blind == "gone" else ServerError("down", 500)
        return NotFound("no", 404, 404)

    world.complete = refuse
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert isinstance(caught.value.__cause__, NotFound)
    assert journal.states == [IntentState.UNKNOWN]


def test_classes_of_failures_are_as_said() -> None:
    for fate, errors in (
        (FailureClass.NOT_SENT, NOT_SENT),
        (FailureClass.UNKNOWN, UNKNOWN),
        (FailureClass.REFUSED, REFUSED),
    ):
        assert {classify(error, Phase.SENT, REFUSALS) for error in errors} == {fate}
    for fate, refused in ((FailureClass.CONFIRM_ONCE, CONFIRMED_ONCE), (FailureClass.CONFIRM_LATER, CONFIRMED_LATER)):
        assert {classify(error, phase, REFUSALS) for error in refused for phase in Phase} == {fate}
    # What is about an answer was sent, whatever the phase says.
    assert classify(ProtocolError("odd"), Phase.NOT_SENT, REFUSALS) is FailureClass.UNKNOWN


@pytest.mark.parametrize(
    "answer",
    [
        of("somebody else"),
        order_json(token="X" * 32),
        {**order_json(), "order_creation_status": "basket"},
        {"success": "sure"},
        [],
        None,
        "ok",
    ],
    ids=["F37 customer", "F37 token", "still a basket", "another shape", "array", "null", "string"],
)
async def test_a_success_that_is_not_about_our_order(
    world: World, journal: Watched, complete: AsyncCompletions, answer: Any
) -> None:
    world.complete = lambda request, progress: answer
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    readable = isinstance(answer, dict) and "token" in answer
    assert isinstance(caught.value.__cause__, IntegrityError if readable else ProtocolError)
    assert caught.value.phase is Phase.RESPONDED
    assert journal.states == [IntentState.UNKNOWN]


FAILING = [
    *("Cancelled", "Canceled", "Failed", "Rejected", "Declined", "Refused", "Expired", "Voided", "Refunded"),
    *("İptal", "İptal Edildi", "Başarısız", "Reddedildi", "Onaylanmadı", "Süresi Doldu", "İade", "İade Edildi"),
]


def responding(world: World, status: str, listed: str | None) -> Callable[[Request, RequestProgress], Any]:
    """Complete with a response of one status; Get Orders shows another one, or with None no order."""

    def complete(request: Request, progress: RequestProgress) -> Any:
        order = world.execute(request)
        world.orders = [] if listed is None else [{**order, "status_name": listed}]
        return {**order, "status_name": status}

    return complete


@pytest.mark.parametrize("status", [*FAILING, "CANCELLED", "BAŞARISIZ", "iptal edıldi", " i̇ade  edildi"])
async def test_an_order_that_failed_in_response_and_list(
    world: World, journal: Watched, complete: AsyncCompletions, status: str
) -> None:
    world.complete = responding(world, status, status)
    with pytest.raises(CompletionRejected) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert caught.value.order is not None
    assert journal.states == [IntentState.REJECTED]


async def test_an_order_that_failed_in_the_response_alone_is_a_difference(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    world.complete = responding(world, "Failed", "Processing")
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert done.order.status == "Processing"
    assert [difference.split(":")[0] for difference in done.differences] == ["status_name"]
    assert journal.states == [IntentState.CONFIRMED]


async def test_an_order_that_failed_in_the_response_and_cannot_be_read_is_unknown(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    world.complete = responding(world, "Failed", None)
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert "status_name" in "".join(caught.value.evidence)
    assert journal.states == [IntentState.UNKNOWN]


@pytest.mark.parametrize("status", ["Cancel", "Not Cancelled", "Cancelled?", "Tamam", ""])
async def test_a_status_that_is_not_known_is_a_difference(
    world: World, journal: Watched, complete: AsyncCompletions, status: str
) -> None:
    world.complete = responding(world, status, status)
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == ["status_name"]
    assert journal.states == [IntentState.CONFIRMED]


async def test_a_found_order_with_another_token_is_a_difference(world: World, complete: AsyncCompletions) -> None:
    def lose(request: Request, progress: RequestProgress) -> Exception:
        world.orders = [{**world.execute(request), "token": "X" * 32}]
        return Conflict("no", 409, 409)

    world.complete = lose
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == ["token"]


@pytest.mark.parametrize("name", ["guid", "increment_id"])
async def test_another_key_than_the_baskets_is_a_difference(
    world: World, complete: AsyncCompletions, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.complete = lambda request, progress: {**world.execute(request), name: "another"}
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert [difference.split(":")[0] for difference in done.differences] == [name]
    assert name in caplog.text


@pytest.mark.parametrize("trouble", [JournalError("the disk is full"), ValueError("a journal of your own")])
async def test_a_journal_that_fails_afterwards_does_not_hide_the_order(
    world: World, journal: Watched, complete: AsyncCompletions, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    journal.settling_broken = trouble
    done = await complete.buy(world.seen_basket(), expected_total=TOTAL)
    assert done.order is not None
    assert journal.states == [IntentState.PREPARED]
    assert "could not be updated: the intent is confirmed" in caplog.text


# --- side by side ------------------------------------------------------------------------------------------------


class Held:
    """A completion that waits to be let go."""

    def __init__(self, world: World, phase: Phase = Phase.SENT) -> None:
        self.world, self.phase = world, phase
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, request: Request, progress: RequestProgress) -> Any:
        progress.phase = self.phase
        self.started.set()
        await self.go_on.wait()
        return self.error or self.world.execute(request)


async def test_a_second_call_gets_the_result_of_the_first(world: World, complete: AsyncCompletions) -> None:
    world.complete = held = Held(world)
    first = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await held.started.wait()
    sibling = complete.with_api(world)
    second = asyncio.create_task(sibling.buy(world.seen_basket(), expected_total=TOTAL))
    with pytest.raises(AlreadyInFlight, match="other arguments"):
        await complete.buy(world.seen_basket(), accept_price="current")
    for change in ({"items": [{**LINE, "amount": 7}]}, {"currency_code": "USD"}):
        with pytest.raises(AlreadyInFlight, match="other arguments"):
            await complete.buy(world.seen_basket(**change), expected_total=TOTAL)
    assert await complete.pending() == []
    held.go_on.set()
    assert await first is await second
    assert world.count("complete.buy") == 1


async def test_a_second_call_gets_the_error_of_the_first(world: World, complete: AsyncCompletions) -> None:
    world.complete = held = Held(world)
    held.error = TransportError("gone")
    tasks = [asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL)) for _ in range(3)]
    await held.started.wait()
    held.go_on.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown] * 3
    assert world.count("complete.buy") == 1


@pytest.mark.parametrize("phase", [Phase.SENT, Phase.RESPONDED])
async def test_cancelled_after_it_was_sent(
    world: World, journal: Watched, complete: AsyncCompletions, phase: Phase
) -> None:
    world.complete = held = Held(world, phase)
    first = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await held.started.wait()
    second = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert journal.states == [IntentState.UNKNOWN]
    intent = (await complete.pending())[0]
    assert intent.id in caught.value.__notes__[0]
    with pytest.raises(OutcomeUnknown):
        await second
    assert world.count("complete.buy") == 1
    assert world.count("orders.page") == 0


async def test_a_cancel_scope_that_cancels_every_await(
    world: World, journal: Watched, complete: AsyncCompletions
) -> None:
    world.complete = held = Held(world)
    second: asyncio.Task[Any] | None = None
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            nonlocal second
            await held.started.wait()
            second = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
            await asyncio.sleep(0)
            scope.cancel()

        canceller = asyncio.create_task(cancel())
        with pytest.raises(asyncio.CancelledError) as caught:
            await complete.buy(world.seen_basket(), expected_total=TOTAL)
        assert "may have been executed" in caught.value.__notes__[0]
        raise caught.value
    await canceller
    assert scope.cancelled_caught
    assert journal.states == [IntentState.UNKNOWN]
    assert second is not None
    with pytest.raises(OutcomeUnknown):
        await second


async def test_cancelled_before_it_was_sent(world: World, journal: Watched, complete: AsyncCompletions) -> None:
    world.complete = held = Held(world, Phase.NOT_SENT)
    first = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await held.started.wait()
    second = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert not hasattr(caught.value, "__notes__")
    held.go_on.set()
    assert (await second).order is not None
    assert journal.states == [IntentState.NOT_SENT, IntentState.CONFIRMED]


class SlowToSettle(Watched):
    """A journal that takes its time to note an outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go_on = asyncio.Event(), asyncio.Event()
        self.settled: list[str] = []

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        self.settled.append(state)
        self.started.set()
        await self.go_on.wait()
        await super().settle(intent_id, state, **what)


@pytest.mark.parametrize(
    ("answer", "state", "note", "told"),
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
        (lambda *_: of("somebody else"), IntentState.UNKNOWN, "may have been executed", OutcomeUnknown),
    ],
)
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_cancelled_while_the_outcome_is_written_down(
    world: World, answer: Any, state: IntentState, note: str, told: type[Exception] | None, how: str
) -> None:
    journal = SlowToSettle()
    complete = AsyncCompletions(world, journal)
    world.complete = answer or world.execute
    scope = anyio.CancelScope()
    notes: list[str] = []

    async def buy() -> None:
        with scope:
            try:
                await complete.buy(world.seen_basket(), expected_total=TOTAL)
            except asyncio.CancelledError as cancelled:
                notes.extend(cancelled.__notes__)
                raise

    first = asyncio.create_task(buy())
    await journal.started.wait()
    second = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    for _ in range(3):
        scope.cancel() if how == "scope" else first.cancel()
        await asyncio.sleep(0)
    journal.go_on.set()
    await asyncio.wait({first})
    assert first.cancelled() == (how == "task")
    assert journal.settled == journal.states == [state]
    [intent] = [*journal._closed.values(), *journal._open.values()]
    assert len(notes) == 1
    assert notes[0].startswith(f"intent {intent.id} {note}")
    if told is None:
        assert (await second).raw["token"] == TOKEN
    else:
        with pytest.raises(told):
            await second
    assert world.count("complete.buy") == 1


async def test_cancelled_while_it_is_noted_that_nothing_was_sent(world: World) -> None:
    journal = SlowToSettle()
    complete = AsyncCompletions(world, journal)
    # The wire was touched, and yet it is proven that nothing arrived.
    world.complete = sending(ConnectFailed("no way"), Phase.SENT)
    first = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await journal.started.wait()
    second = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await asyncio.sleep(0)
    first.cancel()
    world.complete = world.execute
    journal.go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await first
    assert not hasattr(caught.value, "__notes__")
    assert (await second).order is not None
    assert journal.states == [IntentState.NOT_SENT, IntentState.CONFIRMED]


async def test_cancelled_again_while_the_intent_is_written_down(
    world: World, journal: Watched, complete: AsyncCompletions, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: MemoryJournal, intent: Intent) -> None:
        started.set()
        await go_on.wait()
        await MemoryJournal.prepare(self, intent)

    monkeypatch.setattr(Watched, "prepare", slow)
    task = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal.states == [IntentState.NOT_SENT]
    assert await complete.pending() == []
    assert world.count("complete.buy") == 0


async def test_cancelled_at_every_step(world: World) -> None:
    for step in range(100):
        journal = Watched()
        world = World()
        complete = AsyncCompletions(world, journal)
        held = Held(world)
        held.go_on.set()
        world.complete = held
        task = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
        for _ in range(step):
            await asyncio.sleep(0)
        if task.done():
            assert step > 5
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        executed, sent = len(world.orders), world.count("complete.buy")
        assert executed <= 1
        # Whatever may have happened is found by pending(), or confirmed; what is called not sent was not sent.
        if executed:
            assert journal.states in ([IntentState.UNKNOWN], [IntentState.CONFIRMED])
        if not sent:
            assert journal.states in ([], [IntentState.NOT_SENT])
        assert complete._settlement.in_flight == {}
    else:
        pytest.fail("the purchase never ended")


# --- telling and asking ------------------------------------------------------------------------------------------


async def test_an_unknown_outcome_can_be_reconciled_from_the_error(world: World, complete: AsyncCompletions) -> None:
    def drop(request: Request, progress: RequestProgress) -> Exception:
        world.execute(request)
        progress.phase = Phase.SENT
        return TransportError("dropped after commit")

    world.complete = drop
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    for error in (caught.value, copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert error.intent == caught.value.intent
        assert (await complete.reconcile(error)).reconciled
    assert await complete.pending() == []
    assert world.count("complete.buy") == 1


async def test_reconciling_waits_for_the_call_under_way(world: World, complete: AsyncCompletions) -> None:
    world.complete = held = Held(world)
    first = asyncio.create_task(complete.buy(world.seen_basket(), expected_total=TOTAL))
    await held.started.wait()
    [intent] = await complete._settlement.journal.pending()
    asked = asyncio.create_task(complete.reconcile(intent, fence=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert world.count("baskets.clear") == 0
    held.go_on.set()
    assert (await first).order is not None
    assert (await asked).reconciled
    assert world.count("baskets.clear") == 0


async def test_a_forgetful_journal_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(loopback=False)
    complete = AsyncCompletions(world, MemoryJournal())
    await complete.buy(world.seen_basket(), expected_total=TOTAL)
    world.basket, world.orders = deal_json(), []
    with pytest.raises(AlreadyInFlight, match="10984"):
        await complete.with_api(world).buy(world.seen_basket(), expected_total=TOTAL)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings if record.name != "asyncio"] == ["minted_connect.completion"]


async def test_nothing_is_warned_about_on_this_machine(
    world: World, complete: AsyncCompletions, caplog: pytest.LogCaptureFixture
) -> None:
    await complete.buy(world.seen_basket(), expected_total=TOTAL)
    # On a busy machine -X dev makes asyncio complain of slow callbacks.
    assert [record for record in caplog.records if record.name.startswith("minted_connect")] == []


async def test_neither_logs_nor_errors_hold_personal_data(
    world: World, complete: AsyncCompletions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.complete = ValueError(f"{TOKEN} Brant 12345678910")
    with pytest.raises(OutcomeUnknown) as caught:
        await complete.buy(world.seen_basket(), expected_total=TOTAL)
    world.basket = None
    world.orders = [of("somebody else")]
    with pytest.raises(OutcomeUnknown) as again:
        await complete.reconcile(caught.value)
    shown = "".join([caplog.text, *(f"{error!r} {error} {error.evidence}" for error in (caught.value, again.value))])
    for secret in (TOKEN, CUSTOMER, "Brant", "Ankunding", "12345678910", "example.com"):
        assert secret not in shown
    assert caught.value.intent.id in caplog.text


async def test_closing_lets_go_of_the_journal(complete: AsyncCompletions) -> None:
    await complete.aclose()
    await complete.aclose()
