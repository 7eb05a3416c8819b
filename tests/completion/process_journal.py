"""A journal that one process uses, which the tests can kill."""

from __future__ import annotations

from typing import Any, Final

from minted_connect.errors import JournalError

__all__ = ["ProcessJournal"]

WRITES: Final = (
    *("prepare", "settle", "record_refusal", "adopt", "save_progress", "fence", "record_decision"),
    *("claim", "renew_claim", "release_claim"),
)


class ProcessJournal:
    """A journal as one process sees it: after a kill, nothing more is written."""

    def __init__(self, journal: Any, protocol: type) -> None:
        self.is_killed = False
        for name in (name for name in dir(protocol) if not name.startswith("_")):
            method = getattr(journal, name)
            setattr(self, name, self._writing(method) if name in WRITES else method)

    def _writing(self, method: Any) -> Any:
        async def write(*args: Any, **kwargs: Any) -> Any:
            if self.is_killed:
                raise JournalError("the process was killed")
            return await method(*args, **kwargs)

        return write

    async def aclose(self) -> None:
        """Do nothing: the other process uses the journal, too."""
