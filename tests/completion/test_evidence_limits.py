"""The evidence of a read-back names only the first of many orders, and the number of the others."""

from __future__ import annotations

import logging

import pytest

from minted_connect import OutcomeUnknown
from minted_connect.completion.completions import AsyncCompletions
from minted_connect.config import CompletionPolicy
from minted_connect.journal.memory import MemoryJournal
from tests.completion.fakes import FakeApiClient, completions_of, intent_of, order_json

pytestmark = pytest.mark.anyio

OTHER_KEYS = {"token": "X" * 32, "guid": "ANOTHER", "increment_id": "X-1"}
ONCE = CompletionPolicy(reconcile_budget=1.0)


def complete(api: FakeApiClient) -> AsyncCompletions:
    return completions_of(api.with_policy(ONCE), MemoryJournal())


@pytest.mark.parametrize(("count", "further"), [(5, None), (6, 1), (28, 23)])
async def test_many_likely_orders_are_counted(
    count: int, further: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApiClient()
    api.orders = [order_json(**OTHER_KEYS, id=number) for number in range(count)]
    with pytest.raises(OutcomeUnknown) as caught:
        await complete(api).reconcile(intent_of())
    shown = [note for note in caught.value.evidence if note.startswith(("order ", "and "))]
    named = [f"order {number} may be the order of this purchase" for number in range(5)]
    assert shown == [*named, *([f"and {further} further orders"] if further else [])]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().count("may be the order of this purchase") == 5


async def test_many_orders_of_one_basket_are_counted() -> None:
    api = FakeApiClient()
    api.orders = [order_json(), *(order_json(id=number) for number in range(8))]
    done = await complete(api).reconcile(intent_of())
    shown = [line for line in done.differences if line.startswith(("order ", "and "))]
    assert (len(shown), shown[-1]) == (6, "and 3 further orders")
