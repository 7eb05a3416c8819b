"""Results of a verification, and their JSON and Markdown forms. They contain names and types, and no values."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from minted_connect.core.request import OPERATIONS

__all__ = ["Assessment", "ProbeResult", "Report", "as_json", "as_markdown"]


class Assessment(enum.StrEnum):
    """Assessment of what is assumed about one operation."""

    VERIFIED = "verified"
    """The response was read, and the model knows every field in it."""
    DIFFERENT = "verified, with unknown fields"
    """The response was read, but has fields that no model has."""
    MOVED = "verified at another path"
    """The assumed path is wrong; an alternative works: see `ProbeResult.suggested_path`."""
    EMPTY = "response without rows"
    """The path is right. The response has no rows whose fields could be compared."""
    CONTRADICTED = "contradicted"
    """The path is wrong, or the response cannot be read."""
    NOT_FOUND = "not found"
    """404: either the path is wrong, or the object does not exist (customer, basket, or invoice of a new order)."""
    REFUSED = "refused"
    """The server responded with another error."""
    UNREACHED = "no response"
    """The request failed without a response."""
    UNTRIED = "not tried"
    """No request was sent."""


_PROVEN: Final = frozenset({Assessment.VERIFIED, Assessment.DIFFERENT, Assessment.MOVED})
_NOT_CLEAN: Final = frozenset(
    {Assessment.CONTRADICTED, Assessment.MOVED, Assessment.DIFFERENT, Assessment.UNREACHED, Assessment.REFUSED}
)


@attrs.frozen(kw_only=True)
class ProbeResult:
    """Result for one operation."""

    operation: str
    assessment: Assessment
    path: str
    """Template of the assumed path."""
    status: int | None = None
    """HTTP status of the last response; None if none was received."""
    decoded: bool | None = None
    """Whether the response could be read; None if there was no response to read."""
    unknown: tuple[str, ...] = ()
    """Fields of the response that the model does not have, with their JSON types."""
    missing: tuple[str, ...] = ()
    """Fields of the model that the response does not have. They are optional, unless `problems` names them."""
    problems: tuple[str, ...] = ()
    """Why the response could not be read."""
    note: str = ""
    suggested_path: str | None = None
    """Path that works, for `Options.paths`."""

    @property
    def method(self) -> str:
        """HTTP method."""
        return OPERATIONS[self.operation].method

    @property
    def title(self) -> str:
        """The vendor's name of the operation."""
        return OPERATIONS[self.operation].title

    @property
    def evidence_before(self) -> str:
        """Evidence level of the operation in the vendor's documentation."""
        return str(OPERATIONS[self.operation].evidence)

    @property
    def evidence_after(self) -> str:
        """Evidence level after this run: `verified`, `contradicted`, or the level before."""
        if self.assessment in _PROVEN:
            return "verified"
        return "contradicted" if self.assessment is Assessment.CONTRADICTED else self.evidence_before


@attrs.frozen
class Report:
    """Results of one run."""

    server: str
    """Base URL of the server."""
    version: str
    """Version of this package."""
    made_at: datetime
    """Time of the report, UTC."""
    results: tuple[ProbeResult, ...]
    """One result for each operation."""

    @property
    def suggested_paths(self) -> dict[str, str]:
        """Corrections for `Options.paths`."""
        return {result.operation: result.suggested_path for result in self.results if result.suggested_path is not None}

    @property
    def is_clean(self) -> bool:
        """Whether no operation was contradicted, moved, refused or unreachable, and no unknown fields were received."""
        return not any(result.assessment in _NOT_CLEAN for result in self.results)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON-ready data."""
    return {
        "server": report.server,
        "version": report.version,
        "made_at": report.made_at.isoformat(timespec="seconds"),
        "results": [
            {
                "operation": result.operation,
                "title": result.title,
                "method": result.method,
                "path": result.path,
                "assessment": str(result.assessment),
                "status": result.status,
                "decoded": result.decoded,
                "evidence_before": result.evidence_before,
                "evidence_after": result.evidence_after,
                "unknown": list(result.unknown),
                "missing": list(result.missing),
                "problems": list(result.problems),
                "note": result.note,
            }
            for result in report.results
        ],
        "suggested_paths": report.suggested_paths,
    }


def as_markdown(report: Report) -> str:
    """Return a report as a Markdown document."""
    lines = [
        "# Verification of the Walletable E-Commerce API",
        "",
        f"{report.server}, {report.made_at:%Y-%m-%d %H:%M} UTC, minted-connect {report.version}.",
        "This report contains names and types of response fields, and no values.",
        "",
        "| operation | request | status | assessment | evidence before | evidence after |",
        "|---|---|---|---|---|---|",
        *[
            f"| {result.title} | {result.method} `{result.path}` | {result.status or ''} | {result.assessment} | "
            f"{result.evidence_before} | {result.evidence_after} |"
            for result in report.results
        ],
    ]
    for result in report.results:
        lines += _format_details(result)
    lines += _format_corrections(report.suggested_paths)
    return "\n".join(lines) + "\n"


def _format_details(result: ProbeResult) -> Iterable[str]:
    groups: Mapping[str, tuple[str, ...]] = {
        "cannot be read": result.problems,
        "unknown fields": result.unknown,
        "missing fields": result.missing,
        "note": (result.note,) if result.note else (),
    }
    if not any(groups.values()):
        return
    yield from ("", f"## {result.title} (`{result.operation}`)", "")
    for label, entries in groups.items():
        if entries:
            yield f"- {label}: {', '.join([entry if label == 'note' else f'`{entry}`' for entry in entries])}"


def _format_corrections(paths: Mapping[str, str]) -> Iterable[str]:
    if not paths:
        return
    yield from ("", "## Corrections", "", "In code:", "", "```python", "Options(paths={")
    yield from [f'    "{name}": "{path}",' for name, path in paths.items()]
    yield from ("})", "```", "", "In a profile of `minted`:", "", "```toml", "[profiles.NAME.paths]")
    yield from [f'"{name}" = "{path}"' for name, path in paths.items()]
    yield "```"
