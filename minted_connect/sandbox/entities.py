"""The entities of the shop: customers, baskets and orders. Moments are microseconds since 1970."""

# ruff: noqa: RUF001 - Turkish has a dotless i

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TypeVar, cast

from attrs import asdict, define, evolve, field, frozen

from .json_codec import Object
from .pricing import FeeSchedule, Figures, Line, OrderKind


def format_fullname(person: dict[str, str | None]) -> str:
    """Return first, middle and last name, those that are known."""
    names = (person.get(part) for part in ("firstname", "middlename", "lastname"))
    return " ".join(name for name in names if name)


@define
class Customer:
    """An end customer of one partner. `external_id` is None once the partner has removed the customer."""

    id: int
    partner: str
    external_id: str | None
    created: int
    updated: int
    person: dict[str, str | None] = field(factory=dict[str, str | None], repr=False)
    holdings: dict[str, int] = field(factory=dict[str, int])

    @property
    def fullname(self) -> str:
        """First, middle and last name, those that are known."""
        return format_fullname(self.person)


@define
class LineItem:
    """A line of an open basket: a product and a number of pieces."""

    sku: str
    amount: int


@define
class Basket:
    """An open basket.

    Attributes:
        priced: the moment whose prices it has.
        locked: the moment at which its price lock was restarted without new prices; None if it was not.
        touched: the moment of its last change.
        refreshed: whether the request in progress has re-priced it.
    """

    id: int
    guid: str
    increment_id: str
    token: str
    price_token: str
    partner: str
    customer: int
    kind: OrderKind
    created: int
    priced: int
    touched: int
    items: list[LineItem] = field(factory=list[LineItem])
    refreshed: bool = False
    locked: int | None = None

    @property
    def lock_began(self) -> int:
        """The moment at which the price lock began."""
        return self.priced if self.locked is None else self.locked


@frozen
class AcceptedBasket:
    """A basket as it was when the request to complete it was accepted, and the moment of that."""

    basket: Basket
    moment: int


@define
class OrderLine:
    """A line of an order with its prices: AED a piece, and the spot price in AED a gram."""

    sku: str
    amount: int
    price: Decimal = field(converter=Decimal)
    minting: Decimal = field(converter=Decimal)
    spot: Decimal = field(converter=Decimal)

    def priced(self) -> Line:
        """Return the line as the fees need it."""
        return Line(self.price, self.amount)


@define
class Order:
    """A completed basket.

    Attributes:
        ordered: the moment at which the basket was created.
        completed: the moment at which it became an order.
        status: name of the status that a test set; None for the status that its age gives.
    """

    id: int
    guid: str
    increment_id: str
    token: str
    price_token: str
    partner: str
    customer: int
    external_customer_id: str
    kind: OrderKind
    ordered: int
    completed: int
    code: str
    person: dict[str, str | None] = field(repr=False)
    lines: list[OrderLine]
    figures: Figures
    fees: FeeSchedule
    shipping: Object | None = field(default=None, repr=False)
    status: str | None = None


Entity = Customer | Basket | Order
_Entity = TypeVar("_Entity", bound=Entity)


def pack(entity: Entity) -> dict[str, Any]:
    """Return an entity as a JSON object."""
    return asdict(entity)


def copy_entity(entity: _Entity) -> _Entity:
    """Return a copy that later changes of the original do not affect."""
    copy: Entity
    if isinstance(entity, Customer):
        copy = evolve(entity, person=dict(entity.person), holdings=dict(entity.holdings))
    elif isinstance(entity, Basket):
        copy = evolve(entity, items=[evolve(item) for item in entity.items])
    else:
        copy = evolve(cast("Order", entity))  # only the status of an order changes
    return cast("_Entity", copy)


def unpack_customer(data: dict[str, Any]) -> Customer:
    """Return a customer from its JSON object."""
    return Customer(**data)


def unpack_basket(data: dict[str, Any]) -> Basket:
    """Return a basket from its JSON object."""
    return evolve(Basket(**data), items=[LineItem(**item) for item in data["items"]])


def unpack_order(data: dict[str, Any]) -> Order:
    """Return an order from its JSON object."""
    figures = {name: Decimal(value) for name, value in data["figures"].items()}
    parts: dict[str, Any] = {
        "lines": [OrderLine(**line) for line in data["lines"]],
        "figures": Figures(**figures),
        "fees": FeeSchedule(**data["fees"]),
    }
    return Order(**{**data, **parts})


def count_pieces(lines: Iterable[LineItem | OrderLine]) -> dict[str, int]:
    """Return the number of pieces of each sku, summed over the lines."""
    pieces: dict[str, int] = {}
    for line in lines:
        pieces[line.sku] = pieces.get(line.sku, 0) + line.amount
    return pieces


STATUSES: dict[str, int] = {
    "Created": 1,
    "Pending": 2,
    "Processing": 3,
    "Cancelled": 4,
    "Completed": 5,
    "Preparing": 6,
    "Packed": 7,
    "Shipped": 8,
    "Transferring": 9,
    "Refunding": 10,
    "Refunded": 11,
    "Payment Confirmed": 12,
}
"""Name -> id of an order status. The ids from 3 on are unverified (evidence guide, "Enums and ids")."""

FAILING: dict[str, int] = {
    "Cancelled": 4,
    "Canceled": 4,
    "Failed": 13,
    "Rejected": 14,
    "Declined": 15,
    "Refused": 16,
    "Expired": 17,
    "Voided": 18,
    "Refunded": 11,
    "İptal": 4,
    "İptal Edildi": 4,
    "Başarısız": 13,
    "Reddedildi": 14,
    "Onaylanmadı": 15,
    "Süresi Doldu": 17,
    "İade": 11,
    "İade Edildi": 11,
}
"""Name -> id of the statuses of failed orders.

Working assumption: it is not known which of these words the vendor uses, and the ids from 13 on are invented.
"""

_UNKNOWN_STATUS = 99


def id_of_status(name: str) -> int:
    """Return the id of a status; all unknown names have the same id."""
    return STATUSES.get(name, FAILING.get(name, _UNKNOWN_STATUS))


COURSES: dict[str, tuple[str, ...]] = {
    "buy": ("Pending", "Processing", "Completed"),
    "sell": ("Pending", "Processing", "Completed"),
    "delivery": ("Pending", "Preparing", "Packed", "Shipped", "Completed"),
}
"""Kind of order -> its statuses in order, one each `status_interval`."""
