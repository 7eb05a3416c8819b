"""`python -m minted_connect reconcile --watch`: settles open purchases until a signal ends it. Buys nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from minted_connect.client import AsyncMintedConnect
from minted_connect.commands.reconcile import Report, client_arguments, locate_journal
from minted_connect.completion.reconciler import ReconcilerStatus
from minted_connect.completion.settlement import describe_error
from minted_connect.errors import ConfigurationError
from minted_connect.journal import open_journal

__all__ = ["check_options", "run"]


def check_options(intents: Sequence[str] | None, decide: str | None, *, only_list: bool, all_accounts: bool) -> None:
    """Check that none of the options is given that apply to a single run.

    Raises:
        ConfigurationError: if one is given.
    """
    if intents or decide is not None or only_list or all_accounts:
        raise ConfigurationError("watch: takes no --intent, --decide, --list and --all-accounts")


async def run(
    journal: str | None,
    *,
    interval: float = 60.0,
    fence: bool = False,
    seconds: float = 120.0,
    lease: float = 60.0,
    as_json: bool = False,
    settings: Mapping[str, Any] | None = None,
    out: TextIO | None = None,
) -> int:
    """Settle open purchases until cancelled; print a line for each, and for each change of state. Return 0.

    Args:
        journal: File or database URL; default: `MINTED_CONNECT_JOURNAL`.
        interval: As for `complete.reconciler`.
        fence: As for `complete.reconciler`.
        seconds: Maximum time to read back all intents of one round.
        lease: As for `complete.reconciler`.
        as_json: Print JSON lines instead of text.
        settings: Arguments of the client; default: those of `AsyncMintedConnect.from_env`.
        out: Stream to print to; default: standard output.

    Raises:
        ConfigurationError: if the journal does not exist, credentials are missing, or `fence` is given with
            `Options.read_only`.
        InvalidInput: if a number is out of range.
    """
    location = locate_journal(journal, ())
    arguments = client_arguments(settings, needs_server=True)
    opened = arguments["journal"] = open_journal(location)
    report = Report(out or sys.stdout, as_json, str(getattr(opened, "location", location)), is_selection=False)
    has_ended = asyncio.Event()

    def print_status(status: ReconcilerStatus) -> None:
        if status.state == "closed":
            has_ended.set()
        else:
            report.print_line(_format_status(status, report))

    try:
        async with (
            AsyncMintedConnect(**arguments) as minted,
            minted.complete.reconciler(
                interval=interval,
                fence=fence,
                budget=seconds,
                lease=lease,
                on_result=report.print_result,
                on_status=print_status,
            ),
        ):
            await has_ended.wait()
    except asyncio.CancelledError:
        # A signal is the regular end.
        return 0
    finally:
        await opened.aclose()
    return 1


def _format_status(status: ReconcilerStatus, report: Report) -> str:
    error = None if status.last_error is None else describe_error(status.last_error)
    next_round_at = status.next_round_at
    if report.as_json:
        row = {
            "reconciler": status.state,
            "error": error,
            "next_round_at": None if next_round_at is None else next_round_at.isoformat(),
        }
        return json.dumps(row)
    if status.state == "standing_by":
        return f"standing by: another process settles the purchases of this account in {report.location}"
    if error is not None and next_round_at is not None:
        return f"backing off until {next_round_at.isoformat(sep=' ', timespec='seconds')}: {error}"
    return f"active: settles the purchases of this account in {report.location}"
