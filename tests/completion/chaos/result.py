"""The counts of a run, and the violations that it reports."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs


class Violation(Exception):
    """A violated invariant of one purchase."""

    def __init__(self, kind: str, token: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.token = kind, token


VIOLATION_KINDS: Final = ("double", "lost", "confirmed too early", "posted twice")
"""Kinds of violations whose number is always printed."""


@attrs.define
class RunResult:
    """Counts of purchases, orders, outcomes, faults and violations."""

    purchases: int = 0
    orders: int = 0
    first_outcomes: Counter[str] = attrs.field(factory=Counter[str])
    """First outcome of each call, by label."""
    later_outcomes: Counter[str] = attrs.field(factory=Counter[str])
    """Outcomes of later reconciliations, by label."""
    faults: Counter[str] = attrs.field(factory=Counter[str])
    """Requests that met a fault, by kind of fault."""
    violations: Counter[str] = attrs.field(factory=lambda: Counter[str](dict.fromkeys(VIOLATION_KINDS, 0)))
    reports: list[str] = attrs.field(factory=list[str])
    seconds: float = 0.0
    simulated_seconds: float = 0.0

    def __str__(self) -> str:
        rows: list[tuple[str, object]] = [("purchases", self.purchases)]
        rows += [(f"  at first: {name}", count) for name, count in self.first_outcomes.most_common()]
        rows += [(f"  open, then: {name}", count) for name, count in self.later_outcomes.most_common()]
        rows += [("requests that met a fault", self.faults.total()), ("orders", self.orders)]
        rows += list(self.violations.items())
        rows += [
            ("seconds", f"{self.seconds:.0f}"),
            ("days on the shared clock", f"{self.simulated_seconds / 86_400:.1f}"),
        ]
        return "\n".join(f"{name:<48}{value:>9}" for name, value in rows)
