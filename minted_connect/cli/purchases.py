"""The commands `minted sell`, `minted deliver` and `minted reconcile`, and what `minted buy` shares with them."""

from __future__ import annotations

import json
import shlex
import sys
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO, cast
from urllib.parse import urlsplit

import typer

from minted_connect.cli.baskets import print_basket
from minted_connect.cli.command import Context
from minted_connect.cli.customers import CustomerId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from minted_connect.models import Basket, Completion, Shipping

__all__ = [
    "DryRun",
    "ExpectTotal",
    "Yes",
    "complete_basket",
    "deliver",
    "host",
    "print_completion",
    "reconcile",
    "sell",
]

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the basket and the fees, and place no order.")]
ExpectTotal = Annotated[
    str | None, typer.Option("--expect-total", metavar="AMOUNT", help="Place no order if the total differs from this.")
]
_NOT_CONFIRMED: Final = 1
_COMMANDS: Final = {"buy": "buy", "sell": "sell", "delivery": "deliver"}
"""The command that completes a basket, by its kind."""
_ORDER: Final = {
    "order": "order.id",
    "number": "order.increment_id",
    "status": "order.status",
    "total": "order.paid_total",
    "currency": "order.currency_code",
}


async def sell(
    cli: Context, customer: CustomerId, yes: Yes = False, expect_total: ExpectTotal = None, dry_run: DryRun = False
) -> int | None:
    """Sell the items in the basket. Shows the fees and asks for confirmation."""
    return await complete_basket(
        cli, customer, "sell", cli.minted.complete.sell, yes=yes, expect_total=expect_total, dry_run=dry_run
    )


async def deliver(
    cli: Context,
    customer: CustomerId,
    address: Annotated[
        Path, typer.Option(help="JSON file with fullname, phone, city, county, district, address and tax_number.")
    ],
    yes: Yes = False,
    expect_total: ExpectTotal = None,
    dry_run: DryRun = False,
) -> int | None:
    """Order delivery of the items in the basket. Shows the costs and asks for confirmation."""
    shipping = _read_address(address)

    def complete(basket: Basket, *, expected_total: Decimal) -> Awaitable[Completion]:
        return cli.minted.complete.delivery(basket, shipping=shipping, expected_total=expected_total)

    return await complete_basket(
        cli, customer, "delivery", complete, yes=yes, expect_total=expect_total, dry_run=dry_run
    )


async def complete_basket(
    cli: Context,
    customer: str,
    kind: str,
    complete: Callable[..., Awaitable[Completion]],
    *,
    yes: bool,
    expect_total: str | None,
    dry_run: bool,
) -> int | None:
    """Show the open basket of a customer, ask for confirmation, and complete the basket; return the exit code."""
    from minted_connect.cli.prompt import confirm  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import PriceChanged  # noqa: PLC0415

    expected = _parse_amount(expect_total)
    cli.may_have_changed = False  # nothing is ordered before `complete`
    while True:
        basket = await _get_basket(cli, customer, kind)
        try:
            if not cli.out.as_json or dry_run:
                print_basket(cli.out, basket)
        except (OSError, ValueError):
            if not yes or dry_run:
                raise  # a total that was not shown cannot be confirmed
        if expected is not None and basket.paid_total != expected:
            raise PriceChanged(
                f"the total is {basket.paid_total} {basket.currency_code}, not {expected}",
                expected,
                basket.paid_total,
            )
        if dry_run:
            cli.out.print_message("dry run: no order was placed")
            return None
        total = f"{basket.paid_total} {basket.currency_code}"
        question = f"{kind.capitalize()} for {total} at {host(cli)}?"
        confirmed = yes or await confirm(cli.out, question, partial(_seconds_left, basket))
        if confirmed is None:
            cli.out.print_message("the price lock expired; the current basket is:")
            continue
        if not confirmed:
            cli.out.print_message("not confirmed: no order was placed")
            return _NOT_CONFIRMED
        cli.may_have_changed = True
        completion = await complete(basket, expected_total=basket.paid_total)
        return print_completion(cli, completion)


def print_completion(cli: Context, completion: Completion) -> int | None:
    """Print the order of a completion; return the exit code."""
    from minted_connect.cli.exit_codes import ExitCode  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.cli.process import discard_output  # noqa: PLC0415

    is_shown = True
    try:
        cli.out.print_fields(completion, _ORDER, "Order")
    except (OSError, ValueError) as error:  # the pipe has no reader or the disk is full, but the order is placed
        discard_output(sys.stdout)
        text = f"minted: done ({completion.keys}), but the result could not be printed: {type(error).__name__}"
        is_shown = cli.out.print_message(text)
    if completion.replayed:
        cli.out.print_message("this reference was bought before: nothing was bought now")
    for difference in completion.differences:
        is_shown = cli.out.print_message(f"differs from what was agreed: {difference}") and is_shown
    return None if is_shown else ExitCode.UNKNOWN


async def _get_basket(cli: Context, customer: str, kind: str) -> Basket:
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    basket = await cli.minted.baskets.get_active(customer)
    if basket is not None and basket.kind == kind:
        return basket
    name = shlex.quote(customer)
    opening = f"open a {kind} basket with: minted basket add {name} SKU --type {kind}"
    if basket is None:
        raise InvalidInput.of("customer", f"has no open basket; {opening}")
    if basket.kind is None:
        raise InvalidInput.of("customer", f"has an open basket of another kind; {opening}")
    command = f"minted {_COMMANDS[basket.kind]} {name}"
    raise InvalidInput.of(
        "customer", f"has an open {basket.kind} basket, not a {kind} basket: complete it with: {command}; or {opening}"
    )


def host(cli: Context) -> str:
    """Return host and port of the server."""
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415

    return urlsplit(server_url(cli.settings)).netloc


def _seconds_left(basket: Basket) -> float | None:
    return None if basket.price_fix is None else basket.price_fix.seconds_left


def _parse_amount(text: str | None) -> Decimal | None:
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise InvalidInput.of("expect-total", "must be an amount such as 1852.60")
    return amount


def _read_address(file: Path) -> Shipping:
    import attrs  # noqa: PLC0415

    from minted_connect.core.converter import StructureError, structure  # noqa: PLC0415
    from minted_connect.errors import InvalidInput  # noqa: PLC0415
    from minted_connect.models import Shipping  # noqa: PLC0415

    try:
        address = json.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise InvalidInput.of("address", f"cannot be read ({type(error).__name__})") from None
    except ValueError:
        raise InvalidInput.of("address", "must be JSON") from None
    names = [field.name for field in attrs.fields(Shipping)]
    if not isinstance(address, dict) or not set(cast("dict[str, Any]", address)) <= set(names):
        raise InvalidInput.of("address", f"must be an object with keys of {', '.join(names)}")
    try:
        return structure(address, Shipping)
    except StructureError as mismatch:
        raise InvalidInput.of("address", str(mismatch).replace("data.", "")) from None


async def reconcile(
    cli: Context,
    intent: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this intent; may be repeated.")] = None,
    decide: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Record the outcome of one --intent: confirmed, rejected or not_executed. Sends no requests.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list the open intents. Sends no requests.")] = False,
    all_accounts: Annotated[
        bool,
        typer.Option("--all-accounts", help="Also list open intents of other accounts, without reading them back."),
    ] = False,
    fence: Annotated[
        bool,
        typer.Option("--fence", help="Clear open baskets, so that a late request finds nothing to complete."),
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Maximum number of seconds to read back the intents.")
    ] = 120.0,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Settle purchases until SIGINT or SIGTERM, which end it with exit code 0. One process per journal is "
            "active, the others stand by.",
        ),
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="With --watch: seconds between two rounds.")] = 60.0,
    lease: Annotated[
        float,
        typer.Option(
            min=1, help="With --watch: seconds after which another process takes over if this one was killed."
        ),
    ] = 60.0,
) -> int | None:
    """Find out the outcome of purchases whose outcome is unknown. Buys nothing."""
    from anyio import Path as AsyncPath  # noqa: PLC0415 - `--help` does not need it

    from minted_connect.cli.default_journal import default_journal_path  # noqa: PLC0415
    from minted_connect.cli.process import LossyOutput  # noqa: PLC0415
    from minted_connect.cli.progress import Progress  # noqa: PLC0415
    from minted_connect.commands import reconcile  # noqa: PLC0415
    from minted_connect.commands import watch as watching  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    states = ("confirmed", "rejected", "not_executed")
    if decide is not None and decide not in states:
        raise ConfigurationError(f"decide: must be one of {', '.join(states)}")
    settings: dict[str, Any] = {**cli.settings}
    journal: str | None = settings.pop("journal", None)
    if journal is None and not await AsyncPath(journal := default_journal_path(settings)).exists():
        if watch:
            raise ConfigurationError(f"journal: there is no file {journal}")
        if intent:
            raise reconcile.not_found_error(intent, f"the journal {journal} does not exist")
        if list_ and cli.out.as_json:
            cli.out.print_json([])
        cli.out.print_message(f"nothing to reconcile: the journal {journal} does not exist yet")
        return None
    out = LossyOutput(sys.stdout)
    shared: dict[str, Any] = {
        "fence": fence,
        "seconds": seconds,
        "as_json": cli.out.as_json,
        "settings": settings,
        "out": cast("TextIO", out),
    }
    if watch:
        watching.check_options(intent, decide, only_list=list_, all_accounts=all_accounts)
        cli.exit_code = 0  # that of a signal, which is the regular end
        code = await watching.run(journal, interval=interval, lease=lease, **shared)
    else:
        cli.may_leave_open = not list_
        code = await reconcile.run(
            journal,
            intents=intent,
            decide=decide,
            only_list=list_,
            all_accounts=all_accounts,
            progress=Progress(cli.out, "intents"),
            **shared,
        )
    if out.failure is not None:
        cli.out.print_message(f"minted: the result could not be printed: {type(out.failure).__name__}")
    return code if out.failure is None else reconcile.UNSETTLED
