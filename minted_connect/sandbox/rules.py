"""How the shop behaves where the vendor's may differ, and how it turns a request down."""

from typing import Literal

from attrs import field, frozen

from .pricing import Rates


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


@frozen(kw_only=True)
class Rules:
    """How this shop behaves where the vendor's shop may behave differently.

    Attributes:
        rates: fees, see `Rates`.
        storage_free: no storage fee while a customer stays under 50 kg of metal.
        lock_seconds: length of a price lock (240 s is inferred, section 3).
        price_interval: seconds between price ticks.
        status_interval: seconds an order stays in one status.
        late_complete: what a completion after the end of the lock does: `refuse` answers 422 on `cart_token`,
            `reprice` completes at the new price. Nobody knows which one is true (question Q3).
        single_shot: a used cart token is a 409. Without, it makes a second order, so that a client that sends twice is
            found out. Nobody knows which one is true (question Q1).
        keep_ids: an order has the `id` of its basket. Without, orders are numbered apart (question Q4).
        orders_lag: seconds before a fresh order shows up in Get Orders and Receipt (question Q5).
        card_payment: buy baskets carry the `payment` object of the Feb 2026 examples, else null as in Mar 2026.
        strict_update: Update Customer insists on the fields that the E-Commerce page calls required.
    """

    rates: Rates = field(factory=Rates)
    storage_free: bool = False
    lock_seconds: float = 240.0
    price_interval: float = 5.0
    status_interval: float = 60.0
    late_complete: Literal["refuse", "reprice"] = "refuse"
    single_shot: bool = True
    keep_ids: bool = True
    orders_lag: float = 0.0
    card_payment: bool = True
    strict_update: bool = False
