"""The commands `minted basket`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from minted_connect.cli.command import Context, command
from minted_connect.cli.customers import CustomerId

if TYPE_CHECKING:
    from minted_connect.cli.output import Output
    from minted_connect.models import Basket, Deal

__all__ = ["ITEM", "basket_app", "print_basket", "print_totals"]

basket_app: typer.Typer = typer.Typer(help="Show and change the open basket of a customer.", no_args_is_help=True)

_Sku = Annotated[str, typer.Argument(metavar="SKU", help="SKU of the product.")]
_Kind = Literal["buy", "sell", "delivery"]
_FEES: Final = {
    "items": "price",
    "charge fee": "charge_fee",
    "minting fee": "minting_fee",
    "storage fee": "storage_fee",
    "insurance": "insurance_price",
    "delivery": "delivery_cost",
    "VAT on fees": "charges_vat",
}
"""Attributes of a basket or order that add up to its total, by their labels."""
ITEM: Final = {"sku": "sku", "item": "product_name", "pieces": "amount", "each": "price", "total": "total"}


def print_totals(out: Output, deal: Deal) -> None:
    """Print the fees of a basket or order that are not 0, and its total."""
    rows: list[list[object]] = [[label, getattr(deal, name)] for label, name in _FEES.items()]
    rows = [row for row in rows if row[1]]
    rows.append(["total received" if deal.kind == "sell" else "total paid", deal.paid_total])
    out.print_table(["", deal.currency_code], rows)


def print_basket(out: Output, basket: Basket | None) -> None:
    """Print a basket with its fees, its total and the remaining time of its price lock."""
    if out.as_json or basket is None:
        if out.as_json:
            out.print_json(basket)
        else:
            out.print_message("there is no open basket")
        return
    currency, lock = basket.currency_code, basket.price_fix
    out.print_records(basket.items, ITEM, f"Basket to {basket.kind or basket.type}, in {currency}")
    print_totals(out, basket)
    if lock is not None and lock.seconds_left is not None:
        out.print_message(f"the price is locked for {lock.seconds_left:.0f} s")


@command(basket_app, "show")
async def show(cli: Context, customer: CustomerId) -> None:
    """Show the open basket with its fees and its price lock."""
    print_basket(cli.out, await cli.minted.baskets.get_active(customer))


@command(basket_app, "add", changes=True)
async def add(
    cli: Context,
    customer: CustomerId,
    sku: _Sku,
    qty: Annotated[int, typer.Option(min=1, help="Number of pieces.")] = 1,
    kind: Annotated[_Kind | None, typer.Option("--type", help="Use the open basket of this type, or open one.")] = None,
) -> None:
    """Add pieces of a product as a new item. Opens a basket if necessary."""
    basket = await cli.minted.baskets.get_active(customer)
    if basket is not None and kind is not None and basket.kind != kind:
        basket = None
    print_basket(cli.out, await cli.minted.baskets.add_item(basket or customer, sku=sku, qty=qty, type=kind))


@command(basket_app, "set", changes=True)
async def set_(
    cli: Context,
    customer: CustomerId,
    sku: _Sku,
    qty: Annotated[int, typer.Argument(min=1, help="Number of pieces.")],
) -> None:
    """Set the number of pieces of an item."""
    basket = await _get_open_basket(cli, customer)
    print_basket(cli.out, await cli.minted.baskets.update_item(basket, sku=sku, qty=qty))


@command(basket_app, "rm", changes=True)
async def rm(cli: Context, customer: CustomerId, sku: _Sku) -> None:
    """Remove an item."""
    basket = await _get_open_basket(cli, customer)
    print_basket(cli.out, await cli.minted.baskets.delete_item(basket, sku=sku))


@command(basket_app, "clear", changes=True)
async def clear(cli: Context, customer: CustomerId) -> None:
    """Remove all items."""
    await cli.minted.baskets.clear(await _get_open_basket(cli, customer))
    cli.out.print_message("the basket is empty")


async def _get_open_basket(cli: Context, customer: str) -> Basket:
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` does not need it

    basket = await cli.minted.baskets.get_active(customer)
    if basket is None:
        raise InvalidInput.of("customer", "has no open basket; open one with: minted basket add")
    return basket
