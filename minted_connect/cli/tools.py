"""`minted sandbox`, `demo`, `doctor` and `verify`: trying things out, and finding out what is not as expected."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from minted_connect.verify import Report

__all__ = ["demo", "doctor", "sandbox", "verify"]

_DEPENDENCIES: Final = ("aiohttp", "anyio", "attrs", "cattrs", "tenacity")
_EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "charts": ("plotext", "matplotlib"),
    "dataframe": ("pyarrow", "polars", "pandas"),
    "keyring": ("keyring",),
    "otel": ("opentelemetry",),
    "postgres": ("psycopg",),
    "redis": ("redis",),
}
_SKEWED: Final = 30.0
"""Seconds that this machine's clock may differ from the server's."""


def sandbox(ctx: typer.Context) -> None:
    """Serve an embedded Minted Connect; its own options: minted sandbox --help."""
    from minted_connect.sandbox.__main__ import main  # noqa: PLC0415 - `--help` needs none of it

    raise typer.Exit(main(ctx.args, prog="minted sandbox"))


def demo(as_json: Annotated[bool, typer.Option("--json", help="Print JSON, an object a line.")] = False) -> None:
    """Buy, hold, sell and receive gold in an embedded sandbox."""
    from minted_connect.__main__ import main  # noqa: PLC0415 - as above

    raise typer.Exit(main(["demo", *["--json"] * as_json]))


async def verify(
    cli: Context,
    customer: Annotated[str | None, typer.Option(help="Your id of a customer whose data may be read.")] = None,
    with_sandbox_customer: Annotated[
        bool,
        typer.Option("--with-sandbox-customer", help="Also create a customer, fill and empty a basket, remove both."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do so on a server that is neither staging nor here.")] = False,
    report: Annotated[Path, typer.Option(help="Where to write it, as .json and .md.")] = Path("minted-verify"),
) -> int:
    """Find out which inferred paths and shapes the server really has; buys nothing."""
    from minted_connect import verify as verification  # noqa: PLC0415 - `--help` needs none of it
    from minted_connect.cli.files import write_whole  # noqa: PLC0415
    from minted_connect.cli.profiles import server_of  # noqa: PLC0415
    from minted_connect.config import STAGING  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415
    from minted_connect.urls import LOOPBACK  # noqa: PLC0415

    server = server_of(cli.settings)
    hosts = LOOPBACK | {urlsplit(STAGING).hostname}
    if with_sandbox_customer and not yes and urlsplit(server).hostname not in hosts:
        raise ConfigurationError(f"with-sandbox-customer: changes {server}, which is not staging: say --yes")
    found = await verification.verify(cli.settings, customer=customer, with_sandbox_customer=with_sandbox_customer)
    document = verification.as_json(found)
    if cli.out.as_json:
        cli.out.json(document)
    else:
        _show(cli, found)
    write_whole(report.with_name(f"{report.name}.json"), json.dumps(document, indent=2) + "\n")
    write_whole(report.with_name(f"{report.name}.md"), verification.as_markdown(found))
    cli.out.say(f"written to {report}.json and {report}.md")
    return 0 if found.is_clean else 1


def _show(cli: Context, found: Report) -> None:
    head = ("operation", "request", "status", "verdict", "before", "after")
    cli.out.table(
        head,
        [
            (one.title, f"{one.method} {one.path}", one.status, one.verdict, one.evidence_before, one.evidence_after)
            for one in found.findings
        ],
        "Verification",
    )
    for one in found.findings:
        for what, entries in (
            ("cannot be read", one.problems),
            ("unknown", one.unknown),
            ("did not come", one.missing),
        ):
            if entries:
                cli.out.say(f"{one.operation}: {what}: {', '.join(entries)}")
        if one.note and one.verdict != "not tried":
            cli.out.say(f"{one.operation}: {one.note}")
    if found.suggested_paths:
        cli.out.say(f"corrections: Options(paths={found.suggested_paths})")


class _Checks:
    """What was looked at, and whether all of it is well."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def note(self, what: str, found: str, *, well: bool | None = True) -> None:
        """Note one thing: well, wrong, or (None) only worth knowing."""
        self.rows.append({"check": what, "ok": well, "found": found})


async def doctor(cli: Context) -> int:
    """Look at installation, configuration, journal and connection; buys and changes nothing."""
    import platform  # noqa: PLC0415 - `--help` needs none of it
    from importlib import metadata, util  # noqa: PLC0415

    from minted_connect import __version__  # noqa: PLC0415

    checks = _Checks()
    checks.note("minted-connect", f"{__version__}, Python {platform.python_version()}, {sys.platform}")
    for name in _DEPENDENCIES:
        checks.note(name, metadata.version(name))
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if util.find_spec(module) is None]
        checks.note(f"extra {extra}", f"missing: {', '.join(missing)}" if missing else "there", well=None)
    settings = _settings(cli, checks)
    if settings is not None:
        await _journal(settings, checks)
        await _server(settings, checks)
    if cli.out.as_json:
        cli.out.json(checks.rows)
    else:
        marks = {True: "ok", False: "WRONG", None: ""}
        cli.out.table(
            ["", "what", "found"], [[marks[row["ok"]], row["check"], row["found"]] for row in checks.rows], "Doctor"
        )
    return int(any(row["ok"] is False for row in checks.rows))


def _settings(cli: Context, checks: _Checks) -> dict[str, Any] | None:
    from minted_connect.cli.profiles import config_file, settings_of  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415

    file = config_file()
    checks.note("configuration", f"{file}{'' if file.exists() else ' (there is none)'}", well=None)
    try:
        settings = settings_of(cli.common)
    except ConfigurationError as error:
        checks.note("account", str(error), well=False)
        return None
    checks.note("account", "user name and password are there")
    return settings


async def _journal(settings: dict[str, Any], checks: _Checks) -> None:
    from anyio import Path as AsyncPath  # noqa: PLC0415

    from minted_connect.cli.profiles import default_journal  # noqa: PLC0415
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415
    from minted_connect.journal import open_journal  # noqa: PLC0415

    where = settings.get("journal") or default_journal(settings)
    shown = "database" if "://" in where else where
    if "://" not in where and not await AsyncPath(where).exists():
        checks.note("journal", f"{shown} (not made yet)", well=None)
        return
    try:
        journal = open_journal(where)
        try:
            pending = await journal.pending()
        finally:
            await journal.aclose()
    except MintedConnectError as error:
        checks.note("journal", str(error), well=False)
        return
    number = len(pending) + len(getattr(journal, "unreadable", ()))
    open_ones = f"{number} open: minted reconcile" if number else "nothing is open"
    checks.note("journal", f"{shown}: {open_ones}", well=not number)


async def _server(settings: dict[str, Any], checks: _Checks) -> None:
    from minted_connect.client import AsyncMintedConnect  # noqa: PLC0415
    from minted_connect.core.request import OPERATIONS  # noqa: PLC0415
    from minted_connect.core.server_stats import clock_offset  # noqa: PLC0415
    from minted_connect.errors import MintedConnectError  # noqa: PLC0415

    settings = {**settings, "journal": None}
    paths: Mapping[str, str] = settings["options"].paths if "options" in settings else {}
    try:
        async with AsyncMintedConnect(**settings) as minted:
            checks.note("server", settings.get("base_url", "the vendor's staging"), well=None)
            rates = OPERATIONS["rates.current"]
            reply = await minted.request(rates.method, paths.get(rates.name, rates.path))
            checks.note("login and rates", f"answered with {reply.status}")
            skew = clock_offset(reply.headers.get("Date", ""), datetime.now(UTC), timedelta()).total_seconds()
            checks.note("clock", f"{skew:+.0f} s by the server's", well=abs(skew) <= _SKEWED)
    except MintedConnectError as error:
        checks.note("login and rates", f"{type(error).__name__}: {error}", well=False)
