"""A read-back from a server or a cache that ignores the page number, or whose pages lack rows."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import NotExecuted, OutcomeUnknown
from minted_connect.config import CompletionPolicy
from minted_connect.core.request import Request
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import IntentState
from tests.completion.fakes import FakeApiClient, completions_of, intent_of, order_json, order_of, page_json

pytestmark = pytest.mark.anyio

PROVING = CompletionPolicy(latest_landing=1.0, orders_lag=1.0, reconcile_budget=200.0)


@pytest.mark.parametrize("last", [2, 3])
async def test_search_of_a_repeated_page_proves_nothing(last: int) -> None:
    api = FakeApiClient()
    api.orders = lambda request: page_json([order_of("customer-2")], number=1, last=last)
    intent = intent_of(state=IntentState.UNKNOWN)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent)
    assert "the list of orders could not be read completely" in caught.value.evidence
    assert "the server or a cache ignores the page number of Get Orders" in caught.value.evidence


async def test_order_on_a_repeated_page_is_found() -> None:
    api = FakeApiClient()
    api.orders = lambda request: page_json([order_json()], number=1, last=3)
    found = await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent_of())
    assert found.order is not None


async def test_last_page_again_completes_the_search() -> None:
    """The list became shorter: a paginator may return the last page for each number after it."""
    api = FakeApiClient()
    requests: list[str] = []

    def pages(request: Request) -> dict[str, Any]:
        query = dict(request.query)
        requests.append(query["page"])
        return page_json([order_of("customer-2")], number=1, last=2 if query["page"] == "1" else 1)

    api.orders = pages
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(CompletionPolicy(reconcile_budget=1.0)), MemoryJournal()).reconcile(
            intent_of()
        )
    assert "2" in requests
    assert "the list of orders could not be read completely" not in caught.value.evidence


@pytest.mark.parametrize("total", [1, "3"])
async def test_search_with_fewer_rows_than_total_proves_nothing(total: Any) -> None:
    """The total may come from the primary server, and the rows from a replica that is behind."""
    api = FakeApiClient()
    api.orders = lambda _: {**page_json([]), "total": total}
    intent = intent_of(state=IntentState.UNKNOWN)
    with pytest.raises(OutcomeUnknown) as caught:
        await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent)
    assert "Get Orders returned fewer orders than its total" in caught.value.evidence


@pytest.mark.parametrize("total", [0, None, "many"])
async def test_empty_search_without_total_proves_its_absence(total: Any) -> None:
    api = FakeApiClient()
    api.orders = lambda _: {**page_json([]), "total": total}
    intent = intent_of(state=IntentState.UNKNOWN)
    with pytest.raises(NotExecuted):
        await completions_of(api.with_policy(PROVING), MemoryJournal()).reconcile(intent)
