"""Measuring on a busy machine: contenders take turns, and only ratios within one turn are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs

__all__ = ["Cost", "Measure", "interleave", "timed"]


@attrs.frozen
class Cost:
    """What one call took, in seconds."""

    wall: float
    cpu: float
    requests: float | None = None
    """Requests that reached the server for one call, where there is one."""


Measure = Callable[[int], Cost]
"""Makes that many calls and returns what one of them took."""


def timed(
    run: Callable[[int], object],
    *,
    cpu: Callable[[], float] = time.process_time,
    requests: Callable[[], int] | None = None,
) -> Measure:
    """Measure what makes the given number of calls; `cpu` and `requests` are read before and after."""

    def measure(calls: int) -> Cost:
        sent = requests() if requests else 0
        busy, started = cpu(), time.perf_counter()
        run(calls)
        wall, used = time.perf_counter() - started, cpu() - busy
        return Cost(wall / calls, used / calls, (requests() - sent) / calls if requests else None)

    return measure


def interleave(contenders: Mapping[str, Measure], *, calls: int, repetitions: int) -> dict[str, list[Cost]]:
    """Return one `Cost` for each contender and repetition, after one that is thrown away.

    The order is turned round every time: whoever goes first finds the caches cold.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    names = list(contenders)
    for repetition in range(repetitions + 1):
        for name in names:
            cost = contenders[name](calls)
            if repetition:
                costs[name].append(cost)
        names.reverse()
    return costs
