"""`minted orders`, `receipt` and `invoice`: what was completed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import typer

from minted_connect.cli.command import Context, Day

if TYPE_CHECKING:
    from minted_connect.models import Order

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
    customer: Annotated[str | None, typer.Option(help="Only of this customer.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="buy, sell or delivery; may be repeated.")] = None,
    status: Annotated[list[int] | None, typer.Option(help="Number of a status; may be repeated.")] = None,
    start: Day = None,
    end: Day = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write them to a .csv or .json file.", dir_okay=False)] = None,
) -> None:
    """Show what was bought, sold and shipped, newest first."""
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` needs none of it

    if save is not None and save.suffix.lower() not in {".csv", ".json"}:
        raise InvalidInput.of("save", "must end in .csv or .json")
    found: list[Order] = []
    pages = cli.minted.orders.pages(
        customer_id=customer,
        tx_type=kind or None,
        status=status or None,
        start=start.date() if start else None,
        end=end.date() if end else None,
        per_page=30,
    )
    with _Progress(cli) as progress:
        async for page in pages:
            found += page.items
            progress.show(len(found), page.total)
            if limit is not None and len(found) >= limit:
                del found[limit:]
                await pages.aclose()
                break
    if save is None:
        cli.out.records(found, _ORDER, "Orders")
        return
    from minted_connect.cli.files import write_whole  # noqa: PLC0415
    from minted_connect.cli.output import plain  # noqa: PLC0415

    if save.suffix.lower() == ".json":
        import json  # noqa: PLC0415

        made = json.dumps(plain(found), ensure_ascii=False, indent=2) + "\n"
    else:
        made = _csv(found)
    write_whole(save, made)
    cli.out.say(f"{len(found)} orders written to {save}")


def _csv(found: list[Order]) -> str:
    from minted_connect.cli.files import csv_of  # noqa: PLC0415
    from minted_connect.cli.output import plain  # noqa: PLC0415

    names = [*_ORDER.values()]
    return csv_of(names, [[plain(getattr(order, name)) for name in names] for order in found])


class _Progress:
    """A bar on standard error while pages come in; nothing where there is no terminal."""

    def __init__(self, cli: Context) -> None:
        self._errors = cli.out.errors
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._errors.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

            columns = (TextColumn("orders"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=self._errors, transient=True)
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None) -> None:
        """Show how many of them there are by now."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)


async def receipt(
    cli: Context,
    order: Annotated[int, typer.Argument(metavar="ORDER", help="Number of the order.")],
    customer: Annotated[str, typer.Option(help="Your id of the customer.")],
) -> None:
    """Show the receipt of an order."""
    cli.out.facts(await cli.minted.orders.receipt(order, customer_id=customer), _RECEIPT, "Receipt")


async def invoice(
    cli: Context, order: Annotated[str, typer.Argument(metavar="EXTERNAL_ID", help="External id of the order.")]
) -> None:
    """Show the invoice of an order."""
    cli.out.facts(await cli.minted.orders.invoice(order), _INVOICE, "Invoice")
