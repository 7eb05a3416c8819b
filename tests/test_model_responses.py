"""`.response` of models and pages: what the server sent, but no part of the value of a model."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from minted_connect import Basket, Options, ResponseInfo, to_dict
from minted_connect.core.converter import unstructure
from minted_connect.response_info import attach_response
from minted_connect.sandbox import ManualClock, Sandbox
from tests.support.operations import CALLS, Person, prepare_data
from tests.support.raw_server import Connection, RawServer

pytestmark = pytest.mark.anyio

GOLD = "MNTBAE0001"
WITHOUT_MODEL = {"customers.remove"}


async def test_result_of_every_operation_has_its_response(minted: Any, sandbox: Sandbox, clock: ManualClock):
    for name in CALLS.keys() - WITHOUT_MODEL:
        # A call can make others fail.
        suffix = name.replace(".", "-")
        person = Person(customer=f"customer-{suffix}", newcomer=f"newcomer-{suffix}")
        result = await CALLS[name](minted, await prepare_data(minted, sandbox, clock, person))
        for model in result if isinstance(result, tuple) else (result,):
            assert isinstance(model.response, ResponseInfo), name
            assert (model.response.status, model.response.attempts) == (200, 1), name
            assert model.response.request_id in {entry.request_id for entry in sandbox.requests}, name
            assert model.response.headers["content-type"] == "application/json", name


async def test_response_counts_attempts_and_seconds(connect: Any, sandbox: Sandbox, clock: ManualClock):
    minted = await connect(sandbox.url, sandbox.username, sandbox.password, options=Options(clock=clock))
    await minted.rates.current()
    sandbox.faults.add("status", status=503, retry_after=7, times=2)
    rates = await minted.rates.current()
    assert {rate.response.attempts for rate in rates} == {3}
    assert rates[0].response.elapsed >= 14
    assert rates[0].response is rates[-1].response


async def test_rows_have_the_response_of_their_page(minted: Any):
    page = await minted.products.page()
    assert page.response is not None
    assert all(row.response is page.response for row in page)
    rows = [row async for row in minted.products.iterate(per_page=5)]
    assert len({row.response.request_id for row in rows}) == -(-len(rows) // 5)


async def test_response_is_not_a_part_of_the_value(minted: Any):
    await minted.customers.create("response-1")
    basket = await minted.baskets.add_item("response-1", sku=GOLD)
    again = await minted.baskets.get_active("response-1")
    page = await minted.products.page()
    for model in (basket, page, page.items[0]):
        bare = copy.copy(model)
        for other in (bare, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), attrs.evolve(model)):
            assert other.response is None
            assert other == model
        assert repr(bare) == repr(model)
        assert to_dict(bare) == to_dict(model)
        assert "response" not in to_dict(model)
        assert unstructure(bare) == unstructure(model)
        assert model.response is not None
    assert attrs.evolve(basket, price_fix=None) == attrs.evolve(again, price_fix=None)
    assert basket.response != again.response
    assert hash(page.items[0].sku) == hash(copy.copy(page.items[0]).sku)


async def test_completion_has_the_response_of_its_order(minted: Any):
    await minted.customers.create("response-2")
    basket: Basket = await minted.baskets.add_item("response-2", sku=GOLD)
    completion = await minted.complete.buy(basket, expected_total=basket.paid_total)
    assert completion.response is completion.order.response
    assert completion.response.status == 200
    assert attrs.evolve(completion, order=None).response is None


async def test_response_hides_headers_that_authenticate(connect: Any):
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            secrets = "Set-Cookie: a=canary\r\nSet-Cookie: b=canary\r\nAuthentication-Info: nextnonce=canary\r\n"
            connection.envelope([{"name": "x"}], headers=f"{secrets}X-Request-Id: r-1\r\nX-Kept: 1\r\n")

    async with RawServer(script) as server:
        minted = await connect(server.url)
        response = await minted.request("GET", "/x")
    info = ResponseInfo(response.status, response._headers, response.request_id)
    for each in (response, info, pickle.loads(pickle.dumps(info)), copy.copy(info)):
        assert (each.status, each.request_id, each.headers["x-kept"]) == (200, "r-1", "1")
        assert each.headers["set-cookie"] == each.headers["AUTHENTICATION-INFO"] == "***"
        assert "canary" not in f"{each!r}{dict(each.headers)}"
    assert b"canary" not in pickle.dumps(info)


def test_response_is_attached_to_anything():
    info = ResponseInfo(200, {})
    for value in (None, (), (1, "a"), "text", 5, {"items": 1}):
        attach_response(value, info)
