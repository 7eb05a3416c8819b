"""The command `demo`: creates a customer in an embedded sandbox, then buys, sells and delivers gold.

It uses the client over HTTP with Digest authentication, as against the vendor's server.
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
    """Run the demo and print each step to `out` (default: standard output), as text or as JSON lines."""
    printer = (_JsonPrinter if as_json else _Printer)(out or sys.stdout)
    async with AsyncMintedConnect.sandbox() as minted:
        server = minted.sandbox_server
        printer.print_section("Sandbox")
        printer.print_line(f"listening on {server.url}; all requests use HTTP Digest authentication")

        printer.print_section("Customer")
        customer = await minted.customers.create(
            _CUSTOMER, firstname="Ada", lastname="Demo", email="ada@example.com", phone="+905550001122"
        )
        printer.print_line(f"created {customer.external_id}: {customer.firstname} {customer.lastname}")

        printer.print_section("Prices per gram")
        rates = await minted.rates.current()
        printer.print_table(
            ("account", "buy at", "sell at", "currency"),
            [(rate.currency_name, rate.buy_price, rate.sell_price, rate.currency_code) for rate in rates],
        )

        printer.print_section("Basket")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD)
        basket = await minted.baskets.add_item(basket, sku=_SILVER)
        printer.print_line("added one gold bar and one silver bar, then set the gold to three bars:")
        basket = await minted.baskets.update_item(basket, sku=_GOLD, qty=3)
        printer.print_basket(basket)

        printer.print_section("Buy")
        printer.print_completion(await minted.complete.buy(basket, expected_total=basket.paid_total))
        await _print_wallet(minted, printer)

        printer.print_section("Sell one gold bar")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD, type="sell")
        printer.print_basket(basket)
        printer.print_completion(await minted.complete.sell(basket, expected_total=basket.paid_total))

        printer.print_section("Deliver one gold bar")
        basket = await minted.baskets.add_item(_CUSTOMER, sku=_GOLD, type="delivery")
        printer.print_completion(
            await minted.complete.delivery(basket, shipping=_HOME, expected_total=basket.paid_total)
        )
        await _print_wallet(minted, printer)

        printer.print_section("Orders")
        orders = [order async for order in minted.orders.iterate(customer_id=_CUSTOMER)]
        printer.print_table(
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

        printer.print_section("Receipt of the latest order")
        receipt = await minted.orders.receipt(orders[0].id, customer_id=_CUSTOMER)
        printer.print_line(f"order {receipt.increment_id}: {receipt.url}")
        printer.print_section("Done")
        printer.print_line(f"{len(server.requests)} HTTP requests sent")


async def _print_wallet(minted: AsyncMintedConnect, printer: _Printer) -> None:
    printer.print_line("wallet:")
    holdings = await minted.wallet.balance(_CUSTOMER)
    printer.print_table(
        ("holding", "pieces", "worth", "currency"),
        [(holding.product_name, holding.amount, holding.total_value, holding.currency_code) for holding in holdings],
    )


class _Printer:
    """Prints text."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def print_section(self, title: str) -> None:
        self.print_line(f"\n{title}\n{'-' * len(title)}")

    def print_line(self, line: str) -> None:
        print(line, file=self._out)

    def print_basket(self, basket: Basket) -> None:
        currency = basket.currency_code
        self.print_table(
            ("item", "pieces", f"each, {currency}", f"total, {currency}"),
            [(item.product_name, item.amount, item.price, item.total) for item in basket.items],
        )
        fees = basket.charge_fee + basket.minting_fee + basket.storage_fee
        label = "total received" if basket.kind is OrderKind.SELL else "total paid"
        self.print_line(f"fees {fees}, VAT on fees {basket.charges_vat}, {label} {basket.paid_total} {currency}")
        if basket.price_fix and basket.price_fix.seconds_left is not None:
            self.print_line(f"the price is locked for {basket.price_fix.seconds_left:.0f} s")

    def print_completion(self, completion: Completion) -> None:
        order = completion.order
        if order is None:
            self.print_line(f"done, but the order could not be read in full: {completion.keys}")
            return
        self.print_line(f"order {order.id} is {order.status}: {order.paid_total} {order.currency_code}")

    def print_table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        cells = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
        is_numeric = [all(isinstance(row[column], int | Decimal) for row in rows) for column in range(len(header))]
        widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
        for row in cells:
            line = "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(row, widths, is_numeric, strict=True)
            )
            self.print_line(f"  {line.rstrip()}")


class _JsonPrinter(_Printer):
    """Prints JSON lines, with amounts as strings."""

    _section = ""

    def print_section(self, title: str) -> None:
        self._section = title

    def print_line(self, line: str) -> None:
        self._print_object(text=line)

    def print_table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        self._print_object(rows=[dict(zip(header, row, strict=True)) for row in rows])

    def _print_object(self, **fields: object) -> None:
        print(json.dumps({"section": self._section, **fields}, ensure_ascii=False, default=as_text), file=self._out)
