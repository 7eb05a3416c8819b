"""The part of SQL journals that forgets settled intents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from minted_connect.journal.list_statements import forget_params
from minted_connect.journal.sql_erasure import SqlErasure
from minted_connect.journal.steps import Steps

__all__ = ["SqlForgetting"]


class SqlForgetting(SqlErasure):
    """Base class of `SqlJournal`: removes or reduces old intents."""

    async def find_forgotten(self) -> datetime | None:
        """Return the time from before which settled intents were forgotten, None if none was."""
        times = [row[0] for row in await self._read("find_forgotten", {}) if row[0] is not None]
        return datetime.fromisoformat(max(times)) if times else None

    async def forget(self, before: datetime, at: datetime, *, account: str) -> int:
        """Remove or reduce the settled intents from before a time."""
        return await self._transact(self._forget_steps(forget_params(before, at, account)), None)

    def _forget_steps(self, params: Mapping[str, Any]) -> Steps[int]:
        [(count,)] = yield self._statements.count_forgettable, params
        yield self._statements.record_forgotten, params
        yield self._statements.forget, params
        yield self._statements.reduce, params
        return int(count)
