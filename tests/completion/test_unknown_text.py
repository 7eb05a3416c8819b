"""The text and evidence of `OutcomeUnknown`: what was seen, how sure that is, and what to do next."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from minted_connect import CompletionPolicy
from minted_connect.completion.reconcile import MAX_PRICE_LOCK
from minted_connect.errors import AuthenticationFailed, OutcomeUnknown, Phase, RequestTimeout, ServerError
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent, IntentState, Refusal
from tests.completion.fakes import (
    TOTAL,
    FakeApiClient,
    basket_json,
    completions_of,
    intent_of,
    order_json,
)

pytestmark = pytest.mark.anyio

ASK = (
    "ask the vendor whether basket 10984 (59047701704) became an order, and record the reply with complete.decide "
    "(reconcile --decide)"
)
LATER = f"reconcile again after 30 s; if it is still unknown then, {ASK}"
NO_KEYS = {"token": "", "guid": "", "increment_id": "", "id": 77}
NOW = datetime(2026, 2, 20, 12, 27, 57, tzinfo=UTC)
"""The time of the fake server."""


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient()


async def find_unknown(
    api: FakeApiClient, intent: Intent | None = None, *, budget: float = 120.0, fence: bool = False
) -> OutcomeUnknown:
    """Reconcile an intent, and return the error."""
    journal = MemoryJournal()
    intent = intent or intent_of()
    await journal.prepare(intent)
    with pytest.raises(OutcomeUnknown) as unknown:
        await completions_of(api, journal).reconcile(intent, budget=budget, fence=fence)
    return unknown.value


def check(error: OutcomeUnknown, seen: str, likelihood: str, next_step: str) -> None:
    """Check that text and evidence contain what was seen, how sure that is, and the next step."""
    assert error.evidence[-2:] == (f"seen: {seen}", f"next: {next_step}")
    assert likelihood in error.evidence
    text = f"is unknown, {likelihood}: {seen}. Do not repeat the completion. Next: {next_step}"
    assert str(error) == f"the outcome of intent {error.intent.id} {text}"


NOT_ALL = "orders of the customer searched: 0 (the list could not be read completely)"
MAY_BE = "orders of the customer searched: 1, 1 may be this purchase, but no key proves it"
FENCE = "and fence=True (reconcile --fence), which clears the basket"
NONE_OF = "orders of the customer searched: {}, none has a key of the basket"
OTHER = {"token": "X" * 32, "guid": "OTHER", "increment_id": "1", "id": 77, "paid_total": 1}


@pytest.mark.requirement(55)
@pytest.mark.parametrize(
    ("basket", "orders", "seen", "likelihood", "next_step"),
    [
        (
            None,
            [order_json(**OTHER)],
            f"{NONE_OF.format(1)}; the basket is empty or no longer the active one",
            "probably executed",
            LATER,
        ),
        (
            basket_json(),
            [],
            f"{NONE_OF.format(0)}; the basket is still open (12 reads in 106 s)",
            "probably not executed",
            ASK,
        ),
        (
            ServerError("down", 500),
            [order_json(**OTHER), order_json(**{**OTHER, "id": 78, "guid": "THIRD"})],
            f"{NONE_OF.format(2)}; the basket could not be read",
            "undecided",
            "reconcile again after 30 s; the reads of orders and basket must succeed",
        ),
        (
            None,
            ServerError("down", 500),
            f"{NOT_ALL}, none has a key of the basket; the basket is empty or no longer the active one",
            "undecided",
            "reconcile again after 30 s; the reads of orders and basket must succeed",
        ),
        (
            None,
            [order_json(**NO_KEYS, order_at="2026-02-20T12:28:00.000000Z")],
            f"{MAY_BE}; the basket is empty or no longer the active one",
            "undecided",
            ASK,
        ),
        (
            basket_json(),
            [order_json(order_creation_status="basket")],
            "orders of the customer searched: 1, the basket is listed, but not as an order; the basket is still open",
            "undecided",
            LATER,
        ),
    ],
    ids=["basket gone", "basket open", "basket unread", "orders unread", "likely order", "listed as basket"],
)
async def test_unknown_outcome_says_what_was_seen_and_what_to_do(
    api: FakeApiClient, basket: Any, orders: Any, seen: str, likelihood: str, next_step: str
) -> None:
    api.basket, api.orders = basket, orders
    check(await find_unknown(api), seen, likelihood, next_step)


@pytest.mark.requirement(55)
@pytest.mark.parametrize(
    ("policy", "budget", "next_step"),
    [
        (CompletionPolicy(), 5, LATER),
        (
            CompletionPolicy(latest_landing=10),
            5,
            "reconcile again with a budget of at least 80 s (reconcile --seconds 80)",
        ),
        (
            CompletionPolicy(latest_landing=100),
            5,
            "reconcile again with a budget of at least 150 s (reconcile --seconds 150)",
        ),
        (
            CompletionPolicy(fence_proves_not_executed=True),
            5,
            f"reconcile again with a budget of at least 50 s (reconcile --seconds 50) {FENCE}",
        ),
    ],
)
async def test_next_step_for_open_basket_follows_the_policy(
    api: FakeApiClient, policy: CompletionPolicy, budget: float, next_step: str
) -> None:
    api.with_policy(policy)
    error = await find_unknown(api, budget=budget)
    assert error.evidence[-1] == f"next: {next_step}"


@pytest.mark.requirement(55)
async def test_budget_of_the_next_step_suffices(api: FakeApiClient) -> None:
    api.with_policy(CompletionPolicy(latest_landing=100))
    error = await find_unknown(api, budget=5)
    budget = float(error.evidence[-1].rpartition("--seconds ")[2].rstrip(")"))
    journal = MemoryJournal()
    await journal.prepare(error.intent)
    (result,) = await completions_of(api, journal).reconcile_all(budget=budget)
    assert type(result.error).__name__ == "NotExecuted"


@pytest.mark.requirement(55)
@pytest.mark.parametrize(
    ("proves", "next_step"),
    [
        (True, "reconcile again with a budget of at least 50 s (reconcile --seconds 50)"),
        (False, LATER),
    ],
)
async def test_next_step_after_a_fence_depends_on_the_policy(api: FakeApiClient, proves: bool, next_step: str) -> None:
    api.with_policy(CompletionPolicy(fence_proves_not_executed=proves))

    def clear(_: object) -> Any:
        api.basket = basket_json(items=[])
        return api.basket

    api.clear = clear
    error = await find_unknown(api, budget=20, fence=True)
    assert "it was cleared at least" in error.evidence[-2]
    assert error.evidence[-1] == f"next: {next_step}"


@pytest.mark.requirement(55)
async def test_prepared_intent_says_when_to_reconcile_again(api: FakeApiClient) -> None:
    created = NOW - timedelta(seconds=300)
    error = await find_unknown(api, intent_of(state=IntentState.PREPARED, created_at=created), budget=5)
    # The polls took 1.5 s, and the server's `Date` may be up to 1 s off.
    seconds = MAX_PRICE_LOCK.total_seconds() - 300 + CompletionPolicy().settle_time + 1 - 1.5
    assert error.evidence[-1] == f"next: reconcile again after {math.ceil(seconds)} s"


@pytest.mark.requirement(55)
async def test_refused_intent_says_when_to_reconcile_again(api: FakeApiClient) -> None:
    refusal = Refusal(409, is_vendor_response=True, at=NOW - timedelta(seconds=10))
    error = await find_unknown(api, intent_of(refusal=refusal), budget=5)
    # As above: 10 of 30 s were over, less the polls.
    assert error.evidence[-1] == "next: reconcile again after 20 s"


@pytest.mark.requirement(55)
async def test_refused_credentials_are_named_as_next_step(api: FakeApiClient) -> None:
    refused = AuthenticationFailed("wrong password", 401)
    api.basket = api.orders = refused
    error = await find_unknown(api)
    assert error.evidence[-1].startswith("next: correct the failure of the reads")
    assert any("wrong password" in line for line in error.evidence)


@pytest.mark.requirement(55)
async def test_lost_response_says_that_nothing_was_read(api: FakeApiClient) -> None:
    def lose(_: object, progress: Any) -> Any:
        progress.phase = Phase.SENT
        raise RequestTimeout("no response", phase=Phase.SENT)

    api.complete = lose
    with pytest.raises(OutcomeUnknown) as unknown:
        await completions_of(api, MemoryJournal()).buy(api.seen_basket(), expected_total=TOTAL)
    error = unknown.value
    assert error.evidence == (
        "RequestTimeout: no response",
        "seen: orders and basket were not read since",
        "next: reconcile it",
    )
    text = (
        "is unknown, undecided: orders and basket were not read since. Do not repeat the completion. Next: reconcile it"
    )
    assert str(error) == f"the outcome of intent {error.intent.id} {text}"
