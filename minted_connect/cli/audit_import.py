"""`minted audit --import`: takes over the orders since the backup that a journal was restored from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minted_connect.cli.command import Context, check_may_change

if TYPE_CHECKING:
    from minted_connect.audit import ImportReport, KnownReference
    from minted_connect.models import Intent

__all__ = ["read_references", "run_import"]

_COLUMNS: Final = ("order", "created at", "kind", "items", "total", "currency", "intent")


async def run_import(
    cli: Context,
    journals: Sequence[str],
    start: datetime | None,
    references: Path | None,
    wait: float | None,
    others: Mapping[str, Any],
    *,
    is_import: bool,
) -> int:
    """Import the orders, and print what was stored.

    Raises:
        InvalidInput: if other options of the audit are given, or not exactly one journal.
    """
    from minted_connect import audit as auditing  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    check_may_change(cli.settings)
    if not is_import:
        raise InvalidInput.of("wait" if references is None else "references", "needs --import")
    if given := [name for name, value in others.items() if value is not None]:
        raise InvalidInput.of(given[0], "cannot be given together with --import")
    if len(journals) != 1:
        raise InvalidInput.of("journal", "--import needs exactly one: the journal that was restored")
    known = [] if references is None else read_references(references)
    report = await auditing.import_orders(
        cli.settings,
        journal=journals[0],
        start=None if start is None else start.date(),
        wait=wait,
        references=known,
    )
    if cli.out.as_json:
        cli.out.print_json(_as_json(report))
    else:
        cli.out.print_table(_COLUMNS, [_to_row(intent) for intent in report.unassigned], "Not assigned")
    for unread in report.unread:
        cli.out.print_message(f"could not be read: {unread.source}: {unread.problem}")
    for problem in report.problems:
        cli.out.print_message(f"could not be assigned: {problem}")
    cli.out.print_message(_summarize(report))
    return report.exit_code


def read_references(file: Path) -> list[KnownReference]:
    """Read the references of a result file of `minted buy --from` that have an order.

    Raises:
        ConfigurationError: if the file cannot be read, or is not a result file.
    """
    from minted_connect.audit import KnownReference  # noqa: PLC0415 - `--help` does not need them
    from minted_connect.cli.files import restore_cell  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"references: {file} cannot be read ({type(error).__name__})") from None
    known: list[KnownReference] = []
    for number, row in enumerate(rows, start=2):
        reference, customer, order = (row.get(name) for name in ("reference", "customer", "order"))
        if reference is None or customer is None or order is None or (order and not order.isdecimal()):
            raise ConfigurationError(
                f"references: line {number} of {file} is not one of a result file: it needs the columns reference, "
                "customer and order"
            )
        if order:
            known.append(KnownReference(restore_cell(reference), restore_cell(customer), int(order)))
    return known


def _summarize(report: ImportReport) -> str:
    period = f"{report.start} to {report.end} (UTC)"
    if not report.is_complete:
        return f"{period}: nothing was taken over, or not everything: the journal stays marked. Run the command again"
    counts = report.counts
    parts = [
        f"{period}: {counts.stored} orders stored, {counts.settled} intents confirmed, {counts.known} known",
        "the mark of the backup is removed",
    ]
    if report.assigned:
        parts.append(f"{report.assigned} references assigned")
    if report.unassigned:
        parts.append(
            f"{len(report.unassigned)} orders block references with the same terms until they are assigned: minted "
            "journal --assign INTENT REFERENCE, or - in place of the reference if there was none"
        )
    return ", ".join(parts)


def _as_json(report: ImportReport) -> dict[str, Any]:
    return {
        "journal": report.journal,
        "restored_from": report.restored_from.isoformat(),
        "start": report.start.isoformat(),
        "end": report.end.isoformat(),
        "stored": report.counts.stored,
        "settled": report.counts.settled,
        "known": report.counts.known,
        "assigned": report.assigned,
        "problems": list(report.problems),
        "unassigned": [dict(zip(_COLUMNS, _to_row(intent), strict=True)) for intent in report.unassigned],
        "unread": [{"source": one.source, "problem": one.problem} for one in report.unread],
        "is_complete": report.is_complete,
    }


def _to_row(intent: Intent) -> list[Any]:
    items = " ".join(f"{sku}={pieces}" for sku, pieces in intent.items)
    total, currency = intent.paid_total, intent.currency_code
    return [intent.order_id, intent.created_at, str(intent.kind), items, total, currency, intent.id]
