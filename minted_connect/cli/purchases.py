"""`minted buy`, `sell`, `deliver` and `reconcile`: what moves money, and finding out whether it did."""

from __future__ import annotations

import json
import sys
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO, cast
from urllib.parse import urlsplit

import typer

from minted_connect.cli.command import Context
from minted_connect.cli.customers import Who, show_basket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from minted_connect.models import Basket, Completion, Shipping

__all__ = ["buy", "deliver", "reconcile", "sell"]

_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_Dry = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
_Total = Annotated[
    str | None, typer.Option("--expect-total", metavar="AMOUNT", help="Refuse any other total than this.")
]
_DECLINED: Final = 1
_ORDER: Final = {
    "order": "order.id",
    "number": "order.increment_id",
    "status": "order.status",
    "total": "order.paid_total",
    "currency": "order.currency_code",
}


async def buy(
    cli: Context, customer: Who, yes: _Yes = False, expect_total: _Total = None, dry_run: _Dry = False
) -> int | None:
    """Buy what is in the basket: shows the fees, asks, buys once."""
    return await _complete(
        cli, customer, "buy", cli.minted.complete.buy, yes=yes, expect_total=expect_total, dry_run=dry_run
    )


async def sell(
    cli: Context, customer: Who, yes: _Yes = False, expect_total: _Total = None, dry_run: _Dry = False
) -> int | None:
    """Sell what is in the basket: shows the fees, asks, sells once."""
    return await _complete(
        cli, customer, "sell", cli.minted.complete.sell, yes=yes, expect_total=expect_total, dry_run=dry_run
    )


async def deliver(
    cli: Context,
    customer: Who,
    address: Annotated[Path, typer.Option(help="JSON file with the address, by the names of Shipping.")],
    yes: _Yes = False,
    expect_total: _Total = None,
    dry_run: _Dry = False,
) -> int | None:
    """Have what is in the basket shipped: shows the costs, asks, orders it once."""
    shipping = _shipping(address)

    def complete(basket: Basket, *, expected_total: Decimal) -> Awaitable[Completion]:
        return cli.minted.complete.delivery(basket, shipping=shipping, expected_total=expected_total)

    return await _complete(cli, customer, "delivery", complete, yes=yes, expect_total=expect_total, dry_run=dry_run)


async def _complete(
    cli: Context,
    customer: str,
    kind: str,
    complete: Callable[..., Awaitable[Completion]],
    *,
    yes: bool,
    expect_total: str | None,
    dry_run: bool,
) -> int | None:
    from minted_connect.cli.exit_codes import Exit  # noqa: PLC0415
    from minted_connect.cli.process import silence  # noqa: PLC0415
    from minted_connect.cli.prompt import agreed  # noqa: PLC0415 - `--help` needs none of it
    from minted_connect.errors import PriceChanged  # noqa: PLC0415

    expected = _amount(expect_total)
    cli.changes = False  # looking and asking may fail, and have bought nothing
    while True:
        basket = await _basket(cli, customer, kind)
        try:
            if not cli.out.as_json or dry_run:
                show_basket(cli.out, basket)
        except (OSError, ValueError):
            if not yes or dry_run:
                raise  # a price that was not shown cannot be agreed to
        if expected is not None and basket.paid_total != expected:
            raise PriceChanged(
                f"the total is {basket.paid_total} {basket.currency_code}, and not {expected}",
                expected,
                basket.paid_total,
            )
        if dry_run:
            cli.out.say("nothing was done: --dry-run")
            return None
        total = f"{basket.paid_total} {basket.currency_code}"
        question = f"{kind.capitalize()} for {total} at {_server(cli)}?"
        answer = yes or await agreed(cli.out, question, partial(_left, basket))
        if answer is None:
            cli.out.say("the price lock ran out; this is the price now:")
            continue
        if not answer:
            cli.out.say("nothing was done")
            return _DECLINED
        cli.changes = True
        done = await complete(basket, expected_total=basket.paid_total)
        break
    shown = True
    try:
        cli.out.facts(done, _ORDER, "Done")
    except (OSError, ValueError) as error:  # the pipe has no reader, or the disk is full: it is done all the same
        silence(sys.stdout)
        shown = cli.out.say(f"minted: done ({done.keys}), but it could not be shown: {type(error).__name__}")
    for difference in done.differences:
        shown = cli.out.say(f"not as agreed: {difference}") and shown
    return None if shown else Exit.UNKNOWN


async def _basket(cli: Context, customer: str, kind: str) -> Basket:
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    basket = await cli.minted.baskets.get_active(customer)
    if basket is None or basket.kind != kind:
        raise InvalidInput.of("customer", f"has no open basket to {kind}: minted basket add --type {kind} opens one")
    return basket


def _server(cli: Context) -> str:
    from minted_connect.cli.profiles import server_of  # noqa: PLC0415

    return urlsplit(server_of(cli.settings)).netloc


def _left(basket: Basket) -> float | None:
    return None if basket.price_fix is None else basket.price_fix.seconds_left


def _amount(text: str | None) -> Decimal | None:
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


def _shipping(file: Path) -> Shipping:
    import attrs  # noqa: PLC0415

    from minted_connect.core.converter import StructureError, structure  # noqa: PLC0415
    from minted_connect.errors import InvalidInput  # noqa: PLC0415
    from minted_connect.models import Shipping  # noqa: PLC0415

    try:
        parts = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput.of("address", f"cannot be read ({type(error).__name__})") from None
    except ValueError:
        raise InvalidInput.of("address", "must be JSON") from None
    names = [field.name for field in attrs.fields(Shipping)]
    if not isinstance(parts, dict) or not set(cast("dict[str, Any]", parts)) <= set(names):
        raise InvalidInput.of("address", f"must be an object with some of {', '.join(names)}")
    try:
        return structure(parts, Shipping)
    except StructureError as mismatch:
        raise InvalidInput.of("address", str(mismatch).replace("data.", "")) from None


async def reconcile(
    cli: Context,
    intent: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this one; may be repeated.")] = None,
    decide: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="Write down what a person found out: confirmed, rejected, not_executed."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list what is open; ask no server.")] = False,
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Also list open intents of other accounts; they are never read back.")
    ] = False,
    fence: Annotated[bool, typer.Option("--fence", help="Clear baskets that are still open.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to read back each.")] = 120.0,
) -> int | None:
    """Find out what became of purchases whose outcome is not known; buys nothing."""
    from anyio import Path as AsyncPath  # noqa: PLC0415 - `--help` needs none of it

    from minted_connect.cli.process import LossyOutput  # noqa: PLC0415
    from minted_connect.cli.profiles import default_journal  # noqa: PLC0415
    from minted_connect.commands import reconcile  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    states = ("confirmed", "rejected", "not_executed")
    if decide is not None and decide not in states:
        raise ConfigurationError(f"decide: must be one of {', '.join(states)}")
    settings: dict[str, Any] = {**cli.settings}
    journal: str | None = settings.pop("journal", None)
    if journal is None and not await AsyncPath(journal := default_journal(settings)).exists():
        cli.out.say("nothing is open: nothing was bought from this command line yet")
        return None
    cli.ends_unknown = not list_
    out = LossyOutput(sys.stdout)
    code = await reconcile.run(
        journal,
        intents=intent,
        decide=decide,
        only_list=list_,
        all_accounts=all_accounts,
        fence=fence,
        seconds=seconds,
        as_json=cli.out.as_json,
        settings=settings,
        out=cast("TextIO", out),
    )
    if out.failure is not None:
        cli.out.say(f"minted: the result could not be shown: {type(out.failure).__name__}")
    return code if out.failure is None else reconcile.UNSETTLED
