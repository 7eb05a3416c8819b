"""Refusals: by digest authentication, by the server, or by a gateway that may have forwarded the request."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from minted_connect import (
    APIError,
    AuthDowngrade,
    AuthenticationFailed,
    BadRequest,
    Conflict,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    PriceFixExpired,
    RateLimited,
    ServerError,
    UnexpectedRedirect,
    ValidationFailed,
)
from tests.matrix import injections
from tests.matrix.cells import (
    ADD,
    BUY,
    CUSTOMER,
    DELIVERY,
    OPERATIONS,
    SELL,
    SET,
    TIME_LIMITS,
    Injection,
    MatrixCase,
    both_stages,
    cells,
    matrix_cases,
    operation_of,
    pauses_between,
    poll_times,
    through_both_clients,
)
from tests.matrix.outcomes import check_case, check_executed, check_settled_later, check_unknown
from tests.matrix.proxy import Handler, ProxiedRequest
from tests.matrix.world import MatrixWorld
from tests.support.operations import SILVER


def respond(raw: bytes, *, executed: bool = False) -> Handler:
    return injections.respond(raw, executed=executed)


# Digest authentication.

_DIGEST = 'Digest realm="Minted Connect", nonce="n-1", qop="auth", algorithm='
WEAK = {
    "basic": ('Basic realm="Minted Connect"',),
    "weaker": (f"{_DIGEST}MD5",),
    "no-qop": ('Digest realm="Minted Connect", nonce="n-1", algorithm=SHA-256',),
    "realm": ('Digest realm="Other", nonce="n-1", qop="auth", algorithm=SHA-256',),
    "no-nonce": (f"{_DIGEST}SHA-256".replace("n-1", ""),),
    "unknown": (f"{_DIGEST}SHA-1024", "Negotiate"),
}
DOWNGRADES = [
    *[Injection("F24", name, injections.challenge(*challenges), AuthDowngrade) for name, challenges in WEAK.items()],
    *[
        Injection(
            "F24", f"after-{name}", injections.challenge(*WEAK[name], executed=True), AuthDowngrade, True, effects="M"
        )
        for name in ("basic", "realm")
    ],
]
CHALLENGES = [
    Injection("F21", "again", injections.drop_authorization, AuthenticationFailed),
    Injection("F22", "", injections.expire_nonces, AuthenticationFailed),
]


@through_both_clients(matrix_cases(CHALLENGES))
async def test_challenge_is_answered_once_without_retry(world: MatrixWorld, case: MatrixCase) -> None:
    operation = case.operation
    await world.set_up(operation)
    world.proxy.inject(operation.method, operation.path, [case.injection.handler])
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    await check_executed(world, operation)
    assert world.sent(operation) == 2
    assert [entry.status for entry in world.sandbox.requests.of(operation.name)] == [401, 200]
    assert world.clock.sleeps == []  # not a retry


@cells(*(f"F21-{operation.effect}-new-client" for operation in OPERATIONS))
async def test_first_request_of_new_client_is_challenged(world: MatrixWorld, connect: Any, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    new_client = await connect(world.proxy.url, world.sandbox.username, world.sandbox.password)
    assert operation.is_in_result(await operation.call(new_client, world.basket))
    # The preflight read takes the challenge, so that the completion is sent once.
    statuses = [entry.status for entry in world.sandbox.requests.of(operation.name)]
    assert statuses == ([200] if operation.is_money else [401, 200])


@cells(*(f"F22-{operation.effect}-always" for operation in OPERATIONS))
async def test_always_expired_nonce_fails_after_two_requests(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    world.proxy.inject(operation.method, operation.path, [injections.expire_nonces], endless=True)
    with pytest.raises(AuthenticationFailed):
        await operation.call(world.minted, world.basket)
    assert (world.sent(operation), world.clock.sleeps) == (2, [])
    assert not operation.is_executed(world.sandbox)
    assert world.states() == ["rejected"] * operation.is_money


@cells("F22-M-then-dropped")
async def test_completion_dropped_after_challenge_is_unknown(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.expire_nonces, injections.drop(executed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert world.sent(BUY) == 2
    await check_unknown(world, BUY, caught.value, executed=True)


@cells("F21-M-fix-over", "F22-M-fix-over")
async def test_challenge_beyond_the_price_fix_is_not_answered(world: MatrixWorld, cell: str) -> None:
    await world.set_up(BUY)
    world.clock.advance(230)  # of 240 s
    challenge = injections.drop_authorization if cell.startswith("F21") else injections.expire_nonces

    async def delay_challenge(proxied: ProxiedRequest) -> None:
        world.clock.advance(8)
        await challenge(proxied)

    world.proxy.inject(BUY.method, BUY.path, [delay_challenge])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    # The only request was refused before it was executed.
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert world.sent(BUY) == 1
    assert world.states() == ["not_sent"]
    world.clock.advance(10)  # the price lock has expired, so the next read starts a new one
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


BARE_401 = [
    *both_stages(
        "F23", "", lambda executed: respond(injections.envelope(401), executed=executed), AuthenticationFailed
    ),
    *both_stages(
        "F23", "page", lambda executed: respond(injections.page(401), executed=executed), AuthenticationFailed
    ),
]


@through_both_clients(matrix_cases([attrs.evolve(injection, variant="bare", effects="M") for injection in BARE_401]))
async def test_401_without_challenge_is_read_back(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


@cells(*(f"F23-{operation.effect}" for operation in OPERATIONS))
async def test_changed_password_fails_after_two_requests(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    verifier, sandbox = world.sandbox.digest, world.sandbox

    async def change_password(proxied: Any) -> None:
        verifier.add(sandbox.username, "another")
        await injections.forward_request(proxied)

    world.proxy.inject(operation.method, operation.path, [change_password])
    with pytest.raises(AuthenticationFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is AuthenticationFailed
    assert world.sent(operation) == 2  # the nonce may have expired; a fresh one proves that the password is wrong
    assert [entry.status for entry in sandbox.requests.of(operation.name)] == [401, 401]
    assert world.clock.sleeps == []
    assert not operation.is_executed(sandbox)
    verifier.add(sandbox.username, sandbox.password)
    if operation.is_money:
        assert world.states() == ["rejected"]
        assert (await operation.call(world.minted, world.basket)).order is not None


@cells("F23-S-after-unknown")
async def test_401_of_second_attempt_is_raised(world: MatrixWorld, cell: str) -> None:
    await world.set_up(SET)
    world.proxy.inject(
        SET.method, SET.path, [injections.drop(executed=True), injections.drop_authorization], endless=True
    )
    with pytest.raises(AuthenticationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert SET.is_executed(world.sandbox)


# The server and its gateways.


def refusals(row: str, status: int, error: type[Exception], *headers: tuple[str, str], **more: Any) -> list[Injection]:
    """Return a refusal as an envelope and as a gateway's page; for completions, each before and after the execution.

    For other operations, the vendor's refusal comes before the execution and the gateway's after it.
    """
    vendor, gateway = injections.envelope(status, *headers), injections.page(status, *headers)
    return [
        Injection(row, f"before-{status}", respond(vendor), error, **more),
        Injection(row, f"after-{status}-page", respond(gateway, executed=True), error, executed=True, **more),
        Injection(row, f"after-{status}", respond(vendor, executed=True), error, executed=True, effects="M", **more),
        Injection(row, f"before-{status}-page", respond(gateway), error, effects="M", **more),
    ]


def throttled(*headers: tuple[str, str], executed: bool = False) -> Handler:
    return respond(injections.envelope(429, *headers), executed=executed)


OTHERS = {400: BadRequest, 402: APIError, 405: APIError, 410: APIError, 413: APIError, 418: APIError, 451: APIError}
"""Further refusals, by the class of their error."""
FIELDS = injections.envelope(422, errors={"qty": ["too many"]})
SHORT, LONG = ("Retry-After", "3"), ("Retry-After", "3600")
REFUSED = [
    *DOWNGRADES,
    *refusals("F25", 403, PermissionDenied),
    *[
        injection
        for number, (status, error) in enumerate(OTHERS.items())
        for injection in refusals("F25", status, error)[1 + number % 2 : 4 : 2][:2]
    ],
    *refusals("F26", 404, NotFound, variant="first"),
    *refusals("F27", 409, Conflict),
    Injection("F28", "fields", respond(FIELDS), ValidationFailed, variant="first"),
    Injection("F28", "after-fields", respond(FIELDS, executed=True), ValidationFailed, executed=True, effects="M"),
    *[
        attrs.evolve(injection, variant="bare", effects="M")
        for injection in both_stages(
            "F28", "", lambda executed: respond(injections.page(422), executed=executed), ValidationFailed
        )
    ],
    Injection("F29", "seconds", throttled(SHORT), RateLimited, effects="RS", retry_after=3),
    Injection("F29", "absent", throttled(), RateLimited, effects="RS"),
    Injection("F29", "", throttled(LONG), RateLimited, variant="beyond", effects="RS"),
    *[
        attrs.evolve(injection, effects="AM")
        for injection in (
            # An addition is read back at once: `Retry-After` applies to retries only.
            *both_stages(
                "F29", "seconds", lambda executed: throttled(SHORT, executed=executed), RateLimited, retry_after=3
            ),
            *both_stages("F29", "absent", lambda executed: throttled(executed=executed), RateLimited),
            *both_stages("F29", "page", lambda executed: respond(injections.page(429), executed=executed), RateLimited),
            *both_stages(
                "F29", "never", lambda executed: throttled(LONG, executed=executed), RateLimited, variant="beyond"
            ),
        )
    ],
    *refusals("F30", 500, ServerError),
    *refusals("F31", 502, ServerError),
    *refusals("F31", 504, ServerError)[1::2],
    *refusals("F32", 503, ServerError, ("Retry-After", "2"), retry_after=2)[:3],
    *refusals("F32", 503, ServerError)[3:],
    *refusals("F33", 408, APIError),
    *refusals("F33", 425, APIError)[:1],
    *[
        Injection("F34", f"{'after' if executed else 'before'}-{status}", handler, UnexpectedRedirect, executed)
        for status, executed in ((301, False), (302, True), (303, True), (307, False), (308, True))
        for handler in [injections.redirect(status, executed=executed)]
    ],
]


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@through_both_clients(matrix_cases(REFUSED))
async def test_refusal_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


@through_both_clients(matrix_cases(refusals("F25", 403, PermissionDenied)[:2], [SELL, DELIVERY]))
async def test_refused_sale_or_delivery_has_expected_outcome(world: MatrixWorld, case: MatrixCase) -> None:
    await check_case(world, case)


@cells(*(f"F28-{operation.effect}-names" for operation in OPERATIONS))
async def test_422_names_the_fields(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    world.proxy.inject(operation.method, operation.path, [respond(FIELDS)])
    with pytest.raises(ValidationFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert caught.value.fields == {"qty": ("too many",)}


@cells("F26-S-second-404", "F28-S-second-422")
async def test_refused_second_attempt_of_executed_change_succeeds(world: MatrixWorld, cell: str) -> None:
    await world.set_up(SET)
    second = respond(injections.envelope(int(cell[-3:])))
    world.proxy.inject(SET.method, SET.path, [injections.drop(executed=True), second])
    assert SET.is_in_result(await SET.call(world.minted, world.basket))
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 1, 1)


@cells("F26-S-second-404-before", "F28-S-second-422-before")
async def test_refused_second_attempt_of_lost_change_raises(world: MatrixWorld, cell: str) -> None:
    await world.set_up(SET)
    status = int(cell.split("-")[3])
    world.proxy.inject(SET.method, SET.path, [injections.drop(), respond(injections.envelope(status))])
    with pytest.raises(NotFound if status == 404 else ValidationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 0, 1)
    assert not SET.is_executed(world.sandbox)


@cells("F26-S-second-removal")
async def test_404_of_second_removal_counts_as_success(world: MatrixWorld, cell: str) -> None:
    await world.set_up(SET)
    world.proxy.inject("DELETE", "/partner/customer/*", [injections.drop(executed=True)])
    assert await world.minted.customers.remove(CUSTOMER) is None
    assert [entry.status for entry in world.sandbox.requests] == [200, 404]


@cells("F25-A-key")
async def test_addition_without_earlier_basket_is_not_read_back(world: MatrixWorld, cell: str) -> None:
    """Without the earlier basket, an added item cannot be distinguished from an existing one."""
    await world.set_up(ADD)
    world.proxy.inject(ADD.method, ADD.path, [respond(injections.envelope(403), executed=True)])
    with pytest.raises(PermissionDenied):
        await world.minted.baskets.add_item(world.basket.key, sku=SILVER, qty=2)
    assert (world.sent(ADD), world.reads(ADD), world.clock.sleeps) == (1, 0, [])


# The time for the read-back ends before a refusal can be confirmed.


REFUSALS = {
    "envelope": (respond(injections.envelope(403)), PermissionDenied),
    "page": (respond(injections.page(403)), PermissionDenied),
    "basic": (injections.challenge(*WEAK["basic"]), AuthDowngrade),
}


@pytest.mark.requirement(46)
@cells(*(f"F25-M-{limit}-{kind}" for limit in TIME_LIMITS for kind in ("envelope", "page")), "F24-M-deadline-basic")
async def test_refusal_beyond_deadline_is_settled_later(build: Any, cell: str) -> None:
    _, _, limit, kind = cell.split("-")
    settings, policy, times = TIME_LIMITS[limit]
    world = await build(policy=policy)
    await world.set_up(BUY)
    client = world.minted.with_options(**settings)
    handler, error = REFUSALS[kind]
    world.proxy.inject(BUY.method, BUY.path, [handler])
    unknown = await check_settled_later(
        world,
        BUY,
        lambda: BUY.call(client, world.basket),
        polls=len(times),
        executed=False,
        inline_pauses=pauses_between(times),
    )
    assert type(unknown.__cause__) is error


@cells(*(f"F25-M-inline-none-{stage}" for stage in ("before", "after")))
async def test_refusal_without_polls_is_settled_later(build: Any, cell: str) -> None:
    world = await build(policy={"inline_looks": 0})
    await world.set_up(BUY)
    executed = cell.endswith("after")
    world.proxy.inject(BUY.method, BUY.path, [respond(injections.page(403), executed=executed)])
    await check_settled_later(world, BUY, lambda: BUY.call(world.minted, world.basket), polls=0, executed=executed)


@cells("F28-M-envelope-behind")
async def test_poll_that_contradicts_a_refusal_is_repeated(build: Any, cell: str) -> None:
    """The basket is missing although it should be open: the client polls until an order would be visible."""
    world = await build(server={"orders_lag": 3.0})
    await world.set_up(BUY)
    world.proxy.inject(BUY.method, BUY.path, [respond(FIELDS, executed=True)])
    completion = await BUY.call(world.minted, world.basket)
    assert (BUY.is_in_result(completion), completion.reconciled) == (True, True)
    await check_executed(world, BUY)
    assert (world.sent(BUY), world.reads(BUY)) == (1, 6)
    assert world.clock.sleeps == pauses_between(poll_times())


@cells("F29-R-seconds", "F32-R-seconds", "F29-S-seconds", "F32-S-seconds")
async def test_retry_after_is_slept(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.set_up(operation)
    status = 429 if cell.startswith("F29") else 503
    world.proxy.inject(operation.method, operation.path, [respond(injections.envelope(status, ("Retry-After", "7")))])
    assert operation.is_in_result(await operation.call(world.minted, world.basket))
    assert world.clock.sleeps == [7.0]
