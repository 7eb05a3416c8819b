"""`minted customer`, `minted basket` and `minted wallet`: whose gold it is, and what is about to be."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from minted_connect.cli.command import Context, Day, command

if TYPE_CHECKING:
    from minted_connect.cli.output import Output
    from minted_connect.models import Basket, Customer

__all__ = ["basket_app", "customer_app", "show_basket", "wallet"]

customer_app: typer.Typer = typer.Typer(help="Create, show, change and remove customers.", no_args_is_help=True)
basket_app: typer.Typer = typer.Typer(help="The open basket of a customer.", no_args_is_help=True)

Who = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Your id of the customer.")]
_Sku = Annotated[str, typer.Argument(metavar="SKU")]
_Kind = Literal["buy", "sell", "delivery"]
_Clear = Annotated[
    list[str] | None, typer.Option("--clear", metavar="FIELD", help="Empty this field; may be repeated.")
]

_Text = str | None
_FIELDS: Final[Mapping[str, Any]] = {
    "firstname": _Text,
    "middlename": _Text,
    "lastname": _Text,
    "email": _Text,
    "phone": _Text,
    "gender": Annotated[Literal["M", "F"] | None, typer.Option()],
    "identity_number": _Text,
    "birthdate": Day,
}
"""What a customer has, as options."""
_AT_FIRST: Final[Mapping[str, Any]] = {
    "tax_office": _Text,
    "account_type": Annotated[Literal["person", "company"] | None, typer.Option()],
}
"""What only a new one can be given."""

_CUSTOMER: Final = {
    "id": "external_id",
    "first name": "firstname",
    "middle name": "middlename",
    "last name": "lastname",
    "e-mail": "email",
    "phone": "phone",
    "born": "birthdate",
    "created": "created_at",
}
_HOLDING: Final = {
    "holding": "product_name",
    "sku": "sku",
    "pieces": "amount",
    "deliverable": "deliverable_amount",
    "blocked": "blocked_amount",
    "worth": "total_value",
    "currency": "currency_code",
}
_LINE: Final = {"sku": "sku", "line": "product_name", "pieces": "amount", "each": "price", "total": "total"}


def _days(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.date() if isinstance(value, datetime) else value for name, value in fields.items()}


def _show_customer(out: Output, customer: Customer) -> None:
    out.facts(customer, _CUSTOMER, "Customer")


@command(customer_app, "create", changes=True, takes={**_FIELDS, **_AT_FIRST})
async def create(cli: Context, customer: Who, **fields: Any) -> None:
    """Create a customer under an id of your own."""
    _show_customer(cli.out, await cli.minted.customers.create(customer, **_days(fields)))


@command(customer_app, "get")
async def get(cli: Context, customer: Who) -> None:
    """Show a customer."""
    _show_customer(cli.out, await cli.minted.customers.get(customer))


@command(customer_app, "update", changes=True, takes=_FIELDS)
async def update(cli: Context, customer: Who, clear: _Clear = None, **fields: Any) -> None:
    """Change what is given of a customer; everything else stays."""
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` needs none of it

    cleared = [name.replace("-", "_") for name in clear or ()]
    for name in cleared:
        if name not in fields or fields[name] is not None:
            raise InvalidInput.of("clear", f"must be one of {', '.join(fields)}, and not given at the same time")
    changes = {name: value for name, value in fields.items() if value is not None} | dict.fromkeys(cleared)
    _show_customer(cli.out, await cli.minted.customers.update(customer, **_days(changes)))


@command(customer_app, "remove", changes=True)
async def remove(
    cli: Context, customer: Who, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False
) -> int | None:
    """Detach your id from a customer."""
    from minted_connect.cli.prompt import agreed  # noqa: PLC0415 - `--help` needs none of it

    if not yes and not await agreed(cli.out, f"Remove {customer}?"):
        return 1
    await cli.minted.customers.remove(customer)
    cli.out.say(f"{customer} is removed")
    return None


# --- baskets -----------------------------------------------------------------------------------------------------


def show_basket(out: Output, basket: Basket | None) -> None:
    """Print a basket with its fees, its total and what is left of its price lock."""
    if out.as_json or basket is None:
        if out.as_json:
            out.json(basket)
        else:
            out.say("there is no open basket")
        return
    money, fix = basket.currency_code, basket.price_fix
    out.records(basket.items, _LINE, f"Basket to {basket.kind or basket.type}, in {money}")
    rows: list[list[object]] = [
        ["lines", basket.price],
        ["charge fee", basket.charge_fee],
        ["minting fee", basket.minting_fee],
        ["storage fee", basket.storage_fee],
        ["insurance", basket.insurance_price],
        ["delivery", basket.delivery_cost],
        ["VAT on fees", basket.charges_vat],
    ]
    rows = [row for row in rows if row[1]]
    rows.append(["received in all" if basket.kind == "sell" else "paid in all", basket.paid_total])
    out.table(["", money], rows)
    if fix is not None and fix.seconds_left is not None:
        out.say(f"this price holds for {fix.seconds_left:.0f} s")


@command(basket_app, "show")
async def show(cli: Context, customer: Who) -> None:
    """Show the open basket, its fees, and how long its price holds."""
    show_basket(cli.out, await cli.minted.baskets.get_active(customer))


@command(basket_app, "add", changes=True)
async def add(
    cli: Context,
    customer: Who,
    sku: _Sku,
    qty: Annotated[int, typer.Option(min=1, help="Pieces of it.")] = 1,
    kind: Annotated[_Kind | None, typer.Option("--type", help="Which basket to open if there is none.")] = None,
) -> None:
    """Add pieces as a new line, opening a basket if there is none."""
    there = await cli.minted.baskets.get_active(customer)
    if there is not None and kind is not None and there.kind != kind:
        there = None
    show_basket(cli.out, await cli.minted.baskets.add_item(there or customer, sku=sku, qty=qty, type=kind))


@command(basket_app, "set", changes=True)
async def set_(
    cli: Context, customer: Who, sku: _Sku, qty: Annotated[int, typer.Argument(min=1, help="Pieces of it.")]
) -> None:
    """Set the number of pieces of a line."""
    there = await _open_basket(cli, customer)
    show_basket(cli.out, await cli.minted.baskets.update_item(there, sku=sku, qty=qty))


@command(basket_app, "rm", changes=True)
async def rm(cli: Context, customer: Who, sku: _Sku) -> None:
    """Take a line out."""
    there = await _open_basket(cli, customer)
    show_basket(cli.out, await cli.minted.baskets.delete_item(there, sku=sku))


@command(basket_app, "clear", changes=True)
async def clear(cli: Context, customer: Who) -> None:
    """Take everything out."""
    await cli.minted.baskets.clear(await _open_basket(cli, customer))
    cli.out.say("the basket is empty")


async def _open_basket(cli: Context, customer: str) -> Basket:
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    basket = await cli.minted.baskets.get_active(customer)
    if basket is None:
        raise InvalidInput.of("customer", "has no open basket; open one with: minted basket add")
    return basket


async def wallet(cli: Context, customer: Who) -> None:
    """Show what a customer holds."""
    cli.out.records(await cli.minted.wallet.balance(customer), _HOLDING, "Wallet")
