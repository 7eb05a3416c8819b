"""Rows that move to other pages while the pages are requested: none comes twice, and a missed one is found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.models import Page, UnreadableRow
from minted_connect.resources.paging import NewRows, pages
from minted_connect.sandbox import ManualClock

pytestmark = pytest.mark.anyio

GOLD = "MNTBAE0001"
SIZE = 5


@attrs.frozen
class Row:
    id: int


Change = Callable[[list[int]], object]


def insert(number: int) -> Change:
    return lambda rows: rows.insert(0, number)


def remove(count: int = 1) -> Change:
    return lambda rows: rows.__delitem__(slice(0, count))


class Server:
    """A list that changes before some of the requests, by the number of the request."""

    def __init__(self, rows: int, changes: dict[int, Change], odd: frozenset[int] = frozenset()) -> None:
        self.rows = list(range(rows))
        self.requested: list[int] = []
        self._changes = changes
        self._odd = odd

    async def fetch(self, number: int) -> Page[Row]:
        self.requested.append(number)
        self._changes.get(len(self.requested), len)(self.rows)
        on_page = self.rows[(number - 1) * SIZE : number * SIZE]
        return Page(
            tuple(Row(row) for row in on_page if row not in self._odd),
            number,
            max(1, -(-len(self.rows) // SIZE)),
            SIZE,
            len(self.rows),
            unreadable=tuple(
                UnreadableRow(f"data.data[{row}]", ("odd",), {"id": row}) for row in on_page if row in self._odd
            ),
        )


def walk(server: Server) -> tuple[list[int], NewRows[Row]]:
    found = NewRows(lambda number: pages(server.fetch, number))

    async def read() -> list[int]:
        return [row.id async for rows in found.lists() for row in rows]

    return asyncio.run(read()), found


def test_quiet_list_is_requested_once() -> None:
    server = Server(12, {})
    assert walk(server)[0] == [*range(12)]
    assert server.requested == [1, 2, 3]


def test_empty_list_is_requested_once() -> None:
    server = Server(0, {})
    assert (walk(server)[0], server.requested) == ([], [1])


@pytest.mark.requirement(52)
def test_rows_added_in_front_come_last_and_no_row_twice() -> None:
    server = Server(12, {2: insert(100), 3: insert(101)})
    rows, found = walk(server)
    assert rows == [*range(12), 101, 100]
    assert (server.requested, found.is_complete, found.total) == ([1, 2, 3, 1], True, 14)


def test_rows_added_in_front_of_a_long_list_cost_one_request() -> None:
    server = Server(60, {4: insert(100)})
    assert walk(server)[0] == [*range(60), 100]
    assert server.requested == [*range(1, 14), 1]


def test_rows_added_at_the_end_cost_no_request() -> None:
    server = Server(12, {2: lambda rows: rows.append(50)})
    assert walk(server)[0] == [*range(12), 50]
    assert server.requested == [1, 2, 3]


@pytest.mark.requirement(52)
def test_row_skipped_because_one_left_the_list_is_found() -> None:
    server = Server(12, {2: remove()})
    rows, found = walk(server)
    assert sorted(rows) == [*range(12)]
    assert rows[-1] == 5
    assert found.is_complete


def test_tail_is_requested_from_where_rows_moved() -> None:
    server = Server(60, {6: remove(7)})
    assert sorted(walk(server)[0]) == [*range(60)]
    assert server.requested == [*range(1, 12), 1, *range(4, 12)]


@pytest.mark.requirement(52)
@pytest.mark.parametrize("count", [9, 30])
def test_row_that_stays_missing_is_logged(count: int, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(30, {number: remove() for number in range(2, count)})
    with caplog.at_level(logging.WARNING, "minted_connect"):
        rows, found = walk(server)
    assert len(rows) == len(set(rows))
    assert not found.is_complete
    [record] = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "minted_connect")
    assert f"{len(rows)} were read, the list has {len(server.rows)}, some may be missing" in record.getMessage()


def test_total_above_the_rows_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fetch(number: int) -> Page[Row]:
        return Page((Row(1), Row(2)), number, 1, SIZE, 3)

    found = NewRows(lambda number: pages(fetch, number))

    async def read() -> list[list[Row]]:
        return [rows async for rows in found.lists()]

    assert asyncio.run(read()) == [[Row(1), Row(2)], []]
    assert (found.is_complete, "2 were read, the list has 3" in caplog.text) == (False, True)


@pytest.mark.requirement(52)
def test_unreadable_rows_count_as_read_and_come_once() -> None:
    server = Server(12, {2: insert(100)}, frozenset({4, 9}))
    rows, found = walk(server)
    assert rows == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 100]
    assert [row.id for row in found.unreadable] == [4, 9]
    assert found.is_complete


additions = st.sets(st.integers(2, 8)).map(lambda numbers: {number: insert(100 + number) for number in numbers})
removals = st.dictionaries(st.integers(2, 8), st.integers(1, 7).map(remove), max_size=3)


@pytest.mark.requirement(52)
@settings(deadline=None)
@given(rows=st.integers(30, 60), changes=additions | removals)
def test_no_row_is_missing_or_twice_after_changes(rows: int, changes: dict[int, Change]) -> None:
    # All changes happen before the first page that may be the last.
    last = rows // SIZE - 4
    server = Server(rows, {number: change for number, change in changes.items() if number <= last})
    before = set(server.rows)
    found, new = walk(server)
    assert len(found) == len(set(found))
    assert set(found) >= set(server.rows) & before
    assert new.is_complete


# --- clients -----------------------------------------------------------------------------------------------------


async def buy(client: AsyncMintedConnect) -> int:
    basket = await client.baskets.add_item("customer-1", sku=GOLD)
    return (await client.complete.buy(basket, expected_total=basket.paid_total)).require_order().id


async def test_orders_placed_meanwhile_are_yielded_once() -> None:
    async with AsyncMintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        await client.customers.create("customer-1")
        placed = [await buy(client) for _ in range(12)]
        found: list[int] = []
        async for order in client.orders.iterate(customer_id="customer-1", per_page=5):
            found.append(order.id)
            if len(found) in {5, 10}:
                placed.append(await buy(client))
        assert (len(found), set(found)) == (14, set(placed))


@pytest.mark.requirement(52)
@pytest.mark.parametrize("change", ["insert", "remove"])
async def test_drift_of_the_sandbox_is_handled(change: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncMintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        await client.customers.create("customer-1")
        placed = [await buy(client) for _ in range(12)]
        client.sandbox_server.faults.add("page_drift", path="*/orders", times=2, change=change)
        seen = [order.id async for page in client.orders.pages(per_page=5) for order in page]
        assert len(set(seen)) < 12
        client.sandbox_server.faults.add("page_drift", path="*/orders", times=2, change=change)
        found = [order.id async for order in client.orders.iterate(per_page=5)]
        assert (len(found), set(found)) == (12, set(placed))
        assert not caplog.records


def test_blocking_iterate_handles_drift() -> None:
    with MintedConnect.sandbox(clock=ManualClock(auto_advance=True)) as client:
        client.customers.create("customer-1")
        for _ in range(7):
            basket = client.baskets.add_item("customer-1", sku=GOLD)
            client.complete.buy(basket, expected_total=basket.paid_total)
        client.sandbox_server.faults.add("page_drift", path="*/orders", times=2, change="remove")
        assert len({order.id for order in client.orders.iterate(per_page=5)}) == 7
