"""The state of a shop, to be read. `Shop` changes it, `Replica` is a delayed copy.

Behaviour of the vendor that is not known is a working assumption, marked where it is made.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from .catalogue import Product
from .clock import Clock, elapsed
from .entities import COURSES, Basket, Customer, Entity, Order, OrderLine, id_of_status
from .errors import ShopError
from .pricing import METALS, Figures, Line, Metal, PriceWalk, Quote, compute_figures, compute_minting_price
from .settings import Rules

SECOND = 1_000_000  # in microseconds, the unit of moments
_FREE_STORAGE_GRAMS = 50_000  # "50 kg of gold and/or silver" in the vendor's example (api-27307650)
_DAY = 86_400 * SECOND
_DELIVERY_DAYS = 4  # between order_at and estimated_arrival_date in the one example (api-27307650)


class ShopTime:
    """The shop's time: the wall time at its start plus the clock's `elapsed()` since.

    A jump of the client's wall clock does not move it, and a suspended client machine does not stop it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began: int = round(clock.wall().timestamp() * SECOND)
        self._start = elapsed(clock)

    def now(self) -> int:
        """Return the present moment, microseconds since 1970."""
        return self.began + round((elapsed(self._clock) - self._start) * SECOND)


class ShopState:
    """Customers, baskets, orders and prices.

    Args:
        rules: the options for behaviour of the vendor that is not known or varies.
        products: the catalogue.
        time: the shop's time.
        walk: the prices.
    """

    def __init__(self, rules: Rules, products: tuple[Product, ...], time: ShopTime, walk: PriceWalk) -> None:
        self.rules: Rules = rules
        self.products = products
        self.by_sku: dict[str, Product] = {product.sku: product for product in products}
        self.time: ShopTime = time
        self.walk: PriceWalk = walk
        self._customers: dict[int, Customer] = {}
        self._customers_by_external_id: dict[tuple[str, str], Customer] = {}
        self._baskets: dict[str, Basket] = {}
        self._baskets_by_customer: dict[int, dict[str, Basket]] = {}
        self._orders: dict[int, Order] = {}
        self._orders_by_token: dict[str, Order] = {}
        self.unlisted: set[int] = set()

    def put(self, entity: Entity) -> None:
        """Add an entity, or replace the one with its id."""
        if isinstance(entity, Order):
            self._orders[entity.id] = entity
            self._orders_by_token.setdefault(entity.token, entity)
        elif isinstance(entity, Basket):
            self._baskets[entity.token] = entity
            self._baskets_by_customer.setdefault(entity.customer, {})[entity.token] = entity
        else:
            before = self._customers.get(entity.id)
            if before is not None and before.external_id is not None:
                self._customers_by_external_id.pop((before.partner, before.external_id), None)
            self._customers[entity.id] = entity
            if entity.external_id is not None:
                self._customers_by_external_id[entity.partner, entity.external_id] = entity

    def drop(self, token: str) -> None:
        """Remove an open basket, if it exists."""
        basket = self._baskets.pop(token, None)
        if basket is not None:
            self._baskets_by_customer[basket.customer].pop(token, None)

    # All partners, for tests.

    @property
    def orders(self) -> list[Order]:
        """All orders of all partners, oldest first."""
        return list(self._orders.values())

    @property
    def baskets(self) -> list[Basket]:
        """All open baskets of all partners, oldest first."""
        return list(self._baskets.values())

    @property
    def customers(self) -> list[Customer]:
        """All customers of all partners, oldest first, those with a removed id included."""
        return list(self._customers.values())

    def holdings(self, customer_id: str, partner: str | None = None) -> dict[str, int]:
        """Return the pieces held of each sku. Give `partner` if several partners have such a customer.

        Raises:
            KeyError: if there is no such customer.
        """
        for customer in self.customers:
            if customer.external_id == customer_id and partner in (None, customer.partner):
                return {sku: pieces for sku, pieces in customer.holdings.items() if pieces}
        raise KeyError(customer_id)

    # Time and prices.

    def now(self) -> int:
        """Return the shop's time, microseconds since 1970."""
        return self.time.now()

    def moment(self) -> int:
        """Return the moment of this state, microseconds since 1970; `Replica` returns an earlier one."""
        return self.now()

    def quote(self, metal: Metal, moment: int | None = None) -> Quote:
        """Return the prices per gram at a moment, or now."""
        return self.walk.quote(metal, self.now() if moment is None else moment)

    def metals(self, types: list[str] | None) -> list[Metal]:
        """Return the metals of these types, or all."""
        return [metal for metal in METALS if types is None or metal.metal_type in types]

    # Customers and baskets.

    def customer(self, partner: str, external_id: str) -> Customer:
        """Return a customer.

        Raises:
            ShopError: 404 if there is no such customer.
        """
        found = self.find_customer(partner, external_id)
        if found is None:
            raise ShopError(404, "not_found")
        return found

    def find_customer(self, partner: str, external_id: str) -> Customer | None:
        """Return a customer, or None if there is no such customer."""
        return self._customers_by_external_id.get((partner, external_id))

    def active_basket(self, customer: Customer, token: str | None = None) -> Basket | None:
        """Return the open basket that was changed last, or the one with `token`; None if no such basket is open."""
        found = [one for one in self._baskets_of(customer) if token is None or one.token == token]
        return max(found, key=lambda one: (one.touched, one.id), default=None)

    def remaining(self, basket: Basket) -> int:
        """Return the seconds until the price lock expires, rounded down; negative after that."""
        return (self.lock_end(basket) - self.now()) // SECOND

    def lock_end(self, basket: Basket) -> int:
        """Return the moment at which the price lock expires."""
        return basket.lock_began + round(self.rules.lock_seconds * SECOND)

    def lines(self, basket: Basket) -> list[OrderLine]:
        """Return the lines of a basket with their locked prices."""
        lines: list[OrderLine] = []
        for item in basket.items:
            product = self.by_sku[item.sku]
            quote = self.quote(product.metal, basket.priced)
            price = quote.piece(basket.kind, product.weight)
            minting = compute_minting_price(price, self.rules.fees) if basket.kind == "buy" else Decimal(0)
            lines.append(OrderLine(item.sku, item.amount, price, minting, quote.spot))
        return lines

    def figures(self, basket: Basket, lines: list[OrderLine]) -> Figures:
        """Return the amounts of an open basket."""
        fees = self.rules.fees
        if basket.kind == "buy" and self.rules.storage_free and self._has_free_storage(basket):
            fees = fees.without_storage()
        return compute_figures(basket.kind, [Line(line.price, line.amount) for line in lines], fees)

    # Orders.

    def status(self, order: Order) -> tuple[int, str]:
        """Return id and name of the present status of an order."""
        steps = COURSES[order.kind]
        step = (self.moment() - order.completed) // max(1, round(self.rules.status_interval * SECOND))
        name = order.status or steps[min(step, len(steps) - 1)]
        return id_of_status(name), name

    def arrival(self, order: Order, *, shipped: bool) -> int:
        """Return the moment at which a delivery is expected to arrive.

        Working assumption: it can be postponed. Here it is postponed once, by a day, half a `status_interval` after
        shipping.
        """
        postponed = (COURSES["delivery"].index("Shipped") + 0.5) * self.rules.status_interval * SECOND
        is_late = shipped and self.moment() - order.completed >= postponed
        return order.completed + (_DELIVERY_DAYS + is_late) * _DAY

    def orders_of(self, partner: str) -> list[Order]:
        """Return the orders of a partner that Get Orders shows by now, oldest first."""
        latest = self.moment() - round(self.rules.orders_lag * SECOND)
        return [one for one in self._orders.values() if one.partner == partner and one.completed <= latest]

    def blocked(self, customer: Customer, sku: str) -> int:
        """Return the pieces in the customer's open sell and delivery baskets.

        Working assumption: Balance means these by "in open orders".
        """
        baskets = (basket for basket in self._baskets_of(customer) if basket.kind != "buy")
        return sum(item.amount for basket in baskets for item in basket.items if item.sku == sku)

    # Private.

    def _baskets_of(self, customer: Customer) -> Iterable[Basket]:
        return self._baskets_by_customer.get(customer.id, {}).values()

    def _has_free_storage(self, basket: Basket) -> bool:
        held = self._customers[basket.customer].holdings
        grams = sum((self.by_sku[sku].weight * pieces for sku, pieces in held.items()), Decimal(0))
        grams += sum((self.by_sku[item.sku].weight * item.amount for item in basket.items), Decimal(0))
        return grams <= _FREE_STORAGE_GRAMS


def to_datetime(moment: int) -> datetime:
    """Return a moment as an aware datetime in UTC, exact to the microsecond."""
    return datetime.fromtimestamp(moment // SECOND, UTC).replace(microsecond=moment % SECOND)
