"""Keeps the numbers of a reader's rounds ascending, and counts the rounds that it misses."""

from __future__ import annotations

from minted_connect.feed.fleet.entries import Entry

__all__ = ["Numbering"]


class Numbering:
    """The numbers of the rounds that one reader of the stream has read.

    After Redis lost its data, a member that knows no earlier number starts again at 1. Rounds with such a number are
    skipped and count as missed, until a member that knows the highest number has raised that of the fleet.

    Args:
        last: number of the last round read; None if no round was read.
    """

    def __init__(self, last: int | None = None) -> None:
        self.last: int | None = last
        self._skipped = 0
        self._missed = 0  # before rounds without rates, whose ticks cannot state it

    def is_restarted(self, entry: Entry) -> bool:
        """Return whether the round, which was not read before, has a number that was used before."""
        return self.last is not None and entry.number <= self.last

    def skip(self) -> bool:
        """Count a round that is not published; return whether it is the first."""
        self._skipped += 1
        return self._skipped == 1

    def advance(self, entry: Entry) -> int:
        """Return the number of rounds missed before a round with rates, and continue after this round."""
        missed = self._skipped
        if self.last is not None:
            # If `after` is lower, the numbers from there to `last` were used twice.
            missed += (entry.after if entry.after >= self.last else entry.number - 1) - self.last
        self.last, self._skipped = entry.number, 0
        self._missed += missed
        if not entry.rates:
            return 0
        missed, self._missed = self._missed, 0
        return missed
