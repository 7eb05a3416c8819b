"""The actions of `minted journal`: a copy of the journal, and its mark after it was restored, and others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minted_connect.cli.command import Context, check_may_change

if TYPE_CHECKING:
    from minted_connect.journal.protocol import Journal

__all__ = ["open_existing", "run_action"]


async def run_action(cli: Context, actions: Mapping[str, Any], others: Mapping[str, Any]) -> int | None:
    """Run the action that was given.

    Raises:
        InvalidInput: if several actions are given, or an action together with an option that selects what is shown.
    """
    from minted_connect.errors import InvalidInput  # noqa: PLC0415 - `--help` does not need it

    [name, *more] = [name for name, value in actions.items() if value is not None]
    given = [*more, *(other for other, value in others.items() if value)]
    if given:
        raise InvalidInput.of(given[0], f"cannot be given together with --{name.replace('_', '-')}")
    async with open_existing(cli.settings) as journal:
        await _ACTIONS[name](cli, journal, actions[name])
    return None


@asynccontextmanager
async def open_existing(settings: Mapping[str, Any]) -> AsyncGenerator[Journal, None]:
    """Open the journal of the settings, which must exist: a mistyped path must not create another one.

    Raises:
        ConfigurationError: if it does not exist.
    """
    from anyio import Path as AsyncPath  # noqa: PLC0415 - `--help` does not need them

    from minted_connect.cli.default_journal import default_journal_path  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415
    from minted_connect.journal import open_journal  # noqa: PLC0415
    from minted_connect.journal.postgres import PostgresJournal  # noqa: PLC0415

    location = settings.get("journal") or default_journal_path(dict(settings))
    if "://" not in location and not await AsyncPath(location).is_file():
        raise ConfigurationError(f"journal: there is no file {Path.cwd() / location}")
    journal = open_journal(location)
    try:
        if isinstance(journal, PostgresJournal) and not await journal.has_tables():
            raise ConfigurationError(f"journal: the database {journal.location} has no journal")
        yield journal
    finally:
        await journal.aclose()


async def _back_up(cli: Context, journal: Journal, file: Path) -> None:
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415 - `--help` does not need them
    from minted_connect.journal.sqlite import SqliteJournal  # noqa: PLC0415

    if not isinstance(journal, SqliteJournal):
        raise ConfigurationError("backup: copies SQLite files; use pg_dump, and --mark-restored after pg_restore")
    at = await journal.backup(file)
    cli.out.print_message(f"backup of {at:%Y-%m-%d %H:%M:%S} UTC written to {file}")


async def _assign(cli: Context, journal: Journal, names: tuple[str, str]) -> None:
    from datetime import UTC  # noqa: PLC0415 - `--help` does not need them

    from minted_connect.cli.journal import account_of, unnamed_account_of  # noqa: PLC0415
    from minted_connect.completion.assignment import assign_reference  # noqa: PLC0415

    check_may_change(cli.settings)
    intent_id, reference = names[0], None if names[1] == "-" else names[1]
    owner, unnamed = account_of(cli.settings), unnamed_account_of(cli.settings)
    intent = await assign_reference(
        journal, intent_id, reference, owner=owner, unnamed_account=unnamed, at=datetime.now(UTC)
    )
    cli.out.print_message(
        f"intent {intent.id} is assigned to {'no reference' if reference is None else f'the reference {reference}'}"
    )


async def _erase(cli: Context, journal: Journal, customer: str) -> None:
    from datetime import UTC  # noqa: PLC0415 - `--help` does not need them

    from minted_connect import validation  # noqa: PLC0415
    from minted_connect.cli.journal import account_of, unnamed_account_of  # noqa: PLC0415
    from minted_connect.completion.intent_list import erase_customer  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    check_may_change(cli.settings)
    owner, unnamed = account_of(cli.settings), unnamed_account_of(cli.settings)
    if owner is None or unnamed is None:
        raise ConfigurationError("username: give the user name of the account whose customer is erased")
    customer = validation.customer_id(customer)
    at = datetime.now(UTC)
    count = await erase_customer(journal, customer, at, account=owner.account, unnamed_account=unnamed)
    cli.out.print_message(f"the customer was erased from {count} records of the journal")


async def _mark(cli: Context, journal: Journal, at: datetime) -> None:
    from minted_connect.journal.restoring import as_restorable  # noqa: PLC0415 - `--help` does not need it

    check_may_change(cli.settings)
    marked = await as_restorable("mark_restored", journal).mark_restored(at)
    cli.out.print_message(
        f"the journal is marked as restored from a backup of {marked:%Y-%m-%d %H:%M:%S} UTC: run minted audit --import"
    )


_ACTIONS: Final[Mapping[str, Callable[[Context, Journal, Any], Awaitable[None]]]] = {
    "backup": _back_up,
    "mark_restored": _mark,
    "assign": _assign,
    "erase_customer": _erase,
}
