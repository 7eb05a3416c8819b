"""The commands `minted rates` and `minted products`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import typer

from minted_connect.cli.command import Context, End, Start, command
from minted_connect.cli.live_prices import reporting_errors

if TYPE_CHECKING:
    from rich.text import Text

    from minted_connect.cli.output import Output
    from minted_connect.feed.tick import Tick
    from minted_connect.models import RatePoint

__all__ = ["products", "rates_app"]

rates_app: typer.Typer = typer.Typer(help="Show prices per gram: current, live, and past.")

_Metals = Annotated[list[str] | None, typer.Option("--metal", help="Only this metal; may be repeated.")]

_RATE: Final = {
    "account": "currency_name",
    "metal": "metal_type",
    "buy at": "buy_price",
    "sell at": "sell_price",
    "spot": "spot_price",
    "currency": "currency_code",
    "updated": "updated_at",
}
_POINT: Final = {
    "time": "time",
    "metal": "metal_type",
    "spot": "spot_price",
    "buy at": "buy_price",
    "sell at": "sell_price",
    "currency": "currency_code",
}
_PRODUCT: Final = {
    "sku": "sku",
    "name": "name",
    "price": "sale_price",
    "currency": "currency_code",
    "in stock": "stock",
}
_WATCH_HEADER: Final = ("time", "account", "buy at", "sell at", "currency", "direction", "change", "state")
_UP, _DOWN = "\u25b2", "\u25bc"


@command(rates_app, None)
async def current(cli: Context, metal: _Metals = None) -> None:
    """Show prices per gram: current, live, and past."""
    cli.out.print_records(await cli.minted.rates.current(metals=metal), _RATE, "Prices per gram")


@command(rates_app, "watch")
async def watch(
    cli: Context,
    metal: _Metals = None,
    interval: Annotated[float, typer.Option(help="Seconds between two requests.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many prices.")] = None,
) -> None:
    """Show prices as they change, with --json as one object per line. Stop with Ctrl-C."""
    async with cli.minted.rates.feed(interval=interval, metals=metal) as feed:
        with _RateDisplay(cli.out) as display:
            async with reporting_errors(feed, interval, display.set_error):
                received = 0
                async for tick in feed.subscribe():
                    display.add(tick)
                    received += 1
                    if received == count:
                        return


class _RateDisplay:
    """Displays prices: as a table that is redrawn on a terminal, as one line per price elsewhere."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._live: Any = None
        self._arrows: dict[int, str] = {}
        self._ticks: dict[int, Tick] = {}
        self._error = ""
        self._has_header = False

    def __enter__(self) -> Self:
        if self._out.is_live:
            from rich.live import Live  # noqa: PLC0415 - needed on a terminal only

            self._live = Live(console=self._out.console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def set_error(self, text: str) -> None:
        """Show why no prices are received; an empty text clears the error."""
        self._error = text
        if self._live is not None:
            self._draw()
        elif text:
            self._out.print_message(f"minted: {text}; retrying")

    def add(self, tick: Tick) -> None:
        """Show a new price."""
        self._ticks[tick.rate.currency_id] = tick
        if tick.change:
            self._arrows[tick.rate.currency_id] = _UP if tick.change > 0 else _DOWN
        if self._out.as_json:
            from minted_connect.feed.schema import to_text  # noqa: PLC0415

            self._out.print_json({**to_text(tick), "stale": tick.stale, "age": round(tick.age, 3)}, indent=None)
        elif self._live is None:
            from minted_connect.cli.output import format_cell  # noqa: PLC0415

            if not self._has_header:
                self._has_header = True
                self._out.print_line("\t".join(_WATCH_HEADER))
            self._out.print_line("\t".join([format_cell(tick.at), *map(str, self._row(tick))]))
        else:
            self._draw()

    def _draw(self) -> None:
        from minted_connect.cli.output import build_table, format_cell  # noqa: PLC0415

        header = ("account", "buy at", "sell at", "currency", "", "change", "age")
        rows = [[*self._row(tick)[:-1], self._age(tick)] for tick in self._ticks.values()]
        table = build_table(header, rows, "Prices per gram (stop with Ctrl-C)")
        table.caption = format_cell(self._error) or None
        self._live.update(table, refresh=True)

    def _row(self, tick: Tick) -> list[object]:
        from minted_connect.cli.output import format_cell  # noqa: PLC0415

        arrow: Any = self._arrows.get(tick.rate.currency_id, "")
        if self._live is not None:
            arrow = _colour_arrow(arrow)
        change = "" if tick.change is None else f"{tick.change:+f}"
        name, currency = format_cell(tick.rate.currency_name), format_cell(tick.currency)
        return [name, tick.buy, tick.sell, currency, arrow, change, "stale" if tick.stale else ""]

    def _age(self, tick: Tick) -> str:
        return f"{tick.age:.0f} s{', stale' if tick.stale else ''}"


def _colour_arrow(arrow: str) -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(arrow, style="green" if arrow == _UP else "red")


@command(rates_app, "history")
async def history(
    cli: Context,
    metal: Annotated[str | None, typer.Option(help="Metal, such as gold. Give this or --currency-id.")] = None,
    currency_id: Annotated[int | None, typer.Option(help="Id of a metal account. Give this or --metal.")] = None,
    interval: Annotated[Literal["hour", "day", "week", "month"], typer.Option(help="Time between two prices.")] = "day",
    start: Start = None,
    end: End = None,
    chart: Annotated[bool, typer.Option("--chart", help="Draw a chart in the terminal (extra charts).")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write to this .csv, .parquet, .svg, .png or .html file.", dir_okay=False)
    ] = None,
) -> None:
    """Show past prices per gram as a table or chart, or save them. --end defaults to today."""
    from minted_connect.cli import charts  # noqa: PLC0415 - `--help` does not need it

    if save is not None:
        charts.check_file(save)
    points: tuple[RatePoint, ...] = await cli.minted.rates.history(
        metal=metal,
        currency_id=currency_id,
        interval=interval,
        start=start.date() if start else None,
        end=end.date() if end else datetime.now(UTC).date() if start else None,
    )
    if save is not None:
        charts.save(points, save)
        cli.out.print_message(f"{len(points)} prices written to {save}")
    if chart:
        cli.out.print_line(charts.draw(points, cli.out.console.width, colour=cli.out.has_colour))
    elif save is None:
        cli.out.print_records(points, _POINT, "Prices per gram")


async def products(
    cli: Context,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of products.")] = 100,
) -> None:
    """Show the products."""
    rows: list[Any] = []
    async for product in cli.minted.products.iterate(per_page=min(max(limit, 5), 100)):
        rows.append(product)
        if len(rows) == limit:
            break
    cli.out.print_records(rows, _PRODUCT, "Products")
