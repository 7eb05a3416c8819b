"""Random faults for the requests of a sandbox."""

from __future__ import annotations

import random
from typing import Any

import attrs

from minted_connect.sandbox.active_faults import Fault, Faults

__all__ = ["FAULTS", "FaultSpec", "RandomFaults"]

FaultSpec = tuple[str, dict[str, Any]]
"""Kind and arguments of a fault; the arguments may include those of `Faults.add`, except `after`."""

FAULTS: list[FaultSpec] = [
    ("drop_before_read", {}),
    ("drop_before_read", {"reset": True}),
    ("drop_after_commit", {}),
    ("drop_after_commit", {"reset": True}),
    ("truncate", {}),
    ("truncate", {"chunked": True}),
    ("status", {"status": 500}),
    ("status", {"status": 503, "commit": True, "retry_after": 1}),
    ("status", {"status": 401}),
    ("status", {"status": 404}),
    ("status", {"status": 422}),
    ("html", {}),
    ("empty", {}),
    ("invalid_json", {}),
    ("stale_nonce", {}),
    ("rate_limit", {"retry_after": 1}),
    ("redirect", {}),
    ("many_headers", {}),
    ("long_header", {}),
    ("two_answers", {}),
    ("interim", {}),
    ("too_large", {"size": 40_000}),
    ("gzip_bomb", {"size": 2**20}),
    ("slow_loris", {"interval": 0.01}),
    ("delay", {"seconds": 0.1}),
    ("wrong_customer", {}),
    ("odd_row", {"field": "id", "value": "x"}),
    ("success_false", {}),
    ("hang", {"commit": True}),
    ("hang", {"commit": False}),
]


@attrs.define
class RandomFaults:
    """Makes a share of the requests of a sandbox fail, with different faults; call `renew` regularly."""

    faults: Faults
    rng: random.Random
    share: float
    planned: list[Fault] = attrs.field(factory=list)
    table: list[FaultSpec] = attrs.field(default=FAULTS, kw_only=True)
    """The faults to choose from."""

    def renew(self, requests: int = 100) -> None:
        """Remove triggered faults; if no fault is left, plan faults for the next requests."""
        self.remove_triggered()
        every = round(1 / self.share)
        if not self.planned:
            for after in range(0, requests, every):
                kind, args = self.rng.choice(self.table)
                self.planned.append(self.faults.add(kind, after=after + self.rng.randrange(every), **args))

    def remove_triggered(self) -> None:
        """Remove the triggered faults; requests that hang in a fault continue."""
        for fault in [fault for fault in self.planned if fault.hits]:
            fault.remove()
            self.planned.remove(fault)

    def remove_all(self) -> None:
        """Remove all faults."""
        for fault in self.planned:
            fault.remove()
        self.planned.clear()

    @property
    def has_waiting(self) -> bool:
        return any(fault.waiting for fault in self.planned)
