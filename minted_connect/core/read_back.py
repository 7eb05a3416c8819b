"""Schedule of the reads after a response that may be wrong: how often to look, and when. No I/O."""

from __future__ import annotations

from typing import Final

__all__ = ["read_back_offsets"]

_FRACTIONS: Final = (0.0, 0.125, 0.25, 0.5, 1.0)
"""Fractions of the settle time at which to look. Only the last look can confirm a refusal; earlier ones find an order
sooner."""


def read_back_offsets(settle_time: float, not_before: float = 0.0) -> tuple[float, ...]:
    """Return the seconds after a response at which to look: at most five, the last not before the settle time.

    Args:
        settle_time: Seconds within which a change that the response did not report is made and shows in the reads.
        not_before: Seconds the server asked to wait (`Retry-After`).
    """
    return tuple(sorted({max(not_before, fraction * settle_time) for fraction in _FRACTIONS}))
