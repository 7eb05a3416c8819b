"""Schedule of the reads that find out whether a change was executed. No I/O."""

from __future__ import annotations

from typing import Final

__all__ = ["read_back_offsets"]

_FRACTIONS: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Fractions of the settle time at which to read. Only the last read can confirm a refusal; the earlier ones find an
order sooner."""


def read_back_offsets(settle_time: float, not_before: float = 0.0) -> tuple[float, ...]:
    """Return the seconds after a response at which to read: at most five, the last at or after the settle time.

    Args:
        settle_time: Seconds within which a change that the response did not report is executed and visible to reads.
        not_before: Seconds that the server asked to wait (`Retry-After`).
    """
    return tuple(sorted({max(not_before, fraction * settle_time) for fraction in _FRACTIONS}))
