"""The cells as tests play them: one call of each effect, the ways in which a fault can strike it, and their names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import attrs
import pytest

from minted_connect import Completion
from minted_connect.models import Basket
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import SHIPPING
from tests.matrix.proxy import Act
from tests.matrix.table import EFFECTS, Outcome, outcome
from tests.support.operations import GOLD, SILVER

CUSTOMER: Final = "customer-1"
BEFORE: Final = [(GOLD, 1), (SILVER, 1)]
PATIENCE: Final = 8.0
"""Seconds of the client's clock after which a late answer is given up; three times as much is within the deadline."""
LAG: Final = 4.0
"""`CompletionPolicy.orders_lag` of the clients, in seconds: a power of two, so that every look is exact."""
_PARTS: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
_BASKET: Final = "/partner/walletable/basket"


def look_times(retry_after: float = 0.0, settle: float = LAG) -> list[float]:
    """Return the seconds after a response at which a change is looked for, written down apart from the client."""
    return sorted({max(retry_after, part * settle) for part in _PARTS})


def pauses_between(times: Sequence[float]) -> list[float]:
    """Return the seconds slept before each of these times; none before the first if it is at once."""
    pauses = [later - earlier for earlier, later in zip((0.0, *times), times, strict=False)]
    return [pause for pause in pauses if pause]


SHORT: Final[dict[str, Any]] = {
    "deadline": ({"deadline": 3.0}, {}, look_times()[:4]),
    "inline": ({}, {"inline_looks": 1.0}, look_times()[:3]),
}
"""Settings and policies that end the looks of the call early, and the looks that are left."""


@attrs.frozen
class MatrixOperation:
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


READ = MatrixOperation(
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
SET = MatrixOperation(
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
ADD = MatrixOperation(
    "A",
    "baskets.add_item",
    "POST",
    _BASKET,
    lambda m, b: m.baskets.add_item(b, sku=SILVER, qty=2),
    lambda basket: _lines(basket) == ADDED,
    lambda sandbox: lines(sandbox) == ADDED,
    2,
)


def _completion(kind: str, call: Callable[[Any, Basket], Awaitable[Any]]) -> MatrixOperation:
    return MatrixOperation(
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
class Injection:
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
    retry_after: float | None = None
    """Seconds that the server asks to wait."""
    uses_up: bool = False
    """Whether it uses up the time of the call."""
    differences: tuple[str, ...] = ()
    """Of a completion that is confirmed all the same."""


def both(row: str, name: str, make: Callable[..., Act], error: type[Exception], **more: Any) -> list[Injection]:
    """Return a strike before and one after the work of the server; to a read these two are one."""
    lost = Injection(row, f"lost-{name}".rstrip("-"), make(landed=False), error, **more)
    landed = Injection(row, f"landed-{name}".rstrip("-"), make(landed=True), error, landed=True, **more)
    return [lost, attrs.evolve(landed, effects=landed.effects.replace("R", ""))]


FLAVOURS: Final = ("async", "blocking")
_REPEATED: Final = {Outcome.RT, Outcome.RT1, Outcome.ONCE}


@attrs.frozen
class MatrixCase:
    """One cell, as a test plays it."""

    strike: Injection
    deed: MatrixOperation
    outcome: Outcome
    always: bool
    """Whether the fault strikes every attempt, and not only the first."""

    @property
    def name(self) -> str:
        kind = self.deed.kind if self.deed in (SELL, DELIVERY) else ""
        often = "" if self.outcome not in _REPEATED else "always" if self.always else "once"
        case = self.strike.case.replace(" ", "_")
        return "-".join(filter(None, (self.strike.row, self.deed.effect, case, kind, self.strike.name, often)))


def plays(strikes: Iterable[Injection], deeds: Iterable[MatrixOperation] = DEEDS) -> list[MatrixCase]:
    """Return every cell these strikes make: where a fault is to be survived by another try, also in earnest."""
    found: list[MatrixCase] = []
    for strike in strikes:
        for deed in deeds:
            if deed.effect in strike.effects:
                expected = outcome(strike.row, deed.effect, strike.case)
                ways = (False, True) if expected in _REPEATED else (True,)
                found += [MatrixCase(strike, deed, expected, always) for always in ways]
    return found


def cells(*names: str, flavours: Sequence[str] = FLAVOURS) -> pytest.MarkDecorator:
    """Run a test of its own making for these cells (`F15-M-landed`), through both clients."""
    params = [pytest.param(name, flavour, id=f"{name}-{flavour}") for name in names for flavour in flavours]
    return pytest.mark.parametrize(("cell", "flavour"), params)


def both_clients(found: Iterable[MatrixCase]) -> pytest.MarkDecorator:
    """Run a test for each of these cells through both clients; the ids name the cells."""
    params = [pytest.param(play, flavour, id=f"{play.name}-{flavour}") for play in found for flavour in FLAVOURS]
    return pytest.mark.parametrize(("play", "flavour"), params)


def deed_of(cell: str) -> MatrixOperation:
    """Return the deed that stands for the effect of a cell."""
    return next(deed for deed in DEEDS if deed.effect == cell.split("-")[1])
