"""The commands `minted customer` and `minted wallet`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from minted_connect.cli.command import Context, Day, command

if TYPE_CHECKING:
    from minted_connect.cli.output import Output
    from minted_connect.models import Customer

__all__ = ["CustomerId", "customer_app", "wallet"]

customer_app: typer.Typer = typer.Typer(help="Create, show, change and remove customers.", no_args_is_help=True)

CustomerId = Annotated[str, typer.Argument(metavar="CUSTOMER", help="External id of the customer.")]
_Clear = Annotated[
    list[str] | None, typer.Option("--clear", metavar="FIELD", help="Clear this field; may be repeated.")
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
"""Options for the fields of a customer."""
_CREATE_FIELDS: Final[Mapping[str, Any]] = {
    "tax_office": _Text,
    "account_type": Annotated[Literal["person", "company"] | None, typer.Option()],
}
"""Options for fields that can be set only when the customer is created."""

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


def _to_dates(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.date() if isinstance(value, datetime) else value for name, value in fields.items()}


def _print_customer(out: Output, customer: Customer) -> None:
    out.print_fields(customer, _CUSTOMER, "Customer")


@command(customer_app, "create", changes=True, fields={**_FIELDS, **_CREATE_FIELDS})
async def create(cli: Context, customer: CustomerId, **fields: Any) -> None:
    """Create a customer with this external id."""
    _print_customer(cli.out, await cli.minted.customers.create(customer, **_to_dates(fields)))


@command(customer_app, "get")
async def get(cli: Context, customer: CustomerId) -> None:
    """Show a customer."""
    _print_customer(cli.out, await cli.minted.customers.get(customer))


@command(customer_app, "update", changes=True, fields=_FIELDS)
async def update(cli: Context, customer: CustomerId, clear: _Clear = None, **fields: Any) -> None:
    """Change the given fields of a customer; other fields keep their values."""
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` does not need it

    cleared = [name.replace("-", "_") for name in clear or ()]
    for name in cleared:
        if name not in fields or fields[name] is not None:
            raise InvalidInput.of("clear", f"must be one of {', '.join(fields)}, and not given at the same time")
    changes = {name: value for name, value in fields.items() if value is not None} | dict.fromkeys(cleared)
    _print_customer(cli.out, await cli.minted.customers.update(customer, **_to_dates(changes)))


@command(customer_app, "remove", changes=True)
async def remove(
    cli: Context,
    customer: CustomerId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> int | None:
    """Detach the external id from a customer."""
    from minted_connect.cli.prompt import confirm  # noqa: PLC0415 - `--help` does not need it

    if not yes and not await confirm(cli.out, f"Remove {customer}?"):
        cli.out.print_message("not confirmed: nothing was done")
        return 1
    await cli.minted.customers.remove(customer)
    cli.out.print_message(f"{customer} is removed")
    return None


async def wallet(cli: Context, customer: CustomerId) -> None:
    """Show the holdings of a customer."""
    cli.out.print_records(await cli.minted.wallet.balance(customer), _HOLDING, "Wallet")
