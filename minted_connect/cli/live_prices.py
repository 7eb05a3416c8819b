"""The commands `minted rates record` and `minted rates alert`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from decimal import Decimal

    from minted_connect.feed import PriceAlert, RateFeed, Sink

__all__ = ["alert", "record", "reporting_errors"]

_SUFFIXES: Final = (".csv", ".jsonl", ".db", ".sqlite")
_Metal = Annotated[str | None, typer.Option(help="Only this metal, such as gold.")]
_Interval = Annotated[float, typer.Option(help="Seconds between two requests.")]


@asynccontextmanager
async def reporting_errors(
    feed: RateFeed, interval: float, report: Callable[[str], object]
) -> AsyncGenerator[None, None]:
    """Report why no prices are received, whenever that changes; an empty text says that prices are received again.

    Args:
        feed: The feed.
        interval: Seconds between two looks.
        report: Receives the text.
    """
    import asyncio  # noqa: PLC0415 - `--help` does not need it

    async def look() -> None:
        text = ""
        while True:
            new = "" if feed.last_error is None else str(feed.last_error)
            if new != text:
                text = new
                report(text)
            await asyncio.sleep(interval)

    looking = asyncio.ensure_future(look())
    try:
        yield
    finally:
        looking.cancel()


def _report_to(cli: Context) -> Callable[[str], object]:
    def report(text: str) -> None:
        cli.out.print_message(f"minted: {text}; retrying" if text else "minted: prices are received again")

    return report


async def record(
    cli: Context,
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .db file. New prices are appended.", dir_okay=False)],
    metal: _Metal = None,
    interval: _Interval = 1.0,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Stop after this time.")] = None,
) -> None:
    """Record prices to a file until Ctrl-C. A .db file is a SQLite database."""
    import asyncio  # noqa: PLC0415 - `--help` does not need it

    sink = _make_sink(file)
    async with (
        cli.minted.rates.feed(interval=interval, metals=metal) as feed,
        reporting_errors(feed, interval, _report_to(cli)),
    ):
        recording = asyncio.ensure_future(feed.record(sink))
        try:
            await asyncio.wait({recording}, timeout=seconds)
        finally:
            await feed.aclose()
            rows = await recording
            cli.out.print_message(f"{rows} prices written to {file}")


def _make_sink(file: Path) -> Sink:
    from minted_connect.errors import ConfigurationError, InvalidInput  # noqa: PLC0415 - `--help` does not need them

    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InvalidInput.of("file", f"must end in one of {', '.join(_SUFFIXES)}")
    if not file.absolute().parent.is_dir():
        raise ConfigurationError(f"file: the directory {file.absolute().parent} does not exist")
    if suffix in {".db", ".sqlite"}:
        from minted_connect.feed.sinks.sqlite import SqliteSink  # noqa: PLC0415

        return SqliteSink(file)
    from minted_connect.feed import CsvSink, JsonLinesSink  # noqa: PLC0415

    return CsvSink(file) if suffix == ".csv" else JsonLinesSink(file)


async def alert(
    cli: Context,
    above: Annotated[str | None, typer.Option(metavar="PRICE", help="Alert at this price per gram or higher.")] = None,
    below: Annotated[str | None, typer.Option(metavar="PRICE", help="Alert at this price per gram or lower.")] = None,
    price: Annotated[Literal["buy", "sell", "spot"], typer.Option(help="Which price.")] = "spot",
    metal: _Metal = None,
    interval: _Interval = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many alerts.")] = None,
    exec_: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="Run this program, without a shell, for each alert."),
    ] = None,
) -> None:
    """Print a line when a price reaches a limit, and again after it was on the other side. Stop with Ctrl-C.

    The program of --exec gets MINTED_PRICE, MINTED_LIMIT, MINTED_DIRECTION, MINTED_METAL, MINTED_CURRENCY and
    MINTED_TIME in its environment.
    """
    from contextlib import aclosing  # noqa: PLC0415 - `--help` does not need it

    upper, lower = _to_decimal("above", above), _to_decimal("below", below)
    command = _split(exec_)
    alerted = 0
    async with (
        cli.minted.rates.feed(interval=interval, metals=metal) as feed,
        reporting_errors(feed, interval, _report_to(cli)),
        aclosing(feed.alerts(above=upper, below=lower, price=price)) as alerts,
    ):
        async for found in alerts:
            _print(cli, found)
            if command:
                await _run(cli, command, found)
            alerted += 1
            if alerted == count:
                return


def _to_decimal(name: str, text: str | None) -> Decimal | None:
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - `--help` does not need it

    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidInput.of(name, "must be a number, such as 592.50") from None


def _split(command: str | None) -> list[str]:
    import shlex  # noqa: PLC0415 - `--help` does not need it
    import shutil  # noqa: PLC0415

    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    if command is None:
        return []
    try:
        parts = shlex.split(command)
    except ValueError:
        raise InvalidInput.of("exec", "has a quotation mark without its end") from None
    if not parts or shutil.which(parts[0]) is None:
        raise InvalidInput.of("exec", "must begin with a program that exists")
    return parts


def _fields(found: PriceAlert) -> Mapping[str, str]:
    tick = found.tick
    return {
        "time": tick.at.isoformat(),
        "metal": str(tick.rate.metal_type),
        "price": format(found.price, "f"),
        "currency": tick.currency,
        "direction": found.direction,
        "limit": format(found.limit, "f"),
    }


def _print(cli: Context, found: PriceAlert) -> None:
    fields = _fields(found)
    if cli.out.as_json:
        cli.out.print_json(fields, indent=None)
        return
    from minted_connect.cli.output import format_cell  # noqa: PLC0415 - `--help` does not need it

    cli.out.print_line("\t".join(format_cell(value) for value in fields.values()))


async def _run(cli: Context, command: list[str], found: PriceAlert) -> None:
    """Run the program of an alert, and wait until it has ended; report its failure."""
    import asyncio  # noqa: PLC0415 - `--help` does not need it
    import os  # noqa: PLC0415

    environment = {**os.environ, **{f"MINTED_{name.upper()}": value for name, value in _fields(found).items()}}
    # The program has no use for the credentials.
    environment = {name: value for name, value in environment.items() if not name.startswith("MINTED_CONNECT_")}
    try:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        cli.out.print_message(f"minted: {command[0]} cannot be run: {error.strerror}")
        return
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    if code:
        cli.out.print_message(f"minted: {command[0]} failed with exit code {code}")
