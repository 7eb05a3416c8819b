"""Two accounts that share a PostgreSQL journal complete the same references, and do not see each other's."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, Final

import pytest

from minted_connect import Options
from minted_connect.sandbox import Sandbox
from tests.completion.shops import CUSTOMER, REFERENCE
from tests.support.operations import GOLD
from tests.support.postgres import Database

ITEMS: Final = {GOLD: 1}


async def buy(client: Any) -> Any:
    return await client.complete.buy_items(
        CUSTOMER, ITEMS, reference=REFERENCE, max_total=Decimal(1_000_000), currency="AED"
    )


@pytest.mark.requirement(47)
@pytest.mark.parametrize(("method", "path"), [("POST", "*/basket"), ("POST", "*/complete/buy")])
async def test_accounts_on_one_journal_do_not_see_each_other(
    connect: Any, sandbox: Sandbox, database: Database, method: Any, path: str
) -> None:
    sandbox.add_partner("second", "another secret")
    first, second = [
        await connect(sandbox.url, *credentials, journal=database.url, options=Options(journal_account=name))
        for name, credentials in (
            ("first", (sandbox.username, sandbox.password)),
            ("second", ("second", "another secret")),
        )
    ]
    for client in (first, second):
        await client.customers.create(CUSTOMER, firstname="Ada", lastname="Lovelace")
    # The first account is between its claim and its order while the second one buys.
    fault = sandbox.faults.add("hang", method=method, path=path, commit=True)
    slow = asyncio.ensure_future(buy(first))
    while not fault.waiting:
        assert not slow.done(), slow
        await asyncio.sleep(0.01)
    other = await buy(second)
    assert not other.replayed
    assert await second.complete.pending() == []
    assert [intent.order_id for intent in await second.complete.unfinished()] == [other.order_id]
    fault.remove()
    own = await slow
    assert not own.replayed
    assert own.order_id != other.order_id
    assert [intent.order_id for intent in await first.complete.unfinished()] == [own.order_id]
    for client, bought in ((first, own), (second, other)):
        again = await buy(client)
        assert (again.replayed, again.order_id) == (True, bought.order_id)
        assert await client.complete.pending() == []
    assert len(sandbox.shop.orders) == 2
