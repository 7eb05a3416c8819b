"""Stops a client at any await, by a cancellation or as if its process were killed."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from minted_connect.errors import JournalError, MintedConnectError
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.models import Completion, Intent, IntentState, OrderProgress, Refusal

Outcome = Completion | BaseException


class FaultyJournal:
    """The journal of one client, with simulated failures: after `is_killed`, nothing more is stored."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.is_killed = False
        self.state = "works"
        """The simulated failure: see `Plan.journal`."""
        self.prepared: list[Intent] = []

    async def prepare(self, intent: Intent) -> None:
        if self.state == "full":
            raise JournalError("the disk is full")
        if not self.is_killed:
            await self.journal.prepare(intent)
            self.prepared.append(intent)
        if self.state == "failing":
            raise JournalError("stored, or not")

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        if self.state == "closing":
            raise JournalError("no outcome can be stored")
        if not self.is_killed:
            await self.journal.settle(intent_id, state, **what)

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        if self.state == "closing":
            raise JournalError("no outcome can be stored")
        if not self.is_killed:
            await self.journal.record_refusal(intent_id, refusal)

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        if not self.is_killed:
            await self.journal.adopt(intent_id, owner)

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        if not self.is_killed:
            await self.journal.save_progress(external_customer_id, cart_token, progress, account=account)

    async def get(self, intent_id: str) -> Intent | None:
        return await self.journal.get(intent_id)

    async def fence(self, intent_id: str, at: datetime) -> None:
        if self.state in {"full", "closing"}:
            raise JournalError("no fence can be stored")
        if not self.is_killed:
            await self.journal.fence(intent_id, at)

    async def find_active(
        self, external_customer_id: str, cart_token: str, *, account: str | None = None
    ) -> Intent | None:
        return await self.journal.find_active(external_customer_id, cart_token, account=account)

    async def pending(self) -> list[Intent]:
        return await self.journal.pending()

    async def awaiting_completion(self) -> list[Intent]:
        return await self.journal.awaiting_completion()

    async def aclose(self) -> None:
        """Leave the journal open: it outlives the client."""


async def cancel_at_step(work: Coroutine[Any, Any, Any], stop_at: int, stop: Callable[[], object]) -> Any:
    """Await `work`; at its await number `stop_at`, call `stop` and cancel the current task."""

    @types.coroutine
    def drive() -> Any:
        resume: Callable[[Any], Any] = work.send
        value: Any = None
        steps = 0
        while True:
            try:
                awaited = resume(value)
            except StopIteration as done:
                return done.value
            steps += 1
            if steps == stop_at:
                stop()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value, resume = (yield awaited), work.send
            except BaseException as error:
                value, resume = error, work.throw

    return await drive()


async def wait_for_arrivals() -> None:
    """Wait until requests arrive that were sent before their client was stopped."""
    await asyncio.sleep(0.002)


async def outcome_of(work: Coroutine[Any, Any, Completion]) -> Outcome:
    try:
        return await asyncio.ensure_future(work)
    except (MintedConnectError, asyncio.CancelledError) as error:
        return error
