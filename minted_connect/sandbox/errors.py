"""How the shop behaves where the vendor's may differ, and how it turns a request down."""

import math
from typing import Any, Literal

from attrs import Attribute, field, frozen
from attrs.validators import optional

from .pricing import FeeSchedule


class ShopError(Exception):
    """A request the shop turns down.

    Attributes:
        status: of the HTTP answer.
        text: key of the message in `texts`.
        fields: field -> (key of a text, its values).
    """

    def __init__(self, status: int, text: str, /, **fields: tuple[str, dict[str, object]]) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.fields = fields


def invalid(name: str, text: str, /, **values: object) -> ShopError:
    """Return the 422 for one field."""
    return ShopError(422, "invalid", **{name: (text, values)})


def _seconds(owner: object, option: "Attribute[Any]", value: object) -> None:
    del owner
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option.name} must be a number of seconds, not {type(value).__name__}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{option.name} must be a finite number of seconds, not negative")


def _seconds_above_zero(owner: object, option: "Attribute[Any]", value: object) -> None:
    _seconds(owner, option, value)
    if not value:
        raise ValueError(f"{option.name} must be more than 0 seconds")


@frozen(kw_only=True)
class Rules:
    """How this shop behaves where the vendor's shop may behave differently.

    Attributes:
        rates: fees, see `FeeSchedule`.
        storage_free: no storage fee while a customer stays under 50 kg of metal.
        lock_seconds: length of a price lock (240 s is inferred, section 3).
        price_interval: seconds between price ticks.
        status_interval: seconds an order stays in one status.
        late_complete: what a completion after the end of the lock does: `refuse` answers 422 on `cart_token`,
            `reprice` completes at the new price. Nobody knows which one is true (question Q3).
        single_shot: a used cart token is a 409. Without, it makes a second order, so that a client that sends twice is
            found out. Nobody knows which one is true (question Q1).
        keep_ids: an order has the `id` of its basket. Without, orders are numbered apart (question Q4).
        lock_restart: age in seconds from which Get Active Basket, or adding a line, restarts a price lock that is still
            running; None: never. Updating a line does not restart it.
        lock_restart_reprices: such a restart also re-prices the basket.
        orders_lag: seconds before a fresh order shows up in Get Orders, Receipt and Get Order Invoice (question Q5).
        reads_lag: seconds that a replica is behind which serves all reads of baskets, orders, receipts, invoices,
            customers and wallets; orders lag `orders_lag` behind that. Responses to changes are never behind.
        card_payment: buy baskets carry the `payment` object of the Feb 2026 examples, else null as in Mar 2026.
        strict_update: Update Customer insists on the fields that the E-Commerce page calls required.
    """

    rates: FeeSchedule = field(factory=FeeSchedule)
    storage_free: bool = False
    lock_seconds: float = 240.0
    price_interval: float = 5.0
    status_interval: float = 60.0
    late_complete: Literal["refuse", "reprice"] = "refuse"
    single_shot: bool = True
    keep_ids: bool = True
    lock_restart: float | None = field(default=None, validator=optional(_seconds_above_zero))
    lock_restart_reprices: bool = False
    orders_lag: float = field(default=0.0, validator=_seconds)
    reads_lag: float = field(default=0.0, validator=_seconds)
    card_payment: bool = True
    strict_update: bool = False
