"""The shop behind the counter: customers, baskets, orders, wallets and prices. No HTTP in here.

Where the vendor's behaviour is not known it is a working assumption, said where it is made.
"""

import random
import string
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from os import PathLike
from typing import Any

from attrs import evolve

from .catalogue import PRODUCTS, Product
from .clock import Clock
from .entities import (
    Basket,
    Customer,
    Item,
    Order,
    OrderLine,
    pack,
    unpack_basket,
    unpack_customer,
    unpack_order,
)
from .pricing import METALS, Figures, Kind, Line, Metal, PriceWalk, Quote, fees, minting_price
from .rules import Rules, ShopError, invalid
from .statuses import COURSES, STATUSES
from .store import Store
from .wire import Object

SECOND = 1_000_000
_TOKEN = string.ascii_letters + string.digits
_FREE_STORAGE_GRAMS = 50_000  # "50 kg of gold and/or silver", the vendor's example (api-27307650)
_FIRST_BASKET, _FIRST_ADDRESS = 10984, 1931
_FIRST_ORDER = 500_001  # of those that are numbered apart
_DAY = 86_400 * SECOND
_DELIVERY_DAYS = 4  # between order_at and estimated_arrival_date in the one example (api-27307650)


class Shop:
    """All state of the sandbox, of all partners.

    The shop's own time is the wall time at its start plus what `clock.monotonic()` measured since: a wall clock
    that jumps is the client's trouble, locks and prices run on.

    Args:
        clock: time.
        seed: of ids, tokens and prices; the same seed and the same calls give the same answers.
        state: SQLite file to live in; None for memory.
        rules: behaviour.
        products: the catalogue.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 1,
        state: str | PathLike[str] | None = None,
        rules: Rules | None = None,
        products: tuple[Product, ...] = PRODUCTS,
    ) -> None:
        self.rules: Rules = rules or Rules()
        self.products = products
        self.by_sku: dict[str, Product] = {product.sku: product for product in products}
        self._clock = clock
        self._began = round(clock.wall().timestamp() * SECOND)
        self._ticked = clock.monotonic()
        self._customers: dict[int, Customer] = {}
        self._known: dict[tuple[str, str], Customer] = {}
        self._baskets: dict[str, Basket] = {}
        self._carts: dict[int, dict[str, Basket]] = {}
        self._orders: dict[int, Order] = {}
        self._used: dict[str, Order] = {}
        self._store = Store(state) if state is not None else None
        meta = self._load(seed)
        self._random = random.Random(f"{meta['seed']}/{meta['starts']}")
        self.walk: PriceWalk = PriceWalk(meta["seed"], meta["anchor"] / SECOND, self.rules.price_interval)

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

    def holdings(self, external_customer_id: str, partner: str | None = None) -> dict[str, int]:
        """Return pieces held per sku; `partner` is only needed when several know such a customer."""
        for customer in self.customers:
            if customer.external_id == external_customer_id and partner in (None, customer.partner):
                return {sku: pieces for sku, pieces in customer.holdings.items() if pieces}
        raise KeyError(external_customer_id)

    def give(self, external_customer_id: str, sku: str, pieces: int, partner: str | None = None) -> None:
        """Put pieces into a wallet without an order, to set a scene."""
        for customer in self.customers:
            if customer.external_id == external_customer_id and partner in (None, customer.partner):
                customer.holdings[self.by_sku[sku].sku] = customer.holdings.get(sku, 0) + pieces
                self._save(customer)
                return
        raise KeyError(external_customer_id)

    def set_status(self, order_id: int, name: str | None) -> None:
        """Put an order into a status, such as `Cancelled`, where it stays; None lets it run its course again.

        Only the status: the wallet stays as it is.
        """
        if name is not None and name not in STATUSES:
            raise ValueError(f"no such status: {name!r}; there are {', '.join(STATUSES)}")
        order = self._orders[order_id]
        order.status = None if name is None else str(name)  # an enum of strings would not be JSON
        self._save(order)

    # Time and prices.

    def now(self) -> int:
        """Return the shop's time, microseconds since 1970."""
        return self._began + round((self._clock.monotonic() - self._ticked) * SECOND)

    def quote(self, metal: Metal, moment: int | None = None) -> Quote:
        """Return the prices per gram, now or at a moment."""
        return self.walk.quote(metal, self.now() if moment is None else moment)

    def metals(self, types: list[str] | None) -> list[Metal]:
        """Return the item currencies of some metal types, or all."""
        return [metal for metal in METALS if types is None or metal.metal_type in types]

    # Customers.

    def create_customer(self, partner: str, external_id: str, person: dict[str, str | None]) -> Customer:
        """Add a customer. Working assumption (S8): a known `external_id` is a 422."""
        if (partner, external_id) in self._known:
            raise invalid("external_id", "taken", field="external_id")
        now = self.now()
        customer = Customer(len(self._customers) + 1, partner, external_id, now, now, person)
        self._customers[customer.id] = self._known[partner, external_id] = customer
        self._save(customer)
        return customer

    def customer(self, partner: str, external_id: str) -> Customer:
        """Return a customer, or raise the 404 of a look-up."""
        try:
            return self._known[partner, external_id]
        except KeyError:
            raise ShopError(404, "not_found") from None

    def update_customer(self, customer: Customer, changes: dict[str, str | None]) -> None:
        """Change what is given. Working assumption (S9): a partial body passes and null erases."""
        customer.person.update(changes)
        customer.updated = self.now()
        self._save(customer)

    def remove_customer(self, customer: Customer) -> None:
        """Detach the partner's id; it can be used again. Working assumption (S10): never refused."""
        if customer.external_id is not None:
            del self._known[customer.partner, customer.external_id]
        customer.external_id = None
        customer.updated = self.now()
        self._save(customer)

    # Baskets.

    def active_basket(self, customer: Customer, token: str | None = None) -> Basket | None:
        """Return the open basket that was used last, re-priced if its lock is over; None without one.

        With a `token`, only that basket will do.
        """
        mine = [one for one in self._carts_of(customer) if token is None or one.token == token]
        if not mine:
            return None
        basket = max(mine, key=lambda one: (one.touched, one.id))
        self._refresh(basket)
        return basket

    def add_item(
        self, customer: Customer, sku: str, amount: int, *, kind: Kind = "buy", token: str | None = None
    ) -> Basket:
        """Append a line, also when the sku is in the basket already.

        Working assumption (S23): without a token the line goes to the open basket of that kind, or a new one.
        """
        product = self._product(sku)
        basket = self._basket(customer, token) if token is not None else self._open(customer, kind)
        kind = basket.kind if basket else kind
        before = sum(item.amount for item in basket.items if item.sku == sku) if basket else 0
        self._check_amount(customer, product, kind, before + amount)
        basket = basket or self._new_basket(customer, kind)
        self._refresh(basket)
        basket.items.append(Item(sku, amount))
        return self._touched(basket)

    def update_item(self, customer: Customer, token: str, sku: str, amount: int) -> Basket:
        """Set the pieces of a sku; several lines of it become one (S25)."""
        basket = self._basket(customer, token)
        product = self._product(sku)
        places = self._lines_of(basket, sku)
        self._check_amount(customer, product, basket.kind, amount)
        self._refresh(basket)
        basket.items[places[0]].amount = amount
        for place in reversed(places[1:]):
            del basket.items[place]
        return self._touched(basket)

    def delete_item(self, customer: Customer, token: str, sku: str) -> Basket:
        """Remove every line of a sku (S22)."""
        basket = self._basket(customer, token)
        self._product(sku)
        self._lines_of(basket, sku)
        self._refresh(basket)
        basket.items = [item for item in basket.items if item.sku != sku]
        return self._touched(basket)

    def clear(self, customer: Customer, token: str) -> Basket:
        """Empty a basket; token and lock stay, also a lock that is over (S24)."""
        basket = self._basket(customer, token)
        basket.items.clear()
        basket.refreshed = False
        return self._touched(basket)

    def remaining(self, basket: Basket) -> int:
        """Return the whole seconds left of the price lock; negative once it is over."""
        return (self.lock_end(basket) - self.now()) // SECOND

    def lock_end(self, basket: Basket) -> int:
        """Return when the price lock ends, microseconds since 1970."""
        return basket.priced + round(self.rules.lock_seconds * SECOND)

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

    def complete(self, kind: Kind, customer: Customer, token: str, shipping: Object | None = None) -> Order:
        """Turn a basket into an order; what a used token does is `Rules.single_shot` (questions Q1 and Q2)."""
        used = None if self.rules.single_shot else self._used.get(token)
        if used is not None and (used.customer, used.kind) == (customer.id, kind):
            return self._order_again(used, customer)
        basket = self._basket(customer, token)
        if basket.kind != kind:
            raise invalid("cart_token", "kind")
        if not basket.items:
            raise invalid("cart_token", "empty")
        if self.now() >= self.lock_end(basket) and self.rules.late_complete == "refuse":
            raise invalid("cart_token", "expired")
        self._refresh(basket)
        pieces = _pieces(basket.items)
        for sku, amount in pieces.items():
            self._check_amount(customer, self.by_sku[sku], kind, amount)
        lines = self.lines(basket)
        if shipping is not None:
            shipping = {"id": _FIRST_ADDRESS + len(self._orders), **shipping}
        order = Order(
            id=basket.id if self.rules.keep_ids else self._order_number(),
            guid=basket.guid,
            increment_id=basket.increment_id,
            token=basket.token,
            price_token=basket.price_token,
            partner=basket.partner,
            customer=customer.id,
            external_customer_id=customer.external_id or "",
            kind=kind,
            ordered=basket.created,
            completed=self.now(),
            code=self._code(),
            person=dict(customer.person),
            lines=lines,
            figures=self.figures(basket, lines),
            rates=self.rules.rates,
            shipping=shipping,
        )
        del self._baskets[basket.token], self._carts[customer.id][basket.token]
        self._book(order, customer)
        self._save(order, customer, dropped=[("basket", basket.token)])
        return order

    def status(self, order: Order) -> tuple[int, str]:
        """Return id and name of the status an order has reached by now, or was put into."""
        steps = COURSES[order.kind]
        step = (self.now() - order.completed) // max(1, round(self.rules.status_interval * SECOND))
        name = order.status or steps[min(step, len(steps) - 1)]
        return STATUSES[name], name

    def arrival(self, order: Order, *, shipped: bool) -> int:
        """Return when a delivery is expected to arrive, microseconds since 1970.

        Working assumption (unverified): it can be put off. Here it is once, by a day, half a status after shipping.
        """
        put_off = (COURSES["delivery"].index("Shipped") + 0.5) * self.rules.status_interval * SECOND
        late = shipped and self.now() - order.completed >= put_off
        return order.completed + (_DELIVERY_DAYS + late) * _DAY

    def orders_of(self, partner: str) -> list[Order]:
        """Return a partner's orders as far as Get Orders shows them already, oldest first."""
        latest = self.now() - round(self.rules.orders_lag * SECOND)
        return [o for o in self._orders.values() if o.partner == partner and o.completed <= latest]

    def blocked(self, customer: Customer, sku: str) -> int:
        """Return the pieces in the customer's open sell and delivery baskets.

        Working assumption (unverified): these are what Balance means by "in open orders".
        """
        mine = (basket for basket in self._carts_of(customer) if basket.kind != "buy")
        return sum(item.amount for basket in mine for item in basket.items if item.sku == sku)

    def close(self) -> None:
        """Close the state file, if there is one."""
        if self._store:
            self._store.close()
            self._store = None

    # Inside.

    def _load(self, seed: int) -> dict[str, Any]:
        meta: dict[str, Any] = {"seed": seed, "starts": 0, "anchor": self._began}
        if self._store is None:
            return meta
        for found in self._store.load("meta"):
            # A restart goes on with the same walk, but must not draw the same tokens again.
            meta = {**found, "starts": found["starts"] + 1}
        self._store.put([("meta", "meta", meta)])
        for customer in map(unpack_customer, self._store.load("customer")):
            self._customers[customer.id] = customer
            if customer.external_id is not None:
                self._known[customer.partner, customer.external_id] = customer
        for basket in map(unpack_basket, self._store.load("basket")):
            self._keep(basket)
        for order in map(unpack_order, self._store.load("order")):
            self._keep_order(order)
        return meta

    def _save(self, *entities: Customer | Basket | Order, dropped: Sequence[tuple[str, str]] = ()) -> None:
        if self._store is None:
            return
        rows: list[tuple[str, str, dict[str, Any]]] = []
        for entity in entities:
            key = entity.token if isinstance(entity, Basket) else str(entity.id)
            rows.append((type(entity).__name__.lower(), key, pack(entity)))
        self._store.put(rows, dropped)

    def _product(self, sku: str) -> Product:
        try:
            return self.by_sku[sku]
        except KeyError:
            raise invalid("sku", "choice", field="sku") from None

    def _open(self, customer: Customer, kind: Kind) -> Basket | None:
        return next((basket for basket in self._carts_of(customer) if basket.kind == kind), None)

    def _carts_of(self, customer: Customer) -> Iterable[Basket]:
        return self._carts.get(customer.id, {}).values()

    def _keep(self, basket: Basket) -> None:
        self._baskets[basket.token] = basket
        self._carts.setdefault(basket.customer, {})[basket.token] = basket

    def _basket(self, customer: Customer, token: str) -> Basket:
        basket = self._baskets.get(token)
        if basket is not None and basket.customer == customer.id:
            return basket
        order = self._used.get(token)
        if order is not None and order.customer == customer.id:
            raise ShopError(409, "completed")
        raise invalid("cart_token", "choice", field="cart_token")

    def _new_basket(self, customer: Customer, kind: Kind) -> Basket:
        now = self.now()
        basket = Basket(
            id=_FIRST_BASKET + len(self._baskets) + len(self._orders),
            guid=str(uuid.UUID(int=self._random.getrandbits(128), version=4)).upper(),
            increment_id=f"{self._random.randrange(10**11):011}",
            token=self._draw(),
            price_token=self._draw(),
            partner=customer.partner,
            customer=customer.id,
            kind=kind,
            created=now,
            priced=now,
            touched=now,
        )
        self._keep(basket)
        return basket

    def _order_again(self, order: Order, customer: Customer) -> Order:
        """Make a second order of a used basket, at the prices of the first."""
        for sku, amount in _pieces(order.lines).items():
            self._check_amount(customer, self.by_sku[sku], order.kind, amount)
        again = evolve(order, id=self._order_number(), completed=self.now(), code=self._code(), status=None)
        self._book(again, customer)
        self._save(again, customer)
        return again

    def _book(self, order: Order, customer: Customer) -> None:
        """Move the pieces, and keep the order."""
        for sku, amount in _pieces(order.lines).items():
            customer.holdings[sku] = customer.holdings.get(sku, 0) + (amount if order.kind == "buy" else -amount)
        self._keep_order(order)

    def _keep_order(self, order: Order) -> None:
        self._orders[order.id] = order
        self._used.setdefault(order.token, order)

    def _order_number(self) -> int:
        """Return the number of an order that has not the one of its basket."""
        return _FIRST_ORDER + len(self._orders)

    def _code(self) -> str:
        return "".join(self._random.choices(string.ascii_uppercase + string.digits, k=8))

    def _draw(self) -> str:
        return "".join(self._random.choices(_TOKEN, k=32))

    def _refresh(self, basket: Basket) -> None:
        """Re-price a basket whose lock is over; the vendor's reads seem to do that too (6.13, inferred)."""
        now = self.now()
        basket.refreshed = now >= self.lock_end(basket)
        if basket.refreshed:
            basket.priced = now
            basket.price_token = self._draw()
            self._save(basket)

    def _touched(self, basket: Basket) -> Basket:
        basket.touched = self.now()
        self._save(basket)
        return basket

    def _lines_of(self, basket: Basket, sku: str) -> list[int]:
        places = [place for place, item in enumerate(basket.items) if item.sku == sku]
        if not places:
            raise invalid("sku", "no_line", field="sku")
        return places

    def _check_amount(self, customer: Customer, product: Product, kind: Kind, amount: int) -> None:
        if kind == "buy":
            if amount > product.stock:
                raise invalid("qty", "stock")
            return
        if kind == "delivery" and not product.deliverable:
            raise invalid("sku", "undeliverable", field="sku")
        if amount > customer.holdings.get(product.sku, 0):
            raise invalid("qty", "holding")

    def _under_limit(self, basket: Basket) -> bool:
        held = self._customers[basket.customer].holdings
        grams = sum((self.by_sku[sku].weight * pieces for sku, pieces in held.items()), Decimal(0))
        grams += sum((self.by_sku[item.sku].weight * item.amount for item in basket.items), Decimal(0))
        return grams <= _FREE_STORAGE_GRAMS


def _pieces(lines: Iterable[Item | OrderLine]) -> dict[str, int]:
    """Return the pieces per sku, whatever lines they are split into."""
    pieces: dict[str, int] = {}
    for line in lines:
        pieces[line.sku] = pieces.get(line.sku, 0) + line.amount
    return pieces


def at(moment: int) -> datetime:
    """Return a moment as an aware UTC datetime, exact to the microsecond."""
    return datetime.fromtimestamp(moment // SECOND, UTC).replace(microsecond=moment % SECOND)
