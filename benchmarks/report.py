"""Computes rows of medians, and prints them as a Markdown table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from statistics import median, quantiles
from typing import Any

import attrs

from benchmarks.measure import Cost

__all__ = ["Row", "combine", "compare", "machine", "table"]

_HEADINGS = ("case", "what", "wall", "x wall", "spread", "CPU", "x CPU", "requests", "goal", "note")
_NUMBERS = frozenset({"wall", "x wall", "spread", "CPU", "x CPU", "requests"})
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


@attrs.frozen
class Row:
    """The result of one contender: seconds per call, and their ratio to the baseline."""

    case: str
    what: str
    wall: float
    wall_ratio: float
    spread: tuple[float, float]
    """Lower and upper quartile of `wall_ratio` in one process; the lowest and the highest of several processes."""
    cpu: float
    cpu_ratio: float
    requests: float | None
    goal: str
    note: str


def compare(
    case: str,
    costs: Mapping[str, list[Cost]],
    baseline: str,
    *,
    goals: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return a row for each contender; ratios are medians of the ratios within each repetition."""
    rows: list[Row] = []
    for what, own in costs.items():
        pairs = list(zip(own, costs[baseline], strict=True))
        wall = [cost.wall / base.wall for cost, base in pairs]
        cpu = [cost.cpu / base.cpu for cost, base in pairs if base.cpu]
        low, _, high = quantiles(wall, n=4, method="inclusive")
        rows.append(
            Row(
                case=case,
                what=what,
                wall=median(cost.wall for cost in own),
                wall_ratio=median(wall),
                spread=(low, high),
                cpu=median(cost.cpu for cost in own),
                cpu_ratio=median(cpu) if cpu else float("nan"),
                requests=None if own[0].requests is None else median(cost.requests or 0.0 for cost in own),
                goal=(goals or {}).get(what, ""),
                note=(notes or {}).get(what, ""),
            )
        )
    return rows


def combine(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the row of the median process for each row of runs of the same cases, with the spread of its ratio."""
    combined: list[Row] = []
    for rows in zip(*runs, strict=True):
        ordered = sorted(rows, key=lambda row: (isnan(row.wall_ratio), row.wall_ratio))
        ratios = [row.wall_ratio for row in ordered]
        middle = ordered[len(ordered) // 2]
        cpu_ratio = median(row.cpu_ratio for row in rows)
        combined.append(attrs.evolve(middle, spread=(ratios[0], ratios[-1]), cpu_ratio=cpu_ratio))
    return combined


def machine() -> dict[str, Any]:
    """Return the Python, system and package versions of this run."""
    packages = (
        "minted-connect",
        "aiohttp",
        "anyio",
        "attrs",
        "cattrs",
        "tenacity",
        "requests",
        "httpx",
        "httpx2",
        "pydantic",
    )
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "packages": {name: version for name in packages if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    lines = [_line(_HEADINGS), _line("--:" if name in _NUMBERS else "---" for name in _HEADINGS)]
    for row in rows:
        low, high = row.spread
        cells = (
            row.case,
            row.what,
            _time(row.wall),
            _ratio(row.wall_ratio),
            "" if isnan(low) else f"{low:.2f} to {high:.2f}",
            _time(row.cpu),
            _ratio(row.cpu_ratio),
            "" if row.requests is None else f"{row.requests:.4g}",
            row.goal,
            row.note,
        )
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(ratio: float) -> str:
    return "" if isnan(ratio) else f"{ratio:.2f}"


def _time(seconds: float) -> str:
    if isnan(seconds):
        return ""
    # Three digits are shown: a value that rounds up to 1000 is shown in the next unit.
    unit, name = next((unit for unit in _UNITS if seconds >= 0.9995 * unit[0]), _UNITS[-1])
    return f"{seconds / unit:.3g} {name}"
