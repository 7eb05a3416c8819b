"""What was found, as data, as JSON and as Markdown; of answers only names and types, never a value."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import attrs

from minted_connect.core.request import OPERATIONS

__all__ = ["Assessment", "Finding", "Report", "as_json", "as_markdown"]


class Assessment(enum.StrEnum):
    """What became of an assumption about one operation."""

    VERIFIED = "verified"
    """Answered, and read."""
    DIFFERENT = "verified, with unknown fields"
    """Answered and read; it has fields that no model knows."""
    MOVED = "verified elsewhere"
    """Not at its path, but at one of the guesses: see `Finding.suggested_path`."""
    EMPTY = "answered, without rows"
    """The path is right; there was nothing to see the shape of."""
    CONTRADICTED = "contradicted"
    """Not at its path, or its answer cannot be read."""
    UNSURE = "not found"
    """404: there is no such path, or no such thing (a customer, a basket, an invoice that is not made yet)."""
    REFUSED = "refused"
    """The server said no for another reason."""
    UNREACHED = "not reached"
    """No answer came."""
    UNTRIED = "not tried"


_PROVEN: Final = frozenset({Assessment.VERIFIED, Assessment.DIFFERENT, Assessment.MOVED})


@attrs.frozen(kw_only=True)
class Finding:
    """What is known of one operation after the run."""

    operation: str
    verdict: Assessment
    path: str
    """Template that was asked, or that is assumed."""
    status: int | None = None
    decoded: bool | None = None
    """Whether the answer could be read; None if none came."""
    unknown: tuple[str, ...] = ()
    """Fields that came and no model knows, with their JSON types."""
    missing: tuple[str, ...] = ()
    """Fields of the model that did not come; all of them may be left out, or it could not have been read."""
    problems: tuple[str, ...] = ()
    """What kept the answer from being read."""
    note: str = ""
    suggested_path: str | None = None
    """For `Options.paths`."""

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
        """How much of it was seen in the vendor's documentation."""
        return str(OPERATIONS[self.operation].evidence)

    @property
    def evidence_after(self) -> str:
        """The same after this run."""
        if self.verdict in _PROVEN:
            return "verified"
        return "contradicted" if self.verdict is Assessment.CONTRADICTED else self.evidence_before


@attrs.frozen
class Report:
    """All findings of one run."""

    server: str
    version: str
    """Of this library."""
    made_at: datetime
    findings: tuple[Finding, ...]

    @property
    def suggested_paths(self) -> dict[str, str]:
        """Corrections for `Options.paths`."""
        return {one.operation: one.suggested_path for one in self.findings if one.suggested_path is not None}

    @property
    def is_clean(self) -> bool:
        """Whether nothing was contradicted, moved or different."""
        wrong = {
            Assessment.CONTRADICTED,
            Assessment.MOVED,
            Assessment.DIFFERENT,
            Assessment.UNREACHED,
            Assessment.REFUSED,
        }
        return not any(one.verdict in wrong for one in self.findings)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON-ready data."""
    return {
        "server": report.server,
        "version": report.version,
        "made_at": report.made_at.isoformat(timespec="seconds"),
        "findings": [
            {
                "operation": one.operation,
                "title": one.title,
                "method": one.method,
                "path": one.path,
                "verdict": str(one.verdict),
                "status": one.status,
                "decoded": one.decoded,
                "evidence_before": one.evidence_before,
                "evidence_after": one.evidence_after,
                "unknown": list(one.unknown),
                "missing": list(one.missing),
                "problems": list(one.problems),
                "note": one.note,
            }
            for one in report.findings
        ],
        "suggested_paths": report.suggested_paths,
    }


def as_markdown(report: Report) -> str:
    """Return a report as a Markdown document."""
    lines = [
        "# Verification of the Walletable E-Commerce API",
        "",
        f"{report.server}, {report.made_at:%Y-%m-%d %H:%M} UTC, minted-connect {report.version}.",
        "Of answers only names and types of fields are kept.",
        "",
        "| operation | request | status | verdict | evidence before | evidence after |",
        "|---|---|---|---|---|---|",
        *[
            f"| {one.title} | {one.method} `{one.path}` | {one.status or ''} | {one.verdict} | "
            f"{one.evidence_before} | {one.evidence_after} |"
            for one in report.findings
        ],
    ]
    for one in report.findings:
        lines += _details(one)
    lines += _corrections(report.suggested_paths)
    return "\n".join(lines) + "\n"


def _details(finding: Finding) -> Iterable[str]:
    groups: Mapping[str, tuple[str, ...]] = {
        "cannot be read": finding.problems,
        "fields that came and are not known": finding.unknown,
        "fields that did not come": finding.missing,
        "note": (finding.note,) if finding.note else (),
    }
    if not any(groups.values()):
        return
    yield from ("", f"## {finding.title} (`{finding.operation}`)", "")
    for what, entries in groups.items():
        if entries:
            yield f"- {what}: {', '.join([f'`{entry}`' if what != 'note' else entry for entry in entries])}"


def _corrections(paths: Mapping[str, str]) -> Iterable[str]:
    if not paths:
        return
    yield from ("", "## Corrections", "", "In code:", "", "```python", "Options(paths={")
    yield from [f'    "{name}": "{path}",' for name, path in paths.items()]
    yield from ("})", "```", "", "In a profile of `minted`:", "", "```toml", "[profiles.NAME.paths]")
    yield from [f'"{name}" = "{path}"' for name, path in paths.items()]
    yield "```"
