"""The command `minted journal`: shows what a journal contains. It sends no request; `journal_actions` changes it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from minted_connect.journal.listing import IntentFilter
    from minted_connect.journal.protocol import Journal, JournalAccount
    from minted_connect.models import Intent

__all__ = ["account_of", "journal", "unnamed_account_of"]

_COLUMNS: Final = {
    "created at": "created_at",
    "state": "state",
    "kind": "kind",
    "customer": "customer",
    "reference": "reference",
    "total": "paid_total",
    "currency": "currency_code",
    "order": "order_id",
    "intent": "id",
}
_ACCOUNT_DIGITS: Final = 8
"""Number of characters shown of an account's hash, as in `minted reconcile`."""
_ACTIONS: Final = "Actions"
_FORMATS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]


async def journal(
    cli: Context,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this state: prepared, unknown, confirmed, rejected, not_sent or not_executed. May be repeated."
        ),
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Only purchases of this customer.")] = None,
    reference: Annotated[str | None, typer.Option(help="Only attempts of this reference.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=_FORMATS, metavar="TIME", help="Only purchases prepared at this day or time or later."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=_FORMATS, metavar="TIME", help="Only purchases prepared before this day or time."),
    ] = None,
    all_accounts: Annotated[
        bool, typer.Option("--all-accounts", help="Also show purchases of other accounts.")
    ] = False,
    show_customers: Annotated[
        bool, typer.Option("--show-customers", help="Show customer ids in full; by default they are masked.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Write to this .csv or .json file, which only you can read.", dir_okay=False),
    ] = None,
    *,
    backup: Annotated[
        Path | None,
        typer.Option(
            help="Show nothing; write a copy of the journal (SQLite) to this new file.",
            dir_okay=False,
            rich_help_panel=_ACTIONS,
        ),
    ] = None,
    mark_restored: Annotated[
        datetime | None,
        typer.Option(
            formats=_FORMATS,
            metavar="TIME",
            help="Show nothing; mark the journal as restored from a backup of this time (UTC), which was made by other "
            "means than --backup.",
            rich_help_panel=_ACTIONS,
        ),
    ] = None,
    assign: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="INTENT REFERENCE",
            help="Show nothing; assign an intent that audit --import has stored to the reference of its order, or to "
            "none with - in place of the reference.",
            rich_help_panel=_ACTIONS,
        ),
    ] = None,
    erase_customer: Annotated[
        str | None,
        typer.Option(
            metavar="CUSTOMER",
            help="Show nothing; replace the id of a customer by a keyed hash in all purchases of this account.",
            rich_help_panel=_ACTIONS,
        ),
    ] = None,
) -> int | None:
    """Show the purchases of a journal, oldest first. Times are UTC unless they have an offset.

    Sends no request, and changes nothing unless an action is given. References are shown in full. Without a user name,
    the purchases of all accounts are shown.
    """
    from anyio import Path as AsyncPath  # noqa: PLC0415 - `--help` does not need it

    from minted_connect.cli.default_journal import default_journal_path  # noqa: PLC0415
    from minted_connect.completion.intent_list import make_filter  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError, InvalidInput  # noqa: PLC0415
    from minted_connect.journal import open_journal  # noqa: PLC0415
    from minted_connect.journal.postgres import PostgresJournal  # noqa: PLC0415

    actions = {
        "backup": backup,
        "mark_restored": _with_zone(mark_restored),
        "assign": assign or None,
        "erase_customer": erase_customer,
    }
    if any(action is not None for action in actions.values()):
        from minted_connect.cli.journal_actions import run_action  # noqa: PLC0415

        filters_given = {"state": state, "customer": customer, "reference": reference, "since": since, "until": until}
        return await run_action(cli, actions, {**filters_given, "save": save})
    if save is not None and save.suffix.lower() not in {".csv", ".json"}:
        raise InvalidInput.of("save", "must end in .csv or .json")
    owner = account_of(cli.settings)
    times = (_with_zone(since), _with_zone(until))
    filters = make_filter(owner, state or None, customer, reference, *times, all_accounts=all_accounts)
    given: str | None = cli.settings.get("journal")
    location = given or default_journal_path(cli.settings)
    intents: list[Intent] = []
    unreadable: list[str] = []
    if "://" in location or await AsyncPath(location).is_file():
        opened = open_journal(location)
        try:
            intents, unreadable = await _read_all(opened, filters)
        finally:
            await opened.aclose()
        if isinstance(opened, PostgresJournal) and not await opened.has_tables():
            raise ConfigurationError(f"journal: the database {getattr(opened, 'location', '')} has no journal")
    elif given is not None:
        # A mistyped path must not be mistaken for a journal without purchases.
        raise ConfigurationError(f"journal: there is no file {Path.cwd() / location}")
    else:
        cli.out.print_message(f"the journal {location} does not exist yet")
    rows = [_to_row(intent, show_customers=show_customers) for intent in intents]
    if save is None:
        _print(cli, rows, with_account=filters.account is None)
    else:
        _save(save, rows)
        cli.out.print_message(f"{len(rows)} purchases written to {save}")
    for intent_id in unreadable:
        cli.out.print_message(f"intent {intent_id} cannot be read and is left out; it may be an open purchase")
    return 1 if unreadable else None


async def _read_all(journal: Journal, filters: IntentFilter) -> tuple[list[Intent], list[str]]:
    """Return all intents, and the ids of unreadable records."""
    from contextlib import aclosing  # noqa: PLC0415 - `--help` does not need them

    from minted_connect.journal.listing import as_listable, iterate_pages  # noqa: PLC0415

    intents: list[Intent] = []
    unreadable: list[str] = []
    async with aclosing(iterate_pages(as_listable("intents", journal), filters)) as pages:
        async for page in pages:
            intents += page
            unreadable += page.unreadable
    return intents, unreadable


def account_of(settings: dict[str, Any]) -> JournalAccount | None:
    """Return the account of these settings, None without a user name."""
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.journal.accounts import account_of_user  # noqa: PLC0415

    if "username" not in settings:
        return None
    name = settings["options"].journal_account if "options" in settings else None
    return account_of_user(server_url(settings), settings["username"], name)


def unnamed_account_of(settings: dict[str, Any]) -> str | None:
    """Return the account of these settings without `journal_account`, None without a user name."""
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.journal.accounts import account_of_user  # noqa: PLC0415

    if "username" not in settings:
        return None
    return account_of_user(server_url(settings), settings["username"], None).account


def _with_zone(time: datetime | None) -> datetime | None:
    from datetime import UTC  # noqa: PLC0415

    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _to_row(intent: Intent, *, show_customers: bool) -> dict[str, Any]:
    """Return the columns of an intent: no token, no terms, and the customer only if asked for."""
    is_forgotten = intent.forgotten_at is not None
    return {
        "id": intent.id,
        "state": str(intent.state),
        "kind": str(intent.kind),
        "customer": intent.external_customer_id if show_customers else _mask(intent.external_customer_id),
        "reference": intent.reference,
        "paid_total": None if is_forgotten else intent.paid_total,
        "currency_code": intent.currency_code,
        "items": dict(intent.items),
        "basket_id": intent.basket_id,
        "increment_id": intent.increment_id,
        "order_id": intent.order_id,
        "order_status": None if intent.progress is None else str(intent.progress.status),
        "created_at": intent.created_at,
        "refused_with": None if intent.refusal is None else intent.refusal.status,
        "fenced_at": intent.fenced_at,
        "decided_at": intent.decided_at,
        "forgotten_at": intent.forgotten_at,
        "account": None if intent.account is None else intent.account[:_ACCOUNT_DIGITS],
    }


def _mask(customer_id: str) -> str:
    from minted_connect.models.masking import masked_except_last  # noqa: PLC0415 - `--help` does not need it

    return masked_except_last(customer_id).strip("'\"")


def _print(cli: Context, rows: Sequence[dict[str, Any]], *, with_account: bool) -> None:
    if cli.out.as_json:
        cli.out.print_json(rows)
        return
    columns = {**_COLUMNS, "account": "account"} if with_account else _COLUMNS
    cli.out.print_table(list(columns), [[row[name] for name in columns.values()] for row in rows], "Journal")


def _save(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    from minted_connect.cli.files import format_csv, write_atomically  # noqa: PLC0415 - `--help` does not need them
    from minted_connect.cli.output import to_jsonable  # noqa: PLC0415

    if file.suffix.lower() == ".json":
        import json  # noqa: PLC0415

        text = json.dumps(to_jsonable(rows), ensure_ascii=False, indent=2) + "\n"
    else:
        names = [*_COLUMNS.values(), "items", "account"]
        items = [" ".join(f"{sku}={pieces}" for sku, pieces in row["items"].items()) for row in rows]
        cells = [{**row, "items": text} for row, text in zip(rows, items, strict=True)]
        text = format_csv(names, [[to_jsonable(row[name]) for name in names] for row in cells])
    write_atomically(file, text, is_private=True)
