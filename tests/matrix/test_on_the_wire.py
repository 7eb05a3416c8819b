"""Responses that never end, cannot be parsed, were not requested, or belong to another customer."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from minted_connect import ConnectFailed, IntegrityError, ProtocolError, RequestTimeout
from tests.matrix import injections
from tests.matrix.cells import (
    BUY,
    PATIENCE,
    Injection,
    MatrixCase,
    both,
    both_clients,
    cells,
    matrix_cases,
    operation_of,
)
from tests.matrix.outcomes import is_done, nothing_was_sent, perform
from tests.matrix.proxy import ProxiedRequest, ProxiedResponse
from tests.matrix.world import MatrixWorld, contexts

NEVER = {
    "interim": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"),
    "head": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"x"),
    "body": (b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"data":', b" "),
}


def many_headers(response: ProxiedResponse) -> ProxiedResponse:
    return response.having(*((f"X-Filler-{number}", "x") for number in range(150)))


def long_line(response: ProxiedResponse) -> ProxiedResponse:
    return response.having(("X-Filler", "x" * 9000))


SPUN_OUT = [
    *[
        injection
        for name, (raw, drip) in NEVER.items()
        for injection in both(
            "F35",
            name,
            lambda landed, raw=raw, drip=drip: injections.unending(PATIENCE, raw, drip, landed=landed),
            RequestTimeout,
            variant="slow",
            slow=True,
        )
    ],
    *[
        injection
        for change in (many_headers, long_line)
        for injection in both(
            "F35",
            change.__name__.replace("_", "-"),
            lambda landed, change=change: injections.spoilt(change, landed=landed),
            ProtocolError,
            variant="unreadable",
        )
    ],
]


TO_THE_END = injections.unending(60, *NEVER["body"])
DEADLINE = [Injection("F35", "", TO_THE_END, RequestTimeout, variant="deadline", effects="R")]


@both_clients([*matrix_cases(SPUN_OUT), *matrix_cases(DEADLINE)])
async def test_answers_without_end(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


# F36.


def twice(response: ProxiedResponse) -> bytes:
    return response.raw * 2


def then_another(response: ProxiedResponse) -> bytes:
    return response.raw + injections.envelope(500)


TWO = [
    Injection("F36", "same", injections.spoilt(twice), ProtocolError, landed=True, variant="two"),
    Injection("F36", "other", injections.spoilt(then_another), ProtocolError, landed=True, variant="two"),
]


@both_clients(matrix_cases(TWO))
async def test_two_answers(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)
    first = world.proxy.of(case.operation.method, case.operation.path)[0].connection
    assert (await world.minted.customers.get("customer-1")).external_id == "customer-1"
    assert world.proxy.proxied_requests[-1].connection is not first


async def in_the_mailbox(world: MatrixWorld) -> None:
    """Let the client's event loop read its sockets, which takes several iterations."""
    await world.minted.complete.pending()


def an_order(found: ProxiedResponse) -> bytes:
    """Return the response to a completion of this basket."""
    order = {"order_creation_status": "order", "status_id": 2, "status_name": "Pending"}
    return found.with_data(lambda basket: basket | order).raw


@cells("F36-R-early", "F36-S-early", "F36-A-early")
async def test_an_answer_before_the_request(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    idle = world.proxy.connections[-1]
    idle.envelope({"external_id": "customer-1", "lastname": "nobody asked"})
    await idle.writer.drain()
    await in_the_mailbox(world)
    assert operation.shown(await operation.call(world.minted, world.basket))
    await is_done(world, operation)
    # Nothing was sent over that connection, so the completion is sent once, over another one.
    assert world.sent(operation) == world.arrived(operation) == 1
    assert len(world.clock.sleeps) == 1
    assert world.proxy.proxied_requests[-1].connection is not idle


@cells("F36-M-early-once", "F36-M-early-always")
async def test_an_order_that_was_answered_before_it_was_asked_for(build: Any, authority: Any, cell: str) -> None:
    """The response is part of the last handshake message, so it arrives before the request can be sent."""
    world = await build(tls=True)
    await world.ready(BUY)
    responses: list[bytes] = []

    async def copied(proxied: ProxiedRequest) -> None:
        response = await proxied.forward()
        responses.append(an_order(response))
        proxied.send(response.raw)

    world.proxy.inject("GET", "/partner/walletable/basket", [copied])
    await world.minted.baskets.get_active("customer-1")
    eager, _ = contexts(authority)
    eager.maximum_version = ssl.TLSVersion.TLSv1_2  # the version whose handshake ends with a message of the server
    await world.proxy.shake_hands(eager, responses[0])
    if cell.endswith("once"):
        world.clock.meanwhile = world.proxy.accept
        done = await BUY.call(world.minted, world.basket)
        assert BUY.shown(done)
        await is_done(world, BUY)
        assert world.sent(BUY) == world.arrived(BUY) == 1
        return
    with pytest.raises(ConnectFailed, match="before anything was sent") as caught:
        await BUY.call(world.minted, world.basket)
    assert caught.value.attempts == 2
    await nothing_was_sent(world, BUY)
    assert world.proxy.heard == b""
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


MIXED_UP = [
    Injection("F37", "customer", injections.spoilt(another_customer), IntegrityError, landed=True),
    Injection("F37", "basket", injections.spoilt(another_basket), IntegrityError, landed=True, effects="SAM"),
]


@both_clients(matrix_cases(MIXED_UP))
async def test_answers_about_somebody_else(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)
