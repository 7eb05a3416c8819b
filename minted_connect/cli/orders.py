"""The commands `minted orders`, `minted receipt` and `minted invoice`."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from minted_connect.cli.command import Context, End, Start

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from minted_connect.models import Order, Page
    from minted_connect.resources.paging import NewRows

__all__ = ["invoice", "orders", "receipt"]

_ORDER: Final = {
    "order": "id",
    "kind": "kind",
    "status": "status",
    "total": "paid_total",
    "currency": "currency_code",
    "placed at": "order_at",
    "number": "increment_id",
}
_RECEIPT: Final = {"order": "order_id", "number": "increment_id", "guid": "guid", "url": "url"}
_INVOICE: Final = {
    "guid": "guid",
    "code": "order_code",
    "status": "status_name",
    "total": "total",
    "tax": "tax",
    "url": "invoice_url",
}


async def orders(
    cli: Context,
    customer: Annotated[str | None, typer.Option(help="Only orders of this customer.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind: buy, sell or delivery. May be repeated.")
    ] = None,
    status: Annotated[list[int] | None, typer.Option(help="Only this status number; may be repeated.")] = None,
    start: Start = None,
    end: End = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of orders.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write to this .csv or .json file.", dir_okay=False)] = None,
    with_tokens: Annotated[
        bool, typer.Option("--with-tokens", help="Also --save the tokens of baskets, prices and payments.")
    ] = False,
) -> None:
    """Show orders, newest first. --end defaults to today, and needs --start."""
    from minted_connect.cli.progress import Progress  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import InvalidInput  # noqa: PLC0415
    from minted_connect.resources.paging import NewRows  # noqa: PLC0415

    if save is not None and save.suffix.lower() not in {".csv", ".json"}:
        raise InvalidInput.of("save", "must end in .csv or .json")

    # Orders are dated in the time zone of the vendor, where tomorrow may have begun.
    default_end = datetime.now(UTC).date() + timedelta(days=1) if start else None

    def pages(number: int) -> AsyncGenerator[Page[Order], None]:
        return cli.minted.orders.pages(
            customer_id=customer,
            tx_type=kind or None,
            status=status or None,
            start=start.date() if start else None,
            end=end.date() if end else default_end,
            page=number,
            per_page=30,
        )

    rows: list[Order] = []
    found = NewRows(pages)
    with Progress(cli.out, "orders") as progress:
        async with aclosing(found.lists()) as lists:
            async for new in lists:
                rows += new
                progress.update(len(rows), found.total)
                if limit is not None and len(rows) >= limit:
                    del rows[limit:]
                    break
    _report_missing(cli, found)
    if save is None:
        cli.out.print_records(rows, _ORDER, "Orders")
        return
    from minted_connect.cli.files import write_atomically  # noqa: PLC0415
    from minted_connect.cli.order_files import format_orders, to_objects  # noqa: PLC0415

    if save.suffix.lower() == ".json":
        import json  # noqa: PLC0415

        text = json.dumps(to_objects(rows, with_tokens=with_tokens), ensure_ascii=False, indent=2) + "\n"
    else:
        text = format_orders(rows, with_tokens=with_tokens)
    write_atomically(save, text, is_private=True)
    cli.out.print_message(f"{len(rows)} orders written to {save}")


def _report_missing(cli: Context, found: NewRows[Order]) -> None:
    """Print on standard error which orders are left out."""
    for row in found.unreadable:
        name = "an order" if row.id is None else f"order {row.id}"
        cli.out.print_message(f"{name} cannot be read and is left out: {row.problem}")
    if not found.is_complete:
        cli.out.print_message("orders moved to other pages meanwhile, so some may be missing: run the command again")


async def receipt(
    cli: Context,
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Id of the order.")],
    customer: Annotated[str, typer.Option(help="External id of the customer.")],
) -> None:
    """Show the receipt of an order."""
    cli.out.print_fields(await cli.minted.orders.receipt(order, customer_id=customer), _RECEIPT, "Receipt")


async def invoice(
    cli: Context, order: Annotated[str, typer.Argument(metavar="GUID", help="GUID of the order (assumed, S18).")]
) -> None:
    """Show the invoice of an order."""
    cli.out.print_fields(await cli.minted.orders.invoice(order), _INVOICE, "Invoice")
