"""Journals that were restored from a backup, and do not contain the purchases since then.

Such a journal has a mark: the time of the backup. Until `minted audit --import` has taken over the orders since then,
nothing that rests on a complete journal is stored: no reference, no claim, and no purchase under `Options.spending`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, runtime_checkable

from minted_connect.errors import ConfigurationError, InvalidInput, JournalError
from minted_connect.journal.protocol import Journal

__all__ = ["RestorableJournal", "as_restorable", "check_mark", "restored_error"]


@runtime_checkable
class RestorableJournal(Journal, Protocol):
    """A `Journal` that knows whether it was restored from a backup."""

    async def restored_from(self) -> datetime | None:
        """Return the time of the backup that this journal was restored from, or None.

        None also if the orders since then were taken over.

        Raises:
            JournalError: if the journal cannot be read.
        """
        ...

    async def mark_restored(self, at: datetime) -> datetime:
        """Store durably that the journal was restored from a backup made at a time, and return the stored time.

        The stored time is the earlier one if the journal has a mark already. The journal receives another random id, so
        that clients which use it notice that its content is an older one.

        Raises:
            JournalError: if the mark could not be stored.
        """
        ...


def as_restorable(operation: str, journal: Journal) -> RestorableJournal:
    """Return a journal that can have a mark.

    Raises:
        ConfigurationError: if it cannot.
    """
    if isinstance(journal, RestorableJournal):
        return journal
    names = (name for name in dir(RestorableJournal) if not name.startswith("_"))
    missing = ", ".join(name for name in names if not callable(getattr(journal, name, None)))
    raise ConfigurationError(f"{operation}: the journal {type(journal).__name__} lacks {missing} of RestorableJournal")


def check_mark(at: datetime, now: datetime) -> datetime:
    """Return the time of a backup.

    Raises:
        InvalidInput: if it is not a timezone-aware time in the past.
    """
    if not isinstance(at, datetime) or at.utcoffset() is None:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInput.of("at", "must be a datetime with a time zone")
    if at > now:
        raise InvalidInput.of("at", "must be the time of a backup, which is in the past")
    return at


def restored_error(location: str, at: datetime) -> JournalError:
    """Build the error for a journal with a mark."""
    return JournalError(
        f"the journal {location} was restored from a backup of {at:%Y-%m-%d %H:%M:%S} UTC, and does not contain the "
        "purchases since then: nothing was sent. Run `minted audit --import` first, which takes over the orders since "
        "the backup; until then, no reference, no call with items, and nothing under Options.spending is completed"
    )
