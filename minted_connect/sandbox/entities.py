"""What the shop remembers: customers, baskets and orders. Moments are microseconds since 1970."""

from decimal import Decimal
from typing import Any, TypeVar, cast

from attrs import asdict, define, evolve, field, frozen

from .json_codec import Object
from .pricing import FeeSchedule, Figures, Kind, Line


@define
class Customer:
    """An end customer of one partner. `external_id` is None once it was removed."""

    id: int
    partner: str
    external_id: str | None
    created: int
    updated: int
    person: dict[str, str | None] = field(factory=dict[str, str | None], repr=False)
    holdings: dict[str, int] = field(factory=dict[str, int])

    @property
    def fullname(self) -> str:
        """First, middle and last name, as far as there are any."""
        names = (self.person.get(part) for part in ("firstname", "middlename", "lastname"))
        return " ".join(name for name in names if name)


@define
class Item:
    """A line of an open basket: so many pieces of a product."""

    sku: str
    amount: int


@define
class Basket:
    """An open basket. Its prices are those of the moment `priced`; `refreshed` until the next response only.

    `locked` is when its price lock began; None: with the prices.
    """

    id: int
    guid: str
    increment_id: str
    token: str
    price_token: str
    partner: str
    customer: int
    kind: Kind
    created: int
    priced: int
    touched: int
    items: list[Item] = field(factory=list[Item])
    refreshed: bool = False
    locked: int | None = None

    @property
    def lock_began(self) -> int:
        """When the price lock began, microseconds since 1970."""
        return self.priced if self.locked is None else self.locked


@frozen
class AcceptedBasket:
    """A basket as it was when the request to complete it came in, and that moment."""

    basket: Basket
    moment: int


def _decimals(values: dict[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(value) for name, value in values.items()}


@define
class OrderLine:
    """A line of an order, with the prices it was completed at (AED a piece, and spot AED a gram)."""

    sku: str
    amount: int
    price: Decimal = field(converter=Decimal)
    minting: Decimal = field(converter=Decimal)
    spot: Decimal = field(converter=Decimal)

    def priced(self) -> Line:
        """Return the line as fees see it."""
        return Line(self.price, self.amount)


@define
class Order:
    """A completed basket. `ordered` is the basket's own moment, `completed` when it became an order.

    `status` is the name of a status that was set by hand; None while the order runs its course.
    """

    id: int
    guid: str
    increment_id: str
    token: str
    price_token: str
    partner: str
    customer: int
    external_customer_id: str
    kind: Kind
    ordered: int
    completed: int
    code: str
    person: dict[str, str | None] = field(repr=False)
    lines: list[OrderLine]
    figures: Figures
    rates: FeeSchedule
    shipping: Object | None = field(default=None, repr=False)
    status: str | None = None


Entity = Customer | Basket | Order
_Entity = TypeVar("_Entity", bound=Entity)


def pack(entity: Entity) -> dict[str, Any]:
    """Turn an entity into what JSON can hold."""
    return asdict(entity)


def copy_of(entity: _Entity) -> _Entity:
    """Return a copy that no later change of the original reaches."""
    copy: Entity
    if isinstance(entity, Customer):
        copy = evolve(entity, person=dict(entity.person), holdings=dict(entity.holdings))
    elif isinstance(entity, Basket):
        copy = evolve(entity, items=[evolve(item) for item in entity.items])
    else:
        copy = evolve(cast("Order", entity))  # of an order only the status changes
    return cast("_Entity", copy)


def unpack_customer(data: dict[str, Any]) -> Customer:
    """Undo `pack`."""
    return Customer(**data)


def unpack_basket(data: dict[str, Any]) -> Basket:
    """Undo `pack`."""
    return evolve(Basket(**data), items=[Item(**item) for item in data["items"]])


def unpack_order(data: dict[str, Any]) -> Order:
    """Undo `pack`."""
    parts: dict[str, Any] = {
        "lines": [OrderLine(**line) for line in data["lines"]],
        "figures": Figures(**_decimals(data["figures"])),
        "rates": FeeSchedule(**data["rates"]),
    }
    return Order(**{**data, **parts})
