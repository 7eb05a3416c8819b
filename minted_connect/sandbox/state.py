"""The state of a shop and all that can be read from it; `Shop` changes it, `Replica` lags behind.

Where the vendor's behaviour is not known it is a working assumption, named where it is made.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from .catalogue import Product
from .clock import Clock, elapsed
from .entities import Basket, Customer, Entity, Order, OrderLine
from .errors import Rules, ShopError
from .pricing import METALS, Figures, Line, Metal, PriceWalk, Quote, fees, minting_price
from .statuses import COURSES, id_of_status

SECOND = 1_000_000
_FREE_STORAGE_GRAMS = 50_000  # "50 kg of gold and/or silver", the vendor's example (api-27307650)
_DAY = 86_400 * SECOND
_DELIVERY_DAYS = 4  # between order_at and estimated_arrival_date in the one example (api-27307650)


class ShopTime:
    """The shop's own time: the wall time at its start plus what the clock's `elapsed()` measured since.

    A wall clock that jumps is the client's trouble, and a server does not sleep with the client's machine: locks and
    prices run on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began: int = round(clock.wall().timestamp() * SECOND)
        self._elapsed = elapsed(clock)

    def now(self) -> int:
        """Return the moment, microseconds since 1970."""
        return self.began + round((elapsed(self._clock) - self._elapsed) * SECOND)


class ShopState:
    """Customers, baskets, orders and prices, to be read.

    Args:
        rules: behaviour.
        products: the catalogue.
        time: the shop's own time.
        walk: the prices.
    """

    def __init__(self, rules: Rules, products: tuple[Product, ...], time: ShopTime, walk: PriceWalk) -> None:
        self.rules: Rules = rules
        self.products = products
        self.by_sku: dict[str, Product] = {product.sku: product for product in products}
        self.time: ShopTime = time
        self.walk: PriceWalk = walk
        self._customers: dict[int, Customer] = {}
        self._known: dict[tuple[str, str], Customer] = {}
        self._baskets: dict[str, Basket] = {}
        self._carts: dict[int, dict[str, Basket]] = {}
        self._orders: dict[int, Order] = {}
        self._used: dict[str, Order] = {}

    def put(self, entity: Entity) -> None:
        """Add an entity, or replace the one with its id."""
        if isinstance(entity, Order):
            self._orders[entity.id] = entity
            self._used.setdefault(entity.token, entity)
        elif isinstance(entity, Basket):
            self._baskets[entity.token] = entity
            self._carts.setdefault(entity.customer, {})[entity.token] = entity
        else:
            before = self._customers.get(entity.id)
            if before is not None and before.external_id is not None:
                self._known.pop((before.partner, before.external_id), None)
            self._customers[entity.id] = entity
            if entity.external_id is not None:
                self._known[entity.partner, entity.external_id] = entity

    def drop(self, token: str) -> None:
        """Take away an open basket, if it is there."""
        basket = self._baskets.pop(token, None)
        if basket is not None:
            self._carts[basket.customer].pop(token, None)

    # Reading the truth, for tests.

    @property
    def orders(self) -> list[Order]:
        """Every order of every partner, oldest first."""
        return list(self._orders.values())

    @property
    def baskets(self) -> list[Basket]:
        """Every open basket of every partner, oldest first."""
        return list(self._baskets.values())

    @property
    def customers(self) -> list[Customer]:
        """Every customer of every partner, oldest first, removed ids too."""
        return list(self._customers.values())

    def holdings(self, customer_id: str, partner: str | None = None) -> dict[str, int]:
        """Return pieces held per sku; `partner` is only needed when several know such a customer."""
        for customer in self.customers:
            if customer.external_id == customer_id and partner in (None, customer.partner):
                return {sku: pieces for sku, pieces in customer.holdings.items() if pieces}
        raise KeyError(customer_id)

    # Time and prices.

    def now(self) -> int:
        """Return the shop's time, microseconds since 1970."""
        return self.time.now()

    def moment(self) -> int:
        """Return the moment whose state is read here, microseconds since 1970."""
        return self.now()

    def quote(self, metal: Metal, moment: int | None = None) -> Quote:
        """Return the prices per gram, now or at a moment."""
        return self.walk.quote(metal, self.now() if moment is None else moment)

    def metals(self, types: list[str] | None) -> list[Metal]:
        """Return the item currencies of some metal types, or all."""
        return [metal for metal in METALS if types is None or metal.metal_type in types]

    # Customers and baskets.

    def customer(self, partner: str, external_id: str) -> Customer:
        """Return a customer, or raise the 404 of a look-up."""
        found = self.find_customer(partner, external_id)
        if found is None:
            raise ShopError(404, "not_found")
        return found

    def find_customer(self, partner: str, external_id: str) -> Customer | None:
        """Return a customer, or None."""
        return self._known.get((partner, external_id))

    def active_basket(self, customer: Customer, token: str | None = None) -> Basket | None:
        """Return the open basket that was used last; None without one. With a `token`, only that basket will do."""
        mine = [one for one in self._carts_of(customer) if token is None or one.token == token]
        return max(mine, key=lambda one: (one.touched, one.id), default=None)

    def remaining(self, basket: Basket) -> int:
        """Return the whole seconds left of the price lock; negative once it is over."""
        return (self.lock_end(basket) - self.now()) // SECOND

    def lock_end(self, basket: Basket) -> int:
        """Return when the price lock ends, microseconds since 1970."""
        return basket.lock_began + round(self.rules.lock_seconds * SECOND)

    def lines(self, basket: Basket) -> list[OrderLine]:
        """Return the lines with the locked prices."""
        lines: list[OrderLine] = []
        for item in basket.items:
            product = self.by_sku[item.sku]
            quote = self.quote(product.metal, basket.priced)
            price = quote.piece(basket.kind, product.weight)
            minting = minting_price(price, self.rules.rates) if basket.kind == "buy" else Decimal(0)
            lines.append(OrderLine(item.sku, item.amount, price, minting, quote.spot))
        return lines

    def figures(self, basket: Basket, lines: list[OrderLine]) -> Figures:
        """Return the money of an open basket."""
        rates = self.rules.rates
        if basket.kind == "buy" and self.rules.storage_free and self._under_limit(basket):
            rates = rates.without_storage()
        return fees(basket.kind, [Line(line.price, line.amount) for line in lines], rates)

    # Orders.

    def status(self, order: Order) -> tuple[int, str]:
        """Return id and name of the status an order has reached by now, or was put into."""
        steps = COURSES[order.kind]
        step = (self.moment() - order.completed) // max(1, round(self.rules.status_interval * SECOND))
        name = order.status or steps[min(step, len(steps) - 1)]
        return id_of_status(name), name

    def arrival(self, order: Order, *, shipped: bool) -> int:
        """Return when a delivery is expected to arrive, microseconds since 1970.

        Working assumption (unverified): it can be put off. Here it is once, by a day, half a status after shipping.
        """
        put_off = (COURSES["delivery"].index("Shipped") + 0.5) * self.rules.status_interval * SECOND
        late = shipped and self.moment() - order.completed >= put_off
        return order.completed + (_DELIVERY_DAYS + late) * _DAY

    def orders_of(self, partner: str) -> list[Order]:
        """Return a partner's orders as far as Get Orders shows them already, oldest first."""
        latest = self.moment() - round(self.rules.orders_lag * SECOND)
        return [o for o in self._orders.values() if o.partner == partner and o.completed <= latest]

    def blocked(self, customer: Customer, sku: str) -> int:
        """Return the pieces in the customer's open sell and delivery baskets.

        Working assumption (unverified): these are what Balance means by "in open orders".
        """
        mine = (basket for basket in self._carts_of(customer) if basket.kind != "buy")
        return sum(item.amount for basket in mine for item in basket.items if item.sku == sku)

    # Inside.

    def _carts_of(self, customer: Customer) -> Iterable[Basket]:
        return self._carts.get(customer.id, {}).values()

    def _under_limit(self, basket: Basket) -> bool:
        held = self._customers[basket.customer].holdings
        grams = sum((self.by_sku[sku].weight * pieces for sku, pieces in held.items()), Decimal(0))
        grams += sum((self.by_sku[item.sku].weight * item.amount for item in basket.items), Decimal(0))
        return grams <= _FREE_STORAGE_GRAMS


def at(moment: int) -> datetime:
    """Return a moment as an aware UTC datetime, exact to the microsecond."""
    return datetime.fromtimestamp(moment // SECOND, UTC).replace(microsecond=moment % SECOND)
