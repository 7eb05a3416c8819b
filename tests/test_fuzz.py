"""Calls with corrupted responses return a result or raise an error of the library, and buy at most once."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minted_connect import (
    AsyncMintedConnect,
    CompletionPolicy,
    MintedConnectError,
    NotSent,
    Options,
    OutcomeUnknown,
    Shipping,
)
from minted_connect.core import converter, exact_json
from minted_connect.models import Basket, Order
from minted_connect.sandbox import ManualClock
from tests.support.raw_server import Connection, RawServer
from tests.support.strategies import SAMPLES

SHIPPING = Shipping("Ada", "+905550001122", "c", "c", "d", "a", "12345678910")


def sample(name: str) -> Any:
    return exact_json.loads((SAMPLES / f"{name}.json").read_bytes())


BASKET = sample("update_basket_item.response")
CUSTOMER: str = BASKET["data"]["customer"]["external_id"]
SAMPLES_OF = {
    "POST /partner/customer": "create_customer.response",
    "GET /partner/customer": "get_customer.response",
    "PATCH /partner/customer": "get_customer.response",
    "DELETE /partner/customer": "remove_customer.response.assumed",
    "GET /partner/walletable/products": "get_products.response.assumed",
    "GET /partner/walletable/basket": "update_basket_item.response",
    "POST /partner/walletable/basket": "update_basket_item.response",
    "PATCH /partner/walletable/basket": "update_basket_item.response",
    "DELETE /partner/walletable/basket": "update_basket_item.response",
    "POST /partner/walletable/complete": "complete_buy.response.assumed",
    "GET /partner/walletable/orders": "get_orders.response.assumed",
    "GET /partner/order": "get_order_invoice.response.assumed",
    "GET /partner/walletable/receipt": "receipt.response.assumed",
    "GET /partner/walletable/balance": "balance.response.assumed",
    "GET /partner/walletable/rates/history": "rate_history.response.assumed",
    "GET /partner/walletable/rates": "currency_rates.response.assumed",
}
"""The sample for requests whose first line starts with a prefix; the longest prefix counts."""


def valid_document(first: str, kind: str) -> Any:
    """Return the valid response of a server that has one customer with one basket of this kind."""
    document = copy.deepcopy(
        sample(SAMPLES_OF[max((start for start in SAMPLES_OF if first.startswith(start)), key=len)])
    )
    if " /partner/customer" in first and document["data"]:
        document["data"]["external_id"] = CUSTOMER
    if kind != "buy" and ("/basket" in first or "/complete" in first):
        document["data"] |= {"type": kind, "tx_type": kind}
    return document


# Corruption of responses.

Path = tuple[str | int, ...]
ODD_TEXTS = [
    *("", " ", "\0", "\ud800", "\ufffe", "\u202edrawkcab", "\u0130", "\r\nX: y"),
    *("a" * 10_000, "1852.60", "NaN", "2026-13-45"),
]
ODD_NUMBERS = [-1, 0, 2**63, -(2**63), 10**400, 1e308, -0.0, 1e-9, 0.1 + 0.2]
ODD_VALUES = [None, True, False, [], {}, [[]], {"": None}, [None] * 100, *ODD_TEXTS, *ODD_NUMBERS]


def paths_in(value: Any, prefix: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a document except the root."""
    container = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in container:
        yield (*prefix, key)
        yield from paths_in(child, (*prefix, key))


def parent_of(document: Any, path: Path) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


def drop(document: Any, path: Path, _value: Any) -> None:
    del parent_of(document, path)[path[-1]]


def rename(document: Any, path: Path, value: Any) -> None:
    container = parent_of(document, path)
    if isinstance(container, dict):
        container[f"{path[-1]}_{str(value)[:3]}"] = container.pop(path[-1])


def replace(document: Any, path: Path, value: Any) -> None:
    parent_of(document, path)[path[-1]] = value


def wrap(document: Any, path: Path, value: Any) -> None:
    container = parent_of(document, path)
    container[path[-1]] = [container[path[-1]]] if isinstance(value, bool) else {"x": container[path[-1]]}


def repeat(document: Any, path: Path, _value: Any) -> None:
    container = parent_of(document, path)
    if isinstance(container, list):
        container += [copy.deepcopy(container[path[-1]])] * 3


Edit = Callable[[Any, Path, Any], None]
positions = st.integers(0, 999).map(lambda permille: permille / 1000)
edits = st.tuples(
    st.sampled_from([drop, rename, replace, replace, wrap, repeat]), positions, st.sampled_from(ODD_VALUES)
)
cuts = st.tuples(positions, st.integers(0, 3), st.binary(max_size=4))
corruptions = st.tuples(st.lists(edits, max_size=3), st.lists(cuts, max_size=1))
Corruption = tuple[list[tuple[Edit, float, Any]], list[tuple[float, int, bytes]]]


def corrupted(document: Any, corruption: Corruption = ([], [])) -> bytes:
    """Return a response with some values changed, and possibly some bytes."""
    for edit, position, value in corruption[0]:
        paths = list(paths_in(document))
        if paths:
            edit(document, paths[int(position * len(paths))], copy.deepcopy(value))
    body = json.dumps(document, default=float).encode()
    for position, length, inserted in corruption[1]:
        at = int(position * len(body))
        body = body[:at] + inserted + body[at + length :]
    return body


# Every call, with objects that were read before.


def parse_basket(clock: ManualClock, **changes: Any) -> Basket:
    data = {**BASKET["data"], **changes}
    return converter.structure(data, Basket, elapsed=clock.monotonic)


ORDER = converter.structure({**sample("complete_buy.response.assumed")["data"], "status_name": "Created"}, Order)
LISTED = converter.structure(
    {**sample("get_orders.response.assumed")["data"]["data"][0], "status_name": "Created"}, Order
)
Call = Callable[[AsyncMintedConnect, ManualClock], Any]


async def collect(walk: Any) -> list[Any]:
    return [item async for item in walk]


def buy(minted: AsyncMintedConnect, clock: ManualClock) -> Any:
    return minted.complete.buy(parse_basket(clock), accept_price="current")


async def buy_and_reconcile(minted: AsyncMintedConnect, clock: ManualClock) -> Any:
    try:
        return await buy(minted, clock)
    except OutcomeUnknown as unknown:
        return await minted.complete.reconcile(unknown, fence=True)


CALLS: dict[str, Call] = {
    "customers.create": lambda m, c: m.customers.create(CUSTOMER, firstname="Ada", email="ada@mail.example"),
    "customers.get": lambda m, c: m.customers.get(CUSTOMER),
    "customers.update": lambda m, c: m.customers.update(CUSTOMER, firstname="Ada"),
    "customers.remove": lambda m, c: m.customers.remove(CUSTOMER),
    "products.page": lambda m, c: m.products.page(),
    "products.iterate": lambda m, c: collect(m.products.iterate()),
    "baskets.get_active": lambda m, c: m.baskets.get_active(CUSTOMER),
    "baskets.add_item": lambda m, c: m.baskets.add_item(parse_basket(c), sku="MNTBAE0001"),
    "baskets.update_item": lambda m, c: m.baskets.update_item(parse_basket(c), sku="MNTBAE0001", qty=2),
    "baskets.delete_item": lambda m, c: m.baskets.delete_item(parse_basket(c), sku="MNTBAE0001"),
    "baskets.clear": lambda m, c: m.baskets.clear(parse_basket(c)),
    "complete.buy": buy,
    "complete.buy and reconcile": buy_and_reconcile,
    "complete.sell": lambda m, c: m.complete.sell(parse_basket(c, type="sell", tx_type="sell"), accept_price="current"),
    "complete.delivery": lambda m, c: m.complete.delivery(
        parse_basket(c, type="delivery", tx_type="delivery"), shipping=SHIPPING, accept_price="current"
    ),
    "orders.page": lambda m, c: m.orders.page(customer_id=CUSTOMER),
    "orders.get": lambda m, c: m.orders.get(LISTED.id, customer_id=CUSTOMER),
    "orders.wait": lambda m, c: m.orders.wait(LISTED, until="Pending", timeout=10),
    "orders.watch": lambda m, c: anext(m.orders.watch(LISTED, patience=10), None),
    "orders.invoice": lambda m, c: m.orders.invoice(ORDER.guid),
    "orders.receipt": lambda m, c: m.orders.receipt(ORDER.id, customer_id=CUSTOMER),
    "wallet.balance": lambda m, c: m.wallet.balance(CUSTOMER),
    "rates.current": lambda m, c: m.rates.current(),
    "rates.history": lambda m, c: m.rates.history(metal="gold"),
    "request": lambda m, c: m.request("GET", "/partner/walletable/rates"),
}
STATUSES = [200] * 12 + [201, 204, 400, 401, 403, 404, 409, 422, 429, 500, 503]


def kind_of(name: str) -> str:
    return name.removeprefix("complete.") if name in {"complete.sell", "complete.delivery"} else "buy"


async def call_server(name: str, respond: Callable[[str], tuple[bytes, int]]) -> tuple[Any, int, int]:
    """Make a call; return its result or error, and the number of sent completions and of pending intents."""
    clock, completions = ManualClock(auto_advance=True), 0

    async def script(connection: Connection) -> None:
        nonlocal completions
        while True:
            first, _, _ = await connection.request()
            completions += "/complete/" in first
            connection.respond(*respond(first))

    options = Options(clock=clock, completion=CompletionPolicy(reconcile_budget=10))
    async with (
        RawServer(script) as server,
        AsyncMintedConnect("u", "p", base_url=server.url, options=options) as minted,
    ):
        try:
            result = await CALLS[name](minted, clock)
        except MintedConnectError as error:
            result = error
        return result, completions, len(await minted.complete.pending())


@pytest.mark.parametrize("name", CALLS)
async def test_valid_response_of_every_call_is_accepted(name):
    result, completions, pending = await call_server(
        name, lambda first: (corrupted(valid_document(first, kind_of(name))), 200)
    )
    assert not isinstance(result, Exception)
    assert (completions, pending) == (name.startswith("complete."), 0)


@pytest.mark.requirement(39)
@pytest.mark.requirement(43)
@settings(
    deadline=None,
    max_examples=400,
    # Without the explain phase: on documents of this size it takes longer than the time limit of a test.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(
    st.sampled_from(list(CALLS)), st.lists(st.tuples(corruptions, st.sampled_from(STATUSES)), min_size=1, max_size=4)
)
def test_corrupted_response_gives_result_or_typed_error(name: str, plan: list[tuple[Corruption, int]]):
    """Corrupt response n as entry n of the plan says; the plan is repeated."""
    entries = cycle(plan)

    def respond(first: str) -> tuple[bytes, int]:
        corruption, status = next(entries)
        return (b"" if status == 204 else corrupted(valid_document(first, kind_of(name)), corruption)), status

    # Errors of other classes are raised here.
    result, completions, pending = asyncio.run(call_server(name, respond), debug=False)
    if isinstance(result, MintedConnectError):
        assert str(result).isprintable()
    if completions:
        assert not isinstance(result, NotSent)
    throttled = any(status == 429 for _, status in plan)
    assert completions <= 1 + throttled
    assert pending <= min(completions, 1)
    assert pending == isinstance(result, OutcomeUnknown) or not completions
