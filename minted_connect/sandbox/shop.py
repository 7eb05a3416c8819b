"""The shop behind the counter: customers, baskets, orders, wallets and prices. No HTTP in here.

Where the vendor's behaviour is not known it is a working assumption, named where it is made.
"""

import random
import secrets
import string
import uuid
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from attrs import evolve

from .catalogue import PRODUCTS, Product
from .clock import Clock
from .entities import (
    AcceptedBasket,
    Basket,
    Customer,
    Entity,
    Item,
    Order,
    OrderLine,
    copy_of,
    pack,
    unpack_basket,
    unpack_customer,
    unpack_order,
)
from .errors import Rules, ShopError, invalid
from .json_codec import Object
from .pricing import Kind, PriceWalk
from .replica import Replica
from .state import SECOND, ShopState, ShopTime
from .store import Store

_TOKEN = string.ascii_letters + string.digits
_FIRST_BASKET, _FIRST_ADDRESS = 10984, 1931
_FIRST_ORDER = 500_001  # of those that are numbered apart


class Shop(ShopState):
    """All state of the sandbox, of all partners.

    Args:
        clock: time.
        seed: of ids, tokens and prices; the same seed and the same calls give the same responses. None draws one.
        state: SQLite file to live in; None for memory. The seed in it is the one that counts.
        rules: behaviour.
        products: the catalogue.

    Attributes:
        seed: the one that is used.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int | None = None,
        state: str | PathLike[str] | None = None,
        rules: Rules | None = None,
        products: tuple[Product, ...] = PRODUCTS,
    ) -> None:
        time = ShopTime(clock)
        rules = rules or Rules()
        self._store = Store(state) if state is not None else None
        self._replica: Replica | None = None
        meta = self._load_meta(seed, time.began)
        self.seed: int = meta["seed"]
        self._random = random.Random(f"{self.seed}/{meta['starts']}")
        super().__init__(rules, products, time, PriceWalk(self.seed, meta["anchor"] / SECOND, rules.price_interval))
        if rules.reads_lag:
            self._replica = Replica(self)
        self._load()

    def reads(self) -> ShopState:
        """Return the state that reads are served from: the replica if `Rules.reads_lag` asks for one, else the shop."""
        if self._replica is None:
            return self
        self._replica.catch_up()
        return self._replica

    def give(self, customer_id: str, sku: str, pieces: int, partner: str | None = None) -> None:
        """Put pieces into a wallet without an order, to set a scene."""
        for customer in self.customers:
            if customer.external_id == customer_id and partner in (None, customer.partner):
                customer.holdings[self.by_sku[sku].sku] = customer.holdings.get(sku, 0) + pieces
                self._save(customer)
                return
        raise KeyError(customer_id)

    def set_status(self, order_id: int, name: str | None) -> None:
        """Put an order into a status, such as `Cancelled`, where it stays; None lets it run its course again.

        Only the status: the wallet stays as it is. Any word will do, as the vendor may use words that are not known;
        `statuses.FAILING` has those that say an order failed.
        """
        if name is not None and not str(name).strip():
            raise ValueError("name must be the name of a status, such as 'Cancelled', or None")
        order = self._orders[order_id]
        order.status = None if name is None else str(name)  # an enum of strings would not be JSON
        self._save(order)

    # Customers.

    def create_customer(self, partner: str, external_id: str, person: dict[str, str | None]) -> Customer:
        """Add a customer. Working assumption (S8): a known `external_id` is a 422."""
        if (partner, external_id) in self._known:
            raise invalid("external_id", "taken", field="external_id")
        now = self.now()
        customer = Customer(len(self._customers) + 1, partner, external_id, now, now, person)
        self.put(customer)
        self._save(customer)
        return customer

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
        basket = super().active_basket(customer, token)
        if basket is not None:
            self._refresh(basket, may_restart=True)
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
        self._refresh(basket, may_restart=True)
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

    # Orders.

    def accept(self, customer: Customer, token: str) -> AcceptedBasket | None:
        """Return a copy of an open basket, to be completed later as it is now; None if it is not open."""
        basket = self._baskets.get(token)
        if basket is None or basket.customer != customer.id:
            return None
        copy, now = copy_of(basket), self.now()
        if now >= self.lock_end(copy) and self.rules.late_complete == "reprice":
            copy.priced, copy.locked, copy.price_token = now, None, self._draw()
        return AcceptedBasket(copy, now)

    def complete(
        self,
        kind: Kind,
        customer: Customer,
        token: str,
        shipping: Object | None = None,
        accepted: AcceptedBasket | None = None,
    ) -> Order:
        """Turn a basket into an order; what a used token does is `Rules.single_shot` (questions Q1 and Q2).

        With `accepted`, that copy is completed even if the basket was changed meanwhile, unless its token is used.
        """
        used = None if self.rules.single_shot else self._used.get(token)
        if used is not None and (used.customer, used.kind) == (customer.id, kind):
            return self._order_again(used, customer)
        if accepted is None or token in self._used:
            basket, moment = self._basket(customer, token), self.now()
        else:
            basket, moment = accepted.basket, accepted.moment
        if basket.kind != kind:
            raise invalid("cart_token", "kind")
        if not basket.items:
            raise invalid("cart_token", "empty")
        if moment >= self.lock_end(basket) and self.rules.late_complete == "refuse":
            raise invalid("cart_token", "expired")
        if accepted is None:
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
        self.drop(basket.token)
        self._book(order, customer)
        self._save(order, customer, dropped=[basket.token])
        return order

    def close(self) -> None:
        """Close the state file, if there is one."""
        if self._store:
            self._store.close()
            self._store = None

    # Inside.

    def _load_meta(self, seed: int | None, began: int) -> dict[str, Any]:
        # Drawn from the system: a sandbox that was restarted must not look like the one before.
        drawn = secrets.randbits(32) if seed is None else seed
        meta: dict[str, Any] = {"seed": drawn, "starts": 0, "anchor": began}
        if self._store is None:
            return meta
        for found in self._store.load("meta"):
            # A restart goes on with the same walk, but must not draw the same tokens again.
            meta = {**found, "starts": found["starts"] + 1}
        self._store.put([("meta", "meta", meta)])
        return meta

    def _load(self) -> None:
        if self._store is None:
            return
        found: list[Entity] = [
            *map(unpack_customer, self._store.load("customer")),
            *map(unpack_basket, self._store.load("basket")),
            *map(unpack_order, self._store.load("order")),
        ]
        for entity in found:
            self.put(entity)
        if self._replica is not None:
            self._replica.record(found, at_once=True)

    def _save(self, *entities: Entity, dropped: Sequence[str] = ()) -> None:
        """Commit a change: every change of the state passes here."""
        if self._replica is not None:
            self._replica.record(entities, dropped)
        if self._store is None:
            return
        rows: list[tuple[str, str, dict[str, Any]]] = []
        for entity in entities:
            key = entity.token if isinstance(entity, Basket) else str(entity.id)
            rows.append((type(entity).__name__.lower(), key, pack(entity)))
        self._store.put(rows, [("basket", token) for token in dropped])

    def _product(self, sku: str) -> Product:
        try:
            return self.by_sku[sku]
        except KeyError:
            raise invalid("sku", "choice", field="sku") from None

    def _open(self, customer: Customer, kind: Kind) -> Basket | None:
        return next((basket for basket in self._carts_of(customer) if basket.kind == kind), None)

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
        self.put(basket)
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
        self.put(order)

    def _order_number(self) -> int:
        """Return the number of an order that has not the one of its basket."""
        return _FIRST_ORDER + len(self._orders)

    def _code(self) -> str:
        return "".join(self._random.choices(string.ascii_uppercase + string.digits, k=8))

    def _draw(self) -> str:
        return "".join(self._random.choices(_TOKEN, k=32))

    def _refresh(self, basket: Basket, *, may_restart: bool = False) -> None:
        """Re-price a basket whose lock is over; the vendor's reads seem to do that too (6.13, inferred).

        With `may_restart`, `Rules.lock_restart` decides whether a running lock restarts.
        """
        now, limit = self.now(), self.rules.lock_restart
        is_over = now >= self.lock_end(basket)
        restarts = may_restart and limit is not None and now - basket.lock_began >= round(limit * SECOND)
        basket.refreshed = is_over or (restarts and self.rules.lock_restart_reprices)
        if basket.refreshed:
            basket.priced, basket.locked = now, None
        elif restarts:
            basket.locked = now
        if is_over or restarts:
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


def _pieces(lines: Iterable[Item | OrderLine]) -> dict[str, int]:
    """Return the pieces per sku, whatever lines they are split into."""
    pieces: dict[str, int] = {}
    for line in lines:
        pieces[line.sku] = pieces.get(line.sku, 0) + line.amount
    return pieces
