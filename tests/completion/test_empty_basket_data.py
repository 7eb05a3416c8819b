"""In a read-back, only null and the vendor's 404 say that there is no basket: other empty data proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import NotExecuted, OutcomeUnknown
from minted_connect.completion.reconcile import ReadBack
from minted_connect.completion.verdict import BasketSeen
from minted_connect.config import CompletionPolicy
from minted_connect.core.request import Request
from minted_connect.journal.memory import MemoryJournal
from tests.completion.fakes import FakeApiClient, basket_json, completions_of, intent_of, order_json, page_json

pytestmark = pytest.mark.anyio

EMPTY: list[Any] = [[], "", {}, 0, False, [[]]]


@pytest.fixture
def api() -> FakeApiClient:
    return FakeApiClient(completion=CompletionPolicy(reconcile_budget=200.0, fence_proves_not_executed=True))


async def fence(api: FakeApiClient, data: Any) -> None:
    """Clear the basket of an intent; reads afterwards return `data` as the basket."""
    api.basket = basket_json()

    def clear(_: Any) -> Any:
        api.basket = data
        return basket_json(items=[])

    api.clear = clear
    journal = MemoryJournal()
    await journal.prepare(intent_of())
    await completions_of(api, journal).reconcile(intent_of(), fence=True)


@pytest.mark.requirement(52)
@pytest.mark.requirement(14)
@pytest.mark.parametrize("data", EMPTY)
async def test_fence_followed_by_empty_data_proves_nothing(api: FakeApiClient, data: Any) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        await fence(api, data)
    assert "the response contains no basket" in caught.value.evidence


async def test_fence_followed_by_null_proves_not_executed(api: FakeApiClient) -> None:
    with pytest.raises(NotExecuted):
        await fence(api, None)


@pytest.mark.parametrize("data", EMPTY)
async def test_poll_with_empty_data_has_not_read_the_basket(api: FakeApiClient, data: Any) -> None:
    api.basket = data
    result = await ReadBack(api, intent_of()).poll_once(within=10.0)
    assert result.evidence.basket is BasketSeen.UNREAD


@pytest.mark.parametrize("data", [*EMPTY, None])
async def test_order_of_an_old_basket_is_found_beside_empty_data(api: FakeApiClient, data: Any) -> None:
    """The order is dated last week and has a number of its own, so only the search without dates finds it."""
    api.basket = data

    def list_orders(request: Request) -> Any:
        has_filter = {"startDate", "orderId"} & {name for name, _ in request.query}
        return page_json([] if has_filter else [order_json(id=77, order_at="2026-02-13T12:27:57Z")])

    api.orders = list_orders
    completion = await completions_of(api, MemoryJournal()).reconcile(intent_of())
    assert completion.order_id == 77
