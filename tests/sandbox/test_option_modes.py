"""Modes of the sandbox that are options or `reset_idle`, or that other requests than a purchase meet."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import urllib.request
import warnings
from typing import Any, Final

import aiohttp
import attrs
import pytest
import trustme

from minted_connect import (
    BreakerPolicy,
    CircuitOpen,
    MintedConnect,
    OutcomeUnknown,
    PoolTimeout,
    PriceChanged,
    RetryPolicy,
    ServerError,
    Timeouts,
    TLSFailed,
)
from minted_connect.sandbox import Sandbox
from minted_connect.sandbox.active_faults import KINDS
from tests.completion.fakes import SHIPPING
from tests.matrix.table import Outcome, outcome
from tests.support.fault_modes import BUY, CUSTOMER, buy, check_outcome
from tests.support.operations import GOLD
from tests.support.raw_server import ignore_handshake_errors
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

LARGE: Final = 12_000_000
"""Larger than the buffers of a socket."""


@pytest.mark.requirement(53)
async def test_partly_written_request_is_a_mode(serve: Any) -> None:
    sandbox, client = await serve()
    sandbox.shop.give(CUSTOMER, GOLD, 1)
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD, type="delivery")
    fault = sandbox.faults.add("drop_before_read", path="*/complete/delivery", before_auth=True, reset=True)
    shipping = attrs.evolve(SHIPPING, address="x" * LARGE)
    with pytest.raises(OutcomeUnknown):
        await client.complete.delivery(basket, shipping=shipping, expected_total=basket.paid_total)
    assert (fault.hits, sandbox.shop.orders) == (1, [])


@pytest.mark.requirement(53)
async def test_response_before_the_request_is_a_mode(serve: Any) -> None:
    sandbox, client = await serve()
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("two_answers", path="*/walletable/basket", keep_alive=True)
    await client.baskets.get_active(CUSTOMER)
    # The second response would be the one to this request.
    assert await client.rates.current()
    assert [entry.status for entry in sandbox.requests.of("rates.current")] == [200]
    check_outcome(await client.complete.buy(basket, expected_total=basket.paid_total), Outcome.ACCEPTED, executed=True)


@pytest.mark.requirement(53)
async def test_full_pool_is_a_mode(serve: Any) -> None:
    sandbox, client = await serve(pool_size=1)
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    fault = sandbox.faults.add("hang", path="*/rates")
    hanging = client.with_options(deadline=600.0, timeouts=Timeouts(read=500.0))
    read = asyncio.ensure_future(hanging.rates.current())
    await wait_until(lambda: fault.waiting)
    with pytest.raises(PoolTimeout):
        await client.wallet.balance(CUSTOMER)
    fault.remove()
    await read
    assert (await client.complete.buy(basket, expected_total=basket.paid_total)).order is not None


@pytest.mark.requirement(53)
async def test_open_circuit_is_a_mode(serve: Any) -> None:
    sandbox, client = await serve(breaker=BreakerPolicy(failures=1, cooldown=30))
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("status", path="*/rates", times=None)
    with pytest.raises(ServerError):
        await client.with_options(retry=RetryPolicy.none()).rates.current()
    with pytest.raises(CircuitOpen):
        await client.complete.buy(basket, expected_total=basket.paid_total)
    assert sandbox.requests.of("complete.buy") == []


@pytest.mark.requirement(53)
async def test_failing_read_back_is_a_mode(serve: Any) -> None:
    sandbox, client = await serve()
    sandbox.faults.add("drop_after_commit", path=BUY)
    error = await buy(client)
    fault = sandbox.faults.add("status", path="*/walletable/orders", times=None)
    with pytest.raises(OutcomeUnknown) as caught:
        await client.complete.reconcile(error)
    assert fault.hits > 0
    fault.remove()
    assert (await client.complete.reconcile(caught.value)).reconciled


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement(53)
@pytest.mark.parametrize("arm", ["method", "console"])
async def test_dead_pool_is_a_mode(serve: Any, arm: str) -> None:
    sandbox, client = await serve()
    await client.rates.current()
    if arm == "method":
        assert sandbox.reset_idle() >= 1
    else:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{sandbox.console_url}/reset_idle", json={}) as response,
        ):
            assert response.status == 200
    assert await client.rates.current()
    assert "reset_idle" in [entry.fault for entry in sandbox.requests]
    check_outcome(await buy(client), Outcome.ACCEPTED, executed=True)


@pytest.mark.requirement(53)
@pytest.mark.parametrize("is_old", [False, True], ids=["F04", "F05"])
async def test_tls_failure_is_a_mode(connect: Any, is_old: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    if is_old:
        authority.configure_trust(trusting)
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")  # without this, OpenSSL does not serve the protocol
    ignore_handshake_errors()  # asyncio reports them in debug mode
    async with Sandbox(ssl_context=context) as sandbox:
        client = await connect(
            sandbox.url, sandbox.username, sandbox.password, ssl_context=trusting, retry=RetryPolicy.none()
        )
        with pytest.raises(TLSFailed):
            await client.customers.create(CUSTOMER)
        assert (sandbox.requests.total, sandbox.shop.customers) == (0, [])


@pytest.mark.requirement(53)
@pytest.mark.parametrize("options", [{"nonce_uses": 1}, {"nonce_lifetime": 30.0}], ids=str)
async def test_challenge_of_each_request_is_a_mode(serve: Any, options: dict[str, Any]) -> None:
    sandbox, client = await serve(**options)
    if "nonce_lifetime" in options:
        sandbox.clock.advance(31)
    check_outcome(await buy(client), outcome("F21", "M"), executed=True)
    challenged = [entry for entry in sandbox.requests if entry.status == 401]
    assert len(challenged) > 1


@pytest.mark.requirement(53)
@pytest.mark.parametrize(
    ("options", "seconds"),
    [({"orders_lag": 2.0}, 2), ({"reads_lag": 2.0}, 2), ({"orders_lag": 1.0, "reads_lag": 1.0}, 2)],
)
async def test_delayed_reads_are_a_mode(serve: Any, options: dict[str, Any], seconds: int) -> None:
    sandbox, client = await serve(**options)
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.clock.advance(seconds)
    sandbox.faults.add("refusal", path=BUY, status=403, commit="before")
    completion = await client.complete.buy(basket, expected_total=basket.paid_total)
    # The first polls do not show the order.
    assert (completion.reconciled, len(sandbox.shop.orders)) == (True, 1)
    assert len(sandbox.requests.of("orders.page")) > 1


@pytest.mark.requirement(53)
@pytest.mark.parametrize("reprices", [False, True])
async def test_restarting_price_lock_is_a_mode(serve: Any, reprices: bool) -> None:
    sandbox, client = await serve(lock_restart=5.0, lock_restart_reprices=reprices)
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.clock.advance(60)
    call = client.complete.buy(basket, expected_total=basket.paid_total)
    if reprices:
        with pytest.raises(PriceChanged):
            await call
        assert sandbox.requests.of("complete.buy") == []
    else:
        check_outcome(await call, outcome("F48", "M", "same"), executed=True)


# --- another process ---------------------------------------------------------------------------------------------


@pytest.mark.requirement(53)
@pytest.mark.parametrize("option", [(), ("--quirks", "laravel")], ids=["plain", "quirks"])
def test_process_takes_every_fault_over_its_console(option: tuple[str, ...]) -> None:
    command = [sys.executable, "-X", "dev", "-m", "minted_connect.sandbox", "--port", "0", "--json", *option]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            started = json.loads(process.stdout.readline())
            for kind in KINDS:
                body = {"kind": kind, "path": "*/nothing", **({"field": "id"} if kind == "drop_field" else {})}
                request = urllib.request.Request(
                    f"{started['console']}/faults", json.dumps(body).encode(), {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=30) as response:
                    state = json.loads(response.read())
            assert [fault["kind"] for fault in state["faults"]] == [*KINDS]
            with MintedConnect(started["username"], started["password"], base_url=started["url"]) as client:
                assert client.products.page().raw["current_page"] == ("1" if option else 1)
        finally:
            process.terminate()
