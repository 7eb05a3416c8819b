"""The plan of one purchase and its faults, drawn from a seed: data that can be printed and drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import attrs

from minted_connect.models import OrderKind

STATUSES_OF_REFUSALS: Final = (200, 400, 401, 402, 403, 404, 405, 409, 410, 413, 418, 422, 429, 451)
FAILED_STATUSES: Final = (
    "Cancelled",
    "Canceled",
    "Failed",
    "Declined",
    "\u0130ptal Edildi",
    "Ba\u015far\u0131s\u0131z",
    "Refunded",
)
"""Names of statuses that mean failure."""

SKUS: Final = ("MNTBAE0001", "MNTBAE0013", "MNTBAE0002", "MNTBAE0004")
BOUNDED_DELAY: Final = 29.0
"""Maximum delay of a request in seconds if a fence or elapsed time proves that it was not executed."""

UNBOUNDED_DELAY: Final = 200.0
"""Maximum delay of a request in seconds otherwise."""

COMPLETE: Final = ("POST", "*/complete/*")
BASKET: Final = ("GET", "*/walletable/basket")
ORDERS: Final = ("GET", "*/walletable/orders")
CLEAR: Final = ("DELETE", "*/basket/empty")

Draw = random.Random
Quirks = Literal["laravel", "random"] | None
"""The JSON shapes of a sandbox; `random` draws them for each simulation."""


@attrs.frozen(kw_only=True)
class Limits:
    """Limits of the faults, within which the completion policy of the simulation is true."""

    latest: float
    """Seconds after which a completion that was dropped may still be executed."""
    after_refusal: float
    """Seconds after which a completion that was refused may still be executed; even delayed reads then show the order
    within the settle time."""
    trusted: frozenset[int]
    """Statuses that one read-back confirms, if they have the vendor's envelope: these refusals are never false."""
    keeps_accepted: bool
    """Whether a completion may execute the basket as it was accepted, even if the basket was cleared since then."""


T = TypeVar("T")
Args = dict[str, Any]


@attrs.frozen
class Injection:
    """A fault to add to the sandbox."""

    kind: Any
    method: str
    path: str
    times: int | None
    before_auth: bool
    args: Args


@attrs.frozen(kw_only=True)
class Plan:
    """One purchase, from filling the basket to its last reconciliation."""

    number: int
    kind: OrderKind
    sku: str
    qty: int
    accepts_any_price: bool
    """Whether the caller accepts the current price."""
    pause: float
    """Seconds between filling and completing the basket."""
    wall_jumps: tuple[float, float]
    """Seconds that the wall clock jumps before and after the call."""
    concurrent_call: Literal["none", "same_client", "derived_client", "other_process", "other_machine", "reconciler"]
    """The client that completes the basket at the same time: the same client, one derived from it, one with the same
    journal, or one with another journal; or `reconciler`, which reconciles the pending intent."""
    concurrent_reads: int
    """Number of tasks that read with the same client at the same time."""
    stop: Literal["nothing", "cancel", "crash"]
    stop_at: int
    """Number of the await at which the call is stopped."""
    journal: Literal["works", "full", "failing", "closing"]
    """`full`: no intent can be stored; `failing`: it is stored with an error; `closing`: no outcome can be stored."""
    faults: tuple[Injection, ...]
    repeats_unknown: bool
    """Whether the caller repeats a completion whose outcome is unknown."""
    repeats_refused: bool
    """Whether the caller repeats a completion that was refused or not executed."""
    reconciles_under_faults: bool
    """Whether the intent is reconciled while the faults are active."""
    cancel_reconcile_at: int
    """Number of the await at which this reconciliation is cancelled; 0 for never."""
    is_cancelled_by_vendor: bool
    """Whether the vendor cancels the order before a client finds it."""
    reconciles_at_end: bool
    """Whether the intent is reconciled only at the end of the simulation."""
    fence: bool


def draw_plan(draw: Draw, number: int, limits: Limits) -> Plan:
    """Draw a purchase within these limits."""
    fence = draw.random() < 0.4
    stop = _weighted(draw, (16, "nothing"), (2, "cancel"), (2, "crash"))
    # A crash also ends the other callers of the same client.
    shared = 0 if stop == "crash" else 1
    return Plan(
        number=number,
        kind=_weighted(draw, (8, OrderKind.BUY), (1, OrderKind.SELL), (1, OrderKind.DELIVERY)),
        sku=draw.choice(SKUS),
        qty=draw.randint(1, 5),
        accepts_any_price=draw.random() < 0.3,
        pause=_weighted(draw, (24, 0.0), (3, 100.0), (4, draw.uniform(230, 242)), (1, 700.0), (1, 8 * 86_400.0)),
        wall_jumps=(_weighted(draw, *_JUMPS), _weighted(draw, *_JUMPS)),
        concurrent_call=_weighted(
            draw,
            (16, "none"),
            (2 * shared, "same_client"),
            (shared, "derived_client"),
            (2, "other_process"),
            (1, "other_machine"),
            (2, "reconciler"),
        ),
        concurrent_reads=_weighted(draw, (8, 0), (1, 1), (1, 3)),
        stop=stop,
        stop_at=draw.randint(1, 14),
        journal=_weighted(draw, (40, "works"), (1, "full"), (1, "failing"), (2, "closing")),
        faults=tuple(_draw_faults(draw, limits, fence=fence)),
        repeats_unknown=draw.random() < 0.3,
        repeats_refused=draw.random() < 0.6,
        reconciles_under_faults=draw.random() < 0.4,
        cancel_reconcile_at=_weighted(draw, (8, 0), (2, draw.randint(1, 30))),
        is_cancelled_by_vendor=draw.random() < 0.1,
        reconciles_at_end=draw.random() < 0.4,
        fence=fence,
    )


def _draw_faults(draw: Draw, limits: Limits, *, fence: bool) -> list[Injection]:
    scopes = [(6, (COMPLETE, _ON_COMPLETE)), (2, (BASKET, _ON_READ)), (2, (ORDERS, _ON_LIST))]
    if fence:
        scopes.append((1, (CLEAR, _ON_CLEAR)))
    injections: list[Injection] = []
    for _ in range(_weighted(draw, (3, 0), (9, 1), (5, 2), (3, 3))):
        (method, path), table = _weighted(draw, *scopes)
        kind, args = _weighted(draw, *table)
        drawn = {name: value(draw) for name, value in args.items()}
        if kind == "late_commit":
            drawn["seconds"] *= limits.latest
        elif kind == "refusal":
            drawn["seconds"] *= limits.after_refusal
        if not limits.keeps_accepted:
            drawn.pop("reads_basket", None)
        if _is_false_refusal(kind, drawn, limits.trusted):
            drawn["commit"] = "never" if kind == "refusal" else False
        if kind == "odd_row":
            drawn["field"], drawn["value"] = drawn.pop("change")
        times = _weighted(draw, (12, 1), (3, 2), (2, 3), (1, None))
        if kind == "page_drift":
            times = None  # each first page lists the order again
        injections.append(Injection(kind, method, path, times, draw.random() < 0.1, drawn))
    return injections


def _is_false_refusal(kind: str, args: Args, trusted: frozenset[int]) -> bool:
    """Return whether a fault refuses an executed completion with a trusted status."""
    if args.get("commit") in {None, False, "never"}:
        return False
    if kind == "rate_limit":
        return 429 in trusted
    enveloped = args.get("is_envelope", args.get("envelope", True)) and not args.get("html")
    return kind in {"refusal", "status"} and enveloped and args["status"] in trusted


def _weighted(draw: Draw, *weighted: tuple[int, T]) -> T:
    weights, values = zip(*weighted, strict=True)
    return draw.choices(values, weights)[0]


def _one_of(*values: Any) -> Callable[[Draw], Any]:
    return lambda draw: draw.choice(values)


_JUMPS = ((20, 0.0), (1, 3600.0), (1, -3600.0), (1, 3 * 86_400.0), (1, -3 * 86_400.0))
_BOOLEAN = _one_of(True, False)
_KEYS = (
    "token",
    "guid",
    "increment_id",
    "id",
    "customer",
    "order_creation_status",
    "status_name",
    "paid_total",
    "items",
)
_FIELD = _one_of(
    *_KEYS, "customer.external_id", "order_at", "pricefix", "pricefix.remaining", "items.0", "tx_type", "*"
)
_WRONG_FIELD = _one_of(
    "status_name", "order_creation_status", "token", "guid", "paid_total", "customer", "items", "type"
)
_STATUS = _one_of(400, 403, 404, 408, 409, 410, 500, 502, 503, 504)
_SUCCESS = {"data": None, "success": True, "code": 0, "message": ""}
_DELAYS = _one_of(1.0, 14.0, 16.0, 44.0, 46.0, 70.0)
_FRACTION = _one_of(0.01, 0.1, 0.3, 0.6, 0.9, 1.0)
_READS_BASKET = _one_of("execution", "execution", "acceptance")
_REFUSAL = {
    "status": _one_of(*STATUSES_OF_REFUSALS),
    "is_envelope": _BOOLEAN,
    "retry_after": _one_of(None, None, None, 0, 1, 10, 3600),
    "commit": _one_of("before", "after", "never"),
    "seconds": _FRACTION,
    "reads_basket": _READS_BASKET,
}

Table = Sequence[tuple[int, tuple[str, dict[str, Callable[[Draw], Any]]]]]

# If `commit` is drawn, the response may refuse an executed completion. A trusted refusal is never false, because one
# read-back confirms it.
_ON_COMPLETE: Table = (
    (6, ("drop_before_read", {"reset": _BOOLEAN})),
    (8, ("drop_after_commit", {"reset": _BOOLEAN})),
    (12, ("late_commit", {"reset": _BOOLEAN, "seconds": _FRACTION, "reads_basket": _READS_BASKET})),
    (20, ("refusal", _REFUSAL)),
    (5, ("refusal", {**_REFUSAL, "status": lambda _: 401, "challenge": _one_of("basic", "digest_other_realm", None)})),
    (4, ("order_status", {"name": _one_of(*FAILED_STATUSES), "where": _one_of("response", "list", "both")})),
    (5, ("delay", {"seconds": _DELAYS})),
    (5, ("delay_after_commit", {"seconds": _DELAYS})),
    (4, ("hang", {"commit": _BOOLEAN})),
    (5, ("truncate", {"chunked": _BOOLEAN, "keep": _one_of(0.0, 0.5, 0.99)})),
    (8, ("status", {"status": _STATUS, "commit": _BOOLEAN})),
    (6, ("status", {"status": _STATUS, "commit": _BOOLEAN, "envelope": lambda _: False})),
    (3, ("status", {"status": _one_of(422, 429), "commit": _BOOLEAN, "html": lambda _: True})),
    (3, ("status", {"status": lambda _: 422, "commit": _BOOLEAN})),
    (4, ("rate_limit", {"retry_after": _one_of(0, 1, 30, 3600, None), "commit": _BOOLEAN})),
    (4, ("success_false", {"commit": _BOOLEAN})),
    (2, ("status", {"status": lambda _: 200, "body": lambda _: _SUCCESS, "commit": _BOOLEAN})),
    (3, ("html", {"commit": _BOOLEAN})),
    (2, ("interim", {"commit": _BOOLEAN, "count": lambda _: 3})),
    (2, ("redirect", {"commit": _BOOLEAN})),
    (2, ("invalid_json", {})),
    (2, ("empty", {})),
    (1, ("nan", {})),
    (3, ("duplicate_keys", {})),
    (4, ("wrong_customer", {})),
    (6, ("drop_field", {"field": _FIELD})),
    (3, ("extra_field", {"field": _WRONG_FIELD})),
    (2, ("extra_field", {"field": lambda _: "status_name", "value": _one_of("Cancelled", "Refunded", "Unknown")})),
    (1, ("extra_field", {"field": lambda _: "order_creation_status", "value": lambda _: "basket"})),
    (4, ("two_answers", {})),
    (4, ("stale_nonce", {})),
)
_ON_READ: Table = (
    (4, ("drop_before_read", {"reset": _BOOLEAN})),
    (4, ("delay", {"seconds": _DELAYS})),
    (3, ("delay_after_commit", {"seconds": _DELAYS})),
    (2, ("hang", {})),
    (3, ("truncate", {"chunked": _BOOLEAN, "keep": _one_of(0.0, 0.5, 0.99)})),
    (6, ("status", {"status": _STATUS})),
    (3, ("status", {"status": _STATUS, "envelope": lambda _: False})),
    (2, ("status", {"status": _STATUS, "html": lambda _: True})),
    (2, ("rate_limit", {"retry_after": _one_of(0, 1, 30, 3600, None)})),
    (2, ("success_false", {})),
    (2, ("html", {})),
    (1, ("redirect", {})),
    (2, ("invalid_json", {})),
    (1, ("empty", {})),
    (1, ("nan", {})),
    (2, ("duplicate_keys", {})),
    (4, ("wrong_customer", {})),
    (6, ("drop_field", {"field": _FIELD})),
    (3, ("extra_field", {"field": _WRONG_FIELD})),
    (3, ("two_answers", {})),
    (2, ("stale_nonce", {})),
)
_ODD_ROW = _one_of(
    ("order_at", "?"),
    ("paid_total", ""),
    ("items", {}),
    ("id", "x"),
    ("token", 12),
    ("guid", []),
    ("status_name", []),
    ("order_creation_status", 1),
    ("customer", []),
)
_ON_LIST: Table = (
    *_ON_READ,
    (8, ("odd_row", {"change": _ODD_ROW})),
    (3, ("page_drift", {"change": lambda _: "remove"})),
)
_ON_CLEAR: Table = (
    (2, ("drop_before_read", {"reset": _BOOLEAN})),
    (3, ("drop_after_commit", {"reset": _BOOLEAN})),
    (2, ("status", {"status": _STATUS, "commit": _BOOLEAN})),
    (1, ("status", {"status": _STATUS, "commit": _BOOLEAN, "envelope": lambda _: False})),
    (1, ("success_false", {"commit": _BOOLEAN})),
    (2, ("status", {"status": lambda _: 200, "body": lambda _: _SUCCESS, "commit": _BOOLEAN})),
    (1, ("wrong_customer", {})),
    (1, ("drop_field", {"field": _FIELD})),
)
