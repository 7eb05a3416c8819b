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
    READ_TIMEOUT,
    SELL,
    Injection,
    MatrixCase,
    MatrixOperation,
    both_stages,
    cells,
    matrix_cases,
    through_both_clients,
)
from tests.matrix.outcomes import check_case, check_executed
from tests.matrix.proxy import BULK, ProxiedRequest
from tests.matrix.world import MatrixWorld


def corruptions(row, error, changes, *, executed=True, **more):
    """Return an injection for each way to corrupt a valid response."""
    stage = "after" if executed else "before"
    return [
        Injection(
            row,
            f"{stage}-{change.__name__.replace('_', '-')}",
            injections.change_response(change, executed=executed, **more),
            error,
            executed,
        )
        for change in changes
    ]


def reset(*, executed: bool = False):
    return injections.drop(executed=executed, reset=True)


def time_out(*, executed: bool = False):
    return injections.never_respond(READ_TIMEOUT, executed=executed)


REUSED_CONNECTION = both_stages("F10", "", reset, TransportError)
DROPPED = [
    *both_stages("F11", "", injections.drop, TransportError),
    *both_stages("F11", "reset", reset, TransportError),
]


TIMED_OUT = [
    *both_stages("F13", "", time_out, RequestTimeout, variant="timeout", slow=True),
    Injection("F13", "", injections.never_respond(60), RequestTimeout, variant="deadline", uses_up_deadline=True),
    Injection(
        "F13",
        "after",
        injections.never_respond(60, executed=True),
        RequestTimeout,
        executed=True,
        variant="deadline",
        uses_up_deadline=True,
    ),
]
TRUNCATED = [
    *corruptions("F16", TransportError, (injections.cut, injections.no_last_chunk), close=True),
    *corruptions("F16", TransportError, (injections.cut_chunk,), executed=False, close=True),
]
GATEWAY_BODIES = {"page", "empty", "list", "bytes"}
"""Responses that a gateway may send without the server."""
INVALID = [
    Injection(
        "F17",
        f"{'before' if name in GATEWAY_BODIES else 'after'}-{name}",
        injections.respond(injections.document(body), executed=name not in GATEWAY_BODIES),
        ProtocolError,
        executed=name not in GATEWAY_BODIES,
    )
    for name, body in injections.UNTRUSTED.items()
]
LARGE = [
    *both_stages(
        "F18",
        "too-large",
        lambda executed: injections.respond(injections.too_large(), executed=executed),
        ResponseTooLarge,
    ),
    *both_stages(
        "F18", "bomb", lambda executed: injections.respond(injections.bomb(), executed=executed), ResponseTooLarge
    ),
    Injection(
        "F18",
        "after-too-long",
        injections.respond(injections.too_long(), executed=True),
        ResponseTooLarge,
        executed=True,
    ),
]
SUCCESS_FALSE = both_stages(
    "F19", "", lambda executed: injections.respond(injections.envelope(200, code=1), executed=executed), APIError
)


@pytest.mark.requirement(42)
@pytest.mark.requirement(1)
@pytest.mark.requirement(11)
@pytest.mark.requirement(12)
@through_both_clients(
    [
        *matrix_cases(DROPPED),
        *matrix_cases(TIMED_OUT),
        *matrix_cases(TRUNCATED),
        *matrix_cases(INVALID),
        *matrix_cases(LARGE),
        *matrix_cases(SUCCESS_FALSE),
    ]
)
async def test_failure_after_sending_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


@through_both_clients(matrix_cases([*DROPPED[:2], *SUCCESS_FALSE], [SELL, DELIVERY]))
async def test_failed_sale_or_delivery_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


@through_both_clients(matrix_cases(REUSED_CONNECTION))
async def test_reset_of_reused_connection_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)
    first = world.proxy.of(case.operation.method, case.operation.path)[0]
    # Completions never reuse a connection, so this fault cannot occur for them.
    assert (first.earlier_requests > 0) is not case.operation.is_money


@cells("F13-M-timeout-executed-later", "F11-M-executed-later")
async def test_request_executed_during_read_back_is_found(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)

    async def delay_execution(proxied: ProxiedRequest) -> None:
        await proxied.read()
        world.clock.during_sleep = proxied.forward  # in the first pause of the read-back
        if cell.startswith("F13"):
            world.clock.advance(45)
            await proxied.wait_for_disconnect()
        else:
            await proxied.close()

    world.proxy.inject(BUY.method, BUY.path, [delay_execution])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert world.sandbox.shop.orders == []
    assert (await world.settle(caught.value)).reconciled
    await check_executed(world, BUY)
    assert world.sent(BUY) == 1


# F12 needs a body larger than the socket buffers: one call of each effect that can have such a body.

_RATES = "/partner/walletable/rates"
_CUSTOMER_PATH = "/partner/customer/*"
LARGE_ADDRESS = attrs.evolve(SHIPPING, address=BULK)
LARGE_OPERATIONS = (
    MatrixOperation(
        "R",
        "rates.current",
        "GET",
        _RATES,
        lambda m, b: m.request("GET", _RATES, json={"padding": BULK}),
        lambda response: response.status == 200,
        lambda sandbox: False,
        3,
    ),
    MatrixOperation(
        "S",
        "customers.update",
        "PATCH",
        _CUSTOMER_PATH,
        lambda m, b: m.customers.update(CUSTOMER, lastname="Changed", email=BULK),
        lambda customer: customer.lastname == "Changed",
        lambda sandbox: sandbox.shop.customers[0].person["lastname"] == "Changed",
        2,
        read_back_path=_CUSTOMER_PATH,
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
        read_back_path=_CUSTOMER_PATH,
    ),
    attrs.evolve(
        DELIVERY, call=lambda m, b: m.complete.delivery(b, shipping=LARGE_ADDRESS, expected_total=b.paid_total)
    ),
)
PARTLY_WRITTEN = [Injection("F12", "before", injections.drop_unread, TransportError)]


@through_both_clients(matrix_cases(PARTLY_WRITTEN, LARGE_OPERATIONS))
async def test_partly_written_request_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


# F20: executed, but the response lacks a field or has a new value.

MISTYPED = {"paid_total": [], "external_id": []}
NEW = {"status_name": "Levitating", "gender": "levitating", "new_field": {"a": [1]}}
KEYS = ("token", "guid", "increment_id")
INCOMPLETE = [
    Injection(
        "F20", "", injections.without("paid_total", "external_id"), ProtocolError, executed=True, variant="missing"
    ),
    Injection(
        "F20",
        "mistyped",
        injections.with_values(paid_total=[], external_id=[]),
        ProtocolError,
        executed=True,
        variant="missing",
    ),
    Injection(
        "F20",
        "",
        injections.without("token", "guid", "increment_id"),
        ProtocolError,
        executed=True,
        variant="no keys",
        effects="M",
    ),
    Injection(
        "F20",
        "",
        injections.with_values(**NEW),
        ProtocolError,
        executed=True,
        variant="new",
        differences=("status_name: unknown status, check the order",),
    ),
]


@through_both_clients(matrix_cases(INCOMPLETE))
async def test_incomplete_response_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)
