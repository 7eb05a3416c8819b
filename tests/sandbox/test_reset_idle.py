"""Connections that are idle at `reset_idle` are reset at their next request; all others work."""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from minted_connect.sandbox import Sandbox, ThreadedSandbox
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

RATES = "/partner/walletable/rates"
DROPPED = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)


async def test_idle_connection_is_reset_at_its_next_request(api, sandbox):
    await api.get(RATES)
    assert sandbox.reset_idle() == 1
    with pytest.raises(DROPPED):
        await api.create_customer()
    assert sandbox.shop.customers == []
    assert [(entry.operation, entry.status, entry.fault) for entry in sandbox.requests][-1] == (
        "customers.create",
        None,
        "reset_idle",
    )
    # A new connection works, and stays open.
    await api.create_customer()
    assert (await api.get(RATES)).status == 200
    assert sandbox.reset_idle() == 1


async def test_every_idle_connection_is_reset(api, sandbox):
    await api.get(RATES)
    fault = sandbox.faults.add("hang", times=5)
    reads = [asyncio.ensure_future(api.get(RATES)) for _ in range(5)]
    await wait_until(lambda: fault.waiting == 5)
    fault.remove()
    await asyncio.gather(*reads)
    await wait_until(lambda: sandbox.reset_idle() == 5)
    results = await asyncio.gather(*(api.get(RATES) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, DROPPED) for result in results)
    assert (await api.get(RATES)).status == 200


async def test_connection_with_request_in_progress_is_not_reset(api, sandbox):
    await api.get(RATES)
    fault = sandbox.faults.add("hang")
    read = asyncio.ensure_future(api.get(RATES))
    await wait_until(lambda: fault.waiting)
    assert sandbox.reset_idle() == 0
    fault.remove()
    assert (await read).status == 200
    assert (await api.get(RATES)).status == 200


async def test_reset_idle_before_start_raises_runtime_error():
    with pytest.raises(RuntimeError, match="not started"):
        Sandbox().reset_idle()


# A sandbox in a thread, and the console.


def connect(sandbox: ThreadedSandbox) -> http.client.HTTPConnection:
    address = urlsplit(sandbox.url)
    assert address.hostname is not None
    return http.client.HTTPConnection(address.hostname, address.port, timeout=30)


def status(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", RATES)
    response = connection.getresponse()
    response.read()
    return response.status


def post(sandbox: ThreadedSandbox, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{sandbox.console_url}/reset_idle", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_threaded_sandbox_resets_idle_connections():
    with ThreadedSandbox() as sandbox:
        connection = connect(sandbox)
        assert status(connection) == 401
        assert sandbox.reset_idle() == 1
        with pytest.raises(ConnectionError):
            status(connection)
        connection.close()
        assert status(connection) == 401
        connection.close()


def test_console_resets_idle_connections():
    with ThreadedSandbox() as sandbox:
        connection = connect(sandbox)
        assert status(connection) == 401
        code, state = post(sandbox, {})
        assert code == 200
        assert state["requests"]["total"] == 1
        with pytest.raises(ConnectionError):
            status(connection)
        connection.close()
        assert [entry.fault for entry in sandbox.requests] == [None, "reset_idle"]


@pytest.mark.parametrize("body", [{"times": 1}, {"path": "*", "times": None}])
def test_console_refuses_arguments_of_reset_idle(body):
    with ThreadedSandbox() as sandbox:
        connection = connect(sandbox)
        assert status(connection) == 401
        code, result = post(sandbox, body)
        assert (code, result) == (422, {"error": f"reset_idle takes no {', '.join(sorted(body))}"})
        assert status(connection) == 401
        connection.close()


@pytest.mark.parametrize("body", [[], "reset", None])
def test_console_refuses_reset_idle_without_an_object(body):
    with ThreadedSandbox() as sandbox:
        assert post(sandbox, body) == (400, {"error": "the body must be a JSON object"})
