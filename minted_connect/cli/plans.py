"""`minted buy --from`: buys the references of a plan one after the other, and writes their outcomes to a file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minted_connect.cli.buy import is_confirmed
from minted_connect.cli.exit_codes import ExitCode
from minted_connect.cli.output import format_cell
from minted_connect.cli.plan_file import Plan, PlannedPurchase, read_plan
from minted_connect.cli.process import discard_output
from minted_connect.cli.progress import Progress
from minted_connect.cli.purchases import host
from minted_connect.cli.result_file import Outcome, ResultFile, ResultRow
from minted_connect.completion.interruption import intent_of
from minted_connect.errors import (
    AlreadyInFlight,
    APIError,
    AuthenticationFailed,
    BudgetExhausted,
    CircuitOpen,
    CompletionRejected,
    ConfigurationError,
    ConnectFailed,
    JournalError,
    LimiterTimeout,
    MintedConnectError,
    NotExecuted,
    OutcomeUnknown,
    PoolTimeout,
    ServerError,
    TransportError,
)
from minted_connect.journal.postgres import PostgresJournal
from minted_connect.models import IntentState

if TYPE_CHECKING:
    from minted_connect.cli.command import Context
    from minted_connect.models import Completion

__all__ = ["buy_plan"]

_MAX_UNREACHABLE: Final = 3
"""Number of consecutive references for which the server could not be reached, after which a run ends."""
_UNREACHABLE: Final = (ConnectFailed, PoolTimeout, LimiterTimeout, CircuitOpen, BudgetExhausted, TransportError)


async def buy_plan(
    cli: Context,
    file: Path,
    *,
    currency: str,
    replace: bool,
    wait: float,
    yes: bool,
    dry_run: bool,
    new_journal: bool,
    result: Path | None,
) -> int | None:
    """Read a plan, show its totals, ask for confirmation, and buy its references; return the exit code."""
    cli.may_have_changed = False  # nothing is ordered before `buy_items`
    plan = read_plan(file, currency=currency)
    if not dry_run:
        await _check_journal(cli.settings["journal"], is_new=new_journal)
    path = result or file.with_name(f"{file.name.removesuffix('.csv')}.result.csv")
    try:
        if not cli.out.as_json or dry_run:
            _print_summary(cli, plan, currency)
    except (OSError, ValueError):
        if not yes or dry_run:
            raise  # what was not shown cannot be confirmed
    if dry_run:
        cli.out.print_message("dry run: no order was placed")
        return None
    count = len(plan.purchases)
    question = f"Buy {count} reference{'s' * (count > 1)} for at most {plan.max_total} {currency} at {host(cli)}?"
    if not await is_confirmed(cli, question, yes=yes):
        return ExitCode.FAILED
    with ResultFile.create(path) as results:
        run = _Run(cli, plan, results, currency=currency, replace=replace, wait=wait)
        code = await run.run()
    if code != ExitCode.SUCCESS:
        how = "without --new-journal " if new_journal else ""
        cli.out.print_message(f"run the command again {how}to continue: what was bought is not bought again")
    return code


async def _check_journal(location: str, *, is_new: bool) -> None:
    """Check that the journal of a plan exists, or with `is_new` that it does not.

    Another journal does not contain the references that are bought already: it would start the plan from the beginning.

    Raises:
        ConfigurationError: if the journal does not exist, or exists and should be new.
        JournalError: if the database of the journal cannot be read.
    """
    if "://" in location:
        journal = PostgresJournal(location)
        name, exists = journal.location, await journal.has_tables()
    else:
        name, exists = _find_file(location)
    if exists and is_new:
        raise ConfigurationError(
            f"journal: {name} exists already: leave --new-journal out to continue with what it contains"
        )
    if not (exists or is_new):
        raise ConfigurationError(
            f"journal: there is no journal {name}. If this plan was started before, give the --journal of that run: "
            "another one would buy everything again. For the first run, give --new-journal"
        )


def _find_file(location: str) -> tuple[str, bool]:
    """Return the absolute path of a journal, and whether it contains anything."""
    path = Path(location).absolute()
    try:
        return str(path), path.stat().st_size > 0
    except FileNotFoundError:
        return str(path), False
    except OSError as error:
        raise ConfigurationError(f"journal: {path} cannot be read ({type(error).__name__})") from None


def _print_summary(cli: Context, plan: Plan, currency: str) -> None:
    rows: list[list[object]] = [["references", len(plan.purchases)]]
    rows.append(["customers", plan.customers])
    for sku, pieces in plan.count_pieces().items():
        rows.append([f"pieces of {sku}", pieces])
    rows.append([f"at most, in {currency}", plan.max_total])
    cli.out.print_table(["", ""], rows, "Plan")


class _Run:
    """Buys the references of a plan, and records their outcomes."""

    def __init__(
        self, cli: Context, plan: Plan, results: ResultFile, *, currency: str, replace: bool, wait: float
    ) -> None:
        self._cli = cli
        self._purchases = plan.purchases
        self._results = results
        self._terms: dict[str, Any] = {"currency": currency, "replace": replace, "wait": wait}
        self._counts = Counter[Outcome]()
        self._replayed = 0
        self._unreachable = 0
        self._is_result_complete = True
        self._reason_to_stop: str | None = None

    async def run(self) -> int:
        """Buy one reference after the other; return the exit code."""
        self._cli.may_have_changed = True
        total = len(self._purchases)
        try:
            with Progress(self._cli.out, "references") as progress:
                progress.update(0, total)
                for number, purchase in enumerate(self._purchases, 1):
                    await self._buy(purchase)
                    progress.update(number, total)
                    if self._reason_to_stop is not None:
                        break
        finally:
            for purchase in self._purchases[self._counts.total() :]:
                self._record(purchase, Outcome.NOT_STARTED)
            self._cli.out.print_message(f"the outcome of each reference is in {self._results.path}")
        if self._reason_to_stop is not None:
            self._cli.out.print_message(f"minted: stopped: {self._reason_to_stop}")
        self._print_totals()
        if self._counts[Outcome.UNKNOWN]:
            return ExitCode.UNKNOWN
        if self._counts[Outcome.BOUGHT] < total:
            return ExitCode.REJECTED
        return ExitCode.SUCCESS if self._is_result_complete else ExitCode.FAILED

    async def _buy(self, purchase: PlannedPurchase) -> None:
        try:
            completion = await self._cli.minted.complete.buy_items(
                purchase.customer,
                purchase.items,
                reference=purchase.reference,
                max_total=purchase.max_total,
                **self._terms,
            )
        except MintedConnectError as error:
            if isinstance(error, ConfigurationError) and not self._counts:
                raise
            self._record_error(purchase, error)
            return
        except BaseException as error:
            self._record_interruption(purchase, error)
            raise
        self._unreachable = 0
        self._record_completion(purchase, completion)

    def _record_completion(self, purchase: PlannedPurchase, completion: Completion) -> None:
        order = completion.order
        self._replayed += completion.replayed
        for difference in completion.differences:
            self._cli.out.print_message(f"minted: {purchase.reference}: differs from what was agreed: {difference}")
        self._record(
            purchase,
            Outcome.BOUGHT,
            order=str(completion.order_id or ""),
            number=completion.keys.get("increment_id"),
            total=None if order is None else format_cell(order.paid_total),
            currency=None if order is None else order.currency_code,
            replayed="true" if completion.replayed else "false",
            error="; ".join(completion.differences),
        )

    def _record_error(self, purchase: PlannedPurchase, error: MintedConnectError) -> None:
        outcome = _outcome_of(error)
        lines = self._cli.describe_error(error)
        for line in lines:
            self._cli.out.print_message(f"minted: {purchase.reference}: {outcome}: {format_cell(line)}")
        is_unreachable = isinstance(error, _UNREACHABLE) or isinstance(error.__cause__, TransportError | ServerError)
        self._unreachable = self._unreachable + 1 if is_unreachable and outcome is not Outcome.UNKNOWN else 0
        # An imported order with the terms of one reference does not concern the others.
        is_undecided = isinstance(error, JournalError) and error.intent_id is not None
        if isinstance(error, AuthenticationFailed | ConfigurationError | JournalError) and not is_undecided:
            self._reason_to_stop = lines[0]
        elif self._unreachable == _MAX_UNREACHABLE:
            self._reason_to_stop = f"the server could not be reached for {_MAX_UNREACHABLE} references in a row"
        self._record(purchase, outcome, error=lines[0])

    def _record_interruption(self, purchase: PlannedPurchase, error: BaseException) -> None:
        intent = intent_of(error)
        if intent is not None and intent.state != IntentState.REJECTED:
            self._record(purchase, Outcome.UNKNOWN, error=f"interrupted: intent {intent.id} may have been executed")
        elif isinstance(error, Exception):
            self._record(purchase, Outcome.UNKNOWN, error=type(error).__name__)
        else:
            self._record(purchase, Outcome.NOT_SENT, error="interrupted before it was sent")

    def _record(self, purchase: PlannedPurchase, outcome: Outcome, **cells: str | None) -> None:
        self._counts[outcome] += 1
        if outcome is Outcome.UNKNOWN:
            self._cli.has_unknown_outcome = True
        if not self._is_result_complete:
            return
        if cells.get("error"):
            cells["error"] = format_cell(cells["error"])
        try:
            self._results.append(ResultRow(purchase.reference, purchase.customer, outcome, **cells))
        except OSError as error:
            self._is_result_complete = False
            self._reason_to_stop = (
                f"{self._results.path} cannot be written ({type(error).__name__}) from reference {purchase.reference} "
                f"({outcome}) on: run the command again with another --result"
            )

    def _print_totals(self) -> None:
        counts = {str(outcome): self._counts[outcome] for outcome in Outcome if self._counts[outcome]}
        try:
            if self._cli.out.as_json:
                result = str(self._results.path)
                self._cli.out.print_json({"outcomes": counts, "replayed": self._replayed, "result": result})
            else:
                self._cli.out.print_table(["outcome", "references"], [[*row] for row in counts.items()], "Outcomes")
        except (OSError, ValueError):  # the pipe has no reader or the disk is full, but the result file has it all
            discard_output(sys.stdout)
        if self._replayed:
            self._cli.out.print_message(f"{self._replayed} of the bought references were bought before")


def _outcome_of(error: MintedConnectError) -> Outcome:
    if isinstance(error, OutcomeUnknown) or (isinstance(error, AlreadyInFlight) and error.order_id is None):
        return Outcome.UNKNOWN
    if isinstance(error, APIError | CompletionRejected | NotExecuted):
        return Outcome.REFUSED
    return Outcome.NOT_SENT
