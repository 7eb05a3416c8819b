"""Measures on a busy machine: contenders run in turn, and only ratios within one repetition are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import attrs

__all__ = ["Cost", "Measure", "interleave", "timed"]


@attrs.frozen
class Cost:
    """The cost of one call, in seconds."""

    wall: float
    cpu: float
    requests: float | None = None
    """Requests per call that reached the server; None if they were not counted."""
    p50: float | None = None
    p99: float | None = None
    """Seconds within which half of the calls, and 99 of 100, ended; None if they were not timed one by one."""


Measure = Callable[[int], Cost]
"""Makes the given number of calls and returns the mean cost of one."""


def timed(
    run: Callable[[int], object],
    *,
    cpu: Callable[[], float] = time.process_time,
    requests: Callable[[], int] | None = None,
    seconds: list[float] | None = None,
) -> Measure:
    """Return a `Measure` for `run`, which makes the given number of calls.

    `cpu` and `requests` are called before and after `run`, which may append the seconds of each call to `seconds`.
    """

    def measure(calls: int) -> Cost:
        sent = requests() if requests else 0
        busy, started = cpu(), time.perf_counter()
        run(calls)
        wall, used = time.perf_counter() - started, cpu() - busy
        cost = Cost(wall / calls, used / calls, (requests() - sent) / calls if requests else None)
        if not seconds:
            return cost
        ordered = sorted(seconds)
        seconds.clear()
        return attrs.evolve(cost, p50=ordered[len(ordered) // 2], p99=ordered[len(ordered) * 99 // 100])

    return measure


def interleave(contenders: Mapping[str, Measure], *, calls: int, repetitions: int) -> dict[str, list[Cost]]:
    """Return one `Cost` for each contender and repetition; a first repetition is discarded.

    The order is reversed after each repetition, because the first contender finds the CPU caches cold.
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
