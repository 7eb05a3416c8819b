"""Decides when a background reconciler reads an open intent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import attrs

from minted_connect.models import Intent, IntentState

__all__ = ["MAX_WAIT", "PREPARED_WAIT", "ReadSchedule", "with_jitter"]

MAX_WAIT: Final = 3600.0
"""Longest wait in seconds, before jitter, unless the interval is longer."""
PREPARED_WAIT: Final = 120.0
"""Seconds after which a prepared intent is read for the first time: its process is probably still sending it."""
_JITTER: Final = 0.25
"""Largest share of a wait that is added to it at random."""


def with_jitter(seconds: float, random: Callable[[], float]) -> float:
    """Return a wait that is longer by a random share, so that several processes do not read at the same moment."""
    return seconds * (1 + _JITTER * random())


@attrs.define
class _Entry:
    due: float
    """Monotonic time of the next read."""
    wait: float
    """Seconds to wait after that read, if the intent stays open."""
    is_prepared: bool


class ReadSchedule:
    """The next read of each open intent: twice as long after the last one each time, up to `MAX_WAIT`.

    Args:
        interval: Seconds between the first two reads of an intent.
        random: Returns a number in [0, 1).
    """

    def __init__(self, interval: float, random: Callable[[], float]) -> None:
        self._interval = interval
        self._random = random
        self._entries: dict[str, _Entry] = {}

    def select(self, intents: Sequence[Intent], now: float, wall: datetime) -> list[Intent]:
        """Return the intents to read now, and forget those that are not given.

        Args:
            intents: All open intents.
            now: Monotonic time.
            wall: Time of day.
        """
        known, self._entries = self._entries, {}
        for intent in intents:
            entry, is_prepared = known.get(intent.id), intent.state == IntentState.PREPARED
            if entry is None or (entry.is_prepared and not is_prepared):
                age = (wall - intent.created_at).total_seconds()
                # A wrong time of day must not delay the first read for longer.
                wait = min(max(PREPARED_WAIT - age, 0.0), PREPARED_WAIT) if is_prepared else 0.0
                entry = _Entry(now + wait, self._interval, is_prepared)
            self._entries[intent.id] = entry
        return [intent for intent in intents if self._entries[intent.id].due <= now]

    def postpone(self, intent_id: str, now: float) -> None:
        """Set the next read of an intent that was read and stays open."""
        entry = self._entries[intent_id]
        entry.due = now + with_jitter(entry.wait, self._random)
        entry.wait = min(2 * entry.wait, max(MAX_WAIT, self._interval))
