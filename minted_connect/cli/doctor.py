"""The command `minted doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from minted_connect.models import Intent

__all__ = ["doctor"]

_DEPENDENCIES: Final = ("aiohttp", "anyio", "attrs", "cattrs", "tenacity")
_EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "charts": ("plotext", "matplotlib"),
    "dataframe": ("pyarrow", "polars", "pandas"),
    "keyring": ("keyring",),
    "otel": ("opentelemetry",),
    "postgres": ("psycopg",),
    "redis": ("redis",),
}
_ACCOUNT_DIGITS: Final = 8
"""Number of characters shown of an account's hash, as in `minted reconcile`."""
_MAX_CLOCK_SKEW: Final = 30.0
"""Seconds by which the clocks of this machine and the server may differ."""


class _Checks:
    """Results of the checks."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, check: str, detail: str, *, ok: bool | None = True) -> None:
        """Add a result. None for `ok` marks information that is neither good nor bad."""
        self.rows.append({"check": check, "ok": ok, "detail": detail})


async def doctor(cli: Context) -> int:
    """Check installation, configuration, journal and connection. Sends no changes."""
    import platform  # noqa: PLC0415 - `--help` does not need it
    from importlib import metadata, util  # noqa: PLC0415

    from minted_connect._version import __version__  # noqa: PLC0415
    from minted_connect.core.routes import has_direct_route  # noqa: PLC0415

    checks = _Checks()
    checks.add("minted-connect", f"{__version__}, Python {platform.python_version()}, {sys.platform}")
    for name in _DEPENDENCIES:
        try:
            checks.add(name, metadata.version(name))
        except metadata.PackageNotFoundError:  # as in an executable of PyInstaller
            checks.add(name, "version unknown: no package metadata", ok=None)
    is_direct = has_direct_route()
    checks.add(
        "route", "direct" if is_direct else "session: this aiohttp has no direct route, so reads take more CPU", ok=None
    )
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if util.find_spec(module) is None]
        checks.add(f"extra {extra}", f"missing: {', '.join(missing)}" if missing else "installed", ok=None)
    settings = _check_settings(cli, checks)
    if settings is not None:
        await _check_journal(settings, checks)
        await _check_server(settings, checks)
    if cli.out.as_json:
        cli.out.print_json(checks.rows)
    else:
        marks = {True: "ok", False: "FAIL", None: ""}
        rows = [[marks[row["ok"]], row["check"], row["detail"]] for row in checks.rows]
        cli.out.print_table(["", "check", "detail"], rows, "Doctor")
    return int(any(row["ok"] is False for row in checks.rows))


def _check_settings(cli: Context, checks: _Checks) -> dict[str, Any] | None:
    from minted_connect.cli.profiles import config_path, load_settings  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    what = "configuration"
    try:
        file = config_path()
        if file is None:
            checks.add(what, "no home directory", ok=None)
        else:
            checks.add(what, f"{file}{'' if os.path.exists(file) else ' (does not exist)'}", ok=None)  # noqa: PTH110
        what = "account"
        settings = load_settings(cli.common)
    except ConfigurationError as error:
        checks.add(what, str(error), ok=False)
        return None
    checks.add("account", "user name and password are set")
    return settings


async def _check_journal(settings: dict[str, Any], checks: _Checks) -> None:
    from anyio import Path as AsyncPath  # noqa: PLC0415

    from minted_connect.cli.default_journal import default_journal_path, is_in_old_place  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError, MintedConnectError  # noqa: PLC0415
    from minted_connect.journal import open_journal  # noqa: PLC0415

    try:
        location = settings.get("journal") or default_journal_path(settings)
    except ConfigurationError as error:
        checks.add("journal", str(error), ok=False)
        return
    label = "database" if "://" in location else location
    if is_in_old_place(location, settings):
        label += " (in the configuration directory, where earlier versions kept it; it stays in use)"
    if "://" not in location and not await AsyncPath(location).exists():
        checks.add("journal", f"{label} (does not exist yet)", ok=None)
        return
    try:
        journal = open_journal(location)
        try:
            pending = await journal.pending()
        finally:
            await journal.aclose()
    except MintedConnectError as error:
        checks.add("journal", str(error), ok=False)
        return
    unreadable: Sequence[str] = getattr(journal, "unreadable", ())
    count = len(pending) + len(unreadable)
    checks.add("journal", f"{label}: {f'{count} open intents' if count else 'no open intents'}", ok=not count)
    _check_open_intents(pending, _account_of(settings), checks)
    if unreadable:
        remedy = "ask the vendor for the outcomes; minted reconcile --list shows the ids"
        checks.add("unreadable intents", f"{len(unreadable)}, which may be open purchases: {remedy}", ok=False)


def _check_open_intents(pending: Sequence[Intent], own: str, checks: _Checks) -> None:
    """Add number and age of the open intents of each account, the account of the settings first."""
    by_account: dict[str | None, list[Intent]] = {}
    for intent in pending:
        by_account.setdefault(intent.account, []).append(intent)
    for account, intents in sorted(by_account.items(), key=lambda item: (item[0] not in {own, None}, item[0] or "")):
        oldest = min(intent.created_at for intent in intents)
        age = _format_age((datetime.now(UTC) - oldest).total_seconds())
        remedy = "run minted reconcile, or keep minted reconcile --watch running"
        if account not in {own, None}:
            remedy = "run it with the user name of that account, or assign them to this one with complete.adopt"
        name = "no account" if account is None else f"account {account[:_ACCOUNT_DIGITS]}"
        since = oldest.isoformat(sep=" ", timespec="seconds")
        checks.add("open intents", f"{len(intents)} of {name}, the oldest from {since}, {age} ago: {remedy}", ok=False)


def _format_age(seconds: float) -> str:
    """Format a time span in its largest whole unit, such as `3 hours`."""
    seconds = max(seconds, 0.0)
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{int(seconds)} seconds"


def _account_of(settings: Mapping[str, Any]) -> str:
    """Return the account of the settings, as the journal has it."""
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415
    from minted_connect.journal.accounts import account_of_user  # noqa: PLC0415

    name = settings["options"].journal_account if "options" in settings else None
    return account_of_user(server_url(settings), settings["username"], name).account


async def _check_server(settings: dict[str, Any], checks: _Checks) -> None:
    from minted_connect.cli.error_text import describe_error  # noqa: PLC0415
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415
    from minted_connect.client import AsyncMintedConnect  # noqa: PLC0415
    from minted_connect.core.headers import clock_skew  # noqa: PLC0415
    from minted_connect.core.request import OPERATIONS  # noqa: PLC0415
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415

    settings, rates = {**settings, "journal": None}, OPERATIONS["rates.current"]
    paths: Mapping[str, str] = settings["options"].paths if "options" in settings else {}
    try:
        async with AsyncMintedConnect(**settings) as minted:
            checks.add("server", server_url(settings), ok=None)
            response = await minted.request(rates.method, paths.get(rates.name, rates.path))
            checks.add("login and rates", f"responded with status {response.status}")
            skew = clock_skew(response.headers.get("Date", ""), datetime.now(UTC), timedelta()).total_seconds()
            detail = f"the server is {round(skew):+d} s ahead of this machine"
            checks.add("clock", detail, ok=abs(skew) <= _MAX_CLOCK_SKEW)
    except MintedConnectError as error:
        text = "; ".join(describe_error(error, str)).replace("GET a request", f"{rates.method} {rates.path}")
        checks.add("login and rates", f"{type(error).__name__}: {text}", ok=False)
