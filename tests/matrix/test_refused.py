"""The answer is a no: of the doorman, of the server, or of something on the way that may have passed the request on."""

from __future__ import annotations

from typing import Any

import pytest

from minted_connect import (
    ApiError,
    AuthDowngrade,
    AuthenticationFailed,
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
from tests.matrix import acts
from tests.matrix.cells import (
    BUY,
    CUSTOMER,
    DEEDS,
    DELIVERY,
    SELL,
    SET,
    Play,
    Strike,
    both_clients,
    cells,
    deed_of,
    plays,
)
from tests.matrix.outcomes import is_done, is_unknown, perform
from tests.matrix.proxy import Act, Passage
from tests.matrix.world import World

# The doorman.

_DIGEST = 'Digest realm="Minted Connect", nonce="n-1", qop="auth", algorithm='
WEAK = {
    "basic": ('Basic realm="Minted Connect"',),
    "weaker": (f"{_DIGEST}MD5",),
    "no-qop": ('Digest realm="Minted Connect", nonce="n-1", algorithm=SHA-256',),
    "realm": ('Digest realm="Elsewhere", nonce="n-1", qop="auth", algorithm=SHA-256',),
    "no-nonce": (f"{_DIGEST}SHA-256".replace("n-1", ""),),
    "unknown": (f"{_DIGEST}SHA-1024", "Negotiate"),
}
DOWNGRADES = [Strike("F24", name, acts.challenge(*lines), AuthDowngrade) for name, lines in WEAK.items()]
ROUNDS = [
    Strike("F21", "again", acts.unsigned, AuthenticationFailed),
    Strike("F22", "", acts.outdated, AuthenticationFailed),
]


@both_clients(plays(ROUNDS))
async def test_one_more_round_of_the_login(world: World, play: Play) -> None:
    deed = play.deed
    await world.ready(deed)
    world.proxy.play(deed.method, deed.path, [play.strike.act])
    assert deed.shown(await deed.call(world.minted, world.basket))
    await is_done(world, deed)
    assert world.sent(deed) == 2
    assert [entry.status for entry in world.sandbox.requests.of(deed.operation)] == [401, 200]
    assert world.clock.sleeps == []  # it is no retry


@cells(*(f"F21-{deed.effect}-stranger" for deed in DEEDS))
async def test_the_first_request_of_all(world: World, connect: Any, cell: str) -> None:
    deed = deed_of(cell)
    await world.ready(deed)
    stranger = await connect(world.proxy.url, world.sandbox.username, world.sandbox.password)
    assert deed.shown(await deed.call(stranger, world.basket))
    # The look before a completion takes the challenge, so that money goes out once.
    statuses = [entry.status for entry in world.sandbox.requests.of(deed.operation)]
    assert statuses == ([200] if deed.is_money else [401, 200])


@cells(*(f"F22-{deed.effect}-for-ever" for deed in DEEDS))
async def test_a_nonce_that_is_always_outdated(world: World, cell: str) -> None:
    deed = deed_of(cell)
    await world.ready(deed)
    world.proxy.play(deed.method, deed.path, [acts.outdated], endless=True)
    with pytest.raises(AuthenticationFailed):
        await deed.call(world.minted, world.basket)
    assert (world.sent(deed), world.clock.sleeps) == (2, [])
    assert not deed.made(world.sandbox)
    assert world.states() == ["rejected"] * deed.is_money


@cells("F22-M-then-dropped")
async def test_a_completion_that_is_dropped_after_its_challenge(world: World, cell: str) -> None:
    await world.ready(BUY)
    world.proxy.play(BUY.method, BUY.path, [acts.outdated, acts.drop(landed=True)])
    with pytest.raises(OutcomeUnknown) as caught:
        await BUY.call(world.minted, world.basket)
    assert world.sent(BUY) == 2
    await is_unknown(world, BUY, caught.value, landed=True)


@cells("F21-M-fix-over", "F22-M-fix-over")
async def test_a_login_that_outlasts_the_price_fix(world: World, cell: str) -> None:
    await world.ready(BUY)
    world.clock.advance(230)  # of 240 s
    challenged = acts.unsigned if cell.startswith("F21") else acts.outdated

    async def slowly(passage: Passage) -> None:
        world.clock.advance(8)
        await challenged(passage)

    world.proxy.play(BUY.method, BUY.path, [slowly])
    with pytest.raises(PriceFixExpired):
        await BUY.call(world.minted, world.basket)
    # The one request was refused before anything was done, and there is no other.
    assert [entry.status for entry in world.sandbox.requests.of(BUY.operation)] == [401]
    assert world.sent(BUY) == 1
    assert world.states() == ["not_sent"]
    world.clock.advance(10)  # and the price is fixed anew
    assert (await world.minted.complete.buy(world.basket, accept_price="current")).order is not None


@cells(*(f"F23-{deed.effect}" for deed in DEEDS))
async def test_a_password_that_was_changed(world: World, cell: str) -> None:
    deed = deed_of(cell)
    await world.ready(deed)
    doorman, sandbox = world.sandbox.doorman, world.sandbox

    async def changed(passage: Any) -> None:
        doorman.add(sandbox.username, "another")
        await acts.pass_on(passage)

    world.proxy.play(deed.method, deed.path, [changed])
    with pytest.raises(AuthenticationFailed) as caught:
        await deed.call(world.minted, world.basket)
    assert type(caught.value) is AuthenticationFailed
    assert world.sent(deed) == 2  # a nonce may have been forgotten; a fresh one proves that it is the password
    assert [entry.status for entry in sandbox.requests.of(deed.operation)] == [401, 401]
    assert world.clock.sleeps == []
    assert not deed.made(sandbox)
    doorman.add(sandbox.username, sandbox.password)
    if deed.is_money:
        assert world.states() == ["rejected"]
        assert (await deed.call(world.minted, world.basket)).order is not None


@cells("F23-S-after-unknown")
async def test_a_401_to_the_second_try_is_a_401(world: World, cell: str) -> None:
    await world.ready(SET)
    world.proxy.play(SET.method, SET.path, [acts.drop(landed=True), acts.unsigned], endless=True)
    with pytest.raises(AuthenticationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert SET.made(world.sandbox)


# The server, and what stands in front of it.


def said(raw: bytes, *, landed: bool = False) -> Act:
    return acts.answer(raw, landed=landed)


def no(row: str, status: int, error: type[Exception], *headers: tuple[str, str], **more: Any) -> list[Strike]:
    """Return a refusal in the vendor's envelope, and as a page of a gateway; for money each before and after the work.

    For the rest it is enough that the vendor did nothing, and that the gateway passed it on.
    """
    vendor, gateway = acts.envelope(status, *headers), acts.page(status, *headers)
    return [
        Strike(row, f"lost-{status}", said(vendor), error, **more),
        Strike(row, f"landed-{status}-page", said(gateway, landed=True), error, landed=True, **more),
        Strike(row, f"landed-{status}", said(vendor, landed=True), error, landed=True, effects="M", **more),
        Strike(row, f"lost-{status}-page", said(gateway), error, effects="M", **more),
    ]


def throttled(*headers: tuple[str, str]) -> Act:
    return said(acts.envelope(429, *headers))


FIELDS = acts.envelope(422, errors={"qty": ["too many"]})
REFUSED = [
    *DOWNGRADES,
    *no("F25", 403, PermissionDenied),
    *no("F26", 404, NotFound, case="first"),
    *no("F27", 409, Conflict),
    Strike("F28", "fields", said(FIELDS), ValidationFailed, case="first"),
    Strike("F28", "", said(acts.page(422)), ValidationFailed, case="bare", effects="M"),
    Strike("F28", "landed", said(acts.page(422), landed=True), ValidationFailed, landed=True, case="bare", effects="M"),
    Strike("F29", "seconds", throttled(("Retry-After", "5")), RateLimited),
    Strike("F29", "absent", throttled(), RateLimited),
    Strike("F29", "", throttled(("Retry-After", "3600")), RateLimited, case="beyond"),
    Strike("F29", "", said(acts.page(429)), RateLimited, case="bare", effects="M"),
    Strike("F29", "landed", said(acts.page(429), landed=True), RateLimited, landed=True, case="bare", effects="M"),
    *no("F30", 500, ServerError),
    *no("F31", 502, ServerError),
    *no("F31", 504, ServerError)[1::2],
    *no("F32", 503, ServerError, ("Retry-After", "2"))[:3],
    *no("F32", 503, ServerError)[3:],
    *no("F33", 408, ApiError),
    *no("F33", 425, ApiError)[:1],
    *[
        Strike("F34", f"{'landed' if landed else 'lost'}-{status}", act, UnexpectedRedirect, landed)
        for status, landed in ((301, False), (302, True), (303, True), (307, False), (308, True))
        for act in [acts.redirect(status, landed=landed)]
    ],
]


@both_clients(plays(REFUSED))
async def test_refused(world: World, play: Play) -> None:
    await perform(world, play)


@both_clients(plays(no("F25", 403, PermissionDenied)[:2], [SELL, DELIVERY]))
async def test_sales_and_deliveries(world: World, play: Play) -> None:
    await perform(world, play)


@cells(*(f"F28-{deed.effect}-names" for deed in DEEDS))
async def test_a_422_names_the_fields(world: World, cell: str) -> None:
    deed = deed_of(cell)
    await world.ready(deed)
    world.proxy.play(deed.method, deed.path, [said(FIELDS)])
    with pytest.raises(ValidationFailed) as caught:
        await deed.call(world.minted, world.basket)
    assert caught.value.fields == {"qty": ("too many",)}


@cells("F26-S-second-404", "F28-S-second-422")
async def test_a_no_to_the_second_try_may_mean_that_the_first_did_it(world: World, cell: str) -> None:
    await world.ready(SET)
    second = said(acts.envelope(int(cell[-3:])))
    world.proxy.play(SET.method, SET.path, [acts.drop(landed=True), second])
    assert SET.shown(await SET.call(world.minted, world.basket))
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 1, 1)


@cells("F26-S-second-404-lost", "F28-S-second-422-lost")
async def test_or_that_it_was_never_done(world: World, cell: str) -> None:
    await world.ready(SET)
    status = int(cell.split("-")[3])
    world.proxy.play(SET.method, SET.path, [acts.drop(), said(acts.envelope(status))])
    with pytest.raises(NotFound if status == 404 else ValidationFailed) as caught:
        await SET.call(world.minted, world.basket)
    assert caught.value.after_unknown
    assert (world.sent(SET), world.arrived(SET), world.reads(SET)) == (2, 0, 1)
    assert not SET.made(world.sandbox)


@cells("F26-S-second-removal")
async def test_a_removal_that_finds_nothing_the_second_time_was_done_the_first(world: World, cell: str) -> None:
    await world.ready(SET)
    world.proxy.play("DELETE", "/partner/customer/*", [acts.drop(landed=True)])
    assert await world.minted.customers.remove(CUSTOMER) is None
    assert [entry.status for entry in world.sandbox.requests] == [200, 404]


@cells("F29-M-after_the_fix")
async def test_a_throttle_that_outlasts_the_price_fix(world: World, cell: str) -> None:
    await world.ready(BUY)
    world.clock.advance(215)  # of the 240 s that the price holds
    world.proxy.play(BUY.method, BUY.path, [throttled(("Retry-After", "30"))])
    with pytest.raises(RateLimited):
        await BUY.call(world.minted, world.basket)
    assert (world.sent(BUY), world.arrived(BUY), world.clock.sleeps) == (1, 0, [])
    assert world.states() == ["rejected"]
    done = await world.minted.complete.buy(world.basket, accept_price="current")
    assert done.order is not None


@cells("F29-R-seconds", "F32-R-seconds", "F29-S-seconds", "F32-S-seconds", "F29-A-seconds", "F29-M-seconds")
async def test_the_server_says_how_long_to_wait(world: World, cell: str) -> None:
    deed = deed_of(cell)
    await world.ready(deed)
    status = 429 if cell.startswith("F29") else 503
    world.proxy.play(deed.method, deed.path, [said(acts.envelope(status, ("Retry-After", "7")))])
    assert deed.shown(await deed.call(world.minted, world.basket))
    assert world.clock.sleeps == [7.0]
