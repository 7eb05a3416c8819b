"""What became of many purchases, and what must never become of one."""

from __future__ import annotations

from collections import Counter
from typing import Final

import attrs


class Violation(Exception):
    """Something that must never happen."""

    def __init__(self, what: str, token: str, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.what, self.token = what, token


NEVER: Final = ("double", "lost", "believed too early", "posted twice")
"""Violations whose number is shown also where there was none."""


@attrs.define
class Tally:
    """What became of the purchases."""

    purchases: int = 0
    orders: int = 0
    first: Counter[str] = attrs.field(factory=Counter[str])
    """What the caller was told at first."""
    later: Counter[str] = attrs.field(factory=Counter[str])
    """What was found out about those whose outcome was not known."""
    faults: Counter[str] = attrs.field(factory=Counter[str])
    """Requests that were hit, by kind of fault."""
    violations: Counter[str] = attrs.field(factory=lambda: Counter[str](dict.fromkeys(NEVER, 0)))
    reports: list[str] = attrs.field(factory=list[str])
    seconds: float = 0.0
    virtual: float = 0.0

    def __str__(self) -> str:
        rows: list[tuple[str, object]] = [("purchases", self.purchases)]
        rows += [(f"  at first: {name}", count) for name, count in self.first.most_common()]
        rows += [(f"  open, then: {name}", count) for name, count in self.later.most_common()]
        rows += [("requests hit by a fault", self.faults.total()), ("orders", self.orders)]
        rows += list(self.violations.items())
        rows += [("seconds", f"{self.seconds:.0f}"), ("days on the shared clock", f"{self.virtual / 86_400:.1f}")]
        return "\n".join(f"{name:<48}{value:>9}" for name, value in rows)
