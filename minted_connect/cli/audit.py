"""The command `minted audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from minted_connect.cli.command import Context, Day, End, Start

if TYPE_CHECKING:
    from datetime import date, datetime

    from minted_connect.audit import AuditReport, WalletSnapshot

__all__ = ["audit"]

_IMPORT: Final = "After a journal was restored"
_COLUMNS: Final = ("kind", "text", "intent_ids", "order_ids", "customer_id")


async def audit(
    cli: Context,
    day: Day = None,
    start: Start = None,
    end: End = None,
    customer: Annotated[str | None, typer.Option(help="Only this customer.")] = None,
    journal: Annotated[
        list[str] | None,
        typer.Option(help="File or database URL of a journal of purchases. May be repeated: give all of the account."),
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="Write the wallets of the customers to this file.", dir_okay=False)
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(help="An earlier --snapshot: compare the wallets with it.", dir_okay=False),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write to this .csv or .json file.", dir_okay=False)] = None,
    import_: Annotated[
        bool,
        typer.Option(
            "--import",
            help="Compare nothing; take over the orders since the backup that the journal was restored from, or since "
            "an earlier --start.",
            rich_help_panel=_IMPORT,
        ),
    ] = False,
    references: Annotated[
        Path | None,
        typer.Option(
            help="With --import: a result file of minted buy --from, whose references are assigned to the orders.",
            dir_okay=False,
            rich_help_panel=_IMPORT,
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            help="With --import: seconds to wait for the orders of processes that have just ended.",
            rich_help_panel=_IMPORT,
        ),
    ] = None,
) -> int:
    """Compare the journals of purchases with the orders, by default of yesterday and today (UTC).

    Changes nothing, unless --import is given.
    """
    from minted_connect import audit as auditing  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.cli.files import write_atomically  # noqa: PLC0415
    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    if import_ or references is not None or wait is not None:
        from minted_connect.cli.audit_import import run_import  # noqa: PLC0415 - `--help` does not need it

        others = {"day": day, "end": end, "customer": customer, "snapshot": snapshot, "since": since, "save": save}
        return await run_import(
            cli, journal or _configured(cli.settings), start, references, wait, others, is_import=import_
        )
    if save is not None and save.suffix.lower() not in {".csv", ".json"}:
        raise InvalidInput.of("save", "must end in .csv or .json")
    first, last = _days(day, start, end)
    report = await auditing.audit(
        cli.settings,
        start=first,
        end=last,
        journals=journal or _configured(cli.settings),
        customer_id=customer,
        takes_snapshot=snapshot is not None,
        since=None if since is None else _load(since),
    )
    document = auditing.as_json(report)
    if cli.out.as_json:
        cli.out.print_json(document)
    else:
        rows = [(finding.kind, finding.text) for finding in report.findings]
        cli.out.print_table(("finding", "difference"), rows, "Audit")
    for unread in report.unread:
        cli.out.print_message(f"could not be read: {unread.source}: {unread.problem}")
    cli.out.print_message(_summarize(report))
    if snapshot is not None and report.snapshot is not None:
        write_atomically(snapshot, report.snapshot.dumps(), is_private=True)
        cli.out.print_message(f"{len(report.snapshot.wallets)} wallets written to {snapshot}")
    if save is not None:
        _write(save, document)
        cli.out.print_message(f"audit written to {save}")
    return report.exit_code


def _days(day: datetime | None, start: datetime | None, end: datetime | None) -> tuple[date, date]:
    """Return the first and the last day.

    Raises:
        InvalidInput: if the options contradict each other, or one is missing.
    """
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - `--help` does not need it

    from minted_connect.errors import InvalidInput  # noqa: PLC0415

    if day is not None:
        if start is not None or end is not None:
            raise InvalidInput.of("day", "give either --day, or --start and --end")
        return day.date(), day.date()
    if start is None and end is None:
        today = datetime.now(UTC).date()
        return today - timedelta(days=1), today
    if start is None:
        raise InvalidInput.of("start", "is required with --end")
    return start.date(), datetime.now(UTC).date() if end is None else end.date()


def _configured(settings: dict[str, Any]) -> list[str]:
    """Return the journal of the settings, else the one that purchases on this server use by default."""
    from minted_connect.cli.default_journal import default_journal_path  # noqa: PLC0415 - `--help` does not need it

    return [settings.get("journal") or default_journal_path(settings)]


def _load(file: Path) -> WalletSnapshot:
    from minted_connect.audit import WalletSnapshot  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    try:
        return WalletSnapshot.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"since: {file} cannot be read ({type(error).__name__})") from None


def _summarize(report: AuditReport) -> str:
    parts = [
        f"{report.start} to {report.end} (UTC): {report.orders} orders, {report.intents} intents",
        f"{len(report.findings)} findings",
    ]
    if report.wallets:
        parts.append(f"{report.wallets} wallets compared")
    if report.recent:
        parts.append(f"{report.recent} purchases are too recent to be listed")
    if report.other_accounts:
        parts.append(f"{report.other_accounts} intents of other accounts were not compared")
    if report.unread:
        parts.append("not everything could be read")
    return ", ".join(parts)


def _write(file: Path, document: dict[str, Any]) -> None:
    from minted_connect.cli.files import format_csv, write_atomically  # noqa: PLC0415 - `--help` does not need it

    if file.suffix.lower() == ".json":
        write_atomically(file, json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        return
    findings = [{**finding, "customer_id": finding["customer_id"] or ""} for finding in document["findings"]]
    # Without these lines, an audit that could not read a journal would look clean.
    findings += [
        {"kind": "unread", "text": f"{one['source']}: {one['problem']}", "customer_id": one["customer_id"] or ""}
        for one in document["unread"]
    ]
    write_atomically(file, format_csv(_COLUMNS, [[_cell(one.get(name)) for name in _COLUMNS] for one in findings]))


def _cell(value: Any) -> object:
    return " ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else value or ""
