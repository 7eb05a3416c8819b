"""Responses that never end, cannot be parsed, arrive before the request, or belong to another customer."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from minted_connect import ConnectFailed, IntegrityError, ProtocolError, RequestTimeout
from tests.matrix import injections
from tests.matrix.cells import (
    BUY,
    READ_TIMEOUT,
    Injection,
    MatrixCase,
    both_stages,
    cells,
    matrix_cases,
    operation_of,
    through_both_clients,
)
from tests.matrix.outcomes import check_case, check_executed, check_not_sent
from tests.matrix.proxy import ProxiedRequest, ProxiedResponse
from tests.matrix.world import MatrixWorld, tls_contexts

ENDLESS_PARTS = {
    "interim": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"),
    "head": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x"),
    "body": (b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"data":', b" "),
}


def many_headers(response: ProxiedResponse) -> ProxiedResponse:
    return response.with_headers(*((f"X-Filler-{number}", "x") for number in range(150)))


def long_line(response: ProxiedResponse) -> ProxiedResponse:
    return response.with_headers(("X-Filler", "x" * 9000))


ENDLESS = [
    *[
        injection
        for name, (raw, chunk) in ENDLESS_PARTS.items()
        for injection in both_stages(
            "F35",
            name,
            lambda executed, raw=raw, chunk=chunk: injections.endless_response(
                READ_TIMEOUT, raw, chunk, executed=executed
            ),
            RequestTimeout,
            variant="slow",
            slow=True,
        )
    ],
    *[
        injection
        for change in (many_headers, long_line)
        for injection in both_stages(
            "F35",
            change.__name__.replace("_", "-"),
            lambda executed, change=change: injections.change_response(change, executed=executed),
            ProtocolError,
            variant="unreadable",
        )
    ],
]


UNTIL_DEADLINE = injections.endless_response(60, *ENDLESS_PARTS["body"])
DEADLINE = [Injection("F35", "", UNTIL_DEADLINE, RequestTimeout, variant="deadline", effects="R")]


@through_both_clients([*matrix_cases(ENDLESS), *matrix_cases(DEADLINE)])
async def test_endless_or_unreadable_response_fails(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


# F36.


def sent_twice(response: ProxiedResponse) -> bytes:
    return response.raw * 2


def followed_by_error(response: ProxiedResponse) -> bytes:
    return response.raw + injections.envelope(500)


TWO = [
    Injection("F36", "same", injections.change_response(sent_twice), ProtocolError, executed=True, variant="two"),
    Injection(
        "F36", "other", injections.change_response(followed_by_error), ProtocolError, executed=True, variant="two"
    ),
]


@through_both_clients(matrix_cases(TWO))
async def test_second_response_closes_the_connection(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)
    first = world.proxy.of(case.operation.method, case.operation.path)[0].connection
    assert (await world.minted.customers.get("customer-1")).external_id == "customer-1"
    assert world.proxy.proxied_requests[-1].connection is not first


async def read_sockets(world: MatrixWorld) -> None:
    """Let the client's event loop read its sockets, which takes several iterations."""
    await world.minted.complete.pending()


def order_response(found: ProxiedResponse) -> bytes:
    """Return the response to a completion of this basket."""
    order = {"order_creation_status": "order", "status_id": 2, "status_name": "Pending"}
    return found.with_data(lambda basket: basket | order).raw


@pytest.mark.requirement(42)
@cells("F36-R-early", "F36-S-early", "F36-A-early")
async def test_early_response_on_idle_connection_is_ignored(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    idle_connection = world.proxy.connections[-1]
    idle_connection.envelope({"external_id": "customer-1", "lastname": "unrequested"})
    await idle_connection.writer.drain()
    await read_sockets(world)
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    await check_executed(world, operation)
    # Nothing was sent over that connection, so the request is sent once, over another connection.
    assert world.sent(operation) == world.arrived(operation) == 1
    assert len(world.clock.sleeps) == 1
    assert world.proxy.proxied_requests[-1].connection is not idle_connection


@cells("F36-M-early-once", "F36-M-early-always")
async def test_early_response_in_handshake_is_not_accepted(build: Any, authority: Any, cell: str) -> None:
    """The response is part of the last handshake message, so it arrives before the request can be sent."""
    world = await build(tls=True)
    await world.set_up(BUY)
    responses: list[bytes] = []

    async def record_order(proxied: ProxiedRequest) -> None:
        response = await proxied.forward()
        responses.append(order_response(response))
        proxied.send(response.raw)

    world.proxy.inject("GET", "/partner/walletable/basket", [record_order])
    await world.minted.baskets.get_active("customer-1")
    early_server, _ = tls_contexts(authority)
    # In TLS 1.2 the server sends the last message of the handshake.
    early_server.maximum_version = ssl.TLSVersion.TLSv1_2
    await world.proxy.handshake_manually(early_server, responses[0])
    if cell.endswith("once"):
        world.clock.during_sleep = world.proxy.listen_again
        completion = await BUY.call(world.minted, world.basket)
        assert BUY.is_in_result(completion)
        await check_executed(world, BUY)
        assert world.sent(BUY) == world.arrived(BUY) == 1
        return
    with pytest.raises(ConnectFailed, match="before anything was sent") as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.attempts == 2
    await check_not_sent(world, BUY)
    assert world.proxy.received == b""
    assert world.sandbox.shop.orders == []


# F37.


def another_customer(response: ProxiedResponse) -> ProxiedResponse:
    """Return a response that belongs to another customer."""

    def change(data):
        if "customer" in data:
            return data | {"customer": data["customer"] | {"external_id": "customer-2"}}
        return data | {"external_id": "customer-2"}

    return response.with_data(change)


def another_basket(response: ProxiedResponse) -> ProxiedResponse:
    return response.with_data(lambda data: data | {"token": "T" * 32})


OTHER_OWNER = [
    Injection("F37", "customer", injections.change_response(another_customer), IntegrityError, executed=True),
    Injection(
        "F37", "basket", injections.change_response(another_basket), IntegrityError, executed=True, effects="SAM"
    ),
]


@through_both_clients(matrix_cases(OTHER_OWNER))
async def test_response_for_other_customer_is_refused(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)
