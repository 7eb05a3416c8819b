"""`with_options(extra_headers=, extra_query=, extra_body=)`: sent as they are, or refused before anything is sent."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minted_connect import APIError, AsyncMintedConnect, CompletionPolicy, ConfigurationError, InvalidInput, Options
from minted_connect.core.extra_fields import add_extra_fields
from minted_connect.core.request import OPERATIONS, Request
from minted_connect.sandbox import Sandbox
from tests.support.raw_server import Connection, RawServer

GOLD = "MNTBAE0001"
OPERATION = OPERATIONS["baskets.add_item"]


async def respond_with_rates(connection: Connection) -> None:
    while True:
        await connection.request()
        connection.envelope([])


@pytest.mark.anyio
async def test_extra_headers_and_query_are_sent(connect: Any):
    async with RawServer(respond_with_rates) as server:
        minted = await connect(server.url)
        extra = minted.with_options(
            extra_headers={"X-Trace": "t-1", "traceparent": "00-a-b-01"}, extra_query={"branch": "Çekmeköy &=1"}
        )
        await extra.with_options(language="en").rates.current(metals="gold")
        await minted.rates.current()
        (line, headers, _), (plain, bare, _) = [entry for each in server.connections for entry in each.requests]

    assert parse_qsl(line.split(" ")[1].partition("?")[2]) == [("metal_type", "gold"), ("branch", "Çekmeköy &=1")]
    assert (headers["x-trace"], headers["traceparent"], headers["accept-language"]) == ("t-1", "00-a-b-01", "en")
    assert "branch" not in plain
    assert "x-trace" not in bare


@pytest.mark.anyio
async def test_extra_query_and_body_are_signed(minted: Any, sandbox: Sandbox):
    extra = minted.with_options(extra_query={"source": "shop é"}, extra_body={"note": {"amount": Decimal("1.10")}})
    await extra.customers.create("extra-1")
    await minted.with_options(extra_query={"source": "x"}).products.page()
    created, listed = [entry for entry in sandbox.requests if entry.status != 401]

    assert (created.status, created.query) == (200, {"source": "shop é"})
    assert created.body == {"external_id": "extra-1", "note": {"amount": Decimal("1.10")}}
    assert listed.query == {"page": "1", "total": "10", "source": "x"}


@pytest.mark.anyio
async def test_later_extras_replace_earlier_ones_part_by_part(minted: Any, sandbox: Sandbox):
    first = minted.with_options(extra_query={"a": "1"}, extra_body={"b": 1})
    await first.with_options(extra_query={"c": "2"}).customers.create("extra-2")
    await first.with_options(extra_query={}, extra_body={}).customers.get("extra-2")
    created, read = [entry for entry in sandbox.requests if entry.status != 401]

    assert (created.query, created.body) == ({"c": "2"}, {"external_id": "extra-2", "b": 1})
    assert read.query == {}


@pytest.mark.anyio
async def test_name_that_the_operation_sends_is_refused(minted: Any, sandbox: Sandbox):
    with pytest.raises(InvalidInput, match=r"extra_query: must not contain a name that products\.page sends itself"):
        await minted.with_options(extra_query={"page": "3"}).products.page()
    for name in ("sku", "SKU", "sku.x", "sku[]"):
        with pytest.raises(InvalidInput, match=r"extra_body: .*baskets.add_item sends itself"):
            await minted.with_options(extra_body={name: "other"}).baskets.add_item("extra-3", sku=GOLD)
        with pytest.raises(InvalidInput, match=r"extra_query: .*baskets.add_item sends itself"):
            await minted.with_options(extra_query={name: "other"}).baskets.add_item("extra-3", sku=GOLD)
    with pytest.raises(InvalidInput, match=r"extra_body: rates.current sends no JSON object"):
        await minted.with_options(extra_body={"a": 1}).rates.current()
    with pytest.raises(InvalidInput, match=r"extra_query: .*request sends itself"):
        await minted.with_options(extra_query={"a.b": "1"}).request("GET", "/x", query={"a_b": "2"})
    assert list(sandbox.requests) == []


@pytest.mark.anyio
@pytest.mark.parametrize("part", ["extra_headers", "extra_query", "extra_body"])
async def test_completion_with_extras_is_refused(minted: Any, sandbox: Sandbox, part: str):
    await minted.customers.create("extra-4")
    basket = await minted.baskets.add_item("extra-4", sku=GOLD)
    before = len(sandbox.requests)
    complete = minted.with_options(**{part: {"x-note": "1"}}).complete
    calls = [
        lambda: complete.buy(basket, expected_total=basket.paid_total),
        lambda: complete.buy_items(
            "extra-4", {GOLD: 1}, reference="r", max_total=Decimal(9999), currency=basket.currency_code
        ),
        complete.reconcile_all,
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match=r"extra_headers, extra_query, extra_body \(complete\.\w+\)"):
            await call()
    assert len(sandbox.requests) == before
    assert await minted.complete.pending() == []
    assert (await minted.complete.buy(basket, expected_total=basket.paid_total)).order is not None


@pytest.mark.anyio
async def test_error_masks_an_extra_header(minted: Any, sandbox: Sandbox):
    sandbox.faults.add("success_false", path="*/rates", message="the key canary7 is wrong")
    with pytest.raises(APIError, match=r"the key \*\*\* is wrong"):
        await minted.with_options(extra_headers={"X-Key": "canary7"}).rates.current()


def test_reconciler_with_extras_is_refused():
    client = AsyncMintedConnect("partner", "secret").with_options(extra_query={"a": "1"})
    with pytest.raises(ConfigurationError, match=r"complete\.reconciler"):
        client.complete.reconciler()


@pytest.mark.anyio
async def test_read_back_of_a_change_has_the_headers_only(minted: Any, sandbox: Sandbox):
    sandbox.faults.add("drop_after_commit", path="*/customer", times=1)
    extra = minted.with_options(extra_query={"source": "x"}, extra_body={"note": 1}, extra_headers={"X-A": "1"})
    created = await extra.customers.create("extra-5", firstname="Ada")
    assert created.firstname == "Ada"
    assert sandbox.requests[-1].query == {}


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "PROXY-AUTHORIZATION", "Host", "content-type", "Content-Length", "Content-Anything"),
        *("Transfer-Encoding", "Connection", "Cookie", "Idempotency-Key", "X-Shop-Key", "User-Agent", "Accept"),
        *(
            "Accept-Language",
            "x-client-id",
            "API-Version",
            "X-HTTP-Method-Override",
            "X-Original-URL",
            "Accept-Encoding",
        ),
    ],
)
def test_protected_header_is_refused(name: str):
    options = Options(completion=CompletionPolicy(idempotency_header="x-shop-key"))
    client = AsyncMintedConnect("partner", "secret", options=options)
    with pytest.raises(ConfigurationError, match=rf"extra_headers\['{name}'\]: must not be added, because it "):
        client.with_options(extra_headers={name: "1"})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"extra_headers": {"X-A": "1\r\nAuthorization: x"}}, r"extra_headers\['X-A'\]: must be printable ASCII"),
        ({"extra_headers": {"X-A": "é"}}, "must be printable ASCII"),
        ({"extra_headers": {"X-A": ""}}, "must be printable ASCII"),
        ({"extra_headers": {"X-A": " 1"}}, "must be printable ASCII"),
        ({"extra_headers": {"X-A": 1}}, r"extra_headers\['X-A'\]: must be str, not int"),
        ({"extra_headers": {"X-A": "1" * 5000}}, "must have at most 4096 characters"),
        ({"extra_headers": {"X A": "1"}}, "each name must be that of a header"),
        ({"extra_headers": {"X-A:": "1"}}, "each name must be that of a header"),
        ({"extra_headers": {"X-A\r\nB": "1"}}, "each name must be that of a header"),
        ({"extra_headers": {"": "1"}}, "each name must be that of a header"),
        ({"extra_headers": {1: "1"}}, "extra_headers: each name must be str, not int"),
        ({"extra_headers": {"X-A": "1", "x-a": "2"}}, "is given twice"),
        ({"extra_headers": [("X-A", "1")]}, "extra_headers: must be Mapping, not list"),
        ({"extra_query": {"a": 1}}, r"extra_query\['a'\]: must be str, not int"),
        ({"extra_query": {"a": None}}, r"extra_query\['a'\]: must be str, not NoneType"),
        ({"extra_query": {"a": "\ud800"}}, r"extra_query\['a'\]: must be valid Unicode"),
        ({"extra_query": {"": "1"}}, "extra_query: each name must be printable"),
        ({"extra_query": {"a\nb": "1"}}, "extra_query: each name must be printable"),
        ({"extra_query": {"\ud800": "1"}}, "extra_query: each name must be printable"),
        ({"extra_query": {"_method": "DELETE"}}, r"extra_query\['_method'\]: must not be added"),
        ({"extra_query": {"external.customer.id": "x"}}, "must not be added"),
        ({"extra_query": "a=b"}, "extra_query: must be Mapping, not str"),
        ({"extra_body": {"a": 1.5}}, r"extra_body\['a'\]: .*use Decimal for a float"),
        ({"extra_body": {"a": object()}}, r"extra_body\['a'\]: must be dict"),
        ({"extra_body": {"a": Decimal("NaN")}}, r"extra_body\['a'\]: must be dict"),
        ({"extra_body": {"external_customer_id": "x"}}, "must not be added"),
        ({"extra_body": [1]}, "extra_body: must be Mapping, not list"),
    ],
)
def test_invalid_addition_is_refused(arguments: dict[str, Any], problem: str):
    client = AsyncMintedConnect("partner", "secret")
    with pytest.raises(ConfigurationError, match=problem):
        client.with_options(**arguments)


def test_additions_are_copied_and_not_shown():
    rows: list[Any] = ["canary-1"]
    query = {"a": "canary-2"}
    extra = add_extra_fields(None, {"x-a": "canary-3"}, query, {"rows": rows}, None)
    assert extra is not None
    rows.append("later")
    query["b"] = "later"
    added = extra.added_to(Request(OPERATION, body={"sku": GOLD}))
    assert (added.query, added.body) == ((("a", "canary-2"),), {"sku": GOLD, "rows": ["canary-1"]})
    assert "canary" not in f"{extra!r}{added!r}"


def test_no_additions_are_none():
    assert add_extra_fields(None, None, None, None, None) is None
    assert add_extra_fields(None, {}, {}, {}, None) is None


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4))
def test_accepted_header_cannot_add_a_line(headers: dict[str, str]):
    try:
        extra = add_extra_fields(None, headers, None, None, None)
    except ConfigurationError:
        return
    sent = {} if extra is None else extra.headers
    assert sent == headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    assert lines.isascii()
    assert len(lines.splitlines()) == len(sent)


NAMES = st.text(alphabet="aB._[] ", min_size=1, max_size=6)


def php_name(name: str) -> str:
    """Return the name as which PHP reads a query parameter, in lower case."""
    return name.lower().lstrip().split("[", 1)[0].replace(".", "_").replace(" ", "_")


@given(st.dictionaries(NAMES, st.text(max_size=3), max_size=3), st.dictionaries(NAMES, st.text(max_size=3), max_size=3))
@example({"..": ""}, {". ": ""})
@example({"a.b[": ""}, {"a_b": ""})
def test_accepted_query_never_overwrites_what_is_sent(query: dict[str, str], sent: dict[str, str]):
    try:
        extra = add_extra_fields(None, None, query, None, None)
        added = (extra or add_extra_fields(None, {"x": "1"}, None, None, None)).added_to(
            Request(OPERATION, query=tuple(sent.items()))
        )
    except (ConfigurationError, InvalidInput):
        return
    assert dict(added.query) == {**sent, **query}
    assert {php_name(name) for name in query}.isdisjoint({php_name(name) for name in sent} - {""})
    assert json.dumps(dict(added.query))
