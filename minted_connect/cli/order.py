"""The command `minted order`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from minted_connect.cli.baskets import ITEM, print_totals
from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from minted_connect.models import Order

__all__ = ["order"]

_ORDER: Final = {
    "order": "id",
    "number": "increment_id",
    "kind": "kind",
    "status": "status",
    "customer": "customer.external_id",
    "placed at": "order_at",
    "payment": "payment.state",
    "tracking": "delivery.cargo_tracking_url",
    "arrival": "delivery.estimated_arrival_date",
}


async def order(
    cli: Context,
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Id of the order.", min=1)],
    customer: Annotated[
        str | None, typer.Option(help="External id of the customer. Without it, new orders only.")
    ] = None,
) -> None:
    """Show one order with its lines and fees."""
    found = await _find(cli, order, customer)
    if cli.out.as_json:
        cli.out.print_json(found)
        return
    cli.out.print_fields(found, _ORDER, "Order")
    cli.out.print_records(found.items, ITEM, f"Items, in {found.currency_code}")
    print_totals(cli.out, found)


async def _find(cli: Context, number: int, customer: str | None) -> Order:
    """Return an order.

    Raises:
        InvalidInput: if no order of this account has this id.
    """
    if customer is not None:
        return await cli.minted.orders.get(number, customer_id=customer)
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` does not need it

    page = await cli.minted.orders.page(order_id=number)
    for found in page:
        if found.id == number:
            return found
    unreadable = " that can be read" if any(row.id == number for row in page.unreadable) else ""
    raise InvalidInput.of("order", f"there is no order {number}{unreadable}: minted orders lists them")
