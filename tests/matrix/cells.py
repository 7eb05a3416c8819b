"""The cells as parameters of tests: one operation of each effect, the faults to inject, and the names of the cells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import attrs
import pytest

from minted_connect import Completion
from minted_connect.models import Basket
from minted_connect.sandbox import Sandbox
from tests.completion.fakes import SHIPPING
from tests.matrix.proxy import Handler
from tests.matrix.table import EFFECTS, Outcome, outcome
from tests.support.operations import GOLD, SILVER

CUSTOMER: Final = "customer-1"
BASKET_ITEMS: Final = [(GOLD, 1), (SILVER, 1)]
READ_TIMEOUT: Final = 8.0
"""Read timeout in seconds of the client's clock; three times as much is within the deadline."""
ORDERS_LAG: Final = 4.0
"""`CompletionPolicy.orders_lag` of the clients, in seconds: a power of two, so that every poll is exact."""
_PARTS: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
_BASKET: Final = "/partner/walletable/basket"


def poll_times(retry_after: float = 0.0, settle_time: float = ORDERS_LAG) -> list[float]:
    """Return the seconds after a response at which a change is read back, written independently of the client."""
    return sorted({max(retry_after, part * settle_time) for part in _PARTS})


def pauses_between(times: Sequence[float]) -> list[float]:
    """Return the seconds slept before each of these times, leaving out pauses of 0."""
    pauses = [later - earlier for earlier, later in zip((0.0, *times), times, strict=False)]
    return [pause for pause in pauses if pause]


TIME_LIMITS: Final[dict[str, Any]] = {
    "deadline": ({"deadline": 3.0}, {}, poll_times()[:4]),
    "inline": ({}, {"inline_looks": 1.0}, poll_times()[:3]),
}
"""Settings and policies that end the read-back of the call early, and the times of the remaining polls."""


@attrs.frozen
class MatrixOperation:
    """One call, and how to check on the server whether it was executed."""

    effect: str
    name: str
    method: str
    path: str
    call: Callable[[Any, Basket], Awaitable[Any]]
    is_in_result: Callable[[Any], bool]
    """Whether the returned value shows that the operation was executed."""
    is_executed: Callable[[Sandbox], bool]
    max_attempts: int
    """Maximum number of attempts."""
    kind: str = "buy"
    """Kind of its basket."""
    read_back_path: str = _BASKET
    """Path that is read back."""

    @property
    def is_money(self) -> bool:
        return self.effect == "M"


def basket_items(sandbox: Sandbox) -> list[tuple[str, int]]:
    return [(item.sku, item.amount) for basket in sandbox.shop.baskets for item in basket.items]


def _items(basket: Basket) -> list[tuple[str, int]]:
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
    lambda basket: _items(basket) == CHANGED,
    lambda sandbox: basket_items(sandbox) == CHANGED,
    2,
)
ADDED = [*BASKET_ITEMS, (SILVER, 2)]
ADD = MatrixOperation(
    "A",
    "baskets.add_item",
    "POST",
    _BASKET,
    lambda m, b: m.baskets.add_item(b, sku=SILVER, qty=2),
    lambda basket: _items(basket) == ADDED,
    lambda sandbox: basket_items(sandbox) == ADDED,
    2,
)


def _completion(kind: str, call: Callable[[Any, Basket], Awaitable[Any]]) -> MatrixOperation:
    return MatrixOperation(
        "M",
        f"complete.{kind}",
        "POST",
        f"/partner/walletable/complete/{kind}",
        call,
        lambda result: isinstance(result, Completion) and result.order is not None and result.differences == (),
        lambda sandbox: len(sandbox.shop.orders) == 1,
        2,
        kind,
    )


BUY = _completion("buy", lambda m, b: m.complete.buy(b, expected_total=b.paid_total))
SELL = _completion("sell", lambda m, b: m.complete.sell(b, expected_total=b.paid_total))
DELIVERY = _completion("delivery", lambda m, b: m.complete.delivery(b, shipping=SHIPPING, expected_total=b.paid_total))
OPERATIONS: Final = (READ, SET, ADD, BUY)


@attrs.frozen
class Injection:
    """One way to inject a fault into a request."""

    row: str
    name: str
    handler: Handler
    error: type[Exception]
    """The error that the caller gets if retries do not help."""
    executed: bool = False
    """Whether the server executes the request in spite of the fault."""
    variant: str = ""
    """The variant of its row, if outcomes differ (`Row.variants`)."""
    effects: str = EFFECTS
    slow: bool = False
    """Whether the fault is only noticed by a timeout."""
    retry_after: float | None = None
    """Seconds of the server's `Retry-After`."""
    uses_up_deadline: bool = False
    """Whether the fault uses up the time of the call."""
    differences: tuple[str, ...] = ()
    """Differences of a completion that is confirmed in spite of the fault."""


def both_stages(
    row: str, name: str, make: Callable[..., Handler], error: type[Exception], **more: Any
) -> list[Injection]:
    """Return an injection before and one after the server executes the request; for a read both are the same."""
    before = Injection(row, f"before-{name}".rstrip("-"), make(executed=False), error, **more)
    after = Injection(row, f"after-{name}".rstrip("-"), make(executed=True), error, executed=True, **more)
    return [before, attrs.evolve(after, effects=after.effects.replace("R", ""))]


FLAVOURS: Final = ("async", "blocking")
_REPEATED: Final = {Outcome.RT, Outcome.RT1, Outcome.ONCE}


@attrs.frozen
class MatrixCase:
    """One cell, as the parameter of a test."""

    injection: Injection
    operation: MatrixOperation
    outcome: Outcome
    always: bool
    """Whether the fault is injected into every attempt, not only into the first."""

    @property
    def name(self) -> str:
        kind = self.operation.kind if self.operation in (SELL, DELIVERY) else ""
        frequency = "" if self.outcome not in _REPEATED else "always" if self.always else "once"
        variant = self.injection.variant.replace(" ", "_")
        return "-".join(
            filter(None, (self.injection.row, self.operation.effect, variant, kind, self.injection.name, frequency))
        )


def matrix_cases(injected: Iterable[Injection], operations: Iterable[MatrixOperation] = OPERATIONS) -> list[MatrixCase]:
    """Return the cells of these injections; if an attempt is repeated, also one with the fault in every attempt."""
    found: list[MatrixCase] = []
    for injection in injected:
        for operation in operations:
            if operation.effect in injection.effects:
                expected = outcome(injection.row, operation.effect, injection.variant)
                frequencies = (False, True) if expected in _REPEATED else (True,)
                found += [MatrixCase(injection, operation, expected, always) for always in frequencies]
    return found


def cells(*names: str, flavours: Sequence[str] = FLAVOURS) -> pytest.MarkDecorator:
    """Run a test for these cells (such as `F50-M-twice`), through both clients."""
    params = [pytest.param(name, flavour, id=f"{name}-{flavour}") for name in names for flavour in flavours]
    return pytest.mark.parametrize(("cell", "flavour"), params)


def through_both_clients(found: Iterable[MatrixCase]) -> pytest.MarkDecorator:
    """Run a test for each of these cells through both clients; the ids name the cells."""
    params = [pytest.param(case, flavour, id=f"{case.name}-{flavour}") for case in found for flavour in FLAVOURS]
    return pytest.mark.parametrize(("case", "flavour"), params)


def operation_of(cell: str) -> MatrixOperation:
    """Return the operation that represents the effect of a cell."""
    return next(operation for operation in OPERATIONS if operation.effect == cell.split("-")[1])
