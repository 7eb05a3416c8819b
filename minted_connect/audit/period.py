"""The days of an audit. No I/O."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final

import attrs

from minted_connect.models import Intent

__all__ = ["Period"]

_DAY: Final = timedelta(days=1)


@attrs.frozen
class Period:
    """The days from `start` to `end`, both included, in UTC."""

    start: date
    end: date

    def includes(self, moment: datetime) -> bool:
        """Return whether a moment belongs to these days."""
        return self.start <= moment.astimezone(UTC).date() <= self.end

    def includes_intent(self, intent: Intent) -> bool:
        """Return whether an intent belongs to these days: it was created then, by the server's clock."""
        return self.includes(intent.created_by_server)

    @property
    def first_read(self) -> date:
        """The first day whose orders are read: an order is dated by its basket, which is older."""
        with suppress(OverflowError):
            return self.start - _DAY
        return self.start

    @property
    def last_read(self) -> date:
        """The last day whose orders are read: the server's clock may be ahead, and its last day may be excluded."""
        with suppress(OverflowError):
            return self.end + _DAY
        return self.end
