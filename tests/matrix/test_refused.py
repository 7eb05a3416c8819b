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
    SHORT,
    Injection,
    MatrixCase,
    both,
    both_clients,
    cells,
    matrix_cases,
    operation_of,
    pauses_between,
    poll_times,
)
from tests.matrix.outcomes import is_done, is_settled_later, is_unknown, perform
from tests.matrix.proxy import Act, ProxiedRequest
from tests.matrix.world import MatrixWorld
from tests.support.operations import SILVER


def said(raw: bytes, *, landed: bool = False) -> Act:
    return injections.respond(raw, landed=landed)


# Digest authentication.

_DIGEST = 'Digest realm="Minted Connect", nonce="n-1", qop="auth", algorithm='
WEAK = {
    "basic": ('Basic realm="Minted Connect"',),
    "weaker": (f"{_DIGEST}MD5",),
    "no-qop": ('Digest realm="Minted Connect", nonce="n-1", algorithm=SHA-256',),
    "realm": ('Digest realm="Elsewhere", nonce="n-1", qop="auth", algorithm=SHA-256',),
    "no-nonce": (f"{_DIGEST}SHA-256".replace("n-1", ""),),
    "unknown": (f"{_DIGEST}SHA-1024", "Negotiate"),
}
DOWNGRADES = [
    *[Injection("F24", name, injections.challenge(*lines), AuthDowngrade) for name, lines in WEAK.items()],
    *[
        Injection(
            "F24", f"landed-{name}", injections.challenge(*WEAK[name], landed=True), AuthDowngrade, True, effects="M"
        )
        for name in ("basic", "realm")
    ],
]
ROUNDS = [
    Injection("F21", "again", injections.unsigned, AuthenticationFailed),
    Injection("F22", "", injections.outdated, AuthenticationFailed),
]


@both_clients(matrix_cases(ROUNDS))
async def test_one_more_round_of_the_login(world: MatrixWorld, case: MatrixCase) -> None:
    operation = case.operation
    await world.ready(operation)
    world.proxy.inject(operation.method, operation.path, [case.injection.act])
    assert operation.shown(await operation.call(world.minted, world.basket))
    await is_done(world, operation)
    assert world.sent(operation) == 2
    assert [entry.status for entry in world.sandbox.requests.of(operation.name)] == [401, 200]
    assert world.clock.sleeps == []  # not a retry


@cells(*(f"F21-{operation.effect}-stranger" for operation in OPERATIONS))
async def test_the_first_request_of_all(world: MatrixWorld, connect: Any, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    stranger = await connect(world.proxy.url, world.sandbox.username, world.sandbox.password)
    assert operation.shown(await operation.call(stranger, world.basket))
    # The preflight read takes the challenge, so that the completion is sent once.
    statuses = [entry.status for entry in world.sandbox.requests.of(operation.name)]
    assert statuses == ([200] if operation.is_money else [401, 200])


@cells(*(f"F22-{operation.effect}-for-ever" for operation in OPERATIONS))
async def test_a_nonce_that_is_always_outdated(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    world.proxy.inject(operation.method, operation.path, [injections.outdated], endless=True)
    with pytest.raises(AuthenticationFailed):
        await operation.call(world.minted, world.basket)
    assert (world.sent(operation), world.clock.sleeps) == (2, [])
    assert not operation.made(world.sandbox)
    assert world.states() == ["rejected"] * operation.is_money


@cells("F22-M-then-dropped")
async def test_a_completion_that_is_dropped_after_its_challenge(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    world.proxy.inject(BUY.method, BUY.path, [injections.outdated, injections.drop(landed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert world.sent(BUY) == 2
    await is_unknown(world, BUY, caught.value, landed=True)


@cells("F21-M-fix-over", "F22-M-fix-over")
async def test_a_login_that_outlasts_the_price_fix(world: MatrixWorld, cell: str) -> None:
    await world.ready(BUY)
    world.clock.advance(230)  # of 240 s
    challenged = injections.unsigned if cell.startswith("F21") else injections.outdated

    async def slowly(proxied: ProxiedRequest) -> None:
        world.clock.advance(8)
        await challenged(proxied)

    world.proxy.inject(BUY.method, BUY.path, [slowly])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    # The only request was refused before anything was executed.
    assert [entry.status for entry in world.sandbox.requests.of(BUY.name)] == [401]
    assert world.sent(BUY) == 1
    assert world.states() == ["not_sent"]
    world.clock.advance(10)  # the next read starts a new price lock
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


BARE = [
    *both("F23", "", lambda landed: said(injections.envelope(401), landed=landed), AuthenticationFailed),
    *both("F23", "page", lambda landed: said(injections.page(401), landed=landed), AuthenticationFailed),
]


@both_clients(matrix_cases([attrs.evolve(injection, variant="bare", effects="M") for injection in BARE]))
async def test_a_401_that_asks_for_nothing_is_a_gateways(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


@cells(*(f"F23-{operation.effect}" for operation in OPERATIONS))
async def test_a_password_that_was_changed(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    doorman, sandbox = world.sandbox.digest, world.sandbox

    async def changed(proxied: Any) -> None:
        doorman.add(sandbox.username, "another")
        await injections.pass_on(proxied)

    world.proxy.inject(operation.method, operation.path, [changed])
    with pytest.raises(AuthenticationFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert type(caught.value) is AuthenticationFailed
    assert world.sent(operation) == 2  # the nonce may have expired; a fresh one proves that the password is wrong
    assert [entry.status for entry in sandbox.requests.of(operation.name)] == [401, 401]
    assert world.clock.sleeps == []
    assert not operation.made(sandbox)
    doorman.add(sandbox.username, sandbox.password)
    if operation.is_money:
        assert world.states() == ["rejected"]
        assert (await operation.call(world.minted, world.basket)).order is not None


@cells("F23-S-after-unknown")
async def test_a_401_to_the_second_try_is_a_401(world: MatrixWorld, cell: str) -> None:
    await world.ready(SET)
    world.proxy.inject(SET.method, SET.path, [injections.drop(landed=True), injections.unsigned], endless=True)
    with pytest.raises(AuthenticationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert SET.made(world.sandbox)


# The server and its gateways.


def no(row: str, status: int, error: type[Exception], *headers: tuple[str, str], **more: Any) -> list[Injection]:
    """Return a refusal as an envelope and as a gateway's page; for completions, each before and after the execution.

    For the rest it is enough that the vendor did nothing, and that the gateway passed it on.
    """
    vendor, gateway = injections.envelope(status, *headers), injections.page(status, *headers)
    return [
        Injection(row, f"lost-{status}", said(vendor), error, **more),
        Injection(row, f"landed-{status}-page", said(gateway, landed=True), error, landed=True, **more),
        Injection(row, f"landed-{status}", said(vendor, landed=True), error, landed=True, effects="M", **more),
        Injection(row, f"lost-{status}-page", said(gateway), error, effects="M", **more),
    ]


def throttled(*headers: tuple[str, str], landed: bool = False) -> Act:
    return said(injections.envelope(429, *headers), landed=landed)


REST = {400: BadRequest, 402: APIError, 405: APIError, 410: APIError, 413: APIError, 418: APIError, 451: APIError}
"""Every other refusal, by the class of its error."""
FIELDS = injections.envelope(422, errors={"qty": ["too many"]})
SOON, NEVER = ("Retry-After", "3"), ("Retry-After", "3600")
REFUSED = [
    *DOWNGRADES,
    *no("F25", 403, PermissionDenied),
    *[
        injection
        for number, (status, error) in enumerate(REST.items())
        for injection in no("F25", status, error)[1 + number % 2 : 4 : 2][:2]
    ],
    *no("F26", 404, NotFound, variant="first"),
    *no("F27", 409, Conflict),
    Injection("F28", "fields", said(FIELDS), ValidationFailed, variant="first"),
    Injection("F28", "landed-fields", said(FIELDS, landed=True), ValidationFailed, landed=True, effects="M"),
    *[
        attrs.evolve(injection, variant="bare", effects="M")
        for injection in both("F28", "", lambda landed: said(injections.page(422), landed=landed), ValidationFailed)
    ],
    Injection("F29", "seconds", throttled(SOON), RateLimited, effects="RS", retry_after=3),
    Injection("F29", "absent", throttled(), RateLimited, effects="RS"),
    Injection("F29", "", throttled(NEVER), RateLimited, variant="beyond", effects="RS"),
    *[
        attrs.evolve(injection, effects="AM")
        for injection in (
            # An addition is read back at once: `Retry-After` applies to retries only.
            *both("F29", "seconds", lambda landed: throttled(SOON, landed=landed), RateLimited, retry_after=3),
            *both("F29", "absent", lambda landed: throttled(landed=landed), RateLimited),
            *both("F29", "page", lambda landed: said(injections.page(429), landed=landed), RateLimited),
            *both("F29", "never", lambda landed: throttled(NEVER, landed=landed), RateLimited, variant="beyond"),
        )
    ],
    *no("F30", 500, ServerError),
    *no("F31", 502, ServerError),
    *no("F31", 504, ServerError)[1::2],
    *no("F32", 503, ServerError, ("Retry-After", "2"), retry_after=2)[:3],
    *no("F32", 503, ServerError)[3:],
    *no("F33", 408, APIError),
    *no("F33", 425, APIError)[:1],
    *[
        Injection("F34", f"{'landed' if landed else 'lost'}-{status}", act, UnexpectedRedirect, landed)
        for status, landed in ((301, False), (302, True), (303, True), (307, False), (308, True))
        for act in [injections.redirect(status, landed=landed)]
    ],
]


@pytest.mark.requirement(45)
@pytest.mark.requirement(46)
@both_clients(matrix_cases(REFUSED))
async def test_refused(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


@both_clients(matrix_cases(no("F25", 403, PermissionDenied)[:2], [SELL, DELIVERY]))
async def test_sales_and_deliveries(world: MatrixWorld, case: MatrixCase) -> None:
    await perform(world, case)


@cells(*(f"F28-{operation.effect}-names" for operation in OPERATIONS))
async def test_a_422_names_the_fields(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    world.proxy.inject(operation.method, operation.path, [said(FIELDS)])
    with pytest.raises(ValidationFailed) as caught:
        await operation.call(world.minted, world.basket)
    assert caught.value.fields == {"qty": ("too many",)}


@cells("F26-S-second-404", "F28-S-second-422")
async def test_a_no_to_the_second_try_may_mean_that_the_first_did_it(world: MatrixWorld, cell: str) -> None:
    await world.ready(SET)
    second = said(injections.envelope(int(cell[-3:])))
    world.proxy.inject(SET.method, SET.path, [injections.drop(landed=True), second])
    assert SET.shown(await SET.call(world.minted, world.basket))
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 1, 1)


@cells("F26-S-second-404-lost", "F28-S-second-422-lost")
async def test_or_that_it_was_never_done(world: MatrixWorld, cell: str) -> None:
    await world.ready(SET)
    status = int(cell.split("-")[3])
    world.proxy.inject(SET.method, SET.path, [injections.drop(), said(injections.envelope(status))])
    with pytest.raises(NotFound if status == 404 else ValidationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 0, 1)
    assert not SET.made(world.sandbox)


@cells("F26-S-second-removal")
async def test_a_removal_that_finds_nothing_the_second_time_was_done_the_first(world: MatrixWorld, cell: str) -> None:
    await world.ready(SET)
    world.proxy.inject("DELETE", "/partner/customer/*", [injections.drop(landed=True)])
    assert await world.minted.customers.remove(CUSTOMER) is None
    assert [entry.status for entry in world.sandbox.requests] == [200, 404]


@cells("F25-A-key")
async def test_an_addition_whose_before_is_not_known_is_not_read_back(world: MatrixWorld, cell: str) -> None:
    """Without the earlier basket, an added item cannot be told from an existing one."""
    await world.ready(ADD)
    world.proxy.inject(ADD.method, ADD.path, [said(injections.envelope(403), landed=True)])
    with pytest.raises(PermissionDenied):
        await world.minted.baskets.add_item(world.basket.key, sku=SILVER, qty=2)
    assert (world.sent(ADD), world.reads(ADD), world.clock.sleeps) == (1, 0, [])


# The time for the read-back ends before a refusal can be believed.


NOES = {
    "envelope": (said(injections.envelope(403)), PermissionDenied),
    "page": (said(injections.page(403)), PermissionDenied),
    "basic": (injections.challenge(*WEAK["basic"]), AuthDowngrade),
}


@pytest.mark.requirement(46)
@cells(*(f"F25-M-{way}-{kind}" for way in SHORT for kind in ("envelope", "page")), "F24-M-deadline-basic")
async def test_the_time_for_looks_ends_first(build: Any, cell: str) -> None:
    _, _, way, kind = cell.split("-")
    settings, policy, times = SHORT[way]
    world = await build(policy=policy)
    await world.ready(BUY)
    client = world.minted.with_options(**settings)
    act, error = NOES[kind]
    world.proxy.inject(BUY.method, BUY.path, [act])
    unknown = await is_settled_later(
        world, BUY, lambda: BUY.call(client, world.basket), polls=len(times), landed=False, slept=pauses_between(times)
    )
    assert type(unknown.__cause__) is error


@cells(*(f"F25-M-inline-none-{stage}" for stage in ("lost", "landed")))
async def test_no_look_at_all(build: Any, cell: str) -> None:
    world = await build(policy={"inline_looks": 0})
    await world.ready(BUY)
    landed = cell.endswith("landed")
    world.proxy.inject(BUY.method, BUY.path, [said(injections.page(403), landed=landed)])
    await is_settled_later(world, BUY, lambda: BUY.call(world.minted, world.basket), polls=0, landed=landed)


@cells("F28-M-envelope-behind")
async def test_a_look_that_contradicts_a_trusted_refusal_is_not_the_last(build: Any, cell: str) -> None:
    """The basket is gone although it should be open: the client polls until an order would show."""
    world = await build(server={"orders_lag": 3.0})
    await world.ready(BUY)
    world.proxy.inject(BUY.method, BUY.path, [said(FIELDS, landed=True)])
    done = await BUY.call(world.minted, world.basket)
    assert (BUY.shown(done), done.reconciled) == (True, True)
    await is_done(world, BUY)
    assert (world.sent(BUY), world.reads(BUY)) == (1, 6)
    assert world.clock.sleeps == pauses_between(poll_times())


@cells("F29-R-seconds", "F32-R-seconds", "F29-S-seconds", "F32-S-seconds")
async def test_the_server_says_how_long_to_wait(world: MatrixWorld, cell: str) -> None:
    operation = operation_of(cell)
    await world.ready(operation)
    status = 429 if cell.startswith("F29") else 503
    world.proxy.inject(operation.method, operation.path, [said(injections.envelope(status, ("Retry-After", "7")))])
    assert operation.shown(await operation.call(world.minted, world.basket))
    assert world.clock.sleeps == [7.0]
