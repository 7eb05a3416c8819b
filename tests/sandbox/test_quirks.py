"""The option `quirks="laravel"`: what the sandbox sends, and that the SDK works with it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import attrs
import pytest

from minted_connect import AsyncMintedConnect, MintedConnect, Options, OutcomeUnknown, ValidationFailed
from minted_connect.sandbox import ManualClock, Sandbox, ThreadedSandbox
from minted_connect.serialization import to_dict
from tests.support.operations import CALLS, prepare_data
from tests.support.options import fresh_reads

pytestmark = pytest.mark.anyio


async def test_quirks_change_ids_flags_dates_and_nulls(serving: Any) -> None:
    async with serving(quirks="laravel") as (_, api):
        created = await api.send("POST", "/partner/customer", {"external_id": "cust-1", "birthdate": "1970-01-31"})
        assert created.text.startswith("\ufeff{")
        customer = json.loads(created.text[1:])
        assert (customer["success"], customer["code"]) == (True, 0)
        assert customer["data"]["id"] == "1"
        assert customer["data"]["birthdate"] == "1970-01-31T00:00:00.000000Z"
        assert customer["data"]["user_id"] == customer["data"]["email"] == ""
        basket = json.loads((await api.add_item(qty=3)).text[1:])["data"]
        assert (basket["id"], basket["status_id"], basket["items"][0]["product_id"]) == ("10984", "1", "3000099")
        assert (basket["payment"]["is_3d"], basket["shippingaddress"], basket["items"][0]["amount"]) == (0, [], 3)
        assert basket["customer"]["birthdate"] == "1970-01-31T00:00:00.000000Z"
        assert (type(basket["pricefix"]["remaining"]), type(basket["total"])) == (int, float)
        page = json.loads((await api.get("/partner/walletable/orders")).text[1:])["data"]
        assert [page[name] for name in ("current_page", "last_page", "per_page", "total")] == ["1", "1", "10", "0"]


async def test_refusal_with_quirks_is_a_typed_error(clock: ManualClock) -> None:
    async with Sandbox(quirks="laravel", clock=clock) as server:
        options = Options(clock=clock)
        async with AsyncMintedConnect(server.username, server.password, base_url=server.url, options=options) as minted:
            with pytest.raises(ValidationFailed) as caught:
                await minted.baskets.add_item("nobody", sku="MNTBAE0001")
            assert "external_customer_id" in caught.value.fields


@pytest.mark.parametrize("quirks", ["symfony", "", True])
def test_unknown_quirks_are_refused(quirks: Any) -> None:
    with pytest.raises(ValueError, match="quirks"):
        Sandbox(quirks=quirks)


def plain(value: Any) -> Any:
    """Return a result as plain data, with None for empty text, which the quirks use for null."""
    if attrs.has(value.__class__):
        return plain(to_dict(value))
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if value == "" else value


@contextlib.asynccontextmanager
async def served(quirks: Any) -> AsyncIterator[tuple[Sandbox, AsyncMintedConnect]]:
    """Serve a sandbox with these quirks, and a client."""
    clock = ManualClock(auto_advance=True)
    async with (
        Sandbox(seed=1, quirks=quirks, clock=clock) as server,
        AsyncMintedConnect(
            server.username, server.password, base_url=server.url, options=fresh_reads(Options(clock=clock))
        ) as minted,
    ):
        yield server, minted


async def results(name: str, quirks: Any) -> Any:
    """Return the result of one operation of a sandbox with these quirks."""
    async with served(quirks) as (server, minted):
        prepared = await prepare_data(minted, server, server.clock)  # type: ignore[arg-type]
        return plain(await CALLS[name](minted, prepared))


@pytest.mark.requirement(52)
@pytest.mark.requirement(38)
@pytest.mark.parametrize("name", CALLS)
async def test_operation_gives_equal_models_with_quirks(name: str) -> None:
    assert await results(name, "laravel") == await results(name, None)


async def test_missing_basket_with_quirks_is_none() -> None:
    async with served("laravel") as (_, minted):
        await minted.customers.create("customer-1")
        assert await minted.baskets.get_active("customer-1") is None


@pytest.mark.requirement(52)
async def test_purchase_with_quirks_is_reconciled() -> None:
    async with served("laravel") as (server, minted):
        await minted.customers.create("customer-1")
        basket = await minted.baskets.add_item("customer-1", sku="MNTBAE0001")
        server.faults.add("drop_after_commit", path="*/complete/buy")
        with pytest.raises(OutcomeUnknown) as caught:
            await minted.complete.buy(basket, expected_total=basket.paid_total)
        completion = await minted.complete.reconcile(caught.value)
        assert (completion.reconciled, completion.differences) == (True, ())
        assert [order.id for order in server.shop.orders] == [completion.order_id]


async def test_lost_response_to_create_is_read_back_with_quirks() -> None:
    async with served("laravel") as (server, minted):
        server.faults.add("drop_after_commit", method="POST", path="*/customer")
        created = await minted.customers.create("customer-1", firstname="Ada", birthdate=date(1970, 1, 31))
        assert created.birthdate == date(1970, 1, 31)


def test_threaded_sandbox_takes_quirks() -> None:
    with (
        ThreadedSandbox(quirks="laravel") as server,
        MintedConnect(server.username, server.password, base_url=server.url) as minted,
    ):
        assert minted.products.page().current_page == 1


async def test_sandbox_of_client_takes_quirks() -> None:
    async with AsyncMintedConnect.sandbox(quirks="laravel") as minted:
        page = await minted.products.page()
        assert (page.current_page, page.raw["current_page"]) == (1, "1")
    with pytest.raises(ValueError, match="quirks"):
        async with AsyncMintedConnect.sandbox(quirks="symfony"):  # type: ignore[arg-type]
            pass


def test_sandbox_of_blocking_client_takes_quirks() -> None:
    with MintedConnect.sandbox(quirks="laravel") as minted:
        page = minted.products.page()
        assert (page.current_page, page.raw["current_page"]) == (1, "1")
    with pytest.raises(ValueError, match="quirks"), MintedConnect.sandbox(quirks="symfony"):  # type: ignore[arg-type]
        pass


@pytest.mark.minted(quirks="laravel")
def test_mark_of_plugin_takes_quirks(minted_blocking_client: MintedConnect) -> None:
    assert minted_blocking_client.products.page().raw["current_page"] == "1"
