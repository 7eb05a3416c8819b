"""`python -m minted_connect reconcile`: lists and settles the purchases with an unknown outcome.

The command reads back each open intent of the journal and writes the outcome into the journal. It never buys anything.
Its output contains the numbers of intents, baskets and orders, and no personal data.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol, Self, TextIO

import attrs

from minted_connect.client import AsyncMintedConnect
from minted_connect.completion.settlement import describe_error
from minted_connect.config import STAGING, Options
from minted_connect.environment import options_from_env, settings_from_env
from minted_connect.errors import (
    CompletionRejected,
    ConfigurationError,
    NotExecuted,
    OutcomeUnknown,
)
from minted_connect.journal import open_journal
from minted_connect.journal.accounts import account_of_user
from minted_connect.journal.protocol import Journal, JournalAccount
from minted_connect.models import Intent, IntentState, ReconcileResult

__all__ = ["UNSETTLED", "ProgressBar", "Report", "client_arguments", "locate_journal", "not_found_error", "run"]

UNSETTLED: Final = 75
"""Exit code while an outcome is unknown: `EX_TEMPFAIL` of sysexits.h, "try again later"."""

_ACCOUNT_DIGITS: Final = 8
"""Number of characters shown of an account's hash: enough to tell the accounts of a journal apart."""


class ProgressBar(AbstractContextManager[Any], Protocol):
    """Shows the number of intents that were read back, while it is entered."""

    def update(self, done: int, total: int | None) -> None:
        """Show the number of finished items, and of all items."""

    def hidden(self) -> AbstractContextManager[None]:
        """Return a context manager that hides the bar, so that lines can be printed."""
        ...


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
    progress: ProgressBar | None = None,
) -> int:
    """List or settle the open intents of a journal; return 0 if no selected outcome is unknown, else 75.

    Intents of other accounts are only listed: they are neither read back nor fenced.

    Args:
        journal: File or database URL; default: `MINTED_CONNECT_JOURNAL`.
        intents: Process only the intents with these ids.
        decide: Write this outcome of one intent into the journal: `confirmed`, `rejected` or `not_executed`. Sends no
            request.
        only_list: Send no request and change nothing. Without a user name, list the intents of all accounts.
        all_accounts: List the open intents of other accounts, too.
        fence: Clear open baskets, as for `complete.reconcile_all`.
        seconds: Maximum time to read back all intents, which are read at the same time.
        as_json: Print JSON instead of text: with `only_list` an array, else one object per line.
        settings: Arguments of the client; default: those of `AsyncMintedConnect.from_env`.
        out: Stream to print to; default: standard output.
        progress: Shown while intents are read back.

    Raises:
        ConfigurationError: if the journal does not exist, an intent is not in it or not open, credentials are missing,
            or `decide` or `fence` is given with `Options.read_only`.
        JournalError: if the journal cannot be read.
    """
    location = locate_journal(journal, intents or ())
    if decide is not None and (only_list or intents is None or len(intents) != 1):
        raise ConfigurationError("decide: takes exactly one --intent, and no --list")
    needs_server = not only_list and decide is None
    arguments = client_arguments(settings, needs_server=needs_server)
    given: Options | None = arguments.get("options")
    if given is not None and given.read_only and (decide is not None or (fence and needs_server)):
        raise ConfigurationError(f"Options.read_only: is set, so {'decide' if decide else 'fence'} is refused")
    opened = open_journal(location)
    report = Report(
        out or sys.stdout, as_json, str(getattr(opened, "location", location)), is_selection=intents is not None
    )
    if as_json and only_list:
        report.rows = []
    try:
        pending = await opened.pending()
        if intents is not None:
            await _check_open(opened, intents, pending, report.location)
        records = _OpenRecords.of(pending, opened, _account_of(arguments), intents, all_accounts=all_accounts)
        if decide is not None:
            return await _decide(opened, records, IntentState(decide), report)
        if needs_server:
            options: Options = arguments.get("options") or Options()
            policy = attrs.evolve(options.completion, reconcile_budget=seconds)
            arguments["options"] = attrs.evolve(options, completion=policy)
            arguments["journal"] = opened
            client = AsyncMintedConnect(**arguments)
            still_open = await _settle(client, records.selected, fence, report, progress)
        else:
            still_open = len(records.selected)
            for intent in records.selected:
                report.print_intent(intent, str(intent.state), with_account=records.owner is None)
    finally:
        await opened.aclose()
    settled = len(records.selected) - still_open
    for intent in records.others:
        report.print_intent(intent, str(intent.state), with_account=True)
    for intent_id in records.unreadable:
        report.print_unreadable(intent_id)
    still_open += len(records.others) + len(records.unreadable)
    return report.print_totals(still_open, settled=settled, unlisted=records.unlisted)


async def _settle(
    client: AsyncMintedConnect,
    intents: Sequence[Intent],
    fence: bool,
    report: Report,
    progress: ProgressBar | None,
) -> int:
    """Read back the intents, and return the number of those that are still open."""
    done = 0

    def print_result(result: ReconcileResult) -> None:
        nonlocal done
        done += 1
        with progress.hidden() if progress is not None else nullcontext():
            report.print_result(result)
        if progress is not None:
            progress.update(done, len(intents))

    async with client as minted:
        with progress if progress is not None else nullcontext():
            if progress is not None:
                progress.update(0, len(intents))
            await minted.complete.reconcile_all(intents=intents, fence=fence, on_result=print_result)
        # Count from the journal: an intent whose outcome could not be written is still open.
        return len({intent.id for intent in await minted.complete.pending()} & {intent.id for intent in intents})


async def _decide(journal: Journal, records: _OpenRecords, state: IntentState, report: Report) -> int:
    """Write the outcome of one intent that a person found out into the journal."""
    for intent in records.others:
        raise ConfigurationError(
            f"intent: {intent.id} belongs to another account: use its user name, or assign it to this one with "
            "complete.adopt(intent)"
        )
    for intent in records.selected:
        await journal.settle(intent.id, state, owner=records.owner)
        report.print_intent(intent, str(state))
    for intent_id in records.unreadable:
        await journal.settle(intent_id, state, owner=records.owner)
        report.print_unreadable(intent_id, state)
    return report.print_totals(0, settled=1)


def client_arguments(settings: Mapping[str, Any] | None, *, needs_server: bool) -> dict[str, Any]:
    """Return the arguments of the client; without settings, those of the environment.

    Raises:
        ConfigurationError: if the server is needed, and credentials are missing.
    """
    if settings is not None:
        return {**settings}
    try:
        return {**settings_from_env(), "options": options_from_env(None)}
    except ConfigurationError:
        if needs_server:
            raise
        return {}


def _account_of(arguments: Mapping[str, Any]) -> JournalAccount | None:
    """Return the account of a client with these arguments, None without a user name."""
    if "username" not in arguments:
        return None
    options: Options | None = arguments.get("options")
    name = None if options is None else options.journal_account
    return account_of_user(arguments.get("base_url", STAGING), arguments["username"], name)


def not_found_error(intent_ids: Iterable[str], reason: str) -> ConfigurationError:
    """Build the error for intents that were not found; it does not suggest that they were not executed."""
    return ConfigurationError(
        f"intent: {', '.join(sorted(intent_ids))} was not found: {reason}. The purchase may be in another journal, and "
        "it may have been executed: give the --journal that it was written to"
    )


async def _check_open(journal: Journal, intent_ids: Sequence[str], pending: Sequence[Intent], location: str) -> None:
    """Check that the journal has these intents, and that they are open.

    Raises:
        ConfigurationError: if one is not in the journal, or not open.
    """
    unreadable: Sequence[str] = getattr(journal, "unreadable", ())
    missing = sorted(set(intent_ids) - {intent.id for intent in pending} - set(unreadable))
    stored = {intent_id: await journal.get(intent_id) for intent_id in missing}
    if unknown := [intent_id for intent_id, intent in stored.items() if intent is None]:
        raise not_found_error(unknown, f"the journal {location} does not have it")
    for intent_id, intent in stored.items():
        assert intent is not None
        order = "" if intent.order_id is None else f", order {intent.order_id}"
        raise ConfigurationError(
            f"intent: {intent_id} is not open in the journal {location}: it was settled as {intent.state}{order}"
        )


def locate_journal(journal: str | None, intent_ids: Sequence[str]) -> str:
    """Return the file or database URL of a journal that exists.

    Raises:
        ConfigurationError: if there is no such file, or no journal is given.
    """
    location = journal or os.environ.get("MINTED_CONNECT_JOURNAL")
    if not location:
        raise ConfigurationError("journal: give --journal, or set MINTED_CONNECT_JOURNAL")
    if "://" not in location and not Path(location).is_file():
        # Opening would create an empty journal, which reports that nothing is open.
        place = "" if Path(location).is_absolute() else f" in {Path.cwd()}"
        reason = f"there is no file {location}{place}"
        raise not_found_error(intent_ids, reason) if intent_ids else ConfigurationError(f"journal: {reason}")
    return location


@attrs.frozen
class _OpenRecords:
    """The open records of a journal that were requested."""

    owner: JournalAccount | None
    """The account of the credentials, None without credentials."""
    selected: Sequence[Intent]
    """Intents of this account; without credentials, of all accounts."""
    others: Sequence[Intent]
    """Intents of other accounts to list."""
    unlisted: int
    """Number of intents of other accounts that are not listed."""
    unreadable: Sequence[str]
    """Ids of records that cannot be read."""

    @classmethod
    def of(
        cls,
        pending: Sequence[Intent],
        journal: Journal,
        owner: JournalAccount | None,
        intent_ids: Sequence[str] | None,
        *,
        all_accounts: bool,
    ) -> Self:
        """Sort the open records of a journal by account."""
        unreadable: Sequence[str] = getattr(journal, "unreadable", ())
        if intent_ids is not None:
            pending = [intent for intent in pending if intent.id in intent_ids]
            unreadable = [one for one in unreadable if one in intent_ids]

        def is_own(intent: Intent) -> bool:
            return owner is None or intent.account in {owner.account, None}

        own = [intent for intent in pending if is_own(intent)]
        others = [intent for intent in pending if not is_own(intent)]
        if all_accounts or intent_ids is not None:
            return cls(owner, own, others, 0, unreadable)
        return cls(owner, own, (), len(others), unreadable)


@attrs.define
class Report:
    """Prints the intents and their outcomes."""

    out: TextIO
    as_json: bool
    location: str
    """The journal: absolute path of its file, or its URL without user name and password."""
    is_selection: bool
    """Whether only some of the open intents were processed."""
    rows: list[dict[str, Any]] | None = None
    """The JSON objects so far, to print as one array at the end; None to print each as one line."""

    def print_result(self, result: ReconcileResult) -> None:
        """Print the outcome of an intent."""
        intent, completion = result.intent, result.completion
        if completion is not None:
            number = completion.keys.get("id")
            self.print_intent(intent, str(IntentState.CONFIRMED), completion.differences, order=number)
            return
        match result.error:
            case CompletionRejected(order=order):
                number = str(order.id) if order is not None else None
                self.print_intent(intent, str(IntentState.REJECTED), order=number)
            case NotExecuted():
                self.print_intent(intent, str(IntentState.NOT_EXECUTED))
            case OutcomeUnknown(evidence=evidence):
                self.print_intent(intent, str(IntentState.UNKNOWN), evidence)
            case error:
                assert error is not None
                self.print_intent(intent, str(IntentState.UNKNOWN), (describe_error(error),))

    def print_intent(
        self,
        intent: Intent,
        state: str,
        notes: tuple[str, ...] = (),
        *,
        order: str | None = None,
        with_account: bool = False,
    ) -> None:
        """Print the state of an intent; `with_account` adds the account to the text, which JSON always contains."""
        account = intent.account[:_ACCOUNT_DIGITS] if intent.account else None
        if self.as_json:
            row: dict[str, Any] = {
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
            self._print_object(row)
            return
        created_at = intent.created_at.isoformat(sep=" ", timespec="seconds")
        money = f"{intent.paid_total} {intent.currency_code}"
        outcome = state if order is None else f"{state}, order {order}"
        suffix = f", account {account}" if with_account and account else ""
        purchase = f"{intent.kind} of basket {intent.basket_id}, {money}, {created_at}{suffix}"
        self.print_line(f"{intent.id}  {purchase}: {outcome}")
        for note in notes:
            self.print_line(f"    {note}")

    def print_unreadable(self, intent_id: str, state: str | None = None) -> None:
        """Print the id of a record that cannot be read."""
        if self.as_json:
            self._print_object({"intent": intent_id, "state": state or "unreadable"})
        elif state is not None:
            self.print_line(f"{intent_id}  its record cannot be read: {state}")
        else:
            self.print_line(f"{intent_id}  unreadable record; it may be an open purchase")
            self.print_line(
                f"    ask the vendor for the outcome, then run: reconcile --intent {intent_id} --decide STATE"
            )

    def print_totals(self, still_open: int, *, settled: int, unlisted: int = 0) -> int:
        """Print the totals and return the exit code; `unlisted` is the number of unlisted intents of other accounts."""
        others = f"{unlisted} open intents of other accounts: list them with --all-accounts"
        if self.rows is not None:
            self.print_line(json.dumps(self.rows, indent=2))
        if unlisted and self.as_json:
            sys.stderr.write(f"{others}\n")
        if not self.as_json:
            if unlisted:
                self.print_line(others)
            remaining = (
                f"{still_open} open: reconcile again later; do not repeat these purchases until they are settled"
            )
            # Named, because another directory or user can lead to another journal than that of the purchases.
            nothing = f"{'nothing of this account' if unlisted else 'nothing'} is open in {self.location}"
            if self.is_selection:
                nothing = "none of the selected is open"
            self.print_line(f"{settled} settled, {remaining if still_open else nothing}")
        return UNSETTLED if still_open else 0

    def _print_object(self, row: dict[str, Any]) -> None:
        if self.rows is None:
            self.print_line(json.dumps(row))
        else:
            self.rows.append(row)

    def print_line(self, line: str) -> None:
        """Print a line, and flush it."""
        # Flush, so that an interrupted run has shown all outcomes found so far.
        print(line, file=self.out, flush=True)
