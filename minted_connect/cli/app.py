"""Assembles the commands of `minted`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from minted_connect._version import __version__
from minted_connect.cli import (
    audit,
    baskets,
    buy,
    customers,
    doctor,
    journal,
    live_prices,
    order,
    orders,
    prices,
    purchases,
    tools,
)
from minted_connect.cli.command import command
from minted_connect.cli.usage import OneLineErrorGroup

__all__ = ["app"]

_HELP = "Buy, sell and deliver gold and silver through Minted Connect."

app: typer.Typer = typer.Typer(
    name="minted",
    cls=OneLineErrorGroup,
    help=_HELP,
    epilog="Exit codes: 0 success, 1 failure, 2 usage error, 3 rejected, 4 not sent, 75 outcome unknown or result not "
    "printed, 130/143/129 ended by Ctrl-C, SIGTERM or SIGHUP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback(help=_HELP)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _load_purchase_settings(common: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    from minted_connect.cli.default_journal import default_journal_path  # noqa: PLC0415 - not for `--help`
    from minted_connect.cli.profiles import load_settings  # noqa: PLC0415

    settings = load_settings(common)
    if given["dry_run"] or "journal" in settings:
        return settings
    # Without a journal, `minted reconcile` could not settle a purchase of unknown outcome.
    return {**settings, "journal": default_journal_path(settings)}


def _load_buy_settings(common: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    buy.check_options(given)  # before the prompt for the password
    return _load_purchase_settings(common, given)


def _load_reconcile_settings(common: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    from minted_connect.cli.profiles import load_settings  # noqa: PLC0415 - not for `--help`

    return load_settings(common, account=not given["list_"] and given["decide"] is None)


def _load_journal_settings(common: Mapping[str, Any], _given: Mapping[str, Any]) -> dict[str, Any]:
    from minted_connect.cli.profiles import load_settings  # noqa: PLC0415 - not for `--help`

    return load_settings(common, account=False)


def _load_no_settings(_common: Mapping[str, Any], _given: Mapping[str, Any]) -> dict[str, Any]:
    return {}


_PRICES, _PURCHASES, _RECORDS, _TOOLS = "Prices", "Customers and purchases", "Records", "Tools"

command(prices.rates_app, "record")(live_prices.record)
command(prices.rates_app, "alert")(live_prices.alert)
app.add_typer(prices.rates_app, name="rates", rich_help_panel=_PRICES)
command(app, "products", rich_help_panel=_PRICES)(prices.products)
app.add_typer(customers.customer_app, name="customer", rich_help_panel=_PURCHASES)
app.add_typer(baskets.basket_app, name="basket", rich_help_panel=_PURCHASES)
command(app, "buy", changes=True, load_settings=_load_buy_settings, rich_help_panel=_PURCHASES)(buy.buy)
for _name, _function in (("sell", purchases.sell), ("deliver", purchases.deliver)):
    command(app, _name, changes=True, load_settings=_load_purchase_settings, rich_help_panel=_PURCHASES)(_function)
command(app, "reconcile", client=False, load_settings=_load_reconcile_settings, rich_help_panel=_PURCHASES)(
    purchases.reconcile
)
command(app, "wallet", rich_help_panel=_RECORDS)(customers.wallet)
command(app, "orders", rich_help_panel=_RECORDS)(orders.orders)
command(app, "order", rich_help_panel=_RECORDS)(order.order)
command(app, "journal", client=False, load_settings=_load_journal_settings, rich_help_panel=_RECORDS)(journal.journal)
command(app, "receipt", rich_help_panel=_RECORDS)(orders.receipt)
command(app, "invoice", rich_help_panel=_RECORDS)(orders.invoice)
command(app, "audit", client=False, without=("journal",), rich_help_panel=_RECORDS)(audit.audit)
app.command(
    "sandbox",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    rich_help_panel=_TOOLS,
)(tools.sandbox)
app.command("demo", rich_help_panel=_TOOLS)(tools.demo)
command(app, "verify", client=False, rich_help_panel=_TOOLS)(tools.verify)
command(app, "doctor", client=False, load_settings=_load_no_settings, rich_help_panel=_TOOLS)(doctor.doctor)
