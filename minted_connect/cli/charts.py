"""Draws past prices as a chart in the terminal, and saves them to files (CSV, Parquet, images).

Tables contain exact amounts. Charts are drawn from floats, which is what the plotting libraries take.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from minted_connect.cli.files import format_csv, write_atomically
from minted_connect.core.extras import import_extra
from minted_connect.dataframes import POINTS, to_arrow
from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.feed.schema import as_text
from minted_connect.models import RatePoint

__all__ = ["check_file", "draw", "save"]

_HEIGHT: Final = 20
_PRICES: Final = {"buy": ("braille", "green"), "sell": ("dot", "red")}
"""Marker and colour of each price: without colours, the markers tell them apart."""
_NEEDS_EXTRA: Final = "a chart needs its extra"
_HEADER: Final = [column.name for column in POINTS]


def draw(points: Sequence[RatePoint], width: int, *, colour: bool) -> str:
    """Return a text chart of the buy and sell prices, with axes of price and time.

    Raises:
        ConfigurationError: if plotext is not installed (`pip install "minted-connect[charts]"`).
    """
    plot = import_extra("plotext", "charts", _NEEDS_EXTRA)
    if not points:
        return "no prices in this period"
    plot.clear_figure()
    plot.plot_size(width, _HEIGHT)
    # "default" is the terminal's own colour, which is readable on a dark and on a light background.
    plot.canvas_color("default")
    plot.axes_color("default")
    plot.ticks_color("default")
    for name, series in _series(points).items():
        times = [point.time.timestamp() for point in series]
        for price, (marker, shade) in _PRICES.items():
            values = [float(getattr(point, f"{price}_price")) for point in series]
            plot.plot(times, values, label=f"{price} {name}", marker=marker, color=shade)
    first, last = (bound(point.time for point in points) for bound in (min, max))
    ticks = [first + (last - first) * part / 4 for part in range(5)]
    plot.xticks([tick.timestamp() for tick in ticks], [f"{tick:%Y-%m-%d}" for tick in ticks])
    plot.ylabel(f"{', '.join(sorted({point.currency_code for point in points}))} per gram")
    chart = str(plot.build())
    return chart if colour else str(plot.uncolorize(chart))


def check_file(file: Path) -> None:
    """Check that `save` supports this file name, so that a command can fail before it sends a request.

    Raises:
        InvalidInput: if the suffix is not a supported format.
        ConfigurationError: if the directory does not exist, or the extra for the format is not installed.
    """
    writer = _WRITERS.get(file.suffix.lower())
    if writer is None:
        raise InvalidInput.of("save", f"must end in one of {', '.join(_WRITERS)}")
    if not file.absolute().parent.is_dir():
        raise ConfigurationError(f"save: the directory {file.absolute().parent} does not exist")
    if writer is _parquet:
        import_extra("pyarrow.parquet", "dataframe", "Parquet needs its extra")
    elif writer is not _csv:
        import_extra("matplotlib", "charts", _NEEDS_EXTRA)


def save(points: Sequence[RatePoint], file: Path) -> None:
    """Write prices to a file atomically, in the format of its suffix."""
    write_atomically(file, _WRITERS[file.suffix.lower()](points))


def _series(points: Iterable[RatePoint]) -> dict[str, list[RatePoint]]:
    series: dict[str, list[RatePoint]] = {}
    for point in sorted(points, key=lambda point: point.time):
        series.setdefault(f"{point.metal_type} {point.currency_code}", []).append(point)
    return series


def _cells(point: RatePoint) -> list[str]:
    return [str(as_text(column.get(point))) for column in POINTS]


def _csv(points: Sequence[RatePoint]) -> bytes:
    return format_csv(_HEADER, map(_cells, points)).encode()


def _parquet(points: Sequence[RatePoint]) -> bytes:
    buffer = io.BytesIO()
    import_extra("pyarrow.parquet", "dataframe", "Parquet needs its extra").write_table(to_arrow(points), buffer)
    return buffer.getvalue()


def _plot(points: Sequence[RatePoint], format_: str) -> bytes:
    import_extra("matplotlib", "charts", _NEEDS_EXTRA).use("Agg")
    figure_class = import_extra("matplotlib.figure", "charts", _NEEDS_EXTRA).Figure
    figure = figure_class(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for name, series in _series(points).items():
        for price, style in (("buy", "-"), ("sell", "--")):
            values = [float(getattr(point, f"{price}_price")) for point in series]
            axes.plot([point.time for point in series], values, style, label=f"{price} {name}")
    axes.set_xlabel("time")
    axes.set_ylabel(f"{', '.join(sorted({point.currency_code for point in points}))} per gram")
    axes.grid(visible=True, alpha=0.3)
    if points:
        axes.legend()
    figure.autofmt_xdate()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format_)
    return buffer.getvalue()


def _svg(points: Sequence[RatePoint]) -> bytes:
    return _plot(points, "svg")


def _png(points: Sequence[RatePoint]) -> bytes:
    return _plot(points, "png")


def _html(points: Sequence[RatePoint]) -> bytes:
    svg = _svg(points).decode()
    rows = ["".join([f"<td>{html.escape(cell)}</td>" for cell in _cells(point)]) for point in points]
    header = "".join([f"<th>{name}</th>" for name in _HEADER])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Prices per gram</title>'
        "<style>body{font-family:sans-serif}svg{max-width:100%;height:auto}"
        "td,th{padding:.1em .8em;text-align:right}</style>"
        f"<h1>Prices per gram</h1>{svg[svg.index('<svg') :]}"
        f"<table><tr>{header}</tr>{''.join([f'<tr>{row}</tr>' for row in rows])}</table></html>\n"
    ).encode()


_WRITERS: Final[Mapping[str, Callable[[Sequence[RatePoint]], bytes]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".svg": _svg,
    ".png": _png,
    ".html": _html,
}
