"""References and a server that executes one basket twice: only the confirmed order belongs to another reference."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from minted_connect import CompletionPolicy
from minted_connect.errors import AlreadyInFlight
from minted_connect.journal.memory import MemoryJournal
from minted_connect.models import Intent
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.shops import CUSTOMER, Shop

PROMPT = CompletionPolicy(orders_lag=1, latest_landing=1)


@pytest.fixture
async def shop(connect: Any, clock: ManualClock) -> AsyncIterator[Shop]:
    async with Sandbox(seed=1, clock=clock, single_shot=False) as sandbox:
        yield Shop(connect, sandbox, clock, MemoryJournal())


async def refuse(shop: Shop, client: Any) -> Any:
    """Let the server refuse a completion of October, and return its basket, which is still open."""
    shop.sandbox.faults.add("status", path="*/complete/*", status=422, times=1)
    with pytest.raises(Exception, match="422"):
        await shop.buy(client, "october")
    return await client.baskets.get_active(CUSTOMER)


def execute_again(shop: Shop) -> int:
    """Execute the basket of the only order again, and return the number of the second order."""
    [order] = shop.sandbox.shop.orders
    customer = shop.sandbox.shop.customers[order.customer - 1]
    return shop.sandbox.shop.complete(order.kind, customer, order.token).id


async def check_october(shop: Shop, client: Any, *numbers: int) -> None:
    """Check that an order with one of these numbers blocks October until a person has decided."""
    shop.advance()
    [intent] = await shop.intents("october")
    for _ in range(2):  # the result of the first search is not stored
        with pytest.raises(AlreadyInFlight, match=f"may be the order of intent {intent.id}.*: rejected if") as caught:
            await shop.buy(client, "october")
        assert caught.value.intent_id == intent.id
        assert str(caught.value).startswith(tuple(f"order {number} may" for number in numbers))
    assert len(shop.sandbox.shop.orders) == 2
    await client.complete.decide(intent.id, "rejected")
    bought = await shop.buy(client, "october")
    assert (bought.replayed, len(shop.sandbox.shop.orders)) == (False, 3)


@pytest.mark.requirement(47)
async def test_second_order_of_a_shared_basket_requires_a_decision(shop: Shop) -> None:
    client = await shop.client(PROMPT)
    basket = await refuse(shop, client)
    november = await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    number = execute_again(shop)
    assert number != november.order_id
    await check_october(shop, client, number)
    assert (await shop.buy(client, "november")).order_id == november.order_id


@pytest.mark.requirement(47)
async def test_second_order_after_a_decision_requires_another_one(shop: Shop) -> None:
    client = await shop.client(PROMPT)
    basket = await refuse(shop, client)
    [intent] = await shop.intents("october")
    await client.complete.decide(intent, "rejected")
    shop.advance()
    basket = await client.baskets.get_active(CUSTOMER)
    await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    await check_october(shop, client, execute_again(shop))


@pytest.mark.requirement(47)
async def test_second_order_that_a_person_confirms_is_replayed(shop: Shop) -> None:
    client = await shop.client(PROMPT)
    basket = await refuse(shop, client)
    await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    number = execute_again(shop)
    [intent] = await shop.intents("october")
    await client.complete.decide(intent, "confirmed", order_id=number)
    again = await shop.buy(client, "october")
    assert (again.replayed, again.order_id, len(shop.sandbox.shop.orders)) == (True, number, 2)


@pytest.mark.requirement(47)
async def test_second_order_of_another_basket_requires_a_decision(shop: Shop) -> None:
    client = await shop.client(PROMPT)
    await refuse(shop, client)
    november = await shop.buy(client, "november")
    number = execute_again(shop)
    assert number != november.order_id
    await check_october(shop, client, number)


class UnnumberedJournal(MemoryJournal):
    """Stores no number of an order, as after a response without one."""

    async def settle(self, intent_id: str, *args: Any, **kwargs: Any) -> None:
        await super().settle(intent_id, *args, **{**kwargs, "order_id": None})

    async def find_active(self, *args: Any, **kwargs: Any) -> Intent | None:
        found = await super().find_active(*args, **kwargs)
        return None if found is None else attrs.evolve(found, order_id=None)


@pytest.mark.requirement(47)
@pytest.mark.parametrize("is_doubled", [True, False])
async def test_only_order_of_a_purchase_without_number_is_known(shop: Shop, is_doubled: bool) -> None:
    shop.location = UnnumberedJournal()
    client = await shop.client(PROMPT)
    basket = await refuse(shop, client)
    november = await client.complete.buy(basket, expected_total=basket.paid_total, reference="november")
    if is_doubled:
        await check_october(shop, client, execute_again(shop), november.order_id)
    else:
        shop.advance()
        assert not (await shop.buy(client, "october")).replayed
        assert len(shop.sandbox.shop.orders) == 2
