"""Every operation of the API as one call, on prepared data, for tests of all operations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, Final

import attrs

from minted_connect import Shipping
from minted_connect.models import Basket, Order
from minted_connect.sandbox import ManualClock, Sandbox

GOLD: Final = "MNTBAE0001"
SILVER: Final = "MNTBAE0013"
TO_COMPLETED: Final = 120.0
"""Seconds until a purchase in the sandbox is completed, and has an invoice."""


@attrs.frozen
class Person:
    """A customer whose data is sent."""

    customer: str = "customer-1"
    newcomer: str = "customer-2"
    details: Mapping[str, Any] = attrs.field(
        factory=lambda: {
            "firstname": "Ahmet",
            "lastname": "Özer",
            "email": "ahmet@mail.example",
            "phone": "+905550001122",
            "identity_number": "12345678910",
            "birthdate": date(1970, 1, 31),
        }
    )
    shipping: Shipping = attrs.field(
        factory=lambda: Shipping(
            fullname="Ahmet Özer",
            phone="+905550001122",
            city="İstanbul",
            county="Çekmeköy",
            district="Alemdağ",
            address="No:1 D:2",
            tax_number="12345678910",
        )
    )


@attrs.frozen
class PreparedData:
    """The prepared data: a customer with a completed purchase and an open basket of each kind."""

    person: Person
    bought: Order
    buying: Basket
    selling: Basket
    sending: Basket


async def prepare_data(minted: Any, sandbox: Sandbox, clock: ManualClock, person: Person | None = None) -> PreparedData:
    """Prepare the data for `CALLS`."""
    person = person or Person()
    customer = person.customer
    await minted.customers.create(customer, **person.details)
    basket = await minted.baskets.add_item(customer, sku=GOLD, qty=2)
    bought = (await minted.complete.buy(basket, expected_total=basket.paid_total)).order
    sandbox.shop.give(customer, GOLD, 5)
    clock.advance(TO_COMPLETED)
    buying = await minted.baskets.add_item(customer, sku=GOLD)
    buying = await minted.baskets.add_item(buying, sku=SILVER)
    selling = await minted.baskets.add_item(customer, sku=GOLD, type="sell")
    sending = await minted.baskets.add_item(customer, sku=GOLD, type="delivery")
    return PreparedData(person, bought, buying, selling, sending)


Call = Callable[[Any, PreparedData], Awaitable[Any]]

CALLS: Final[Mapping[str, Call]] = {
    "customers.create": lambda m, s: m.customers.create(s.person.newcomer, **s.person.details),
    "customers.get": lambda m, s: m.customers.get(s.person.customer),
    "customers.update": lambda m, s: m.customers.update(s.person.customer, **s.person.details),
    "customers.remove": lambda m, s: m.customers.remove(s.person.customer),
    "products.page": lambda m, s: m.products.page(),
    "baskets.get_active": lambda m, s: m.baskets.get_active(s.person.customer, cart_token=s.buying.token),
    "baskets.add_item": lambda m, s: m.baskets.add_item(s.buying, sku=GOLD),
    "baskets.update_item": lambda m, s: m.baskets.update_item(s.buying, sku=GOLD, qty=2),
    "baskets.delete_item": lambda m, s: m.baskets.delete_item(s.buying, sku=GOLD),
    "baskets.clear": lambda m, s: m.baskets.clear(s.buying),
    "complete.buy": lambda m, s: m.complete.buy(s.buying, expected_total=s.buying.paid_total),
    "complete.sell": lambda m, s: m.complete.sell(s.selling, expected_total=s.selling.paid_total),
    "complete.delivery": lambda m, s: m.complete.delivery(
        s.sending, shipping=s.person.shipping, expected_total=s.sending.paid_total
    ),
    "orders.page": lambda m, s: m.orders.page(customer_id=s.person.customer),
    "orders.invoice": lambda m, s: m.orders.invoice(s.bought.guid),
    "orders.receipt": lambda m, s: m.orders.receipt(s.bought.id, customer_id=s.person.customer),
    "wallet.balance": lambda m, s: m.wallet.balance(s.person.customer),
    "rates.current": lambda m, s: m.rates.current(),
    "rates.history": lambda m, s: m.rates.history(metal="gold"),
}
"""One call of each operation, by name. A call may change the data, so that other calls fail afterwards."""
