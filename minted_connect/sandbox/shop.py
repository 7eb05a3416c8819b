"""The shop: creates and changes customers, baskets, orders and wallets. No HTTP.

Behaviour of the vendor that is not known is a working assumption, marked where it is made. S and Q numbers are the
questions of the guides evidence and money-safety.
"""

import random
import secrets
import string
import uuid
from collections.abc import Sequence
from os import PathLike
from typing import Any

from attrs import evolve

from .catalogue import PRODUCTS, Product
from .clock import Clock
from .entities import AcceptedBasket, Basket, Customer, Entity, LineItem, Order, copy_entity, count_pieces
from .errors import ShopError, invalid
from .json_codec import Object
from .pricing import OrderKind, PriceWalk
from .replica import Replica
from .settings import Rules
from .state import SECOND, ShopState, ShopTime
from .store import Store

_TOKEN = string.ascii_letters + string.digits
_FIRST_BASKET, _FIRST_ADDRESS = 10984, 1931
_FIRST_ORDER = 500_001  # if orders are numbered separately


class Shop(ShopState):
    """The state of the sandbox, of all partners.

    Args:
        clock: the clock of the shop.
        seed: seed of ids, tokens and prices; with a `ManualClock` and a new state, the same seed and the same calls
            give the same responses. None draws one.
        state: SQLite file that keeps the state and its seed; None keeps the state in memory.
        rules: the options for behaviour of the vendor that is not known or varies.
        products: the catalogue.

    Attributes:
        seed: the seed in use.
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
        """Return the state that serves reads: the replica if `Rules.reads_lag` is set, else the shop."""
        if self._replica is None:
            return self
        self._replica.catch_up()
        return self._replica

    def give(self, customer_id: str, sku: str, pieces: int, partner: str | None = None) -> None:
        """Add pieces to a wallet without an order, to prepare a test.

        Raises:
            KeyError: if there is no such customer or product.
        """
        for customer in self.customers:
            if customer.external_id == customer_id and partner in (None, customer.partner):
                customer.holdings[self.by_sku[sku].sku] = customer.holdings.get(sku, 0) + pieces
                self._save(customer)
                return
        raise KeyError(customer_id)

    def set_status(self, order_id: int, name: str | None) -> None:
        """Set the status of an order, such as `Cancelled`, until it is set again; None returns to that of its age.

        The wallet does not change. Unknown names are accepted, because not all names of the vendor are known;
        `entities.FAILING` has those of failed orders.

        Raises:
            KeyError: if there is no such order.
            ValueError: if the name is blank.
        """
        if name is not None and not str(name).strip():
            raise ValueError("name must be the name of a status, such as 'Cancelled', or None")
        order = self._orders[order_id]
        order.status = None if name is None else str(name)  # the JSON encoder accepts no subclass of str
        self._save(order)

    def set_listed(self, order_id: int, *, is_listed: bool) -> None:
        """Hide an order from Get Orders, or show it again. A state file does not keep this."""
        if is_listed:
            self.unlisted.discard(order_id)
        else:
            self.unlisted.add(order_id)

    # Customers.

    def create_customer(self, partner: str, external_id: str, person: dict[str, str | None]) -> Customer:
        """Add a customer. Working assumption (S8): an `external_id` that exists is a 422."""
        if (partner, external_id) in self._customers_by_external_id:
            raise invalid("external_id", "taken", field="external_id")
        now = self.now()
        customer = Customer(len(self._customers) + 1, partner, external_id, now, now, person)
        self.put(customer)
        self._save(customer)
        return customer

    def update_customer(self, customer: Customer, changes: dict[str, str | None]) -> None:
        """Change the given fields. Working assumption (S9): a partial body is accepted, and null erases a field."""
        customer.person.update(changes)
        customer.updated = self.now()
        self._save(customer)

    def remove_customer(self, customer: Customer) -> None:
        """Detach the partner's id, which can be used again. Working assumption (S10): this is never refused."""
        if customer.external_id is not None:
            del self._customers_by_external_id[customer.partner, customer.external_id]
        customer.external_id = None
        customer.updated = self.now()
        self._save(customer)

    # Baskets.

    def active_basket(self, customer: Customer, token: str | None = None) -> Basket | None:
        """Return the open basket that was changed last, or the one with `token`; None if no such basket is open.

        If its price lock has expired, it is re-priced, or its lock restarts (`lock_restart`).
        """
        basket = super().active_basket(customer, token)
        if basket is not None:
            self._refresh(basket, may_restart=True)
        return basket

    def add_item(
        self, customer: Customer, sku: str, amount: int, *, kind: OrderKind = "buy", token: str | None = None
    ) -> Basket:
        """Append a line, also if the basket has a line of the sku.

        Working assumption (S23): without a token the line goes to an open basket of that kind, or to a new one.
        """
        product = self._get_product(sku)
        basket = self._get_open(customer, token) if token is not None else self._find_open(customer, kind)
        kind = basket.kind if basket else kind
        before = sum(item.amount for item in basket.items if item.sku == sku) if basket else 0
        self._check_amount(customer, product, kind, before + amount)
        basket = basket or self._new_basket(customer, kind)
        self._refresh(basket, may_restart=True)
        basket.items.append(LineItem(sku, amount))
        return self._save_touched(basket)

    def update_item(self, customer: Customer, token: str, sku: str, amount: int) -> Basket:
        """Set the number of pieces of a sku. Working assumption (S25): several lines of it become one."""
        basket = self._get_open(customer, token)
        product = self._get_product(sku)
        first, *others = self._line_indexes(basket, sku)
        self._check_amount(customer, product, basket.kind, amount)
        self._refresh(basket)
        basket.items[first].amount = amount
        for index in reversed(others):
            del basket.items[index]
        return self._save_touched(basket)

    def delete_item(self, customer: Customer, token: str, sku: str) -> Basket:
        """Remove all lines of a sku (S22)."""
        basket = self._get_open(customer, token)
        self._get_product(sku)
        self._line_indexes(basket, sku)
        self._refresh(basket)
        basket.items = [item for item in basket.items if item.sku != sku]
        return self._save_touched(basket)

    def clear(self, customer: Customer, token: str) -> Basket:
        """Empty a basket. Working assumption (S24): token and price lock stay, also an expired lock."""
        basket = self._get_open(customer, token)
        basket.items.clear()
        basket.refreshed = False
        return self._save_touched(basket)

    # Orders.

    def accept(self, customer: Customer, token: str) -> AcceptedBasket | None:
        """Return a copy of an open basket, which `complete` accepts later; None if it is not open."""
        basket = self._baskets.get(token)
        if basket is None or basket.customer != customer.id:
            return None
        copy, now = copy_entity(basket), self.now()
        if now >= self.lock_end(copy) and self.rules.late_complete == "reprice":
            copy.priced, copy.locked, copy.price_token = now, None, self._draw_token()
        return AcceptedBasket(copy, now)

    def complete(
        self,
        kind: OrderKind,
        customer: Customer,
        token: str,
        shipping: Object | None = None,
        accepted: AcceptedBasket | None = None,
    ) -> Order:
        """Turn a basket into an order. `Rules.single_shot` decides what a used token does (S14).

        With `accepted`, that copy is completed although the basket may have changed since, unless its token is used.
        """
        used = None if self.rules.single_shot else self._orders_by_token.get(token)
        if used is not None and (used.customer, used.kind) == (customer.id, kind):
            return self._order_again(used, customer)
        if accepted is None or token in self._orders_by_token:
            basket, moment = self._get_open(customer, token), self.now()
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
        pieces = count_pieces(basket.items)
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
            code=self._draw_code(),
            person=dict(customer.person),
            lines=lines,
            figures=self.figures(basket, lines),
            fees=self.rules.fees,
            shipping=shipping,
        )
        self.drop(basket.token)
        self._book(order, customer)
        self._save(order, customer, dropped=[basket.token])
        return order

    def close(self) -> None:
        """Close the state file, if there is one. Idempotent."""
        if self._store:
            self._store.close()
            self._store = None

    # Private.

    def _load_meta(self, seed: int | None, began: int) -> dict[str, Any]:
        # A random seed: ids and prices of a sandbox must differ from those of the one before.
        drawn = secrets.randbits(32) if seed is None else seed
        meta: dict[str, Any] = {"seed": drawn, "starts": 0, "anchor": began}
        if self._store is None:
            return meta
        stored = self._store.load_meta()
        if stored is not None:
            # A restart continues the prices, but must not draw the same tokens again.
            meta = {**stored, "starts": stored["starts"] + 1}
        self._store.save_meta(meta)
        return meta

    def _load(self) -> None:
        if self._store is None:
            return
        found = self._store.load()
        for entity in found:
            self.put(entity)
        if self._replica is not None:
            self._replica.record(found, at_once=True)

    def _save(self, *entities: Entity, dropped: Sequence[str] = ()) -> None:
        """Write changed entities to the replica and to the state file. Every change must call this."""
        if self._replica is not None:
            self._replica.record(entities, dropped)
        if self._store is not None:
            self._store.save(entities, dropped)

    def _get_product(self, sku: str) -> Product:
        try:
            return self.by_sku[sku]
        except KeyError:
            raise invalid("sku", "choice", field="sku") from None

    def _find_open(self, customer: Customer, kind: OrderKind) -> Basket | None:
        return next((basket for basket in self._baskets_of(customer) if basket.kind == kind), None)

    def _get_open(self, customer: Customer, token: str) -> Basket:
        basket = self._baskets.get(token)
        if basket is not None and basket.customer == customer.id:
            return basket
        order = self._orders_by_token.get(token)
        if order is not None and order.customer == customer.id:
            raise ShopError(409, "completed")
        raise invalid("cart_token", "choice", field="cart_token")

    def _new_basket(self, customer: Customer, kind: OrderKind) -> Basket:
        now = self.now()
        basket = Basket(
            id=_FIRST_BASKET + len(self._baskets) + len(self._orders),
            guid=str(uuid.UUID(int=self._random.getrandbits(128), version=4)).upper(),
            increment_id=f"{self._random.randrange(10**11):011}",
            token=self._draw_token(),
            price_token=self._draw_token(),
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
        """Make a second order of a completed basket, at the prices of the first."""
        for sku, amount in count_pieces(order.lines).items():
            self._check_amount(customer, self.by_sku[sku], order.kind, amount)
        again = evolve(order, id=self._order_number(), completed=self.now(), code=self._draw_code(), status=None)
        self._book(again, customer)
        self._save(again, customer)
        return again

    def _book(self, order: Order, customer: Customer) -> None:
        """Add the order, and its pieces to the wallet or take them out."""
        for sku, amount in count_pieces(order.lines).items():
            customer.holdings[sku] = customer.holdings.get(sku, 0) + (amount if order.kind == "buy" else -amount)
        self.put(order)

    def _order_number(self) -> int:
        """Return the id of an order that does not keep the one of its basket."""
        return _FIRST_ORDER + len(self._orders)

    def _draw_code(self) -> str:
        return "".join(self._random.choices(string.ascii_uppercase + string.digits, k=8))

    def _draw_token(self) -> str:
        return "".join(self._random.choices(_TOKEN, k=32))

    def _refresh(self, basket: Basket, *, may_restart: bool = False) -> None:
        """Re-price a basket whose price lock has expired, as a read of the vendor seems to do (S21).

        With `may_restart`, `Rules.lock_restart` decides whether a running lock restarts.
        """
        now, limit = self.now(), self.rules.lock_restart
        is_expired = now >= self.lock_end(basket)
        restarts = may_restart and limit is not None and now - basket.lock_began >= round(limit * SECOND)
        basket.refreshed = is_expired or (restarts and self.rules.lock_restart_reprices)
        if basket.refreshed:
            basket.priced, basket.locked = now, None
        elif restarts:
            basket.locked = now
        if is_expired or restarts:
            basket.price_token = self._draw_token()
            self._save(basket)

    def _save_touched(self, basket: Basket) -> Basket:
        basket.touched = self.now()
        self._save(basket)
        return basket

    def _line_indexes(self, basket: Basket, sku: str) -> list[int]:
        found = [index for index, item in enumerate(basket.items) if item.sku == sku]
        if not found:
            raise invalid("sku", "no_line", field="sku")
        return found

    def _check_amount(self, customer: Customer, product: Product, kind: OrderKind, amount: int) -> None:
        if kind == "buy":
            if amount > product.stock:
                raise invalid("qty", "stock")
            return
        if kind == "delivery" and not product.deliverable:
            raise invalid("sku", "undeliverable", field="sku")
        if amount > customer.holdings.get(product.sku, 0):
            raise invalid("qty", "holding")
