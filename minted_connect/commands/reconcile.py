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
from typing import Any, Final, Self, TextIO

import anyio
import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.config import STAGING, CompletionPolicy, Options
from minted_connect.environment import options_from_env, settings_from_env
from minted_connect.errors import (
    CompletionRejected,
    ConfigurationError,
    MintedConnectError,
    NotExecuted,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.models import Completion, Intent, IntentState

__all__ = ["UNSETTLED", "run"]

UNSETTLED: Final = 75
"""Exit code while anything stays unknown: `EX_TEMPFAIL` of sysexits.h, "try again later"."""

_PREFIX: Final = 8
"""Characters of an account's hash that tell it from the others of a journal."""
_AT_ONCE: Final = 4
_FRESH: Final = timedelta(minutes=2)
"""So long another process may still be completing what is only prepared: it is read about, and not fenced."""


async def run(
    journal: str | None,
    *,
    intents: Sequence[str] | None = None,
    decide: str | None = None,
    only_list: bool = False,
    all_accounts: bool = False,
    fence: bool = False,
    seconds: float = 120.0,
    as_json: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: TextIO | None = None,
) -> int:
    """List or settle what is open in a journal; return 0 if nothing stays unknown, else 75.

    Intents of other accounts are only listed: they are neither read back nor fenced.

    Args:
        journal: File or database URL; None = that of `MINTED_CONNECT_JOURNAL`.
        intents: Only these ids.
        decide: What a person found out about one of them: `confirmed`, `rejected` or `not_executed`. Asks no server.
        only_list: Ask no server, and change nothing. Without a user name, the intents of all accounts are listed.
        all_accounts: List the open intents of other accounts too.
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
    needs_server = not only_list and decide is None
    given = _settings(settings, needs_server=needs_server)
    opened = open_journal(where)
    try:
        open_ones = _Open.of(await opened.pending(), opened, _owner(given), intents, all_accounts=all_accounts)
        if decide is not None:
            return await _decide(opened, open_ones, IntentState(decide), report)
        if needs_server:
            policy = CompletionPolicy(reconcile_budget=seconds)
            given["options"] = attrs.evolve(given.get("options") or Options(), completion=policy)
            given["journal"] = opened
            left = await _settle(AsyncMintedConnect(**given), open_ones.chosen, fence, report)
        else:
            left = len(open_ones.chosen)
            for intent in open_ones.chosen:
                report.say(intent, str(intent.state), named=open_ones.owner is None)
    finally:
        await opened.aclose()
    settled = len(open_ones.chosen) - left
    for intent in open_ones.others:
        report.say(intent, str(intent.state), named=True)
    for intent_id in open_ones.unreadable:
        report.unreadable(intent_id)
    left += len(open_ones.others) + len(open_ones.unreadable)
    return report.end(left, settled=settled, left_out=open_ones.left_out)


async def _settle(client: AsyncMintedConnect, chosen: Sequence[Intent], fence: bool, report: _Report) -> int:
    """Read back each intent, and return how many of them are still open."""
    places = anyio.CapacityLimiter(_AT_ONCE)
    async with client as minted:

        async def settle(intent: Intent) -> None:
            fresh = datetime.now(UTC) - intent.created_at < _FRESH
            async with places:
                try:
                    found = await minted.complete.reconcile(
                        intent, fence=fence and not (fresh and intent.state == IntentState.PREPARED)
                    )
                except (CompletionRejected, NotExecuted, OutcomeUnknown) as outcome:
                    report.settled(intent, outcome)
                except MintedConnectError as error:
                    report.say(intent, str(IntentState.UNKNOWN), (str(error),))
                else:
                    report.settled(intent, found)

        async with anyio.create_task_group() as tasks:
            for intent in chosen:
                tasks.start_soon(settle, intent)
        # What counts is what the journal holds now: an outcome that could not be written down is still open.
        return len({intent.id for intent in await minted.complete.pending()} & {intent.id for intent in chosen})


async def _decide(journal: Journal, open_ones: _Open, state: IntentState, report: _Report) -> int:
    """Write down what a person found out about one intent."""
    for intent in open_ones.others:
        raise ConfigurationError(
            f"intent: {intent.id} belongs to another account: use its user name, or assign it to this one with "
            "complete.adopt(intent)"
        )
    for intent in open_ones.chosen:
        await journal.settle(intent.id, state, owner=open_ones.owner)
        report.say(intent, str(state))
    for intent_id in open_ones.unreadable:
        await journal.settle(intent_id, state, owner=open_ones.owner)
        report.unreadable(intent_id, state)
    return report.end(0, settled=1)


def _settings(settings: Mapping[str, Any] | None, *, needs_server: bool) -> dict[str, Any]:
    if settings is not None:
        return {**settings}
    try:
        return {**settings_from_env(), "options": options_from_env(None)}
    except ConfigurationError:
        if needs_server:
            raise
        return {}


def _owner(settings: Mapping[str, Any]) -> JournalAccount | None:
    """Return the account of these settings, None if they name no user."""
    if "username" not in settings:
        return None
    options: Options | None = settings.get("options")
    name = None if options is None else options.journal_account
    return account_of_user(settings.get("base_url", STAGING), settings["username"], name)


def _found(journal: str | None) -> str:
    where = journal or os.environ.get("MINTED_CONNECT_JOURNAL")
    if not where:
        raise ConfigurationError("journal: give --journal, or set MINTED_CONNECT_JOURNAL")
    if "://" not in where and not Path(where).is_file():
        # An empty one would be made there, and say that all is well.
        raise ConfigurationError(f"journal: there is no file {where}")
    return where


@attrs.frozen
class _Open:
    """The open records of a journal, as far as they are asked for."""

    owner: JournalAccount | None
    """The account of the credentials, None without any."""
    chosen: Sequence[Intent]
    """Those of this account; without credentials, those of all."""
    others: Sequence[Intent]
    """Those of other accounts that are listed."""
    left_out: int
    """Number of those of other accounts that are not listed."""
    unreadable: Sequence[str]
    """Ids of records that cannot be read."""

    @classmethod
    def of(
        cls,
        pending: Sequence[Intent],
        journal: Journal,
        owner: JournalAccount | None,
        wanted: Sequence[str] | None,
        *,
        all_accounts: bool,
    ) -> Self:
        """Sort the open records of a journal.

        Raises:
            ConfigurationError: if one of the ids in `wanted` is not open.
        """
        unreadable: Sequence[str] = getattr(journal, "unreadable", ())
        if wanted is not None:
            if missing := set(wanted) - {intent.id for intent in pending} - set(unreadable):
                raise ConfigurationError(f"intent: not open in this journal: {', '.join(sorted(missing))}")
            pending = [intent for intent in pending if intent.id in wanted]
            unreadable = [one for one in unreadable if one in wanted]
        known = {None} if owner is None else {owner.account, None}
        mine = [intent for intent in pending if owner is None or intent.account in known]
        others = [intent for intent in pending if owner is not None and intent.account not in known]
        if all_accounts or wanted is not None:
            return cls(owner, mine, others, 0, unreadable)
        return cls(owner, mine, (), len(others), unreadable)


@attrs.define
class _Report:
    """Says what became of each."""

    out: TextIO
    as_json: bool

    def settled(self, intent: Intent, outcome: Completion | CompletionRejected | NotExecuted | OutcomeUnknown) -> None:
        match outcome:
            case Completion():
                number = outcome.keys.get("id")
                self.say(intent, str(IntentState.CONFIRMED), outcome.differences, order=number)
            case CompletionRejected():
                number = str(outcome.order.id) if outcome.order is not None else None
                self.say(intent, str(IntentState.REJECTED), order=number)
            case NotExecuted():
                self.say(intent, str(IntentState.NOT_EXECUTED))
            case OutcomeUnknown():
                self.say(intent, str(IntentState.UNKNOWN), outcome.evidence)

    def say(
        self,
        intent: Intent,
        state: str,
        notes: tuple[str, ...] = (),
        *,
        order: str | None = None,
        named: bool = False,
    ) -> None:
        """Print the state of an intent; as text with its account only if `named`."""
        account = intent.account[:_PREFIX] if intent.account else None
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
                "account": account,
                "notes": list(notes),
            }
            self._print(json.dumps(told))
            return
        when = intent.created_at.isoformat(sep=" ", timespec="seconds")
        money = f"{intent.paid_total} {intent.currency_code}"
        became = state if order is None else f"{state}, order {order}"
        of_account = f", account {account}" if named and account else ""
        self._print(f"{intent.id}  {intent.kind} of basket {intent.basket_id}, {money}, {when}{of_account}: {became}")
        for note in notes:
            self._print(f"    {note}")

    def unreadable(self, intent_id: str, state: str | None = None) -> None:
        """Print the id of a record that cannot be read."""
        if self.as_json:
            self._print(json.dumps({"intent": intent_id, "state": state or "unreadable"}))
        elif state is not None:
            self._print(f"{intent_id}  its record cannot be read: {state}")
        else:
            self._print(f"{intent_id}  its record cannot be read, it may be an open purchase: unreadable")
            self._print("    find out what became of it, then: reconcile --intent ID --decide STATE")

    def end(self, left: int, *, settled: int, left_out: int = 0) -> int:
        """Print the totals, with the number of open intents of other accounts that are not listed."""
        others = f"{left_out} open of other accounts in this journal: --all-accounts lists them"
        if left_out and self.as_json:
            sys.stderr.write(f"{others}\n")
        if not self.as_json:
            if left_out:
                self._print(others)
            still = f"{left} open: reconcile again later, and do not repeat what they were about"
            nothing = "nothing of this account is open" if left_out else "nothing is open"
            self._print(f"{settled} settled, {still if left else nothing}")
        return UNSETTLED if left else 0

    def _print(self, line: str) -> None:
        # At once: whoever interrupts a long run keeps what was found out so far.
        print(line, file=self.out, flush=True)
