"""Clients that can be stopped anywhere: by a cancellation, or dead from one moment to the next."""

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


class Pen:
    """What one client writes the journal with: once the client is dead, nothing is written any more."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.dead = False
        self.state = "works"
        """How the disk is: see `Plan.journal`."""
        self.prepared: list[Intent] = []

    async def prepare(self, intent: Intent) -> None:
        if self.state == "full":
            raise JournalError("the disk is full")
        if not self.dead:
            await self.journal.prepare(intent)
            self.prepared.append(intent)
        if self.state == "failing":
            raise JournalError("written, or not")

    async def settle(self, intent_id: str, state: IntentState, **what: Any) -> None:
        if self.state == "closing":
            raise JournalError("nothing can be written any more")
        if not self.dead:
            await self.journal.settle(intent_id, state, **what)

    async def record_refusal(self, intent_id: str, refusal: Refusal) -> None:
        if self.state == "closing":
            raise JournalError("nothing can be written any more")
        if not self.dead:
            await self.journal.record_refusal(intent_id, refusal)

    async def adopt(self, intent_id: str, owner: JournalAccount) -> None:
        if not self.dead:
            await self.journal.adopt(intent_id, owner)

    async def save_progress(
        self, external_customer_id: str, cart_token: str, progress: OrderProgress, *, account: str | None = None
    ) -> None:
        if not self.dead:
            await self.journal.save_progress(external_customer_id, cart_token, progress, account=account)

    async def get(self, intent_id: str) -> Intent | None:
        return await self.journal.get(intent_id)

    async def fence(self, intent_id: str, at: datetime) -> None:
        if self.state in {"full", "closing"}:
            raise JournalError("nothing can be written")
        if not self.dead:
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


async def interrupted(work: Coroutine[Any, Any, Any], step: int, stop: Callable[[], object]) -> Any:
    """Await `work`; at its so many-th await call `stop`, and cancel the task that awaits."""

    @types.coroutine
    def driven() -> Any:
        go_on: Callable[[Any], Any] = work.send
        value: Any = None
        steps = 0
        while True:
            try:
                awaited = go_on(value)
            except StopIteration as done:
                return done.value
            steps += 1
            if steps == step:
                stop()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value, go_on = (yield awaited), work.send
            except BaseException as error:
                value, go_on = error, work.throw

    return await driven()


async def quiet() -> None:
    """Let what was sent before its sender was stopped arrive."""
    await asyncio.sleep(0.002)


async def outcome_of(work: Coroutine[Any, Any, Completion]) -> Outcome:
    try:
        return await asyncio.ensure_future(work)
    except (MintedConnectError, asyncio.CancelledError) as error:
        return error
