"""The stage of the matrix: one call of each effect, one fault at a time, and what has to hold for each outcome.

Every cell is played by the real client, of either flavour, through the proxy against the sandbox; what happened is
asked of the proxy (what left the client), the sandbox (what was done) and the journal's file (what was written down).
"""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import attrs
import pytest
import trustme

from minted_connect import (
    AlreadyInFlight,
    Completion,
    InvalidInput,
    MintedConnectError,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    Timeouts,
)
from minted_connect.models import Basket, Intent
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import SHIPPING
from tests.matrix.proxy import Act, Chaos
from tests.matrix.table import EFFECTS, Outcome, outcome
from tests.tour import GOLD, SILVER

ROOT: Final = Path(__file__).parents[2]
CUSTOMER: Final = "customer-1"
BEFORE: Final = [(GOLD, 1), (SILVER, 1)]
PATIENCE: Final = 8.0
"""Seconds of the client's clock after which a late answer is given up; three times as much is within the deadline."""

_BASKET: Final = "/partner/walletable/basket"


@attrs.frozen
class Deed:
    """One call, and how to tell on the server whether it was carried out."""

    effect: str
    operation: str
    method: str
    path: str
    call: Callable[[Any, Basket], Awaitable[Any]]
    shown: Callable[[Any], bool]
    """Whether what it returned shows the work done."""
    made: Callable[[Sandbox], bool]
    most: int
    """Attempts where it may be repeated."""
    kind: str = "buy"
    """Of the basket it is about."""
    look: str = _BASKET
    """The path where reading back looks."""

    @property
    def is_money(self) -> bool:
        return self.effect == "M"


def lines(sandbox: Sandbox) -> list[tuple[str, int]]:
    return [(item.sku, item.amount) for basket in sandbox.shop.baskets for item in basket.items]


def _lines(basket: Basket) -> list[tuple[str, int]]:
    return [(item.sku, item.amount) for item in basket.items]


READ = Deed(
    "R",
    "customers.get",
    "GET",
    "/partner/customer/*",
    lambda m, b: m.customers.get(CUSTOMER),
    lambda customer: customer.external_id == CUSTOMER,
    lambda sandbox: False,
    3,
)
CHANGED = [(GOLD, 3), (SILVER, 1)]
SET = Deed(
    "S",
    "baskets.update_item",
    "PATCH",
    _BASKET,
    lambda m, b: m.baskets.update_item(b, sku=GOLD, qty=3),
    lambda basket: _lines(basket) == CHANGED,
    lambda sandbox: lines(sandbox) == CHANGED,
    2,
)
ADDED = [*BEFORE, (SILVER, 2)]
ADD = Deed(
    "A",
    "baskets.add_item",
    "POST",
    _BASKET,
    lambda m, b: m.baskets.add_item(b, sku=SILVER, qty=2),
    lambda basket: _lines(basket) == ADDED,
    lambda sandbox: lines(sandbox) == ADDED,
    2,
)


def _completion(kind: str, call: Callable[[Any, Basket], Awaitable[Any]]) -> Deed:
    return Deed(
        "M",
        f"complete.{kind}",
        "POST",
        f"/partner/walletable/complete/{kind}",
        call,
        lambda done: isinstance(done, Completion) and done.order is not None and done.differences == (),
        lambda sandbox: len(sandbox.shop.orders) == 1,
        2,
        kind,
    )


BUY = _completion("buy", lambda m, b: m.complete.buy(b, expected_total=b.paid_total))
SELL = _completion("sell", lambda m, b: m.complete.sell(b, expected_total=b.paid_total))
DELIVERY = _completion("delivery", lambda m, b: m.complete.delivery(b, shipping=SHIPPING, expected_total=b.paid_total))
DEEDS: Final = (READ, SET, ADD, BUY)


@attrs.frozen
class Strike:
    """One way in which a fault can strike a request."""

    row: str
    name: str
    act: Act
    error: type[Exception]
    """What the caller meets if nothing helps."""
    landed: bool = False
    """Whether the server does the work all the same."""
    case: str = ""
    """Which of several outcomes of its row holds."""
    effects: str = EFFECTS
    slow: bool = False
    """Whether it takes a timeout to notice."""


def both(row: str, name: str, make: Callable[..., Act], error: type[Exception], **more: Any) -> list[Strike]:
    """Return a strike before and one after the work of the server; to a read these two are one."""
    lost = Strike(row, f"lost-{name}".rstrip("-"), make(landed=False), error, **more)
    landed = Strike(row, f"landed-{name}".rstrip("-"), make(landed=True), error, landed=True, **more)
    return [lost, attrs.evolve(landed, effects=landed.effects.replace("R", ""))]


FLAVOURS: Final = ("async", "blocking")
_REPEATED: Final = {Outcome.RT, Outcome.RT1, Outcome.ONCE}


@attrs.frozen
class Play:
    """One cell, as a test plays it."""

    strike: Strike
    deed: Deed
    outcome: Outcome
    always: bool
    """Whether the fault strikes every attempt, and not only the first."""

    @property
    def name(self) -> str:
        kind = self.deed.kind if self.deed in (SELL, DELIVERY) else ""
        often = "" if self.outcome not in _REPEATED else "always" if self.always else "once"
        case = self.strike.case.replace(" ", "_")
        return "-".join(filter(None, (self.strike.row, self.deed.effect, case, kind, self.strike.name, often)))


def plays(strikes: Iterable[Strike], deeds: Iterable[Deed] = DEEDS) -> list[Play]:
    """Return every cell these strikes make: where a fault is to be survived by another try, also in earnest."""
    found: list[Play] = []
    for strike in strikes:
        for deed in deeds:
            if deed.effect in strike.effects:
                expected = outcome(strike.row, deed.effect, strike.case)
                ways = (False, True) if expected in _REPEATED else (True,)
                found += [Play(strike, deed, expected, always) for always in ways]
    return found


def cells(*names: str, flavours: Sequence[str] = FLAVOURS) -> pytest.MarkDecorator:
    """Run a test of its own making for these cells (`F15-M-landed`), through both clients."""
    params = [pytest.param(name, flavour, id=f"{name}-{flavour}") for name in names for flavour in flavours]
    return pytest.mark.parametrize(("cell", "flavour"), params)


def both_clients(found: Iterable[Play]) -> pytest.MarkDecorator:
    """Run a test for each of these cells through both clients; the ids name the cells."""
    params = [pytest.param(play, flavour, id=f"{play.name}-{flavour}") for play in found for flavour in FLAVOURS]
    return pytest.mark.parametrize(("play", "flavour"), params)


def deed_of(cell: str) -> Deed:
    """Return the deed that stands for the effect of a cell."""
    return next(deed for deed in DEEDS if deed.effect == cell.split("-")[1])


@attrs.define(eq=False)
class World:
    """A client, the proxy it talks to, and the sandbox behind."""

    sandbox: Sandbox
    proxy: Chaos
    clock: Any
    """A `ManualClock` that has a `meanwhile`: what happens in the first pause before another try."""
    minted: Any
    journal: Path
    flavour: str
    writing: Any
    """The journal of that path, with a `meanwhile`: what happens once an intent is written down."""
    another: Callable[..., Awaitable[Any]]
    """Builds another client of the same flavour."""
    basket: Basket = attrs.field(init=False)

    async def ready(self, deed: Deed) -> None:
        """Set the scene: a customer with a basket that the client has seen, and a login that is done."""
        shop = self.sandbox.shop
        owner = shop.create_customer(self.sandbox.username, CUSTOMER, {"firstname": "Grace", "lastname": "Hopper"})
        if deed.kind != "buy":
            for sku, amount in BEFORE:
                shop.give(CUSTOMER, sku, amount)
        for sku, amount in BEFORE:
            shop.add_item(owner, sku, amount, kind=deed.kind)  # type: ignore[arg-type]
        self.basket = await self.minted.baskets.get_active(CUSTOMER)
        self.sandbox.requests.clear()
        self.proxy.passages.clear()

    # What happened.

    def sent(self, deed: Deed) -> int:
        """Return how many requests of this deed left the client."""
        return self.proxy.count(deed.method, deed.path)

    def arrived(self, deed: Deed) -> int:
        """Return how many of them reached the server."""
        return len(self.sandbox.requests.of(deed.operation))

    def reads(self, deed: Deed) -> int:
        """Return how often it was looked at where reading back looks."""
        return self.proxy.count("GET", deed.look)

    def states(self) -> list[str]:
        """Return the states of all intents in the journal's file."""
        if not self.journal.exists():
            return []
        with closing(sqlite3.connect(self.journal)) as database:
            return [state for (state,) in database.execute("SELECT state FROM intents ORDER BY rowid")]

    async def settle(self, error: OutcomeUnknown) -> Completion:
        """Reconcile through the error, as a caller of this flavour does."""
        if self.flavour == "async":
            return await error.reconcile()
        reconcile: Any = error.reconcile
        return await anyio.to_thread.run_sync(reconcile)


async def perform(world: World, play: Play) -> None:
    """Play one cell to its end, and hold it to its outcome."""
    await world.ready(play.deed)
    world.proxy.play(play.deed.method, play.deed.path, [play.strike.act], endless=play.always)
    client = world.minted
    if play.strike.slow:
        client = client.with_options(timeouts=Timeouts(read=PATIENCE, complete_read=PATIENCE))
    await _PERFORMED[play.outcome](world, play, lambda: play.deed.call(client, world.basket))
    if play.deed.is_money:
        assert len(world.sandbox.shop.orders) <= 1


Call = Callable[[], Awaitable[Any]]


async def _again(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if not play.always:
        assert deed.shown(await call())
        await is_done(world, deed)
        assert world.sent(deed) == 2
        assert world.arrived(deed) == 1 + strike.landed
        assert len(world.clock.sleeps) == 1
        return
    most = deed.most if play.outcome is Outcome.RT else 2
    if deed.effect == "S" and strike.landed:
        # Read back at last: the first try may have done it, and has.
        assert deed.shown(await call())
        assert world.reads(deed) == 1
    else:
        error = await _raised(strike.error, call)
        assert error.attempts == most
    assert world.sent(deed) == most
    assert len(world.clock.sleeps) == most - 1
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")
    if deed.is_money:
        assert world.states() == ["not_sent" if isinstance(error, NotSent) else "rejected"]
        await _is_free_again(world, deed)


async def _read_back(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if strike.landed:
        assert deed.shown(await call())
    else:
        await _raised(strike.error, call)
    assert (world.sent(deed), world.reads(deed)) == (1, 1)
    assert deed.made(world.sandbox) is strike.landed
    assert world.clock.sleeps == []


async def _unknown(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    with pytest.raises(OutcomeUnknown) as caught:
        await call()
    assert caught.value.phase != "not sent"
    assert caught.value.evidence[0].startswith(strike.error.__name__)
    assert not isinstance(caught.value, TimeoutError)
    assert world.sent(deed) == 1
    await is_unknown(world, deed, caught.value, landed=strike.landed)


async def is_unknown(world: World, deed: Deed, error: OutcomeUnknown, *, landed: bool) -> None:
    """Check a completion whose outcome is not known, and find out about it once the fault is over."""
    assert world.states() == ["unknown"]
    [intent] = await world.minted.complete.pending()
    assert (intent.id, intent.state) == (error.intent.id, "unknown")
    sent = world.sent(deed)
    assert deed.made(world.sandbox) is landed
    # Neither is it bought again, nor does anything more go out.
    with pytest.raises((AlreadyInFlight, InvalidInput)):
        await deed.call(world.minted, world.basket)
    world.proxy.behave()
    await settled(world, deed, error, landed=landed)
    assert world.sent(deed) == sent


async def settled(world: World, deed: Deed, error: OutcomeUnknown, *, landed: bool) -> None:
    """Reconcile through the error, and hold the verdict to what the server did."""
    await _judged(world, deed, error.intent, lambda: world.settle(error), landed=landed)


async def reconciled(world: World, deed: Deed, intent: Intent, *, landed: bool) -> None:
    """Reconcile what was found in `pending()`, and hold the verdict to what the server did."""
    await _judged(world, deed, intent, lambda: world.minted.complete.reconcile(intent), landed=landed)


async def _judged(world: World, deed: Deed, intent: Intent, reconcile: Call, *, landed: bool) -> None:
    if landed:
        done = await reconcile()
        assert done.reconciled
        assert done.differences == ()
        assert done.order is not None
        assert done.order.token == world.basket.token
        await is_done(world, deed)
        assert await world.minted.complete.pending() == []
    else:
        with pytest.raises(OutcomeUnknown) as still:
            await reconcile()
        assert still.value.intent.id == intent.id
        assert world.states() == ["unknown"]
        assert len(await world.minted.complete.pending()) == 1
        assert world.sandbox.shop.orders == []


async def _refused(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    await _raised(strike.error, call)
    assert world.sent(deed) == 1
    assert world.clock.sleeps == []
    assert deed.made(world.sandbox) is (strike.landed and deed.effect != "R")
    if deed.is_money:
        assert world.states() == ["rejected"]
        await _is_free_again(world, deed)
    else:
        assert world.reads(deed) == 0


async def _believed_after_a_look(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    if strike.landed:
        done = await call()
        assert done.reconciled
        assert deed.shown(done)
        await is_done(world, deed)
    else:
        await _raised(strike.error, call)
        assert world.states() == ["rejected"]
    assert (world.sent(deed), world.reads(deed)) == (1, 2)  # the look before, and the look after
    assert world.clock.sleeps == []
    if not strike.landed:
        await _is_free_again(world, deed)


async def _not_sent(world: World, play: Play, call: Call) -> None:
    deed, strike = play.deed, play.strike
    error = await _raised(strike.error, call)
    assert isinstance(error, NotSent)
    await nothing_was_sent(world, deed)


async def nothing_was_sent(world: World, deed: Deed, *, written: bool = True) -> None:
    """Check that the server has not heard of it, and that an intent that was written down is closed."""
    assert (world.sent(deed), world.arrived(deed)) == (0, 0)
    if deed.is_money:
        assert world.states() == ["not_sent"] * written
        assert await world.minted.complete.pending() == []


async def _taken(world: World, play: Play, call: Call) -> None:
    deed = play.deed
    assert deed.shown(await call())
    await is_done(world, deed)
    assert (world.sent(deed), world.arrived(deed)) == (1, 1)
    assert world.clock.sleeps == []


async def _confirmed(world: World, play: Play, call: Call) -> None:
    done = await call()
    [order] = world.sandbox.shop.orders
    assert (done.order, done.reconciled, done.keys["guid"]) == (None, False, order.guid)
    assert done.raw["token"] == world.basket.token
    await is_done(world, play.deed)
    assert world.sent(play.deed) == 1


_PERFORMED: Final[dict[Outcome, Callable[[World, Play, Call], Awaitable[None]]]] = {
    Outcome.RT: _again,
    Outcome.RT1: _again,
    Outcome.ONCE: _again,
    Outcome.RB: _read_back,
    Outcome.U: _unknown,
    Outcome.X: _refused,
    Outcome.RBX: _believed_after_a_look,
    Outcome.NOT_SENT: _not_sent,
    Outcome.FINE: _taken,
    Outcome.CONFIRMED: _confirmed,
}


async def _raised(kind: type[Exception], call: Call) -> Any:
    with pytest.raises(MintedConnectError) as caught:
        await call()
    assert type(caught.value) is kind
    # One word for a timeout, wherever it strikes.
    assert isinstance(caught.value, TimeoutError) is issubclass(kind, RequestTimeout)
    return caught.value


async def is_done(world: World, deed: Deed) -> None:
    """Check that it was carried out, and that the journal knows."""
    if deed.effect != "R":
        assert deed.made(world.sandbox)
    if deed.is_money:
        assert world.states()[-1] == "confirmed"


async def _is_free_again(world: World, deed: Deed) -> None:
    """Complete the basket after all: what was refused, or never sent, bars nothing."""
    world.proxy.behave()
    done = await deed.call(world.minted, await world.minted.baskets.get_active(CUSTOMER, cart_token=world.basket.token))
    assert done.order is not None
    assert not done.reconciled
    assert len(world.sandbox.shop.orders) == 1


@asynccontextmanager
async def child(world: World, deed: Deed) -> AsyncIterator[asyncio.subprocess.Process]:
    """Make the call in another process, with the same journal."""
    credentials = (world.sandbox.username, world.sandbox.password)
    arguments = (world.proxy.url, *credentials, str(world.journal), world.flavour, deed.effect)
    command = (sys.executable, "-X", "dev", "-W", "error", "-m", "tests.matrix.child", *arguments)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a TLS context for the proxy, and one for a client that trusts it."""
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    return serving, trusting
