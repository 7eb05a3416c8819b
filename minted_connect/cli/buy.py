"""The command `minted buy`: buys the open basket of a customer, the given items, or the purchases of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from minted_connect.cli.command import Context
from minted_connect.cli.purchases import ExpectTotal, Yes, complete_basket, host, print_completion

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from minted_connect.models import Completion

__all__ = ["buy", "check_options", "is_confirmed"]

_ITEMS: Final = "Purchase by items"
_PLAN: Final = "Purchases by plan"

_OPTIONS: Final[Mapping[str, str]] = {
    "customer": "CUSTOMER",
    "items": "--items",
    "plan": "--from",
    "reference": "--reference",
    "max_total": "--max-total",
    "currency": "--currency",
    "replace": "--replace",
    "wait": "--wait",
    "expect_total": "--expect-total",
    "new_journal": "--new-journal",
    "result": "--result",
}
_ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "plan": frozenset({"currency", "replace", "wait", "new_journal", "result"}),
    "items": frozenset({"customer", "reference", "max_total", "currency", "replace", "wait"}),
    "customer": frozenset({"reference", "expect_total"}),
}
"""The options that fit together, by what is bought."""
_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "plan": ("currency",),
    "items": ("reference", "max_total", "currency"),
    "customer": (),
}


async def buy(
    cli: Context,
    customer: Annotated[str | None, typer.Argument(metavar="CUSTOMER", help="External id of the customer.")] = None,
    *,
    items: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SKU=QTY",
            help="Buy exactly this product and number of pieces; may be repeated.",
            rich_help_panel=_ITEMS,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Your own key for this purchase, which is bought at most once. Also for an open basket."),
    ] = None,
    max_total: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Place no order above this total.", rich_help_panel=_ITEMS),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PLAN.CSV",
            help="Buy what this file lists: customer, sku, qty, reference and max_total. Run it again to continue.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    result: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the outcome of each reference to this file. Defaults to PLAN.result.csv.",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    new_journal: Annotated[
        bool,
        typer.Option("--new-journal", help="Create the journal, for the first run of a plan.", rich_help_panel=_PLAN),
    ] = False,
    currency: Annotated[
        str | None, typer.Option(metavar="CODE", help="Currency of the maximum totals, for --items and --from.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove other items from the open baskets, for --items and --from.")
    ] = False,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="SECONDS", help="Wait for another call for the same reference, for --items and --from."
        ),
    ] = None,
    yes: Yes = False,
    expect_total: ExpectTotal = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be bought, and place no order.")] = False,
) -> int | None:
    """Buy the items in the basket, the --items, or a plan --from a file. Asks for confirmation."""
    if plan is not None:
        from minted_connect.cli.plans import buy_plan  # noqa: PLC0415 - `--help` does not need it

        return await buy_plan(
            cli,
            plan,
            currency=currency or "",
            replace=replace,
            wait=wait or 0.0,
            yes=yes,
            dry_run=dry_run,
            new_journal=new_journal,
            result=result,
        )
    assert customer is not None
    if items:
        return await _buy_items(
            cli,
            customer,
            items,
            reference=reference or "",
            max_total=max_total or "",
            currency=currency or "",
            replace=replace,
            wait=wait or 0.0,
            yes=yes,
            dry_run=dry_run,
        )
    complete = cli.minted.complete.buy if reference is None else partial(cli.minted.complete.buy, reference=reference)
    return await complete_basket(cli, customer, "buy", complete, yes=yes, expect_total=expect_total, dry_run=dry_run)


def check_options(given: Mapping[str, Any]) -> None:
    """Check that the options of `minted buy` fit together.

    Raises:
        ConfigurationError: if they do not.
    """
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.validation import CURRENCY  # noqa: PLC0415

    is_given = {name: not (given[name] is None or given[name] is False or given[name] == []) for name in _OPTIONS}
    mode = next((name for name in ("plan", "items") if is_given[name]), "customer")
    if mode != "plan" and not is_given["customer"]:
        raise ConfigurationError("Missing argument 'CUSTOMER'; see minted buy --help")
    for name in _OPTIONS:
        if is_given[name] and name not in {mode, *_ALLOWED[mode]}:
            owners = [_OPTIONS[other] for other in ("items", "plan") if name in _ALLOWED[other]]
            if mode == "customer":
                raise ConfigurationError(f"{_OPTIONS[name]}: needs {' or '.join(owners)}")
            raise ConfigurationError(f"{_OPTIONS[mode]}: does not go together with {_OPTIONS[name]}")
    if missing := [_OPTIONS[name] for name in _REQUIRED[mode] if not is_given[name]]:
        raise ConfigurationError(f"{_OPTIONS[mode]}: needs {', '.join(missing)}")
    if given["wait"] is not None and not math.isfinite(given["wait"]):
        raise ConfigurationError("--wait: must be seconds, and finite")
    if given["currency"] is not None and not CURRENCY.fullmatch(given["currency"]):
        raise ConfigurationError("--currency: must be a code of three capital letters such as AED")


async def is_confirmed(cli: Context, question: str, *, yes: bool) -> bool:
    """Ask for confirmation unless `yes` is true; print a message if the user answers no."""
    from minted_connect.cli.prompt import confirm  # noqa: PLC0415 - `--help` does not need it

    if yes or await confirm(cli.out, question):
        return True
    cli.out.print_message("not confirmed: no order was placed")
    return False


async def _buy_items(
    cli: Context,
    customer: str,
    items: list[str],
    *,
    reference: str,
    max_total: str,
    currency: str,
    replace: bool,
    wait: float,
    yes: bool,
    dry_run: bool,
) -> int | None:
    from minted_connect.cli.exit_codes import ExitCode  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.cli.plan_file import parse_amount  # noqa: PLC0415

    cli.may_have_changed = False  # nothing is ordered before `buy_items`
    pieces, maximum = _parse_items(items), parse_amount("max-total", max_total)
    try:
        if not cli.out.as_json or dry_run:
            cli.out.print_table(["sku", "pieces"], [*pieces.items()], "Buy")
    except (OSError, ValueError):
        if not yes or dry_run:
            raise  # what was not shown cannot be confirmed
    if dry_run:
        cli.out.print_message("dry run: no order was placed")
        return None
    count = sum(pieces.values())
    question = f"Buy {count} piece{'s' * (count > 1)} for at most {maximum} {currency} at {host(cli)}?"
    if not await is_confirmed(cli, question, yes=yes):
        return ExitCode.FAILED
    call = cli.minted.complete.buy_items(
        customer,
        pieces,
        reference=reference,
        max_total=maximum,
        currency=currency,
        wait=wait,
        replace=replace,
    )
    return await _complete_reference(cli, call)


async def _complete_reference(cli: Context, call: Awaitable[Completion]) -> int | None:
    """Print the completion of a reference; return the exit code."""
    from minted_connect.cli.exit_codes import ExitCode  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import AlreadyInFlight, MintedConnectError  # noqa: PLC0415

    cli.may_have_changed = True
    try:
        completion = await call
    except MintedConnectError as error:
        # After every other error, nothing was bought, although the basket may have been changed.
        cli.may_have_changed = False
        if isinstance(error, AlreadyInFlight) and error.order_id is None:
            # The other call may complete the reference: its outcome is not known here.
            cli.print_error(error)
            return ExitCode.UNKNOWN
        raise
    return print_completion(cli, completion)


def _parse_items(items: list[str]) -> dict[str, int]:
    from minted_connect.cli.plan_file import parse_quantity  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    pieces: dict[str, int] = {}
    for item in items:
        sku, _, quantity = item.rpartition("=")
        if not sku:
            raise InvalidInput.of("items", "must be SKU=QTY, such as MNTBAE0001=2")
        if sku in pieces:
            raise InvalidInput.of("items", f"{sku} is given more than once")
        pieces[sku] = parse_quantity("items", quantity)
    return pieces
