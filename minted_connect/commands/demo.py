"""The walk-through that the README's first command runs: from nothing to gold at the door, in the sandbox.

Everything goes through the real client over real HTTP with real Digest authentication; only the server is embedded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TextIO

from minted_connect.client import AsyncMintedConnect
from minted_connect.feed.schema import as_text
from minted_connect.models import Basket, Completion, OrderKind, Shipping

__all__ = ["run"]

_CUSTOMER = "demo-customer-1"
_GOLD = "MNTBAE0001"
_SILVER = "MNTBAE0013"
_HOME = Shipping(
    fullname="Ada Demo",
    phone="+905550001122",
    city="İstanbul",
    county="Çekmeköy",
    district="Alemdağ",
    address="No:1 D:2",
    tax_number="12345678910",
    zipcode="34711",
)


async def run(out: TextIO | None = None, *, as_json: bool = False) -> None:
    """Play the whole story once and print it to `out` (standard output by default), for people or as JSON lines."""
    story = (_Lines if as_json else _Story)(out or sys.stdout)
    async with AsyncMintedConnect.sandbox() as minted:
        server = minted.sandbox_server
        story.chapter("An embedded Minted Connect")
        story.say(f"listening on {server.url}; every request below is signed with HTTP Digest")

        story.chapter("A customer")
        customer = await minted.customers.create(
            _CUSTOMER, firstname="Ada", lastname="Demo", email="ada@example.com", phone="+905550001122"
        )
        story.say(f"created {customer.external_id}: {customer.firstname} {customer.lastname}")

        story.chapter("Prices per gram")
        rates = await minted.rates.current()
        story.table(
            ("account", "buy at", "sell at", "currency"),
            [(rate.currency_name, rate.buy_price, rate.sell_price, rate.currency_code) for rate in rates],
        )

        story.chapter("A basket")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD)
        basket = await minted.baskets.add_item(basket, sku=_SILVER)
        story.say("one gold bar and one silver bar; then three of gold:")
        basket = await minted.baskets.update_item(basket, sku=_GOLD, qty=3)
        story.basket(basket)

        story.chapter("Bought")
        story.completed(await minted.complete.buy(basket, expected_total=basket.paid_total))
        await _wallet(minted, story)

        story.chapter("One gold bar sold back")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD, type="sell")
        story.basket(basket)
        story.completed(await minted.complete.sell(basket, expected_total=basket.paid_total))

        story.chapter("One gold bar sent home")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD, type="delivery")
        story.completed(await minted.complete.delivery(basket, shipping=_HOME, expected_total=basket.paid_total))
        await _wallet(minted, story)

        story.chapter("Orders")
        orders = [order async for order in minted.orders.iterate(customer_id=_CUSTOMER)]
        story.table(
            ("order", "kind", "status", "paid or received", "placed at"),
            [
                (
                    order.id,
                    order.kind,
                    order.status,
                    f"{order.paid_total} {order.currency_code}",
                    f"{order.order_at:%F %T}",
                )
                for order in orders
            ],
        )

        story.chapter("The receipt of the newest")
        receipt = await minted.orders.receipt(orders[0].id, customer_id=_CUSTOMER)
        story.say(f"order {receipt.increment_id}: {receipt.url}")
        story.chapter("The end")
        story.say(f"{len(server.requests)} HTTP requests in all; the sandbox is gone now.")


async def _wallet(minted: AsyncMintedConnect, story: _Story) -> None:
    story.say("the wallet:")
    holdings = await minted.wallet.balance(_CUSTOMER)
    story.table(
        ("holding", "pieces", "worth", "currency"),
        [(row.product_name, row.amount, row.total_value, row.currency_code) for row in holdings],
    )


class _Story:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def chapter(self, title: str) -> None:
        self.say(f"\n{title}\n{'-' * len(title)}")

    def say(self, line: str) -> None:
        print(line, file=self._out)

    def basket(self, basket: Basket) -> None:
        money = basket.currency_code
        self.table(
            ("line", "pieces", f"each, {money}", f"total, {money}"),
            [(item.product_name, item.amount, item.price, item.total) for item in basket.items],
        )
        fees = basket.charge_fee + basket.minting_fee + basket.storage_fee
        what = "received" if basket.kind is OrderKind.SELL else "paid"
        self.say(f"fees {fees}, VAT on them {basket.charges_vat}; {what} in all: {basket.paid_total} {money}")
        if basket.price_fix and basket.price_fix.seconds_left is not None:
            self.say(f"this price holds for {basket.price_fix.seconds_left:.0f} s")

    def completed(self, completion: Completion) -> None:
        order = completion.order
        if order is None:
            self.say(f"done, but the order could not be read in full: {completion.keys}")
            return
        self.say(f"order {order.id} is {order.status}: {order.paid_total} {order.currency_code}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        cells = [tuple(head), *(tuple(str(cell) for cell in row) for row in rows)]
        right = [all(isinstance(row[column], int | Decimal) for row in rows) for column in range(len(head))]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for row in cells:
            line = "  ".join(
                cell.rjust(width) if number else cell.ljust(width)
                for cell, width, number in zip(row, widths, right, strict=True)
            )
            self.say(f"  {line.rstrip()}")


class _Lines(_Story):
    """The same for programs: a JSON object a line, money as exact text."""

    _chapter = ""

    def chapter(self, title: str) -> None:
        self._chapter = title

    def say(self, line: str) -> None:
        self._tell(text=line)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._tell(rows=[dict(zip(head, row, strict=True)) for row in rows])

    def _tell(self, **what: object) -> None:
        print(json.dumps({"chapter": self._chapter, **what}, ensure_ascii=False, default=as_text), file=self._out)
