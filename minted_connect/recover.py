"""`python -m minted_connect reconcile`: what an operator runs when nobody knows whether a purchase happened.

It lists what the journal has open, reads back what became of each, and writes that down. It buys nothing. What it
prints names intents, baskets and orders by number, and no person.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import anyio
import attrs

from minted_connect.client import AsyncMintedConnect, settings_from_env
from minted_connect.completion.journals import open_journal
from minted_connect.config import CompletionPolicy, Options
from minted_connect.errors import ConfigurationError, MintedConnectError, NotExecuted, OutcomeUnknown, Rejected
from minted_connect.models import Completion, Intent, IntentState

__all__ = ["UNSETTLED", "run"]

UNSETTLED: Final = 75
"""Exit code while anything stays unknown: `EX_TEMPFAIL` of sysexits.h, "try again later"."""

_AT_ONCE: Final = 4
_FRESH: Final = timedelta(minutes=2)
"""So long another process may still be completing what is only prepared: it is read about, and not fenced."""


async def run(
    journal: str | None,
    *,
    intents: Sequence[str] | None = None,
    decide: str | None = None,
    only_list: bool = False,
    fence: bool = False,
    seconds: float = 120.0,
    as_json: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: TextIO | None = None,
) -> int:
    """List or settle what is open in a journal; return 0 if nothing stays unknown, else 75.

    Args:
        journal: File or database URL; None = that of `MINTED_CONNECT_JOURNAL`.
        intents: Only these ids.
        decide: What a person found out about one of them: `confirmed`, `rejected` or `not_executed`. Asks no server.
        only_list: Ask no server, and change nothing.
        fence: As for `complete.reconcile`; not for what another process may be completing this moment.
        seconds: How long to read back each of them.
        as_json: One JSON object a line instead of text.
        settings: Arguments of the client; None = those of `AsyncMintedConnect.from_env`.
        out: Where to print; standard output by default.

    Raises:
        ConfigurationError: there is no such journal, no such intent, or credentials are missing.
        JournalError: the journal cannot be read.
    """
    where = _found(journal)
    report = _Report(out or sys.stdout, as_json)
    if decide is not None and (only_list or intents is None or len(intents) != 1):
        raise ConfigurationError("decide: takes exactly one --intent, and no --list")
    if only_list or decide is not None:
        return await _without_server(where, intents, decide, report)
    policy = CompletionPolicy(reconcile_budget=seconds)
    given: dict[str, Any] = {**(settings_from_env() if settings is None else settings), "journal": where}
    given["options"] = attrs.evolve(given.get("options", Options()), completion=policy)
    async with AsyncMintedConnect(**given) as minted:
        places = anyio.CapacityLimiter(_AT_ONCE)

        async def settle(intent: Intent) -> None:
            fresh = datetime.now(UTC) - intent.created_at < _FRESH
            async with places:
                try:
                    found = await minted.complete.reconcile(
                        intent, fence=fence and not (fresh and intent.state == IntentState.PREPARED)
                    )
                except (Rejected, NotExecuted, OutcomeUnknown) as outcome:
                    report.settled(intent, outcome)
                except MintedConnectError as error:
                    report.say(intent, str(IntentState.UNKNOWN), (str(error),))
                else:
                    report.settled(intent, found)

        chosen = _chosen(await minted.complete.pending(), intents)
        async with anyio.create_task_group() as tasks:
            for intent in chosen:
                tasks.start_soon(settle, intent)
        # What counts is what the journal holds now: an outcome that could not be written down is still open.
        left = {intent.id for intent in await minted.complete.pending()} & {intent.id for intent in chosen}
    return report.end(len(left), settled=len(chosen) - len(left))


async def _without_server(where: str, intents: Sequence[str] | None, decide: str | None, report: _Report) -> int:
    journal = open_journal(where)
    try:
        chosen = _chosen(await journal.pending(), intents)
        if decide is not None:
            await journal.settle(chosen[0].id, IntentState(decide))
    finally:
        await journal.aclose()
    for intent in chosen:
        report.say(intent, decide or str(intent.state))
    return report.end(0, settled=1) if decide else report.end(len(chosen), settled=0)


def _found(journal: str | None) -> str:
    where = journal or os.environ.get("MINTED_CONNECT_JOURNAL")
    if not where:
        raise ConfigurationError("journal: give --journal, or set MINTED_CONNECT_JOURNAL")
    if "://" not in where and not Path(where).is_file():
        # An empty one would be made there, and say that all is well.
        raise ConfigurationError(f"journal: there is no file {where}")
    return where


def _chosen(pending: list[Intent], wanted: Sequence[str] | None) -> list[Intent]:
    if wanted is None:
        return pending
    if missing := set(wanted) - {intent.id for intent in pending}:
        raise ConfigurationError(f"intent: not open in this journal: {', '.join(sorted(missing))}")
    return [intent for intent in pending if intent.id in wanted]


@attrs.define
class _Report:
    """Says what became of each."""

    out: TextIO
    as_json: bool

    def settled(self, intent: Intent, outcome: Completion | Rejected | NotExecuted | OutcomeUnknown) -> None:
        match outcome:
            case Completion():
                number = outcome.keys.get("id")
                self.say(intent, str(IntentState.CONFIRMED), outcome.differences, order=number)
            case Rejected():
                number = str(outcome.order.id) if outcome.order is not None else None
                self.say(intent, str(IntentState.REJECTED), order=number)
            case NotExecuted():
                self.say(intent, str(IntentState.NOT_EXECUTED))
            case OutcomeUnknown():
                self.say(intent, str(IntentState.UNKNOWN), outcome.evidence)

    def say(self, intent: Intent, state: str, notes: tuple[str, ...] = (), *, order: str | None = None) -> None:
        if self.as_json:
            told: dict[str, Any] = {
                "intent": intent.id,
                "state": state,
                "order": order,
                "kind": str(intent.kind),
                "basket": intent.basket_id,
                "increment_id": intent.increment_id,
                "paid_total": str(intent.paid_total),
                "currency_code": intent.currency_code,
                "created_at": intent.created_at.isoformat(),
                "notes": list(notes),
            }
            self._print(json.dumps(told))
            return
        when = intent.created_at.isoformat(sep=" ", timespec="seconds")
        money = f"{intent.paid_total} {intent.currency_code}"
        became = state if order is None else f"{state}, order {order}"
        self._print(f"{intent.id}  {intent.kind} of basket {intent.basket_id}, {money}, {when}: {became}")
        for note in notes:
            self._print(f"    {note}")

    def end(self, left: int, *, settled: int) -> int:
        if not self.as_json:
            still = f"{left} open: reconcile again later, and do not repeat what they were about"
            self._print(f"{settled} settled, {still if left else 'nothing is open'}")
        return UNSETTLED if left else 0

    def _print(self, line: str) -> None:
        # At once: whoever interrupts a long run keeps what was found out so far.
        print(line, file=self.out, flush=True)
