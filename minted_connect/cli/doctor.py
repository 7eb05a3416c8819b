"""The command `minted doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from minted_connect.cli.command import Context

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

    from minted_connect.cli.profiles import default_journal_path  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError, MintedConnectError  # noqa: PLC0415
    from minted_connect.journal import open_journal  # noqa: PLC0415

    try:
        location = settings.get("journal") or default_journal_path(settings)
    except ConfigurationError as error:
        checks.add("journal", str(error), ok=False)
        return
    label = "database" if "://" in location else location
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
    count = len(pending) + len(getattr(journal, "unreadable", ()))
    detail = f"{count} open intents: run minted reconcile" if count else "no open intents"
    checks.add("journal", f"{label}: {detail}", ok=not count)


async def _check_server(settings: dict[str, Any], checks: _Checks) -> None:
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415
    from minted_connect.client import AsyncMintedConnect  # noqa: PLC0415
    from minted_connect.core.headers import clock_skew  # noqa: PLC0415
    from minted_connect.core.request import OPERATIONS  # noqa: PLC0415
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415

    settings = {**settings, "journal": None}
    paths: Mapping[str, str] = settings["options"].paths if "options" in settings else {}
    try:
        async with AsyncMintedConnect(**settings) as minted:
            checks.add("server", server_url(settings), ok=None)
            rates = OPERATIONS["rates.current"]
            response = await minted.request(rates.method, paths.get(rates.name, rates.path))
            checks.add("login and rates", f"responded with status {response.status}")
            skew = clock_skew(response.headers.get("Date", ""), datetime.now(UTC), timedelta()).total_seconds()
            detail = f"the server is {round(skew):+d} s ahead of this machine"
            checks.add("clock", detail, ok=abs(skew) <= _MAX_CLOCK_SKEW)
    except MintedConnectError as error:
        checks.add("login and rates", f"{type(error).__name__}: {error}", ok=False)
