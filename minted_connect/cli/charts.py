"""Prices over time as a chart in the terminal, or as a file.

Tables keep exact amounts; what is only drawn (terminal, svg, png) is drawn with floats, as every plotting library does.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from minted_connect.cli.files import csv_of, write_whole
from minted_connect.core.extras import import_extra
from minted_connect.errors import ConfigurationError, InvalidInput
from minted_connect.feed.dataframes import POINTS, to_arrow
from minted_connect.feed.schema import as_text
from minted_connect.models import RatePoint

__all__ = ["check", "save", "terminal"]

_HEIGHT: Final = 20
_NEEDED: Final = "a chart needs its extra"
_HEAD: Final = [column.name for column in POINTS]


def terminal(points: Sequence[RatePoint], width: int, *, colour: bool) -> str:
    """Return a chart of spot prices made of characters.

    Raises:
        ConfigurationError: plotext is not installed (`pip install "minted-connect[charts]"`).
    """
    plot = import_extra("plotext", "charts", _NEEDED)
    if not points:
        return "no prices in that time"
    plot.clear_figure()
    plot.plot_size(width, _HEIGHT)
    # Of the terminal's own colours, whatever its background.
    plot.canvas_color("default")
    plot.axes_color("default")
    plot.ticks_color("default")
    for name, series in _series(points).items():
        moments = [point.time.timestamp() for point in series]
        plot.plot(moments, [float(point.spot_price) for point in series], label=name, marker="braille")
    first, last = (edge(point.time for point in points) for edge in (min, max))
    marks = [first + (last - first) * part / 4 for part in range(5)]
    plot.xticks([mark.timestamp() for mark in marks], [f"{mark:%Y-%m-%d}" for mark in marks])
    drawn = str(plot.build())
    return drawn if colour else str(plot.uncolorize(drawn))


def check(file: Path) -> None:
    """Check, before anything is sent, that a file of this name can be written.

    Raises:
        InvalidInput: its ending is none of those that are known.
        ConfigurationError: what it needs is not installed, or its directory does not exist.
    """
    writer = _WRITERS.get(file.suffix.lower())
    if writer is None:
        raise InvalidInput.of("save", f"must end in one of {', '.join(_WRITERS)}")
    if not file.absolute().parent.is_dir():
        raise ConfigurationError(f"save: there is no directory {file.absolute().parent}")
    if writer is _parquet:
        import_extra("pyarrow.parquet", "dataframe", "Parquet needs its extra")
    elif writer is not _csv:
        import_extra("matplotlib", "charts", _NEEDED)


def save(points: Sequence[RatePoint], file: Path) -> None:
    """Write prices in the format that the ending of the file's name tells, whole or not at all."""
    write_whole(file, _WRITERS[file.suffix.lower()](points))


def _series(points: Iterable[RatePoint]) -> dict[str, list[RatePoint]]:
    made: dict[str, list[RatePoint]] = {}
    for point in sorted(points, key=lambda one: one.time):
        made.setdefault(f"{point.metal_type} {point.currency_code}", []).append(point)
    return made


def _cells(point: RatePoint) -> list[str]:
    return [str(as_text(column.get(point))) for column in POINTS]


def _csv(points: Sequence[RatePoint]) -> bytes:
    return csv_of(_HEAD, map(_cells, points)).encode()


def _parquet(points: Sequence[RatePoint]) -> bytes:
    made = io.BytesIO()
    import_extra("pyarrow.parquet", "dataframe", "Parquet needs its extra").write_table(to_arrow(points), made)
    return made.getvalue()


def _drawn(points: Sequence[RatePoint], kind: str) -> bytes:
    import_extra("matplotlib", "charts", _NEEDED).use("Agg")
    figure_class = import_extra("matplotlib.figure", "charts", _NEEDED).Figure
    figure = figure_class(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for name, series in _series(points).items():
        axes.plot([point.time for point in series], [float(point.spot_price) for point in series], label=name)
    axes.set_ylabel("spot price of a gram")
    axes.grid(visible=True, alpha=0.3)
    if points:
        axes.legend()
    figure.autofmt_xdate()
    made = io.BytesIO()
    figure.savefig(made, format=kind)
    return made.getvalue()


def _svg(points: Sequence[RatePoint]) -> bytes:
    return _drawn(points, "svg")


def _png(points: Sequence[RatePoint]) -> bytes:
    return _drawn(points, "png")


def _html(points: Sequence[RatePoint]) -> bytes:
    picture = _svg(points).decode()
    rows = ["".join([f"<td>{html.escape(cell)}</td>" for cell in _cells(point)]) for point in points]
    head = "".join([f"<th>{name}</th>" for name in _HEAD])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Prices of a gram</title>'
        "<style>body{font-family:sans-serif}svg{max-width:100%;height:auto}"
        "td,th{padding:.1em .8em;text-align:right}</style>"
        f"<h1>Prices of a gram</h1>{picture[picture.index('<svg') :]}"
        f"<table><tr>{head}</tr>{''.join([f'<tr>{row}</tr>' for row in rows])}</table></html>\n"
    ).encode()


_WRITERS: Final[Mapping[str, Callable[[Sequence[RatePoint]], bytes]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".svg": _svg,
    ".png": _png,
    ".html": _html,
}
