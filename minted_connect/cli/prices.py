"""`minted rates` and `minted products`: what things cost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import typer

from minted_connect.cli.command import Context, Day, command

if TYPE_CHECKING:
    from rich.text import Text

    from minted_connect.feed.tick import Tick
    from minted_connect.models import RatePoint

__all__ = ["products", "rates_app"]

rates_app: typer.Typer = typer.Typer(help="Prices of a gram: now, live, and over time.")

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
_UP, _DOWN = "\u25b2", "\u25bc"


@command(rates_app, None)
async def current(cli: Context, metal: _Metals = None) -> None:
    """Prices of a gram: now, live, and over time."""
    cli.out.records(await cli.minted.rates.current(metals=metal), _RATE, "Prices of a gram")


@command(rates_app, "watch")
async def watch(
    cli: Context,
    metal: _Metals = None,
    interval: Annotated[float, typer.Option(help="Seconds from one request to the next.")] = 1.0,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many prices.")] = None,
) -> None:
    """Show prices as they change, until Ctrl-C; one request an interval."""
    import asyncio  # noqa: PLC0415 - `--help` needs none of it

    async with cli.minted.rates.feed(interval=interval, metals=metal) as feed:
        with _Screen(cli) as screen:

            async def tell_of_trouble() -> None:
                while True:
                    screen.trouble("" if feed.last_error is None else str(feed.last_error))
                    await asyncio.sleep(interval)

            telling = asyncio.ensure_future(tell_of_trouble())
            try:
                seen = 0
                async for tick in feed.subscribe():
                    screen.show(tick)
                    seen += 1
                    if seen == count:
                        return
            finally:
                telling.cancel()


class _Screen:
    """A table that is drawn anew with each price; a line a price where nothing can be redrawn."""

    def __init__(self, cli: Context) -> None:
        self._out = cli.out
        self._live: Any = None
        self._moved: dict[int, str] = {}
        self._ticks: dict[int, Tick] = {}
        self._trouble = ""

    def __enter__(self) -> Self:
        if self._out.is_live:
            from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

            self._live = Live(console=self._out.console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def trouble(self, text: str) -> None:
        """Say why no price comes, once; "" when they come again."""
        if text == self._trouble:
            return
        self._trouble = text
        if self._live is not None:
            self._draw()
        elif text:
            self._out.say(f"minted: {text}; trying again")

    def show(self, tick: Tick) -> None:
        """Show a price."""
        self._ticks[tick.rate.currency_id] = tick
        if tick.change:
            self._moved[tick.rate.currency_id] = _UP if tick.change > 0 else _DOWN
        if self._out.as_json:
            from minted_connect.feed.schema import to_text  # noqa: PLC0415

            self._out.json({**to_text(tick), "stale": tick.stale, "age": round(tick.age, 3)}, indent=None)
        elif self._live is None:
            self._out.text("\t".join(map(str, self._row(tick))))
        else:
            self._draw()

    def _draw(self) -> None:
        from minted_connect.cli.output import clean, drawn  # noqa: PLC0415

        head = ("account", "buy at", "sell at", "currency", "", "change", "age")
        rows = [[*self._row(one)[:-1], self._age(one)] for one in self._ticks.values()]
        table = drawn(head, rows, "Prices of a gram (Ctrl-C ends)")
        table.caption = clean(self._trouble) or None
        self._live.update(table, refresh=True)

    def _row(self, tick: Tick) -> list[object]:
        from minted_connect.cli.output import clean  # noqa: PLC0415

        arrow: Any = self._moved.get(tick.rate.currency_id, "")
        if self._live is not None:
            arrow = _coloured(arrow)
        change = "" if tick.change is None else f"{tick.change:+f}"
        name, currency = clean(tick.rate.currency_name), clean(tick.currency)
        return [name, tick.buy, tick.sell, currency, arrow, change, "stale" if tick.stale else ""]

    def _age(self, tick: Tick) -> str:
        return f"{tick.age:.0f} s{', stale' if tick.stale else ''}"


def _coloured(arrow: str) -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(arrow, style="green" if arrow == _UP else "red")


@command(rates_app, "history")
async def history(
    cli: Context,
    metal: Annotated[str | None, typer.Option(help="Only this metal.")] = None,
    currency_id: Annotated[int | None, typer.Option(help="Only this item currency.")] = None,
    interval: Annotated[Literal["hour", "day", "week", "month"], typer.Option(help="One price for each.")] = "day",
    start: Day = None,
    end: Day = None,
    chart: Annotated[bool, typer.Option("--chart", help="Draw it in the terminal (extra charts).")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write it to a file: .csv, .parquet, .svg, .png, .html.", dir_okay=False)
    ] = None,
) -> None:
    """Show what a gram cost, as a table, a chart or a file; until today if no end is given."""
    from minted_connect.cli import charts  # noqa: PLC0415 - `--help` needs none of it

    if save is not None:
        charts.check(save)
    points: tuple[RatePoint, ...] = await cli.minted.rates.history(
        metal=metal,
        currency_id=currency_id,
        interval=interval,
        start=start.date() if start else None,
        end=end.date() if end else datetime.now(UTC).date() if start else None,
    )
    if save is not None:
        charts.save(points, save)
        cli.out.say(f"{len(points)} prices written to {save}")
    if chart:
        cli.out.text(charts.terminal(points, cli.out.console.width, colour=cli.out.is_coloured))
    elif save is None:
        cli.out.records(points, _POINT, "Prices of a gram")


async def products(
    cli: Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
) -> None:
    """Show the catalogue."""
    found: list[Any] = []
    async for product in cli.minted.products.iterate(per_page=min(max(limit, 5), 100)):
        found.append(product)
        if len(found) == limit:
            break
    cli.out.records(found, _PRODUCT, "Products")
