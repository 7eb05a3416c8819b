"""What goes wrong in one purchase, drawn from a seed: data that can be printed, and drawn again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import attrs

from minted_connect.models import OrderKind

STATUSES_OF_REFUSALS: Final = (200, 400, 401, 402, 403, 404, 405, 409, 410, 413, 418, 422, 429, 451)
WORDS: Final = (
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
IN_TIME: Final = 29.0
"""Seconds that a request may be late where a fence or the time that passed proves something."""

LATEST: Final = 200.0
"""Seconds that a request may be late anywhere else."""

COMPLETE: Final = ("POST", "*/complete/*")
BASKET: Final = ("GET", "*/walletable/basket")
ORDERS: Final = ("GET", "*/walletable/orders")
CLEAR: Final = ("DELETE", "*/basket/empty")

Draw = random.Random


@attrs.frozen(kw_only=True)
class Limits:
    """What may go wrong without making untrue what the policy of the day takes for proven."""

    latest: float
    """Seconds after which a completion that was dropped may still be executed."""
    after_refusal: float
    """Seconds after which one that was refused may still be executed; with reads that are behind, it shows before the
    settle time is over."""
    trusted: frozenset[int]
    """Statuses that are believed after one look, if enveloped: they never lie."""
    keeps_accepted: bool
    """Whether a completion may execute the basket that it was accepted with, although that was cleared since."""


T = TypeVar("T")
Args = dict[str, Any]


@attrs.frozen
class Injection:
    """A fault to script."""

    kind: Any
    method: str
    path: str
    times: int | None
    before_auth: bool
    args: Args


@attrs.frozen(kw_only=True)
class Plan:
    """One purchase, from the filling of the basket to the last question about it."""

    number: int
    kind: OrderKind
    sku: str
    qty: int
    any_price: bool
    """Whether it is bought at whatever it costs by then."""
    pause: float
    """Seconds between filling the basket and buying."""
    jumps: tuple[float, float]
    """Seconds that the wall clock jumps before and after the call."""
    company: Literal["nobody", "twin", "sibling", "rival", "stranger", "meddler"]
    """Who asks for the same at the same time: the same client, a sibling, another client with the same journal, or one
    with a journal of its own; or another client that reconciles what it finds in that journal."""
    bystanders: int
    """Tasks that read over the same client meanwhile."""
    stop: Literal["nothing", "cancel", "crash"]
    step: int
    """At which of its awaits the call is stopped."""
    journal: Literal["works", "full", "failing", "closing"]
    """Nothing can be written; or the intent is, and fails all the same; or no outcome can be written."""
    faults: tuple[Injection, ...]
    insists: bool
    """Whether the caller who was told «unknown» tries to buy again."""
    again: bool
    """Whether the caller who was told «no» tries to buy again."""
    impatient: bool
    """Whether it is reconciled while the faults go on."""
    hesitates: int
    """At which of its awaits that is cancelled; 0 for never."""
    revoked: bool
    """Whether the vendor cancels the order before anybody finds it."""
    later: bool
    """Whether it is reconciled only at the end of the day."""
    fence: bool


def draw_plan(draw: Draw, number: int, limits: Limits) -> Plan:
    """Draw a purchase within these limits."""
    fence = draw.random() < 0.4
    stop = _weighted(draw, (16, "nothing"), (2, "cancel"), (2, "crash"))
    # A crash takes everybody along who shares the client.
    shared = 0 if stop == "crash" else 1
    return Plan(
        number=number,
        kind=_weighted(draw, (8, OrderKind.BUY), (1, OrderKind.SELL), (1, OrderKind.DELIVERY)),
        sku=draw.choice(SKUS),
        qty=draw.randint(1, 5),
        any_price=draw.random() < 0.3,
        pause=_weighted(draw, (24, 0.0), (3, 100.0), (4, draw.uniform(230, 242)), (1, 700.0), (1, 8 * 86_400.0)),
        jumps=(_weighted(draw, *_JUMPS), _weighted(draw, *_JUMPS)),
        company=_weighted(
            draw,
            (16, "nobody"),
            (2 * shared, "twin"),
            (shared, "sibling"),
            (2, "rival"),
            (1, "stranger"),
            (2, "meddler"),
        ),
        bystanders=_weighted(draw, (8, 0), (1, 1), (1, 3)),
        stop=stop,
        step=draw.randint(1, 14),
        journal=_weighted(draw, (40, "works"), (1, "full"), (1, "failing"), (2, "closing")),
        faults=tuple(_strikes(draw, limits, fence=fence)),
        insists=draw.random() < 0.3,
        again=draw.random() < 0.6,
        impatient=draw.random() < 0.4,
        hesitates=_weighted(draw, (8, 0), (2, draw.randint(1, 30))),
        revoked=draw.random() < 0.1,
        later=draw.random() < 0.4,
        fence=fence,
    )


def _strikes(draw: Draw, limits: Limits, *, fence: bool) -> list[Injection]:
    scopes = [(6, (COMPLETE, _ON_COMPLETE)), (2, (BASKET, _ON_READ)), (2, (ORDERS, _ON_READ))]
    if fence:
        scopes.append((1, (CLEAR, _ON_CLEAR)))
    strikes: list[Injection] = []
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
        if _is_lie(kind, drawn, limits.trusted):
            drawn["commit"] = "never" if kind == "refusal" else False
        times = _weighted(draw, (12, 1), (3, 2), (2, 3), (1, None))
        strikes.append(Injection(kind, method, path, times, draw.random() < 0.1, drawn))
    return strikes


def _is_lie(kind: str, args: Args, trusted: frozenset[int]) -> bool:
    """Return whether a response of the vendor denies, with a status that is trusted, what is done."""
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
_MAYBE = _one_of(True, False)
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
_LIE = _one_of("status_name", "order_creation_status", "token", "guid", "paid_total", "customer", "items", "type")
_STATUS = _one_of(400, 403, 404, 408, 409, 410, 500, 502, 503, 504)
_YES = {"data": None, "success": True, "code": 0, "message": ""}
_SOON_OR_TOO_LATE = _one_of(1.0, 14.0, 16.0, 44.0, 46.0, 70.0)
_SHARE = _one_of(0.01, 0.1, 0.3, 0.6, 0.9, 1.0)
_BASKET_OF = _one_of("execution", "execution", "acceptance")
_REFUSAL = {
    "status": _one_of(*STATUSES_OF_REFUSALS),
    "is_envelope": _MAYBE,
    "retry_after": _one_of(None, None, None, 0, 1, 10, 3600),
    "commit": _one_of("before", "after", "never"),
    "seconds": _SHARE,
    "reads_basket": _BASKET_OF,
}

Table = Sequence[tuple[int, tuple[str, dict[str, Callable[[Draw], Any]]]]]

# Where `commit` is drawn, the response may deny what was done. Of the vendor's own refusals, the client believes the
# trusted ones after one look: they never lie here.
_ON_COMPLETE: Table = (
    (6, ("drop_before_read", {"reset": _MAYBE})),
    (8, ("drop_after_commit", {"reset": _MAYBE})),
    (12, ("late_commit", {"reset": _MAYBE, "seconds": _SHARE, "reads_basket": _BASKET_OF})),
    (20, ("refusal", _REFUSAL)),
    (5, ("refusal", {**_REFUSAL, "status": lambda _: 401, "challenge": _one_of("basic", "digest_other_realm", None)})),
    (4, ("order_status", {"name": _one_of(*WORDS), "where": _one_of("response", "list", "both")})),
    (5, ("delay", {"seconds": _SOON_OR_TOO_LATE})),
    (5, ("delay_after_commit", {"seconds": _SOON_OR_TOO_LATE})),
    (4, ("hang", {"commit": _MAYBE})),
    (5, ("truncate", {"chunked": _MAYBE, "keep": _one_of(0.0, 0.5, 0.99)})),
    (8, ("status", {"status": _STATUS, "commit": _MAYBE})),
    (6, ("status", {"status": _STATUS, "commit": _MAYBE, "envelope": lambda _: False})),
    (3, ("status", {"status": _one_of(422, 429), "commit": _MAYBE, "html": lambda _: True})),
    (3, ("status", {"status": lambda _: 422, "commit": _MAYBE})),
    (4, ("rate_limit", {"retry_after": _one_of(0, 1, 30, 3600, None), "commit": _MAYBE})),
    (4, ("success_false", {"commit": _MAYBE})),
    (2, ("status", {"status": lambda _: 200, "body": lambda _: _YES, "commit": _MAYBE})),
    (3, ("html", {"commit": _MAYBE})),
    (2, ("interim", {"commit": _MAYBE, "count": lambda _: 3})),
    (2, ("redirect", {"commit": _MAYBE})),
    (2, ("invalid_json", {})),
    (2, ("empty", {})),
    (1, ("nan", {})),
    (3, ("duplicate_keys", {})),
    (4, ("wrong_customer", {})),
    (6, ("drop_field", {"field": _FIELD})),
    (3, ("extra_field", {"field": _LIE})),
    (2, ("extra_field", {"field": lambda _: "status_name", "value": _one_of("Cancelled", "Refunded", "Unheard of")})),
    (1, ("extra_field", {"field": lambda _: "order_creation_status", "value": lambda _: "basket"})),
    (4, ("two_answers", {})),
    (4, ("stale_nonce", {})),
)
_ON_READ: Table = (
    (4, ("drop_before_read", {"reset": _MAYBE})),
    (4, ("delay", {"seconds": _SOON_OR_TOO_LATE})),
    (3, ("delay_after_commit", {"seconds": _SOON_OR_TOO_LATE})),
    (2, ("hang", {})),
    (3, ("truncate", {"chunked": _MAYBE, "keep": _one_of(0.0, 0.5, 0.99)})),
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
    (3, ("extra_field", {"field": _LIE})),
    (3, ("two_answers", {})),
    (2, ("stale_nonce", {})),
)
_ON_CLEAR: Table = (
    (2, ("drop_before_read", {"reset": _MAYBE})),
    (3, ("drop_after_commit", {"reset": _MAYBE})),
    (2, ("status", {"status": _STATUS, "commit": _MAYBE})),
    (1, ("status", {"status": _STATUS, "commit": _MAYBE, "envelope": lambda _: False})),
    (1, ("success_false", {"commit": _MAYBE})),
    (2, ("status", {"status": lambda _: 200, "body": lambda _: _YES, "commit": _MAYBE})),
    (1, ("wrong_customer", {})),
    (1, ("drop_field", {"field": _FIELD})),
)
