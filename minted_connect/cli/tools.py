"""The commands `minted sandbox`, `minted demo` and `minted verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from minted_connect.cli.command import Context

if TYPE_CHECKING:
    from minted_connect.verify import Report

__all__ = ["demo", "sandbox", "verify"]


def sandbox(ctx: typer.Context) -> None:
    """Serve an embedded Minted Connect. For its options run: minted sandbox --help."""
    from minted_connect.sandbox.__main__ import main  # noqa: PLC0415 - `--help` does not need it

    raise typer.Exit(main(ctx.args, prog="minted sandbox"))


def demo(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False) -> None:
    """Buy, sell and deliver gold in an embedded sandbox."""
    from minted_connect.__main__ import main  # noqa: PLC0415 - `--help` does not need it

    raise typer.Exit(main(["demo", *["--json"] * as_json]))


async def verify(
    cli: Context,
    customer: Annotated[str | None, typer.Option(help="External id of a customer whose data may be read.")] = None,
    with_sandbox_customer: Annotated[
        bool,
        typer.Option(
            "--with-sandbox-customer", help="Also create a customer, fill and empty a basket, and remove the customer."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Allow --with-sandbox-customer on a server other than staging or localhost."),
    ] = False,
    report: Annotated[Path, typer.Option(help="Path of the report; .json and .md are added.")] = Path("minted-verify"),
) -> int:
    """Check which inferred paths and response fields the server has. Buys nothing."""
    from minted_connect import verify as verification  # noqa: PLC0415 - `--help` does not need it
    from minted_connect.cli.files import write_atomically  # noqa: PLC0415
    from minted_connect.cli.profiles import server_url  # noqa: PLC0415
    from minted_connect.config import STAGING  # noqa: PLC0415
    from minted_connect.errors import ConfigurationError  # noqa: PLC0415
    from minted_connect.urls import LOOPBACK  # noqa: PLC0415

    url = server_url(cli.settings)
    hosts = LOOPBACK | {urlsplit(STAGING).hostname}
    if with_sandbox_customer and not yes and urlsplit(url).hostname not in hosts:
        raise ConfigurationError(
            f"with-sandbox-customer: would change data on {url}, not staging or localhost: pass --yes to allow it"
        )
    result = await verification.verify(cli.settings, customer=customer, with_sandbox_customer=with_sandbox_customer)
    document = verification.as_json(result)
    if cli.out.as_json:
        cli.out.print_json(document)
    else:
        _print_report(cli, result)
    write_atomically(report.with_name(f"{report.name}.json"), json.dumps(document, indent=2) + "\n")
    write_atomically(report.with_name(f"{report.name}.md"), verification.as_markdown(result))
    cli.out.print_message(f"report written to {report}.json and {report}.md")
    return 0 if result.is_clean else 1


def _print_report(cli: Context, report: Report) -> None:
    from minted_connect.request_info import method_and_route  # noqa: PLC0415 - `--help` does not need it

    header = ("operation", "request", "status", "assessment", "before", "after")
    rows = [
        (
            result.title,
            method_and_route(result.method, result.path),
            result.status,
            result.assessment,
            result.evidence_before,
            result.evidence_after,
        )
        for result in report.results
    ]
    cli.out.print_table(header, rows, "Verification")
    for result in report.results:
        for label, entries in (
            ("cannot be read", result.problems),
            ("unknown fields", result.unknown),
            ("missing fields", result.missing),
        ):
            if entries:
                cli.out.print_message(f"{result.operation}: {label}: {', '.join(entries)}")
        if result.note and result.assessment != "not tried":
            cli.out.print_message(f"{result.operation}: {result.note}")
    if report.suggested_paths:
        cli.out.print_message(f"corrections: Options(paths={report.suggested_paths})")
