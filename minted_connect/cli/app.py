"""The commands of `minted`, put together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from minted_connect import __version__
from minted_connect.cli import customers, orders, prices, purchases, tools
from minted_connect.cli.command import command
from minted_connect.cli.usage import Commands

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    name="minted",
    cls=Commands,
    help="Gold and silver through Minted Connect, from the command line.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 rejected, 4 not sent, 75 outcome unknown or result not "
    "shown, 130/143/129 ended by Ctrl-C, SIGTERM or SIGHUP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    """Gold and silver through Minted Connect, from the command line."""


def _prepared_to_complete(common: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    from minted_connect.cli.profiles import default_journal, settings_of  # noqa: PLC0415 - `--help` needs none of it

    settings = settings_of(common)
    # Whoever buys from a command line has to be able to find out later what became of it.
    return settings if given["dry_run"] or "journal" in settings else {**settings, "journal": default_journal(settings)}


def _prepared_to_reconcile(common: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    from minted_connect.cli.profiles import settings_of  # noqa: PLC0415 - as above

    return settings_of(common, account=not given["list_"] and given["decide"] is None)


def _nothing_yet(_common: Mapping[str, Any], _given: Mapping[str, Any]) -> dict[str, Any]:
    return {}


_PRICES, _MONEY, _RECORDS, _TOOLS = "Prices", "Customers and purchases", "Records", "Tools"

app.add_typer(prices.rates_app, name="rates", rich_help_panel=_PRICES)
command(app, "products", rich_help_panel=_PRICES)(prices.products)
app.add_typer(customers.customer_app, name="customer", rich_help_panel=_MONEY)
app.add_typer(customers.basket_app, name="basket", rich_help_panel=_MONEY)
command(app, "buy", changes=True, prepare=_prepared_to_complete, rich_help_panel=_MONEY)(purchases.buy)
command(app, "sell", changes=True, prepare=_prepared_to_complete, rich_help_panel=_MONEY)(purchases.sell)
command(app, "deliver", changes=True, prepare=_prepared_to_complete, rich_help_panel=_MONEY)(purchases.deliver)
command(app, "reconcile", client=False, prepare=_prepared_to_reconcile, rich_help_panel=_MONEY)(purchases.reconcile)
command(app, "wallet", rich_help_panel=_RECORDS)(customers.wallet)
command(app, "orders", rich_help_panel=_RECORDS)(orders.orders)
command(app, "receipt", rich_help_panel=_RECORDS)(orders.receipt)
command(app, "invoice", rich_help_panel=_RECORDS)(orders.invoice)
app.command(
    "sandbox",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    rich_help_panel=_TOOLS,
)(tools.sandbox)
app.command("demo", rich_help_panel=_TOOLS)(tools.demo)
command(app, "verify", client=False, rich_help_panel=_TOOLS)(tools.verify)
command(app, "doctor", client=False, prepare=_nothing_yet, rich_help_panel=_TOOLS)(tools.doctor)
