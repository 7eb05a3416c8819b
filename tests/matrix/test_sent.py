"""The request was sent: the connection breaks, time runs out, or the response is truncated, invalid or a refusal."""

from __future__ import annotations

import attrs
import pytest

from minted_connect import (
    APIError,
    OutcomeUnknown,
    ProtocolError,
    RequestTimeout,
    ResponseTooLarge,
    TransportError,
)
from tests.completion.fakes import SHIPPING
from tests.matrix import injections
from tests.matrix.cells import (
    BUY,
    CUSTOMER,
    DELIVERY,
    PATIENCE,
    SELL,
    Injection,
    MatrixCase,
    MatrixOperation,
    both,
    both_clients,
    cells,
    matrix_cases,
)
from tests.matrix.outcomes import is_done, perform
from tests.matrix.proxy import BULK, ProxiedRequest
from tests.matrix.world import MatrixWorld


def spoilings(row, error, changes, *, landed=True, **more):
    """Return an injection for each way to corrupt a valid response."""
    word = "landed" if landed else "lost"
    return [
        Injection(
            row,
            f"{word}-{change.__name__.replace('_', '-')}",
            injections.spoilt(change, landed=landed, **more),
            error,
            landed,
        )
        for change in changes
    ]


def resetting(*, landed: bool = False):
    return injections.drop(landed=landed, reset=True)


def late(*, landed: bool = False):
    return injections.silence(PATIENCE, landed=landed)


REUSED = both("F10", "", resetting, TransportError)
DROPPED = [*both("F11", "", injections.drop, TransportError), *both("F11", "reset", resetting, TransportError)]


LATE = [
    *both("F13", "", late, RequestTimeout, variant="timeout", slow=True),
    Injection("F13", "", injections.silence(60), RequestTimeout, variant="deadline", uses_up=True),
    Injection(
        "F13",
        "landed",
        injections.silence(60, landed=True),
        RequestTimeout,
        landed=True,
        variant="deadline",
        uses_up=True,
    ),
]
CUT = [
    *spoilings("F16", TransportError, (injections.cut, injections.no_last_chunk), close=True),
    *spoilings("F16", TransportError, (injections.cut_chunk,), landed=False, close=True),
]
PROXY_SAYS = {"page", "empty", "list", "bytes"}
"""Responses that a gateway may send without the server."""
JUNK = [
    Injection(
        "F17",
        f"{'lost' if name in PROXY_SAYS else 'landed'}-{name}",
        injections.respond(injections.document(body), landed=name not in PROXY_SAYS),
        ProtocolError,
        landed=name not in PROXY_SAYS,
    )
    for name, body in injections.UNTRUSTED.items()
]
LARGE = [
    *both(
        "F18", "too-large", lambda landed: injections.respond(injections.too_large(), landed=landed), ResponseTooLarge
    ),
    *both("F18", "bomb", lambda landed: injections.respond(injections.bomb(), landed=landed), ResponseTooLarge),
    Injection(
        "F18", "landed-too-long", injections.respond(injections.too_long(), landed=True), ResponseTooLarge, landed=True
    ),
]
NO = both("F19", "", lambda landed: injections.respond(injections.envelope(200, code=1), landed=landed), APIError)


@pytest.mark.requirement(42)
@pytest.mark.requirement(1)
@pytest.mark.requirement(11)
@pytest.mark.requirement(12)
@both_clients(
    [
        *matrix_cases(DROPPED),
        *matrix_cases(LATE),
        *matrix_cases(CUT),
        *matrix_cases(JUNK),
        *matrix_cases(LARGE),
        *matrix_cases(NO),
    ]
)
async def test_sent(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


@both_clients(matrix_cases([*DROPPED[:2], *NO], [SELL, DELIVERY]))
async def test_sales_and_deliveries(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


@both_clients(matrix_cases(REUSED))
async def test_on_a_reused_connection(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)
    first = world.proxy.of(case.operation.method, case.operation.path)[0]
    # Completions never reuse a connection, so this cannot occur for them.
    assert (first.earlier > 0) is not case.operation.is_money


@cells("F13-M-timeout-lands-later", "F11-M-lands-later")
async def test_a_request_that_lands_while_it_is_polled(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)

    async def slow_on_the_way(proxied: ProxiedRequest) -> None:
        await proxied.read()
        world.clock.meanwhile = proxied.forward  # in the first pause of the read-back
        if cell.startswith("F13"):
            world.clock.advance(45)
            await proxied.gone()
        else:
            await proxied.close()

    world.proxy.inject(BUY.method, BUY.path, [slow_on_the_way])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert world.sandbox.shop.orders == []
    assert (await world.settle(caught.value)).reconciled
    await is_done(world, BUY)
    assert world.sent(BUY) == 1


# F12 needs a body larger than the socket buffers: one call of each effect that can have such a body.

_RATES = "/partner/walletable/rates"
_AT_THE_CUSTOMER = "/partner/customer/*"
TO = attrs.evolve(SHIPPING, address=BULK)
BULKY = (
    MatrixOperation(
        "R",
        "rates.current",
        "GET",
        _RATES,
        lambda m, b: m.request("GET", _RATES, json={"padding": BULK}),
        lambda reply: reply.status == 200,
        lambda sandbox: False,
        3,
    ),
    MatrixOperation(
        "S",
        "customers.update",
        "PATCH",
        _AT_THE_CUSTOMER,
        lambda m, b: m.customers.update(CUSTOMER, lastname="Changed", email=BULK),
        lambda customer: customer.lastname == "Changed",
        lambda sandbox: sandbox.shop.customers[0].person["lastname"] == "Changed",
        2,
        read_back_path=_AT_THE_CUSTOMER,
    ),
    MatrixOperation(
        "A",
        "customers.create",
        "POST",
        "/partner/customer",
        lambda m, b: m.customers.create("customer-2", email=BULK),
        lambda customer: customer.external_id == "customer-2",
        lambda sandbox: len(sandbox.shop.customers) == 2,
        2,
        read_back_path=_AT_THE_CUSTOMER,
    ),
    attrs.evolve(DELIVERY, call=lambda m, b: m.complete.delivery(b, shipping=TO, expected_total=b.paid_total)),
)
UNREAD = [Injection("F12", "lost", injections.drop_unread, TransportError)]


@both_clients(matrix_cases(UNREAD, BULKY))
async def test_written_in_part(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


# F20: executed, but the response lacks a field or has a new value.

MISTYPED = {"paid_total": [], "external_id": []}
NEW = {"status_name": "Levitating", "gender": "levitating", "new_field": {"a": [1]}}
KEYS = ("token", "guid", "increment_id")
SPOILT = [
    Injection(
        "F20", "", injections.without("paid_total", "external_id"), ProtocolError, landed=True, variant="missing"
    ),
    Injection(
        "F20",
        "mistyped",
        injections.with_values(paid_total=[], external_id=[]),
        ProtocolError,
        landed=True,
        variant="missing",
    ),
    Injection(
        "F20",
        "",
        injections.without("token", "guid", "increment_id"),
        ProtocolError,
        landed=True,
        variant="no keys",
        effects="M",
    ),
    Injection(
        "F20",
        "",
        injections.with_values(**NEW),
        ProtocolError,
        landed=True,
        variant="new",
        differences=("status_name: unknown status, check the order",),
    ),
]


@both_clients(matrix_cases(SPOILT))
async def test_answers_with_gaps(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)
