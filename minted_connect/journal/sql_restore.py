"""The part of SQL journals that marks them as restored from a backup."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from minted_connect.clock import SYSTEM_CLOCK
from minted_connect.errors import JournalError
from minted_connect.journal.claims import Claim
from minted_connect.journal.restoring import check_mark, restored_error
from minted_connect.journal.rows import ROW_ERRORS, dump_time
from minted_connect.journal.steps import Rows, Steps

if TYPE_CHECKING:
    from minted_connect.journal.statements import Statements

__all__ = ["SqlRestoration"]

_T = TypeVar("_T")


class SqlRestoration(ABC):
    """Base class of `SqlJournal`: reads and stores the mark of a journal that was restored from a backup."""

    _statements: ClassVar[Statements]
    _location: str

    async def restored_from(self) -> datetime | None:
        """Return the time of the backup that this journal was restored from, or None."""
        return self._load_mark(await self._read("find_mark", {}))

    async def mark_restored(self, at: datetime) -> datetime:
        """Store that the journal was restored from a backup made at a time; see `RestorableJournal`."""
        check_mark(at, SYSTEM_CLOCK.wall())
        identity = secrets.token_hex(16)
        marked = await self._transact(self._mark_steps(at, identity), None)
        self._accept_identity(identity)
        return marked

    def _mark_steps(self, at: datetime, identity: str) -> Steps[datetime]:
        yield self._statements.mark, {"at": dump_time(at), "identity": identity}
        marked = self._load_mark((yield self._statements.find_mark, {}))
        assert marked is not None
        return marked

    def _check_not_restored(self) -> Steps[None]:
        """Check that the journal has no mark. Before the records that rest on it are read."""
        marked = self._load_mark((yield self._statements.find_mark, {}))
        if marked is not None:
            raise restored_error(self._location, marked)

    def _load_mark(self, rows: Rows) -> datetime | None:
        # A file that does not exist yet has no row.
        for (text,) in rows[:1]:
            if text is None:
                return None
            try:
                return datetime.fromisoformat(text).astimezone(UTC)
            except ROW_ERRORS:
                break
        else:
            return None
        raise JournalError(f"the journal {self._location} has a mark (restored_from) that cannot be read: repair it")

    @abstractmethod
    async def _transact(self, steps: Steps[_T], claim: Claim | None) -> _T:
        """Run a transaction that excludes the others for the reference and the customer of a claim, if there is one."""

    @abstractmethod
    async def _read(self, query: str, params: Mapping[str, Any]) -> Rows:
        """Return the rows of a query, given as the name of a field of `Statements`."""

    @abstractmethod
    def _accept_identity(self, identity: str) -> None:
        """Use the journal further, although its random id is another one now."""
